"""The base of layers, and their registry: what a layer's class says of it, all else derives from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

from fastmlp import checks
from fastmlp.model.own_layers import Parameter, RowFunction, function_of_a_row
from fastmlp.model.pieces import Counterparts

Formula = Callable[..., Any]
Class = TypeVar("Class", bound=type[Any])

MOST_UNITS = 2**31

LAYERS: dict[str, type[Part]] = {}
"""All layers that a user may name, by the names of their classes."""


class Part:
    """A part of a network. A part with a name is read by it in `Add`, `Multiply` and `Concatenate`.

    Class attributes are given to the decorator `layer`.
    """

    kind: ClassVar[str] = ""
    counterparts: ClassVar[Counterparts] = {}
    formula: ClassVar[Formula | None] = None
    parameters: ClassVar[Mapping[str, tuple[str, Any]]] = {}
    state: ClassVar[tuple[str, ...]] = ()
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            return
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ValueError(f"a layer's name must be a word like 'low', got {checks.shown(self.name)}")
        if self.name in LAYERS:
            raise ValueError(f"a layer's name must not be that of a kind of layers, got {self.name!r}")

    def __repr__(self) -> str:
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        own = [(field, getattr(self, field.name)) for field in known]
        given = [f"{field.name}={value!r}" for field, value in own if value != field.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def _set(self, **values: object) -> None:
        for field, value in values.items():
            object.__setattr__(self, field, value)


@dataclass_transform(frozen_default=True)
def layer(
    kind: str,
    formula: Formula | None = None,
    state: tuple[str, ...] = (),
    public: bool = True,
    counterparts: Counterparts | None = None,
    **parameters: tuple[str, Any],
) -> Callable[[Class], Class]:
    """Return a decorator that makes a layer of a class: a frozen dataclass that the registry has.

    Parameters
    ----------
    kind : str
        The name of its operation, and of unnamed layers; "" of a layer that ends another operation.
    formula : callable, optional
        formula(x, ..), the outputs of a row x in NumPy's words, as of `Layer`; derivatives and code are
        derived. Other arguments are by name `other` (a second row), trained parameters, and fields of the
        class that are numbers: hyperparameters. A hyperparameter that is None is the dtype's machine epsilon.
    state : tuple of str
        Numbers of each unit that steps move and no optimiser trains. A "variance" is 1 at first, others are
        0.
    public : bool
        Whether users may name it.
    counterparts : Counterparts, optional
        The layer's names in "torch", "onnx" and "keras"; a format without a name gets the formula.
    **parameters : tuple of (str, object)
        The shape of each trained parameter, and its first value or the name of the field with that: "units"
        (a number for each unit), "layer" (one number), or "bias" (a number for each unit, which is added to
        the output).
    """

    def decorate(made: Class) -> Class:
        made.kind, made.state, made.counterparts = kind, state, counterparts or {}
        if formula is not None:
            made.formula = staticmethod(formula)
        if parameters:
            made.parameters = parameters
        frozen: Any = dataclass(frozen=True, repr=False)(made)
        if public:
            LAYERS[frozen.__name__] = frozen
        return frozen

    return decorate


def parameters_of(made: type[Part]) -> tuple[Parameter, ...]:
    """Return the trained parameters of a layer's class, in the order of the flat vector."""
    return tuple(Parameter(name, *given) for name, given in made.parameters.items())


def row_function_of(made: type[Part]) -> RowFunction | None:
    """Return the formula of a layer's class, traced; None if it is no formula of a row."""
    if made.formula is None:
        return None
    taken, parameters = [*inspect.signature(made.formula).parameters][1:], parameters_of(made)
    others = {"other", *(one.name for one in parameters)}
    numbers = tuple(name for name in taken if name not in others)
    return function_of_a_row(made.__name__, made.formula, parameters, numbers, "other" in taken)
