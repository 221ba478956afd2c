"""How people write numbers and dates: `Writing` reads the texts of a column, `writing_of` finds how.

A writing is known by what a person would give for it: an example of a number, as $1,234.50, or the format of
a date, as %m/%d/%Y.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from fastmlp import checks
from fastmlp.tables.arrays import frame_of
from fastmlp.tables.errors import TableError
from fastmlp.tables.tasks import MOST_CLASSES, Classification
from fastmlp.tables.texts import ISO, MOSTLY, moments, parsed

if TYPE_CHECKING:
    import polars as pl

HEAD = 100
"""Different texts at the head of a column that are looked at before all of them."""

CURRENCY = (
    r"[A-Z]{0,3}\p{Sc}|Rs\.?|kr\.?|Fr\.?|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|"
    r"SEK|SGD|TRY|USD|ZAR"
)
"""What may stand before a number."""

UNIT = r"\p{Sc}|[\p{L}%‰°µ][\p{L}%‰°µ²³/0-9.]{0,11}(?: \p{L}{1,11})?"
"""What may stand behind a number: a currency, per cent, a unit of at most two words."""

NUMBER = rf"^(-?)\+?\s*({CURRENCY}|)\s*(-?)\s*(\d[\d.,' ]*|[.,]\d+)(?:[eE][-+]?\d+)?\s*({UNIT}|)$"
"""A number as people write it: sign, currency, sign, digits with their marks, unit."""

MARKS = ((",", "."), (".", ","), (" ", ","), (" ", "."), ("'", "."), ("'", ","), ("", "."), ("", ","))
"""Marks of thousands and of decimals, in the order in which they are tried."""

SURE = 50
"""Different numbers as 1,234 that are thousands if whole numbers below 1000 stand beside them without a mark:
of decimals without zeros at their ends one in ten would have fewer than three (0.9 ** 50 = 0.005)."""

CLOCK = r"^(-?)(?:(\d+) days?,? )?(\d+):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?(?: ?([AaPp])\.?[Mm]\.?)?$"
"""A duration or a time of day: sign, days, hours, minutes, seconds, morning or afternoon."""

UNIX = {"seconds": 1, "milliseconds": 1_000, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
"""Units of numbers that count from 1970 on, by the words that stand for the format of a date."""

SINCE, UNTIL = 631_152_000, 4_102_444_800
"""Seconds at the beginnings of 1990 and 2100: numbers between them may be UNIX seconds."""

OF_TIME = {"at", "created", "date", "datetime", "epoch", "time", "timestamp", "ts", "unix", "updated"}
"""Words in the name of a column whose numbers may be UNIX seconds."""

DAYS = (
    "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y-%m-%d", "%m/%d/%y",
    "%d/%m/%y", "%m-%d-%y", "%d-%m-%y", "%d.%m.%y", "%d %B %Y", "%d-%B-%Y", "%d/%B/%Y", "%d-%B-%y",
    "%B %d, %Y", "%B %d %Y", "%A, %d %B %Y", "%A, %B %d, %Y", "%B %Y", "%B-%Y", "%m/%Y", "%Y-%m",
    "%G-W%V-%u", "%G-W%V",
)  # fmt: skip
"""Formats of days that are tried."""

TIMES = ("", " %H:%M", " %H:%M:%S%.f", "T%H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p", " %I:%M%p", " %I:%M:%S%p")
"""Formats of times that may stand behind a day, with or without a comma."""

FIELDS = {
    **dict.fromkeys("YG", r"\d{4}"), **dict.fromkeys("yVMS", r"\d\d"), **dict.fromkeys("mdHI", r"\d\d?"),
    **dict.fromkeys("BA", "[A-Za-z]{3,9}"), "p": "[AaPp][Mm]", "u": "[1-7]", ".f": r"(?:\.\d+)?",
}  # fmt: skip
"""What the fields of DAYS and TIMES look like."""

KNOWN = re.compile(r"(?:[^%]|%(?:[YGymdejVuBbhAaHIkMSpP%]|\.f|#?z))+")
"""Formats that a user may give: those of chrono that say a moment."""


@dataclass(frozen=True)
class Writing:
    """How the texts of a column are numbers or dates; ValueError if nobody could read that.

    kind : number or date
    shown : an example of a number, as 1.234,50 EUR; formats of a date, joined by |, or a word of UNIX
    """

    column: str
    kind: str
    shown: str

    def __post_init__(self) -> None:
        checks.choice(f"kind that column {self.column!r} is written as", self.kind, ("number", "date"))
        is_date = self.shown in UNIX or ("%" in self.shown and KNOWN.fullmatch(self.shown))
        says = {"number": "an example like 1,234.50", "date": "a format like %m/%d/%Y, or seconds"}[self.kind]
        if not (is_date if self.kind == "date" else self._marks or re.search(CLOCK, self.shown)):
            raise ValueError(f"column {self.column!r} is said by {says}, got {checks.shown(self.shown)}")

    @property
    def is_told(self) -> bool:
        """Whether there is something to tell: no number as 1234.5, and no date of ISO 8601."""
        return self.shown != Marks().shown and not {*self.shown.split("|")} <= {*ISO}

    @cached_property
    def _marks(self) -> Marks | None:
        return None if re.search(CLOCK, self.shown) else Marks.of(self.shown)

    def read(self, series: pl.Series) -> pl.Series:
        """Return texts as Float64 or Datetime, null where they are not written so; others as they are.

        Numbers that count from 1970 on become dates.
        """
        import polars as pl

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
        return self._marks.read(plain(series)) if self._marks else clock(plain(series), self.shown)


class Marks(NamedTuple):
    """What stands in a number besides its digits."""

    before: str = ""
    thousands: str = ""
    decimal: str = "."
    behind: str = ""

    @classmethod
    def of(cls, example: str) -> Marks | None:
        """Return the marks of an example; None if it is no number, or they are in doubt, as in 1,234."""
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
        """Return `plain` texts as Float64, null where they are not written so."""
        import polars as pl

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
    """Return what the digits of a number look like, as a regular expression."""
    point, mark = f"[{decimal}]", f"[{thousands}]"
    whole = rf"(?:[1-9]\d{{0,2}}(?:{mark}\d{{2,3}})*{mark}\d{{3}}|\d+)" if thousands else r"\d+"
    return rf"(?:{whole}(?:{point}\d*)?|{point}\d+)"


def plain(texts: Any) -> Any:
    """Return texts with one kind of minus, space and apostrophe, and with a minus in place of brackets."""
    marks = {"\u2212": "-", "\u2013": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'"}
    texts = texts.str.replace_many([*marks], [*marks.values()]).str.strip_chars()
    return texts.str.replace(r"^\((.*\d.*)\)$", "-$1")  # as accountants write what is below 0


def clock(texts: pl.Series, example: str) -> pl.Series:
    """Return durations and times of day in seconds, null where they have other fields than the example."""
    import polars as pl

    parts = texts.str.extract_groups(CLOCK).struct.unnest()
    days, hours, minutes, seconds = (parts[place].cast(pl.Float64) for place in "2345")
    half, wanted = parts["6"].str.to_lowercase(), re.search(CLOCK, example)
    assert wanted is not None
    if wanted[6] is not None:
        hours = hours % 12 + 12 * (half == "p").cast(pl.Float64)
    whole = ((days.fill_null(0) * 24 + hours) * 60 + minutes) * 60 + seconds.fill_null(0)
    is_so = (seconds.is_null() == (wanted[5] is None)) & (half.is_null() == (wanted[6] is None))
    return whole.zip_with(parts["1"] == "", -whole).set(~is_so, None).alias(texts.name)


class Ambiguity(NamedTuple):
    """Why texts are no numbers or dates though they look so; how they may be written, or nothing."""

    reason: str
    kind: str
    shown: str = ""


def writing_of(series: pl.Series, kind: str | None = None) -> Writing | Ambiguity | None:
    """Return how the texts of a column are written, a doubt, or None if they are no numbers and no dates.

    kind : number or date if they can be nothing else
    """
    found: Writing | Ambiguity | None = None
    for texts in (series[: 10 * HEAD].drop_nulls().unique(maintain_order=True)[:HEAD], series):
        texts = texts.drop_nulls().unique(maintain_order=True)
        if not len(texts):
            continue
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
    befores, behinds = (parts[place].unique().sort().to_list() for place in "25")
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
    """Return the marks that all numbers have, of digits with their marks; several if they are in doubt."""
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


def _are_thousands(digits: pl.Series) -> bool:
    """Whether numbers as 1,234 stand beside whole numbers below 1000, and are enough to tell."""
    has_mark = digits.str.contains(",", literal=True)
    marked, bare = digits.filter(has_mark), digits.filter(~has_mark)
    return len(marked) >= SURE and len(bare) > 0 and bool((bare.str.len_chars() <= 3).all())


def _of_dates(values: pl.Series) -> Writing | Ambiguity | None:
    forms: dict[str, int] = {}
    for text in values[:HEAD]:
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
    """Return the formats that a date may have by its looks."""
    found = re.search(r"(,?)((?:T| )\d{1,2}:.*)$", text)
    day, comma, time = (text, "", "") if found is None else (text[: found.start()], *found.groups())
    times = [comma + one for one in TIMES if _form(one).fullmatch(time)]
    return [one + two for one in DAYS if _form(one).fullmatch(day) for two in times]


@cache
def _form(form: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"%(\\\.f|\w)", lambda one: FIELDS[one[1].replace("\\", "")], re.escape(form)))


def unix_unit(series: pl.Series) -> Writing | None:
    """Return how numbers count from 1970 on if the name of the column and all of them say so."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", series.name)}
    if not words & OF_TIME or (low := series.min()) is None:
        return None
    for name, unit in UNIX.items():
        if low / unit >= SINCE and series.max() / unit <= UNTIL:
            return Writing(series.name, "date", name)
    return None


