"""What is wrong with a user's component is refused in one line, before it is compiled."""

import math

import numba
import numpy as np
import pytest
from support.custom_components import Lion, X, Y, adam_step, focal, quantiles
from support.refusals import refusals

import fastmlp
from fastmlp import Activation, Dense, Layer, Loss, Network, RowLoss, Rule, Uniform
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


def assigned(z):
    z[z < 0] = 0
    return z


def if_(z):
    if z > 0:
        return z
    return 0.1 * z


@numba.vectorize
def square(x):
    return 3 * x


class Sub(Activation):
    pass


ROWS = "only a RowLoss or a Layer may"

OF_FUNCTIONS = {
    "a closure over an array": (lambda z: z * TABLE, "an array of shape \\(3,\\) from outside"),
    "another formula every time": (lambda z: z * changing(), "must be pure"),
    "if": (if_, "line \\d+ of 'test_custom_refusals.py', 'if z > 0:': Python's if"),
    "min": (lambda z: min(z, 1.0), "use np.where"),
    "math": (lambda z: math.exp(z), "functions of math"),
    "an unknown function": (lambda z: np.sinc(z), "cannot be traced at line \\d+"),
    "an unknown ufunc": (lambda z: np.arctan(z), "np.arctan is not among the functions"),
    "elements that are assigned": (assigned, r"write z = np.where\(z < 0, 0.0, z\)"),
    "an operator in place": (in_place, "write x = x \\* 2 in place of x \\*= 2"),
    "a reduction": (lambda z: np.add.reduce(z), "np.add.reduce is not among the functions"),
    "a mean of one": (lambda z: z - np.mean(z), "np.mean and np.max do, which only"),
    "a sum": (lambda z: z / np.sum(z), ROWS),
    "recursion": (endless, "calls itself without end"),
    "a mistake of its own": (lambda z: z + undefined, "NameError"),  # noqa: F821
    "elements": (lambda z: z[0], "no elements"),
    "half a choice": (lambda z: np.where(z > 0), "both of what it chooses from"),
    "no argument": (lambda: 1.0, "TypeError"),
    "nothing": (lambda z: None, "returns None, where a value is required"),
    "text": (lambda z: "z", "computes with str"),
    "a truth": (lambda z: z > 0, "must return one number, got a truth value"),
    "two values": (lambda z: (z, z), "must return one number, got 2 values"),
    "a constant": (lambda z: 0 * 1.0, "must depend on its argument"),
    "a choice that is known": (lambda z: np.where((z > 0) & False, z, 1.0), "must depend on its argument"),
    "no function": (3, "cannot be traced"),
    "a ufunc of somebody's": (lambda z: square(z), "square is not one of NumPy's functions"),
    "another library's sqrt": (
        lambda z: np.emath.sqrt(z),
        r"numpy\.lib\.\S*scimath\S*\.sqrt is not one of NumPy's functions",
    ),
    "a comparison of texts": (lambda z: np.char.equal(z, z), "is not one of NumPy's"),
    "a shape": (lambda z: z + np.ones_like(z, shape=(3,)), "np.ones_like with shape"),
}
"""Functions of activations, and words of the errors."""

test_a_function_that_cannot_be_traced_is_refused = refusals(
    {name: (lambda given=given: Activation("x", given), said) for name, (given, said) in OF_FUNCTIONS.items()}
)

test_activations_are_refused = refusals(
    {
        "a slope of others": (lambda: Activation("x", np.tanh, lambda x: x), "must take z, a, or z and a"),
        "a slope of none": (lambda: Activation("x", np.tanh, lambda: 1), "by these names, got none"),
        "a sum in a slope": (lambda: Activation("x", np.tanh, slope=lambda a: np.sum(a)), ROWS),
        "a number for a slope": (lambda: Activation("x", np.tanh, slope=3), "must be a function, got 3"),
        "a name that is taken": (lambda: Activation("relu", np.tanh), "one of fastmlp's own"),
        "no name": (lambda: Activation("a b", np.tanh), "letters, digits and _"),
        "a subclass": (lambda: Sub("x", np.tanh), "would compute as its parent"),
        "a name of nothing": (lambda: Network([5, 3, 2], "mush"), "or an Activation of your own"),
        "a class": (lambda: Network([5, 3, 2], Activation), "hidden"),
        "a function": (lambda: Network([5, 3, 2], np.tanh), "or an Activation of your own"),
    }
)

test_losses_are_refused = refusals(
    {
        "the target first": (lambda: Loss("x", lambda target, output: output), "got 'target' first"),
        "no output": (lambda: Loss("x", lambda o, t: o, output="tanh"), "unknown output 'tanh'"),
        "a truth": (lambda: Loss("x", lambda o, t: o > t), "one number"),
        "no function": (lambda: Loss("x", None), "cannot be traced"),
        "no parameter": (lambda: Loss("x", lambda o, t, p: o * p, parameter=[]), "hold a number, got none"),
        "a row without an end": (lambda: RowLoss("x", lambda o, t: o - t), "end it by np.sum or np.max"),
        "a name that is taken": (lambda: Loss("huber", lambda o, t: (o - t) ** 2), "one of fastmlp's own"),
        "a choice that is known": (
            lambda: Loss("l", lambda o, t: np.where((o > t) & False, o, t)),
            "its output",
        ),
        "a sum": (lambda: Loss("l", lambda o, t: (o - np.sum(o)) ** 2), ROWS),
        "a dtype of a sum": (lambda: RowLoss("l", lambda o, t: np.sum(o * t, None, int)), "and nothing else"),
        "a sum down a column": (lambda: RowLoss("l", lambda o, t: np.sum(o * t, axis=0)), "or -1, got 0"),
        "outputs without parameters": (lambda: Network([5, 2], loss=quantiles), "a number or 2 of them"),
        "another output": (lambda: Network([5, 3, 2], output="softmax", loss=focal), "does not go with"),
    }
)


