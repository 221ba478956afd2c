"""C of a model: headers that a compiler takes, in floats and in integers, and what is refused."""

from __future__ import annotations

import ctypes
import re
import subprocess

import numpy as np
import pytest
from support import needs
from support.exchanged_models import CASES, LAYERED, X, agrees, each_case, each_network, inputs, model
from support.problems import COMPILED_DTYPES

STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-shared", "-fPIC"]


def compiled(directory, headers, reals):
    """A library of functions NAME(x, out, rows), from headers that stand in one file."""
    lines = [f'#include "{path.name}"' for path in headers.values()]
    for name, real in reals.items():
        n_in, n_out = 3, 2
        lines.append(
            f"void run_{name}(const {real} *x, {real} *out, int rows);\n"
            f"void run_{name}(const {real} *x, {real} *out, int rows)\n"
            f"{{ for (int r = 0; r < rows; r++) {name}_predict(x + {n_in} * r, out + {n_out} * r); }}"
        )
    (directory / "all.c").write_text("\n".join(lines) + "\n")
    command = [needs.COMPILER, *STRICT, "all.c", "-o", "all.so", "-lm"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(directory / "all.so"))


def run(library, name, rows):
    out = np.empty((len(rows), 2), rows.dtype)
    getattr(library, f"run_{name}")(
        rows.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), len(rows)
    )
    return out


def c_name(case):
    return re.sub(r"\W+", "_", case) + "_net"


@pytest.fixture(scope="module", params=COMPILED_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def libraries(request, tmp_path_factory):
    """The dtype, a library of all cases, and one of all cases in integers, with what their headers say."""
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    dtype = request.param
    real = "float" if dtype == np.float32 else "double"
    found = []
    for fixed_point, cases in ((None, (*CASES, *LAYERED)), (X, CASES)):
        directory = tmp_path_factory.mktemp("c")
        headers = {c_name(case): directory / f"{c_name(case)}.h" for case in cases}
        for case in cases:
            model(case, dtype).to_c(headers[c_name(case)], fixed_point=fixed_point)
        texts = {case: headers[c_name(case)].read_text() for case in cases}
        found.append((compiled(directory, headers, dict.fromkeys(headers, real)), texts))
    return dtype, *found


@each_network
def test_c_header(case, libraries):
    dtype, (library, texts), _ = libraries
    agrees(model(case, dtype), run(library, c_name(case), inputs(dtype)), inputs(dtype))
    assert not re.search(r"malloc|calloc|\bstatic (?!const|inline)", texts[case])


@each_case
def test_c_header_in_integers(case, libraries):
    dtype, _, (library, texts) = libraries
    given = model(case, dtype)
    bound = float(re.search(r"_LOGIT_BOUND (\S+)$", texts[case], re.MULTILINE)[1])
    off = np.abs(run(library, c_name(case), inputs(dtype)) - given.predict(inputs(dtype)))
    expected = np.abs(given.predict(inputs(dtype)))
    # What an error of the logits becomes in the outputs: sigmoid's slope is at most 1/4, softmax's 1/2.
    grown = np.expm1(bound) * expected
    by_output = {"identity": bound, "sigmoid": bound / 4, "softmax": bound / 2, "exp": grown}
    allowed = by_output[given.network.output]
    assert (off <= allowed + 1e-6).all(), (off.max(), bound)
    assert bound < 0.2 or case == "everything"  # of logits within about 4; where it jumps no line follows


@needs.compiler
def test_c_in_integers_is_exact_to_fifteen_bits_where_nothing_bends(tmp_path):
    given = model("relu", np.float32)
    path = tmp_path / "net.h"
    given.to_c(path, fixed_point=X)
    assert "_t0" not in path.read_text()  # max(z, 0) needs no table
    library = compiled(tmp_path, {"net": path}, {"net": "float"})
    off = np.abs(run(library, "net", inputs(np.float32)) - given.predict(inputs(np.float32)))
    assert off.max() < 2**-15 * 2 * 8 * 4  # the range of a value, its margin, 8 inputs and biases, 3 layers


@needs.compiler
def test_values_beyond_the_rows_are_clamped(tmp_path):
    given = model("tanh", np.float64)
    path = tmp_path / "net.h"
    given.to_c(path, fixed_point=X)
    library = compiled(tmp_path, {"net": path}, {"net": "double"})
    far = np.array([[1e9, -1e9, 1e9]])
    held = np.clip(far, *(sign * 2 ** np.ceil(np.log2(2 * np.abs(X).max())) for sign in (-1, 1)))
    assert np.abs(run(library, "net", far) - given.predict(held)).max() < 0.1


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("my net.h", None, "my_net"),
        ("3.h", None, "model_3"),
        ("for.h", None, "for_model"),
        ("x.h", "own", "own"),
    ],
)
def test_a_header_is_named_by_its_file(path, name, expected, tmp_path):
    model("relu", np.float32).to_c(tmp_path / path, name=name)
    assert f"void {expected}_predict(" in (tmp_path / path).read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a b"}, "name must be an identifier of C, got 'a b'"),
        ({"name": "int"}, "name must be an identifier of C, got 'int'"),
        (
            {"fixed_point": [[1.0, 2.0]]},
            r"fixed_point must be finite numbers of shape \(rows, 3\), got shape \(1, 2\)",
        ),
        ({"fixed_point": X * np.nan}, "fixed_point must be finite"),
        ({"fixed_point": X * 1e300}, "fixed_point must be finite"),  # in float32 they are not
    ],
)
def test_refusals_of_c(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        model("relu", np.float32).to_c(tmp_path / "x.h", **options)
