"""Blocks of inputs: PyTorch's definitions, one result on every backend, and careless input in one line."""

import numpy as np
import pytest
import scipy.sparse
from support.input_blocks import CODES, COLUMNS, LEVELS, NUMBERS, RNG, ROWS, Y, fit, network
from support.refusals import refusals
from support.selection import matrix, quick

import fastmlp
from fastmlp import Adam, Categories, Dense, Network, Numbers, Periodic, PiecewiseLinear, SparseAdam, Stepper
from fastmlp.trained.model import AT_ONCE


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


@matrix
@pytest.mark.parametrize(("dtype", "length"), [("float32", 1e-40), ("float64", 5e-310)])
def test_bins_whose_slope_would_be_infinite_give_0(dtype, length):
    net = Network(inputs=[Numbers(3, PiecewiseLinear([0.0, length, 1.0]))], layers=[Dense(2)])
    model = fit(net, X=[np.maximum(NUMBERS, 0)], dtype=dtype)
    np.testing.assert_array_equal(model.layers["piecewise_linear1"]["slopes"], [[0, 1]] * 3)
    assert np.isfinite(model.parameters).all()


@quick(1)
@pytest.mark.parametrize("backend", ["reference", "fused", "tiled"])
def test_numbers_beyond_the_bins_go_on_for_the_length_of_an_outer_bin(backend):
    net = Network(inputs=[Numbers(1, PiecewiseLinear([0.0, 1.0, 3.0]))], layers=[Dense(1)])
    options = {"epochs": 1, "seed": 0, "progress": False, "dtype": "float64", "backend": backend}
    model = fastmlp.fit(net, [NUMBERS[:, :1]], Y[:, :1], **options)
    at = {x: model.predict([[[float(x)]]]).item() for x in (-1e300, -1, -0.5, 0, 3, 4, 5, 1e300)}
    assert at[-1e300] == at[-1]
    assert at[1e300] == at[5]
    np.testing.assert_allclose([at[-0.5], at[4]], [(at[-1] + at[0]) / 2, (at[3] + at[5]) / 2], rtol=1e-12)
    assert len({*at.values()}) == 6


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


COUNTS = np.repeat([0.0, 1.0, 2.0, 3.0, 7.0, 8.0], [900, 50, 30, 15, 3, 2])
ZEROS = np.append(np.zeros(950), np.linspace(0.01, 0.5, 50))


@pytest.mark.parametrize(
    ("column", "bins", "edges"),
    [
        (COUNTS, 8, [0, 1, 2, 3, 7, 8]),  # all of them
        (COUNTS, 5, [0, 1, 2, 3, 7, 8]),
        (COUNTS, 4, [0, 1, 2, 3, 8]),  # at most so many: of 16 to 25 shares
        (ZEROS, 4, [0, 0.11, 0.24, 0.37, 0.5]),  # of 77 shares
    ],
)
def test_where_quantiles_coincide_there_are_closer_ones(column, bins, edges):
    net = Network(inputs=[Numbers(1, PiecewiseLinear(bins))], layers=[Dense(1)])
    arrays = fastmlp.fit(net, [column[:, None]], column, epochs=1, seed=0, progress=False).layers
    own, slopes = (arrays["piecewise_linear1"][name][0] for name in ("edges", "slopes"))
    np.testing.assert_allclose(own[slopes > 0], edges[:-1], atol=0.02)
    np.testing.assert_allclose(own[slopes > 0][-1] + 1 / slopes[slopes > 0][-1], edges[-1], rtol=1e-5)


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

test_careless_rows_are_one_line = refusals(
    {name: (lambda make=make: fit(network(), X=make()), said) for name, (make, said) in WRONG.items()}
)


test_careless_descriptions_are_one_line = refusals(
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
        (lambda: Stepper(network(PiecewiseLinear(3)), fastmlp.SGD()), "give the edges"),
    ]
)


def test_what_a_stepper_does_not_do_with_blocks_is_said():
    stepper = Stepper(network(sparse=True), Adam(), seed=0, dtype="float64")
    stepper.forward([NUMBERS, CODES])
    with pytest.raises(ValueError, match="pass inputs=False"):
        stepper.backward(np.ones(Y.shape))


# --- rows of tables that move ------------------------------------------------------------------------------


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
