"""What llvm-mca says of the inner loops of register tiles, for processors that are not at hand.

Separate from `benchmarks.ports`, whose command prints it: nothing runs here. Tiles are compiled for each
processor by a process of its own, whatever this machine is.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

from fastmlp.lab import assembly

AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma"
AVX512 = f"{AVX2},+f16c,+avx512f,+avx512vl,+avx512dq,+avx512bw"

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


class Kind(NamedTuple):
    """A kind of processor.

    triple, features : LLVM's names of its system and features
    fmas, loads : vectors, of the width that tiles have there, that it multiplies and adds, and loads, a cycle
    latency : cycles from a multiply-add to the next of its chain
    instructions : that it takes in a cycle, where llvm-mca has no model of it; else 0
    """

    triple: str
    features: str
    fmas: int
    loads: int
    latency: int = 4
    instructions: int = 0


CPUS = {
    "haswell": Kind(X86, AVX2, 2, 2, latency=5),
    "alderlake": Kind(X86, AVX2, 2, 3),
    "znver3": Kind(X86, AVX2, 2, 2),
    "znver4": Kind(X86, AVX512, 1, 2),
    "skylake-avx512": Kind(X86, AVX512, 2, 2),
    "neoverse-n1": Kind(ARM, "+neon", 2, 2),
    "neoverse-v1": Kind(ARM, "+neon,+sve", 4, 3),
    "neoverse-v2": Kind(ARM, "+neon,+sve", 4, 3, latency=2),
    "apple-m1": Kind(ARM, "+neon", 4, 3, instructions=8),
}

MULTIPLY_ADD = re.compile(r"\tv?fm(?:add\d+p|la\t)")
STORE = re.compile(r"\t(?:vmov[au]p[sd]\s+%[xyz]mm\d+, .*\(|st(?:[rp]|1[wd])\s.*\b[qz]\d+.*\[)")
STACK = re.compile(r"%rsp|\[sp\b")

ROUNDS = 500
"""Rounds of llvm-mca: many, so that the first few count for little."""


class Tile(NamedTuple):
    """A register tile: its kind, `microkernel.KINDS`, rows, and vectors across."""

    kind: str
    rows: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.kind} {self.rows}x{self.vectors}"


def tiles() -> list[Tile]:
    """Return the tiles that are compiled for this process's machine."""
    from fastmlp.kernels.gemm import microkernel

    return [
        Tile(kind, rows, vectors)
        for kind, tiles in microkernel.ALL_TILES.items()
        for vectors, heights in enumerate(tiles.shapes, 1)
        for rows in heights
    ]


ELSEWHERE = """
import sys
from llvmlite import binding
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
binding.get_process_triple = lambda: sys.argv[1]  # no variable of Numba's names the system
from benchmarks.predicted_tiles import tell_assembly
tell_assembly()
"""


def tell_assembly() -> None:
    """Print the assembly of every tile, in float32, as JSON."""
    from numba import types

    from fastmlp.kernels.gemm import microkernel
    from fastmlp.kernels.jit.lazy import assembly_of_function

    taken, listed = microkernel.taken_by(types.float32), []
    for tile in tiles():
        made = microkernel.ALL_TILES[tile.kind]
        code = str(made.code(tile.rows, tile.vectors, True))
        listed.append([tile, assembly_of_function(made.name, taken, code)])
    print(json.dumps(listed))


def loops_for(cpu: str) -> dict[Tile, assembly.Loop]:
    """Return the inner loop of every tile for a processor, compiled by a process of its own."""
    triple, features = CPUS[cpu][:2]
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "FASTMLP_CACHE": "0"}
    command = [sys.executable, "-c", ELSEWHERE, triple]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    found = {}
    for tile, text in json.loads(done.stdout):
        loops = assembly.loops_of("tile", text.splitlines(), "asm")
        # A loop over tiles of a depth of 0 multiplies too, where it ends them.
        found[Tile(*tile)] = max((loop for loop in loops if not stores(loop)), key=multiply_adds)
    return found


def multiply_adds(loop: assembly.Loop) -> int:
    """Return how many multiply-adds of vectors a loop in assembly has."""
    return sum(bool(MULTIPLY_ADD.search(line)) for line in loop.lines)


def stores(loop: assembly.Loop) -> bool:
    """Return whether a loop in assembly stores vectors, but on the stack."""
    return any(STORE.search(line) and not STACK.search(line) for line in loop.lines)


def mca_cycles(loop: assembly.Loop, cpu: str, triple: str = "") -> float:
    """Return the cycles of a loop's round on a processor, by llvm-mca; ValueError where it cannot say.

    triple : of another system, by LLVM's name
    """
    program = assembly.tool()
    if program is None:
        raise ValueError(f"llvm-mca is not installed: {assembly.WHERE}")
    of_system = [f"-mtriple={triple}"] if triple else []
    done = assembly.run(program, loop, cpu, f"-iterations={ROUNDS}", "-json", *of_system)
    # llvm-mca takes an unknown processor for another, and says so.
    if done.returncode or "not a recognized processor" in done.stderr:
        first = (done.stderr.strip().splitlines() or ["says nothing"])[0]
        raise ValueError(f"{program} for {cpu}: {first}")
    (region,) = json.loads(done.stdout)["CodeRegions"]
    total: int = region["SummaryView"]["TotalCycles"]
    return total / ROUNDS


def cycles(loop: assembly.Loop, cpu: str, rounds: float) -> float:
    """Return the cycles that a loop takes on a processor: by llvm-mca, or by its instructions and ports."""
    kind = CPUS[cpu]
    if not kind.instructions:
        return mca_cycles(loop, cpu, kind.triple)
    lines = [line.strip() for line in loop.lines if re.match(r"\t\w", line)]
    loads = sum(line.startswith("ld") for line in lines) / kind.loads
    return max(multiply_adds(loop) / kind.fmas, loads, len(lines) / kind.instructions, kind.latency * rounds)


def bound(tile: Tile, kind: Kind) -> float:
    """Return the cycles that a round of k takes at least: its multiply-adds, its loads, or one's latency."""
    return max(tile.rows * tile.vectors / kind.fmas, (tile.rows + tile.vectors) / kind.loads, kind.latency)


def predicted(cpus: list[str]) -> list[str]:
    """Return the table of what llvm-mca predicts for some of CPUS."""
    if assembly.tool() is None:
        return [f"llvm-mca is not installed, so nothing is predicted: {assembly.WHERE}"]
    lines = [
        "cycles of a round of k by llvm-mca, at least by the ports, and how many times that",
        heading("tile", *cpus),
    ]
    cells: dict[Tile, dict[str, str]] = {}
    for cpu in cpus:
        for tile, loop in loops_for(cpu).items():
            # LLVM has written out several rounds where a tile is small.
            rounds = multiply_adds(loop) / (tile.rows * tile.vectors)
            taken, least = cycles(loop, cpu, rounds) / rounds, bound(tile, CPUS[cpu])
            cells.setdefault(tile, {})[cpu] = f"{taken:.2f} / {least:.3g} = {taken / least:.2f}"
    return [*lines, *(row(tile, *(found.get(cpu, "") for cpu in cpus)) for tile, found in cells.items())]


def heading(*names: str) -> str:
    """Return the first two lines of a table."""
    return f"{row(*names)}\n|{'---|' * len(names)}"


def row(*cells: object) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"
