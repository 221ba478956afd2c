"""Products with a sparse factor: each row of the result is a sum of a few rows of a dense matrix.

Separate from `fastmlp.kernels.gemm.microkernel`, whose tiles use each vector of B for several rows: here no two rows
have the same terms. A sum keeps up to eight vectors of columns in registers while it goes through its terms; each term
is a number times a row of the dense matrix. Both products of a first layer have this form. Forward, a sum belongs to a
sample: its terms are its non-zeros times rows of W. In the weight gradient, a sum belongs to an input's column: its
terms are the column's non-zeros times rows of deltas.

Every element is one chain of FMAs over ascending terms, as in a dense product, whose additional terms are 0 and change
no bit but a zero's sign.
"""

# mypy: ignore-errors

from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.np.numpy_support import from_dtype

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.symbols import Symbol, jittable
from fastmlp.kernels.codegen.types import FLOATS, INT, INT32, ITEMSIZE
from fastmlp.kernels.codegen.vectors import (
    Vectors,
    ascending,
    carried,
    counted,
    fetch_line,
    joined,
    smaller,
)
from fastmlp.kernels.codegen.views import chosen
from fastmlp.kernels.gemm.macrokernel import NOTHING, call, shifted
from fastmlp.kernels.gemm.microkernel import (
    DECAY,
    MACHINE,
    RELU,
    STORE,
    UPDATE,
    ends_of,
    starts_of,
    switched,
)
from fastmlp.kernels.gemm.operands import of_arrays
from fastmlp.kernels.jit.lazy import compile_now, emitted

MOST_VECTORS = 8
"""The most vectors of one sum: enough to keep the FMA units busy, and half of the registers where these are 16."""

AHEAD, FAR_BYTES = 8, 1 << 22
"""Rows of W are prefetched this many terms ahead, where W takes more bytes than this: 200 rows with 126 of 20 000
inputs each go to 100 units, in float64, in 0.64 of the time."""

TARGETS_AHEAD = 3
"""Rows of the result are prefetched this many sums ahead."""

AXES = MOST_VECTORS + 1, 2, 2
"""The number of values of each part of a code: vectors, whether no lane is masked, whether rows are prefetched."""


class Sums(NamedTuple):
    """The operands of sums: places in memory, then `Symbol`s; `multiply` takes LLVM values, too. Rows are in bytes.

    starts, places : sum s has the terms starts[p] to starts[p + 1], where p = places[s], int64, or s if nothing
    indices, values : of each term the row, int32, and the number
    b, b_row : the rows
    start : nothing for 0, or where each chain starts, a bias
    c, c_row, targets : sum s is row targets[s], int64, or s if nothing, of the result
    count, columns : of sums and of their elements
    finish : as for tiles: STORE, RELU or UPDATE, the only one that reads rate and l2
    far : whether the rows come from beyond L2
    rate, l2 : of the dtype
    """

    starts: Any
    places: Any
    indices: Any
    values: Any
    b: Any
    start: Any
    c: Any
    targets: Any
    b_row: Any
    c_row: Any
    count: Any
    columns: Any
    finish: Any
    far: Any
    rate: Any
    l2: Any


POINTERS = 8
"""How many of `Sums`, the first ones, are places in memory."""


def taken_by(dtype):
    """The types of `Sums`."""
    return (types.voidptr,) * POINTERS + (types.intp,) * 6 + (dtype,) * 2


def operands(build, arguments):
    """The arguments of a piece as `Sums`."""
    return Sums(*arguments[:POINTERS], *(Symbol(build, number) for number in arguments[POINTERS:]))


def is_given(build, pointer):
    """Whether a place is not null."""
    return Symbol(build, build.icmp_unsigned("!=", pointer, NOTHING))


def load_at(build, pointer, index, kind=INT):
    """The number at an index of an array of a kind, in 64 bits."""
    value = build.load(build.gep(pointer, [index.value], source_etype=kind), typ=kind)
    return Symbol(build, value if kind == INT else build.sext(value, INT))


def chosen_by(build, pointer, index):
    """The number at an index of an array, int64, or the index itself where the array is null."""
    before, read, after = build.block, build.append_basic_block("read"), build.append_basic_block("after")
    build.cbranch(is_given(build, pointer).value, read, after)
    build.position_at_end(read)
    value = load_at(build, pointer, index)
    build.branch(after)
    build.position_at_end(after)
    return Symbol(build, joined(build, (index.value, before), (value.value, read)))


