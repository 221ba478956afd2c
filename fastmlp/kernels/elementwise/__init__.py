"""Losses, sums down columns, and optimisers' steps, by whole vectors."""
