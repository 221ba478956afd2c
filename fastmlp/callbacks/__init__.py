"""Callbacks, which run between the chunks of a training, and metrics."""
