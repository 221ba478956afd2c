"""Elementwise mathematics that vectorises: exp, log, tanh, sigmoid and friends as inlined polynomials.

Separate because Numba has no vector mathematics library: `math.exp` in a loop is a scalar call an element. Every
function here takes one float32 or float64 scalar, is free of branches and calls, and is inlined (`forceinline`), so
that a plain loop over an array becomes packed instructions. Functions are written once; constants and polynomials
carry a value for each dtype and the type of the argument picks one at compile time, so float32 never widens.

Conventions of all functions: NaN gives NaN, infinities give the limit, results below the smallest normal number may
be flushed to zero (only `exp` has gradual underflow). Coefficients are minimax, by Remez exchange in 60 digits.

Nothing here needs fast-math flags and none may be set on these functions: `n = (x + SHIFT) - SHIFT` is a rounding,
which `reassoc` would delete. Multiply-adds are asked for explicitly (`fma`), so results do not depend on the flags of
the calling loop.
"""

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

inlined = numba.njit(forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


def constant(single, double=None):
    """A constant to be called with a scalar, `PI(x)`, that has the dtype of x. Plain literals would widen float32."""
    double = single if double is None else double

    @intrinsic
    def value(typingctx, like):
        def codegen(context, builder, signature, args):
            chosen = single if signature.return_type == types.float32 else double
            return context.get_constant(signature.return_type, chosen)

        return like(like), codegen

    return value


def polynomial(single, double=None):
    """Horner's rule with fused steps, constant coefficient first, emitted unrolled: one instruction a coefficient.

    From 8 coefficients on as even(x^2) + x odd(x^2): one multiply more, half the chain of dependent steps. The chain,
    4 cycles a step, is what a long polynomial waits for even with several loop iterations in flight.
    """

    @intrinsic
    def evaluate(typingctx, x):
        def codegen(context, builder, signature, args):
            coefficients = single if signature.return_type == types.float32 else double
            terms = [context.get_constant(signature.return_type, c) for c in coefficients]
            if len(terms) < 8:
                return _horner(builder, terms, args[0])
            square = builder.fmul(args[0], args[0])
            even, odd = _horner(builder, terms[0::2], square), _horner(builder, terms[1::2], square)
            return _multiply_add(builder, odd, args[0], even)

        return x(x), codegen

    return evaluate


def _horner(builder, terms, x):
    total = terms[-1]
    for term in reversed(terms[:-1]):
        total = _multiply_add(builder, total, x, term)
    return total


def _multiply_add(builder, a, b, c):
    # fmuladd, not fma: on a machine without the instruction LLVM splits it where llvm.fma would call libm
    kind = a.type
    function = builder.module.declare_intrinsic("llvm.fmuladd", [kind], ir.FunctionType(kind, [kind] * 3))
    return builder.call(function, [a, b, c])


@intrinsic
def fma(typingctx, a, b, c):
    """a * b + c with one rounding where the machine can. All three must have one dtype: nothing is converted."""
    if not (a == b == c):
        return None

    def codegen(context, builder, signature, args):
        return _multiply_add(builder, *args)

    return a(a, a, a), codegen


@intrinsic
def sqrt(typingctx, x):
    """The square root instruction; Numba's `math.sqrt` is an external call, which keeps a loop scalar."""

    def codegen(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [args[0].type]), args)

    return x(x), codegen


@intrinsic
def magnitude(typingctx, x):
    """|x| by clearing the sign bit."""

    def codegen(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.fabs", [args[0].type]), args)

    return x(x), codegen


@intrinsic
def with_sign(typingctx, size, sign):
    """|size| with the sign bit of the second argument."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        return builder.call(
            builder.module.declare_intrinsic("llvm.copysign", [kind], ir.FunctionType(kind, [kind, kind])),
            args,
        )

    return size(size, size), codegen


@intrinsic
def bits(typingctx, x):
    """The bit pattern of a float as an integer of its own width."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(signature.return_type.bitwidth))

    return (types.int32 if x == types.float32 else types.int64)(x), codegen


@intrinsic
def from_bits(typingctx, pattern):
    """The float with this bit pattern."""
    kind = types.float32 if pattern == types.int32 else types.float64

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType() if kind == types.float32 else ir.DoubleType())

    return kind(pattern), codegen


