"""PyTorch: a network as a module, and a `torch.nn.Sequential` as a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.chains import ImportedChain, ImportedLayer
from fastmlp.exchange.formulas import Z, formula, row_formula
from fastmlp.exchange.steps import ExportGraph, ExportStep
from fastmlp.formulas.elementary import LEAKY_SLOPE
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model import layers, own_layers
from fastmlp.model.activations import Activation
from fastmlp.model.operations import INPUTS, KINDS, Operation
from fastmlp.model.pieces import restored
from fastmlp.system.packages import needed

Array = NDArray[Any]

MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("ReLU", {}),
    "leaky_relu": ("LeakyReLU", {"negative_slope": LEAKY_SLOPE}),
    "elu": ("ELU", {"alpha": 1.0}),
    "gelu": ("GELU", {"approximate": "none"}),
    "silu": ("SiLU", {}),
    # Beyond the threshold PyTorch takes x for softplus(x), which costs e^-threshold: below 2^-53 from 37 on.
    "softplus": ("Softplus", {"beta": 1.0, "threshold": 40.0}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "selu": ("SELU", {}),
    "mish": ("Mish", {}),
    "hardswish": ("Hardswish", {}),
    "softmax": ("Softmax", {"dim": -1}),
}
"""The activations that are modules of torch.nn; the others are written by their formulas."""

LEAST = {"threshold": 20.0}
"""What a module that is read may have greater: PyTorch's default costs 2e-9."""

PASSED = ("Identity", "Flatten", "Dropout", "AlphaDropout")
"""Modules that leave a matrix (rows, units) as it is when predicting; Flatten if it leaves the rows."""


class Counterpart(NamedTuple):
    """A module of torch.nn that is a kind of operation; its parameters are in the order of the operation's.

    name : of its class
    arguments : of an operation, in the order of its class
    layer : returns the layer that a module is
    """

    name: str
    arguments: Callable[[Operation], tuple[Any, ...]]
    layer: Callable[[Any], layers.Part]


COUNTERPARTS = {
    "dense": Counterpart(
        "Linear",
        lambda one: (one.n_in, one.n_out, one.trains_bias),
        lambda given: layers.Dense(given.out_features),
    ),
    "layer_norm": Counterpart(
        "LayerNorm",
        lambda one: (one.n_out, _layer_of(one).epsilon),
        lambda given: layers.LayerNorm(given.eps),
    ),
    "rms_norm": Counterpart(
        "RMSNorm", lambda one: (one.n_out, _layer_of(one).epsilon), lambda given: layers.RMSNorm(given.eps)
    ),
    "batch_norm": Counterpart(
        "BatchNorm1d",
        lambda one: (one.n_out, _layer_of(one).epsilon, _layer_of(one).momentum),
        lambda given: layers.BatchNorm(given.momentum or 0.1, given.eps),
    ),
    "prelu": Counterpart("PReLU", lambda one: (one.n_out,), lambda given: layers.PReLU()),
}
"""The kinds of operations that are modules of torch.nn; the others are written by their formulas."""


def _layer_of(one: Operation) -> Any:
    return one.layer


def module(graph: ExportGraph) -> Any:
    """Return a module with a copy of the parameters: a `torch.nn.Sequential` if each reads the one before."""
    torch = needed("torch", "torch", "to_torch")
    made: list[Any] = []
    read: list[tuple[int, ...]] = []
    outputs = {one.number: one.number for one in graph.inputs}
    shared: dict[tuple[str, ...], list[Any]] = {}
    for step in graph.steps:
        sources = tuple(outputs[place] for place in step.one.sources)
        own = list(_modules(torch, step, graph.dtype))
        if step.arrays:  # members of a network share arrays, and with them the module
            own = shared.setdefault(tuple(step.arrays), own)
        for one in own:
            made.append(one)
            read.append(sources)
            sources = (len(made) - 1,)
        outputs[step.number] = sources[0]
    ends = {name: outputs[number] for name, number in graph.outputs.items()}
    if not graph.has_heads and read == [(place - 1,) for place in range(len(made))]:
        return torch.nn.Sequential(*made).eval()
    return _own().Graph(made, read, ends if graph.has_heads else None).eval()


def _modules(torch: Any, step: ExportStep, dtype: np.dtype[Any]) -> Iterator[Any]:
    """Yield the modules that are an operation, one after another."""
    kind, one = step.one.kind.name, step.one
    if kind in COUNTERPARTS:
        tensors = [torch.from_numpy(array.T.copy()) for array in step.arrays.values()]
        name, arguments, _ = COUNTERPARTS[kind]
        made = getattr(torch.nn, name)(*arguments(one), dtype=tensors[0].dtype)
        with torch.no_grad():
            for own, tensor in zip((*made.parameters(), *made.buffers()), tensors, strict=False):
                own.copy_(tensor)
        yield made
    elif kind not in ("copy", "activation"):
        tensors = [torch.from_numpy(array.copy()) for array in step.arrays.values()]
        if kind in _own().STRUCTURES:
            yield _own().STRUCTURES[kind](*tensors)
        else:
            named = dict(zip(step.variables, tensors, strict=False))
            yield _own().Formula(step.formula(dtype), named, step.fixed)
    if one.activation != "identity":
        yield _activation(torch, one.activation)
    if one.dropout:
        yield torch.nn.Dropout(one.dropout)


def _activation(torch: Any, activation: str | Activation) -> Any:
    if isinstance(activation, str) and activation in MODULES:
        kind, options = MODULES[activation]
        return getattr(torch.nn, kind)(**options)
    return _own().Formula(formula(activation))


