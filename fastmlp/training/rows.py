"""The rows in memory of a training, of one process or of several: clean, and split for validation."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.training.data import checked_weights, clean_rows_of, clean_targets, scaled_weights
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.start import Streams, split_rows


def check_no_blocks(y: Any, window: int | None) -> None:
    """Raise TypeError for rows that come block by block."""
    if y is None or window is not None:
        got = "" if window is None else f", without a window; got window={checks.shown(window)}"
        raise TypeError(f"with a communicator X and y are arrays, of which each process has its rows{got}")


def arrays_of(X: Any, y: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Return the rows of an Arrow table, whose columns y and weights name, as arrays; others as they are.

    TypeError for what is no rows in memory.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(X, arrow.Table):
        if isinstance(X, (str, os.PathLike)) or isinstance(y, str) or callable(X) or hasattr(X, "scanner"):
            raise TypeError(
                "with a communicator X is an array, or a pyarrow.Table of which y names columns, got "
                f"{checks.shown(X)}; fastmlp.shard reads this rank's rows of Parquet files"
            )
        return X, y, weights
    from fastmlp.training.sources.arrow import arrow_source

    found, targets, *others = zip(*arrow_source("X", X, y, weights), strict=True)
    if isinstance(y, Mapping):
        joined: Any = {name: np.concatenate([part[name] for part in targets]) for name in y}
    else:
        joined = np.concatenate(targets)
    return np.concatenate(found), joined, np.concatenate(others[0]) if others else None


def cleaned(
    network: Network, X: Any, y: Any, sample_weight: Any, dtype: Any, ranks: Ranks, what: str = ""
) -> Data:
    """Return this rank's rows, clean, with weights that are not scaled.

    what : comes before the names of the arguments in an error
    """
    inputs = clean_rows_of(f"{what}X", network, X, dtype, least=0 if ranks.size > 1 else 1)
    rows = inputs.shape[0]
    targets = clean_targets(f"{what}y", y, network, rows, inputs.dtype)
    if sample_weight is None:
        weights = np.empty(rows, inputs.dtype)
        weights.fill(1)  # np.ones takes 3 us for a few
    else:
        weights = checked_weights(f"{what}sample_weight", sample_weight, rows, inputs.dtype)
    return Data(inputs, targets, weights)


def scaled(data: Data, weighed: bool, ranks: Ranks, what: str = "") -> Data:
    """Return this rank's rows with weights whose largest on all ranks is one in [1, 2).

    weighed : whether weights are given here; what : as of `cleaned`
    """
    if not weighed and ranks.size == 1:
        return data
    largest = float(data.weights.max(initial=0.0)) if weighed else 1.0
    received = ranks.all_of((len(data.weights), largest))
    with ranks.raise_on_all_ranks():
        if not any(rows for rows, _ in received):
            raise ValueError(f"{what}X must hold at least 1 row, got 0 on all ranks")
        weights = scaled_weights(f"{what}sample_weight", data.weights, max(most for _, most in received))
    return data._replace(weights=weights)


def validation_rows(
    network: Network, validation: Sequence[Any], dtype: np.dtype[Any], ranks: Ranks = ALONE
) -> Data:
    """Return (X, y) or (X, y, sample_weight) to validate on as this rank's clean rows."""
    with ranks.raise_on_all_ranks():
        if len(validation) not in (2, 3):
            raise ValueError(
                f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts"
            )
        X, y, *rest = validation
        weights = rest[0] if rest else None
        data = cleaned(network, X, y, weights, dtype, ranks, "validation ")
    return scaled(data, weights is not None, ranks, "validation ")


def split(network: Network, data: Data, validation: Any, streams: Streams, ranks: Ranks) -> tuple[Data, Data]:
    """Return this rank's rows to train on, and its rows held out."""
    if isinstance(validation, (tuple, list)):
        return data, validation_rows(network, validation, data.inputs.dtype, ranks)
    rows = ranks.place(len(data.weights))
    with ranks.raise_on_all_ranks():
        parts = split_rows(validation, rows, streams)
    (train_rows, _), (held_rows, _) = map(ranks.own, parts)
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.raise_on_all_ranks():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)
