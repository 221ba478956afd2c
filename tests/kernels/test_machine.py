"""The machine that kernels are written for is the one that Numba compiles for."""

import os

import pytest
from support.processes import python

from fastmlp.kernels.codegen.machine import AVX2, AVX512, NEON, SSE, machine_of
from fastmlp.kernels.gemm.macrokernel import cuts

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
    assert machine_of(triple, "any", features) == machine


ARM = "aarch64-unknown-linux-gnu"


def test_sve_has_masked_loads_and_others_of_arms_have_constant_masks():
    with_sve, without = (machine_of(ARM, "any", features) for features in ("+neon,+sve", "+neon,-sve"))
    assert (with_sve.masks, with_sve.constant_masks) == (True, False)
    assert (without.masks, without.constant_masks) == (False, True)
    assert with_sve.tiles == without.tiles == NEON.tiles


@pytest.mark.parametrize(
    ("name", "ports"),
    [
        *(
            (name, 4)
            for name in ("apple-m1", "apple-m4", "cortex-x4", "neoverse-v1", "neoverse-v2", "oryon-1")
        ),
        *((name, 2) for name in ("generic", "cortex-a72", "cortex-a76", "neoverse-n1", "neoverse-n2")),
    ],
)
def test_the_ports_of_arms_processors(name, ports):
    assert machine_of(ARM, name, "+neon").fma_ports == ports


def test_sixteen_rows_are_two_tiles_of_eight_where_four_multiply_adds_start_in_a_cycle():
    """Of two vectors: 12 rows load for seven cycles, in which 6 for multiply-adds would do."""
    two, four = (cuts(machine_of(ARM, name, "+neon"), "strided") for name in ("neoverse-n1", "neoverse-v1"))
    assert two[2, 16].tolist() == [12, 1]
    assert four[2, 16].tolist() == [8, 2]


STEP = """
import numpy as np
from fastmlp.kernels import slot
from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.kernels.variants import tiled
from fastmlp.model.rules import ROOM_FOR_CONSTANTS, RULES

g, p, moments = np.full(35, 2.0, "f"), np.ones(35, "f"), np.zeros((2, 35), "f")
moments[1] = 4
constants = np.zeros(ROOM_FOR_CONSTANTS)
constants[1:4] = 0.5, 0.5, 0.25  # after the weight decay
slot(tiled.VARIANT, "apply_rule")(RULE_CODES.code(RULES["adam"]), 0.125, constants, 1.0, g, p, moments)
assert np.allclose(p, 1 - 0.25 / (2 * 2**0.5 + 0.25)), p
print(8 * machine.host().vector_bytes)
"""
"""Adam has instructions that only AVX-512 has: LLVM ends the process where they are not."""


@pytest.mark.slow  # each compiles in a process of its own, 4 s
@pytest.mark.parametrize(
    ("overrides", "bits"),
    [
        ({"NUMBA_ENABLE_AVX": "0"}, "128"),
        ({"NUMBA_CPU_NAME": "generic"}, "128"),
        ({"NUMBA_CPU_FEATURES": "+avx512f,+avx512vl,-avx"}, "128"),
    ],
)
def test_numbas_overrides_of_the_processor_take_effect(overrides, bits):
    inherited = {name: None for name in os.environ if name.startswith("NUMBA_CPU")}
    assert python("-c", STEP, **{**inherited, **overrides}).stdout.split() == [bits]
