"""The vocabulary that kernels are written in: vectors of LLVM, masks, loops, places in memory.

Loops left to LLVM's vectoriser run at 256 bits on Intel ("prefer-256-bit") and end in scalar
tails. What is written here keeps the full width, and a masked vector replaces every tail.

A size, a stride or an index is an integer where it is known when code is written, else a `Symbol`; the
text is the same for both. LLVM computes with what is constant while it compiles.
"""

from contextlib import contextmanager

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import fma, where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import BYTE, FLOATS, INT, INT32, ITEMSIZE, POINTER, declare

LINE_BYTES = 64
"""A cache line."""

MOST_UNROLLED = 96
"""Values that pass through a loop of a known length, over all its rounds: with more it is not written out."""

# LLVM 22 moved the alignment of a masked access from an argument to an attribute.
ALIGNMENT_KIND = [] if llvmlite.binding.llvm_version_info >= (22,) else [INT32]


def integer(number):
    """The LLVM value of an integer or a `Symbol`."""
    return INT(number) if isinstance(number, int) else number.value


def smaller(a, b):
    """The smaller of two integers or `Symbol`s."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else where(a < b, a, b)


class Vectors:
    """Writes vectors of one element type and width at a builder's position."""

    def __init__(self, builder, dtype, vector_bytes):
        self.builder = builder
        self.dtype = dtype
        self.itemsize = ITEMSIZE[dtype]
        self.scalar = FLOATS[dtype]
        self.lanes = vector_bytes // self.itemsize
        self.bytes = vector_bytes
        self.type = ir.VectorType(self.scalar, self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.itemsize}"
        self.zero = self.constant(0.0)

    def of_lanes(self, lanes):
        """The same of another width."""
        return Vectors(self.builder, self.dtype, lanes * self.itemsize)

    def constant(self, number):
        """A number in every lane."""
        return ir.Constant(self.type, [number] * self.lanes)

    def first(self, count):
        """The mask of the first `count` lanes; all of them when count is larger, none when negative."""
        width, count = ir.IntType(8 * self.itemsize), integer(count)
        if width != INT:
            count = self.builder.trunc(count, width)
        numbers = ir.Constant(ir.VectorType(width, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, broadcast(self.builder, count, self.lanes))

    def shift(self, pointer, offset):
        """The pointer moved by `offset` bytes."""
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.builder.gep(pointer, [integer(offset)], source_etype=BYTE)

    def broadcast(self, pointer):
        """The scalar at a place, in every lane."""
        scalar = self.builder.load(pointer, typ=self.scalar, align=self.itemsize)
        return broadcast(self.builder, scalar, self.lanes)

    def load(self, pointer, mask=None):
        """A vector; lanes outside the mask are zero and their memory is not touched."""
        if mask is None:
            return self.builder.load(pointer, typ=self.type, align=self.itemsize)
        name = f"llvm.masked.load.{self.suffix}.p0"
        masked = declare(
            self.builder.module, name, self.type, [POINTER, *ALIGNMENT_KIND, mask.type, self.type]
        )
        return self.builder.call(masked, [pointer, *self._alignment(), mask, self.zero])

    def store(self, value, pointer, mask=None):
        """Write a vector; lanes outside the mask are not touched."""
        if mask is None:
            self.builder.store(value, pointer, align=self.itemsize)
            return
        name = f"llvm.masked.store.{self.suffix}.p0"
        kinds = [self.type, POINTER, *ALIGNMENT_KIND, mask.type]
        masked = declare(self.builder.module, name, ir.VoidType(), kinds)
        self.builder.call(masked, [value, pointer, *self._alignment(), mask])

    def _alignment(self):
        return [kind(self.itemsize) for kind in ALIGNMENT_KIND]

    def over(self, count, do):
        """Write do(j, mask) for each vector of `count` elements, of which j is the first.

        The mask is None but for a last vector that is not whole.
        """
        rest = count % self.lanes
        whole = count - rest
        with counted(self.builder, whole, self.lanes) as j:
            do(j, None)
        self.edge(rest, lambda mask: do(whole, mask))

    def edge(self, rest, do):
        """Write do(mask) for a vector of `rest` elements, if there are any."""
        if not isinstance(rest, int):
            with self.builder.if_then((rest > 0).value):
                do(self.first(rest))
        elif rest:
            do(self.first(rest))

    def settled(self, value):
        """The vector, computed before any load that is written after this; see `Machine.settles`."""
        register = host().settles
        if not register:
            return value
        kind = ir.FunctionType(self.type, [self.type])
        return self.builder.asm(kind, "", f"={register},0", [value], True)

    def fma(self, a, b, c):
        """a * b + c, with one rounding where the machine can."""
        return fma(*(Symbol(self.builder, vector) for vector in (a, b, c))).value


def shuffle(builder, a, b, lanes):
    """Lanes of a, and after them of b, by their numbers."""
    lanes = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))


