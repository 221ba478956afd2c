"""Networks and optimisers as numbers for programs, and checks of the arrays that programs read and write.

A wrong shape is a wrong address in compiled code, so arrays are checked before.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp.kernels.codes import (
    ACTIVATION_CODES,
    FILE_CODES,
    LOSS_CODES,
    OPERATION_CODES,
    RULE_CODES,
    file_of,
)
from fastmlp.kernels.program.records import (
    HEAD,
    NESTEROV,
    OBJECTIVE,
    OPERATION,
    ORTHOGONAL,
    RULE,
    TABLE,
    UNBOUNDED,
    address_of,
)
from fastmlp.model.activations import activation_of
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.norms import BatchNorm
from fastmlp.model.operations import INPUTS
from fastmlp.model.optimizers import Muon, Optimizer, check_optimizer
from fastmlp.model.rows import ByteRows, Inputs
from fastmlp.model.state import FLOATS, Array, TrainState

NAMES = {dtype: dtype.name for dtype in FLOATS}
"""The names of dtypes: NumPy builds the text again at every `dtype.name`."""

COPIED = (
    *("n_in", "n_out", "weights", "biases", "trained", "end", "units", "saved", "saved_units"),
    *("gates", "gated", "trains_bias", "dropout", "l1", "l2", "column", "sparse_in", "columns", "by_column"),
    *("subrows", "second", "width", "joined", "sums"),
)
"""Fields of an operation, unchanged in the record."""

NONE, MACHINE_EPSILON = -1, float("nan")
"""No second source; a hyperparameter equal to the dtype's epsilon."""


class Shape(NamedTuple):
    """A network in numbers.

    words : a call's words of the network, with the addresses of its records
    records : by the names of `ARRAYS`, alive as long as their addresses are used
    """

    words: dict[str, int]
    records: dict[str, Any]

    @classmethod
    def of(cls, words: dict[str, int], records: dict[str, Any]) -> Shape:
        """Return the `Shape` of words and records, whose addresses become words."""
        return cls(words | {name: address_of(record) for name, record in records.items()}, records)


@functools.lru_cache(maxsize=64)
def shape_of(network: Network) -> Shape:
    """Return a network in numbers."""
    operations = np.zeros(len(network.operations), OPERATION)
    for record, op in zip(operations, network.operations, strict=True):
        for name in COPIED:
            record[name] = getattr(op, name)
        record["file"] = FILE_CODES.code_of_key(file_of(op))
        record["kind"] = OPERATION_CODES.code(op.fused or op.kind)
        record["activation"] = ACTIVATION_CODES.code(activation_of(op.activation))
        record["source"], record["other"] = (*op.sources, NONE)[:2]
        record["adds"], record["adds_other"] = (*op.adds, False)[:2]
        record["gives_logits"] = op.is_head or op is network.operations[-1]
        record["tables"], record["sparse_updates"] = len(op.tables), getattr(op.layer, "sparse", False)
        if isinstance(op.layer, BatchNorm):
            record["whole_batch"] = True
            record["momentum"], record["epsilon"] = op.layer.momentum, op.layer.epsilon
        numbers = [MACHINE_EPSILON if number is None else number for number in op.numbers]
        record["numbers"][: len(numbers)] = numbers
    ours = network.objective
    objective = np.zeros((), OBJECTIVE)
    objective["value_divisor"], objective["l1"], objective["l2"] = ours.value_divisor, network.l1, network.l2
    objective["shared_penalty"] = network.convention == "sklearn"
    objective["penalises"] = network.penalises
    heads, head_numbers = _heads(network)
    tables = np.array([*network.tables], TABLE)
    words = {
        "depth": len(operations), "size": int(operations[-1]["end"]), "n_in": network.n_in,
        "n_out": network.n_out, "n_heads": len(heads), "columns": len(tables), "members": network.members,
    }  # fmt: skip
    records = {
        "operations": operations, "objective": objective, "heads": heads, "head_numbers": head_numbers,
        "tables": tables,
    }  # fmt: skip
    return Shape.of(words, records)


