"""Call records filled with data, buffers and numbers, by the names of `fastmlp.kernels.program.records`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastmlp.kernels.program.records import APART, BLANK, Call, Shape
from fastmlp.kernels.runtime.described import Rules
from fastmlp.kernels.runtime.summing import Summing
from fastmlp.kernels.runtime.validation import check_array
from fastmlp.kernels.runtime.workspace import Extent, Workspace, apart, scratch_length
from fastmlp.kernels.variant import Buffers
from fastmlp.model.backend import Chunk, Data, Shared
from fastmlp.model.byte_rows import ByteRows
from fastmlp.model.layout import aligned, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.precision import FLOATS
from fastmlp.model.sparse import Inputs, SparseRows

NAMES = {dtype: dtype.name for dtype in FLOATS}
"""The names of dtypes: NumPy builds the text again at every `dtype.name`."""


@functools.lru_cache(maxsize=64)
def extent_of(network: Network, sparse: bool) -> Extent:
    """Return what a workspace of a network must have room for; sparse : whether inputs are.

    Raises
    ------
    ValueError
        If inputs are sparse and no operation takes them, or if they are not and blocks of them must be.
    """
    network.check_sparse(sparse)
    return Extent.of(network, sparse)


def words_of(data: Data) -> dict[str, Any]:
    """Return a call's arrays and numbers of the data, by their names in `fastmlp.kernels.program.records`."""
    inputs, targets, weights = data
    found: dict[str, Any] = {"inputs": inputs}
    if isinstance(inputs, SparseRows):
        found = words_of_sparse(inputs)
    elif isinstance(inputs, ByteRows):
        found = {"numbers": inputs.numbers, "scale": np.array([inputs.scale]), "bytes": len(inputs)}
    return {**found, "targets": targets, "weights": weights, "samples": len(inputs)}


def words_of_sparse(inputs: SparseRows) -> dict[str, Any]:
    """Return a call's arrays and numbers of sparse inputs, and of dense columns before them."""
    arrays = dict(zip(("inputs", "indptr", "indices", "values"), (inputs.dense, *inputs.arrays), strict=True))
    numbers = {"n_in": inputs.dense.shape[1], "bounds": len(inputs.indptr), "stored": len(inputs.values)}
    return {**arrays, **numbers}


def lists_for(inputs: Inputs | ByteRows, rows: int, workers: int) -> dict[str, Any]:
    """Return the buffers for lists of the columns of up to `rows` sparse rows; none for dense rows."""
    if not isinstance(inputs, SparseRows):
        return {}
    return column_lists(inputs.most(rows), rows, inputs.n_in, inputs.dtype, workers)


def column_lists(terms: int, rows: int, n_in: int, dtype: np.dtype[Any], workers: int) -> dict[str, Any]:
    """Return the buffers for lists of the columns of `rows` sparse rows with `terms` non-zeros at most."""
    if terms >= MOST_TERMS:
        raise ValueError(
            f"a batch may have {MOST_TERMS - 1} non-zeros, {rows} rows have up to {terms}; take fewer rows"
        )
    free, all_terms, all_places = APART // 8 * workers, workers * terms, (rows + APART // 8) * workers
    counted, words, listed = n_in + 2 * free, n_in // 64 + free, n_in + free
    return {
        "terms": terms, "counted": counted, "words": words, "listed": listed, "all_terms": all_terms,
        "all_places": all_places,
        "list_marks": np.zeros(words, np.uint64),
        "list_counts": np.zeros(counted, np.int32), "list_columns": np.empty(listed, np.int64),
        "list_starts": np.empty(listed, np.int64), "list_samples": np.empty(all_terms, np.int32),
        "list_numbers": np.empty(all_terms, dtype), "list_places": np.empty(all_places, np.int64),
    }  # fmt: skip


