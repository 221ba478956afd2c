"""The preparation of a training: from what `fit` was given to a plan and the state that it begins with.

All randomness is drawn here, from streams that do not disturb each other, so that every backend
sees the same start, split, row orders and dropout masks. Of several processes that train together each step
here may fail on one alone, and all learn of it (`fastmlp.training.ranks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.model.network import Network
from fastmlp.training.batches import batches_of, mixing_of
from fastmlp.training.options import FitOptions, drawn_seed, setup_of, step_rows
from fastmlp.training.prepared import (
    EpochRows,
    Prepared,
    arrays_of,
    check_no_blocks,
    cleaned,
    ready,
    scaled,
    split,
)
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.start import Streams

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
    streams, window, (_, file) = Streams(options.seed), options.window, options.earlier
    validation, sample_weight = options.validation, options.sample_weight
    with ranks.raise_on_all_ranks():
        mixing = mixing_of(options.mixup, network, streams)
        dtype = np.float32 if setup.requested.mixed else options.dtype
        # As several ranks have them, whose orders are those of all rows: a file goes on at any size.
        if ranks.by_rows or (file is not None and file.by_rows and y is not None and window is None):
            check_no_blocks(y, window)
            X, y, sample_weight = arrays_of(X, y, sample_weight)
            if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
                validation = arrays_of(*validation)
        elif y is None or window is not None or not (type(X) is np.ndarray or _has_blocks(network, X)):
            from fastmlp.training.streaming import PreparedBlocks, source_of  # 3 ms, which arrays do not need

            source = source_of("X", X, y, sample_weight, dtype, network.input_scale, window)
            if source is not None:
                return PreparedBlocks(network, source, options._replace(dtype=dtype), setup, mixing)
        data = cleaned(network, X, y, sample_weight, dtype, ranks)
    data, held_out = scaled(data, sample_weight is not None, ranks), None
    if validation is not None:
        data, held_out = split(network, data, validation, streams, ranks)
    rows = ranks.place(len(data.weights))
    batch_size = rows if options.batch_size is None else min(options.batch_size, rows)
    step, microbatch = step_rows(batch_size, options.accumulate, rows)
    per_epoch = batches_of(rows, step, network.needs_batches)
    known = EpochRows(data, held_out, rows, batch_size, step, microbatch, per_epoch)
    return ready(network, options, setup, streams, mixing, known, ranks, trainings)


def _has_blocks(network: Network, X: Any) -> bool:
    """Whether X is a list or a dict of the blocks of the network's inputs."""
    return bool(network.blocks) and isinstance(X, (list, tuple, Mapping))
