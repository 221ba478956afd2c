"""What a `Stepper` holds: copies, files, views of its arrays, and nothing that a step allocates."""

import copy
import functools
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.sparse import csr_array
from support.drawn_networks import drawn_network, pick
from support.guarded_memory import guarded, guarded_workspaces
from support.problems import COMPILED_DTYPES, PAIRS, eps
from support.selection import few, matrix, quick, seeds
from support.steppers import NETWORK, X, Y, stepped

import fastmlp
from fastmlp import SGD, Adam, AdamW, Cosine, Dense, Muon, Network, Numbers, RMSprop, StepDecay, Stepper
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Batch


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


def test_a_copy_has_the_bins_that_quantiles_have_made_and_parameters_that_are_not_finite():
    network = Network(inputs=[Numbers(4, fastmlp.PiecewiseLinear(3))], layers=[Dense(Y.shape[1])])
    model = fastmlp.fit(network, [X], Y, epochs=1, seed=0, backend="reference")
    stepper = Stepper(network, SGD(0.1), initial=model, backend="reference")
    twin = pickle.loads(pickle.dumps(stepper))
    assert go_on(twin) == go_on(stepper.copy()) == go_on(stepper)
    stepper.parameters[-1] = np.nan
    for twin in (stepper.copy(), pickle.loads(pickle.dumps(stepper))):
        np.testing.assert_array_equal(twin.parameters, stepper.parameters)


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
    with pytest.raises(fastmlp.CheckpointError, match="holds a model without its training"):
        fastmlp.fit(NETWORK, X, Y, resume=path)
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
    one, other = (Stepper(Network((4, 1)), SGD(0.1), seed=0, backend="fused") for _ in range(2))
    assert one.step(X, X[:, 0].copy()) == other.step(X, X[:, :1].copy())


def test_one_column_is_the_target_of_all_quantiles():
    network = Network((4, 3), loss=fastmlp.Quantiles([0.1, 0.5, 0.9]))
    for column in (X[:, 0].copy(), X[:, :1].copy()):
        whole = np.repeat(X[:, :1], 3, axis=1)
        one, other = (Stepper(network, SGD(0.1), seed=0, backend="reference") for _ in range(2))
        assert one.step(X, column) == other.step(X, whole)
        np.testing.assert_array_equal(one.parameters, other.parameters)


