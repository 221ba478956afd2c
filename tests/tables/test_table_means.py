"""Categories of many levels as mean targets: what they are, that no row sees its own, and files of them."""

from __future__ import annotations

import json
import re
import warnings

import numpy as np
import polars as pl
import pytest
from support.changed_tables import refusal
from support.flats import LEARNED
from support.flats import QUICK as FAST
from support.selection import matrix
from support.table_bounds import bound

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.categories import NEVER_SEEN, Category, LevelMeans, Targets
from fastmlp.tables.encoding import MANY, Encoding
from fastmlp.tables.storage import columns_of
from fastmlp.tables.tasks import Classification, Regression

ROWS = 400


@pytest.fixture(autouse=True)
def _many(monkeypatch):
    """Small tables have many levels here."""
    bound(monkeypatch, MANY=30)


def shops(levels=60, rows=ROWS, seed=0):
    """Shops without a level in some rows, and of some a single row; a number, and noise to predict."""
    rng = np.random.default_rng(seed)
    names = [f"shop {code}" if code else None for code in rng.integers(0, levels, rows)]
    names[:5] = [f"single {place}" for place in range(5)]
    return pl.DataFrame({"shop": names, "x": rng.normal(size=rows), "y": rng.normal(size=rows)})


def learned(frame, task=None, y=None):
    y = frame["y"].to_numpy() if y is None else y
    targets = Targets(Regression.learned(y) if task is None else task, y)
    return Encoding.learned(frame.drop("y"), targets=targets), targets


def naive(targets, rows, prior, center, spread):
    """The two numbers of a row of a level of so many rows, by the targets that are known of it."""
    mean = sum(targets) / (len(targets) + prior) / spread
    return [mean / np.sqrt(1 + (mean / 3) ** 2), np.log1p(rows) - center]


def test_a_row_has_the_mean_and_the_rows_of_its_level():
    frame = shops()
    encoding, targets = learned(frame)
    names, encoded = frame["shop"].to_list(), targets.task.encoded(targets.y)
    own = {name: [y for one, y in zip(names, encoded, strict=True) if one == name] for name in names}
    (prior,) = encoding.columns[0].priors
    means = [sum(own[name]) / (len(own[name]) + prior) for name in names]
    center = np.mean([np.log1p(len(own[name])) for name in names])
    spread = np.sqrt(np.mean(np.square(means)))
    expected = [naive(own[name], len(own[name]), prior, center, spread) for name in names]
    expected.append(naive([], min(map(len, own.values())), prior, center, spread))
    X = encoding.encoded(pl.DataFrame({"shop": [*names, "new"], "x": np.zeros(ROWS + 1)}))
    assert encoding.parts[:2] == ["shop mean", "shop rows"]
    assert encoding.width == encoding.numbers == 3
    np.testing.assert_allclose(X[:, :2], expected, rtol=1e-5, atol=1e-6)
    order = np.random.default_rng(0).permutation(ROWS)
    place = np.argsort(order)
    for row in range(ROWS):
        known = [encoded[other] for other in order[: place[row]] if names[other] == names[row]]
        expected[row] = naive(known, len(own[names[row]]), prior, center, spread)
    X = encoding.encoded(frame.drop("y"), targets=targets)
    np.testing.assert_allclose(X[:, :2], expected[:ROWS], rtol=1e-5, atol=1e-6)


def test_a_target_changes_the_numbers_of_other_rows_alone():
    frame = shops()
    encoding, targets = learned(frame)
    X = encoding.encoded(frame.drop("y"), targets=targets)
    reached = 0
    for row in range(5, 60):
        y = targets.y.copy()
        y[row] += 5
        other = encoding.encoded(frame.drop("y"), targets=Targets(targets.task, y))
        changed = np.flatnonzero((other != X).any(axis=1))
        assert row not in changed
        assert (frame["shop"][changed].eq_missing(frame["shop"][row])).all()
        reached += len(changed)
    assert reached > 55


@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0])
def test_a_mean_is_shrunk_as_the_levels_differ(deviation):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 400, 8000)
    y = rng.normal(size=400)[codes] * deviation + rng.normal(size=8000)
    frame = pl.DataFrame({"shop": [f"shop {code}" for code in codes], "y": y})
    (prior,) = learned(frame)[0].columns[0].priors
    if deviation:
        np.testing.assert_allclose(prior, max(0.5, 1 / deviation**2), rtol=0.25)
    else:
        assert prior > 30


@pytest.mark.parametrize("missing", [0, 3])
def test_levels_that_were_not_learned_have_the_fewest_rows_of_a_level(monkeypatch, missing):
    bound(monkeypatch, MOST_MEANS=40)
    names = [f"shop {code}" for code in range(40) for _ in range(5)] + [
        f"rare {code // 4}" for code in range(80)
    ]
    names += [None] * missing
    frame = pl.DataFrame({"shop": names, "y": np.random.default_rng(0).normal(size=len(names))})
    encoding, targets = learned(frame)
    strange = pl.DataFrame({"shop": ["new", "rare 1", *[None] * (not missing)]})
    X = encoding.encoded(strange)
    rows = encoding.encoded(frame[:1])[0, 1]
    np.testing.assert_array_equal(X, [[0, rows]] * len(strange))
    in_order = encoding.encoded(frame.drop("y"), targets=targets)
    np.testing.assert_array_equal(in_order[200:280], [[0, rows]] * 80)  # not the mean of rare rows before
    assert np.count_nonzero(in_order[:200, 0]) == 160  # a level's first row has none before it
    if not missing:
        np.testing.assert_array_equal(in_order[:, 1], rows)


