"""Mistakes in what users pass, one table: an error in one line, the same on every backend."""

import fractions

import numpy as np
import pandas
import pytest
import scipy.sparse
from support.problems import put
from support.selection import crossed, some_backends

import fastmlp
from fastmlp import SGD, Adam, AdamW, EarlyStopping, Network, Normal, RMSprop, TimeLimit
from fastmlp.backend import registry
from fastmlp.model import optimizers, schedules

X = np.arange(12.0).reshape(4, 3) / 12
Y = np.array([0.0, 1, 1, 0])
REGRESSION = Network([3, 2, 1])
CLASSES = Network([3, 2, 3], output="softmax", loss="cross_entropy")
BINARY = Network([3, 1], output="sigmoid", loss="binary_cross_entropy")
COUNTS = Network([3, 1], output="exp", loss="poisson")


def fit(network=REGRESSION, x=X, y=Y, **options):
    return lambda backend: fastmlp.fit(network, x, y, **{"epochs": 1, "backend": backend, **options})


def predict(x):
    return lambda backend: fit(epochs=0)(backend).predict(x)


def make(what, *arguments, **options):
    return lambda backend: what(*arguments, **options)


class Lion(Adam):
    """Has a rule of its own, which nobody would call."""


class Wide(Normal):
    """A rule like `Lion`, of more numbers."""


START = ([np.ones((3, 2)), np.ones((2, 1))], [np.zeros(2), np.zeros(1)])


def start(weights=START[0], biases=START[1]):
    return fit(initial=(weights, biases))


nan, inf = float("nan"), float("inf")

