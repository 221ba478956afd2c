"""How much of the FMA ports register tiles use, predicted and measured: python -m benchmarks.ports [PART ..].

tiles: what llvm-mca says of each tile's inner loop on three kinds of processors, against the bound of their
ports. It is compiled for each of them, so that a machine that is not at hand can be tuned for. LLVM's tools
are needed. hot: this machine's tiles on operands in L1, in L2 and beyond, by depth. edges: whole products by
width and depth. Shares are of what independent multiply-adds in registers reach, by turns, on one core.
"lanes" is the share of their vectors that so many columns fill.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels.codegen.machine import host
from fastmlp.lab import assembly
from fastmlp.lab.timing import in_alternation, once
from fastmlp.model.layout import aligned

AVX2 = "+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma"
AVX512 = f"{AVX2},+f16c,+avx512f,+avx512vl,+avx512dq,+avx512bw"


class Kind(NamedTuple):
    """A kind of processor: LLVM's names of its features; vectors, of the width that tiles have there, that it
    multiplies and adds, and loads, in a cycle."""

    features: str
    fmas: int
    loads: int


CPUS = {"znver3": Kind(AVX2, 2, 2), "znver4": Kind(AVX512, 1, 2), "skylake-avx512": Kind(AVX512, 2, 2)}

STORE = re.compile(r"vmov[au]p[sd]\s+%[xyz]mm\d+, .*\(")

LATENCY = 4
"""Cycles from a multiply-add to the next of its chain, on all of them."""

DEPTHS = 32, 64, 128, 256, 784, 2048
WIDTHS = 128, 112, 100, 96, 64, 48
ROWS = 128

LEVELS = {"L1": 30 << 10, "L2": 1 << 19, "beyond": 1 << 26}
"""Bytes of the operands that a tile walks through."""

VECTOR_BYTES = host().vector_bytes

WINDOW = 2e-4
"""Seconds of one measurement: short enough that a share is of the clock of its moment."""


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


# --- predicted --------------------------------------------------------------------------------------


def tell_assembly() -> None:
    """Print the assembly of every tile, in float32, as JSON."""
    from numba import types

    from fastmlp.kernels.gemm import microkernel
    from fastmlp.kernels.jit.lazy import assembly_of_piece

    taken, told = microkernel.taken_by(types.float32), []
    for tile in tiles():
        made = microkernel.ALL_TILES[tile.kind]
        code = str(made.code(tile.rows, tile.vectors, True))
        told.append([tile, assembly_of_piece(made.name, taken, code)])
    print(json.dumps(told))


def loops_for(cpu: str) -> dict[Tile, assembly.Loop]:
    """Return the inner loop of every tile for a processor, compiled by a process of its own."""
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": CPUS[cpu].features, "FASTMLP_CACHE": "0"}
    command = [sys.executable, "-m", "benchmarks.ports", "--assembly"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    found = {}
    for tile, text in json.loads(done.stdout):
        loops = assembly.loops_of("tile", text.splitlines(), "asm")
        # A loop over tiles of a depth of 0 multiplies too, where it ends them.
        found[Tile(*tile)] = max((loop for loop in loops if not stores(loop)), key=multiply_adds)
    return found


def multiply_adds(loop: assembly.Loop) -> int:
    """Return how many multiply-adds of vectors a loop in assembly has."""
    return sum("vfmadd" in line for line in loop.lines)


def stores(loop: assembly.Loop) -> bool:
    """Return whether a loop in assembly stores vectors, but on the stack."""
    return any(STORE.search(line) and "%rsp" not in line for line in loop.lines)


def bound(tile: Tile, kind: Kind) -> float:
    """Return the cycles that a round of k takes at least: its multiply-adds, its loads, or one's latency."""
    return max(tile.rows * tile.vectors / kind.fmas, (tile.rows + tile.vectors) / kind.loads, LATENCY)


