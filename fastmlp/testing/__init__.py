"""Checks of kernels and of custom components against the reference."""

from fastmlp.testing.components import check

__all__ = ["check"]
