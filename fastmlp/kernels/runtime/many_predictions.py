"""Predictions of many models in one call of machine code, shared out among threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.each import each, table_of
from fastmlp.kernels.jit.engine import Entry
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import BARRIER, WORDS, Call, Shape, address_of
from fastmlp.kernels.runtime.calls import NAMES, call_of, extent_of, words_of_sparse
from fastmlp.kernels.runtime.described import resting_shape_of
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.runtime.validation import check_array, check_inputs, check_parameters
from fastmlp.kernels.runtime.workspace import workspace
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.backend import PredictArguments
from fastmlp.model.layout import ALIGNMENT, aligned
from fastmlp.model.sparse import SparseRows


class CallKind(NamedTuple):
    """What predictions of one network and dtype for the same rows have in common.

    words : of their calls, but for parameters, outputs and memory; bytes : of that
    call : that has these words, which keeps what they name
    """

    shape: Shape
    entry: Entry
    words: NDArray[np.int64]
    bytes: int
    call: Call

    @classmethod
    def of(cls, entries: Entries, buffers: Buffers | None, one: PredictArguments) -> CallKind:
        """Return that of a model; ValueError if its inputs are wrong. buffers : see `Choice`"""
        network, parameters, inputs, _ = one
        dtype, rows = parameters.dtype, len(inputs)
        sparse = isinstance(inputs, SparseRows)
        check_inputs(inputs, rows, network.n_in, dtype)
        shape, batch = resting_shape_of(network), min(rows, value("predicted_rows"))
        work = workspace(extent_of(network, sparse), batch, 1, dtype, predicting=True, buffers=buffers)
        given = words_of_sparse(inputs) if isinstance(inputs, SparseRows) else {"inputs": inputs}
        call = call_of(shape, work, samples=rows, **given)
        entry = entries.get("predict", NAMES[dtype])
        return cls(shape, entry, np.array(call.words, np.int64), work.memory.nbytes, call)


PARAMETERS, OUT, MEMORY = (WORDS[name] for name in ("parameters", "out", "memory"))


def predict_all(
    entries: Entries, buffers: Buffers | None, predictions: Sequence[PredictArguments], threads: int
) -> None:
    """Write the outputs of all models of a backend: each has the bits of its `predict`.

    The calls of a thread share its memory, and those of a kind all words but for parameters and outputs.
    """
    kinds: dict[Any, CallKind] = {}
    own, given, written = [], [], []
    for one in predictions:
        network, parameters, inputs, out = one
        dtype = parameters.dtype
        key = id(network), dtype, id(inputs)
        kind = kinds.get(key)
        if kind is None:
            kind = kinds[key] = CallKind.of(entries, buffers, one)
        check_parameters(kind.shape, parameters)
        check_array("out", out, (len(inputs), network.n_out), dtype)
        own.append(kind)
        given.append(address_of(parameters))
        written.append(address_of(out))
    records = np.array([kind.words for kind in own])
    most = max(-(-kind.bytes // ALIGNMENT) * ALIGNMENT for kind in kinds.values())
    memory = aligned(threads * most, np.uint8)
    records[:, PARAMETERS], records[:, OUT] = given, written
    records[:, MEMORY] = address_of(memory) + np.arange(len(own)) % threads * most
    places = address_of(records) + np.arange(len(own)) * records.strides[0]
    table = table_of([kind.entry.address for kind in own], places)
    entry, at = each(), address_of(table)

    def work(worker: int, workers: int) -> None:
        for share in range(worker, threads, workers):  # each with its memory, if threads could not be started
            entry(at, share, threads)

    run(work, threads, np.zeros(BARRIER, np.int64))
