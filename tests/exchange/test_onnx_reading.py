"""What `from_onnx` reads predicts as the file does; what it does not understand is refused in one line."""

import re

import numpy as np
import pytest
from support.exchanged_models import CASES, X, agrees, inputs, network, rounding
from support.selection import quick, seeds

import fastmlp
from fastmlp import Activate, Add, BatchNorm, Concatenate, Dense, LayerNorm, Model, Network, Residual, Scale
from fastmlp.backend import reference
from fastmlp.exchange.onnx_nodes import LAYERS
from fastmlp.model.layout import parameter_count

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
errors = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")

from support.onnx_graphs import Drawn, damaged, file  # noqa: E402

runtime.set_default_logger_severity(4)  # what it refuses is said once, by the error

helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT, DOUBLE, INT64, BOOL = (
    getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "INT64", "BOOL")
)


def read(path, **options):
    """The model of a file, None if it is refused, in one line."""
    try:
        return Model.from_onnx(path, backend="reference", **options)
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    return None


def compare(path, given, rng):
    """Assert that onnxruntime computes what a model does; return whether it has all of its operators."""
    try:
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except (errors.NotImplemented, errors.RuntimeException):  # older releases fail on odd initial values
        return False
    except errors.InvalidArgument:
        if any(end.type.tensor_type.elem_type for end in onnx.load(path).graph.output):
            raise
        return False  # an output without a type, which says nothing of its values
    (source,) = session.get_inputs()
    try:
        shape = [size if isinstance(size, int) else -1 for size in source.shape]
    except UnicodeDecodeError:  # a damaged name of a size
        return False
    if shape[0] in (0, 1 << 40) or shape[1:].count(-1) > 1:  # a damaged file may ask for so many rows
        return False
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64}
    if types.get(source.type, object) != given.parameters.dtype:  # or for another dtype, which it casts
        return False
    rows = rng.normal(size=(20 if shape[0] < 0 else shape[0], given.network.n_in))
    rows = rows.astype(given.parameters.dtype)
    (got,) = session.run(None, {source.name: rows.reshape(len(rows), *shape[1:])})
    with np.errstate(all="ignore"):
        expected = given.predict(rows)
        # Its softmax takes for zero what is below the normal numbers.
        bound = 2 * rounding(given, rows)["output"] + np.finfo(expected.dtype).tiny
        off = np.abs(got - expected)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    known = np.isfinite(bound) & np.isfinite(expected)
    assert (off[known] <= bound[known]).all(), (given.network, (off / bound)[known].max())
    assert (np.isfinite(got) == np.isfinite(expected))[np.isfinite(bound)].all()
    return True


@quick(0)
@pytest.mark.parametrize("seed", seeds(1, 5, 40))
@pytest.mark.parametrize("trap", [0.0, 0.15])
def test_random_graphs_are_refused_or_equal(seed, trap, tmp_path):
    rng, path, equal = np.random.default_rng(seed), tmp_path / "x.onnx", 0
    for _ in range(100):
        onnx.save(Drawn(rng, trap).model(), path)
        given = read(path)
        equal += given is not None and compare(path, given, rng)
    assert equal > (50 if trap == 0 else 20)


@pytest.mark.parametrize("seed", seeds(1, 6, 40))
def test_damaged_files_are_refused_or_equal(seed, tmp_path):
    rng, path, equal = np.random.default_rng(seed), tmp_path / "x.onnx", 0
    for _ in range(250):
        path.unlink(missing_ok=True)  # see test_archive.py
        path.write_bytes(damaged(rng, Drawn(rng, 0.0).model()))
        given = read(path)
        equal += given is not None and compare(path, given, rng)
    assert equal > 5


@quick(12)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_of_one_unit_comes_back(case, dtype, tmp_path):
    wide = network(case)
    n_out = 2 if wide.output == "softmax" else 1
    made = Network([3, 1, 1, n_out], wide.activations[0], wide.output, wide.loss)
    parameters = np.random.default_rng(0).normal(size=parameter_count(made)).astype(dtype)
    given = Model(made, parameters, {"loss": []}, reference.BACKEND, None)
    given.to_onnx(tmp_path / "x.onnx")
    back = Model.from_onnx(tmp_path / "x.onnx", backend="reference")
    assert (back.parameters == parameters).all()
    agrees(given, back.predict(inputs(dtype)), inputs(dtype))
    if not isinstance(made.activations[0], fastmlp.Activation):
        assert back.network == made


