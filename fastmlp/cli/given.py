"""What the commands share of what they are given: names to choose from, and the errors for mistakes."""

from __future__ import annotations

DTYPES = ("float32", "float64")


class Mistake(Exception):
    """What the user asked for cannot be done."""

    code = 2
    """The exit code."""


class BadFile(Mistake):
    """A file that the user named cannot be used: the table or the model in it, or the file itself."""

    code = 3


def widths(text: str) -> list[int]:
    """Return the units of hidden layers, from text like 128,64 or none; ValueError if it is not like that."""
    if text == "none":
        return []
    try:
        return [int(width) for width in text.split(",")]
    except ValueError:
        raise ValueError(f"hidden must be widths like 128,64 or none, got {text!r}") from None
