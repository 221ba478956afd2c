"""Callbacks: what runs between the chunks of a training, and metrics."""
