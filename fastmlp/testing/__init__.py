"""Checks of kernels and of users' pieces against the reference."""

from fastmlp.testing.pieces import check

__all__ = ["check"]