def panel(seed, first=0, levels=150):
    """Shops of four rows each."""
    rng = np.random.default_rng(seed)
    codes, x = np.repeat(np.arange(levels), 4), rng.normal(size=4 * levels)
    y = rng.normal(size=levels)[codes] + x + 0.5 * rng.normal(size=4 * levels)
    return pl.DataFrame({"shop": [f"shop {first + code}" for code in codes], "x": x, "y": y})


@pytest.mark.parametrize("seed", [1, 2])
def test_new_levels_of_a_balanced_table_are_predicted_by_the_other_columns(seed):
    """Where all levels have as many rows, no weight of that number is learned: another number is noise."""
    settings = FAST | {"preset": "fast", "hidden": (32,), "epochs": 20, "batch_size": 64, "members": 1}
    frame, new = panel(seed), panel(seed + 50, first=1000)
    errors = []
    for names in (["shop", "x"], ["x"]):
        model = TableRegressor(**settings).fit(frame.select(*names, "y"), "y")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the levels are new
            errors.append(np.sqrt(np.mean((model.predict(new.select(names)) - new["y"].to_numpy()) ** 2)))
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.parametrize(("most", "expected", "without"), [(100_000, 2, 0), (50, 202, 202)])
def test_new_levels_are_reported_beyond_what_was_expected(monkeypatch, most, expected, without):
    """Expected are rows of levels that one row has, and of levels that are too many for a mean."""
    bound(monkeypatch, MOST_MEANS=most)
    names = [f"shop {code}" for code in range(150) for _ in range(2)] + ["single 1", "single 2"]
    series, y = pl.Series("shop", names), np.random.default_rng(0).normal(size=302)
    few = Category.learned(series, 40)  # columns for fewer levels than there are means
    column = LevelMeans.of(few, series, Targets(Regression.learned(y), y))
    assert column.unknown == (expected + NEVER_SEEN) / (302 + NEVER_SEEN)
    assert column.remarks(series) == []
    (line,) = column.remarks(pl.Series("shop", [*names, *["new"] * 302]))
    assert f"column 'shop': {302 + without} of 604 rows have levels that were not learned" in line


@pytest.mark.parametrize("dense", [2.0, 0.0], ids=["sparse", "dense"])
def test_means_of_the_rows_before_are_the_same_in_pieces(monkeypatch, dense):
    frame = shops(rows=ROWS).with_columns(city=pl.Series([f"city {row % 9}" for row in range(ROWS)]))
    y = frame["y"].to_numpy()
    targets = Targets(Regression.learned(y), y)
    encoding = Encoding.learned(frame.drop("y"), targets=targets)
    bound(monkeypatch, DENSE=dense)
    expected, whole = encoding.encoded(frame, targets=targets), encoding.encoded(frame)
    assert (whole != expected).sum() > 100
    bound(monkeypatch, ROWS_AT_ONCE=7)
    got = encoding.encoded(frame, targets=targets)
    assert isinstance(got, np.ndarray) == (not encoding.is_sparse) == (dense == 0)
    got, expected = (one if dense == 0 else one.toarray() for one in (got, expected))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("classes", "means"), [(2, 1), (3, 3), (10, 10)])
def test_of_classes_there_is_a_mean_of_each(classes, means):
    frame, y = shops(), np.arange(ROWS) % classes
    encoding, targets = learned(frame, Classification(tuple(range(classes))), y)
    assert encoding.columns[0].width == means + 1
    X = encoding.encoded(frame.drop("y"))
    of_shop = frame["shop"].eq_missing(frame["shop"][7]).to_numpy()
    shares = np.array([(y[of_shop] == one).mean() for one in range(classes - means, classes)])
    beyond = shares - [(y == one).mean() for one in range(classes - means, classes)]
    differ = np.abs(beyond) > 1e-6
    assert differ.any()
    np.testing.assert_array_equal(np.sign(X[7, :means])[differ], np.sign(beyond)[differ])
    assert encoding.encoded(frame.drop("y"), targets=targets).shape == X.shape


@pytest.mark.parametrize("levels", [MANY, MANY + 1])
def test_many_levels_are_more_than_a_number(monkeypatch, levels):
    bound(monkeypatch, MANY=MANY)
    codes = np.arange(2 * levels) // 2
    frame = pl.DataFrame({"shop": [f"shop {code}" for code in codes], "y": np.sin(codes)})
    assert isinstance(learned(frame)[0].columns[0], LevelMeans) == (levels > MANY)


