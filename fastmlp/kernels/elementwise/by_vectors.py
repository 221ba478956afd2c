"""Dropout, optimisers' steps and sums by whole vectors.

LLVM's own loops have scalar tails and narrower vectors, and stay scalar where the result may be the argument: deltas
dropped in place took 3 ns a unit. A chain of additions in the order of the numbers took 2 ms of a step of 7 at 2
million weights. The order of each sum stands in `fastmlp.kernels.program.arithmetic`.
"""

from functools import partial

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.formulas.numbers import fma, where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import FLOATS, INT32, Symbol
from fastmlp.kernels.codegen.vectors import (
    NumberArray,
    VectorArray,
    Vectors,
    broadcast,
    carried,
    counted,
    folded,
    of_arrays,
    of_code,
    smaller,
)
from fastmlp.kernels.program.arithmetic import (
    PENALTY_LANES,
    PENALTY_ROWS,
    PENALTY_TERMS,
    rows_as_one,
    with_decay,
    with_penalty,
)
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

# --- dropout ----------------------------------------------------------------------------------------


def scramble(bits):
    """`baseline.scramble` of a `Symbol`."""
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


def row_word(word, row):
    """The hash of a row of a batch; word : of the step and the layer, integers of 32 bits as all here"""
    return scramble(word + row * 0x9E3779B9)


def is_kept(row_word, unit, threshold):
    """Whether a unit of a row is kept."""
    bits = scramble(row_word + unit * 0x85EBCA6B)
    return Symbol(bits.builder, bits.builder.icmp_unsigned(">=", bits.value, bits.like(threshold)))


def emit_drop(v, rows, units, word, first, threshold, scale, source, target):
    """Write rows of target = source times the scale where a unit is kept, else 0; source(i), target(i) : addresses of rows"""
    build = v.builder
    spread = lambda symbol: Symbol(build, broadcast(build, symbol.value, v.lanes))
    short = lambda symbol: Symbol(build, build.trunc(symbol.value, INT32))
    lane = Symbol(build, ir.Constant(ir.VectorType(INT32, v.lanes), list(range(v.lanes))))
    with counted(build, rows) as i:
        # Of the two hashes that of the row is the same for all units.
        row = spread(row_word(word, first + short(i)))

        def drop(j, mask):
            at = j if isinstance(j, int) else spread(short(j))
            kept = Symbol(build, v.load(v.shift(source(i), j * v.itemsize), mask)) * scale
            dropped = where(is_kept(row, lane + at, threshold), kept, 0.0)
            v.store(dropped.value, v.shift(target(i), j * v.itemsize), mask)

        v.over(units, drop)


@of_arrays
def drop_units(word, first, threshold, scale, a, out):
    """out (rows, units) = a * scale where a unit is kept, else 0; word, threshold : uint32; row 0 of a is row `first`"""
    v = Vectors(a.builder, a.dtype, host().vector_bytes)
    first = Symbol(a.builder, a.builder.trunc(first.value, INT32))
    emit_drop(v, a.rows, a.columns, word, first, threshold, scale, a.at, out.at)


# --- steps of optimisers: on a parameter, or on whole vectors ---------------------------------------


def constants_at(constants):
    """Return a rule's constants, scalars, from a float64 `Matrix`."""
    build = constants.builder
    # Nothing writes to constants while a program runs. With the hint LLVM computes their functions once a chunk.
    never_changes = build.module.add_metadata([])
    numbers = [constants[i] for i in range(ROOM_FOR_CONSTANTS)]
    for number in numbers:
        number.value.set_metadata("invariant.load", never_changes)
    return numbers


def arrays_of_step(entry, g, p, moments):
    """Return the arrays of a rule's step: gradient, parameters, and each row of moments."""
    rows = (NumberArray(g.builder, g.dtype, moments.at(row)) for row in range(entry.moments))
    return g, p, *rows


def take_step(entry, rate, constants, t, arrays, i, penalty=None):
    """Write a rule's step of parameter i, or of a vector of parameters; penalty * parameter is added to the gradient."""
    g, p, *moments = (array[i] for array in arrays)
    if penalty is not None:
        g = fma(penalty, p, g)
    new, moments = entry.formula(p, g, moments, rate, constants, t)
    for array, symbol in zip(arrays[1:], [new, *moments], strict=True):
        array[i] = p.number(symbol)  # a formula may return one number for all parameters


@of_code("rule", results=0)
def step_element(entry, i, rate, constants, t, g, p, moments):
    """Take the step of parameter i of arrays (n,), with moments (rows, n)."""
    take_step(entry, rate, constants_at(constants), t, arrays_of_step(entry, g, p, moments), i)


