"""ONNX of a model: what its runtime computes, and by which operators."""

import numpy as np
import pytest
from support.exchanged_models import (
    CASES,
    COMES_BACK,
    agrees,
    each_dtype,
    each_network,
    inputs,
    model,
    network,
)
from support.formats import onnx_outputs
from support.selection import quick

from fastmlp import Model
from fastmlp.exchange import onnx_graph


def written_as_onnx(case, dtype, tmp_path):
    """A model and its file, with whose outputs it agrees."""
    onnx = pytest.importorskip("onnx")
    given, path = model(case, dtype), str(tmp_path / "net.onnx")
    given.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    agrees(given, onnx_outputs(path, [inputs(dtype)])[0][0], inputs(dtype))
    return given, path


@quick(20)
@each_dtype
@each_network
def test_onnx(case, dtype, tmp_path):
    given, path = written_as_onnx(case, dtype, tmp_path)
    if case == "own":
        refused = "computes with 'gated_w2', which depends on no input and is no number"
    else:  # parts of a row
        parts = any(one.second or (one.networks == 1 and one.subrows > 1) for one in network(case).operations)
        refused = parts and r"(cannot read the operator Gather|Concat .* is no layer)"
    if refused:
        with pytest.raises(ValueError, match=refused):
            Model.from_onnx(path)
        return
    back = Model.from_onnx(path, backend="reference")
    agrees(given, back.predict(inputs(dtype)), inputs(dtype))
    assert back.network.output == given.network.output
    if case in CASES:
        assert (back.parameters == given.parameters).all()
    if case in COMES_BACK:
        assert back.network == given.network


def test_matrices_that_members_share_are_in_a_file_once(tmp_path):
    onnx = pytest.importorskip("onnx")
    given, path = written_as_onnx("members", np.float32, tmp_path)
    numbers = sum(np.prod(array.dims) for array in onnx.load(path).graph.initializer)
    assert numbers < given.parameters.size + 40  # constants, and places
    again = Model.from_onnx(path, backend="reference")
    assert (again.parameters == given.parameters).all()


def test_layers_that_onnx_has_operators_for_are_written_by_them(tmp_path):
    onnx = pytest.importorskip("onnx")
    model("deep", np.float32).to_onnx(tmp_path / "net.onnx")
    nodes = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert nodes > {"LayerNormalization", "PRelu", "Concat", "Gemm", "Gelu", "Relu"}


def test_what_onnx_has_operators_for_is_written_by_them(tmp_path):
    onnx = pytest.importorskip("onnx")
    model("gelu", np.float32).to_onnx(tmp_path / "net.onnx")
    nodes = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert nodes == ["Gemm", "Gelu", "Gemm", "Gelu", "Gemm", "Identity"]


def test_large_parameters_stand_next_to_the_file(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 0)
    given, path = model("all", np.float32), tmp_path / "net.onnx"
    given.to_onnx(path)
    agrees(given, onnx_outputs(path, [inputs(np.float32)])[0][0], inputs(np.float32))
