"""`Stepper`: a step has the bits of `fit`, and so have its parts; what it holds, refuses and allocates."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from support import custom_components
from support.problems import PAIRS, data_set, targets_for
from support.refusals import refusals
from support.selection import crossed, few, matrix, quick, some_backends
from support.steppers import NETWORK, X, Y, stepped
from support.trajectories import TRAININGS

import fastmlp
from fastmlp import SGD, Adam, AdamW, BatchNorm, Cosine, Dense, Network, RMSprop, StepDecay, Stepper, Warmup
from fastmlp.backend import registry
from fastmlp.data.arrays import clean_targets, scaled_weights
from fastmlp.testing import slots

EXACT = tuple(name for name in registry.built_in() if registry.choice_of(name).exact)
STEPS = 7


def rows_of(training, dtype):
    """What `fit` makes of a training's rows: X, y (rows, n_out), weights (rows,)."""
    X, y = data_set(training.data, training.rows)
    if training.options["loss"] == "mse" and training.options.get("output") == "softmax":
        y = np.eye(training.sizes[-1])[y]
    network = Network(training.sizes, **training.options)
    weights = np.random.default_rng(0).exponential(size=len(y)) if training.weighted else np.ones(len(y))
    y = clean_targets("y", y, network, len(y), np.dtype(dtype))
    return network, X.astype(dtype), y, scaled_weights("weights", weights.astype(dtype), weights.max())


def fitted(network, X, y, optimizer, backend, **options):
    """What `fit` comes to in STEPS epochs of one batch each."""
    given = {"epochs": STEPS, "batch_size": None, "seed": 3, "threads": 1, "dtype": X.dtype} | options
    return fastmlp.fit(network, X, y, optimizer=optimizer, backend=backend, **given)


@quick(20)
@crossed(backend=["reference", *EXACT], name=list(TRAININGS))
def test_a_step_has_the_bits_of_fit(backend, name):
    training = TRAININGS[name]
    dtype = np.float64 if backend == "fused" else np.float32
    network, X, y, weights = rows_of(training, dtype)
    model = fitted(network, X, y, training.optimizer, backend, sample_weight=weights)
    stepper = Stepper(network, training.optimizer, seed=3, dtype=dtype, backend=backend)
    losses = [stepper.step(X, y, weights) for _ in range(STEPS)]
    assert losses == model.history["loss"]
    parameters, moments = stepper.parameters, stepper.moments
    if training.optimizer.rule.reads_last:  # a model has in its parameters what predictions read
        last = training.optimizer.rule.moments - 1
        parameters, moments = moments[last], moments.copy()
        moments[last] = stepper.parameters
    np.testing.assert_array_equal(parameters, model.parameters)
    np.testing.assert_array_equal(moments, model.training.moments)
    assert stepper.steps == STEPS


@matrix
@pytest.mark.parametrize("optimizer", [pytest.param(SGD(0.01), marks=matrix), Adam()])
def test_batches_that_grow_have_the_bits_of_other_backends(optimizer):
    X = np.random.default_rng(0).normal(size=(100, 3)).astype("f")
    both = [Stepper(Network((3, 4, 1)), optimizer, seed=1, backend=one) for one in ("specialized", "fused")]
    for rows in (3, 12, 40, 2, 100, 64):
        one, other = (stepper.step(X[:rows], X[:rows, 0]) for stepper in both)
        assert one == other
    np.testing.assert_array_equal(both[0].parameters, both[1].parameters)


@matrix
@pytest.mark.parametrize("sizes", [pytest.param((4, 5, 9), marks=matrix), (4, 5, 3)])
def test_a_step_that_diverges_leaves_nothing_behind(sizes):
    stepper, fresh = (
        Stepper(Network(sizes, l2=0.1), Adam(), seed=0, backend="specialized") for _ in range(2)
    )
    y = np.ones((60, sizes[-1]), "f")
    stepper.parameters[...] = 1e38
    assert not np.isfinite(stepper.step(X, y))
    assert np.isnan(stepper.parameters).any()
    stepper.parameters[...], stepper.moments[...], stepper.steps = fresh.parameters, 0, 0
    for _ in range(3):
        assert stepper.step(X, y) == fresh.step(X, y)
    np.testing.assert_array_equal(stepper.parameters, fresh.parameters)


