"""Elementwise mathematics that vectorises: exp, log, tanh, sigmoid and friends as polynomials.

Numba has no vector mathematics library: `math.exp` in a loop is a scalar call an element. A formula here takes numbers
(`fastmlp.formulas.numbers`) and is free of branches and calls, so that a plain loop over an array that calls it becomes
packed instructions. Constants and polynomials have a value for each dtype, so float32 never widens.

NaN gives NaN, infinities give the limit, results below the smallest normal number may be flushed to zero (only `exp`
has gradual underflow). No fast-math flag may be set: `n = (x + SHIFT) - SHIFT` is a rounding, which `reassoc` would
delete. Multiply-adds are written explicitly (`fma`).
"""

# mypy: ignore-errors

import math

from fastmlp.formulas.numbers import (
    SIGNIFICAND,
    DtypeConstant,
    Polynomial,
    at_least,
    at_most,
    bits,
    fma,
    from_bits,
    magnitude,
    negated,
    sqrt,
    where,
    with_sign,
)

# --- coefficients of polynomials: minimax, by Remez exchange in 60 digits --------------------------------

# (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2
EXP = Polynomial(
    single=(
        0.5000000027258108, 0.1666657628549692, 0.04166637290588517, 0.008363294974675898,
        0.0013941323405842001,
    ),
    double=(
        0.5000000000000001, 0.16666666666666674, 0.04166666666662347, 0.008333333333322035,
        0.0013888888917539999, 0.00019841269887114558, 2.4801520790305732e-05, 2.7557241746322626e-06,
        2.7620328371590975e-07, 2.5110271921069343e-08,
    ),
)  # fmt: skip

# x P(x^2) / Q(x^2) on |x| <= 9.02, beyond which tanh is 1 in float32: cheaper than an exponential
TANH_P = Polynomial(
    single=(
        0.9999999790314981, 0.1337970805300748, 0.0034940226331426523, 2.058327810969296e-05,
        1.3318779258050825e-08,
    ),
)  # fmt: skip

TANH_Q = Polynomial(
    single=(1.0, 0.46713023297788353, 0.025871028298604628, 0.00032830730287224043, 7.761901903621159e-07),
)

# (log1p(e) - e) / e^2 in powers of e - 1/2, for e in [0, 1]; in powers of e the sum cancels near 1
LOG1P = Polynomial(
    single=(
        -0.37813955941093236, 0.17922488614453272, -0.09323185606828699, 0.05108905932277256,
        -0.028904999766035003, 0.016656984035564773, -0.010177701492219455, 0.006930699334365071,
        -0.0033184818585409726,
    ),
    double=(
        -0.37813956756734246, 0.1792249369360372, -0.09323036636366903, 0.05108344610540022,
        -0.02894318316441723, 0.0167887424912805, -0.009909900766966967, 0.005929011560832127,
        -0.003585664773824949, 0.002187647578427966, -0.0013445311742402374, 0.0008313430161402894,
        -0.0005165391042744664, 0.0003234659788692958, -0.0002048792863959677, 0.00012544904924403167,
        -7.108725569268533e-05, 5.274521661106327e-05, -5.1126711615481126e-05, 2.532979628915951e-05,
    ),
)  # fmt: skip

# (log(1 + f) - f + f^2 / 2) / f^3 for 1 + f in [sqrt(1/2), sqrt 2]
LOG = Polynomial(
    single=(
        0.33333326539508323, -0.25000280848127426, 0.2000188007749302, -0.16643489155560634,
        0.14190231679604046, -0.1294340277544814, 0.1279894158559246, -0.08305489116340874,
    ),
    double=(
        0.33333333333333337, -0.24999999999998576, 0.1999999999999193, -0.16666666667366384,
        0.14285714288175375, -0.12499999900360519, 0.11111110795271843, -0.1000000629855276,
        0.09090929880505555, -0.08333127493503002, 0.07691546283348859, -0.07146442039973774,
        0.06682642236390055, -0.062205603066080854, 0.05694509603626692, -0.05580727372304887,
        0.06364404980333478, -0.06126798582862017, 0.02856835655874997,
    ),
)  # fmt: skip

