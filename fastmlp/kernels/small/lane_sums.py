"""Sums over all parameters of small networks whose numbers are vectors: penalties, and the norm of a gradient.

Separate because each is summed in an order of its own, see `fastmlp.kernels.program.arithmetic`; the arguments `step`
are a `fastmlp.kernels.small.lane_step.LaneStep`.
"""

# mypy: ignore-errors

from fastmlp.formulas.numbers import fma, sqrt, where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.vectors import smaller
from fastmlp.kernels.elementwise.totals import CHAINS, TOGETHER
from fastmlp.kernels.program.arithmetic import (
    PENALTY_LANES,
    PENALTY_ROWS,
    PENALTY_TERMS,
    rows_as_one,
    with_decay,
    with_penalty,
)
from fastmlp.kernels.small.lane_layout import lengths
from fastmlp.kernels.small.lane_numbers import halved


def penalties(step, l2):
    """Return the sum of the products' penalties, float64; l2 : of each lane, float64."""
    half, total = step.zero.number(l2) * 0.5, step.none
    for one in step.operations:
        if one.kind == "dense":
            total = total + penalty(step, half, one)
    return total


def penalty(step, half, one):
    """Return the penalty of a product, float64; half : of l2"""
    weights, _ = step.matrix(step.parameters, one)
    columns = one.n_out * rows_as_one(one.n_out)
    group = max(1, PENALTY_TERMS // -(-columns // PENALTY_LANES)) * PENALTY_ROWS * columns
    count = one.n_in * one.n_out
    chains = step.parameters.room(step.v, PENALTY_ROWS * PENALTY_LANES)
    totals = step.parameters.room(step.wide, PENALTY_LANES)
    for lane in range(PENALTY_LANES):
        totals[lane] = step.none
    for first in step.each(count, group):
        for chain in range(PENALTY_ROWS * PENALTY_LANES):
            chains[chain] = step.zero
        for i in step.each(smaller(first + group, count) - first):
            chain = i // columns % PENALTY_ROWS * PENALTY_LANES + i % columns % PENALTY_LANES
            chains[chain] = with_penalty(None, half, weights[first + i], chains[chain])
        for lane in range(PENALTY_LANES):
            found = chains[lane]
            for row in range(1, PENALTY_ROWS):
                found = found + chains[row * PENALTY_LANES + lane]
            totals[lane] = totals[lane] + step.widened(found)
    return halved([totals[lane] for lane in range(PENALTY_LANES)])


def clip(step, limit, l2):
    """Complete the gradients by the penalty, and scale them down to a norm.

    limit : of each lane, float64; l2 : of each lane, or None
    """
    gradients, count = step.gradients, step.constants.parameters
    if l2 is not None:
        for one in step.operations:
            if one.kind == "dense":
                for i in step.each(lengths(one)[0]):
                    at = i + one.flat
                    gradients[at] = with_decay(gradients[at], l2, step.parameters[at])
    scale = limit / (sqrt(sum_of_squares(step)) + 1e-6)
    scale = where(scale < 1.0, scale, 1.0)
    for i in step.each(count):
        gradients[i] = gradients[i] * scale


def sum_of_squares(step):
    """Return the sum of the squares of the gradients, float64, in the order of `totals.emit_sum`."""
    lanes, size = host().vector_bytes // step.v.itemsize, step.constants.parameters
    chains, total = step.parameters.room(step.wide, CHAINS * lanes), step.parameters.room(step.wide, 1)
    total[0] = step.none
    for start in step.each(size, TOGETHER * lanes):
        count = smaller(start + TOGETHER * lanes, size) - start
        whole = count - count % (CHAINS * lanes)
        for chain in range(CHAINS * lanes):
            chains[chain] = step.none
        for i in step.each(count):
            by_all, by_first = i % (CHAINS * lanes), i % lanes
            if isinstance(i, int):
                chain = by_all if i < whole else by_first
            else:
                chain = where(i < whole, by_all, by_first)
            exact = step.widened(step.gradients[start + i])
            chains[chain] = fma(exact, exact, chains[chain])
        for lane in range(lanes):
            found = chains[lane]
            for chain in range(1, CHAINS):
                found = found + chains[chain * lanes + lane]
            total[0] = total[0] + found
    return total[0]
