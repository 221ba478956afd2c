"""Hostile input, one table: for `fit` on every backend, and for both estimators as for scikit-learn's."""

import functools
import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
import sklearn.neural_network
from support.equal_estimators import assert_same
from support.problems import put
from support.selection import quick

import fastmlp
from fastmlp import Network

X = np.round(np.random.default_rng(0).normal(0, 4, (12, 3)))  # whole: exact in every type
Y = {"classes": np.arange(12) % 3, "values": X @ [1, -2, 0.5]}
WEIGHTS = 1.0 + np.arange(12) % 3
NETWORK = {
    "classes": {"output": "softmax", "loss": "cross_entropy"},
    "values": {"output": "identity", "loss": "mse"},
}
ESTIMATOR = {"classes": "MLPClassifier", "values": "MLPRegressor"}

nan, inf = float("nan"), float("inf")


class Row(NamedTuple):
    """Something hostile, and what becomes of it.

    given : X, y, sample_weight, batch_size, width; or functions of the sound ones
    refused : how `fit` refuses it, a pattern; None where it is taken
    means : what `fit` then takes it for, in the same bits
    better : how the estimators refuse it where scikit-learn does otherwise; a pattern
    only : the task for which it is hostile, if not for both
    """

    given: dict[str, Any]
    refused: str | None = None
    means: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it
    better: str | None = None
    only: str | None = None


def to(dtype):
    return lambda array: array.astype(dtype)


def missing(array):
    """The array as pandas has it, with its last value missing."""
    values = array.astype(object)
    values[-1] = pandas.NA
    return pandas.Series(values) if array.ndim == 1 else pandas.DataFrame(values)


def masked(array):
    return np.ma.masked_array(array, array == array.max())


def other_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def enormous(array):
    return array.astype(np.longdouble) * np.longdouble("1e4000")


BUFFER = 1.0 + np.arange(40)
"""Memory that inputs, targets and weights share."""


def sharing(only=None, **given):
    return Row(given, means={name: view.copy() for name, view in given.items()}, only=only)


