"""Arrays in files: taken as arrays are, sent as their paths."""

import os
import pickle
import re

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import cross_val_score

import fastmlp


@pytest.fixture
def mapped(tmp_path):
    X = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    np.save(tmp_path / "X.npy", X)
    return X, fastmlp.MappedArray(tmp_path / "X.npy")


def test_a_mapped_array_is_taken_as_an_array_is(mapped):
    X, given = mapped
    y = (X[:, 0] > 0).astype(int)
    assert (given.shape, given.dtype, given.ndim, given.nbytes, len(given)) == ((90, 4), X.dtype, 2, 1440, 90)
    assert np.array_equal(given[3:5], X[3:5])
    network = fastmlp.Network([4, 3, 1])
    options = {"epochs": 2, "seed": 0, "backend": "fused"}
    models = [fastmlp.fit(network, one, y, **options) for one in (X, given)]
    assert np.array_equal(models[0].parameters, models[1].parameters)
    assert np.array_equal(models[0].predict(X), models[1].predict(given))
    classifier = fastmlp.MLPClassifier(
        (3,), solver="sgd", n_iter_no_change=1, tol=1e9, random_state=0, backend="fused"
    )
    for score in (
        lambda one: cross_val_score(classifier, one, y, cv=3).tolist(),
        lambda one: BaggingClassifier(classifier, 2, random_state=0).fit(one, y).predict_proba(one).tolist(),
    ):
        assert score(X) == score(given)


def test_a_mapped_array_is_sent_as_its_path_and_is_not_copied(mapped):
    X, given = mapped
    sent = pickle.dumps(given)
    assert len(sent) < 400 < X.nbytes
    there = pickle.loads(sent)
    assert np.array_equal(there, X)
    one, two = np.asarray(there), np.asarray(there)
    assert np.shares_memory(one, two)
    assert not one.flags.writeable
    assert not np.shares_memory(one, np.array(there))


def test_a_file_that_has_changed_is_refused(mapped):
    _, given = mapped
    sent = pickle.dumps(given)
    np.save(given.path, np.zeros((3, 4)))
    says = r"held \(90, 4\) float32 when it was sent, now holds \(3, 4\) float64"
    with pytest.raises(ValueError, match=says):
        pickle.loads(sent)


HOSTILE = {
    "objects": lambda path: np.save(path, np.array([None])),
    "words": lambda path: np.save(path, np.array(["a"])),
    "nothing": lambda path: path.write_bytes(b""),
    "an archive": lambda path: path.write_bytes(b"PK\x03\x04 and more"),
    "half": lambda path: (np.save(path, np.zeros(1000)), os.truncate(path, 500)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_anything_else_is_refused_in_one_line(name, tmp_path):
    path = tmp_path / "file.npy"
    HOSTILE[name](path)
    says = f"^path must name an .npy file of numbers, got {re.escape(str(path))}: [^\n]+$"
    with pytest.raises(ValueError, match=says):
        fastmlp.MappedArray(path)
    with pytest.raises(TypeError, match="path must be a str or a path, got int"):
        fastmlp.MappedArray(3)
