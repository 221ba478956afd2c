"""What a model becomes in other formats predicts what the model predicts, within the bound of roundings."""

import re

import numpy as np
import pytest
from support.exchanged_models import (
    CASES,
    COMES_BACK,
    COMPONENTS,
    LAYERED,
    X,
    agrees,
    each_dtype,
    each_network,
    filled,
    inputs,
    model,
    own_everything,
)
from support.missing_packages import without
from support.problems import COMPILED_DTYPES
from support.processes import python
from support.selection import campaign, matrix, quick

import fastmlp
from fastmlp import Activation, Dense, LayerNorm, Model, Network
from fastmlp.exchange import c_header, onnx_graph, python_source
from fastmlp.exchange.counterparts import LAYER_OF, native
from fastmlp.exchange.formulas import COMPOSED, formula
from fastmlp.exchange.steps import STRUCTURES, graph_of
from fastmlp.exchange.text import Language, write
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.activations import HIDDEN, OUTPUTS
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.lowering import KINDS
from fastmlp.model.operations import INPUTS

OF_BLOCKS = {"grouped", *(kind.kind.name for kind in BLOCKS.values())}
"""Kinds of operations that have tests of their own."""


def test_the_cases_are_all_activations_and_outputs():
    assert {*HIDDEN, *(f"output: {name}" for name in OUTPUTS)} <= {*CASES}


def test_one_formula_holds_every_operation_of_one_element():
    found = set()
    own_everything.value.fold(lambda node, _: found.add(node.operation))
    assert {name for name, entry in OPERATIONS.items() if not entry.reduces} <= found


def test_the_lists_of_layers_have_all_kinds_of_operations():
    found = {one.kind.key for case in LAYERED for one in model(case, np.float32).network.operations}
    assert found & {*KINDS} == {*KINDS} - OF_BLOCKS


@quick(30)
@each_dtype
@each_network
def test_numpy_source(case, dtype):
    scope = {}
    exec(model(case, dtype).to_numpy_source(), scope)
    agrees(model(case, dtype), scope["predict"](X.tolist()), inputs(dtype))


def test_equal_formulas_are_one_function(tmp_path):
    layers = [LayerNorm(), Dense(3, "tanh"), LayerNorm(), Dense(4, "tanh"), LayerNorm(0.1), Dense(2)]
    made = filled(Network(inputs=3, layers=layers), np.float32)
    made.to_c(tmp_path / "net.h")
    defined = r"^(?:static inline void net|def) ?_?(\w+_row)\("
    expected = ["layer_norm_row", "tanh_row", "layer_norm_2_row"]
    for text in (made.to_numpy_source(), (tmp_path / "net.h").read_text()):
        assert re.findall(defined, text, re.M) == expected


def test_numpy_source_needs_numpy_alone(tmp_path):
    (tmp_path / "source.py").write_text(model("silu", np.float32).to_numpy_source(), encoding="utf-8")
    code = "import sys, source; source.predict([[1, 2, 3]]); print({'fastmlp', 'scipy'} & {*sys.modules})"
    assert python("-W", "error", "-c", code, cwd=tmp_path).stdout == "set()\n"


def test_names_of_a_users_cannot_collide():
    first, second = (Activation("predict", function) for function in (lambda z: z * z, lambda z: np.exp(-z)))
    made = model("relu", np.float64)
    made.network = Network(made.network.widths, [first, second])
    assert [step.function for step in graph_of(made.network, made.parameters).steps] == [
        *("", "predict_row", "", "predict_2_row", "")
    ]
    scope = {}
    exec(made.to_numpy_source(), scope)
    agrees(made, scope["predict"](X), X)


QUICK_JITTED = ("output: softmax",)


@pytest.mark.parametrize(
    ("case", "dtype"),
    # Each compiles, 1 to 4 s, of the text that C has, too: every third, and the dtypes take turns.
    [
        pytest.param(
            case, dtype, marks=campaign if turn % 2 or first % 3 else () if case in QUICK_JITTED else matrix
        )
        for first, case in enumerate(("all", *(case for case in CASES if "output" in case), *LAYERED))
        for turn, dtype in enumerate(COMPILED_DTYPES, first)
    ],
)
def test_jit_predict(case, dtype):
    import numba

    given = model(case, dtype)
    predict = given.jit_predict

    @numba.njit
    def users_own(rows):
        return predict(rows)

    agrees(given, users_own(inputs(dtype)), inputs(dtype))


