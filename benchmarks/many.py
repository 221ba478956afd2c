"""Many models in one call: `fit_many`, searches and bags, each with all programs on the disk.

Both sides have as many threads as the process has cores; searches have two, or two jobs.
"""

import functools

import joblib
import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastmlp
from fastmlp.backend import lanes

from .calls import Timed, row

JOBS = 2


def notebook_in_jax(X, y, models, steps):
    """Return the training of the notebook's networks by JAX: vmap over models of a scan over steps."""
    import jax
    import jax.numpy as jnp

    def loss(parameters):
        hidden = jax.nn.relu(X @ parameters["W"] + parameters["b"])
        return ((jax.nn.sigmoid(hidden @ parameters["V"] + parameters["c"])[:, 0] - y) ** 2).mean()

    def one(key):
        first, second = jax.random.split(key)
        start = {
            "W": jax.random.normal(first, (3, 4)), "b": jnp.zeros(4),
            "V": jax.random.normal(second, (4, 1)), "c": jnp.zeros(1),
        }  # fmt: skip

        def step(p, _):
            return jax.tree.map(lambda a, g: a - 0.3 * g, p, jax.grad(loss)(p)), None

        return jax.lax.scan(step, start, length=steps)[0]

    train = jax.jit(jax.vmap(one))
    return lambda: jax.block_until_ready(train(jax.random.split(jax.random.key(0), models)))


def compiled(network, optimizer, X, y, batch_size):
    """Have both programs on the disk as after some such calls: of the network alone, and of many together."""
    lanes.program_of("specialized", network, optimizer, len(X), batch_size, np.dtype("f4")).compile()
    given = {"optimizer": optimizer, "epochs": 1, "batch_size": batch_size, "backend": "specialized"}
    fastmlp.fit(network, X, y, **given)


@row("many", "256 of 3-4-1, 4 rows, 1000 steps; us a step of a model", 256)
@row("many", "1 of 3-4-1, 4 rows, 1000 steps", 1)
def notebooks(options, count, steps=1000):
    X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    y = np.array([0, 1, 1, 0], np.float32)
    network, sgd = fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse"), fastmlp.SGD(0.3)
    given = {"optimizer": sgd, "epochs": steps, "batch_size": None}
    compiled(network, sgd, X, y, 4)
    calls = {
        "fit_many": lambda: fastmlp.fit_many(network, X, y, n_models=count, seed=0, **given),
        "loop over fit": lambda: [fastmlp.fit(network, X, y, seed=seed, **given) for seed in range(count)],
    }
    if count > 1:
        try:
            calls["JAX, vmap and scan"] = notebook_in_jax(X, y, count, steps)
        except ImportError:
            print("JAX is not installed")
    return {name: Timed(call, per=count * steps) for name, call in calls.items()}


REGRESSOR = fastmlp.Network([5, 16, 1])


@row("many", "1000 of 5-16-1, 200 own rows, 200 epochs; us a step of a model")
def own_rows(options, few=20):
    rng = np.random.default_rng(0)
    own = [rng.standard_normal((200, 5), np.float32) for _ in range(1000)]
    targets = [np.sin(x.sum(axis=1)) for x in own]
    given = {"epochs": 200, "batch_size": 200}
    theirs = {"hidden_layer_sizes": (16,), "max_iter": 200, "n_iter_no_change": 200, "batch_size": 200}
    compiled(REGRESSOR, fastmlp.Adam(), own[0], targets[0], 200)
    pairs = [*zip(own, targets, strict=True)]
    fit, estimator = functools.partial(fastmlp.fit, REGRESSOR, **given), sklearn.neural_network.MLPRegressor
    return {
        "fit_many": Timed(lambda: fastmlp.fit_many(REGRESSOR, own, targets, seed=0, **given), 200_000),
        "loop over fit": Timed(lambda: [fit(*pair, seed=i) for i, pair in enumerate(pairs)], 200_000),
        "loop over scikit-learn": Timed(
            lambda: [estimator(**theirs).fit(*pair) for pair in pairs[:few]], 200 * few
        ),
    }