def _integer_operation(name):
    @intrinsic
    def operation(typingctx, a, b):
        """Integer arithmetic in the width of a: Numba's own operators widen int32 to int64, half the lanes."""

        def codegen(context, builder, signature, args):
            right = args[1]
            if right.type.width > args[0].type.width:
                right = builder.trunc(right, args[0].type)
            elif right.type.width < args[0].type.width:
                right = builder.sext(right, args[0].type)
            return getattr(builder, name)(args[0], right)

        return a(a, b), codegen

    return operation


_add, _subtract, _and = (_integer_operation(name) for name in ("add", "sub", "and_"))
_shift_left, _shift_right = (_integer_operation(name) for name in ("shl", "ashr"))


@intrinsic
def mantissa_width(typingctx, x):
    """How far the exponent field stands from the right: 23 or 52, as the integer type of x's bits."""
    integer, width = (types.int32, 23) if x == types.float32 else (types.int64, 52)

    def codegen(context, builder, signature, args):
        return context.get_constant(integer, width)

    return integer(x), codegen


ZERO, HALF, ONE, TWO = constant(0.0), constant(0.5), constant(1.0), constant(2.0)
INFINITY = constant(float("inf"))
NEGATIVE_HALF, NEGATIVE_TWO = constant(-0.5), constant(-2.0)


@inlined
def at_most(x, limit):
    """min(x, limit) that lets a NaN x through: one packed min instruction in this order of operands."""
    return limit if x > limit else x


@inlined
def at_least(x, limit):
    """max(x, limit) that lets a NaN x through."""
    return limit if x < limit else x


@intrinsic
def _root_guess(typingctx, x):
    """1 / sqrt(x) within 3.5%: halving and negating the exponent, on the bit pattern."""
    integer, magic = (types.int32, 0x5F375A86) if x == types.float32 else (types.int64, 0x5FE6EB50C7B537A9)

    def codegen(context, builder, signature, args):
        pattern = builder.bitcast(args[0], ir.IntType(integer.bitwidth))
        halved = builder.lshr(pattern, ir.Constant(pattern.type, 1))
        return builder.bitcast(builder.sub(ir.Constant(pattern.type, magic), halved), args[0].type)

    return x(x), codegen


ONE_AND_HALF = constant(1.5)
# float64 needs one more Newton step; a select on a constant costs nothing
IS_SINGLE = constant(1.0, 0.0)


@inlined
def multiplied_sqrt(x):
    """sqrt(x) for x >= 0 by Newton's iteration on multipliers, within 2 ulp; exact at 0, imprecise if subnormal.

    A loop with a square root and a division waits for the one divider; this leaves it the division, and Adam's loop
    takes half the time. Order matters: (x y) y, since y y overflows at x = 0.
    """
    half = HALF(x) * x
    y = _root_guess(x)
    y *= fma(-(half * y), y, ONE_AND_HALF(x))
    y *= fma(-(half * y), y, ONE_AND_HALF(x))
    if IS_SINGLE(x) == ZERO(x):
        y *= fma(-(half * y), y, ONE_AND_HALF(x))
    root = x * y
    root = fma(HALF(x) * y, fma(-root, root, x), root)
    return x if x == INFINITY(x) else root


# ---------------------------------------------------------------- exp and what is built on it

