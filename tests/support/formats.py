"""Every format of exports as a function that predicts: of a model, rows and a folder for its files."""

import ctypes
import math
import subprocess

import numpy as np
import pytest

from fastmlp.exchange import python_source
from fastmlp.exchange.steps import graph_of
from support import needs
from support.exchanged_models import blocks_of

STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-shared", "-fPIC"]


def by_head(model, outputs):
    """Outputs in the order of the heads as `predict` gives them."""
    names = model.network.head_names
    return dict(zip(names, outputs, strict=True)) if names else outputs[0]


def compiled(folder, models, **options):
    """Functions of rows from headers that stand in one file, by name; options : of `to_c`, by name"""
    lines, found = ["#include <stdint.h>"], {}
    for name, model in models.items():
        model.to_c(folder / f"{name}.h", name=name, **options)
        network, real = model.network, "float" if model.parameters.dtype == np.float32 else "double"
        parts = [(one.columns, "int32_t" if one.codes else real) for one in network.blocks]
        parts = parts or [(network.n_in, real)]
        units = [head.units for head in network.heads.values()] if network.head_names else [network.n_out]
        arguments = [f"const {kind} *x{i}" for i, (_, kind) in enumerate(parts)]
        arguments += [f"{real} *out{i}" for i in range(len(units))]
        given = [f"x{i} + {columns} * r" for i, (columns, _) in enumerate(parts)]
        given += [f"out{i} + {n} * r" for i, n in enumerate(units)]
        signature = f"void run_{name}({', '.join(arguments)}, int rows)"
        lines += [f'#include "{name}.h"', f"{signature};", signature, "{"]
        lines += [f"for (int r = 0; r < rows; r++) {name}_predict({', '.join(given)});", "}"]
        found[name] = model, units
    (folder / "all.c").write_text("\n".join(lines) + "\n")
    command = [needs.COMPILER, *STRICT, "all.c", "-o", "all.so", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "all.so"))

    def run(name, rows):
        model, units = found[name]
        blocks = blocks_of(model, rows)
        outputs = [np.empty((len(blocks[0]), n), model.parameters.dtype) for n in units]
        kinds = [np.int32 if block.dtype.kind == "i" else block.dtype for block in blocks]
        arrays = [*map(np.ascontiguousarray, blocks, kinds), *outputs]
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in arrays)
        getattr(library, f"run_{name}")(*pointers, len(blocks[0]))
        return by_head(model, outputs)

    return run


def c_header(model, rows, folder):
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    return compiled(folder, {"net": model})("net", rows)


def numpy_source(model, rows, folder):
    exec(compile(model.to_numpy_source(), "source", "exec"), scope := {})
    return scope["predict"](rows)


def jit_predict(model, rows, folder):
    """What the text computes that Numba gets; two tests compile it."""
    text, arrays = python_source.source(graph_of(model.network, model.parameters))
    exec(text, scope := {"np": np, "math": math, **arrays})
    found = scope["predict"](*blocks_of(model, rows))
    return by_head(model, found) if model.network.head_names else found


def onnx_outputs(path, blocks):
    """The outputs of a file by onnxruntime, and the names of inputs and outputs."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [[one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs())]
    return session.run(None, dict(zip(names[0], blocks, strict=True))), *names


def onnx_file(model, rows, folder):
    onnx, path = pytest.importorskip("onnx"), str(folder / "net.onnx")
    model.to_onnx(path)
    onnx.checker.check_model(path, full_check=True)
    found, inputs, outputs = onnx_outputs(path, blocks_of(model, rows))
    assert inputs == ([one.name or f"X{i}" for i, one in enumerate(model.network.blocks)] or ["X"])
    assert tuple(outputs) == (model.network.head_names or ("output",))
    return by_head(model, found)


def torch_module(model, rows, folder):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        found = model.to_torch()(*map(torch.from_numpy, blocks_of(model, rows)))
    names = model.network.head_names
    return {name: found[name].numpy() for name in names} if names else found.numpy()


FORMATS = {
    "to_numpy_source": numpy_source, "jit_predict": jit_predict, "to_c": c_header, "to_onnx": onnx_file,
    "to_torch": torch_module,
}  # fmt: skip
"""The formats that have every part of a network, by the methods of `Model`."""