@matrix
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [pytest.param((10, 16, 1), marks=matrix), (10, 300, 300, 1)])
def test_many_rows_have_the_bits_of_fit(sizes, threads):
    X = np.random.default_rng(0).normal(size=(2100, 10)).astype("f")
    y, network = X[:, :1] ** 2, Network(sizes)
    backend = Stepper(network, Adam(), most_rows=1).backend
    model = fitted(network, X, y, Adam(), backend)
    stepper = Stepper(network, Adam(), seed=3, most_rows=3000, threads=threads)
    parts = stepper.copy()
    scale = np.float32(1 / len(y))
    for _ in range(STEPS):
        stepper.step(X, y)
        parts.backward(scale * (2 * (parts.forward(X) - y)), inputs=False)
        parts.update()
    np.testing.assert_array_equal(stepper.parameters, model.parameters)
    if registry.is_exact(backend):
        np.testing.assert_array_equal(parts.parameters, model.parameters)


RATES = {"dense2": fastmlp.Group(rate=0), "dense3": fastmlp.Group(rate=2)}
DECAYS = {"dense1": fastmlp.Group(decay=0.1), "dense2": fastmlp.Group(decay=0)}

OPTIMIZERS = {
    "momentum, bias rate": SGD(0.05, 0.9, bias_learning_rate=StepDecay(0.1, 3)),
    "nesterov, clipping": SGD(Warmup(0.05, 4), 0.9, True, clip_norm=0.1),
    "rmsprop, frozen": RMSprop(0.01, momentum=0.5, groups=RATES),
    "adam, frozen and clipped": Adam(Cosine(0.01, 9, unit="step"), clip_norm=0.3, groups=RATES),
    "adamw, decays": AdamW(0.01, groups=DECAYS),
    "own": custom_components.OwnAdam(0.01, weight_decay=0.1),
}
EXTRAS = {
    "plain": {"hidden": "relu"},
    "penalties": {"hidden": ["gelu", "sigmoid"], "l1": 0.003, "l2": 0.02},
    "penalties by scikit-learn": {"hidden": "tanh", "l1": 0.2, "l2": 0.5, "convention": "sklearn"},
    "dropout, scaled": {"hidden": "silu", "dropout": [0.4, 0.2], "input_scale": 0.3},
    "own": {"hidden": [custom_components.mish, custom_components.sine]},
}


@quick(24)
@pytest.mark.parametrize(
    ("optimizer", "extra"),
    [
        *((name, "plain") for name in slots.OPTIMIZERS),
        *((name, extra) for name in OPTIMIZERS for extra in EXTRAS),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_forward_backward_and_update_have_the_bits_of_fit(backend, optimizer, extra):
    X, y = data_set("digits", 60)
    X, y = X.astype("f"), np.eye(10, dtype="f")[y]
    X[:, ::3] = 0
    network, optimizer = (
        Network((64, 12, 9, 10), **EXTRAS[extra]),
        {**slots.OPTIMIZERS, **OPTIMIZERS}[optimizer],
    )
    model = fitted(network, X, y, optimizer, backend)
    stepper = Stepper(network, optimizer, seed=3, backend=backend)
    scale = np.float32(1 / (len(y) * (1 if network.convention == "sklearn" else 10)))
    for _ in range(STEPS):
        r = stepper.forward(X, training=True) - y
        stepper.backward(scale * (r if network.convention == "sklearn" else 2 * r), inputs=False)
        before = stepper.gradients.copy()
        stepper.update()
        np.testing.assert_array_equal(stepper.gradients, before)
    np.testing.assert_array_equal(stepper.model().parameters, model.parameters)


@quick(2)
@crossed(backend=EXACT, case=list(custom_components.CASES))
def test_custom_components_have_the_bits_of_fit(backend, case):
    network, y, optimizer = custom_components.CASES[case]
    y = clean_targets("y", y, network, len(y), np.dtype(float))
    model = fitted(network, custom_components.X, y, optimizer, backend)
    stepper = Stepper(network, optimizer, seed=3, dtype="f8", backend=backend)
    losses = [stepper.step(custom_components.X, y) for _ in range(STEPS)]
    np.testing.assert_array_equal(stepper.parameters, model.parameters)
    assert losses == model.history["loss"]


@pytest.mark.parametrize("backend", few(["reference", "fused"]))
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(), fastmlp.SparseAdam(), Adam(clip_norm=0.1)])
def test_sparse_rows_have_the_bits_of_fit(optimizer, backend):
    rng = np.random.default_rng(0)
    X = csr_array(np.where(rng.random((90, 300)) < 0.03, rng.normal(size=(90, 300)), 0).astype("f"))
    y, network = rng.normal(size=(90, 2)).astype("f"), Network((300, 20, 2), l2=0.01, input_scale=0.5)
    model = fastmlp.fit(
        network, X, y, optimizer=optimizer, epochs=2, batch_size=40, shuffle=False, seed=3, backend=backend
    )
    stepper, parts = (Stepper(network, optimizer, seed=3, backend=backend) for _ in range(2))
    for start in (0, 40, 80) * 2:
        some, correct = X[start : start + 40], y[start : start + 40]
        stepper.step(some, correct)
        outputs = parts.forward(some)
        parts.backward(np.float32(1 / correct.size) * (2 * (outputs - correct)), inputs=False)
        parts.update()
    np.testing.assert_array_equal(stepper.parameters, model.parameters)
    np.testing.assert_array_equal(parts.parameters, model.parameters)
    parts.forward(X[:5])
    with pytest.raises(ValueError, match="no derivative by a sparse X"):
        parts.backward(np.ones((5, 2), "f"))


