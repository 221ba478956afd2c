"""python -m benchmarks.ports: what it reads of tiles, and its tables."""

import re
from itertools import product

import pytest
from support.processes import complaints, python

from benchmarks import ports, predicted_tiles
from benchmarks.predicted_tiles import CPUS, Tile
from fastmlp.kernels.gemm.macrokernel import CUTS
from fastmlp.lab import assembly

SPILLS = ".LBB0_1:\n\tvmovups\t%zmm1, 64(%rsp)\n\tvfmadd231ps\t%zmm0, %zmm1, %zmm2\n\tjne\t.LBB0_1"
STORES = SPILLS.replace("64(%rsp)", "64(%rdi,%rax)")
SPILLS_ON_ARM = ".LBB0_1:\n\tstr\tq1, [sp, #64]\n\tfmla\tv2.4s, v1.4s, v0.s[0]\n\tb.ne\t.LBB0_1"
STORES_ON_ARM = SPILLS_ON_ARM.replace("[sp, #64]", "[x0, #64]")
ARM = "neoverse-n1", "neoverse-v1", "neoverse-v2", "apple-m1"
TEXTS = [(SPILLS, False), (STORES, True), (SPILLS_ON_ARM, False), (STORES_ON_ARM, True)]


@pytest.mark.parametrize(("text", "stores"), TEXTS)
def test_a_loop_that_stores_vectors_is_no_tile(text, stores):
    (loop,) = assembly.loops_of("tile", text.splitlines(), "asm")
    assert predicted_tiles.stores(loop) is stores
    assert predicted_tiles.multiply_adds(loop) == 1


@pytest.mark.parametrize(
    ("tile", "cpu", "cycles"),
    [
        (Tile("rows", 8, 3), "skylake-avx512", 12),  # 24 multiply-adds, two a cycle
        (Tile("rows", 8, 3), "znver4", 24),
        (Tile("strided", 1, 8), "skylake-avx512", 4.5),  # nine loads, two a cycle
        (Tile("depth", 2, 1), "znver3", 4),  # two chains
        (Tile("depth", 8, 3), "neoverse-n1", 12),
        (Tile("depth", 8, 3), "apple-m1", 6),  # four a cycle
        (Tile("strided", 12, 1), "neoverse-v1", 13 / 3),  # 13 loads, three a cycle
    ],
)
def test_the_bound_of_ports(tile, cpu, cycles):
    assert predicted_tiles.bound(tile, CPUS[cpu]) == cycles


def test_tiles_are_all_that_products_call():
    called = {(height, vectors) for kind in CUTS for vectors, cut in enumerate(kind) for height, _ in cut}
    assert {shape for shape in called if shape[0]} <= {
        (rows, vectors) for _, rows, vectors in predicted_tiles.tiles()
    }


def test_a_share_is_of_the_peak():
    # The peak's own loop is all of it, two of them a half, and two of which one is no work all again.
    from fastmlp.lab.peak import window

    call, flops = window("float32", ports.VECTOR_BYTES, 20_000)

    def twice():
        call()
        call()

    works = {"all": (call, flops), "half": (twice, flops), "all again": (twice, flops, call)}
    found = ports.shares({name: ports.Work(*work) for name, work in works.items()}, 0.02)
    assert found == pytest.approx({"all": 1, "half": 0.5, "all again": 1}, rel=0.2)


def test_a_tile_multiplies_what_it_is_given():
    import numpy as np

    width, rows, depth = ports.VECTOR_BYTES // 4, 8, 5
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((rows, depth), (depth, width)))
    c = np.zeros((rows, width), np.float32)
    ports.repeated(
        ("strided", rows, 1), 3, a, b, np.arange(rows), c,
        count=1, columns=width, depth=depth, a_row=4 * depth, a_step=4, b_row=4 * width, c_row=4 * width,
    )()  # fmt: skip
    assert np.array_equal(c, a @ b)


@pytest.mark.slow
def test_an_unknown_part_is_reported():
    done = run("warm", exit_code=2)
    assert "unknown part 'warm'; choose from: tiles, hot, edges" in done.stderr


def run(*arguments, module="benchmarks.ports", exit_code=0):
    return python("-m", module, *arguments, exit_code=exit_code)


@pytest.mark.slow
def test_the_stages_of_a_small_network():
    done = run("4-8-3:5", "--seconds", "0.001", module="benchmarks.stages")
    assert complaints(done) == []
    cells = dict(re.findall(r"^\| (.+?) \| (\d+) \|", done.stdout, re.MULTILINE))
    assert {"forward 1", "activate_gradient 1", "gradient 2", "pass_down 2", "update"} < set(cells)
    cycles = {name: int(cell) for name, cell in cells.items()}
    assert min(cycles.values()) > 0
    assert abs(sum(cycles.values()) - 2 * cycles["all"]) <= len(cycles)  # each is rounded


@pytest.mark.slow
def test_a_network_without_a_program_of_its_own_has_no_stages():
    done = run("784-128-10:5", module="benchmarks.stages", exit_code=1)
    assert done.stderr == "784-128-10 is too large to have a program of its own\n"


@pytest.mark.slow
@pytest.mark.skipif(assembly.tool() is None, reason=f"needs llvm-mca: {assembly.WHERE}")
def test_what_is_predicted():
    """Sums stay in registers: LLVM's schedules for some processors kept those of 12x2 tiles on the stack."""
    done = run("tiles")
    assert done.stderr == ""
    cells = {
        (line.split(" | ")[0][2:], cpu): cell
        for line in done.stdout.splitlines()
        if "x" in line.split(" | ")[0]
        for cpu, cell in zip(CPUS, re.findall(r"= ([0-9.]+)|\|  (?=\|)", line), strict=True)
    }
    assert {cell for (tile, _), cell in cells.items() if tile.endswith("8x3")} >= {"1.00"}
    for tile in "strided 8x3", "rows 8x3", "depth 8x3":
        assert float(cells[tile, "skylake-avx512"]) < 1.03
    for kind, cpu in product(("strided", "rows", "depth"), ("haswell", "alderlake", "znver3")):
        assert float(cells[f"{kind} 4x3", cpu]) < 1.03
        assert float(cells[f"{kind} 6x2", cpu]) < 1.08
    assert float(cells["strided 12x2", "skylake-avx512"]) < 1.1
    for tile, cpu in product(("strided", "rows", "depth"), ARM):
        assert float(cells[f"{tile} 8x3", cpu]) < 1.13
        assert float(cells[f"{tile} 12x2", cpu]) < 1.12


@pytest.mark.slow
def test_what_is_measured():
    done = run("hot", "edges", "--seconds", "0.001")
    assert done.stderr == ""
    shares = [float(cell) for cell in re.findall(r" (\d\.\d\d)(?= \|)", done.stdout)]
    assert len(shares) > 100
    assert max(shares) > 0.5