def tables_for(network: Network, rows: int, workers: int) -> dict[str, Any]:
    """Return the buffers for the rows of tables that up to `rows` rows have; none without tables."""
    if not network.tables:
        return {}
    marks = np.zeros(network.table_rows, np.int32)
    places = np.empty((rows + APART // 8) * workers, np.int64)
    return {
        "row_marks": marks, "table_rows": len(marks), "row_places": places, "all_row_places": len(places),
    }  # fmt: skip


def matrices_for(
    network: Network, optimizer: Optimizer, dtype: np.dtype[Any], workers: int, buffers: Buffers | None
) -> dict[str, Any]:
    """Return the buffers for a rule of orthogonal matrices, see `orthogonal.orthogonalise`; else none."""
    if not optimizer.rule.orthogonal:
        return {}
    products = [sorted((one.n_in, one.n_out)) for one in network.operations if one.is_dense]
    side, width = (max(sizes) for sizes in zip(*products, strict=True))
    given = buffers([*map(tuple, products), (side, side)], side) if buffers else {}  # type: ignore[list-item]
    scratch = max(scratch_length(width, side, dtype.itemsize), given.get("scratch", 0))
    parts = {
        "matrix_size": max(k * n for k, n in products), "matrix_side": side * side, "matrix_width": width,
        "matrix_scratch": scratch,
    }  # fmt: skip
    parts = {name: apart(length, dtype.itemsize) for name, length in parts.items()}
    length = 2 * parts["matrix_size"] + 2 * parts["matrix_side"] + parts["matrix_width"]
    length += workers * parts["matrix_scratch"]
    return {**parts, "matrix_length": length, "matrices": aligned(length, dtype)}


def accumulating(
    network: Network, optimizer: Optimizer, dtype: np.dtype[Any], chunk: Chunk
) -> dict[str, Any]:
    """Return what a call is given for steps that take a microbatch at a time; else nothing."""
    if not chunk.microbatch:
        return {}
    size = parameter_count(network)
    found: dict[str, Any] = {
        "accumulated": aligned(size, dtype), "accumulates": size, "microbatch": chunk.microbatch,
        "fewest": 2 if network.needs_batches else 1,
    }  # fmt: skip
    if optimizer.rule.touched_only and network.takes_sparse:
        found |= {"touched": np.empty(network.sparse_in, np.bool_), "marks": network.sparse_in}
    return found


MOST_TERMS = 2**31
"""A batch must have fewer non-zeros, because they are counted in 32 bits."""


def call_of(shape: Shape, work: Workspace | None, rules: Rules | None = None, **given: Any) -> Call:
    """Return a call of a network's program.

    work : buffers with room for a step; rules : of the optimiser, if the call takes a step
    given : arrays and numbers by their names in `fastmlp.kernels.program.records`
    """
    given = shape.words | given
    known = BLANK
    if work is not None:
        known, given["memory"], given["sums"] = work.words, work.memory, work.sums
    if rules is not None:
        given |= {"rules": rules.address, "moment_rows": rules.moments}
    return Call(known, given, shape, rules)


def words_of_heads(network: Network, data: Data) -> dict[str, Any]:
    """Return the arrays of a call on all rows of data for the heads of its network."""
    if not network.heads:
        return {}
    totals = network.head_totals(data.targets, data.weights)
    return {"head_totals": totals[:, None].copy(), "head_losses": np.empty((len(totals), 1))}


def words_of_ranks(shared: Shared, summing: Summing, chunk: Chunk) -> dict[str, Any]:
    """Return the words of a call record for ranks that share its steps."""
    check_array("places", shared.places, chunk.order.shape, np.int64)
    check_array("batch_rows", shared.batch_rows, chunk.starts.shape, np.int64)
    found: dict[str, Any] = {
        **dict(zip(("summing", "totalling"), summing.addresses, strict=True)),
        "places": shared.places, "placed": len(shared.places), "batch_rows": shared.batch_rows,
        "leads": int(shared.leads), "together": shared.together,
    }  # fmt: skip
    if shared.touched is not None:
        found |= {"touched": shared.touched, "marks": len(shared.touched)}
    if shared.row_marks is not None:
        found |= {"row_marks": shared.row_marks, "table_rows": len(shared.row_marks)}
    return found
