"""The inner loop of a slot in machine code: assembly, LLVM's language, and llvm-mca's reading.

A separate process compiles the slot without the disk cache and makes Numba print all machine code: lazy
functions in LLVM's language have no dispatcher.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import llvmlite.binding

from fastmlp.lab.slot_times import SlotRow, kernel_of

DUMPS = {"asm": "NUMBA_DUMP_ASSEMBLY", "ir": "NUMBA_DUMP_OPTIMIZED"}
"""Environment variables for printing each kind of text from Numba."""

HEADING = re.compile(r"^-*(?:ASSEMBLY|OPTIMIZED DUMP) ([^\s(-]+)")

ARITHMETIC = {
    "asm": re.compile(
        r"^\s+(v?f?n?m(add|sub|ul|in|ax)|v?(add|sub|mul|div|max|min|sqrt)[ps][sd]|fml|fmadd|f(add|mul|div))"
    ),
    "ir": re.compile(r"llvm\.(fma|fmuladd)|= f(add|sub|mul|div) "),
}
PACKED = re.compile(r"v?\w+p([sd])\s.*%([xyz])mm")
REGISTER_BYTES = {"x": 16, "y": 32, "z": 64}
LANES = {"asm": re.compile(r"\.(\d+)[hsd]\b"), "ir": re.compile(r"<(\d+) x \w+>")}
"""Patterns of a vector of ARM's, and of LLVM's."""

LABEL = {"asm": re.compile(r"^(\.LBB\w+):"), "ir": re.compile(r"^([\w.$\"-]+):")}
BACK = {
    "asm": re.compile(r"^\s+(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\s.*?(\.LBB\w+)"),
    "ir": re.compile(r"label %([\w.$\"-]+)(?=[,\s]|$)"),
}

KNOWN_CPUS = ("icelake-server", "znver3", "native")
"""Stand-ins for hosts unknown to llvm-mca: the same instruction sets, ports not quite."""

RELEASES = range(16, 30)
"""Versions of LLVM with every such processor, in Debian's program names."""

WHERE = "Debian's packages llvm-16 and later have it"


class Loop(NamedTuple):
    """An innermost loop of Numba's function `function`.

    arithmetic : the count of floats computed in a round. A scalar loop beside the loop of vectors, which LLVM
        keeps if arrays may overlap, has more instructions, and computes less
    """

    function: str
    lines: list[str]
    arithmetic: int


def hottest(row: SlotRow, variant: str, path: str | None, kind: str) -> Loop | None:
    """Return a slot's innermost loop of most arithmetic; None without a loop."""
    found = list(loops(_dump(row, variant, path, kind), kind))
    return max(found, key=lambda loop: loop.arithmetic, default=None)


def _dump(row: SlotRow, variant: str, path: str | None, kind: str) -> str:
    plain = row.slot, row.case, tuple(row.sizes), row.dtype
    code = f"from fastmlp.lab.assembly import call; call({variant!r}, {path!r}, {plain!r})"
    environment = {**os.environ, "FASTMLP_CACHE": "0", DUMPS[kind]: "1"}
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


def loops(text: str, kind: str) -> Iterator[Loop]:
    """Yield the innermost loops of all printed functions."""
    function, lines = "", list[str]()
    for line in [*text.splitlines(), "=" * 80]:
        if heading := HEADING.match(line):
            function, lines = heading[1], []
        elif line.startswith("=" * 80):
            if function != "nrt":
                yield from loops_of(function, lines, kind)
            lines = []
        else:
            lines.append(line)


def loops_of(function: str, lines: list[str], kind: str) -> Iterator[Loop]:
    """Yield the innermost loops of a function."""
    indices: dict[str, int] = {}
    last_end = -1
    for index, line in enumerate(lines):
        if label := LABEL[kind].match(line):
            indices[label[1]] = index
        targets = BACK[kind].findall(line)
        begins = [indices[target] for target in targets if target in indices]
        # A jump back past the end of an earlier loop closes a loop around the earlier loop.
        if begins and max(begins) > last_end:
            body = lines[max(begins) : index + 1]
            last_end = index
            yield Loop(function, body, sum(lanes(line, kind) for line in body))


def lanes(line: str, kind: str) -> int:
    """Return how many floats an instruction computes: 0 if not arithmetic, 1 if scalar."""
    if not ARITHMETIC[kind].search(line):
        return 0
    if kind == "asm" and (packed := PACKED.search(line)):
        return REGISTER_BYTES[packed[2]] // {"s": 4, "d": 8}[packed[1]]
    found = LANES[kind].search(line)
    return int(found[1]) if found else 1


def tool() -> str | None:
    """Return the newest installed llvm-mca; None if older than RELEASES, which know Zen 4."""
    names = (f"llvm-mca-{release}" for release in reversed(RELEASES))
    if newest := next(filter(None, map(shutil.which, names)), None):
        return newest
    plain = shutil.which("llvm-mca")
    return plain if plain and _release(plain) >= RELEASES[0] else None


@functools.cache
def _release(program: str) -> int:
    """Return a program's release of LLVM; 0 if unknown."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)", done.stdout)
    return int(found[1]) if found else 0


def run(program: str, loop: Loop, cpu: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run llvm-mca on a loop, without directives and labels."""
    plain = "\n".join(line for line in loop.lines if not re.match(r"^\s+\.", line)) + "\n"
    command = [program, f"-mcpu={cpu}", *options]
    return subprocess.run(command, input=plain, capture_output=True, text=True, check=False)


def reading(loop: Loop) -> str | None:
    """Return llvm-mca's report on a loop; None where llvm-mca is not installed."""
    program = tool()
    if program is None:
        return None
    # An older release may not know the host, and reads for another CPU.
    for cpu in (llvmlite.binding.get_host_cpu_name(), *KNOWN_CPUS):
        done = run(program, loop, cpu, "-iterations=100")
        if done.returncode == 0 and "error:" not in done.stderr:
            return f"llvm-mca, as for {cpu}:\n{done.stdout}"
    return f"llvm-mca: {done.stderr.strip().splitlines()[0]}"
