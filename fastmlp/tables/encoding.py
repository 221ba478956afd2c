"""From a frame to X: every column by its kind, in a dense array or a CSR matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Self

import numpy as np

from fastmlp import checks
from fastmlp.system.notices import Bar
from fastmlp.tables.categories import Category, LevelMeans, Targets
from fastmlp.tables.columns import MOST_LEVELS, ROWS_AT_ONCE, Array, Cells, Column, numbers, parsed
from fastmlp.tables.frames import TableError, pl
from fastmlp.tables.kinds import COLUMN_KINDS, ROW_NUMBERS, Dropped, Number, Text, inferred
from fastmlp.tables.writings import FoundWritings, Writing

MANY = 300
"""The most levels of two rows with a column each; more levels have means, see docs/measured/tables.md."""

DENSE = 0.25
"""The least fraction of numbers other than 0 in a dense X: CSR takes the room of two numbers for each."""

FINGERPRINT_ROWS = 1000  # rows at the head of a table in the table's fingerprint
MOST_NAMED = 10  # the most columns named in a warning


def with_means(column: Column, series: pl.Series, targets: Targets | None) -> Column:
    """Return a category of many levels with mean targets; other columns as they are."""
    if targets is None or not isinstance(column, Category) or len(column.levels) <= MANY:
        return column
    return LevelMeans.of(column, series, targets)


@dataclass(frozen=True)
class Encoding:
    """The columns of a table, in the table's order; in X numbers and dates come first, and texts last.

    codes : categories of columns of numbers, beside the numbers in X
    writings : how texts of columns and of the target are numbers and dates, for `as_learned`
    """

    columns: tuple[Column, ...]
    codes: tuple[Column, ...] = ()
    writings: tuple[Writing, ...] = ()

    @classmethod
    def learned(
        cls,
        frame: pl.DataFrame,
        kinds_given: Mapping[str, str] | None = None,
        shown: bool | None = False,
        row_numbers: Collection[str] = (),
        levels: int | None = None,
        targets: Targets | None = None,
    ) -> Self:
        """Return the encoding suggested by a frame.

        kinds_given : kinds by column, in place of the guessed kinds
        shown : whether there is a progress bar; None on a terminal and in a notebook
        row_numbers : columns that number the rows of a whole table, when the frame is a part
        levels : the most levels of a category with a column each; None for the mean targets of many levels
        targets : for the means of many levels; None for no means
        TableError for a column that is not of the given kind, and for a table without a useful column
        """
        kinds_given, most_levels = kinds_given or {}, levels or MOST_LEVELS
        there = {*frame.columns}
        for name, kind in kinds_given.items():
            if name not in there:
                checks.choice("column", name, frame.columns)
            checks.choice(f"kind of column {name!r}", kind, tuple(COLUMN_KINDS))
        columns: list[Column] = []
        with Bar(frame.width, "column", "columns", shown) as bar:
            for series in frame.get_columns():
                column: Column
                if series.name in kinds_given:
                    column = COLUMN_KINDS[kinds_given[series.name]].learned(series, most_levels)
                elif series.name in row_numbers:
                    column = Dropped(series.name, ROW_NUMBERS)
                else:
                    column = inferred(series, most_levels)
                columns.append(column if levels else with_means(column, series, targets))
                bar.move(len(columns))
        if not any(column.width for column in columns):
            why = ", ".join(f"{column.name!r}: {column.summary}" for column in columns[:3])
            more = ", .." if len(columns) > 3 else ""
            raise TableError(f"no column is left to learn from; {why}{more}".removesuffix("; "))
        return cls(tuple(columns))

    @cached_property
    def used(self) -> list[Column]:
        """The columns of the table in the order of X."""
        used = [column for column in (*self.columns, *self.codes) if not isinstance(column, Dropped)]
        return sorted(used, key=lambda column: (column.mostly_zeros, isinstance(column, Text)))

    @property
    def dropped(self) -> list[str]:
        """The names of the unused columns."""
        return [column.name for column in self.columns if isinstance(column, Dropped)]

    @property
    def slices(self) -> dict[str, list[slice]]:
        """The columns of X for each used column of the table, by name."""
        found: dict[str, list[slice]] = {}
        ends = accumulate(column.width for column in self.used)
        for column, end in zip(self.used, ends, strict=True):
            found.setdefault(column.name, []).append(slice(end - column.width, end))
        return found

    def signs(self, monotone: Mapping[str, int]) -> Array:
        """Return 1, -1 or 0 for each column of X (n,), by the signs of columns of numbers."""
        signs, columns = np.zeros(self.width, np.int8), {column.name: column for column in self.columns}
        for name, sign in monotone.items():
            column = columns[name]
            if not isinstance(column, Number):
                raise TableError(f"monotone takes columns of numbers, and this is a {column.kind}", name)
            (index,) = self.slices[name]
            signs[index.start : index.stop - column.missing] = sign
        return signs

    @property
    def parts(self) -> list[str]:
        """A name for each column of X."""
        return [part for column in self.used for part in column.parts]

    @property
    def width(self) -> int:
        """The number of columns of X."""
        return sum(column.width for column in self.used)

    @property
    def numbers(self) -> int:
        """The number of columns of X before the mostly empty columns."""
        return sum(one.width for one in self.used if not one.mostly_zeros)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each column of the table, by name."""
        return {column.name: column.kind for column in self.columns}

    def summary(self, column: Column) -> str:
        """Return a column of the table in words."""
        codes = (code.summary for code in self.codes if code.name == column.name)
        written = (one.shown for one in self.writings if one.column == column.name and one.is_told)
        return "; written as ".join(["; and as codes: ".join([column.summary, *codes]), *written])

    @property
    def linear(self) -> Encoding:
        """The columns for a linear model: numbers as they are."""
        columns, codes = (tuple(one.linear for one in columns) for columns in (self.columns, self.codes))
        return replace(self, columns=columns, codes=codes)

    def remarks(self, frame: pl.DataFrame) -> list[str]:
        """Return differences between a frame's rows and the training rows, in words."""
        by_name = self._by_name(frame)
        return [line for column in self.used for line in column.remarks(by_name[column.name])]

    @property
    def is_sparse(self) -> bool:
        """Whether X is a CSR matrix: for texts, and where most numbers are 0 by the columns' kinds."""
        if any(isinstance(column, Text) for column in self.used):
            return True
        per_row = sum(1 if column.mostly_zeros else column.width for column in self.used)
        return per_row < DENSE * self.width

    def encoded(
        self,
        frame: pl.DataFrame,
        dtype: Any = np.float32,
        shown: bool | None = False,
        targets: Targets | None = None,
    ) -> Any:
        """Return X (rows, n), dense or CSR; errors are as of `batches`.

        shown : as of `learned`; targets : of the rows, in a training; None in a prediction
        """
        in_order, sparse, rows = dict[int, Array](), list[Any](), 0
        dense = None if self.is_sparse else np.empty((len(frame), self.width), dtype)
        for index, column in enumerate(self.used):
            if targets is not None and isinstance(column, LevelMeans):  # means of the rows before each row
                in_order[index] = column.encoded_in_order(frame[column.name], targets)
        with Bar(len(frame), "row", "encoding", shown) as bar:
            for batch in self.batches(frame, dtype, in_order):
                if dense is None:
                    sparse.append(batch)
                else:  # filled in place: X lies in memory once
                    dense[rows : rows + len(batch)] = batch
                rows += batch.shape[0]
                bar.move(rows)
        if dense is not None:
            return dense
        if len(sparse) == 1:
            return sparse[0]
        from scipy.sparse import vstack

        return vstack(sparse, format="csr")

    def fingerprint(self, frame: pl.DataFrame, y: Array) -> str:
        """Return a digest of a table: the number of rows, the first rows of X, and their targets.

        A table has one fingerprint in every format, whatever unused columns are there.

        y : (rows,) targets, by the task
        """
        X = self.encoded(frame[:FINGERPRINT_ROWS])
        digest = hashlib.sha256(f"{len(frame)} rows {y[:FINGERPRINT_ROWS].tolist()}".encode())
        for array in (X.indptr, X.indices, X.data) if self.is_sparse else (X,):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def batches(
        self, frame: pl.DataFrame, dtype: Any = np.float32, given: Mapping[int, Array] | None = None
    ) -> Iterator[Any]:
        """Yield X in batches of at most ROWS_AT_ONCE rows, at least one batch.

        given : numbers (rows, width) in place of some columns' by index in `used`
        TableError for a missing column, or a value of another kind
        """
        used, names = self.used, frame.columns
        there = {*names}
        for column in used:
            if column.name not in there:
                raise TableError(f"there is no such column; there are: {checks.listed(names)}", column.name)
        for start in range(0, max(1, len(frame)), ROWS_AT_ONCE):
            try:
                part = self._by_name(frame[start : start + ROWS_AT_ONCE])
                blocks = [column.encoded(part[column.name]) for column in used]
            except TableError as error:
                raise error.within(None, start) from None
            for index, whole in (given or {}).items():
                blocks[index] = blocks[index]._replace(values=whole[start : start + ROWS_AT_ONCE])
            rows = min(ROWS_AT_ONCE, len(frame) - start)
            yield self._sparse(rows, blocks, dtype) if self.is_sparse else self._dense(rows, blocks, dtype)

    def _by_name(self, frame: pl.DataFrame) -> dict[str, pl.Series]:
        """Return a frame's columns by name, with numbers in place of texts for `codes`."""
        # A frame looks for a name from its first column on: of thousands it takes longer than all else.
        columns = {series.name: series for series in frame.get_columns()}
        for code in self.codes:
            if columns[code.name].dtype == pl.String:
                columns[code.name] = parsed(columns[code.name], "number")
        return columns

    def _dense(self, rows: int, blocks: list[Cells], dtype: Any) -> Array:
        out, first = np.zeros((rows, self.width), dtype), 0
        for column, cells in zip(self.used, blocks, strict=True):
            indices = np.broadcast_to(cells.indices, cells.values.shape)
            np.put_along_axis(out[:, first : first + column.width], indices, cells.values, axis=1)
            first += column.width
        return out

    def _sparse(self, rows: int, blocks: list[Any], dtype: Any) -> Any:
        """Return CSR: the cells of all columns at once, then the texts."""
        from scipy.sparse import csr_array, hstack

        positions, values, texts, first = [np.empty((rows, 0), np.int64)], [np.empty((rows, 0), dtype)], [], 0
        for column, block in zip(self.used, blocks, strict=True):
            if isinstance(block, Cells):
                positions.append(np.broadcast_to(block.indices, block.values.shape) + first)
                values.append(block.values.astype(dtype))
                first += column.width
            else:
                texts.append(block.astype(dtype))
        indices, cells = np.hstack(positions), np.hstack(values)
        there = cells != 0
        starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        fixed = csr_array((cells[there], indices[there].astype(np.int32), starts), shape=(rows, first))
        return hstack([fixed, *texts], format="csr") if texts else fixed