@matrix
def test_jit_predict_keeps_the_parameters_of_when_it_was_made():
    given = model("relu", np.float64)
    predict, expected = given.jit_predict, given.predict(X)
    given.parameters[...] = 0
    assert np.allclose(predict(X), expected)


@quick(40)
@each_dtype
@each_network
def test_torch(case, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    given = model(case, dtype)
    module, rows = given.to_torch(), torch.from_numpy(inputs(dtype)).requires_grad_()
    outputs = module(rows)
    agrees(given, outputs.detach().numpy(), inputs(dtype))
    outputs.sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in (rows, *module.parameters()))
    if case == "members":
        refused = "is of one of several networks"
    else:  # parts of a row
        refused = any(one.second for one in given.network.operations) and r"cannot read module '.*', Gathered"
    if refused:
        with pytest.raises(ValueError, match=refused):
            Model.from_torch(module)
    else:
        back = Model.from_torch(module, backend="reference")
        agrees(given, back.predict(inputs(dtype)), inputs(dtype))
        if case in CASES:
            assert (back.parameters == given.parameters).all()
        if case in COMES_BACK:
            assert back.network == given.network
    dropout = [one.p for one in module.modules() if isinstance(one, torch.nn.Dropout)]
    assert dropout == [one.dropout for one in given.network.operations if one.dropout]
    linear = [one for one in module.modules() if isinstance(one, torch.nn.Linear)]
    dense = [one.trains_bias for one in given.network.operations if one.is_dense]
    assert [one.bias is not None for one in linear] == dense