def emit_steps(entry, n, arrays, rate, constants, t, penalty=None):
    """Write a step of a rule over n numbers; arrays : of gradients, parameters and moments"""
    v = Vectors(arrays[0].builder, arrays[0].dtype, host().vector_bytes)

    def step(i, mask):
        vectors = [VectorArray(v, array.data, apart=v.itemsize, mask=mask) for array in arrays]
        take_step(entry, rate, constants, t, vectors, i, penalty)

    v.over(n, step)


@of_code("rule", results=0)
def take_steps(entry, rate, constants, t, g, p, moments):
    """Take a step of all parameters and moments, as `apply_rule`."""
    arrays = arrays_of_step(entry, g, p, moments)
    emit_steps(entry, g.units, arrays, rate, constants_at(constants), t)


# --- down the columns of a matrix: the gradients of biases -----------------------------------------------

PANELS = 8, 4, 2, 1
"""Vectors side by side: several hide the latency of an addition."""


def emit_sums(v, rows, columns, a, a_row, out, started=False):
    """Write out (columns,) = the sums of a (rows, columns) over rows; `started` : the sums begin with `out`, not 0"""
    build = v.builder

    def panel(left, vectors, mask=None):
        source, target = v.shift(a, left * v.itemsize), v.shift(out, left * v.itemsize)
        read = lambda address: [v.load(v.shift(address, j * v.bytes), mask) for j in range(vectors)]

        def add(k, values):
            address, *totals = values
            return [v.shift(address, a_row), *(build.fadd(*pair) for pair in zip(totals, read(address)))]

        totals = read(target) if started else [v.zero] * vectors
        for j, total in enumerate(carried(build, 0, rows, [source, *totals], add)[1:]):
            v.store(total, v.shift(target, j * v.bytes), mask)

    done = 0
    for vectors in PANELS:
        width = vectors * v.lanes
        rest = (columns - done) % width
        with counted(build, columns - done - rest, width) as left:
            panel(done + left, vectors)
        done = columns - rest
    v.edge(rest, lambda mask: panel(done, 1, mask))


@of_arrays
def column_sums(a, out):
    """out (columns,) = the sum of a (rows, columns) over rows, both C-contiguous."""
    v = Vectors(a.builder, a.dtype, host().vector_bytes)
    emit_sums(v, a.rows, a.columns, a.data, a.row, out.data)


# --- of squares: the norm of a gradient ------------------------------------------------------------------

CHAINS, TOGETHER = 4, 64
"""The number of chains, and the vectors in a total of the chains."""


@partial(of_arrays, result="float64")
def squares_of(numbers):
    """Return the sum of the squares of a C-contiguous array (n,), in float64."""
    build, count = numbers.builder, numbers.units
    v, double = Vectors(build, numbers.dtype, host().vector_bytes), FLOATS[types.float64]
    wide = ir.VectorType(double, v.lanes)
    total = cgutils.alloca_once_value(build, ir.Constant(double, 0.0))

    def added(at, value, mask=None):
        exact = loaded = v.load(v.shift(numbers.data, at * v.itemsize), mask)
        if v.scalar != double:
            exact = build.fpext(loaded, wide)
        return fma(*(Symbol(build, number) for number in (exact, exact, value))).value

    step = CHAINS * v.lanes
    with counted(build, count, TOGETHER * v.lanes) as start:
        together = smaller(count - start, count.number(TOGETHER * v.lanes))
        rest = together % step
        each = lambda i, values: [added(start + i + c * v.lanes, value) for c, value in enumerate(values)]
        zeros = [ir.Constant(wide, [0.0] * v.lanes)] * CHAINS
        chains = carried(build, 0, together - rest, zeros, each, step)
        edge = lambda i, values: [added(start + i, *values, v.first(together - i))]
        chains[0] = carried(build, together - rest, together, chains[:1], edge, v.lanes)[0]
        lanes = chains[0]
        for chain in chains[1:]:
            lanes = build.fadd(lanes, chain)
        for lane in range(v.lanes):
            term = build.extract_element(lanes, INT32(lane))
            build.store(build.fadd(build.load(total), term), total)
    return build.load(total)


# --- of penalties, and their derivative ------------------------------------------------------------------


