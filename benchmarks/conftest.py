"""What every benchmark has: its share of threads, and rounds cut to fit into --benchmark-max-time."""

from __future__ import annotations

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


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the plugin's, which marks those that are skipped alone
def pytest_runtest_makereport(item, call):
    """Have a benchmark that failed not complain as well that its fixture was not used."""
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