def test_many_classes_and_given_levels_have_columns():
    frame = shops()
    eleven = np.arange(ROWS) % 11
    for model, y in (
        (TableClassifier(**FAST), [f"c{one}" for one in eleven]),
        (TableRegressor(**FAST, levels=100), frame["y"]),
    ):
        model.learn(frame.drop("y"), np.array(y), "y")
        assert not isinstance(model.encoding_.columns[0], LevelMeans)
        assert model.encoding_.width > 50
    model.set_params(levels=None).learn(frame.drop("y"), frame["y"].to_numpy(), "y")
    assert model.encoding_.linear.width > 50
    assert model.encoding_.width == 3


@matrix
def test_means_of_noise_do_not_help(tmp_path, command):
    """A network that has seen a row's target in the mean of its level is far off on other rows."""
    frame = shops(levels=150, rows=600)
    fresh = shops(levels=150, rows=2000, seed=1)
    model = TableRegressor(**FAST).fit(frame, "y")
    leaked = TableRegressor(**FAST)
    leaked.learn(frame.drop("y"), frame["y"].to_numpy(), "y")
    leaked.fingerprint_, leaked.held_, leaked.report_ = "", None, {"columns": []}
    leaked.train(leaked.encoding_.encoded(frame.drop("y")), frame["y"].to_numpy())
    scores = [one.score(fresh.drop("y"), fresh["y"]) for one in (model, leaked)]
    assert scores[0] > -0.05 > scores[1]
    frame.write_csv(tmp_path / "t.csv")
    command(f"train {tmp_path}/t.csv --target y -o {tmp_path}/m {LEARNED}")
    assert TableRegressor.load(tmp_path / "m").report_["scores"]["network"]["R^2"] > -0.06
    said = command(f"inspect {tmp_path}/m")
    assert re.search(r"mean target and rows of 1\d\d levels \(shop \d+, ", said)
    assert re.search(r"note +shop: 1\d\d levels are given by their mean targets; --levels N gives ", said)


def test_numbers_of_float64_are_not_rounded():
    """Those of training, too, have the dtype of X."""
    frame = shops()
    encoding, targets = learned(frame)
    X = encoding.encoded(frame.drop("y"), np.float64, targets=targets)
    own = encoding.columns[0].encoded_in_order(frame["shop"], targets)
    np.testing.assert_array_equal(X[:, :2], own)
    assert (own != own.astype(np.float32)).any(axis=0).all()


NO_MEANS, NO_ROWS = "at `LevelMeans.means[0]`", "at `LevelMeans.rows[0]`"
TOO_MANY = f"rows of a level must be at most {2**53 // 65}, got "
SHARED = "a category with mean targets has levels, and none that share a column"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"means": [1.0]}, "a category has 65 levels, 65 numbers of rows and 1 means"),
        ({"rows": [1]}, "a category has 65 levels, 1 numbers of rows and 65 means"),
        ({"missing": False}, "a category has 64 levels, 65 numbers of rows and 65 means"),
        ({"rows": [0] * 65}, NO_ROWS),
        ({"rows": [2.0] * 65}, NO_ROWS),
        ({"rows": [True] * 65}, NO_ROWS),
        ({"rows": [1] * 64 + [2**53 // 65 + 1]}, TOO_MANY),
        ({"rows": [2**62] * 65}, TOO_MANY),
        ({"rows": [10**30] * 65}, TOO_MANY),
        ({"means": [float("nan")] * 65}, "JSON is malformed"),
        ({"means": [-float("inf")] * 65}, "JSON is malformed"),
        ({"means": [1e308] * 65}, NO_MEANS),
        ({"means": [0.0] * 64 + [-1.1e9]}, "Expected `float` >= -1000000000.0 - at `LevelMeans.means[64]`"),
        ({"means": [10**30] * 65}, NO_MEANS),
        ({"means": [10**400] * 65}, NO_MEANS),
        ({"means": [True] * 65}, NO_MEANS),
        ({"priors": [10**400]}, "at `LevelMeans.priors[0]`"),
        ({"rest": True}, SHARED),
        ({"beyond": 5}, SHARED),
        ({"levels": [], "rows": [3], "means": [0.5]}, SHARED),
    ],
)
def test_a_file_of_other_means_is_refused_in_one_line(tmp_path, of_shops, change, says):
    assert says in refusal(of_shops, tmp_path, "table/columns/0", lambda column: column | change)


@pytest.fixture(scope="module")
def of_shops():
    """A model with means of 65 levels."""
    with pytest.MonkeyPatch.context() as patch:
        bound(patch, MANY=30)
        return TableRegressor(**FAST).fit(shops(), "y")


@pytest.mark.parametrize("mean", [1, -(10**9)])
def test_means_that_are_whole_numbers_are_floats(mean):
    described = json.loads(json.dumps(learned(shops())[0].columns[0].described))
    whole = {"means": [mean] * 65, "priors": [2], "rows": [2**53 // 65] * 65}
    (column,) = columns_of([described | whole])
    assert {type(one) for one in (*column.means, *column.priors)} == {float}
    assert np.isfinite(column.encoded(pl.Series("shop", ["shop 1", "new", None])).values).all()
