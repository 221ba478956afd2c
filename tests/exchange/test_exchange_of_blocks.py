"""Networks with blocks of inputs and heads in other formats: on patients, with unknown codes, and digits."""

from __future__ import annotations

import ctypes
import functools
import subprocess

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import scale
from support import needs
from support.exchanged_models import agrees, blocks_of
from support.problems import COMPILED_DTYPES
from support.selection import campaign, crossed, matrix

import fastmlp
from fastmlp import (
    Categories,
    Dense,
    Dropout,
    Head,
    LayerNorm,
    Model,
    Network,
    Numbers,
    Periodic,
    PiecewiseLinear,
    Residual,
)

STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-shared", "-fPIC"]

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

CODED = Categories([2, 5], width=[4, 3])
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
            layers=[Dropout(0.1), Dense(16, "relu")],
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


def named(model, outputs):
    """Outputs in the order of the heads as `predict` gives them."""
    names = model.network.head_names
    return dict(zip(names, outputs, strict=True)) if names else outputs[0]


each_case = crossed(name=CASES, dtype=COMPILED_DTYPES)


@each_case
def test_numpy_source(name, dtype):
    model, rows = case(name, dtype)
    scope = {}
    exec(model.to_numpy_source(), scope)
    agrees(model, scope["predict"](rows), rows)
    agrees(model, scope["predict"](np.hstack(blocks_of(model, rows))), rows)  # all columns side by side


@each_case
def test_onnx(name, dtype, tmp_path):
    onnx, path = pytest.importorskip("onnx"), str(tmp_path / "net.onnx")
    model, rows = case(name, dtype)
    model.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    if isinstance(rows, dict):
        assert {*names} == {*rows}
    else:
        assert names == (["X0", "X1", "X2"][: len(rows)] if isinstance(rows, list) else ["X"])
    got = session.run(None, dict(zip(names, blocks_of(model, rows), strict=True)))
    assert tuple(one.name for one in session.get_outputs()) == (model.network.head_names or ("output",))
    agrees(model, named(model, got), rows)


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


@each_case
def test_torch(name, dtype):
    torch = pytest.importorskip("torch")
    model, rows = case(name, dtype)
    module = model.to_torch()
    with torch.no_grad():
        got = module(*map(torch.from_numpy, blocks_of(model, rows)))
    heads = model.network.head_names
    agrees(model, named(model, [got[head].numpy() for head in heads] if heads else [got.numpy()]), rows)


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


@needs.compiler
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=matrix)])
def test_c_header(dtype, tmp_path):
    real = "float" if dtype == np.float32 else "double"
    lines, calls = [], {}
    for number, name in enumerate(CASES):
        model, rows = case(name, dtype)
        model.to_c(tmp_path / f"net{number}.h")
        blocks = blocks_of(model, rows)
        blocks = [block.astype(np.int32) if block.dtype.kind == "i" else block for block in blocks]
        kinds = ["int32_t" if block.dtype.kind == "i" else real for block in blocks]
        expected = model.predict(rows)
        units = [each.shape[1] for each in (expected.values() if isinstance(expected, dict) else [expected])]
        arguments = [f"const {kind} *x{i}" for i, kind in enumerate(kinds)]
        arguments += [f"{real} *out{i}" for i in range(len(units))]
        given = [f"x{i} + {block.shape[1]} * r" for i, block in enumerate(blocks)]
        given += [f"out{i} + {n} * r" for i, n in enumerate(units)]
        signature = f"void run{number}({', '.join(arguments)}, int rows)"
        lines += [f'#include "net{number}.h"', f"{signature};", signature, "{"]
        lines += [f"for (int r = 0; r < rows; r++) net{number}_predict({', '.join(given)});", "}"]
        outputs = [np.empty((len(blocks[0]), n), dtype) for n in units]
        calls[name] = number, blocks, outputs
    (tmp_path / "all.c").write_text("\n".join(["#include <stdint.h>", *lines]) + "\n")
    command = [needs.COMPILER, *STRICT, "all.c", "-o", "all.so", "-lm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(tmp_path / "all.so"))
    for name, (number, blocks, outputs) in calls.items():
        pointers = [np.ascontiguousarray(array) for array in blocks] + outputs
        run = getattr(library, f"run{number}")
        run(*(array.ctypes.data_as(ctypes.c_void_p) for array in pointers), len(blocks[0]))
        model, rows = case(name, dtype)
        agrees(model, named(model, outputs), rows)


@pytest.mark.parametrize(
    ("name", "dtype"),
    # Each compiles, 1 to 5 s; the dtypes take turns.
    [
        pytest.param(name, dtype, marks=campaign if turn % 2 else () if name == "raw" else matrix)
        for first, name in enumerate(CASES)
        for turn, dtype in enumerate(COMPILED_DTYPES, first)
    ],
)
def test_jit_predict(name, dtype):
    model, rows = case(name, dtype)
    got = model.jit_predict(*blocks_of(model, rows))
    agrees(model, named(model, got) if model.network.head_names else got, rows)


def back_from_torch(model):
    pytest.importorskip("torch")
    return Model.from_torch(model.to_torch())


@pytest.mark.parametrize(
    ("name", "call", "said"),
    [
        ("raw", lambda it: it.to_c("never.h", fixed_point=NUMBERS), "integer C header .* network has heads"),
        ("categories", lambda it: it.to_c("never.h", fixed_point=NUMBERS), "chains .* has blocks of inputs"),
        ("bins and a layer", lambda it: it.to_sklearn(), "a scikit-learn estimator .* has blocks of inputs"),
        ("no blocks", lambda it: it.to_keras_weights(), "a list of Keras weights .* has heads"),
        ("raw", back_from_torch, "the module has heads or blocks"),
        ("bins and a layer", back_from_torch, "the module has heads or blocks"),
        ("categories", back_from_torch, "cannot read module '0', CodeEmbeddings"),
    ],
)
def test_what_takes_no_blocks_or_heads_says_so(name, call, said):
    with pytest.raises(ValueError, match=said) as error:
        call(case(name, np.float32)[0])
    assert "\n" not in str(error.value)


def test_in_onnx_a_block_and_a_head_have_names_that_differ(tmp_path):
    network = Network(inputs={"sex": Numbers(1)}, layers=[Dense(2)], heads={"sex": Head(1)})
    model = fastmlp.fit(network, NUMBERS[:, :1], {"sex": NUMBERS[:, 1]}, epochs=0, backend="reference")
    with pytest.raises(ValueError, match="an input and an output have the name 'sex'"):
        model.to_onnx(tmp_path / "never.onnx")
