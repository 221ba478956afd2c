"""Limits of the time of a training on a table: they hold, and what they leave out is said."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_digits
from support.processes import python
from support.selection import matrix

from fastmlp import Callback, TableClassifier, TableRegressor
from fastmlp.system.compiling import compiling
from fastmlp.tables import search
from fastmlp.tables.recipe import PRESETS, Recipe
from fastmlp.tables.report import simpler
from fastmlp.tables.search import (
    LEAST_PART,
    NETWORKS_FRACTION,
    SLOWEST,
    Deadline,
    Planned,
    TableTraining,
    within,
)
from fastmlp.tables.tasks import Regression
from fastmlp.trained.model import Model

QUICK = {"backend": "reference", "threads": 1, "random_state": 0}
COMPILED = QUICK | {"backend": "fused"}


@pytest.fixture(scope="module")
def digits():
    loaded = load_digits()
    frame = pl.DataFrame(loaded.data, schema=[f"x{place}" for place in range(64)])
    return frame.with_columns(digit=pl.Series(loaded.target.astype(str)))


def rows_of_numbers(rows):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({name: rng.normal(size=rows) for name in "abc"})
    return frame.with_columns(y=pl.col("a") * pl.col("b") + 0.1 * pl.col("c"))


@pytest.fixture
def clock(monkeypatch):
    """Time is the process's own, which a busy machine leaves alone, and what a test adds."""
    clock = SimpleNamespace(added=0.0)
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: time.process_time() + clock.added)
    return clock


@pytest.mark.slow  # 4 s
@pytest.mark.usefixtures("clock")
def test_a_limit_holds_within_a_tenth_and_leaves_a_model(digits):
    limit, began = 4, time.monotonic()
    constant = dict.fromkeys(("x0", "x32", "x39"), "drop")
    model = TableClassifier(**QUICK, preset="fast", epochs=2000, time_limit=limit, columns=constant)
    with pytest.warns(UserWarning, match=r"^time_limit=4 left room for .*\d+ of 2000 epochs$"):
        model.fit(digits, "digit")
    assert time.monotonic() - began < 1.1 * limit
    assert model.recipe_.epochs < 2000
    assert model.score(digits, "digit") > 0.8


def test_what_a_limit_has_no_room_for_has_one_epoch_of_few_rows():
    model = TableRegressor(**QUICK, time_limit=1e-6)
    says = (
        "^time_limit=1e-06 left room for 1 of 3 recipes, 1 of 7 networks, 1 of 400 epochs, "
        f"{LEAST_PART + 400} of 2000 rows$"
    )
    with pytest.warns(UserWarning, match=says):
        model.fit(rows_of_numbers(2000), "y")
    assert np.isfinite(model.predict(rows_of_numbers(10))).all()


@matrix
@pytest.mark.usefixtures("clock")
def test_a_recipe_of_which_no_epoch_fits_is_left_out_and_the_others_go_on(monkeypatch):
    slow = Recipe(hidden=(2048, 2048), batch_size=8)  # some seconds an epoch
    monkeypatch.setitem(
        PRESETS, "good", (Recipe(hidden=(4,), batch_size=256, epochs=1, most_members=3), slow)
    )
    with pytest.warns(UserWarning, match="left room for 1 of 2 recipes"):
        model = TableRegressor(**QUICK, time_limit=3).fit(rows_of_numbers(3000), "y")
    assert {recipe.hidden for recipe, _ in model.groups_} == {(4,)}
    assert len(model.models_) > 1


def test_what_is_predicted_of_rows_held_out_is_part_of_the_time(clock, monkeypatch):
    """As where the first prediction of a process compiles."""
    predict = Model.predict

    def slow(model, X):
        clock.added += 0.6
        return predict(model, X)

    monkeypatch.setattr(Model, "predict", slow)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="left room for 1 of 7 networks"):
        TableRegressor(**QUICK, preset="fast", epochs=1, members=7, time_limit=1).fit(
            rows_of_numbers(60), "y"
        )
    assert time.monotonic() - began < 1.1


def wide(columns):
    names = [f"c{place}" for place in range(columns)]
    return pl.DataFrame(np.random.default_rng(0).normal(size=(12, columns)).round(3), schema=names)


def seconds_of_columns(columns, folder):
    """Seconds of the process that each step of a model of so many columns takes."""
    frame, path, found = wide(columns), folder / "wide.csv", {}
    frame.write_csv(path)
    model = TableRegressor(**QUICK, preset="fast", hidden=(2,), epochs=1, members=1)
    for name, step in (
        ("fit", lambda: model.fit(path, "c0")),
        ("predict", lambda: model.predict(frame)),
        ("save", lambda: model.save(folder / "model")),
        ("load", lambda: TableRegressor.load(folder / "model")),
        ("predict a file", lambda: model.predict(path)),
    ):
        began = time.process_time()
        step()
        found[name] = time.process_time() - began
    return found