HOSTILE = {
    # inputs
    "nan": Row({"X": put((2, 1), nan)}, r"X must be finite, got nan at X\[2, 1\]"),
    "inf": Row({"X": put((2, 1), inf)}, r"X must be finite, got inf at X\[2, 1\]"),
    "-inf": Row({"X": put((2, 1), -inf)}, r"X must be finite, got -inf at X\[2, 1\]"),
    "two infs": Row({"X": put(([0, 1], [0, 1]), [inf, -inf])}, r"X must be finite, got inf at X\[0, 0\]"),
    "pd.NA": Row({"X": missing}, "X must hold real numbers, got dtype object"),
    "masked": Row({"X": masked}, "X must not be a masked array"),
    "np.matrix": Row({"X": np.matrix}),
    "objects": Row({"X": to(object)}, "X must hold real numbers, got dtype object"),
    "complex": Row({"X": to(complex)}, "X must hold real numbers, got dtype complex128"),
    "strings": Row({"X": to(str)}, "X must hold real numbers, got dtype <U"),
    "words": Row({"X": np.full((12, 3), "a")}, "X must hold real numbers, got dtype <U1"),
    "float16": Row({"X": to(np.float16)}),
    "long double": Row({"X": to(np.longdouble)}),
    "a long double beyond float64": Row({"X": enormous}, r"X\[0, 0\] = .*e\+4000 does not fit into float64"),
    "big-endian": Row({"X": to(">f8")}),
    "big-endian float32": Row({"X": to(">f4")}, means={"X": to("f4")}),
    "zero rows": Row({"X": X[:0], "y": lambda y: y[:0]}, "X must hold at least 1 row, got 0"),
    "zero columns": Row({"X": X[:, :0]}, r"X must have shape \(rows, 3\), got \(12, 0\)"),
    # targets
    "one class": Row({"y": np.ones_like}, means={"y": [1] * 12}),
    "an unseen label": Row({"y": put(3, 3)}, r"y must hold class labels 0\.\.2 .*, got 3", only="classes"),
    "y: nan": Row({"y": put(1, nan)}, "y must .*got nan"),
    "y: inf": Row({"y": put(1, inf)}, "y must .*got inf"),
    "y: pd.NA": Row({"y": missing}, "y must hold real numbers, got dtype object"),
    "y: masked": Row({"y": masked}, "y must not be a masked array"),
    "y: np.matrix": Row({"y": lambda y: np.matrix(y).T}),
    "y: objects": Row({"y": to(object)}, "y must hold real numbers, got dtype object"),
    "y: complex": Row({"y": to(complex)}, "y must hold real numbers, got dtype complex128"),
    "y: strings": Row(
        {"y": to(str)}, "y must hold real numbers, got dtype <U", only="values", better="y must hold real"
    ),
    "y: names": Row({"y": to(str)}, "y must hold real numbers, got dtype <U", only="classes"),
    "y: float16": Row({"y": to(np.float16)}),
    "y: long double": Row({"y": to(np.longdouble)}),
    "y: big-endian": Row({"y": other_endian}),
    "y: zero columns": Row({"y": np.ones((12, 0))}, r"y must have shape .*, got \(12, 0\)"),
    # weights
    "weights: all zero": Row(
        {"sample_weight": np.zeros(12)},
        "sample_weight must not be all zero",
        better="must contain at least one non-zero",  # scikit-learn 1.9's words; 1.7 divides by 0
    ),
    "weights: negative": Row(
        {"sample_weight": put(3, -1)},
        "sample_weight must be at least 0, got -1",
        better="Negative values in data passed to `sample_weight`",
    ),
    "weights: nan": Row({"sample_weight": put(3, nan)}, r"sample_weight must be finite, got nan at .*\[3\]"),
    "weights: inf": Row({"sample_weight": put(3, inf)}, r"sample_weight must be finite, got inf at .*\[3\]"),
    "weights: pd.NA": Row({"sample_weight": missing}, "sample_weight must hold real numbers"),
    "weights: masked": Row({"sample_weight": masked}, "sample_weight must not be a masked array"),
    "weights: objects": Row({"sample_weight": to(object)}, "sample_weight must hold real numbers"),
    "weights: complex": Row({"sample_weight": to(complex)}, "sample_weight must hold real numbers"),
    "weights: strings": Row({"sample_weight": to(str)}, "sample_weight must hold real numbers"),
    "weights: float16": Row({"sample_weight": to(np.float16)}),
    "weights: long double": Row({"sample_weight": to(np.longdouble)}),
    "weights: big-endian": Row({"sample_weight": to(">f8")}),
    "weights: too few": Row({"sample_weight": WEIGHTS[:3]}, r"sample_weight must have .*, got \(3,\)"),
    # sizes
    "a batch over n": Row({"batch_size": 1000}, means={"batch_size": 12}),
    "a width of 0": Row({"width": 0}, "sizes must be at least 1, got 0"),
    "a width of -1": Row({"width": -1}, "sizes must be at least 1, got -1"),
    "a width of True": Row({"width": True}, "sizes must be a whole number, got True", better="got True"),
    "a width in words": Row({"width": "4"}, "sizes must be a whole number, got '4'", better="got '4'"),
    "a width of 10^9": Row({"width": 10**9}, r"at most 2\^31 fit", better=r"at most 2\^31 fit"),
    # one buffer
    "inputs among the weights": sharing(X=BUFFER[:36].reshape(12, 3), sample_weight=BUFFER[4:16]),
    "targets among the inputs": sharing("values", X=BUFFER[:36].reshape(12, 3), y=BUFFER[2:14]),
    "weights that are the targets": sharing("values", y=BUFFER[1:13], sample_weight=BUFFER[1:13]),
}  # fmt: skip

CASES = [(task, name) for name in HOSTILE for task in Y if HOSTILE[name].only in (None, task)]


def sound(task):
    return {"X": X, "y": Y[task], "sample_weight": WEIGHTS, "batch_size": 5, "width": 4}


