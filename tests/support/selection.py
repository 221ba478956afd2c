"""Which cases the quick suite runs, which `pytest -m matrix`, and which are left to `pytest -m campaign`.

Full products of backends, dtypes and whatever else a test varies take an hour, and most of them run machine
code that another case has run: the quick suite and the matrix together have every pair of values of two axes
on PROGRAMS and a share of the cases of the other backends, and the campaign has all others. Of a test that is
marked `quick(n)` the quick suite has n of these cases, and the matrix the others. Of a variant that
`--variant` names, the quick suite has a few seconds, and the matrix all other cases.
"""

import itertools

import numpy as np
import pytest

from fastmlp.backend import registry

matrix, campaign, quick = pytest.mark.matrix, pytest.mark.campaign, pytest.mark.quick

FEW = ("reference", "fused")
"""The oracle, and the program that works by rows and on threads."""

PROGRAMS = (*FEW, "baseline")
"""With the program of the templates. The others run one of these programs with some functions of their own,
which test_slots.py tries one by one."""

SHARE, SHARE_THAT_COMPILES = 8, 16
"""Where the others are quick, too, they have every eighth case of those, since each compiles what it trains
with; one that compiles for each network has every sixteenth."""

QUICK_DTYPE = {"baseline": "float64", "blas": "float32", "tiled": "float32"}
"""The one dtype in which these are quick: a backend's programs take 8 s to compile for each."""

SHARE_OF_THE_MATRIX = 4
"""The others have every fourth case there, but one that compiles for each network its sixteenth again;
test_slots.py tries what is their own, and test_arithmetic.py all networks."""


def _compiles(backend):
    """Whether it compiles for each network."""
    return backend in registry.variants() and registry.variants()[backend].specialize is not None


def _share(backend):
    if backend in FEW:
        return 1
    return SHARE_THAT_COMPILES if _compiles(backend) else SHARE


def is_given(backend):
    """Whether `--variant` names it."""
    return backend in registry.registered


def few(names):
    """The backends of these names, for what they have in common: the quick suite has FEW."""
    return [pytest.param(name, marks=[] if name in FEW else matrix) for name in names]


def seeds(quick, slow, every):
    """Seeds of cases drawn at random: the quick suite has the first few of them, and `-m slow` some more."""
    marks = [()] * quick + [pytest.mark.slow] * (slow - quick) + [campaign] * (every - slow)
    return [pytest.param(seed, marks=mark) for seed, mark in enumerate(marks)]


some_backends = pytest.mark.parametrize("backend", few(registry.backends()))


def crossed(*, tried=FEW, **axes):
    """Parametrize a test over the product of the axes: a diagonal is quick, the matrix has all pairs.

    Each value of the longest axis occurs once for each of FEW backends, and the values of the others take
    turns along it. The other backends begin at different places, so that they have every value between them.

    tried : the backends that the quick suite has
    """
    names, axes = list(axes), {name: list(values) for name, values in axes.items()}
    quick, given, matrixed, cases = [], [], [], []
    places = list(itertools.product(*(range(len(values)) for values in axes.values())))
    for place in (dict(zip(names, one, strict=True)) for one in places):
        backend = axes["backend"][place["backend"]] if "backend" in axes else FEW[0]
        quick.append(backend in tried and _has_turn(backend, axes, place))
        share = SHARE_THAT_COMPILES if _compiles(backend) else SHARE_OF_THE_MATRIX
        given.append(is_given(backend))
        matrixed.append(backend in PROGRAMS or _on_the_diagonal(axes, place, share))
    pairs = _covering_pairs(np.array(places), np.array(quick), np.flatnonzero(matrixed))
    for number, place in enumerate(places):
        values = [axis[one] for axis, one in zip(axes.values(), place, strict=True)]
        marks = [] if quick[number] else matrix if number in pairs or given[number] else campaign
        cases.append(pytest.param(*values, marks=marks, id="-".join(map(_label, values))))
    return pytest.mark.parametrize(names, cases)


def _covering_pairs(places, given, others):
    """Numbers of other cases that, with the given ones, have every pair of values of two axes.

    Greedy: the case with the most new pairs is the next; which of several is drawn from a fixed seed.

    places : (cases, axes) int, all of the product; given : (cases,) bool; others : numbers of cases
    """
    counts = places.max(axis=0) + 1
    both = itertools.combinations(range(len(counts)), 2)
    pairs = np.array([places[:, i] * counts[j] + places[:, j] for i, j in both])  # (pairs of axes, cases)
    axes, order = np.arange(len(pairs)), np.random.default_rng(0).permutation(others)
    new, chosen = np.ones((len(pairs), pairs.max() + 1), bool), set()
    new[axes[:, None], pairs[:, given]] = False
    while (gain := new[axes[:, None], pairs[:, order]].sum(axis=0)).any():
        case = int(order[gain.argmax()])
        chosen.add(case)
        new[axes, pairs[:, case]] = False
    return chosen


def _label(value):
    """What a test's name calls it."""
    if isinstance(value, tuple):
        return "-".join(map(_label, value))
    return value.__name__ if isinstance(value, type) else str(value)


def _has_turn(backend, axes, places):
    """Whether a case is quick; what has one dtype has no turns of it."""
    dtype = QUICK_DTYPE.get(backend)
    if dtype is not None and "dtype" in axes:
        if np.dtype(axes["dtype"][places["dtype"]]) != dtype:
            return False
        axes = {name: values for name, values in axes.items() if name != "dtype"}
    return _on_the_diagonal(axes, places, _share(backend))


def _on_the_diagonal(axes, places, share):
    others = [name for name in axes if name != "backend"]
    longest = max(others, key=lambda name: len(axes[name]), default=None)
    if longest is None:
        return True
    turn = places[longest] + places.get("backend", 0)
    turn, between = divmod(turn, min(share, len(axes[longest])))
    if between:
        return False
    for name in others:
        if name != longest:
            turn, place = divmod(turn, len(axes[name]))
            if places[name] != place:
                return False
    return True