@pytest.mark.slow  # 6 s
def test_a_table_takes_time_by_its_columns_and_not_by_their_square(tmp_path):
    few, many = ([seconds_of_columns(columns, tmp_path) for _ in range(2)] for columns in (500, 5000))
    for step in few[0]:
        least, most = (min(one[step] for one in timed) for timed in (few, many))
        assert most < 2 * 10 * least, step


def training(callback, left=60):
    """The trainings of networks on numbers, with a callback before others, in some seconds."""
    X, deadline = np.random.default_rng(0).normal(size=(300, 2)), Deadline(left / NETWORKS_FRACTION)

    class Called(TableTraining):
        def networks(self, jobs, stop):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(search, "EarlyStopping", lambda patience: callback)
                return super().networks(jobs, stop)

    task, several = Regression(0.0, 1.0), np.zeros(0, bool)
    return Called(X, X[:, 0], None, task, 0, several, np.zeros(2), deadline, backend="reference")


class Slow(Callback):
    """Takes some seconds by a clock in chunks one by one, of all its trainings; perhaps to compile."""

    def __deepcopy__(self, memo):
        return self

    def __init__(self, clock, *seconds, spent=nullcontext):
        self.clock, self.seconds, self.spent = clock, list(seconds), spent

    def on_chunk_end(self, run):
        with self.spent():
            self.clock.added += self.seconds.pop(0) if self.seconds else 0


def test_compiling_is_no_part_of_a_networks_share(clock):
    part, recipe = (np.arange(200), np.arange(200, 300)), Recipe(hidden=(4,), epochs=3, batch_size=200)

    def in_time(seconds, left, must):
        slow = training(Slow(clock, 1.2, spent=compiling), left)
        return within(slow, seconds, Planned(recipe, part), must)

    job, model = in_time(1, 60, must=True)
    assert job.recipe is recipe
    assert job.part is part
    assert len(model.history["loss"]) == 3
    shorter, _ = in_time(60, 1, must=True)
    assert shorter.recipe.epochs == 1
    assert in_time(60, 1, must=False) is None


@pytest.mark.parametrize(
    ("epochs", "chunks"),
    [(3, (0.15, 1.6)), (20, (0.2, 0.0, 1.6))],
    ids=["as planned", "fewer, as the pace suggests"],
)
def test_a_network_that_runs_out_of_time_has_the_epochs_that_it_was_trained(clock, epochs, chunks):
    """By the first chunk's pace there is time enough."""
    part = np.arange(200), np.arange(200, 300)
    job = Planned(Recipe(hidden=(4,), epochs=epochs, batch_size=200), part)
    own, model = within(training(Slow(clock, *chunks)), 1.5, job)
    assert own.recipe.epochs == len(model.history["loss"]) < epochs


@pytest.mark.parametrize(
    ("rates", "rows", "kept"),
    [((1e-9, 0.01), 50, 1), ((0.01, 1e-9), 20, 3), ((0.01, 1e30), 20, 3)],
    ids=["better", "no better", "diverges"],
)
def test_where_one_recipe_has_fewer_rows_all_have_and_the_best_has_the_time_left(
    monkeypatch, rates, rows, kept
):
    """Recipes that are as good remain where the longer network is no better."""
    first = PRESETS["good"][0]
    alike = (first, replace(first, decay=0.9), replace(first, decay=0.8))
    monkeypatch.setitem(PRESETS, "good", alike)
    begun = []

    def few(training, seconds, job, must=True, room=1.0, race=None):
        """Networks have 16 of 80 rows, and 40 once there is time."""
        recipe, part = job.recipe, job.part
        begun.append((recipe, len(part[0]), must, room))
        count, held = ((16, 4), (40, 10))[len(begun) > 3]
        recipe = replace(recipe, learning_rate=rates[len(begun) > 3])
        job = Planned(recipe, (part[0][:count], part[1][:held]))
        return job, *training.networks([job])

    monkeypatch.setattr(search, "within", few)
    model = TableRegressor(**QUICK, epochs=10, members=2, batch_size=16, time_limit=60)
    says = rf"^time_limit=60 left room for 1 of 2 networks, {rows} of 100 rows$"
    with pytest.warns(UserWarning, match=says):
        model.fit(rows_of_numbers(100), "y")
    firsts = [(80, True, 1 / SLOWEST), (16, False, 1), (16, False, 1)]
    assert [one[1:] for one in begun] == [*firsts, (80, True, 1)]
    assert begun[0][0].decay == first.decay
    assert [len(models) for _, models in model.groups_] == [1] * kept