def test_what_a_formula_adds_to_one_unit_is_no_bias(tmp_path):
    made = Network([3, 1, 1], fastmlp.Activation("moved", lambda z: np.tanh(z + 1)))
    parameters = np.random.default_rng(0).normal(size=parameter_count(made))
    given = Model(made, parameters, {"loss": []}, reference.BACKEND, None)
    given.to_onnx(tmp_path / "x.onnx")
    assert (read(tmp_path / "x.onnx").parameters == parameters).all()


# --- files by hand ---------------------------------------------------------------------------------

W = [np.array([[1.0, -2.0], [0.5, 1.5], [-1.0, 0.25]]), np.array([[2.0], [-3.0]])]
B = [np.array([0.5, -0.5]), np.array([0.25])]
SQUARE = np.array([[1.0, 2.0], [3.0, 4.0]])
ARRAYS = {"w": W[0], "w1": W[1], "b": B[0], "b1": B[1], "square": W[0] @ W[0].T, "b3": np.arange(1.0, 4.0)}
LAYER = ("Gemm", ["X", "w"], "z", {})
BEGINS = ("Gemm", ["X", "square"], "z", {})


def chain(*between):
    """Nodes of two layers with others between, from "z" to "a"."""
    return [("Gemm", ["X", "w", "b"], "z", {}), *between, ("Gemm", ["a", "w1", "b1"], "out", {})]


def after(*more):
    """Nodes: a layer from X to "z", and more."""
    return [LAYER, *more]


