"""A model as a function that Numba has compiled, to be called from a user's own compiled code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import Z, formula, functions
from fastmlp.exchange.numpy_source import number_writer
from fastmlp.exchange.text import ALGEBRA, Language, Reduction, call, write_row
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network

OPERATIONS = {
    **ALGEBRA,
    "logical_and": "({0} and {1})",
    "logical_or": "({0} or {1})",
    "logical_not": "(not {0})",
    "where": "({1} if {0} else {2})",
    **{name: call(f"math.{name}") for name in ("sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh")},
    "erf": call("math.erf"),
    "absolute": call("abs"),
    "sign": call("np.sign"),
    "power": call("np.power", 2),
    "maximum": call("np.maximum", 2),
    "minimum": call("np.minimum", 2),
    "expit": "({one} / ({one} + math.exp(-{{0}})))",
    "softplus": "(np.maximum({{0}}, {zero}) + math.log1p(math.exp(-abs({{0}}))))",
}
"""Words that Numba compiles for one number; {zero} and {one} are in the model's dtype."""


def compiled(network: Network, parameters: NDArray[Any]) -> Any:
    """Return a jitted `predict(X)`, (rows, n_in) to (rows, n_out), with a copy of the parameters in it."""
    import numba

    scope: dict[str, Any] = {"np": np, "math": math}
    for layer, (w, b) in enumerate(layer_views(parameters.copy(), network.sizes)):
        scope |= {f"W{layer}": w, f"b{layer}": b}
    exec(source(network, parameters.dtype), scope)
    for name in [name for name in scope if name.startswith("activate_") or name == "affine"]:
        scope[name] = _jit(numba, scope[name])
    return _jit(numba, scope["predict"])


def _jit(numba: Any, function: Any) -> Any:
    return numba.njit(function, error_model="numpy", nogil=True)


def source(network: Network, dtype: np.dtype[Any]) -> str:
    """Return the text of `predict` and of what it calls; the parameters W0, b0, W1 .. are globals."""
    number = number_writer(dtype)
    words = {**OPERATIONS}
    for name in ("expit", "softplus"):
        words[name] = words[name].format(zero=number(0.0), one=number(1.0))
    language = Language("Numba's source", words, number, "{name} = {value}", "{name} = {value}")
    names = functions(network.activations)
    parts = [_AFFINE]
    for activation, name in names.items():
        reductions, lines, value = write_row(formula(activation), language, {Z: "z[j]"})
        body = [line for reduction in reductions for line in _reduction(reduction, number)]
        body += ["for j in range(len(z)):", *(f"    {line}" for line in [*lines, f"z[j] = {value}"])]
        parts.append("\n".join([f"def activate_{name}(z):", *(f"    {line}" for line in body)]))
    steps = [
        f"a = np.empty({network.sizes[0]}, np.{dtype})",
        "for i in range(len(a)):",
        "    a[i] = X[r, i]",
    ]
    for layer, activation in enumerate(network.activations):
        steps += [f"a = affine(a, W{layer}, b{layer})", f"activate_{names[activation]}(a)"]
    steps.append("out[r] = a")
    parts.append(_PREDICT.format(n_out=network.sizes[-1], dtype=dtype, steps="\n        ".join(steps)))
    return "\n\n".join(parts)


_AFFINE = """def affine(x, w, b):
    z = b.copy()
    for i in range(w.shape[0]):
        for o in range(w.shape[1]):
            z[o] += x[i] * w[i, o]
    return z"""

_PREDICT = """def predict(X):
    out = np.empty((X.shape[0], {n_out}), np.{dtype})
    for r in range(X.shape[0]):
        {steps}
    return out"""


def _reduction(reduction: Reduction, number: Any) -> list[str]:
    name, value = reduction.name, reduction.value
    start = 0.0 if reduction.operation == "sum" else -np.inf
    taken = f"{name} + {value}" if reduction.operation == "sum" else f"max({name}, {value})"
    lines = [f"    {line}" for line in [*reduction.lines, f"{name} = {taken}"]]
    return [f"{name} = {number(start)}", "for j in range(len(z)):", *lines]
