"""Register-tiled products, row sums and transposes whose every size is a constant of the program.

Separate from `fastmlp.kernels.gemm.microkernel`, which serves all shapes with one piece of code: here a shape
is known when the code is emitted, so there are no masks, no strides in registers and no edges. A
*stage* is something that a step does to a workspace (one flat array) given a number of rows. It is
an emitter, `emit(machine, rows)`, which appends its instructions at the builder's position, or a
jitted function of (work, rows); `sequence` joins stages into one intrinsic. Emitters instead of
a jitted function a stage because compile time decides whether a program for each network is worth
having: nested jitted functions are typed, lowered and optimised again at every level, 34 s against 3.

Offsets, strides and sizes are Python integers. Nothing is checked, nothing is allocated. Vectors
are `lanes` elements; LLVM splits one that is wider than the machine's.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import INT, INT32, broadcast, shuffle
from fastmlp.kernels.jit.disposable import Intrinsic

MOST_UNROLLED = 96
"""Multiply-adds of one tile that are emitted straight; longer sums loop."""

ACCUMULATORS = host().accumulators


class Machine:
    """What an emitter writes with: the builder, the workspace's base pointer and its element type."""

    def __init__(self, builder, base, element):
        self.builder, self.base, self.element = builder, base, element

    def at(self, offset, *more):
        """The address of element `offset` (an integer) plus run-time indices, pairs of (index, stride)."""
        total = INT(offset)
        for index, stride in more:
            total = self.builder.add(total, self.builder.mul(index, INT(stride)))
        return self.builder.gep(self.base, [total])

    def shifted(self, pointer, shift):
        return self.builder.gep(pointer, [INT(shift)]) if shift else pointer

    def load(self, pointer, lanes, shift=0):
        kind = ir.VectorType(self.element, lanes).as_pointer()
        return self.builder.load(self.builder.bitcast(self.shifted(pointer, shift), kind), align=4)

    def store(self, value, pointer, shift=0):
        kind = value.type.as_pointer()
        self.builder.store(value, self.builder.bitcast(self.shifted(pointer, shift), kind), align=4)

    def scalar(self, pointer, shift=0):
        return self.builder.load(self.shifted(pointer, shift))

    def constant(self, value, lanes):
        return ir.Constant(ir.VectorType(self.element, lanes), [ir.Constant(self.element, value)] * lanes)

    def multiply_add(self, a, b, c):
        """a * b + c of vectors, with one rounding where the machine can."""
        return fma(*(Symbol(self.builder, vector) for vector in (a, b, c))).value


def sum_each(builder, vectors):
    """One vector whose lane m is the sum of the lanes of vectors[m]: two shuffles and one add each."""
    lanes = vectors[0].type.count
    even, odd = range(0, 2 * lanes, 2), range(1, 2 * lanes, 2)
    while len(vectors) > 1:
        pairs = zip(vectors[0::2], vectors[1::2])
        vectors = [builder.fadd(shuffle(builder, a, b, even), shuffle(builder, a, b, odd)) for a, b in pairs]
    return vectors[0]


def sequence(stages):
    """One intrinsic (work, rows) that runs stages in order, those that are None left out."""
    stages = [s for s in stages if s is not None]

    @Intrinsic
    def run(typingctx, work, rows):
        called = {}
        for s in stages:
            if isinstance(s, Intrinsic):
                kind = typingctx.resolve_value_type(s)
                called[s] = kind, kind.get_call_type(typingctx, (work, types.int64), {})

        def codegen(context, builder, signature, args):
            array = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
            element = context.get_data_type(signature.args[0].dtype)
            for s in stages:
                if s in called:
                    implementation = context.get_function(*called[s])
                    context.add_linking_libs(getattr(implementation, "libs", ()))
                    implementation(builder, args)
                else:
                    s(Machine(builder, array.data, element), args[1])
            return context.get_dummy_value()

        return types.none(work, types.int64), codegen

    return run


