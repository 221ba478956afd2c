"""The check on trainings bites: kernels that are wrong in one small way do not pass it."""

import numpy as np
import pytest
from support.trajectories import check

from fastmlp.backend import registry
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline
from fastmlp.model.activations import ACTIVATIONS

ELU = list(ACTIVATIONS).index("elu")

right_affine = baseline.affine
right_activate_gradient = baseline.activate_gradient
right_weight_gradient = baseline.weight_gradient


def affine_without_bias(x, w, b, *others):
    right_affine(x, w, b, *others)
    out = others[-1]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] -= b[j]


def activate_gradient_with_a_wrong_sign(code, z, a, delta):
    right_activate_gradient(code, z, a, delta)
    if code == ELU:
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                if z[i, j] < 0:
                    delta[i, j] = -delta[i, j]


def weight_gradient_of_whole_blocks_only(x, delta, *others):
    whole = x.shape[0] - x.shape[0] % 4
    right_weight_gradient(x[:whole], delta[:whole], *others)


pytestmark = pytest.mark.slow  # each compiles, 5 s

WRONG = [
    # slot, what it does instead, a training that shows it, one that cannot
    ("activate_gradient", activate_gradient_with_a_wrong_sign, "adam, clipping, elu", "softmax with mse"),
    ("affine", affine_without_bias, "one layer, sgd", None),
    ("weight_gradient", weight_gradient_of_whole_blocks_only, "one layer, sgd", None),
]


@pytest.mark.parametrize(("slot", "wrong", "name", "blind"), WRONG)
def test_a_wrong_slot_is_caught(monkeypatch, slot, wrong, name, blind):
    variant = Variant(wrong.__name__, baseline.VARIANT, {slot: wrong})
    monkeypatch.setitem(registry.registered, variant.name, variant)
    with pytest.raises(AssertionError, match=f"{variant.name} on '{name}': losses off by"):
        check(name, variant.name, np.float64)
    if blind:
        check(blind, variant.name, np.float64)
