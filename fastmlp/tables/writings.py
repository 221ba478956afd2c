"""How people write numbers and dates: `Writing` reads the texts of a column, `writing_of` finds the writing.

A writing has an example of a number, as $1,234.50, or the format of a date, as %m/%d/%Y.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

from fastmlp import checks
from fastmlp.tables.columns import ISO, MOSTLY, moments, parsed
from fastmlp.tables.frames import TableError, frame_of, pl
from fastmlp.tables.tasks import MOST_CLASSES, Classification

HEAD_TEXTS = 100  # different texts at the head of a column that are looked at before all of them

CURRENCY = (
    r"[A-Z]{0,3}\p{Sc}|Rs\.?|kr\.?|Fr\.?|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|"
    r"SEK|SGD|TRY|USD|ZAR"
)
"""Currencies before a number."""

UNIT = r"\p{Sc}|[\p{L}%‰°µ][\p{L}%‰°µ²³/0-9.]{0,11}(?: \p{L}{1,11})?"
"""Units behind a number: a currency, per cent, at most two words."""

NUMBER = rf"^(-?)\+?\s*({CURRENCY}|)\s*(-?)\s*(\d[\d.,' ]*|[.,]\d+)(?:[eE][-+]?\d+)?\s*({UNIT}|)$"
"""A number: sign, currency, sign, digits with marks, unit."""

PLAIN = r"^-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?$"
"""A number as most files have it; of such texts alone no other writing is looked for, which takes long."""

MARKS = ((",", "."), (".", ","), (" ", ","), (" ", "."), ("'", "."), ("'", ","), ("", "."), ("", ","))
"""Marks of thousands and of decimals, in the order of trial."""

SURE = 50
"""Different numbers like 1,234 for thousands, beside whole numbers below 1000 without a mark.

