"""No kernel reads or writes beyond what it is given: every array lies against memory that is forbidden."""

import inspect
import itertools
import signal

import numpy as np
import pytest
import scipy.sparse
from support import needs, trajectories
from support.guarded_memory import SIDES, guarded, guarded_backend, guarded_workspaces
from support.problems import COMPILED_DTYPES, targets_for
from support.processes import importing, python
from support.selection import campaign
from support.trajectories import CLASSES, TRAININGS, Training

from fastmlp import Adam, Network
from fastmlp.backend import registry
from fastmlp.data.arrays import clean_inputs
from fastmlp.kernels.jit.bind import slot
from fastmlp.kernels.thresholds import forced
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.rows import ByteRows
from fastmlp.testing.cases import Sizes
from fastmlp.testing.slots import AGREEMENT_SIZES, PACKED, SLOTS
from fastmlp.training import preparation

pytestmark = needs.posix("mprotect")

LARGE = Training("digits", 150, (64, 512, 600, 10), {"hidden": "relu", **CLASSES}, Adam(), None)
"""More rows than a panel is packed for, rows of weights that crowd the caches, weights beyond 1 MB."""

SIZES = (*AGREEMENT_SIZES, Sizes(150, 130, 512))
"""The last has more rows than a panel is packed for, and more columns than one panel has."""

TRIED = (*((sizes, {}) for sizes in SIZES), (SIZES[-1], PACKED))
"""Sizes, and constants of the machine: with the last ones panels are packed on every machine."""


def try_slots(variants, names):
    """Call every case of the slots of the variants between walls; return how many calls that were.

    Variants share most of their machine code, which is called once.
    """
    calls, tried = 0, set()
    for variant, name in itertools.product(variants, names):
        kernel = slot(registry.variants()[variant], name)
        if (kernel, name) in tried:
            continue
        tried.add((kernel, name))
        function = registry.variants()[variant].resolved()[name]
        takes = list(inspect.signature(getattr(function, "py_func", function)).parameters)
        dtype = np.dtype(COMPILED_DTYPES[len(tried) % 2])  # each compiles, 1 to 8 s: the dtypes take turns
        for sizes, tuning in TRIED:
            cases = SLOTS[name].cases(np.random.default_rng(0), dtype, sizes)
            for case, side in itertools.product(cases, SIDES):
                where = f"{sizes} {tuning or ''} {dtype}, wall {side}"
                print(f"{variant}.{name} {case.label} {where}", flush=True)
                arguments = [*case.arguments]
                for i, value in enumerate(arguments):
                    if isinstance(value, np.ndarray):
                        sealed = i not in case.written and takes[i] != "scratch"
                        arguments[i] = guarded(value, side, sealed=sealed)
                with forced(tuning):
                    returned = kernel(*arguments)
                case.check(arguments, returned)
                calls += 1
    return calls


def try_backend(name):
    """Train and predict between walls, in the bits of the same without; return how many trainings.

    The dtypes take turns, and so do dense and sparse rows; a large network has both.
    """
    trajectories.EPOCHS = 1
    forms = itertools.cycle([np.asarray, np.asarray, mostly_zeros, mostly_zeros])
    trainings = *TRAININGS.values(), LARGE, LARGE
    cases = list(zip(trainings, itertools.cycle(COMPILED_DTYPES), forms, strict=False))

    def run(backend, where):
        preparation.choose = lambda *_, **_options: backend
        for training, dtype, form in cases:
            print(f"{name} {training} {np.dtype(dtype)}, {form.__name__}, {where}", flush=True)
            yield trajectories.run(training, name, dtype, form=form)
            yield resting(backend, training, dtype, form)

    plain = registry.get(name)
    expected = list(run(plain, "no walls"))
    for side in SIDES:
        with guarded_workspaces(side):
            for got, bits in zip(run(guarded_backend(plain, side), f"wall {side}"), expected, strict=True):
                for one, other in zip(got, bits, strict=True):
                    np.testing.assert_array_equal(one, other)
    return len(cases) * len(SIDES)


def mostly_zeros(X):
    """Sparse rows of the numbers above 1 in size."""
    return scipy.sparse.csr_array(np.where(np.abs(X) > 1, X, 0))


def resting(backend, training, dtype, form):
    """What a backend gives when it does not train: outputs and losses of 300 rows, more than a block."""
    network = Network(training.sizes, **training.options)
    rng = np.random.default_rng(0)
    parameters = 0.1 * rng.standard_normal(parameter_count(network))
    X = rng.standard_normal((300, network.n_in))
    y = targets_for(network.loss, rng, 300, network.n_out)
    parameters, *data = (a.astype(dtype) for a in (parameters, X, y, np.ones(300)))
    data[0] = clean_inputs("X", form(data[0]), network.n_in, dtype)
    out = np.empty((300, network.n_out), dtype)
    backend.predict(network, parameters, data[0], out)
    numbers = ByteRows(rng.integers(0, 256, X.shape, np.uint8), np.dtype(dtype), 1 / 255)
    losses = [backend.evaluate(network, parameters, Data(*rows)) for rows in (data, [numbers, *data[1:]])]
    return out, losses


def process(code, module="test_guards", exit_code=0):
    """Run code, to which a module is `t`, in a process of its own; return its lines.

    If it ends otherwise, what it printed says in what.
    """
    command = ["-X", "faulthandler", "-c", f"import {module} as t\n{code}"]
    return python(*command, exit_code=exit_code, **importing()).stdout.splitlines()


COVERED = ("blas", "tiled")
"""Backends that run the program of `baseline` with functions of their own. The next test calls these one by
one, and `fused` trains with the tiles."""


def each_backend():
    """Each, 25 s; test_stepper_state.py has `fused` between walls, too."""
    for name in registry.variants():
        yield pytest.param(name, marks=campaign if name in COVERED else pytest.mark.slow)


@pytest.mark.parametrize("name", [*each_backend()])
def test_backends_stay_within_their_arrays(name, report_figure):
    lines = process(f"print(t.try_backend({name!r}))")
    report_figure(f"{lines[-1]} trainings between walls")


@pytest.mark.slow
def test_slots_stay_within_their_arrays(report_figure):
    lines = process(f"print(t.try_slots({list(registry.variants())}, {list(SLOTS)}))")
    report_figure(f"{lines[-1]} calls between walls")


BEYOND = {
    "reads after": "as_strided(t.guarded(a, 'after'), (5,))[4]",
    "reads before": "as_strided(t.guarded(a, 'before')[::-1], (5,))[4]",
    "writes after": "as_strided(t.guarded(a, 'after'), (5,))[:] = 0",
    "writes what is sealed": "t.guarded(a, 'after', sealed=True)[0] = 1",
}


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] * (what != "reads after")) for what in BEYOND]
)
def test_a_wall_ends_the_process_that_goes_beyond(what):
    process(
        f"import numpy as np\nfrom numpy.lib.stride_tricks import as_strided\na = np.ones(4)\n{BEYOND[what]}",
        "support.guarded_memory",
        -signal.SIGSEGV,
    )