def contract(builder, accumulators, count, step):
    """Run accumulators = step(k, accumulators) for k < count, with the accumulators in registers.

    count : a Python int is a constant; if it is small, no loop is emitted
    """
    if isinstance(count, int) and count * len(accumulators) <= MOST_UNROLLED:
        for k in range(count):
            accumulators = step(INT(k), accumulators)
        return accumulators
    count = INT(count) if isinstance(count, int) else count
    before = builder.block
    body, after = builder.append_basic_block("contract"), builder.append_basic_block("contracted")
    builder.cbranch(builder.icmp_signed(">", count, INT(0)), body, after)
    builder.position_at_end(body)
    k = builder.phi(INT)
    phis = [builder.phi(a.type) for a in accumulators]
    totals = step(k, phis)
    following, last = builder.add(k, INT(1)), builder.block
    k.add_incoming(INT(0), before)
    k.add_incoming(following, last)
    builder.cbranch(builder.icmp_signed("<", following, count), body, after)
    builder.position_at_end(after)
    results = []
    for phi, start, total in zip(phis, accumulators, totals):
        phi.add_incoming(start, before)
        phi.add_incoming(total, last)
        result = builder.phi(start.type)
        result.add_incoming(start, before)
        result.add_incoming(total, last)
        results.append(result)
    return results