LOG2_E = constant(1.4426950408889634)
# ln 2 in two parts; the first has enough trailing zeros that n times it is exact without a fused multiply too
MINUS_LN2_HIGH = constant(-0.693359375, -0.6931471803691238)
MINUS_LN2_LOW = constant(2.12194440054690583e-4, -1.9082149292705877e-10)
# 1.5 * 2^23 (2^52): adding it rounds to an integer and leaves that integer in the low bits of the mantissa. The
# exponent's bias rides along, so shifting those bits up into the exponent field makes 2^n at once.
SHIFT = constant(12582912.0 + 127, 6755399441055744.0 + 1023)
SHIFT_TWICE = constant(12582912.0 + 2 * 127, 6755399441055744.0 + 2 * 1023)
# below, 2^n has an empty exponent field and is 0; above, a full one and is inf
EXP_LOWEST, EXP_HIGHEST = constant(-88.0, -709.0), constant(89.0, 710.0)
EXP_SUBNORMAL = constant(-104.5, -746.0)

# (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
EXP = polynomial(
    single=(
        0.5000000027258108,
        0.1666657628549692,
        0.04166637290588517,
        0.008363294974675898,
        0.0013941323405842001,
    ),
    double=(
        0.5000000000000001,
        0.16666666666666674,
        0.04166666666662347,
        0.008333333333322035,
        0.0013888888917539999,
        0.00019841269887114558,
        2.4801520790305732e-05,
        2.7557241746322626e-06,
        2.7620328371590975e-07,
        2.5110271921069343e-08,
    ),
)


@inlined
def _reduce(x, shift):
    """n = round(x / ln 2) still in the low bits of the shifted sum, and the remainder r."""
    shifted = fma(x, LOG2_E(x), shift)
    n = shifted - shift
    return shifted, fma(n, MINUS_LN2_LOW(x), fma(n, MINUS_LN2_HIGH(x), x))


@inlined
def _power_of_two(shifted):
    return from_bits(_shift_left(bits(shifted), mantissa_width(shifted)))


@inlined
def exp_clamped(x):
    """e^x in single steps, the cheapest: right for LOWEST <= x <= HIGHEST of `exp`, which the caller must ensure.

    Flushes to 0 below the smallest normal number and gives inf from 2^127.5 (2^1023.5): half a binade early.
    """
    shifted, r = _reduce(x, SHIFT(x))
    return (ONE(x) + fma(r * r, EXP(r), r)) * _power_of_two(shifted)


@inlined
def exp_nonpositive(x):
    """e^x for x <= 0: softmax, softplus and gelu shift their argument there. Flushes below the smallest normal."""
    return exp_clamped(at_least(x, EXP_LOWEST(x)))


@inlined
def exp(x):
    """e^x over the whole range, overflow to inf and gradual underflow: 2^n is applied as two factors, 2 ops more."""
    x = at_least(at_most(x, EXP_HIGHEST(x)), EXP_SUBNORMAL(x))
    shifted, r = _reduce(x, SHIFT_TWICE(x))
    pattern, width = bits(shifted), mantissa_width(x)
    half = _shift_right(pattern, 1)
    first, second = (
        from_bits(_shift_left(half, width)),
        from_bits(_shift_left(_subtract(pattern, half), width)),
    )
    return (ONE(x) + fma(r * r, EXP(r), r)) * first * second


@inlined
def _expm1_clamped(x):
    shifted, r = _reduce(x, SHIFT(x))
    scale = _power_of_two(shifted)
    return fma(scale, fma(r * r, EXP(r), r), scale - ONE(x))


@inlined
def expm1_nonpositive(x):
    """e^x - 1 for x <= 0, without cancellation near 0."""
    return _expm1_clamped(at_least(x, EXP_LOWEST(x)))


@inlined
def elu(x, alpha):
    """x above 0, alpha (e^x - 1) below."""
    negative = alpha * expm1_nonpositive(at_most(x, ZERO(x)))
    return x if x > ZERO(x) else negative


@inlined
def elu_derivative(x, alpha):
    negative = alpha * exp_nonpositive(at_most(x, ZERO(x)))
    return ONE(x) if x > ZERO(x) else negative


