"""Monotone networks: no pair of rows contradicts them, on any backend, after any training."""

import numpy as np
import pytest
from support.refusals import refusals
from support.selection import matrix, quick, some_backends

import fastmlp
from fastmlp import (
    EMA,
    SGD,
    Activation,
    Adam,
    AdamW,
    Categories,
    Concatenate,
    Dense,
    Dropout,
    Gaussian,
    Head,
    LayerNorm,
    Members,
    Muon,
    Network,
    Numbers,
    PiecewiseLinear,
    Quantiles,
    Residual,
    ScheduleFreeAdamW,
    SparseNumbers,
)
from fastmlp.backend import lanes

SIGNS = (1, -1, 0, 1)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 4))
Y = -2 * X[:, :1] + 3 * X[:, 1:2] + np.sin(3 * X[:, 2:3]) - X[:, 3:] ** 2 + RNG.standard_normal((120, 1))
"""What the constraints contradict."""

NETWORKS = {
    "relu": Network([4, 12, 8, 1], monotone=SIGNS),
    "deep": Network([4, 6, 6, 6, 6, 1], ["leaky_relu", "relu", "relu", "leaky_relu"], monotone=SIGNS),
    "one product": Network([4, 1], monotone=SIGNS),
    "counts": Network([4, 8, 1], "relu", "exp", "poisson", monotone=SIGNS),
    "quantiles": Network([4, 8, 3], loss=Quantiles((0.1, 0.5, 0.9)), monotone={0: 1, 1: -1, 3: 1}),
    "layers": Network(
        inputs=4,
        layers=[
            Dense(9, "relu", name="early"), Dropout(0.2), Dense(7), "relu", Concatenate("early"), Dense(1),
        ],
        l2=0.01,
        monotone=SIGNS,
    ),
}  # fmt: skip


def pairs(rows=400, seed=1, signs=SIGNS, dtype=np.float32):
    """Rows, near and far, and rows that are at least as great by the signs."""
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((rows, len(signs))) * 10 ** rng.uniform(-3, 4, (rows, 1))
    step = np.abs(rng.standard_normal(low.shape)) * 10 ** rng.uniform(-6, 4, low.shape)
    step *= rng.random(low.shape) < 0.5
    return low.astype(dtype), (low + step * signs).astype(dtype)


def targets(network):
    return np.abs(Y) if network.output == "exp" else np.tile(Y, network.n_out)


def assert_monotone(predict, **given):
    low, high = (np.asarray(predict(rows), float) for rows in pairs(**given))
    assert (low <= high).all()


def fit(network, backend="fused", **options):
    given = {"epochs": 15, "batch_size": 16, "seed": 0, "optimizer": Adam(0.03), "dtype": "float32"}
    return fastmlp.fit(network, X, targets(network), backend=backend, **(given | options))


@quick(6)
@pytest.mark.parametrize("name", NETWORKS)
@some_backends
def test_no_pair_of_rows_contradicts(backend, name):
    model = fit(NETWORKS[name], backend)
    assert_monotone(model.predict)
    signs = NETWORKS[name].signs
    assert (signs * model.parameters >= 0).all()
    assert (model.parameters[signs != 0] == 0).any()  # steps were cut


@pytest.mark.parametrize("seed", range(20))
def test_no_random_network_contradicts(seed):
    rng = np.random.default_rng(seed)
    signs = rng.integers(-1, 2, 5)
    sizes = [5, *rng.integers(1, 20, rng.integers(1, 4)), 1]
    network = Network(sizes, rng.choice(["relu", "leaky_relu"]), monotone=signs)
    data = rng.standard_normal((60, 5)), 10 * rng.standard_normal((60, 1))
    optimizer = (Adam(0.1), SGD(0.05, momentum=0.9, clip_norm=1.0), AdamW(0.1, weight_decay=1.0))[seed % 3]
    dtype = ("float32", "float64")[seed % 2]
    model = fastmlp.fit(
        network, *data, optimizer=optimizer, epochs=10, seed=seed, backend="reference", dtype=dtype
    )
    assert_monotone(model.predict, seed=seed, signs=signs, dtype=dtype)


def test_without_the_constraint_pairs_contradict():
    with pytest.raises(AssertionError):
        assert_monotone(fit(NETWORKS["relu"].replaced(monotone=None)).predict)