def test_steppers_work_side_by_side():
    alone = [go_on(stepped(seed=seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(go_on, [stepped(seed=seed) for seed in range(4)])] == alone


@pytest.mark.parametrize("backend", few(["specialized", "fused"]))
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


# --- derivatives: those of the reference, and differences of the objective --------------------------------


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


@quick(16)
@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize(
    "backend", ["fused", *(pytest.param(name, marks=matrix) for name in ("baseline", "tiled"))]
)
@pytest.mark.parametrize(("network", "training"), CASES)
def test_derivatives_are_those_of_the_reference(network, training, backend, dtype):
    for got, correct in zip(
        derivatives(network, dtype, backend, training), expected(network, training), strict=True
    ):
        # sums of some dozen terms, each rounded
        np.testing.assert_allclose(got, correct, rtol=0, atol=60 * eps(dtype) * np.abs(correct).max())


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


# --- sequences of calls drawn at random: nothing that fails leaves a trace --------------------------------


OPTIMIZERS = (
    SGD(0.05), SGD(0.05, 0.9, True), Adam(0.01), Adam(0.01, amsgrad=True, clip_norm=0.5),
    AdamW(Cosine(0.02, 30)), RMSprop(0.001, momentum=0.5), fastmlp.ScheduleFreeAdamW(0.01), Muon(0.01),
)  # fmt: skip


def rows_for(rng, stepper):
    network, rows = stepper.network, int(rng.integers(2, 9))
    X, y = rng.normal(size=(rows, network.n_in)), rng.normal(size=(rows, network.n_out))
    return X.astype(stepper.parameters.dtype), y.astype(stepper.parameters.dtype)


def mistaken(rng, stepper, folder):
    """A call that must raise, whose arguments are wrong in one place."""
    X, y = rows_for(rng, stepper)
    wrong = pick(rng, [y[:-1], y.astype("f2"), y[:, :0], y.tolist(), None, np.ones((len(y), 77), y.dtype)])
    rest = [
        np.ones((0, X.shape[1]), X.dtype),
        X.T[:, :1].copy(),
        X.tolist(),
        np.ones((5000, X.shape[1]), X.dtype),
    ]
    call = pick(
        rng,
        [
            lambda: stepper.step(X, wrong),
            lambda: stepper.step(X, y, sample_weight=np.ones(len(X) + 1, X.dtype)),
            lambda: stepper.step(pick(rng, rest[:1] + rest[2:]), y),
            lambda: stepper.forward(X, out=np.empty((len(X), 77), X.dtype)),
            lambda: stepper.forward(pick(rng, rest[:1] + rest[2:])),
            lambda: stepper.backward(np.ones((1, 77), X.dtype)),
            lambda: stepper.backward(y, out=np.empty((1, 77), X.dtype)),
            lambda: setattr(stepper, "rate_factor", -1),
            lambda: stepper.load(folder / "no file"),
            lambda: stepper.average_into(stepper, 2.0),
        ],
    )
    with pytest.raises((ValueError, TypeError, OSError)) as raised:
        call()
    assert "\n" not in str(raised.value)


def called(rng, stepper):
    """A valid call of each of two steppers that are the same; what it returns must be the same, too."""
    X, y = rows_for(rng, stepper)
    match int(rng.integers(8)):
        case 0 | 1:
            return lambda one: one.step(X, y)
        case 2:
            weights = rng.integers(0, 3, len(X)).astype(X.dtype)
            weights[0] = 1
            return lambda one: one.step(X, y, weights)
        case 3:
            training = bool(rng.integers(2))
            return lambda one: one.forward(X, training=training)
        case 4 | 5:
            delta, training, inputs = y / len(y), bool(rng.integers(2)), bool(rng.integers(2))

            def passes(one):
                one.forward(X, training=training)
                by_inputs = one.backward(delta, inputs=inputs)
                found = one.gradients.copy(), by_inputs
                one.update()
                return found

            return passes
        case 6:
            factor = float(rng.random() * 2)
            return lambda one: setattr(one, "rate_factor", factor)
        case _:
            return lambda one: one.model().predict(X)


def otherwise(rng, stepper, folder):
    """The stepper in another guise: copied, pickled, or saved and loaded."""
    match int(rng.integers(5)):
        case 0:
            return stepper.copy()
        case 1:
            return copy.deepcopy(stepper)
        case 2:
            return pickle.loads(pickle.dumps(stepper))
        case 3 if np.isfinite(stepper.parameters).all():
            stepper.save(folder / "s")
            other = Stepper(
                stepper.network, stepper.optimizer, dtype=stepper.parameters.dtype, backend=stepper.backend
            )
            other.load(folder / "s")
            return other
    return stepper


def same(one, other):
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return np.array_equal(np.asarray(one, float), np.asarray(other, float), equal_nan=True)


def tried(seed, folder):
    """Two steppers that take the same steps, of which one also meets mistakes and goes through copies."""
    rng = np.random.default_rng(seed)
    backend = pick(rng, ["reference", "fused"])
    own = {"own": ()} if backend == "fused" else {}  # a formula of a user's compiles for seconds
    network, optimizer = drawn_network(rng, **own), pick(rng, OPTIMIZERS)
    options = {"seed": seed, "dtype": pick(rng, ["f4", "f8"]), "backend": backend, "most_rows": 8}
    plain, tormented = (Stepper(network, optimizer, **options) for _ in range(2))
    for _ in range(12):
        call = called(rng, plain)
        if rng.random() < 0.4:
            mistaken(rng, tormented, folder)
        if rng.random() < 0.2:
            tormented = otherwise(rng, tormented, folder)
        assert same(call(plain), call(tormented)), (seed, network, optimizer)
    for name in ("parameters", "moments"):
        assert same(getattr(plain, name), getattr(tormented, name)), (seed, name, network, optimizer)
    assert plain.steps == tormented.steps


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("seed", seeds(3, 20, 600))
def test_what_fails_leaves_no_trace(seed, tmp_path):
    tried(seed, tmp_path)