def splits(total, most):
    """total cut into nearly equal parts of at most `most`: 7 vectors as 4 + 3, not 4 + 2 + 1."""
    parts = -(-total // most)
    return [total // parts + (p < total % parts) for p in range(parts)]


def strided(builder, count, step):
    """A loop over 0, step, 2 step ... below count, which is an int or a run-time value."""
    count = INT(count) if isinstance(count, int) else count
    return cgutils.for_range_slice(builder, INT(0), count, INT(step), intp=INT)


def product(columns, lanes, a, a_row, a_term, b, b_term, c, c_row, height=None, terms=None, start="zero",
            bias=0, row_sums=None, finish=None):  # fmt: skip
    """The stage C[r, :] = start + the sum over k of a[r, k] * b[k, :], in tiles of registers.

    a is read as scalars (broadcast), so its two strides are free: the same tile serves X W, D W'
    and X' D. b and C are contiguous along a row of `columns`, a whole number of vectors.

    height : rows of C, or None for the stage's `rows`: then the last tile runs over into spare rows
    terms : length of the sums, or None for the stage's `rows`
    start : "zero", "bias" (the row at offset `bias` added to every row) or "add" (C's own values)
    row_sums : offset that receives the sums over k of a[r, k]: the bias gradient where a is a delta
    finish : function(machine, value, pointer into C) of the tile's value, before it is stored
    """

    def emit(machine, rows):
        column = 0
        for width in splits(columns // lanes, 4):
            sums_at = row_sums if column == 0 else None
            tallest = min(8, ACCUMULATORS // (width + (sums_at is not None)))
            tile = functools.partial(
                _tile, machine, width=width, lanes=lanes, a=a, a_row=a_row, a_term=a_term, b=b + column,
                b_term=b_term, c=c + column, c_row=c_row, start=start, bias=bias + column, sums_at=sums_at,
                finish=finish, terms=rows if terms is None else terms,
            )  # fmt: skip
            if height is None:
                with strided(machine.builder, rows, tallest) as (r, _):
                    tile(first=r, height=tallest)
            else:
                tall = splits(height, tallest)[0]
                done = height // tall * tall
                with strided(machine.builder, done, tall) as (r, _):
                    tile(first=r, height=tall)
                if done < height:
                    tile(first=INT(done), height=height - done)
            column += width * lanes

    return emit


def _tile(machine, first, height, width, lanes, a, a_row, a_term, b, b_term, c, c_row, start, bias, sums_at,
          finish, terms):  # fmt: skip
    builder, zero = machine.builder, machine.constant(0, lanes)
    a_at, c_at = machine.at(a, (first, a_row)), machine.at(c, (first, c_row))
    places = [r * c_row + v * lanes for r in range(height) for v in range(width)]
    if start == "zero":
        totals = [zero] * len(places)
    elif start == "bias":
        totals = [machine.load(machine.at(bias), lanes, v * lanes) for v in range(width)] * height
    else:
        totals = [machine.load(c_at, lanes, place) for place in places]
    if sums_at is not None:
        sums = machine.at(sums_at, (first, 1))
        added = start == "add"
        totals += [
            broadcast(builder, machine.scalar(sums, r), lanes) if added else zero for r in range(height)
        ]

    def step(k, totals):
        left_at = builder.gep(a_at, [builder.mul(k, INT(a_term))])
        right_at = machine.at(b, (k, b_term))
        right = [machine.load(right_at, lanes, v * lanes) for v in range(width)]
        left = [broadcast(builder, machine.scalar(left_at, r * a_row), lanes) for r in range(height)]
        pairs = [(r, v) for r in range(height) for v in range(width)]
        products = [machine.multiply_add(left[r], right[v], totals[r * width + v]) for r, v in pairs]
        return products + [builder.fadd(t, x) for t, x in zip(totals[len(places) :], left)]

    totals = contract(builder, totals, terms, step)
    for place, total in zip(places, totals):
        if finish is not None:
            total = finish(machine, total, machine.shifted(c_at, place))
        machine.store(total, c_at, place)
    for r, total in enumerate(totals[len(places) :]):
        builder.store(builder.extract_element(total, INT32(0)), machine.shifted(sums, r))


def column_sums(columns, lanes, b, b_term, c, start):
    """The stage C[:] = start + the sum over the stage's rows of b[r, :]: the gradient of a bias."""

    def emit(machine, rows):
        builder, column = machine.builder, 0
        for width in splits(columns // lanes, 8):
            at, into = b + column, machine.at(c + column)
            zero, added = machine.constant(0, lanes), start == "add"
            totals = [machine.load(into, lanes, v * lanes) if added else zero for v in range(width)]

            def step(k, totals, at=at):
                row = machine.at(at, (k, b_term))
                return [builder.fadd(t, machine.load(row, lanes, v * lanes)) for v, t in enumerate(totals)]

            for v, total in enumerate(contract(builder, totals, rows, step)):
                machine.store(total, into, v * lanes)
            column += width * lanes

    return emit


def dots(outputs, lanes, a, a_row, b, b_row, columns, c, bias):
    """The stage C[r, j] = bias[j] + a[r, :] . b[j, :], C compact, for outputs that fill no vector.

    The vector runs along the contracted side, `columns` long and padded with zeros. One vector of
    results, several rows, is made at a time. bias : offset of the bias repeated over a vector.
    """
    group = lanes // outputs

    def emit(machine, rows):
        builder = machine.builder
        with strided(builder, rows, group) as (first, _):
            a_at = machine.at(a, (first, a_row))
            pairs = [(r, j) for r in range(group) for j in range(outputs)]
            totals = [machine.constant(0, lanes)] * lanes

            def step(k, totals):
                shift = builder.mul(k, INT(lanes))
                along_a, along_b = builder.gep(a_at, [shift]), builder.gep(machine.at(b), [shift])
                left = [machine.load(along_a, lanes, r * a_row) for r in range(group)]
                right = [machine.load(along_b, lanes, j * b_row) for j in range(outputs)]
                added = [machine.multiply_add(left[r], right[j], t) for (r, j), t in zip(pairs, totals)]
                return added + totals[len(pairs) :]

            totals = contract(builder, totals, columns // lanes, step)
            result = builder.fadd(sum_each(builder, totals), machine.load(machine.at(bias), lanes))
            machine.store(result, machine.at(c, (first, outputs)))

    return emit


def transpose(height, width, size, a, a_row, b, b_row):
    """The stage b = a', by blocks of size x size in registers; rows past the last whole block one by one."""
    whole = height // size * size

    def emit(machine, rows):
        builder = machine.builder
        with strided(builder, whole, size) as (i, _), strided(builder, width, size) as (j, _):
            from_a, to_b = machine.at(a, (i, a_row), (j, 1)), machine.at(b, (i, 1), (j, b_row))
            _transpose_block(machine, size, from_a, a_row, to_b, b_row)
        for i in range(whole, height):
            with strided(builder, width, 1) as (j, _):
                value = builder.load(machine.at(a + i * a_row, (j, 1)))
                builder.store(value, machine.at(b + i, (j, b_row)))

    return emit


def _transpose_block(machine, size, a, a_row, b, b_row):
    block = [machine.load(a, size, r * a_row) for r in range(size)]
    # Interleaving row i with row i + half moves one bit of the row index into the lane index.
    half = size // 2
    low = [x for i in range(half) for x in (i, size + i)]
    high = [x for i in range(half, size) for x in (i, size + i)]
    for _ in range(size.bit_length() - 1):
        block = [
            shuffle(machine.builder, block[i], block[i + half], order)
            for i in range(half)
            for order in (low, high)
        ]
    for r in range(size):
        machine.store(block[r], b, r * b_row)
