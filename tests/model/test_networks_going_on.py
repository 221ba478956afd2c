"""Networks of every kind train alike on every backend, stop, go on, come in parts, and stand in files."""

import copy
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
from support import custom_layers, heads, input_blocks, layer_networks
from support.custom_components import Lion, focal, mish, sine, six_moments
from support.layer_networks import EVERYTHING, MEMBERS, SHARING
from support.selection import quick

import fastmlp
from fastmlp import SGD, Adam, Dense, Network, Periodic, Quantiles, SparseAdam, SparseNumbers, Stepper
from fastmlp.checkpoints.checkpoint import components_of
from fastmlp.model.descriptions import described, restored, with_formulas

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(50, 7)), RNG.normal(size=(50, 3))


class Case(NamedTuple):
    """A network with rows, and options of its trainings."""

    network: Network
    X: Any
    y: Any
    options: dict = {}  # noqa: RUF012

    def fit(self, rows=None, **options):
        given = {"optimizer": Adam(0.01), "epochs": 3, "batch_size": 16, "seed": 1, "dtype": "float64"}
        given |= {"backend": "fused", "progress": False} | self.options | options
        return fastmlp.fit(self.network, *(rows or (self.X, self.y)), **given)

    def parts(self):
        """The rows, 15 at a time."""
        starts = range(0, len(heads_or_array(self.y)), 15)
        return [tuple(taken(rows, slice(at, at + 15)) for rows in (self.X, self.y)) for at in starts]


def heads_or_array(y):
    return next(iter(y.values())) if isinstance(y, dict) else y


def taken(rows, some):
    """Some rows of an array, or of each of a list or a dict."""
    if isinstance(rows, dict):
        return {name: taken(part, some) for name, part in rows.items()}
    return [taken(part, some) for part in rows] if isinstance(rows, list) else rows[some]


def of_layers(layers, **options):
    return Case(layer_networks.network(layers), *ROWS, options)


