"""A model as a C99 header without allocations, for a row at a time, in floats or in integers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import checks
from fastmlp.backend.reference import forward
from fastmlp.exchange.formulas import Z, formula, on_array
from fastmlp.exchange.steps import ExportGraph, folded, graph_of, refuse_others
from fastmlp.exchange.text import ALGEBRA, Language, LoopWriter, call
from fastmlp.model.activations import Activation
from fastmlp.model.layout import dense_views, flatten
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
        array(label, values, "int32_t" if values.dtype.kind == "i" else writer.real)
        for label, values in writer.arrays.items()
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


def to_c(
    network: Network,
    parameters: NDArray[Any],
    path: str | Path,
    name: str | None,
    fixed_point: ArrayLike | None = None,
) -> None:
    """Write a C99 header; fixed_point : see `integer_header`, None for floating-point numbers."""
    name = identifier(path, name)
    if fixed_point is None:
        text = header(graph_of(network, parameters), name)
    else:
        text = integer_header(network, parameters, name, fixed_point)
    Path(path).write_text(text, encoding="ascii")


# --- integer arithmetic, for processors without floating-point numbers ------------------------------------
# A value v is held as the integer v 2^f of 16 bits, where f suits the greatest value of some rows. Products
# are summed in 64 bits; an activation is a table of 256 straight lines.
#
# No sum overflows, whatever the inputs. Of a layer's sum the biases are at most 2^61 (`SUM_BITS`) and the
# products n_in 2^30, at most 2^61, as no network has 2^31 parameters. A sum is shifted by at most 42 bits:
# the greatest z of the rows is within 2^62 before a shift, and at least 2^20 (`Z_BITS` - 2) after a shift.
# max(z, 0) is never held in more bits than z, and needs no shift to the left.

Array = NDArray[np.float64]

MOST = 2**15 - 1
"""The greatest integer of a held value."""

MARGIN = 2.0
"""The factor by which a value may exceed the rows' values before a clamp."""

Z_BITS, LINES = 22, 256
"""The integer of an activation's argument lies within 2^Z_BITS. Each of so many lines of a table has 2^15
arguments, and a difference of two entries, 16 bits, times a rest, 15 bits, fits into 32."""

LOGIT_BITS = 30

SUM_BITS = 61
"""Biases are held within 2^SUM_BITS. Where products are far smaller, weights have fewer bits."""

EXPONENTS = 500
"""Values within 2^-EXPONENTS count as zero, and values beyond 2^EXPONENTS are refused, so that products are
within float64, which ends at 2^1024."""

SAMPLES = 16
"""Points of every line where the table is compared with the activation, for the bound of the error.
The points are multiples of the golden ratio, modulo 1: a wave may be zero at points of equal distances."""