def _heads(network: Network) -> tuple[Array, NDArray[np.float64]]:
    """Return the heads of a network, (n_heads,) HEAD, and `head_numbers` of `ARRAYS`."""
    outputs = network.heads or {"": None}
    indices = [number for number, op in enumerate(network.operations) if op.is_head]
    heads, numbers, start = np.zeros(len(outputs), HEAD), np.ones((2, network.n_out)), 0
    heads["operation"] = indices or len(network.operations) - 1
    heads["weight"] = heads["value_divisor"] = 1
    for record, head in zip(heads, outputs.values(), strict=True):
        objective = head.objective if head else network.objective
        units = slice(start, start := start + objective.n_out)
        record["column"], record["units"] = units.start, objective.n_out
        record["loss"] = LOSS_CODES.code(loss_of(objective.loss))
        record["output"] = ACTIVATION_CODES.code(activation_of(objective.output))
        record["divisor"] = objective.divisor
        numbers[0, units] = objective.loss_parameters
        if head:
            record["by_row"], record["missing"] = head.by_row, head.missing
            record["weighted"] = head.loss_weights is not None
            record["weight"], record["divisor"] = head.weight, head.divisor
            record["value_divisor"] = objective.value_divisor
            if head.loss_weights is not None:
                numbers[1, units] = head.loss_weights
    return heads, numbers


@functools.lru_cache(maxsize=64)
def resting_shape_of(network: Network) -> Shape:
    """Return a network in numbers for predictions: without dropout, batch norms by the running state."""
    shape = shape_of(network)
    operations = shape.records["operations"].copy()
    operations["dropout"] = 0
    operations["whole_batch"] = False
    return Shape.of(shape.words, shape.records | {"operations": operations})


@functools.lru_cache(maxsize=64)
def rules_of(optimizer: Optimizer, network: Network) -> tuple[Array, int]:
    """Return an optimiser in numbers for a network's operations, (2, depth) RULE, and their address."""
    # NumPy takes 3 us for the address of an array of records.
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(network)
    rules = np.zeros((2, len(network.operations)), RULE)
    rules["clip_norm"] = UNBOUNDED if optimizer.clip_norm is None else optimizer.clip_norm
    rules["sparse_updates"] = optimizer.rule.sparse_updates
    for number, op in enumerate(network.operations):
        of_op = rules[:, number]
        of_op["rate_factor"] = factor = optimizer.rate_of(op)
        trains = factor != 0 and op.trained > op.weights
        of_op["reached"] = trains or any(rules["reached"][0, at] for at in op.sources if at != INPUTS)
        for rule, part in zip(of_op, optimizer.of_layer(op), strict=True):
            rule["code"], rule["moments"] = RULE_CODES.code(part.rule), part.rule.moments
            if isinstance(part, Muon):
                rule["orthogonal"] = NESTEROV if part.nesterov else ORTHOGONAL
                rule["momentum"] = part.momentum
            rule["constants"][: len(part.constants)] = part.constants
    return rules, address_of(rules)


@functools.lru_cache(maxsize=64)
def no_rules(operations: int) -> tuple[Array, int]:
    """Return the rules of `gradient`, without steps."""
    rules = np.zeros((2, operations), RULE)
    rules["rate_factor"] = 1
    rules["reached"] = True
    return rules, address_of(rules)


# --- checks of arrays ------------------------------------------------------------------------------------


def check_array(what: str, array: Array, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Raise ValueError unless the array has this shape and dtype, in C order."""
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else ", not in C order"
        raise ValueError(
            f"{what} must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, "
            f"got {array.dtype} of {array.shape}{order}"
        )


def check_inputs(inputs: Inputs | ByteRows, rows: int, n_in: int, dtype: DTypeLike) -> None:
    """Raise ValueError unless the inputs are (rows, n_in) of this dtype, dense, sparse or bytes."""
    # The content of indptr and indices is not checked, nor are the values of an order: that is the caller's.
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
    """Raise ValueError unless the state's arrays have this network's shapes and a common dtype."""
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
    """
    # The values of the order are not checked: to read all values would take as long as to copy the rows.
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