@inlined
def sigmoid(x):
    """1 / (1 + e^-x): exactly 1 and 0 at the far ends, where e^-x is 0 and inf."""
    e = exp_clamped(at_least(at_most(-x, EXP_HIGHEST(x)), EXP_LOWEST(x)))
    return ONE(x) / (ONE(x) + e)


@inlined
def silu(x):
    """x sigmoid(x). The numerator is held where e^-x is inf already, so -inf gives -0 and not NaN.

    Flushes with sigmoid: below 128 (float64: 1024) times the smallest normal number.
    """
    e = exp_clamped(at_least(at_most(-x, EXP_HIGHEST(x)), EXP_LOWEST(x)))
    return at_least(x, -EXP_HIGHEST(x)) / (ONE(x) + e)


@inlined
def silu_derivative(x):
    """s (1 + x (1 - s)), with 1 - s = e^-x s above 0, where the difference would lose its digits."""
    x = at_least(at_most(x, EXP_HIGHEST(x)), -EXP_HIGHEST(x))
    e = exp_clamped(at_least(-x, EXP_LOWEST(x)))
    s = ONE(x) / (ONE(x) + e)
    rest = e * s if x > ZERO(x) else ONE(x) - s
    return s * fma(x, rest, ONE(x))


# ---------------------------------------------------------------- tanh

# x P(x^2) / Q(x^2) on |x| <= 9.02, beyond which tanh is 1 in float32: cheaper than an exponential
TANH_P = polynomial(
    single=(
        0.9999999790314981,
        0.1337970805300748,
        0.0034940226331426523,
        2.058327810969296e-05,
        1.3318779258050825e-08,
    ),
)
TANH_Q = polynomial(
    single=(1.0, 0.46713023297788353, 0.025871028298604628, 0.00032830730287224043, 7.761901903621159e-07),
)
TANH_ONE = constant(9.02)


@inlined
def _tanh_rational(x):
    x = at_least(at_most(x, TANH_ONE(x)), -TANH_ONE(x))
    square = x * x
    ratio = x * TANH_P(square) / TANH_Q(square)
    return at_least(at_most(ratio, ONE(x)), -ONE(x))


@inlined
def _tanh_expm1(x):
    t = expm1_nonpositive(NEGATIVE_TWO(x) * magnitude(x))
    return with_sign(t / (TWO(x) + t), x)


def tanh(x):
    """The hyperbolic tangent: a rational function in float32; in float64 -t / (2 + t) with t = expm1(-2|x|)."""
    raise NotImplementedError("call from compiled code")


@overload(tanh, jit_options={"forceinline": True, "error_model": "numpy"})
def _tanh_for(x):
    if x == types.float32:
        return lambda x: _tanh_rational(x)
    return lambda x: _tanh_expm1(x)


# ---------------------------------------------------------------- log, softplus

