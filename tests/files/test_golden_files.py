"""Files that an earlier version wrote are read and gone on from, in the middle of an epoch and at its end.

`python tests/files/test_golden_files.py` wrote them when norms, Swish and PReLU were written by hand. Their
code is derived from formulas since then, so what follows from a file agrees within a tolerance, not bit for
bit.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from support.selection import matrix

import fastmlp
from fastmlp import (
    Activate,
    AdamW,
    BatchNorm,
    Callback,
    Checkpoint,
    Dense,
    Dropout,
    GridSearchCV,
    Layer,
    LayerNorm,
    Members,
    MLPRegressor,
    Network,
    PReLU,
    Residual,
    RMSNorm,
    Scale,
    Stepper,
    Swish,
)
from fastmlp.many import trainings as checkpointing
from fastmlp.training import loop

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = GOLDEN / "layers.json"

PIXELS = load_digits().data[:48, 18:28]
X, Y = PIXELS / 16, (PIXELS[:, :1] + PIXELS[:, 3:4] * PIXELS[:, 5:6] / 8) / 16
"""Binary fractions, exact on every machine: a training that goes on compares its rows with the file's."""

EPOCHS, STEPS = 4, 3  # an epoch has 3 batches of 16 rows
STOPS = {"mid": STEPS + 2, "end": 2 * STEPS}
RTOL = {"float64": 1e-9, "float32": 1e-3}
"""Twelve steps, of which each multiplies the rounding of sums over a row by less than ten."""


def root(x, slope, floor):
    """A layer of a user's own, of numbers for each unit and for the layer."""
    return np.where(x > 0, x / (1 + x), slope * x) + floor


ROOT = Layer("root", root, {"slope": ("units", 0.5), "floor": ("layer", 0.1)})

LAYERS = {
    "norms": [
        *(Dense(8), LayerNorm(), "tanh", Residual(RMSNorm(), Dense(6, "silu"), Dense(8), name="block")),
        *(BatchNorm(), Dense(1)),
    ],
    "gains": [
        *(Dense(8), PReLU(), Dense(8), Swish(name="soft"), Scale(), Dropout(0.1), Activate(ROOT), Dense(1)),
    ],
    "members": [Members(3), Dense(6, "relu"), LayerNorm(), Dense(6), Swish(), Dense(1)],
}
NETWORKS = {name: Network(inputs=10, layers=layers) for name, layers in LAYERS.items()}
RULE = AdamW(0.01, epsilon=1e-3)
"""The gradient of a bias before a norm is rounding alone; a smaller epsilon would make a step of it."""

OPTIONS = {"optimizer": RULE, "epochs": EPOCHS, "batch_size": 16, "seed": 7, "backend": "fused"}


class Stop(Callback):
    """Ends a training after so many steps; or fails then, of one model of several."""

    def __init__(self, step, model=None):
        self.step, self.model = step, model

    def on_chunk_end(self, run):
        if run.step == self.step and self.model is None:
            run.stop("golden")
        elif run.step == self.step and self.model == run.model_index:
            raise ZeroDivisionError


def fit(name, dtype, **options):
    return fastmlp.fit(NETWORKS[name], X, Y, dtype=dtype, **OPTIONS, **options)


def fit_many(dtype, **options):
    networks = [NETWORKS[name] for name in ("norms", "gains", "norms")]
    return fastmlp.fit_many(networks, X, Y, dtype=dtype, threads=1, **OPTIONS, **options)


def stepped(name, dtype, steps, path=None):
    """A stepper after so many steps on batches of 16 rows in turn; path : of a file that it goes on from."""
    held = Stepper(NETWORKS[name], RULE, seed=3, dtype=dtype, backend="fused")
    if path is not None:
        held.load(path)
    for step in range(held.steps, steps):
        rows = slice(step % STEPS * 16, step % STEPS * 16 + 16)
        held.step(X[rows].astype(dtype), Y[rows].astype(dtype))
    return held


def regressor(**options):
    return MLPRegressor(
        layers=LAYERS["norms"][:-1],
        max_iter=EPOCHS,
        batch_size=16,
        random_state=2,
        backend="fused",
        **options,
    )


def scores():
    """The mean scores of a search, whose candidates train together."""
    search = GridSearchCV(regressor(), {"learning_rate_init": [0.001, 0.01]}, cv=3, error_score="raise")
    return search.fit(X, Y[:, 0]).cv_results_["mean_test_score"]


@pytest.fixture
def _short_chunks(chunks):
    chunks(steps=1)


def predictions(model):
    return [float(y) for y in np.ravel(model.predict(X[::6]))]


def agree(model, key, dtype):
    expected = json.loads(EXPECTED.read_text())
    assert np.ravel(model.predict(X[::6])) == pytest.approx(expected[key], rel=RTOL[dtype], abs=RTOL[dtype])


