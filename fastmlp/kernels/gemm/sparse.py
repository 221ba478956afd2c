"""Products with a sparse factor: each row of the result is a sum of a few rows of a dense matrix.

Separate from `fastmlp.kernels.gemm.microkernel`, whose tiles share what they load between rows: here no two rows
have the same terms. A sum holds up to eight vectors of columns in registers while it walks its terms, each of
them a number and a row that it is multiplied with. So are both products of a first layer: of samples, their
non-zeros and rows of W; and of columns, the samples that have them and rows of deltas.

Every element is one chain of FMAs over ascending terms, as in a dense product, where the terms with a zero
factor change no bit but a zero's sign.
"""

# mypy: ignore-errors

from itertools import product
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.np.numpy_support import from_dtype

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.symbols import Symbol, jittable
from fastmlp.kernels.codegen.vectors import (
    FLOATS,
    INT,
    INT32,
    ITEMSIZE,
    Vectors,
    ascending,
    counted,
    fetch_line,
    smaller,
)
from fastmlp.kernels.codegen.views import chosen
from fastmlp.kernels.gemm.macrokernel import NOTHING, call, shifted
from fastmlp.kernels.gemm.microkernel import MACHINE, RELU, STORE, UPDATE
from fastmlp.kernels.gemm.operands import of_arrays
from fastmlp.kernels.jit.lazy import compile_now, emitted
from fastmlp.kernels.program.arithmetic import descended, with_decay

MOST_VECTORS = 8
"""Vectors of one sum: enough to keep the FMA units busy, and half of the fewest registers."""

AHEAD, FAR_BYTES = 8, 1 << 24
"""So many terms ahead rows of W are asked for, where all of it takes so much: 200 rows with 50 of 100 000 inputs each
go to 100 units in 0.70 of the time."""

AXES = MOST_VECTORS + 1, 2, 2
"""Of a piece's code: vectors, whether none of their lanes is masked, whether rows are asked for ahead."""