Of decimals without zeros at the end, one in ten would have fewer than three digits (0.9 ** 50 = 0.005).
"""

CLOCK = r"^(-?)(?:(\d+) days?,? )?(\d+):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?(?: ?([AaPp])\.?[Mm]\.?)?$"
"""A duration or a time of day: sign, days, hours, minutes, seconds, AM or PM."""

UNIX = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
"""Units of a count from 1970 on, by the words for the format of a date."""

SINCE, UNTIL = 631_152_000, 4_102_444_800  # the begin of 1990 and of 2100 in UNIX seconds: the range of dates

OF_TIME = {"at", "created", "date", "datetime", "epoch", "time", "timestamp", "ts", "unix", "updated"}
"""Words in the name of a column of UNIX seconds."""

DAYS = (
    "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y-%m-%d", "%m/%d/%y",
    "%d/%m/%y", "%m-%d-%y", "%d-%m-%y", "%d.%m.%y", "%d %B %Y", "%d-%B-%Y", "%d/%B/%Y", "%d-%B-%y",
    "%B %d, %Y", "%B %d %Y", "%A, %d %B %Y", "%A, %B %d, %Y", "%B %Y", "%B-%Y", "%m/%Y", "%Y-%m",
    "%G-W%V-%u", "%G-W%V",
)  # fmt: skip
"""Formats of days to try."""

TIMES = ("", " %H:%M", " %H:%M:%S%.f", "T%H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p", " %I:%M%p", " %I:%M:%S%p")
"""Formats of times behind a day, with or without a comma."""

FIELDS = {
    **dict.fromkeys("YG", r"\d{4}"), **dict.fromkeys("yVMS", r"\d\d"), **dict.fromkeys("mdHI", r"\d\d?"),
    **dict.fromkeys("BA", "[A-Za-z]{3,9}"), "p": "[AaPp][Mm]", "u": "[1-7]", ".f": r"(?:\.\d+)?",
}  # fmt: skip
"""Regular expressions for the fields of DAYS and TIMES."""

KNOWN = re.compile(r"(?:[^%]|%(?:[YGymdejVuBbhAaHIkMSpP%]|\.f|#?z))+")
"""Formats for a user to give: the fields of chrono for a moment."""


@dataclass(frozen=True)
class Writing:
    """How the texts of a column are numbers or dates; ValueError for an unreadable writing.

    kind : number or date
    shown : an example of a number, as 1.234,50 EUR; formats of a date, joined by |, or a word of UNIX
    """

    column: str
    kind: str
    shown: str

    def __post_init__(self) -> None:
        checks.choice(f"kind that column {self.column!r} is written as", self.kind, ("number", "date"))
        says, is_sound = "a format like %m/%d/%Y, or seconds", self.shown in UNIX
        if self.kind == "number":
            says, is_sound = "an example like 1,234.50", bool(self._marks or re.search(CLOCK, self.shown))
        elif not is_sound:
            is_sound = "%" in self.shown and bool(KNOWN.fullmatch(self.shown))
        if not is_sound:
            raise ValueError(f"column {self.column!r} is said by {says}, got {checks.shown(self.shown)}")

    @property
    def is_told(self) -> bool:
        """Whether the writing is worth a word: no number as 1234.5, and no date of ISO 8601."""
        return self.shown != Marks().shown and not {*self.shown.split("|")} <= {*ISO}

    @cached_property
    def _marks(self) -> Marks | None:
        return None if re.search(CLOCK, self.shown) else Marks.of(self.shown)

    def read(self, series: pl.Series) -> pl.Series:
        """Return texts as Float64 or Datetime, null for another writing; other columns as they are.

        A count from 1970 on becomes dates.
        """
        if series.dtype in (pl.Categorical, pl.Enum):
            series = series.cast(pl.String)
        is_text = series.dtype == pl.String
        if self.shown in UNIX and (is_text or series.dtype.is_numeric()):
            seconds = series.cast(pl.Float64, strict=False) / UNIX[self.shown]
            seconds = seconds.set(~seconds.is_between(-UNTIL, UNTIL), None)
            return (seconds * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us"))
        if not is_text:
            return series
        if self.kind == "date":
            return moments(series, self.shown.split("|"))
        if self._marks == Marks() and _are_plain(series):
            return series.cast(pl.Float64)
        return self._marks.read(plain(series)) if self._marks else clock(plain(series), self.shown)


class Marks(NamedTuple):
    """The marks of a number besides the digits."""

    before: str = ""
    thousands: str = ""
    decimal: str = "."
    behind: str = ""

    @classmethod
    def of(cls, example: str) -> Marks | None:
        """Return the marks of an example; None for another text, and for marks in doubt, as in 1,234."""
        text = re.sub("[\u00a0\u202f\u2009]", " ", example).replace("\u2019", "'").strip(" ()")
        found = re.fullmatch(
            r"[-+]?((?:[^\d.,']|(?<=[A-Za-z])\.)*?)[-+]?(\d(?:[\d.,' ]*\d)?)((?:[^\d.,'].*)?)", text
        )
        if found is None or re.fullmatch(r"\d+[.,]\d{3}", found[2]):
            return None
        for thousands, decimal in MARKS[::-1]:
            if re.fullmatch(_digits(thousands, decimal), found[2]):
                return cls(found[1].strip(), thousands, decimal, found[3].strip())
        return None

    @property
    def shown(self) -> str:
        """The number 1234.5 with these marks."""
        before, behind = (" " * one.isalpha() for one in (self.before[-1:], self.behind[:1]))
        return f"{self.before}{before}1{self.thousands}234{self.decimal}50{behind}{self.behind}"

    def read(self, texts: pl.Series) -> pl.Series:
        """Return `plain` texts as Float64, null for other marks."""
        before, behind = (pl.escape_regex(one) for one in (self.before, self.behind))
        plural = "?" * (len(behind) > 3 and behind.endswith("s"))  # 1 day, 2 days
        digits = _digits(self.thousands, self.decimal)
        parts = texts.str.extract_groups(
            rf"^(-?)\+?\s*{before}\s*(-?)\s*({digits})((?:[eE][-+]?\d+)?)\s*{behind}{plural}$"
        ).struct.unnest()
        number = parts["3"].str.replace_all(f"[{self.thousands}]" if self.thousands else "^$", "")
        number = parts["1"] + parts["2"] + number.str.replace(self.decimal, ".", literal=True) + parts["4"]
        return number.cast(pl.Float64, strict=False).alias(texts.name)


def _digits(thousands: str, decimal: str) -> str:
    """Return the regular expression of digits with marks."""
    point, mark = f"[{decimal}]", f"[{thousands}]"
    whole = rf"(?:[1-9]\d{{0,2}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}|\d+)" if thousands else r"\d+"
    return rf"(?:{whole}(?:{point}\d*)?|{point}\d+)"


def plain(texts: Any) -> Any:
    """Return texts with a plain minus, space and apostrophe, and with a minus in place of brackets."""
    marks = {"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'"}
    texts = texts.str.replace_many([*marks], [*marks.values()]).str.strip_chars()
    return texts.str.replace(r"^\((.*\d.*)\)$", "-$1")  # accounting, below 0


def clock(texts: pl.Series, example: str) -> pl.Series:
    """Return durations and times of day in seconds, null for other fields than the example's."""
    parts = texts.str.extract_groups(CLOCK).struct.unnest()
    days, hours, minutes, seconds = (parts[index].cast(pl.Float64) for index in "2345")
    half, wanted = parts["6"].str.to_lowercase(), re.search(CLOCK, example)
    assert wanted is not None
    if wanted[6] is not None:
        hours = hours % 12 + 12 * (half == "p").cast(pl.Float64)
    whole = ((days.fill_null(0) * 24 + hours) * 60 + minutes) * 60 + seconds.fill_null(0)
    is_so = (seconds.is_null() == (wanted[5] is None)) & (half.is_null() == (wanted[6] is None))
    return whole.zip_with(parts["1"] == "", -whole).set(~is_so, None).alias(texts.name)


