"""The list of operations that layers, heads and blocks of inputs append themselves to, by `lower`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fastmlp import checks
from fastmlp.model.component import INPUTS, Kind, Part
from fastmlp.model.operations import Operation


class Builder:
    """A list of operations that layers append themselves to.

    kinds : all kinds of the package by name
    inputs, sparse_in : dense columns of X, and sparse columns for the first `Dense`
    """

    def __init__(self, kinds: Mapping[str, Kind], inputs: int, sparse_in: int) -> None:
        self.kinds, self.inputs, self.sparse_in = kinds, inputs, sparse_in
        self.tables = 0
        """Columns with tables so far."""
        self.operations: list[Operation] = []
        self.names: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.around: tuple[str, ...] = ()
        self.pinned: set[int] = set()
        """Operations with later readers, whose output must not change."""
        self.members, self.members_at = 1, INPUTS
        """The number of networks from here on, and the operation of the split."""

    def width(self, source: int) -> int:
        """Return the units of a source."""
        return self.inputs if source == INPUTS else self.operations[source].width

    def units(self, source: int) -> int:
        """Return the units of a source in each network."""
        return self.width(source) // self.members

    def append(
        self, kind: Kind | str, sources: tuple[int, ...], n_out: int, layer: Part | None, **more: Any
    ) -> int:
        """Append an operation of a kind, or of the kind of a name; return the operation's number."""
        kind = self.kinds[kind] if isinstance(kind, str) else kind
        self.counts[kind.name] = self.counts.get(kind.name, 0) + 1
        given = layer.name if layer is not None else None
        name = more.pop("full_name", given) or f"{kind.name}{self.counts[kind.name]}"
        n_in = more.pop("n_in", None) or self.width(sources[0])
        fields = {"layer": layer, "within": self.around, "networks": self.members, **more}
        self.operations.append(Operation(kind, name, sources, n_in, n_out, **fields))
        return self.remember(given, len(self.operations) - 1)

    def append_row(self, kind: Kind, sources: tuple[int, ...], layer: Part, *units: int) -> int:
        """Append an operation on rows, separate for each member; units : of each source, if they differ."""
        if (kind.is_unitwise and not kind.digest) or kind.state:  # the units of all members are one row
            return self.append(kind, sources, self.width(sources[0]), layer)
        units = units or (self.units(sources[0]),)
        return self.append(kind, sources, sum(units), layer, n_in=units[0], subrows=self.members)

    def append_sum(self, kind: Kind | str, both: tuple[int, int], layer: Part, what: str) -> int:
        """Append a formula of the rows of two operations with equal units; what : for an error"""
        widths = tuple(map(self.width, both))
        if widths[0] != widths[1]:
            raise ValueError(f"{what} layers of {widths[0]} and {widths[1]} units; they must be equal")
        return self.append(kind, both, widths[0], layer)

    def remember(self, name: str | None, index: int) -> int:
        """Let later layers read an operation by a name, if any; return the operation's number."""
        if name is not None:
            self.names[name] = index
            self.pinned.add(index)
        return index

    @contextlib.contextmanager
    def within(self, *names: str | None) -> Iterator[None]:
        """Append operations within layers with these names, innermost first."""
        before = self.around
        self.around = (*filter(None, names), *before)
        yield
        self.around = before

    def change(self, source: int, **fields: Any) -> int:
        """Change fields of an operation; return the operation's number."""
        self.operations[source] = self.operations[source]._replace(**fields)
        return source

    def ends_open(self, source: int) -> bool:
        """True if an operation can take an activation: nothing ends or reads the operation yet."""
        here = self.operations[source]
        return source not in self.pinned and here.dropout == 0 and here.activation == "identity"

    def named(self, name: str) -> int:
        """Return the operation of a layer's name."""
        if name not in self.names:
            known = ", ".join(self.names) or "none has a name yet"
            raise ValueError(f"no earlier layer has the name {checks.shown(name)}; choose from: {known}")
        if self.names[name] < self.members_at:
            raise ValueError(
                f"the layer {name!r} stands before Members; a layer after them reads one after them"
            )
        return self.names[name]
