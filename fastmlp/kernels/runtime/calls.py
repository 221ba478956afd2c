"""What a call tells a program: data, buffers, numbers; named as in `fastmlp.kernels.program.records`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlp.kernels.program.records import APART, BLANK, Call, Shape
from fastmlp.kernels.runtime.described import Rules
from fastmlp.kernels.runtime.summing import Summing
from fastmlp.kernels.runtime.validation import FLOATS, check_array
from fastmlp.kernels.runtime.workspace import Workspace
from fastmlp.model.backend import Chunk, Data, Shared
from fastmlp.model.byte_rows import ByteRows
from fastmlp.model.network import Network
from fastmlp.model.sparse import Inputs, SparseRows

NAMES = {dtype: dtype.name for dtype in FLOATS}
"""The names of dtypes: NumPy builds the text again at every `dtype.name`."""


def sizes_of(network: Network, inputs: Inputs | ByteRows) -> tuple[int, ...]:
    """Return the units of every layer, as `workspace.lengths` takes them."""
    return (0, *network.sizes[1:]) if isinstance(inputs, SparseRows) else network.sizes


def told_of(data: Data) -> dict[str, Any]:
    """Return a call's arrays and numbers of the data, by their names in `fastmlp.kernels.program.records`."""
    inputs = data.inputs
    told: dict[str, Any] = {"inputs": inputs}
    if isinstance(inputs, SparseRows):
        told = sparse_told(inputs)
    elif isinstance(inputs, ByteRows):
        told = {"numbers": inputs.numbers, "scale": np.array([inputs.scale]), "bytes": len(inputs)}
    return {**told, "targets": data.targets, "weights": data.weights, "samples": len(inputs)}


def sparse_told(inputs: SparseRows) -> dict[str, Any]:
    """Return a call's arrays and numbers of sparse inputs."""
    arrays = dict(zip(("indptr", "indices", "values"), inputs.arrays, strict=True))
    return {**arrays, "bounds": len(inputs.indptr), "stored": len(inputs.values)}


def lists_for(inputs: Inputs | ByteRows, rows: int, workers: int) -> dict[str, Any]:
    """Return the buffers for lists of the columns of up to `rows` sparse rows; none for dense rows."""
    if not isinstance(inputs, SparseRows):
        return {}
    terms = inputs.most(rows)
    if terms >= MOST_TERMS:
        raise ValueError(
            f"a batch may have {MOST_TERMS - 1} non-zeros, {rows} rows have up to {terms}; take fewer rows"
        )
    apart, all_terms, all_places = APART // 8 * workers, workers * terms, (rows + APART // 8) * workers
    counted, words, listed = inputs.n_in + 2 * apart, inputs.n_in // 64 + apart, inputs.n_in + apart
    return {
        "terms": terms, "counted": counted, "words": words, "listed": listed, "all_terms": all_terms,
        "all_places": all_places,
        "list_marks": np.zeros(words, np.uint64),
        "list_counts": np.zeros(counted, np.int32), "list_columns": np.empty(listed, np.int64),
        "list_starts": np.empty(listed, np.int64), "list_samples": np.empty(all_terms, np.int32),
        "list_numbers": np.empty(all_terms, inputs.dtype), "list_places": np.empty(all_places, np.int64),
    }  # fmt: skip


MOST_TERMS = 2**31
"""A batch must have fewer non-zeros, because they are counted in 32 bits."""


def call_of(shape: Shape, work: Workspace | None, rules: Rules | None = None, **given: Any) -> Call:
    """Return a call of a network's program.

    work : buffers with room for a step; rules : of the optimiser, if the call takes a step
    given : arrays and numbers by their names in `fastmlp.kernels.program.records`
    """
    given |= shape.words
    known = BLANK
    if work is not None:
        known, given["memory"], given["sums"] = work.words, work.memory, work.sums
    if rules is not None:
        given["rules"] = rules.address
    return Call(known, given, shape, rules)


def told_of_ranks(shared: Shared | None, summing: Summing | None, chunk: Chunk) -> dict[str, Any]:
    """Return what a call is told of ranks that take its steps together; without them nothing."""
    if shared is None or summing is None:
        return {}
    check_array("places", shared.places, chunk.order.shape, np.int64)
    told: dict[str, Any] = {
        "places": shared.places, "placed": len(shared.places),
        "summing": summing.address, "together": shared.together,
    }  # fmt: skip
    if shared.touched is not None:
        told |= {"touched": shared.touched, "marks": len(shared.touched)}
    return told
