"""`Stepper`: a step has the bits of `fit`, and so have its parts; what it holds, refuses and allocates."""

from __future__ import annotations

import copy
import functools
import pickle
import threading
import tracemalloc

import numpy as np
import own_pieces
import pytest
from guarded import guarded, guarded_workspaces
from problems import COMPILED_DTYPES, PAIRS, data_set, eps, targets_for
from scipy.sparse import csr_array
from selection import crossed, few, matrix
from trajectories import TRAININGS

import fastmlp
from fastmlp import SGD, Adam, AdamW, Cosine, Network, RMSprop, SparseAdam, StepDecay, Stepper, Warmup
from fastmlp.backend import registry
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Batch
from fastmlp.training.data import clean_targets, scaled_weights

EXACT = tuple(name for name in registry.own() if registry.choice_of(name).exact)
STEPS = 7


def rows_of(training, dtype):
    """What `fit` makes of a training's rows: X, y (rows, n_out), weights (rows,)."""
    X, y = data_set(training.data, training.rows)
    if training.options["loss"] == "mse" and training.options.get("output") == "softmax":
        y = np.eye(training.sizes[-1])[y]
    network = Network(training.sizes, **training.options)
    weights = np.random.default_rng(0).integers(0, 4, len(y)) if training.weighted else np.ones(len(y))
    y = clean_targets("y", y, network, len(y), np.dtype(dtype))
    return network, X.astype(dtype), y, scaled_weights("weights", weights.astype(dtype), weights.max())


def fitted(network, X, y, optimizer, backend, **options):
    """What `fit` comes to in STEPS epochs of one batch each."""
    given = {"epochs": STEPS, "batch_size": None, "seed": 3, "threads": 1, "dtype": X.dtype} | options
    return fastmlp.fit(network, X, y, optimizer=optimizer, backend=backend, **given)


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
    np.testing.assert_array_equal(moments, model.training.snapshot.moments)
    assert stepper.steps == STEPS


@pytest.mark.parametrize("backend", ["fused", "specialized"])
@pytest.mark.parametrize("sizes", [(13, 9, 3), (13, 3)])
def test_batches_of_changing_length_have_the_bits_of_fit(sizes, backend):
    X, y = data_set("wine", 100)
    network, X = Network(sizes, "tanh", "softmax", "cross_entropy"), X.astype("f")
    model = fastmlp.fit(
        network, X, y, optimizer=SGD(0.05, 0.9), epochs=3, batch_size=31, shuffle=False, seed=1,
        backend=backend, threads=1,
    )  # fmt: skip
    stepper = Stepper(network, SGD(0.05, 0.9), seed=1, backend=backend)
    for _ in range(3):
        for start in range(0, 100, 31):
            stepper.step(X[start : start + 31], y[start : start + 31])
    np.testing.assert_array_equal(stepper.parameters, model.parameters)


@pytest.mark.parametrize("optimizer", [pytest.param(SGD(0.01), marks=matrix), Adam()])
def test_batches_that_grow_have_the_bits_of_other_backends(optimizer):
    X = np.random.default_rng(0).normal(size=(100, 3)).astype("f")
    both = [Stepper(Network((3, 4, 1)), optimizer, seed=1, backend=one) for one in ("specialized", "fused")]
    for rows in (3, 12, 40, 2, 100, 64):
        one, other = (stepper.step(X[:rows], X[:rows, 0]) for stepper in both)
        assert one == other
    np.testing.assert_array_equal(both[0].parameters, both[1].parameters)


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


