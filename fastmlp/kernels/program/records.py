"""All that a program is told, in numbers: a network, an optimiser, rows, steps, and the addresses of buffers.

A program takes one address, that of a call. A call is an array of 64-bit words in the order of `WORDS`. Each
is the address of an array or a whole number. Compiled code reads them as attributes
(`fastmlp.kernels.program.told`).
"""

from __future__ import annotations

import array
from ctypes import addressof
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.layout import first_byte
from fastmlp.model.rules import MOST_CONSTANTS

SLICE_ROWS = 8
"""The fewest rows of weights in a slice of the gradient."""

APART = 128
"""Bytes between what two workers write: two cache lines, because processors fetch lines in pairs."""

FAN_IN, MOST_GROUPS = 8, 64
"""The most workers that meet at one place of a barrier; the most groups that a larger number forms."""

ARRIVED, GENERATION, PLACE = 0, APART // 8, 2 * APART // 8
"""Of a meeting place: the word that counts arrivals, the word that waiting workers read, the length.

The first place of a barrier is the root.
"""

ABANDONED, BARRIER = (1 + MOST_GROUPS) * PLACE, (1 + MOST_GROUPS) * PLACE + APART // 8
"""Of a barrier's array: the word that is 0 unless a worker has failed; the array's length."""

UNSUMMED = ABANDONED + 1
"""Of a barrier's array: a word that worker 0 alone uses, in `templates.sum_over_ranks`."""

UNBOUNDED = float("inf")
"""The `clip_norm` of an optimiser that does not clip."""

LAYER = np.dtype(
    [
        *((name, np.int64) for name in ("n_in", "n_out", "weights", "biases", "end", "units", "activation")),
        ("dropout", np.float64),
    ],
    align=True,
)
"""A layer in numbers. A record: compiled code takes all layers as one array, and a field is a load.

n_in, n_out : its inputs and units
weights, biases, end : places in the flat vector (`fastmlp.model.layout`)
units : the place of its units in a row of the workspace
activation : a code; dropout : a probability, 0 for the last
"""


OBJECTIVE = np.dtype(
    [
        ("loss", np.int64),
        *((name, np.float64) for name in ("divisor", "value_divisor", "l1", "l2")),
        ("shared_penalty", np.bool_),
    ],
    align=True,
)
"""What training minimises, in numbers. The loss's parameters (n_out,), float64, follow it in memory.

loss : a code; its parameters : see `Network.loss_parameters`
divisor : for the derivative the summed loss is divided by this and by the batch's weight
value_divisor : the reported loss is divided by this in addition
l1, l2 : the penalties; shared_penalty : whether they are divided by the batch's weight
"""


def objective_of(parameters: NDArray[np.float64]) -> np.void:
    """Return an OBJECTIVE of zeros, with its loss's parameters (n_out,) after it in memory."""
    memory = np.zeros(OBJECTIVE.itemsize + parameters.nbytes, np.uint8)
    memory[OBJECTIVE.itemsize :] = parameters.view(np.uint8)
    record: np.void = memory[: OBJECTIVE.itemsize].view(OBJECTIVE)[0]
    return record


class Shape(NamedTuple):
    """A network in numbers.

    layers : (layers,) LAYER
    objective : an OBJECTIVE
    words : a call's words of the network, with the addresses of both records
    """

    layers: NDArray[Any]
    objective: np.void
    words: dict[str, int]

    @classmethod
    def of(cls, layers: NDArray[Any], objective: np.void) -> Shape:
        """Return the shape of these two records."""
        first, last = layers[0], layers[-1]
        numbers = {"depth": len(layers), "size": last["end"], "n_in": first["n_in"], "n_out": last["n_out"]}
        places = {"layers": address_of(layers), "objective": address_of(objective)}
        return cls(layers, objective, {**{name: int(n) for name, n in numbers.items()}, **places})


RULE = np.dtype(
    [
        ("code", np.int64),
        ("clip_norm", np.float64),
        ("rate_factor", np.float64),
        ("touched_only", np.bool_),
        ("constants", np.float64, (MOST_CONSTANTS + 1,)),
    ],
    align=True,
)
"""An optimiser in numbers, for one layer.

rate_factor : the layer's learning rates are multiplied by it; 0 freezes the layer
touched_only : see `fastmlp.model.rules.Rule`
code : of its rule; constants : of the rule's formula, see `Optimizer.constants`
"""

