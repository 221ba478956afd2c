"""Derivatives of expressions, of one element or of a row.

The walk goes back from a result to a variable and carries, for every node, the derivative of the result by
the node (reverse mode: Griewank and Walther, "Evaluating Derivatives", 2008, chapter 3). For a formula of one
element that is its slope; for a row, with sums over its units, the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastmlp.formulas.expressions import (
    CONSTANT,
    COUNT,
    ONES,
    VARIABLE,
    Expression,
    as_expression,
    constant,
    node_is_row,
    operate,
    total,
    variable,
)
from fastmlp.formulas.operations import OPERATIONS

Factor = Expression | float

ONE, ZERO = constant(1.0), constant(0.0)


def _is(value: Expression, number: float) -> bool:
    return value.operation == CONSTANT and not value.truth and value.operands[0] == number


def _may_be_zero(value: Expression) -> bool:
    return value.operation == "where" and any(_is(part, 0.0) for part in value.operands[1:])


def times(a: Expression, b: Expression) -> Expression:
    """Return a * b; of a choice the choice of products, since a choice of 0 stays 0 times inf."""
    if _is(a, 0.0) or _is(b, 1.0):
        return a
    if _is(b, 0.0) or _is(a, 1.0):
        return b
    # Of two choices the one of 0 is the outer one, so that the product is a choice of 0 as well.
    for choice, other in sorted(((a, b), (b, a)), key=lambda pair: not _may_be_zero(pair[0])):
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
    """Return a maximum's derivatives by two numbers: half each where equal, so kinks of softplus cancel."""
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

    At a kink the derivative is PyTorch's: 0 of |x| at 0, a half of max(x, 0).
    """
    order: list[Expression] = []
    depends: dict[int, bool] = {}
    rows: dict[int, bool] = {}

    def note(node: Expression, parts: list[bool]) -> bool:
        order.append(node)
        is_name = node.operation == VARIABLE and node.operands[0] == name
        depends[id(node)] = is_name or any(depends[id(part)] for part in node.parts)
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
                    term = times(by, as_expression(factor))
                    if node.operation in OVERFLOWING and not is_constant(by):
                        term = operate("where", operate("equal", by, 0.0), 0.0, term)
                    # A number for a whole row has one derivative: the sum over the units.
                    term = total(term) if rows[id(node)] and not rows[id(part)] else term
                    by_node[id(part)] = plus(by_node.get(id(part), ZERO), term)
    return found


# --- formulas of a row, as of a norm, simplified for programs -------------------------------------------


class RowFormula:
    """A formula of a row, and its derivatives by the variables `names`.

    derivatives : of the loss by each variable, given `delta`, the derivative by the row's outputs
    saved : numbers of a row that `value` computes and `derivatives` read ("saved for backward" in PyTorch)
    """

    def __init__(self, value: Expression, names: Sequence[str]) -> None:
        simplify = _Simplifier()
        self.value = simplify(value)
        along = total(times(variable("delta"), self.value))
        self.derivatives = {name: simplify(gradient(along, name)) for name in names}
        self.saved = simplify.shared(self.value, self.derivatives.values())

    @property
    def is_unitwise(self) -> bool:
        """Whether a unit depends on no other unit."""
        found: list[bool] = []
        self.value.fold(lambda node, _: found.append(_reduces(node)))
        return not any(found)


def _reduces(node: Expression) -> bool:
    return node.operation in OPERATIONS and OPERATIONS[node.operation].reduces


class _Simplifier:
    """Rebuilds expressions: equal nodes are one object, and numbers of a row leave its loops.

    sum(ones) is the number of units; a division by a row's number is a product with the inverse.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[object, ...], Expression] = {}
        self._done: dict[int, Expression] = {}
        self._read: list[Expression] = []  # an id is a node's for as long as the node lives
        self._is_row: dict[int, bool] = {}
        self._reduced: dict[int, bool] = {}

    def __call__(self, expression: Expression) -> Expression:
        """Return the simplified expression."""
        self._read.append(expression)
        simplified: Expression = expression.fold(self._step, self._done)
        return simplified

    def shared(self, value: Expression, others: Iterable[Expression]) -> tuple[Expression, ...]:
        """Return a row's numbers that `value` computes and `others` read, the largest nodes."""
        computed: set[int] = set()
        value.fold(lambda node, _: computed.add(id(node)))
        found: dict[int, Expression] = {}
        todo, met = [*others], set[int]()
        while todo:
            node = todo.pop()
            if id(node) in met:
                continue
            met.add(id(node))
            is_number = self._reduced[id(node)] and not self._is_row[id(node)] and not node.truth
            if id(node) in computed and is_number:
                found[id(node)] = node
            else:
                todo += node.parts
        return tuple(found.values())

    def _step(self, node: Expression, parts: list[Expression]) -> Expression:
        if not node.parts:
            return self._node(node.operation, *node.operands)
        match node.operation:
            case "sum":
                return self._sum(*parts)
            case "divide":
                return self._divide(*parts)
            case "power" if parts[1].operation == CONSTANT and parts[1].operands[0] == 2.0:
                return self._node("multiply", parts[0], parts[0])
        return self._node(node.operation, *parts)

    def _divide(self, a: Expression, b: Expression) -> Expression:
        one = self._node(CONSTANT, 1.0)
        if a is one or self._is_row[id(b)] or not self._reduced[id(b)]:
            return self._node("divide", a, b)
        return self._node("multiply", a, self._node("divide", one, b))

    def _sum(self, term: Expression) -> Expression:
        """Return the sum of a term over a row, with a row's numbers as factors of the sum."""
        if term.operation == VARIABLE and term.operands[0] == ONES:
            return self._node(VARIABLE, COUNT)
        if term.operation == "negative":
            return self._node("negative", self._sum(term.operands[0]))
        if term.operation == "multiply":
            a, b = term.operands
            for number, other in ((a, b), (b, a)):
                if not self._is_row[id(number)]:
                    rest = self._sum(other)
                    is_one = number.operation == CONSTANT and number.operands[0] == 1.0
                    return rest if is_one else self._node("multiply", number, rest)
        if term.operation in ("add", "subtract") and self._reduced[id(term)]:
            # The sums of two rows need not wait for a number that is a factor of one of them.
            a, b = term.operands
            if self._is_row[id(a)] and self._is_row[id(b)]:
                return self._node(term.operation, self._sum(a), self._sum(b))
        return self._node("sum", term)

    def _node(self, operation: str, *operands: object) -> Expression:
        leaf = operation in (VARIABLE, CONSTANT)
        key = (operation, *(map(repr, operands) if leaf else map(id, operands)))
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = Expression(operation, *operands)
            parts = [] if leaf else [*found.operands]
            self._is_row[id(found)] = node_is_row(found, [self._is_row[id(part)] for part in parts])
            self._reduced[id(found)] = _reduces(found) or any(self._reduced[id(part)] for part in parts)
        return found