# --- reports --------------------------------------------------------------------------------------------


def rows_of_columns(
    encoding: Encoding, frame: pl.DataFrame, found: FoundWritings | None
) -> list[dict[str, Any]]:
    """Return a row for each column, in JSON's types: kind, treatment, missing values and more.

    frame : the table to learn from; found : of the texts of the table
    """
    rows = []
    for column, series in zip(encoding.columns, frame.get_columns(), strict=True):
        # By NumPy, which has NaN for null: an expression of polars takes 250 us a column.
        is_float = series.dtype.is_float()
        missing = np.isnan(series.to_numpy()).sum() if is_float else series.null_count()
        doubt = None if found is None else found.doubts.get(column.name)
        rows.append({
            "name": column.name,
            "kind": column.kind,
            "done": encoding.summary(column),
            "missing": int(missing),
            "levels": len(column.levels) if isinstance(column, Category) else None,
            "example": None if found is None else found.examples.get(column.name),
            "doubt": None if doubt is None else [*doubt],
        })  # fmt: skip
    return rows


def in_doubt(rows: list[dict[str, Any]]) -> str:
    """Return the dropped and the doubtful columns of `rows_of_columns` in a line; "" for none."""
    said: dict[str, list[str]] = {"left out": [], "in doubt": []}
    for row in rows:
        is_out = row["kind"] == Dropped.kind
        reasons = [row["done"]] * (is_out and row["done"] != Dropped.reason)
        if row["doubt"] is not None:
            reason, kind, shown = row["doubt"]
            said_by = f": columns={{{row['name']!r}: ({kind!r}, {shown!r})}} says it" if shown else ""
            reasons.append(f"{reason}{said_by}")
        if reasons:
            said["left out" if is_out else "in doubt"].append(f"{row['name']!r} ({'; '.join(reasons)})")
    return "; ".join(
        f"columns {what}: {', '.join(names[:MOST_NAMED])}"
        + f", and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED)
        for what, names in said.items()
        if names
    )