# exp(a^2 / 2) (1 - Phi(a)) as t P(t - 1/2), t = 1 / (1 + 0.3 a), for a >= 0. In t itself the coefficients alternate
# up to 7 and cost 16 ulp.
MILLS = Polynomial(
    single=(
        0.22197061308095403, 0.32915897065947686, 0.3461988401074928, 0.22208271275496128, 0.029056484462170493,
        -0.07755229239967593, -0.03645898364037117, 0.03592027366693041, 0.019618623094514974,
        -0.020613720396335966,
    ),
    double=(
        0.2219706138344328, 0.3291589681723253, 0.34619854967382807, 0.22208292378986783, 0.02907417273217353,
        -0.07756468954650102, -0.03684112139249295, 0.0363055258453969, 0.023075834653449655,
        -0.02547014890318159, -0.011392960763370135, 0.0219780413536557, 0.0010074190719905477,
        -0.018435572120917662, 0.008439104545080407, 0.011648933028127027, -0.014818419104035177,
        -0.001581004256129489, 0.014388814141901768, -0.006904727721203168, -0.0063654458573926325,
        0.006501305691813034, -0.0010552800540208746,
    ),
)  # fmt: skip

# (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 in powers of r^2, for |r| <= pi / 4
SINE = Polynomial(
    single=(-0.16666654908639716, 0.00833217584652429, -0.0001951697747239402),
    double=(
        -0.16666666666666666, 0.008333333333333323, -0.00019841269841255064, 2.7557319214188127e-06,
        -2.5052104910978156e-08, 1.6058366548151126e-10, -7.578693844195953e-13,
    ),
)  # fmt: skip

COSINE = Polynomial(
    single=(0.04166664680751199, -0.0013887364496095785, 2.4438091805173397e-05),
    double=(
        0.041666666666666664, -0.0013888888888888879, 2.4801587301574857e-05, -2.755731921662385e-07,
        2.0876754614205355e-09, -1.1470318492090636e-11, 4.739141230246858e-14,
    ),
)  # fmt: skip

# erf(x) / x in powers of x^2, for |x| <= 1
ERF = Polynomial(
    single=(
        1.1283791657268232, -0.3761262582492003, 0.11283585154976807, -0.02685381219099736,
        0.005188328186418862, -0.0008010198262436548, 7.853877531619132e-05,
    ),
    double=(
        1.1283791670955126, -0.3761263890318352, 0.11283791670944185, -0.02686617064311144,
        0.005223977606118201, -0.0008548325929299106, 0.00012055293576377275, -1.4924712290816286e-05,
        1.6447131419811136e-06, -1.6206312501557555e-07, 1.3710974567312202e-08, -7.779456921831154e-10,
    ),
)  # fmt: skip


INFINITY, NAN = float("inf"), float("nan")
SMALLEST_NORMAL = DtypeConstant(2.0**-126, 2.0**-1022)

# ---------------------------------------------------------------- exp and what is built on it

LOG2_E = 1.4426950408889634
# ln 2 in two parts; the first has enough trailing zeros that n times it is exact without a fused multiply too
MINUS_LN2_HIGH = DtypeConstant(-0.693359375, -0.6931471803691238)
MINUS_LN2_LOW = DtypeConstant(2.12194440054690583e-4, -1.9082149292705877e-10)
# 1.5 * 2^23 (2^52): adding it rounds to an integer and leaves that integer in the low bits of the mantissa. The
# exponent's bias rides along, so shifting those bits up into the exponent field makes 2^n at once.
SHIFT = DtypeConstant(12582912.0 + 127, 6755399441055744.0 + 1023)
SHIFT_TWICE = DtypeConstant(12582912.0 + 2 * 127, 6755399441055744.0 + 2 * 1023)
# below, 2^n has an empty exponent field and is 0; above, a full one and is inf
EXP_LOWEST, EXP_HIGHEST = DtypeConstant(-88.0, -709.0), DtypeConstant(89.0, 710.0)
EXP_SUBNORMAL = DtypeConstant(-104.5, -746.0)


def _reduced(x, shift):
    """n = round(x / ln 2) still in the low bits of the shifted sum, and the remainder r."""
    shifted = fma(x, LOG2_E, shift)
    n = shifted - shift
    return shifted, fma(n, MINUS_LN2_LOW, fma(n, MINUS_LN2_HIGH, x))


def _power_of_two(pattern):
    """2^n of a pattern with n and the exponent's bias in the low bits."""
    return from_bits(pattern << SIGNIFICAND[pattern.single])


def exp_clamped(x):
    """e^x in single steps, for LOWEST <= x <= HIGHEST of `exp`; inf from 2^127.5 (2^1023.5) on, half a binade early."""
    shifted, r = _reduced(x, SHIFT)
    return (1.0 + fma(r * r, EXP(r), r)) * _power_of_two(bits(shifted))


def exp_nonpositive(x):
    """e^x for x <= 0: softmax, softplus and gelu shift their argument there. Flushes below the smallest normal."""
    return exp_clamped(at_least(x, EXP_LOWEST))


