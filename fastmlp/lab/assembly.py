"""The inner loop of a slot in machine code.

A separate process compiles the slot without the disk cache and makes Numba print all machine code: lazy
functions in LLVM's language have no dispatcher.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from fastmlp.lab.slot_times import SlotRow, kernel_of

HEADING = re.compile(r"^-*ASSEMBLY ([^\s(-]+)")

ARITHMETIC = re.compile(
    r"^\s+(v?f?n?m(add|sub|ul|in|ax)|v?(add|sub|mul|div|max|min|sqrt)[ps][sd]|fml|fmadd|f(add|mul|div))"
)
PACKED = re.compile(r"v?\w+p([sd])\s.*%([xyz])mm")
REGISTER_BYTES = {"x": 16, "y": 32, "z": 64}
LANES = re.compile(r"\.(\d+)[hsd]\b")
"""A vector of ARM's."""

LABEL = re.compile(r"^(\.LBB\w+):")
BACK = re.compile(r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s.*?(\.LBB\w+)")


class Loop(NamedTuple):
    """An innermost loop of Numba's function `function`.

    arithmetic : the count of floats computed in a round. A scalar loop beside the loop of vectors, which LLVM
        keeps if arrays may overlap, has more instructions, and computes less
    """

    function: str
    lines: list[str]
    arithmetic: int


def hottest(row: SlotRow, variant: str, path: str | None) -> Loop | None:
    """Return a slot's innermost loop of most arithmetic; None without a loop."""
    found = list(loops(_dump(row, variant, path)))
    return max(found, key=lambda loop: loop.arithmetic, default=None)


def _dump(row: SlotRow, variant: str, path: str | None) -> str:
    plain = row.slot, row.case, tuple(row.sizes), row.dtype
    code = f"from fastmlp.lab.assembly import call; call({variant!r}, {path!r}, {plain!r})"
    environment = {**os.environ, "FASTMLP_CACHE": "0", "NUMBA_DUMP_ASSEMBLY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{variant} {row} cannot be compiled: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def call(variant: str, path: str | None, row: tuple[str, str, tuple[int, int, int], str]) -> None:
    """Call a slot once, in a process with Numba's output of compiled code."""
    from fastmlp.backend.registry import register_file
    from fastmlp.testing.cases import Sizes

    if path is not None:
        register_file(path)
    slot, case, sizes, dtype = row
    kernel_of(variant, slot)(*SlotRow(slot, case, Sizes(*sizes), dtype).made().fresh())


def loops(text: str) -> Iterator[Loop]:
    """Yield the innermost loops of all printed functions."""
    function, lines = "", list[str]()
    for line in [*text.splitlines(), "=" * 80]:
        if heading := HEADING.match(line):
            function, lines = heading[1], []
        elif line.startswith("=" * 80):
            if function != "nrt":
                yield from loops_of(function, lines)
            lines = []
        else:
            lines.append(line)


def loops_of(function: str, lines: list[str]) -> Iterator[Loop]:
    """Yield the innermost loops of a function."""
    indices: dict[str, int] = {}
    last_end = -1
    for index, line in enumerate(lines):
        if label := LABEL.match(line):
            indices[label[1]] = index
        targets = BACK.findall(line)
        begins = [indices[target] for target in targets if target in indices]
        # A jump back past the end of an earlier loop closes a loop around the earlier loop.
        if begins and max(begins) > last_end:
            body = lines[max(begins) : index + 1]
            last_end = index
            yield Loop(function, body, sum(lanes(line) for line in body))


def lanes(line: str) -> int:
    """Return how many floats an instruction computes: 0 if not arithmetic, 1 if scalar."""
    if not ARITHMETIC.search(line):
        return 0
    if packed := PACKED.search(line):
        return REGISTER_BYTES[packed[2]] // {"s": 4, "d": 8}[packed[1]]
    found = LANES.search(line)
    return int(found[1]) if found else 1
