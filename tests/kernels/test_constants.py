"""Constants of formulas in machine code for ARM, whose instructions contain few floats."""

import json
import re

import pytest
from support.processes import python

from fastmlp.kernels.codegen.symbols import is_immediate

ELSEWHERE = """
import json
from llvmlite import binding
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
binding.get_process_triple = lambda: "aarch64-unknown-linux-gnu"
import numba
from fastmlp.formulas import elementary
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.lab import assembly

derivative = jittable(elementary.gelu_derivative)

@numba.njit(error_model="numpy")
def each(z, out):
    for i in range(z.shape[0]):  # LLVM keeps the constants of one loop, and forms those of an inner one anew
        for j in range(z.shape[1]):
            out[i, j] = derivative(z[i, j])

floats = numba.types.Array(numba.types.float64, 2, "C")
each.compile((floats, floats))
(text,) = each.inspect_asm().values()
loop = max(assembly.loops_of("each", text.splitlines()), key=lambda loop: loop.arithmetic)
print(json.dumps(loop.lines))
"""


def loop_of(cpu: str, features: str) -> str:
    """Return the inner loop of gelu's derivative in float64 for a processor of ARM's."""
    named = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "FASTMLP_CACHE": "0"}
    return "\n".join(json.loads(python("-c", ELSEWHERE, **named).stdout))


@pytest.mark.slow  # a process that compiles, 5 s
def test_a_loop_on_arm_forms_no_constant_in_every_round():
    loop = loop_of("neoverse-n1", "+neon")
    assert len(re.findall(r"\tfmla\t.*\.2d", loop)) > 20
    assert "\tmovk\t" not in loop


def test_the_floats_that_an_instruction_of_arms_contains():
    contained = {sign * (16 + m) / 16 * 2.0**e for sign in (1, -1) for m in range(16) for e in range(-3, 5)}
    assert len(contained) == 256
    assert all(map(is_immediate, {0.0, *contained}))
    assert not any(map(is_immediate, (1 / 3, 33 / 32, 1 / 16, 32.0, 31.5, 709.0, -1e-3, float("inf"))))