class Ambiguity(NamedTuple):
    """The doubt about texts like numbers or dates: the reason, and a writing that settles the doubt."""

    reason: str
    kind: str
    shown: str = ""


def writing_of(series: pl.Series, kind: str | None = None) -> Writing | Ambiguity | None:
    """Return the writing of a column's texts, a doubt, or None for texts besides numbers and dates.

    kind : number or date, to look for one kind only
    """
    found: Writing | Ambiguity | None = None
    for texts in (series[: 10 * HEAD_TEXTS].drop_nulls().unique(maintain_order=True)[:HEAD_TEXTS], series):
        texts = texts.drop_nulls().unique(maintain_order=True)
        if not len(texts):
            continue
        if isinstance(found, Writing) and not found.is_told and _are_plain(texts):
            break
        found = None if kind == "date" else _of_numbers(texts)
        if kind != "number" and not isinstance(found, Writing):
            found = _of_dates(texts) or found
        if found is None:
            break
    return found


def _of_numbers(values: pl.Series) -> Writing | Ambiguity | None:
    texts = plain(values)
    parts, is_clock = texts.str.extract_groups(NUMBER).struct.unnest(), texts.str.contains(CLOCK)
    fits = is_clock | parts["4"].is_not_null()
    if fits.mean() < MOSTLY or (is_clock.any() and not is_clock.all()):
        return None
    if not fits.all():
        strange = values.filter(~fits)
        example, other = checks.shown(values.filter(fits)[0]), checks.shown(strange[0])
        return Ambiguity(f"its texts are numbers, as {example}, but for {len(strange)}, as {other}", "number")
    if is_clock.all():
        has_gaps = clock(texts, texts[0]).null_count()
        return None if has_gaps else Writing(values.name, "number", texts[0])
    befores, behinds = (parts[index].unique().sort().to_list() for index in "25")
    if len(behinds) == 2 and len(behinds[0]) >= 3 and behinds[0] + "s" == behinds[1]:  # 1 day, 2 days
        behinds = behinds[1:]
    if len(befores) + len(behinds) > 3:
        return None
    if len(befores) + len(behinds) > 2:
        several = ", ".join(map(repr, filter(None, befores + behinds)))
        return Ambiguity(f"its numbers have several units, or some have none: {several}", "number")
    found = _marks_of(parts["4"].str.strip_chars(), befores[0], behinds[0])
    if len(found) == 1:
        return Writing(values.name, "number", found[0].shown)
    if not found:
        ways = f"^(?:{'|'.join(_digits(*marks) for marks in MARKS[:6])})$"
        is_code = parts["4"].str.contains(r"^0\d+$").any() or not parts["4"].str.contains(ways).all()
        return None if is_code else Ambiguity("its numbers are written in more than one way", "number")
    example = values.filter(parts["4"].str.contains(r"\d[.,]\d{3}"))[0]
    ways = " or ".join(marks.shown for marks in found)
    return Ambiguity(f"{checks.shown(example)} may be written as {ways}", "number", found[0].shown)


