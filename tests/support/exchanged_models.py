"""The models that leave and arrive in the tests of exchange, and how far their copies may be off."""

import functools

import numpy as np
import pytest
from scipy.special import erf, expit

import fastmlp
from fastmlp import Activate, BatchNorm, Concatenate, Dense, Dropout, LayerNorm, PReLU, Residual, RMSNorm
from fastmlp.backend import reference, reference_losses
from fastmlp.backend.reference_operations import sections_of
from fastmlp.exchange.formulas import formula
from fastmlp.exchange.steps import graph_of
from fastmlp.formulas.derivatives import gradient
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.activations import HIDDEN, OUTPUTS
from fastmlp.model.layout import parameter_count
from support.custom_components import hard, mish, sine
from support.layer_networks import formulas
from support.problems import COMPILED_DTYPES

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 3))


def everything(z):
    square = z * z
    chosen = np.where(((z > 0) & (z <= 1)) | ~(z >= -1), np.sign(z), np.where((z < 2) & ~(z == 0), -0.5, z))
    grown = np.expm1(z / 4) + np.log(2 + square) + np.log1p(square) + np.sqrt(1 + square)
    turned = np.sin(z) * np.cos(z) - np.tanh(z) + erf(z) + expit(z) / (1 + np.exp(-np.abs(z)))
    held = np.maximum(z, 0.5) + np.minimum(z, -0.25) + np.logaddexp(0, z) - np.power(1 + square, 0.75)
    return (chosen + grown + turned + held) / 4


own_everything = fastmlp.Activation("everything", everything)

own_sine = fastmlp.Layer(
    "own_sine", lambda z, w, b: np.sin(w * z + b), parameters={"w": ("units", 0.7), "b": ("layer", 0.1)}
)
own_gated = fastmlp.Layer(
    "gated",
    lambda x, w, t: (
        w * x / (1 + np.exp(-t * np.mean(w * x))) + x / np.linalg.norm(x) - np.max(t * x) + np.sum(w * w)
    ),
    {"w": ("units", 0.7), "t": ("layer", 1.3)},
)

COMPONENTS = {"own mish": mish, "sine": sine, "hard": hard, "everything": own_everything}


LAYERED = {
    "LayerNorm": [Dense(6, "tanh"), LayerNorm(), Dense(2)],
    "RMSNorm": [Dense(6, "tanh"), RMSNorm(), "relu", Dense(5), RMSNorm(0.1), Dense(2)],
    "BatchNorm": [Dense(6, "tanh"), BatchNorm(0.2), "relu", Dense(5), BatchNorm(epsilon=0.1), Dense(2)],
    "PReLU": [Dense(6), PReLU(), Dense(2)],
    "Swish": [Dense(6), fastmlp.Swish(), Dense(2)],
    "Scale": [Dense(6, "gelu"), fastmlp.Scale(), Dense(2)],
    "Activate": [Dense(6), LayerNorm(0.01), "silu", Activate(own_everything), Dense(2)],
    "no bias": [Dense(6, "tanh", bias=False), Dropout(0.2), Dense(2, bias=False)],
    "Add": [Dense(5, "elu", name="low"), Dense(5, "tanh"), Dropout(0.1), fastmlp.Add("low"), Dense(2)],
    "Concatenate": [Dense(4, "tanh", name="low"), Dense(7), Concatenate("low"), fastmlp.Scale(), Dense(2)],
    "Residual": [Dense(6), Residual(LayerNorm(), Dense(7, "softplus"), Dense(6)), "tanh", Dense(2)],
    "own": [Dense(6), own_sine, Dropout(0.1), own_gated, Dense(5, "tanh"), Activate(own_gated), Dense(2)],
    "first": [Residual(Dropout(0.1), Dense(3, "tanh")), Concatenate("sum"), RMSNorm(), Dense(2)],
    "deep": [
        *(LayerNorm(), Dense(6, "silu", bias=False), Dropout(0.1), Activate("relu", name="low")),
        *(
            Residual(RMSNorm(), Dense(9, "gelu"), Residual(PReLU(), fastmlp.Scale()), Dense(6)),
            Dropout(0.2),
            fastmlp.Swish(),
        ),
        *(Dense(4, "leaky_relu", name="high"), Concatenate("low"), "elu", Concatenate("high"), Dense(2)),
    ],
    "members": [
        *(
            Dense(6, "tanh"), fastmlp.Members(3), Dense(5, "silu", name="low"), LayerNorm(),
            Residual(Dense(5, "elu")),
        ),
        *(BatchNorm(), PReLU(), Concatenate("low"), RMSNorm(), Activate(own_gated), Dense(4), own_sine),
        Dense(2),
    ],
}  # fmt: skip
LAYERED |= {
    f"{name} of the table": [Dense(6, "tanh", name="low"), Dense(6), layer, Dense(2)]
    for name, layer in formulas().items()
}
LAYERED["first"][0] = Residual(*LAYERED["first"][0].layers, name="sum")
"""Lists of layers with all kinds of operations."""


