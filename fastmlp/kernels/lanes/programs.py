"""The programs of networks in lanes: templates whose global name is bound to code for known sizes.

Separate from `fastmlp.kernels.lanes.eligible`, which loads no compiler.
"""

# ruff: noqa: F821  (the template's names are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.lanes import networks


def train_lanes(call, worker, workers):
    """`train_chunk` of as many networks as a vector has lanes."""
    objective = call.objective
    run(
        call.parameters, call.moments, call.memory, call.order, call.starts, call.stops, call.totals, call.rates,
        call.losses, call.lane_places, call.lane_numbers, objective.divisor, objective.value_divisor,
        objective.shared_penalty,
    )  # fmt: skip


def names(constants):
    """Return the global names of `train_lanes`."""
    return {"run": networks.chunk(constants)}
