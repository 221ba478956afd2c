"""Which columns of a table are inputs, targets and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastmlp import checks
from fastmlp.training.sources.blocks import of_each_head


def names_of(targets: Any) -> list[str]:
    """Return the names of all columns of targets, which `chosen_columns` returned."""
    if isinstance(targets, Mapping):
        targets = [name for of_head in targets.values() for name in of_head]
    return [*dict.fromkeys(targets)]


def chosen_columns(what: str, columns: Sequence[str], y: Any, weights: Any) -> tuple[list[str], Any]:
    """Return the names of the inputs' columns, in the table's order, and of the targets', with heads of each.

    Raises
    ------
    TypeError, ValueError
        If y, or weights unless they are None, name no columns, or name all, or if two columns have one name.
    """
    if len({*columns}) < len(columns):
        twice = next(name for place, name in enumerate(columns) if name in columns[:place])
        raise ValueError(f"{what} has two columns of the name {twice!r}")
    targets = of_each_head(y, _listed)
    if not targets or not all(isinstance(name, str) for name in names_of(targets)):
        raise TypeError(
            f"of a table y must be the name of a column, or a list of names, got {checks.shown(y)}; "
            "with heads it is a dict of these"
        )
    if weights is not None and not isinstance(weights, str):
        raise TypeError(f"of a table sample_weight must be the name of a column, got {checks.shown(weights)}")
    named = [*names_of(targets), *([] if weights is None else [weights])]
    for name in named:
        checks.choice(f"column of {what}", name, columns)
    inputs = [name for name in columns if name not in named]
    if not inputs:
        raise ValueError(f"{what} has no columns besides {', '.join(named)}")
    return inputs, targets


def _listed(y: Any) -> list[Any]:
    listed = [y] if isinstance(y, str) else list(y) if isinstance(y, Sequence) else []
    return listed or [None]
