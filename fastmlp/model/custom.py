"""Custom components: their base, trained parameters, and custom layers.

The base is for activations, layers, losses and rules: a name, and a digest of formulas. A custom layer is a
traced function of a row, with trained parameters; `Activation` may have parameters, too.
"""

from __future__ import annotations

import functools
import hashlib
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.expressions import NUMBER, ONES, Expression, is_row, of_one_unit, total, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.initializers import INITIALIZERS, Normal, Uniform

if TYPE_CHECKING:
    from fastmlp.formulas.derivatives import RowFormula


NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

Counterpart = str | tuple[str, dict[str, Any]]
"""A name in another program, perhaps with options for an equal definition."""

Counterparts = Mapping[str, Counterpart]
"""The names in "torch" (a class of torch.nn), "onnx" (an operator) and "keras" (a layer)."""


class Component:
    """A named component of a network or an optimiser; equal names and digests mean equal components.

    name : for files and errors
    digest : of a custom component's formulas, and of constant data (not a loss's parameter or a rule's
        defaults if given anew); "" for a built-in component, identified by name
    key : of the formulas alone, for machine code
    """

    name: str
    digest: str
    key: str

    def _identify(
        self, name: object, taken: Any, *formulas: Expression, form: Any = (), data: Any = ()
    ) -> None:
        """Set name, digest and key of a custom component; ValueError for a bad name or a built-in name.

        form : affects the machine code besides the formulas; data : the run-time arguments
        """
        what = type(self).__name__
        if not type(self).__module__.startswith("fastmlp."):
            parent = type(self).__mro__[1].__name__
            raise TypeError(f"{what} is a subclass of {parent}, and would compute as its parent")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"a name of {what} must be letters, digits and _, got {checks.shown(name)}")
        name = checks.plain(name)
        if name in taken:
            raise ValueError(f"{name!r} is one of fastmlp's own; give the {what} another name")
        parts = [what, name, *(formula.digest for formula in formulas), repr(form)]
        self.name = name
        self.key = f"{name}.{_digest(parts)}"
        self.digest = _digest([*parts, repr(data)])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (other.name, other.digest) == (self.name, self.digest)

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def restored(kind: Any, *parts: Any) -> Any:
    """Return a component from expressions, without the user's function."""
    component = kind.__new__(kind)
    component._set(*parts)
    return component


def of_one_element(what: str, expression: Expression) -> Expression:
    """Return the expression for a single unit; ValueError for sums over a row."""
    found: set[str] = set()
    expression.fold(lambda node, _: found.add(node.operation))
    if any(OPERATIONS[one].reduces for one in found & OPERATIONS.keys()):
        raise ValueError(
            f"{what} goes over a row, as np.sum, np.mean and np.max do, which only a RowLoss or a Layer may"
        )
    return of_one_unit(expression)


def one_number(what: str, expressions: tuple[Expression, ...]) -> Expression:
    """Return the single expression of a traced function; ValueError unless a number."""
    if len(expressions) != 1 or expressions[0].truth:
        got = "a truth value" if len(expressions) == 1 else f"{len(expressions)} values"
        raise ValueError(f"{what} must return one number, got {got}")
    return expressions[0]


Array = NDArray[Any]

SHAPES = {"units": "unit", "layer": NUMBER}
"""Prefixes of a parameter's variables, by shape."""

BIAS = "bias"
"""The shape of a built-in layer's parameter added to each unit, with the rates of biases."""


MOST_NUMBERS = 4
"""The most hyperparameters of a layer: the size of a field in a program's record of an operation."""

EMPTY: Mapping[str, float] = MappingProxyType({})


class Parameter(NamedTuple):
    """A trained parameter of a layer or an activation.

    shape : "units", a number for each unit, "layer", a number for all units, or BIAS
    initial : an initialiser, a first value, or the name of the layer's field with a first value
    """

    name: str
    shape: str
    initial: Normal | Uniform | float | str

    @property
    def variable(self) -> str:
        """The parameter's variable in expressions."""
        return f"{SHAPES.get(self.shape, SHAPES['units'])}_{self.name}"

    @property
    def by_unit(self) -> bool:
        """True if each unit has a number."""
        return self.shape != "layer"

    def length(self, units: int) -> int:
        """Return the count of numbers for so many units."""
        return units if self.by_unit else 1

    def drawn(self, numbers: int, rng: np.random.Generator, layer: Any = None) -> Array:
        """Return first values (numbers,) float64; layer : perhaps with the field of first values."""
        initial = getattr(layer, self.initial) if isinstance(self.initial, str) else self.initial
        if isinstance(initial, float):
            return np.full(numbers, initial)
        return initial.draw((numbers,), rng)


