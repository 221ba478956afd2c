"""Formulas as text: one writer, which a language tells its words, and a model as a program of loops."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import COMPOSED, composed
from fastmlp.exchange.steps import ExportGraph, ExportStep, levels_of
from fastmlp.formulas.expressions import CONSTANT, NUMBER, VARIABLE, Expression

LONGEST = 60
"""Characters: what is longer, or used twice, is a statement of its own. So parentheses never nest deeply."""


class Language(NamedTuple):
    """How a language spells what an expression may hold.

    name : str, in errors
    operations : for operations of expressions their text, with {0}, {1} and {2} for the operands
    number : the text of a float or a bool
    number_statement, truth_statement : text with {name} and {value}
    """

    name: str
    operations: Mapping[str, str]
    number: Callable[[float | bool], str]
    number_statement: str = "{name} = {value}"
    truth_statement: str = "{name} = {value}"


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
) -> tuple[list[str], str]:
    """Return the statements that compute an expression, and the text of its value.

    variables : the texts of its variables; known : of some of its nodes, by their ids
    """
    uses: Counter[int] = Counter()
    expression.fold(lambda node, _: uses.update(map(id, node.parts)), dict(known or {}))
    lines: list[str] = []

    def step(node: Expression, parts: list[str]) -> str:
        if node.operation == VARIABLE:
            return variables[node.operands[0]]
        if node.operation == CONSTANT:
            return language.number(node.operands[0])
        text = str(spelt(language.name, language.operations, node.operation)).format(*parts)
        if uses[id(node)] < 2 and len(text) < LONGEST:
            return text
        name = f"t{len(lines)}"
        statement = language.truth_statement if node.truth else language.number_statement
        lines.append(statement.format(name=name, value=text))
        return name

    return lines, expression.fold(step, dict(known or {}))


# --- programs of loops ---------------------------------------------------------------------------------

ROUTINES: dict[str, tuple[dict[str, str], list[str]]] = {
    "affine": (
        {"numbers": "x w b", "out": "z", "count": "groups n_in n_out"},
        [
            "for g in range(groups):",
            "    for o in range(n_out):",
            "        z[g * n_out + o] = b[g * n_out + o]",
            "    for i in range(n_in):",
            "        for o in range(n_out):",
            "            z[g * n_out + o] += x[g * n_in + i] * w[(g * n_in + i) * n_out + o]",
        ],
    ),
    "copy": (
        {"numbers": "x", "out": "out", "count": "first n"},
        ["for i in range(n):", "    out[first + i] = x[i]"],
    ),
    "gather": (
        {"numbers": "x", "whole": "places", "out": "out", "count": "n"},
        ["for i in range(n):", "    out[i] = x[places[i]]"],
    ),
    "look_up": (
        {"whole": "codes", "numbers": "table", "out": "out", "count": "column levels width first"},
        [
            "code = levels if codes[column] > levels else codes[column]",
            "row = 0 if code < -2 else code + 2",
            "for i in range(width):",
            "    out[first + i] = table[row * width + i]",
        ],
    ),
}
"""What is no formula: parameters by their kinds, see `LoopWriter.define`, and a body in Python's words."""

REDUCED = {"sum": ("add", 0.0), "max": ("maximum", -np.inf)}
"""What a reduction joins the units of a row by, and what it begins with."""


def defined(name: str, arguments: Iterable[str], lines: Iterable[str], value: str) -> str:
    """Return the text of a function of Python; value : what it returns, if anything."""
    body = [f"    {line}" for line in [*lines, *([f"return {value}"] if value else [])]]
    return "\n".join([f"def {name}({', '.join(arguments)}):", *body])


