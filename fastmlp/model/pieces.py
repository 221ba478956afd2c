"""The base of activations, losses and rules: a name, and formulas that identify them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from fastmlp import checks
from fastmlp.formulas.expressions import Expression, of_one_unit
from fastmlp.formulas.operations import OPERATIONS

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

Counterpart = str | tuple[str, dict[str, Any]]
"""A name in another program, with the options that make it ours where it has some."""

Counterparts = Mapping[str, Counterpart]
"""The names in "torch" (a class of torch.nn), "onnx" (an operator) and "keras" (a layer)."""


class Piece:
    """A named part of a network or an optimiser; two of one name and one digest are equal.

    name : what files and errors call it
    digest : of its formulas, and of their data unless that is given anew (a loss's parameter, a rule's
        defaults), if a user wrote it; empty for a part of fastmlp's own, which its name identifies
    key : of its formulas alone: what machine code is known by
    """

    name: str
    digest: str
    key: str

    def _identify(
        self, name: object, taken: Any, *formulas: Expression, form: Any = (), data: Any = ()
    ) -> None:
        """Set name, digest and key of a user's piece; ValueError if the name is no name, or one of ours.

        form : what its machine code depends on besides the formulas; data : its arguments when it runs
        """
        what = type(self).__name__
        if not type(self).__module__.startswith("fastmlp."):
            parent = type(self).__mro__[1].__name__
            raise TypeError(f"{what} is a subclass of {parent}, and would compute as its parent")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"a name of {what} must be letters, digits and _, got {checks.shown(name)}")
        name = checks.plain(name)
        if name in taken:
            raise ValueError(f"{name!r} is one of fastmlp's own; give the {what} another name")
        parts = [what, name, *(formula.digest for formula in formulas), repr(form)]
        self.name = name
        self.key = f"{name}.{_digest(parts)}"
        self.digest = _digest([*parts, repr(data)])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (other.name, other.digest) == (self.name, self.digest)

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def restored(kind: Any, *parts: Any) -> Any:
    """Return a piece from its expressions: the function itself is not needed."""
    piece = kind.__new__(kind)
    piece._set(*parts)
    return piece


def of_one_element(what: str, expression: Expression) -> Expression:
    """Return the expression where there are no units; ValueError if it goes over those of a row."""
    found: set[str] = set()
    expression.fold(lambda node, _: found.add(node.operation))
    if any(OPERATIONS[one].reduces for one in found & OPERATIONS.keys()):
        raise ValueError(
            f"{what} goes over a row, as np.sum, np.mean and np.max do, which only a RowLoss or a Layer may"
        )
    return of_one_unit(expression)


def one_number(what: str, expressions: tuple[Expression, ...]) -> Expression:
    """Return the one expression that a traced function gave; ValueError if it is no number."""
    if len(expressions) != 1 or expressions[0].truth:
        got = "a truth value" if len(expressions) == 1 else f"{len(expressions)} values"
        raise ValueError(f"{what} must return one number, got {got}")
    return expressions[0]
