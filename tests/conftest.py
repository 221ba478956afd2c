"""Shares the tests out among processes so that machine code is compiled in one of them."""

from __future__ import annotations

import pytest

from fastmlp import registry


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of like backends in one process, if pytest-xdist runs several.

    What a process has compiled others load from the disk; at the same time, each would compile it.
    """
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        families = {family(value) for value in values if isinstance(value, str)} - {None}
        if families and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(" ".join(sorted(families))))


def family(name: str) -> str | None:
    """Return the backend next to the baseline that a variant descends from; None of what is no variant."""
    variant = registry.variants().get(name)
    if variant is None:
        return None
    while variant.base is not None and variant.base.base is not None:
        variant = variant.base
    return variant.name
