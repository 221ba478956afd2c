"""What becomes of a model of a table: exports that predict the same, new rows, and Ctrl-C while it trains."""

from __future__ import annotations

import copy
import ctypes
import json
import subprocess
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from support import needs
from support.flats import QUICK, flats
from support.processes import importing, python
from support.selection import matrix, quick
from support.table_bounds import bound

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.categories import Category, LevelMeans
from fastmlp.tables.estimators import load
from fastmlp.tables.frames import TableError
from fastmlp.tables.kinds import Date, Number

CLOSE = 256 * np.finfo(np.float32).eps
"""Of sums of some tens of products in float32, in other orders, over the greatest one."""


def every_kind(rows=240, seed=0, shops=12):
    """A table with columns of every kind but text, each of which has missing values somewhere."""
    rng = np.random.default_rng(seed)
    frame = flats(rows, seed)
    days = np.datetime64("2024-01-01", "ms") + 1000 * rng.integers(0, 40_000_000, rows)
    names = rng.choice([f"shop {i}" for i in range(shops)], rows)
    codes = rng.integers(0, 11, rows)
    return frame.with_columns(
        when=pl.Series(days).set(pl.Series(np.arange(rows) % 19 == 3), None),
        heavy=pl.Series(np.exp(3 * rng.normal(size=rows))),
        shop=pl.Series(names).set(pl.Series(np.arange(rows) % 23 == 5), None),
        rare=pl.Series(np.where(np.arange(rows) % 40 == 1, [f"r{i}" for i in range(rows)], "usual")),
        district=pl.Series(codes),
        new=pl.Series(rng.random(rows) > 0.5),
        price=pl.col("price") + 3000.0 * pl.Series((codes * 7) % 11),
    )


def strange(seed=9):
    """Rows to predict with what was not learned: levels, numbers of codes, infinite numbers, gaps."""
    return every_kind(60, seed).with_columns(
        city=pl.Series(["Bonn"] * 5 + [None] * 5 + ["Rome"] * 50),
        heavy=pl.Series([np.inf, -np.inf, np.nan, *np.linspace(-1e7, 1e7, 57)]),
        district=pl.Series([99, 5, 3] * 20),
        shop=pl.Series(["elsewhere", "shop 1", None] * 20),
    )


def with_codes(kind):
    """A kind of estimator that learns codes of districts beside the number."""

    class Earlier(kind):
        def learn(self, frame, *given):
            super().learn(frame, *given)
            code = replace(Category.learned(frame["district"]), missing=False)
            self.encoding_ = replace(self.encoding_, codes=(code,))

    return Earlier


@pytest.fixture(scope="module", params=["price", "kind", "sparse"])
def exported(request):
    """A model with networks of every recipe, for columns of every kind; means of levels, or a sparse X."""
    kind = with_codes(TableClassifier if request.param == "kind" else TableRegressor)
    is_sparse, target = request.param == "sparse", {"kind": "kind"}.get(request.param, "price")
    frame = every_kind(shops=70 if is_sparse else 12).drop({"kind": "price"}.get(target, "kind"))
    with pytest.MonkeyPatch.context() as patch:
        bound(patch, MANY=1000 if is_sparse else 8, MARGIN=1e9)  # no recipe is left out
        model = kind(**QUICK | {"epochs": 3}).fit(frame, target)
    assert len(model.groups_) == 3
    kinds = {type(column) for column in (*model.encoding_.columns, *model.encoding_.codes)}
    assert kinds == {Date, Number, Category} | ({LevelMeans} if not is_sparse else set())
    assert model.encoding_.is_sparse == is_sparse
    assert model.encoding_.codes
    return model


def expected_of(model, rows):
    outputs = model.outputs(rows)
    return outputs if isinstance(model, TableClassifier) else model.predict(rows)[:, None]