class RowFunction:
    """A function of a row, or of two rows: the formula of an operation without a product.

    value : the output of a unit, from the rows `z` and `other` and the variables of parameters and
        hyperparameters
    parameters : in the order of the flat vector, with shape BIAS last
    numbers : names of hyperparameters
    sources : the variables of rows
    """

    def __init__(
        self,
        value: Expression,
        parameters: tuple[Parameter, ...],
        numbers: tuple[str, ...] = (),
        sources: tuple[str, ...] = ("z",),
    ) -> None:
        self.value, self.parameters, self.numbers, self.sources = value, parameters, numbers, sources

    @property
    def weights(self) -> tuple[Parameter, ...]:
        """The parameters without biases."""
        return tuple(one for one in self.parameters if one.shape != BIAS)

    @functools.cached_property
    def code(self) -> RowFormula:
        """The formula for code generation."""
        from fastmlp.formulas.derivatives import RowFormula

        return RowFormula(self.value, (*self.sources, *(one.variable for one in self.weights)))

    @property
    def is_unitwise(self) -> bool:
        """True for elementwise functions with at most a single weight and bias for each unit."""
        by_unit = len(self.weights) <= 1 and all(one.by_unit for one in self.parameters)
        return by_unit and len(self.sources) == 1 and self.code.is_unitwise


def number_variable(name: str) -> str:
    """Return the variable of a hyperparameter in expressions."""
    return f"{NUMBER}_{name}"


def checked_parameters(what: str, given: Mapping[str, Any] | None) -> tuple[Parameter, ...]:
    """Return a user's parameters, in their order; ValueError or TypeError in a line."""
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


def checked_numbers(
    noun: str, what: str, given: Mapping[str, float] | None, most: int, is_taken: Callable[[str], bool]
) -> dict[str, float]:
    """Return a user's hyperparameters by name; ValueError or TypeError in a line."""
    checks.instance(f"{noun}s of {what}", given or {}, Mapping, "a dict of names and numbers")
    found = {}
    for name, number in (given or {}).items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or is_taken(name):
            raise ValueError(f"a {noun} of {what} must have a name of its own, got {checks.shown(name)}")
        found[checks.plain(name)] = checks.real(f"{name} of {what}", number)
    if len(found) > most:
        raise ValueError(f"{what} may have {most} {noun}s, got {len(found)}")
    return found


def traced(
    what: str, function: Callable[..., Any], parameters: Sequence[Parameter], numbers: Iterable[str] = (),
    rows: Sequence[str] = (), by_element: bool = False,
) -> tuple[Expression, ...]:  # fmt: skip
    """Return the expressions of a function of a row z, and by name of parameters, numbers and other rows.

    by_element : True for a function of each element, which may not read its row
    """
    from fastmlp.formulas.expressions import trace

    named = {one.name: variable(one.variable) for one in parameters}
    named |= {row: variable(row) for row in rows}
    named |= {name: variable(number_variable(name)) for name in numbers}
    values = trace(what, functools.partial(function, **named) if named else function, variable("z"))
    if by_element:
        values = tuple(of_one_element(what, value) for value in values)
    known = values[0].names() if len(values) == 1 else {"z", *(one.variable for one in parameters)}
    if "z" not in known:
        raise ValueError(f"{what} must depend on its argument")
    if unused := [one.name for one in parameters if one.variable not in known]:
        raise ValueError(f"{what} does not use its parameter {unused[0]!r}")
    return values


def derivatives(value: Expression, parameters: Sequence[Parameter]) -> dict[str, Expression]:
    """Return a loss's derivatives by z and each parameter, given `delta`, the derivative by the outputs.

    The derivatives by z and by parameters of units are rows; by a parameter of the layer a number.
    """
    along = total(times(variable("delta"), value))
    return {name: gradient(along, name) for name in ("z", *(one.variable for one in parameters))}


def parts_of(parameters: Sequence[Parameter], flat: Array, units: int) -> dict[Parameter, Array]:
    """Return the numbers of each parameter, (units,) or (1,), as views of a flat vector."""
    ends = list(accumulate(one.length(units) for one in parameters))
    return {one: flat[end - one.length(units) : end] for one, end in zip(parameters, ends, strict=True)}