def _own() -> Any:
    """Return the file that can only be imported where PyTorch is."""
    from fastmlp.exchange import torch_formula

    return torch_formula


def read(given: Any) -> ImportedChain:
    """Return the network of a module: a Sequential of layers, activations, Dropout and Flatten, or our own.

    Raises
    ------
    ValueError, TypeError
        In one line, for a module that no such chain has.
    """
    torch = needed("torch", "torch", "Model.from_torch")
    if not isinstance(given, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {checks.shown(given)}")
    if isinstance(given, _own().Graph) and (given.heads or min(map(min, given.sources)) < INPUTS):
        raise ValueError("Model.from_torch takes one input and one output; the module has heads or blocks")
    found: list[ImportedLayer] = []
    places = {INPUTS: INPUTS}
    for number, (name, one, sources) in enumerate(_leaves(torch, given, "")):
        others = [places[source] for source in sources]
        if others and others[0] != len(found) - 1:
            raise ValueError(f"module {name!r} reads another module's output than that before it")
        if (layer := _layer(torch, name, one, *others[1:])) is not None:
            found.append(layer)
        places[number] = len(found) - 1
    while found and isinstance(found[-1].layer, layers.Dropout):  # of the outputs
        found.pop()
    last: Any = found.pop().layer if found and isinstance(found[-1].layer, Expression) else variable(Z)
    return ImportedChain(found, last)


def _leaves(torch: Any, given: Any, name: str) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
    """Yield the modules that a Sequential consists of, in their order; of our own with what they read."""
    if isinstance(given, _own().Graph):
        for child, (one, sources) in enumerate(zip(given.steps, given.sources, strict=True)):
            yield f"steps.{child}", one, sources
    elif isinstance(given, torch.nn.Sequential):
        for child, one in given.named_children():
            yield from _leaves(torch, one, f"{name}.{child}" if name else child)
    else:
        yield name, given, ()


def _layer(torch: Any, name: str, one: Any, other: int | None = None) -> ImportedLayer | None:
    """Return the layer that a module is, None if it changes nothing; other : see `ImportedLayer`."""
    kind = type(one).__name__
    if isinstance(one, torch.nn.Dropout):
        return ImportedLayer(layers.Dropout(one.p)) if one.p else None
    if kind in PASSED:
        if kind == "Flatten" and one.start_dim != 1:
            raise ValueError(f"module {name!r}: {one} has no counterpart; a chain keeps its rows")
        return None
    if isinstance(one, _own().Concatenated):
        return ImportedLayer(layers.Concatenate(""), other=other)
    for counterpart in COUNTERPARTS.values():
        if isinstance(one, getattr(torch.nn, counterpart.name)):
            return ImportedLayer(counterpart.layer(one), _arrays(name, one))
    arrays = tuple(map(_array, one.parameters()))
    if isinstance(one, _own().Formula):
        names = [own for own, _ in one.named_parameters()]
        if "shift" in names:
            raise ValueError(f"module {name!r} is of one of several networks, and Model.from_torch reads one")
        return ImportedLayer(_of_formula(one.expression, names), arrays, other)
    return ImportedLayer(_read_activation(name, one, kind))


def _arrays(name: str, one: Any) -> tuple[Array, ...]:
    """Return the arrays of a module of `COUNTERPARTS`; a norm's that it has not are ones and zeros."""
    found = [getattr(one, known, None) for known in ("weight", "bias", "running_mean", "running_var")]
    arrays: list[Any] = [None if tensor is None else _array(tensor).T for tensor in found]
    weight, bias, *state = arrays
    if weight is None:
        weight = np.ones(getattr(one, "normalized_shape", None) or one.num_features, np.float32)
    if not hasattr(one, "running_mean"):
        return (weight,) if bias is None else (weight, bias)
    if state[0] is None:
        raise ValueError(f"module {name!r}: {one} has no counterpart; it keeps no running mean and variance")
    return weight, np.zeros_like(weight) if bias is None else bias, *state


def _of_formula(expression: Expression, parameters: Sequence[str]) -> layers.Part | Expression:
    """Return the layer whose formula an expression is, the expression itself if it is an activation.

    parameters : the variables that are its arrays
    """
    for layer in (layers.Scale(), layers.Swish(), layers.Add("")):
        one = Operation(KINDS[layer.kind], "", (), 1, 1, layer=layer)
        if row_formula(one, np.dtype(np.float64)).digest == expression.digest:
            return layer
    found: set[str] = set()
    expression.fold(lambda node, _: found.add(node.operation))
    if not parameters and not any(OPERATIONS[name].reduces for name in found & OPERATIONS.keys()):
        return expression
    shapes = {start: shape for shape, start in own_layers.SHAPES.items()}
    given = [(name.partition("_")[2], shapes[name.partition("_")[0]], 0.0) for name in parameters]
    name = f"formula_{expression.digest[:8]}"
    return layers.Activate(restored(own_layers.Layer, name, expression, given))


def _read_activation(name: str, one: Any, kind: str) -> Expression:
    for activation, (own, options) in MODULES.items():
        if own != kind:
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
    known = [own.name for own in COUNTERPARTS.values()]
    choices = ", ".join([*known, *(own for own, _ in MODULES.values()), *PASSED])
    raise ValueError(f"cannot read module {name!r}, {kind}; a Sequential may hold: {choices}")


def _array(tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16.
    return np.asarray((tensor if tensor.dtype.itemsize > 2 else tensor.float()).numpy())