class Penalty:
    """Writes a layer's penalties: groups of terms in the dtype, sums of groups in float64; l1 may be None."""

    def __init__(self, v, l1, l2):
        self.v, self.builder, self.l1, self.half = v, v.builder, l1, l2 * 0.5
        self.none = ir.Constant(ir.VectorType(FLOATS[types.float64], PENALTY_LANES), [0.0] * PENALTY_LANES)
        """The total of no groups."""

    def added(self, weights, chain):
        """A chain, a vector, with the terms of a vector of weights."""
        weights, chain = Symbol(self.builder, weights), Symbol(self.builder, chain)
        return with_penalty(self.l1, self.half, weights, chain).value

    def grouped(self, total, chains):
        """The total of a layer's groups, float64, plus the sum of chains."""
        build, lanes = self.builder, chains[0]
        for chain in chains[1:]:
            lanes = build.fadd(lanes, chain)
        return build.fadd(total, lanes if lanes.type == total.type else build.fpext(lanes, total.type))

    def whole(self, total):
        """The layer's penalty, float64, from the total of groups."""
        return folded(self.builder, Symbol(self.builder, total), lambda a, b: a + b).value


def emit_penalty(penalty, address, rows, columns, stride, count):
    """Write the penalty of rows of weights, float64; count : numbers in all, as the last row may be shorter"""
    v, build = penalty.v, penalty.builder
    terms = rows.number(PENALTY_TERMS) // ((columns + v.lanes - 1) // v.lanes)
    group, complete = where(terms > 1, terms, 1) * PENALTY_ROWS, rows.number(count) // columns
    full = columns - columns % v.lanes

    def block(row, chains, lengths=None):
        """The chains with the terms of `PENALTY_ROWS` rows; lengths : of each, where some are not whole."""
        addresses = [v.shift(address, (row + c) * stride * v.itemsize) for c in range(PENALTY_ROWS)]

        def vectors(lengths):
            masks = lambda j: [None] * PENALTY_ROWS if lengths is None else [v.first(n - j) for n in lengths]
            return lambda j, chains: [
                penalty.added(v.load(v.shift(start, j * v.itemsize), mask), chain)
                for start, mask, chain in zip(addresses, masks(j), chains, strict=True)
            ]

        chains = carried(build, 0, full, chains, vectors(lengths), v.lanes)
        return carried(build, full, columns, chains, vectors(lengths or [columns] * PENALTY_ROWS), v.lanes)

    def each_group(row, total):
        # Only the very last rows may be short: all before need no masks for their lengths.
        last = smaller(row + group, rows)
        whole = row + (smaller(last, complete) - row) // PENALTY_ROWS * PENALTY_ROWS
        lengths = lambda k: [
            smaller(rows.number(columns), count - (k + c) * columns) for c in range(PENALTY_ROWS)
        ]
        chains = carried(build, row, whole, [v.zero] * PENALTY_ROWS, block, PENALTY_ROWS)
        chains = carried(
            build, whole, last, chains, lambda k, chains: block(k, chains, lengths(k)), PENALTY_ROWS
        )
        return [penalty.grouped(*total, chains)]

    return penalty.whole(*carried(build, 0, rows, [penalty.none], each_group, group))


@partial(of_arrays, result="float64")
def penalty_of(l1, l2, w):
    """Return l1 * sum|w| + l2 / 2 * sum w^2 of a layer's C-contiguous weights, float64; l1 and l2 of its dtype."""
    v = Vectors(w.builder, w.dtype, PENALTY_LANES * w.itemsize)
    columns, count = w.columns * rows_as_one(w.columns), w.rows * w.columns
    rows = (count + columns - 1) // columns
    return emit_penalty(Penalty(v, l1, l2), w.data, rows, columns, columns, count)


@of_arrays
def add_penalty_gradient(l1, l2, w, dw):
    """dw += l2 * w, then, where l1 > 0, l1 * sign(w); C-contiguous matrices, l1 and l2 of their dtype."""
    build, v = w.builder, Vectors(w.builder, w.dtype, host().vector_bytes)
    first, second = (Symbol(build, v.zero).number(number) for number in (l1, l2))

    def each(add):
        def at(index, mask):
            weights, gradients = (
                VectorArray(v, array.data, apart=v.itemsize, mask=mask) for array in (w, dw)
            )
            weight = weights[index]
            gradients[index] = add(with_decay(gradients[index], second, weight), weight)

        v.over(w.rows * w.columns, at)

    with build.if_else((l1 > 0.0).value) as (with_l1, without_l1):
        with with_l1:
            sign = lambda weight: where(weight > 0.0, 1.0, where(weight < 0.0, -1.0, weight))
            each(lambda gradient, weight: gradient + first * sign(weight))
        with without_l1:
            each(lambda gradient, weight: gradient)