class Layer(Component):
    """A custom layer: a function of a row, with trained parameters.

    Parameters
    ----------
    name : str
        Letters, digits and _.
    function : callable
        function(x) or function(x, w=..): the outputs of a row x, as many as inputs, in NumPy's words (see
        `Activation`). `np.sum`, `np.mean`, `np.max` and `np.linalg.norm` go over the row; parameters are
        passed by name.
    parameters : dict of str to (str, initial), optional
        By name a shape, "units" (a number for each unit) or "layer" (a single number), and an initial value:
        a `Normal`, a `Uniform`, or a number.
    numbers : dict of str to float, optional
        Hyperparameters by name, as an epsilon or a slope: passed to the function by name and not trained.
        Layers with different numbers share machine code.

    Notes
    -----
    A custom layer stands among the layers of a `Network`; `Activate(layer, name="low")` names the layer.
    Derivatives are derived from the function. A model has the arrays in `layers`, (units,) or (1,).

    Raises
    ------
    ValueError, TypeError
        If the function cannot be traced, in a line with the function's file and line, or gives no number for
        each unit.

    Attributes
    ----------
    value : expression
        The output of a unit, from the row z and the parameters' variables.
    parameters : tuple of `Parameter`
        In the order of the flat vector.
    numbers : dict of str to float
    derivatives : dict of str to expression
        See `derivatives`.
    """

    value: Expression
    parameters: tuple[Parameter, ...]
    numbers: dict[str, float]
    derivatives: dict[str, Expression]

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        parameters: Mapping[str, Any] | None = None,
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        what = f"the layer {checks.shown(name)}"
        checked = checked_parameters(what, parameters)
        taken = {*keyword.kwlist, *(one.name for one in checked)}
        constants = checked_numbers("number", what, numbers, MOST_NUMBERS, taken.__contains__)
        value = one_number(what, traced(what, function, checked, constants))
        if not is_row(value):
            raise ValueError(f"{what} must return a number for each unit of the row, got one for all")
        self._set(name, value, checked, constants)

    def _set(
        self, name: str, value: Expression, parameters: Sequence[Any], numbers: Mapping[str, float] = EMPTY
    ) -> None:
        self.parameters = tuple(Parameter(*one) for one in parameters)
        self.numbers = dict(numbers)
        names, data = tuple(one.name for one in self.parameters), self.parameters
        form: Any = (names, *numbers) if numbers else names
        self._identify(name, (), value, form=form, data=(data, self.numbers) if numbers else data)
        self.value, self.derivatives = value, derivatives(value, self.parameters)

    @functools.cached_property
    def row(self) -> RowFunction:
        """The function in the form of an operation."""
        return RowFunction(self.value, self.parameters, (*self.numbers,))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.parameters, self.numbers) if self.numbers else (self.parameters,)
        return restored, (type(self), self.name, self.value, *parts)


def on_array(component: Any, x: Array, flat: Array) -> Array:
    """Return the outputs for rows x (rows, units), of a `Layer` or an activation with parameters."""
    return np.broadcast_to(component.value.on_arrays(x.dtype, variables(component, x, flat)), x.shape)


def backward_on_array(component: Any, x: Array, flat: Array, delta: Array) -> tuple[Array, Array]:
    """Return the derivatives by x (rows, units) and by the parameters (n,), given delta (rows, units)."""
    given = {**variables(component, x, flat), "delta": delta}
    by = {name: one.on_arrays(x.dtype, given) for name, one in component.derivatives.items()}
    sums = np.empty_like(flat)
    for one, part in parts_of(component.parameters, sums, x.shape[1]).items():
        part[...] = np.broadcast_to(by[one.variable], (len(x), len(part))).sum(axis=0)
    return np.broadcast_to(by["z"], x.shape), sums


def variables(component: Any, x: Array, flat: Array) -> dict[str, Any]:
    """Return the arrays for a component's expressions, by the names of variables."""
    parts = parts_of(component.parameters, flat, x.shape[1])
    given = {one.variable: part for one, part in parts.items()}
    given |= {number_variable(name): number for name, number in getattr(component, "numbers", {}).items()}
    return {"z": x, ONES: np.ones((1, x.shape[1]), x.dtype), **given}
