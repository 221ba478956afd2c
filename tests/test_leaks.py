"""Ten thousand failing calls and ten thousand tiny trainings leave the process as large as it was."""

from __future__ import annotations

import subprocess
import sys

import needs
import pytest

CALLS = 10_000

ALLOWED = 4 << 20
"""Bytes: 400 a call, less than the smallest workspace; what the allocator keeps varies by some 100 KiB."""

SCRIPT = f"""
import sys
import numpy as np, fastmlp

kind, backend = sys.argv[1:]
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
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * {4096}

do = {{"tiny": tiny, "failing": failing}}[kind]
y = np.arange(4.0) * 1e3
for _ in range({CALLS // 10}):
    do()
before = resident()
for _ in range({CALLS}):
    do()
print(resident() - before)
"""


@needs.reads_proc
@pytest.mark.parametrize("kind", ["tiny", "failing"])
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.slow
def test_calls_leak_nothing(backend, kind, told):
    command = [sys.executable, "-c", SCRIPT, kind, backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    assert grown < ALLOWED
    told(f"{CALLS} calls, {grown / 1024:.0f} KiB more")
