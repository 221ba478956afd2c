"""Short trainings, busy machines and bfloat16: what surrounds the steps, and what disturbs them."""

import contextlib
import itertools
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_diabetes, load_digits, make_classification
from threadpoolctl import threadpool_limits

import fastmlp
from fastmlp.kernels.mixed.tiles import WHY_NOT
from fastmlp.lab.timing import CLOCKS, StepsTimer
from fastmlp.model.layout import parameter_count
from fastmlp.system.budget import usable_cores

from .calls import Seconds, Timed, row

LONG = 1000  # times as many steps, of which steps alone are a share

ONE = {"progress": False, "threads": 1}


def surroundings(*given, rounds=10):
    """Register a row in processor time."""
    return row(*given, clock="cpu", rounds=rounds)


@surroundings("fits", "fit, 100 steps of 3-4-1")
def fit(options):
    X, y = np.array([[0.0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]]), np.array([0.0, 1, 1, 0])
    network = fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse")
    given = {"optimizer": fastmlp.SGD(1.2, bias_learning_rate=0.3), "batch_size": None, "seed": 0, **ONE}
    train = partial(fastmlp.fit, network, X, y, **given)
    # "auto" finds programs from now on, as where such trainings have taken what these take to compile.
    train(epochs=1, backend="specialized")
    steps = Timed(partial(train, epochs=100 * LONG), per=LONG)
    return {"fit": Timed(partial(train, epochs=100), times=200), "its steps": steps}


@surroundings("fits", "MLPRegressor, 200 epochs of 5-16-1, 100 rows")
def regressor(options):
    X = np.random.default_rng(0).random((100, 5))
    y = np.sin(X.sum(axis=1))  # learnt slowly enough for 200 epochs
    given = {"hidden_layer_sizes": (16,), "max_iter": 200, "random_state": 0}
    made = {
        "fastmlp": fastmlp.MLPRegressor(**given, backend="fused"),
        "scikit-learn, by OMP_NUM_THREADS=1": sklearn.neural_network.MLPRegressor(**given),
    }
    return {name: Timed(partial(one.fit, X, y), times=3) for name, one in made.items()}


@surroundings("fits", "fit_more, a step of 17-64-64-6, batch 64")
def fit_more(options):
    rng = np.random.default_rng(0)
    X, y = rng.random((64, 17), np.float32), rng.random((64, 6), np.float32)
    train = partial(fastmlp.fit, fastmlp.Network([17, 64, 64, 6]), X, y, batch_size=64, **ONE)
    train(epochs=1, backend="specialized")
    held = [train(epochs=1)]

    def go_on():
        held[0] = held[0].fit_more(X, y, epochs=1, **ONE)

    return {"fit_more": Timed(go_on, times=100), "its step": Timed(partial(train, epochs=LONG), per=LONG)}


for _count in (1, 8, 32, 256):

    @surroundings("fits", f"partial_fit, {_count} rows of 64-100-10", _count)
    def partial_fit(options, count):
        X, y = np.random.default_rng(0).random((count, 64)), np.arange(count) % 10
        ours, theirs = (
            package.MLPClassifier((100,), random_state=0).partial_fit(X, y, classes=np.arange(10))
            for package in (fastmlp, sklearn.neural_network)
        )
        calls = {"fastmlp": ours.partial_fit, "scikit-learn": theirs.partial_fit}
        return {name: Timed(partial(call, X, y), times=30) for name, call in calls.items()}


# --- steps by hand, estimators --------------------------------------------------------------------------


@surroundings("stepper", "a step of 17-64-64-6, 64 rows, Adam, float32", rounds=30)
def stepper(options, steps=100):
    """Return a policy's step as reinforcement learning takes it, and the same by `fit`."""
    rng, sizes = np.random.default_rng(0), (17, 64, 64, 6)
    X, y = rng.normal(size=(64 * steps, 17)).astype("f"), rng.normal(size=(64 * steps, 6)).astype("f")
    few, network = (X[:64], y[:64]), fastmlp.Network(sizes)
    one, parts = (fastmlp.Stepper(network, fastmlp.Adam(), seed=0) for _ in range(2))
    out, delta = np.empty_like(few[1]), few[1] / np.float32(64)

    def by_parts():
        parts.forward(few[0], out)
        parts.backward(delta, inputs=False)
        parts.update()

    fit = partial(fastmlp.fit, network, X, y, optimizer=fastmlp.Adam(), batch_size=64, seed=0, **ONE)
    return {
        "Stepper.step": Timed(partial(one.step, *few), times=steps),
        "within fit": Timed(partial(fit, epochs=1), per=steps),
        "forward, backward, update": Timed(by_parts, times=steps),
        "forward of one row": Timed(partial(one.forward, X[:1]), times=steps),
    }


ESTIMATORS = {
    "MLPClassifier, digits": ("MLPClassifier", {}),
    "MLPClassifier, binary 20000x50": ("MLPClassifier", {"max_iter": 10}),
    "MLPRegressor, diabetes": ("MLPRegressor", {"max_iter": 100, "learning_rate_init": 0.01}),
    "MLPRegressor, digits as numbers": ("MLPRegressor", {"max_iter": 50}),
}

