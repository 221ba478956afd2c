"""A model of a table in ONNX and in C: formulas of its columns in float64, then the mean of its networks.

Exports take a row of numbers, one for each column of the table: a number as it is, a date in seconds since
1970, and the place of a category's level. NaN is a missing value, and -1 a level that was not learned.
"""

from __future__ import annotations

import json
import math
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.checks import needed
from fastmlp.exchange import c_header
from fastmlp.exchange.onnx_graph import OnnxGraph, assembled
from fastmlp.exchange.steps import ExportGraph, columns_graph, mean_graph
from fastmlp.model.embeddings import UnitFormula
from fastmlp.tables.categories import MISSING, Category, LevelMeans
from fastmlp.tables.columns import CLIP, Column
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import FARTHEST, Date, Dropped, Scaled, Text
from fastmlp.tables.tasks import Classification, Regression

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]
Estimator = Any
"""A TableClassifier or a TableRegressor, whose module imports this one."""

DESCRIPTION = "fastmlp.table"
"""The key of `described` in an ONNX file."""


def columns_of(encoding: Encoding) -> list[Column]:
    """Return the columns of a table that exports take; TableError for one that they cannot take."""
    for column in encoding.columns:
        if isinstance(column, Text):
            raise TableError("exports take no free text; train without the column", column.name)
    return [column for column in encoding.columns if not isinstance(column, Dropped)]


def described(estimator: Estimator) -> dict[str, Any]:
    """Return what the numbers of exports mean, in JSON's types: the columns with levels, and the outputs."""
    columns: list[dict[str, Any]] = []
    for column in columns_of(estimator.encoding_):
        holds = "seconds since 1970-01-01 in UTC" if isinstance(column, Date) else "numbers"
        columns.append({"name": column.name, "holds": holds})
        if isinstance(column, Category):
            columns[-1] |= {"holds": "places of levels", "levels": [*column.levels]}
    classes = getattr(estimator.task_, "classes", None)
    outputs = {} if classes is None else {"probabilities of": [*classes]}
    return {"columns": columns, "target": estimator.target_name_} | outputs


def coded(encoding: Encoding, frame: pl.DataFrame) -> Array:
    """Return a table as exports take it, (rows, columns) float64."""
    found = []
    for column in columns_of(encoding):
        if isinstance(column, Category):
            codes = column.codes_of(frame[column.name]).astype(float)
            found.append(np.where(codes == MISSING, np.nan, codes))
        elif isinstance(column, Scaled):
            found.append(column.amounts(frame[column.name]))
    return np.column_stack(found)


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
    """Units that are formulas of a column of a table.

    formula : of the column's number and a column of arrays; arrays : (1 or 2, units)
    dense : weights (units, n) and biases (n,) of a layer that follows, or ()
    """

    formula: Any
    arrays: Any
    dense: tuple[Array, ...] = ()

    @property
    def width(self) -> int:
        """How many columns of X the part becomes."""
        return len(self.dense[1]) if self.dense else len(self.arrays[0])


def _parts(column: Column, is_code: bool) -> list[_Part]:
    """Return the columns of X that a column becomes, in their order.

    is_code : whether it is a number, with its levels in the place of their places
    """
    if isinstance(column, Scaled):
        found = [_Part(_clipped, [[column.center], [column.scale]])] * (column.tails != "kept")
        found += [_Part(_kept, [[column.center], [column.unit]])] * (column.tails != "clipped")
        for _, period in column.waves:
            found += [_Part(_wave, [[2 * math.pi / period], [phase]]) for phase in (0.0, math.pi / 2)]
        return found + [_Part(_is_level, [[math.nan]])] * column.missing
    assert isinstance(column, Category)
    count = len(column.levels)
    levels = [float(level) if is_code else float(place) for place, level in enumerate(column.levels)]
    both = [[*levels, math.nan]]
    if isinstance(column, LevelMeans):
        table = column.table
        return [_Part(_is_level, both, (table[: count + 1] - table[-1], table[-1]))]
    found = [_Part(_is_level, [levels])]
    found += [_Part(_is_level, both, (np.full((count + 1, 1), -1.0), np.ones(1)))] * column.rest
    return found + [_Part(_is_level, [[math.nan]])] * column.missing


