"""Words that threads share, as LLVM writes them for ARM, which keeps no order by itself."""

import re

import numba
import pytest
from llvmlite import binding, ir

from fastmlp.kernels.codegen import machine as target_machine
from fastmlp.kernels.jit.lazy import apart
from fastmlp.kernels.program.barrier import function_of, is_abandoned

ORDERED = re.compile(r"\t(ldap?r|stlr|ldaddal|ldaxr|stlxr|dmb\tish)\b")

CPUS = {
    "cortex-a72": ("ldaxr", "stlxr"),  # without atomic additions
    "neoverse-n1": ("ldaddal",),
    "apple-m1": ("ldaddal",),
}
"""What adds to a word and keeps order before and after it, by processor."""


def on_arm(text: str, cpu: str) -> str:
    """Return the assembly of a module of LLVM's language, whatever machine it was written for."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    text = re.sub('target (triple|datalayout) = ".*"', "", text)
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    module = binding.parse_assembly(text)
    module.triple = triple
    return machine.emit_assembly(module)


@pytest.mark.parametrize("cpu", CPUS)
def test_the_barrier_adds_and_reads_in_one_order(cpu):
    module = ir.Module()
    function_of(module).linkage = "external"
    ordered = ORDERED.findall(on_arm(str(module), cpu))
    additions = sum(one == CPUS[cpu][0] for one in ordered)
    # In each of three meetings: an arrival, an opening, a sleeper more, a sleeper less.
    assert [ordered.count(one) for one in CPUS[cpu]] == [additions] * len(CPUS[cpu]) == [12] * len(CPUS[cpu])
    # A meeting reads the generation before an arrival and while it waits, and who sleeps after an opening.
    assert ordered.count("ldar") == 9
    assert ordered.count("dmb\tish") == 3  # before each sleep


def test_whether_a_step_is_the_last_is_read_in_one_piece_and_at_each_step():
    array = numba.types.Array(numba.types.int64, 1, "C")

    @numba.njit
    def steps(barrier):
        taken = 0
        while not is_abandoned(barrier):
            taken += 1
        return taken

    steps.compile((array,))
    (text,) = steps.inspect_llvm().values()
    assert re.search(r"load atomic i64, .* monotonic", text)


def test_who_sees_the_address_of_a_piece_sees_its_code(monkeypatch):
    monkeypatch.setattr(target_machine, "X86", False)  # which has instructions of its own in a stub

    def nothing():
        pass

    piece = apart(nothing)

    @numba.njit
    def call():
        piece()

    call.compile(())
    (text,) = call.inspect_llvm().values()
    assembly = on_arm(text, "cortex-a72")
    assert set(ORDERED.findall(assembly)) == {"ldar", "stlr"}
