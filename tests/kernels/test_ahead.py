"""`fastmlp warmup` compiles all that later processes would: they compile nothing."""

import functools
import os
import re
import shutil
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from support import needs
from support.processes import python
from support.selection import campaign
from support.terminals import on_terminal

import fastmlp
from fastmlp.backend import registry
from fastmlp.cli import ahead
from fastmlp.kernels.jit import engine, store
from fastmlp.kernels.mixed import tiles

pytestmark = pytest.mark.xdist_group("ahead")  # they compile the same

POSSIBLE = [name for name, why_not in tiles.WHY_NOT.items() if why_not() is None]

FITS = """
import sys
import numpy as np
import fastmlp
from fastmlp.kernels.jit import engine

backend, *dtypes = sys.argv[1:]
# Works for which auto takes one backend after another, the last with a layer beyond L2.
works = [((3, 4, 1), 5, 1), ((6, 40, 3), 64, 2), ((300, 200, 10), 200, 1), ((600, 700, 2), 130, 2)]
for dtype in dtypes:
    for sizes, rows, threads in works:
        X, y = np.ones((rows, sizes[0])), np.ones((rows, sizes[-1]))
        options = {"epochs": 1, "batch_size": None, "validation": (X, y), "threads": threads, "dtype": dtype}
        model = fastmlp.fit(fastmlp.Network(sizes), X, y, backend=backend, progress=False, **options)
        model.predict(X)
        print(model.backend)
assert engine.compiled == [], engine.compiled
"""

RANDOM = """
import sys
import numpy as np
import scipy.sparse
import fastmlp
from fastmlp.kernels.jit import engine
from fastmlp.model.activations import HIDDEN
from fastmlp.model.losses import LOSSES

rng = np.random.default_rng(int(sys.argv[1]))
pairs = [(loss, output) for loss, entry in LOSSES.items() for output in entry.outputs
         if entry.outputs_per_target == 1]
for _ in range(int(sys.argv[2])):
    loss, output = pairs[rng.integers(len(pairs))]
    depth, rows = int(rng.integers(0, 4)), int(rng.integers(4, 300))
    n_out = int(rng.choice([1, 2, 3, 10, 40])) + (output == "softmax")
    sizes = [int(rng.integers(1, 100)), *map(int, rng.integers(1, 200, depth)), n_out]
    network = fastmlp.Network(
        sizes, [str(name) for name in rng.choice(HIDDEN, depth)], output, loss,
        dropout=float(rng.choice([0, 0.3])), l1=float(rng.choice([0, 0.01])), l2=float(rng.choice([0, 0.01])),
        convention=str(rng.choice(["torch", "sklearn"])),
    )
    optimizer = [
        fastmlp.SGD(0.01), fastmlp.SGD(0.01, 0.9), fastmlp.SGD(0.01, 0.9, True), fastmlp.RMSprop(0.001),
        fastmlp.Adam(clip_norm=1.0), fastmlp.AdamW(fastmlp.Cosine(0.001, length=3)), fastmlp.SparseAdam(),
    ][rng.integers(7)]
    X = rng.random((rows, sizes[0])).astype(str(rng.choice(sys.argv[3].split(","))))
    y = np.full((rows, n_out), 1 / n_out)
    given = scipy.sparse.csr_array(X * (X > rng.random())) if rng.random() < 0.3 else X
    model = fastmlp.fit(
        network, given, y, optimizer=optimizer, epochs=2, batch_size=int(rng.integers(1, rows + 1)),
        validation=0.25 if rng.random() < 0.5 else None, threads=int(rng.integers(1, 3)), seed=0,
        sample_weight=rng.random(rows) if rng.random() < 0.3 else None, progress=False,
        accumulate=int(rng.choice([1, 1, 3])),
    )
    assert engine.compiled == [], (network, model, engine.compiled)
    model.predict(given)
    assert engine.compiled == [], (network, "predict", engine.compiled)
    model.predict(X[:1])
X = rng.random((60, 5))
for estimator in (fastmlp.MLPClassifier(solver="lbfgs", max_iter=2), fastmlp.MLPRegressor(max_iter=2)):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, X[:, 0] > 0.5).predict(X)
assert engine.compiled == [], engine.compiled
assert "numba" not in sys.modules
"""


