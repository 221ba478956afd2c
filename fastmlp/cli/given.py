"""What the commands share of what they are given: names to choose from, and the error for a mistake."""

from __future__ import annotations

from fastmlp.model.optimizers import NAMED, Optimizer

OPTIMIZERS: dict[str, type[Optimizer]] = {kind.__name__.lower(): kind for kind in NAMED}

DTYPES = ("float32", "float64")


class Mistake(Exception):
    """What the user asked for cannot be done."""
