"""A variant as a backend: numbers for descriptions, buffers, threads, checks."""
