"""The base of layers, and the registry: other facts derive from a layer's class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

from fastmlp import checks
from fastmlp.model.custom import Counterparts, Parameter, RowFunction, traced

Formula = Callable[..., Any]
Class = TypeVar("Class", bound=type[Any])

MOST_UNITS = 2**31

LAYERS: dict[str, type[Part]] = {}
"""All public layers, by class name."""


class Part(checks.CheckedFields):
    """A part of a network. `Add`, `Multiply` and `Concatenate` read a part by name.

    The decorator `layer` sets the class attributes.
    """

    kind: ClassVar[str] = ""
    counterparts: ClassVar[Counterparts] = {}
    formula: ClassVar[Formula | None] = None
    parameters: ClassVar[Mapping[str, tuple[str, Any]]] = {}
    state: ClassVar[tuple[str, ...]] = ()
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
    """Return the traced formula of a layer's class, or None."""
    if made.formula is None:
        return None
    taken, parameters = [*inspect.signature(made.formula).parameters][1:], parameters_of(made)
    others = {"other", *(one.name for one in parameters)}
    numbers = tuple(name for name in taken if name not in others)
    rows = ("other",) if "other" in taken else ()
    (value,) = traced(made.__name__, made.formula, parameters, numbers, rows)
    return RowFunction(value, parameters, numbers, ("z", *rows))
