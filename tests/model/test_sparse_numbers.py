"""A block of sparse numbers next to dense ones: the bits of the same columns as a dense block, everywhere."""

import numpy as np
import pytest
import scipy.sparse
from support import input_blocks
from support.input_blocks import CODES, COLUMNS, LEVELS, NUMBERS, WIDTHS, Y
from support.input_blocks import WORDS as CSR
from support.refusals import refusals
from support.selection import matrix, quick

import fastmlp
from fastmlp import (
    SGD,
    Adam,
    BatchNorm,
    Categories,
    Checkpoint,
    Dense,
    Dropout,
    Head,
    Network,
    Numbers,
    Periodic,
    SparseAdam,
    SparseNumbers,
    Stepper,
)
from fastmlp.backend import registry
from fastmlp.exchange.steps import folded
from fastmlp.model.backend import dry_run
from fastmlp.model.rows import SparseRows

TEXT = CSR.shape[1]
X, FLAT = [NUMBERS, CODES, CSR], [NUMBERS, CODES, CSR.toarray()]
LAYERS = [Dense(11, "relu"), Dropout(0.2), Dense(6, "silu"), Dense(2)]


def network(last=None, layers=LAYERS, **more):
    blocks = [Numbers(COLUMNS, Periodic(4)), Categories(LEVELS, width=WIDTHS), last or SparseNumbers(TEXT)]
    return Network(inputs=blocks, layers=layers, **more)


def fit(net, optimizer=None, rows=X, **options):
    return input_blocks.fit(net, optimizer, rows, **{"batch_size": 16, **options})


# --- one result ---------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": (SGD(0.1), {}), "Adam": (Adam(0.01), {}), "clipped": (SGD(0.1, 0.9, clip_norm=0.1), {}),
    "Muon": (fastmlp.Muon(0.01), {}), "microbatches": (Adam(0.01), {"accumulate": 3, "batch_size": 8}),
}  # fmt: skip


@quick(1)
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=matrix)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_has_the_bits_of_dense_columns(name, dtype):
    """They come last in both; where a batch has no number in a column, its weights take the same step."""
    optimizer, options = OPTIMIZERS[name]
    layers = [Dense(11, "relu"), Dense(6, "silu"), Dense(2)]  # masks of dropout go by numbers of operations
    net, dense = (network(last, layers, l2=1e-3) for last in (None, Numbers(TEXT)))
    options = {**options, "dtype": dtype, "validation": 0.2}
    expected = fit(dense, optimizer, FLAT, **options)
    exact = [("tiled", 1)] * (dtype == "float32")  # it compiles for 8 s
    for backend, threads in (("fused", 1), ("fused", 3), *exact):
        found = fit(net, optimizer, backend=backend, threads=threads, **options)
        np.testing.assert_array_equal(found.parameters, expected.parameters)
        assert found.history == expected.history
    np.testing.assert_array_equal(found.predict(X), expected.predict(FLAT))
    reference = fit(net, optimizer, backend="reference", **options)
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(reference.parameters, expected.parameters, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ([SparseNumbers(TEXT), Numbers(COLUMNS)], [CSR, NUMBERS]),
        ([SparseNumbers(40), Categories(LEVELS), SparseNumbers(TEXT - 40)],
         [CSR[:, :40], CODES, CSR[:, 40:]]),
        ([SparseNumbers(TEXT)], [CSR]),
        ({"text": SparseNumbers(TEXT), "price": Numbers(COLUMNS)}, {"price": NUMBERS, "text": CSR.tocoo()}),
    ],
    ids=["first", "two", "alone", "named"],
)  # fmt: skip
@pytest.mark.parametrize(
    "layers", [[Dense(2)], [Dense(7, "tanh"), BatchNorm(), Dense(2)]], ids=["linear", "two"]
)
@pytest.mark.parametrize("backend", ["fused", pytest.param("tiled", marks=matrix)])
def test_blocks_in_any_order_train_on_every_backend(backend, inputs, rows, layers):
    net = Network(inputs=inputs, layers=layers)
    expected, got = (fit(net, rows=rows, backend=name) for name in ("reference", backend))
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(got.predict(rows), expected.predict(rows), rtol=1e-9, atol=1e-11)