def predicted() -> list[str]:
    """Return the table of what llvm-mca predicts."""
    if assembly.tool() is None:
        return [f"llvm-mca is not installed, so nothing is predicted: {assembly.WHERE}"]
    lines = [
        "cycles of a round of k by llvm-mca, at least by the ports, and how many times that",
        heading("tile", *CPUS),
    ]
    cells: dict[Tile, dict[str, str]] = {}
    for cpu, kind in CPUS.items():
        for tile, loop in loops_for(cpu).items():
            # LLVM has written out several rounds where a tile is small.
            rounds = multiply_adds(loop) / (tile.rows * tile.vectors)
            taken, least = assembly.cycles(loop, cpu) / rounds, bound(tile, kind)
            cells.setdefault(tile, {})[cpu] = f"{taken:.2f} / {least:g} = {taken / least:.2f}"
    return [*lines, *(row(tile, *(found.get(cpu, "") for cpu in CPUS)) for tile, found in cells.items())]


def heading(*names: str) -> str:
    """Return the first two lines of a table."""
    return f"{row(*names)}\n|{'---|' * len(names)}"


def row(*cells: object) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


# --- measured ---------------------------------------------------------------------------------------


class Work(NamedTuple):
    """A call, its operations (a multiply-add counts as two), and the same call without rows, if there is one.

    What the latter takes does not count: Python takes 0.5 to 1.1 us to reach compiled code, a product of
    128 x 32 x 128 takes 5 us.
    """

    call: Callable[[], object]
    operations: float
    empty: Callable[[], object] | None = None


def shares(works: dict[Any, Work], seconds: float) -> dict[Any, float]:
    """Return the share of the peak of each work, the median over turns; seconds : for each."""
    from fastmlp.lab.flushing import subnormals_flushed
    from fastmlp.lab.peak import window

    loop, operations = window("float32", VECTOR_BYTES, 20_000)

    def timed(work: Work) -> Callable[[], float]:
        call, _, empty = work
        count = max(1, int(WINDOW / max(once(call, clock), 1e-7)))

        def warm() -> float:
            call()  # after the others, which had the caches
            taken = once(lambda: [call() for _ in range(count)], clock)
            if empty is not None:
                taken -= once(lambda: [empty() for _ in range(count)], clock)
            loop()  # which brings the processor to the clock that it keeps for such work
            return taken / count / once(loop, clock)

        return warm

    clock = time.thread_time
    with subnormals_flushed():
        for call in (loop, *(work.call for work in works.values())):
            call()  # compiles
        taken = in_alternation({name: timed(work) for name, work in works.items()}, seconds)
    return {name: works[name].operations / operations / t.median for name, t in taken.items()}


def numbers(count: int) -> Any:
    """Return so many random float32 numbers, from a cache line on."""
    made = aligned(count, np.float32)
    made[...] = np.random.default_rng(0).standard_normal(count, np.float32)
    return made