@pytest.mark.parametrize(("longer", "networks"), [(10, 1), (1, 2)], ids=["better", "no better"])
def test_where_epochs_are_left_out_the_best_recipe_has_the_time_left(monkeypatch, longer, networks):
    """A network has 2 of 10 epochs; as many as are given once all networks are there."""
    begun = []

    def short(training, seconds, job, must=True, room=1.0, race=None):
        begun.append((job.recipe.epochs, must))
        job = job._replace(recipe=replace(job.recipe, epochs=(2, longer)[len(begun) > 1]))
        return job, *training.networks([job])

    monkeypatch.setattr(search, "within", short)
    model = TableRegressor(**QUICK, preset="fast", epochs=10, members=2, time_limit=60)
    with pytest.warns(UserWarning, match=r"^time_limit=60 left room for "):
        model.fit(rows_of_numbers(100), "y")
    assert begun == [(10, True), (10, True)]
    assert len(model.models_) == networks
    assert {len(one.history["loss"]) for one in model.models_} == {longer if networks == 1 else 2}


@pytest.mark.slow  # compiles anew, 8 s
def test_a_short_limit_does_not_compile_what_validates_and_predicts(tmp_path):
    """In a process that finds the machine code of the training alone."""
    code = """
import numpy as np, warnings
warnings.simplefilter("ignore")
from fastmlp import TableRegressor, fit
from fastmlp.system.compiling import seconds_compiling
from fastmlp.tables.recipe import PLAIN
from fastmlp.tables.tasks import Regression
X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
recipe = PLAIN.resolved(100)
network, optimizer = recipe.network(3, Regression(0.0, 1.0)), recipe.optimizer_of(1)
model = fit(network, X, X[:, 0], optimizer=optimizer, batch_size=recipe.batch_size, epochs=1)
before = seconds_compiling()
limited = TableRegressor(preset="fast", members=1, epochs=2, time_limit=10).fit(X, X[:, 0])
print(model.backend, limited.models_[0].backend, seconds_compiling() - before)
"""
    done = python("-c", code, FASTMLP_CACHE_DIR=str(tmp_path))
    assert done.stdout == "fused reference 0.0\n"


def test_a_limit_that_is_not_reached_changes_nothing():
    table, settings = rows_of_numbers(200), {**COMPILED, "epochs": 3, "members": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        limited = TableRegressor(**settings, time_limit=600).fit(table, "y")
    assert limited.shortened_ is None
    np.testing.assert_array_equal(
        limited.predict(table), TableRegressor(**settings).fit(table, "y").predict(table)
    )


def test_a_rare_class_leaves_nothing_out():
    """Parts of the rows lack a class of three rows, and are fifths all the same."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=60), "y": ["rare"] * 3 + ["often", "mostly"] * 28 + ["often"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TableClassifier(**COMPILED, epochs=2).fit(frame, "y")
    assert model.shortened_ is None
    for _, models in model.groups_:
        assert ["validation_loss" in one.history for one in models] == 5 * [True] + 2 * [False]


def test_each_row_that_was_held_out_has_one_error():
    model = TableRegressor(**COMPILED, epochs=1, members=2).fit(rows_of_numbers(50), "y")
    assert len(model.errors_.scaled) < 50


@matrix
def test_the_linear_model_ends_with_the_time(digits):
    model, digits = TableClassifier(**QUICK), digits[:500]
    y, held = digits["digit"].to_numpy().astype(str), np.arange(len(digits)) % 5 == 0
    frame = digits.drop("digit")
    parts = [one for rows in (~held, held) for one in (frame.filter(rows), y[rows])]
    model.learn(*parts[:2], "digit")
    scores = [simpler(model, *parts, 0, Deadline(limit))["scores"] for limit in (None, 1e-6)]
    whole, cut = (one["linear"]["log loss"] for one in scores)
    assert whole != cut < scores[1]["constant"]["log loss"]


def test_the_command_line_says_what_was_left_out(tmp_path, command):
    rows_of_numbers(300).write_csv(tmp_path / "rows.csv")
    train = f"train {tmp_path}/rows.csv --target y --backend reference --quiet --time-limit"
    says = "note       the time limit left room for 1 of 3 recipes, 1 of 7 networks, 1 of 400 epochs"
    assert says in command(f"{train} 0.01s")
    error = command(f"{train} soon", code=2)
    assert "time-limit must be a time like 60s or 5m, got 'soon'" in error
    with pytest.raises(ValueError, match="time_limit must be above 0"):
        TableRegressor(time_limit=0).fit(rows_of_numbers(50), "y")