def exp(x):
    """e^x over the whole range, overflow to inf and gradual underflow: 2^n is applied as two factors, 2 ops more."""
    x = at_least(at_most(x, EXP_HIGHEST), EXP_SUBNORMAL)
    shifted, r = _reduced(x, SHIFT_TWICE)
    pattern = bits(shifted)
    half = pattern >> 1
    return (1.0 + fma(r * r, EXP(r), r)) * _power_of_two(half) * _power_of_two(pattern - half)


def expm1_nonpositive(x):
    """e^x - 1 for x <= 0, without cancellation near 0."""
    shifted, r = _reduced(at_least(x, EXP_LOWEST), SHIFT)
    scale = _power_of_two(bits(shifted))
    return fma(scale, fma(r * r, EXP(r), r), scale - 1.0)


def elu(x):
    """x above 0, e^x - 1 below."""
    return where(x > 0.0, x, expm1_nonpositive(at_most(x, 0.0)))


def _exp_of_negated(x):
    """e^-x, 0 and inf at the far ends."""
    return exp_clamped(at_least(at_most(-x, EXP_HIGHEST), EXP_LOWEST))


def sigmoid(x):
    """1 / (1 + e^-x): exactly 1 and 0 at the far ends."""
    return 1.0 / (1.0 + _exp_of_negated(x))


def silu(x):
    """x sigmoid(x). The numerator is held where e^-x is inf already, so -inf gives -0 and not NaN."""
    return at_least(x, -EXP_HIGHEST) / (1.0 + _exp_of_negated(x))


def silu_derivative(x):
    """s (1 + x (1 - s)), with 1 - s = e^-x s above 0, where the difference would lose its digits."""
    x = at_least(at_most(x, EXP_HIGHEST), -EXP_HIGHEST)
    e = exp_clamped(at_least(-x, EXP_LOWEST))
    s = 1.0 / (1.0 + e)
    return s * fma(x, where(x > 0.0, e * s, 1.0 - s), 1.0)


SELU_SCALE = 1.0507009873554804934193349852946
SELU_SLOPE = 1.0507009873554804934193349852946 * 1.6732632423543772


def selu(x):
    """1.0507.. x above 0, 1.0507.. 1.6732.. (e^x - 1) below (Klambauer and others 2017)."""
    return where(x > 0.0, SELU_SCALE * x, SELU_SLOPE * expm1_nonpositive(at_most(x, 0.0)))


MISH_END = 40.0
"""From here on tanh(softplus(x)) is 1, and the powers below are far from overflow."""


def _tanh_softplus(x):
    """e = e^x, n = e (e + 2) and 1 / (n + 2): tanh(log(1 + e)) is n / (n + 2), which cancels nowhere."""
    e = exp_clamped(at_least(at_most(x, MISH_END), EXP_LOWEST))
    n = e * (e + 2.0)
    return e, n, 1.0 / (n + 2.0)


def mish(x):
    """x tanh(softplus(x)) (Misra 2019). Its numerator is held as `silu`'s is, and it flushes with e^x."""
    _, n, inverse = _tanh_softplus(x)
    return at_least(x, -EXP_HIGHEST) * (n * inverse)


def mish_derivative(x):
    """t + x (1 - t^2) sigmoid(x), t = n / (n + 2); the last two factors are 4 e (1 + e) / (n + 2)^2."""
    x = at_least(at_most(x, MISH_END), -EXP_HIGHEST)
    e, n, inverse = _tanh_softplus(x)
    return inverse * fma(4.0 * x, e * (1.0 + e) * inverse, n)


def hardswish(x):
    """0 below -3, x above 3, x (x + 3) / 6 between (Howard and others 2019)."""
    return where(x <= -3.0, 0.0, where(x < 3.0, x * ((x + 3.0) * (1 / 6)), x))


# ---------------------------------------------------------------- tanh

TANH_ONE = 9.02


def tanh(x):
    """The hyperbolic tangent: a rational function in float32; in float64 -t / (2 + t) with t = expm1(-2|x|)."""
    if x.single:
        x = at_least(at_most(x, TANH_ONE), -TANH_ONE)
        square = x * x
        return at_least(at_most(x * TANH_P(square) / TANH_Q(square), 1.0), -1.0)
    t = expm1_nonpositive(-2.0 * magnitude(x))
    return with_sign(t / (2.0 + t), x)


# ---------------------------------------------------------------- log, softplus