run = functools.partial(python, "-W", "error")


LOADED = "was there already, loaded"


def states(output):
    """What a warmup says of every program: {(backend, dtype, use): how it came about}."""
    lines = [re.fullmatch(r"(\w+) +(\w+) +(\w+) +(.*) in \d+\.\d s", line) for line in output.splitlines()]
    return {line.groups()[:3]: line[4] for line in lines}


@contextmanager
def warming(folder):
    """Yield the environment that names a cache, for `fastmlp warmup` to fill.

    It begins with what other tests have had compiled, but for programs of trainings, names and marks. What
    the warmup has not loaded is removed in the end: that is left which an empty cache would hold.
    """
    place = folder / "fastmlp"
    place.mkdir(mode=0o700)
    for file in store.directory().path.glob("*.bin"):
        if not file.name.startswith("train_chunk"):
            os.utime(shutil.copy(file, place), (0, 0))
    yield {"FASTMLP_CACHE_DIR": str(folder)}
    for file in place.glob("*.bin"):
        if file.stat().st_mtime == 0:
            file.unlink()


@pytest.fixture(scope="module")
def warm(tmp_path_factory, request):
    """A cache that `fastmlp warmup` has filled for some dtypes; the dtypes; what it said."""
    with warming(tmp_path_factory.mktemp("warm")) as cache:
        said = run("-m", "fastmlp", "warmup", "--dtype", request.param, **cache).stdout
    return cache, request.param, states(said)


ONE, BOTH = "float64", "float32,float64"
"""Dtypes for `warm`, which compiles for half a minute or for a whole one where no other test has."""


@pytest.mark.parametrize(
    "warm", [pytest.param(ONE, marks=pytest.mark.slow), pytest.param(BOTH, marks=campaign)], indirect=True
)
def test_it_compiles_all_that_auto_may_need_and_a_second_one_says_so(warm):
    cache, dtypes, first = warm
    every = dtypes.split(",")
    assert {*first} == {tuple(task[:3]) for task in ahead.tasks(ahead.choices_of_auto(), every)}
    assert all(re.fullmatch(r"\d+ compiled", first["fused", dtype, "training"]) for dtype in every)
    again = run("-m", "fastmlp", "warmup", "--dtype", dtypes, **cache).stdout
    assert states(again) == dict.fromkeys(first, LOADED)
    taken = run("-c", FITS, "auto", *every, **cache).stdout.split()
    assert set(taken) == {"fused"}, "a program of a single network is not compiled ahead"


@pytest.mark.parametrize(
    ("warm", "seed"),
    [
        *(pytest.param(ONE, seed, marks=pytest.mark.slow) for seed in range(4)),
        *(pytest.param(BOTH, seed, marks=campaign) for seed in range(10)),
    ],
    indirect=["warm"],
)
def test_after_it_no_network_compiles_anything(warm, seed):
    """Every other time a process beside could compile: it is asked for what would pay, and nobody waits."""
    cache, dtypes, _ = warm
    run("-W", "default", "-c", RANDOM, str(seed), "30", dtypes, **cache)


@pytest.mark.slow  # compiles what of one backend no other test has
@needs.posix("terminals")
def test_a_later_process_compiles_nothing(tmp_path):
    """The first one's own processes compile, and quiet holds for them, too."""
    command = ["-m", "fastmlp", "warmup", "--backend", "baseline", "--dtype", "float32"]
    with warming(tmp_path) as cache:
        code, output, seen = on_terminal(sys.executable, "-W", "error", *command, "--quiet", **cache)
    assert (code, seen) == (0, "")
    first = states(output)
    assert {*first} == {("baseline", "float32", use) for use in ahead.USES}
    assert re.fullmatch(r"\d+ compiled", first["baseline", "float32", "training"])
    assert {*states(run(*command, **cache).stdout).values()} == {LOADED}
    assert run("-c", FITS, "baseline", "float32", **cache).stderr == ""


def test_a_program_for_each_network_is_not_compiled_ahead():
    names = [name for name in registry.backends()[1:] if registry.choice_of(name).specialize is not None]
    assert [(task.backend, task.use) for task in ahead.tasks(names, ["float32"])] == [
        (name, use) for use in ("gradient", "prediction", "validation") for name in names
    ]


