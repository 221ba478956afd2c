"""The arguments of `fit`, prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastmlp.data.seeding import split_rows
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.trained import format_of
from fastmlp.training.options import drawn_seed, shared_options
from fastmlp.training.prepared import cleaned, ready, scaled, validation_rows
from fastmlp.training.ranks import ALONE, Ranks


def prepared(
    network: Network, X: Any, y: Any, given: Mapping[str, Any], ranks: Ranks = ALONE, trainings: int = 1
) -> Any:
    """Return a prepared training, after the check of all arguments of `fit`.

    A `Prepared`, or for rows block by block a `fastmlp.blocks.training.PreparedBlocks`.

    given : all options of `fit`, unchecked
    ranks : the processes of the training, which call this at the same time
    trainings : the number of such trainings; "auto" chooses for all
    """
    options, choices = shared_options(network, given, ranks)
    if options.seed is None:
        options = options.having(seed=drawn_seed(options))
    window, file = options.window, options.file
    validation, sample_weight = options.validation, options.sample_weight
    with ranks.raise_on_all_ranks():
        dtype = np.float32 if options.mixed else options.dtype
        # As several ranks have them, whose orders are those of all rows: a file goes on at any size.
        if ranks.by_rows or (file is not None and file.by_rows and y is not None and window is None):
            blocks = format_of("blocks")
            blocks.check_no_blocks(y, window)
            X, y, sample_weight = blocks.arrays_of(X, y, sample_weight)
            if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
                validation = blocks.arrays_of(*validation)
        elif (
            y is None
            or window is not None
            or not (type(X) is np.ndarray or (network.blocks and isinstance(X, (list, tuple, Mapping))))
        ):
            blocks = format_of("blocks")  # 3 ms, which arrays do not need
            source = blocks.source_of("X", X, y, sample_weight, dtype, network.input_scale, window)
            if source is not None:
                return blocks.PreparedBlocks(network, source, options, choices, dtype)
        data = cleaned(network, X, y, sample_weight, dtype, ranks)
    data, held_out = scaled(data, sample_weight is not None, ranks), None
    if validation is not None:
        data, held_out = split(network, data, validation, options.seed, ranks)
    rows = ranks.count_rows(len(data.weights))
    return ready(network, options, choices, data, held_out, rows, ranks, trainings=trainings)


def split(network: Network, data: Data, validation: Any, seed: int, ranks: Ranks) -> tuple[Data, Data]:
    """Return this rank's training rows and validation rows."""
    if isinstance(validation, (tuple, list)):
        return data, validation_rows(network, validation, data.inputs.dtype, ranks)
    rows = ranks.count_rows(len(data.weights))
    with ranks.raise_on_all_ranks():
        # Of the rows of all ranks: the split does not depend on how they are spread.
        parts = split_rows(validation, rows, seed)
    (train_rows, _), (held_rows, _) = map(ranks.rank_rows, parts)
    # A rank may have no row of a part, so that the check is of all ranks' rows together.
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.raise_on_all_ranks():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)
