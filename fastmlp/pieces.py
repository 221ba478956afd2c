"""What activations, losses and rules have in common: a name, and formulas that identify them."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from fastmlp import checks
from fastmlp.formulas.expressions import Expression

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Piece:
    """A named part of a network or an optimiser; two of one name and of equal formulas are equal.

    name : what files and errors call it
    digest : of its formulas, if a user wrote it; empty for a part of fastmlp's own, which its name identifies
    """

    name: str
    digest: str

    def _identify(self, name: object, taken: Any, *formulas: Expression, more: Any = ()) -> None:
        """Set name and digest of a user's piece; ValueError if the name is no name, or one of ours."""
        what = type(self).__name__
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"a name of {what} must be letters, digits and _, got {checks.shown(name)}")
        if name in taken:
            raise ValueError(f"{name!r} is one of fastmlp's own; give the {what} another name")
        told = [what, name, *(formula.digest for formula in formulas), repr(more)]
        self.name = name
        self.digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    @property
    def key(self) -> str:
        """What tells it from every other."""
        return f"{self.name}.{self.digest}" if self.digest else self.name

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"
