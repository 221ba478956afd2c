"""Layers of a user's own: a function of a row and of trained parameters, which `Activation` may have, too."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.expressions import NUMBER, ONES, Expression, is_row, total, variable
from fastmlp.formulas.rows import RowFormula
from fastmlp.formulas.tracing import trace
from fastmlp.model.initializers import INITIALIZERS, Normal, Uniform
from fastmlp.model.pieces import NAME, Piece, one_number, restored

Array = NDArray[Any]

SHAPES = {"units": "unit", "layer": NUMBER}
"""What the names of a parameter's variables begin with, by its shape."""


class Parameter(NamedTuple):
    """A trained parameter of a user's layer or activation.

    shape : "units", one number for each unit, or "layer", one for all
    initial : what it is drawn by, or its first value
    """

    name: str
    shape: str
    initial: Normal | Uniform | float

    @property
    def variable(self) -> str:
        """Its variable in expressions."""
        return f"{SHAPES[self.shape]}_{self.name}"

    def length(self, units: int) -> int:
        """Return how many numbers it has."""
        return units if self.shape == "units" else 1

    def drawn(self, numbers: int, rng: np.random.Generator) -> Array:
        """Return first values (numbers,) float64."""
        if isinstance(self.initial, float):
            return np.full(numbers, self.initial)
        return self.initial.draw((numbers,), rng)


def checked_parameters(what: str, given: Mapping[str, Any] | None) -> tuple[Parameter, ...]:
    """Return parameters as a user gives them, in their order; ValueError or TypeError in one line."""
    found = []
    given = {} if given is None else given
    checks.instance(f"parameters of {what}", given, Mapping, "a dict of names, shapes and first values")
    for name, one in given.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or keyword.iskeyword(name):
            raise ValueError(f"a parameter of {what} must be named as in Python, got {checks.shown(name)}")
        if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 2:
            raise TypeError(
                f"parameter {name!r} of {what} must be a shape and what it is drawn by, as "
                f'("units", Normal(0.1)), got {checks.shown(one)}'
            )
        shape = checks.choice(f"shape of parameter {name!r}", one[0], tuple(SHAPES))
        initial = one[1]
        if type(initial) not in INITIALIZERS:
            initial = checks.real(f"the first value of parameter {name!r}", initial)
        found.append(Parameter(checks.plain(name), shape, initial))
    return tuple(found)


def traced(
    what: str, function: Callable[..., Any], parameters: Sequence[Parameter]
) -> tuple[Expression, ...]:
    """Return what a function computes of a row z and its parameters, which it gets by name."""
    named = {one.name: variable(one.variable) for one in parameters}
    values = trace(what, functools.partial(function, **named) if named else function, variable("z"))
    known = values[0].names() if len(values) == 1 else {"z", *(one.variable for one in parameters)}
    if "z" not in known:
        raise ValueError(f"{what} must depend on its argument")
    if unused := [one.name for one in parameters if one.variable not in known]:
        raise ValueError(f"{what} does not use its parameter {unused[0]!r}")
    return values


def derivatives(value: Expression, parameters: Sequence[Parameter]) -> dict[str, Expression]:
    """Return the derivatives of a loss, given `delta`, that by a row's outputs: by z and each parameter.

    Those by z and by a parameter of units are rows, one by a parameter of the layer is a number.
    """
    along = total(times(variable("delta"), value))
    return {name: gradient(along, name) for name in ("z", *(one.variable for one in parameters))}


def row_formula(piece: Any) -> RowFormula:
    """Return the formula of a `Layer`, or of an activation with parameters, as programs are written from it."""
    return RowFormula(piece.value, ("z", *(one.variable for one in piece.parameters)))


def parts_of(parameters: Sequence[Parameter], flat: Array, units: int) -> dict[Parameter, Array]:
    """Return the numbers of each parameter, (units,) or (1,), as views of a flat vector."""
    ends = list(accumulate(one.length(units) for one in parameters))
    return {one: flat[end - one.length(units) : end] for one, end in zip(parameters, ends, strict=True)}


class Layer(Piece):
    """A layer of a user's own: a function of a row, with parameters that are trained.

    Parameters
    ----------
    name : str
        Letters, digits and _.
    function : callable
        function(x) or function(x, w=..): the outputs of a row x, as many as it has, in NumPy's words
        (see `Activation`). `np.sum`, `np.mean`, `np.max` and `np.linalg.norm` go over the row; parameters
        are passed by name.
    parameters : dict of str to (str, initial), optional
        By name a shape, "units" (one number for each unit) or "layer" (one number), and what it is drawn by:
        a `Normal`, a `Uniform`, or a number.

    Notes
    -----
    It stands among the layers of a `Network`; `Activate(layer, name="low")` gives it a name there. Its
    derivatives are derived from the function. On a model its arrays stand in `layers`, (units,) or (1,).

    Raises
    ------
    ValueError, TypeError
        If the function cannot be traced, in one line that names its line, or gives no number for each unit.

    Attributes
    ----------
    value : expression
        The output of a unit, of the row z and the parameters' variables.
    parameters : tuple of `Parameter`
        In the order in which they lie in the flat vector.
    derivatives : dict of str to expression
        See `derivatives`.
    """

    value: Expression
    parameters: tuple[Parameter, ...]
    derivatives: dict[str, Expression]

    def __init__(
        self, name: str, function: Callable[..., Any], parameters: Mapping[str, Any] | None = None
    ) -> None:
        what = f"the layer {checks.shown(name)}"
        own = checked_parameters(what, parameters)
        value = one_number(what, traced(what, function, own))
        if not is_row(value):
            raise ValueError(f"{what} must return a number for each unit of the row, got one for all")
        self._set(name, value, own)

    def _set(self, name: str, value: Expression, parameters: Sequence[Any]) -> None:
        self.parameters = tuple(Parameter(*one) for one in parameters)
        names = tuple(one.name for one in self.parameters)
        self._identify(name, (), value, form=names, data=self.parameters)
        self.value, self.derivatives = value, derivatives(value, self.parameters)

    @functools.cached_property
    def code(self) -> RowFormula:
        """The formula as programs are written from it."""
        return row_formula(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.value, self.parameters)


def on_array(piece: Any, x: Array, flat: Array) -> Array:
    """Return the outputs of a `Layer`, or an activation with parameters, of rows x (rows, units)."""
    return np.broadcast_to(piece.value.on_arrays(x.dtype, variables(piece, x, flat)), x.shape)


def backward_on_array(piece: Any, x: Array, flat: Array, delta: Array) -> tuple[Array, Array]:
    """Return the derivatives by x (rows, units) and by the parameters (n,), given delta (rows, units)."""
    given = {**variables(piece, x, flat), "delta": delta}
    by = {name: one.on_arrays(x.dtype, given) for name, one in piece.derivatives.items()}
    sums = np.empty_like(flat)
    for one, part in parts_of(piece.parameters, sums, x.shape[1]).items():
        part[...] = np.broadcast_to(by[one.variable], (len(x), len(part))).sum(axis=0)
    return np.broadcast_to(by["z"], x.shape), sums


def variables(piece: Any, x: Array, flat: Array) -> dict[str, Array]:
    """Return the arrays that a piece's expressions take, by the names of their variables."""
    parts = parts_of(piece.parameters, flat, x.shape[1])
    own = {one.variable: part for one, part in parts.items()}
    return {"z": x, ONES: np.ones((1, x.shape[1]), x.dtype), **own}