def test_a_chain_may_be_written_in_many_ways(tmp_path):
    nodes = [
        ("Flatten", ["X"], "flat", {"axis": 1}),
        ("Gemm", ["flat", "turned", "b0"], "z", {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Relu", ["z"], "a", {}), ("Dropout", ["a"], "kept", {}), ("MatMul", ["kept", "w1"], "product", {}),
        ("Add", ["row", "product"], "logit", {}), ("Sigmoid", ["logit"], "out", {}),
    ]  # fmt: skip
    arrays = {"turned": 2 * W[0].T, "b0": B[0] / 2, "w1": W[1], "row": B[1][None]}
    got = read(file(tmp_path / "x.onnx", nodes, **arrays))
    assert got.network == Network([3, 2, 1], "relu", "sigmoid", "binary_cross_entropy")
    for arrays, expected in ((got.weights, W), (got.biases, B)):
        assert all((array == other).all() for array, other in zip(arrays, expected, strict=True))
    assert got.parameters.dtype == np.float64


def test_what_stands_between_layers_becomes_an_activation(tmp_path):
    between = [("Mul", ["z", "half"], "m", {}), ("Sin", ["m"], "s", {}), ("Max", ["s", "z"], "a", {})]
    got = read(file(tmp_path / "x.onnx", chain(*between), **ARRAYS, half=np.array([0.5])))
    z = X @ W[0] + B[0]
    expected = np.maximum(np.sin(z * 0.5), z) @ W[1] + B[1]
    assert np.allclose(
        got.predict(X), expected, rtol=0, atol=8 * np.finfo(float).eps * np.abs(expected).max()
    )
    assert isinstance(got.network.activations[0], fastmlp.Activation)


def test_silu_of_two_operators_is_silu(tmp_path):
    between = [("Sigmoid", ["z"], "s", {}), ("Mul", ["z", "s"], "a", {})]
    got = read(file(tmp_path / "x.onnx", chain(*between), **ARRAYS))
    assert got.network.activations[:-1] == ("silu",)


def test_layers_may_be_written_in_many_ways(tmp_path):
    nodes = [
        ("Relu", ["X"], "x", {}), ("Gemm", ["x", "w0", "b"], "z", {}),
        ("LayerNormalization", ["z", "gain", "b"], "normal", {"axis": 1}), ("Tanh", ["normal"], "a", {}),
        ("Mul", ["row", "a"], "scaled", {}), ("Add", ["z", "scaled"], "sum", {}),
        ("Concat", ["sum", "X"], "both", {"axis": -1}), ("Gemm", ["both", "w"], "out", {}),
    ]  # fmt: skip
    arrays = {
        **ARRAYS, "gain": 2 * B[0], "row": B[0][None], "w0": W[0], "w": np.concatenate([W[0], W[0][:2]]),
    }  # fmt: skip
    path = file(tmp_path / "x.onnx", nodes, **arrays)
    got = read(path)
    kinds = [type(layer) for layer in got.network.layers]
    assert kinds == [Activate, Activate, Dense, LayerNorm, Activate, Scale, Add, Concatenate, Dense]
    (expected,) = runtime.InferenceSession(path).run(None, {"X": X})
    assert np.allclose(got.predict(X), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", [(), ("silu",), ("tanh", Scale()), (LayerNorm(), BatchNorm(), "relu")])
def test_what_later_layers_read_may_lie_between_activations(residual, tmp_path):
    own = [
        Activate("tanh", name="x"), Concatenate("x"), Dense(5, "relu"), Residual("tanh", *residual, Dense(5)),
    ]  # fmt: skip
    own += [Dense(5, name="z"), Activate("tanh", name="h"), Add("z"), Dense(5), Add("h")]
    twice = [Dense(4, "gelu", name="a"), Concatenate("a", name="b"), "sigmoid", Add("b"), Dense(2)]
    network = Network(inputs=X.shape[1], layers=own + twice)
    model = fastmlp.fit(network, X, X[:, :2], epochs=1, backend="reference", seed=0)
    model.to_onnx(tmp_path / "x.onnx")
    got = read(tmp_path / "x.onnx")
    assert len(got.parameters) == len(model.parameters)
    assert np.allclose(got.predict(X), model.predict(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("output", "loss"), [("identity", "mse"), ("exp", "poisson"), ("sigmoid", "binary_cross_entropy")]
)
def test_the_loss_of_an_import_is_its_outputs(output, loss, tmp_path):
    path = file(tmp_path / "x.onnx", chain(("Tanh", ["z"], "a", {})), **ARRAYS)
    assert read(path, output=output).network.loss == loss


def test_logits_may_be_given_an_output(tmp_path):
    path = file(tmp_path / "x.onnx", chain(("Tanh", ["z"], "a", {})), **ARRAYS)
    assert read(path).network.output == "identity"
    got = read(path, output="sigmoid", loss="mse")
    assert (got.network.output, got.network.loss) == ("sigmoid", "mse")


def test_a_transposed_constant_has_its_axes_where_the_file_has_them(tmp_path):
    nodes = [("Transpose", ["w"], "same", {"perm": [0, 1]}), ("Gemm", ["X", "same"], "z", {})]
    got = read(file(tmp_path / "x.onnx", nodes, w=W[0]))
    assert (got.weights[0] == W[0]).all()


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (after(("Cast", ["z"], "whole", {"to": INT64}), ("Cast", ["whole"], "out", {"to": DOUBLE})),
         "Cast ('whole') gives INT64, where the output is DOUBLE"),
        (after(("Cast", ["z"], "truth", {"to": BOOL}), ("Cast", ["truth"], "out", {"to": DOUBLE})),
         "Cast ('truth') gives BOOL, where the output is DOUBLE"),
        (after(("Cast", ["z"], "less", {"to": FLOAT}), ("Cast", ["less"], "out", {"to": DOUBLE})),
         "Cast ('less') gives FLOAT, where the output is DOUBLE"),
        (after(("MatMul", ["X", "w"], "y", {}), ("Less", ["z", "y"], "less", {}),
               ("Not", ["less"], "more", {}), ("Cast", ["less"], "out", {"to": DOUBLE})),
         "cannot read Cast ('out'): it takes a number for a truth value"),
        (after(("Cast", ["z"], "out", {"to": INT64})), "is no valid ONNX file: "),
        (after(("Reshape", ["z", "flat"], "out", {})),
         "Reshape ('out') gives the shape (2000006), where a chain"),
        (after(("Flatten", ["z"], "out", {"axis": 0})),
         "Flatten ('out') gives the shape (1, 2000006), where"),
        (after(("Transpose", ["z"], "out", {"perm": [1, 0]})), "cannot read the operator Transpose ('out')"),
        (after(("Add", ["z", "column"], "out", {})), "is no valid ONNX file: "),
        (after(("Add", ["z", "deep"], "out", {})),
         "Add ('out') computes with 'deep', which depends on no input and is no number"),
        ([("Add", ["w", "w"], "out", {})],
         "Add ('out') computes with 'w', which depends on no input and is no number"),
        (after(("Mul", ["z", "number"], "out", {})),
         "Mul ('out') gives the shape (1, rows, 2), where a chain has (rows, units)"),
        (after(("Softmax", ["z"], "out", {"axis": 0})), "Softmax with {'axis': 0} has no counterpart"),
        (after(("Max", ["z", "one", "one"], "out", {})), "Max ('out') of 3 values has no counterpart"),
        (after(("Dropout", ["z", "", "true"], "out", {})),
         "Dropout ('out') drops units when predicting, too"),
        (after(("Mul", ["z", "row"], "out", {})), "ends in Scale; a Network ends in a Dense and its output"),
        (after(("Relu", ["z", "z"], "out", {})),
         "is no valid ONNX file: Node with schema(::Relu:14) has input"),
        (after(("Cast", ["z"], "out", {})), "is no valid ONNX file: Required attribute 'to' is missing."),
        (after(("Relu", ["z"], "X", {})), "is no valid ONNX file: Graph must be in single static assignment"),
        ([("Gemm", ["X", "w", "column"], "out", {})], "the bias of Gemm ('out') must be known, one number"),
        ([("Gemm", ["X", "nan"], "out", {})], "weights and biases of layer 0 of "),
        ([("Gemm", ["X", "w"], "out", {"alpha": np.nan})], "weights and biases of layer 0 of "),
        ([("Gemm", ["X", "w", "inf"], "out", {})], "weights and biases of layer 0 of "),
        ([("Gemm", ["X", "complex"], "out", {})], "is no valid ONNX file: "),
        ([("Gemm", ["X", "integers"], "out", {})], "is no valid ONNX file: "),
        (chain(("Ceil", ["z"], "a", {})), "cannot read the operator Ceil ('a'); can read: "),
        (chain(("LeakyRelu", ["z"], "a", {"alpha": 0.25})),
         "LeakyRelu with {'alpha': 0.25} has no counterpart"),
        (chain(("Softmax", ["z"], "a", {})), "softmax cannot be the activation of a hidden layer; choose "),
        ([BEGINS, ("Add", ["z", "X"], "out", {})], "ends in Add; a Network ends in a Dense and its output"),
        (
            [
                BEGINS,
                ("Sin", ["z"], "s", {}),
                ("Div", ["s", "z"], "a", {}),
                ("Gemm", ["a", "square"], "y", {}),
                ("Add", ["y", "s"], "out", {}),
            ],
            "Div ('a') computes with 'z', which is no layer's value",
        ),
        (
            [
                BEGINS,
                ("Identity", ["z"], "same", {}),
                ("Add", ["same", "b3"], "moved", {}),
                ("Add", ["z", "moved"], "a", {}),
                ("Gemm", ["a", "square"], "out", {}),
            ],
            "Add ('moved') computes with 'b3', which depends on no input and is no number",
        ),
        ([BEGINS, ("Concat", ["X", "z"], "out", {"axis": 0})],
         "Concat ('out') is no layer: it must join two values, the later one first, along the last"),
        (chain(("LayerNormalization", ["z", "b"], "a", {"axis": 0})),
         f"LayerNormalization ('a') is no layer: {LAYERS['LayerNormalization']}"),
        (chain(("PRelu", ["z", "X"], "a", {})),
         "PRelu ('a') is no layer: its slope must be known, one number for all or one for each"),
        ([LAYER, ("Relu", ["z"], "out", {})], "ends in relu; choose from: identity"),
        ([("Relu", ["X"], "out", {})], "has no layer"),
        ([("Gemm", ["X", "X"], "out", {"transA": 1})], "Gemm ('out') is no layer: its second factor must be"),
    ],
)  # fmt: skip
def test_what_changes_predictions_is_refused(nodes, said, tmp_path):
    w, row = W[0], B[0]
    arrays = {"row": row, "column": row[:, None], "deep": row[None, None], "one": np.float64(1)}
    arrays |= {"flat": np.array([-1]), "true": np.array(True), "nan": w * np.nan, "inf": row * np.inf}
    arrays |= {"number": np.ones((1, 1, 1)), "complex": w + 1j, "integers": w.astype(np.int64)}
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        Model.from_onnx(file(tmp_path / "x.onnx", nodes, **ARRAYS, **arrays))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (2,), (1, 2)])
def test_the_slope_of_a_prelu_may_be_one_number(shape, tmp_path):
    nodes = after(("PRelu", ["z", "slope"], "a", {}), ("Gemm", ["a", "square"], "out", {}))
    slope = np.linspace(0.3, 0.6, np.prod(shape, dtype=int)).reshape(shape)
    arrays = {"w": W[0], "square": SQUARE, "slope": slope}
    single = {name: array.astype(np.float32) for name, array in arrays.items()}
    path = file(tmp_path / "x.onnx", nodes, FLOAT, **single)  # onnxruntime has no PRelu of float64
    given = read(path)
    assert fastmlp.PReLU() in given.network.layers
    assert compare(path, given, np.random.default_rng(0))