GOOD = np.zeros((5, 4), "f")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.step(np.zeros((65, 4), "f"), Y), ValueError, r"1 to 64 rows \(most_rows\) of 4, got "),
        (lambda s: s.step(np.zeros((0, 4), "f"), Y), ValueError, r"X must be .* got float32 of shape \(0, 4"),
        (lambda s: s.step(np.zeros((5, 3), "f"), Y), ValueError, r"got float32 of shape \(5, 3\)$"),
        (
            lambda s: s.step(np.zeros((5, 4)), Y),
            ValueError,
            r"X must be a float32 array, or .*, got float64 of shape",
        ),
        (
            lambda s: s.step(GOOD, np.zeros((5, 3))),
            ValueError,
            r"y must be a float32 .*, got float64 of shape",
        ),
        (lambda s: s.step([[1, 2, 3, 4]], Y), TypeError, r"X must be .*, got \[\[1, 2, 3, 4\]\]$"),
        (lambda s: s.step(csr_array((5, 3), dtype="f"), Y), ValueError, "of 4, got float32 of shape"),
        (lambda s: s.step(GOOD, Y), ValueError, r"y must be .* \(5, 3\), or integer class labels \(5,\)"),
        (lambda s: s.step(GOOD, np.full(5, 3)), ValueError, r"y must hold class labels 0\.\.2, got 3$"),
        (lambda s: s.step(GOOD, np.full(5, -1)), ValueError, r"got -1$"),
        (lambda s: s.step(GOOD, Y[:5], np.ones(5)), ValueError, r"sample_weight .* \(5,\), got float64"),
        (lambda s: s.forward(GOOD, np.empty((5, 2), "f")), ValueError, r"out must be .* \(5, 3\)"),
        (lambda s: s.backward(Y[:5]), ValueError, "call forward first"),
        (lambda s: (s.forward(GOOD), s.backward(Y)), ValueError, r"delta must be .* \(5, 3\)"),
        (lambda s: (s.forward(GOOD), s.backward(Y[:5], out=Y[:5])), ValueError, r"out must be .* \(5, 4\)"),
        (lambda s: (s.forward(GOOD), s.step(X, Y), s.backward(Y[:5])), ValueError, "after every step"),
        (lambda s: setattr(s, "rate_factor", -1), ValueError, "rate_factor must be"),
        (
            lambda s: setattr(s, "gradients", 0),
            TypeError,
            r"gradients must be a float32 array of shape \(67,",
        ),
        (lambda s: s.average_into("target", 0.5), TypeError, "other must be a Stepper"),
        (lambda s: s.average_into(s, 1.5), ValueError, "tau must be"),
    ],
)
def test_a_mistake_is_one_clear_line(call, error, message):
    stepper = Stepper(NETWORK, Adam(), most_rows=64)
    with pytest.raises(error, match=message) as raised:
        call(stepper)
    assert "\n" not in str(raised.value)


