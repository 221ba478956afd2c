"""Numbers that write machine code: plain operators become instructions on scalars or vectors.

A formula is a Python function of `Symbol`s, called while code is being written; `jittable` makes an intrinsic
for jitted code from a formula. The written code has no branches and no calls, so that a loop around it
vectorises, and no flags for LLVM to reorder operations.
"""

import functools
import inspect
import math
import typing

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.formulas.numbers import DtypeConstant
from fastmlp.kernels.codegen.machine import host

INT = ir.IntType(64)
INT32 = ir.IntType(32)
BIT = ir.IntType(1)
BYTE = ir.IntType(8)
POINTER = ir.PointerType()
FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
ITEMSIZE = {types.float32: 4, types.float64: 8}


# Numba would compile every formula as a function: the logarithm took 0.3 s of a first training, and a single
# comparison 0.05 s. So formulas are written into the loops that call them.


def declare(module, name, result, arguments):
    """Return the module's function `name`, declared on first use."""
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments), name)


def _operator(of_floats, of_integers, swapped=False):
    def operate(self, other):
        like = widest(self, other)
        values = like.like(self), like.like(other)
        name = of_floats if like.is_float else of_integers
        return Symbol(self.builder, getattr(self.builder, name)(*values[:: -1 if swapped else 1]))

    return operate


def _comparison(sign):
    def compare(self, other):
        like = widest(self, other)
        compared = self.builder.fcmp_ordered if like.is_float else self.builder.icmp_signed
        return Symbol(self.builder, compared(sign, like.like(self), like.like(other)))

    return compare


def is_immediate(number):
    """Return whether ARM instructions can contain this float as an immediate."""
    # 0, or 1 to 31/16 times a power of 2 from 1/8 to 16.
    significand, exponent = math.frexp(number)
    return number == 0 or ((32 * significand).is_integer() and -2 <= exponent <= 5)


def widest(*values):
    """Return the symbol with the most lanes, among scalars a float32 first: the common type of the values."""
    symbols = [value for value in values if isinstance(value, Symbol)]
    return max(symbols, key=lambda symbol: (symbol.lanes, symbol.is_float and symbol.single))


