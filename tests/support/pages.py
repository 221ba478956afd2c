"""The pages of docs/ and README.md as programs: their code blocks, and a process that runs them."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from support.processes import python

ROOT = Path(__file__).parents[2]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# file: (\S+)\n")

MADE = (".git", "*_cache", "__pycache__", "*.egg-info", "build", "dist", "gallery", "prebuilt")
"""Names of what a checkout has besides its sources, which no copy for a test takes."""


def copy(source, target):
    """Copy a folder of the checkout without what was made there; return the target."""
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns(*MADE))


class Block(NamedTuple):
    """A code block. file : what its first line names it, None if it is part of the page's script"""

    language: str
    text: str
    file: str | None


def text_of(page):
    """A page by its path from the root, as "docs/exchange.md"."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, *languages):
    """The blocks of a page in their order, all or those of some languages."""
    found = BLOCK.findall(text_of(page))
    return [
        Block(language, text, match[1] if (match := FILE.match(text)) else None)
        for language, text in found
        if not languages or language in languages
    ]


def script(page):
    """The Python blocks of a page that are no files, joined."""
    return "\n".join(block.text for block in blocks(page, "python") if block.file is None)


def run(page, folder, checks=""):
    """Run a page's script, and checks of what it defines, in a process of its own; return what it prints.

    What a page registers or switches on is nobody else's. Its files lie in the folder, where it runs.
    """
    for block in blocks(page, "python"):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    paths = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    code = script(page) + checks
    return python("-W", "error", "-c", code, cwd=folder, PYTHONPATH=paths, MPLBACKEND="agg").stdout
