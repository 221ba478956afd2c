"""Predictions of a model, and of many models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import each, table_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import BARRIER, WORDS, address_of
from fastmlp.kernels.runtime.calls import NAMES, NetworkCall, words_of
from fastmlp.kernels.runtime.described import resting_shape_of
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.runtime.validation import check_array, check_inputs, check_parameters
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.backend import PredictArguments
from fastmlp.model.layout import ALIGNMENT, aligned
from fastmlp.model.network import Network
from fastmlp.model.sparse import SparseRows

Array = NDArray[Any]

PARAMETERS, OUT, MEMORY = (WORDS[name] for name in ("parameters", "out", "memory"))


def predict_call(
    entries: Entries, buffers: Buffers | None, network: Network, dtype: Any, rows: int, sparse: bool
) -> NetworkCall:
    """Return a call that predicts so many rows, in batches.

    buffers : see `fastmlp.kernels.variant.Choice`; sparse : whether inputs are
    """
    entry, rows = entries.get("predict", NAMES[dtype]), min(rows, value("predicted_rows"))
    return NetworkCall(entry, buffers, network, dtype, rows, resting=True, predicting=True, sparse=sparse)


def predict_all(
    entries: Entries, buffers: Buffers | None, predictions: Sequence[PredictArguments], threads: int
) -> None:
    """Write the outputs of all models of a backend: each has the bits of its `predict`.

    The calls of a thread share its memory, and those of a kind all words but for parameters and outputs.
    buffers : see `fastmlp.kernels.variant.Choice`
    """
    kinds: dict[Any, NetworkCall] = {}
    calls, given, written = list[NetworkCall](), [], []
    for network, parameters, inputs, out in predictions:
        dtype, rows = parameters.dtype, len(inputs)
        key = id(network), dtype, id(inputs)
        call = kinds.get(key)
        if call is None:
            check_inputs(inputs, rows, network.n_in, dtype)
            call = predict_call(entries, buffers, network, dtype, rows, isinstance(inputs, SparseRows))
            call.set(words_of(inputs))
            kinds[key] = call
        check_parameters(resting_shape_of(network), parameters)
        check_array("out", out, (rows, network.n_out), dtype)
        calls.append(call)
        given.append(address_of(parameters))
        written.append(address_of(out))
    records = np.array([np.frombuffer(call.words, np.int64) for call in calls])
    most = max(-(-call.bytes // ALIGNMENT) * ALIGNMENT for call in kinds.values())
    memory = aligned(threads * most, np.uint8)
    records[:, PARAMETERS], records[:, OUT] = given, written
    records[:, MEMORY] = address_of(memory) + np.arange(len(calls)) % threads * most
    places = address_of(records) + np.arange(len(calls)) * records.strides[0]
    table = table_of([call.entry.address for call in calls], places)
    entry, at = each(), address_of(table)

    def work(worker: int, workers: int) -> None:
        for share in range(worker, threads, workers):  # each with its memory, if threads could not be started
            entry(at, share, threads)

    run(work, threads, np.zeros(BARRIER, np.int64))
