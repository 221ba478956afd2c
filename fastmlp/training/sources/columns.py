"""Which columns of a table are inputs, targets and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastmlp import checks


def chosen_columns(what: str, columns: Sequence[str], y: Any, weights: Any) -> tuple[list[str], list[str]]:
    """Return the names of the inputs' columns, in the table's order, and of the targets'.

    Raises
    ------
    TypeError, ValueError
        If y, or weights unless they are None, name no columns, or name all.
    """
    targets = [y] if isinstance(y, str) else list(y) if isinstance(y, Sequence) else []
    if not targets or not all(isinstance(name, str) for name in targets):
        raise TypeError(
            f"of a table y must be the name of a column, or a list of names, got {checks.shown(y)}"
        )
    if weights is not None and not isinstance(weights, str):
        raise TypeError(f"of a table sample_weight must be the name of a column, got {checks.shown(weights)}")
    named = [*targets, *([] if weights is None else [weights])]
    for name in named:
        checks.choice(f"column of {what}", name, columns)
    inputs = [name for name in columns if name not in named]
    if not inputs:
        raise ValueError(f"{what} has no columns beside {', '.join(named)}")
    return inputs, targets