class Curve(NamedTuple):
    """An activation in integers: a value is held as a 2^bits.

    table : (LINES + 1,) int16 at equal distances over the range of z; None for max(z, 0), or z if `whole`
    slope : of the steepest line; error : of the table, at most
    """

    table: NDArray[np.int64] | None
    whole: bool
    bits: int
    slope: float
    error: float


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def integer_header(network: Network, parameters: NDArray[Any], name: str, fixed_point: ArrayLike) -> str:
    """Return the text of a header; fixed_point : rows (rows, n_in) for the scales of values.

    ValueError if rows are not a matrix of finite numbers for the network, or integers cannot hold the values.
    """
    network, parameters = folded(network, parameters)
    refuse_others(network, "an integer C header")
    given = _checked(fixed_point, network.n_in, parameters.dtype)
    writer = CWriter(parameters.dtype, f"{name}_")
    value, bits = given, _bits("the rows", given, MARGIN)
    first, off = bits, np.full(given.shape, 2.0 ** -(bits + 1))
    parts: list[str] = []
    steps: list[str] = []
    source = "x"
    depth = len(network.widths) - 1
    for index, (w, b) in enumerate(dense_views(parameters.astype(np.float64), network)):
        z = _affine(value, w, b)
        last = index == depth - 1
        weights, biases, shift, z_bits = _layer(index, w, b, z, bits, LOGIT_BITS if last else Z_BITS)
        off = _after_layer(off, value, w, bits, shift, z_bits)
        parts += [array(f"{name}_w{index}", weights, "int16_t"), array(f"{name}_b{index}", biases, "int64_t")]
        target = "z" if last else "ab"[index % 2]
        n_in, n_out = w.shape
        product = f"(int64_t){source}[i] * {name}_w{index}[i * {n_out} + o]"
        body = [
            f"int64_t sum = {name}_b{index}[o]",
            f"for i in range({n_in}):",
            f"    sum += {product}",
            f"sum = {_shifted('sum', shift)}",
        ]
        if last:
            body.append(f"z[o] = (int32_t){name}_clamped(sum, {2**31 - 1})")
        else:
            activation = network.activations[index]
            curve = _curve(index, activation, on_array(activation, z), z_bits)
            off = curve.slope * off + curve.error + 2.0**-curve.bits
            if curve.table is not None:
                parts.append(array(f"{name}_t{index}", curve.table, "int16_t"))
            body += _curve_lines(name, index, curve, z_bits, target)
            value, bits = on_array(activation, z), curve.bits
        steps += [f"for o in range({n_out}):", *(f"    {line}" for line in body)]
        source = target
    hidden = network.widths[1:-1]
    buffers = [f"int16_t {b}[{max(hidden[i::2])}]" for i, b in enumerate("ab") if hidden[i::2]]
    clamped = function(
        f"int64_t {name}_clamped(int64_t v, int64_t most)", ["return v > most ? most : v < -most ? -most : v"]
    )
    logits = function(
        f"void {name}_logits(const int16_t *x, int32_t *z)",
        [*buffers, *steps],
        f"Writes the logits z 2^{z_bits} of a row x 2^{first}, in integers alone.",
    )
    predict = _predict(network, writer, first, z_bits)
    what = (
        f"A multi-layer perceptron, {' - '.join(map(str, network.widths))} units, in integers.\n"
        f"   On the {len(given)} rows that it was made with, logits are at most LOGIT_BOUND off."
    )
    reach = np.abs(z) + off
    if not reach.max() <= np.finfo(np.float32).max / 2:
        raise ValueError(
            f"integers hold logits within float32's range, got up to {np.abs(z).max():.3g}, "
            f"off by up to {off.max():.3g}"
        )
    off = off + reach * np.finfo(parameters.dtype).eps / 2  # they are rounded to the dtype by `_predict`
    bound = f"#define {name.upper()}_LOGIT_BOUND {np.nextafter(np.float32(off.max()), np.float32(np.inf))}"
    return framed(name, what, [bound, clamped, *parts, logits, *writer.routines.values(), predict])


def _checked(rows: ArrayLike, n_in: int, dtype: np.dtype[Any]) -> Array:
    """Return the header's rows, rounded to the model's dtype."""
    try:
        given = np.asarray(rows, np.float64).astype(dtype).astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"fixed_point must be an array of numbers, got {checks.shown(rows)}") from None
    if given.ndim != 2 or given.shape[1] != n_in or not len(given) or not np.isfinite(given).all():
        raise ValueError(
            f"fixed_point must be finite numbers of shape (rows, {n_in}), got shape {given.shape}"
        )
    return given


def _bits(what: str, values: Array, margin: float) -> int:
    """Return the greatest f with all values times 2^f and the margin within MOST."""
    return math.floor(math.log2(MOST / (_greatest(what, values) * margin)))


def _greatest(what: str, values: Array) -> float:
    """Return the greatest size of all values, 2^-EXPONENTS at least; ValueError beyond 2^EXPONENTS."""
    greatest = float(np.abs(values).max())
    if not greatest <= 2.0**EXPONENTS:
        raise ValueError(f"integers hold numbers within 2^{EXPONENTS}, got {what} up to {greatest:.3g}")
    return max(greatest, 2.0**-EXPONENTS)


def _rounded(values: Array, bits: int) -> NDArray[np.int64]:
    return np.rint(np.ldexp(values, bits)).astype(np.int64)


def _affine(value: Array, w: Array, b: Array) -> Array:
    """Return value @ w + b by the reference, which calls the BLAS in its safe form."""
    network = Network(w.shape)
    return forward(network, flatten([w], [b], network, np.dtype(np.float64)), value)