@functools.cache
def operands() -> tuple[Any, Any, Any]:
    """Return memory for A of the largest level, a panel of B, and a result as large as A."""
    return numbers(LEVELS["beyond"] // 4), numbers(max(DEPTHS) * 64), numbers(LEVELS["beyond"] // 4)


def of_tile(tile: Tile, depth: int, level: str) -> Work | None:
    """Return stacks of a tile on operands of this level of the caches; None where a tile needs more.

    B is a packed panel. A is read by rows, or by columns where tiles of that kind do.
    """
    from fastmlp.lab.tiles import repeated

    width = tile.vectors * (VECTOR_BYTES // 4)
    count = (LEVELS[level] - 4 * depth * width) // (4 * tile.rows * (depth + width))
    if count < 1:
        return None
    rows = count * tile.rows
    by_columns = tile.kind == "depth"
    order = np.arange(max(rows, depth))
    times = max(1, int(2e-5 / (rows * width * depth / 1e11)))
    call = repeated(
        (tile.kind, tile.rows, tile.vectors), times, *operands()[:2], order, operands()[2],
        count=count, columns=width, depth=depth, a_row=4 if by_columns else 4 * depth,
        a_step=4 * rows if by_columns else 4, b_row=4 * width, c_row=4 * width,
    )  # fmt: skip
    return Work(call, 2.0 * times * rows * width * depth)


def measured_tiles(seconds: float) -> list[str]:
    """Return the table of the tallest tiles of each width by level and depth."""
    tallest = {(tile.kind, tile.vectors): tile for tile in sorted(tiles()) if tile.rows > 1}
    works = {
        (tile, level, depth): work
        for tile, level, depth in product(tallest.values(), LEVELS, DEPTHS)
        if (work := of_tile(tile, depth, level)) is not None
    }
    found = shares(works, seconds)

    def cell(*key: Any) -> str:
        return f"{found[key]:.2f}" if key in found else ""

    return [
        "share of the peak of stacks of tiles, by depth",
        heading("tile", "in", *map(str, DEPTHS)),
        *(
            row(tile, level, *(cell(tile, level, depth) for depth in DEPTHS))
            for tile, level in product(tallest.values(), LEVELS)
        ),
    ]


PRODUCTS = "affine", "weight_gradient", "input_gradient"


def of_product(slot: str, rows: int, n_in: int, n_out: int, ordered: bool = False) -> Work:
    """Return a layer's product as `packed` takes it; ordered : with the rows of x in an order."""
    from fastmlp.kernels.runtime.workspace import scratch_length
    from fastmlp.lab.rows import kernel_of

    kernel = kernel_of("packed", f"{slot}_rows")
    x, w, delta = numbers(rows * n_in), numbers(n_in * n_out), numbers(rows * n_out)
    x, w, delta = x.reshape(rows, n_in), w.reshape(n_in, n_out), delta.reshape(rows, n_out)
    scratch = aligned(scratch_length(max(n_in, n_out), rows, 4), np.float32)
    order = np.random.default_rng(0).permutation(rows) if ordered else np.empty(0, np.int64)
    small, none = np.float32(1e-6), np.float32(0)
    out, gate, below, sums = np.empty_like(delta), np.ones_like(x), np.empty_like(x), np.zeros_like(w)

    def of(x: Any, w: Any, delta: Any) -> Callable[[], object]:
        """The call with so many rows of these."""
        given = {
            "affine": (x, order, w, numbers(n_out), out, 0, len(x), True, scratch),
            "weight_gradient": (x, order, delta, w, 0, 0, len(w), True, small, none, sums, scratch),
            "input_gradient": (delta, w, gate, below, 0, len(delta), True, scratch),
        }[slot]
        return partial(kernel, *given)

    empty = {"affine": (x[:0], w, delta), "weight_gradient": (x[:0], w[:0], delta[:0])}
    operations = 2.0 * rows * n_in * n_out
    return Work(of(x, w, delta), operations, of(*empty.get(slot, (x, w[:0], delta[:0]))))


def measured_products(seconds: float) -> list[str]:
    """Return the table of products of ROWS rows by width and depth."""

    def of(slot: str, width: int, depth: int) -> Work:
        """The product whose result has `width` columns, each a sum of `depth` terms."""
        return {
            "affine": partial(of_product, slot, ROWS, depth, width),
            "weight_gradient": partial(of_product, slot, depth, ROWS, width),
            "input_gradient": partial(of_product, slot, ROWS, width, depth),
        }[slot]()

    works = {key: of(*key) for key in product(PRODUCTS, WIDTHS, DEPTHS)}
    found = shares(works, seconds)
    lanes = VECTOR_BYTES // 4
    filled = {width: width / (-(-width // lanes) * lanes) for width in WIDTHS}
    return [
        f"share of the peak of products of {ROWS} rows, by depth",
        heading("product", "columns", "lanes", *map(str, DEPTHS)),
        *(
            row(slot, width, f"{filled[width]:.2f}", *(f"{found[slot, width, d]:.2f}" for d in DEPTHS))
            for slot, width in product(PRODUCTS, WIDTHS)
        ),
    ]


PARTS: dict[str, Callable[[float], list[str]]] = {
    "tiles": lambda seconds: predicted(),
    "hot": measured_tiles,
    "edges": measured_products,
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ports", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seconds", type=float, default=0.05, help="for each measurement; default 0.05")
    parser.add_argument("--assembly", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; choose from: {', '.join(PARTS)}")
    if options.assembly:
        tell_assembly()
        return
    for part in options.parts or PARTS:
        print("\n".join(PARTS[part](options.seconds)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
