"""Scratch is as long as what is laid out in it: kernels write there unchecked."""

import numpy as np
import pytest
from support.selection import matrix
from test_arithmetic import TUNINGS

from fastmlp.kernels.codegen import machine as machines
from fastmlp.kernels.elementwise.losses import LANES
from fastmlp.kernels.gemm import blocked
from fastmlp.kernels.runtime import workspace
from fastmlp.kernels.thresholds import is_blocked

SIDES = np.arange(1, 4001)
"""Units on either side of a layer; beyond, a unit adds no more to the need than to what is there."""

DISTANCE_BYTES = 8
"""Behind a panel lie as many distances of rows of x (`gemm.operands.distances`)."""

pytestmark = [
    pytest.mark.parametrize("itemsize", [4, 8]),
    pytest.mark.parametrize("machine", ["AVX512", "AVX2", "NEON", "SSE"]),
]


def lengths(length):
    """length(side) for side 0 and for all of SIDES."""
    return np.array([length(int(side)) for side in (0, *SIDES)])


def test_panels_fit_into_scratch(machine, itemsize):
    machine = getattr(machines, machine)
    panels = SIDES * (machine.vectors * machine.vector_bytes + DISTANCE_BYTES) // itemsize
    for there in (
        lengths(lambda units: workspace.scratch_length(units, 1, itemsize)),
        lengths(lambda rows: workspace.scratch_length(1, rows, itemsize)),
    ):
        short = SIDES[panels > there[SIDES]]
        assert not short.size, f"at a depth of {short[0]} a panel of {panels[short[0] - 1]} does not fit"


def test_the_loss_of_sixteen_rows_fits_into_scratch(machine, itemsize):
    """Three matrices of as many rows as there are outputs, and three rows of sums."""
    there = lengths(lambda outputs: workspace.scratch_length(outputs, 1, itemsize, outputs))
    assert (there[SIDES] >= 3 * LANES * (SIDES + 1)).all()


ROWS = (1, 64, 128, blocked.BLOCK_ROWS, 4096)


@pytest.mark.parametrize("rows", [1000, *(pytest.param(n, marks=matrix) for n in ROWS)])
def test_what_packed_weights_need_fits_into_scratch(monkeypatch, machine, itemsize, rows):
    for place in ("gemm.blocked.VECTORS", "gemm.blocked.VECTOR_BYTES", "thresholds.CROWDED_ROWS"):
        own = getattr(getattr(machines, machine), place.rpartition(".")[2].lower())
        monkeypatch.setattr(f"fastmlp.kernels.{place}", own)
    limits = [TUNINGS["least"][name] for name in ("large_bytes", "many_bytes")]
    there = lengths(lambda units: workspace.scratch_length(units, rows, itemsize))
    for n_out in SIDES[::13]:  # prime to the lengths of vectors: with all remainders
        needed = blocked.scratch_length(rows, int(n_out), itemsize)
        n_in = SIDES[is_blocked(rows, SIDES, n_out, itemsize, *limits)]
        short = n_in[there[np.maximum(n_in, n_out)] < needed]
        assert not short.size, (
            f"{short[0]} x {n_out} weights of {rows} rows need {needed} numbers of scratch, "
            f"{there[max(short[0], n_out)]} are there"
        )