def test_texts_of_20000_columns_with_numbers_and_a_category():
    """One matrix of all weights, of which plain SGD and SparseAdam touch the rows of a batch's words."""
    rng = np.random.default_rng(1)
    words = scipy.sparse.random_array((64, 20_000), density=0.002, rng=rng, format="csr")
    rows = {"numbers": rng.standard_normal((64, 10)), "kind": rng.integers(0, 7, (64, 1)), "words": words}
    blocks = {"numbers": Numbers(10), "kind": Categories([7], width=4), "words": SparseNumbers(20_000)}
    net = Network(inputs=blocks, layers=[Dense(24, "relu"), Dense(1)])
    there = np.zeros(20_000, bool)
    there[words.indices] = True
    for optimizer in (SGD(0.1), SparseAdam(0.01)):
        start, model = (
            fastmlp.fit(
                net, rows, Y[:64, 0], optimizer=optimizer, epochs=n, batch_size=16, seed=0, progress=False
            )
            for n in (0, 2)
        )
        before, after = (one.layers["dense1"]["weights"] for one in (start, model))
        assert after.shape == (10 + 4 + 20_000, 24)
        moved = (before != after).any(axis=1)
        assert moved[:14].all()
        np.testing.assert_array_equal(moved[14:] & ~there, False)
        assert moved[14:][there].mean() > 0.9  # of some, no unit of the first layer has a slope
        assert np.isfinite(model.predict(rows)).all()


def test_sparse_adam_moves_all_weights_of_dense_columns():
    """As those of sparse ones in which every batch has a number."""
    full = CSR.toarray() + 0.5
    net = Network(inputs=[Numbers(COLUMNS), SparseNumbers(TEXT)], layers=[Dense(5, "tanh"), Dense(2)])
    found = fit(net, SparseAdam(0.01), [NUMBERS, scipy.sparse.csr_array(full)])
    chain = Network([COLUMNS + TEXT, 5, 2], "tanh")
    expected = fit(chain, SparseAdam(0.01), scipy.sparse.csr_array(np.hstack([NUMBERS, full])))
    np.testing.assert_array_equal(found.parameters, expected.parameters)


# --- everywhere ---------------------------------------------------------------------------------------------


def test_a_training_on_other_rows_does_not_go_on(tmp_path):
    fit(network(), epochs=1, callbacks=[Checkpoint(tmp_path / "c")])
    with pytest.raises(fastmlp.CheckpointError, match="these differ: data"):
        fit(network(), rows=[NUMBERS + 1, CODES, CSR], epochs=2, resume=tmp_path / "c")


def test_many_models_have_the_bits_of_each():
    nets = [network(layers=[Dense(units, "relu"), Dense(2)]) for units in (5, 8)]
    rows = dict(zip(("a", "b", "c"), X, strict=True))
    nets = [net.replaced(inputs=dict(zip(rows, net.blocks, strict=True))) for net in nets]
    models = fastmlp.fit_many(nets, rows, Y, epochs=2, batch_size=16, seed=[1, 2], progress=False)
    for net, seed, model in zip(nets, (1, 2), models, strict=True):
        alone = fastmlp.fit(net, rows, Y, epochs=2, batch_size=16, seed=seed, progress=False)
        np.testing.assert_array_equal(model.parameters, alone.parameters)


def test_heads_and_metrics_read_it():
    heads = {"a": Head(1), "b": Head(2, loss="cross_entropy", output="softmax")}
    net = Network(inputs=[Numbers(COLUMNS), SparseNumbers(TEXT)], layers=[Dense(8, "relu")], heads=heads)
    y = {"a": Y[:, 0], "b": (Y[:, 1] > 0).astype(int)}
    options = {"metrics": {"b": ["roc_auc"]}, "validation": 0.2}
    expected, found = (fit(net, rows=X[::2], y=y, backend=b, **options) for b in ("reference", "fused"))
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-9, atol=1e-11)
    assert found.history["validation_b_roc_auc"] == expected.history["validation_b_roc_auc"]


