"""Networks with blocks of inputs and heads in other formats: on patients, with unknown codes, and digits."""

import functools

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale
from support.exchanged_models import agrees, blocks_of
from support.formats import FORMATS, by_head
from support.problems import COMPILED_DTYPES
from support.refusals import refusals
from support.selection import campaign, crossed, matrix, quick

import fastmlp
from fastmlp import Dense, Head, LayerNorm, Model, Network, Numbers, Periodic, PiecewiseLinear, Residual

PATIENTS, PROGRESS = load_diabetes(return_X_y=True)
NUMBERS = scale(PATIENTS[:, 2:])
CODES = np.stack(
    [PATIENTS[:, 1] > 0, np.digitize(PATIENTS[:, 0], np.quantile(PATIENTS[:, 0], [0.2, 0.4, 0.6, 0.8]))],
    axis=1,
).astype(np.int64)
CODES[::7, 1] = -1
STRANGE = CODES.copy()
STRANGE[::5, 1], STRANGE[::11, 0], STRANGE[::13] = 5, -4, (2, 1 << 20)
"""Codes of patients, among them what is missing, and those of no level on both sides."""

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS, CLASSES = DIGITS[: len(NUMBERS)] / 16, CLASSES[: len(NUMBERS)]
TARGETS = {"progress": scale(PROGRESS), "severe": (PROGRESS > 140).astype(int), "digit": CLASSES}

CODED = fastmlp.Categories([2, 5], width=[4, 3])
LAYERS = [Dense(12, "silu"), Residual(LayerNorm(), Dense(12, "gelu"))]
CLASSIFIER = {"loss": "cross_entropy", "output": "softmax"}
TWO = {
    "layers": LAYERS,
    "heads": {"progress": Head(1, loss="huber"), "severe": Head(2, **CLASSIFIER, layers=[Dense(4, "tanh")])},
}
BLOCKS = [NUMBERS, STRANGE]
CASES = {
    "raw": (Network(inputs=[Numbers(8), CODED], **TWO), BLOCKS),
    "periodic": (Network(inputs=[Numbers(8, Periodic(6)), CODED], **TWO), BLOCKS),
    "sinusoids": (Network(inputs=[Numbers(8, Periodic(6, 0.5, linear=False)), CODED], **TWO), BLOCKS),
    "bins": (
        Network(inputs={"codes": CODED, "measured": Numbers(8, PiecewiseLinear(4))}, **TWO),
        {"measured": NUMBERS, "codes": STRANGE},
    ),
    "bins and a layer": (
        Network(
            inputs=[Numbers(1), CODED, Numbers(7, PiecewiseLinear((-1.0, 0.0, 0.5), width=3))],
            layers=[*LAYERS, Dense(1)],
        ),
        [NUMBERS[:, :1], STRANGE, NUMBERS[:, 1:]],
    ),
    "categories": (Network(inputs={"größe": CODED}, layers=[Dense(1)]), {"größe": STRANGE}),
    "no blocks": (Network(inputs=8, **TWO), NUMBERS),
    "one head": (
        Network(
            inputs=[Numbers(8), CODED], layers=LAYERS, head=Head(1, missing=True, layers=[Dense(3, "tanh")])
        ),
        BLOCKS,
    ),
    "digits": (
        Network(
            inputs={"pixels": Numbers(64, PiecewiseLinear(3))},
            layers=[fastmlp.Dropout(0.1), Dense(16, "relu")],
            heads={"digit": Head(10, **CLASSIFIER)},
        ),
        {"pixels": DIGITS},
    ),
}
"""Networks, and rows that are predicted; trained on the same with known codes."""


@functools.cache
def case(name, dtype):
    """A model that was trained, and rows to predict."""
    network, rows = CASES[name]

    def known(array):
        return CODES if array is STRANGE else array

    if isinstance(rows, dict):
        X = {block: known(array) for block, array in rows.items()}
    else:
        X = list(map(known, rows)) if isinstance(rows, list) else rows
    y = {head: TARGETS[head] for head in network.head_names} or TARGETS["progress"]
    options = {"epochs": 2, "seed": 0, "dtype": dtype, "backend": "reference", "progress": False}
    return fastmlp.fit(network, X, y, **options), rows


each_case = crossed(name=CASES, dtype=COMPILED_DTYPES)


@quick(8)
@each_case
@pytest.mark.parametrize("format", ["to_numpy_source", "to_onnx", "to_torch", "to_c"])
def test_a_format_predicts_what_the_model_does(name, dtype, format, tmp_path):
    model, rows = case(name, dtype)
    agrees(model, FORMATS[format](model, rows, tmp_path), rows)
    if format == "to_numpy_source":  # all columns side by side, too
        agrees(model, FORMATS[format](model, np.hstack(blocks_of(model, rows)), tmp_path), rows)


@quick(4)
@each_case
def test_onnx_comes_back(name, dtype, tmp_path):
    pytest.importorskip("onnx")
    model, rows = case(name, dtype)
    model.to_onnx(tmp_path / "net.onnx")
    back = Model.from_onnx(tmp_path / "net.onnx", backend="reference")
    assert back.network == model.network
    assert (back.parameters == model.parameters).all()
    agrees(model, back.predict(rows), rows)


def change_a_weight(model, onnx):
    array = next(one for one in model.graph.initializer if one.name == "fastmlp.places0")
    array.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(array)[::-1].copy(), array.name))


def change_a_node(model, onnx):
    node = next(one for one in model.graph.node if one.op_type == "Gelu")
    node.op_type = "Mish"
    del node.attribute[:]