def test_a_column_is_no_bias_of_as_many_rows_as_units(tmp_path):
    nodes = after(("Add", ["z", "column"], "out", {}))
    assert read(file(tmp_path / "x.onnx", nodes, shape=(2, 3), w=W[0], column=B[0][:, None])) is None


def test_what_is_added_to_one_unit_that_is_used_again_is_no_bias(tmp_path):
    nodes = [LAYER, ("Add", ["z", "one"], "u", {}), ("Sigmoid", ["u"], "s", {}), ("Mul", ["z", "s"], "a", {})]
    nodes += [("Gemm", ["a", "v"], "out", {})]
    path = file(tmp_path / "x.onnx", nodes, w=W[0][:, :1], one=B[0][:1], v=W[0][:1])
    assert compare(path, read(path), np.random.default_rng(0))


def test_initializers_may_be_inputs_too(tmp_path):
    model = onnx.load(file(tmp_path / "x.onnx", [("Gemm", ["X", "w"], "out", {})], w=W[0]))
    model.graph.input.append(helper.make_tensor_value_info("w", DOUBLE, W[0].shape))
    onnx.save(model, tmp_path / "y.onnx")
    assert (read(tmp_path / "y.onnx").weights[0] == W[0]).all()


def test_complex_graphs_are_refused(tmp_path):
    path = file(
        tmp_path / "x.onnx", [("MatMul", ["X", "w"], "out", {})], onnx.TensorProto.COMPLEX128, w=W[0] + 1j
    )
    assert read(path) is None