# (log1p(e) - e) / e^2 in powers of e - 1/2, for e in [0, 1]; in powers of e the sum cancels near 1
LOG1P = polynomial(
    single=(
        -0.37813955941093236,
        0.17922488614453272,
        -0.09323185606828699,
        0.05108905932277256,
        -0.028904999766035003,
        0.016656984035564773,
        -0.010177701492219455,
        0.006930699334365071,
        -0.0033184818585409726,
    ),
    double=(
        -0.37813956756734246,
        0.1792249369360372,
        -0.09323036636366903,
        0.05108344610540022,
        -0.02894318316441723,
        0.0167887424912805,
        -0.009909900766966967,
        0.005929011560832127,
        -0.003585664773824949,
        0.002187647578427966,
        -0.0013445311742402374,
        0.0008313430161402894,
        -0.0005165391042744664,
        0.0003234659788692958,
        -0.0002048792863959677,
        0.00012544904924403167,
        -7.108725569268533e-05,
        5.274521661106327e-05,
        -5.1126711615481126e-05,
        2.532979628915951e-05,
    ),
)
# (log(1 + f) - f + f^2 / 2) / f^3 for 1 + f in [sqrt(1/2), sqrt 2]
LOG = polynomial(
    single=(
        0.33333326539508323,
        -0.25000280848127426,
        0.2000188007749302,
        -0.16643489155560634,
        0.14190231679604046,
        -0.1294340277544814,
        0.1279894158559246,
        -0.08305489116340874,
    ),
    double=(
        0.33333333333333337,
        -0.24999999999998576,
        0.1999999999999193,
        -0.16666666667366384,
        0.14285714288175375,
        -0.12499999900360519,
        0.11111110795271843,
        -0.1000000629855276,
        0.09090929880505555,
        -0.08333127493503002,
        0.07691546283348859,
        -0.07146442039973774,
        0.06682642236390055,
        -0.062205603066080854,
        0.05694509603626692,
        -0.05580727372304887,
        0.06364404980333478,
        -0.06126798582862017,
        0.02856835655874997,
    ),
)
LN2_HIGH, LN2_LOW = (
    constant(0.693359375, 0.6931471803691238),
    constant(-2.12194440054690583e-4, 1.9082149292705877e-10),
)
SQRT_HALF = constant(0.7071067811865476)
NAN = constant(float("nan"))
SMALLEST_NORMAL = constant(2.0**-126, 2.0**-1022)


@intrinsic
def _exponent_as_float(typingctx, x, pattern):
    """(pattern >> mantissa width) as a float, for small nonnegative patterns, without an int-to-float conversion.

    float64 has no packed conversion from int64 before AVX-512; or-ing the integer into 2^52's mantissa has.
    """
    width, magic = (23, 2.0**23) if x == types.float32 else (52, 2.0**52)

    def codegen(context, builder, signature, args):
        _, pattern = args
        integer = pattern.type
        offset = context.get_constant(x, magic)
        small = builder.lshr(pattern, ir.Constant(integer, width))
        return builder.fsub(
            builder.bitcast(builder.or_(small, builder.bitcast(offset, integer)), offset.type), offset
        )

    return x(x, pattern), codegen


EXPONENT_BIAS = constant(127.0, 1023.0)


