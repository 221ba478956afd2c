"""Thousands of failing calls and of tiny trainings leave the process as large as it was."""

from __future__ import annotations

import pytest
from support import needs
from support.processes import python
from support.selection import campaign

ALLOWED = 400
"""Bytes a call: less than the smallest workspace."""

SCRIPT = f"""
import ctypes, gc, sys
import numpy as np, fastmlp

kind, backend, calls = sys.argv[1:]
X, y = np.ones((4, 3)), np.zeros(4)
network = fastmlp.Network([3, 4, 1])
model = fastmlp.fit(network, X, y, epochs=1, backend=backend)

def tiny():
    fastmlp.fit(network, X, y, epochs=1, batch_size=2, seed=0, backend=backend)

def failing():
    for call in (
        lambda: fastmlp.fit(network, np.ones((4, 5)), y, backend=backend),
        lambda: fastmlp.fit(network, X, y, backend=backend, optimizer=fastmlp.SGD(1e300), epochs=3),
        lambda: model.predict(np.full((2, 3), np.nan)),
    ):
        try:
            call()
        except (ValueError, FloatingPointError):
            continue
        raise AssertionError("it did not fail")

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * {4096}

do = {{"tiny": tiny, "failing": failing}}[kind]
y = np.arange(4.0) * 1e3
for _ in range(1000):
    do()
before = resident()
for _ in range(int(calls)):
    do()
print(resident() - before)
"""


@needs.linux("/proc, and glibc's heap")
@pytest.mark.parametrize("kind", ["tiny", "failing"])
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize(
    "calls", [pytest.param(3000, marks=pytest.mark.slow), pytest.param(10_000, marks=campaign)]
)
def test_calls_leak_nothing(backend, kind, calls, report_figure):
    grown = int(python("-c", SCRIPT, kind, backend, calls).stdout)
    assert grown < ALLOWED * calls
    report_figure(f"{calls} calls, {grown / 1024:.0f} KiB more")
