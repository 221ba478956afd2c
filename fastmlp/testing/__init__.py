"""What holds kernels and users' own pieces to the reference."""

from fastmlp.testing.pieces import check

__all__ = ["check"]
