"""Where a training step's time goes: each of its functions by itself, at the size of each layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastmlp.lab import slots
from fastmlp.lab.measurements import Measurement, PhaseTime
from fastmlp.lab.rows import SlotRow
from fastmlp.lab.steps import StepRow
from fastmlp.model.operations import INPUTS, Operation
from fastmlp.testing.cases import Sizes

PHASES = ("gather", "forward", "loss", "back", "weights", "update")


DROPS, DROPS_IN_PLACE = "p=0.5", "p=0.1, in place"
"""Cases of dropout, forward and back; they take as long as those of other probabilities."""


class TimedPart(NamedTuple):
    """A call of a slot in a step.

    phase : one of `PHASES`
    layer : the number of its operation from 1; 0 for what belongs to none
    """

    phase: str
    layer: int
    row: SlotRow


def parts(row: StepRow) -> Iterator[TimedPart]:
    """Yield the calls of slots that a step of `kernels.program.step_templates` makes.

    Norms, sums and the like are no slots, and their time is in that of the whole step alone.
    """
    network, batch, dtype = row.network, row.batch, row.dtype
    operations = network.operations
    depth = len(operations)

    def part(phase: str, layer: int, slot: str, case: str, n_in: int, n_out: int) -> TimedPart:
        return TimedPart(phase, layer, SlotRow(slot, case, Sizes(batch, n_in, n_out), dtype))

    yield part("gather", 0, "gather", "", network.n_in, operations[0].n_out)
    for layer, one in enumerate(operations, 1):
        if one.is_dense:
            yield part("forward", layer, "affine", "", one.n_in, one.n_out)
        if _bends(one, layer < depth):
            yield part("forward", layer, "activate", str(one.activation), one.n_in, one.n_out)
        if one.dropout:
            yield part("forward", layer, "drop", DROPS, one.n_in, one.n_out)
    last = operations[-1]
    yield part("loss", 0, "output_loss", f"{network.output}-{network.loss}", last.n_in, last.n_out)
    for layer, one in reversed(list(enumerate(operations, 1))):
        if one.dropout:
            yield part("back", layer, "drop", DROPS_IN_PLACE, one.n_in, one.n_out)
        if _bends(one, layer < depth):
            yield part("back", layer, "activate_gradient", str(one.activation), batch, one.n_out)
        if one.is_dense:
            if one.sources[0] != INPUTS:
                yield part("back", layer, "input_gradient", "", one.n_in, one.n_out)
            yield part("weights", layer, "weight_gradient", "", one.n_in, one.n_out)
            yield part("weights", layer, "bias_gradient", "", one.n_in, one.n_out)
            yield part("update", layer, "apply_rule", row.case, one.n_in, one.n_out)


def _bends(one: Operation, hidden: bool) -> bool:
    """Return whether a step calls an activation for an operation, the output's apart."""
    return hidden and (one.is_dense or one.kind.name == "activation")


def phases(row: StepRow, variant: str, budget: float, clock: str) -> list[PhaseTime]:
    """Return the time of each phase of each layer, by the variant's slots; budget : seconds for each call.

    Each call comes from Python, and pays for that; a variant that joins slots takes less for the whole step.
    """
    found: dict[tuple[str, int], float] = {}
    for part in parts(row):
        for result in slots.measure(part.row, [variant], budget, clock):
            if isinstance(result, Measurement):
                key = part.phase, part.layer
                found[key] = found.get(key, 0.0) + result.time.median
    return [PhaseTime(row.shape, row.dtype, variant, *key, seconds) for key, seconds in found.items()]
