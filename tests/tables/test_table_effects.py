"""Effects of columns, and the picture that shows them."""

from __future__ import annotations

import itertools
import json

import numpy as np
import polars as pl
import pytest
from sklearn.inspection import partial_dependence, permutation_importance
from support.flats import QUICK, flats
from support.selection import matrix
from support.table_bounds import bound

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables import effects as of_effects
from fastmlp.tables.effects import (
    EFFECT_ROWS,
    LEAST_SHUFFLED,
    REPEATS,
    effects,
    importances,
    with_shuffled,
)
from fastmlp.tables.estimators import load
from fastmlp.tables.plots import ACROSS, plot
from fastmlp.tables.recipe import mean_outputs
from fastmlp.tables.targets import targets_of


def test_effects_are_scikit_learns_partial_dependences(regressor):
    X = flats(EFFECT_ROWS).drop("kind", "price")
    for effect in effects(regressor, X, ["size", "city", "noise"], seed=0):
        name, known = effect.column.name, effect.values.drop_nulls().to_numpy()
        given = {"custom_values": {name: known}, "kind": "average", "categorical_features": ["city"]}
        expected = partial_dependence(regressor, X.to_pandas(), [name], **given)["average"][0]
        np.testing.assert_allclose(effect.means[: len(known), 0], expected, rtol=1e-6)
        assert (len(known) < len(effect.values)) == (name == "size")  # of which some are missing


@matrix
def test_importances_are_scikit_learns_permutation_importances(regressor, classifier):
    frame = flats(300)
    X = frame.drop("price", "kind")
    for model, target, scoring in (
        (regressor, "price", "neg_root_mean_squared_error"),
        (classifier, "kind", "neg_log_loss"),
    ):
        y = targets_of(frame[target], model.task_.name)
        expected = permutation_importance(
            model, X.to_pandas(), y, scoring=scoring, n_repeats=30, random_state=0
        )
        found = {one.column: one.mean for one in importances(model, X, y, seed=0)}
        means = [found[name] for name in X.columns]
        assert means[0] > 5 * abs(means[2])
        scale = expected.importances_mean.max()
        np.testing.assert_allclose(means, expected.importances_mean, atol=0.1 * scale)  # of other shuffles


def test_shuffled_columns_of_x_are_those_of_shuffled_columns():
    frame, *targets = mixed()
    order = np.random.default_rng(0).permutation(len(frame))
    for X in (frame.drop(targets), frame.drop(targets, "text")):
        model = TableRegressor(**{**QUICK, "epochs": 1}).fit(X, frame[targets[0]].to_numpy())
        encoding, end = model.encoding_, 0
        encoded = encoding.encoded(X)
        assert encoding.is_sparse == ("text" in X.columns)
        for column in encoding.used:
            own = slice(end, end := end + column.width)
            shuffled = encoding.encoded(X.with_columns(X[column.name][order]))
            changed, *both = with_shuffled(encoded, own, order), shuffled, encoded
            changed, shuffled, before = (
                one.toarray() if encoding.is_sparse else one for one in (changed, *both)
            )
            np.testing.assert_array_equal(changed, shuffled)
            assert not np.array_equal(changed, before)


@pytest.mark.parametrize(("most", "count"), [(1, LEAST_SHUFFLED), (400_000, 200), (10**6, 400)])
def test_importances_of_many_columns_predict_fewer_rows_of_each(monkeypatch, most, count):
    rng = np.random.default_rng(0)
    X, predicted = rng.normal(size=(400, 20)), []
    frame = pl.DataFrame(X, schema=[f"x{place}" for place in range(X.shape[1])])
    model = TableRegressor(**{**QUICK, "epochs": 5}).fit(frame, X[:, 0])
    bound(monkeypatch, MOST_PREDICTED=most)

    def counted(models, X):
        return predicted.append(len(X)) or mean_outputs(models, X)

    monkeypatch.setattr(of_effects, "mean_outputs", counted)
    found = importances(model, frame, X[:, 0], seed=0)
    assert {*predicted} == {count}
    assert len(predicted) == REPEATS * 20 + 1
    assert (found[0].column, len(found)) == ("x0", 20)


def test_effects_of_classes_are_probabilities(classifier):
    for effect in effects(classifier, flats().drop("price", "kind"), ["size", "city"], seed=0):
        np.testing.assert_allclose(effect.means.sum(axis=1), 1)


