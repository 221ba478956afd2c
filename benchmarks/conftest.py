"""What every benchmark has: its share of threads, and rounds cut to fit into --benchmark-max-time."""

from __future__ import annotations

import re

import pytest
from threadpoolctl import threadpool_limits

from fastmlp.lab.timing import CLOCKS, once

LEAST_ROUNDS = 5
MOST_ROUNDS = 1000


@pytest.fixture(scope="session", autouse=True)
def _libraries_on_one_thread():
    """Hold BLAS and OpenMP to one thread."""
    import scipy.linalg.cython_blas  # noqa: F401 # which `blas` calls: loaded later it would not be held

    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def _table_says_its_threads(benchmark):
    yield
    assert benchmark.skipped or re.search(r", threads \d+$", benchmark.group), (
        f"{benchmark.group!r} does not end with its threads"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the plugin's, which marks those that are skipped alone
def pytest_runtest_makereport(item, call):
    """Have a benchmark that failed not complain as well that its fixture was not used, or has no group."""
    report = yield
    if report.failed and call.when == "call" and "benchmark" in getattr(item, "funcargs", {}):
        item.funcargs["benchmark"].skipped = True
    return report


@pytest.fixture
def rounds(request):
    """A function that says how many rounds of a call fit into --benchmark-max-time, by one call of it."""
    budget = float(request.config.getoption("benchmark_max_time"))

    def fitting(call):
        seconds = max(once(call, CLOCKS["wall"]), 1e-6)
        return int(min(max(budget / seconds, LEAST_ROUNDS), MOST_ROUNDS))

    return fitting


def pytest_benchmark_update_machine_info(config, machine_info):
    """Put what the machine can do at most into --benchmark-json and --benchmark-save."""
    from fastmlp.lab.machine import measured

    machine = measured()
    machine_info["peak"] = dict(machine.peak)
    machine_info["bandwidth"] = {level.name: level.bandwidth for level in machine.levels}


def pytest_benchmark_compare_machine_info(machine_info, compared_benchmark):
    """Have what every run measures anew make no other machine; this runs before the plugin compares."""
    for name in ("peak", "bandwidth"):
        if name in machine_info:
            compared_benchmark["machine_info"][name] = machine_info[name]