LN2_HIGH, LN2_LOW = -MINUS_LN2_HIGH, -MINUS_LN2_LOW
SQRT_HALF_BITS = DtypeConstant(0x3F3504F3, 0x3FE6A09E667F3BCD)
# bits(1) - bits(sqrt(1/2)): added to a pattern, it carries into the exponent exactly when m >= sqrt(1/2)
ONE_LESS_SQRT_HALF_BITS = DtypeConstant(0x3F800000 - 0x3F3504F3, 0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
MANTISSA = DtypeConstant((1 << 23) - 1, (1 << 52) - 1)
EXPONENT_BIAS = DtypeConstant(127.0, 1023.0)
# An integer or-ed into its mantissa is a float less it. float64 has no packed conversion from int64 before AVX-512.
MAGIC, MAGIC_BITS = DtypeConstant(2.0**23, 2.0**52), DtypeConstant(0x4B000000, 0x4330000000000000)


def log(x):
    """The natural logarithm. Subnormal x counts as 0 (-inf); negative x gives NaN."""
    raised = bits(x) + ONE_LESS_SQRT_HALF_BITS
    n = from_bits((raised >> SIGNIFICAND[x.single]) | MAGIC_BITS) - MAGIC - EXPONENT_BIAS
    f = from_bits((raised & MANTISSA) + SQRT_HALF_BITS) - 1.0
    square = f * f
    tail = fma(n, LN2_LOW, fma(square * f, LOG(f), -0.5 * square))
    result = fma(n, LN2_HIGH, f + tail)
    result = where(x < SMALLEST_NORMAL, -INFINITY, result)
    result = where(x < INFINITY, result, x)  # inf and NaN
    return where(x < 0.0, NAN, result)


def log1p_exp_negative(e):
    """log1p(e) for e in [0, 1], as of an exponential of a nonpositive number."""
    return fma(e * e, LOG1P(e - 0.5), e)


def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|); its derivative is sigmoid(x)."""
    return at_least(x, 0.0) + log1p_exp_negative(exp_nonpositive(-magnitude(x)))


# ---------------------------------------------------------------- gelu

MILLS_RATE = 0.3
GELU_END = DtypeConstant(14.5, 39.0)
INVERSE_SQRT_TAU = 0.3989422804014327
SQRT_TWO = 1.4142135623730951


def _gaussian_tail(a):
    """Return exp(-a^2 / 2) and 1 - Phi(a), for a >= 0. The square's rounding error is put back: it would cost a^2 / 2 ulp."""
    square = a * a
    lost = fma(a, a, -square)
    e = exp_nonpositive(-0.5 * square)
    e = fma(-0.5 * lost, e, e)
    t = 1.0 / fma(MILLS_RATE, a, 1.0)
    return e, e * (t * MILLS(t - 0.5))


def gelu(x):
    """x Phi(x), the exact (erf) form, as max(x, 0) - |x| (1 - Phi(|x|)): no cancellation in the negative tail."""
    a = at_most(magnitude(x), GELU_END)
    _, tail = _gaussian_tail(a)
    return fma(-a, tail, at_least(x, 0.0))


def gelu_derivative(x):
    """Phi(x) + x phi(x). Absolute accuracy near its zero at -0.7518."""
    a = at_most(magnitude(x), GELU_END)
    e, tail = _gaussian_tail(a)
    return fma(with_sign(a, x), INVERSE_SQRT_TAU * e, where(x < 0.0, tail, 1.0 - tail))


def erf(x):
    """The error function: x P(x^2) within [-1, 1], else 1 - 2 (1 - Phi(sqrt(2) |x|)) with x's sign."""
    square = at_most(x * x, 1.0)
    _, tail = _gaussian_tail(at_most(magnitude(x) * SQRT_TWO, GELU_END))
    return where(square < 1.0, x * ERF(square), with_sign(fma(-2.0, tail, 1.0), x))


# ---------------------------------------------------------------- what a user's formulas may call

EXPM1_LOWEST = -60.0
# Whole powers up to here are products: as exact as the logarithm's way, and cheaper.
MOST_FACTORS = 16
LEAKY_SLOPE = 0.01
TWO_OVER_PI = 0.6366197723675814
# 1.5 * 2^23 (2^52): as SHIFT, without a bias, so that the low bits are the number of quarter turns.
QUARTER_SHIFT = DtypeConstant(12582912.0, 6755399441055744.0)
PARITY_END = DtypeConstant(2.0**22, 2.0**51)
# pi / 2 in three parts: the products of the first two with n are exact by a fused multiply-add or without.
MINUS_PI2_HIGH = DtypeConstant(-1.5703125, -1.5707963267341256)
MINUS_PI2_MIDDLE = DtypeConstant(-0.0004837512969970703, -6.077100506303966e-11)
MINUS_PI2_LOW = DtypeConstant(-7.549789954891882e-08, -2.0222662487959506e-21)


