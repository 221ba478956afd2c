"""LLVM's vectors, masks, loops and arrays in memory, for kernels.

LLVM's vectoriser uses 256 bits on Intel ("prefer-256-bit") and leaves scalar tails. Code written here has the
full width, and a masked vector in place of every tail.

A size, a stride or an index is a Python integer where known when code is written, else a `Symbol`. The text
is the same for both, and LLVM computes constants while it compiles.
"""

from contextlib import contextmanager
from functools import partial

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import fma, where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import (
    BYTE,
    FLOATS,
    INT,
    INT32,
    ITEMSIZE,
    POINTER,
    Symbol,
    declare,
    intrinsic_like,
)
from fastmlp.kernels.codes import BY_KIND

LINE_BYTES = 64
"""A cache line."""

MOST_UNROLLED = 96
"""The most values, summed over all rounds, of an unrolled loop of known length."""

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
        """Vectors of the same type with another number of lanes."""
        return Vectors(self.builder, self.dtype, lanes * self.itemsize)

    def constant(self, number):
        """A number in every lane."""
        return ir.Constant(self.type, [number] * self.lanes)

    def first(self, count):
        """Return the mask of the first `count` lanes: all lanes for a larger count, none for a negative count."""
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
        """Load the scalar at an address into every lane."""
        scalar = self.builder.load(pointer, typ=self.scalar, align=self.itemsize)
        return broadcast(self.builder, scalar, self.lanes)

    def load(self, pointer, mask=None):
        """Load a vector; lanes outside the mask are zero, without a read of their memory."""
        if mask is None:
            return self.builder.load(pointer, typ=self.type, align=self.itemsize)
        name = f"llvm.masked.load.{self.suffix}.p0"
        masked = declare(
            self.builder.module, name, self.type, [POINTER, *ALIGNMENT_KIND, mask.type, self.type]
        )
        return self.builder.call(masked, [pointer, *self._alignment(), mask, self.zero])

    def store(self, value, pointer, mask=None):
        """Store a vector; memory of lanes outside the mask is not written."""
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
        """Write do(j, mask) for each vector of `count` elements, from element number j on.

        The mask is None, except for a last vector of fewer elements.
        """
        rest = count % self.lanes
        whole = count - rest
        with counted(self.builder, whole, self.lanes) as j:
            do(j, None)
        self.edge(rest, lambda mask: do(whole, mask))

    def edge(self, rest, do):
        """Write do(mask) for a vector of `rest` elements, if `rest` is not 0."""
        if not isinstance(rest, int):
            with self.builder.if_then((rest > 0).value):
                do(self.first(rest))
        elif rest:
            do(self.first(rest))

    def before_loads(self, value):
        """Return the vector, computed before any later load; see `Machine.load_order`."""
        register = host().load_order
        if not register:
            return value
        kind = ir.FunctionType(self.type, [self.type])
        return self.builder.asm(kind, "", f"={register},0", [value], True)

    def fma(self, a, b, c):
        """a * b + c, with one rounding where the machine can."""
        return fma(*(Symbol(self.builder, vector) for vector in (a, b, c))).value


def shuffle(builder, a, b, lanes):
    """Return these lanes of vectors a and b; lanes of b are numbered after the lanes of a."""
    lanes = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))


def folded(builder, vector, combine):
    """Combine all lanes of a `Symbol`: combine(a, b) of halves, of their halves, and so on."""
    while vector.lanes > 1:
        half = vector.lanes // 2
        low, high = (
            Symbol(builder, shuffle(builder, vector.value, vector.value, range(at, at + half)))
            for at in (0, half)
        )
        vector = combine(low, high)
    return Symbol(builder, builder.extract_element(vector.value, INT32(0)))


