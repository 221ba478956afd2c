"""Components with names and formulas, kinds of operations, and layers: of the package and of users.

A layer's formula is a function of a row in NumPy's words, traced to an expression; derivatives and code
follow. `layer` makes the kind of a built-in layer, and a user's `Layer` is a kind itself.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.expressions import NUMBER, ONES, Expression, is_row, of_one_unit, total, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.initializers import INITIALIZERS, Normal, Uniform

if TYPE_CHECKING:
    from fastmlp.formulas.derivatives import RowFormula

Array = NDArray[Any]
Formula = Callable[..., Any]
Class = TypeVar("Class", bound=type[Any])

INPUTS = -1
"""The source "rows of X", for the first operation, or for the copies of blocks of inputs."""

MOST_UNITS = 2**31

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
    digest: str = ""
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


class Kind(Component):
    """A kind of operation; with a formula an operation on rows.

    Parameters
    ----------
    name : str
        The name of the kind, of unnamed layers, and of the machine code.
    formula : callable, optional
        formula(x, ..), as of `layer`.
    parameters : sequence of `Parameter`
        The trained parameters, in the order of the flat vector, with shape BIAS last.
    state : tuple of str
        The state of each unit: numbers without optimiser steps, as a running mean and variance.

    Attributes
    ----------
    sources : the variables of rows
    numbers : names of hyperparameters
    """

    sources: tuple[str, ...] = ("z",)
    numbers: Any = ()
    parameters: tuple[Parameter, ...] = ()
    state: tuple[str, ...] = ()
    formula: Formula | None = None

    def __init__(
        self,
        name: str,
        formula: Formula | None = None,
        parameters: Sequence[Parameter] = (),
        state: tuple[str, ...] = (),
    ) -> None:
        self.name = self.key = name
        self.formula, self.parameters, self.state = formula, tuple(parameters), state
        taken = [*inspect.signature(formula).parameters][1:] if formula is not None else []
        if "other" in taken:
            self.sources = ("z", "other")
        self.numbers = tuple(one for one in taken if one not in {"other", *(one.name for one in parameters)})

    @functools.cached_property
    def value(self) -> Any:
        """The output of a unit, from variables of rows, parameters and numbers; None without a formula."""
        if self.formula is None:
            return None
        (value,) = traced(self.name, self.formula, self.parameters, self.numbers, self.sources[1:])
        return value

    @functools.cached_property
    def code(self) -> RowFormula:
        """The formula for code generation."""
        from fastmlp.formulas.derivatives import RowFormula

        return RowFormula(self.value, (*self.sources, *(one.variable for one in self.weights)))

    @property
    def weights(self) -> tuple[Parameter, ...]:
        """The parameters without biases."""
        return tuple(one for one in self.parameters if one.shape != BIAS)

    @functools.cached_property
    def saved(self) -> int:
        """The count of numbers of a row saved for backward."""
        return 0 if self.value is None else len(self.code.saved)

    @functools.cached_property
    def is_unitwise(self) -> bool:
        """True for an elementwise operation with at most a single weight and bias for each unit."""
        if self.value is None:
            return self.key == "activation"
        by_unit = len(self.weights) <= 1 and all(one.by_unit for one in self.parameters)
        return by_unit and len(self.sources) == 1 and self.code.is_unitwise

    def lengths(self, units: int) -> tuple[int, int]:
        """Return the counts of weights and of biases for a row of so many units."""
        numbers = [0, 0]
        for one in self.parameters:
            numbers[one.shape == BIAS] += one.length(units)
        return numbers[0], numbers[1]

    def numbers_of(self, layer: Any) -> tuple[float | None, ...]:
        """Return the hyperparameters of a layer; None for the dtype's machine epsilon."""
        return tuple(getattr(layer, name) for name in self.numbers)


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
    what: str, function: Formula, parameters: Sequence[Parameter] = (), numbers: Iterable[str] = (),
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