CASES = [(name, dtype) for name in NETWORKS for dtype in ("float64", "float32")]


@pytest.mark.parametrize(
    ("name", "dtype", "stop"),
    [
        pytest.param(*case, stop, marks=matrix if (number + turn) % 2 else ())
        for number, case in enumerate(CASES)
        for turn, stop in enumerate(STOPS)
    ],
)
def test_a_training_goes_on_from_an_earlier_version(name, dtype, stop):
    path = GOLDEN / f"fit-{name}-{dtype}-{stop}.npz"
    agree(fit(name, dtype, resume=path), f"fit {name} {dtype}", dtype)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_an_earlier_versions_model_predicts_as_it_did(name, dtype, stop):
    model = fastmlp.load(GOLDEN / f"fit-{name}-{dtype}-{stop}.npz", components=[ROOT])
    agree(model, f"fit {name} {dtype} {stop}", dtype)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_stepper_goes_on_from_an_earlier_version(name, dtype, stop):
    path = GOLDEN / f"stepper-{name}-{dtype}-{stop}.npz"
    agree(stepped(name, dtype, EPOCHS * STEPS, path).model(), f"stepper {name} {dtype}", dtype)


@pytest.mark.parametrize("stop", STOPS)
def test_a_call_of_many_models_goes_on_from_an_earlier_version(stop):
    for index, model in enumerate(fit_many("float64", resume=GOLDEN / f"many-{stop}.npz")):
        agree(model, f"many {index}", "float64")


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
def test_an_estimator_of_an_earlier_version_goes_on(stop):
    estimator = pickle.loads((GOLDEN / f"estimator-{stop}.pickle").read_bytes())
    agree(estimator.partial_fit(X, Y[:, 0]), f"estimator {stop}", "float64")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_and_searches_end_where_an_earlier_version_did():
    agree(regressor().fit(X, Y[:, 0]), "estimator", "float64")
    assert scores() == pytest.approx(json.loads(EXPECTED.read_text())["search"], rel=RTOL["float64"])


ORDERS = {
    "array": {"epochs": 350, "X": X, "y": Y},  # more rows than the first generator of orders has
    "blocks": {
        "epochs": 4,
        "X": [(X[i : i + 20], Y[i : i + 20]) for i in (0, 20, 40)],
        "y": None,
        "window": 20,
    },
    "plateau": {"epochs": 4, "X": X, "y": Y, "plateau": True},  # whose callback had the rate's factor
}
"""Trainings that stop in the middle of their last epoch, whose order is no longer drawn as it was then."""


def ordered(kind, callbacks=(), **options):
    given = OPTIONS | {"dtype": "float64"} | ORDERS[kind] | options
    plateau = (
        [fastmlp.ReduceLROnPlateau(factor=0.5, patience=0, threshold=0.9)]
        if given.pop("plateau", False)
        else []
    )
    given["callbacks"] = [*plateau, *callbacks]
    return fastmlp.fit(NETWORKS["norms"], given.pop("X"), given.pop("y"), **given)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.usefixtures("_short_chunks")
def test_an_epoch_that_an_earlier_version_began_ends_in_its_order(kind, again, tmp_path):
    path = GOLDEN / f"order-{kind}.npz"
    if again:  # stopped once more, in the same epoch
        step = ORDERS[kind]["epochs"] * STEPS - 1
        ordered(kind, resume=path, callbacks=[Stop(step), Checkpoint(path := tmp_path / "again", 99)])
    agree(ordered(kind, resume=path), f"order {kind}", "float64")


PICKLED = [("array", "mid"), ("array", "end"), ("blocks", "mid")]
"""Models whose next epoch has the order of then: the one under way, or one of the first generator's."""


@pytest.mark.parametrize(("kind", "stop"), PICKLED)
def test_a_pickled_model_of_an_earlier_version_goes_on(kind, stop):
    models = pickle.loads((GOLDEN / "models.pickle").read_bytes())
    more = models[kind, stop].fit_more(ORDERS[kind]["X"], ORDERS[kind]["y"], epochs=1)
    agree(more, f"pickled {kind} {stop}", "float64")


def test_a_stepper_goes_on_from_format_2():
    path = GOLDEN / "stepper-2.npz"
    agree(stepped("gains", "float64", EPOCHS * STEPS, path).model(), "stepper gains float64", "float64")


MOVED = {"likelihoods": "Gaussian", "own_layers": "Layer", "own_losses": "Loss", "own_rules": "Rule"}


@pytest.mark.parametrize("module", MOVED)
def test_pickles_find_what_has_moved_to_another_module(module):
    text = f"cfastmlp.model.{module}\n{MOVED[module]}\n."
    assert pickle.loads(text.encode()) is getattr(fastmlp, MOVED[module])