def changed(values, changes):
    return {**values, **{name: new(values[name]) if callable(new) else new for name, new in changes.items()}}


def content(given):
    return [value.tobytes() if isinstance(value, np.ndarray) else repr(value) for value in given.values()]


# --- fit ------------------------------------------------------------------------------------------------


def trained(task, backend, X, y, width, **options):
    network = Network([3, width, 3 if task == "classes" else 1], **NETWORK[task])
    return fastmlp.fit(network, X, y, epochs=2, seed=0, backend=backend, **options)


def check_refused(row, do, backends):
    """Every backend refuses it in the same line, which has what was got and what was expected."""
    said = set()
    for backend in backends:
        with pytest.raises((ValueError, TypeError), match=row.refused) as caught:
            do(backend)
        said.add((caught.type, str(caught.value)))
    ((_, message),) = said
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize(("task", "name"), CASES)
def test_fit_takes_it_for_what_it_means_or_refuses_it(task, name, backends):
    row = HOSTILE[name]
    given, meant = changed(sound(task), row.given), changed(sound(task), row.means)
    before = content(given)
    if row.refused:
        check_refused(row, lambda backend: trained(task, backend, **given), backends)
    else:
        for backend in backends:
            got, expected = (trained(task, backend, **values) for values in (given, meant))
            assert got.history == expected.history
            np.testing.assert_array_equal(got.parameters, expected.parameters)
            assert got.parameters.dtype == expected.parameters.dtype
    assert content(given) == before


@functools.cache
def model(backend):
    return trained("values", backend, **sound("values"))


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("name", [name for name, row in HOSTILE.items() if "X" in row.given])
def test_predict_takes_it_for_what_it_means_or_refuses_it(name, backends):
    row = HOSTILE[name]
    given, meant = (changed(sound("values"), changes)["X"] for changes in (row.given, row.means))
    if row.refused:
        check_refused(row, lambda backend: model(backend).predict(given), backends)
    else:
        for backend in backends:
            np.testing.assert_array_equal(model(backend).predict(given), model(backend).predict(meant))


@pytest.mark.parametrize("sizes", [[3, 10**9, 1], [10**9, 10**9], [1, *[10**9] * 99]])
def test_a_network_too_large_is_refused_before_it_is_allocated(sizes):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="at most 2\\^31 fit"):
            Network(sizes)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- the estimators -------------------------------------------------------------------------------------


def estimated(package, task, method, X, y, sample_weight, batch_size, width, **options):
    estimator = getattr(package, ESTIMATOR[task])(
        hidden_layer_sizes=(width,),
        batch_size=batch_size,
        solver="sgd",
        max_iter=2,
        random_state=0,
        **options,
    )
    classes = {"classes": [0, 1, 2]} if (task, method) == ("classes", "partial_fit") else {}
    return getattr(estimator, method)(X, y, sample_weight, **classes)


@quick(30)
@pytest.mark.filterwarnings("ignore")  # scikit-learn's own, which test_estimator_words.py compares
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("task", "name"), CASES)
def test_estimators_do_what_scikit_learn_does_or_say_it_better(task, name, method, backends):
    row = HOSTILE[name]
    given = changed(sound(task), row.given)
    before = content(given)

    def ours(backend):
        return estimated(fastmlp, task, method, **given, backend=backend)

    if row.better:
        check_refused(row._replace(refused=row.better), ours, backends)
    else:
        check_like(ours, lambda: estimated(sklearn.neural_network, task, method, **given), backends)
    assert content(given) == before


def check_like(ours, theirs, backends):
    """Every backend's estimator comes out like scikit-learn's, or raises the same error."""
    expected = result(theirs)
    for backend in backends:
        got = result(lambda backend=backend: ours(backend))
        if isinstance(expected, tuple):
            assert got == expected
        else:
            assert_same(got, expected, X, 1e-10)


def result(do):
    """What a call returns, or the kind and the words of its error."""
    try:
        return do()
    except (ValueError, TypeError) as error:
        return type(error), " ".join(str(error).split())
