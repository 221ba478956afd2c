"""Every slot of every variant on the table's cases and sizes, held to the reference, then timed.

A variant is timed where its compiled slot is not the very function of its base: what it takes over
unchanged is that row already. Slots of several cases work element by element, so that two sizes,
one within L1 and one beyond it, show what four would.

All compute as within a training: in one thread, on arrays that begin at a cache line, and with subnormal
numbers taken for 0 (a saturated softmax of `baseline` took 16 us in place of 10 for them).
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from numba import njit
from share import in_words

from fastmlp.backend.registry import variants
from fastmlp.kernels.codegen.subnormals import flush_subnormals, heed_subnormals
from fastmlp.kernels.jit.bind import slot
from fastmlp.model.layout import aligned
from fastmlp.testing.slots import BENCHMARK_SIZES, SLOTS, Sizes


def rows():
    for name, row in SLOTS.items():
        own = [variant for variant in variants() if has_its_own(variant, name)]
        cases = list(row.cases(np.random.default_rng(0), np.dtype(np.float32), Sizes(2, 2, 2)))
        sizes = BENCHMARK_SIZES if len(cases) == 1 else BENCHMARK_SIZES[0:3:2]
        for case, size, variant in itertools.product(cases, sizes, own):
            yield pytest.param(name, case.label, size, variant, id=row_name(name, case.label, size, variant))


def row_name(name, label, size, variant):
    return "-".join(filter(None, [name, label, str(size), variant]))


@functools.cache
def kernel_of(variant, name):
    return slot(variants()[variant], name)


def has_its_own(variant, name):
    base = variants()[variant].base
    return base is None or not same(kernel_of(variant, name), kernel_of(base.name, name))


def same(kernel, other):
    """Whether two kernels are of the same source and call the same compiled functions."""
    first, second = (getattr(k, "py_func", k) for k in (kernel, other))
    code = getattr(first, "__code__", None)
    if code is None or code is not getattr(second, "__code__", None):
        return first is second
    return all(first.__globals__.get(name) is second.__globals__.get(name) for name in code.co_names)


def case_of(name, label, dtype, sizes):
    cases = SLOTS[name].cases(np.random.default_rng(0), np.dtype(dtype), sizes)
    return next(case for case in cases if case.label == label)


@njit
def flush():
    flush_subnormals()


@pytest.fixture
def _subnormals_flushed():
    flush()
    yield
    heed_subnormals()


def placed(case):
    """The case's arguments with arrays that begin at a cache line; one given twice stays one."""
    arrays = {id(a): at_a_cache_line(a) for a in case.arguments if isinstance(a, np.ndarray)}
    return [arrays.get(id(a), a) for a in case.arguments]


def at_a_cache_line(array):
    copy = aligned(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.usefixtures("_subnormals_flushed")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "label", "sizes", "variant"), list(rows()))
def test_slot(benchmark, rounds, name, label, sizes, variant, dtype):
    kernel = kernel_of(variant, name)
    case = case_of(name, label, dtype, sizes)
    arguments = placed(case)
    case.check(arguments, kernel(*arguments))

    def again():
        """Slots that work in place get their first input again in every round."""
        for position in case.written:
            arguments[position][...] = case.arguments[position]
        return arguments, {}

    def call():
        kernel(*again()[0])

    benchmark.group = " ".join(filter(None, ["slot", name, label, dtype, str(sizes)])) + f", {in_words(1)}"
    benchmark.pedantic(kernel, setup=again, rounds=rounds(call), warmup_rounds=1)