class Symbol:
    """A float, integer or truth value in code being written, or a vector.

    The other operand may be a Python number or a `DtypeConstant` of this symbol's dtype, or a float64, which is
    rounded. A scalar operand goes to all lanes of a vector. Comparisons with NaN are false.
    Integers are compared as signed, shifted as bits, and divided only where not negative.
    """

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    @property
    def lane(self):
        """The LLVM type of one lane."""
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    @property
    def lanes(self):
        """The number of a vector's lanes; 0 for a scalar."""
        kind = self.value.type
        return kind.count if isinstance(kind, ir.VectorType) else 0

    @property
    def is_float(self):
        return isinstance(self.lane, (ir.FloatType, ir.DoubleType))

    @property
    def single(self):
        """True for 32 bits."""
        return self.lane in (ir.FloatType(), ir.IntType(32))

    def like(self, other):
        """Return the LLVM value of another symbol or number, converted to this symbol's type."""
        if isinstance(other, Symbol):
            return other.value if other.value.type == self.value.type else self._spread(other)
        number = other.of(self) if isinstance(other, DtypeConstant) else other
        kind = self.value.type
        if host().keeps_constants and self.lane == ir.DoubleType() and not is_immediate(number):
            return self._spread(self._opaque(number))
        lanes = [ir.Constant(self.lane, number)] * kind.count if isinstance(kind, ir.VectorType) else number
        return ir.Constant(kind, lanes)

    def _opaque(self, number):
        """Return a float as an unknown value for LLVM; see `Machine.keeps_constants`."""
        nothing = ir.InlineAsm(ir.FunctionType(self.lane, [self.lane]), "", "=w,0")
        # By its attributes LLVM moves it out of a loop, which else would not become one of vectors.
        value = self.builder.call(nothing, [ir.Constant(self.lane, number)], attrs=("nounwind", "readnone"))
        return Symbol(self.builder, value)

    def _spread(self, other):
        """Return a float rounded to this symbol's dtype, and repeated in every lane of a vector."""
        value, kind = other.value, self.value.type
        if other.lane != self.lane:
            value = self.builder.fptrunc(
                value, ir.VectorType(self.lane, kind.count) if other.lanes else self.lane
            )
        if other.lanes == self.lanes:
            return value
        empty = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(empty, value, INT32(0))
        return self.builder.shuffle_vector(
            first, empty, ir.Constant(ir.VectorType(INT32, kind.count), [0] * kind.count)
        )

    def number(self, other):
        """Return a number as a symbol of this symbol's type."""
        return Symbol(self.builder, self.like(other))

    def choose(self, condition, a, b):
        """Return a where the condition holds, else b; lane by lane if the condition is a vector."""
        like = widest(a, b)
        if condition.lanes > like.lanes:
            shape = ir.Constant(ir.VectorType(like.lane, condition.lanes), ir.Undefined)
            like = Symbol(self.builder, shape)
        return Symbol(self.builder, self.builder.select(condition.value, like.like(a), like.like(b)))

    def multiply_add(self, a, b, c):
        """Return a * b + c, with one rounding where the machine can."""
        # fmuladd: without the instruction LLVM splits it into two, where llvm.fma would call libm.
        like = widest(a, b, c)
        return like.number(a).call("fmuladd", b, c)

    def sqrt(self):
        """Return the square root by an instruction; Numba's `math.sqrt` is a call and keeps a loop scalar."""
        return self.call("sqrt")

    def root(self):
        """Return the square root; see `root_of`."""
        return root_of(self)

    def quotient(self, divisor):
        """Return this divided by a divisor above 0; see `quotient_of`."""
        like = widest(self, divisor)
        return quotient_of(like.number(self), like.number(divisor))

    def magnitude(self):
        """Return the magnitude: the sign bit cleared."""
        return self.call("fabs")

    def with_sign(self, sign):
        """Return the number with the sign bit of `sign`."""
        return self.call("copysign", sign)

    def negated(self):
        """Return the opposite of a truth value."""
        return Symbol(self.builder, self.builder.not_(self.value))

    def bits(self):
        """Return the bit pattern as an integer of the same width."""
        return self.cast(ir.IntType(32 if self.single else 64))

    def from_bits(self):
        """Return the float with this bit pattern."""
        return self.cast(ir.FloatType() if self.single else ir.DoubleType())

    def cast(self, lane):
        """Return the bits as another type, lane by lane."""
        kind = self.value.type
        kind = ir.VectorType(lane, kind.count) if isinstance(kind, ir.VectorType) else lane
        return Symbol(self.builder, self.builder.bitcast(self.value, kind))

    def call(self, name, *others):
        """Return the result of an LLVM intrinsic function of this symbol and more arguments."""
        kind = self.value.type
        shape = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        name = f"llvm.{name}.{shape}f{32 if self.single else 64}"
        values = [self.value, *map(self.like, others)]
        function = declare(self.builder.module, name, kind, [kind] * len(values))
        return Symbol(self.builder, self.builder.call(function, values))

    __add__ = __radd__ = _operator("fadd", "add")
    __mul__ = __rmul__ = _operator("fmul", "mul")
    __sub__, __rsub__ = _operator("fsub", "sub"), _operator("fsub", "sub", swapped=True)
    __truediv__, __rtruediv__ = _operator("fdiv", None), _operator("fdiv", None, swapped=True)
    __floordiv__, __mod__ = _operator(None, "sdiv"), _operator(None, "srem")
    __and__ = _operator(None, "and_")
    __or__, __xor__ = _operator(None, "or_"), _operator(None, "xor")
    __lshift__, __rshift__ = _operator(None, "shl"), _operator(None, "lshr")
    __lt__, __gt__, __le__, __ge__ = map(_comparison, ("<", ">", "<=", ">="))

    def equals(self, other):
        """Return whether both are equal."""
        return _comparison("==")(self, other)

    def __neg__(self):
        return Symbol(self.builder, self.builder.fneg(self.value))


@functools.cache
def jittable(formula):
    """Return the intrinsic of a formula, for jitted code.

    The formula's annotations give the types of its arguments and its result: `int` (int64), `bool`, or else floats
    of one dtype; a tuple for several results. A result without annotation is a float, or an integer where no
    argument is a float.
    """
    hints = typing.get_type_hints(formula)
    expected = [hints.get(name, float) for name in inspect.signature(formula).parameters]
    hint = hints.get("return", float if float in expected else int)
    several = typing.get_args(hint)

    def call(typing_context, *kinds):
        def emit(context, builder, signature, values):
            results = formula(*(Symbol(builder, value) for value in values))
            if not several:
                return results.value
            return context.make_tuple(builder, signature.return_type, [symbol.value for symbol in results])

        if not all(isinstance(kind, ABSTRACT[hint]) for kind, hint in zip(kinds, expected)):
            return None
        floats = {types.unliteral(kind) for kind, hint in zip(kinds, expected) if hint is float}
        if len(floats) > 1:
            return None
        concrete = {int: types.intp, bool: types.boolean, float: next(iter(floats), None)}
        result = types.Tuple([concrete[kind] for kind in several]) if several else concrete[hint]
        return result(*(concrete[hint] for hint in expected)), emit

    made = intrinsic_like(formula, call)
    made.formula = formula
    return made


