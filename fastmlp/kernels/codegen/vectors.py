"""The vocabulary the tiles are written in: LLVM vectors of the host's width, masks, fused multiply-adds.

Loops left to LLVM's vectoriser run at 256 bits on Intel ("prefer-256-bit") and end in scalar
tails. What is emitted here keeps the full width, and a masked vector replaces every tail.
"""

from contextlib import contextmanager

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

INT = ir.IntType(64)
INT32 = ir.IntType(32)
BIT = ir.IntType(1)
BYTE = ir.IntType(8)
POINTER = ir.PointerType()
FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
ITEMSIZE = {types.float32: 4, types.float64: 8}
LINE_BYTES = 64
"""A cache line."""

# LLVM 22 moved the alignment of a masked access from an argument to an attribute.
ALIGNMENT_KIND = [] if llvmlite.binding.llvm_version_info >= (22,) else [INT32]


def declare(module, name, result, arguments):
    """The function `name` of the module, declared on first use."""
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments), name)


class Vectors:
    """Emits vectors of one element type and width at a builder's position."""

    def __init__(self, builder, dtype, vector_bytes):
        self.builder = builder
        self.module = builder.module
        self.itemsize = ITEMSIZE[dtype]
        self.scalar = FLOATS[dtype]
        self.lanes = vector_bytes // self.itemsize
        self.bytes = vector_bytes
        self.type = ir.VectorType(self.scalar, self.lanes)
        self.mask_type = ir.VectorType(BIT, self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.itemsize}"
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)

    def splat(self, value, kind=None):
        kind = kind or self.type
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, INT32(0))
        lanes = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def first(self, count):
        """The mask of the first `count` lanes; all of them when count is larger, none when negative."""
        width = ir.IntType(8 * self.itemsize)
        kind = ir.VectorType(width, self.lanes)
        if width != INT:
            count = self.builder.trunc(count, width)
        ascending = ir.Constant(kind, list(range(self.lanes)))
        return self.builder.icmp_signed("<", ascending, self.splat(count, kind))

    def shift(self, pointer, offset):
        """The pointer moved by `offset` bytes, a Python integer or an IR value."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = INT(offset)
        return self.builder.gep(pointer, [offset], source_etype=BYTE)

    def broadcast(self, pointer):
        return self.splat(self.builder.load(pointer, typ=self.scalar, align=self.itemsize))

    def load(self, pointer, mask=None):
        """A vector; lanes outside the mask are zero and their memory is not touched."""
        if mask is None:
            return self.builder.load(pointer, typ=self.type, align=self.itemsize)
        name = f"llvm.masked.load.{self.suffix}.p0"
        kinds = [POINTER, *ALIGNMENT_KIND, self.mask_type, self.type]
        alignment = [kind(self.itemsize) for kind in ALIGNMENT_KIND]
        masked = declare(self.module, name, self.type, kinds)
        return self.builder.call(masked, [pointer, *alignment, mask, self.zero])

    def store(self, value, pointer, mask=None):
        if mask is None:
            self.builder.store(value, pointer, align=self.itemsize)
            return
        name = f"llvm.masked.store.{self.suffix}.p0"
        kinds = [self.type, POINTER, *ALIGNMENT_KIND, self.mask_type]
        alignment = [kind(self.itemsize) for kind in ALIGNMENT_KIND]
        masked = declare(self.module, name, ir.VoidType(), kinds)
        self.builder.call(masked, [value, pointer, *alignment, mask])

    def over(self, count, do):
        """Write do(j, mask) for each vector of `count` elements, of which j is the first.

        The mask is None but for a last vector that is not whole.
        """
        build = self.builder
        rest = build.srem(count, INT(self.lanes))
        whole = build.sub(count, rest)
        with counted(build, whole, self.lanes) as j:
            do(j, None)
        with build.if_then(build.icmp_signed(">", rest, INT(0))):
            do(whole, self.first(rest))

    def fma(self, a, b, c):
        """a * b + c with one rounding."""
        fused = declare(self.module, f"llvm.fma.{self.suffix}", self.type, [self.type] * 3)
        return self.builder.call(fused, [a, b, c])

    def relu(self, a):
        """max(a, 0), where NaN stays NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, self.zero), self.zero, a)


def shuffle(builder, a, b, lanes):
    lanes = list(lanes)
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))


def broadcast(builder, scalar, lanes):
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
    builder.cbranch(builder.icmp_signed("<", index, count), body, after)
    builder.position_at_end(body)
    steps = []
    yield index, steps.append
    index.add_incoming(builder.add(index, *steps), builder.block)
    builder.branch(head)
    builder.position_at_end(after)


@contextmanager
def counted(builder, count, step=1):
    """The loop `for index in range(0, count, step)`; yields the index."""
    with ascending(builder, count) as (index, go_on):
        yield index
        go_on(INT(step))


def smaller(builder, a, b):
    return builder.select(builder.icmp_signed("<", a, b), a, b)


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
        row_bytes = builder.mul([*shape, INT(1)][1], INT(array.dtype.bitwidth // 8))
        with counted(builder, builder.sub(arguments[3], arguments[2])) as i:
            at = builder.gep(places, [builder.add(arguments[2], i)], source_etype=INT)
            row = builder.gep(base, [builder.mul(builder.load(at, typ=INT), row_bytes)], source_etype=BYTE)
            with counted(builder, row_bytes, LINE_BYTES) as j:
                fetch_line(builder, builder.gep(row, [j], source_etype=BYTE))
        return context.get_dummy_value()

    return types.void(array, order, types.intp, types.intp), emit


@intrinsic
def total_of(typing_context, terms, count):
    """Return terms[0] + terms[1] + .., so many, in this order from 0; float64."""

    def emit(context, builder, signature, arguments):
        double = FLOATS[types.float64]
        total = cgutils.alloca_once_value(builder, ir.Constant(double, 0.0))
        place = data_pointer(context, builder, terms, arguments[0])
        with counted(builder, arguments[1]) as i:
            term = builder.load(builder.gep(place, [i], source_etype=double), typ=double)
            builder.store(builder.fadd(builder.load(total), term), total)
        return builder.load(total)

    return types.float64(terms, types.intp), emit
