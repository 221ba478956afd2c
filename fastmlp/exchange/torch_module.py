"""PyTorch: a network as a module, and a `torch.nn.Sequential` as a network."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.exchange.counterparts import (
    LAYER_OF,
    ImportedLayer,
    layer_step,
    native,
    native_of,
    parts_of,
    sample_layers,
)
from fastmlp.exchange.formulas import Z, formula, of_units
from fastmlp.exchange.steps import ExportStep, graph_of
from fastmlp.exchange.text import REDUCED
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model import layers
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.component import SHAPES, Layer, Part, restored
from fastmlp.model.gates import Concatenate, ScaleShift
from fastmlp.model.loss import Loss
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS
from fastmlp.trained.portable import Parts

Array = NDArray[Any]

LEAST = {"threshold": 20.0}
"""Options of read modules with a least value: PyTorch's default costs 2e-9."""

PASSED = ("Identity", "Flatten", "Dropout", "AlphaDropout")
"""Modules without an effect on a matrix (rows, units) when predicting; Flatten if rows stay."""

FIELDS = {"units": "out_features", "epsilon": "eps", "momentum": "momentum", "groups": "num_groups"}
"""Names in torch.nn of the fields of layers."""

SIZES = ("out_features", "normalized_shape", "num_features", "num_parameters", "num_channels")
"""Names in torch.nn of the units of a layer."""


def to_torch(network: Network, parameters: Array) -> Any:
    """Return a module with a copy of the parameters: a `torch.nn.Sequential` for a plain chain."""
    torch, graph = needed("torch", "torch", "to_torch"), graph_of(network, parameters, True, "torch")
    made: list[Any] = []
    read: list[tuple[int, ...]] = []
    shared: dict[tuple[str, ...], Any] = {}
    for step in graph.steps:
        names = tuple(step.arrays)  # members of a network share arrays, and with them the module
        one = shared[names] if names in shared else _module(torch, step)
        if names:
            shared[names] = one
        made.append(one)
        read.append(step.one.sources)
    if not graph.has_heads and read == [(index - 1,) for index in range(len(made))]:
        return torch.nn.Sequential(*made).eval()
    return _own().Graph(made, read, graph.outputs if graph.has_heads else None).eval()


def _module(torch: Any, step: ExportStep) -> Any:
    """Return the module of a step."""
    one, (name, options) = step.one, native_of(step, "torch")
    tensors = [torch.from_numpy(array.copy()) for array in step.arrays.values()]
    if one.kind.key == "copy":
        return torch.nn.Dropout(one.dropout)
    if one.kind.key in _own().STRUCTURES:
        return _own().STRUCTURES[one.kind.key](*tensors)
    if not name:
        named = dict(zip(step.variables[len(one.sources) :], tensors, strict=True))
        return _own().Formula(step.formula, named, step.fixed)
    kind = getattr(torch.nn, name)
    if not tensors:
        return kind(**options)
    known = dict.fromkeys(SIZES, one.n_out) | {"in_features": one.n_in, "bias": one.trains_bias}
    known |= {theirs: getattr(one.layer, ours) for ours, theirs in FIELDS.items() if hasattr(one.layer, ours)}
    known = {name: known[name] for name in inspect.signature(kind).parameters if name in known}
    made = kind(**known, **options, dtype=tensors[0].dtype)
    with torch.no_grad():
        for target, tensor in zip((*made.parameters(), *made.buffers()), tensors, strict=False):
            target.copy_(tensor.T if tensor.ndim == 2 else tensor)
    return made


def _own() -> Any:
    """Return the module `torch_formula`; the import needs PyTorch."""
    from fastmlp.exchange import torch_formula

    return torch_formula


