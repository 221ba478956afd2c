"""Networks and optimisers as JSON values, and back, for files and requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, cast

import numpy as np

from fastmlp.formulas.expressions import Expression, expression_of
from fastmlp.model import component as components
from fastmlp.model.activations import Activation
from fastmlp.model.component import LAYERS, Component, Layer
from fastmlp.model.heads import Head
from fastmlp.model.initializers import INITIALIZERS
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.layers import Residual
from fastmlp.model.loss import BuiltInLoss, Loss, RowLoss
from fastmlp.model.losses import LOSS_CLASSES
from fastmlp.model.network import Network
from fastmlp.model.optimizer import Group, Rule
from fastmlp.model.optimizers import OPTIMIZERS
from fastmlp.model.schedules import ByFunction

TYPES: dict[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (Network, *INITIALIZERS, Head, Group, *OPTIMIZERS, *LOSS_CLASSES)},
    **BLOCKS,
    **LAYERS,
    "Residual": lambda layers, name: Residual(*layers, name=name),
}
"""The constructors of `restored`, by the type names in descriptions."""

COMPONENTS: dict[str, type[Component]] = {
    kind.__name__: kind for kind in (Activation, Layer, Loss, RowLoss, Rule)
}


def identified(component: Component) -> dict[str, Any]:
    """Return the name and the digest of a custom component, for comparison with the component itself."""
    return {"component": component.name, "digest": component.digest}


def described(value: object, of_component: Callable[[Component], Any] = identified) -> Any:
    """Return a frozen description (a network, an optimiser, a field) as JSON values.

    of_component : describes a custom component; in a file by name and digest, since a file holds no code. A
        function for a rate is described by a digest.
    """
    if isinstance(value, Component) and not isinstance(value, BuiltInLoss):
        return of_component(value)
    if callable(value):
        return {"function": ByFunction(value).digest}
    if is_dataclass(value):
        named = (
            value.facts
            if isinstance(value, Network)
            else {field.name: getattr(value, field.name) for field in fields(value)}
        )
        parts = {name: described(part, of_component) for name, part in named.items()}
        return {"type": type(value).__name__, **parts}
    match value:
        case None | str():
            return value
        case Expression():
            return {"nodes": value.nodes()}
        case bool() | np.bool_():
            return bool(value)
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case tuple():
            return [described(one, of_component) for one in value]
        case dict():
            return {"named": [[name, described(one, of_component)] for name, one in value.items()]}
    raise AssertionError(value)


def with_formulas(value: object) -> Any:
    """Return `described` with the formulas of custom components, for another process."""
    return described(value, _formulas)


def restored(description: Any, of_component: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the object of a description.

    of_component : gives the component of a component's description; None for descriptions `with_formulas`

    Raises
    ------
    ValueError, TypeError, KeyError, AttributeError
        If the description is invalid.
    """
    match description:
        case {"component": _}:
            return (of_component or _of_formulas)(description)
        case {"named": named}:  # a list, since files sort the keys of objects
            return {name: restored(one, of_component) for name, one in named}
        case {"nodes": nodes}:
            return expression_of(nodes)
        case dict():
            kind = TYPES[description["type"]]
            return kind(**{k: restored(v, of_component) for k, v in description.items() if k != "type"})
        case list():
            return tuple(restored(one, of_component) for one in description)
    return description


def _formulas(component: Component) -> dict[str, Any]:
    kind, *parts = cast(tuple[Any, ...], component.__reduce__())[1]
    return {"component": kind.__name__, "parts": [with_formulas(part) for part in parts]}


def _of_formulas(description: dict[str, Any]) -> Any:
    return components.restored(COMPONENTS[description["component"]], *map(restored, description["parts"]))