def _marks_of(digits: pl.Series, before: str, behind: str) -> list[Marks]:
    """Return the common marks of all digits; several marks are a doubt."""
    alike: list[tuple[pl.Series, list[Marks]]] = []
    for thousands, decimal in MARKS:
        values = Marks("", thousands, decimal).read(digits)
        if not values.null_count():
            group = next((group for other, group in alike if other.equals(values)), None)
            if group is None:
                alike.append((values, group := []))
            group.append(Marks(before, thousands, decimal, behind))
    groups = [group for _, group in alike]
    point, comma = Marks(before, "", ".", behind), Marks(before, "", ",", behind)
    has_point, has_comma = (any(one in group for group in groups) for one in (point, comma))
    if has_point and not before + behind:
        return [] if digits.str.contains(r"^0\d+$").any() else [point]  # 007 is a code
    if has_point and has_comma:  # whole numbers
        return [point]
    if len(groups) > 1:
        if has_comma and (before not in ("", "EUR", "\u20ac") or _are_thousands(digits)):
            return [comma._replace(thousands=",", decimal=".")]
        if has_point and not before and not re.fullmatch(r"[^\w\s%‰°]|[A-Z]{3}", behind):
            return [point]  # 1.234 kg
    return [group[0] for group in groups]


def _are_plain(texts: pl.Series) -> bool:
    return bool(texts.str.contains(PLAIN).all())


def _are_thousands(digits: pl.Series) -> bool:
    """Return whether enough numbers like 1,234 stand beside whole numbers below 1000."""
    has_mark = digits.str.contains(",", literal=True)
    marked, bare = digits.filter(has_mark), digits.filter(~has_mark)
    return len(marked) >= SURE and len(bare) > 0 and bool((bare.str.len_chars() <= 3).all())


def _of_dates(values: pl.Series) -> Writing | Ambiguity | None:
    forms: dict[str, int] = {}
    for text in values[:HEAD_TEXTS]:
        for form in _forms(text.strip()):
            forms[form] = forms.get(form, 0) + 1
    used, left = [], values
    for form in ISO:
        after = left.filter(moments(left, [form]).is_null())
        used += [form] * (len(after) < len(left))
        left = after
    if not len(left):
        return Writing(values.name, "date", "|".join(used))
    readings: dict[str, pl.Series] = {}
    mostly = None
    for form in sorted(forms, key=lambda one: forms[one]):
        found = moments(values, [form])
        strange = values.filter(found.is_null())
        if not len(strange):
            if not any(found.equals(other) for other in readings.values()):
                readings[form] = found
        elif found.count() >= MOSTLY * len(values):
            but = f"but for {len(strange)}, as {checks.shown(strange[0])}"
            mostly = Ambiguity(f"its texts are dates as {form}, {but}", "date", form)
    if len(readings) > 1:
        ways = " or ".join(readings)
        return Ambiguity(f"{checks.shown(values[0])} may be a date as {ways}", "date", next(iter(readings)))
    return Writing(values.name, "date", *readings) if readings else mostly


def _forms(text: str) -> list[str]:
    """Return the formats of a text that looks like a date."""
    found = re.search(r"(,?)((?:T| )\d{1,2}:.*)$", text)
    day, comma, time = (text, "", "") if found is None else (text[: found.start()], *found.groups())
    times = [comma + one for one in TIMES if _form(one).fullmatch(time)]
    return [one + two for one in DAYS if _form(one).fullmatch(day) for two in times]


@cache
def _form(form: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"%(\\\.f|\w)", lambda one: FIELDS[one[1].replace("\\", "")], re.escape(form)))


