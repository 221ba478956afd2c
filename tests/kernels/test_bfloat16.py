"""`dtype="bfloat16"`: operands of products are rounded, all else is float32, as the reference has it."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import sklearn.datasets
from support.auto_choice import forget_choices
from support.selection import campaign, matrix, quick

import fastmlp
from fastmlp import SGD, Adam, Dense, Members, Network
from fastmlp.backend import registry
from fastmlp.backend.reference import bfloat16
from fastmlp.kernels.jit.bind import slot
from fastmlp.kernels.mixed import tiles
from fastmlp.model.layout import aligned
from fastmlp.model.state import LEAST_SIDE, takes_bfloat16

POSSIBLE = [name for name, why_not in tiles.WHY_NOT.items() if why_not() is None]

compiled = pytest.mark.skipif(not POSSIBLE, reason="this processor multiplies no bfloat16 numbers")
each_way = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == POSSIBLE[0] else pytest.mark.matrix) for name in POSSIBLE]
)
"""The quick suite trains by the fastest; of the others it has the products alone."""

F4 = np.dtype(np.float32)


# --- the products ----------------------------------------------------------------------------------

SHAPES = [(1, 32, 32), (3, 33, 40), (45, 70, 50), (33, 100, 129), (130, 300, 64), (600, 64, 33)]
"""Rows, inputs and units: whole blocks, and edges of each kind."""

LEAST = 1, LEAST_SIDE, LEAST_SIDE
DRAWN = np.maximum(np.random.default_rng(0).integers(1, [700, 600, 600], (100, 3)), LEAST).tolist()
"""More of them, also with more tiles than stay in L2."""


def numbers(rng, *shape):
    array = aligned(int(np.prod(shape)), F4).reshape(shape)
    array[...] = rng.standard_normal(shape)
    return array


def room_for(rows, n_in, n_out):
    """Scratch as long as the variant asks for, and a guard behind it."""
    length = tiles.buffers([(n_in, n_out)], rows)["scratch"]
    scratch = aligned(length + 64, F4)
    scratch[...] = np.nan
    return scratch[:length], scratch[length:]


def check(got, a, b, more=0.0):
    """Hold a product to that of rounded operands: sums of float32 in any order are within this."""
    a, b = bfloat16(a).astype(float), bfloat16(b).astype(float)
    bound = 2 * np.finfo(F4).eps * np.sqrt(a.shape[1]) * (np.abs(a) @ np.abs(b) + np.abs(more))
    np.testing.assert_array_less(np.abs(got - (a @ b + more)), bound + 1e-30)


@quick(2)
@pytest.mark.parametrize("name", POSSIBLE)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("rows", "n_in", "n_out"), [*SHAPES, *(pytest.param(*shape, marks=campaign) for shape in DRAWN)]
)
def test_rounded_operands_are_multiplied(rows, n_in, n_out, ordered, name):
    variant, rng = registry.shipped()[name], np.random.default_rng(rows)
    x, w, b = numbers(rng, rows + 5, n_in), numbers(rng, n_in, n_out), numbers(rng, n_out)
    delta, out = numbers(rng, rows, n_out), np.full((rows, n_out), np.nan, F4)
    order = rng.permutation(rows + 5)[:rows] if ordered else np.empty(0, np.int64)
    batch = x[order] if ordered else x[:rows]
    scratch, guard = room_for(rows, n_in, n_out)
    first, last = rows // 3, rows

    slot(variant, "affine_rows")(x if ordered else batch, order, w, b, out, first, last, False, scratch)
    check(out[first:], batch[first:], w, b.astype(float))
    assert np.isnan(out[:first]).all()
    z = out.copy()
    slot(variant, "affine_rows")(x if ordered else batch, order, w, b, out, first, last, True, scratch)
    assert np.array_equal(out[first:], np.maximum(z[first:], 0))

    below, hidden = np.full((rows, n_in), np.nan, F4), numbers(rng, rows, n_in)
    slot(variant, "input_gradient_rows")(delta, w, hidden, below, first, last, False, scratch)
    check(below[first:], delta[first:], w.T)
    ungated = below.copy()
    slot(variant, "input_gradient_rows")(delta, w, hidden, below, first, last, True, scratch)
    assert np.array_equal(below[first:], np.where(hidden > 0, ungated, 0)[first:])

    one, first, gradient = F4.type(1), n_in // 3, np.full((n_in, n_out), np.nan, F4)
    gradients = slot(variant, "weight_gradient_rows")
    given = (x if ordered else batch), order, delta
    gradients(*given, gradient[first:], (first, first, n_in), (False, one, one), gradient, scratch)
    check(gradient[first:], batch.T[first:], delta)
    assert np.isnan(gradient[:first]).all()
    rate, l2, stepped = F4.type(0.25), F4.type(0.5), w.copy()
    gradients(*given, stepped, (0, first, n_in), (True, rate, l2), stepped, scratch)
    assert np.array_equal(stepped[:first], w[:first])
    expected = w[first:] - rate * (gradient[first:] + l2 * w[first:])
    np.testing.assert_allclose(stepped[first:], expected, rtol=0, atol=4e-7 * np.abs(expected).max())
    assert np.isnan(guard).all()


def test_small_layers_stay_float32_and_a_dtype_of_that_name_is_it():
    assert fit(SimpleNamespace(name="bfloat16"), "reference", epochs=1).backend == "reference_bfloat16"
    assert takes_bfloat16(LEAST_SIDE, LEAST_SIDE)
    assert not takes_bfloat16(LEAST_SIDE - 1, 500)
    assert not takes_bfloat16(500, LEAST_SIDE - 1)
    assert tiles.buffers([(500, 20), (20, 500), (500, 10)], 64)["scratch"] == 0


# --- trainings -------------------------------------------------------------------------------------

RNG = np.random.default_rng(5)
X, Y = RNG.random((150, 70), F4), RNG.integers(0, 10, 150)
NETWORK = Network([70, 50, 40, 10], output="softmax", loss="cross_entropy")


def fit(dtype="bfloat16", backend="auto", network=NETWORK, inputs=X, **options):
    given = {"epochs": 2, "batch_size": 45, "seed": 0, "progress": False, **options}
    return fastmlp.fit(network, inputs, Y, dtype=dtype, backend=backend, **given)


@matrix
@compiled
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(clip_norm=1.0)], ids=["sgd", "adam"])
def test_a_training_is_that_of_the_reference_with_rounded_operands(optimizer):
    got, expected, exact = (
        fit(dtype, backend, optimizer=optimizer)
        for dtype, backend in (("bfloat16", "auto"), ("bfloat16", "reference"), ("float32", "reference"))
    )
    assert (got.backend, expected.backend) == (POSSIBLE[0], "reference_bfloat16")
    assert got.parameters.dtype == F4
    assert (bfloat16(got.parameters) != got.parameters).mean() > 0.9, "parameters are not rounded"
    # A last bit of float32 may turn the rounding of an activation: it is nearer to the one than to the other.
    off, far = (np.abs(got.parameters - other.parameters).max() for other in (expected, exact))
    assert off < 0.1 * far
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-4)
    np.testing.assert_allclose(got.predict(X), expected.predict(X), atol=2e-3)


@matrix
@each_way
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam()], ids=["sgd", "adam"])
def test_any_number_of_threads_gives_the_same_bits(optimizer, name):
    """However small the work: each worker has its own rows, and its own weights."""
    variant = registry.shipped()[name]
    found = set()
    for count in (1, 2, 3):
        backend = registry.backend_of(variant._replace(workers=lambda work, count=count: count))
        found.add(trained_by(backend, optimizer).tobytes())
    assert len(found) == 1


def trained_by(backend, optimizer):
    from fastmlp.model.backend import Chunk, Data
    from fastmlp.model.layout import parameter_count
    from fastmlp.model.state import initial_state

    rng, size = np.random.default_rng(1), parameter_count(NETWORK)
    state = initial_state((0.2 * rng.standard_normal(size)).astype(F4))
    data = Data(X, np.eye(10, dtype=F4)[Y], np.ones(len(X), F4))
    starts = np.array([0, 100])
    chunk = Chunk(rng.permutation(150), starts, starts + 50, np.full(2, 50.0), np.full((2, 2), 0.1), 50)
    return backend.train_chunk(NETWORK, optimizer, state, data, chunk, 0, None, np.empty(2)).parameters


@matrix
@compiled
def test_digits_are_classified_as_well_as_in_float32(report_figure):
    digits = sklearn.datasets.load_digits()
    pixels, labels = (digits.data / 16).astype(F4), digits.target
    network = Network([64, 128, 64, 10], output="softmax", loss="cross_entropy")
    scores = {}
    for dtype in ("float32", "bfloat16"):
        model = fastmlp.fit(
            network, pixels[:1200], labels[:1200], epochs=30, seed=0, dtype=dtype, progress=False, threads=1
        )
        scores[dtype] = (model.predict(pixels[1200:]).argmax(axis=1) == labels[1200:]).mean()
    report_figure(", ".join(f"{dtype} {score:.1%}" for dtype, score in scores.items()))
    assert scores["bfloat16"] > 0.9
    assert abs(scores["bfloat16"] - scores["float32"]) < 0.015


@matrix
@compiled
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators_and_blocks_of_rows_take_it():
    def blocks():
        return iter([(X[:100], Y[:100]), (X[100:], Y[100:])])

    model = fastmlp.fit(NETWORK, blocks, epochs=2, batch_size=45, seed=0, dtype="bfloat16", progress=False)
    assert (model.backend, model.parameters.dtype) == (POSSIBLE[0], F4)
    classifier = fastmlp.MLPClassifier((50,), max_iter=30, dtype="bfloat16", random_state=0, tol=0).fit(X, Y)
    assert (classifier.model_.backend, classifier.model_.parameters.dtype) == (POSSIBLE[0], F4)
    assert classifier.loss_curve_[-1] < 0.95 * classifier.loss_curve_[0]
    with pytest.raises(ValueError, match=r"^solver 'lbfgs' takes no dtype 'bfloat16'; choose from: adam, "):
        fastmlp.MLPClassifier(dtype="bfloat16", solver="lbfgs").fit(X, Y)
    with pytest.raises(ValueError, match=r"^dtype 'bfloat16' goes with the backends "):
        fastmlp.MLPClassifier(dtype="bfloat16", backend="fused").fit(X, Y)


@matrix
@compiled
def test_sparse_inputs_stay_float32():
    some = np.where(RNG.random(X.shape) < 0.1, X, 0)
    got, expected = (
        fit(backend=backend, inputs=scipy.sparse.csr_array(some)) for backend in ("auto", "reference")
    )
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-4)


@matrix
@compiled
def test_each_member_predicts_with_rounded_operands():
    layers = [Members(3), Dense(50, "relu"), Dense(40, "tanh"), Dense(10)]
    network = Network(inputs=70, layers=layers, output="softmax", loss="cross_entropy")
    model = fit(network=network)
    exact = fit("float32", "reference", network, epochs=0, initial=model).predict_members(X)
    members, predicted = model.predict_members(X), model.predict(X)
    off, far = (np.abs(one.mean(axis=0) - predicted).max() for one in (members, exact))
    assert off < 0.1 * far


@matrix
@compiled
def test_a_model_is_pickled_and_a_training_goes_on(tmp_path):
    whole = fit(epochs=4)
    path = tmp_path / "training"
    fit(epochs=2, callbacks=[fastmlp.Checkpoint(path)])
    resumed = fit(epochs=4, resume=path, callbacks=[fastmlp.Checkpoint(path)])
    assert np.array_equal(resumed.parameters, whole.parameters)
    parameters = fit(epochs=4, dtype=None, resume=path).parameters  # the file says how it was trained
    assert np.array_equal(parameters, whole.parameters)
    for backend in ("auto", "reference"):
        begun, done = (fit(epochs=epochs, backend=backend) for epochs in (1, 2))
        more = begun.fit_more(X, Y, epochs=1)
        assert more.backend == done.backend
        assert np.array_equal(more.parameters, done.parameters)
    again = pickle.loads(pickle.dumps(whole))
    assert again.backend == POSSIBLE[0]
    assert np.array_equal(again.predict(X), whole.predict(X))


# --- off unless asked for, and refused in one line --------------------------------------------------


def test_nobody_gets_it_by_default_and_other_backends_are_refused():
    assert not {*registry.mixed()} & {*fastmlp.backends()}
    network = Network([70, 10], loss="cross_entropy", output="softmax")
    assert fit(None, epochs=1, network=network).backend == "fused"
    unknown = r"unknown backend 'bfloat16_amx'; .*choose from: auto, reference, baseline"
    with pytest.raises(ValueError, match=unknown):
        fit("float32", "bfloat16_amx")
    choices = "auto, reference, bfloat16_amx, bfloat16_avx512, reference_bfloat16"
    with pytest.raises(ValueError, match=f"^dtype 'bfloat16' goes with the backends {choices}; got 'fused'$"):
        fit(backend="fused")


def test_a_processor_without_it_is_refused(monkeypatch):
    forget_choices(monkeypatch)  # a process has one processor
    for name in tiles.WHY_NOT:
        monkeypatch.setitem(tiles.WHY_NOT, name, lambda: "the processor (old) has no avx512bf16")
    reason = (
        "^dtype 'bfloat16' needs other instructions, or backend='reference'; bfloat16_amx: the processor "
    )
    with pytest.raises(ValueError, match=reason):
        fit()
    with pytest.raises(ValueError, match=r"^the backend 'bfloat16_avx512' cannot run here: the processor"):
        registry.get("bfloat16_avx512")


@compiled
def test_a_model_predicts_where_the_instruction_is_not(monkeypatch, tmp_path):
    model = fit(epochs=1)
    fastmlp.save(model, tmp_path / "model")
    pickled, expected = pickle.dumps(model), model.predict(X)
    for name in tiles.WHY_NOT:
        monkeypatch.setitem(tiles.WHY_NOT, name, lambda: "the processor (old) has no avx512bf16")
    for there in (fastmlp.load(tmp_path / "model"), pickle.loads(pickled)):
        assert there.backend == "reference_bfloat16"
        np.testing.assert_allclose(there.predict(X), expected, rtol=0, atol=1e-3)  # a sum's order


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_other_dtype_goes_on_with_it(tmp_path):
    path = tmp_path / "training"
    fit(epochs=1, backend="reference", callbacks=[fastmlp.Checkpoint(path)])
    with pytest.raises(ValueError, match="products that are bfloat16, got dtype"):
        fit(np.float64, epochs=2, backend="reference", resume=path)
    few = {"max_iter": 1, "tol": 1e9, "n_iter_no_change": 1}
    estimator = fastmlp.MLPRegressor(hidden_layer_sizes=(4,), backend="reference", **few)
    rows, numbers = np.ones((8, 3)), np.arange(8.0)
    estimator.fit(rows, numbers).set_params(dtype="bfloat16", warm_start=True)
    with pytest.raises(ValueError, match="'bfloat16' keeps float32 parameters, and these are float64"):
        estimator.fit(rows, numbers)


def test_its_backends_are_no_bases(monkeypatch):
    from fastmlp.backend.declarations import checked
    from fastmlp.kernels import Variant
    from fastmlp.kernels.variants import bfloat16_avx512

    mine = Variant("mine", bfloat16_avx512.VARIANT, {})
    assert mine.inheriting().buffers is bfloat16_avx512.VARIANT.buffers
    with pytest.raises(ValueError, match="'bfloat16_avx512' serves dtype 'bfloat16' alone and is no base"):
        checked(mine, ())


@pytest.mark.parametrize(
    ("features", "platform", "answer", "reason"),
    [
        ("+avx2,-amx-tile", "linux", 0, "the processor (cpu) has no avx512bf16 and no avx512bw and no amx-"),
        ("", "darwin", 0, "darwin gives no process AMX's tiles"),
        ("", "linux", -1, "the system gives this process none of AMX's tiles"),
    ],
)
def test_why_there_are_no_tiles(monkeypatch, features, platform, answer, reason):
    features = features or ",".join(f"+{name}" for name in tiles.TILES)
    system = {
        "processor": lambda: ("", "cpu", features), "host": lambda: tiles.AVX512, "sys.platform": platform,
        "ctypes.CDLL": lambda *a, **k: SimpleNamespace(syscall=lambda *a: answer),
    }  # fmt: skip
    for name, value in system.items():
        monkeypatch.setattr(f"fastmlp.kernels.mixed.tiles.{name}", value)
    assert tiles.why_no_tiles.__wrapped__().startswith(reason)
    monkeypatch.setattr(tiles, "host", lambda: None)
    assert tiles.why_no_vectors().endswith(" has no avx512f")
