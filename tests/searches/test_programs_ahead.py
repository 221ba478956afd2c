"""What a search's networks call is requested before their first training, once for each program."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from problems import data_set
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastmlp
from fastmlp.backend import background_tasks
from fastmlp.backend.auto import Auto
from fastmlp.kernels.runtime import preparing
from fastmlp.searches import tasks
from fastmlp.searches.ahead import MOST_ROWS, scored_rows
from fastmlp.system import background

X, Y = data_set("breast_cancer", 90)


class Began(Exception):
    """The first trainings of a search began."""


@pytest.fixture
def requests(monkeypatch):
    """What processes were requested to do; trainings raise `Began`."""
    found = []

    def train(*_):
        raise Began

    monkeypatch.setattr(background, "is_possible", lambda *_: True)
    monkeypatch.setattr(preparing, "partners", {})
    monkeypatch.setattr(preparing.store, "why_not_kept", lambda: None)
    monkeypatch.setattr(background, "request", lambda *_: False)
    monkeypatch.setattr(background, "call", lambda *given: found.append(given))
    monkeypatch.setattr(tasks, "train_together", train)
    return found


def search():
    network = fastmlp.MLPClassifier(max_iter=2, n_iter_no_change=2, batch_size=20)
    grid = {"mlpclassifier__hidden_layer_sizes": [(40,), (50,)], "mlpclassifier__alpha": [0.01, 0.1]}
    pipeline = make_pipeline(StandardScaler(), network)
    return fastmlp.GridSearchCV(pipeline, grid, cv=KFold(3), n_jobs=1, refit=False)


def test_what_the_disk_lacks_is_requested_before_the_first_training(requests, monkeypatch):
    monkeypatch.setattr(Auto, "is_ready", lambda *_: False)
    with pytest.raises(Began):
        search().fit(X, Y)
    assert [task for task, *_ in requests] == ["take part"] * 2  # for each program, whatever the penalties
    assert requests[0][2] != requests[1][2]
    assert [predicted for *_, predicted in requests] == [[30]] * 2


def test_what_is_on_the_disk_is_not_requested(requests, monkeypatch):
    monkeypatch.setattr(Auto, "is_ready", lambda *_: True)
    with pytest.raises(Began):
        search().fit(X, Y)
    assert not requests


def test_rows_that_are_scored_are_those_of_scikit_learns_calls():
    def score(estimator, X, y, train, test=None):
        raise AssertionError("it is not called")

    class Unhashable:
        __hash__ = None

        def __call__(self, *_):
            raise AssertionError("it is not called")

    calls = [
        (score, (None, X, Y, [0]), {"test": [1, 2]}),
        (score, (None, X, Y, [0], range(10**6)), {}),
        (score, (None, X, Y, [0]), {}),
        (max, (1, 2), {}),
        (Unhashable(), (1,), {}),
    ]
    assert scored_rows(calls) == [2, MOST_ROWS]


def test_a_partner_predicts_the_rows_that_will_be(monkeypatch):
    taken = []

    class Backend:
        train_chunk = None

        def predict(self, network, parameters, inputs, out):
            taken.append((inputs.shape, out.shape))

    given = []
    monkeypatch.setattr(background_tasks.registry, "get", lambda name: Backend())
    monkeypatch.setattr(background_tasks, "prepare", lambda *_: True)
    monkeypatch.setattr(preparing.background, "is_possible", lambda *_: True)
    monkeypatch.setattr(preparing.store, "why_not_kept", lambda: None)
    monkeypatch.setattr(preparing, "partners", {})
    monkeypatch.setattr(preparing.background, "call", lambda *task: given.append(task))
    network = fastmlp.Network([3, 4, 2])
    preparing.request_partner("fused", network, fastmlp.Adam(), "float32", [20], [30, 31])
    task, *arguments = json.loads(json.dumps(given[0]))
    background_tasks.TASKS[task](*arguments)
    assert taken == [((30, 3), (30, 2)), ((31, 3), (31, 2))]


def test_one_partner_at_a_time_is_begun(monkeypatch):
    begun = []

    def begin(*task):
        begun.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return begun[-1]

    def request():
        preparing.request_partner("fused", fastmlp.Network([3, 4, 2]), fastmlp.Adam(), "float32", [20])
        return len(begun)

    monkeypatch.setattr(preparing, "partners", {})
    monkeypatch.setattr(preparing.background, "is_possible", lambda *_: True)
    monkeypatch.setattr(preparing.store, "why_not_kept", lambda: None)
    monkeypatch.setattr(preparing.background, "call", begin)
    try:
        assert [request(), request()] == [1, 1]
        begun[0].communicate(b"\n")
        assert [request(), request()] == [2, 2]
    finally:
        for process in begun:
            process.communicate()