def test_a_bent_function_is_learned_up_and_down():
    x = np.linspace(-2, 2, 400)[:, None]
    y = np.tanh(4 * x) + np.where(x > 1, 3 * (x - 1), 0)  # convex, concave and convex again
    network = Network([1, 32, 32, 1], monotone=[1])
    model = fastmlp.fit(
        network, x, y, optimizer=Adam(0.01), epochs=300, batch_size=50, seed=0, backend="fused"
    )
    assert np.sqrt(np.square(model.predict(x) - y).mean()) < 0.05


@pytest.mark.parametrize("activation", ["elu", "selu", "softplus", "sigmoid", "tanh"])
def test_smooth_activations_contradict_by_roundings_alone(activation):
    model = fit(Network([4, 12, 8, 1], activation, monotone=SIGNS), dtype="float64")
    low, high = (model.predict(rows) for rows in pairs(dtype=np.float64))
    size = np.abs(low) + np.abs(model.weights[-1]).sum() * np.abs(low).max()
    assert (low <= high + 16 * np.finfo(float).eps * size).all()


def test_of_two_classes_the_second_one_rises():
    labels = (Y[:, 0] > 0).astype(int)
    for network in (
        Network([4, 8, 2], output="softmax", monotone=SIGNS),
        Network([4, 8, 1], output="sigmoid", monotone=SIGNS),
    ):
        model = fastmlp.fit(network, X, labels, optimizer=Adam(0.03), epochs=20, seed=0, backend="fused")
        low, high = (model.predict(rows)[:, -1] for rows in pairs())
        assert (low <= high + np.finfo(np.float32).eps).all()  # the rounding of a softmax
        assert np.ptp(low) > 0.1


@quick(1)
@some_backends
def test_backends_take_the_steps_of_the_reference(backend):
    for optimizer in (Adam(0.02, amsgrad=True), Muon(0.02), SGD(0.05, momentum=0.9)):
        of_reference, model = (
            fit(NETWORKS["relu"], one, optimizer=optimizer, epochs=2, average=EMA(0.9), dtype="float64")
            for one in ("reference", backend)
        )
        np.testing.assert_allclose(model.parameters, of_reference.parameters, rtol=1e-9, atol=1e-12)


def test_blocks_without_a_constraint_may_have_embeddings():
    from scipy.sparse import csr_array

    rng = np.random.default_rng(0)
    sparse = csr_array(rng.random((120, 6)) * (rng.random((120, 6)) < 0.2))
    blocks = [X[:, :2], X[:, 2:], rng.integers(0, 3, (120, 1)), sparse]
    inputs = [Numbers(2), Numbers(2, PiecewiseLinear(8, 4)), Categories([3]), SparseNumbers(6)]
    signs = [1, -1, 0, 0, 0, *[0] * 5, 1]
    network = Network(inputs=inputs, layers=[Dense(16, "relu"), Dense(1)], monotone=signs)
    model = fastmlp.fit(network, blocks, Y, optimizer=Adam(0.03), epochs=20, seed=0, backend="fused")
    low, high = pairs(120, signs=(1, -1))
    more = sparse.toarray()
    more[:, 5] += rng.random(120)
    predicted = [
        model.predict([own, *blocks[1:3], last]) for own, last in ((low, sparse), (high, csr_array(more)))
    ]
    assert (predicted[0] <= predicted[1]).all()
    assert np.ptp(model.predict([low[:1].repeat(120, 0), *blocks[1:]])) > 0
    with pytest.raises(ValueError, match="not through 'piecewise_linear1'"):
        network.replaced(monotone={2: 1})


def test_heads_rise_each():
    heads = {"price": Head(1), "sold": Head(2, "cross_entropy"), "count": Head(1, "poisson")}
    network = Network(inputs=4, layers=[Dense(8, "relu")], heads=heads, monotone=SIGNS)
    y = {"price": Y, "sold": (Y[:, 0] > 0).astype(int), "count": np.abs(Y)}
    model = fastmlp.fit(network, X, y, optimizer=Adam(0.03), epochs=20, seed=0, backend="fused")
    for name in ("price", "count"):
        assert_monotone(lambda rows, name=name: model.predict(rows)[name])
    low, high = (model.predict(rows)["sold"][:, 1] for rows in pairs())
    assert (low <= high + np.finfo(np.float32).eps).all()


