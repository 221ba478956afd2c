"""A request of `fastmlp bench` as a list of tasks, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fastmlp.backend.registry import variants
from fastmlp.lab import phases, steps
from fastmlp.lab.machine import MeasuredMachine, measured
from fastmlp.lab.measurements import STEP, Measurement, PhaseTime, Results, Wrong
from fastmlp.lab.peers import peers_of
from fastmlp.lab.rows import SlotRow, has_its_own, slot_rows
from fastmlp.lab.steps import StepRow, step_rows
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.testing.cases import Sizes


class Request(NamedTuple):
    """What is to be measured.

    slots : names of slots, and `STEP`
    variants : names; empty for all, and for the steps of other programs that are installed
    own : those of them whose slots alone are to be measured; empty for all
    sizes : of slots; networks : network, optimiser and batch of steps; both empty for the usual ones
    budget : seconds for each variant of each row; clock : as `fastmlp.lab.timing.timed` takes it
    """

    slots: Sequence[str]
    variants: Sequence[str]
    own: Sequence[str]
    sizes: Sequence[Sizes]
    networks: Sequence[tuple[Network, Optimizer, int]]
    dtypes: Sequence[str]
    threads: Sequence[int]
    budget: float
    clock: str


class MeasurementTask(NamedTuple):
    """A row, and the variants that compute it."""

    row: SlotRow | StepRow
    names: list[str]


def tasks(request: Request) -> list[MeasurementTask]:
    """Return the rows of a request that some variant has code of its own for."""
    names = request.variants or list(variants())
    found: list[MeasurementTask] = []
    expected = [name for name in request.slots if name != STEP]
    if request.own:
        expected = [slot for slot in expected if any(has_its_own(name, slot) for name in request.own)]
    for row in slot_rows(expected, request.dtypes, request.sizes):
        found.append(MeasurementTask(row, [name for name in names if has_its_own(name, row.slot)]))
    if STEP in request.slots:
        for step in step_rows(request.networks, request.dtypes, request.threads):
            backends = [name for name in ["reference", *names] if steps.workers(step, name) == step.threads]
            others = [] if request.variants or not backends else peers_of(step.network, step.optimizer)
            found.append(MeasurementTask(step, [*backends, *others]))
    return [task for task in found if task.names]


def run(
    request: Request,
    todo: Sequence[MeasurementTask],
    done: Callable[[MeasurementTask], None],
    machine: MeasuredMachine | None,
    with_phases: bool,
) -> Results:
    """Return the results of tasks; done(task) is called after each.

    machine : None to measure it first; with_phases : whether to take the steps of one thread apart, by
        the functions of the fastest variant
    """
    import scipy.linalg.cython_blas  # noqa: F401 # `blas` calls it: loaded later it would not be held
    from threadpoolctl import threadpool_limits

    machine = machine or measured()
    measurements: list[Measurement] = []
    wrong: list[Wrong] = []
    phased: list[PhaseTime] = []
    for task in todo:
        found: list[Measurement] = []
        threads = task.row.threads if isinstance(task.row, StepRow) else 1
        with threadpool_limits(threads):
            for result in _measured(task, request):
                if isinstance(result, Wrong):
                    wrong.append(result)
                else:
                    found.append(result)
            own = [m for m in found if m.variant in variants()]
            if with_phases and isinstance(task.row, StepRow) and threads == 1 and own:
                fastest = min(own, key=lambda m: m.time.median).variant
                phased += phases.phases(task.row, fastest, request.budget, request.clock)
        measurements += found
        done(task)
    return Results(machine, measurements, wrong, phased)


def _measured(task: MeasurementTask, request: Request) -> Iterator[Measurement | Wrong]:
    if isinstance(task.row, StepRow):
        return steps.measure(task.row, task.names, request.budget, request.clock)
    return phases.measure(task.row, task.names, request.budget, request.clock)
