"""Copies of matrices made for the tiles' B operand: packed panels and transposes.

A panel is `columns` columns of a matrix without gaps between its rows. Tiles read B by whole
vectors, three rounds of which are three cache lines: where the rows lie a multiple of 512 bytes
apart they fall into few sets of L1 and evict one another, and where they are not a multiple of
64 bytes apart every load straddles two lines and costs two.

Masks are for the edges alone: AVX2's masked stores are microcode on AMD's processors, a dozen cycles each.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.vectors import (
    INT,
    INT32,
    ITEMSIZE,
    Vectors,
    byte_pointer,
    counted,
    element,
    smaller,
)
from fastmlp.kernels.gemm.microkernel import MACHINE
from fastmlp.kernels.jit.lazy import calling, emitted


def taken_by(dtype):
    """The types of what a copy is given: two places, columns, rows, the bytes from row to row, and a scalar
    for its type."""
    return (types.voidptr,) * 2 + (types.intp,) * 4 + (dtype,)


def emit_pack(build, arguments, kinds, code):
    b, out, columns, depth, b_row, out_row, _ = arguments
    v = Vectors(build, kinds[-1], MACHINE.vector_bytes)
    # Row by row: a column of vectors at a time, lines that lie 512 bytes apart left L1 before their other half was read.
    with counted(build, depth) as k:
        source, target = v.shift(b, build.mul(k, b_row)), v.shift(out, build.mul(k, out_row))

        def copy(j, mask):
            at = build.mul(j, INT(v.itemsize))
            v.store(v.load(v.shift(source, at), mask), v.shift(target, at), mask)

        v.over(columns, copy)


def emit_transpose(build, arguments, kinds, code):
    """Blocks of lanes x lanes through registers: log2(lanes) rounds of two-source shuffles."""
    a, out, columns, rows, a_row, out_row, _ = arguments
    v = Vectors(build, kinds[-1], MACHINE.vector_bytes)
    lanes = v.lanes
    with counted(build, rows, lanes) as i, counted(build, columns, lanes) as j:
        height, width = build.sub(rows, i), build.sub(columns, j)
        source = v.shift(v.shift(a, build.mul(i, a_row)), build.mul(j, INT(v.itemsize)))
        target = v.shift(v.shift(out, build.mul(j, out_row)), build.mul(i, INT(v.itemsize)))

        def load(m, mask):
            return v.load(v.shift(source, build.mul(m, a_row)), mask)

        def store(value, m, mask):
            v.store(value, v.shift(target, build.mul(out_row, INT(m))), mask)

        full = build.icmp_signed(">=", smaller(build, height, width), INT(lanes))
        with build.if_else(full) as (whole, rest):
            with whole:
                for m, value in enumerate(transposed(build, [load(INT(m), None) for m in range(lanes)])):
                    store(value, m, None)
            with rest:
                mask, last = v.first(width), build.sub(height, INT(1))
                # rows past the end repeat the last one and are not stored
                block = transposed(build, [load(smaller(build, INT(m), last), mask) for m in range(lanes)])
                mask = v.first(height)
                stored = build.append_basic_block("stored")
                for m in range(lanes):
                    store(block[m], m, mask)
                    if m + 1 < lanes:
                        following = build.append_basic_block(f"row_{m + 1}")
                        build.cbranch(build.icmp_signed("<", INT(m + 1), width), following, stored)
                        build.position_at_end(following)
                build.branch(stored)
                build.position_at_end(stored)


def transposed(build, block):
    """As many vectors as each has lanes, rows turned into columns."""
    block, lanes = list(block), len(block)
    pattern = lambda numbers: ir.Constant(ir.VectorType(INT32, lanes), numbers)
    stride = lanes // 2
    while stride:
        low = pattern([lane if not lane & stride else lanes + lane - stride for lane in range(lanes)])
        high = pattern([lane + stride if not lane & stride else lanes + lane for lane in range(lanes)])
        for m in range(lanes):
            if not m & stride:
                pair = block[m], block[m + stride]
                block[m] = build.shuffle_vector(*pair, low)
                block[m + stride] = build.shuffle_vector(*pair, high)
        stride //= 2
    return block


def copy_intrinsic(name):
    call = calling(name)

    @intrinsic
    def copy(typing_context, rows, columns, a, a_at, a_row, out, out_at, out_row):
        def emit(context, build, signature, arguments):
            rows, columns, source, source_at, source_row, target, target_at, target_row = arguments
            size = lambda value: build.mul(value, INT(ITEMSIZE[out.dtype]))
            source = byte_pointer(build, element(context, build, a, source, source_at))
            target = byte_pointer(build, element(context, build, out, target, target_at))
            like = context.get_constant(out.dtype, 0)
            values = [source, target, columns, rows, size(source_row), size(target_row), like]
            return call(context, build, types.void(*taken_by(out.dtype)), values)

        integer = types.intp
        return types.void(integer, integer, a, integer, integer, out, integer, integer), emit

    return copy


# pack(rows, columns, a, a_at, a_row, out, out_at, out_row), in elements, unchecked:
# out[out_at + i * out_row + j] = a[a_at + i * a_row + j]
PACK = emitted(f"pack_{MACHINE.vector_bytes}", emit_pack)
pack = copy_intrinsic(PACK)
# transpose, same arguments: out[out_at + j * out_row + i] = a[a_at + i * a_row + j]
TRANSPOSE = emitted(f"transpose_{MACHINE.vector_bytes}", emit_transpose)
transpose = copy_intrinsic(TRANSPOSE)