def transposed(v, addresses, mask=None):
    """Load a square block transposed: lane m of vector j is number j at addresses[m].

    First, parts of 128 bits are exchanged between vectors; the first exchange is made by loads of half vectors. Then
    each part is transposed by instructions that interleave two vectors; two such start in a cycle.
    """
    build, lanes, half = v.builder, v.lanes, v.lanes // 2
    part = min(lanes, 16 // v.itemsize)
    # Loads of half vectors take the place of the first exchange.
    if mask is None and lanes > part:
        halves = v.of_lanes(half)
        read = lambda m, side: halves.load(v.shift(addresses[m], side * halves.bytes))
        pairs = ((read(m, side), read(m + half, side)) for side in range(2) for m in range(half))
        block, stride = [shuffle(build, *pair, range(lanes)) for pair in pairs], half // 2
    else:
        block, stride = [v.load(address, mask) for address in addresses], half
    return exchanged(build, block, part, stride)


def exchanged(build, block, part, stride):
    """Return a square block transposed, after exchanges over more than `stride` lanes. See `transposed`."""
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


@contextmanager
def ascending(builder, count):
    """Open a loop over an index from 0 while below count; yields the index, and a function for the increment."""
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
    """Return the values after `values = step(k, values)` for k in range(first, count, by), in registers.

    A loop of known length with few values and rounds is unrolled.
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
    # The test stands at the end: a branch less in each round than with the test at the head.
    builder.cbranch(builder.icmp_signed("<", following, integer(count)), body, after)
    builder.position_at_end(after)
    return [joined(builder, (start, before), (result, last)) for start, result in zip(values, results)]


def carried_while(builder, first, goes_on, values, step):
    """Return the last index and values of `values = step(k, values)` while goes_on(k), from k = first."""
    before = builder.block
    head, body, after = map(builder.append_basic_block, ("test", "round", "rounds_done"))
    builder.branch(head)
    builder.position_at_end(head)
    index, *phis = [builder.phi(kind) for kind in (INT, *(value.type for value in values))]
    builder.cbranch(goes_on(Symbol(builder, index)), body, after)
    builder.position_at_end(body)
    results = step(Symbol(builder, index), phis)
    following, last = builder.add(index, INT(1)), builder.block
    builder.branch(head)
    for phi, start, result in zip([index, *phis], [integer(first), *values], [following, *results]):
        phi.add_incoming(start, before)
        phi.add_incoming(result, last)
    builder.position_at_end(after)
    return Symbol(builder, index), phis


def joined(builder, *values):
    """Return a phi node. values : pairs of a value and the basic block before this block"""
    phi = builder.phi(values[0][0].type)
    for pair in values:
        phi.add_incoming(*pair)
    return phi


def data_pointer(context, builder, kind, array):
    """Return the address of an array's first element, an untyped pointer."""
    # llvmlite stores types other than the array's own only by an untyped pointer.
    address = context.make_array(kind)(context, builder, array).data
    return builder.inttoptr(builder.ptrtoint(address, INT), POINTER)


def fetch_line(builder, pointer):
    """Prefetch a cache line into L2, for a read soon; a batch is larger than L1."""
    call = declare(builder.module, "llvm.prefetch.p0", ir.VoidType(), [POINTER, INT32, INT32, INT32])
    builder.call(call, [pointer, INT32(0), INT32(2), INT32(1)])  # 0: to read; 2: L2; 1: data


def fetch_row(builder, base, row, row_bytes):
    """`fetch_line` for all lines of a row."""
    address = builder.gep(base, [(row * row_bytes).value], source_etype=BYTE)
    with counted(builder, row_bytes, LINE_BYTES) as j:
        fetch_line(builder, builder.gep(address, [j.value], source_etype=BYTE))


# --- arrays that jitted code gives ------------------------------------------------------------------

NOTHING = ir.Constant(POINTER, None)
"""The address of an absent array."""


def shifted(build, pointer, offset):
    """The pointer moved by `offset` bytes."""
    return build.gep(pointer, [offset], source_etype=BYTE)


class NumberArray:
    """Numbers of a dtype, or of int64, one after another in memory."""

    def __init__(self, builder, dtype, data):
        self.builder, self.dtype, self.data = builder, dtype, data
        self.lane = FLOATS.get(dtype, INT)

    def _address(self, unit):
        return self.builder.gep(self.data, [integer(unit)], source_etype=self.lane)

    def __getitem__(self, unit):
        return Symbol(self.builder, self.builder.load(self._address(unit), typ=self.lane))

    def __setitem__(self, unit, symbol):
        self.builder.store(symbol.value, self._address(unit))


class RepeatedNumber:
    """An array with the same number in all elements."""

    def __init__(self, number):
        self.number = number

    def __getitem__(self, unit):
        return self.number


class VectorArray:
    """Vectors in memory: v[i] begins i * `apart` bytes after the first; an index is an integer or a `Symbol`.

    v : `Vectors`; apart : bytes, an integer or a `Symbol`, by default the bytes of a vector
    units : the number of vectors, for loops over all vectors
    mask : memory of lanes outside the mask is not read or written
    """

    def __init__(self, v, data, units=0, apart=None, mask=None):
        self.v, self.builder, self.data, self.units = v, v.builder, data, units
        self.apart, self.mask = v.bytes if apart is None else apart, mask

    def _address(self, index):
        return self.v.shift(self.data, index * self.apart)

    def __getitem__(self, index):
        return Symbol(self.builder, self.v.load(self._address(index), self.mask))

    def __setitem__(self, index, symbol):
        self.v.store(symbol.value, self._address(index), self.mask)

    def each(self, count=None):
        """Yield the index of a written loop over all vectors, or over the first `count`, once."""
        with counted(self.builder, self.units if count is None else count) as index:
            yield index


class Matrix(NumberArray):
    """An array (rows, columns) or (columns,) from jitted code; None has a null pointer."""

    def __init__(self, context, builder, kind, value):
        super().__init__(builder, getattr(kind, "dtype", None), NOTHING)
        self.kind = kind
        if kind != types.none:
            self.data = data_pointer(context, builder, kind, value)
            array = context.make_array(kind)(context, builder, value)
            shape = cgutils.unpack_tuple(builder, array.shape)
            self.rows, self.columns = (Symbol(builder, n) for n in [INT(1), *shape][-2:])
            self.itemsize = kind.dtype.bitwidth // 8
            self.row = self.columns * self.itemsize
            if kind.layout != "C":
                # Rows of a view may lie further apart than their columns.
                self.row = Symbol(builder, builder.extract_value(array.strides, 0))

    @property
    def units(self):
        """The length of a vector."""
        return self.columns

    def at(self, row, column=0):
        """Return the address of an element."""
        return shifted(self.builder, self.data, (self.row * row + column * self.itemsize).value)


def operand(context, builder, kind, value):
    """Return an argument of jitted code as a `Matrix`, a `Symbol`, or a list of both for a tuple."""
    if isinstance(kind, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, value)
        return [operand(context, builder, *pair) for pair in zip(kind, parts, strict=True)]
    if isinstance(kind, (types.Number, types.Boolean)):
        return Symbol(builder, value)
    return Matrix(context, builder, kind, value)


def of_arrays(emit, result="none", operand=operand, make=intrinsic):
    """Return the intrinsic of `emit`: jitted code passes arrays and numbers, `emit` takes operands.

    result : the name in `numba.types` of the type of emit's result; a digest reads names, not types
    operand : operand(context, builder, kind, value); make : Numba's `intrinsic`, or a class used in the same way
    """

    def call(typing_context, *kinds):
        taken = [*map(types.unliteral, kinds)]

        def code(context, builder, signature, values):
            value = emit(*(operand(context, builder, *pair) for pair in zip(taken, values, strict=True)))
            return context.get_dummy_value() if result == "none" else getattr(value, "value", value)

        return getattr(types, result)(*taken), code

    made = intrinsic_like(emit, call, make)
    made.emit = emit
    return made


def literal(code):
    """Return whether a code is a compile-time constant."""
    # Numba types a call without its literals first, which is refused.
    return isinstance(code, types.IntegerLiteral)


def of_code(kind, results=1, operand=operand):
    """Return a decorator: write(entry, *arguments) becomes the intrinsic (code, *arguments) of constant codes.

    kind : of codes, a key of `BY_KIND`; the entry belongs to the code
    results : the number of floats returned, of the type of the first float argument; all float arguments get this type
    operand : as of `of_arrays`
    """

    def decorate(write):
        def call(typing_context, code, *kinds):
            taken = [*map(types.unliteral, kinds)]
            floats = [each for each in taken if isinstance(each, types.Float)]
            like = next(iter(floats), None) if results else types.none
            if not literal(code) or like is None:
                return None
            if results:
                taken = [like if isinstance(each, types.Float) else each for each in taken]

            def emit(context, builder, signature, values):
                operands = (operand(context, builder, *pair) for pair in zip(taken, values[1:], strict=True))
                written = write(BY_KIND[kind][code.literal_value], *operands)
                if results == 0:
                    return context.get_dummy_value()
                if results == 1:
                    return written.value
                return context.make_tuple(
                    builder, signature.return_type, [symbol.value for symbol in written]
                )

            result = types.UniTuple(like, results) if results > 1 else like
            return result(code, *taken), emit

        made = intrinsic_like(write, call)
        made.emit = write
        return made

    return decorate


@of_arrays
def prefetch_rows(array, order, first, last):
    """Prefetch the rows order[first:last] of a C-contiguous (rows, columns) or (rows,) array."""
    row_bytes = array.row if array.kind.ndim == 2 else Symbol(array.builder, INT(array.itemsize))
    with counted(array.builder, last - first) as i:
        fetch_row(array.builder, array.data, order[first + i], row_bytes)


@of_arrays
def prefetch_row(array, row):
    """Prefetch a row of a C-contiguous (rows, columns) array."""
    fetch_row(array.builder, array.data, row, array.row)


@partial(of_arrays, result="float64")
def total_of(terms, count, step):
    """Return terms[0] + terms[step] + .. below `count`, float64, added in order from 0."""
    build = terms.builder
    total = cgutils.alloca_once_value(build, ir.Constant(terms.lane, 0.0))
    with counted(build, count) as i:
        # One chain, in order: a sum by vectors would depend on the number of terms.
        build.store(build.fadd(build.load(total), terms[i * step].value), total)
    return build.load(total)
