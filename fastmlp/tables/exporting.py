"""A table's model in ONNX and in C: formulas of columns in float64, then the mean of the networks.

Exports take a row of numbers, one for each column of the table: a number, a date in seconds since 1970, or
the index of a category's level. NaN is a missing value, and -1 a level that was not learned.
"""

from __future__ import annotations

import json
import math
import os
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastmlp.checks import needed
from fastmlp.exchange.steps import ExportGraph, columns_graph, mean_graph
from fastmlp.model.embeddings import UnitFormula
from fastmlp.tables.categories import MISSING, Category, LevelMeans
from fastmlp.tables.columns import CLIP, Array, Column
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.frames import TableError
from fastmlp.tables.kinds import FARTHEST, Date, Dropped, Scaled, Text
from fastmlp.tables.tasks import Several

DESCRIPTION = "fastmlp.table"  # the key of `described` in an ONNX file


def columns_of(encoding: Encoding) -> list[Column]:
    """Return the columns of a table in exports; TableError for free text."""
    for column in encoding.columns:
        if isinstance(column, Text):
            raise TableError("exports take no free text; train without the column", column.name)
    return [column for column in encoding.columns if not isinstance(column, Dropped)]


def described(estimator: Any) -> dict[str, Any]:
    """Return the meaning of an export's numbers, in JSON's types: columns with levels, and outputs."""
    columns: list[dict[str, Any]] = []
    for column in columns_of(estimator.encoding_):
        holds = "seconds since 1970-01-01 in UTC" if isinstance(column, Date) else "numbers"
        columns.append({"name": column.name, "holds": holds})
        if isinstance(column, Category):
            columns[-1] |= {"holds": "places of levels", "levels": [*column.levels]}
    task, name = estimator.task_, estimator.target_name_
    targets: list[dict[str, Any]] = [
        {"target": name} | ({"probabilities of": [*one.classes]} if hasattr(one, "classes") else {})
        for name, one in (task.parts if isinstance(task, Several) else [(name, task)])
    ]
    outputs = {"target": name, "targets": targets} if len(targets) > 1 else targets[0]
    return {"columns": columns} | outputs


# --- formulas -------------------------------------------------------------------------------------------


def _clipped(x: Any, center: Any, scale: Any) -> Any:
    z = np.where(np.equal(x, x), (x - center) * scale, 0.0)  # NaN is unlike itself
    z = np.minimum(np.maximum(z, -1e9), 1e9)
    return z / np.sqrt(1.0 + z * z / CLIP**2)


def _kept(x: Any, center: Any, unit: Any) -> Any:
    z = np.where(np.equal(x, x), (x - center) * unit, 0.0)
    return np.minimum(np.maximum(z, -FARTHEST), FARTHEST)


def _wave(x: Any, frequency: Any, phase: Any) -> Any:
    return np.where(np.equal(x, x), np.sin(x * frequency + phase), 0.0)


def _is_level(x: Any, level: Any) -> Any:
    known, missing = np.where(np.equal(x, level), 1.0, 0.0), np.where(np.equal(level, level), 0.0, 1.0)
    return np.where(np.equal(x, x), known, missing)


class _Part(NamedTuple):
    """Units by a formula of a column.

    formula : of the column's number and a column of arrays; arrays : (1 or 2, units)
    dense : weights (units, n) and biases (n,) of a layer that follows, or ()
    """

    formula: Any
    arrays: Any
    dense: tuple[Array, ...] = ()

    @property
    def width(self) -> int:
        """The number of columns of X."""
        return len(self.dense[1]) if self.dense else len(self.arrays[0])


def _parts(column: Column, is_code: bool) -> list[_Part]:
    """Return a column's columns of X, in order; is_code : True for numbers in place of levels' indices."""
    if isinstance(column, Scaled):
        found = [_Part(_clipped, [[column.center], [column.scale]])] * (column.tails != "kept")
        found += [_Part(_kept, [[column.center], [column.unit]])] * (column.tails != "clipped")
        for _, period in column.waves:
            found += [_Part(_wave, [[2 * math.pi / period], [phase]]) for phase in (0.0, math.pi / 2)]
        return found + [_Part(_is_level, [[math.nan]])] * column.missing
    assert isinstance(column, Category)
    count = len(column.levels)
    levels = [float(level) if is_code else float(index) for index, level in enumerate(column.levels)]
    both = [[*levels, math.nan]]
    if isinstance(column, LevelMeans):
        table = column.table
        return [_Part(_is_level, both, (table[: count + 1] - table[-1], table[-1]))]
    found = [_Part(_is_level, [levels])]
    found += [_Part(_is_level, both, (np.full((count + 1, 1), -1.0), np.ones(1)))] * column.rest
    return found + [_Part(_is_level, [[math.nan]])] * column.missing


def _columns(encoding: Encoding) -> ExportGraph:
    """Return the graph from a table's numbers to X."""
    indices = {column.name: index for index, column in enumerate(columns_of(encoding))}
    pairs = [
        (indices[column.name], part)
        for column in encoding.used
        for part in _parts(column, any(column is code for code in encoding.codes))
    ]
    sources, parts = zip(*pairs, strict=True)
    firsts = [*accumulate((part.width for part in parts), initial=0)]
    alike: dict[Any, list[int]] = {}  # a step for all columns of a formula
    for number, part in enumerate(parts):
        alike.setdefault(number if part.dense else part.formula, []).append(number)
    made, order = [], []
    for numbers in alike.values():
        arrays = np.hstack([parts[number].arrays for number in numbers])
        read = np.repeat([sources[number] for number in numbers], [len(parts[n].arrays[0]) for n in numbers])
        named = dict(zip(("first", "second"), arrays, strict=False))
        unit = UnitFormula(read, parts[numbers[0]].formula, named, fixed=True)
        made.append((unit, parts[numbers[0]].dense))
        order += [index for number in numbers for index in range(firsts[number], firsts[number + 1])]
    return columns_graph(len(indices), made, np.argsort(order))


