"""C of a model: headers that a compiler takes, in floats and in integers, and what is refused."""

import itertools
import re
import subprocess

import numpy as np
import pytest
from support import needs
from support.exchanged_models import (
    CASES,
    COMPONENTS,
    LAYERED,
    X,
    agrees,
    each_case,
    each_network,
    inputs,
    model,
)
from support.formats import compiled
from support.selection import matrix, quick, seeds

from fastmlp import Activation, Model, Network
from fastmlp.backend import reference
from fastmlp.model.activations import HIDDEN
from fastmlp.model.layout import flatten


def c_name(case):
    return re.sub(r"\W+", "_", case) + "_net"


@pytest.fixture(scope="module", params=[np.float32, pytest.param(np.float64, marks=matrix)])
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


@quick(12)
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
        ("my net.h", None, "my_net"), ("3.h", None, "model_3"), ("for.h", None, "for_model"),
        ("x.h", "own", "own"),
    ],
)  # fmt: skip
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


# --- integers, of random networks with tiny and huge numbers --------------------------------------------


CHECKED = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic", "-g"]
CHECKED += ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"]

ROWS = 12

AT_A_TIME = 50
"""Networks in one program."""

PROGRAM = """
static void run_{name}(void)
{{
    int16_t whole[{n_in}];
    int32_t z[{n_out}];
    {real} x[{n_in}], out[{n_out}];
    for (int least = 0; least < 2; least++) {{
        for (int i = 0; i < {n_in}; i++) whole[i] = least ? INT16_MIN : INT16_MAX;
        {name}_logits(whole, z);
    }}
    for (int r = 0; r < {rows}; r++) {{
        if (fread(x, sizeof x, 1, stdin) != 1) abort();
        {name}_predict(x, out);
        fwrite(out, sizeof out, 1, stdout);
    }}
}}
"""


def made(sizes, hidden, weights, biases, dtype=np.float64):
    network, dtype = Network(sizes, hidden), np.dtype(dtype)
    weights, biases = ([np.asarray(array, dtype) for array in arrays] for arrays in (weights, biases))
    parameters = flatten(weights, biases, network, dtype)
    return Model(network, parameters, {"loss": []}, reference.BACKEND, None)


def random_model(rng):
    """A model whose layers are of very different sizes, and rows for it."""
    dtype = rng.choice([np.float32, np.float64])
    most = rng.choice([2, 12, 37 if dtype == np.float32 else 160])

    def numbers(*shape):
        scale = 0.0 if rng.random() < 0.1 else 10 ** rng.uniform(-most, most)
        return (rng.normal(size=shape) * scale).astype(dtype)

    sizes = rng.integers(1, 7, size=rng.integers(2, 6)).tolist()
    hidden = [rng.choice([*HIDDEN, *COMPONENTS]) for _ in sizes[2:]]
    weights = [numbers(*shape) for shape in itertools.pairwise(sizes)]
    biases = [numbers(n_out) for n_out in sizes[1:]]
    return made(sizes, [COMPONENTS.get(name, name) for name in hidden], weights, biases, dtype), numbers(
        ROWS, sizes[0]
    )


def beyond(rows):
    """Rows that a program may get and was not made with."""
    top = np.finfo(rows.dtype).max
    odd = [np.full_like(rows[0], value) for value in (top, -top, np.inf, -np.inf, np.nan, 0)]
    with np.errstate(over="ignore"):
        return np.concatenate([rows, 3 * rows, -1e6 * rows, odd]).astype(rows.dtype)


