"""What is wrong with a user's piece is refused in one line, before it is compiled."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from support.custom_pieces import Lion, X, Y, adam_step, focal, quantiles

import fastmlp
from fastmlp import Activation, Loss, Network, RowLoss, Rule
from fastmlp.kernels.codes import MOST_CODES, Codes
from fastmlp.model.activations import ACTIVATIONS

TABLE = np.ones(3)


def changing():
    changing.calls = getattr(changing, "calls", 0) + 1
    return changing.calls


def endless(z):
    return endless(z)


def in_place(z):
    z *= 2
    return z


def if_(z):
    if z > 0:
        return z
    return 0.1 * z


z_of = Activation
REFUSED = {
    "a closure over an array": (
        lambda: z_of("x", lambda z: z * TABLE),
        "an array of shape \\(3,\\) from outside",
    ),
    "another formula every time": (lambda: z_of("x", lambda z: z * changing()), "must be pure"),
    "if": (lambda: z_of("x", if_), "line \\d+ of 'test_own_refusals.py', 'if z > 0:': Python's if"),
    "min": (lambda: z_of("x", lambda z: min(z, 1.0)), "use np.where"),
    "math": (lambda: z_of("x", lambda z: math.exp(z)), "functions of math"),
    "an unknown function": (lambda: z_of("x", lambda z: np.sinc(z)), "cannot be traced at line \\d+"),
    "an unknown ufunc": (lambda: z_of("x", lambda z: np.arctan(z)), "np.arctan is not among the functions"),
    "an operator in place": (lambda: z_of("x", in_place), "write x = x \\* 2 in place of x \\*= 2"),
    "a reduction": (
        lambda: z_of("x", lambda z: np.add.reduce(z)),
        "np.add.reduce is not among the functions",
    ),
    "a mean of one": (lambda: z_of("x", lambda z: z - np.mean(z)), "np.mean and np.max do, which only"),
    "recursion": (lambda: z_of("x", endless), "calls itself without end"),
    "a mistake of its own": (lambda: z_of("x", lambda z: z + undefined), "NameError"),  # noqa: F821
    "elements": (lambda: z_of("x", lambda z: z[0]), "no elements"),
    "half a choice": (lambda: z_of("x", lambda z: np.where(z > 0)), "both of what it chooses from"),
    "no argument": (lambda: z_of("x", lambda: 1.0), "TypeError"),
    "nothing": (lambda: z_of("x", lambda z: None), "returns None, where a value is required"),
    "text": (lambda: z_of("x", lambda z: "z"), "computes with str"),
    "a truth": (lambda: z_of("x", lambda z: z > 0), "must return one number, got a truth value"),
    "two values": (lambda: z_of("x", lambda z: (z, z)), "must return one number, got 2 values"),
    "a constant": (lambda: z_of("x", lambda z: 0 * 1.0), "must depend on its argument"),
    "a slope of others": (lambda: z_of("x", lambda z: z, slope=lambda x: x), "must take z, a, or z and a"),
    "a slope of none": (lambda: z_of("x", lambda z: z, slope=lambda: 1), "by these names, got none"),
    "no function": (lambda: z_of("x", 3), "cannot be traced"),
    "a name that is taken": (lambda: z_of("relu", lambda z: z), "one of fastmlp's own"),
    "no name": (lambda: z_of("a b", lambda z: z), "letters, digits and _"),
    "a loss of no output": (lambda: Loss("x", lambda o, t: o, output="tanh"), "unknown output 'tanh'"),
    "a loss that returns a truth": (lambda: Loss("x", lambda o, t: o > t), "one number"),
    "a loss without function": (lambda: Loss("x", None), "cannot be traced"),
    "no parameter": (lambda: Loss("x", lambda o, t, p: o * p, parameter=[]), "must hold a number, got none"),
    "a row without an end": (lambda: RowLoss("x", lambda o, t: o - t), "end it by np.sum or np.max"),
    "too few moments": (lambda: Rule("x", lambda p, g, m, r, c, t: p, moments=1), "1 moments, got 1 values"),
    "too many moments": (lambda: Rule("x", adam_step, moments=7), "moments"),
    "an unknown constant": (
        lambda: Lion(beta3=1),
        "no constant 'beta3'; choose from: beta1, beta2, learning_rate",
    ),
    "a constant that is none": (lambda: Lion(beta1="a"), "beta1 must be a number"),
    "a constant of ours": (
        lambda: Rule("x", lambda p, g, m, r, c, t: p, constants={"clip_norm": 1}),
        "name of its own",
    ),
    "a rule for an optimiser": (lambda: fastmlp.fit(Network([5, 3]), X, Y, optimizer=Lion), "optimizer"),
    "outputs without parameters": (lambda: Network([5, 2], loss=quantiles), "a number or 2 of them"),
    "an output of another loss": (
        lambda: Network([5, 3, 2], output="softmax", loss=focal),
        "does not go with",
    ),
    "a name of nothing": (lambda: Network([5, 3, 2], "mush"), "or an Activation of your own"),
    "a class": (lambda: Network([5, 3, 2], Activation), "hidden"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name):
    make, says = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["reference", "baseline"])
def test_a_nan_is_a_divergence(backend):
    nan = Activation("nan", lambda z: np.log(-abs(z) - 1) + z)
    with pytest.raises(fastmlp.DivergenceError, match=r"^[^\n]*$"):
        fastmlp.fit(Network([5, 3, 3], nan), X, Y, backend=backend, progress=False)


def test_so_many_pieces_as_there_are_codes():
    codes = Codes("activation", ACTIVATIONS)
    for i in range(MOST_CODES - codes.n_built_in):
        codes.code(Activation(f"a{i}", np.tanh))
    most = MOST_CODES - codes.n_built_in
    with pytest.raises(
        ValueError, match=rf"^a process can use {most} activations of your own, and has used them; [^\n]*$"
    ):
        codes.code(Activation("last", np.tanh))
    assert codes.code(Activation("a0", np.tanh)) == codes.n_built_in


@numba.vectorize
def square(x):
    return 3 * x


class Sub(Activation):
    pass


GONE_WRONG = {
    "a sum in a loss": (
        lambda: Loss("l", lambda o, t: (o - np.sum(o)) ** 2),
        "only a RowLoss or a Layer may",
    ),
    "a sum in an activation": (
        lambda: Activation("l", lambda z: z / np.sum(z)),
        "only a RowLoss or a Layer may",
    ),
    "a sum in a rule": (
        lambda: Rule("l", lambda p, g, m, r, c, t: p - np.max(g)),
        "only a RowLoss or a Layer may",
    ),
    "a ufunc of somebody's": (
        lambda: Activation("l", lambda z: square(z)),
        "square is not one of NumPy's functions",
    ),
    "another library's sqrt": (
        lambda: Activation("l", lambda z: np.emath.sqrt(z)),
        r"numpy\.lib\.\S*scimath\S*\.sqrt is not one of NumPy's functions",
    ),
    "a comparison of texts": (
        lambda: Activation("l", lambda z: np.char.equal(z, z)),
        "is not one of NumPy's",
    ),
    "a shape": (
        lambda: Activation("l", lambda z: z + np.ones_like(z, shape=(3,))),
        "np.ones_like with shape",
    ),
    "a dtype of a sum": (lambda: RowLoss("l", lambda o, t: np.sum(o * t, None, int)), "and nothing else"),
    "a sum down a column": (lambda: RowLoss("l", lambda o, t: np.sum(o * t, axis=0)), "or -1, got 0"),
    "a sum in a slope": (
        lambda: Activation("l", np.tanh, slope=lambda a: np.sum(a)),
        "only a RowLoss or a Layer may",
    ),
    "a subclass": (lambda: Sub("l", lambda z: z), "would compute as its parent"),
    "a number for a slope": (lambda: Activation("l", lambda z: z, slope=3), "must be a function, got 3"),
    "a list of constants": (lambda: Rule("l", lambda p, *_: p, constants=[1]), "must be a dict of names and"),
    "a dict's word": (lambda: Rule("l", lambda p, *_: p, constants={"values": 1}), "got 'values'"),
}


@pytest.mark.parametrize("what", GONE_WRONG)
def test_what_would_go_wrong_later_is_refused(what):
    make, message = GONE_WRONG[what]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_one_number_may_be_an_array():
    assert Loss("l", lambda o, t, p: p * o, parameter=np.array(2.0)).parameter == (2.0,)
