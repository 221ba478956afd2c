"""The quick suite has every dtype and every value of what a test varies, and the matrix has every pair."""

import itertools

import numpy as np
import pytest
from support import pages
from support.problems import COMPILED_DTYPES
from support.processes import python
from support.selection import FEW, PROGRAMS, QUICK_DTYPE, campaign, crossed, matrix, some_backends
from support.trajectories import TRAININGS

from fastmlp.backend import registry

OWN = ("reference", *registry.built_in())
"""What other tests have registered has every case."""


def quick(mark):
    """The cases without a mark, as tuples of values."""
    return [case.values for case in mark.args[1] if not case.marks]


@pytest.mark.parametrize("length", [2, 3, 4, 15])
def test_few_backends_have_every_value_and_the_others_share_them(length):
    names = list(TRAININGS)[:length]
    axes = {"backend": OWN, "name": names, "dtype": COMPILED_DTYPES}
    assert {backend for backend, *_ in quick(crossed(**axes))} == set(FEW)
    cases = quick(crossed(tried=OWN, **axes))
    for backend in OWN:
        own = [case for case in cases if case[0] == backend]
        assert own
        if backend in FEW:
            assert sorted(name for _, name, _ in own) == sorted(names)
        if backend in QUICK_DTYPE:
            assert {np.dtype(dtype) for _, _, dtype in own} == {np.dtype(QUICK_DTYPE[backend])}
        elif backend in FEW:
            assert {dtype for _, _, dtype in own} == set(COMPILED_DTYPES)


def test_every_axis_takes_turns_along_the_longest():
    cases = quick(crossed(name="abcdef", dtype=COMPILED_DTYPES, clip=[None, 1, 2]))
    assert [name for name, *_ in cases] == list("abcdef")
    assert len({(dtype, clip) for _, dtype, clip in cases}) == 6


@pytest.mark.parametrize("tried", [FEW, OWN])
def test_the_matrix_has_every_pair_and_the_campaign_the_rest(tried):
    axes = {"backend": OWN, "name": "abcdef", "dtype": COMPILED_DTYPES, "clip": [None, 1, 2]}
    every = crossed(tried=tried, **axes).args[1]
    kept = [case.values for case in every if campaign not in case.marks]
    for one, other in itertools.combinations(range(len(axes)), 2):
        found = {(case.values[one], case.values[other]) for case in every if case.values[0] in PROGRAMS}
        assert {(values[one], values[other]) for values in kept} >= found
    assert all(any(values[0] == backend for values in kept) for backend in OWN)
    assert len(kept) < len(every) / 2
    assert {case.values for case in every} == {*itertools.product(*axes.values())}


def test_a_given_variant_has_a_few_quick_cases_and_every_other_one_in_the_matrix(monkeypatch):
    monkeypatch.setitem(registry.registered, "mine", registry.variants()["baseline"])
    axes = {"backend": ["mine", "blas"], "name": "abcdefgh", "dtype": [np.float32, np.float64]}
    for tried, count in ((FEW, 0), (["mine"], 1)):
        every = [case for case in crossed(tried=tried, **axes).args[1] if case.values[0] == "mine"]
        assert sum(not case.marks for case in every) == count
        assert all(not case.marks or matrix in case.marks for case in every)
        assert len(every) == 16


def test_a_test_that_is_marked_has_so_many_quick_cases_and_the_others_in_the_matrix(tmp_path):
    """The first and others at equal distances; a case with a longer mark is not counted."""
    text = """
import pytest
slow = pytest.param(9, marks=pytest.mark.slow)
@pytest.mark.quick(3)
@pytest.mark.parametrize("case", [*range(9), slow])
def test_one(case): pass
@pytest.mark.quick(3)
@pytest.mark.parametrize("case", [0, 1])
def test_other(case): pass
"""
    (tmp_path / "test_marked.py").write_text(text)
    (tmp_path / "conftest.py").write_text((pages.ROOT / "conftest.py").read_text())
    (tmp_path / "pyproject.toml").write_text((pages.ROOT / "pyproject.toml").read_text())

    done = python("-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "matrix", tmp_path, cwd=tmp_path)
    found = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    assert found == [f"test_one[{case}]" for case in (1, 2, 4, 5, 7, 8)]


@matrix
def test_a_package_that_the_tests_lack_is_named_in_one_line():
    """pytest's own error lists options of pyproject.toml as unknown."""
    done = python("-m", "pytest", "-p", "no:xdist", "--variant=mine.py", cwd=pages.ROOT, exit_code=4)
    assert done.stderr.strip() == 'ERROR: the tests need pytest-xdist: pip install ".[test]"'


def test_what_backends_have_in_common_is_tried_on_a_few():
    assert {name for (name,) in quick(some_backends)} >= set(FEW)
