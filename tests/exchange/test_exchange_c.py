"""C of a model: headers that a compiler takes, in floats and in integers, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support import needs
from support.exchanged_models import CASES, LAYERED, X, agrees, each_case, each_network, inputs, model
from support.formats import compiled
from support.problems import COMPILED_DTYPES


def c_name(case):
    return re.sub(r"\W+", "_", case) + "_net"


@pytest.fixture(scope="module", params=COMPILED_DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def libraries(request, tmp_path_factory):
    """The dtype, functions of all cases, and of all cases in integers, with what their headers say."""
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    dtype, found = request.param, []
    for fixed_point, cases in ((None, (*CASES, *LAYERED)), (X, CASES)):
        folder = tmp_path_factory.mktemp("c")
        run = compiled(folder, {c_name(case): model(case, dtype) for case in cases}, fixed_point=fixed_point)
        found.append((run, {case: (folder / f"{c_name(case)}.h").read_text() for case in cases}))
    return dtype, *found


@each_network
def test_c_header(case, libraries):
    dtype, (run, texts), _ = libraries
    agrees(model(case, dtype), run(c_name(case), inputs(dtype)), inputs(dtype))
    assert not re.search(r"malloc|calloc|\bstatic (?!const|inline)", texts[case])


@each_case
def test_c_header_in_integers(case, libraries):
    dtype, _, (run, texts) = libraries
    given = model(case, dtype)
    bound = float(re.search(r"_LOGIT_BOUND (\S+)$", texts[case], re.MULTILINE)[1])
    off = np.abs(run(c_name(case), inputs(dtype)) - given.predict(inputs(dtype)))
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
    run = compiled(tmp_path, {"net": given}, fixed_point=X)
    assert "_t0" not in (tmp_path / "net.h").read_text()  # max(z, 0) needs no table
    off = np.abs(run("net", inputs(np.float32)) - given.predict(inputs(np.float32)))
    assert off.max() < 2**-15 * 2 * 8 * 4  # the range of a value, its margin, 8 inputs and biases, 3 layers


@needs.compiler
def test_values_beyond_the_rows_are_clamped(tmp_path):
    given = model("tanh", np.float64)
    run = compiled(tmp_path, {"net": given}, fixed_point=X)
    far = np.array([[1e9, -1e9, 1e9]])
    held = np.clip(far, *(sign * 2 ** np.ceil(np.log2(2 * np.abs(X).max())) for sign in (-1, 1)))
    assert np.abs(run("net", far) - given.predict(held)).max() < 0.1


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
