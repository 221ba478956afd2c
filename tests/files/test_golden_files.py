"""Files that an earlier version wrote are read and gone on from, in the middle of an epoch and at its end.

Norms, Swish and PReLU were written by hand then. Their code is derived from formulas since then, so what
follows from a file agrees within a tolerance, not bit for bit. The commits that added the files have the code
that wrote them.
"""

import importlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl
from sklearn.datasets import load_digits
from support.resuming import StopAt
from support.selection import matrix

import fastmlp
from fastmlp import AdamW, Dense, Layer, LayerNorm, Members, Network, PReLU, RMSNorm, Scale, Stepper, Swish

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
        *(
            Dense(8),
            LayerNorm(),
            "tanh",
            fastmlp.Residual(RMSNorm(), Dense(6, "silu"), Dense(8), name="block"),
        ),
        *(fastmlp.BatchNorm(), Dense(1)),
    ],
    "gains": [
        *(
            Dense(8), PReLU(), Dense(8), Swish(name="soft"), Scale(), fastmlp.Dropout(0.1),
            fastmlp.Activate(ROOT), Dense(1),
        ),
    ],
    "members": [Members(3), Dense(6, "relu"), LayerNorm(), Dense(6), Swish(), Dense(1)],
}  # fmt: skip
NETWORKS = {name: Network(inputs=10, layers=layers) for name, layers in LAYERS.items()}
RULE = AdamW(0.01, epsilon=1e-3)
"""The gradient of a bias before a norm is rounding alone; a smaller epsilon would make a step of it."""

OPTIONS = {"optimizer": RULE, "epochs": EPOCHS, "batch_size": 16, "seed": 7}


def stepped(name, dtype, path, backend):
    """The model of a stepper that has gone on from a file, to EPOCHS of batches of 16 rows in turn."""
    held = Stepper(NETWORKS[name], RULE, seed=3, dtype=dtype, backend=backend)
    held.load(path)
    for step in range(held.steps, EPOCHS * STEPS):
        rows = slice(step % STEPS * 16, step % STEPS * 16 + 16)
        held.step(X[rows].astype(dtype), Y[rows].astype(dtype))
    return held.model()


def agree(model, key, dtype):
    expected = json.loads(EXPECTED.read_text())
    assert np.ravel(model.predict(X[::6])) == pytest.approx(expected[key], rel=RTOL[dtype], abs=RTOL[dtype])


CASES = [(name, dtype) for name in NETWORKS for dtype in ("float64", "float32")]
every_case = pytest.mark.parametrize(("name", "dtype"), CASES)
every_stop = pytest.mark.parametrize("stop", STOPS)
every_backend = pytest.mark.parametrize("backend", ["reference", pytest.param("fused", marks=matrix)])
"""`fused`, which wrote the files, compiles for each case: half a minute."""


