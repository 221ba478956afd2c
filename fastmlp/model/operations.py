"""A network as a list of operations: the table of their kinds, and what the list says of each.

All else derives from this list: layout and workspace, compiled programs, the reference, exports. `lowering`
makes it of a network's layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastmlp.formulas import elementary
from fastmlp.formulas.numbers import where
from fastmlp.model.activations import Activation
from fastmlp.model.embeddings import EMBEDDINGS, Embedding, Grouped
from fastmlp.model.layers import Dense, Part
from fastmlp.model.own_layers import Layer

Formula = Callable[..., Any]


class Kind(NamedTuple):
    """A kind of operation.

    name : of the kind, and of unnamed layers; the key of its machine code
    vectors : how many parameters it has for each unit: 0, a gain, or a gain and a shift. `dense` has a matrix
    state : how many numbers more for each unit, which no optimiser steps: a running mean and variance
    kept : numbers of a row that its backward pass needs besides its input and output
    formula : formula(x, gain), or formula(x, gain, shift), of one unit, on the numbers of `fastmlp.formulas`;
        None if it is not unitwise
    backward : backward(delta, x, gain), the derivatives of the loss by x and by the gain, of one unit
    piece : of `own`, a user's `Layer` or an `Activation` with parameters, which has all that in expressions
    """

    name: str
    vectors: int = 0
    kept: int = 0
    state: int = 0
    formula: Formula | None = None
    backward: Formula | None = None
    piece: Layer | Activation | None = None

    @property
    def label(self) -> str:
        """The name of unnamed layers, before their number."""
        return self.piece.name if self.piece is not None else self.name

    @property
    def key(self) -> str:
        """The name of the kind in machine code."""
        return self.piece.key if self.piece is not None else self.name

    def lengths(self, units: int) -> tuple[int, int]:
        """Return how many numbers its gain and its shift have; all parameters of a piece are its gain."""
        if self.piece is not None:
            return sum(one.length(units) for one in self.piece.parameters), 0
        return (self.vectors > 0) * units, (self.vectors > 1) * units


class UnitRun(NamedTuple):
    """Unitwise operations, one after another: see `Operation.run`. parts : their kinds, or activations"""

    parts: tuple[Kind | Activation, ...]

    @property
    def key(self) -> str:
        """The name of its machine code."""
        return "run of " + "+".join(part.key for part in self.parts)


def swish_backward(delta: Any, x: Any, beta: Any) -> tuple[Any, Any]:
    """The derivatives of x s, s = sigmoid(beta x): by x s + beta x s (1 - s), by beta x^2 s (1 - s)."""
    s = elementary.sigmoid(beta * x)
    slope = x * (s * (1.0 - s))
    return delta * (s + beta * slope), delta * (x * slope)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("dense"),
        Kind("copy"),
        Kind("activation"),
        Kind("layer_norm", vectors=2, kept=2),
        Kind("rms_norm", vectors=1, kept=1),
        Kind("batch_norm", vectors=2, state=2),
        Kind("fixed_norm", vectors=2, state=2),  # a batch norm in predictions
        Kind("scale", 1, 0, 0, lambda x, gain: x * gain, lambda delta, x, gain: (delta * gain, delta * x)),
        Kind(
            "prelu",
            1,
            0,
            0,
            lambda x, slope: where(x > 0.0, x, slope * x),
            lambda delta, x, slope: (where(x > 0.0, delta, delta * slope), where(x > 0.0, 0.0, delta * x)),
        ),
        Kind("members"),
        Kind(
            "scale_shift",
            2,
            0,
            0,
            lambda x, gain, shift: x * gain + shift,
            lambda delta, x, gain: (delta * gain, delta * x),
        ),
        Kind("swish", 1, 0, 0, lambda x, beta: x * elementary.sigmoid(beta * x), swish_backward),
        Kind("add"),
        Kind("concatenate"),
        *(Kind(one.kind) for one in EMBEDDINGS),
        Kind("categories"),
        Kind("own"),
    )
}
"""All kinds by name."""


def own_kind(given: str | Activation | Layer) -> Kind | None:
    """Return the kind of an operation that a user's layer is, or an activation with parameters, or None."""
    if isinstance(given, Layer) or (isinstance(given, Activation) and given.parameters):
        return KINDS["own"]._replace(piece=given, kept=len(given.code.kept))
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
    column : of those that read the inputs, the first column; of categories, their first one of all categories
    sparse_in : of a product, how many of its inputs, the last ones, are columns of X that may be sparse rows
    is_head : whether it gives the logits of a head
    members : of an operation on the rows of several networks, as a product that they share, how many: a row
        of its source is so many rows of n_in units, its own so many of n_out; each has a gain and a shift
    part : of such a layer the arrays that the operation has, "r", "s" or none
    by_group : whether the units of each column of a block lie together, (columns, rows, units)
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
    by_group: bool = False
    is_head: bool = False
    members: int = 1
    part: str = ""
    run: UnitRun | None = None
    joined: bool = False
    sums: int = 0

    @property
    def width(self) -> int:
        """The numbers of a row of its output."""
        return self.members * self.n_out

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
    def is_unitwise(self) -> bool:
        """Whether it takes each number of a row by itself, by a formula of its kind or an activation."""
        return self.kind.formula is not None or self.kind.name == "activation"

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
        return self.kind.name == "activation" or self.activation != "identity" or self.groups > 0

    @property
    def groups(self) -> int:
        """The columns of a block that it makes units of, each by itself; 0 of other operations."""
        if isinstance(self.layer, Grouped):
            return self.n_in // self.layer.inputs
        return self.n_in if isinstance(self.layer, Embedding) else 0

    @property
    def kept_units(self) -> int:
        """The numbers of a row at `kept`."""
        if isinstance(self.layer, Embedding):
            return self.layer.sizes(self.groups)[3]
        return self.members * self.kind.kept or (self.n_in if self.is_dense and self.adds[0] else 0)