OPTIMIZERS = {
    "sgd": SGD(0.05),
    "momentum, bias rate": SGD(0.05, 0.9, bias_learning_rate=StepDecay(0.1, 3)),
    "nesterov, clipping": SGD(Warmup(0.05, 4), 0.9, True, clip_norm=0.1),
    "rmsprop, frozen": RMSprop(0.01, momentum=0.5, layer_rates=(1, 0, 2)),
    "adam, frozen and clipped": Adam(Cosine(0.01, 9, unit="step"), clip_norm=0.3, layer_rates=(0, 1, 1)),
    "adamw, decays": AdamW(0.01, layer_decays=(0.1, 0.0, 0.3)),
    "sparse adam": SparseAdam(0.01),
    "own": own_pieces.OwnAdam(0.01, weight_decay=0.1),
}
EXTRAS = {
    "plain": {"hidden": "relu"},
    "penalties": {"hidden": ["gelu", "sigmoid"], "l1": 0.003, "l2": 0.02},
    "penalties by scikit-learn": {"hidden": "tanh", "l1": 0.2, "l2": 0.5, "convention": "sklearn"},
    "dropout, scaled": {"hidden": "silu", "dropout": [0.4, 0.2], "input_scale": 0.3},
    "own": {"hidden": [own_pieces.mish, own_pieces.sine]},
}


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_forward_backward_and_update_have_the_bits_of_fit(backend, optimizer, extra):
    X, y = data_set("digits", 60)
    X, y = X.astype("f"), np.eye(10, dtype="f")[y]
    X[:, ::3] = 0
    network, optimizer = Network((64, 12, 9, 10), **EXTRAS[extra]), OPTIMIZERS[optimizer]
    model = fitted(network, X, y, optimizer, backend)
    stepper = Stepper(network, optimizer, seed=3, backend=backend)
    scale = np.float32(1 / (len(y) * (1 if network.convention == "sklearn" else 10)))
    for _ in range(STEPS):
        r = stepper.forward(X, training=True) - y
        stepper.backward(scale * (r if network.convention == "sklearn" else 2 * r), inputs=False)
        before = stepper.gradients.copy()
        stepper.update()
        np.testing.assert_array_equal(stepper.gradients, before)
    np.testing.assert_array_equal(stepper.parameters, model.parameters)


@crossed(backend=EXACT, case=list(own_pieces.CASES))
def test_own_pieces_have_the_bits_of_fit(backend, case):
    network, y, optimizer = own_pieces.CASES[case]
    y = clean_targets("y", y, network, len(y), np.dtype(float))
    model = fitted(network, own_pieces.X, y, optimizer, backend)
    stepper = Stepper(network, optimizer, seed=3, dtype="f8", backend=backend)
    losses = [stepper.step(own_pieces.X, y) for _ in range(STEPS)]
    np.testing.assert_array_equal(stepper.parameters, model.parameters)
    assert losses == model.history["loss"]


@pytest.mark.parametrize("backend", few(["reference", "fused", "packed"]))
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(), SparseAdam(), Adam(clip_norm=0.1)])
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


# --- derivatives ------------------------------------------------------------------------------------------


def derivatives(network, dtype, backend, training):
    """The outputs, the gradient, and the derivative by X, of the same fixed loss of the outputs."""
    rng = np.random.default_rng(4)
    X, by_outputs = rng.normal(size=(7, network.n_in)), rng.normal(size=(7, network.n_out))
    stepper = Stepper(network, Adam(), seed=1, dtype=dtype, backend=backend)
    outputs = stepper.forward(X.astype(dtype), training=training)
    by_inputs = stepper.backward(by_outputs.astype(dtype))
    return outputs, stepper.gradients, by_inputs


@functools.cache
def expected(network, training):
    return derivatives(network, np.float64, "reference", training)


