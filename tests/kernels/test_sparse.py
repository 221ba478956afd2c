"""Sparse inputs give the numbers of dense ones: parameters, history and predictions, equal where exact."""

import functools

import numpy as np
import pytest
import scipy.sparse
from support.problems import COMPILED_DTYPES, eps
from support.selection import crossed, matrix, quick
from test_arithmetic import EXACT, TUNINGS, Outcome, by_chunk, by_gradients, of_workers

import fastmlp
from fastmlp import SGD, Adam, AdamW, Group, Network, RMSprop, SparseAdam
from fastmlp.backend import registry
from fastmlp.data import sparse as sparse_data
from fastmlp.kernels.gemm.sparse import AXES, BLOCKED, FAR, FAR_BLOCKED, SUMS
from fastmlp.kernels.jit import engine
from fastmlp.kernels.thresholds import forced
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.rows import SparseRows, density_of, find_nonzero_columns
from fastmlp.training import preparation

SUMS_IN_ORDER = ("baseline", *EXACT)
"""Backends whose products are chains over ascending terms, each of which a zero leaves as it is."""

NOT_QUICK = {name: [matrix] * (name != "fused") for name in SUMS_IN_ORDER}
each_in_order = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=marks) for name, marks in NOT_QUICK.items()]
)

CLASSES = {"output": "softmax", "loss": "cross_entropy"}

NETWORKS = {
    "one layer": ((61, 5), CLASSES),
    "relu": ((77, 30, 3), {"hidden": "relu", **CLASSES}),
    "wide": ((40, 150, 3), {"hidden": "relu", **CLASSES}),
    "dropout": ((77, 33, 17, 3), {"hidden": ["relu", "gelu"], "dropout": 0.3, **CLASSES}),
    "l2": ((130, 20, 2), {"hidden": "tanh", "l2": 0.01}),
    "l1, l2": ((130, 20, 2), {"hidden": "relu", "l1": 0.003, "l2": 0.01, "convention": "sklearn"}),
    "many columns": ((3000, 9, 2), {"hidden": "relu"}),
}

OPTIMIZERS = {
    "sgd": SGD(0.1), "bias rate": SGD(0.1, bias_learning_rate=0.01), "momentum": SGD(0.1, 0.9),
    "rmsprop": RMSprop(0.01), "adam": Adam(0.01), "adamw": AdamW(0.01),
    "clipping": Adam(0.01, clip_norm=0.1), "frozen": None, "sparse adam": SparseAdam(0.01),
}  # fmt: skip