@pytest.fixture(autouse=True)
def _as_many_threads_as_then():
    """The trainings of the files had a BLAS of two threads, without which the reference does not go on."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        yield


@every_backend
@every_stop
@every_case
def test_a_training_goes_on_from_an_earlier_version(name, dtype, stop, backend):
    path = GOLDEN / f"fit-{name}-{dtype}-{stop}.npz"
    model = fastmlp.fit(NETWORKS[name], X, Y, dtype=dtype, resume=path, backend=backend, **OPTIONS)
    agree(model, f"fit {name} {dtype}", dtype)


@every_backend
@every_stop
@every_case
def test_an_earlier_versions_model_predicts_as_it_did(name, dtype, stop, backend):
    model = fastmlp.load(GOLDEN / f"fit-{name}-{dtype}-{stop}.npz", components=[ROOT])
    assert (model.network, model.backend) == (NETWORKS[name], "fused")
    if backend == "reference":
        model = fastmlp.fit(model.network, X, Y, epochs=0, initial=model, dtype=dtype, backend=backend)
    agree(model, f"fit {name} {dtype} {stop}", dtype)


@every_backend
@every_stop
@every_case
def test_a_stepper_goes_on_from_an_earlier_version(name, dtype, stop, backend):
    path = GOLDEN / f"stepper-{name}-{dtype}-{stop}.npz"
    agree(stepped(name, dtype, path, backend), f"stepper {name} {dtype}", dtype)


@every_backend
@every_stop
def test_a_call_of_many_models_goes_on_from_an_earlier_version(stop, backend):
    networks = [NETWORKS[name] for name in ("norms", "gains", "norms")]
    given = {"dtype": "float64", "threads": 1, "resume": GOLDEN / f"many-{stop}.npz", "backend": backend}
    for index, model in enumerate(fastmlp.fit_many(networks, X, Y, **given, **OPTIONS)):
        agree(model, f"many {index}", "float64")


@every_backend
@every_stop
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
def test_an_estimator_of_an_earlier_version_goes_on(stop, backend):
    estimator = pickle.loads((GOLDEN / f"estimator-{stop}.pickle").read_bytes())
    assert estimator.backend == "fused"
    agree(estimator.set_params(backend=backend).partial_fit(X, Y[:, 0]), f"estimator {stop}", "float64")


@every_backend
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_and_searches_end_where_an_earlier_version_did(backend):
    options = {"max_iter": EPOCHS, "batch_size": 16, "random_state": 2, "backend": backend}
    regressor = fastmlp.MLPRegressor(layers=LAYERS["norms"][:-1], **options)
    search = fastmlp.GridSearchCV(regressor, {"learning_rate_init": [0.001, 0.01]}, cv=3, error_score="raise")
    scores = search.fit(X, Y[:, 0]).cv_results_["mean_test_score"]
    agree(regressor.fit(X, Y[:, 0]), "estimator", "float64")
    assert scores == pytest.approx(json.loads(EXPECTED.read_text())["search"], rel=RTOL["float64"])


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
    plateau = fastmlp.ReduceLROnPlateau(factor=0.5, patience=0, threshold=0.9)
    given["callbacks"] = [*[plateau] * given.pop("plateau", False), *callbacks]
    return fastmlp.fit(NETWORKS["norms"], given.pop("X"), given.pop("y"), **given)


@every_backend
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", ORDERS)
def test_an_epoch_that_an_earlier_version_began_ends_in_its_order(kind, again, backend, tmp_path, chunks):
    chunks(steps=1)
    path, options = GOLDEN / f"order-{kind}.npz", {"backend": backend}
    if again:  # stopped once more, in the same epoch
        step = ORDERS[kind]["epochs"] * STEPS - 1
        callbacks = [StopAt(step), fastmlp.Checkpoint(tmp_path / "again", 99)]
        ordered(kind, resume=path, callbacks=callbacks, **options)
        path = tmp_path / "again"
    agree(ordered(kind, resume=path, **options), f"order {kind}", "float64")


PICKLED = [("array", "mid"), ("array", "end"), ("blocks", "mid")]
"""Models whose next epoch has the order of then: the one under way, or one of the first generator's."""


def unpickled(name, backend):
    """Models of a file, which go on by a backend; `fused` trained them."""
    models = pickle.loads((GOLDEN / name).read_bytes())
    for model in models.values():
        assert model.training.backend == "fused"
        model.training = model.training._replace(backend=backend)
    return models


@every_backend
@pytest.mark.parametrize(("kind", "stop"), PICKLED)
def test_a_pickled_model_of_an_earlier_version_goes_on(kind, stop, backend):
    model = unpickled("models.pickle", backend)[kind, stop]
    more = model.fit_more(ORDERS[kind]["X"], ORDERS[kind]["y"], epochs=1)
    agree(more, f"pickled {kind} {stop}", "float64")


@every_backend
def test_a_stepper_goes_on_from_format_2(backend):
    path = GOLDEN / "stepper-2.npz"
    agree(stepped("gains", "float64", path, backend), "stepper gains float64", "float64")


MOVED = {"likelihoods": "Gaussian", "own_layers": "Layer", "own_losses": "Loss", "own_rules": "Rule"}


@pytest.mark.parametrize("module", MOVED)
def test_pickles_find_what_has_moved_to_another_module(module):
    text = f"cfastmlp.model.{module}\n{MOVED[module]}\n."
    assert pickle.loads(text.encode()) is getattr(fastmlp, MOVED[module])


@matrix
@every_backend
def test_pickled_models_of_format_2_go_on(backend):
    for kind, model in unpickled("models-2.pickle", backend).items():
        assert len(model.history["loss"]) == EPOCHS + 2 * (kind == "otherwise")
        agree(model.fit_more(X, Y, epochs=2), f"pickled 2 {kind}", "float64")


@pytest.mark.parametrize(
    ("former", "callback"),
    [
        ("fastmlp.training.callbacks", fastmlp.Progress()),
        ("fastmlp.training.callbacks", fastmlp.EarlyStopping(3)),
        ("fastmlp.training.callbacks", fastmlp.Callback()),
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