def expm1(x):
    """e^x - 1, without cancellation near 0; overflows where e^x does, as only half of 2^n is formed."""
    shifted, r = _reduced(at_least(at_most(x, EXP_HIGHEST), EXPM1_LOWEST), SHIFT)
    half = _power_of_two(bits(shifted) - 1)
    return 2.0 * fma(half, fma(r * r, EXP(r), r), half - 0.5)


def log1p(x):
    """log(1 + x), by log(u) of the rounded sum u and the rounding's error (Higham 2002, 1.14)."""
    u = 1.0 + x
    lost = x - (u - 1.0)
    logarithm = log(u)
    return where((u > 0.0) & (u < INFINITY), logarithm + lost / u, logarithm)


def decayed(x, t):
    """x^t of a decay x in [0, 1]: log(x) is computed once where x never changes, and libm's pow takes 50 ns."""
    return exp(t * log(x))


def power(x, exponent):
    """x to the power of a number; by products where it is a small whole number, else e^(exponent log|x|)."""
    if isinstance(exponent, (int, float)):
        if exponent == 0.5:
            return sqrt(x)
        if abs(exponent) <= MOST_FACTORS and exponent == int(exponent):
            result = _whole_power(x, abs(int(exponent)))
            return 1.0 / result if exponent < 0 else result
        exponent = x.number(exponent)
    elif isinstance(x, (int, float)):
        if 0 < x < INFINITY:
            return exp(exponent * math.log(x))
        x = exponent.number(x)
    logarithm = log(magnitude(x))
    size = exp(where(logarithm.equals(0.0), 0.0, exponent * logarithm))
    whole, odd = _parity(exponent)
    signed = where(odd, with_sign(size, x), size)
    result = where((x < 0.0) & (x > -INFINITY) & negated(whole), NAN, signed)
    return where(x.equals(1.0) | exponent.equals(0.0), 1.0, result)


def _parity(x):
    """Whether x is a whole number, and whether x is odd; no x from 2^22 (2^51) on is odd."""
    nearest = (x + QUARTER_SHIFT) - QUARTER_SHIFT
    half = 0.5 * x
    great, whole = magnitude(x) >= PARITY_END, nearest.equals(x)
    even = ((half + QUARTER_SHIFT) - QUARTER_SHIFT).equals(half)
    return great | whole, whole & negated(great | even)


def _whole_power(x, n):
    if n <= 1:
        return x if n else x.number(1.0)
    half = _whole_power(x, n // 2)
    return half * half * x if n % 2 else half * half


def _quarter_turns(x):
    """The nearest multiple n of pi / 2 to x, the low bits of n's pattern, and the remainder."""
    shifted = fma(x, TWO_OVER_PI, QUARTER_SHIFT)
    n = shifted - QUARTER_SHIFT
    r = fma(n, MINUS_PI2_LOW, fma(n, MINUS_PI2_MIDDLE, fma(n, MINUS_PI2_HIGH, x)))
    return bits(shifted), at_least(at_most(r, 0.8), -0.8)


def _sine_or_cosine(x, turns):
    """sin(x + turns * pi / 2) by polynomials on |r| <= pi / 4; a turn more makes of a sine a cosine."""
    pattern, r = _quarter_turns(x)
    pattern = pattern + turns
    square = r * r
    sine = fma(r * square, SINE(square), r)
    cosine = fma(square * square, COSINE(square), fma(-0.5, square, 1.0))
    value = where((pattern & 1).equals(1), cosine, sine)
    return where((pattern & 2).equals(2), -value, value)


def sin(x):
    """The sine. Exact reduction up to |x| = 1e5 (float64: 1e9); beyond, its error grows with |x| eps."""
    return _sine_or_cosine(x, 0)


def cos(x):
    """The cosine, as exact as `sin`."""
    return _sine_or_cosine(x, 1)


def sign(x):
    """1, -1, or x itself where x is a zero or NaN."""
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, x))


def maximum(a, b):
    """NumPy's maximum of two numbers, NaN for any NaN."""
    return where(a >= b, a, where(a < b, b, a + b))


def minimum(a, b):
    """NumPy's minimum of two numbers, NaN for any NaN."""
    return where(a <= b, a, where(a > b, b, a + b))


def relu(x):
    """max(x, 0), where NaN stays."""
    return where(x < 0.0, 0.0, x)


def leaky_relu(x):
    """x, or a small multiple of x below 0."""
    return where(x < 0.0, LEAKY_SLOPE * x, x)
