"""The base of custom activations, layers, losses and rules: a name, and a digest of formulas."""

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
"""A name in another program, perhaps with options for an equal definition."""

Counterparts = Mapping[str, Counterpart]
"""The names in "torch" (a class of torch.nn), "onnx" (an operator) and "keras" (a layer)."""


class Piece:
    """A named component of a network or an optimiser; equal names and digests mean equal components.

    name : for files and errors
    digest : of a custom component's formulas, and of constant data (not a loss's parameter or a rule's
        defaults if given anew); "" for a built-in component, identified by name
    key : of the formulas alone, for machine code
    """

    name: str
    digest: str
    key: str

    def _identify(
        self, name: object, taken: Any, *formulas: Expression, form: Any = (), data: Any = ()
    ) -> None:
        """Set name, digest and key of a custom component; ValueError for a bad name or a built-in name.

        form : affects the machine code besides the formulas; data : the run-time arguments
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
    """Return a component from expressions, without the user's function."""
    piece = kind.__new__(kind)
    piece._set(*parts)
    return piece


def of_one_element(what: str, expression: Expression) -> Expression:
    """Return the expression for a single unit; ValueError for sums over a row."""
    found: set[str] = set()
    expression.fold(lambda node, _: found.add(node.operation))
    if any(OPERATIONS[one].reduces for one in found & OPERATIONS.keys()):
        raise ValueError(
            f"{what} goes over a row, as np.sum, np.mean and np.max do, which only a RowLoss or a Layer may"
        )
    return of_one_unit(expression)


def one_number(what: str, expressions: tuple[Expression, ...]) -> Expression:
    """Return the single expression of a traced function; ValueError unless a number."""
    if len(expressions) != 1 or expressions[0].truth:
        got = "a truth value" if len(expressions) == 1 else f"{len(expressions)} values"
        raise ValueError(f"{what} must return one number, got {got}")
    return expressions[0]
