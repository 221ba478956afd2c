"""Rows that are held out as rows to predict will be: later ones, those of new groups, or those of a file."""

from __future__ import annotations

import json
import warnings

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from support.flats import QUICK, QUICKLY, flats
from support.selection import matrix, seeds

from fastmlp import Dense, Dropout, TableClassifier, TableError, TableRegressor
from fastmlp.tables.categories import LevelMeans
from fastmlp.tables.estimators import load
from fastmlp.tables.held_out import ALONE, Dependence, dependence_of, folds, held_rows
from fastmlp.tables.kinds import Number
from fastmlp.tables.tasks import Classification, Regression

FAST = QUICK | {"hidden": (16,), "preset": "fast", "members": 3}
AS_THEY_ARE = {"hidden": None, "layers": (Dense(16, "silu"), Dropout(0.1))}
"""With layers of one's own numbers are not embedded, and what is learned goes on beyond the rows."""


def trend(rows, seed=0):
    """A table whose target rises by the day, of which the rows are in any order."""
    rng = np.random.default_rng(seed)
    place, x = rng.permutation(rows), rng.normal(size=rows)
    day = np.datetime64("2020-01-01") + place.astype("timedelta64[D]")
    return pl.DataFrame({"day": day, "x": x, "y": 0.01 * place + x + 0.3 * rng.normal(size=rows)})


def patients(count, rows=20, seed=0, names="p"):
    """A table of a few patients with many rows each, of which measurements and targets are alike."""
    rng = np.random.default_rng(seed)
    of = np.arange(count).repeat(rows)
    measured, own, dose = rng.normal(size=(6, count)), rng.normal(0, 2, count), rng.normal(size=len(of))
    table = {"patient": [f"{names}{one}" for one in of], "dose": dose}
    table |= {f"m{place}": one[of] for place, one in enumerate(measured)}
    y = own[of] + 0.5 * dose + 0.3 * rng.normal(size=len(of))
    return pl.DataFrame(table | {"y": y}).sample(fraction=1.0, shuffle=True, seed=seed)


def inside(model, fresh, coverage=0.9):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of levels that were not learned
        low, high = model.predict_interval(fresh, coverage)
    y = fresh["y"].to_numpy()
    return ((low <= y) & (y <= high)).mean()


@matrix
@pytest.mark.filterwarnings("ignore:day")
def test_intervals_hold_later_rows():
    shares = {None: [], "day": []}
    for seed in range(4):
        whole = trend(750, seed).sort("day")
        for time, found in shares.items():
            model = TableRegressor(**FAST | AS_THEY_ARE | {"epochs": 60}, time=time).fit(
                whole[:600].sample(600, seed=0), "y"
            )
            found.append(inside(model, whole[600:]))
    assert np.mean(shares[None]) < 0.75
    assert np.mean(shares["day"]) >= 0.85


@matrix
@pytest.mark.filterwarnings("ignore:patient")
def test_intervals_hold_rows_of_new_patients():
    shares = {None: [], "patient": []}
    for seed in range(4):
        trained, fresh = patients(25, seed=seed), patients(40, seed=100 + seed, names="new ")
        for group, found in shares.items():
            columns = {"patient": "drop"} if group is None else None
            model = TableRegressor(**FAST | {"epochs": 60, "hidden": (32,)}, group=group, columns=columns)
            model.fit(trained, "y")
            found.append(inside(model, fresh))
    assert np.mean(shares[None]) < 0.75
    assert 0.85 <= np.mean(shares["patient"]) <= 0.98


