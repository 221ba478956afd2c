"""The inner loop of a slot in machine code: how it is found, and its cycles by llvm-mca."""

import functools
import re
import sys

import pytest

from benchmarks.predicted_tiles import mca_cycles
from fastmlp.cli.main import main
from fastmlp.kernels.codegen.machine import SSE, host
from fastmlp.lab import assembly

pytest.importorskip("rich")


@pytest.mark.slow  # compiles for another processor, 2 s
@pytest.mark.parametrize(("kind", "word"), [("asm", "mul|fma|fml"), ("ir", "fmul|llvm.fma")])
def test_the_inner_loop_of_a_slot(kind, word, capsys):
    options = ["--slot", "affine", "--variant", "baseline", "--dtype", "float64", "--shape", "16,16,16"]
    assert main(["bench", *options, f"--{kind}"]) == 0
    printed = capsys.readouterr().out
    assert "baseline affine 16x16x16 float64: the inner loop with most arithmetic, in affine" in printed
    assert any(part in printed for part in word.split("|"))
    if host() != SSE:  # the loop that runs, not the scalar one for arrays that overlap
        assert re.search(r"mul[ps]d.*%[yz]mm|fm\w+pd.*%[yz]mm|\.2d\b|<\d+ x double>", printed)
        assert not re.search(r"(mul|add)sd", printed)


def test_the_loop_with_no_loop_in_it_is_found():
    inner = ["\tvfmadd231ps\t%zmm0, %zmm1, %zmm2", "\tvmulps\t%zmm0, %zmm1, %zmm3", "\tjne\t.LBB0_2"]
    outer = [".LBB0_1:", "\tmovq\t%rax, %rbx", ".LBB0_2:", *inner, *["\taddps\t%xmm0, %xmm1"] * 3]
    text = "\n".join(["-----ASSEMBLY outer.0123-----", *outer, "\tjne\t.LBB0_1", "=" * 80])
    (loop,) = assembly.loops(text, "asm")
    assert (loop.function, loop.arithmetic, len(loop.lines)) == ("outer.0123", 32, 4)


@pytest.mark.parametrize(
    ("line", "kind", "lanes"),
    [
        ("\tvfmadd231ps\t%zmm0, %zmm1, %zmm2", "asm", 16),
        ("\tvmulps\t(%rax,%rcx,4), %ymm0, %ymm0", "asm", 8),
        ("\tvaddpd\t%ymm0, %ymm1, %ymm0", "asm", 4),
        ("\taddps\t%xmm0, %xmm1", "asm", 4),
        ("\tvmulss\t(%r10,%r15,4), %xmm0, %xmm0", "asm", 1),
        ("\tvmovups\t%ymm0, (%rdx)", "asm", 0),
        ("\tfmla\tv0.4s, v1.4s, v2.s[0]", "asm", 4),
        ("\tfmla.2d\tv0, v1, v2", "asm", 2),
        ("\tfmadd\td0, d1, d2, d0", "asm", 1),
        ("  %3 = fmul <8 x float> %1, %2", "ir", 8),
        ("  %3 = fadd double %1, %2", "ir", 1),
        ("  %3 = tail call <4 x double> @llvm.fma.v4f64(<4 x double> %1, <4 x double> %2)", "ir", 4),
    ],
)
def test_an_instruction_computes_as_many_floats_as_it_has_lanes(line, kind, lanes):
    assert assembly.lanes(line, kind) == lanes


needs_mca = pytest.mark.skipif(assembly.tool() is None, reason=f"needs llvm-mca: {assembly.WHERE}")


def chains(count, name="vfmadd231ps\t%zmm30, %zmm31"):
    """A loop of so many chains of multiply-adds."""
    lines = [".LBB0_1:", *(f"\t{name}, %zmm{n}" for n in range(count)), "\tdecq\t%rax", "\tjne\t.LBB0_1"]
    (loop,) = assembly.loops_of("f", lines, "asm")
    return loop


@needs_mca
def test_cycles_are_those_of_the_ports_or_of_the_latency():
    cycles = functools.partial(mca_cycles, cpu="skylake-avx512")  # two 512-bit ports, four cycles
    assert cycles(chains(24)) == pytest.approx(12, rel=0.02)
    assert cycles(chains(4)) == pytest.approx(4, rel=0.02)


@needs_mca
def test_a_processor_that_llvm_does_not_know_is_reported():
    with pytest.raises(ValueError, match=r"for zilog-z80: .*not a recognized processor"):
        mca_cycles(chains(2), "zilog-z80")


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell stands in for the program")
@pytest.mark.parametrize(("release", "good"), [("14.0.6", False), ("16.0.6", True), ("19.1.7", True)])
def test_an_old_llvm_mca_is_none(tmp_path, monkeypatch, release, good):
    program = tmp_path / "llvm-mca"
    program.write_text(f"#!/bin/sh\necho 'Debian LLVM version {release}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert assembly.tool() == (str(program) if good else None)


def test_no_llvm_mca_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert assembly.tool() is None
    with pytest.raises(ValueError, match=r"^llvm-mca is not installed: Debian's packages llvm-16 and later"):
        mca_cycles(chains(2), "znver3")
