"""Copies of matrices made for the tiles' B operand: packed panels and transposes.

A panel is some columns of a matrix without gaps between its rows. Where rows of B lie a multiple of 512 bytes apart,
they fall into few sets of L1 and evict one another; where not a multiple of 64, a load may lie in two cache lines.

Masks are used at edges only: AVX2's masked stores are microcode on AMD's processors, a dozen cycles each.
"""

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target

from fastmlp.kernels.codegen.symbols import BIT, BYTE, FLOATS, Symbol
from fastmlp.kernels.codegen.vectors import (
    LINE_BYTES,
    Vectors,
    counted,
    fetch_line,
    of_arrays,
    smaller,
    transposed,
)
from fastmlp.kernels.gemm.microkernel import MACHINE, VECTORS
from fastmlp.kernels.jit.lazy import calling, emitted

BEYOND_L2_BYTES = 1 << 20
"""Bytes of a matrix that L2 does not hold beside a product's other operands."""


def taken_by(dtype):
    """The types of a copy's arguments: two addresses, columns, rows, the bytes from row to row, a scalar of the dtype."""
    return (types.voidptr,) * 2 + (types.intp,) * 4 + (dtype,)


def _emitted(name, write):
    """The lazy function that writes a copy at the machine's vector width."""

    def emit(build, arguments, kinds, code):
        write(Vectors(build, kinds[-1], MACHINE.vector_bytes), *arguments[:-1])

    return emitted(f"{name}_{MACHINE.vector_bytes}", emit)


def emit_pack(v, a, out, columns, rows, a_row, out_row):
    """Write the copy of rows, with prefetches of the next panel behind each row.

    No processor foresees rows this far apart: without the fetches seven products of 128 x 256 x 256, whose weights come
    from L3, take 1.05 to 1.12 times as long. A fetch more a row costs a twentieth of a step where the matrix lies in L2;
    beyond L2 all lines are fetched: 64 x 1024 x 3000 reaches 0.87 of the peak with AVX2 in place of 0.71.
    """
    panel, ahead = VECTORS * v.lanes * v.itemsize, max(2 * v.lanes * v.itemsize // LINE_BYTES, 1)
    ends = [min(end, panel) for end in range(LINE_BYTES, panel + LINE_BYTES, LINE_BYTES)]
    far = rows * a_row >= BEYOND_L2_BYTES
    with counted(v.builder, rows) as i:
        source, target = v.shift(a, i * a_row), v.shift(out, i * out_row)
        following = v.shift(source, columns * v.itemsize)
        fetch = lambda end: fetch_line(v.builder, v.shift(following, end - 1))
        for end in ends[:ahead]:
            fetch(end)
        with v.builder.if_then(far.value):
            for end in ends[ahead:]:
                fetch(end)

        def copy(j, mask):
            at = j * v.itemsize
            v.store(v.load(v.shift(source, at), mask), v.shift(target, at), mask)

        v.over(columns, copy)


def emit_transpose(v, a, out, columns, rows, a_row, out_row, edges=True):
    """Write the transpose, by blocks of lanes x lanes in registers; blocks at the edges are masked.

    Without `edges` all blocks are whole, and read and write beyond rows and columns that are no multiples of lanes.
    """
    lanes, build = v.lanes, v.builder
    with counted(build, rows, lanes) as i, counted(build, columns, lanes) as j:
        height, width = rows - i, columns - j
        source = v.shift(v.shift(a, i * a_row), j * v.itemsize)
        target = v.shift(v.shift(out, j * out_row), i * v.itemsize)

        def whole():
            block = transposed(v, [v.shift(source, a_row * m) for m in range(lanes)])
            for m, row in enumerate(block):
                v.store(row, v.shift(target, out_row * m))

        inside = (smaller(height, width) >= lanes) if edges else Symbol(build, BIT(1))
        with build.if_else(inside.value) as (inside, edge):
            with inside:
                whole()
            with edge:
                mask, last = v.first(width), height - 1
                # Rows beyond the end repeat the last one, and are not stored.
                addresses = [v.shift(source, a_row * smaller(last.number(m), last)) for m in range(lanes)]
                block = transposed(v, addresses, mask)
                mask, done = v.first(height), build.append_basic_block("stored")
                for m in range(lanes):
                    v.store(block[m], v.shift(target, out_row * m), mask)
                    if m + 1 < lanes:
                        following = build.append_basic_block(f"row_{m + 1}")
                        build.cbranch((width > m + 1).value, following, done)
                        build.position_at_end(following)
                build.branch(done)
                build.position_at_end(done)


def call(build, name, codes, kinds, values):
    """Emit a call of a lazy function; pointers are cast to the type of Numba's void pointers."""
    pairs = zip(kinds, values, strict=True)
    values = [
        build.bitcast(value, BYTE.as_pointer()) if kind == types.voidptr else getattr(value, "value", value)
        for kind, value in pairs
    ]
    calling(name, codes)(cpu_target.target_context, build, types.void(*kinds), values)


def copy_intrinsic(name):
    @of_arrays
    def copy(rows, columns, a, a_at, a_row, out, out_at, out_row):
        dtype, size = out.dtype, out.itemsize
        values = a.at(0, a_at), out.at(0, out_at), columns, rows, a_row * size, out_row * size
        call(a.builder, name, 0, taken_by(dtype), [*values, ir.Constant(FLOATS[dtype], 0.0)])

    return copy


# pack(rows, columns, a, a_at, a_row, out, out_at, out_row), in elements, unchecked:
# out[out_at + i * out_row + j] = a[a_at + i * a_row + j]
PACK = _emitted("pack", emit_pack)
pack = copy_intrinsic(PACK)
# transpose, same arguments: out[out_at + j * out_row + i] = a[a_at + i * a_row + j]
TRANSPOSE = _emitted("transpose", emit_transpose)
transpose = copy_intrinsic(TRANSPOSE)