def emit_sums(build, arguments, kinds, code):
    """Write the function of sums of a number of vectors, which is part of the code."""
    vectors, whole, far = map(int, np.unravel_index(code, AXES))
    o, v = operands(build, arguments), Vectors(build, kinds[-1], MACHINE.vector_bytes)
    masks = [None] * (vectors - 1) + [None if whole else v.first(o.columns - (vectors - 1) * v.lanes)]
    parts = lambda place: [v.shift(place, j * v.bytes) for j in range(vectors)]
    initial = starts_of(
        v, is_given(build, o.start), [(None, *part) for part in zip(parts(o.start), masks)], False
    )
    ends = {code: ends_of(v, "strided", o.rate, o.l2)[code] for code in (STORE, RELU, UPDATE, DECAY)}
    decays = o.finish.equals(UPDATE) & o.l2.equals(0.0).negated()
    finish = where(decays, o.finish.number(DECAY), o.finish)
    row = lambda p: parts(v.shift(o.b, load_at(build, o.indices, p, INT32) * o.b_row))

    def bounds(s):
        place = chosen_by(build, o.places, s)
        return load_at(build, o.starts, place), load_at(build, o.starts, place + 1)

    def fetch(places):
        for place in places:
            fetch_line(build, place)

    with counted(build, o.count) as s:
        first, last = bounds(s)
        target = lambda s: parts(v.shift(o.c, chosen_by(build, o.targets, s) * o.c_row))
        fetch(target(smaller(s + TARGETS_AHEAD, o.count - 1)))
        if far:
            begin, end = bounds(smaller(s + 1, o.count - 1))
            with counted(build, smaller(end - begin, o.count.number(AHEAD))) as i:
                fetch(row(begin + i))

        def add(p, sums):
            if far:
                fetch(row(smaller(p + AHEAD, last - 1)))
            number = v.broadcast(v.shift(o.values, p * v.itemsize))
            return [v.fma(number, v.load(*part), total) for *part, total in zip(row(p), masks, sums)]

        sums = carried(build, first, last, initial, add)

        def store(end):
            for value, place, mask in zip(sums, target(s), masks):
                v.store(end(value, place, None, mask), place, mask)

        switched(build, finish, {code: partial(store, end) for code, end in ends.items()})


SUMS = emitted(f"sparse_sums_{MACHINE.vector_bytes}", emit_sums)


def compile_sums(dtype: str) -> None:
    """Compile the sums of every number of vectors for a NumPy dtype, or load them."""
    for vectors, *others in product(range(1, AXES[0]), *map(range, AXES[1:])):
        code = int(np.ravel_multi_index((vectors, *others), AXES))
        compile_now(SUMS, taken_by(from_dtype(np.dtype(dtype))), str(code))


def emit_product(build, arguments, kinds, code):
    """Write the function of sums of any width: columns are cut into blocks of nearly equal width."""
    o, dtype = operands(build, arguments), kinds[-1]
    lanes = MACHINE.vector_bytes // ITEMSIZE[dtype]
    up = lambda a, b: (a + (b - 1)) // b
    across = up(o.columns, lanes)
    width = up(across, up(across, MOST_VECTORS)) * lanes
    with ascending(build, o.columns) as (left, to_the_right):
        columns = smaller(width, o.columns - left)
        vectors = up(columns, lanes)
        whole = Symbol(build, build.zext((vectors * lanes).equals(columns).value, INT))
        along = (left * ITEMSIZE[dtype]).value
        start = build.select(is_given(build, o.start).value, shifted(build, o.start, along), NOTHING)
        values = o._replace(
            b=shifted(build, o.b, along), c=shifted(build, o.c, along), start=start, columns=columns
        )
        shape = (vectors * AXES[1] + whole) * AXES[2] + o.far
        call(build, SUMS, int(np.prod(AXES)), (types.intp, *kinds), [shape, *values])
        to_the_right(columns)


PRODUCT = emitted(f"sparse_product_{MACHINE.vector_bytes}", emit_product)


def multiply(builder, dtype, **given):
    """Write a call of the product. given : fields of `Sums`; places that are not given are null, numbers 0."""
    zero = ir.Constant(FLOATS[dtype], 0.0)
    others = {
        **dict.fromkeys(("places", "start", "targets"), NOTHING),
        "far": INT(0),
        "rate": zero,
        "l2": zero,
    }
    call(builder, PRODUCT, 0, taken_by(dtype), Sums(**{**others, **given}))


@jittable
def is_far(w_bytes: int):
    """Return whether rows of a W of this size are prefetched."""
    return where(w_bytes >= FAR_BYTES, w_bytes.number(1), 0)


@of_arrays
def sums_of_samples(indptr, indices, values, order, w, b, out, finish, far):
    """out = x[order] @ w + b, of sparse rows x; with an empty order, of x @ w + b."""
    ordered = (order.columns > 0).value
    multiply(
        values.builder, values.kind.dtype, starts=indptr.data, indices=indices.data, values=values.data,
        places=values.builder.select(ordered, order.data, NOTHING), b=w.data, b_row=w.row, start=b.data,
        c=out.data, c_row=out.row, count=out.rows, columns=out.columns, finish=finish, far=far,
    )  # fmt: skip


@of_arrays
def sums_of_columns(starts, samples, numbers, columns, delta, out, finish, rate, l2):
    """Row columns[t] of out, int64, or row t where `columns` is empty, = sum t of rows of delta.

    Sum t is that of numbers[p] * delta[samples[p]], for p from starts[t] to starts[t + 1].
    """
    listed = (columns.columns > 0).value
    multiply(
        numbers.builder, numbers.kind.dtype, starts=starts.data, indices=samples.data, values=numbers.data,
        targets=numbers.builder.select(listed, columns.data, NOTHING), b=delta.data, b_row=delta.row,
        c=out.data, c_row=out.row, count=starts.columns - 1, columns=out.columns, finish=finish, rate=rate, l2=l2,
    )  # fmt: skip


compiled = njit(error_model="numpy", inline="always")


@compiled
def affine(indptr, indices, values, order, w, b, out, relu):
    """As `dispatch.affine`, for all rows of out, with sparse rows of x."""
    sums_of_samples(
        indptr, indices, values, order, w, b, out, chosen(relu, RELU, STORE), is_far(w.size * w.itemsize)
    )


@compiled
def weight_gradient(starts, samples, numbers, columns, delta, out, descend, rate, l2):
    """As `dispatch.weight_gradient`, of listed columns: see `sums_of_columns`."""
    sums_of_columns(starts, samples, numbers, columns, delta, out, chosen(descend, UPDATE, STORE), rate, l2)