def from_torch(given: Any, output: str | None, loss: str | Loss | None) -> Parts:
    """Return the network of a module: a Sequential of layers, activations, Dropout and Flatten, or a `Graph`.

    ValueError or TypeError in a line, for any other module.
    """
    torch = needed("torch", "torch", "Model.from_torch")
    if not isinstance(given, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {checks.shown(given)}")
    if isinstance(given, _own().Graph) and (given.heads or min(map(min, given.sources)) < INPUTS):
        raise ValueError("Model.from_torch takes one input and one output; the module has heads or blocks")
    found: list[ImportedLayer] = []
    indices = {INPUTS: INPUTS}
    for number, (name, one, sources) in enumerate(_leaves(torch, given, "")):
        others = [indices[source] for source in sources]
        if others and others[0] != len(found) - 1:
            raise ValueError(f"module {name!r} reads another module's output than that before it")
        if (layer := _layer(torch, name, one, *others[1:])) is not None:
            found.append(layer)
        indices[number] = len(found) - 1
    while found and isinstance(found[-1].layer, layers.Dropout):  # of the outputs
        found.pop()
    last: Any = found.pop().layer if found and isinstance(found[-1].layer, Expression) else variable(Z)
    return parts_of("the module", found, last, output, loss)


def _leaves(torch: Any, given: Any, name: str) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield the modules of a Sequential or a `Graph`, in order, with names and sources."""
    if isinstance(given, (torch.nn.Sequential, _own().Graph)):
        _torch_class(torch, name, given)
    if isinstance(given, _own().Graph):
        for child, (one, sources) in enumerate(zip(given.steps, given.sources, strict=True)):
            yield f"steps.{child}", one, sources
    elif isinstance(given, torch.nn.Sequential):
        for child, one in given._modules.items():  # with modules that stand there twice
            yield from _leaves(torch, one, f"{name}.{child}" if name else child)
    else:
        yield name, given, ()


def _layer(torch: Any, name: str, one: Any, other: int | None = None) -> ImportedLayer | None:
    """Return a module's layer, None for a module without effect; other : see `ImportedLayer`."""
    if any(tensor.is_meta or torch.nn.parameter.is_lazy(tensor) for tensor in one.parameters()):
        raise ValueError(f"module {name!r} has parameters without numbers")
    kind = _torch_class(torch, name, one)
    if isinstance(one, torch.nn.Dropout):
        return ImportedLayer(layers.Dropout(one.p)) if one.p else None
    if kind in PASSED:
        if kind == "Flatten" and one.start_dim != 1:
            raise ValueError(f"module {name!r}: {one} has no counterpart; a chain keeps its rows")
        return None
    if isinstance(one, _own().Concatenated):
        return ImportedLayer(Concatenate(""), other=other)
    for layer in LAYER_OF.values():
        native_name, _ = native(layer, "torch")
        if native_name and isinstance(one, getattr(torch.nn, native_name)):
            return ImportedLayer(_of_module(layer, one), _arrays(name, one))
    arrays = tuple(map(_array, one.parameters()))
    if isinstance(one, _own().Formula):
        names = [label for label, _ in one.named_parameters()]
        units = max((a.size for a in arrays), default=1)
        if _has_formula(ScaleShift(), one.expression, units):
            raise ValueError(f"module {name!r} is of one of several networks, and Model.from_torch reads one")
        return ImportedLayer(_of_formula(one.expression, names, units), arrays, other)
    return ImportedLayer(_read_activation(name, one, kind))


def _torch_class(torch: Any, name: str, one: Any) -> str:
    """Return the name of a module's class in torch.nn, or in `torch_formula`.

    ValueError for a module with hooks, or with another forward than that class.
    """
    own, shown = _own(), type(one).__name__
    kind = next(
        base
        for base in type(one).__mro__  # of a parametrized module the class of torch.nn is a base
        if base in (getattr(torch.nn, base.__name__, None), getattr(own, base.__name__, None))
    )
    for method in ("forward", "__call__"):  # static: without the instance a script module's forward raises
        if inspect.getattr_static(one, method) is not inspect.getattr_static(kind, method):
            raise ValueError(
                f"module {name!r}: {shown} computes with a {method} of its own, which from_torch cannot "
                "read; give a Sequential of torch.nn's modules"
            )
    of_weights = "torch.nn.utils."  # weight_norm and the like, which compute the weight
    before = [
        hook for hook in one._forward_pre_hooks.values() if of_weights not in f"{type(hook).__module__}."
    ]
    if before or one._forward_hooks:
        raise ValueError(f"{shown} module {name!r} has forward hooks, which have no counterpart")
    return kind.__name__


def _of_module(layer: type[Part], one: Any) -> Part:
    """Return a module's layer; options of None, and a momentum of 0, are our defaults."""
    names = [field.name for field in fields(layer) if field.name in FIELDS]  # type: ignore[arg-type]
    known = {name: getattr(one, FIELDS[name]) for name in names}
    unused = {"momentum": 0}.items()
    return layer(**{name: value for name, value in known.items() - unused if value is not None})


def _arrays(name: str, one: Any) -> tuple[Array, ...]:
    """Return the arrays of a module with a counterpart; a norm's missing arrays are ones and zeros."""
    if len(shape := getattr(one, "normalized_shape", (1,))) != 1:
        raise ValueError(
            f"module {name!r}: {type(one).__name__} of shape {tuple(shape)} has no counterpart; "
            "a norm's shape is (units,)"
        )
    for hook in one._forward_pre_hooks.values():  # of weight_norm and the like, see `_torch_class`
        hook(one, ())  # computes the weight, which was that of the last forward
    found = [getattr(one, known, None) for known in ("weight", "bias", "running_mean", "running_var")]
    arrays: list[Any] = [None if tensor is None else _array(tensor).T for tensor in found]
    weight, bias, *state = arrays
    if weight is None:
        weight = np.ones(next(getattr(one, size) for size in SIZES if hasattr(one, size)), np.float32)
    if not hasattr(one, "running_mean"):
        return (weight,) if bias is None else (weight, bias)
    if state[0] is None:
        raise ValueError(f"module {name!r}: {one} has no counterpart; it keeps no running mean and variance")
    return weight, np.zeros_like(weight) if bias is None else bias, *state


def _has_formula(layer: Part, expression: Expression, units: int) -> bool:
    """Return True if an expression is the formula of a layer of so many units."""
    found = layer_step(layer, units, np.dtype(np.float64)).formula
    return found is not None and found.digest == expression.digest


def _of_formula(expression: Expression, parameters: Sequence[str], units: int) -> Part | Expression:
    """Return the layer of a formula, or the expression of an activation.

    parameters : the variables of arrays; units : of the row, a number in the formula of a mean
    """
    for layer in sample_layers():
        if _has_formula(layer, expression, units):
            return layer
    reduced: list[Expression] = []
    expression.fold(lambda node, _: reduced.append(node) if node.operation in REDUCED else None)
    if not parameters and not reduced:
        return expression
    shapes = {start: shape for shape, start in SHAPES.items()}
    variables = {name: name if "_" in name else f"{SHAPES['units']}_{name}" for name in parameters}
    expression = of_units(expression, units, {name: variable(by) for name, by in variables.items()})
    parts = [name.split("_", 1) for name in variables.values()]
    given = [(name, shapes[start], 0.0) for start, name in parts]
    name = f"formula_{expression.digest[:8]}"
    return layers.Activate(restored(Layer, name, expression, given))


def _read_activation(name: str, one: Any, kind: str) -> Expression:
    for activation, entry in ACTIVATIONS.items():
        label, options = native(entry, "torch")
        if label != kind:
            continue
        for option, expected in options.items():
            got = getattr(one, option)
            got = -1 if (option, got) == ("dim", 1) else got
            if got != expected and not (option in LEAST and got >= LEAST[option]):
                raise ValueError(
                    f"module {name!r}: {kind}({option}={got!r}) has no counterpart; "
                    f"{activation} has {expected!r}"
                )
        return formula(activation)
    known = [native(label, "torch")[0] for table in (LAYER_OF, ACTIVATIONS) for label in table.values()]
    choices = ", ".join([*filter(None, known), *PASSED])
    raise ValueError(f"cannot read module {name!r}, {kind}; a Sequential may hold: {choices}")


def _array(tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16.
    return np.asarray((tensor if tensor.dtype.itemsize > 2 else tensor.float()).numpy())
