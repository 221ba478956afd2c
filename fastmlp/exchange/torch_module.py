"""PyTorch: a network as a module, and a `torch.nn.Sequential` as a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.chains import Chain, Layer
from fastmlp.exchange.formulas import Z, formula
from fastmlp.exchange.packages import needed
from fastmlp.formulas.elementary import LEAKY_SLOPE
from fastmlp.formulas.expressions import VARIABLE, Expression, variable
from fastmlp.model.activations import Activation
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network

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
    "softmax": ("Softmax", {"dim": -1}),
}
"""The activations that are modules of torch.nn; the others are written by their formulas."""

UNHEEDED = ("threshold",)
"""What a module that is read may have otherwise: it changes only the last digits."""

PASSED = ("Identity", "Flatten", "Dropout", "AlphaDropout")
"""Modules that leave a matrix (rows, units) as it is when predicting."""


def module(network: Network, parameters: NDArray[Any]) -> Any:
    """Return a `torch.nn.Sequential` with a copy of the parameters."""
    torch = needed("torch", "torch", "to_torch")
    layers: list[Any] = []
    for layer, (w, b) in enumerate(layer_views(parameters, network.sizes)):
        linear = torch.nn.Linear(*w.shape, dtype=torch.from_numpy(w).dtype)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(w.T.copy()))
            linear.bias.copy_(torch.from_numpy(b.copy()))
        layers.append(linear)
        activation = network.activations[layer]
        if activation != "identity":
            layers.append(_activation(torch, activation))
        if layer < len(network.hidden) and network.dropout[layer]:
            layers.append(torch.nn.Dropout(network.dropout[layer]))
    return torch.nn.Sequential(*layers).eval()


def _activation(torch: Any, activation: str | Activation) -> Any:
    if isinstance(activation, str) and activation in MODULES:
        kind, options = MODULES[activation]
        return getattr(torch.nn, kind)(**options)
    return _formula_class()(formula(activation))


def _formula_class() -> Any:
    from fastmlp.exchange.torch_formula import Formula

    return Formula


def read(given: Any) -> Chain:
    """Return the network of a module that is a chain: Linear layers, activations, Dropout and Flatten.

    Raises
    ------
    ValueError, TypeError
        In one line, for a module that no such chain has.
    """
    torch = needed("torch", "torch", "Model.from_torch")
    if not isinstance(given, torch.nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {checks.shown(given)}")
    layers: list[Layer] = []
    value, dropout = variable(Z), 0.0
    for name, one in _leaves(torch, given, ""):
        kind = type(one).__name__
        if isinstance(one, torch.nn.Linear):
            weights = _array(one.weight).T
            bias = np.zeros(weights.shape[1], weights.dtype) if one.bias is None else _array(one.bias)
            layers.append(Layer(value, weights, bias, dropout))
            value, dropout = variable(Z), 0.0
        elif kind in PASSED:
            dropout = one.p if kind == "Dropout" and layers else dropout
        elif value.operation != VARIABLE:
            raise ValueError(f"module {name!r} ({kind}) follows an activation; a layer must be between them")
        else:
            value = _read_activation(name, one, kind)
    return Chain(layers, value)


def _leaves(torch: Any, given: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the modules that a Sequential consists of, in their order."""
    if isinstance(given, torch.nn.Sequential):
        for child, one in given.named_children():
            yield from _leaves(torch, one, f"{name}.{child}" if name else child)
    else:
        yield name, given


def _read_activation(name: str, one: Any, kind: str) -> Expression:
    if isinstance(one, _formula_class()):
        return one.expression
    for activation, (own, options) in MODULES.items():
        if own != kind:
            continue
        for option, wanted in options.items():
            got = getattr(one, option)
            got = -1 if (option, got) == ("dim", 1) else got
            if got != wanted and option not in UNHEEDED:
                raise ValueError(
                    f"module {name!r}: {kind}({option}={got!r}) has no counterpart; "
                    f"{activation} has {wanted!r}"
                )
        return formula(activation)
    choices = ", ".join(["Linear", *(own for own, _ in MODULES.values()), *PASSED])
    raise ValueError(f"cannot read module {name!r}, {kind}; a Sequential may hold: {choices}")


def _array(tensor: Any) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    # NumPy has no bfloat16.
    return np.asarray((tensor if tensor.dtype.itemsize > 2 else tensor.float()).numpy())