def unix_unit(series: pl.Series) -> Writing | None:
    """Return the writing of a count from 1970 on, if the column's name and all numbers say so."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", series.name)}
    if not words & OF_TIME or (low := series.min()) is None:
        return None
    for name, unit in UNIX.items():
        if low / unit >= SINCE and series.max() / unit <= UNTIL:
            return Writing(series.name, "date", name)
    return None


class FoundWritings(NamedTuple):
    """The writings found in the texts of a table to learn from.

    doubts : by column; examples : by column, a value before the reading
    target : the writing of the target, unless plain numbers
    """

    writings: tuple[Writing, ...]
    doubts: dict[str, Ambiguity]
    examples: dict[str, str]
    target: Writing | None


Given = Mapping[str, str | tuple[str, str]]
"""Kinds of columns by name, some with a writing."""


def as_written(
    frame: pl.DataFrame, target: pl.Series, given: Given, missing: Collection[str], task: str | None
) -> tuple[pl.DataFrame, pl.Series, FoundWritings]:
    """Return a table without the target, and the target, with numbers and dates for texts, and the writings.

    missing : texts for a missing number or date
    task : of the target; None for a guess by the values
    TableError for a given column of numbers or dates with another writing, or in doubt
    """
    columns, writings, doubts, examples = [], [], {}, {}
    for series in frame.get_columns():
        name = series.name
        if series.null_count() < len(series):
            known = series if series[0] is not None else series.drop_nulls()
            examples[name] = str(known[0])[:60]  # of free text the beginning
        read, found = _as_written(series, given.get(name), missing)
        if isinstance(found, Ambiguity):
            doubts[name] = found
        elif found is not None:
            writings.append(found)
        columns.append(read)
    of_target = None
    if task != Classification.name and target.dtype != pl.Struct:
        said = given.get(target.name)
        kind = None if task is None else "number"
        read, found = _as_written(target, said if isinstance(said, tuple) else kind, missing)
        is_few = task is None and read.n_unique() <= MOST_CLASSES
        if isinstance(found, Writing) and found.kind == "number" and found.is_told and not is_few:
            of_target, target = found, read
    return frame_of(columns), target, FoundWritings(tuple(writings), doubts, examples, of_target)


def _as_written(
    series: pl.Series, given: str | tuple[str, str] | None, missing: Collection[str]
) -> tuple[pl.Series, Writing | Ambiguity | None]:
    """Return a column with numbers or dates for texts, and the writing; else the column, and the doubt."""
    found: Writing | Ambiguity | None = None
    texts = without(series, missing)
    if isinstance(given, tuple):
        found = Writing(series.name, *given)
    elif given in (None, "number", "date") and series.dtype == pl.String:
        found = writing_of(texts, given)
    elif given in (None, "date") and series.dtype.is_numeric():
        found = unix_unit(series)
    if isinstance(found, Ambiguity) and given is not None:
        if not found.shown:
            return series, None  # the conversion to numbers names the row
        raise TableError(
            f"{found.reason}; say how it is written, as {checks.shown(found.shown)}", series.name
        )
    if not isinstance(found, Writing):
        return series, found
    read = found.read(texts)
    if read.null_count() > texts.null_count():
        parsed(texts, found.kind, f"the column is said to be written as {found.shown}", read)
    return read, found


def as_learned(
    frame: pl.DataFrame, writings: Sequence[Writing], missing: Collection[str] = ()
) -> tuple[pl.DataFrame, list[str]]:
    """Return a table read as in the training, and a line for each column of strange texts."""
    columns, lines = [], []
    there = {*frame.columns} if writings else set()
    for writing in writings:
        if writing.column in there:
            texts = without(frame[writing.column], missing)
            columns.append(read := writing.read(texts))
            if strange := read.null_count() - texts.null_count():
                example = checks.shown(texts.filter(read.is_null() & texts.is_not_null())[0])
                lines.append(
                    f"column {writing.column!r}: {strange} of {len(texts)} rows are not written as "
                    f"{writing.shown}, as {example}, and count as missing"
                )
    return frame.with_columns(columns), lines


def without(series: pl.Series, missing: Collection[str]) -> pl.Series:
    """Return texts with null for the texts of a missing value; other columns as they are."""
    if series.dtype != pl.String or not missing:
        return series
    return series.set(series.str.strip_chars().is_in([*missing]), None)