# --- codes -------------------------------------------------------------------------------------------------

ROWS_TESTED = 50_000  # rows of the test, drawn at random: even spaces in a periodic table may miss codes
LEAST_CODES, ROWS_OF_A_CODE = 10, 5  # fewest codes of a column, and fewest rows of half of the codes
CERTAIN = 7.0  # deviations of chance that the mean squared jump must exceed
LARGEST = 9.0  # most of a squared jump in squared deviations: a single far target is no sign
WORTH, PART = 0.05, 0.15  # least explained variance, of the targets and of all that the numbers explain
ALPHA = 1e-3  # of the ridge regression: a large penalty would leave jumps of other columns in the residuals
LEAST_LEFT = 0.01  # least fraction of a target's variance in the residuals

CORRELATED = 35 / 9
"""Variance of the mean of n squared second differences of noise over the mean's square, times n:
2 (1 + 2 r^2 + 2 s^2) with the correlations r = -2/3 of neighbours and s = 1/6 of the next ones."""


def with_codes(
    encoding: Encoding,
    frame: pl.DataFrame,
    targets: Targets,
    given: Collection[str] = (),
    levels: int | None = None,
) -> Encoding:
    """Return an encoding with categories beside the columns of numbers that are codes.

    The targets must jump, and so must the residuals of a ridge regression on all columns: other columns may
    say the same linearly, as the width of lots says the street.

    frame, levels, targets : as for `Encoding.learned`; given : names of columns that are numbers only
    """
    some = np.arange(len(frame))
    if len(some) > ROWS_TESTED:
        some = np.sort(np.random.default_rng(0).choice(some, ROWS_TESTED, replace=False))
    drawn, left = frame[some], np.column_stack([column[some] for column in targets.columns()])
    names = [one.name for one in encoding.columns if isinstance(one, Number) and one.name not in given]
    names = [name for name in names if are_codes(numbers(drawn[name]), left)]
    if names:
        from sklearn.linear_model import Ridge

        X = encoding.linear.encoded(drawn)
        left = left - Ridge(ALPHA, solver="lsqr").fit(X, left).predict(X).reshape(left.shape)
        left[:, left.var(axis=0) < LEAST_LEFT] = 0
    codes = []
    for name in names:
        if are_codes(numbers(drawn[name]), left):
            # The number itself is missing already where a code is missing.
            code = replace(Category.learned(frame[name], levels or MOST_LEVELS), missing=False)
            codes.append(code if levels else with_means(code, frame[name], targets))
    return replace(encoding, codes=tuple(codes))


