"""A model as one C99 header without allocation, for one row at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.formulas import Z, formula, functions, variables_of
from fastmlp.exchange.input_blocks import lookups
from fastmlp.exchange.steps import ExportGraph, ExportStep, slots
from fastmlp.exchange.text import ALGEBRA, Language, Reduction, call, write_row
from fastmlp.formulas.expressions import Expression
from fastmlp.model.activations import Activation

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


class Structure(NamedTuple):
    """A kind of operation that has no formula of a row, as a function of the header.

    call : its arguments in a call, of the sources and arrays of an operation `one`, which `out` gets; of
        categories for each column `at` of `Lookup`
    arguments, body : of the function; the name is the kind's
    """

    call: str
    arguments: str
    body: list[str]


STRUCTURES = {
    "dense": Structure(
        "{0}, {one.n_in}, {1}, {2}, {one.n_out}, {out}",
        "const {real} *x, int n_in, const {real} *w, const {real} *b, int n_out, {real} *z",
        [
            "for (int o = 0; o < n_out; o++) z[o] = b[o];",
            "for (int i = 0; i < n_in; i++)",
            "    for (int o = 0; o < n_out; o++) z[o] += x[i] * w[i * n_out + o];",
        ],
    ),
    "concatenate": Structure(
        "{0}, {one.n_in}, {1}, {one.n_out}, {out}",
        "const {real} *x, int n_x, const {real} *y, int n_out, {real} *out",
        [
            "for (int i = 0; i < n_x; i++) out[i] = x[i];",
            "for (int i = n_x; i < n_out; i++) out[i] = y[i - n_x];",
        ],
    ),
    "gather": Structure(
        "{0}, {1}, {one.n_out}, {out}",
        "const {real} *x, const int32_t *places, int n_out, {real} *out",
        ["for (int i = 0; i < n_out; i++) out[i] = x[places[i]];"],
    ),
    "grouped": Structure(
        "{0}, {1}, {2}, {one.groups}, {one.layer.inputs}, {one.layer.units}, {out}",
        "const {real} *x, const {real} *w, const {real} *b, int groups, int n_in, int n_out, {real} *z",
        [
            "for (int g = 0; g < groups; g++, x += n_in, w += n_in * n_out, b += n_out, z += n_out) {",
            "    for (int o = 0; o < n_out; o++) z[o] = b[o];",
            "    for (int i = 0; i < n_in; i++)",
            "        for (int o = 0; o < n_out; o++) z[o] += x[i] * w[i * n_out + o];",
            "}",
        ],
    ),
    "categories": Structure(
        "{0}[{at.column}], {at.levels}, {at.table}, {at.width}, {out} + {at.unit}",
        "int32_t code, int32_t levels, const {real} *table, int width, {real} *out",
        [
            "const int32_t row = (code < -2 ? -2 : code > levels ? levels : code) + 2;",
            "for (int i = 0; i < width; i++) out[i] = table[(size_t)row * (size_t)width + (size_t)i];",
        ],
    ),
}

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


def header(graph: ExportGraph, name: str) -> str:
    """Return the text of a header with `void NAME_predict(const real *x, real *out)`.

    Each block of inputs and each head has an argument of its own.
    """
    dtype, walked = graph.dtype, graph.steps
    real = "float" if dtype == np.float32 else "double"
    names = functions(tuple(step.one.activation for step in walked))
    names.pop("identity", None)
    places = slots(walked, lambda one: one.kind.name not in STRUCTURES)
    inputs, ends = graph.inputs, graph.outputs
    given = {one.number: _word("x", one.name) if one.named else one.name.lower() for one in inputs}
    taken = {end: _word("out", head) if graph.has_heads else "out" for head, end in ends.items()}
    outputs = {**given, **{number: f"a{slot}" for number, slot in enumerate(places)}, **taken}
    arrays: dict[str, str] = {}
    rows, lines = [], []
    for step in walked:
        one, target = step.one, outputs[step.number]
        read = [*(outputs[place] for place in one.sources), *(f"{name}_{key}" for key in step.arrays)]
        for key, values in step.arrays.items():
            kind = "int32_t" if values.dtype.kind == "i" else real
            arrays.setdefault(key, array(f"{name}_{key}", values, kind))
        if (kind := one.kind.name) in STRUCTURES:
            call = f"{name}_{kind}({STRUCTURES[kind].call});"
            columns = lookups(one.layer, read[1:]) if kind == "categories" else [None]
            lines += [call.format(*read, one=one, out=target, at=at) for at in columns]
        elif kind != "activation" or read[0] != target:
            rows.append(_row(name, step, dtype))
            row = ", ".join([*read[: len(one.sources)], target, str(one.n_out)])
            lines.append(f"{name}_row{step.number}({row});")
        if one.activation in names:
            lines.append(f"{name}_{names[one.activation]}_layer({target}, {one.n_out});")
    widths: dict[int, int] = {}
    for step, slot in zip(walked, places, strict=True):
        if step.number not in taken:
            widths[slot] = max(step.one.n_out, widths.get(slot, 0))
    buffers = [f"{real} a{slot}[{units}];" for slot, units in widths.items()]
    signature = [f"const {'int32_t' if one.levels else real} *{given[one.number]}" for one in inputs]
    signature += [f"{real} *{out}" for out in taken.values()]
    said = ", ".join(f"{given[one.number]} ({one.columns} {_NOUNS[bool(one.levels)]})" for one in inputs)
    ended = ", ".join(f"{out} ({walked[end].one.n_out} numbers)" for end, out in taken.items())
    predict = function(
        f"void {name}_predict({', '.join(signature)})",
        [*buffers, *lines],
        f"Reads a row, {said}; writes its outputs, {ended}.",
    )
    kinds = {step.one.kind.name for step in walked}
    defined = [
        function(f"void {name}_{kind}({one.arguments.format(real=real)})", one.body)
        for kind, one in STRUCTURES.items()
        if kind in kinds
    ]
    elementwise = [*rows, *activation_functions(name, dtype, names)]
    defined += [*called(name, dtype, elementwise), *elementwise]
    what = f"A multi-layer perceptron, {' - '.join(map(str, graph.widths))} units, in {real}."
    gathers = any(values.dtype.kind == "i" for step in walked for values in step.arrays.values())
    includes = ["math.h", *(["stddef.h", "stdint.h"] if graph.has_blocks or gathers else [])]
    return framed(name, what, includes, [*arrays.values(), *defined, predict])


_NOUNS = ("numbers", "codes, -1 where missing")


def _word(kind: str, name: str) -> str:
    """Return the name of an argument of C; letters that C99 lacks are written by their numbers."""
    return f"{kind}_" + "".join(c if c.isascii() else f"_{ord(c):x}_" for c in name)


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
    """Return the functions that replace a layer's z by its activation; `called` has what they call."""
    real = "float" if dtype == np.float32 else "double"
    return [
        function(
            f"void {name}_{own}_layer({real} *z, int n)",
            _loops(formula(activation), language(name, dtype), {Z: "z[j]"}, "z", real),
        )
        for activation, own in names.items()
    ]