def from_onnx(model, frame, folder):
    """The outputs of a model's ONNX file."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model.to_onnx(folder / "m.onnx")
    onnx.checker.check_model(onnx.load(folder / "m.onnx"), full_check=True)
    session = runtime.InferenceSession(folder / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"X": model.coded(frame)})
    return found


def from_c(model, frame, folder):
    """The outputs of a model's header of C, by a strict compiler."""
    model.to_c(folder / "flats.h")
    (folder / "all.c").write_text(
        '#include "flats.h"\nvoid run(const double *x, double *out);\n'
        "void run(const double *x, double *out) { flats_predict(x, out); }\n"
    )
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-shared"]
    library = f"{time.monotonic_ns()}.so"  # a loaded library stays
    subprocess.run([needs.COMPILER, *strict, "-fPIC", "all.c", "-o", library, "-lm"], cwd=folder, check=True)
    run, X = ctypes.CDLL(str(folder / library)).run, model.coded(frame)
    found = np.empty((len(X), model.task_.n_out))
    for row, out in zip(X, found, strict=True):
        run(*(one.ctypes.data_as(ctypes.c_void_p) for one in (row, out)))
    return found


@quick(1)
@needs.compiler
@pytest.mark.parametrize("read", [from_onnx, from_c])
@pytest.mark.filterwarnings("ignore:column .* levels that were not learned")
def test_exports_predict_what_the_model_does(exported, read, tmp_path):
    for rows in (every_kind(), strange()):
        expected = expected_of(exported, rows)
        found = read(exported, rows, tmp_path)
        np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())
    if read is from_c:
        text = (tmp_path / "flats.json").read_text()
    else:
        properties = pytest.importorskip("onnx").load(tmp_path / "m.onnx").metadata_props
        (text,) = (one.value for one in properties if one.key == "fastmlp.table")
    described = {one["name"]: one for one in json.loads(text)["columns"]}
    assert [*described] == [*every_kind().drop("price", "kind").columns]
    assert described["city"]["levels"] == list(exported.encoding_.columns[1].levels)
    assert described["when"]["holds"] == "seconds since 1970-01-01 in UTC"


def test_a_text_is_refused_by_its_name(tmp_path):
    words = pl.Series("note", [f"{a} {b} stone water" for a in "ab" for b in ("red", "blue")] * 15)
    frame = flats(60).with_columns(words).drop("kind")
    model = TableRegressor(**QUICK | {"epochs": 1, "columns": {"note": "text"}}).fit(frame, "price")
    for write in (model.to_onnx, model.to_c):
        with pytest.raises(TableError, match=r"^column 'note': exports take no free text; train without"):
            write(tmp_path / "m")
    assert not [*tmp_path.iterdir()]


OTHER_TARGETS = [
    ("price", {"loss": "poisson", "monotone": {"size": 1}}),
    ("price", {"target_transform": "log"}),
    (["price", "kind", "noise"], {}),
    (["kind", "price"], {"target_transform": "log"}),
]


@quick(1)
@needs.compiler
@pytest.mark.parametrize(("target", "options"), OTHER_TARGETS, ids=str)
def test_exponentials_and_several_targets_are_those_of_predict(tmp_path, target, options):
    """Numbers in their units, and the probabilities of classes, one target after another."""
    frame = flats(100).drop([] if "kind" in target else "kind")
    model = TableRegressor(**QUICK | {"epochs": 3} | options).fit(frame, target)
    outputs, found = model.outputs(frame), model.predict(frame)
    if isinstance(target, str):
        expected = found[:, None]
    else:
        columns = {"price": [found["price"]], "noise": [found["noise"]] if "noise" in target else []}
        place = 0 if target[0] == "kind" else 1
        columns["kind"] = [*outputs[:, place : place + 2].T]
        expected = np.column_stack([column for name in target for column in columns[name]])
    for read in (from_onnx, from_c):
        np.testing.assert_allclose(
            read(model, frame, tmp_path), expected, rtol=0, atol=CLOSE * np.abs(expected).max(axis=0).max()
        )
    targets = json.loads((tmp_path / "flats.json").read_text()).get("targets", [])
    assert [one["target"] for one in targets] == (target if isinstance(target, list) else [])
    assert ["probabilities of" in one for one in targets] == [one["target"] == "kind" for one in targets]