def test_parts_are_later_rows_and_whole_groups():
    time = np.random.default_rng(0).permutation(np.arange(100) // 2)
    groups = np.random.default_rng(1).integers(0, 12, 100)
    for task, targets in ((Regression(0.0, 1.0), np.zeros(100)), (Classification(("a", "b")), groups % 2)):
        ((trained, held),) = folds(targets, task, 0, Dependence(time))
        assert time[trained].max() < time[held].min()
        assert len(held) in (24, 26)
        parts = [*folds(targets, task, 0, Dependence(groups=groups, named=True))]
        for trained, held in parts:
            assert not {*groups[trained]} & {*groups[held]}
            assert len(trained) + len(held) == 100
        assert len(parts) == 5
        assert set.union(*({*groups[held]} for _, held in parts)) == {*groups}
    y, both = np.zeros(100), Dependence(time)
    held = held_rows(y, "regression", 0.2, 0, both)
    assert time[~held].max() < time[held].min()
    assert held.sum() == 20
    held = held_rows(y, "regression", 0.25, 0, Dependence(groups=groups, named=True))
    assert not {*groups[~held]} & {*groups[held]}
    assert len({*groups[held]}) == 3


def test_groups_whose_first_rows_are_of_one_class_are_held_out():
    groups, y = np.arange(60) % 4, np.where(np.arange(60) < 30, "no", "yes")
    held = held_rows(y, "classification", 0.2, 0, Dependence(groups=groups, named=True))
    assert len({*groups[held]}) == 1
    with pytest.raises(ValueError, match=r"test share of 0.7 leaves 1 of 4 groups; 2 are needed"):
        held_rows(y, "classification", 0.7, 0, Dependence(groups=groups, named=True))
    with pytest.raises(ValueError, match=r"test share of 0.99 leaves 1 of 60 rows; 3 are needed"):
        held_rows(y, "classification", 0.99, 0, Dependence(np.arange(60)))


def test_with_both_the_groups_that_begin_last_are_held_out():
    frame = pl.DataFrame({"who": [*"abcdeabcde"], "when": [1, 2, 3, 4, 5, 9, 9, 9, 9, 9]})
    found = dependence_of(frame, np.zeros(10), "when", "who")
    held = held_rows(np.zeros(10), "regression", 0.2, 0, found)
    assert {*frame["who"].filter(held)} == {"e"}
    assert found.independent(np.arange(10)) == 5
    assert ALONE.independent(np.arange(10)) == 10


def test_what_networks_hold_out_is_what_is_asked_for(trainings):
    def parts():
        """The rows of networks and those that they hold out, of a training that is then forgotten."""
        found = [one.part for planned, _ in trainings for one in planned]
        trainings.clear()
        return [pair for pair in found if len(pair[1])]

    frame = trend(200).with_columns(who=pl.Series([f"w{place % 9}" for place in range(200)]))
    day = frame["day"].to_numpy()
    model = TableRegressor(**QUICK, time="day").fit(frame, "y")
    (rows, held), *others = parts()
    assert all(np.array_equal(held, one) for _, one in others)
    assert day[rows].max() < day[held].min()
    assert len(model.errors_.scaled) == len(held) == 50
    assert {one.kind for one in model.encoding_.columns if one.name == "day"} == {"date"}
    model = TableRegressor(**QUICK | {"members": 6}, group="who", preset="fast").fit(frame, "y")
    who, fifths = frame["who"].to_numpy(), parts()
    assert len(fifths) == 5
    assert not any({*who[rows]} & {*who[held]} for rows, held in fifths)
    assert model.errors_.independent == 9
    assert "who" in model.encoding_.dropped
    says = r"errors of 9 held-out groups are known, got 0.95; more training groups"
    with pytest.raises(ValueError, match=says):
        model.predict_interval(frame, 0.95)
    assert (
        TableRegressor(**QUICK, group="who", columns={"who": "category"}).fit(frame, "y").encoding_.dropped
        == []
    )


SERIES = {
    "numbers": lambda day: 0.002 * day,
    "dates": lambda day: 0.002 * day,
    "season": lambda day: np.sin(2 * np.pi * day / 365.25),
    "neither": lambda day: 0 * day,
}
"""What the target has of the day, besides x and noise; the day is a number that counts rows, or a date."""


@pytest.mark.parametrize("seed", seeds(quick=0, slow=1, every=5))
@pytest.mark.parametrize("name", SERIES)
def test_intervals_hold_the_rows_that_follow(name, seed):
    """A trend goes on: the error is the noise's, and a tenth of the numbers is outside."""
    rng, day = np.random.default_rng(seed), np.arange(3000)
    x, noise = rng.normal(size=(2, 3000))
    times = day if name == "numbers" else np.datetime64("2015-01-01") + day.astype("timedelta64[D]")
    frame = pl.DataFrame({"x": x, "day": times, "y": x + SERIES[name](day) + 0.3 * noise})
    model = TableRegressor(time="day", random_state=0, progress=False).fit(frame[:2400], "y")
    after, y = frame[2400:], frame["y"][2400:].to_numpy()
    low, high = model.predict_interval(after, 0.9)
    assert np.sqrt(np.mean(np.square(model.predict(after) - y))) < 0.4
    assert 0.84 < np.mean((low <= y) & (y <= high)) < 0.97


def test_a_time_is_learned_without_a_clip_and_a_category_as_a_category():
    day = np.arange(700) // 2
    frame, y = pl.DataFrame({"day": day}), np.sin(9.0 * day)
    for columns, kind in ((None, Number), ({"day": "category"}, LevelMeans)):
        model = TableRegressor(time="day", columns=columns)
        model.learn(frame, y, "y")
        (column,) = model.encoding_.columns
        assert type(column) is kind
        assert getattr(column, "tails", "kept") == "kept"


def test_they_are_parameters_of_scikit_learns_estimators():
    frame = patients(6, 10).to_pandas()
    model = TableRegressor(**QUICK, group="patient")
    assert clone(model).get_params()["group"] == "patient"
    assert cross_val_score(model, frame.drop(columns="y"), frame["y"], cv=3).shape == (3,)
    assert model.fit(frame, "y").errors_.groups == 3


@pytest.mark.parametrize(
    ("time", "group", "message"),
    [
        ("when", None, "there is no column 'when'; there are: size, city"),
        ("city", None, "column 'city': a time must be dates or numbers, has dtype String"),
        ("size", None, "row 1, column 'size': the time is missing"),
        ("one", None, "column 'one': at least 3 different times are needed, got 1"),
        (None, "two", "column 'two': at least 3 different groups are needed, got 2"),
    ],
)
def test_what_cannot_order_or_group_is_one_line(time, group, message):
    frame = flats(40).drop("kind").with_columns(one=pl.lit(1), two=pl.Series([1, 2] * 20))
    columns = {"one": "number"}  # else it is left out, and said so
    with pytest.raises(TableError, match=f"^{message}"):
        TableRegressor(**QUICK, time=time, group=group, columns=columns).fit(frame, "price")


@pytest.fixture
def train(command, tmp_path):
    """Return train(frame, options): what a training on a table prints."""

    def trained(frame, options):
        frame.write_csv(tmp_path / "t.csv")
        return command(f"train {tmp_path}/t.csv --target y {QUICKLY} --epochs 20 {options}")

    return trained


@matrix
def test_the_report_is_of_later_rows_of_new_groups_or_of_a_file(tmp_path, train):
    table = trend(100).with_columns(who=pl.Series([f"w{place % 10}" for place in range(100)]))
    held = tmp_path / "held.csv"
    shown = train(table, f"--time day --held-out {held} -o {tmp_path}/model")
    assert "80 rows to train on, 20 held out, the later ones by day" in shown
    written, latest = pl.read_csv(held, try_parse_dates=True), table.sort("day")[80:]
    assert written["day"].sort().equals(latest["day"])
    assert written.columns == ["day", "x", "who", "y", "predicted y", "low", "high"]
    model = load(tmp_path / "model")
    assert table.filter(model.held_)["day"].equals(written["day"])
    np.testing.assert_allclose(model.predict(written.drop("y")), written["predicted y"])
    shown = train(table, f"--group who --held-out {held}")
    assert "80 rows to train on, 20 held out, of other groups of who" in shown
    assert written["y"].len() == 20
    assert len({*pl.read_csv(held)["who"]}) == 2
    trend(30, seed=5).write_csv(tmp_path / "test.csv")
    report = json.loads(train(table, f"--drop who --test {tmp_path}/test.csv --json"))["report"]
    assert report["rows"] == {"trained on": 100, "held out": 30, "linear model": 100}
    assert report["held out"] == f"those of {tmp_path / 'test.csv'}"


def test_python_reports_rows_that_are_given():
    frame = flats(200).drop("kind")
    model = TableRegressor(**QUICK).fit(frame[:150], "price", test=frame[150:])
    assert model.report_["rows"]["held out"] == 50
    assert model.report_["scores"]["network"]["R^2"] == pytest.approx(model.score(frame[150:], "price"))
    pair = frame[150:].drop("price"), frame["price"][150:]
    again = TableRegressor(**QUICK).fit(frame[:150].drop("price"), frame["price"][:150], test=pair)
    assert again.report_["scores"] == model.report_["scores"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--test t.csv --test-share 0.1", "--test says which rows the report is of; leave out --test-share"),
        ("--held-out out.doc", "--held-out must end in .csv, .tsv, .parquet, .arrow, got out.doc"),
        ("--threshold 0.3", "--threshold is for classifications, and this is a regression"),
        ("--task classification --threshold 3", "threshold must be in (0, 1), got 3"),
        ("--task classification --threshold much", "threshold must be a number in (0, 1), balanced, or the"),
    ],
)
def test_mistakes_are_one_line(tmp_path, command, options, message):
    trend(60).with_columns(pl.col("y").round()).write_csv(tmp_path / "t.csv")
    train = f"train {tmp_path}/t.csv --target y --task regression"
    assert message in command(f"{train} {options}", code=2)