def transposed(v, places, mask=None):
    """As many vectors as there are lanes: lane m of vector j is number j at places[m].

    Parts of 128 bits are exchanged between vectors, the first time by loads of halves; then each part is
    transposed by instructions that interleave two vectors, two of which start in a cycle.
    """
    build, lanes, half = v.builder, v.lanes, v.lanes // 2
    part = min(lanes, 16 // v.itemsize)
    if mask is None and lanes > part:
        halves = v.of_lanes(half)
        read = lambda m, side: halves.load(v.shift(places[m], side * halves.bytes))
        pairs = ((read(m, side), read(m + half, side)) for side in range(2) for m in range(half))
        block, stride = [shuffle(build, *pair, range(lanes)) for pair in pairs], half // 2
    else:
        block, stride = [v.load(place, mask) for place in places], half
    return exchanged(build, block, part, stride)


def exchanged(build, block, part, stride):
    """A square block of vectors transposed, whose parts of more than `stride` parts already are: see `transposed`."""
    lanes, block = len(block), [*block]
    while stride >= part:
        low = [lane if not lane & stride else lanes + lane - stride for lane in range(lanes)]
        high = [lane + stride if not lane & stride else lanes + lane for lane in range(lanes)]
        for m in range(lanes):
            if not m & stride:
                pair = block[m], block[m + stride]
                block[m], block[m + stride] = shuffle(build, *pair, low), shuffle(build, *pair, high)
        stride //= 2
    starts, near = range(0, lanes, part), part // 2
    low, high = (
        [lane for at in starts for i in range(near) for lane in (at + side + i, lanes + at + side + i)]
        for side in (0, near)
    )
    for _ in range(part.bit_length() - 1):
        block = [
            shuffle(build, block[at + i], block[at + i + near], order)
            for at in starts
            for i in range(near)
            for order in (low, high)
        ]
    return block


def broadcast(builder, scalar, lanes):
    """A scalar in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    return shuffle(builder, builder.insert_element(undefined, scalar, INT32(0)), undefined, [0] * lanes)


def sum_lanes(builder, value):
    """The sum of all lanes, in every lane: log2(lanes) exchanges."""
    lanes, distance = value.type.count, 1
    while distance < lanes:
        value = builder.fadd(value, shuffle(builder, value, value, [i ^ distance for i in range(lanes)]))
        distance *= 2
    return value


@contextmanager
def ascending(builder, count):
    """The loop over an index from 0 while it is below count; yields it, and what tells how far to go on."""
    before, head = builder.block, builder.append_basic_block("head")
    body, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(INT)
    index.add_incoming(INT(0), before)
    builder.cbranch(builder.icmp_signed("<", index, integer(count)), body, after)
    builder.position_at_end(body)
    steps = []
    yield Symbol(builder, index), steps.append
    index.add_incoming(builder.add(index, *map(integer, steps)), builder.block)
    builder.branch(head)
    builder.position_at_end(after)


@contextmanager
def counted(builder, count, step=1):
    """The loop `for index in range(0, count, step)`; yields the index."""
    with ascending(builder, count) as (index, go_on):
        yield index
        go_on(step)


def carried(builder, first, count, values, step, by=1):
    """The values after `values = step(k, values)` for k in range(first, count, by): they stay in registers.

    Where a loop of a known length has few values and rounds, it is written out.
    """
    if isinstance(count, int) and count * len(values) <= MOST_UNROLLED:
        for k in range(first, count, by):
            values = step(k, values)
        return values
    before = builder.block
    body, after = builder.append_basic_block("round"), builder.append_basic_block("rounds_done")
    builder.cbranch(builder.icmp_signed("<", integer(first), integer(count)), body, after)
    builder.position_at_end(body)
    index, *phis = [builder.phi(kind) for kind in (INT, *(value.type for value in values))]
    results = step(Symbol(builder, index), phis)
    following, last = builder.add(index, integer(by)), builder.block
    for phi, start, result in zip([index, *phis], [integer(first), *values], [following, *results]):
        phi.add_incoming(start, before)
        phi.add_incoming(result, last)
    builder.cbranch(builder.icmp_signed("<", following, integer(count)), body, after)
    builder.position_at_end(after)
    return [joined(builder, (start, before), (result, last)) for start, result in zip(values, results)]


def joined(builder, *values):
    """Which of some values it is, by the block that control comes from: pairs of a value and a block."""
    phi = builder.phi(values[0][0].type)
    for pair in values:
        phi.add_incoming(*pair)
    return phi


def element(context, builder, kind, array, position):
    """The place of element `position` of an array taken as flat memory."""
    offset = builder.mul(position, INT(kind.dtype.bitwidth // 8))
    return builder.gep(data_pointer(context, builder, kind, array), [offset], source_etype=BYTE)


def byte_pointer(builder, pointer):
    """The pointer as what Numba's void pointers are."""
    return builder.bitcast(pointer, BYTE.as_pointer())


def data_pointer(context, builder, kind, array):
    """The place of an array's first element, without a type: llvmlite would store nothing else there."""
    place = context.make_array(kind)(context, builder, array).data
    return builder.inttoptr(builder.ptrtoint(place, INT), POINTER)


def fetch_line(builder, pointer):
    """Ask for a cache line, to be read soon and kept in the second level (a batch is larger than the first)."""
    call = declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, INT32, INT32, INT32])
    builder.call(call, [pointer, INT32(0), INT32(2), INT32(1)])  # 0: to read; 2: L2; 1: data


