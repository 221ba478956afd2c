"""How much of the FMA ports register tiles use, predicted and measured: python -m benchmarks.ports [PART ..].

tiles: what llvm-mca says of each tile's inner loop on x86 and ARM processors, against the bound of their
ports. It is compiled for each of them, so that a machine that is not at hand can be tuned for. LLVM's tools
are needed; `--cpus` chooses among the processors. llvm-mca knows apple-m1 by an older processor's model, so
its instructions are counted. hot: this machine's tiles on operands in L1, in L2 and beyond, by depth. edges:
whole products by width and depth. Shares are of what independent multiply-adds in registers reach, by turns,
on one core. "lanes" is the share of their vectors that so many columns fill.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from benchmarks.predicted_tiles import CPUS, Tile, heading, predicted, row, tiles
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import INT, POINTER
from fastmlp.kernels.codegen.vectors import counted
from fastmlp.kernels.gemm.microkernel import ALL_TILES, STORE, Stack, taken_by
from fastmlp.kernels.jit.lazy import compile_now, emitted
from fastmlp.lab.peak import lazy_call, window
from fastmlp.lab.timing import in_alternation, once
from fastmlp.model.layout import aligned

DEPTHS = 32, 64, 128, 256, 784, 2048
WIDTHS = 128, 112, 100, 96, 64, 48
ROWS = 128

LEVELS = {"L1": 30 << 10, "L2": 1 << 19, "beyond": 1 << 26}
"""Bytes of the operands that a tile walks through."""

VECTOR_BYTES = host().vector_bytes

WINDOW = 2e-4
"""Seconds of one measurement: short enough that a share is of the clock of its moment."""


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
    from fastmlp.lab.slot_times import subnormals_flushed

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


TAKEN = taken_by(types.float32)


def emit_repeated(build: Any, arguments: Any, kinds: Any, code: int) -> None:
    """Write the calls of a stack. arguments : address, words of arguments, number of calls"""
    address, words, times = arguments
    given = []
    for index, kind in enumerate(TAKEN):
        if kind == types.float32:
            given.append(ir.Constant(ir.FloatType(), 0.0))
        else:
            is_address = kind == types.voidptr
            at = build.gep(words, [INT(index)], source_etype=INT)
            given.append(build.load(at, typ=POINTER if is_address else INT))
    nothing = ir.Constant(POINTER, None)
    signature = ir.FunctionType(ir.IntType(32), [POINTER, POINTER, *(value.type for value in given)])
    function = build.inttoptr(address.value, signature.as_pointer())
    with counted(build, times):
        build.call(function, [nothing, nothing, *given])


REPEATED = emitted("repeated_tile", emit_repeated)


def repeated(
    shape: tuple[str, int, int], times: int, a: Any, b: Any, order: Any, c: Any, **numbers: int
) -> Callable[[], object]:
    """Return a function that calls a stack of float32 tiles `times` times, from compiled code.

    shape : (kind, rows, vectors) of a tile of `ALL_TILES`; a, b, c : (n,) float32; order (n,) int64
    numbers : other fields of `microkernel.Stack`, 0 if not named
    """
    kind, rows, vectors = shape
    tiles = ALL_TILES[kind]
    addresses = {"a": a, "b": b, "order": order, "c": c}
    numbers |= {name: array.ctypes.data for name, array in addresses.items()}
    words = np.array([numbers.get(name, 0) for name in Stack._fields], np.int64)
    words[Stack._fields.index("finish")] = STORE
    address = compile_now(tiles.name, TAKEN, str(tiles.code(rows, vectors, True)))
    repeat = compile_now(REPEATED, (types.intp, types.voidptr, types.intp))
    held = a, b, order, c  # as long as the call
    call = lazy_call(repeat, (ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64), (address, words, times))
    return lambda: held and call()


@functools.cache
def operands() -> tuple[Any, Any, Any]:
    """Return memory for A of the largest level, a panel of B, and a result as large as A."""
    return numbers(LEVELS["beyond"] // 4), numbers(max(DEPTHS) * 64), numbers(LEVELS["beyond"] // 4)


def of_tile(tile: Tile, depth: int, level: str) -> Work | None:
    """Return stacks of a tile on operands of this level of the caches; None where a tile needs more.

    B is a packed panel. A is read by rows, or by columns where tiles of that kind do.
    """
    width = tile.vectors * (VECTOR_BYTES // 4)
    count = (LEVELS[level] - 4 * depth * width) // (4 * tile.rows * (depth + width))
    if count < 1:
        return None
    rows = count * tile.rows
    by_columns = tile.kind == "depth"
    order = np.arange(max(rows, depth)) * (4 * rows if by_columns else 1)
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


def of_product(slot: str, rows: int, n_in: int, n_out: int) -> Work:
    """Return a layer's product as `fused` takes it."""
    from fastmlp.kernels.runtime.workspace import scratch_length
    from fastmlp.lab.slot_times import kernel_of

    kernel = kernel_of("fused", f"{slot}_rows")
    x, w, delta = numbers(rows * n_in), numbers(n_in * n_out), numbers(rows * n_out)
    x, w, delta = x.reshape(rows, n_in), w.reshape(n_in, n_out), delta.reshape(rows, n_out)
    scratch = aligned(scratch_length(max(n_in, n_out), rows, 4), np.float32)
    order = np.empty(0, np.int64)
    small, none = np.float32(1e-6), np.float32(0)
    out, gate, below, sums = np.empty_like(delta), np.ones_like(x), np.empty_like(x), np.zeros_like(w)

    def of(x: Any, w: Any, delta: Any) -> Callable[[], object]:
        """The call with so many rows of these."""
        given = {
            "affine": (x, order, w, numbers(n_out), out, 0, len(x), True, scratch),
            "weight_gradient": (x, order, delta, w, (0, 0, len(w)), (True, small, none), sums, scratch),
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


PARTS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "tiles": lambda options: predicted(options.cpus),
    "hot": lambda options: measured_tiles(options.seconds),
    "edges": lambda options: measured_products(options.seconds),
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ports", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--seconds", type=float, default=0.05, help="for each measurement; default 0.05")
    cpus = f"of {', '.join(CPUS)}; default: all"
    parser.add_argument("--cpus", nargs="+", choices=CPUS, default=[*CPUS], metavar="CPU", help=cpus)
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; choose from: {', '.join(PARTS)}")
    for part in options.parts or PARTS:
        print("\n".join(PARTS[part](options)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
