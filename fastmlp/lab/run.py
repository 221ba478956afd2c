"""Runs of `fastmlp bench`: tasks, results, new runs whenever a file is saved, and new variants."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.backend.registry import backends, get_variant, variants
from fastmlp.lab import slot_times, steps
from fastmlp.lab.machine import MeasuredMachine, measured
from fastmlp.lab.measurements import STEP, Measurement, PhaseTime, Results, Wrong, written
from fastmlp.lab.peers import peers_of
from fastmlp.lab.slot_times import SlotRow, has_its_own, slot_rows
from fastmlp.lab.steps import StepRow, step_rows
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.testing.cases import Sizes
from fastmlp.testing.slots import SLOTS


class Request(NamedTuple):
    """A request of `fastmlp bench`; slots : names, and `STEP`.

    variants : names; empty for all, and for other installed programs; files : measured by changed slots alone
    sizes : of slots; networks : network, optimiser and batch of steps; both empty for the usual
    budget : seconds for each variant of each row; clock : as of `fastmlp.lab.timing.timed`
    """

    slots: Sequence[str]
    variants: Sequence[str]
    files: Sequence[str]
    sizes: Sequence[Sizes]
    networks: Sequence[tuple[Network, Optimizer, int]]
    dtypes: Sequence[str]
    threads: Sequence[int]
    budget: float
    clock: str


MeasurementTask = tuple[SlotRow | StepRow, list[str]]
"""A row, and the names of variants."""


def tasks(request: Request) -> list[MeasurementTask]:
    """Return the rows of a request, without slots inherited by every variant."""
    names = request.variants or list(variants())
    found: list[MeasurementTask] = []
    expected = [name for name in request.slots if name != STEP]
    if request.files:
        expected = [slot for slot in expected if any(has_its_own(name, slot) for name in request.files)]
    for row in slot_rows(expected, request.dtypes, request.sizes):
        found.append((row, [name for name in names if has_its_own(name, row.slot)]))
    if STEP in request.slots:
        for step in step_rows(request.networks, request.dtypes, request.threads):
            backends = [name for name in ["reference", *names] if steps.workers(step, name) == step.threads]
            others = [] if request.variants or not backends else peers_of(step.network, step.optimizer)
            found.append((step, [*backends, *others]))
    return [(row, names) for row, names in found if names]


def run(
    request: Request, todo: Iterable[MeasurementTask], machine: MeasuredMachine | None, with_phases: bool
) -> Results:
    """Return the results of tasks; machine : None to measure first

    with_phases : True splits the steps of a single thread into phases, by the fastest variant's functions
    """
    import scipy.linalg.cython_blas  # noqa: F401 # `blas` calls it: loaded later it would not be held
    from threadpoolctl import threadpool_limits

    machine = machine or measured()
    measurements: list[Measurement] = []
    wrong: list[Wrong] = []
    phased: list[PhaseTime] = []
    for row, names in todo:
        found: list[Measurement] = []
        threads = row.threads if isinstance(row, StepRow) else 1
        measure: Any = steps.measure if isinstance(row, StepRow) else slot_times.measure
        with threadpool_limits(threads):
            for result in measure(row, names, request.budget, request.clock):
                if isinstance(result, Wrong):
                    wrong.append(result)
                else:
                    found.append(result)
            current = [m for m in found if m.variant in variants()]
            if with_phases and isinstance(row, StepRow) and threads == 1 and current:
                fastest = min(current, key=lambda m: m.time.median).variant
                phased += slot_times.phases(row, fastest, request.budget, request.clock)
        measurements += found
    return Results(machine, measurements, wrong, phased)


POLL = 0.1
"""Seconds between looks at the files."""

APART: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # of Windows
}
"""Options of a process spared by Ctrl-C in a terminal: the process would print a traceback."""


def watch(paths: Sequence[str], arguments: Sequence[str], machine: MeasuredMachine) -> None:
    """Run `fastmlp bench` now and after every change of a file, until Ctrl-C, each in a process."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder, "machine.json")
        known.write_text(written(Results(machine, [], [], [])), encoding="utf-8")
        command = [sys.executable, "-m", "fastmlp", "bench", *arguments, "--machine", str(known)]
        seen: list[int] = []
        while True:
            found = [_changed(path) for path in paths]
            if found != seen and (all(found) or not seen):  # a file that is missing at first is reported
                seen = found
                began = time.perf_counter()
                subprocess.run(command, check=False, **APART)
                print(f"{time.perf_counter() - began:.1f} s; waiting for changes, Ctrl-C ends", flush=True)
            time.sleep(POLL)


def _changed(path: str) -> int:
    """Return when a file was written, 0 while an editor replaces it."""
    try:
        return Path(path).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


# --- the file of a new variant: a slot's signature and contract, and a call of `baseline` -----------

TEXT = '''"""{name}: {slot} of its own; all else as baseline."""

from fastmlp.kernels import Variant
from fastmlp.kernels.variants import baseline

as_baseline = baseline.{slot}


def {slot}({arguments}):
    """{contract}

    Numba compiles this. Write to the last array{scratch}; leave the inputs as they are, raise nothing and
    allocate nothing. `fastmlp bench --variant {name}.py` says whether it agrees, and what it takes.
    """
    {returns}as_baseline({arguments})  # replace this


VARIANT = Variant("{name}", baseline.VARIANT, {{"{slot}": {slot}}})
'''


def write_variant(name: str, slot: str) -> Path:
    """Write NAME.py into the current folder; ValueError for a bad or taken name, or an unknown slot."""
    checks.choice("slot", slot, tuple(SLOTS))
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"a variant's name must be letters, digits and _, got {checks.shown(name)}")
    if name in ("auto", *backends()):
        raise ValueError(f"a backend named {name!r} exists already; give the variant another name")
    function = get_variant("baseline").slots[slot]
    parameters = inspect.signature(function).parameters
    contract = (inspect.getdoc(function) or "").replace("\n", "\n    ")
    first = next(SLOTS[slot].cases(np.random.default_rng(0), np.dtype(np.float32), Sizes(2, 2, 2)))
    content = TEXT.format(
        returns="" if first.returned is None else "return ", name=name, slot=slot, contract=contract,
        arguments=", ".join(parameters), scratch=" and to scratch" if "scratch" in parameters else "",
    )  # fmt: skip
    path = Path(f"{name}.py")
    with path.open("x", encoding="utf-8") as file:
        file.write(content)
    return path
