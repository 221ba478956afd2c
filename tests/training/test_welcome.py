"""What users pass and may: the same numbers in other layouts, types and libraries' arrays."""

from __future__ import annotations

import fractions
import pickle

import numpy as np
import pandas
from support.selection import crossed, some_backends

import fastmlp
from fastmlp import SGD, Adam, Network
from fastmlp.backend import registry

X = np.arange(12.0).reshape(4, 3) / 12
Y = np.array([0.0, 1, 1, 0])


def fit(backend, network=Network([3, 4, 1]), x=X, y=Y, **options):  # noqa: B008  # it is frozen
    return fastmlp.fit(network, x, y, **{"epochs": 1, "backend": backend, **options})


def strided(array):
    wide = np.zeros((len(array) * 2, *(2 * n + 1 for n in array.shape[1:])))
    view = wide[::2, 1::2] if array.ndim == 2 else wide[::2]
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array):
    """A view of immutable bytes, as np.memmap(mode="r") and np.frombuffer give."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


GRID = np.round(np.random.default_rng(0).normal(0, 4, (9, 3)))  # whole: exact in every type
WHOLE = np.arange(9.0) % 3

WELCOME = {
    "read-only": read_only,
    "of immutable bytes": mapped,
    "in Fortran's order": np.asfortranarray,
    "strided": strided,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "backwards in columns": lambda a: a[..., ::-1].copy()[..., ::-1],
    "int8": lambda a: a.astype(np.int8),
    "big-endian int64": lambda a: a.astype(">i8"),
    "long and big-endian": lambda a: a.astype(np.longdouble).astype(np.longdouble().dtype.newbyteorder(">")),
    "a list": lambda a: a.tolist(),
    "a tuple of fractions' floats": lambda a: tuple(np.vectorize(lambda v: float(fractions.Fraction(v)))(a)),
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(float).reshape(a.shape),
    "a subclass": lambda a: a.view(type("Named", (np.ndarray,), {})),
}


def run(backend, x, y, weight):
    model = fastmlp.fit(
        Network([3, 4, 1]), x, y, epochs=2, batch_size=4, seed=0, sample_weight=weight, backend=backend,
        validation=(x, y, weight),
    )  # fmt: skip
    return model.parameters, model.predict(x), model.history["loss"], model.history["validation_loss"]


def content(value):
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype == np.asarray(other).dtype


@crossed(backend=registry.backends(), kind=list(WELCOME))
def test_the_same_numbers_in_another_guise_give_the_same_bits_and_stay_as_they_are(backend, kind):
    given = [WELCOME[kind](array) for array in (GRID, WHOLE, 1 + WHOLE)]
    before = [content(value) for value in given]
    assert_same(run(backend, *given), run(backend, GRID, WHOLE, 1 + WHOLE))
    assert [content(value) for value in given] == before


@some_backends
def test_a_row_that_a_stride_of_0_repeats(backend):
    given = [np.broadcast_to(array[0], array.shape) for array in (GRID, WHOLE, 1 + WHOLE)]
    assert given[0].strides[0] == 0
    assert_same(run(backend, *given), run(backend, *(array.copy() for array in given)))


@some_backends
def test_clean_input_stays_as_it_is(backend):
    given = [GRID.copy(), WHOLE.copy(), 1 + WHOLE]
    before = [content(value) for value in given]
    run(backend, *given)
    assert [content(value) for value in given] == before


@some_backends
def test_booleans_are_0_and_1(backend):
    assert_same(
        run(backend, GRID > 0, WHOLE > 0, WHOLE > 1),
        run(backend, *((a > t) * 1.0 for a, t in ((GRID, 0), (WHOLE, 0), (WHOLE, 1)))),
    )


@some_backends
def test_pandas(backend):
    frame = pandas.DataFrame(GRID, columns=list("abc"))
    expected = run(backend, GRID, WHOLE, 1 + WHOLE)
    assert_same(run(backend, frame, pandas.Series(WHOLE), pandas.Series(1 + WHOLE)), expected)


@some_backends
def test_numbers_of_numpy_count_like_python_s(backend):
    options = {"seed": np.uint8(3), "threads": np.int64(1), "shuffle": np.bool_(True)}
    model = fit(backend, epochs=np.int8(100), batch_size=np.int16(1), **options)
    assert len(model.history["loss"]) == 100


@crossed(backend=registry.backends(), dtype=[np.float32, np.float64], scale=[2.0**-100, 2.0**100])
def test_only_the_ratios_of_sample_weights_count(backend, dtype, scale):
    weights = np.array([1, 2, 0, 3], dtype)
    plain, scaled = (
        fit(backend, x=X.astype(dtype), epochs=3, seed=0, sample_weight=w)
        for w in (weights, weights * dtype(scale))
    )
    assert plain.history == scaled.history
    np.testing.assert_array_equal(plain.parameters, scaled.parameters)


@some_backends
def test_a_model_survives_pickling(backend):
    model = fit(backend, seed=0)
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.backend, copy.history, copy.network) == (model.backend, model.history, model.network)
    np.testing.assert_array_equal(copy.predict(X), model.predict(X))


@some_backends
def test_one_buffer_may_serve_as_everything(backend):
    """Inputs, targets and weights that overlap, and a start that is the data's own memory."""
    buffer = 1 + np.arange(12.0)
    x, y, weights = buffer.reshape(4, 3), buffer[2:6], buffer[:4]
    start = ([buffer[:3, None]], [buffer[3:4]])
    options = {"epochs": 2, "seed": 0, "optimizer": SGD(1e-4), "backend": backend}
    network = Network([3, 1])
    shared = fastmlp.fit(network, x, y, sample_weight=weights, initial=start, **options)
    apart = fastmlp.fit(
        network, x.copy(), y.copy(), sample_weight=weights.copy(),
        initial=([start[0][0].copy()], [start[1][0].copy()]), **options,
    )  # fmt: skip
    np.testing.assert_array_equal(shared.parameters, apart.parameters)
    np.testing.assert_array_equal(buffer, 1 + np.arange(12.0))


@some_backends
def test_one_class_is_learnt_like_any_other(backend):
    network = Network([3, 4, 3], output="softmax", loss="cross_entropy")
    model = fit(backend, network, y=[1, 1, 1, 1], epochs=50, optimizer=Adam(0.1))
    assert (model.predict(X).argmax(axis=1) == 1).all()