for (_name, (_kind, _options)), _rows in itertools.product(ESTIMATORS.items(), (0, 1, 1000)):
    _what = f"predict rows: {_rows}" if _rows else "fit"

    @surroundings("estimators", f"{_name}, {_what}", _name, _kind, _options, _rows, rounds=3)
    def estimator(options, name, kind, given, rows):
        """Return calls of fastmlp and scikit-learn on a thread, once both end at the same loss."""
        if "binary" in name:
            X, y = make_classification(20_000, 50, n_informative=20, random_state=0)
        else:
            X, y = (load_diabetes if "diabetes" in name else load_digits)(return_X_y=True)
        y = y.astype(float) if kind == "MLPRegressor" else y
        ours = getattr(fastmlp, kind)(random_state=0, threads=1, **given)
        theirs = getattr(sklearn.neural_network, kind)(random_state=0, **given)
        threadpool_limits(1)
        ours.fit(X, y), theirs.fit(X, y)
        assert ours.n_iter_ == theirs.n_iter_
        np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-6)
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
        both = {"fastmlp": ours, "scikit-learn": theirs}
        if not rows:
            return {who: partial(one.fit, X, y) for who, one in both.items()}
        return {who: Timed(partial(one.predict, X[:rows]), times=20) for who, one in both.items()}


# --- a busy machine -----------------------------------------------------------------------------------


def train(threads, epochs):
    """Return the seconds of the steps of a training, and the threads of the last steps."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20_000, 64), np.float32), rng.standard_normal(20_000, np.float32)
    watch = StepsTimer()
    model = fastmlp.fit(
        fastmlp.Network([64, 128, 128, 1], "relu"), X, y, epochs=epochs, batch_size=256, seed=0,
        threads=threads, backend="fused", callbacks=[watch], progress=False,
    )  # fmt: skip
    return watch.seconds, model.threads


@contextlib.contextmanager
def neighbours(count):
    """Have so many processes keep a core busy each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def on_each(trainings):
    """Return a row's calls: trainings(threads) on one thread and on all cores.

    The aim: whatever else runs, all cores take at most 1.1 times as long as one thread.
    """
    cores, used = usable_cores(), set()

    def longest(threads):
        found = trainings(threads)
        used.update(taken for _, taken in found if threads == cores)
        return Seconds(max(seconds for seconds, _ in found))

    said = lambda: f"on {', '.join(map(str, sorted(used)))} at the end"  # noqa: E731
    train(cores, 1)  # it loads machine code
    return {"one thread": partial(longest, 1), f"{cores} threads": Timed(partial(longest, cores), said=said)}


EPOCHS = 45
"""Of each training, 45 ms each on one Zen 3 core."""

for _count in (0, 2, 4):

    @row("busy", f"64-128-128-1 b256 beside {_count} busy neighbours", _count)
    def beside(options, count):
        def trainings(threads):
            with neighbours(count):
                return [train(threads, EPOCHS)]

        return on_each(trainings)


POOLS = {
    "threads": ThreadPoolExecutor,
    "processes": lambda count: ProcessPoolExecutor(count, multiprocessing.get_context("spawn")),
}

for _count, _kind in itertools.product((2, 4), POOLS):

    @row("busy", f"64-128-128-1 b256, {_count} trainings at once, {_kind}", _count, _kind)
    def at_once(options, count, kind):
        pool = POOLS[kind](count)

        def trainings(threads, epochs=EPOCHS):
            return [*pool.map(train, [threads] * count, [epochs] * count)]

        trainings(1, 20)  # all begin, and load machine code
        return on_each(trainings)


# --- products of bfloat16 numbers ---------------------------------------------------------------------

for _sizes, _rows, _optimizer in (
    ((64, 128, 10), 32, fastmlp.Adam()),
    ((784, 128, 10), 128, fastmlp.SGD(0.1)),
    ((784, 128, 10), 128, fastmlp.Adam()),
    ((28, 256, 256, 2), 256, fastmlp.Adam()),
    ((784, 1024, 1024, 10), 256, fastmlp.Adam()),
    ((1024, 2048, 2048, 10), 1024, fastmlp.SGD(0.1)),
    ((1024, 2048, 2048, 10), 1024, fastmlp.Adam()),
):

    @row(
        "bfloat16", f"{'-'.join(map(str, _sizes))}, {_rows} rows, {type(_optimizer).__name__}", _sizes, _rows,
        _optimizer, rounds=7,
    )  # fmt: skip
    def mixed(options, sizes, rows, optimizer):
        """Return steps in float32, and in bfloat16 by each instruction that the processor has."""
        rng, network = np.random.default_rng(0), fastmlp.Network(sizes, "relu", "softmax", "cross_entropy")
        X, y = rng.random((4 * rows, sizes[0]), np.float32), rng.integers(0, sizes[-1], 4 * rows)
        epochs = max(1, int(1e8 / rows / parameter_count(network)))
        given = {"optimizer": optimizer, "epochs": epochs, "batch_size": rows, "seed": 0, **ONE}

        def steps(backend, dtype):
            timer = StepsTimer(CLOCKS["cpu"])
            fastmlp.fit(network, X, y, backend=backend, dtype=dtype, callbacks=[timer], **given)
            return Seconds(timer.seconds / epochs / 4)

        names = {name: "bfloat16" for name, why_not in WHY_NOT.items() if why_not() is None}
        return {name: partial(steps, name, dtype) for name, dtype in ({"fused": "float32"} | names).items()}
