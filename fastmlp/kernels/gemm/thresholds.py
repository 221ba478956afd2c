"""From where on operands are packed into blocks; known to estimates, which load no kernel."""

LARGE_BYTES = 1 << 20
"""Weights from which on packing pays: half of L2."""

MANY_ROWS = 2048
"""A batch from which on it pays for small weights too, since panels of delta are streamed from beyond L2: by 12 % of
a step of 784-128-10 here, by 28 % at twice as many rows."""