# --- new rows -------------------------------------------------------------------------------------------


def drifted(rows, seed):
    """Flats that cost half as much more, one in ten in a city that was not learned."""
    frame = flats(rows, seed).drop("kind").with_columns(price=1.5 * pl.col("price"))
    return frame.with_columns(city=pl.Series(np.where(np.arange(rows) % 10 == 0, "Bonn", frame["city"])))


@matrix
@pytest.mark.filterwarnings("ignore:column 'city'. .* levels that were not learned")
def test_new_rows_change_the_networks_and_nothing_that_was_learned_of_columns(tmp_path):
    first, second, later = flats().drop("kind"), drifted(150, 1), drifted(150, 2)
    model = TableRegressor(**QUICK | {"epochs": 100, "members": 3}, columns={"noise": "drop"}).fit(
        first, "price"
    )
    encoding, task, errors = model.encoding_, model.task_, model.errors_
    before = model.score(later, "price")
    assert model.fit_more(second) is model
    assert model.encoding_ is encoding
    assert model.task_ is task
    assert model.score(later, "price") > before + 0.2
    assert len(errors.scaled) == 200 * 3 // 5
    assert len(model.errors_.scaled) == 150 * 3 // 5
    low, high = model.predict_interval(later.drop("price"), 0.8)
    assert 0.7 < ((low <= later["price"].to_numpy()) & (later["price"].to_numpy() <= high)).mean() < 0.95
    assert model.report_["held out"] == "before 150 rows more were learned"
    trained = "rows that the model was trained on"
    assert [model.looked_at(one, None)[2] for one in (first, second, later)] == [trained, trained, None]
    with pytest.warns(UserWarning, match="^the model has learned from this table: errors of intervals"):
        copy.deepcopy(model).fit_more(second)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    np.testing.assert_array_equal(again.predict(later), model.predict(later))
    assert again.fit_more(drifted(150, 3)).score(later, "price") > before + 0.2


def test_a_class_that_was_not_learned_is_refused(classifier):
    parameters = classifier.models_[0].parameters
    frame = flats(seed=3).drop("price").with_columns(kind=pl.lit("absurd"))
    with pytest.raises(TableError, match=r"^column 'kind': class 'absurd' was not learned$"):
        classifier.fit_more(frame)
    with pytest.raises(TableError, match="at least 5 rows with a target are needed, got 4"):
        classifier.fit_more(flats(seed=3)[:4])
    assert classifier.models_[0].parameters is parameters


@matrix
@pytest.mark.filterwarnings("ignore:column 'city'. .* levels that were not learned")
def test_new_rows_of_several_targets_and_of_logarithms_have_their_own_shift():
    first, second = flats(), flats(150, 1).with_columns(price=1.5 * pl.col("price"))
    model = TableRegressor(**QUICK, target_transform="log").fit(first, ["price", "kind"])
    before, (_, learned), *_ = model.score(second, ["price", "kind"]), *model.task_.parts
    assert model.fit_more(second).score(second, ["price", "kind"]) > before
    (_, task), *_ = model.task_.parts
    assert (task.mean, task.deviation, task.log) == (learned.mean, learned.deviation, True)
    assert task.shift != learned.shift
    with pytest.raises(TableError, match=r"^column 'kind': class 'absurd' was not learned$"):
        model.fit_more(second.with_columns(kind=pl.lit("absurd")))
    with pytest.raises(TableError, match=r"^column 'price': the logarithm needs targets above 0, got -1$"):
        model.fit_more(second.with_columns(price=pl.lit(-1.0)))


