"""A model as a C99 header without allocations, for a row at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.exchange.steps import ExportGraph, graph_of
from fastmlp.exchange.text import ALGEBRA, Language, LoopWriter, call
from fastmlp.model.network import Network

FUNCTIONS = ("sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "erf")
"""Functions of C99's math.h with NumPy's names; with an f at the end for float."""

LOOP, CHOICE = re.compile(r"for (\w+) in range\((.*)\):"), re.compile(r"(\w+) = (.+) if (.+) else (.+)")
"""The statements of a routine's body with another spelling in C."""

PARAMETERS = {
    "numbers": "const {real} *",
    "whole": "const int32_t *",
    "out": "{real} *",
    "count": "int ",
    "number": "{real} ",
}
"""The types of a routine's parameters, see `LoopWriter.define`."""

KEYWORDS = {
    *("auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum"),
    *("extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return"),
    *("short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union", "unsigned", "void"),
    *("volatile", "while", "_Bool", "_Complex", "_Imaginary"),
}


def identifier(path: str | Path, name: str | None) -> str:
    """Return the prefix of the header's functions: the given name, or the file's."""
    if name is None:
        name = re.sub(r"\W", "_", Path(path).stem, flags=re.ASCII)
        name = name if re.match(r"[A-Za-z_]", name) else f"model_{name}"
        name = f"{name}_model" if name in KEYWORDS else name
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in KEYWORDS:
        raise ValueError(f"name must be an identifier of C, got {checks.shown(name)}")
    return name


def number_writer(dtype: np.dtype[Any]) -> Any:
    """Return the function that writes a number in C, in the fewest digits of its bits."""

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


class CWriter(LoopWriter):
    """Writes a model as C's functions with a prefix; real : "float" or "double"."""

    def __init__(self, dtype: np.dtype[Any], prefix: str) -> None:
        self.real, f = ("float", "f") if dtype == np.float32 else ("double", "")
        words = {
            **ALGEBRA,
            "logical_and": "({0} && {1})",
            "logical_or": "({0} || {1})",
            "logical_not": "(!{0})",
            "where": "({0} ? {1} : {2})",
            "absolute": call(f"fabs{f}"),
            "power": call(f"pow{f}", 2),
            **{function: call(f"{function}{f}") for function in FUNCTIONS},
        }
        variable = f"{self.real} {{name}} = {{value}}"
        statements = f"const {variable}", "const int {name} = {value}"
        super().__init__(Language("the C header", words, number_writer(dtype), *statements), prefix, variable)

    def text_of(self, name: str, parameters: Mapping[str, str], body: Sequence[str], value: str) -> str:
        """Return a function's text."""
        typed = [PARAMETERS[kind].format(real=self.real) + one for one, kind in parameters.items()]
        ends = [f"return {value}"] if value else []
        returns = self.real if value else "void"
        return function(f"{returns} {name}({', '.join(typed)})", [*body, *ends])


def header(graph: ExportGraph, name: str) -> str:
    """Return the text of a header with `void NAME_predict(const real *x, real *out)`.

    Each block of inputs and each head is an argument.
    """
    writer, inputs, steps = CWriter(graph.dtype, f"{name}_"), graph.inputs, graph.steps
    words = iter(_words(name, "x", [one.name for one in inputs if one.named]))
    given = {one.number: next(words) if one.named else one.name.lower() for one in inputs}
    heads = _words(name, "out", graph.outputs) if graph.has_heads else ["out"]
    taken = dict(zip(graph.outputs.values(), heads, strict=True))
    buffers, calls = writer.write(graph, given, taken)
    types = {one.number: "int32_t" if one.codes else writer.real for one in inputs}
    signature = [f"const {types[number]} *{text}" for number, text in given.items()]
    signature += [f"{writer.real} *{out}" for out in taken.values()]
    nouns = "numbers", "codes, -1 where missing"
    said = ", ".join(f"{given[one.number]} ({one.columns} {nouns[one.codes]})" for one in inputs)
    ended = ", ".join(f"{out} ({steps[end].one.n_out} numbers)" for end, out in taken.items())
    predict = function(
        f"void {name}_predict({', '.join(signature)})",
        [*(f"{writer.real} {buffer}[{units}]" for buffer, units in buffers.items()), *calls],
        f"Reads a row, {said}; writes its outputs, {ended}.",
    )
    arrays = [
        array(own, values, "int32_t" if values.dtype.kind == "i" else writer.real)
        for own, values in writer.arrays.items()
    ]
    what = f"A multi-layer perceptron, {' - '.join(map(str, graph.widths))} units, in {writer.real}."
    return framed(name, what, [*arrays, *writer.routines.values(), predict])


def _words(prefix: str, kind: str, names: Iterable[str]) -> list[str]:
    """Return the names of C's arguments; letters that C99 lacks become their numbers.

    _ goes before a name of another argument, or with the prefix of the header's functions and arrays.
    """
    found: list[str] = []
    for name in names:
        word = f"{kind}_" + "".join(c if c.isascii() else f"_{ord(c):x}_" for c in name)
        while word in found or word.startswith(f"{prefix}_"):
            word = f"_{word}"
        found.append(word)
    return found


def framed(name: str, what: str, parts: list[str]) -> str:
    """Return a header's text from the texts of its parts."""
    guard, text = f"{name.upper()}_H", "\n\n".join(parts)
    lines = [f"/* {what} */", f"#ifndef {guard}", f"#define {guard}", "", "#include <math.h>"]
    lines += ["#include <stdint.h>"] if re.search(r"int\d+_t", text) else []
    return "\n".join([*lines, "", text, "", "#endif", ""])


def function(signature: str, body: Sequence[str], comment: str = "") -> str:
    """Return a function's text; body : statements and loops, see `LoopWriter.define`."""
    lines, loops = [f"/* {comment} */"] if comment else [], list[str]()
    lines += [f"static inline {signature}", "{"]
    for line in [*(f"    {line}" for line in body), "}"]:
        text = line.lstrip()
        indent = line.removesuffix(text)
        while loops and len(indent) <= len(loops[-1]):
            lines.append(f"{loops.pop()}}}")
        if loop := LOOP.fullmatch(text):
            loops.append(indent)
            text = loop.expand(r"for (int \1 = 0; \1 < \2; \1++) {")
        elif choice := CHOICE.fullmatch(text):
            text = choice.expand(r"const int \1 = \3 ? \2 : \4;")
        elif indent:
            text = f"{text};"
        lines.append(f"{indent}{text}")
    return "\n".join(lines)


def array(name: str, values: NDArray[Any], kind: str) -> str:
    """Return the text of a constant array, flat, in C order."""
    number = str if values.dtype.kind == "i" else number_writer(values.dtype)
    texts = [number(value).strip("()") for value in values.reshape(-1)]
    rows = [", ".join(texts[start : start + 8]) for start in range(0, len(texts), 8)]
    return f"static const {kind} {name}[{values.size}] = {{\n    " + ",\n    ".join(rows) + "\n};"


def to_c(network: Network, parameters: NDArray[Any], path: str | Path, name: str | None) -> None:
    """Write a C99 header."""
    name = identifier(path, name)
    Path(path).write_text(header(graph_of(network, parameters), name), encoding="ascii")
