"""A network as a list of operations, with the fields of each.

Layout and workspace, compiled programs, the reference and exports derive from this list. `lowering` makes the
list from a network's layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.activations import Activation
from fastmlp.model.component import BIAS, Kind, Part
from fastmlp.model.component import INPUTS as INPUTS
from fastmlp.model.embeddings import Embedding
from fastmlp.model.rules import StepRule


class FusedChain(NamedTuple):
    """A fused chain of elementwise operations, see `Operation.fused`; parts : kinds, or activations"""

    parts: tuple[Kind | Activation, ...]

    @property
    def key(self) -> str:
        """The name of the machine code."""
        return "chain of " + "+".join(part.key for part in self.parts)


class Place(NamedTuple):
    """Where an array lies in the flat vector.

    start : the offset; section : "weights", "biases" or "state"
    step : from a row, of a network, to the next one; 0 without gaps between rows
    """

    start: int
    shape: tuple[int, ...]
    section: str
    step: int = 0


class Operation(NamedTuple):
    """An operation. The output is a kind's formula, then an activation (after `dense` only), then dropout.

    name : of the layer
    sources : the operations read by this operation
    n_in, n_out : units of the first source, and of the output
    activation, dropout : the end of the operation; the last operation's activation is the network's output
    layer : the layer before lowering; None for the copy of the inputs
    within : the names of the named `Residual`s around the operation, innermost first
    weights, biases, trained, end : offsets in the flat vector: of the matrix or the gain; of the biases or
        the shift; the end of these; the end of the state behind
    units : the offset of the output in a row of the workspace; a fused chain takes its product's place, and a
        sum takes the place of its first source, if no other operation needs that source
    saved : the offset of numbers saved for backward, or added to a delta
    adds : for each source, True if the derivative by the source has been written by another reader, so that
        this operation adds
    gates : True if the input gradient ends with the derivative of the source's relu; gated : True if the only
        reader does so for this operation
    l1, l2 : penalties on the weights
    column : for readers of inputs, the first column; for tables, the number of the first table
    sparse_in : for a product, the count of last inputs in columns of X that may be sparse rows
    is_head : True for the logits of a head
    networks : the number of networks, by a `Members` before
    subrows : the number of parts of a source row, each of n_in units, and of an output row, each of n_out
        units: a part for each of several networks, and in a `GroupNorm` a part for each group
    second : the first unit of the second source in its row: a gate reads a row's halves
    part : "r" or "s" for the factors of a layer of members, else ""
    fused : for the last of a chain of elementwise operations after a product shared by members the chain.
        Programs take each number through a whole chain at once, from the product's output to the last output
    joined : for the other operations of a chain, and for the product: True if only the chain reads the output
    sums : for a chain, the first sum of its gain and shift among all sums over a few rows
    """

    kind: Kind
    name: str
    sources: tuple[int, ...]
    n_in: int
    n_out: int
    activation: str | Activation = "identity"
    dropout: float = 0.0
    layer: Part | None = None
    within: tuple[str, ...] = ()
    weights: int = 0
    biases: int = 0
    trained: int = 0
    end: int = 0
    units: int = 0
    saved: int = 0
    adds: tuple[bool, ...] = ()
    gates: bool = False
    gated: bool = False
    l1: float = 0.0
    l2: float = 0.0
    column: int = 0
    sparse_in: int = 0
    is_head: bool = False
    networks: int = 1
    subrows: int = 1
    second: int = 0
    part: str = ""
    fused: FusedChain | None = None
    joined: bool = False
    sums: int = 0

    @property
    def width(self) -> int:
        """The numbers of an output row."""
        return self.subrows * self.n_out

    @property
    def title(self) -> str:
        """The name in pictures and tables, with the part, if any."""
        return f"{self.name}.{self.part}" if self.part else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names for optimisers: of the layer, of the layers around, and of the kind."""
        return self.name, *self.within, self.kind.name if self.kind.digest else type(self.layer).__name__

    @property
    def arrays(self) -> dict[str, Place]:
        """Where the arrays lie in the flat vector, by their names in `Model.layers`."""
        starts = {"weights": self.weights, "biases": self.biases, "state": self.trained}
        found: dict[str, Place] = {}

        def add(name: str, shape: tuple[int, ...], section: str, step: int = 0) -> None:
            found[name] = Place(starts[section], shape, section, step)
            starts[section] += shape[-1] if step else math.prod(shape)

        if self.is_dense:
            add("weights", (self.n_in, self.n_out), "weights")
            add("biases", (self.n_out,), "biases")
        elif isinstance(self.layer, Embedding):
            for name, shape in self.layer.arrays(self.columns).items():
                add(name, shape, self.layer.sections.get(name, "weights"))
        else:
            k, units, names = self.networks, self.width // self.networks, {}
            if self.part:
                names = {"gain": self.part, "shift": "biases"}
            steps = dict(zip(("weights", "biases"), self.kind.lengths(units), strict=True))
            for one in self.kind.parameters:
                section, length = "biases" if one.shape == BIAS else "weights", one.length(units)
                shape, step = ((length,), 0) if k == 1 else ((k, length), steps[section])
                add(names.get(one.name, one.name), shape, section, step)
            for name in self.kind.state:
                add(name, (units,) if k == 1 else (k, units), "state")
        return found

    @property
    def trained_arrays(self) -> tuple[list[str], list[str]]:
        """The names in `Model.layers` of trained weights or a gain, and of biases or a shift."""
        first, second = (
            [name for name, one in self.arrays.items() if one.section == section]
            for section in ("weights", "biases")
        )
        return first, second * self.trains_bias

    @property
    def is_dense(self) -> bool:
        """True for a product with a matrix of weights."""
        return self.kind.key == "dense"

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """The hyperparameters of the formula; None for the dtype's machine epsilon."""
        return self.kind.numbers_of(self.layer)

    @property
    def is_fused(self) -> bool:
        """True for an operation of a fused chain."""
        return self.fused is not None or (self.joined and not self.is_dense)

    @property
    def trains_bias(self) -> bool:
        """True if biases are trained; False if held at 0."""
        return getattr(self.layer, "bias", True)

    @property
    def needs_output(self) -> bool:
        """True if the backward pass reads the output."""
        if self.fused is not None:  # a chain's backward pass begins with the product's output
            return False
        return self.kind.key == "activation" or self.activation != "identity" or self.is_block

    @property
    def is_block(self) -> bool:
        """True for the embedding of a block of inputs."""
        return isinstance(self.layer, Embedding)

    @property
    def columns(self) -> int:
        """The columns of an embedding, each with separate units; 0 for other operations."""
        return self.n_in // self.layer.n_in if isinstance(self.layer, Embedding) else 0

    @property
    def by_column(self) -> bool:
        """True if a block's units lie column by column, (columns, rows, units)."""
        return isinstance(self.layer, Embedding) and self.layer.linear_units is not None

    @property
    def tables(self) -> tuple[tuple[int, int], ...]:
        """The levels and the units of each column of codes; empty for other operations."""
        return self.layer.tables if isinstance(self.layer, Embedding) else ()

    def updates_sparsely(self, rule: StepRule) -> bool:
        """True if a step by a rule moves only the rows of tables in the batch."""
        return bool(self.tables) and (rule.sparse_updates or getattr(self.layer, "sparse", False))

    @property
    def saved_units(self) -> int:
        """The count of a row's numbers at `saved`."""
        if isinstance(self.layer, Embedding):
            shapes = self.layer.arrays(self.columns)
            return math.prod(shapes[self.layer.keeps]) if self.layer.keeps else 0
        return self.subrows * self.kind.saved or (self.n_in if self.is_dense and self.adds[0] else 0)


class Table(NamedTuple):
    """A column's table of categories: a row of units for missing codes, then for each level.

    start : the offset in the flat vector; width : of a row; unit : the first output unit
    mark : the first row among the rows of all tables
    """

    start: int
    levels: int
    width: int
    unit: int
    mark: int


def tables_of(operations: Sequence[Operation]) -> tuple[Table, ...]:
    """Return the tables of all columns of categories, in order."""
    found, mark = [], 0
    for one in operations:
        start, unit = one.weights, 0
        for levels, width in one.tables:
            found.append(Table(start, levels, width, unit, mark))
            start, unit, mark = start + (levels + 1) * width, unit + width, mark + levels + 1
    return tuple(found)


def table_marks(operations: Sequence[Operation], inputs: NDArray[Any]) -> NDArray[np.int32]:
    """Return the counts of each table row in inputs (rows, n_in), (rows of all tables,)."""
    found = []
    for one in operations:
        first = operations[one.sources[0]].column
        for (levels, _), column in zip(one.tables, inputs[:, first : first + one.n_in].T, strict=False):
            rows = column[(column >= -1) & (column < levels)].astype(np.int64) + 1
            found.append(np.bincount(rows, minlength=levels + 1))
    return np.concatenate(found).astype(np.int32)
