"""Which networks train in lanes, and the constants of their program. This file loads no compiler."""

import functools

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codes import LOSS_CODES, RULE_CODES
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.small.eligible import has_one_step, has_stage, is_plain, is_small, steps_of
from fastmlp.kernels.small.lane_layout import LaneConstants, layout_of
from fastmlp.kernels.variant import Bound
from fastmlp.model.layout import parameter_count
from fastmlp.model.losses import loss_of

PROGRAMS = "fastmlp.kernels.lanes.networks"

MOST_UNROLLED = 600
"""Rows of a step times parameters of which a program is unrolled."""


def lanes_of(dtype):
    """Return how many networks go together: the lanes of a vector."""
    return host().vector_bytes // dtype.itemsize


def lane_program(network, optimizer, dtype, rows=0, stays=False):
    """Return the `train_chunk` of networks like this one in lanes; None if there is none.

    rows : of every step, 0 where they differ; stays : whether all steps visit the same rows in one order
    """
    if not has_one_step(optimizer) or optimizer.rule.touched_only:
        return None
    return _program(network, optimizer.rule, optimizer.clip_norm is not None, dtype, rows, stays)


@functools.lru_cache(maxsize=1024)
def _program(network, rule, clips_norm, dtype, rows, stays):
    """`lane_program` of all optimisers of a rule, whatever their numbers."""
    if (
        not all(map(has_stage, network.operations))
        or network.heads
        or network.blocks
        or not is_small(network)
    ):
        return None
    if not all(is_plain(one, network) for one in network.operations if one.is_dense):
        return None
    loss = loss_of(network.loss)
    LOSS_CODES.code(loss), RULE_CODES.code(rule)
    operations = tuple(one._replace(dropout=float(one.dropout > 0)) for one in steps_of(network))
    constants = LaneConstants(
        operations, network.output, loss.key, rule.key, network.convention, network.objective.clips,
        network.l2 > 0, clips_norm, dtype.name, lanes_of(dtype),
        rows if 0 < rows <= LOSS_ROWS and rows * parameter_count(network) <= MOST_UNROLLED else 0, stays,
    )  # fmt: skip
    size = layout_of(constants).size * constants.lanes
    return Bound(f"{PROGRAMS}:train_lanes", f"{PROGRAMS}:names", constants, network.widths, size)