def test_pickled_models_of_format_2_go_on():
    for kind, model in pickle.loads((GOLDEN / "models-2.pickle").read_bytes()).items():
        assert len(model.history["loss"]) == EPOCHS + 2 * (kind == "otherwise")
        agree(model.fit_more(X, Y, epochs=2), f"pickled 2 {kind}", "float64")


@pytest.mark.parametrize(
    ("former", "callback"),
    [
        ("fastmlp.training.callbacks", fastmlp.Progress()),
        ("fastmlp.training.callbacks", fastmlp.EarlyStopping(3)),
        ("fastmlp.training.callbacks", Callback()),
        ("fastmlp.training.pruning", fastmlp.MedianStopping(2)),
    ],
)
def test_a_pickle_finds_a_callback_by_the_name_of_its_former_module(former, callback):
    home = type(callback).__module__
    text = pickle.dumps(callback, 0).replace(f"{home}\n".encode(), f"{former}\n".encode())
    assert former.encode() in text
    found = pickle.loads(text)
    assert type(found) is type(callback)
    assert vars(found) == vars(callback)


def test_no_other_module_is_found_in_the_room_of_former_ones():
    with pytest.raises(ModuleNotFoundError, match=r"fastmlp\.training\.metrics"):
        importlib.import_module("fastmlp.training.metrics")


def write_golden_of_format_2():
    """Write a stepper, and models that go on, as the last version of format 2 did."""
    stepped("gains", "float64", STEPS + 2).save(GOLDEN / "stepper-2.npz")
    otherwise = fit("norms", "float64").fit_more(X, Y, epochs=2, batch_size=12)
    models = {"otherwise": otherwise, "many": fit_many("float64")[1]}
    (GOLDEN / "models-2.pickle").write_bytes(pickle.dumps(models))
    expected = json.loads(EXPECTED.read_text())
    for kind, model in models.items():
        expected[f"pickled 2 {kind}"] = predictions(model.fit_more(X, Y, epochs=2))
    EXPECTED.write_text(json.dumps(expected, indent=0))


def write_golden_models():
    """Write models that go on, as the last version before format 2 pickled them."""
    loop.MAX_CHUNK_STEPS = 1
    expected, models = json.loads(EXPECTED.read_text()), {}
    for kind, stop in PICKLED:
        models[kind, stop] = model = ordered(kind, epochs=4, callbacks=[Stop(STOPS[stop])])
        more = model.fit_more(ORDERS[kind]["X"], ORDERS[kind]["y"], epochs=1)
        expected[f"pickled {kind} {stop}"] = predictions(more)
    (GOLDEN / "models.pickle").write_bytes(pickle.dumps(models))
    EXPECTED.write_text(json.dumps(expected, indent=0))


def write_golden_orders():
    """Write the files of orders, as the last version before format 2 did."""
    loop.MAX_CHUNK_STEPS = 1
    expected = json.loads(EXPECTED.read_text())
    for kind, given in ORDERS.items():
        expected[f"order {kind}"] = predictions(ordered(kind))
        path = GOLDEN / f"order-{kind}.npz"
        ordered(kind, callbacks=[Stop(given["epochs"] * STEPS - 2), Checkpoint(path, 999)])
    EXPECTED.write_text(json.dumps(expected, indent=0))


def write_golden():
    """Write all files, and what follows from them."""
    loop.MAX_CHUNK_STEPS, checkpointing.KEEP_SECONDS = 1, 0
    expected = {}
    for name, dtype in CASES:
        expected[f"fit {name} {dtype}"] = predictions(fit(name, dtype))
        expected[f"stepper {name} {dtype}"] = predictions(stepped(name, dtype, EPOCHS * STEPS).model())
        for stop, step in STOPS.items():
            path = GOLDEN / f"fit-{name}-{dtype}-{stop}.npz"
            fit(name, dtype, callbacks=[Stop(step), Checkpoint(path, 99)])
            expected[f"fit {name} {dtype} {stop}"] = predictions(fastmlp.load(path, components=[ROOT]))
            stepped(name, dtype, step).save(GOLDEN / f"stepper-{name}-{dtype}-{stop}.npz")
    for index, model in enumerate(fit_many("float64")):
        expected[f"many {index}"] = predictions(model)
    for stop, step in STOPS.items():
        with contextlib.suppress(ZeroDivisionError):
            fit_many("float64", callbacks=[Stop(step, 1), Checkpoint(GOLDEN / f"many-{stop}.npz")])
        stopped = regressor(callbacks=[Stop(step)]).fit(X, Y[:, 0]).set_params(callbacks=())
        (GOLDEN / f"estimator-{stop}.pickle").write_bytes(pickle.dumps(stopped))
        expected[f"estimator {stop}"] = predictions(stopped.partial_fit(X, Y[:, 0]))
    expected["estimator"] = predictions(regressor().fit(X, Y[:, 0]))
    expected["search"] = scores().tolist()
    EXPECTED.write_text(json.dumps(expected, indent=0))


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)
    write_golden()