def unequal(rows, seed=0):
    """A table of two classes, of which the second one is rare."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return pl.DataFrame({"x": x, "y": np.where(x + rng.normal(size=rows) > 1.8, "yes", "no")})


def test_a_threshold_is_chosen_on_rows_that_were_held_out_and_is_kept(tmp_path):
    frame, fresh = unequal(2000), unequal(4000, seed=1)
    found, y = {}, fresh["y"].to_numpy() == "yes"
    for wanted in (None, 0.3, "balanced", "10:1", "1:10"):
        model = TableClassifier(**FAST | {"epochs": 10}, threshold=wanted).fit(frame, "y")
        said = model.predict(fresh) == "yes"
        np.testing.assert_array_equal(said, model.predict_proba(fresh)[:, 1] >= model.threshold_)
        assert model.score(fresh, "y") == (said == y).mean()
        found[wanted] = said
        assert model.threshold_ == {None: 0.5, 0.3: 0.3}.get(wanted, model.threshold_)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").fit_more(fresh[:100]).threshold_ == model.threshold_ > 0.5

    def balanced(said):
        return (said[y].mean() + (~said[~y]).mean()) / 2

    def cost(said, missed, alarm):
        return missed * (y & ~said).sum() + alarm * (~y & said).sum()

    assert balanced(found["balanced"]) > balanced(found[None]) + 0.05
    assert cost(found["10:1"], 10, 1) < 0.8 * cost(found[None], 10, 1)
    assert cost(found["1:10"], 1, 10) < 1.1 * cost(found[None], 1, 10)
    with pytest.raises(TableError, match="a threshold is between two classes, and the target has 3"):
        TableClassifier(**QUICK, threshold=0.3).fit(
            frame[:600].with_columns(y=pl.Series([*"abc"] * 200)), "y"
        )


def test_the_report_has_a_confusion_matrix_at_the_threshold(tmp_path, train, command):
    shown = train(unequal(300), f"--threshold balanced -o {tmp_path}/model")
    model = load(tmp_path / "model")
    counts = model.report_["confusion"]
    assert np.sum(counts) == 60
    scores = model.report_["scores"]["network"]
    assert scores["accuracy"] == pytest.approx(np.trace(counts) / 60)
    shares = np.diag(counts) / np.sum(counts, axis=1)
    assert scores["balanced"] == pytest.approx(shares.mean())
    assert f"by the threshold {model.threshold_:.4g}" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("no  ", "yes  "))] == [
        [name, *map(str, row)] for name, row in zip(("no", "yes"), counts, strict=True)
    ]
    assert "ROC AUC" in command(f"inspect {tmp_path}/model")