def _networks(estimator: Any) -> ExportGraph:
    """Return the graph from X to the mean of the networks' outputs."""
    models, width = estimator.models_, estimator.encoding_.width
    pairs = [(model.network, model.parameters) for model in models]
    return mean_graph(pairs, [np.arange(width)] * len(models), width)


# --- formats --------------------------------------------------------------------------------------------


class Exported:
    """The part of a table estimator with exports."""

    encoding_: Any
    task_: Any
    _columns_of: Any

    def coded(self, X: Any) -> Array:
        """Return a table as exports take it, (rows, columns) float64.

        Numbers are unchanged, a date is in seconds since 1970, and a category is the index of its level: NaN
        without a value, and -1 for a level that was not learned.

        X : as for `predict`
        """
        check_is_fitted(self)
        frame, found = self._columns_of(X), []
        for column in columns_of(self.encoding_):
            if isinstance(column, Category):
                codes = column.codes_of(frame[column.name]).astype(float)
                found.append(np.where(codes == MISSING, np.nan, codes))
            elif isinstance(column, Scaled):
                found.append(column.amounts(frame[column.name]))
        return np.column_stack(found)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write an ONNX file: "X" (rows, columns) float64, as of `coded`, to "output" (rows, n).

        The output has the predicted number, or the probability of each class; of several targets one target
        after another. The file's metadata have the names and levels of columns, and the classes. Needs the
        extra `onnx`.

        Raises
        ------
        TableError
            For a column of free text.
        """
        from fastmlp.exchange.onnx_graph import OnnxGraph, assembled

        check_is_fitted(self)
        onnx, links = needed("onnx", "onnx", "to_onnx"), self.task_.links
        columns, networks = _columns(self.encoding_), _networks(self)
        wide, narrow = (onnx.helper.np_dtype_to_tensor_dtype(one.dtype) for one in (columns, networks))
        before, middle = OnnxGraph(columns.dtype, "columns."), OnnxGraph(networks.dtype)
        after = OnnxGraph(columns.dtype, "target.")
        value = before.walk(columns, ["X"])["output"]
        value = middle.walk(networks, [before.add("Cast", [value], to=narrow)])["output"]
        factors, constants, are_logs = (np.array([each]) for each in zip(*links, strict=True))
        value = after.add("Mul", [after.add("Cast", [value], to=wide), after.array("factors", factors)])
        value = after.add("Add", [value, after.array("constants", constants)])
        if are_logs.any():
            value = after.add("Where", [after.array("logs", are_logs), after.add("Exp", [value]), value])
        after.nodes.append(onnx.helper.make_node("Identity", [value], ["output"]))
        sizes = {"X": columns.inputs[0].columns, "output": len(links)}
        ends = [onnx.helper.make_tensor_value_info(name, wide, ["rows", n]) for name, n in sizes.items()]
        texts = {DESCRIPTION: json.dumps(described(self))}
        onnx.save_model(assembled([before, middle, after], ends[:1], ends[1:], texts), path)

    def to_c(self, path: str | os.PathLike[str], *, name: str | None = None) -> None:
        """Write a C99 header with `void NAME_predict(const double *x, double *out)`, for a row.

        Rows, outputs and errors are as of `to_onnx`; a file beside the header, with the ending .json, has the
        meaning of the numbers.

        name : the prefix of the functions, an identifier of C; None for the file's name
        """
        from fastmlp.exchange import c_header

        check_is_fitted(self)
        path = Path(path)
        name, links = c_header.identifier(path, name), self.task_.links
        number = c_header.number_writer(np.dtype(float))
        columns, networks = _columns(self.encoding_), _networks(self)
        (_, width), real = columns.widths, "float" if networks.dtype == np.float32 else "double"
        lines = []
        for i, (factor, constant, is_log) in enumerate(links):
            linear = f"{number(factor)} * y[{i}] + {number(constant)}"
            lines.append(f"out[{i}] = {f'exp({linear})' if is_log else linear}")
        predict = c_header.function(
            f"void {name}_predict(const double *x, double *out)",
            [
                f"double columns[{width}]",
                f"{real} row[{width}], y[{len(links)}]",
                f"{name}_columns_predict(x, columns)",
                f"for i in range({width}):",
                f"    row[i] = ({real})columns[i]",
                f"{name}_network_predict(row, y)",
                *lines,
            ],
            f"Reads {columns.inputs[0].columns} numbers, see the .json beside; writes {len(links)}.",
        )
        parts = [c_header.header(columns, f"{name}_columns"), c_header.header(networks, f"{name}_network")]
        text = "\n".join([*parts, c_header.framed(name, "A model of a table.", [predict])])
        path.write_text(text, encoding="ascii")
        path.with_suffix(".json").write_text(json.dumps(described(self), indent=1), encoding="utf-8")