@pytest.mark.slow  # compiles a program, 4 s
@pytest.mark.usefixtures("empty_cache")
def test_the_program_of_a_network_is_compiled_where_it_has_one():
    backends = ahead.choices_of_auto()
    network = fastmlp.Network([7, 5, 2], "tanh", "softmax", "cross_entropy")
    (task,) = ahead.tasks_of_network(backends, ["float32"], network, fastmlp.Adam(), 16)
    assert task.backend == "specialized"
    assert ahead.tasks_of_network(backends, ["float32"], fastmlp.Network([900, 2]), fastmlp.Adam(), 16) == []
    before = [*engine.compiled]
    assert ahead.made_ready(task)[1] > 0
    assert any(name.startswith("train_chunk@7-5-2.") for name in engine.compiled[len(before) :])
    X = np.ones((64, 7), np.float32)
    before = [*engine.compiled]
    fastmlp.fit(network, X, np.zeros(64), epochs=1, batch_size=16, backend="specialized", progress=False)
    assert engine.compiled == before


MISTAKES = {
    "64x10": "network must be sizes like 64-128-10, got '64x10'",
    "64-10 --loss mes": "unknown loss 'mes'; choose from: ",
    "64-10 --optimizer adm": "unknown optimizer 'adm'; choose from: ",
    "64-5-10 --activation rleu": "unknown hidden activation 'rleu'",
    "64-10 --output exp --loss cross_entropy": "output 'exp' does not go with loss 'cross_entropy'",
    "64-10 --batch 0": "batch must be at least 1, got 0",
    "64-10 --backend fused,tiled": "needs a backend that has programs of single networks, got fused, tiled; "
    "choose from: auto, sp",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_a_mistake_about_the_network_is_one_line(capsys, options):
    from fastmlp.cli.main import main

    with pytest.raises(SystemExit) as left:
        main(["warmup", "--network", *options.split()])
    assert left.value.code == 2
    assert MISTAKES[options] in capsys.readouterr().err


def test_products_of_bfloat16_numbers_are_compiled_where_the_processor_has_them(capsys):
    """By one name for all that may be asked for; where there are none, one line says why."""
    from fastmlp.cli.main import main

    if POSSIBLE:
        tasks = ahead.tasks(["auto"], ["bfloat16"])
        assert {(task.backend, task.dtype) for task in tasks} == {(POSSIBLE[0], "bfloat16")}
        assert {task.use for task in tasks} == {*ahead.USES}
        return
    with pytest.raises(SystemExit) as left:
        main(["warmup", "--dtype", "float32,bfloat16"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastmlp: error: dtype 'bfloat16' needs other instructions")


@pytest.mark.slow  # compiles what of one backend no other test has
@pytest.mark.skipif(not POSSIBLE, reason="this processor multiplies no bfloat16 numbers")
def test_a_later_process_compiles_no_products_of_bfloat16_numbers(tmp_path):
    with warming(tmp_path) as cache:
        run("-m", "fastmlp", "warmup", "--dtype", "bfloat16", **cache)
    run("-c", FITS, "auto", "bfloat16", **cache)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("fussed", "float32"), "unknown compiled backend 'fussed'; choose from: auto, baseline"),
        (("reference", "float64"), "unknown compiled backend 'reference'"),
        (("fused", "bfloat16"), "unknown compiled backend for bfloat16 'fused'; choose from: auto, bfloat16"),
    ],
)
def test_what_cannot_be_compiled_ahead_is_refused(names, says):
    with pytest.raises(ValueError, match=says):
        ahead.pairs(*([one] for one in names))


def test_a_network_without_a_program_of_its_own_is_named(capsys):
    from fastmlp.cli.main import argument_parser, tasks_of_network

    arguments = argument_parser().parse_args(["warmup", "--network", "64-900-10"])
    assert tasks_of_network(arguments, ["specialized"], ["float32"]) == []
    assert capsys.readouterr().err == (
        "fastmlp: 64-900-10 has no program of its own; those for all networks serve it\n"
    )