def _layer(
    index: int, w: Array, b: Array, z: Array, bits: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]:
    """Return weights and biases in integers, the bits of the shift from a sum to z, and those of z.

    bits : of the inputs; most : of z on the rows, with the margin
    """
    room = SUM_BITS - math.ceil(math.log2(_greatest(f"biases of layer {index}", b)))
    product_bits = min(bits + _bits(f"weights of layer {index}", w, 1.0), room, EXPONENTS)
    ideal = most - math.ceil(math.log2(_greatest(f"sums of layer {index}", z) * MARGIN))
    z_bits = min(ideal, product_bits)
    weights, biases = _rounded(w, product_bits - bits), _rounded(b, product_bits)
    return weights, biases, product_bits - z_bits, z_bits


def _after_layer(off: Array, value: Array, w: Array, bits: int, shift: int, z_bits: int) -> Array:
    """Return the bound of z's error, row by row, where `off` bounds the inputs' errors."""
    product_bits = z_bits + shift
    by_weights = (np.abs(value) + off).sum(axis=1, keepdims=True) * 2.0 ** -(product_bits - bits + 1)
    by_inputs = _affine(off, np.abs(w), np.zeros(w.shape[1]))
    return by_inputs + by_weights + 2.0 ** -(product_bits + 1) + 2.0 ** -(z_bits + 1)


def _curve(index: int, activation: str | Activation, values: Array, z_bits: int) -> Curve:
    end = 2.0 ** (Z_BITS - z_bits)
    ends = np.linspace(-end, end, LINES + 1)
    width = 2 * end / LINES
    within = np.sort(np.arange(SAMPLES) * (5**0.5 - 1) / 2 % 1)
    fine = np.append(ends[:-1, None] + width * within, end)
    exact = on_array(activation, fine[None])[0]
    what = f"what layer {index} activates to"
    if (exact == np.maximum(fine, 0)).all() or (exact == fine).all():
        bits = min(_bits(what, values, MARGIN), z_bits)
        return Curve(None, bool((exact == fine).all()), bits, 1.0, 0.0)
    bits = _bits(f"{what} between {-end:.3g} and {end:.3g}", exact, 1.0)
    entries = exact[::SAMPLES]
    slope = float(np.abs(np.diff(entries)).max()) / width
    # The error may be greater between two samples, and is greater at a kink between two entries.
    error = float(np.abs(np.interp(fine, ends, entries) - exact).max()) * (1 + 2 / SAMPLES)
    return Curve(_rounded(entries, bits), False, bits, slope, error)


def _curve_lines(name: str, index: int, curve: Curve, z_bits: int, target: str) -> list[str]:
    if curve.table is None:
        least = "sum" if curve.whole else "(sum > 0 ? sum : 0)"
        return [f"{target}[o] = (int16_t){name}_clamped({_shifted(least, z_bits - curve.bits)}, {MOST})"]
    width = Z_BITS + 1 - int(math.log2(LINES))
    product = f"((int32_t)t[1] - t[0]) * (at & {2**width - 1})"
    return [
        f"int32_t at = (int32_t){name}_clamped(sum, {2**Z_BITS - 1}) + {2**Z_BITS}",
        f"const int16_t *t = {name}_t{index} + (at >> {width})",
        f"{target}[o] = (int16_t)(t[0] + {_shifted(product, width)})",
    ]


def _shifted(text: str, bits: int) -> str:
    """Return the text of a value divided by 2^bits, rounded; >> must keep the sign, as compilers do."""
    return f"(({text} + {2 ** (bits - 1)}) >> {bits})" if bits else text


def _predict(network: Network, writer: CWriter, first: int, z_bits: int) -> str:
    real, f = writer.real, "f" if writer.real == "float" else ""
    n_in, n_out, output = network.n_in, network.n_out, network.output
    body = [
        f"int16_t whole[{n_in}]",
        f"int32_t z[{n_out}]",
        f"for i in range({n_in}):",
        f"    const {real} v = rint{f}(ldexp{f}(x[i], {first}))",
        f"    whole[i] = (int16_t)(v < {MOST} ? v > -{MOST} ? v : -{MOST} : {MOST})",  # of NaN MOST
        writer.call("logits", "whole", "z"),
        f"for o in range({n_out}):",
        f"    out[o] = ldexp{f}(({real})z[o], {-z_bits})",
    ]
    if output != "identity":
        writer.define_formula(f"{output}_row", formula(output), [Z])
        body.append(writer.call(f"{output}_row", "out", "out", n_out))
    return function(
        f"void {writer.prefix}predict(const {real} *x, {real} *out)",
        body,
        f"Writes the outputs, {n_out} numbers, of a row x of {n_in} numbers to out.",
    )
