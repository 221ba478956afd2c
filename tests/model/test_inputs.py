"""Blocks of inputs: PyTorch's definitions, one result on every backend, and careless input in one line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse
from selection import matrix

import fastmlp
from fastmlp import (
    SGD,
    Adam,
    Categories,
    Checkpoint,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Numbers,
    Periodic,
    PiecewiseLinear,
    SparseAdam,
    Stepper,
)
from fastmlp.model.descriptions import described, restored
from fastmlp.training.model import AT_ONCE

ROWS, COLUMNS, LEVELS = 120, 3, (9, 4, 200)
RNG = np.random.default_rng(0)
NUMBERS = RNG.standard_normal((ROWS, COLUMNS))
CODES = np.stack([RNG.integers(-1, levels, ROWS) for levels in LEVELS], axis=1)
Y = RNG.standard_normal((ROWS, 2))

EMBEDDINGS = {
    "raw": None,
    "periodic": Periodic(5, sigma=0.5),
    "sinusoids": Periodic(6, linear=False),
    "bins": PiecewiseLinear(6),
    "bins and a layer": PiecewiseLinear((-1.0, 0.0, 0.5, 2.0), width=3),
}
WIDTHS = (3, 2, 5)
EXACT = ("fused", "packed", "tiled")


def network(embedding=None, dropout=0.2, **options):
    blocks = [Numbers(COLUMNS, embedding), Categories(LEVELS, **{"width": WIDTHS, **options})]
    layers = [Dense(11, "silu"), LayerNorm(), *([Dropout(dropout)] if dropout else []), Dense(2)]
    return Network(inputs=blocks, layers=layers)


def fit(net, optimizer=None, X=None, **options):
    given = {
        "epochs": 3,
        "batch_size": 32,
        "seed": 1,
        "backend": "fused",
        "dtype": "float64",
        "progress": False,
    }
    X = [NUMBERS, CODES] if X is None else X
    return fastmlp.fit(net, X, Y, optimizer=optimizer or Adam(0.01), **{**given, **options})


# --- definitions --------------------------------------------------------------------------------------------


def units_of_numbers(torch, embedding, own, x):
    """The units of numbers x as the papers define them, number after number; own : tensors by name"""
    if embedding is None:
        return x
    found = [x] if isinstance(embedding, Periodic) and embedding.linear else []
    for g in range(x.shape[1]):
        value = x[:, g : g + 1]
        if isinstance(embedding, Periodic):
            frequencies = own["periodic1"]["frequencies"][g]
            z = 2 * math.pi * value * frequencies
            if embedding.linear:
                units = torch.cos(z + own["periodic1"]["phases"][g])
            else:
                units = torch.cat([torch.sin(z), torch.cos(z)], dim=1)
        else:
            edges, slopes = own["piecewise_linear1"]["edges"][g], own["piecewise_linear1"]["slopes"][g]
            units = (value - edges) * slopes
            units = torch.cat([units[:, :1], units[:, 1:].clamp(min=0)], dim=1)
            units = torch.cat([units[:, :-1].clamp(max=1), units[:, -1:]], dim=1)
        if "grouped1" in own:
            units = units @ own["grouped1"]["weights"][g] + own["grouped1"]["biases"][g]
        found.append(units)
    return torch.cat(found, dim=1)


def as_pytorch(torch, model):
    own = {
        layer: {
            name: torch.tensor(array, requires_grad=name not in ("edges", "slopes"))
            for name, array in arrays.items()
        }
        for layer, arrays in model.layers.items()
    }
    embedding = model.network.inputs[0].embedding

    def forward(numbers, codes):
        tables = list(own["categories1"].values())
        parts = [units_of_numbers(torch, embedding, own, numbers)]
        parts += [
            torch.nn.functional.embedding(column + 1, table)
            for column, table in zip(codes.T, tables, strict=True)
        ]
        x = torch.cat(parts, dim=1)
        x = torch.nn.functional.silu(x @ own["dense1"]["weights"] + own["dense1"]["biases"])
        x = (
            torch.nn.functional.layer_norm(x, x.shape[1:]) * own["layer_norm1"]["gain"]
            + own["layer_norm1"]["shift"]
        )
        return x @ own["dense2"]["weights"] + own["dense2"]["biases"]

    return forward, own


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_fifty_steps_of_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = network(EMBEDDINGS[name], dropout=0)
    options = {"batch_size": None, "shuffle": False}
    start = fit(net, epochs=0, **options)
    forward, own = as_pytorch(torch, start)
    given = torch.tensor(NUMBERS), torch.tensor(CODES), torch.tensor(Y)
    np.testing.assert_allclose(
        start.predict([NUMBERS, CODES]), forward(*given[:2]).detach(), rtol=1e-12, atol=1e-12
    )
    parameters = [one for arrays in own.values() for one in arrays.values() if one.requires_grad]
    optimizer, losses = torch.optim.Adam(parameters, 0.01), []
    for _ in range(50):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(forward(*given[:2]), given[2])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = fit(net, initial=start, epochs=50, **options)
    np.testing.assert_allclose(trained.history["loss"], losses, rtol=1e-9)
    for layer, arrays in trained.layers.items():
        for array_name, array in arrays.items():
            np.testing.assert_allclose(array, own[layer][array_name].detach(), rtol=1e-6, atol=1e-8)


def test_only_rows_of_a_batch_move_as_in_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = Network(inputs=[Categories((50,), width=4)], layers=[Dense(1)])
    codes = RNG.integers(0, 50, (30, 1))
    options = {"batch_size": 5, "shuffle": False, "backend": "fused", "dtype": "float64", "progress": False}
    start = fastmlp.fit(net, [codes], Y[:30, :1], epochs=0, seed=0, **options)
    model = fastmlp.fit(
        net, [codes], Y[:30, :1], optimizer=SparseAdam(0.1), epochs=2, initial=start, **options
    )
    table = torch.nn.Embedding(51, 4, sparse=True, dtype=torch.float64)
    table.weight.data[...] = torch.tensor(start.layers["categories1"]["column0"])
    w, b = (torch.tensor(start.layers["dense1"][name], requires_grad=True) for name in ("weights", "biases"))
    sparse, dense = torch.optim.SparseAdam([table.weight], 0.1), torch.optim.Adam([w, b], 0.1)
    for at in [*range(0, 30, 5)] * 2:
        out = table(torch.tensor(codes[at : at + 5, 0] + 1)) @ w + b
        loss = torch.nn.functional.mse_loss(out, torch.tensor(Y[at : at + 5, :1]))
        for one in (sparse, dense):
            one.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()
    # PyTorch's SparseAdam adds epsilon, 1e-8, before it corrects the root for its start, its Adam afterwards.
    moved = model.layers["categories1"]["column0"]
    np.testing.assert_allclose(moved, table.weight.detach(), rtol=1e-5, atol=1e-6)
    unseen = np.setdiff1d(np.arange(50), codes) + 1
    np.testing.assert_array_equal(*(one.layers["categories1"]["column0"][unseen] for one in (model, start)))


def test_a_stepper_of_the_reference_moves_the_rows_that_fit_moves():
    net = Network(inputs=[Categories((50,), width=4)], layers=[Dense(1)])
    codes = RNG.integers(0, 50, (30, 1))
    options = {"seed": 0, "backend": "reference", "dtype": "float64"}
    stepper = Stepper(net, SparseAdam(0.1), **options)
    for at in range(0, 30, 5):
        stepper.step([codes[at : at + 5]], Y[at : at + 5, :1])
    options |= {"batch_size": 5, "shuffle": False, "progress": False}
    fitted = fastmlp.fit(net, [codes], Y[:30, :1], optimizer=SparseAdam(0.1), epochs=1, **options)
    np.testing.assert_array_equal(stepper.parameters, fitted.parameters)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_the_parts_of_a_step_move_the_rows_that_it_moves(backend):
    net = Network(inputs=[Categories((50,), 4), Categories((9,), 2, sparse=True)], layers=[Dense(1)])
    for optimizer in (Adam(0.1, clip_norm=0.1), SparseAdam(0.1)):
        whole, parts = (Stepper(net, optimizer, seed=0, dtype="float64", backend=backend) for _ in range(2))
        for at in range(0, 30, 5):
            codes, y = RNG.integers(-1, (50, 9), (5, 2)), Y[at : at + 5, :1]
            rows = [codes[:, :1], codes[:, 1:]]
            whole.step(rows, y)
            parts.backward(2 * (parts.forward(rows) - y) / y.size, inputs=False)
            parts.update()
            np.testing.assert_allclose(parts.parameters, whole.parameters, rtol=0, atol=1e-12)


def test_sparse_moves_the_rows_of_a_batch_alone_with_any_rule():
    start, model = (fit(network(sparse=True), epochs=epochs, batch_size=None) for epochs in (0, 3))
    dense = fit(network(), epochs=3, batch_size=None)
    for column, codes in enumerate(CODES.T):
        before, after, all_move = (
            one.layers["categories1"][f"column{column}"] for one in (start, model, dense)
        )
        moved = (before != after).any(axis=1)
        np.testing.assert_array_equal(moved, np.isin(np.arange(-1, LEVELS[column]), codes))
        if column < 2:  # each level is in the only batch: nothing tells the two apart
            np.testing.assert_array_equal(after, all_move)


@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_the_gradient_is_that_of_finite_differences(backend, name):
    net, rng = network(EMBEDDINGS[name]), np.random.default_rng(3)
    stepper = Stepper(net, SGD(0.1), seed=0, initial=fit(net, epochs=0), backend=backend, dtype="float64")
    stepper.parameters[...] += 0.1 * rng.standard_normal(stepper.parameters.shape) * (stepper.parameters != 0)
    weight = rng.standard_normal(Y.shape)
    stepper.forward([NUMBERS, CODES], training=True)
    stepper.backward(weight, inputs=False)
    gradients = stepper.gradients.copy()
    direction, before, h = rng.standard_normal(gradients.shape), stepper.parameters.copy(), 1e-6
    for arrays in (layers for key, layers in stepper.layers.items() if key == "piecewise_linear1"):
        for array in arrays.values():  # bins are no parameters
            place = (array.ctypes.data - stepper.parameters.ctypes.data) // 8
            direction[place : place + array.size] = 0

    def value(step):
        stepper.parameters[...] = before + step * direction
        return float((stepper.forward([NUMBERS, CODES], training=True) * weight).sum())

    difference = (value(h) - value(-h)) / (2 * h)
    assert difference == pytest.approx(float(gradients @ direction), rel=1e-5, abs=1e-6)


# --- one result ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1),
        pytest.param(Adam(0.01), marks=matrix),
        SparseAdam(0.01),
        pytest.param(Adam(0.01, clip_norm=0.1), marks=matrix),
    ],
    ids=["SGD", "Adam", "SparseAdam", "clipped"],
)
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=matrix)])
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_one_result_on_every_backend_and_any_number_of_threads(name, dtype, optimizer):
    net = network(EMBEDDINGS[name], sparse=name == "bins")
    expected = fit(net, optimizer, dtype=dtype)
    for backend, threads in (("fused", 3), ("packed", 2), ("tiled", 1)):
        found = fit(net, optimizer, dtype=dtype, backend=backend, threads=threads)
        np.testing.assert_array_equal(found.parameters, expected.parameters)
    reference = fit(net, optimizer, dtype=dtype, backend="reference")
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    np.testing.assert_allclose(reference.parameters, expected.parameters, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        reference.predict([NUMBERS, CODES]),
        expected.predict([NUMBERS, CODES]),
        rtol=tolerance,
        atol=tolerance,
    )


def test_parts_of_the_rows_train_in_the_bits_of_all():
    net = network(PiecewiseLinear(5, width=2))
    whole = fit(net, shuffle=False)
    parts = [([NUMBERS[at : at + 40], CODES[at : at + 40]], Y[at : at + 40]) for at in range(0, ROWS, 40)]
    found = fastmlp.fit(
        net, parts, optimizer=Adam(0.01), epochs=3, batch_size=32, seed=1, backend="fused", dtype="float64",
        shuffle=False, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(found.parameters, whole.parameters)


def test_a_training_that_stops_goes_on_and_files_keep_the_blocks(tmp_path):
    net = network(Periodic(4), sparse=True)
    whole = fit(net, epochs=6)
    fit(net, epochs=3, callbacks=[Checkpoint(tmp_path / "c")])
    resumed = fit(net, epochs=6, resume=tmp_path / "c")
    more = fit(net, epochs=3).fit_more([NUMBERS, CODES], Y, epochs=3)
    for model in (resumed, more):
        np.testing.assert_array_equal(model.parameters, whole.parameters)
    fastmlp.save(whole, tmp_path / "m")
    loaded = fastmlp.load(tmp_path / "m")
    assert loaded.network == net == restored(described(net))
    np.testing.assert_array_equal(loaded.predict([NUMBERS, CODES]), whole.predict([NUMBERS, CODES]))


def test_a_stepper_takes_the_steps_of_fit():
    net = network(Periodic(4))
    model = fit(net, batch_size=None, shuffle=False)
    stepper = Stepper(net, Adam(0.01), seed=1, dtype="float64")
    losses = [stepper.step([NUMBERS, CODES], Y) for _ in range(3)]
    assert losses == model.history["loss"]
    np.testing.assert_array_equal(stepper.parameters, model.parameters)


def test_blocks_are_a_list_or_a_dict_or_one_array():
    named = Network(inputs={"price": Numbers(COLUMNS), "kind": Categories(LEVELS)}, layers=[Dense(2)])
    listed = Network(inputs=[Numbers(COLUMNS), Categories(LEVELS)], layers=[Dense(2)])
    by_name = fit(named, X={"kind": CODES, "price": NUMBERS})
    in_order, flat = fit(listed), fit(listed, X=np.hstack([NUMBERS, CODES]))
    for model in (in_order, flat):
        np.testing.assert_array_equal(model.parameters, by_name.parameters)


def test_a_code_of_no_level_has_the_mean_of_all_levels():
    model = fit(network(dropout=0))
    codes = CODES.copy()
    codes[3, 1], codes[7, 1] = 4, 10**6
    found = model.predict([NUMBERS, codes])
    table = model.layers["categories1"]["column1"]
    before = table[0].copy()
    table[0] = table[1:].mean(axis=0)  # of what is missing, by which both rows go now
    codes[[3, 7], 1] = -1
    np.testing.assert_allclose(found[[3, 7]], model.predict([NUMBERS, codes])[[3, 7]], rtol=1e-12)
    table[0] = before


def test_blocks_of_unlike_numbers_train_on_every_backend():
    net = Network(
        inputs=[Numbers(2), Numbers(1, Periodic(4)), Numbers(3)], layers=[Dense(5, "tanh"), Dense(2)]
    )
    X = [NUMBERS[:, :2], NUMBERS[:, 2:], NUMBERS * 0.5]
    reference, fused = (fit(net, X=X, backend=backend) for backend in ("reference", "fused"))
    np.testing.assert_allclose(reference.parameters, fused.parameters, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("dtype", "length"), [("float32", 1e-40), ("float64", 5e-310)])
def test_bins_whose_slope_would_be_infinite_give_0(dtype, length):
    net = Network(inputs=[Numbers(3, PiecewiseLinear([0.0, length, 1.0]))], layers=[Dense(2)])
    model = fit(net, X=[np.maximum(NUMBERS, 0)], dtype=dtype)
    np.testing.assert_array_equal(model.layers["piecewise_linear1"]["slopes"], [[0, 1]] * 3)
    assert np.isfinite(model.parameters).all()


def test_an_error_of_many_rows_names_the_row():
    rows = np.tile(np.hstack([NUMBERS, CODES]), (2 * AT_ONCE // (ROWS * 6), 1)).astype("f4")
    rows[-1, -1] = 0.5
    with pytest.raises(ValueError, match=rf"X\[{len(rows) - 1}, 5\] = 0.5 is no code"):
        fit(network()).predict(rows)


def test_bins_are_quantiles_of_the_rows():
    rows = np.stack([np.arange(101.0), np.repeat([1.0, 2.0], [60, 41]), np.full(101, 3.0)], axis=1)
    net = Network(inputs=[Numbers(3, PiecewiseLinear(4))], layers=[Dense(1)])
    model = fastmlp.fit(net, [rows], rows[:, 0], epochs=1, seed=0, progress=False)
    arrays = model.layers["piecewise_linear1"]
    np.testing.assert_array_equal(arrays["edges"][0], [0, 25, 50, 75])
    np.testing.assert_allclose(arrays["slopes"][0], 1 / 25)
    np.testing.assert_array_equal(arrays["slopes"][1] > 0, np.arange(4) == 0)
    assert not arrays["slopes"][2].any()


# --- careless input -----------------------------------------------------------------------------------------

WRONG = {
    "too few": (lambda: [NUMBERS], "X must hold 2 blocks, got 1"),
    "unlike lengths": (lambda: [NUMBERS[:5], CODES], r"as many rows each, got \[5, 120\]"),
    "columns": (lambda: [NUMBERS[:, :2], CODES], r"X\[0\] must have shape \(rows, 3\)"),
    "floats": (lambda: [NUMBERS, CODES + 0.5], "must hold codes, whole numbers from -1, got dtype float64"),
    "a level too many": (lambda: [NUMBERS, CODES + 1], "is no code: whole numbers from 0 to"),
    "a name": (lambda: {"a": NUMBERS, "b": CODES}, "no block has a name; give a list"),
    "masked": (lambda: [np.ma.masked_greater(NUMBERS, 1), CODES], r"X\[0\] must not be a masked array"),
    "sparse": (lambda: [scipy.sparse.csr_array(NUMBERS), CODES], r"X\[0\] must be dense"),
    "ragged": (lambda: [[[1.0, 2.0], [3.0]], CODES], r"X\[0\] must be a rectangular array"),
    "texts": (lambda: [NUMBERS.astype(str), CODES], "must hold real numbers"),
    "NaN": (lambda: [np.where(NUMBERS > 1, np.nan, NUMBERS), CODES], "X must be finite"),
    "half a code": (lambda: np.hstack([NUMBERS, CODES + 0.5]), "is no code"),
}


@pytest.mark.parametrize("name", WRONG)
def test_careless_rows_are_one_line(name):
    make, message = WRONG[name]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        fit(network(), X=make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network(inputs=[], layers=[Dense(1)]), "at least one block"),
        (lambda: Network(inputs=["a"], layers=[Dense(1)]), "Numbers, Categories or SparseNumbers"),
        (lambda: Network(inputs=Numbers(3), layers=[Dense(1)]), "a number of columns, or a list or dict of"),
        (lambda: Categories([3, 0]), "every one of levels"),
        (lambda: Categories(3), "levels must be a sequence"),
        (lambda: Categories([3], width=[1, 2]), "width must be one number or 1 of them"),
        (lambda: Numbers(0), "count"),
        (lambda: Numbers(1, name=7), "name must be a word"),
        (lambda: Numbers(3, "periodic"), "Periodic or PiecewiseLinear"),
        (lambda: Periodic(5, linear=False), "even"),
        (lambda: PiecewiseLinear([1.0, 1.0]), "ascending"),
        (lambda: PiecewiseLinear(0), "bins"),
        (lambda: Numbers(3, PiecewiseLinear([[0.0, 1.0]] * 2)), "or 3 of them"),
        (lambda: Network(inputs=[Numbers(2)], layers=[Dense(1)], input_scale=0.5), "input_scale"),
        (lambda: Network(inputs=[Numbers(2, name="a"), Numbers(2)], layers=[Dense(1)]), "a name of its own"),
        (lambda: Stepper(network(PiecewiseLinear(3)), SGD()), "give the edges"),
    ],
)
def test_careless_descriptions_are_one_line(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_a_stepper_does_not_do_with_blocks_is_said():
    stepper = Stepper(network(sparse=True), Adam(), seed=0)
    stepper.forward([NUMBERS, CODES])
    with pytest.raises(ValueError, match="pass inputs=False"):
        stepper.backward(np.ones(Y.shape, "f"))