class LoopWriter:
    """Writes a model as routines that loop over the units of a row, as Python's or as `text_of` spells them.

    language : its words; those of `COMPOSED` that it lacks are added as formulas need them
    prefix : of the names of routines and arrays
    variable : the statement of a number that changes, with {name} and {value}

    Attributes
    ----------
    routines : the texts of all that is called, by name
    arrays : of the model, by name
    """

    def __init__(self, language: Language, prefix: str = "", variable: str = "{name} = {value}") -> None:
        self.words = dict(language.operations)
        self.language, self.prefix = language._replace(operations=self.words), prefix
        self.variable = variable
        self.routines: dict[str, str] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def text_of(self, name: str, parameters: Mapping[str, str], body: Sequence[str], value: str) -> str:
        """Return a routine's text, parameters with their kinds; see `define`."""
        return defined(name, parameters, body, value)

    def define(self, name: str, kinds: Mapping[str, str], body: Sequence[str], value: str = "") -> None:
        """Add a routine.

        kinds : names of parameters, with spaces between them, by "numbers" (arrays), "whole" (of whole
            numbers), "out" (that is written), "count" and "number"
        body : statements and loops, indented as Python's; value : what it returns, if anything
        """
        parameters = {one: kind for kind, names in kinds.items() for one in names.split()}
        self.routines[name] = self.text_of(f"{self.prefix}{name}", parameters, body, value)

    def learn(self, expression: Expression) -> None:
        """Add routines for the operations of an expression that the language has no words for."""
        found: dict[str, None] = {}
        expression.fold(lambda node, _: found.setdefault(REDUCED.get(node.operation, (node.operation,))[0]))
        for operation in [name for name in found if name in COMPOSED and name not in self.words]:
            names, by = composed(operation)
            self.learn(by)
            self.words[operation] = call(f"{self.prefix}{operation}", len(names))
            written = write(by, self.language, {name: name for name in names})
            self.define(operation, {"number": " ".join(names)}, *written)

    def define_formula(self, name: str, expression: Expression, variables: Sequence[str]) -> None:
        """Add a routine that writes an expression of a row, out (n,); it may write where it reads."""
        self.learn(expression)
        texts = {one: f"{one}[0]" if one.startswith(f"{NUMBER}_") else f"{one}[j]" for one in variables}
        known: dict[int, str] = {}
        body: list[str] = []

        def append_loop(value: Expression, target: str, joined: str = "") -> None:
            lines, text = write(value, self.language, texts, known)
            taken = self.words[joined].format(target, text) if joined else text
            body.append("for j in range(n):")
            body.extend(f"    {line}" for line in [*lines, f"{target} = {taken}"])

        def reduce(node: Expression, _: list[Any]) -> None:
            if node.operation in REDUCED:
                total, (joined, first) = f"row_{node.operation}_{len(known)}", REDUCED[node.operation]
                body.append(self.variable.format(name=total, value=self.language.number(first)))
                append_loop(node.parts[0], total, joined)
                known[id(node)] = total

        expression.fold(reduce)
        append_loop(expression, "out[j]")
        self.define(name, {"numbers": " ".join(variables), "out": "out", "count": "n"}, body)

    def call(self, routine: str, *arguments: object) -> str:
        """Return the text of a call; a routine of `ROUTINES` is added."""
        if routine in ROUTINES and routine not in self.routines:
            self.define(routine, *ROUTINES[routine])
        return f"{self.prefix}{routine}({', '.join(map(str, arguments))})"

    def calls_of(self, step: ExportStep, read: Sequence[tuple[str, int]], out: str) -> list[str]:
        """Return the calls that a step is; read : its sources with their units, out : what it writes."""
        names, tables = [f"{self.prefix}{name}" for name in step.arrays], [*step.arrays.values()]
        sources, widths = zip(*read, strict=True)
        given = [*sources, *names, out]
        self.arrays |= dict(zip(names, tables, strict=True))
        match step.one.kind.name:
            case "dense" | "grouped":  # whose weights are those of one group, or of several
                return [self.call("affine", *given, *(1, *tables[0].shape)[-3:])]
            case "gather":
                return [self.call("gather", *given, step.one.n_out)]
            case "concatenate":
                parts = zip(sources, itertools.accumulate(widths, initial=0), widths, strict=False)
                return [self.call("copy", name, out, first, width) for name, first, width in parts]
            case "categories":
                widths = tuple(table.shape[1] for table in tables)
                firsts = itertools.accumulate(widths, initial=0)
                columns = zip(itertools.count(), map(levels_of, tables), widths, firsts, strict=False)
                return [
                    self.call("look_up", *sources, name, out, *column)
                    for name, column in zip(names, columns, strict=False)
                ]
        assert step.formula is not None
        if step.function not in self.routines:
            self.define_formula(step.function, step.formula, step.variables)
        return [self.call(step.function, *given, step.one.n_out)]

    def write(
        self, graph: ExportGraph, given: Mapping[int, str], taken: Mapping[int, str]
    ) -> tuple[dict[str, int], list[str]]:
        """Return the buffers that a graph's calls need, by name with their lengths, and the calls.

        given : what inputs are called; taken : what the outputs are called, by the numbers of their steps
        """
        places = graph.slots(lambda step: step.formula is not None)
        names = {**given, **{place: f"a{slot}" for place, slot in enumerate(places)}, **taken}
        units = {one.number: one.columns for one in graph.inputs}
        buffers: dict[str, int] = {}
        calls = []
        for step in graph.steps:
            name, units[step.number] = names[step.number], step.one.n_out
            read = [(names[source], units[source]) for source in step.one.sources]
            calls += self.calls_of(step, read, name)
            if step.number not in taken:
                buffers[name] = max(step.one.n_out, buffers.get(name, 0))
        return buffers, calls
