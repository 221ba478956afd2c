"""ONNX of a model: what its runtime computes, and by which operators."""

from __future__ import annotations

import numpy as np
import pytest
from support.exchanged_models import (
    LAYERED,
    PIECES,
    SAME_AGAIN,
    agrees,
    each_case,
    each_dtype,
    inputs,
    model,
    network,
)
from support.formats import onnx_outputs

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


def through_onnx(case, dtype, tmp_path):
    """A model and what is read back from its file; onnxruntime agrees with both."""
    given, path = written_as_onnx(case, dtype, tmp_path)
    back = Model.from_onnx(path, backend="reference")
    agrees(given, back.predict(inputs(dtype)), inputs(dtype))
    return given, back


@each_dtype
@each_case
def test_onnx(case, dtype, tmp_path):
    given, back = through_onnx(case, dtype, tmp_path)
    assert (back.parameters == given.parameters).all()
    assert back.network.output == given.network.output
    if case not in PIECES:
        assert back.network == given.network


@each_dtype
def test_onnx_of_a_users_layers_is_not_read_back(dtype, tmp_path):
    _, path = written_as_onnx("own", dtype, tmp_path)
    with pytest.raises(
        ValueError, match="computes with 'gated_w2', which depends on no input and is no number"
    ):
        Model.from_onnx(path)


@each_dtype
@pytest.mark.parametrize("case", [case for case in LAYERED if case != "own"])
def test_onnx_of_layers(case, dtype, tmp_path):
    if any(one.second or (one.networks == 1 and one.subrows > 1) for one in network(case).operations):
        _, path = written_as_onnx(case, dtype, tmp_path)  # where onnxruntime agrees
        with pytest.raises(ValueError, match=r"(cannot read the operator Gather|Concat .* is no layer)"):
            Model.from_onnx(path)  # parts of a row
        return
    given, back = through_onnx(case, dtype, tmp_path)
    if case in SAME_AGAIN:
        assert back.network == given.network


def test_matrices_that_members_share_are_in_a_file_once(tmp_path):
    onnx = pytest.importorskip("onnx")
    given, path = written_as_onnx("members", np.float32, tmp_path)
    numbers = sum(np.prod(array.dims) for array in onnx.load(path).graph.initializer)
    assert numbers < given.parameters.size + 40  # constants, and places
    (back, again) = through_onnx("members", np.float32, tmp_path)
    assert (again.parameters == back.parameters).all()


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