class FoundWritings(NamedTuple):
    """What was found of the texts of a table to learn from.

    doubts : by column; examples : of each column, a value as it was before
    target : how the target is written, if it is not a plain number
    """

    writings: tuple[Writing, ...]
    doubts: dict[str, Ambiguity]
    examples: dict[str, str]
    target: Writing | None


Given = Mapping[str, str | tuple[str, str]]
"""Kinds of columns by name, some with how their texts are written."""


def as_written(
    frame: pl.DataFrame, target: pl.Series, given: Given, missing: Collection[str], task: str | None
) -> tuple[pl.DataFrame, pl.Series, FoundWritings]:
    """Return a table without its target, and the target, read as they are written, and what was found.

    missing : texts that are no value of a number or a date
    task : of the target; None if its values shall suggest one

    Raises
    ------
    TableError
        If a column that is set to be of numbers or of dates is written in another way, or is in doubt.
    """
    import polars as pl

    columns, writings, doubts, examples = [], [], {}, {}
    for series in frame.get_columns():
        name = series.name
        if series.null_count() < len(series):
            examples[name] = str(series[series.is_not_null().arg_max()])[:60]  # of free text the beginning
        read, found = _as_written(series, given.get(name), missing)
        if isinstance(found, Ambiguity):
            doubts[name] = found
        elif found is not None:
            writings.append(found)
        columns.append(read)
    of_target = None
    if task != Classification.name and target.dtype != pl.Struct:
        told = given.get(target.name)
        kind = None if task is None else "number"
        read, found = _as_written(target, kind if told is None or isinstance(told, str) else told, missing)
        is_few = task is None and read.n_unique() <= MOST_CLASSES
        if isinstance(found, Writing) and found.kind == "number" and found.is_told and not is_few:
            of_target, target = found, read
    return frame_of(columns), target, FoundWritings(tuple(writings), doubts, examples, of_target)


