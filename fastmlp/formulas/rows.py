"""Formulas of a row, simplified and differentiated for programs.

A formula goes over the units of a row, as a norm does. Numbers of a row that the derivatives share with the
value are saved for the backward pass (the activations that are "saved for backward" in PyTorch).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastmlp.formulas.derivatives import gradient, times
from fastmlp.formulas.expressions import (
    CONSTANT,
    COUNT,
    ONES,
    VARIABLE,
    Expression,
    node_is_row,
    total,
    variable,
)
from fastmlp.formulas.operations import OPERATIONS


class RowFormula:
    """A formula of a row, with its derivatives.

    Parameters
    ----------
    value : expression
        The output of a unit.
    names : sequence of str
        The variables of the derivatives.

    Attributes
    ----------
    value : expression
    derivatives : dict of str to expression
        The derivative of the loss by each variable, given `delta`, the derivative by the row's outputs: a
        number for a variable that is one number for the row, else a row.
    saved : tuple of expressions
        Numbers of a row that `value` computes from sums over the row and that `derivatives` read.
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

    sum(ones) is the number of units. A division by a row's number is a product with the inverse, and a number
    that is a factor of a sum's terms is a factor of the sum: both are then computed once a row.
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
