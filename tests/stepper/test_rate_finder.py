"""`find_rate`: the losses of steps whose rates grow, and the rate that it proposes."""

import numpy as np
import pytest
import scipy.sparse
from support.problems import data_set
from support.refusals import refusals
from support.selection import matrix

import fastmlp
from fastmlp import SGD, Network, ScheduleFreeAdamW, find_rate

X, Y = data_set("digits", 250)
NETWORK = Network([64, 32, 10], "relu", "softmax", "cross_entropy")


@matrix
def test_the_proposed_rate_trains(tmp_path):
    found = find_rate(NETWORK, X, Y, seed=0, backend="reference")
    assert 1e-3 < found.rate < 3e-2  # Adam's is 1e-3 for far larger networks
    model = fastmlp.fit(
        NETWORK, X, Y, epochs=20, seed=0, optimizer=fastmlp.Adam(found.rate), backend="reference"
    )
    assert model.history["loss"][-1] < 0.1
    found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 10_000


def test_the_search_ends_where_the_loss_grows():
    diabetes = data_set("diabetes")
    options = {"optimizer": SGD(momentum=0.9), "seed": 0, "highest": 100.0, "backend": "reference"}
    found = find_rate(Network([10, 8, 1]), *diabetes, **options)
    assert len(found.rates) == len(found.losses) < 300
    assert found.losses[-1] <= 4 * found.losses.min()
    assert found.rate < found.rates[-1]


@pytest.mark.parametrize("optimizer", [SGD(momentum=0.9), ScheduleFreeAdamW()], ids=["SGD", "schedule-free"])
def test_a_search_is_its_seeds_and_takes_sparse_rows_and_any_optimiser(optimizer):
    options = {"optimizer": optimizer, "seed": 3, "steps": 40, "highest": 0.1, "backend": "reference"}
    found, again, sparse = (
        find_rate(NETWORK, rows, Y, **options) for rows in (X, X, scipy.sparse.csr_array(X))
    )
    np.testing.assert_array_equal(found.losses, again.losses)
    np.testing.assert_allclose(found.losses, sparse.losses, rtol=1e-9)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 0.1, 40))


def test_a_search_takes_blocks_of_which_bins_are_quantiles_and_some_are_sparse():
    dense = Network(
        inputs=[fastmlp.Numbers(32, fastmlp.PiecewiseLinear(3)), fastmlp.Numbers(32)],
        layers=[fastmlp.Dense(8, "relu")],
        heads={"digit": fastmlp.Head(10, loss="cross_entropy")},
    )
    mixed = dense.replaced(inputs=[dense.inputs[0], fastmlp.SparseNumbers(32)])
    options = {"seed": 3, "steps": 40, "highest": 0.1, "backend": "fused", "dtype": "float64"}
    found, sparse = (
        find_rate(network, [X[:, :32], last], {"digit": Y}, **options)
        for network, last in ((dense, X[:, 32:]), (mixed, scipy.sparse.csr_array(X[:, 32:])))
    )
    np.testing.assert_array_equal(found.losses, sparse.losses)
    assert repr(found).startswith("RateSearch(rate 0.")
    assert len(repr(found)) < 80


test_mistakes_are_said_in_one_line = refusals(
    [
        ({"lowest": 0}, "lowest must be above 0"),
        ({"highest": 1e-9}, "highest must be above 1e-06"),
        ({"steps": 1}, "steps must be"),
        ({"optimizer": 0.1}, "optimizer must be"),
    ],
    lambda **given: find_rate(NETWORK, X, Y, **given),
)