def rule(**constants):
    return Rule("x", lambda p, *_: p, constants=constants)


test_rules_are_refused = refusals(
    {
        "too few moments": (lambda: Rule("x", lambda p, *_: p, moments=1), "1 moments, got 1 values"),
        "too many moments": (lambda: Rule("x", adam_step, moments=7), "moments"),
        "an unknown constant": (
            lambda: Lion(beta3=1),
            "no constant 'beta3'; choose from: beta1, beta2, learning_rate",
        ),
        "a constant that is none": (lambda: Lion(beta1="a"), "beta1 must be a number"),
        "a constant of ours": (lambda: rule(clip_norm=1), "name of its own"),
        "a dict's word": (lambda: rule(values=1), "got 'values'"),
        "too many constants": (lambda: rule(**{f"c{i}": 0 for i in range(17)}), "16 constants, got 17"),
        "a list": (lambda: Rule("x", lambda p, *_: p, constants=[1]), "constants of the rule 'x' must be a"),
        "a sum": (lambda: Rule("l", lambda p, g, m, r, c, t: p - np.max(g)), ROWS),
        "for an optimiser": (lambda: fastmlp.fit(Network([5, 3]), X, Y, optimizer=Lion), "optimizer"),
    }
)  # fmt: skip

ONE = {"w": ("units", 1.0)}


def layer(function, parameters=None, **more):
    return Layer("l", function, parameters, **more)


test_layers_and_parameters_are_refused = refusals(
    {
        "no parameter": (lambda: layer(lambda x: x, ONE), "unexpected keyword argument 'w'"),
        "a parameter without use": (lambda: layer(lambda x, w: x, ONE), "does not use its parameter 'w'"),
        "no use of the row": (lambda: layer(lambda x, w: w * 1, ONE), "must depend on its argument"),
        "one number": (lambda: layer(lambda x: np.sum(x)), "must return a number for each unit of the row"),
        "two values": (lambda: layer(lambda x: (x, x)), "must return one number, got 2 values"),
        "another order": (lambda: layer(lambda x: x / np.linalg.norm(x, 1)), "norm of order 1, where it may"),
        "an unknown shape": (
            lambda: layer(lambda x, w: x * w, {"w": ("unit", 1.0)}),
            "unknown shape of parameter 'w' 'unit'; choose from: units, layer",
        ),
        "no shape": (
            lambda: layer(lambda x, w: x * w, {"w": 1.0}),
            r'as \("units", Normal\(0.1\)\), got 1.0',
        ),
        "a text to draw by": (
            lambda: layer(lambda x, w: x * w, {"w": ("units", "zeros")}),
            "the first value of parameter 'w' must be a number, got 'zeros'",
        ),
        "a keyword": (lambda: layer(lambda x, **w: x, {"if": ("units", 1.0)}), "must be named as in Python"),
        "a list of parameters": (lambda: layer(lambda x, w: x, ["w"]), "must be a dict of names"),
        "a number's name": (
            lambda: layer(lambda x, gain: x * gain, {"gain": ("units", 1.0)}, numbers={"gain": 1.0}),
            "a number of the layer 'l' must have a name of its own, got 'gain'",
        ),
        "too many numbers": (
            lambda: layer(lambda x, **more: x, numbers={f"n{i}": 0 for i in range(5)}),
            "the layer 'l' may have 4 numbers, got 5",
        ),
        "a sum in an activation": (lambda: Activation("a", lambda z: z / np.sum(z)), ROWS),
        "the name of a kind": (
            lambda: Network(inputs=2, layers=[Layer("Scale", lambda x: 2 * x), Dense(1)]),
            "has the name of a kind of layers",
        ),
        "the class": (lambda: Network(inputs=2, layers=[Layer, Dense(1)]), "the class; make an instance"),
        "bounds that cross": (lambda: Uniform(1, 0), "high must be at least 1"),
    }
)  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_a_nan_is_a_divergence(backend):
    nan = Activation("nan", lambda z: np.log(-abs(z) - 1) + z)
    with pytest.raises(fastmlp.DivergenceError, match=r"^[^\n]*$"):
        fastmlp.fit(Network([5, 3, 3], nan), X, Y, backend=backend, progress=False)


def test_so_many_components_as_there_are_codes():
    codes = Codes("activation", ACTIVATIONS)
    most = MOST_CODES - codes.n_built_in
    for i in range(most):
        codes.code(Activation(f"a{i}", np.tanh))
    with pytest.raises(
        ValueError, match=rf"^a process can use {most} activations of your own, and has used them; [^\n]*$"
    ):
        codes.code(Activation("last", np.tanh))
    assert codes.code(Activation("a0", np.tanh)) == codes.n_built_in


def test_one_number_may_be_an_array():
    assert Loss("l", lambda o, t, p: p * o, parameter=np.array(2.0)).parameter == (2.0,)
