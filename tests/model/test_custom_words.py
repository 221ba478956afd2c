"""Words of NumPy in a user's formula: what can be traced, and the machine code of each."""

import copy
import pickle
import re

import numba
import numpy as np
import pytest
import scipy.special
from support import pages
from support.custom_components import PAGE
from support.problems import COMPILED_DTYPES, eps
from support.selection import matrix, quick

from fastmlp import SGD, Activation
from fastmlp.formulas.expressions import WORDS, _applied, operate, trace, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.kernels.codegen.symbols import jittable

POINTS = [
    0.0, -0.0, 1, -1, 0.5, -2, 3, 1e-8, -1e-8, 1e-30, 1e30, -1e30, np.inf, -np.inf, np.nan, 88.5, 709, -745,
    12.3,
]  # fmt: skip
LOGICAL = {"logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "invert"}


def expression_of(word):
    """The word applied to as many variables as it takes, and their names; a truth as 1 or 0."""
    names = "abc"[: getattr(getattr(np, word, None), "nin", 3 if word == "where" else 1)]
    given = [variable(name) for name in names]
    if word in LOGICAL:
        given = [x > 0 for x in given]
    elif word == "where":
        given[0] = given[0] > 0
    made = _applied(word, given)
    return (operate("where", made, 1.0, 0.0) if made.truth else made), names


def compiled(made, names):
    """What evaluates an expression on arrays as a jitted loop."""
    given, elements = ", ".join(names), ", ".join(f"{name}[i]" for name in names)
    scope = {"made": made, "jittable": jittable}
    exec(
        f"formula = jittable(lambda {given}: made.on_numbers(dict({', '.join(f'{n}={n}' for n in names)})))\n"
        f"def loop(out, {given}):\n    for i in range(len(out)):\n        out[i] = formula({elements})",
        scope,
    )
    return numba.njit(error_model="numpy")(scope["loop"])


TAKES_ROWS = ("sum", "mean", "max", "norm", "clip", "zeros_like", "ones_like")
"""Words that take other things than numbers of one element."""


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize("word", [word for word in WORDS if word not in TAKES_ROWS])
def test_a_word_is_numpys_function_of_that_name(word, dtype):
    made, names = expression_of(word)
    arrays = [a.ravel().astype(dtype) for a in np.meshgrid(*[POINTS] * len(names))]
    numpys = getattr(np, word, None) or getattr(scipy.special, word)
    given = arrays
    if word in LOGICAL:
        given = [a > 0 for a in arrays]
    elif word == "where":
        given = [arrays[0] > 0, *arrays[1:]]
    with np.errstate(all="ignore"):
        expected = numpys(*given).astype(float)
        got = made.on_arrays(np.dtype(dtype), dict(zip(names, arrays, strict=True))).astype(float)
        # sinh and cosh overflow where exp does; NumPy's float_power is one of float64 whatever it gets.
        there = np.isfinite(expected) & (np.abs(expected) < np.finfo(dtype).max / 4)
        there |= word not in ("sinh", "cosh", "float_power")
        # Of exp2 the rounding of its exponent counts as often as that says.
        allowed = 8 * eps(dtype) * np.abs(expected) * np.fmax(1, np.abs(np.log2(np.abs(expected))))
        allowed += np.finfo(dtype).tiny
        right = (got == expected) | (np.isnan(got) & np.isnan(expected)) | (np.abs(got - expected) <= allowed)
    wrong = ~right & there
    assert not wrong.any(), [(*(a[wrong][0] for a in arrays), got[wrong][0], expected[wrong][0])]


ELEMENTARY = ("power", "expm1", "log1p", "erf", "maximum", "heaviside", "fmax", "logaddexp")


@quick(3)
@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize(
    "word",
    [
        word if word in ELEMENTARY else pytest.param(word, marks=pytest.mark.slow)
        for word in WORDS
        if word not in TAKES_ROWS
    ],
)
def test_machine_code_of_a_word_is_numpys(word, dtype):
    made, names = expression_of(word)
    arrays = [a.ravel().astype(dtype) for a in np.meshgrid(*[POINTS] * len(names))]
    with np.errstate(all="ignore"):
        expected = made.on_arrays(np.dtype(dtype), dict(zip(names, arrays, strict=True)))
    got = np.empty(len(arrays[0]), dtype)
    compiled(made, names)(got, *arrays)
    # Of a power the rounding of its logarithm counts as often as its exponent says.
    ulp = 1000 if word in ("power", "float_power") else 8
    allowed = (
        ulp * eps(dtype) * np.maximum(np.abs(expected), word not in ("expm1", "log1p", "power"))
        + np.finfo(dtype).tiny
    )
    far = np.abs(arrays[0]) > 1e9 if word in ("sin", "cos", "tan") else np.zeros(len(got), bool)
    with np.errstate(all="ignore"):
        right = (got == expected) | (np.isnan(got) & np.isnan(expected)) | (np.abs(got - expected) <= allowed)
    wrong = ~(right | far)
    assert not wrong.any(), [(*(a[wrong][0] for a in arrays), got[wrong][0], expected[wrong][0])]


def test_the_page_lists_what_can_be_traced():
    listed = re.search("<!-- words -->(.*?)<!--", pages.text_of(PAGE), re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", listed) == WORDS


@pytest.mark.slow
def test_the_pages_examples_run(tmp_path):
    pages.run(PAGE, tmp_path)


def test_a_number_from_outside_is_what_it_was():
    scale = 2.0
    component = Activation("scaled", lambda z: scale * z)
    scale = 3.0
    assert component.on_array(np.ones(1)) == 2.0


def test_a_condition_that_is_known_is_decided():
    steep = False
    (made,) = trace("it", lambda z: np.where(steep, 2 * z, z), variable("z"))
    assert made.digest == variable("z").digest


def test_every_operation_is_a_word():
    assert {*OPERATIONS} - {*WORDS} == {"softplus"}  # as np.log1p(np.exp(z)) and np.logaddexp(0, z)
    assert SGD(0.1).rule.digest == ""


def of_400_terms(z):
    total = 0.0
    for i in range(1, 400):
        total = total + np.sin(i * z) / i
    return total


@matrix
def test_a_long_formula_is_copied_and_pickled():
    long = Activation("long", of_400_terms)
    assert copy.deepcopy(long) == pickle.loads(pickle.dumps(long)) == long