CASES = [
    *((Network((5, 6, 4, 3), hidden, dropout=0.3), True) for hidden in HIDDEN),
    *(
        (Network((3, 7, n_out), "tanh", output, loss, input_scale=2.0), False)
        for output, loss in {output: (output, loss) for output, loss in PAIRS}.values()
        for n_out in (2, 19)
    ),
    (Network((9, 1)), False),
]


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize(
    "backend", ["fused", *(pytest.param(name, marks=matrix) for name in ("baseline", "packed"))]
)
@pytest.mark.parametrize(("network", "training"), CASES)
def test_derivatives_are_those_of_the_reference(network, training, backend, dtype):
    for got, correct in zip(
        derivatives(network, dtype, backend, training), expected(network, training), strict=True
    ):
        # sums of some dozen terms, each rounded
        np.testing.assert_allclose(got, correct, rtol=0, atol=60 * eps(dtype) * np.abs(correct).max())


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax", "exp"])
def test_derivatives_are_differences(output):
    loss = {"identity": "mse", "sigmoid": "mse", "softmax": "mse", "exp": "poisson"}[output]
    stepper = Stepper(
        Network((3, 5, 4), "tanh", output, loss, input_scale=0.5), SGD(), seed=0, dtype="f8",
        backend="reference",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    X, by_outputs = rng.normal(size=(4, 3)), rng.normal(size=(4, 4))

    def value():
        return float((stepper.forward(X) * by_outputs).sum())

    def differences(array):
        flat, found = array.reshape(-1), []
        for i, number in enumerate(flat.tolist()):
            values = []
            for flat[i] in (number + 1e-6, number - 1e-6):
                values.append(value())
            flat[i] = number
            found.append((values[0] - values[1]) / 2e-6)
        return np.reshape(found, array.shape)

    correct = differences(stepper.parameters), differences(X)
    stepper.forward(X)
    got = stepper.backward(by_outputs)
    np.testing.assert_allclose(stepper.gradients, correct[0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(got, correct[1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("side", ["after", "before"])
@pytest.mark.parametrize("backend", few(["fused", "specialized"]))  # four programs, 8 s
def test_nothing_is_read_or_written_beyond_an_array(backend, side, monkeypatch):
    plain = Batch.of

    def walled(*given):
        return Batch(*(guarded(buffer, side) for buffer in plain(*given)))

    monkeypatch.setattr(Batch, "of", staticmethod(walled))
    rng = np.random.default_rng(0)
    for rows, sizes in ((1, (3, 5, 2)), (17, (17, 64, 6)), (70, (1, 9, 1)), (33, (130, 20, 11))):
        X, y = rng.normal(size=(rows, sizes[0])).astype("f"), rng.normal(size=(rows, sizes[-1])).astype("f")
        with guarded_workspaces(side):
            stepper = Stepper(Network(sizes), Adam(), seed=0, most_rows=rows, backend=backend)
            for inputs in (X, csr_array(X)):
                stepper.step(inputs, y)
                stepper.forward(inputs)
                stepper.backward(y, inputs=inputs is X)
                stepper.update()
        assert np.isfinite(stepper.parameters).all()


# --- what it holds ----------------------------------------------------------------------------------------

NETWORK = Network((4, 8, 3), "relu", "softmax", "cross_entropy", dropout=0.3, l2=0.01)
X, Y = (array.astype("f") for array in (data_set("iris", 60)[0], np.eye(3)[data_set("iris", 60)[1]]))


def stepped(**options):
    stepper = Stepper(NETWORK, Adam(0.01), **({"seed": 5} | options))
    for _ in range(3):
        stepper.step(X, Y)
    return stepper


def go_on(stepper):
    """What two more steps come to: all that they depend on shows in it."""
    losses = [stepper.step(X, Y) for _ in range(2)]
    return losses, stepper.parameters.tobytes(), stepper.moments.tobytes(), stepper.steps


@pytest.mark.parametrize("copied", [Stepper.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_goes_on_the_same_way_and_by_itself(copied):
    stepper = stepped()
    stepper.rate_factor = 0.5
    twin, before = copied(stepper), stepper.parameters.copy()
    after = go_on(twin)
    np.testing.assert_array_equal(stepper.parameters, before)
    assert go_on(stepper) == after


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_file_holds_all_that_the_next_steps_depend_on(tmp_path, backend):
    stepper = stepped(backend=backend)
    stepper.rate_factor = 0.25
    stepper.save(tmp_path / "stepper")
    other = Stepper(NETWORK, Adam(0.01), seed=77, backend=backend)
    held = other.parameters, other.moments
    other.load(tmp_path / "stepper")
    assert held[0] is other.parameters
    np.testing.assert_array_equal(fastmlp.load(tmp_path / "stepper").predict(X), stepper.model().predict(X))
    assert go_on(other) == go_on(stepper)


def test_a_file_of_something_else_is_refused(tmp_path):
    stepper, path = stepped(), tmp_path / "stepper"
    stepper.save(path)
    fastmlp.save(stepper.model(), tmp_path / "model")
    for other, message in (
        (Stepper(Network((4, 8, 3)), Adam()), "of another network"),
        (Stepper(NETWORK, SGD()), "of another rule"),
        (Stepper(NETWORK, Adam(), dtype="f8"), "of another dtype: 'float32' then, 'float64' now"),
    ):
        with pytest.raises(fastmlp.CheckpointError, match=message):
            other.load(path)
    with pytest.raises(fastmlp.CheckpointError, match="holds no stepper"):
        stepper.load(tmp_path / "model")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(fastmlp.CheckpointError):
        stepper.load(path)


def test_average_into_is_polyaks():
    online, target = stepped(seed=1), stepped(seed=2)
    correct = np.float32(0.1) * online.parameters + np.float32(0.9) * target.parameters
    online.average_into(target, 0.1)
    np.testing.assert_array_equal(target.parameters, correct)
    online.average_into(target, 1)
    np.testing.assert_array_equal(target.parameters, online.parameters)
    with pytest.raises(ValueError, match="other must have 67 parameters in float32, got 67 in float64"):
        online.average_into(stepped_in_double(), 0.5)


def stepped_in_double():
    return Stepper(NETWORK, Adam(), dtype=np.float64)


def test_its_arrays_are_writable_views():
    stepper = Stepper(NETWORK, SGD(0.1, 0.9), seed=0)
    for view in (*stepper.weights, *stepper.biases):
        assert np.shares_memory(view, stepper.parameters)
    assert stepper.moments.shape == (1, stepper.parameters.size)
    stepper.parameters[...] = 0
    np.testing.assert_array_equal(stepper.forward(X[:1]), np.full((1, 3), 1 / 3, "f"))
    stepper.gradients[...] = 1
    stepper.moments[...] = 2
    stepper.update()
    np.testing.assert_array_equal(stepper.parameters, np.float32(-0.1) * np.float32(0.9 * 2 + 1))


def test_a_model_is_a_copy():
    stepper = stepped()
    model, outputs = stepper.model(), stepper.forward(X)
    np.testing.assert_array_equal(model.predict(X), outputs)
    stepper.parameters[...] = 0
    np.testing.assert_array_equal(model.predict(X), outputs)


def test_auto_takes_the_program_of_the_network():
    assert Stepper(Network((4, 8, 3)), Adam()).backend == "specialized"
    assert Stepper(Network((4, 8, 3), "gelu"), Adam()).backend == "fused"
    assert Stepper(Network((4, 8, 3)), Adam(clip_norm=1.0)).backend == "fused"


def test_a_schedule_counts_steps():
    stepper = Stepper(NETWORK, SGD(StepDecay(0.5, 2, 0.1)), seed=0)
    stepper.gradients[...] = 1
    moves = []
    for _ in range(4):
        before = stepper.biases[0].copy()
        stepper.update()
        moves.append(float((before - stepper.biases[0])[0]))
    np.testing.assert_allclose(moves, [0.5, 0.5, 0.05, 0.05], rtol=1e-5)
    stepper.rate_factor = 0
    before = stepper.parameters.copy()
    stepper.update()
    np.testing.assert_array_equal(stepper.parameters, before)


def test_labels_stand_for_rows():
    stepper, other = stepped(), stepped()
    labels = Y.argmax(axis=1)
    assert stepper.step(X, labels) == other.step(X, Y)
    one = Stepper(Network((4, 1)), SGD(0.1), seed=0)
    assert one.step(X, X[:, 0].copy()) == Stepper(Network((4, 1)), SGD(0.1), seed=0).step(X, X[:, :1].copy())


def test_steppers_work_side_by_side():
    alone = [go_on(stepped(seed=seed)) for seed in range(4)]
    steppers, found = [stepped(seed=seed) for seed in range(4)], [None] * 4

    def run(place):
        found[place] = go_on(steppers[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


@pytest.mark.parametrize("backend", few(["specialized", "fused", "packed"]))
def test_nothing_is_allocated_after_the_first_call(backend):
    network = Network((17, 64, 64, 6), input_scale=0.5, l2=0.1)
    stepper = Stepper(network, Adam(clip_norm=1.0), seed=0, backend=backend)
    plain = Stepper(Network((17, 64, 64, 6)), Adam(), seed=0, backend=backend)
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(64, 17)).astype("f"), rng.normal(size=(64, 6)).astype("f")
    out, by_inputs = np.empty((64, 6), "f"), np.empty((64, 17), "f")

    def use():
        for one in (stepper, plain):
            one.step(inputs, targets)
            one.forward(inputs, out)
            one.backward(targets, out=by_inputs)
            one.update()
            stepper.average_into(plain, 0.5)

    use()
    tracemalloc.start()
    try:
        use()  # what Python itself keeps for the next call
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(20):
            use()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # objects of Python's, none of which is as large as a row of this batch's smallest array
    assert after - held < 500
    assert peak - held < 64 * 6 * 4


# --- refusals ---------------------------------------------------------------------------------------------

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
        (lambda s: s.average_into("target", 0.5), TypeError, "other must be a Stepper"),
        (lambda s: s.average_into(s, 1.5), ValueError, "tau must be"),
    ],
)
def test_a_mistake_is_one_clear_line(call, error, message):
    stepper = Stepper(NETWORK, Adam(), most_rows=64)
    with pytest.raises(error, match=message) as raised:
        call(stepper)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": [4, 3]}, TypeError, "network must be a Network"),
        ({"optimizer": "adam"}, TypeError, "optimizer must be"),
        ({"optimizer": Adam(layer_rates=(1,))}, ValueError, "layer"),
        ({"dtype": "bfloat16"}, ValueError, "dtype must be float32 or float64"),
        ({"most_rows": 0}, ValueError, "most_rows must be"),
        ({"threads": 0}, ValueError, "threads must be"),
        ({"backend": "fussed"}, ValueError, "unknown backend 'fussed'; choose from: auto, reference"),
        ({"initial": ([], [])}, ValueError, "initial weights must hold 2 arrays"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options, error, message):
    given = {"network": NETWORK, "optimizer": Adam()} | options
    with pytest.raises(error, match=message):
        Stepper(given.pop("network"), given.pop("optimizer"), **given)


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


def test_arrays_may_lie_in_any_order():
    stepper, other = stepped(), stepped()
    assert stepper.step(np.asfortranarray(X), np.repeat(Y, 2, axis=1)[:, ::2]) == other.step(X, Y)
    out = np.empty((3, 60), "f").T
    np.testing.assert_array_equal(stepper.forward(X[::-1], out), other.forward(X[::-1].copy()))
    np.testing.assert_array_equal(stepper.backward(Y[::-1]), other.backward(Y[::-1].copy()))


@pytest.mark.parametrize("backend", ["fused", "specialized", "reference"])
@pytest.mark.parametrize("optimizer", [Adam(), Adam(clip_norm=0.1)], ids=["Adam", "clipped"])
def test_a_whole_step_leaves_the_gradients_as_they_are(backend, optimizer):
    stepper = Stepper(Network([3, 5, 2], "tanh", l2=0.1), optimizer, dtype="float64", backend=backend)
    stepper.gradients[...] = 7
    stepper.step(np.ones((4, 3)), np.ones((4, 2)))
    assert (stepper.gradients == 7).all()