@intrinsic
def prefetch_rows(typing_context, array, order, first, last):
    """Ask for the rows order[first:last] of a C-contiguous (rows, columns) or (rows,) array, to be read soon."""

    def emit(context, builder, signature, arguments):
        base, places = (
            data_pointer(context, builder, *pair) for pair in zip(signature.args[:2], arguments[:2])
        )
        shape = cgutils.unpack_tuple(builder, context.make_array(array)(context, builder, arguments[0]).shape)
        row_bytes = Symbol(builder, [*shape, INT(1)][1]) * (array.dtype.bitwidth // 8)
        first, last = (Symbol(builder, value) for value in arguments[2:])
        with counted(builder, last - first) as i:
            at = builder.gep(places, [(first + i).value], source_etype=INT)
            place = Symbol(builder, builder.load(at, typ=INT)) * row_bytes
            row = builder.gep(base, [place.value], source_etype=BYTE)
            with counted(builder, row_bytes, LINE_BYTES) as j:
                fetch_line(builder, builder.gep(row, [j.value], source_etype=BYTE))
        return context.get_dummy_value()

    return types.void(array, order, types.intp, types.intp), emit


@intrinsic
def total_of(typing_context, terms, count, step):
    """Return terms[0] + terms[step] + .., so many, in this order from 0; float64."""

    def emit(context, builder, signature, arguments):
        double = FLOATS[types.float64]
        total = cgutils.alloca_once_value(builder, ir.Constant(double, 0.0))
        place = data_pointer(context, builder, terms, arguments[0])
        with counted(builder, Symbol(builder, arguments[1])) as i:
            term = builder.load(
                builder.gep(place, [(i * Symbol(builder, arguments[2])).value], source_etype=double),
                typ=double,
            )
            builder.store(builder.fadd(builder.load(total), term), total)
        return builder.load(total)

    return types.float64(terms, types.intp, types.intp), emit