def _as_written(
    series: pl.Series, given: str | tuple[str, str] | None, missing: Collection[str]
) -> tuple[pl.Series, Writing | Ambiguity | None]:
    """Return a column read as it is written, and how; the column as it is if that is in doubt or plain."""
    import polars as pl

    found: Writing | Ambiguity | None = None
    texts = without(series, missing)
    if given is not None and not isinstance(given, str):
        found = Writing(series.name, *given)
    elif given in (None, "number", "date") and series.dtype == pl.String:
        found = writing_of(texts, given)
    elif given in (None, "date") and series.dtype.is_numeric():
        found = unix_unit(series)
    if isinstance(found, Ambiguity) and given is not None:
        if not found.shown:
            return series, None  # what makes numbers of it names the row
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
    """Return a table with its texts read as those of the training, and in words what is not written so."""
    columns, lines = [], []
    there = {*frame.columns} if writings else set()
    for one in writings:
        if one.column in there:
            texts = without(frame[one.column], missing)
            columns.append(one.read(texts))
            if strange := columns[-1].null_count() - texts.null_count():
                example = checks.shown(texts.filter(columns[-1].is_null() & texts.is_not_null())[0])
                lines.append(
                    f"column {one.column!r}: {strange} of {len(texts)} rows are not written as {one.shown}, "
                    f"as {example}, and count as missing"
                )
    return frame.with_columns(columns), lines


def without(series: pl.Series, missing: Collection[str]) -> pl.Series:
    """Return texts with null in place of those that say that there is no value; other columns as they are."""
    import polars as pl

    if series.dtype != pl.String or not missing:
        return series
    return series.set(series.str.strip_chars().is_in([*missing]), None)