class Sums(NamedTuple):
    """What sums are given: LLVM values. Rows are in bytes from one to the next.

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

    starts: ir.Value
    places: ir.Value
    indices: ir.Value
    values: ir.Value
    b: ir.Value
    start: ir.Value
    c: ir.Value
    targets: ir.Value
    b_row: ir.Value
    c_row: ir.Value
    count: ir.Value
    columns: ir.Value
    finish: ir.Value
    far: ir.Value
    rate: ir.Value
    l2: ir.Value


def taken_by(dtype):
    """The types of `Sums`."""
    return (types.voidptr,) * 8 + (types.intp,) * 6 + (dtype,) * 2


def load_at(build, pointer, index, kind):
    """The number at an index of an array of a kind, widened to 64 bits."""
    value = build.load(build.gep(pointer, [index], source_etype=kind), typ=kind)
    return value if kind == INT else build.sext(value, INT)


def chosen_by(build, pointer, index):
    """The number at an index, or the index itself where the array is nothing."""
    before, read, after = build.block, build.append_basic_block("read"), build.append_basic_block("after")
    build.cbranch(build.icmp_unsigned("==", pointer, NOTHING), after, read)
    build.position_at_end(read)
    value = load_at(build, pointer, index, INT)
    build.branch(after)
    build.position_at_end(after)
    found = build.phi(INT)
    found.add_incoming(index, before)
    found.add_incoming(value, read)
    return found


def emit_sums(build, arguments, kinds, code):
    """Write the function of sums of so many vectors."""
    vectors, whole, far = map(int, np.unravel_index(code, AXES))
    o = Sums(*arguments)
    v = Vectors(build, kinds[-1], MACHINE.vector_bytes)
    mask = None if whole else v.first(build.sub(o.columns, INT((vectors - 1) * v.lanes)))
    masks = [None] * (vectors - 1) + [mask]
    parts = lambda pointer: [v.shift(pointer, j * v.bytes) for j in range(vectors)]
    rate, l2 = (Symbol(build, v.splat(number)) for number in (o.rate, o.l2))
    bounds = lambda s: [
        load_at(build, o.starts, build.add(place, INT(i)), INT)
        for place in [chosen_by(build, o.places, s)]
        for i in (0, 1)
    ]
    row_at = lambda p: v.shift(o.b, build.mul(load_at(build, o.indices, p, INT32), o.b_row))

    def ask(p):
        for part in parts(row_at(p)):
            fetch_line(build, part)

    # A branch, not loads under an empty mask: see `microkernel`.
    from_start, begin = build.append_basic_block("from_start"), build.append_basic_block("begin")
    before = build.block
    build.cbranch(build.icmp_unsigned("!=", o.start, NOTHING), from_start, begin)
    build.position_at_end(from_start)
    loaded = [v.load(*pair) for pair in zip(parts(o.start), masks)]
    build.branch(begin)
    build.position_at_end(begin)
    initial = []
    for value in loaded:
        phi = build.phi(v.type)
        phi.add_incoming(v.zero, before)
        phi.add_incoming(value, from_start)
        initial.append(phi)

    with counted(build, o.count) as s:
        first, last = bounds(s)
        target_at = lambda s: parts(v.shift(o.c, build.mul(chosen_by(build, o.targets, s), o.c_row)))
        targets = target_at(s)
        more = build.icmp_signed("<", build.add(s, INT(1)), o.count)
        for target in target_at(build.select(more, build.add(s, INT(1)), s)):
            fetch_line(build, target)
        if far:
            with build.if_then(more):
                following, end = bounds(build.add(s, INT(1)))
                with counted(build, smaller(build, build.sub(end, following), INT(AHEAD))) as i:
                    ask(build.add(following, i))
        before_loop = build.block
        loop, done = build.append_basic_block("loop"), build.append_basic_block("done")
        build.cbranch(build.icmp_signed("<", first, last), loop, done)

        build.position_at_end(loop)
        p, *carried = phis = [build.phi(t) for t in [INT, *[v.type] * vectors]]
        rows = parts(row_at(p))
        if far:
            ask(smaller(build, build.add(p, INT(AHEAD)), build.sub(last, INT(1))))
        number = v.broadcast(v.shift(o.values, build.mul(p, INT(v.itemsize))))
        after = [build.add(p, INT(1))]
        after += [v.fma(number, v.load(row, mask), sum_) for row, mask, sum_ in zip(rows, masks, carried)]
        walked = build.block
        build.cbranch(build.icmp_signed("<", after[0], last), loop, done)
        for phi, at_first, later in zip(phis, [first, *initial], after):
            phi.add_incoming(at_first, before_loop)
            phi.add_incoming(later, walked)

        build.position_at_end(done)
        sums = []
        for at_first, later in zip(initial, after[1:]):
            phi = build.phi(v.type)
            phi.add_incoming(at_first, before_loop)
            phi.add_incoming(later, walked)
            sums.append(phi)
        relu, update, plain, decaying, store, stored = (
            build.append_basic_block(n) for n in ("relu", "update", "plain", "decaying", "store", "stored")
        )
        choice = build.switch(o.finish, store)
        choice.add_case(INT(RELU), relu)
        choice.add_case(INT(UPDATE), update)
        build.position_at_end(update)
        build.cbranch(build.fcmp_ordered("==", o.l2, ir.Constant(v.scalar, 0.0)), plain, decaying)
        weight = lambda target, mask: Symbol(build, v.load(target, mask))
        gradient = lambda value: Symbol(build, value)
        for block, end in (
            (store, lambda value, target, mask: value),
            (relu, lambda value, target, mask: v.relu(value)),
            (plain, lambda value, *at: descended(weight(*at), rate, gradient(value)).value),
            (
                decaying,
                lambda value, *at: (
                    descended(weight(*at), rate, with_decay(gradient(value), l2, weight(*at))).value
                ),
            ),
        ):
            build.position_at_end(block)
            for value, target, mask in zip(sums, targets, masks):
                v.store(end(value, target, mask), target, mask)
            build.branch(stored)
        build.position_at_end(stored)


SUMS = emitted(f"sparse_sums_{MACHINE.vector_bytes}", emit_sums)


def compile_sums(dtype: str) -> None:
    """Compile the sums of every number of vectors for a NumPy dtype, or load them."""
    for vectors, *others in product(range(1, AXES[0]), *map(range, AXES[1:])):
        code = int(np.ravel_multi_index((vectors, *others), AXES))
        compile_now(SUMS, taken_by(from_dtype(np.dtype(dtype))), str(code))


def emit_product(build, arguments, kinds, code):
    """Write the function of sums of any width: columns are cut into blocks, none much narrower than another."""
    o = Sums(*arguments)
    dtype = kinds[-1]
    lanes = MACHINE.vector_bytes // ITEMSIZE[dtype]
    up = lambda a, b: build.sdiv(build.add(a, build.sub(b, INT(1))), b)
    across = up(o.columns, INT(lanes))
    blocks = up(across, INT(MOST_VECTORS))
    width = build.mul(up(across, blocks), INT(lanes))
    with ascending(build, o.columns) as (left, to_the_right):
        columns = smaller(build, width, build.sub(o.columns, left))
        vectors = up(columns, INT(lanes))
        whole = build.zext(build.icmp_signed("==", build.mul(vectors, INT(lanes)), columns), INT)
        shape = INT(0)
        for size, value in zip(AXES, (vectors, whole, o.far)):
            shape = build.add(build.mul(shape, INT(size)), value)
        along = build.mul(left, INT(ITEMSIZE[dtype]))
        started = build.icmp_unsigned("!=", o.start, NOTHING)
        values = o._replace(
            b=shifted(build, o.b, along),
            c=shifted(build, o.c, along),
            start=build.select(started, shifted(build, o.start, along), NOTHING),
            columns=columns,
        )
        call(build, SUMS, int(np.prod(AXES)), (types.intp, *kinds), [shape, *values])
        to_the_right(columns)


PRODUCT = emitted(f"sparse_product_{MACHINE.vector_bytes}", emit_product)


def multiply(builder, dtype, **given):
    """Emit the product. given : `Sums`; what is not given is nothing, or 0."""
    empty = dict.fromkeys(("places", "start", "targets"), NOTHING)
    zeros = {name: ir.Constant(FLOATS[dtype], 0.0) for name in ("rate", "l2")}
    values = [
        INT(value) if isinstance(value, int) else getattr(value, "value", value)
        for value in Sums(**{**empty, **zeros, "far": 0, **given})
    ]
    call(builder, PRODUCT, 0, taken_by(dtype), values)


@jittable
def is_far(w_bytes: int):
    """Return whether rows of so large a W are asked for ahead."""
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
    """Rows `columns` of out, int64, or with none of them all of its rows, = sums of rows of delta.

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
    """As `dispatch.affine`, of all rows of out, for sparse rows."""
    sums_of_samples(
        indptr, indices, values, order, w, b, out, chosen(relu, RELU, STORE), is_far(w.size * w.itemsize)
    )


@compiled
def weight_gradient(starts, samples, numbers, columns, delta, out, descend, rate, l2):
    """As `dispatch.weight_gradient`, of listed columns: see `sums_of_columns`."""
    sums_of_columns(starts, samples, numbers, columns, delta, out, chosen(descend, UPDATE, STORE), rate, l2)