@functools.cache
def network(case):
    """A network by its name: a hidden activation's, one of `LAYERED`, or an output's after "output: "."""
    if case in LAYERED:
        return fastmlp.Network(inputs=3, layers=LAYERED[case])
    if case == "all":
        hidden = [*HIDDEN, *COMPONENTS.values()]
        return fastmlp.Network([3, *[6] * len(hidden), 2], hidden)
    if case.startswith("output: "):
        output = case.removeprefix("output: ")
        return fastmlp.Network([3, 5, 2], "tanh", output, "poisson" if output == "exp" else None)
    return fastmlp.Network([3, 6, 5, 2], COMPONENTS.get(case, case))


CASES = (*HIDDEN, *COMPONENTS, *(f"output: {name}" for name in OUTPUTS))


def model(case, dtype):
    """A model of the reference's of a network by its name."""
    return filled(network(case), dtype)


def filled(made, dtype):
    """A model of the reference's whose weights keep the size of what goes through them."""
    rng = np.random.default_rng(1)
    parameters = np.zeros(parameter_count(made), dtype)
    both = [(one, sections_of(parameters, one)) for one in made.operations]
    for one, (first, _, _) in both:
        first[...] = rng.normal(size=first.shape, scale=one.n_in**-0.5 if one.is_dense else 1)
    for one, (_, second, state) in both:
        if one.trains_bias:
            second[...] = rng.normal(scale=0.5, size=second.shape)
        state[...] = rng.uniform(0.5, 1.5, size=state.shape)
    return fastmlp.Model(made, parameters, {"loss": []}, reference.BACKEND, None)


def inputs(dtype):
    return X.astype(dtype)


def rounding(given, rows):
    """How far from the exact outputs those of one program may be, to first order: by head, (rows, units).

    Every operation is taken to be within 4 eps of its value (no libm promises less for all its functions).
    A layer passes on what comes in times |w|, and adds eps for each of its n_in + 1 sums. An activation
    passes it on times its slope, and adds the errors of the operations of its formula. Other operations are
    taken apart into those of their formulas, see `through`. A table's rows are exact, and the mean of those
    of its levels is a sum of as many.
    """
    dtype = given.parameters.dtype
    eps = np.finfo(dtype).eps
    blocks = blocks_of(given, rows)
    passed = {-1 - i: (block.astype(np.float64), np.zeros(block.shape)) for i, block in enumerate(blocks)}
    graph = graph_of(given.network, given.parameters)
    for step in graph.steps:
        one, arrays = step.one, [array.astype(np.float64) for array in step.arrays.values()]
        (value, off), other = passed[one.sources[0]], passed[one.sources[-1]]
        if one.is_dense:
            value, off = product(value, off, *arrays, eps)
        elif one.kind.name == "concatenate":
            value, off = map(np.hstack, zip(*(passed[source] for source in one.sources), strict=True))
        elif one.kind.name == "gather":
            places = arrays[0].astype(int)
            value, off = value[:, places], off[:, places]
        elif one.kind.name == "grouped":
            parts = (np.split(each, one.columns, axis=1) for each in (value, off))
            value, off = map(
                np.hstack,
                zip(*(product(*own, eps) for own in zip(*parts, *arrays, strict=True)), strict=True),
            )
        elif one.kind.name == "categories":
            places = [
                np.clip(c, -2, len(t) - 3).astype(int) + 2 for c, t in zip(value.T, arrays, strict=True)
            ]
            found = [
                (t[at], len(t) * eps * np.abs(t).max(axis=0) + 0 * t[at])
                for at, t in zip(places, arrays, strict=True)
            ]
            value, off = map(np.hstack, zip(*found, strict=True))
        elif one.kind.name == "activation":
            value, off = activated(one.activation, value, off, eps)
        else:
            own = [(value, off), other][: len(one.sources)] + [(array, 0) for array in arrays]
            value, off = through(step.formula, dict(zip(step.variables, own, strict=True)), eps)
        passed[step.number] = value, off
    return {name: passed[number][1] for name, number in graph.outputs.items()}


