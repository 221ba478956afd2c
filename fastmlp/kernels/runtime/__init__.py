"""A variant as a backend: descriptions as numbers, buffers, threads, checks of arguments."""