def describe_another(model, onnx):
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"sigma": 0.1', '"width": 8')


def describe_nothing(model, onnx):
    model.metadata_props[0].value = "[" * 3000


def describe_a_giant(model, onnx):
    model.metadata_props[0].value = model.metadata_props[0].value.replace('"units": 12', f'"units": {2**31}')


def lose_a_number(model, onnx):
    array = next(one for one in model.graph.initializer if one.name == "fastmlp.frequencies1")
    broken = onnx.numpy_helper.to_array(array).copy()
    broken[0] = np.nan
    array.CopyFrom(onnx.numpy_helper.from_array(broken, array.name))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *((change, "has been changed") for change in (change_a_weight, change_a_node, describe_another)),
        *((change, "has been changed") for change in (describe_nothing, describe_a_giant)),
        (lose_a_number, "must be finite numbers"),
    ],
)
def test_onnx_that_was_changed_is_refused(change, said, tmp_path):
    onnx, path = pytest.importorskip("onnx"), tmp_path / "net.onnx"
    case("periodic", np.float32)[0].to_onnx(path)
    model = onnx.load(path)
    change(model, onnx)
    onnx.save(model, path)
    with pytest.raises(ValueError, match=said) as error:
        Model.from_onnx(path)
    assert "\n" not in str(error.value)


def test_onnx_with_other_names_of_values_is_read(tmp_path):
    onnx, path = pytest.importorskip("onnx"), tmp_path / "net.onnx"
    given, rows = case("periodic", np.float32)
    given.to_onnx(path)
    model = onnx.load(path)
    of_block = {*(one.name for one in (*model.graph.input, *model.graph.output, *model.graph.initializer))}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in of_block else f"{name}_again" for name in names]
    onnx.save(model, path)
    agrees(given, Model.from_onnx(path, backend="reference").predict(rows), rows)


def test_damaged_onnx_is_refused_or_equal(tmp_path):
    onnx, path, said = pytest.importorskip("onnx"), tmp_path / "net.onnx", []
    from support.onnx_graphs import damaged

    model, rows = case("bins", np.float32)
    model.to_onnx(path)
    given, rng = onnx.load(path), np.random.default_rng(0)
    for _ in range(60):
        path.write_bytes(damaged(rng, given))
        try:
            back = Model.from_onnx(path, backend="reference")
        except ValueError as error:
            said.append(str(error))
        else:
            agrees(model, back.predict(rows), rows)
    assert not [line for line in said if "\n" in line]
    assert 20 < len(said) < 60


def test_onnx_with_heads_takes_no_output_or_loss(tmp_path):
    pytest.importorskip("onnx")
    case("no blocks", np.float32)[0].to_onnx(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="says what each head is, got output='softmax'"):
        Model.from_onnx(tmp_path / "net.onnx", output="softmax")


def test_torch_trains_what_is_trained_here():
    torch = pytest.importorskip("torch")
    model, _ = case("sinusoids", np.float64)
    module = model.to_torch()
    assert sum(parameter.numel() for parameter in module.parameters()) == model.parameters.size
    outputs = module(torch.from_numpy(NUMBERS), torch.from_numpy(CODES))
    sum(output.square().sum() for output in outputs.values()).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    binned, _ = case("bins", np.float64)
    edges_and_slopes = 2 * 8 * 4
    trained = sum(parameter.numel() for parameter in binned.to_torch().parameters())
    assert trained == binned.parameters.size - edges_and_slopes


@pytest.mark.parametrize(
    ("name", "dtype"),
    # Each compiles, 1 to 5 s, of the text that C has, too: every second, and the dtypes take turns.
    [
        pytest.param(name, dtype, marks=campaign if turn % 2 or first % 2 else matrix)
        for first, name in enumerate(CASES)
        for turn, dtype in enumerate(COMPILED_DTYPES, first)
    ],
)
def test_jit_predict(name, dtype):
    model, rows = case(name, dtype)
    got = model.jit_predict(*blocks_of(model, rows))
    agrees(model, by_head(model, got) if model.network.head_names else got, rows)


def back_from_torch(model):
    pytest.importorskip("torch")
    return Model.from_torch(model.to_torch())


WITHOUT = [
    ("raw", lambda it: it.to_c("never.h", fixed_point=NUMBERS), "integer C header .* network has heads"),
    ("categories", lambda it: it.to_c("never.h", fixed_point=NUMBERS), "chains .* has blocks of inputs"),
    ("bins and a layer", lambda it: it.to_sklearn(), "a scikit-learn estimator .* has blocks of inputs"),
    ("no blocks", lambda it: it.to_keras_weights(), "a list of Keras weights .* has heads"),
    ("raw", back_from_torch, "the module has heads or blocks"),
    ("bins and a layer", back_from_torch, "the module has heads or blocks"),
    ("categories", back_from_torch, "cannot read module '0', CodeEmbeddings"),
]
test_what_takes_no_blocks_or_heads_says_so = refusals(
    [
        (lambda name=n, call=call: call(case(name, np.float32)[0]), ValueError, said)
        for n, call, said in WITHOUT
    ]
)


def test_in_onnx_a_block_and_a_head_have_names_that_differ(tmp_path):
    network = Network(inputs={"sex": Numbers(1)}, layers=[Dense(2)], heads={"sex": Head(1)})
    model = fastmlp.fit(network, NUMBERS[:, :1], {"sex": NUMBERS[:, 1]}, epochs=0, backend="reference")
    with pytest.raises(ValueError, match="an input and an output have the name 'sex'"):
        model.to_onnx(tmp_path / "never.onnx")
