"""A model as one C99 header without allocation, for one row at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.formulas import Z, formula, functions
from fastmlp.exchange.text import ALGEBRA, Language, Reduction, call, write_row
from fastmlp.model.activations import Activation
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network

FUNCTIONS = ("sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf")
"""What C99's math.h has under NumPy's names; with an f at the end for float."""

OWN = {
    "sign": "return x > 0 ? 1 : x < 0 ? -1 : x;",
    "expit": "return 1 / (1 + {exp}(-x));",
    "softplus": "return (x > 0 ? x : 0) + {log1p}({exp}(-{fabs}(x)));",
    "maximum": "return a >= b ? a : a < b ? b : a + b;",
    "minimum": "return a <= b ? a : a > b ? b : a + b;",
}
"""The bodies of functions that the header defines where a formula calls them; of x, or of a and b."""

KEYWORDS = {
    *("auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum"),
    *("extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return"),
    *("short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void"),
    *("volatile", "while", "_Bool", "_Complex", "_Imaginary"),
}


def identifier(path: str | Path, name: str | None) -> str:
    """Return the name that the header's functions begin with: the one given, or the file's."""
    if name is None:
        name = re.sub(r"\W", "_", Path(path).stem, flags=re.ASCII)
        name = name if re.match(r"[A-Za-z_]", name) else f"model_{name}"
        name = f"{name}_model" if name in KEYWORDS else name
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in KEYWORDS:
        raise ValueError(f"name must be an identifier of C, got {checks.shown(name)}")
    return name


def number_writer(dtype: np.dtype[Any]) -> Any:
    """Return what writes a number in C, in the fewest digits that give its bits."""

    def number(value: float | bool) -> str:
        if isinstance(value, bool):
            return str(int(value))
        with np.errstate(over="ignore"):
            rounded = dtype.type(value)
        if not np.isfinite(rounded):
            return {"inf": "INFINITY", "-inf": "(-INFINITY)", "nan": "NAN"}[str(rounded)]
        text = str(rounded) if set(str(rounded)) & set(".e") else f"{rounded}.0"
        text += "f" if dtype == np.float32 else ""
        return f"({text})" if text.startswith("-") else text

    return number


def language(name: str, dtype: np.dtype[Any]) -> Language:
    """Return how C spells a formula in a dtype; the header's own functions begin with `name`."""
    real, f = ("float", "f") if dtype == np.float32 else ("double", "")
    words = {
        **ALGEBRA,
        "logical_and": "({0} && {1})",
        "logical_or": "({0} || {1})",
        "logical_not": "(!{0})",
        "where": "({0} ? {1} : {2})",
        "absolute": call(f"fabs{f}"),
        "power": call(f"pow{f}", 2),
        **{function: call(f"{function}{f}") for function in FUNCTIONS},
        **{own: call(f"{name}_{own}", _arguments(own).count("{real}")) for own in OWN},
    }
    return Language(
        "the C header",
        words,
        number_writer(dtype),
        f"const {real} {{name}} = {{value}};",
        "const int {name} = {value};",
    )