def words(rows, columns, rng, share=0.08):
    """Rows of which a share of the numbers is not 0; one row and one column have none."""
    X = np.where(rng.random((rows, columns)) < share, rng.standard_normal((rows, columns)), 0)
    X[rows // 2] = 0
    X[:, columns // 3] = 0
    return X


def targets_of(network, rng, rows):
    if network.loss == "cross_entropy":
        return rng.integers(0, network.n_out, rows)
    return rng.standard_normal((rows, network.n_out))


def optimizer_for(name):
    return OPTIMIZERS[name] or SGD(0.1, groups={"dense1": Group(rate=0)})


@functools.cache
def trained(backend, which, optimizer, dtype, sparse, threads=1):
    sizes, options = NETWORKS[which]
    network, rng = Network(sizes, **options), np.random.default_rng(5)
    X = words(150, sizes[0], rng)
    y, weights = targets_of(network, rng, 150), rng.integers(0, 3, 150)
    given = scipy.sparse.csr_matrix(X) if sparse else X
    model = fastmlp.fit(
        network, given, y, optimizer=optimizer_for(optimizer), epochs=3, batch_size=32,
        seed=3, sample_weight=weights, validation=0.2, backend=backend, dtype=dtype, threads=threads,
    )  # fmt: skip
    return model, model.predict(given), model.predict(given[:1])


@quick(6)
@crossed(backend=registry.backends(), which=list(NETWORKS), optimizer=list(OPTIMIZERS), dtype=COMPILED_DTYPES)
def test_sparse_and_dense_inputs_train_the_same(backend, which, optimizer, dtype):
    if backend not in SUMS_IN_ORDER:
        # In float32 a gradient that cancels to its rounding may have either sign, of which an adaptive rate
        # makes a whole step.
        dtype = np.float64
    (sparse, *predicted), (dense, *correct) = (
        trained(backend, which, optimizer, dtype, given) for given in (True, False)
    )
    found = [sparse.parameters, *sparse.history.values(), *predicted]
    expected = [dense.parameters, *dense.history.values(), *correct]
    for got, want in zip(found, expected, strict=True):
        if backend in SUMS_IN_ORDER:
            np.testing.assert_array_equal(got, want)
        else:
            # 12 steps; in each two sums of a dozen terms of about 1, in orders that the BLAS chooses for the
            # processor, each off by up to 11 roundings, which adaptive rates divide by the root of a mean of
            # squares of about 1e-2.
            np.testing.assert_allclose(got, want, rtol=0, atol=12 * 1e2 * 2 * 11 * eps(dtype))


@matrix
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=matrix)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "sparse adam", "clipping"])
@pytest.mark.parametrize("which", ["wide", "l1, l2", "many columns"])
def test_workers_and_single_gradients_have_the_bits_of_one(which, optimizer, dtype):
    sizes, options = NETWORKS[which]
    network, rng = Network(sizes, **options), np.random.default_rng(1)
    rows = 130
    X = words(rows, sizes[0], rng).astype(dtype)
    targets = targets_of(network, rng, rows)
    targets = (np.eye(sizes[-1])[targets] if network.loss == "cross_entropy" else targets).astype(dtype)
    order = rng.permutation(rows)
    starts = np.arange(0, rows, 50)
    stops = np.minimum(starts + 50, rows)
    chunk = Chunk(order, starts, stops, (stops - starts).astype(float), np.full((3, 2), 0.01), 50)
    parameters = rng.standard_normal(parameter_count(Network(sizes)))
    parameters = (0.1 * parameters).astype(dtype)
    dense = Data(X, targets, np.ones(rows, dtype))
    sparse = dense._replace(inputs=SparseRows.of(X))
    found = {}
    for inputs, data in (("sparse", sparse), ("dense", dense)):
        for backend, variant in EXACT.items():
            for workers in (1, 3) if variant.workers else (1,):
                several = of_workers(backend, workers)
                found[inputs, backend, workers] = by_chunk(
                    several, network, OPTIMIZERS[optimizer], parameters, data, chunk
                )
            if optimizer != "sparse adam":  # gradients do not say which columns have non-zeros
                found[inputs, backend, "gradient, update"] = by_gradients(
                    backend, network, OPTIMIZERS[optimizer], parameters, data, chunk
                )
    first, *others = found
    for other in others:
        for what in Outcome._fields:
            got, correct = getattr(found[other], what), getattr(found[first], what)
            assert np.array_equal(got, correct), f"{what} of {other} are not those of {first}"


@matrix
@each_in_order
def test_subnormal_weights_are_taken_for_0_as_dense_steps_do(backend):
    rng = np.random.default_rng(0)
    X, y = words(40, 1000, rng, 0.001), rng.standard_normal(40)
    start = ([rng.standard_normal((1000, 2)) * 1e-310, np.ones((2, 1))], [np.zeros(2), np.zeros(1)])
    options = {"optimizer": SGD(0.1), "epochs": 1, "initial": start, "seed": 0, "backend": backend}
    sparse, dense = (
        fastmlp.fit(Network([1000, 2, 1]), given, y, **options).parameters
        for given in (scipy.sparse.csr_array(X), X)
    )
    np.testing.assert_array_equal(sparse, dense)
    assert not ((sparse != 0) & (np.abs(sparse) < np.finfo(float).tiny)).any()
    assert find_nonzero_columns(X).mean() < 0.1


@quick(3)
@each_in_order
@pytest.mark.parametrize("optimizer", [SGD(1e60), SGD(1e200, 0.9), Adam(1e300), SGD(1e200, clip_norm=1e300)])
def test_what_diverges_diverges_at_the_same_step(backend, optimizer):
    rng = np.random.default_rng(0)
    X, y = words(60, 50, rng), rng.standard_normal(60)
    errors, options = [], {"optimizer": optimizer, "epochs": 9, "seed": 0, "backend": backend}
    for given in (scipy.sparse.csr_array(X), X):
        with pytest.raises(fastmlp.DivergenceError) as caught:
            fastmlp.fit(Network([50, 8, 1], "relu"), given, y, **options)
        errors.append(caught.value)
    sparse, dense = errors
    assert (sparse.step, sparse.epoch) == (dense.step, dense.epoch)
    assert str(sparse) == str(dense)
    np.testing.assert_array_equal(sparse.parameters, dense.parameters)


@each_in_order
def test_a_prediction_skips_zeros_whatever_the_weight(backend):
    network = Network([3, 1])
    X = np.array([[1.0, 0.0, 2.0]])
    for name in (backend, "reference"):
        model = fastmlp.fit(network, X, [0.0], epochs=0, backend=name, seed=0)
        model.parameters[1] = np.inf
        assert np.isfinite(model.predict(scipy.sparse.csr_array(X))).all()
        with np.errstate(invalid="ignore"):
            assert np.isnan(model.predict(X)).all()