def blocks_of(given, rows):
    """The blocks of rows in the order of the network's, numbers in the model's dtype."""
    if isinstance(rows, dict):
        rows = [rows[block.name] for block in given.network.blocks]
    dtype = given.parameters.dtype
    listed = rows if isinstance(rows, list) else [rows]
    return [block if block.dtype.kind == "i" else block.astype(dtype) for block in listed]


def product(value, off, w, b, eps):
    """The outputs of a dense layer, and how far they may be off where its inputs are off by `off`."""
    size = np.abs(value) @ np.abs(w) + np.abs(b)
    return value @ w + b, off @ np.abs(w) + (len(w) + 1) * eps * size


def activated(activation, value, off, eps):
    """The activation of values (rows, units), and how far it may be off where they are off by `off`."""
    if activation == "softmax":
        value = reference_losses.activate("softmax", value)
        return value, value * (2 * off.max(axis=1, keepdims=True) + 16 * eps)
    expression = formula(activation)
    slope = np.abs(gradient(expression, "z").on_arrays(value.dtype, {"z": value}))
    own = operations(expression, value)
    value = reference_losses.activate(activation, value)
    return value, np.broadcast_to(slope, value.shape) * off + 4 * eps * own


def through(expression, given_by, eps):
    """The value of an expression in float64, and how far off it may be, to first order.

    given_by : of each variable the same. Every operation is within 4 eps of its value, a sum within eps times
    the sizes of what it adds, so often; an error goes through by the slope of the operation.
    """

    def step(node, parts):
        if node.operation == VARIABLE:
            return given_by[node.operands[0]]
        if node.operation == CONSTANT:
            return node.operands[0], 0.0
        values, offs = zip(*parts, strict=True)
        value = OPERATIONS[node.operation].on_arrays(*values)
        if node.operation == "sum":
            sizes = offs[0] + values[0].shape[-1] * eps * np.abs(values[0])
            return value, np.sum(sizes, axis=-1, keepdims=True)
        if node.operation == "max":
            return value, np.max(np.broadcast_to(offs[0], values[0].shape), axis=-1, keepdims=True)
        if node.truth:
            return value, 0.0
        if node.operation == "where":
            return value, np.where(values[0], *offs[1:])
        names = "pqr"[: len(values)]
        alone = Expression(node.operation, *map(variable, names))
        at = {name: np.asarray(one, float) for name, one in zip(names, values, strict=True)}
        slopes = [gradient(alone, name).on_arrays(value.dtype, at) for name in names]
        passed_on = sum(np.abs(slope) * off for slope, off in zip(slopes, offs, strict=True))
        return value, passed_on + 4 * eps * np.abs(value)

    return expression.fold(step)


def operations(expression, z):
    """The sum of the sizes of all that a formula computes on its way, as |z|, of z's shape."""
    sizes = []

    def take(node, _):
        if not node.truth:
            sizes.append(np.abs(np.broadcast_to(node.on_arrays(z.dtype, {"z": z}), z.shape)))

    expression.fold(take)
    return sum(sizes)


def agrees(given, got, rows):
    """Assert that outputs are `given`'s for the rows: each of the two programs may be off by `rounding`."""
    expected = given.predict(rows)
    if not given.network.head_names:
        expected, got = {"output": expected}, {"output": got}
    assert got.keys() == expected.keys()
    for name, bound in rounding(given, rows).items():
        assert got[name].dtype == expected[name].dtype
        assert got[name].shape == expected[name].shape
        off = np.abs(got[name] - expected[name]) / (2 * bound)
        assert off.max() <= 1, (
            f"{name}: {off.max():.3g} times the bound at {np.argwhere(off == off.max())[0]}"
        )


def of_reference(read, *arguments, **options):
    return read(*arguments, backend="reference", **options)


each_case = pytest.mark.parametrize("case", CASES)
each_network = pytest.mark.parametrize("case", [*CASES, *LAYERED])
each_dtype = pytest.mark.parametrize("dtype", COMPILED_DTYPES)
COMES_BACK = {"LayerNorm", "PReLU", "Swish", "Scale", "members", *CASES} - {*COMPONENTS}
"""Networks that come back as they left, and not only as what computes the same."""