def test_a_column_of_nothing_has_an_effect(regressor):
    empty = flats(50).with_columns(pl.lit(None, pl.Float64).alias("size"))
    (found,) = effects(regressor, empty.drop("price", "kind"), ["size"], seed=0)
    assert found.values.to_list() == [None]
    assert found.means.shape == (1, 1)


def mixed(rows=150):
    """A table of long names, dates, missing values, a rare class and a text of many words."""
    rng, long = np.random.default_rng(0), "the name of a column that nobody has ever cut short"
    when = np.datetime64("2021-01-01") + rng.integers(0, 900, rows).astype("timedelta64[D]")
    frame = flats(rows).drop("kind").rename({"city": f"city, {long}", "price": f"price, {long}"})
    level = np.array([*["Llanfairpwllgwyngyllgogerychwyrndrobwll"] * (rows - 30), *["Rome"] * 30])
    text = [" ".join(rng.choice(["lorem", "ipsum", "dolor", "sit"], 9)) for _ in range(rows)]
    frame = frame.with_columns(
        pl.Series("when", when), pl.Series(f"level, {long}", level), text=pl.Series(text)
    )
    kinds = np.array(["an unusual class, of which there are few"] * 10 + ["often", "mostly"] * rows)[:rows]
    return frame.with_columns(pl.Series(f"kind, {long}", kinds)), f"price, {long}", f"kind, {long}"


@pytest.mark.slow  # a picture of nine panels each, 2 s
@pytest.mark.parametrize("kind", [TableRegressor, TableClassifier])
def test_no_text_of_the_picture_overlaps_or_is_cut(kind):
    from matplotlib.transforms import Bbox

    frame, *targets = mixed()
    target = targets[kind is TableClassifier]
    model = kind(**{**QUICK, "epochs": 2}).fit(frame.drop({*targets} - {target}), target)
    figure = plot(model, frame.drop(targets), frame[target].to_numpy(), 0)
    assert len(figure.axes) >= 9
    figure.draw_without_rendering()
    boxes = {}
    for axes in figure.axes:
        assert axes.get_label() == "<colorbar>" or axes.get_title()
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            texts += [text for place, text in ticks if low <= place <= high and not text.get_rotation()]
        assert axes.title.get_window_extent().width < figure.bbox.width / ACROSS
        for place, text in enumerate(one for one in texts if one.get_text()):
            boxes[axes, place, text.get_text()] = text.get_window_extent()
    for name, box in boxes.items():
        assert min(box.x0, box.y0) > -1, name
        assert box.x1 < figure.bbox.x1 + 1, name
        assert box.y1 < figure.bbox.y1 + 1, name
    for (one, box), (other, second) in itertools.combinations(boxes.items(), 2):
        assert Bbox.intersection(box.padded(-1), second.padded(-1)) is None, (one, other)


def test_a_column_may_be_named_rows():
    frame = flats().drop("kind").rename({"city": "rows"})
    model = TableRegressor(**{**QUICK, "epochs": 1}).fit(frame, "price")
    (found,) = effects(model, frame.drop("price"), ["rows"], seed=0)
    assert found.values.name == "rows"
    assert set(found.values.to_list()) == {"Rome", "Oslo", "Lima"}


@matrix
@pytest.mark.parametrize(("last", "rows"), [("9999-12-31", 1), ("0001-01-01", 3)])
def test_the_first_and_the_last_date_have_a_picture(last, rows):
    """So has a table of one row."""
    when = np.datetime64("2021-01-01") + np.arange(101).astype("timedelta64[D]")
    when[0] = np.datetime64(last)
    frame = flats(101).select("price", when=pl.Series(when))
    model = TableRegressor(**{**QUICK, "members": 5, "epochs": 2}).fit(frame, "price")
    figure = plot(model, frame[:rows].drop("price"), frame["price"].to_numpy()[:rows], 0)
    figure.draw_without_rendering()
    assert "intervals" in {axes.get_title() for axes in figure.axes}
    (axes,) = (one for one in figure.axes if one.get_title() == "effect of when")
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert len(ticks) > 1
    low, high = axes.get_xlim()
    (line,) = axes.lines
    assert ((line.get_xdata(orig=False) >= low) & (line.get_xdata(orig=False) <= high)).all()


