"""The inner loop of a slot in machine code, and how it is found."""

import re

import pytest

from fastmlp.cli.main import main
from fastmlp.kernels.codegen.machine import SSE, host
from fastmlp.lab import assembly

pytest.importorskip("rich")


@pytest.mark.slow  # compiles for another processor, 2 s
def test_the_inner_loop_of_a_slot(capsys):
    options = ["--slot", "affine", "--variant", "baseline", "--dtype", "float64", "--shape", "16,16,16"]
    assert main(["bench", *options, "--asm"]) == 0
    printed = capsys.readouterr().out
    assert "baseline affine 16x16x16 float64: the inner loop with most arithmetic, in affine" in printed
    assert any(part in printed for part in ("mul", "fma", "fml"))
    if host() != SSE:  # the loop that runs, not the scalar one for arrays that overlap
        assert re.search(r"mul[ps]d.*%[yz]mm|fm\w+pd.*%[yz]mm|\.2d\b", printed)
        assert not re.search(r"(mul|add)sd", printed)


def test_the_loop_with_no_loop_in_it_is_found():
    inner = ["\tvfmadd231ps\t%zmm0, %zmm1, %zmm2", "\tvmulps\t%zmm0, %zmm1, %zmm3", "\tjne\t.LBB0_2"]
    outer = [".LBB0_1:", "\tmovq\t%rax, %rbx", ".LBB0_2:", *inner, *["\taddps\t%xmm0, %xmm1"] * 3]
    text = "\n".join(["-----ASSEMBLY outer.0123-----", *outer, "\tjne\t.LBB0_1", "=" * 80])
    (loop,) = assembly.loops(text)
    assert (loop.function, loop.arithmetic, len(loop.lines)) == ("outer.0123", 32, 4)


@pytest.mark.parametrize(
    ("line", "lanes"),
    [
        ("\tvfmadd231ps\t%zmm0, %zmm1, %zmm2", 16),
        ("\tvmulps\t(%rax,%rcx,4), %ymm0, %ymm0", 8),
        ("\tvaddpd\t%ymm0, %ymm1, %ymm0", 4),
        ("\taddps\t%xmm0, %xmm1", 4),
        ("\tvmulss\t(%r10,%r15,4), %xmm0, %xmm0", 1),
        ("\tvmovups\t%ymm0, (%rdx)", 0),
        ("\tfmla\tv0.4s, v1.4s, v2.s[0]", 4),
        ("\tfmla.2d\tv0, v1, v2", 2),
        ("\tfmadd\td0, d1, d2, d0", 1),
    ],
)
def test_an_instruction_computes_as_many_floats_as_it_has_lanes(line, lanes):
    assert assembly.lanes(line) == lanes