BLOCKS = [input_blocks.NUMBERS, input_blocks.CODES], input_blocks.Y
PARTS = [
    fastmlp.Numbers(3, Periodic(4)),
    fastmlp.Categories(input_blocks.LEVELS, width=(3, 2, 4)),
    SparseNumbers(70),
]
LAYERS = [Dense(11, "relu"), fastmlp.Dropout(0.2), Dense(6, "silu"), Dense(2)]
SPARSE = Network(inputs=PARTS, layers=LAYERS), [*BLOCKS[0], input_blocks.WORDS], input_blocks.Y
REAL, COUNTS = RNG.normal(size=(50, 2)), RNG.poisson(3.0, (50, 2)).astype(float)
EVENTS = RNG.integers(0, 2, (50, 3)).astype(float)
LOSSES = {
    "huber": (fastmlp.Huber(0.7), 2, REAL),
    "quantiles": (Quantiles([0.1, 0.5, 0.9]), 3, REAL[:, :1]),
    "smoothed": (fastmlp.CrossEntropy(0.1), 4, RNG.integers(0, 4, 50)),
    "focal": (fastmlp.Focal(1.5), 4, RNG.integers(0, 4, 50)),
    "binary focal": (fastmlp.BinaryFocal(0.5), 3, EVENTS),
    "gaussian": (fastmlp.Gaussian(), 4, REAL),
    "negative binomial": (fastmlp.NegativeBinomial(), 4, COUNTS),
}
CASES = {
    "layers": of_layers(EVERYTHING),
    "members": of_layers(MEMBERS),
    # Of biases before `shares` the gradient is all rounding, of which Adam would make steps.
    **{
        f"custom layers, {name}": of_layers([*layers[:-1], Dense(3)], optimizer=SGD(0.05, momentum=0.9))
        for name, layers in custom_layers.LISTS.items()
    },
    "a custom loss and rule": Case(
        Network([7, 4, 3, 2], [mish, sine], loss=focal), ROWS[0], EVENTS[:, :2], {"optimizer": Lion(0.01)}
    ),
    "monotone": Case(Network([7, 6, 3], "relu", monotone=(1, -1, 0, 1, 0, 0, 0)), *ROWS),
    "six moments": Case(Network([7, 6, 3], "tanh"), *ROWS, {"optimizer": six_moments(0.01)}),
    "Muon": Case(Network([7, 20, 12, 3], "tanh"), *ROWS, {"optimizer": fastmlp.Muon(0.01)}),
    "scaled inputs": Case(Network([7, 6, 3], "tanh", input_scale=1 / 255), *ROWS),
    "blocks of inputs": Case(input_blocks.network(Periodic(4), sparse=True), *BLOCKS),
    "bins": Case(input_blocks.network(fastmlp.PiecewiseLinear((-1.0, 0.0, 1.0), width=2)), *BLOCKS),
    "sparse blocks": Case(*SPARSE),
    "sparse blocks, SparseAdam": Case(*SPARSE, {"optimizer": SparseAdam(0.01)}),
    "sparse blocks, of the reference": Case(*SPARSE, {"optimizer": SparseAdam(0.01), "backend": "reference"}),
    "heads": Case(heads.network(missing=True, weighted=True, dropout=0.2), heads.X, heads.GAPS),
    "a single head": Case(
        heads.single(missing=True, loss_weights=heads.CLASS_WEIGHTS), heads.X, heads.GAPS["kind"]
    ),
    **{name: Case(Network([7, n], loss=loss), ROWS[0], y) for name, (loss, n, y) in LOSSES.items()},
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

MORE = {
    f"{name} numbers": Case(
        input_blocks.network(part, sparse=name == "bins"), *BLOCKS, {"optimizer": SGD(0.1)}
    )
    for name, part in input_blocks.EMBEDDINGS.items()
}
MORE["sharing members"], MORE["members with norms"] = map(of_layers, (SHARING, custom_layers.MEMBERS))
MORE["whole heads"] = Case(heads.network(), heads.X, heads.WHOLE)
MORE["microbatches"] = Case(*SPARSE, {"optimizer": SparseAdam(0.01), "accumulate": 2, "batch_size": 8})
COMPILED = {name: case for name, case in {**CASES, **MORE}.items() if "backend" not in case.options}


def assert_same(model, whole):
    np.testing.assert_array_equal(model.parameters, whole.parameters)
    assert model.history == whole.history


@quick(8)
@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("case", COMPILED.values(), ids=COMPILED)
def test_one_result_on_every_backend_and_any_number_of_threads(case, dtype):
    weights = np.arange(len(heads_or_array(case.y))) % 3 + 0.5
    given = {"validation": 0.2, "sample_weight": weights, "dtype": dtype}
    expected = case.fit(**given)
    assert_same(case.fit(**given, backend="fused", threads=3), expected)
    if dtype == "float32":  # whose cases are of the matrix: the program of tiled takes 8 s to compile
        assert_same(case.fit(**given, backend="tiled", threads=1), expected)
    else:
        model = case.fit(**given, backend="reference")
        np.testing.assert_allclose(model.parameters, expected.parameters, rtol=1e-9, atol=1e-11)
        for name, curve in expected.history.items():
            np.testing.assert_allclose(model.history[name], curve, rtol=1e-9)
        for name in case.network.head_names or (...,):
            outputs = (one.predict(case.X)[name] for one in (model, expected))
            np.testing.assert_allclose(*outputs, rtol=1e-9, atol=1e-11)


@quick(12)
@each_case
def test_a_training_goes_on(case, tmp_path):
    whole = case.fit(epochs=4, validation=0.2)
    half = case.fit(epochs=2, validation=0.2, callbacks=[fastmlp.Checkpoint(tmp_path / "half")])
    assert_same(case.fit(epochs=4, validation=0.2, resume=tmp_path / "half"), whole)
    assert_same(half.fit_more(case.X, case.y, epochs=2), whole)
    assert fastmlp.load(tmp_path / "half", components=components_of(case.network)).network == case.network


@quick(4)
@each_case
def test_rows_in_parts_train_in_the_bits_of_all(case):
    for options in ({"window": 10**6}, {"shuffle": False}, {"window": 40, "shuffle": False}):
        shuffle = options.get("shuffle", True)
        assert_same(case.fit((case.parts(), None), **options), case.fit(shuffle=shuffle))


@each_case
def test_a_stepper_takes_the_steps_of_fit(case):
    weights = np.random.default_rng(0).exponential(size=len(heads_or_array(case.y)))
    model = case.fit(batch_size=None, shuffle=False, sample_weight=weights)
    options = {"optimizer": Adam(0.01), "backend": "fused"} | case.options
    stepper = Stepper(case.network, **options, seed=1, dtype="float64")
    assert [stepper.step(case.X, case.y, weights) for _ in range(3)] == model.history["loss"]
    np.testing.assert_array_equal(stepper.parameters, model.parameters)
    outputs = model.predict(case.X)
    outputs = np.hstack([*outputs.values()]) if case.network.head_names else outputs
    np.testing.assert_array_equal(stepper.forward(case.X), outputs)


@each_case
def test_files_and_copies_predict_the_same(case, tmp_path):
    model, components = case.fit(epochs=1), components_of(case.network)
    fastmlp.save(model, tmp_path / "model")
    loaded = fastmlp.load(tmp_path / "model", components=components)
    for other in (loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        for name in ("network", "history", "backend", "stop_reason"):
            assert getattr(other, name) == getattr(model, name)
        assert other.parameters.dtype == model.parameters.dtype
        np.testing.assert_equal(other.predict(case.X), model.predict(case.X))
    assert restored(with_formulas(case.network)) == pickle.loads(pickle.dumps(case.network)) == case.network
    if not components:
        assert restored(described(case.network)) == case.network