@matrix
def test_values_that_are_close_and_classes_of_any_name_can_be_read():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"close": rng.choice([0.0, 1.0, 2.0, 100.0], 90), "apart": rng.choice([1.0, 2.0], 90)}
    )
    frame = frame.with_columns(tiny=pl.Series(rng.choice([1e-13, 2e-13], 90)))
    y = np.array(["_first", "second", "_third"] * 30)
    model = TableClassifier(**{**QUICK, "epochs": 2}).fit(frame, y)
    figure = plot(model, frame, y, 0)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["_first", "_third", "second"]
    drawn = [text.get_text() for text in legend.get_texts() if text.get_window_extent().width > 0]
    assert len(drawn) == 3
    ticks = {axes.get_title(): axes.get_xticks().tolist() for axes in figure.axes}
    assert ticks["effect of apart"] == [1, 2]
    assert ticks["effect of close"] != [0, 1, 2, 100]


def test_frames_of_importances_and_effects_are_those_of_the_tables_library(regressor, classifier):
    frame, model = flats().drop("kind"), regressor
    found = model.importances(frame, "price")
    assert (found.columns, len(found)) == (["column", "mean", "deviation"], 3)
    assert {*found["column"][:2]} == {"size", "city"}
    assert found["mean"].is_sorted(descending=True)
    again = model.importances(frame.to_pandas())
    assert again["mean"].tolist() == found["mean"].to_list()
    shown = model.effects(frame, ["city", "size"])
    assert [*shown] == ["city", "size"]
    assert shown["city"].columns == ["city", "mean price"]
    assert shown["city"]["city"].to_list() == ["Lima", "Rome", "Oslo"]  # by their effects
    assert shown["size"]["size"][-1] is None
    assert model.effects(frame.to_pandas(), "city")["city"]["mean price"].is_monotonic_increasing
    assert classifier.effects(flats(), "city")["city"].columns == ["city", "mean cheap", "mean dear"]
    with pytest.raises(ValueError, match="unknown column 'town'; choose from: size"):
        model.effects(frame, "town")


@matrix
@pytest.mark.parametrize("kind", [TableRegressor, TableClassifier])
def test_a_panel_is_drawn_on_axes_that_are_given(kind):
    from matplotlib.figure import Figure

    target, other = ("price", "kind") if kind is TableRegressor else ("kind", "price")
    frame = flats(120).drop(other)
    model = kind(**{**QUICK, "epochs": 5}).fit(frame, target)
    own = ["residuals", "intervals"] if kind is TableRegressor else ["confusion", "calibration"]
    for panel in ("losses", *own, "importances", "size", "city"):
        axes = Figure().subplots()
        assert model.plot(frame, target, panel, ax=axes) is axes
        assert axes.get_title()
    assert model.plot(frame, panel="size").get_title() == "effect of size"
    with pytest.raises(ValueError, match=f"unknown panel 'loss'; choose from: losses, {own[0]}"):
        model.plot(frame, target, "loss")
    if kind is TableRegressor:
        assert model.plot(frame).get_suptitle() == "rows that the model was trained on"
        assert model.plot(frame[:60]).get_suptitle() == ""


@matrix
def test_the_rows_held_out_of_a_table_are_looked_at(folder, tmp_path, command):
    table, found = folder / "flats.csv", load(folder / "price")
    held = flats().filter(found.held_)
    rows, y, of = found.looked_at(str(table), None)
    assert (rows["size"].to_list(), y.tolist()) == (held["size"].to_list(), held["price"].to_list())
    assert of == "rows that were held out of the training"
    shown = json.loads(command(f"plot {folder}/price {table} --json"))
    says = f"fastmlp: {table} is the table that the model was trained on: 40 rows were held out of it"
    assert says in command.errors
    assert (shown["rows"], shown["of"]) == (40, of)
    assert shown["scores"] == pytest.approx(found.report_["scores"]["network"])
    assert {one["column"] for one in shown["importances"]} == {"size", "city"}
    assert {*shown["effects"]["city"]["values"]} == {"Rome", "Oslo", "Lima"}
    flats(50, seed=1).write_csv(tmp_path / "other.csv")
    assert json.loads(command(f"plot {folder}/price {tmp_path}/other.csv --json"))["rows"] == 50
    assert command.errors == ""