ABSTRACT = {int: types.Integer, bool: types.Boolean, float: types.Float}
"""The class of Numba's types for an annotation."""


def intrinsic_like(function, call, make=intrinsic):
    """Return Numba's intrinsic of call(typing_context, *kinds), with the arguments of `function`.

    make : Numba's `intrinsic`, or a class used in the same way
    """
    first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call.__signature__ = inspect.Signature([first, *inspect.signature(function).parameters.values()])
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__qualname__, call.__module__ = function.__qualname__, function.__module__
    return make(call)


# --- square roots and quotients by multiplications -------------------------------------------------------

# A loop with a square root and a division waits for a core's only divider, 0.39 ns an element: 60 us of a step of
# 784-128-10 by Adam. AVX-512 has approximations of 1/sqrt(x) and 1/x to 14 bits. A Newton step doubles these bits by
# multiplications: 0.14 ns an element. Vectors of another width, and other machines, use the divider.

NEWTON_STEPS = {True: 1, False: 2}
"""Newton steps by `Symbol.single`: for float32 from 14 bits to 28, for float64 to 56."""

KEEPS_NORMAL = 0x01110121
"""The action of `vfixupimm` by class of x, a digit each: 0 keeps the result, 1 takes x, 2 x as a quiet NaN.
From the lowest: quiet and signalling NaN, zero, one, -inf, inf, negative, positive.
"""


def _approximates(x):
    return host().approximates_roots and x.lanes * (4 if x.single else 8) == host().vector_bytes


def _guess(name, x):
    kind, mask = "ps" if x.single else "pd", ir.IntType(x.lanes)
    taken = [x.value.type, x.value.type, mask]
    call = declare(x.builder.module, f"llvm.x86.avx512.{name}.{kind}.512", x.value.type, taken)
    values = [x.value, x.like(0.0), ir.Constant(mask, -1)]
    return Symbol(x.builder, x.builder.call(call, values))


def _unless_special(result, x):
    """Return the result where x is a normal number from 0 on, else x."""
    kind, integers = ("ps", ir.IntType(32)) if x.single else ("pd", ir.IntType(64))
    mask, table = ir.IntType(x.lanes), ir.VectorType(integers, x.lanes)
    taken = [x.value.type, x.value.type, table, INT32, mask, INT32]
    call = declare(x.builder.module, f"llvm.x86.avx512.mask.fixupimm.{kind}.512", x.value.type, taken)
    table = ir.Constant(table, [KEEPS_NORMAL] * x.lanes)
    # One instruction, where comparisons took five. 0: no exception for any class; 4: rounding as it is
    values = [result.value, x.value, table, INT32(0), ir.Constant(mask, -1), INT32(4)]
    return Symbol(x.builder, x.builder.call(call, values))


def root_of(x):
    """Return the root of a `Symbol` x >= 0, within 2 ulp; zero, infinity and NaN stay."""
    if not _approximates(x):
        return x.sqrt()
    guess = _guess("rsqrt14", x)
    root, half = x * guess, guess * 0.5
    for step in range(NEWTON_STEPS[x.single]):
        # 1/2 - root * half is half the relative error of both
        error = x.multiply_add(-root, half, 0.5)
        root = x.multiply_add(root, error, root)
        if step + 1 < NEWTON_STEPS[x.single]:
            half = x.multiply_add(half, error, half)
    return _unless_special(root, x)


def quotient_of(a, b):
    """Return a / b for b > 0, `Symbol`s of one type, within 2 ulp; infinities and NaN as in a division."""
    if not _approximates(b):
        return a / b
    inverse = _guess("rcp14", b)
    for _ in range(NEWTON_STEPS[b.single]):
        inverse = b.multiply_add(inverse, b.multiply_add(-inverse, b, 1.0), inverse)
    return a * b.choose(b.equals(float("inf")), 0.0, inverse)
