"""Expressions written as statements of a programming language, which a table of its words describes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression
from fastmlp.formulas.operations import OPERATIONS

LONGEST = 60
"""Characters: what is longer, or used twice, is a statement of its own. So parentheses never nest deeply."""


class Language(NamedTuple):
    """How a language spells what an expression may hold.

    name : str, in errors
    operations : for each of `OPERATIONS` its text, with {0}, {1} and {2} for the operands
    number : the text of a float or a bool
    statement : text with {name} and {value}; of a number, and of a truth value
    """

    name: str
    operations: Mapping[str, str]
    number: Callable[[float | bool], str]
    number_statement: str
    truth_statement: str


ALGEBRA = {
    "add": "({0} + {1})",
    "subtract": "({0} - {1})",
    "multiply": "({0} * {1})",
    "divide": "({0} / {1})",
    "negative": "(-{0})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "equal": "({0} == {1})",
}
"""Operations that C and Python spell in the same way."""


def call(function: str, operands: int = 1) -> str:
    """Return the text of a call, for a `Language`."""
    return f"{function}({', '.join(f'{{{place}}}' for place in range(operands))})"


def spelt(language: str, table: Mapping[str, Any], operation: str) -> Any:
    """Return an operation's entry in a format's table; NotImplementedError in one line if it has none."""
    if operation not in table:
        raise NotImplementedError(
            f"{language} has no entry for the operation {operation!r}; it has: {', '.join(sorted(table))}"
        )
    return table[operation]


def write(
    expression: Expression,
    language: Language,
    variables: Mapping[str, str],
    known: Mapping[int, str] | None = None,
    prefix: str = "t",
) -> tuple[list[str], str]:
    """Return the statements that compute an expression, and the text of its value.

    variables : the texts of its variables; known : of some of its nodes, by their ids
    prefix : of the names of intermediate values
    """
    uses: Counter[int] = Counter()
    expression.fold(lambda node, _: uses.update(map(id, node.parts)), known)
    lines: list[str] = []

    def step(node: Expression, parts: list[str]) -> str:
        if node.operation == VARIABLE:
            return variables[node.operands[0]]
        if node.operation == CONSTANT:
            return language.number(node.operands[0])
        text = str(spelt(language.name, language.operations, node.operation)).format(*parts)
        if uses[id(node)] < 2 and len(text) < LONGEST:
            return text
        name = f"{prefix}{len(lines)}"
        statement = language.truth_statement if node.truth else language.number_statement
        lines.append(statement.format(name=name, value=text))
        return name

    return lines, expression.fold(step, known)


class Reduction(NamedTuple):
    """A loop over a row's units: `name` becomes the sum, or the greatest, of `value`.

    operation : "sum" or "max"; lines : the statements that come before value in the loop's body
    """

    name: str
    operation: str
    lines: list[str]
    value: str


def write_row(
    expression: Expression, language: Language, variables: Mapping[str, str]
) -> tuple[list[Reduction], list[str], str]:
    """Return what computes an expression of a row: the loops that go before, statements, a unit's value."""
    reductions: list[Reduction] = []
    known: dict[int, str] = {}

    def step(node: Expression, _: list[Any]) -> None:
        if node.operation in OPERATIONS and OPERATIONS[node.operation].reduces:
            name = f"row_{node.operation}_{len(reductions)}"
            lines, value = write(node.parts[0], language, variables, known)
            reductions.append(Reduction(name, node.operation, lines, value))
            known[id(node)] = name

    expression.fold(step)
    return reductions, *write(expression, language, variables, known)
