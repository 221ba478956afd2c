"""Codes of activations, losses, rules and operations in compiled programs.

A built-in entry's code is its index in its table, a custom component's the next free code of the process.
Machine code on the disk outlives the process, so there a custom component has its key for a name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.component import Component, Kind
from fastmlp.model.losses import LOSSES
from fastmlp.model.lowering import KINDS
from fastmlp.model.operations import INPUTS, FusedChain, Operation
from fastmlp.model.optimizers import RULES

MOST_CODES = 1024
"""The most entries of a table in a process: every program has as many addresses."""


class Codes:
    """The codes of a table's components."""

    def __init__(self, kind: str, built_in: Mapping[str, Any]) -> None:
        self.kind, self._lock = kind, threading.Lock()
        self._entries: list[Any] = list(built_in.values())
        self._codes = {entry.key: code for code, entry in enumerate(self._entries)}
        self.n_built_in = len(self._entries)

    def code(self, component: Component | FusedChain) -> int:
        """Return the code of a component, valid in this process only."""
        if component.key not in self._codes:
            with self._lock:
                if component.key not in self._codes:
                    if len(self._entries) == MOST_CODES:
                        kinds = self.kind + ("es" if self.kind.endswith("s") else "s")
                        raise ValueError(
                            f"a process can use {MOST_CODES - self.n_built_in} {kinds} of your own, and has "
                            "used them; give what changes from one to the next as a parameter"
                        )
                    self._entries.append(component)
                    self._codes[component.key] = len(self._entries) - 1
        return self._codes[component.key]

    def built_in_entries(self) -> list[Any]:
        """Return the built-in entries."""
        return self._entries[: self.n_built_in]

    def code_of_key(self, key: str) -> int:
        """Return the code of a key; the component must have a code already."""
        return self._codes[key]

    def of_key(self, key: str) -> Any:
        """Return the component of a key; the component must have a code already."""
        return self._entries[self._codes[key]]

    def __getitem__(self, code: int) -> Any:
        if not 0 <= code < len(self._entries):
            raise ValueError(f"no {self.kind} has the code {code}; they have 0 to {len(self._entries) - 1}")
        return self._entries[code]


class OperationFile(NamedTuple):
    """A file of `fastmlp.kernels.program.operations`; key : its name"""

    key: str


COPIES = ("copy", "concatenate", "members")
"""Kinds whose outputs are the numbers of their sources."""


def file_of_kind(kind: Kind) -> str:
    """Return the file of a kind: one for all copies and formulas of a row, else the kind's own."""
    return "row_formula" if kind.formula or kind.digest or kind.key in COPIES else kind.key


def file_of(operation: Operation) -> str:
    """Return the file with what an operation does."""
    if operation.is_fused:
        return "fused_chain"
    reads_inputs = operation.sources[0] == INPUTS and not operation.is_dense
    return "inputs" if reads_inputs else file_of_kind(operation.kind)


FILES = {
    name: OperationFile(name)
    for name in dict.fromkeys(("inputs", "fused_chain", *map(file_of_kind, KINDS.values())))
}
"""The files of operations by name: a new kind without a formula of a row has a file of its own."""

ACTIVATION_CODES = Codes("activation", ACTIVATIONS)
LOSS_CODES = Codes("loss", LOSSES)
RULE_CODES = Codes("rule", RULES)
OPERATION_CODES = Codes("operation", KINDS)
FILE_CODES = Codes("file", FILES)
BY_KIND = {
    codes.kind: codes for codes in (ACTIVATION_CODES, LOSS_CODES, RULE_CODES, OPERATION_CODES, FILE_CODES)
}

IDENTITY, RELU, SIGMOID, SOFTMAX = map(list(ACTIVATIONS).index, ("identity", "relu", "sigmoid", "softmax"))
DENSE = list(KINDS).index("dense")
SGD = list(RULES).index("sgd")
"""Codes with branches of their program."""