# what is done, what the message says was got and what it says was expected
MISTAKES = {
    # X
    "too wide": (fit(x=np.ones((4, 5))), "(4, 5)", "(rows, 3)"),
    "one dimension": (fit(x=np.ones(3)), "(3,)", "(rows, 3)"),
    "three dimensions": (fit(x=np.ones((4, 3, 1))), "(4, 3, 1)", "(rows, 3)"),
    "a number": (fit(x=1.0), "()", "(rows, 3)"),
    "nothing": (fit(x=None), "object", "real numbers"),
    "too large for float32": (fit(x=put((0, 2), 1e39)(X), dtype="float32"), "1e+39", "float32"),
    "a generator": (fit(x=(row for row in X)), "<generator object", "np.array(list(X))"),
    "an iterator": (fit(x=map(list, X)), "<map object", "np.array(list(X))"),
    "an iterator for y": (fit(y=iter(Y)), "iterator object", "np.array(list(y))"),
    "validation by a generator": (fit(validation=(iter(X), Y)), "iterator", "np.array(list(X))"),
    "predict: a generator": (predict(row for row in X), "<generator object", "np.array(list(X))"),
    "dates": (fit(x=np.ones((4, 3), "M8[s]")), "datetime64", "real numbers"),
    "bytes": (fit(x=X.astype("S")), "|S", "real numbers"),
    "records": (fit(x=np.zeros((4, 3), [("a", float)])), "[('a', '<f8')]", "real numbers"),
    "None among numbers": (fit(x=[[1, 2, None]] * 4), "object", "real numbers"),
    "ragged": (fit(x=[[1, 2, 3], [1, 2], [1, 2, 3], [1, 2, 3]]), "inhomogeneous", "rectangular"),
    "sparse matrix": (fit(x=scipy.sparse.csr_matrix(X[:, :2])), "(4, 2)", "(rows, 3)"),
    "sparse array": (fit(y=scipy.sparse.coo_array(Y[:, None])), "coo_array", "dense"),
    "predict: too wide": (predict(np.ones((4, 5))), "(4, 5)", "(rows, 3)"),
    # y
    "y too short": (fit(y=Y[:3]), "(3,)", "(4,) or (4, 1)"),
    "y too wide": (fit(y=np.ones((4, 2))), "(4, 2)", "(4, 1)"),
    "y in a row": (fit(y=Y[None]), "(1, 4)", "(4,)"),
    "label below 0": (fit(CLASSES, y=[0, 1, -1, 2]), "got -1", "0..2"),
    "half a label": (fit(CLASSES, y=[0, 1, 0.5, 2]), "got 0.5", "0..2"),
    "two hot": (fit(CLASSES, y=[[1, 1, 0]] * 4), "sum of 2 in row 0", "of sum 1"),
    "negative probability": (fit(CLASSES, y=[[1.5, -0.5, 0]] * 4), "least of -0.5", "at least 0"),
    "one-hot rows of another width": (fit(CLASSES, y=np.eye(4)), "(4, 4)", "(4, 3)"),
    "probability above 1": (fit(BINARY, y=[0, 1, 1.5, 0]), "1.5", "[0, 1]"),
    "probability below 0": (fit(BINARY, y=[0, 1, -1, 0]), "-1", "[0, 1]"),
    "negative count": (fit(COUNTS, y=[0, 1, -2, 0]), "-2", "at least 0"),
    # sample weights
    "weights in a column": (fit(sample_weight=np.ones((4, 1))), "(4, 1)", "(4,)"),
    # start
    "a start without biases": (fit(initial=START[0]), "got 3", "initial weights must hold 2 arrays"),
    "a number for a start": (fit(initial=1.5), "got 1.5", "(weights, biases)"),
    "one array too few": (start(weights=START[0][:1]), "got 1", "2 arrays"),
    "a start of another shape": (start(weights=[np.ones((2, 3)), np.ones((2, 1))]), "(2, 3)", "(3, 2)"),
    "biases in a row": (start(biases=[np.zeros((1, 2)), np.zeros(1)]), "(1, 2)", "(2,)"),
    "nan in the start": (start(biases=[np.array([0, nan]), np.zeros(1)]), "nan", "finite"),
    "a start of strings": (start(biases=[["a", "b"], [0]]), "<U1", "real numbers"),
    # options of fit
    "batches of 0": (fit(batch_size=0), "got 0", "at least 1"),
    "batches of -1": (fit(batch_size=-1), "got -1", "at least 1"),
    "batches of True": (fit(batch_size=True), "got True", "whole number"),
    "batches of 2.5": (fit(batch_size=2.5), "got 2.5", "whole number"),
    "-1 epochs": (fit(epochs=-1), "got -1", "at least 0"),
    "2.0 epochs": (fit(epochs=2.0), "got 2.0", "whole number"),
    "no threads": (fit(threads=0), "got 0", "at least 1"),
    "shuffle by name": (fit(shuffle="yes"), "'yes'", "True or False"),
    "progress by number": (fit(progress=1), "got 1", "True or False"),
    "negative seed": (fit(seed=-1), "got -1", "at least 0"),
    "half a seed": (fit(seed=0.5), "got 0.5", "whole number"),
    "float16": (fit(dtype="float16"), "float16", "float32 or float64"),
    "int": (fit(dtype=int), "int", "float32 or float64"),
    "a misspelt dtype": (fit(dtype="flaot32"), "flaot32", "float32 or float64"),
    "all rows held out": (fit(validation=1.0), "got 1.0", "in (0, 1)"),
    "no row held out": (fit(validation=0.01), "0.01 of 4 rows", "leaves none"),
    "validation X alone": (fit(validation=(X,)), "got 1 part", "(X, y)"),
    "validation of another width": (fit(validation=(X[:, :2], Y)), "(4, 2)", "(rows, 3)"),
    "nan in validation": (fit(validation=(X, put(0, nan)(Y))), "nan at validation y[0]", "finite"),
    "a callback's class": (fit(callbacks=[EarlyStopping]), "EarlyStopping", "instance"),
    "a function for a callback": (fit(callbacks=[print]), "print", "a Callback"),
    "one callback, no list": (fit(callbacks=TimeLimit(1)), "TimeLimit", "a list of Callback"),
    "None for callbacks": (fit(callbacks=None), "None", "a list of Callback"),
    "unknown monitor": (fit(callbacks=[EarlyStopping(monitor="val")]), "'val'", "the history has: loss"),
    "monitor without validation": (
        fit(callbacks=[EarlyStopping(monitor="validation_loss")]),
        "validation_loss",
        "validation=",
    ),
    "optimizer's class": (fit(optimizer=SGD), "SGD", "instance"),
    "optimizer by a wrong name": (
        fit(optimizer="adm"),
        "unknown optimizer 'adm'",
        "from: sgd, rmsprop, adam, adamw, sparseadam, schedulefreeadamw, muon, or an object, as Adam(0.001)",
    ),
    "a rate for an optimizer": (
        fit(optimizer=0.1),
        "0.1",
        "an SGD, RMSprop, Adam, AdamW, SparseAdam, ScheduleFreeAdamW, Muon, LevenbergMarquardt",
    ),
    "a subclass of an optimizer": (fit(optimizer=Lion()), "Lion(", "would train as Adam"),
    "a subclass of a weight_init": (make(Network, [3, 1], weight_init=Wide()), "Wide(", "instance of Normal"),
    "sizes for a network": (fit([3, 4, 1]), "[3, 4, 1]", "a Network"),
    "arguments in another order": (lambda _: fastmlp.fit(X, Y, REGRESSION), "array([[0.", "a Network"),
    "an array of epochs": (fit(epochs=X), "array([[0.", "whole number"),
    "unknown keyword": (fit(batchsize=3), "batchsize", "keyword"),
    "unknown backend": (lambda _: fit()("fussed"), "'fussed'", "auto, reference, baseline"),
    # networks
    "half a unit": (make(Network, [3, 2.5, 1]), "got 2.5", "whole number"),
    "one size": (make(Network, [3]), "[3]", "n_in and n_out"),
    "a number for sizes": (make(Network, 3), "got 3", "sequence"),
    "a string for sizes": (make(Network, "3-4-1"), "'3-4-1'", "sequence"),
    "a page for a name": (make(Network, [3, 4, 1], "relu\n" * 99), "'relu", "identity, relu"),
    "an array of dropouts": (make(Network, [3, 4, 1], dropout=X), "array([[0.", "one for each"),
    "unknown hidden": (make(Network, [3, 4, 1], "rleu"), "'rleu'", "identity, relu, leaky_relu"),
    "softmax hidden": (make(Network, [3, 4, 1], "softmax"), "'softmax'", "identity, relu"),
    "None hidden": (make(Network, [3, 4, 1], None), "None", "an Activation of your own"),
    "a number for hidden": (make(Network, [3, 4, 1], [3]), "got 3", "identity, relu"),
    "too many hidden": (make(Network, [3, 4, 1], ["relu"] * 2), "got 2", "each of 1"),
    "unknown output": (make(Network, [3, 1], output="relu"), "'relu'", "identity, sigmoid, softmax"),
    "unknown loss": (make(Network, [3, 1], loss="rmse"), "'rmse'", "mse, mae, huber"),
    "identity with bce": (
        make(Network, [3, 1], output="identity", loss="binary_cross_entropy"),
        "'identity'",
        "choose from: sigmoid",
    ),
    "sigmoid with poisson": (
        make(Network, [3, 1], output="sigmoid", loss="poisson"),
        "'sigmoid'",
        "from: exp",
    ),
    "softmax of one": (make(Network, [3, 1], output="softmax"), "got 1", "at least 2"),
    "dropout of 1": (make(Network, [3, 4, 1], dropout=1.0), "got 1.0", "[0, 1)"),
    "negative dropout": (make(Network, [3, 4, 1], dropout=[-0.1]), "got -0.1", "[0, 1)"),
    "nan dropout": (make(Network, [3, 4, 1], dropout=nan), "got nan", "[0, 1)"),
    "negative l2": (make(Network, [3, 1], l2=-1), "got -1", "at least 0"),
    "l1 by name": (make(Network, [3, 1], l1="0.1"), "'0.1'", "number"),
    "delta of 0": (make(fastmlp.Huber, 0), "got 0", "above 0"),
    "quantile of 1": (make(fastmlp.Quantiles, 1), "got 1", "(0, 1)"),
    "unknown weight_init": (make(Network, [3, 1], weight_init="xavier"), "'xavier'", "glorot_uniform"),
    "our own hint for a weight_init": (
        make(Network, [3, 1], weight_init="Normal(scale)"),
        "'Normal(scale)'",
        "an instance of Normal",
    ),
    "the class for a bias_init": (make(Network, [3, 1], bias_init=Normal), "Normal", "an instance of Normal"),
    "a set of sizes": (make(Network, {3, 4, 1}), "{", "sequence"),
    "bytes for sizes": (make(Network, b"abc"), "b'abc'", "sequence"),
    "unknown hidden, none there": (make(Network, [3, 1], "rleu"), "'rleu'", "identity, relu"),
    "dropout of 5, none there": (make(Network, [3, 1], dropout=5), "got 5", "[0, 1)"),
    "a rate beyond floats": (make(SGD, 10**400), "1000", "finite"),
    "an l2 of inf": (make(Network, [3, 1], l2=float("inf")), "inf", "finite and at least 0"),
    "epochs beyond digits": (fit(epochs=-(10**5000)), "thousands of digits", "at least 0"),
    "an array for validation": (fit(validation=X), "array([[0.", "(X, y) or (X, y, sample_weight)"),
    "the base optimizer": (fit(optimizer=optimizers.Optimizer(0.1)), "Optimizer(", "SGD, RMSprop"),
    "the base schedule": (make(SGD, schedules.Schedule()), "base Schedule", "one of the schedules"),
    "unknown bias_init": (make(Network, [3, 1], bias_init="ones"), "'ones'", "zeros, uniform"),
    "negative scale": (make(Normal, -1), "got -1", "at least 0"),
    # optimisers and schedules
    "negative rate": (make(SGD, -0.1), "got -0.1", "at least 0"),
    "rate by name": (make(Adam, "0.1"), "'0.1'", "number"),
    "an array of rates": (make(Adam, X), "array([[0.", "number"),
    "a matrix for sizes": (make(Network, X), "array([[0.", "sequence"),
    "nan rate": (make(Adam, nan), "got nan", "at least 0"),
    "inf rate": (make(RMSprop, inf), "got inf", "at least 0"),
    "True rate": (make(SGD, True), "got True", "number"),
    "complex rate": (make(SGD, 1j), "1j", "number"),
    "bias rate by name": (make(SGD, 0.1, bias_learning_rate="x"), "'x'", "number"),
    "momentum of 1.5": (make(SGD, 0.1, 1.5), "got 1.5", "[0, 1]"),
    "nesterov alone": (make(SGD, 0.1, nesterov=True), "momentum=0", "above 0"),
    "clip at 0": (make(Adam, clip_norm=0), "got 0", "above 0"),
    "beta of 1": (make(Adam, beta2=1.0), "got 1.0", "[0, 1)"),
    "epsilon of 0": (make(RMSprop, epsilon=0), "got 0", "above 0"),
    "negative decay": (make(AdamW, weight_decay=-0.1), "got -0.1", "at least 0"),
    "unknown unit": (make(fastmlp.Cosine, 0.1, 5, unit="batch"), "'batch'", "epoch, step"),
    "step of 0": (make(fastmlp.StepDecay, 0.1, 0), "got 0", "at least 1"),
    "negative factor": (make(fastmlp.Exponential, 0.1, -0.5), "got -0.5", "above 0"),
    "patience of 0": (make(EarlyStopping, 0), "got 0", "at least 1"),
    "a monitor by number": (make(EarlyStopping, monitor=3), "got 3", "a name that is in the history"),
    "unknown mode": (make(EarlyStopping, mode="auto"), "'auto'", "min, max"),
    "no time": (make(TimeLimit, 0), "got 0", "above 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_in_one_line_the_same_on_every_backend(mistake, backends):
    do, got, expected = MISTAKES[mistake]
    said = set()
    for backend in ("auto", *backends):
        with pytest.raises((ValueError, TypeError)) as caught:
            do(backend)
        said.add((caught.type, str(caught.value)))
    ((_, message),) = said
    assert got in message
    assert expected in message
    assert "\n" not in message
    assert len(message) < 250


# --- what users may pass: other layouts, types and libraries' arrays --------------------------------------


def train(backend, network=Network([3, 4, 1]), x=X, y=Y, **options):  # noqa: B008  # it is frozen
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
    "pandas": lambda a: pandas.DataFrame(a, columns=[*"abc"]) if a.ndim == 2 else pandas.Series(a),
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
def test_booleans_are_0_and_1(backend):
    assert_same(
        run(backend, GRID > 0, WHOLE > 0, WHOLE > 1),
        run(backend, *((a > t) * 1.0 for a, t in ((GRID, 0), (WHOLE, 0), (WHOLE, 1)))),
    )


@some_backends
def test_numbers_of_numpy_count_like_python_s(backend):
    options = {"seed": np.uint8(3), "threads": np.int64(1), "shuffle": np.bool_(True)}
    model = train(backend, epochs=np.int8(100), batch_size=np.int16(1), **options)
    assert len(model.history["loss"]) == 100


@crossed(backend=registry.backends(), dtype=[np.float32, np.float64], scale=[2.0**-100, 2.0**100])
def test_only_the_ratios_of_sample_weights_count(backend, dtype, scale):
    weights = np.array([1, 2, 0, 3], dtype)
    plain, scaled = (
        train(backend, x=X.astype(dtype), epochs=3, seed=0, sample_weight=w)
        for w in (weights, weights * dtype(scale))
    )
    assert plain.history == scaled.history
    np.testing.assert_array_equal(plain.parameters, scaled.parameters)