class Layer(Kind):
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
        names = tuple(one.name for one in self.parameters)
        self._identify(name, (), value, form=(names, *numbers), data=(self.parameters, self.numbers))
        self.value, self.derivatives = value, derivatives(value, self.parameters)

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.value, self.parameters, self.numbers)

    def numbers_of(self, layer: Any) -> tuple[float | None, ...]:
        """Return the hyperparameters, of any layer with the function."""
        return tuple(self.numbers.values())

    def on_array(self, x: Array, flat: Array) -> Array:
        """Return the outputs for rows x (rows, units) and parameters (n,)."""
        return np.broadcast_to(self.value.on_arrays(x.dtype, self.variables(x, flat)), x.shape)

    def backward_on_array(self, x: Array, flat: Array, delta: Array) -> tuple[Array, Array]:
        """Return the derivatives by x (rows, units) and by the parameters (n,), given delta (rows, units)."""
        given = {**self.variables(x, flat), "delta": delta}
        by = {name: one.on_arrays(x.dtype, given) for name, one in self.derivatives.items()}
        sums = np.empty_like(flat)
        for one, part in parts_of(self.parameters, sums, x.shape[1]).items():
            part[...] = np.broadcast_to(by[one.variable], (len(x), len(part))).sum(axis=0)
        return np.broadcast_to(by["z"], x.shape), sums

    def variables(self, x: Array, flat: Array) -> dict[str, Any]:
        """Return the arrays for the expressions, by the names of variables."""
        parts = parts_of(self.parameters, flat, x.shape[1])
        given = {one.variable: part for one, part in parts.items()}
        given |= {number_variable(name): number for name, number in self.numbers.items()}
        return {"z": x, ONES: np.ones((1, x.shape[1]), x.dtype), **given}


# --- layers of the package -------------------------------------------------------------------------------


LAYERS: dict[str, type[Part]] = {}
"""All public layers, by class name."""


class Part(checks.CheckedFields):
    """A part of a network. `Add`, `Multiply` and `Concatenate` read a part by name.

    The decorator `layer` sets the class attributes.
    """

    kind: ClassVar[Kind]
    counterparts: ClassVar[Counterparts] = {}
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None and not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ValueError(f"a layer's name must be a word like 'low', got {checks.shown(self.name)}")
        if self.name in LAYERS:
            raise ValueError(f"a layer's name must not be that of a kind of layers, got {self.name!r}")

    def __repr__(self) -> str:
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        pairs = [(field, getattr(self, field.name)) for field in known]
        given = [f"{field.name}={value!r}" for field, value in pairs if value != field.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def _set(self, **values: object) -> None:
        for field, value in values.items():
            object.__setattr__(self, field, value)

    def lower(self, builder: Any, source: int) -> int:
        """Append the layer's operations to a `Builder`, after a source; return that of the output."""
        return builder.append_row(self.kind, (source,), self)

    def unpenalised(self) -> Self:
        """Return the layer without penalties for weights."""
        return self


@dataclass_transform(frozen_default=True)
def layer(
    kind: str,
    formula: Formula | None = None,
    state: tuple[str, ...] = (),
    public: bool = True,
    counterparts: Counterparts | None = None,
    **parameters: tuple[str, Any],
) -> Callable[[Class], Class]:
    """Return a decorator for a layer's class: a frozen dataclass, in the registry.

    Parameters
    ----------
    kind : str
        The name of the operation, and of unnamed layers; "" for a layer at the end of another operation.
    formula : callable, optional
        formula(x, ..), the outputs of a row x in NumPy's words, as of `Layer`; derivatives and code are
        derived. Other arguments, by name, are `other` (a second row), trained parameters, and
        hyperparameters: fields of the class with numbers. A hyperparameter of None is the dtype's machine
        epsilon.
    state : tuple of str
        State of each unit: moved by steps, not trained. A "variance" begins at 1, other states at 0.
    public : bool
        True if users may name the class.
    counterparts : Counterparts, optional
        The layer's names in "torch", "onnx" and "keras"; a format without a name gets the formula.
    **parameters : tuple of (str, object)
        The shape of each trained parameter, and a first value or the name of the field with the first value:
        "units" (a number for each unit), "layer" (a single number), or "bias" (a number for each unit, added
        to the output).
    """

    def decorate(made: Class) -> Class:
        trained = [Parameter(name, *given) for name, given in parameters.items()]
        made.kind, made.counterparts = Kind(kind, formula, trained, state), counterparts or {}
        frozen: Any = dataclass(frozen=True, repr=False)(made)
        if public:
            LAYERS[frozen.__name__] = frozen
        return frozen

    return decorate