test_a_wrong_option_is_one_clear_line = refusals(
    [
        ({"network": [4, 3]}, TypeError, "network must be a Network"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be"),
        ({"optimizer": Adam(groups={"lo": fastmlp.Group(rate=0)})}, ValueError, "layer"),
        ({"dtype": "bfloat16"}, ValueError, "dtype must be float32 or float64"),
        ({"most_rows": 0}, ValueError, "most_rows must be"),
        ({"threads": 0}, ValueError, "threads must be"),
        ({"backend": "fussed"}, ValueError, "unknown backend 'fussed'; choose from: auto, reference"),
        ({"initial": ([], [])}, ValueError, "initial weights must hold 2 arrays"),
    ],
    lambda **given: Stepper(**{"network": NETWORK, "optimizer": Adam()} | given),
)


@pytest.mark.parametrize(
    "fails",
    [
        lambda s: s.step(GOOD, Y),
        lambda s: s.step(GOOD, Y[:5], np.ones(5)),
        lambda s: s.forward(GOOD, np.empty((5, 2), "f")),
    ],
)
def test_a_call_that_fails_leaves_no_half_of_a_forward(fails):
    """It has copied its X, which the backward of an earlier forward would read."""
    stepper = Stepper(NETWORK, Adam(), most_rows=64, seed=0)
    stepper.forward(X[5:10])
    with pytest.raises(ValueError, match="must be"):
        fails(stepper)
    with pytest.raises(ValueError, match="call forward first"):
        stepper.backward(Y[:5])


@some_backends
def test_a_batch_norm_may_go_backward_twice(backend):
    network = Network(inputs=4, layers=[Dense(5, "tanh"), BatchNorm(), Dense(3)])
    stepper = Stepper(network, Adam(), seed=0, backend=backend)
    found = []
    for training in (True, True, False):
        stepper.forward(GOOD, training=training)
        for _ in range(2):
            by_inputs = stepper.backward(Y[:5])
            found.append(np.append(stepper.gradients, by_inputs))
            stepper.gradients[...] = 7
    for one, other in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_starts_from_a_model():
    model = fastmlp.fit(NETWORK, X, Y, epochs=1, seed=0)
    stepper = Stepper(NETWORK, Adam(), initial=model)
    np.testing.assert_array_equal(stepper.parameters, model.parameters)
    assert not np.shares_memory(stepper.parameters, model.parameters)


def test_targets_for_every_loss_pass():
    for output, loss in PAIRS:
        network = Network((4, 6, 3), "tanh", output, loss)
        y = targets_for(loss, np.random.default_rng(0), 60, 3).astype("f")
        assert np.isfinite(Stepper(network, Adam(), seed=0, backend="fused").step(X, y))


def test_an_array_that_is_assigned_is_copied_to_where_kernels_read_it():
    stepper, other = stepped(), stepped()
    for name in ("parameters", "gradients", "moments"):
        held = getattr(stepper, name)
        setattr(stepper, name, 2 * held)
        getattr(other, name)[...] *= 2
        assert np.shares_memory(held, getattr(stepper, name))
    stepper.parameters *= 0.5  # which assigns the array to itself
    other.parameters[...] *= 0.5
    stepper.update()
    other.update()
    np.testing.assert_array_equal(stepper.forward(X), other.forward(X))


def test_arrays_may_lie_in_any_order():
    stepper, other = stepped(), stepped()
    assert stepper.step(np.asfortranarray(X), np.repeat(Y, 2, axis=1)[:, ::2]) == other.step(X, Y)
    out = np.empty((3, 60), "f").T
    np.testing.assert_array_equal(stepper.forward(X[::-1], out), other.forward(X[::-1].copy()))
    np.testing.assert_array_equal(stepper.backward(Y[::-1]), other.backward(Y[::-1].copy()))


@quick(1)
@pytest.mark.parametrize("backend", ["fused", "specialized", "reference"])
@pytest.mark.parametrize("optimizer", [Adam(), Adam(clip_norm=0.1)], ids=["Adam", "clipped"])
def test_a_whole_step_leaves_the_gradients_as_they_are(backend, optimizer):
    stepper = Stepper(Network([3, 5, 2], "tanh", l2=0.1), optimizer, dtype="float64", backend=backend)
    stepper.gradients[...] = 7
    stepper.step(np.ones((4, 3)), np.ones((4, 2)))
    assert (stepper.gradients == 7).all()
