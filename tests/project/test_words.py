"""Docstrings and pages are plain English: short first sentences, and nouns in place of pronouns."""

import ast
import inspect
import re
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
from support import pages
from support.selection import matrix

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent

ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
"""The folders of the package; "" is the modules beside them."""

MOST_WORDS = 10
"""The median of first sentences, up to a full stop, a colon or a semicolon."""

MOST = {
    ("one", "ones", "own"): 4,
    ("that", "which", "what", "whether", "whose"): 20,
    ("it", "they", "them", "their", "its", "others", "those"): 15,
}
"""Words that send the reader back, and the most of each group in a thousand words of docstrings."""

MOST_OF_PAGES = {("one", "ones", "own"): 6, ("that", "which", "what"): 12, ("it", "they", "its"): 12}
"""The same of README.md and docs/."""

NO_PROSE = r"^```.*?^```|^:::.*?$|``[^`]+``|`[^`]*`|(?<=\])\([^)]*\)"
"""Blocks of code, directives, code within sentences, and the targets of links."""


def docstrings(room):
    """The docstrings of a room's modules, classes, functions and attributes."""
    paths = sorted((PACKAGE / room).rglob("*.py") if room else PACKAGE.glob("*.py"))
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    values = [getattr(node.value, "value", None) for node in nodes if isinstance(node, ast.Expr)]
    return [inspect.cleandoc(value) for value in values if isinstance(value, str)]


def words(text):
    return re.findall(r"[A-Za-z][\w']*", text)


def first_sentence(text):
    return re.split(r"[.:;](?:\s|$)", text, maxsplit=1)[0]


def beyond(texts, most):
    """Return the groups of words with more in a thousand than allowed."""
    every = Counter(word.lower() for text in texts for word in words(text))
    counted = {group: 1000 * sum(every[word] for word in group) / every.total() for group in most}
    return {group: share for group, share in counted.items() if share > most[group]}


@matrix
@pytest.mark.parametrize("room", [*ROOMS, ""])
def test_first_sentences_are_short_and_nouns_are_repeated(room):
    texts = docstrings(room)
    assert median(len(words(first_sentence(text))) for text in texts) <= MOST_WORDS
    assert not beyond(texts, MOST)


def test_pages_repeat_nouns():
    paths = [*(pages.ROOT / "docs").rglob("*.md"), pages.ROOT / "README.md"]
    texts = [re.sub(NO_PROSE, " ", path.read_text(encoding="utf-8"), flags=re.M | re.S) for path in paths]
    assert not beyond(texts, MOST_OF_PAGES)
