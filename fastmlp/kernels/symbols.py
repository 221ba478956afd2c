"""Numbers that write machine code: a formula in plain operators becomes instructions on a scalar or on vectors.

Separate because Numba would make a function of every formula: to infer, lower and optimise the logarithm took
0.3 s of a first training, and what says whether rows are many, one comparison, 0.05. A formula is a Python
function of `Symbol`s, called while code is being written; `jittable` makes of it what jitted code calls. What it
writes has no branches and no calls, so that a loop around it vectorises, and no flags that let LLVM reorder it.
"""

# mypy: ignore-errors

import functools
import inspect
import typing
from dataclasses import dataclass

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.vectors import declare

SIGNIFICAND = {True: 23, False: 52}
"""By `Symbol.single`: the bits of a number's pattern to the right of its exponent."""


@dataclass(frozen=True)
class Constant:
    """A number that is another one in float32 than in float64."""

    single: float
    double: float

    def __neg__(self):
        return Constant(-self.single, -self.double)

    def of(self, symbol):
        """Return the one for a symbol's dtype."""
        return self.single if symbol.single else self.double


def _operator(of_floats, of_integers, swapped=False):
    def operate(self, other):
        values = self.value, self.like(other)
        name = of_floats if self.is_float else of_integers
        return Symbol(self.builder, getattr(self.builder, name)(*values[:: -1 if swapped else 1]))

    return operate


def _comparison(sign):
    def compare(self, other):
        compared = self.builder.fcmp_ordered if self.is_float else self.builder.icmp_signed
        return Symbol(self.builder, compared(sign, self.value, self.like(other)))

    return compare


class Symbol:
    """A float in code that is being written, or an integer, or the truth of a comparison; or a vector of them.

    Beside one may stand a Python number or a `Constant`, which takes its dtype. Comparisons with NaN are false.
    Integers are compared as signed, shifted as bits, and divided only from 0 on.
    """

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    @property
    def lane(self):
        """The LLVM type of one lane."""
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    @property
    def is_float(self):
        return isinstance(self.lane, (ir.FloatType, ir.DoubleType))

    @property
    def single(self):
        """Whether it has 32 bits."""
        return self.lane in (ir.FloatType(), ir.IntType(32))

    def like(self, other):
        """Return the LLVM value of another symbol or of a number, which is given this one's type."""
        if isinstance(other, Symbol):
            return other.value
        number = other.of(self) if isinstance(other, Constant) else other
        kind = self.value.type
        lanes = [ir.Constant(self.lane, number)] * kind.count if isinstance(kind, ir.VectorType) else number
        return ir.Constant(kind, lanes)

    def number(self, other):
        """Return a number as a symbol of this one's type."""
        return Symbol(self.builder, self.like(other))

    def cast(self, lane):
        """Return its bits as another type."""
        kind = self.value.type
        kind = ir.VectorType(lane, kind.count) if isinstance(kind, ir.VectorType) else lane
        return Symbol(self.builder, self.builder.bitcast(self.value, kind))

    def call(self, name, *others):
        """Return what one of LLVM's intrinsic functions gives for it, and others like it."""
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
    __or__ = _operator(None, "or_")
    __lshift__, __rshift__ = _operator(None, "shl"), _operator(None, "lshr")
    __lt__, __gt__, __le__, __ge__ = map(_comparison, ("<", ">", "<=", ">="))

    def equals(self, other):
        """Return whether they are equal."""
        return _comparison("==")(self, other)

    def __neg__(self):
        return Symbol(self.builder, self.builder.fneg(self.value))


def where(condition, a, b):
    """Return a where the condition holds, else b; one of them is a symbol."""
    like = a if isinstance(a, Symbol) else b
    return Symbol(like.builder, like.builder.select(condition.value, like.like(a), like.like(b)))


def at_most(x, limit):
    """Return min(x, limit), but NaN where x is: one packed instruction in this order of operands."""
    return where(x > limit, limit, x)


def at_least(x, limit):
    """Return max(x, limit), but NaN where x is."""
    return where(x < limit, limit, x)