def test_a_torch_module_is_a_sequential_unless_something_reads_what_is_earlier(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model("RMSNorm", np.float32).to_torch()
    assert [type(one).__name__ for one in module] == [
        "Linear", "Tanh", "RMSNorm", "ReLU", "Linear", "RMSNorm", "Linear",
    ]  # fmt: skip
    module = model("deep", np.float64).to_torch()
    assert not isinstance(module, torch.nn.Sequential)
    torch.save(module, tmp_path / "net.pt")
    back = torch.load(tmp_path / "net.pt", weights_only=False)
    assert torch.equal(back(torch.from_numpy(X)), module(torch.from_numpy(X)))


KERAS = {"identity": "linear", "exp": "exponential", "hardswish": "hard_silu"}
IN_KERAS = ("LayerNorm", "RMSNorm", "BatchNorm", "PReLU", "no bias", "Add", "Residual", "first")
"""Lists of layers that Keras has all of."""


def keras_twin(keras, network):
    """The Keras model that does what a network does, operation after operation."""
    activations = {
        **KERAS,
        "leaky_relu": lambda z: keras.ops.leaky_relu(z, 0.01),
        "gelu": lambda z: keras.ops.gelu(z, approximate=False),
    }
    values = {INPUTS: keras.Input((network.n_in,))}
    for place, one in enumerate(network.operations):
        epsilon = getattr(one.layer, "epsilon", None) or np.finfo(np.float32).eps
        made = {
            "dense": lambda one=one: keras.layers.Dense(one.n_out, use_bias=one.trains_bias),
            "layer_norm": lambda epsilon=epsilon: keras.layers.LayerNormalization(epsilon=epsilon),
            "rms_norm": lambda epsilon=epsilon: keras.layers.RMSNormalization(epsilon=epsilon),
            "batch_norm": lambda epsilon=epsilon: keras.layers.BatchNormalization(epsilon=epsilon),
            "prelu": keras.layers.PReLU,
            "add": lambda: keras.layers.add,
            "concatenate": lambda: keras.layers.concatenate,
            "copy": keras.layers.Identity,
            "activation": keras.layers.Identity,
        }[one.kind.name]()
        sources = [values[source] for source in one.sources]
        ends = keras.layers.Activation(activations.get(one.activation, one.activation))
        values[place] = ends(made(sources if len(sources) > 1 else sources[0]))
    return keras.Model(values[INPUTS], values[place])


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # Keras's own
@pytest.mark.parametrize("case", [*(case for case in CASES if case not in COMPONENTS), *IN_KERAS])
def test_keras_weights(case):
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    given = model(case, np.float32)
    made = keras_twin(keras, given.network)
    made.set_weights(given.to_keras_weights())
    agrees(given, keras.ops.convert_to_numpy(made(inputs(np.float32))), inputs(np.float32))


@pytest.mark.parametrize(("case", "has"), [("Scale", "scale"), ("Swish", "swish"), ("own", "own_sine")])
def test_what_keras_has_not_is_named(case, has):
    said = f"takes one input, one output, and .*Dense.*; this network has {has}$"
    with pytest.raises(ValueError, match=said):
        model(case, np.float32).to_keras_weights()


def test_keras_weights_are_copies():
    given = model("relu", np.float64)
    arrays = given.to_keras_weights()
    assert [array.shape for array in arrays] == [(3, 6), (6,), (6, 5), (5,), (5, 2), (2,)]
    arrays[0][...] = 0
    assert given.weights[0].any()


ELEMENTWISE = {name for name, entry in OPERATIONS.items() if not entry.reduces}


def test_every_format_spells_every_operation():
    assert python_source.OPERATIONS.keys() >= ELEMENTWISE
    written = (
        python_source.NUMBERS, c_header.CWriter(np.dtype(np.float32), "net_").words, onnx_graph.OPERATORS,
    )  # fmt: skip
    assert not [table for table in written if ELEMENTWISE - {*table, *COMPOSED}]


def test_every_format_has_the_operations_that_have_no_formula():
    pytest.importorskip("torch")
    from fastmlp.exchange import torch_formula

    assert python_source.STRUCTURES.keys() == {*STRUCTURES}
    for format, own in (("torch", torch_formula.STRUCTURES), ("onnx", onnx_graph.STRUCTURES)):
        named = {kind for kind, layer in LAYER_OF.items() if native(layer, format)[0]}
        assert named | own.keys() >= {*STRUCTURES}


def test_an_operation_that_a_format_lacks_is_named():
    lacking = Language("the format", {"add": "{0} + {1}"}, str, "", "")
    said = "the format has no entry for the operation 'tanh'; it has: add"
    with pytest.raises(NotImplementedError, match=said):
        write(formula("tanh"), lacking, {"z": "z"})


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda given: given.to_c("never.h", fixed_point=X), "an integer C header"),
        (lambda given: given.to_sklearn(), "a scikit-learn estimator"),
    ],
)
@pytest.mark.parametrize(
    ("case", "has"),
    [("LayerNorm", "layer_norm"), ("first", "dropout"), ("no bias", "dense layers that differ")],
)
def test_what_takes_chains_only_names_the_layer(call, what, case, has):
    with pytest.raises(
        ValueError, match=f"^{what} takes chains of dense layers only; this network has {has}$"
    ):
        call(model(case, np.float32))


@pytest.mark.parametrize("case", ["LayerNorm", "first", "deep"])
def test_what_inputs_are_multiplied_with_is_in_the_format(case):
    given = model(case, np.float64)
    given.network = given.network.replaced(input_scale=0.3)
    scope = {}
    exec(given.to_numpy_source(), scope)
    assert np.allclose(scope["predict"](X), given.predict(X), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("onnx", lambda given: given.to_onnx("never.onnx"), "onnx"),
        ("onnx", lambda given: Model.from_onnx("never.onnx"), "onnx"),
        ("torch", lambda given: given.to_torch(), "torch"),
        ("torch", lambda given: Model.from_torch(None), "torch"),
        ("skl2onnx", lambda given: fastmlp.onnx.register(), "onnx"),
    ],
)
def test_a_missing_package_is_one_line(package, call, extra, monkeypatch):
    without(monkeypatch, package)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "fastmlp\[{extra}\]", or'):
        call(model("relu", np.float32))
