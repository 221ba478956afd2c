"""The table of layers: each entry has a second opinion, is public, and derives what all programs need."""

import numpy as np
import pytest
from support.layer_networks import INPUTS, OUTPUTS, formulas, rows_of, sample, train
from support.layer_networks import TABLED as NETWORKS
from support.selection import campaign, matrix, quick

import fastmlp
from fastmlp import SGD, Dense, GroupNorm, Layer, LayerNorm, Network, Scale, SwiGLU
from fastmlp.backend import registry
from fastmlp.backend.reference_operations import FORMULAS
from fastmlp.kernels.small.eligible import lane_program, specialize
from fastmlp.model.backend import Data
from fastmlp.model.component import LAYERS
from fastmlp.model.descriptions import described, restored
from fastmlp.model.embeddings import Embedding, Grouped
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.layout import parameter_count
from fastmlp.model.lowering import KINDS

X = np.random.default_rng(0).normal(size=(20, INPUTS))
Y = X[:, :OUTPUTS] ** 2


def rows(name):
    """X for a network: an array, of blocks with all columns side by side."""
    rng, parts = np.random.default_rng(0), NETWORKS[name].blocks
    return np.hstack([rows_of(part, len(Y), rng) for part in parts]) if parts else X


def test_every_formula_has_a_reference_of_the_same_name():
    layers = {kind.name for kind in KINDS.values() if kind.formula}
    blocks = (kind for kind in (*BLOCKS.values(), Grouped) if kind.kind.name and not has_formulas(kind))
    assert layers | {kind.kind.name for kind in blocks} == {*FORMULAS}


def has_formulas(kind):
    """Whether the reference has formulas of a block's entry, against which the loops of programs stand."""
    return kind.formulas is not Embedding.formulas


@pytest.mark.parametrize("table", [LAYERS, BLOCKS], ids=["layers", "blocks"])
def test_every_entry_is_public_and_described(table):
    assert {*table} <= {*fastmlp.__all__}
    assert all(getattr(fastmlp, name) is kind for name, kind in table.items())
    assert all(restored(described(one)) == one for one in map(sample, table.values()))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_takes_no_rows(name):
    """As of a process whose share of a batch is empty."""
    network, data = NETWORKS[name], Data(rows(name)[:0], Y[:0], np.ones(0))
    parameters, out = np.ones(parameter_count(network)), np.empty((0, network.n_out))
    backend, gradients = registry.get("reference"), np.ones(parameter_count(network))
    backend.predict(network, parameters, data.inputs, out)
    with np.errstate(invalid="ignore"):  # a mean of nothing
        backend.gradient(network, parameters, data, 7, 0, gradients)
    assert not np.nan_to_num(gradients).any()


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("fused", "float64"),
        *(pytest.param(*case, marks=matrix) for case in (("fused", "float32"), ("specialized", "float64"))),
        pytest.param("specialized", "float32", marks=campaign),  # it compiles for each, 2 s
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_all_programs_train_as_the_reference(backend, name, dtype):
    options = {"optimizer": SGD(0.05, momentum=0.9), "dtype": dtype}
    given = rows(name), Y
    expected = train(NETWORKS[name], given, backend="reference", **{**options, "dtype": "float64"})
    allowed = 1e-12 if dtype == "float64" else 1e-5
    relative = allowed if NETWORKS[name].blocks else 0  # slopes of bins are of any size
    got = train(NETWORKS[name], given, backend=backend, **options)
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=relative, atol=allowed)
    np.testing.assert_allclose(got.predict(given[0]), expected.predict(given[0]), rtol=0, atol=10 * allowed)


@pytest.mark.parametrize("name", formulas())
def test_no_formula_leaves_the_small_programs(name):
    for dtype in ("float32", "float64"):
        assert specialize(NETWORKS[name], SGD(), 16, np.dtype(dtype)) is not None
        assert lane_program(NETWORKS[name], SGD(), np.dtype(dtype)) is not None


@quick(1)
@pytest.mark.parametrize("backend", ["fused", "specialized"])
def test_a_hyperparameter_is_no_part_of_the_program(backend):
    """So that a search over it compiles once: networks that differ in it alone have one program."""
    few, many = (NETWORKS["LayerNorm"].replaced(layers=_with(epsilon)) for epsilon in (1e-5, 0.5))
    programs = [specialize(one, SGD(), 16, np.dtype("float64")) for one in (few, many)]
    assert programs[0] == programs[1]
    lanes = [lane_program(one, SGD(), np.dtype("float64")) for one in (few, many)]
    assert lanes[0] == lanes[1]
    options = {"optimizer": SGD(0.05)}
    for one in (few, many):
        expected, got = (train(one, (X, Y), backend=name, **options) for name in ("reference", backend))
        np.testing.assert_allclose(got.parameters, expected.parameters, rtol=0, atol=1e-12)
    assert not np.allclose(
        *(train(one, (X, Y), backend=backend, **options).predict(X) for one in (few, many))
    )


def _with(epsilon):
    return [Dense(12, "tanh", name="low"), Dense(12), LayerNorm(epsilon), Dense(3)]


@matrix
def test_models_of_one_call_have_their_own_hyperparameters():
    both = [NETWORKS["LayerNorm"].replaced(layers=_with(epsilon)) for epsilon in (1e-5, 0.5) * 4]
    given = {"optimizer": SGD(0.05), "epochs": 3, "dtype": "float64", "backend": "specialized"}
    models = fastmlp.fit_many(both, X, Y, seed=[*range(8)], **given)
    for seed, (network, model) in enumerate(zip(both, models, strict=True)):
        alone = fastmlp.fit(network, X, Y, seed=seed, **given)
        np.testing.assert_array_equal(model.parameters, alone.parameters)


def test_an_own_layers_numbers_are_no_part_of_its_code():
    def leaky(x, slope):
        return np.where(x > 0, x, slope * x)

    one, other = (Layer("leaky", leaky, numbers={"slope": slope}) for slope in (0.1, 0.4))
    assert (one.key, one != other) == (other.key, True)
    for component in (one, other):
        layers = [Dense(12), component, Dense(3)]
        expected, got = (train(layers, (X, Y), backend=name) for name in ("reference", "fused"))
        np.testing.assert_allclose(got.parameters, expected.parameters, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: SwiGLU(), r"SwiGLU\(\) needs a layer of an even number of units before it, got 7"),
        (lambda: GroupNorm(2), r"GroupNorm\(groups=2\) needs a multiple of 2 units before it, got 7"),
        (lambda: SwiGLU(units=0), "units must be at least 1, got 0"),
        (lambda: GroupNorm(0), "groups must be at least 1, got 0"),
    ],
)
def test_units_that_do_not_fit_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        Network(inputs=4, layers=[Dense(7), layer(), Dense(2)])


def test_a_name_that_is_a_layers_is_refused_for_new_layers_too():
    with pytest.raises(ValueError, match="must not be that of a kind of layers, got 'GroupNorm'"):
        Scale(name="GroupNorm")
