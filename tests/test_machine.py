"""The machine that kernels are written for is the one that Numba compiles for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastmlp.kernels.codegen.machine import AVX2, AVX512, NEON, SSE, machine_of

WHOLE = "+avx,+avx2,+avx512f,+avx512vl,+f16c,+fma,+sse4.2"

TARGETS = [
    ("x86_64-unknown-linux-gnu", WHOLE, AVX512),
    ("x86_64-unknown-linux-gnu", "+avx512f,+avx512vl", AVX512),
    ("x86_64-unknown-linux-gnu", WHOLE.replace("+avx512vl", "-avx512vl"), AVX2),
    ("x86_64-unknown-linux-gnu", "+avx2,+fma", AVX2),
    ("x86_64-unknown-linux-gnu", "+avx2,-fma", SSE),
    ("x86_64-unknown-linux-gnu", WHOLE.replace("+avx", "-avx"), SSE),
    ("x86_64-unknown-linux-gnu", "", SSE),
    # LLVM leaves nothing of a feature whose foundation is turned off after it.
    ("x86_64-unknown-linux-gnu", "+avx512f,+avx512vl,-avx2", SSE),
    ("x86_64-unknown-linux-gnu", "+avx512f,+avx512vl,+avx2,+fma,-f16c", AVX2),
    ("aarch64-unknown-linux-gnu", "+neon", NEON),
    ("arm64-apple-darwin", "", NEON),
]  # fmt: skip


@pytest.mark.parametrize(("triple", "features", "machine"), TARGETS)
def test_a_machine_has_what_the_features_leave(triple, features, machine):
    assert machine_of(triple, features) == machine


STEP = """
import numpy as np
from fastmlp.kernels import slot
from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.kernels.variants import tiled
from fastmlp.model.rules import MOST_CONSTANTS, RULES

g, p, first, second = np.full(35, 2.0, "f"), np.ones(35, "f"), np.zeros(35, "f"), np.full(35, 4.0, "f")
constants = np.zeros(MOST_CONSTANTS + 1)
constants[:3] = 0.5, 0.5, 0.25
slot(tiled.VARIANT, "apply_rule")(RULE_CODES.code(RULES["adam"]), 0.125, constants, 1.0, g, p, first, second)
assert np.allclose(p, 1 - 0.25 / (2 * 2**0.5 + 0.25)), p
print(8 * machine.host().vector_bytes)
"""
"""Adam has instructions that only AVX-512 has: LLVM ends the process where they are not."""


@pytest.mark.parametrize(
    ("overrides", "bits"),
    [
        ({"NUMBA_ENABLE_AVX": "0"}, "128"),
        ({"NUMBA_CPU_NAME": "generic"}, "128"),
        ({"NUMBA_CPU_FEATURES": "+avx512f,+avx512vl,-avx"}, "128"),
    ],
)
def test_numbas_overrides_of_the_processor_are_heeded(overrides, bits):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU")}
    done = subprocess.run(
        [sys.executable, "-c", STEP],
        env={**environment, **overrides}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [bits]