def header(network: Network, parameters: NDArray[Any], name: str) -> str:
    """Return the text of a header with `void NAME_predict(const real *x, real *out)`."""
    dtype = parameters.dtype
    real = "float" if dtype == np.float32 else "double"
    names = functions(network.activations)
    activations = activation_functions(name, dtype, {a: n for a, n in names.items() if a != "identity"})
    arrays, steps = [], []
    source = "x"
    for layer, (w, b) in enumerate(layer_views(parameters, network.sizes)):
        last = layer == len(network.sizes) - 2
        target = "out" if last else "ab"[layer % 2]
        arrays += [array(f"{name}_w{layer}", w, real), array(f"{name}_b{layer}", b, real)]
        n_in, n_out = w.shape
        arguments = f"{source}, {n_in}, {name}_w{layer}, {name}_b{layer}, {n_out}, {target}"
        steps.append(f"{name}_affine({arguments});")
        activation = network.activations[layer]
        if activation != "identity":
            steps.append(f"{name}_{names[activation]}_layer({target}, {n_out});")
        source = target
    hidden = network.sizes[1:-1]
    buffers = [f"{real} {b}[{max(hidden[i::2])}];" for i, b in enumerate("ab") if hidden[i::2]]
    predict = function(
        f"void {name}_predict(const {real} *x, {real} *out)",
        [*buffers, *steps],
        f"Writes the outputs, {network.sizes[-1]} numbers, of a row x of {network.sizes[0]} numbers to out.",
    )
    affine = function(
        f"void {name}_affine("
        f"const {real} *x, int n_in, const {real} *w, const {real} *b, int n_out, {real} *z)",
        [
            "for (int o = 0; o < n_out; o++) z[o] = b[o];",
            "for (int i = 0; i < n_in; i++)",
            "    for (int o = 0; o < n_out; o++) z[o] += x[i] * w[i * n_out + o];",
        ],
    )
    what = f"A multi-layer perceptron, {' - '.join(map(str, network.sizes))} units, in {real}."
    return framed(name, what, ["math.h"], [*arrays, affine, *activations, predict])


def framed(name: str, what: str, includes: list[str], parts: list[str]) -> str:
    """Return the text of a header of these parts."""
    guard = f"{name.upper()}_H"
    lines = [f"/* {what} */", f"#ifndef {guard}", f"#define {guard}", ""]
    lines += [f"#include <{include}>" for include in includes]
    return "\n".join([*lines, "", "\n\n".join(parts), "", "#endif", ""])


def function(signature: str, body: list[str], comment: str = "") -> str:
    """Return a function's text."""
    first = [f"/* {comment} */"] if comment else []
    return "\n".join([*first, f"static inline {signature}", "{", *(f"    {line}" for line in body), "}"])


def array(name: str, values: NDArray[Any], kind: str) -> str:
    """Return the text of a constant array, flat, in C order."""
    number = str if values.dtype.kind == "i" else number_writer(values.dtype)
    texts = [number(value).strip("()") for value in values.reshape(-1)]
    rows = [", ".join(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    return f"static const {kind} {name}[{values.size}] = {{\n    " + ",\n    ".join(rows) + "\n};"


def activation_functions(name: str, dtype: np.dtype[Any], names: dict[str | Activation, str]) -> list[str]:
    """Return the functions that replace a layer's z by its activation; what they call stands before them."""
    real = "float" if dtype == np.float32 else "double"
    made = []
    for activation, own in names.items():
        reductions, lines, value = write_row(formula(activation), language(name, dtype), {Z: "z[j]"})
        body: list[str] = []
        for reduction in reductions:
            body += _reduction(reduction, real)
        body += [
            "for (int j = 0; j < n; j++) {",
            *(f"    {line}" for line in lines),
            f"    z[j] = {value};",
            "}",
        ]
        made.append(function(f"void {name}_{own}_layer({real} *z, int n)", body))
    return [*_called(name, dtype, "\n".join(made)), *made]


def _called(name: str, dtype: np.dtype[Any], text: str) -> list[str]:
    real, f = ("float", "f") if dtype == np.float32 else ("double", "")
    words = {word: f"{word}{f}" for word in ("exp", "log1p", "fabs")}
    return [
        function(f"{real} {name}_{own}({_arguments(own).format(real=real)})", [body.format(**words)])
        for own, body in OWN.items()
        if f"{name}_{own}(" in text
    ]


def _arguments(own: str) -> str:
    return "{real} a, {real} b" if own in ("maximum", "minimum") else "{real} x"


def _reduction(reduction: Reduction, real: str) -> list[str]:
    name, value = reduction.name, reduction.value
    start = "0" if reduction.operation == "sum" else "-INFINITY"
    taken = (
        f"{name} += {value};" if reduction.operation == "sum" else f"if ({value} > {name}) {name} = {value};"
    )
    lines = [f"    {line}" for line in [*reduction.lines, taken]]
    return [f"{real} {name} = {start};", "for (int j = 0; j < n; j++) {", *lines, "}"]
