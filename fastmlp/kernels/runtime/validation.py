"""Checks of arguments, made before compiled code runs: there, a wrong shape is a wrong address."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp.kernels.program.records import Shape
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.rows import ByteRows, Inputs
from fastmlp.model.state import FLOATS, Array, TrainState


def check_array(what: str, array: Array, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Raise ValueError unless the array has this shape and dtype, in C order."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", not in C order"
        raise ValueError(
            f"{what} must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, "
            f"got {array.dtype} of {array.shape}{order}"
        )


def check_inputs(inputs: Inputs | ByteRows, rows: int, n_in: int, dtype: DTypeLike) -> None:
    """Raise ValueError unless the inputs are (rows, n_in) of this dtype, dense, sparse or bytes.

    The content of indptr and indices is not checked, nor are the values of an order: the caller is
    responsible.
    """
    if isinstance(inputs, np.ndarray):
        check_array("inputs", inputs, (rows, n_in), dtype)
        return
    if isinstance(inputs, ByteRows):
        check_array("bytes", inputs.numbers, (rows, n_in), np.uint8)
        if inputs.dtype != dtype:
            raise ValueError(f"bytes must become {np.dtype(dtype)}, got {inputs.dtype}")
        return
    check_array("indptr", inputs.indptr, (rows + 1,), np.int64)
    check_array("indices", inputs.indices, inputs.values.shape, np.int32)
    check_array("values", inputs.values, inputs.values.shape, dtype)
    check_array("dense columns", inputs.dense, (rows, inputs.dense.shape[1]), dtype)
    if inputs.shape[1] != n_in:
        raise ValueError(f"inputs must have {n_in} columns, got {inputs.shape[1]}")


def check_parameters(shape: Shape, parameters: Array) -> None:
    """Raise ValueError unless these are the network's parameters (P,), float32 or float64."""
    dtype = parameters.dtype if parameters.dtype in FLOATS else FLOATS[1]
    check_array("parameters", parameters, (shape.words["size"],), dtype)


def check_state(shape: Shape, state: TrainState, moment_rows: int) -> None:
    """Raise ValueError unless the state's arrays have this network's shapes and a common dtype.

    moment_rows : of the optimiser
    """
    count, dtype = shape.words["size"], state.parameters.dtype
    check_parameters(shape, state.parameters)
    check_array("gradients", state.gradients, (count,), dtype)
    check_array("moments", state.moments, (max(moment_rows, len(state.moments)), count), dtype)


def check_data(shape: Shape, data: Data, dtype: DTypeLike) -> None:
    """Raise ValueError unless the data have a row at least, and the network's widths."""
    rows = len(data.inputs)
    check_inputs(data.inputs, max(rows, 1), shape.words["n_in"], dtype)
    check_array("targets", data.targets, (rows, shape.words["n_out"]), dtype)
    check_array("weights", data.weights, (rows,), dtype)


def check_chunk(chunk: Chunk, least: int = 1, joins: bool = False) -> None:
    """Raise ValueError unless every step lies within the order and the batch size. least : rows of a step

    joins : a single row left by microbatches joins the last microbatch

    The values of the order are not checked: to read all values would take as long as to copy the rows.
    """
    steps, most = len(chunk.starts), chunk.most_rows
    if chunk.microbatch:
        if not 0 < chunk.microbatch <= most - joins:
            raise ValueError(f"most_rows={most} has no room for microbatches of {chunk.microbatch} rows")
        most = chunk.order.size
    check_array("order", chunk.order, (chunk.order.size,), np.int64)
    check_array("starts", chunk.starts, (steps,), np.int64)
    check_array("stops", chunk.stops, (steps,), np.int64)
    check_array("totals", chunk.totals, (steps,), np.float64)
    check_array("rates", chunk.rates, (steps, 2), np.float64)
    # As unsigned integers, numbers below 0 are huge, so one pass checks both bounds.
    if steps and (
        _most(chunk.starts) > chunk.order.size - least
        or _most(chunk.stops) > chunk.order.size
        or _most(chunk.stops - chunk.starts - least) > most - least
    ):
        raise ValueError(
            f"every step must visit {least} to most_rows={most} rows within the order's "
            f"{chunk.order.size}, got starts {chunk.starts.min()} and stops up to {chunk.stops.max()}"
        )


def _most(numbers: NDArray[np.int64]) -> int:
    """Return the largest number, as unsigned: a number below 0 is the largest."""
    unsigned = numbers.view(np.uint64)
    return unsigned.item(unsigned.argmax())