def are_codes(values: Array, targets: Array) -> bool:
    """Return True for whole numbers (rows,) with jumps of a target; NaN are left out.

    targets : (rows, n), at least one with jumps
    """
    known = np.isfinite(values)
    different, indices, rows = np.unique(values[known], return_inverse=True, return_counts=True)
    if (different % 1).any() or len(different) < LEAST_CODES or np.median(rows) < ROWS_OF_A_CODE:
        return False
    return any(_jumps(indices, rows, target) for target in targets[known].T)


def _jumps(indices: Array, rows: Array, target: Array) -> bool:
    """Return True if a target's mean jumps from number to number by more than chance.

    Chance is that of independent rows; rows of a group, as of a day, make jumps, too.

    indices : of the rows of target, ascending with the numbers; rows : of each index
    """
    target = (target - target.mean()) / (target.std() or 1.0)
    sums = np.bincount(indices, target)
    means = sums / rows
    within = max(1e-12, (np.square(target).sum() - (sums * means).sum()) / (len(target) - len(rows)))
    chance = within / rows
    jumps = np.square(means[1:-1] - (means[:-2] + means[2:]) / 2)
    expected = chance[1:-1] + (chance[:-2] + chance[2:]) / 4
    ratio = np.minimum(jumps / expected, LARGEST).mean()
    if ratio < 1 + CERTAIN * np.sqrt(CORRELATED / len(jumps)):
        return False
    weights = 1 / np.square(expected)
    excess = float(((jumps - expected) * weights).sum() / weights.sum())
    between = max(0.0, excess) / 1.5  # the sum of the squares of 1/2, 1 and 1/2
    beyond = float((rows * between**2 / (between + chance)).sum() / len(target))
    whole = float((rows * np.square(means)).sum() - within * len(rows)) / len(target)
    return min(beyond, whole) > WORTH and beyond > PART * whole
