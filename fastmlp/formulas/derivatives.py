"""Derivatives of expressions: a line for each operation, and a walk.

The walk goes back from a result to a variable and carries, for every node, the derivative of the result by
it (reverse mode: Griewank and Walther, "Evaluating Derivatives", 2008, chapter 3). For a formula of one
element that is its slope; for a row, with sums over its units, the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastmlp.formulas.expressions import (
    CONSTANT,
    VARIABLE,
    Expression,
    as_expression,
    constant,
    node_is_row,
    operate,
    total,
)

Factor = Expression | float

ONE, ZERO = constant(1.0), constant(0.0)


def _is(value: Expression, number: float) -> bool:
    return value.operation == CONSTANT and not value.truth and value.operands[0] == number


def times(a: Expression, b: Expression) -> Expression:
    """Return a * b, where a choice times b is a choice of products.

    0 * inf must not arise where a unit is closed: a choice of 0 stays 0 for any b.
    """
    if _is(a, 0.0) or _is(b, 1.0):
        return a
    if _is(b, 0.0) or _is(a, 1.0):
        return b
    for choice, other in ((a, b), (b, a)):
        if choice.operation == "where" and any(part.operation == CONSTANT for part in choice.operands[1:]):
            condition, yes, no = choice.operands
            return operate("where", condition, times(yes, other), times(no, other))
    return operate("multiply", a, b)


def plus(a: Expression, b: Expression) -> Expression:
    """Return a + b."""
    if _is(a, 0.0):
        return b
    return a if _is(b, 0.0) else operate("add", a, b)


def _choice(condition: Expression) -> tuple[Expression, Expression]:
    return operate("where", condition, 1.0, 0.0), operate("where", condition, 0.0, 1.0)


def _extreme(first: Expression, second: Expression) -> tuple[Expression, Expression]:
    """Return the derivatives of a maximum by two numbers: half by each where both are equal.

    So the kinks of max(x, 0) + log1p(exp(-|x|)) cancel at 0, as in the function.
    """
    return tuple(  # type: ignore[return-value]
        operate("where", one, 1.0, operate("where", other, 0.0, 0.5))
        for one, other in ((first, second), (second, first))
    )


def _power(x: Expression, n: Expression, y: Expression) -> tuple[Any, Any]:
    # y log(x) has the limit 0 where a positive power of 0 is taken.
    nonzero = operate("where", operate("equal", y, 0.0), 0.0, y)
    by_exponent = ZERO if n.operation == CONSTANT else times(nonzero, operate("log", x))
    return times(n, operate("power", x, n - 1.0)), by_exponent


def _at_top(x: Expression, top: Expression) -> Expression:
    """Return 1 over the number of greatest units, at a greatest unit, else 0."""
    is_top = operate("where", operate("equal", x, top), 1.0, 0.0)
    return times(is_top, 1.0 / operate("sum", is_top))


DERIVATIVES: dict[str, Callable[..., tuple[Factor, ...]]] = {
    "add": lambda a, b, y: (1.0, 1.0),
    "subtract": lambda a, b, y: (1.0, -1.0),
    "multiply": lambda a, b, y: (b, a),
    "divide": lambda a, b, y: (1.0 / b, -y / b),
    "power": _power,
    "negative": lambda x, y: (-1.0,),
    "absolute": lambda x, y: (operate("sign", x),),
    "sign": lambda x, y: (0.0,),
    "sqrt": lambda x, y: (0.5 / y,),
    "exp": lambda x, y: (y,),
    "expm1": lambda x, y: (operate("exp", x),),
    "log": lambda x, y: (1.0 / x,),
    "log1p": lambda x, y: (1.0 / (1.0 + x),),
    "sin": lambda x, y: (operate("cos", x),),
    "cos": lambda x, y: (-operate("sin", x),),
    "tanh": lambda x, y: (1.0 - y * y,),
    "erf": lambda x, y: (2.0 / math.sqrt(math.pi) * operate("exp", -x * x),),
    "expit": lambda x, y: (y * (1.0 - y),),
    "softplus": lambda x, y: (operate("expit", x),),
    "maximum": lambda a, b, y: _extreme(a > b, a < b),
    "minimum": lambda a, b, y: _extreme(a < b, a > b),
    "where": lambda c, a, b, y: (0.0, *_choice(c)),
    "sum": lambda x, y: (1.0,),
    "max": lambda x, y: (_at_top(x, y),),
}
"""The derivatives of an operation's value y by each operand; truth values have none."""


OVERFLOWING = ("exp", "expm1")
"""Operations with infinite derivatives at infinite values, which mostly count 0 there:
1 / (1 + exp(-x)) has the slope 0 where exp(-x) is infinite, and not 0 * inf."""


def is_constant(value: Expression) -> bool:
    """Return whether a value is a number, or a choice of two numbers."""
    return all(
        part.operation == CONSTANT for part in (value.parts[1:] if value.operation == "where" else [value])
    )


def gradient(result: Expression, name: str) -> Expression:
    """Return the derivative by a variable: of each element, or of a row's sum by each unit.

    At a kink the derivative is PyTorch's, between the derivatives on both sides: 0 of |x| at 0, a half of
    max(x, 0).
    """
    order: list[Expression] = []
    depends: dict[int, bool] = {}
    rows: dict[int, bool] = {}

    def note(node: Expression, parts: list[bool]) -> bool:
        order.append(node)
        own = node.operation == VARIABLE and node.operands[0] == name
        depends[id(node)] = own or any(depends[id(part)] for part in node.parts)
        rows[id(node)] = node_is_row(node, parts)
        return rows[id(node)]

    result.fold(note)
    by_node = {id(result): ONE}
    found = ZERO
    for node in reversed(order):
        by = by_node.get(id(node))
        if by is None or not depends[id(node)]:
            continue
        if node.operation == VARIABLE:
            found = plus(found, by)
        elif node.operation in DERIVATIVES:
            factors = DERIVATIVES[node.operation](*node.operands, node)
            for part, factor in zip(node.operands, factors, strict=True):
                if depends[id(part)]:
                    share = times(by, as_expression(factor))
                    if node.operation in OVERFLOWING and not is_constant(by):
                        share = operate("where", operate("equal", by, 0.0), 0.0, share)
                    # A number for a whole row has one derivative: the sum over the units.
                    share = total(share) if rows[id(node)] and not rows[id(part)] else share
                    by_node[id(part)] = plus(by_node.get(id(part), ZERO), share)
    return found
