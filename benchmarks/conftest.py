"""How long to time: every benchmark's rounds are cut to fit into --benchmark-max-time."""

from __future__ import annotations

import time

import pytest

LEAST_ROUNDS = 5
MOST_ROUNDS = 1000


@pytest.fixture
def rounds(request):
    """A function that says how many rounds of a call fit into --benchmark-max-time, by one call of it."""
    budget = float(request.config.getoption("benchmark_max_time"))

    def fitting(call):
        began = time.perf_counter()
        call()
        seconds = max(time.perf_counter() - began, 1e-6)
        return int(min(max(budget / seconds, LEAST_ROUNDS), MOST_ROUNDS))

    return fitting
