"""Heads of rows that come block by block: the bits of one array, of parts, maps, tables and windows."""

import itertools

import numpy as np
import pandas
import polars
import pytest
from support.heads import GAPS, ROWS, WEIGHTS, WHOLE, X, fit, network, rows_of
from support.refusals import refusals
from support.selection import matrix

import fastmlp
from fastmlp import Categories, Dense, Head, Network, Numbers, Periodic, PiecewiseLinear

SLICES = [slice(*pair) for pair in itertools.pairwise([0, 7, 50, 51, ROWS])]
KEPT = {"shuffle": False, "backend": "reference", "sample_weight": None}
NET = network(missing=True, weighted=True, dropout=0.2)
HELD = X[80:], rows_of(GAPS, slice(80, None))


def parts(rows=ROWS):
    return [(X[some], rows_of(GAPS, some), WEIGHTS[some]) for some in SLICES if some.stop <= rows]


def assert_same(found, expected):
    np.testing.assert_array_equal(found.parameters, expected.parameters)
    assert found.history == expected.history


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_parts_have_the_bits_of_one_array(backend):
    options = KEPT | {"backend": backend, "validation": HELD}
    expected = fit(NET, GAPS, **options | {"sample_weight": WEIGHTS})
    assert [*expected.history][:2] == ["loss", "price_loss"]
    for window in (None, 40):
        assert_same(fit(NET, None, parts(), window=window, **options), expected)
    assert_same(fit(NET, None, parts(), **options | {"validation": lambda: [HELD]}), expected)


def test_windows_are_shuffled_and_validated_in_parts(windows):
    whole = fit(NET, GAPS, backend="reference", validation=0.3)
    assert_same(fit(NET, GAPS, backend="reference", validation=0.3, window=ROWS), whole)
    windows(held_out=1)  # 256 rows at a time
    rows = np.tile(X, (6, 1)), {name: np.concatenate([array] * 6) for name, array in GAPS.items()}
    expected = fit(NET, GAPS, **KEPT, validation=rows)
    found = fit(NET, GAPS, **KEPT, validation=lambda: [rows], window=ROWS)
    for name, curve in expected.history.items():
        np.testing.assert_allclose(found.history[name], curve, rtol=1e-12)


def test_a_single_head_without_a_name_takes_parts():
    net = Network(inputs=6, layers=[Dense(5)], head=Head(2, loss="mae", missing=True))
    blocks = [(X[some], GAPS["price"][some]) for some in SLICES]
    assert_same(fit(net, None, blocks, **KEPT), fit(net, GAPS["price"], **KEPT))


@matrix
def test_maps_and_tables_have_columns_for_heads(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    whole, options = fit(NET, GAPS, **KEPT), {"net": NET, **KEPT}
    X.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", X.dtype, "r", shape=X.shape)
    assert_same(fit(x=mapped, y=GAPS, window=40, **options), whole)
    columns = {f"x{i}": X[:, i] for i in range(X.shape[1])}
    both = [(name, np.atleast_2d(y.T)) for name, y in GAPS.items()]
    targets = {f"{name}{i}": column for name, y in both for i, column in enumerate(y)}
    names = {"price": ["price0", "price1"], "kind": "kind0", "flag": ["flag0", "flag1", "flag2"]}
    table = pyarrow.table(columns | targets)
    assert_same(fit(x=table, y=names, **options), whole)
    array, frame = pytest.importorskip("dask.array"), pytest.importorskip("dask.dataframe")
    assert_same(fit(x=array.from_array(X, chunks=(30, 2)), y=GAPS, **options), whole)
    assert_same(fit(x=frame.from_pandas(table.to_pandas(), npartitions=3), y=names, **options), whole)
    with pytest.raises(ValueError, match="unknown column of X 'prize'"):
        fit(x=table, y={**names, "price": "prize"}, **options)
    with pytest.raises(TypeError, match="with heads it is a dict of these"):
        fit(x=table, y={**names, "price": 3}, **options)


@pytest.mark.parametrize("frame", [pandas.DataFrame, polars.DataFrame])
def test_blocks_of_inputs_and_targets_may_be_tables(frame):
    waves, bins = Numbers(3, Periodic(4)), Numbers(3, PiecewiseLinear((-1.0, 0.0, 1.0), width=2))
    inputs = {"waves": waves, "bins": bins, "codes": Categories([4, 4])}
    net = Network(inputs=inputs, layers=[Dense(12, "relu")], heads=network(missing=True).heads)
    codes = np.random.default_rng(1).integers(-1, 4, (ROWS, 2))
    held = {"waves": X[:, :3], "bins": X[:, 3:], "codes": codes}
    tables = {name: frame(block) for name, block in held.items()}
    columns = {name: frame(target) if target.ndim == 2 else target for name, target in GAPS.items()}
    model = fit(net, GAPS, held, validation=0.2)
    assert_same(fit(net, columns, tables, validation=0.2), model)
    for name, output in model.predict(tables).items():
        np.testing.assert_array_equal(output, model.predict(held)[name])


test_mistakes_name_the_block_in_one_line = refusals([
    (
        lambda: fit(NET, None, [(X, WHOLE["price"])]),
        "block 1 of epoch 1: y must be a dict of targets for price, kind, flag; got",
    ),
    (
        lambda: fit(NET, None, [*parts()[:1], (X, {"price": WHOLE["price"]})]),
        "block 2 of epoch 1: .* it has no target for the heads kind, flag",
    ),
    (lambda: fit(network(), None, parts()), r"block 1 of epoch 1: y\['price'\] must be finite"),
    (
        lambda: fit(NET, {**GAPS, "flag": GAPS["flag"][1:]}, window=40),
        r"y\['flag'\] must have 110 rows, as X has, got shape \(109, 3\)",
    ),
    (lambda: fit(fastmlp.Network([6, 2]), None, parts()), "y must be one array, got a dict of price"),
])  # fmt: skip
