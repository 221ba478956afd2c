"""Products with a sparse factor: each row of the result is a sum of a few rows of a dense matrix.

Both products of a first layer have this form. Forward, a sum belongs to a sample: its terms are its non-zeros times
rows of W. In the weight gradient, a sum belongs to an input's column: its terms are the column's non-zeros times rows
of deltas. No two rows have the same terms, so `fastmlp.kernels.gemm.microkernel` cannot use a vector for several rows;
a sum stays in registers, as many vectors wide as these hold, while it goes through its terms.

Every element is a chain of FMAs over ascending terms, as in a dense product, whose additional terms are 0 and change
no bit but a zero's sign. A chain that is stored and continued later is the same chain.
"""

from collections import namedtuple
from functools import partial
from itertools import product

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.np.numpy_support import from_dtype

from fastmlp.formulas.numbers import at_least, where
from fastmlp.kernels.codegen.symbols import FLOATS, INT, INT32, ITEMSIZE, Symbol
from fastmlp.kernels.codegen.vectors import (
    LINE_BYTES,
    NOTHING,
    Vectors,
    ascending,
    carried,
    carried_while,
    counted,
    fetch_line,
    joined,
    of_arrays,
    shifted,
    smaller,
)
from fastmlp.kernels.codegen.views import chosen
from fastmlp.kernels.gemm.microkernel import (
    DECAY,
    MACHINE,
    RELU,
    STORE,
    UPDATE,
    ends_of,
    starts_of,
    switched,
    with_mask,
)
from fastmlp.kernels.gemm.packing import call
from fastmlp.kernels.jit.lazy import compile_all, emitted
from fastmlp.kernels.thresholds import INDICES, emit_threshold

MOST_VECTORS = 16 if MACHINE.accumulators >= 16 else 8
"""The most vectors of one sum: half of the registers. Eight keep the FMA units busy. With 16 a row of 100 in float64
is read at once: the gradient of 20 000 columns with 1.3 samples each took 0.65 of the time of 8."""

NEAR, FAR, BLOCKED, FAR_BLOCKED, WAYS = 0, 1, 2, 3, 4
"""How sums read rows of W. FAR: rows are prefetched. BLOCKED: the terms in one block of rows are added to every sum before
those in the next, so that the block stays in a cache. FAR_BLOCKED: both. Rows of deltas are always NEAR.
"""

FAR_INDEX, AHEAD_BYTES = INDICES["far_bytes"], 1 << 11
"""The least bytes of a W with FAR rows, an index in `thresholds`; rows are prefetched about AHEAD_BYTES
ahead: 200 rows with 126 of 20 000 inputs to 100 units take 0.64 of the time, with four times as many bytes 1.17.
"""

BLOCKS = {BLOCKED: (INDICES["near_block_bytes"], 12), FAR_BLOCKED: (INDICES["far_block_bytes"], 4)}
"""By the way to read: the index of a block's bytes, and the average terms of a sum in a block that are worth a store and a
load. A batch of digits goes to 128 units in 0.8 of the time, and the 200 rows above in 0.77.
"""

BLOCK_SUMS = 256
"""Sums that share a block in a cache. The position of each sum's next term is on the stack."""

TARGETS_AHEAD, TERMS_AHEAD = 3, 2
"""Sums ahead of which rows of the result, and terms of ordered samples, are prefetched."""

INDEX_BYTES = 4

AXES = MOST_VECTORS + 1, 2, WAYS
"""The number of values of each part of a code: vectors, whether no lane is masked, and the way to read rows of W."""


def is_unmasked(way):
    """Whether sums without a mask read rows in this way; where a mask costs little, NEAR sums alone: less to compile."""
    return way == NEAR or not MACHINE.masks


Sums = namedtuple(
    "Sums",
    "starts positions indices values b start c targets b_row c_row start_row count columns finish depth terms rate l2",
)
"""The operands of sums: addresses in memory, then `Symbol`s; `multiply` takes LLVM values, too. Rows are in bytes.

starts, positions : sum s has the terms starts[p] to starts[p + 1], where p = positions[s], int64, or s if nothing
indices, values : of each term the row, int32, and the number
start, start_row : nothing for 0, or where the chain of sum s starts, `start_row` * s on; 0 for a bias
c, c_row, targets : sum s is row targets[s], int64, or s if nothing, of the result
finish : as for tiles: STORE, RELU or UPDATE, which alone reads rate and l2
depth, terms : the number of rows of b, 0 where all of them are near; the terms of a sum on the average
"""


N_POINTERS = 8
"""The number of the first fields of `Sums`, which are addresses in memory."""


