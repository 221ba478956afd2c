"""Functions of formulas besides operators, for every type of numbers.

A Python number or a `DtypeConstant` takes the dtype of the other operand.
"""

# mypy: ignore-errors

from dataclasses import dataclass

SIGNIFICAND = {True: 23, False: 52}
"""Bits of a significand, by whether the number is `single`."""


@dataclass(frozen=True)
class DtypeConstant:
    """A number with a value for float32 and another for float64."""

    single: float
    double: float

    def __neg__(self):
        return DtypeConstant(-self.single, -self.double)

    def of(self, number):
        """Return the value for a number's dtype."""
        return self.single if number.single else self.double


def is_number(value):
    """Return whether a value is a number of a formula's type, no Python number or constant."""
    return hasattr(value, "choose")


def _number(*values):
    return next(filter(is_number, values))


def where(condition, a, b):
    """Return a where the condition holds, else b; a or b is a number."""
    return _number(a, b).choose(condition, a, b)


def at_most(x, limit):
    """Return min(x, limit), but NaN where x is: one packed instruction in this order of operands."""
    return where(x > limit, limit, x)


def at_least(x, limit):
    """Return max(x, limit), but NaN where x is."""
    return where(x < limit, limit, x)


def fma(a, b, c):
    """Return a * b + c, with a single rounding where the machine can; a, b or c is a number."""
    return _number(a, b, c).multiply_add(a, b, c)


def sqrt(x):
    """Return the square root, rounded once."""
    return x.sqrt()


def root(x):
    """Return the fast square root of x >= 0, within 2 ulp."""
    return x.root()


def quotient(a, b):
    """Return the fast quotient a / b of b > 0, within 2 ulp."""
    return a.quotient(b)


def magnitude(x):
    """Return |x|, the sign bit cleared."""
    return x.magnitude()


def with_sign(size, sign):
    """Return |size| with the sign bit of `sign`."""
    return size.with_sign(sign)


def equal(a, b):
    """Return whether a and b are equal; a or b is a number."""
    return _number(a, b).equals(b if is_number(a) else a)


def negated(condition):
    """Return whether a condition does not hold."""
    return condition.negated()


def bits(x):
    """Return the bit pattern of a float, an integer of the same width."""
    return x.bits()


def from_bits(pattern):
    """Return the float with this bit pattern."""
    return pattern.from_bits()


def horner(coefficients, x):
    """Return the polynomial of x, with the constant coefficient first."""
    total = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        total = fma(total, x, coefficient)
    return total


@dataclass(frozen=True)
class Polynomial:
    """The coefficients of a polynomial, constant first; a call writes a fused step for each.

    From 8 coefficients on as even(x^2) + x odd(x^2): one multiply more, half the chain of dependent steps of 4 cycles.
    """

    single: tuple[float, ...]
    double: tuple[float, ...] = ()

    def __call__(self, x):
        """Return the polynomial of x."""
        coefficients = self.single if x.single else self.double
        if len(coefficients) < 8:
            return horner(coefficients, x)
        square = x * x
        return fma(horner(coefficients[1::2], square), x, horner(coefficients[0::2], square))