@row("many", "100 of 64-50-10, digits, 10 epochs; us a step of a model", 100)
@row("many", "1 of 64-50-10, digits, 10 epochs", 1)
def digits(options, count):
    X, y = load_digits(return_X_y=True)
    X, given = (X / 16).astype(np.float32), {"epochs": 10}
    network = fastmlp.Network([64, 50, 10], output="softmax", loss="cross_entropy")
    compiled(network, fastmlp.Adam(), X, y, 32)
    calls = {
        "fit_many": lambda: fastmlp.fit_many(network, X, y, n_models=count, seed=0, **given),
        "loop over fit": lambda: [fastmlp.fit(network, X, y, seed=seed, **given) for seed in range(count)],
    }
    return {name: Timed(call, per=count * 10 * 57) for name, call in calls.items()}


@row("curve", "a model of many, 5-16-1, 200 rows, 20 epochs, by the number of models", rounds=3)
def curve(options):
    """Return calls of 1 to 10 000 models."""
    X = np.random.default_rng(0).standard_normal((200, 5), np.float32)
    compiled(REGRESSOR, fastmlp.Adam(), X, X[:, 0], 32)

    def train(count):
        return lambda: fastmlp.fit_many(REGRESSOR, X, X[:, 0], n_models=count, epochs=20, seed=0)

    return {str(count): Timed(train(count), per=count) for count in (1, 10, 100, 1000, 10_000)}


# --- searches -----------------------------------------------------------------------------------------

DECAYS = [*np.geomspace(1e-5, 1, 8)]
RATES = [*np.geomspace(1e-4, 1e-2, 8)]
SIZES = [(8,), (12,), (16,), (24,), (32,)]


def compile_for(sizes, X, y):
    """Have the programs of networks with these hidden layers on the disk, for such rows."""
    for size in sizes:
        fastmlp.MLPClassifier(size, backend="specialized", max_iter=1).fit(X, y)


def within(backend, function, *given):
    """Return a call within a backend of joblib's, with as many jobs or threads for each."""

    def call():
        with joblib.parallel_config(backend, n_jobs=JOBS):
            return function(*given)

    return call


@row("searches", "24 x 5 of (100,), breast_cancer, 100 epochs", [(100,)], RATES[::2], DECAYS[:6], rounds=3)
@row("searches", "64 x 5 of (100,), breast_cancer, 100 epochs", [(100,)], RATES, DECAYS, rounds=2)
@row(
    "searches",
    "60 x 5 of (8,) to (32,), breast_cancer, 100 epochs",
    SIZES,
    RATES[:4],
    [1e-4, 1e-2, 1.0],
    rounds=2,
)
def grid(options, hidden, rates, penalties):
    """Return searches over the same candidates, on 100 epochs of scaled rows."""
    X, y = load_breast_cancer(return_X_y=True)
    choices = {"hidden_layer_sizes": hidden, "learning_rate_init": rates, "alpha": penalties}
    table = {f"mlpclassifier__{one}": values for one, values in choices.items()}
    given = {"max_iter": 100, "n_iter_no_change": 100, "random_state": 0}

    def call(networks, backend="loky"):
        pipeline = make_pipeline(StandardScaler(), networks.MLPClassifier(**given))
        return within(backend, GridSearchCV(pipeline, table, cv=5, refit=False).fit, X, y)

    if options.rounds != 0:
        compile_for(hidden, X, y)
    return {
        "fastmlp's networks, together": call(fastmlp, "fastmlp"),
        "fastmlp's networks, two processes": call(fastmlp),
        "scikit-learn's networks, two processes": call(sklearn.neural_network),
    }


@row("searches", "100 bagged (50,), digits, 20 epochs, with predictions", rounds=2)
def bag(options):
    X, y = load_digits(return_X_y=True)
    X, given = X / 16, {"hidden_layer_sizes": (50,), "max_iter": 20, "n_iter_no_change": 20}

    def call(networks, backend="loky"):
        many = BaggingClassifier(networks.MLPClassifier(**given), n_estimators=100, random_state=0)
        return within(backend, lambda: many.fit(X, y).predict(X))

    if options.rounds != 0:
        compile_for([(50,)], X, y)
    return {
        "fastmlp's networks, together": call(fastmlp, "fastmlp"),
        "fastmlp's networks, two processes": call(fastmlp),
        "scikit-learn's networks, two processes": call(sklearn.neural_network),
    }