def taken_by(dtype):
    """The types of `Sums`."""
    return (types.voidptr,) * N_POINTERS + (types.intp,) * 8 + (dtype,) * 2


def is_given(build, pointer):
    """Whether an address is not null."""
    return Symbol(build, build.icmp_unsigned("!=", pointer, NOTHING))


def measured(build, index):
    """The threshold at an index."""
    return Symbol(build, emit_threshold(build, index))


def block_of(row_bytes, way):
    """The rows of a block, by the bytes of a row."""
    return at_least(measured(row_bytes.builder, BLOCKS[way][0]) // row_bytes, 1)


def way_to(o, row_bytes):
    """The way to read the rows of `Sums`, by the added bytes of a row."""

    def pays(way):
        block = block_of(row_bytes, way)
        return (o.depth > 2 * block) & (o.terms * block >= o.depth * BLOCKS[way][1])

    is_far = o.depth * o.b_row >= measured(o.depth.builder, FAR_INDEX)
    far = where(pays(FAR_BLOCKED), o.depth.number(FAR_BLOCKED), FAR)
    return where(pays(BLOCKED), BLOCKED, where(is_far, far, NEAR))


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


def fetch(build, addresses):
    """Prefetch the lines at some addresses."""
    for address in addresses:
        fetch_line(build, address)


class Writer:
    """Writes sums of a number of vectors; ahead : how many terms ahead rows are prefetched, 0 where they are not"""

    def __init__(self, build, o, v, vectors, way, mask):
        self.build, self.o, self.v = build, o, v
        # Rows that are near are in a cache: a prefetch would only take a slot of a load.
        self.ahead = max(1, AHEAD_BYTES // (vectors * v.bytes)) if way in (FAR, FAR_BLOCKED) else 0
        self.masks = [None] * (vectors - 1) + [mask]
        ends = ends_of(v, "strided", o.rate, o.l2)
        if way == NEAR:
            decays = o.finish.equals(UPDATE) & o.l2.equals(0.0).negated()
            self.finish = where(decays, o.finish.number(DECAY), o.finish)
            self.ends = {code: ends[code] for code in (STORE, RELU, UPDATE, DECAY)}
        else:
            # Only `sums_of_columns` takes a step of SGD. It gives no depth: its rows count as near.
            self.finish, self.ends = o.finish, {code: ends[code] for code in (STORE, RELU)}

    def parts(self, address):
        """Where the vectors of a row are."""
        return [self.v.shift(address, j * self.v.bytes) for j in range(len(self.masks))]

    def row(self, p):
        """The row that term p is multiplied with."""
        return self.v.shift(self.o.b, load_at(self.build, self.o.indices, p, INT32) * self.o.b_row)

    def target(self, s):
        """The row that sum s is written to."""
        return self.v.shift(self.o.c, chosen_by(self.build, self.o.targets, s) * self.o.c_row)

    def bounds(self, s):
        """The first term of sum s, and the end of its terms."""
        index = chosen_by(self.build, self.o.positions, s)
        return load_at(self.build, self.o.starts, index), load_at(self.build, self.o.starts, index + 1)

    def start(self, s):
        """Where the chain of sum s starts."""
        return self.v.shift(self.o.start, s * self.o.start_row)

    def begin(self, start):
        """The vectors that a sum begins with: those at an address, or 0 where that is null."""
        pairs = zip(self.parts(start), self.masks)
        return starts_of(self.v, is_given(self.build, start), [(None, *pair) for pair in pairs], False)

    def is_there(self, last, beyond, p):
        """Whether p is a term before `last`, of a row before `beyond`."""
        build = self.build
        before, read, after = build.block, *map(build.append_basic_block, ("read", "after"))
        # A branch, not an and of both: behind the last term there may be no index to read.
        build.cbranch((p < last).value, read, after)
        build.position_at_end(read)
        within = (load_at(build, self.o.indices, p, INT32) < beyond).value
        build.branch(after)
        build.position_at_end(after)
        return joined(build, (ir.IntType(1)(0), before), (within, read))

    def add(self, last, p, sums):
        """The sums with term p added; `last` ends the terms."""
        if self.ahead:
            # Near the end the last row again: its index is there, and those behind belong to other sums.
            fetch(self.build, self.parts(self.row(smaller(p + self.ahead, last - 1))))
        number = self.v.broadcast(self.v.shift(self.o.values, p * self.v.itemsize))
        pairs = zip(self.parts(self.row(p)), self.masks)
        return [self.v.fma(number, self.v.load(*pair), total) for pair, total in zip(pairs, sums)]

    def store(self, s, sums, finish):
        """Write sum s with its end."""

        def write(end):
            for value, address, mask in zip(sums, self.parts(self.target(s)), self.masks):
                self.v.store(end(value, address, None, mask), address, mask)

        switched(self.build, finish, {code: partial(write, end) for code, end in self.ends.items()})

    def fetch_first_rows(self, s):
        """Prefetch the rows of the first terms of sum s, or of the last sum."""
        if self.ahead:
            first, last = self.bounds(smaller(s, self.o.count - 1))
            with counted(self.build, smaller(last - first, self.ahead)) as i:
                fetch(self.build, self.parts(self.row(first + i)))

    def fetch_terms(self, s):
        """Prefetch the terms of a sum after s, where sums are in an order."""
        # Without an order the terms of all sums are one stream, which processors prefetch by themselves.
        with self.build.if_then(is_given(self.build, self.o.positions).value):
            first, last = self.bounds(smaller(s + TERMS_AHEAD, self.o.count - 1))
            with counted(self.build, last - first, LINE_BYTES // INDEX_BYTES) as i:
                term = first + i
                fetch_line(self.build, self.v.shift(self.o.indices, term * INDEX_BYTES))
                values = self.v.shift(self.o.values, term * self.v.itemsize)
                along = range(0, self.v.itemsize // INDEX_BYTES * LINE_BYTES, LINE_BYTES)
                fetch(self.build, [self.v.shift(values, at) for at in along])


def emit_sums(build, arguments, kinds, code):
    """Write the function of sums of a number of vectors, a part of the code."""
    vectors, whole, way = map(int, np.unravel_index(code, AXES))
    o, v = Sums(*arguments), Vectors(build, kinds[-1], MACHINE.vector_bytes)

    def write(mask):
        writer = Writer(build, o, v, vectors, way, mask)
        if way in BLOCKS:
            emit_blocks(build, o, writer, block_of(o.columns * v.itemsize, way))
        else:
            emit_rows(build, o, writer)

    if whole:
        write(None)
    else:
        # All lanes, too: where masks cost little programs call no others, and a wheel has code for where they do not.
        with_mask(v, o.columns - (vectors - 1) * v.lanes, v.lanes, write)


def emit_rows(build, o, write):
    """Write whole sums in order."""
    with counted(build, o.count) as s:
        initial = write.begin(write.start(s))
        first, last = write.bounds(s)
        write.fetch_terms(s)
        fetch(build, write.parts(write.target(smaller(s + TARGETS_AHEAD, o.count - 1))))
        # While a sum goes on, `add` fetches rows `ahead` terms later; the first rows of the next sum are for
        # this sum to fetch.
        write.fetch_first_rows(s + 1)
        write.store(s, carried(build, first, last, initial, partial(write.add, last)), write.finish)


def emit_blocks(build, o, write, block):
    """Write BLOCK_SUMS sums at a time: of all of them the terms in a block of rows, then those in the next."""
    cursors = build.alloca(INT, BLOCK_SUMS)
    cursor_of = lambda i: build.gep(cursors, [i.value])
    with counted(build, o.count, BLOCK_SUMS) as top:
        together = smaller(o.count - top, BLOCK_SUMS)
        with counted(build, together) as i:
            build.store(write.bounds(top + i)[0].value, cursor_of(i))
        with counted(build, o.depth, block) as row, counted(build, together) as i:
            s, beyond = top + i, row + block
            is_first, is_last = row.equals(0), beyond >= o.depth
            with build.if_then(is_first.value):
                write.fetch_terms(s)
            # Sums of earlier blocks of rows lie in the output, from which the chain goes on.
            last = write.bounds(s)[1]
            initial = write.begin(build.select(is_first.value, write.start(s), write.target(s)))
            position, sums = carried_while(
                build, Symbol(build, build.load(cursor_of(i))), partial(write.is_there, last, beyond),
                initial, partial(write.add, last),
            )  # fmt: skip
            build.store(position.value, cursor_of(i))
            write.store(s, sums, where(is_last, write.finish, write.finish.number(STORE)))


CODES = [
    int(np.ravel_multi_index((vectors, whole, way), AXES))
    for vectors, whole, way in product(range(1, AXES[0]), *map(range, AXES[1:]))
    if is_unmasked(way) or not whole
]

SUMS = emitted(f"sparse_sums_{MACHINE.vector_bytes}", emit_sums, CODES)


def compile_sums(dtype: str) -> None:
    """Compile, or load, the sums of every number of vectors for a NumPy dtype."""
    compile_all(SUMS, taken_by(from_dtype(np.dtype(dtype))))


# --- products of any width --------------------------------------------------------------------------


def emit_product(build, arguments, kinds, code):
    """Write the function of sums of any width: columns are cut into blocks of nearly equal width."""
    o, dtype = Sums(*arguments), kinds[-1]
    lanes = MACHINE.vector_bytes // ITEMSIZE[dtype]
    up = lambda a, b: (a + (b - 1)) // b
    across = up(o.columns, lanes)
    # Blocks of nearly equal width: a narrow last block would read all indices for few columns.
    width = up(across, up(across, MOST_VECTORS)) * lanes
    with ascending(build, o.columns) as (left, to_the_right):
        columns = smaller(width, o.columns - left)
        vectors = up(columns, lanes)
        along = (left * ITEMSIZE[dtype]).value
        start = build.select(is_given(build, o.start).value, shifted(build, o.start, along), NOTHING)
        values = o._replace(
            b=shifted(build, o.b, along), c=shifted(build, o.c, along), start=start, columns=columns
        )
        way = way_to(o, columns * ITEMSIZE[dtype])
        is_whole = (vectors * lanes).equals(columns)
        # Where masks are cheap, there is code without a mask for NEAR sums alone.
        if not is_unmasked(BLOCKED):
            is_whole &= way.equals(NEAR)
        whole = Symbol(build, build.zext(is_whole.value, INT))
        shape = (vectors * AXES[1] + whole) * AXES[2] + way
        call(build, SUMS, int(np.prod(AXES)), (types.intp, *kinds), [shape, *values])
        to_the_right(columns)


PRODUCT = emitted(f"sparse_product_{MACHINE.vector_bytes}", emit_product)


def multiply_sparse(builder, dtype, **fields):
    """Write a call of the product. fields : of `Sums`; other addresses are null, other numbers 0."""
    zero = ir.Constant(FLOATS[dtype], 0.0)
    others = {
        **dict.fromkeys(("positions", "start", "targets"), NOTHING),
        **dict.fromkeys(("depth", "terms", "start_row"), INT(0)),
        "rate": zero,
        "l2": zero,
    }
    call(builder, PRODUCT, 0, taken_by(dtype), Sums(**{**others, **fields}))


@of_arrays
def sums_of_samples(indptr, indices, values, order, w, b, out, finish):
    """out = x[order] @ w + b, of sparse rows x; with an empty order, of x @ w + b. b : a row, or a row for each sum"""
    build, ordered = values.builder, (order.columns > 0).value
    rows = indptr.columns - 1
    stored = load_at(build, indptr.data, rows) - load_at(build, indptr.data, Symbol(build, INT(0)))
    terms = stored // at_least(rows, 1)
    multiply_sparse(
        build, values.dtype, starts=indptr.data, indices=indices.data, values=values.data,
        positions=build.select(ordered, order.data, NOTHING), b=w.data, b_row=w.row, start=b.data,
        start_row=b.row if b.kind.ndim == 2 else INT(0),
        c=out.data, c_row=out.row, count=out.rows, columns=out.columns, finish=finish,
        depth=w.rows, terms=terms,
    )  # fmt: skip


@of_arrays
def sums_of_columns(starts, samples, numbers, columns, delta, out, finish, rate, l2):
    """Row columns[t] of out, or row t where `columns` is empty, = sum t: numbers[p] * delta[samples[p]] over p from starts[t]."""
    listed = (columns.columns > 0).value
    multiply_sparse(
        numbers.builder, numbers.dtype, starts=starts.data, indices=samples.data, values=numbers.data,
        targets=numbers.builder.select(listed, columns.data, NOTHING), b=delta.data, b_row=delta.row,
        c=out.data, c_row=out.row, count=starts.columns - 1, columns=out.columns, finish=finish, rate=rate, l2=l2,
    )  # fmt: skip


compiled = njit(error_model="numpy", inline="always")


@compiled
def affine_sparse_rows(indptr, indices, values, order, w, b, out, relu):
    """`dispatch.affine_rows` for all rows of out, with sparse rows of x."""
    sums_of_samples(indptr, indices, values, order, w, b, out, chosen(relu, RELU, STORE))


@compiled
def add_sparse_rows(indptr, indices, values, order, w, out):
    """out += x @ w, with sparse rows of x: each chain goes on from what out has."""
    sums_of_samples(indptr, indices, values, order, w, out, out, STORE)


@compiled
def weight_gradient_sparse_rows(starts, samples, numbers, columns, delta, out, update):
    """`dispatch.weight_gradient_in_place` of listed columns: see `sums_of_columns`."""
    apply, rate, l2 = update
    sums_of_columns(starts, samples, numbers, columns, delta, out, chosen(apply, UPDATE, STORE), rate, l2)