def _columns(encoding: Encoding) -> ExportGraph:
    """Return the graph from a table's numbers to X."""
    places = {column.name: place for place, column in enumerate(columns_of(encoding))}
    pairs = [
        (places[column.name], part)
        for column in encoding.used
        for part in _parts(column, any(column is code for code in encoding.codes))
    ]
    sources, parts = zip(*pairs, strict=True)
    firsts = [*accumulate((part.width for part in parts), initial=0)]
    alike: dict[Any, list[int]] = {}  # one step for all columns of a formula
    for number, part in enumerate(parts):
        alike.setdefault(number if part.dense else part.formula, []).append(number)
    made, order = [], []
    for own in alike.values():
        arrays = np.hstack([parts[number].arrays for number in own])
        read = np.repeat([sources[number] for number in own], [len(parts[n].arrays[0]) for n in own])
        named = dict(zip(("first", "second"), arrays, strict=False))
        unit = UnitFormula(read, parts[own[0]].formula, named, fixed=True)
        made.append((unit, parts[own[0]].dense))
        order += [place for number in own for place in range(firsts[number], firsts[number + 1])]
    return columns_graph(len(places), made, np.argsort(order))


def _networks(estimator: Estimator) -> ExportGraph:
    """Return the graph from X to the mean of the networks' outputs."""
    models, width = estimator.models_, estimator.encoding_.width
    pairs = [(model.network, model.parameters) for model in models]
    return mean_graph(pairs, [np.arange(width)] * len(models), width)


def _scale_of(task: Any) -> tuple[float, float]:
    """Return what the output of networks is multiplied by, and what is added; ValueError for another task."""
    if isinstance(task, Classification):
        return 1.0, 0.0
    if not isinstance(task, Regression):
        raise ValueError("exports take a model of one target")
    first, second, third = task.decoded(np.array([[0.0], [1.0], [2.0]])).tolist()
    if not math.isclose(third - second, second - first, rel_tol=1e-5):
        raise ValueError("exports take predictions that are linear in what networks give, and these are not")
    return second - first, first


# --- formats --------------------------------------------------------------------------------------------


def to_onnx(estimator: Estimator, path: str | Path) -> None:
    """Write an ONNX file, see `TableEstimator.to_onnx`."""
    onnx = needed("onnx", "onnx", "to_onnx")
    scale, shift = _scale_of(estimator.task_)
    columns, networks = _columns(estimator.encoding_), _networks(estimator)
    wide, narrow = (onnx.helper.np_dtype_to_tensor_dtype(one.dtype) for one in (columns, networks))
    before, middle = OnnxGraph(columns.dtype, "columns."), OnnxGraph(networks.dtype)
    after = OnnxGraph(columns.dtype, "target.")
    value = before.walk(columns, ["X"])["output"]
    value = middle.walk(networks, [before.add("Cast", [value], to=narrow)])["output"]
    value = after.add("Mul", [after.add("Cast", [value], to=wide), after.constant(scale)])
    value = after.add("Add", [value, after.constant(shift)])
    after.nodes.append(onnx.helper.make_node("Identity", [value], ["output"]))
    sizes = {"X": columns.inputs[0].columns, "output": estimator.task_.n_out}
    ends = [onnx.helper.make_tensor_value_info(name, wide, ["rows", n]) for name, n in sizes.items()]
    texts = {DESCRIPTION: json.dumps(described(estimator))}
    onnx.save_model(assembled([before, middle, after], ends[:1], ends[1:], texts), path)


def to_c(estimator: Estimator, path: Path, name: str | None) -> None:
    """Write a C99 header, and what its numbers mean beside it; see `TableEstimator.to_c`."""
    name, n_out = c_header.identifier(path, name), estimator.task_.n_out
    scale, shift = map(c_header.number_writer(np.dtype(float)), _scale_of(estimator.task_))
    columns, networks = _columns(estimator.encoding_), _networks(estimator)
    (_, width), real = columns.widths, "float" if networks.dtype == np.float32 else "double"
    predict = c_header.function(
        f"void {name}_predict(const double *x, double *out)",
        [
            f"double columns[{width}]",
            f"{real} row[{width}], y[{n_out}]",
            f"{name}_columns_predict(x, columns)",
            f"for i in range({width}):",
            f"    row[i] = ({real})columns[i]",
            f"{name}_network_predict(row, y)",
            f"for i in range({n_out}):",
            f"    out[i] = {scale} * y[i] + {shift}",
        ],
        f"Reads {columns.inputs[0].columns} numbers, see the .json beside; writes {n_out}.",
    )
    parts = [c_header.header(columns, f"{name}_columns"), c_header.header(networks, f"{name}_network")]
    text = "\n".join([*parts, c_header.framed(name, "A model of a table.", [predict])])
    path.write_text(text, encoding="ascii")
    path.with_suffix(".json").write_text(json.dumps(described(estimator), indent=1), encoding="utf-8")
