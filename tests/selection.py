"""Which cases the quick suite runs; `pytest -m matrix` runs the others.

Full products of backends, dtypes and whatever else a test varies take many minutes, and most of them
run machine code that another case has run. A variant that `--variant` names has all cases in the quick suite.
"""

from __future__ import annotations

import itertools

import pytest

from fastmlp.backend import registry

matrix = pytest.mark.matrix

FEW = ("reference", "baseline", "fused")
"""The oracle, the program of the templates and the one that works by rows and on threads. The others run
one of these programs with some functions of their own, which test_slots.py tries one by one."""

SHARE, SHARE_THAT_COMPILES = 3, 9
"""The other backends have every third case of those; one that compiles for each network has every ninth."""


def _share(backend):
    if backend in FEW:
        return 1
    return SHARE if registry.variants()[backend].specialize is None else SHARE_THAT_COMPILES


def is_given(backend):
    """Whether `--variant` names it."""
    return backend in registry._files


def few(names):
    """The backends of these names, for what they have in common: the quick suite has FEW."""
    return [pytest.param(name, marks=[] if name in FEW or is_given(name) else matrix) for name in names]


some_backends = pytest.mark.parametrize("backend", few(registry.backends()))


def crossed(**axes):
    """Parametrize a test over the product of the axes, of which the quick suite has a diagonal.

    Each value of the longest axis occurs once for each of FEW backends, and the values of the others take
    turns along it. The other backends begin at different places, so that they have every value between them.
    """
    names = list(axes)
    cases = []
    for places in itertools.product(*(range(len(values)) for values in axes.values())):
        values = [axis[place] for axis, place in zip(map(list, axes.values()), places, strict=True)]
        quick = _on_the_diagonal(axes, dict(zip(names, places, strict=True)))
        cases.append(pytest.param(*values, marks=[] if quick else matrix, id="-".join(map(_label, values))))
    return pytest.mark.parametrize(names, cases)


def _label(value):
    """What a test's name calls it."""
    if isinstance(value, tuple):
        return "-".join(map(_label, value))
    return value.__name__ if isinstance(value, type) else str(value)


def _on_the_diagonal(axes, places):
    backend = list(axes["backend"])[places["backend"]] if "backend" in axes else FEW[0]
    if is_given(backend):
        return True
    others = [name for name in axes if name != "backend"]
    longest = max(others, key=lambda name: len(axes[name]))
    turn = places[longest] + places.get("backend", 0)
    turn, between = divmod(turn, min(_share(backend), len(axes[longest])))
    if between:
        return False
    for name in others:
        if name != longest:
            turn, place = divmod(turn, len(axes[name]))
            if places[name] != place:
                return False
    return True
