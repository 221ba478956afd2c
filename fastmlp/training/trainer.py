"""The preparation of a training: from what `fit` was given to rows, in memory or block by block."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.training.options import FitOptions, drawn_seed, setup_of
from fastmlp.training.prepared import Prepared, cleaned, ready, scaled, validation_rows
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.start import Streams, split_rows

if TYPE_CHECKING:
    from fastmlp.training.streaming import PreparedBlocks


def prepared(
    network: Network, X: Any, y: Any, options: FitOptions, ranks: Ranks = ALONE, trainings: int = 1
) -> Prepared | PreparedBlocks:
    """Return a training that can begin, once all arguments of `fit` are checked.

    ranks : the processes that train together, which call this at the same time
    trainings : how many such trainings there will be, for all of which "auto" chooses
    """
    options, setup = setup_of(network, options, ranks)
    if options.seed is None:
        options = options._replace(seed=drawn_seed(options))
    window, (_, file) = options.window, options.earlier
    validation, sample_weight = options.validation, options.sample_weight
    with ranks.raise_on_all_ranks():
        dtype = np.float32 if setup.mixed else options.dtype
        # As several ranks have them, whose orders are those of all rows: a file goes on at any size.
        if ranks.by_rows or (file is not None and file.by_rows and y is not None and window is None):
            check_no_blocks(y, window)
            X, y, sample_weight = arrays_of(X, y, sample_weight)
            if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
                validation = arrays_of(*validation)
        elif (
            y is None
            or window is not None
            or not (type(X) is np.ndarray or (network.blocks and isinstance(X, (list, tuple, Mapping))))
        ):
            from fastmlp.training.streaming import PreparedBlocks, source_of  # 3 ms, which arrays do not need

            source = source_of("X", X, y, sample_weight, dtype, network.input_scale, window)
            if source is not None:
                return PreparedBlocks(network, source, options._replace(dtype=dtype), setup)
        data = cleaned(network, X, y, sample_weight, dtype, ranks)
    data, held_out = scaled(data, sample_weight is not None, ranks), None
    if validation is not None:
        data, held_out = split(network, data, validation, Streams(options.seed), ranks)
    rows = ranks.place(len(data.weights))
    return ready(network, options, setup, data, held_out, rows, ranks, trainings)


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
