"""What the quick suite leaves to `-m matrix` is no backend, no dtype, and no value of what a test varies."""

from __future__ import annotations

import numpy as np
import pytest
from problems import COMPILED_DTYPES
from selection import FEW, crossed, some_backends
from trajectories import TRAININGS

from fastmlp.backend import registry


def quick(mark):
    """The cases without a mark, as tuples of values."""
    return [case.values for case in mark.args[1] if not case.marks]


@pytest.mark.parametrize("length", [2, 3, 4, 15])
def test_few_backends_have_every_value_and_the_others_share_them(length):
    names = list(TRAININGS)[:length]
    cases = quick(crossed(backend=registry.backends(), name=names, dtype=COMPILED_DTYPES))
    for backend in registry.backends():
        own = [case for case in cases if case[0] == backend]
        assert own
        if backend in FEW:
            assert sorted(name for _, name, _ in own) == sorted(names)
            assert {dtype for _, _, dtype in own} == set(COMPILED_DTYPES)
    others = [case for case in cases if case[0] not in FEW]
    assert {dtype for _, _, dtype in others} == set(COMPILED_DTYPES)


def test_every_axis_takes_turns_along_the_longest():
    cases = quick(crossed(name="abcdef", dtype=COMPILED_DTYPES, clip=[None, 1, 2]))
    assert [name for name, *_ in cases] == list("abcdef")
    assert len({(dtype, clip) for _, dtype, clip in cases}) == 6


def test_a_given_variant_has_every_case(monkeypatch):
    monkeypatch.setitem(registry._files, "mine", registry.variants()["baseline"])
    cases = quick(crossed(backend=["mine", "blas"], name="abc", dtype=[np.float32, np.float64]))
    assert sum(backend == "mine" for backend, *_ in cases) == 6


def test_what_backends_have_in_common_is_tried_on_a_few():
    assert {name for (name,) in quick(some_backends)} >= set(FEW)