def test_other_formats_have_dense_inputs_in_the_order_of_the_blocks(tmp_path):
    inputs = [Numbers(1), SparseNumbers(30), Categories(LEVELS, width=2), SparseNumbers(TEXT - 30)]
    net = Network(inputs=inputs, layers=[Dense(6, "tanh"), Dense(2)])
    parts = [CSR[:, :30], CSR[:, 30:]]
    model = fit(net, rows=[NUMBERS[:, :1], parts[0], CODES, parts[1]])
    dense = [NUMBERS[:, :1], parts[0].toarray(), CODES, parts[1].toarray()]
    expected = model.predict([NUMBERS[:, :1], parts[0], CODES, parts[1]])
    other, _ = folded(net, model.parameters)
    assert [block.columns for block in other.blocks] == [1, 30, len(LEVELS), TEXT - 30]
    names: dict = {}
    exec(model.to_numpy_source(), names)
    np.testing.assert_allclose(names["predict"](dense), expected, rtol=1e-12, atol=1e-12)
    pytest.importorskip("onnx", reason="onnx is not installed")
    model.to_onnx(tmp_path / "m.onnx")
    read = fastmlp.Model.from_onnx(tmp_path / "m.onnx")
    np.testing.assert_allclose(read.predict(dense), expected, rtol=1e-12, atol=1e-12)


# --- careless input -----------------------------------------------------------------------------------------

WRONG = {
    "an array": (lambda: np.hstack(FLAT), "X must be a list or a dict of blocks"),
    "all sparse": (lambda: scipy.sparse.csr_array(np.hstack(FLAT)), "X must be a list or a dict of blocks"),
    "dense": (lambda: FLAT, r"X\[2\] must be a sparse matrix of SciPy's, \(rows, 70\), got "),
    "columns": (lambda: [NUMBERS, CODES, CSR[:, :9]], r"X\[2\] must be .* got shape \(120, 9\)"),
    "a row": (lambda: [NUMBERS, CODES, CSR[:9]], r"as many rows each, got \[120, 120, 9\]"),
    "too few": (lambda: [NUMBERS, CODES], "X must hold 3 blocks, got 2"),
    "NaN": (lambda: [NUMBERS, CODES, CSR * np.inf], r"X\[2\] must be finite"),
    "texts": (lambda: [NUMBERS, CODES, CSR.astype(complex)], r"X\[2\] must hold real numbers"),
    "turned round": (lambda: [CSR, CODES, NUMBERS], r"X\[0\] must be dense"),
    "codes": (lambda: [NUMBERS, CODES + 3, CSR], "is no code"),
}

test_careless_rows_are_one_line = refusals(
    {name: (lambda make=make: fit(network(), rows=make()), said) for name, (make, said) in WRONG.items()}
)


test_careless_calls_are_one_line = refusals(
    [
        (lambda: SparseNumbers(0), "count must be at least 1"),
        (lambda: network(layers=[BatchNorm(), Dense(2)]),
         "SparseNumbers need a Dense as the first of layers"),
        (lambda: network(layers=[BatchNorm()], heads={"a": Head(1)}),
         "SparseNumbers need a Dense as the first of layers"),
        (lambda: fit(Network(inputs=[SparseNumbers(TEXT)], layers=[Dense(2)]), rows=[CSR], mixup=0.2),
         "mixup mixes dense rows"),
        (lambda: fit(network()).predict(np.hstack(FLAT)), "X must be a list or a dict of blocks"),
        (lambda: Stepper(network(), Adam()).step(FLAT, Y), r"X\[2\] must be a sparse matrix"),
        (lambda: fit(network()).to_sklearn(), "blocks of inputs"),
    ]
)  # fmt: skip


def test_a_compilation_takes_a_step_on_rows_of_the_network():
    """With dense rows the step would write behind the parameters."""
    net, found = network(), []
    for name in ("reference", "fused"):
        state, data, chunk = dry_run(net, Adam(), np.float64, [5])
        assert data.inputs.shape == (5, net.n_in)
        net.check_sparse(isinstance(data.inputs, SparseRows))
        state = registry.get(name).train_chunk(net, Adam(), state, data, chunk, 0, 1, losses := np.empty(1))
        found.append([*losses, *state.moments.ravel()])
    np.testing.assert_allclose(*found, rtol=1e-12)
