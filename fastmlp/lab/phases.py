"""Where a training step's time goes: each of its functions by itself, at the size of each layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastmlp.lab import slots
from fastmlp.lab.measurements import Measurement, PhaseTime
from fastmlp.lab.rows import SlotRow
from fastmlp.lab.steps import StepRow
from fastmlp.lab.timing import Clock
from fastmlp.testing.slots import Sizes


class Part(NamedTuple):
    """A call of a slot in a step.

    phase : gather, forward, loss, back, weights or update
    layer : its number from 1; 0 for what belongs to none
    """

    phase: str
    layer: int
    row: SlotRow


def parts(row: StepRow) -> Iterator[Part]:
    """Yield the calls of slots that a step of `kernels.program.templates` makes."""
    network, batch, dtype = row.network, row.batch, row.dtype
    sizes = network.sizes
    depth = len(sizes) - 1

    def part(phase: str, layer: int, slot: str, case: str, n_in: int, n_out: int) -> Part:
        return Part(phase, layer, SlotRow(slot, case, Sizes(batch, n_in, n_out), dtype))

    yield part("gather", 0, "gather", "", sizes[0], sizes[1])
    for layer in range(1, depth + 1):
        n_in, n_out = sizes[layer - 1], sizes[layer]
        yield part("forward", layer, "affine", "", n_in, n_out)
        if layer < depth:
            yield part("forward", layer, "activate", str(network.hidden[layer - 1]), n_in, n_out)
    yield part("loss", 0, "output_loss", f"{network.output}-{network.loss}", sizes[-2], sizes[-1])
    for layer in range(depth, 0, -1):
        n_in, n_out = sizes[layer - 1], sizes[layer]
        if layer > 1:
            yield part("back", layer, "input_gradient", "", n_in, n_out)
            yield part("back", layer, "activate_gradient", str(network.hidden[layer - 2]), batch, n_in)
        yield part("weights", layer, "weight_gradient", "", n_in, n_out)
        yield part("weights", layer, "bias_gradient", "", n_in, n_out)
        yield part("update", layer, "apply_rule", row.case, n_in, n_out)


def phases(row: StepRow, variant: str, budget: float, clock: Clock) -> list[PhaseTime]:
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