@matrix
def test_a_monotone_model_from_a_file_remains_monotone(tmp_path):
    frames = [flats(600, seed).drop("kind", "city").filter(pl.col("size").is_not_null()) for seed in (0, 1)]
    first, second = (
        frame.select("size", price=by * pl.col("size") * (1 + 0.3 * pl.col("noise")))  # errors follow sizes
        for by, frame in zip((1, 0.5), frames, strict=True)
    )
    TableRegressor(**QUICK, monotone={"size": 1}).fit(first, "price").save(tmp_path / "m")
    model = load(tmp_path / "m").fit_more(second)
    larger = first.with_columns(size=pl.col("size") * 1.2)
    assert (model.predict(larger) >= model.predict(first)).all()
    assert len({*model.errors_.sizes}) == 1
    falls = first.with_columns(price=-pl.col("price"))
    assert (model.fit_more(falls).predict(larger) >= model.predict(first)).all()


# --- Ctrl-C ---------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys, threading, time, warnings
from dataclasses import replace
import fastmlp
from fastmlp.cli.main import main
from fastmlp.tables.search import TableTraining
from support.flats import flats

def networks(training, planned, *more):
    networks.calls += 1
    if networks.calls == AT:
        if WAIT:
            threading.Timer(WAIT, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            os.kill(os.getpid(), signal.SIGINT)
        planned = [one._replace(recipe=replace(one.recipe, patience=10**6)) for one in planned]
        planned[-1] = planned[-1]._replace(recipe=replace(planned[-1].recipe, epochs=10**6))
    try:
        return own(training, planned, *more)
    except KeyboardInterrupt:
        if TIMES == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        raise

own, TableTraining.networks, networks.calls = TableTraining.networks, networks, 0
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it

def trained(**settings):
    # Prints what is said of it, whether its networks are whole, and how many there are of one recipe.
    settings |= {"hidden": (8,), "epochs": 3, "members": 7, "backend": "reference", "random_state": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = fastmlp.TableRegressor(**settings).fit(flats().drop("kind"), "price")
        except KeyboardInterrupt:
            return print("ended", networks.calls)
    whole = all(len(one.history["loss"]) == 3 for one in model.models_)
    count = len(model.models_) if settings["preset"] == "fast" else ""
    print(*[str(one.message) for one in caught], whole, count, model.predict(flats()).shape, sep="|")
"""


def interrupted(at, code, times=1, wait=0.3):
    script = INTERRUPTED
    for name, number in {"AT": at, "TIMES": times, "WAIT": wait}.items():
        script = script.replace(name, str(number))
    return python("-c", f"{script}\n{code}", **importing()).stdout


@needs.kills
@pytest.mark.slow  # processes that train, 3 s each
@pytest.mark.parametrize(
    ("at", "times", "wait", "preset", "says"),
    [
        (4, 1, 0.3, "fast", "there was room for 3 of 7 networks before Ctrl-C|True|3|(200,)"),
        (4, 1, 0, "fast", "there was room for 3 of 7 networks before Ctrl-C|True|3|(200,)"),
        (1, 1, 3, "good", "there was room for 2 of 3 recipes, 1 of 7 networks before Ctrl-C|True||(200,)"),
        (1, 1, 0.3, "fast", "ended 1"),
        (4, 2, 0.3, "fast", "ended 4"),
    ],
    ids=["one trains", "one is prepared", "several train at once", "none is done", "twice"],
)
def test_ctrl_c_keeps_the_networks_that_are_done(at, times, wait, preset, says):
    """Before one is done, and twice, it ends at once."""
    assert interrupted(at, f"trained(preset={preset!r})", times, wait) == f"{says}\n"


@needs.kills
@pytest.mark.slow  # as above
def test_the_command_writes_the_model_and_says_it(tmp_path):
    flats().drop("kind").write_csv(tmp_path / "flats.csv")
    options = "--target price --hidden 8 --epochs 3 --members 7 --preset fast --backend reference"
    arguments = ["train", str(tmp_path / "flats.csv"), *options.split(), "-o", str(tmp_path / "m")]
    said = interrupted(3, f"sys.exit(main({arguments!r}))\n")
    assert "note       there was room for 2 of 7 networks before Ctrl-C\n" in said
    model = load(tmp_path / "m")
    assert len(model.models_) == 2
    assert model.shortened_ == "2 of 7 networks before Ctrl-C"
