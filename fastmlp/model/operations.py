"""A network as a list of operations: the table of their kinds, and what the list says of each.

All else derives from this list: layout and workspace, compiled programs, the reference, exports. `lowering`
makes it of a network's layers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.activations import Activation
from fastmlp.model.embeddings import Embedding, Grouped
from fastmlp.model.gates import ScaleShift
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.layers import Dense
from fastmlp.model.norms import BatchNorm
from fastmlp.model.own_layers import BIAS, Layer, Parameter, RowFunction
from fastmlp.model.part import LAYERS, Part, parameters_of, row_function_of
from fastmlp.model.rules import StepRule


@dataclass(frozen=True)
class Kind:
    """A kind of operation.

    name : of the kind, and of unnamed layers; the key of its machine code
    layer : the class that has its formula, parameters and state; None of kinds that are no formula of a row
    piece : of `own`, a user's `Layer` or an `Activation` with parameters, which has them instead
    """

    name: str
    layer: type[Part] | None = None
    piece: Layer | Activation | None = None

    @property
    def label(self) -> str:
        """The name of unnamed layers, before their number."""
        return self.piece.name if self.piece is not None else self.name

    @property
    def key(self) -> str:
        """The name of the kind in machine code."""
        return self.piece.key if self.piece is not None else self.name

    @functools.cached_property
    def row(self) -> RowFunction | None:
        """The formula of a row, or of two, that the operation computes; None if it is no such formula."""
        if self.piece is not None:
            return self.piece.row
        return row_function_of(self.layer) if self.layer is not None else None

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The trained parameters, those of shape BIAS last; none of products and of blocks of inputs."""
        if self.piece is not None:
            return self.piece.parameters
        return parameters_of(self.layer) if self.layer is not None else ()

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the numbers of each unit that no optimiser steps: a running mean and variance."""
        return self.layer.state if self.layer is not None else ()

    @functools.cached_property
    def kept(self) -> int:
        """How many numbers of a row are saved for backward."""
        return len(self.row.code.kept) if self.row is not None else 0

    @functools.cached_property
    def is_unitwise(self) -> bool:
        """Whether each number of a row is taken by itself: an activation, or a formula of one unit."""
        return self.name == "activation" or (self.row is not None and self.row.is_unitwise)

    def lengths(self, units: int) -> tuple[int, int]:
        """Return how many numbers the weights and the biases of a row of so many units have."""
        numbers = [0, 0]
        for one in self.parameters:
            numbers[one.shape == BIAS] += one.length(units)
        return numbers[0], numbers[1]


class UnitRun(NamedTuple):
    """Unitwise operations, one after another: see `Operation.run`. parts : their kinds, or activations"""

    parts: tuple[Kind | Activation, ...]

    @property
    def key(self) -> str:
        """The name of its machine code."""
        return "run of " + "+".join(part.key for part in self.parts)


KINDS = {
    kind.name: kind
    for kind in (
        *(Kind(name) for name in ("dense", "copy", "activation", "members", "concatenate")),
        *(Kind(one.kind, one) for one in LAYERS.values() if one.formula or one.state),
        Kind("scale_shift", ScaleShift),
        Kind("fixed_norm", BatchNorm),  # a batch norm in predictions
        *(Kind(one.kind) for one in BLOCKS.values() if one.kind),
        Kind(Grouped.kind),
        Kind("own"),
    )
}
"""All kinds by name."""


def own_kind(given: str | Activation | Layer) -> Kind | None:
    """Return the kind of an operation that a user's layer is, or an activation with parameters, or None."""
    if isinstance(given, Layer) or (isinstance(given, Activation) and given.parameters):
        return Kind("own", piece=given)
    return None


INPUTS = -1
"""The source of an operation that reads the rows of X: the first one, or the copies of blocks of inputs."""