def run(directory, cases):
    """The bounds that headers give, and the outputs for `beyond` of each case's rows, from one program."""
    lines = ["#include <stdio.h>", "#include <stdlib.h>"]
    bounds, given, shapes = [], [], []
    for place, (net, rows) in enumerate(cases):
        name = f"net{place}"
        net.to_c(directory / f"{name}.h", fixed_point=rows)
        text = (directory / f"{name}.h").read_text()
        bounds.append(float(re.search(r"_LOGIT_BOUND (\S+)$", text, re.MULTILINE)[1]))
        given.append(beyond(rows))
        shapes.append((len(given[-1]), net.network.n_out))
        sizes = {"n_in": rows.shape[1], "n_out": shapes[-1][1], "rows": len(given[-1])}
        real = "float" if rows.dtype == np.float32 else "double"
        lines += [f'#include "{name}.h"', PROGRAM.format(name=name, real=real, **sizes)]
    calls = " ".join(f"run_net{place}();" for place in range(len(cases)))
    (directory / "all.c").write_text("\n".join([*lines, f"int main(void) {{ {calls} return 0; }}", ""]))
    command = [needs.COMPILER, *CHECKED, "all.c", "-o", "all", "-lm"]
    built = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    inputs = b"".join(rows.tobytes() for rows in given)
    done = subprocess.run([directory / "all"], input=inputs, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    outputs, start = [], 0
    for rows, shape in zip(given, shapes, strict=True):
        size = int(np.prod(shape)) * rows.itemsize
        outputs.append(np.frombuffer(done.stdout[start : start + size], rows.dtype).reshape(shape))
        start += size
    return bounds, outputs


def hold(directory, cases):
    """Assert that logits for the rows that a case was made with are within its bound; return the bounds."""
    bounds, outputs = run(directory, cases)
    for (net, rows), bound, got in zip(cases, bounds, outputs, strict=True):
        exact = reference.forward(net.network, net.parameters.astype(np.float64), rows.astype(np.float64))
        off = np.abs(got[: len(rows)] - exact).max()
        assert off <= bound, (net.network, off, bound)
    return bounds


def refusal(net, rows, path):
    """What `to_c` says to a model that no integers hold, None if they do."""
    try:
        net.to_c(path, fixed_point=rows)
    except ValueError as error:
        return str(error)
    return None


@needs.compiler
@pytest.mark.parametrize("seed", seeds(0, 6, 60))  # 5 s each
def test_random_networks_have_no_undefined_behaviour(seed, tmp_path):
    rng = np.random.default_rng(seed)
    cases = [random_model(rng) for _ in range(AT_A_TIME)]
    said = [refusal(*case, tmp_path / "x.h") for case in cases]
    assert all(re.fullmatch(r"integers hold [^\n]+", line) for line in said if line)
    assert said.count(None) > AT_A_TIME / 2
    hold(tmp_path, [case for case, line in zip(cases, said, strict=True) if line is None])


@needs.compiler
def test_biases_far_greater_than_the_products(tmp_path):
    rng = np.random.default_rng(0)
    weights, biases = [rng.normal(size=(3, 8)), rng.normal(size=(8, 1))], [rng.normal(size=8), [4.5]]
    cases = [
        (made([3, 8, 1], "tanh", weights, biases), rng.normal(size=(ROWS, 3)) * 10.0**-tiny)
        for tiny in (12, 50, 160)
    ]
    assert max(hold(tmp_path, cases)) < 0.001


@matrix
@needs.compiler
def test_a_layer_whose_sums_are_tiny_or_zero(tmp_path):
    rng = np.random.default_rng(0)
    cases = [
        (made([3, 2, 1], hidden, [np.full((3, 2), w), np.full((2, 1), w)], [[b, b], [0.0]]), scale * X)
        for hidden in ("relu", "identity", "tanh", "softplus")
        for w in (0.0, 1e-40, 1e30)
        for b in (0.0, -1e-30)
        for scale in (0.0, 1e-40)
        for X in (np.abs(rng.normal(size=(ROWS, 3))),)
    ]
    hold(tmp_path, cases)


@needs.compiler
def test_a_wave_that_is_zero_at_equal_distances_is_seen(tmp_path):
    wave = Activation("wave", lambda z: z + np.sin(2 * np.pi * z))
    rows = np.random.default_rng(0).uniform(-4000, 4000, size=(ROWS, 1))
    (bound,) = hold(tmp_path, [(made([1, 1, 1], wave, [[[1.0]]] * 2, [[0.0]] * 2), rows)])
    assert bound > 1


ROW = np.ones((1, 1))


@pytest.mark.parametrize(
    ("hidden", "w", "b", "rows", "said"),
    [
        ("tanh", np.nan, 0.0, ROW, "within 2^500, got weights of layer 0 up to nan"),
        ("tanh", 1.0, np.inf, ROW, "within 2^500, got biases of layer 0 up to inf"),
        ("tanh", 1e200, 0.0, ROW, "within 2^500, got weights of layer 0 up to 1e+200"),
        ("relu", 1e100, 0.0, 1e100 * ROW, "within 2^500, got sums of layer 0 up to 1e+200"),
        ("tanh", 1.0, 0.0, 1e200 * ROW, "within 2^500, got the rows up to 1e+200"),
        (Activation("logarithm", np.log), 1.0, 0.0, ROW,
         "got what layer 0 activates to between -2 and 2 up to nan"),
        (Activation("growth", np.exp), 1.0, 0.0, 1e3 * ROW,
         "layer 0 activates to between -2.05e+03 and 2.05e+03"),
        ("relu", 1e45, 0.0, ROW,
         "integers hold logits within float32's range, got up to 1e+90, off by up to 1.92e+86"),
    ],
)  # fmt: skip
def test_what_no_integers_hold_is_refused_in_one_line(hidden, w, b, rows, said, tmp_path):
    net = made([1, 1, 1], hidden, [[[w]]] * 2, [[b]] * 2)
    assert said in refusal(net, rows, tmp_path / "x.h")
    assert not (tmp_path / "x.h").exists()