def _row(name: str, step: ExportStep, dtype: np.dtype[Any]) -> str:
    """Return the function of an operation that has a formula of a row; it may write where it reads."""
    real = "float" if dtype == np.float32 else "double"
    sources = ("z", "other")[: len(step.one.sources)]
    variables = variables_of(step.variables, sources, [f"{name}_{key}" for key in step.arrays], "[j]")
    given = ", ".join(f"const {real} *{source}" for source in sources)
    return function(
        f"void {name}_row{step.number}({given}, {real} *out, int n)",
        _loops(step.formula(dtype), language(name, dtype), variables, "out", real),
    )


def _loops(
    expression: Expression, spelling: Language, variables: Mapping[str, str], target: str, real: str
) -> list[str]:
    """Return the lines that write an expression of a row of n units to a target."""
    reductions, lines, value = write_row(expression, spelling, variables)
    body = [line for reduction in reductions for line in _reduction(reduction, real)]
    first, last = "for (int j = 0; j < n; j++) {", f"    {target}[j] = {value};"
    return [*body, first, *(f"    {line}" for line in lines), last, "}"]


def called(name: str, dtype: np.dtype[Any], functions: Sequence[str]) -> list[str]:
    """Return the functions of `OWN` that the text of others calls."""
    text = "\n".join(functions)
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