def test_an_input_of_another_width_is_refused(tmp_path):
    """By us: onnx does not compare the widths in a Gemm of version 9."""
    nodes = [("Gemm", ["X", "w", "b"], "out", {})]
    path = file(tmp_path / "x.onnx", nodes, version=9, w=np.ones((4, 2)), b=np.ones(2))
    with pytest.raises(ValueError, match="has 3 columns, and the first layer takes 4"):
        Model.from_onnx(path)


@pytest.mark.parametrize("version", [7, 99])  # Max and Min broadcast from 8 on
def test_operators_of_other_versions_are_refused(version, tmp_path):
    path = file(tmp_path / "x.onnx", [("MatMul", ["X", "w"], "out", {})], version=version, w=W[0])
    with pytest.raises(
        ValueError, match=f"operators of version {version}; can read those from 8 to|no valid ONNX"
    ):
        Model.from_onnx(path)


def test_log_of_one_and_exp_overflows_as_in_the_file(tmp_path):
    nodes = [LAYER, ("Exp", ["z"], "e", {}), ("Add", ["e", "one"], "u", {}), ("Log", ["u"], "a", {})]
    nodes += [("Gemm", ["a", "square"], "out", {})]
    path = file(tmp_path / "x.onnx", nodes, w=W[0] * 1000, one=np.float64(1), square=SQUARE)
    with np.errstate(all="ignore"):
        got = read(path).predict(X)
    (expected,) = runtime.InferenceSession(path).run(None, {"X": X})
    assert (np.isfinite(got) == np.isfinite(expected)).all()
    assert not np.isfinite(got).all()


def test_arrays_in_other_files_come_with_the_model_and_never_from_elsewhere(tmp_path):
    model = onnx.load(file(tmp_path / "x.onnx", [("Gemm", ["X", "w"], "out", {})], w=W[0]))
    path = tmp_path / "y.onnx"
    options = {"save_as_external_data": True, "size_threshold": 0, "location": "y.bin"}
    onnx.save_model(model, path, **options)
    assert (read(path).weights[0] == W[0]).all()
    (tmp_path / "y.bin").unlink()
    assert read(path) is None
    content = path.read_bytes()
    path.write_bytes(content.replace(b"y.bin", b"/dev/"))
    assert read(path) is None


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"x.onnx' is no valid ONNX file"):
        Model.from_onnx(tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError):
        Model.from_onnx(tmp_path / "none.onnx")