ARRAYS: dict[str, tuple[Any, tuple[int | str, ...]]] = {
    "layers": (LAYER, ("depth",)),
    "objective": (OBJECTIVE, ()),
    "rules": (RULE, ("depth",)),
    "parameters": (None, ("size",)),
    "gradients": (None, ("size",)),
    "moments": (None, (2, "size")),
    "inputs": (None, ("samples", "n_in")),
    "indptr": (np.int64, ("bounds",)),
    "indices": (np.int32, ("stored",)),
    "values": (None, ("stored",)),
    "numbers": (np.uint8, ("bytes", "n_in")),
    "scale": (np.float64, (1,)),
    "targets": (None, ("samples", "n_out")),
    "weights": (None, ("samples",)),
    "order": (np.int64, ("visits",)),
    "starts": (np.int64, ("steps",)),
    "stops": (np.int64, ("steps",)),
    "totals": (np.float64, ("steps",)),
    "rates": (np.float64, ("steps", 2)),
    "losses": (np.float64, ("steps",)),
    "out": (None, ("samples", "n_out")),
    "memory": (None, ("length",)),
    "sums": (np.float64, ("batch",)),
    "barrier": (np.int64, (BARRIER,)),
    "touched": (np.bool_, ("marks",)),
    "places": (np.int64, ("placed",)),
    "list_counts": (np.int32, ("counted",)),
    "list_marks": (np.uint64, ("words",)),
    "list_columns": (np.int64, ("listed",)),
    "list_starts": (np.int64, ("listed",)),
    "list_samples": (np.int32, ("all_terms",)),
    "list_numbers": (None, ("all_terms",)),
    "list_places": (np.int64, ("all_places",)),
}
"""Arrays of a call by name: the dtype, or None for the network's own; and the shape, in numbers of the call.

layers, objective : as in `Shape`; rules : RULE
parameters, gradients, moments : as in `fastmlp.model.state.TrainState`
inputs, targets, weights : as in `fastmlp.model.backend.Data`
indptr, indices, values : in the place of dense inputs, as in `fastmlp.model.sparse.SparseRows`
numbers, scale : in the place of dense inputs, as in `fastmlp.model.byte_rows.ByteRows`
order, starts, stops, totals, rates : as in `fastmlp.model.backend.Chunk`
losses : written, the objective of each step
out : predictions, written
memory : all buffers for a batch; sums : partial sums of its loss, each at the place of its first row
barrier : where workers wait for one another, see `fastmlp.kernels.runtime.threads`
touched : which rows of the first layer's weights a whole gradient updates; all where `marks` is 0
places : of rows in their batches, see `fastmlp.model.backend.Shared`
list_counts, .. : for sparse inputs, as in `columns.list_columns`; the first two hold zeros
"""

BUFFERS = (
    *("batch_inputs", "batch_targets", "batch_weights", "logits", "activations", "dropped", "deltas"),
    *("scratch", "slices", "private"),
)
"""The buffers in a call's memory; a number of the call says where each begins. Most serve all layers.

batch_inputs (batch * n_in), batch_targets (batch * n_out), batch_weights (batch) : the gathered batch, whose
inputs may be converted ones
logits, activations, dropped, deltas : (batch * units of all layers)
scratch : (workers, scratch_length), `workspace.scratch_length`, for the matmul slots' own use
slices : (workers, slice_length), `workspace.slice_length`, for slices of gradients, applied at once
private : (workers, private_length), `variant.Bound.private`, which the program of one network lays out itself
"""

NUMBERS = (
    *("depth", "size", "samples", "n_in", "n_out", "visits", "steps", "step", "key", "batch", "length"),
    *("bounds", "stored", "bytes", "marks", "placed"),
    *("counted", "words", "listed", "terms", "all_terms", "all_places"),
    *("summing", "together"),
    *BUFFERS,
    *("scratch_length", "slice_length", "private_length"),
)
"""Whole numbers of a call by name.

depth : layers; size : parameters; samples : rows of the inputs; n_in, n_out : of the network
visits : rows of the order, 0 if the inputs are visited as they stand
steps : of the call; step : steps that were taken before; key : of the dropout masks
batch : the most rows of a step, for which the buffers have room; length : numbers in the memory
bounds : the length of indptr, 0 where inputs are dense; stored : non-zeros
bytes : rows of bytes, 0 where inputs are of the network's dtype
marks : the length of `touched`, n_in or 0
placed : the length of `places`, 0 where the batch has no rows in other processes
summing : the address of the function that sums gradients over ranks, see `program.summing`; 0 without ranks
together : the fewest numbers of a gradient that ranks sum at a time
counted : n_in, words : n_in / 64, listed : n_in, and for each worker `APART` bytes more
terms : the most non-zeros of a step; all_terms : of all workers
all_places : the rows of a batch and `APART` bytes, for each worker
"""

WORDS = {name: place for place, name in enumerate((*ARRAYS, *NUMBERS))}
"""By name, the place of each word of a call."""


def words_of(numbers: dict[str, int]) -> array.array[int]:
    """Return the words of a call with these numbers, by name; the other words are 0."""
    words = array.array("q", bytes(8 * len(WORDS)))
    for name, number in numbers.items():
        words[WORDS[name]] = number
    return words


BLANK = words_of({})


class Call:
    """A call, which a program's entry point takes by its address.

    known : words to begin with; they are copied, because many calls share them
    given : arrays and numbers by name; a number may be the address of an object in `held`
    held : objects that must live as long as the call
    words : the call's memory, int64; a change to a word changes the call
    """

    __slots__ = ("_held", "address", "words")

    def __init__(self, known: array.array[int], given: dict[str, Any], *held: Any) -> None:
        words = self.words = known[:]
        for name, one in given.items():
            words[WORDS[name]] = address_of(one) if isinstance(one, np.ndarray) else one
        self._held = given, held
        self.address = words.buffer_info()[0]


def address_of(one: Any) -> int:
    """Return the address of an array's first element, or of a record."""
    try:
        return addressof(first_byte(one))
    except (TypeError, ValueError):  # read-only, or empty
        address: int = one.__array_interface__["data"][0]
        return address