def test_trainings_go_on(tmp_path):
    network, path = NETWORKS["relu"], tmp_path / "training.npz"
    begun = fit(network, callbacks=[fastmlp.Checkpoint(path)])
    np.testing.assert_array_equal(fastmlp.load(path).predict(X), begun.predict(X))
    for options in ({}, {"optimizer": SGD(0.05)}, {"optimizer": Adam(0.01)}):
        more = begun.fit_more(X, Y, epochs=5, **options)
        assert_monotone(more.predict)
    resumed = fit(network, epochs=20, resume=path)
    np.testing.assert_array_equal(resumed.parameters, begun.fit_more(X, Y, epochs=5).parameters)
    free = fit(network.replaced(monotone=None))
    assert_monotone(fit(network, initial=free, epochs=0).predict)


@matrix
def test_many_models_are_those_of_their_own_fits(lane_programs):
    taken, blocks_of = [], lanes.blocks_of

    def noted(*given):
        taken.append(len(given[2]))  # the kinds of models
        return blocks_of(*given)

    lane_programs(is_worth=lambda *_: True, blocks_of=noted)
    networks = [Network([4, 5, 1], monotone=signs) for signs in (SIGNS, (-1, 0, 0, 1))] * 10
    options = {"epochs": 10, "batch_size": 16, "optimizer": Adam(0.03), "backend": "fused"}
    models = fastmlp.fit_many(networks, X, Y, seed=0, **options)
    assert sum(taken) == 20
    for seed, (network, model) in enumerate(zip(networks, models, strict=True)):
        assert_monotone(model.predict, signs=network.monotone)
        assert (network.signs * model.parameters >= 0).all()
        if seed < 2:
            alone = fastmlp.fit(network, X, Y, seed=seed, **options)
            np.testing.assert_array_equal(model.parameters, alone.parameters)


def test_the_last_finite_parameters_keep_their_signs():
    with pytest.raises(fastmlp.DivergenceError) as error:
        fit(NETWORKS["relu"], optimizer=SGD(3.0), epochs=200)
    assert error.value.step > 1
    assert (NETWORKS["relu"].signs * error.value.parameters >= 0).all()


def test_the_description_is_kept():
    network = NETWORKS["quantiles"]
    assert network.monotone == SIGNS
    assert network == eval(repr(network), {**vars(fastmlp), "Network": Network})
    assert network != network.replaced(monotone=None)
    assert Network([2, 1], monotone=[0, 0]) == Network([2, 1])


test_what_does_not_compose_is_refused = refusals(
    {
        "a norm": (
            lambda: Network(inputs=2, layers=[Dense(4), LayerNorm(), Dense(1)], monotone=[1, 0]),
            "layer_norm1",
        ),
        "a sum": (
            lambda: Network(inputs=2, layers=[Dense(4), Residual(Dense(4)), Dense(1)], monotone=[1, 0]),
            "add1",
        ),
        "members": (
            lambda: Network(inputs=2, layers=[Members(3), Dense(4), Dense(1)], monotone=[1, 0]),
            "members1",
        ),
        "silu": (
            lambda: Network([2, 4, 1], "silu", monotone=[1, 0]),
            "never falls: identity, relu, .*; got 'silu'",
        ),
        "a user's": (
            lambda: Network([2, 4, 1], Activation("cubic", lambda z: z * z * z), monotone=[1, 0]),
            "never falls: .*; got 'cubic'",
        ),
        "three classes": (
            lambda: Network([2, 4, 3], output="softmax", monotone=[1, 0]),
            "two classes, got 3",
        ),
        "a likelihood": (lambda: Network([2, 4, 2], loss=Gaussian(), monotone=[1, 0]), "one output a target"),
        "two signs": (
            lambda: Network([3, 1], monotone=[1, 0]),
            "must hold 3 numbers, one a column of X, got 2",
        ),
        "a sign of 2": (lambda: Network([2, 1], monotone=[1, 2]), "every one of monotone must be"),
        "a column 2": (lambda: Network([2, 1], monotone={2: 1}), "a column of monotone must be"),
        "a mean of points": (
            lambda: fastmlp.fit(Network([4, 1], monotone=SIGNS), X, Y, optimizer=ScheduleFreeAdamW(), seed=0),
            "does not go with ScheduleFreeAdamW, which predicts by a mean of other points; Adam and SGD do",
        ),
        "steps of all rows": (
            lambda: fastmlp.fit(Network([4, 1], monotone=SIGNS), X, Y, optimizer=fastmlp.LBFGS(), seed=0),
            "does not go with LBFGS, whose steps follow no signs; Adam and SGD do",
        ),
    }
)