@intrinsic
def _one_bits_minus_sqrt_half(typingctx, x):
    """bits(1) - bits(sqrt(1/2)): added to a pattern, it carries into the exponent exactly when m >= sqrt(1/2)."""
    integer, value = (
        (types.int32, 0x3F800000 - 0x3F3504F3)
        if x == types.float32
        else (types.int64, 0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
    )

    def codegen(context, builder, signature, args):
        return context.get_constant(integer, value)

    return integer(x), codegen


@intrinsic
def _mantissa_mask(typingctx, x):
    integer, value = (types.int32, (1 << 23) - 1) if x == types.float32 else (types.int64, (1 << 52) - 1)

    def codegen(context, builder, signature, args):
        return context.get_constant(integer, value)

    return integer(x), codegen


@inlined
def log(x):
    """The natural logarithm. Subnormal x counts as 0 (-inf); negative x gives NaN."""
    raised = _add(bits(x), _one_bits_minus_sqrt_half(x))
    n = _exponent_as_float(x, raised) - EXPONENT_BIAS(x)
    f = from_bits(_add(_and(raised, _mantissa_mask(x)), bits(SQRT_HALF(x)))) - ONE(x)
    square = f * f
    tail = fma(n, LN2_LOW(x), fma(square * f, LOG(f), NEGATIVE_HALF(x) * square))
    result = fma(n, LN2_HIGH(x), f + tail)
    result = -INFINITY(x) if x < SMALLEST_NORMAL(x) else result
    result = result if x < INFINITY(x) else x  # inf and NaN
    return NAN(x) if x < ZERO(x) else result


@inlined
def log1p_exp_negative(e):
    """log1p(e) for e in [0, 1], which is what an exponential of a nonpositive number is."""
    return fma(e * e, LOG1P(e - HALF(e)), e)


@inlined
def softplus_tail(z):
    """log1p(e^-|z|), the part of softplus and of the stable binary cross-entropy that is not piecewise linear."""
    return log1p_exp_negative(exp_nonpositive(-magnitude(z)))


@inlined
def softplus(z):
    """log(1 + e^z) = max(z, 0) + log1p(e^-|z|); its derivative is sigmoid(z)."""
    return at_least(z, ZERO(z)) + softplus_tail(z)


@inlined
def binary_cross_entropy(z, y):
    """-y log s - (1 - y) log(1 - s) with s = sigmoid(z), from the logit: max(z, 0) - z y + log1p(e^-|z|)."""
    return fma(-z, y, softplus(z))


# ---------------------------------------------------------------- gelu

# exp(a^2 / 2) (1 - Phi(a)) as t P(t - 1/2), t = 1 / (1 + 0.3 a), for a >= 0. In t itself the coefficients alternate
# up to 7 and cost 16 ulp.
MILLS = polynomial(
    single=(
        0.22197061308095403,
        0.32915897065947686,
        0.3461988401074928,
        0.22208271275496128,
        0.029056484462170493,
        -0.07755229239967593,
        -0.03645898364037117,
        0.03592027366693041,
        0.019618623094514974,
        -0.020613720396335966,
    ),
    double=(
        0.2219706138344328,
        0.3291589681723253,
        0.34619854967382807,
        0.22208292378986783,
        0.02907417273217353,
        -0.07756468954650102,
        -0.03684112139249295,
        0.0363055258453969,
        0.023075834653449655,
        -0.02547014890318159,
        -0.011392960763370135,
        0.0219780413536557,
        0.0010074190719905477,
        -0.018435572120917662,
        0.008439104545080407,
        0.011648933028127027,
        -0.014818419104035177,
        -0.001581004256129489,
        0.014388814141901768,
        -0.006904727721203168,
        -0.0063654458573926325,
        0.006501305691813034,
        -0.0010552800540208746,
    ),
)
MILLS_RATE = constant(0.3)
GELU_END = constant(14.5, 39.0)
INVERSE_SQRT_TAU = constant(0.3989422804014327)


@inlined
def _gaussian_tail(a):
    """For a >= 0: exp(-a^2 / 2) and 1 - Phi(a). The square's rounding error is put back: it would cost a^2 / 2 ulp."""
    square = a * a
    lost = fma(a, a, -square)
    e = exp_nonpositive(NEGATIVE_HALF(a) * square)
    e = fma(NEGATIVE_HALF(a) * lost, e, e)
    t = ONE(a) / fma(MILLS_RATE(a), a, ONE(a))
    return e, e * (t * MILLS(t - HALF(a)))


@inlined
def gelu(x):
    """x Phi(x), the exact (erf) form, as max(x, 0) - |x| (1 - Phi(|x|)): no cancellation in the negative tail."""
    a = at_most(magnitude(x), GELU_END(x))
    _, tail = _gaussian_tail(a)
    return fma(-a, tail, at_least(x, ZERO(x)))


@inlined
def gelu_derivative(x):
    """Phi(x) + x phi(x). Absolute accuracy near its zero at -0.7518."""
    a = at_most(magnitude(x), GELU_END(x))
    e, tail = _gaussian_tail(a)
    cdf = tail if x < ZERO(x) else ONE(x) - tail
    return fma(with_sign(a, x), INVERSE_SQRT_TAU(x) * e, cdf)


@intrinsic
def wide_vectors(typingctx):
    """Call once in a function whose loops should use 512-bit vectors where the machine has them.

    LLVM tunes most AVX-512 processors to 256 bits; this sets the attribute that clang's -mprefer-vector-width=512
    sets. llvmlite only knows attributes without a value, hence the call past its check. Numba optimises, and vectorises,
    every jitted function by itself before it is inlined: the call must stand in the function that has the loop.
    """

    def codegen(context, builder, signature, args):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), codegen
