"""Where a training step's time goes: each of its functions by itself, at the size of each layer.

Every variant agrees with the reference before it is timed. Kernels compute as within a training: in one
thread, on arrays that begin at a cache line, and with subnormal numbers taken for 0 (a saturated softmax of
`baseline` took 16 us in place of 10 for them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fastmlp.lab.flushing import subnormals_flushed
from fastmlp.lab.measurements import Measurement, PhaseTime, Wrong, in_short
from fastmlp.lab.rows import SlotRow, kernel_of, traffic
from fastmlp.lab.steps import StepRow
from fastmlp.lab.timing import Clock, once, timed
from fastmlp.model.operations import INPUTS, Operation
from fastmlp.testing.cases import Case, Sizes


def measure(row: SlotRow, names: Sequence[str], budget: float, clock: str) -> Iterator[Measurement | Wrong]:
    """Yield the time of each variant, or what is wrong with it.

    budget : seconds for each; clock : as `fastmlp.lab.timing.timed` takes it
    """
    case, unusual = row.made(), row.unusual()
    calls = {}
    with subnormals_flushed():
        for name in names:
            kernel = kernel_of(name, row.slot)
            try:
                for one in (*unusual, case):
                    arguments = one.fresh()
                    one.check(arguments, kernel(*arguments))
            except Exception as error:  # a user's kernel may raise anything, Numba's errors among it
                yield Wrong(*_named(row), name, in_short(error))
                continue
            calls[name] = _call(kernel, case, arguments)
        for name, time in timed(calls, budget, clock).items():
            yield Measurement(*_named(row), name, 1, time, row.flops, traffic(case))


def _call(kernel: Any, case: Case, arguments: tuple[Any, ...]) -> Callable[[Clock], float]:
    """Return what times a call; slots that work in place get their first input again before."""

    def call(clock: Clock) -> float:
        for position in case.written:
            arguments[position][...] = case.arguments[position]
        return once(lambda: kernel(*arguments), clock)

    return call


def _named(row: SlotRow) -> tuple[str, str, str, str]:
    return row.slot, row.case, str(row.sizes), row.dtype


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
        for result in measure(part.row, [variant], budget, clock):
            if isinstance(result, Measurement):
                key = part.phase, part.layer
                found[key] = found.get(key, 0.0) + result.time.median
    return [PhaseTime(row.shape, row.dtype, variant, *key, seconds) for key, seconds in found.items()]