class Operation(NamedTuple):
    """One operation. Its output is that of its kind, then its activation (of `dense` only), then dropout.

    name : that of its layer
    sources : the operations whose outputs it reads
    n_in, n_out : units of its first source, and its own
    activation, dropout : what ends it; the last operation's activation is the network's output
    layer : what it was lowered from; None for the copy of the inputs
    within : the names of the `Residual`s around it that have one, the innermost first
    weights, biases, trained, end : places in the flat vector, of the matrix or the gain, of the biases or the
        shift; where these end; where the state behind them ends
    units : the place of its output in a row of the workspace; a run stands where its product stands, and a
        sum where its first source stood, if nothing else needs that
    kept : of what it keeps, or adds to a delta
    adds : for each source, whether others have written the derivative by it before, so that it adds to it
    gates : whether its input gradient ends with the derivative of its source's relu; gated : whether that of
        its only reader does so for it
    l1, l2 : penalties on its weights
    column : of those that read the inputs, the first column; of tables, the first one of all tables
    sparse_in : of a product, how many of its inputs, the last ones, are columns of X that may be sparse rows
    is_head : whether it gives the logits of a head
    networks : how many networks it is of: those of `Members` before it
    subrows : how many rows a row of its source is cut in, of n_in units each, and its own row, of n_out: one
        for each of several networks, and in a `GroupNorm` one for each of its groups
    second : where in a row of its second source the units begin that it reads: a gate reads a row's halves
    part : of such a layer the arrays that the operation has, "r", "s" or none
    run : of the last of a run of unitwise operations after a product that members share, what the run is.
        Programs take each number through all of a run at once, from the product's to the last one's output
    joined : of the others of a run, and of that product: whether its output is kept for the run alone
    sums : of a run's, where among all sums over a few rows those of its gain and shift begin
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
    kept: int = 0
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
    run: UnitRun | None = None
    joined: bool = False
    sums: int = 0

    @property
    def width(self) -> int:
        """The numbers of a row of its output."""
        return self.subrows * self.n_out

    @property
    def title(self) -> str:
        """Its name in pictures and tables, where an operation of a layer of several has its part's."""
        return f"{self.name}.{self.part}" if self.part else self.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names by which an optimiser knows it: its own, those of the layers around it, and its kind."""
        kind = type(self.layer).__name__ if self.kind.piece is None else self.kind.piece.name
        return self.name, *self.within, kind

    @property
    def is_dense(self) -> bool:
        """Whether it is a product with a matrix of weights."""
        return self.kind.name == "dense"

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """The hyperparameters of its formula; None for the dtype's machine epsilon."""
        names = self.kind.row.numbers if self.kind.row is not None else ()
        if isinstance(self.kind.piece, Layer):
            return tuple(self.kind.piece.numbers[name] for name in names)
        return tuple(getattr(self.layer, name) for name in names)

    @property
    def in_run(self) -> bool:
        """Whether it belongs to a run."""
        return self.run is not None or (self.joined and not self.is_dense)

    @property
    def trains_bias(self) -> bool:
        """Whether its biases are trained, and not held at 0."""
        return not isinstance(self.layer, Dense) or self.layer.bias

    @property
    def needs_output(self) -> bool:
        """Whether its backward pass reads its output."""
        if self.run is not None:  # which begins again with what the product has given
            return False
        return self.kind.name == "activation" or self.activation != "identity" or self.is_block

    @property
    def is_block(self) -> bool:
        """Whether it makes units of a block of inputs."""
        return isinstance(self.layer, Embedding)

    @property
    def columns(self) -> int:
        """The columns of a block of inputs that it makes units of, each by itself; 0 of other operations."""
        return self.n_in // self.layer.n_in if isinstance(self.layer, Embedding) else 0

    @property
    def by_column(self) -> bool:
        """Whether the units of each column of a block lie together, (columns, rows, units)."""
        return isinstance(self.layer, Embedding) and self.layer.linear_units is not None

    @property
    def tables(self) -> tuple[tuple[int, int], ...]:
        """The levels of each column of codes, and the units of each level; none of other operations."""
        return self.layer.tables if isinstance(self.layer, Embedding) else ()

    def moves_touched(self, rule: StepRule) -> bool:
        """Whether a step by a rule moves only those rows of its tables that the batch has."""
        return bool(self.tables) and (rule.touched_only or getattr(self.layer, "sparse", False))

    @property
    def kept_units(self) -> int:
        """The numbers of a row at `kept`."""
        if isinstance(self.layer, Embedding):
            shapes = self.layer.arrays(self.columns)
            return math.prod(shapes[self.layer.keeps]) if self.layer.keeps else 0
        return self.subrows * self.kind.kept or (self.n_in if self.is_dense and self.adds[0] else 0)


class Table(NamedTuple):
    """The rows of units of one column of categories: of what is missing, and of each level.

    start : its place in the flat vector; width : of a row; unit : the first unit that it gives
    mark : its first row among those of all tables
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
    """Return how often some inputs (rows, n_in) have each row of all tables, (rows of all tables,)."""
    found = []
    for one in operations:
        first = operations[one.sources[0]].column
        for (levels, _), column in zip(one.tables, inputs[:, first : first + one.n_in].T, strict=False):
            rows = column[(column >= -1) & (column < levels)].astype(np.int64) + 1
            found.append(np.bincount(rows, minlength=levels + 1))
    return np.concatenate(found).astype(np.int32)