def fma(a, b, c):
    """Return a * b + c, with one rounding where the machine can. One of them is a symbol."""
    like = next(x for x in (a, b, c) if isinstance(x, Symbol))
    # fmuladd: on a machine without the instruction LLVM splits it where llvm.fma would call libm
    return Symbol(like.builder, like.like(a)).call("fmuladd", b, c)


def sqrt(x):
    """Return the square root by the instruction; Numba's `math.sqrt` is a call, which keeps a loop scalar."""
    return x.call("sqrt")


def magnitude(x):
    """Return |x|, the sign bit cleared."""
    return x.call("fabs")


def with_sign(size, sign):
    """Return |size| with the sign bit of the second."""
    return size.call("copysign", sign)


def bits(x):
    """Return the bit pattern of a float, an integer of its own width: Numba's would widen to int64."""
    return x.cast(ir.IntType(32 if x.single else 64))


def from_bits(pattern):
    """Return the float with this bit pattern."""
    return pattern.cast(ir.FloatType() if pattern.single else ir.DoubleType())


def horner(coefficients, x):
    """Return the polynomial of x, its constant coefficient first."""
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = fma(total, x, coefficient)
    return total


@dataclass(frozen=True)
class Polynomial:
    """The coefficients of a polynomial, the constant one first; a call writes one fused step a coefficient.

    From 8 coefficients on as even(x^2) + x odd(x^2): one multiply more, half the chain of dependent steps. The
    chain, 4 cycles a step, is what a long polynomial waits for even with several iterations of a loop in flight.
    """

    single: tuple[float, ...]
    double: tuple[float, ...] = ()

    def __call__(self, x):
        coefficients = self.single if x.single else self.double
        if len(coefficients) < 8:
            return horner(coefficients, x)
        square = x * x
        return fma(horner(coefficients[1::2], square), x, horner(coefficients[0::2], square))


@functools.cache
def jittable(formula):
    """Return what jitted code calls a formula by.

    Its annotations say what it takes and gives: `int` (as int64), `bool`, or else floats of one dtype; a tuple
    gives several. Without an annotation it gives a float, or an integer where it takes no float.
    """
    hints = typing.get_type_hints(formula)
    wanted = [hints.get(name, float) for name in inspect.signature(formula).parameters]
    given = hints.get("return", float if float in wanted else int)
    several = typing.get_args(given)

    def call(typing_context, *kinds):
        def emit(context, builder, signature, values):
            found = formula(*(Symbol(builder, value) for value in values))
            if not several:
                return found.value
            return context.make_tuple(builder, signature.return_type, [symbol.value for symbol in found])

        if not all(isinstance(kind, ABSTRACT[want]) for kind, want in zip(kinds, wanted)):
            return None
        floats = {types.unliteral(kind) for kind, want in zip(kinds, wanted) if want is float}
        if len(floats) > 1:
            return None
        concrete = {int: types.intp, bool: types.boolean, float: next(iter(floats), None)}
        result = types.Tuple([concrete[one] for one in several]) if several else concrete[given]
        return result(*(concrete[want] for want in wanted)), emit

    return intrinsic_like(formula, call)


ABSTRACT = {int: types.Integer, bool: types.Boolean, float: types.Float}
"""By an annotation: the class of Numba's types."""


def intrinsic_of(emit, operand):
    """Return Numba's intrinsic of `emit`, called as that is, which returns nothing.

    operand : operand(context, builder, kind, value) makes of an argument what `emit` takes
    """

    def call(typing_context, *kinds):
        def code(context, builder, signature, values):
            given = zip(signature.args, values, strict=True)
            emit(*(operand(context, builder, kind, value) for kind, value in given))
            return context.get_dummy_value()

        return types.none(*map(types.unliteral, kinds)), code

    return intrinsic_like(emit, call)


def intrinsic_like(function, call):
    """Return Numba's intrinsic of call(typing_context, *kinds), called as `function` is."""
    first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call.__signature__ = inspect.Signature([first, *inspect.signature(function).parameters.values()])
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__qualname__, call.__module__ = function.__qualname__, function.__module__
    return intrinsic(call)
