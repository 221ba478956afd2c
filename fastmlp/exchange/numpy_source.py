"""A model as a Python module that needs NumPy alone (and SciPy where a formula has erf)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import Z, formula, functions
from fastmlp.exchange.text import ALGEBRA, Language, call, write
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network

OPERATIONS = {
    **ALGEBRA,
    "logical_and": "({0} & {1})",
    "logical_or": "({0} | {1})",
    "logical_not": "(~{0})",
    **{name: call(f"np.{name}") for name in ("absolute", "sign", "sqrt", "exp", "expm1", "log", "log1p")},
    **{name: call(f"np.{name}") for name in ("sin", "cos", "tanh")},
    **{name: call(f"np.{name}", 2) for name in ("power", "maximum", "minimum")},
    "where": call("np.where", 3),
    "erf": call("special.erf"),
    "expit": call("special.expit"),
    "softplus": "np.logaddexp({zero}, {{0}})",
    "sum": "{0}.sum(axis=1, keepdims=True)",
    "max": "{0}.max(axis=1, keepdims=True)",
}
"""NumPy's words; {zero} is 0 in the model's dtype."""


def number_writer(dtype: np.dtype[Any]) -> Any:
    """Return what writes a number in a dtype: a float of Python's would not stay one beside no array."""

    def number(value: float | bool) -> str:
        if isinstance(value, bool):
            return f"np.bool_({value})"
        with np.errstate(over="ignore"):
            text = str(dtype.type(value))
        return f"np.{dtype}({'np.' if text in ('inf', 'nan') else ''}{text.replace('-inf', '-np.inf')})"

    return number


def source(network: Network, parameters: NDArray[Any]) -> str:
    """Return the text of a module whose `predict(X)` is the network's."""
    dtype = parameters.dtype
    number = number_writer(dtype)
    words = {**OPERATIONS, "softplus": OPERATIONS["softplus"].format(zero=number(0.0))}
    language = Language("the NumPy source", words, number, "{name} = {value}", "{name} = {value}")
    names = functions(network.activations)
    defined = [_function(name, *write(formula(a), language, {Z: "z"})) for a, name in names.items()]
    arrays: list[str] = []
    steps: list[str] = []
    for layer, (w, b) in enumerate(layer_views(parameters, network.sizes)):
        arrays += [_array(f"W{layer}", w), _array(f"b{layer}", b)]
        steps.append(f"    a = activate_{names[network.activations[layer]]}(a @ W{layer} + b{layer})")
    body = "\n\n\n".join(
        [*defined, _PREDICT.format(n_in=network.sizes[0], dtype=dtype, steps="\n".join(steps))]
    )
    imports = ["import numpy as np", *(["from scipy import special"] if "special." in body else [])]
    text = "\n".join([_TITLE.format(sizes=list(network.sizes)), *imports, "", *arrays])
    return f"{text}\n\n\n{body}\n"


_TITLE = '"""A multi-layer perceptron {sizes}: predict(X)."""\n'

_PREDICT = '''def predict(X):
    """Return the outputs (rows, n_out) for X (rows, {n_in})."""
    a = np.asarray(X, np.{dtype})
{steps}
    return a'''


def _function(name: str, lines: list[str], value: str) -> str:
    return "\n".join([f"def activate_{name}(z):", *(f"    {line}" for line in [*lines, f"return {value}"])])


def _array(name: str, array: NDArray[Any]) -> str:
    with np.printoptions(threshold=array.size + 1, linewidth=100, floatmode="unique"):
        listed = np.array2string(array, separator=", ", max_line_width=100)
    return f"{name} = np.array(\n{listed},\n    np.{array.dtype},\n)"