def test_rows_of_a_dense_array_and_back():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (40, 7), (3, 2000)):
        X = words(*shape, rng, 0.3)
        rows = SparseRows.of(X)
        assert (rows.shape, len(rows), rows.dtype) == (shape, shape[0], X.dtype)
        assert len(rows.values) / X.size == density_of(X) == np.count_nonzero(X) / X.size
        np.testing.assert_array_equal(rows.matrix().toarray(), X)
        for some in (slice(1, 3), slice(0, 0), slice(0, None, 2), np.array([0, shape[0] - 1, 0])):
            np.testing.assert_array_equal(rows[some].matrix().toarray(), X[some])
            assert rows[some].indptr[0] == 0
        counts = np.sort(np.count_nonzero(X, axis=1))[::-1]
        for count in (1, 2, shape[0], shape[0] + 5):
            assert rows.most(count) == counts[:count].sum()
        np.testing.assert_array_equal(find_nonzero_columns(rows), find_nonzero_columns(X))
    matrix = rows.matrix()  # SciPy's, without a copy of the numbers
    assert np.shares_memory(matrix.indices, rows.indices)
    assert np.shares_memory(matrix.data, rows.values)


@pytest.mark.parametrize("share", [0.05, 0.9])
@pytest.mark.parametrize("backend", ["fused", pytest.param("baseline", marks=matrix), "reference"])
def test_dense_inputs_that_are_mostly_zeros_are_passed_over_in_the_same_bits(backend, share, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = words(200, 300, rng, share).astype("f"), rng.integers(0, 3, 200)
    network = Network([300, 64, 3], "relu", **CLASSES)
    options = {"epochs": 6, "seed": 0, "backend": backend, "optimizer": SGD(0.1, 0.9)}
    taken = []
    turn = sparse_data.inputs_of_steps

    def watched(*given):
        taken.append(turn(*given))
        return taken[-1]

    monkeypatch.setattr(preparation, "inputs_of_steps", watched)
    model = fastmlp.fit(network, X, y, **options)
    assert any(isinstance(one, SparseRows) for one in taken) == (share < 0.5 and backend in EXACT)
    monkeypatch.setattr(preparation, "inputs_of_steps", lambda *given: given[4])
    dense = fastmlp.fit(network, X, y, **options)
    np.testing.assert_array_equal(model.parameters, dense.parameters)
    assert model.history == dense.history


def test_short_trainings_and_small_networks_are_not_worth_turning_their_inputs():
    X = np.zeros((20, 50), np.float32)
    for backend, epochs, turned in (("fused", 1, False), ("fused", 50, True), ("specialized", 99, False)):
        given = registry.get(backend), Network([50, 64, 2]), SGD(), 20, X, epochs
        inputs = sparse_data.inputs_of_steps(*given)
        assert isinstance(inputs, SparseRows) if turned else inputs is X


@pytest.mark.parametrize(
    ("sizes", "rows", "share", "correct"),
    [
        ((640, 128, 2), 70, 0.25, BLOCKED),  # five whole blocks
        ((9000, 120, 2), 270, 0.004, FAR_BLOCKED),
        ((9000, 120, 2), 10, 0.001, FAR),
    ],
)
def test_sums_by_blocks_of_weights_have_the_bits_of_dense_ones(sizes, rows, share, correct):
    network, rng = Network(sizes, "relu", **CLASSES), np.random.default_rng(2)
    X = words(rows, sizes[0], rng, share).astype(np.float32)
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, rows)]
    dense = Data(X, targets, np.ones(rows, np.float32))
    order, stops = rng.permutation(rows), np.array([rows])
    chunk = Chunk(order, stops - rows, stops, stops.astype(float), np.full((1, 2), 0.01), rows)
    parameters = 0.1 * rng.standard_normal(parameter_count(Network(sizes)), np.float32)

    def steps(data):
        return by_chunk(registry.get("fused"), network, SGD(0.1), parameters, data, chunk)

    of_dense = steps(dense)
    for tuning in ({}, *TUNINGS.values()):
        with forced(tuning):
            of_sparse = steps(dense._replace(inputs=SparseRows.of(X)))
        for got, expected in zip(of_sparse, of_dense, strict=True):
            assert np.array_equal(got, expected)
    codes = [int(code) for name, _, code in engine.loaded_functions if name == SUMS]
    assert correct in np.unravel_index(codes, AXES)[2]  # else the shapes have to change with the limits
