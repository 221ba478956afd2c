"""Every slot of every variant against the reference: one table, no lists of exceptions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fastmlp.backend.registry import variants
from fastmlp.kernels.jit.bind import slot
from fastmlp.kernels.variants import baseline
from fastmlp.testing.slots import AGREEMENT_SIZES, SLOTS


def test_the_table_has_every_slot_of_the_baseline():
    assert set(SLOTS) == set(variants()["baseline"].slots)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("variant", variants())
def test_slot_agrees_with_the_reference(variant, name, dtype):
    kernel = slot(variants()[variant], name)
    for sizes in AGREEMENT_SIZES:
        for case in SLOTS[name].cases(np.random.default_rng(0), np.dtype(dtype), sizes):
            arguments = case.fresh()
            returned = kernel(*arguments)
            try:
                case.check(arguments, returned)
            except AssertionError as error:
                raise AssertionError(f"{variant} at {sizes}: {error}") from None


def right(case):
    """A call's arguments and return value as the reference has them."""
    arguments = case.fresh()
    for position, expected in case.written.items():
        arguments[position][...] = expected
    return arguments, case.returned


@pytest.mark.parametrize("name", SLOTS)
def test_a_slot_that_changes_an_input_is_caught(name):
    tried = set()
    for case in SLOTS[name].cases(np.random.default_rng(0), np.dtype(np.float32), AGREEMENT_SIZES[1]):
        case.check(*right(case))
        for position, array in case.inputs().items():
            if array.size == 0:
                continue
            arguments, returned = right(case)
            last = arguments[position].reshape(-1)[-1:].view(np.uint8)
            last ^= 1  # the least that can change, at the far end
            with pytest.raises(AssertionError, match=f"argument {position}: .* is an input"):
                case.check(arguments, returned)
            tried.add(position)
    assert tried or name == "clip", "clip alone has no array but the one that it scales"


def bias_gradient_that_zeroes_the_deltas(delta, out):
    baseline.bias_gradient(delta, out)
    delta[:] = 0


def bias_gradient_on_top_of_what_was_there(delta, out):
    out += delta.sum(axis=0)


def bias_gradient_without_the_last_unit(delta, out):
    out[:-1] = delta[:, :-1].sum(axis=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (bias_gradient_that_zeroes_the_deltas, "argument 0: .* is an input"),
        (bias_gradient_on_top_of_what_was_there, "argument 1: .* is nan and should be"),
        (bias_gradient_without_the_last_unit, "argument 1: .* is nan and should be"),
    ],
)
def test_a_slot_that_is_wrong_beside_its_numbers_is_caught(wrong, message):
    for sizes in AGREEMENT_SIZES[1:3]:
        for case in SLOTS["bias_gradient"].cases(np.random.default_rng(0), np.dtype(np.float64), sizes):
            arguments = case.fresh()
            with pytest.raises(AssertionError, match=message):
                case.check(arguments, wrong(*arguments))


def the_case(name, dtype=np.float32, label=""):
    cases = SLOTS[name].cases(np.random.default_rng(0), np.dtype(dtype), AGREEMENT_SIZES[1])
    return next(case for case in cases if label in case.label)


def test_what_is_wrong_is_told_in_one_line():
    """Slot, argument, index, got, wanted, shape and dtype."""
    case = the_case("bias_gradient")
    arguments, returned = right(case)
    arguments[1][1] = 7
    wanted = case.written[1][1]
    with pytest.raises(AssertionError) as caught:
        case.check(arguments, returned)
    assert str(caught.value) == (
        f"bias_gradient argument 1: out[1] (shape (2,), float32) is 7.0 and should be {wanted:.9g}: "
        f"off by {7 - wanted:.3g}, allowed are {case.bound[1][1]:.3g}; 1 of 2 elements are off"
    )


def test_the_input_that_was_changed_is_told():
    case = the_case("weight_gradient", np.float64)
    arguments, returned = right(case)
    before = arguments[1][3, 1]
    arguments[1][3, 1] = 2
    with pytest.raises(AssertionError) as caught:
        case.check(arguments, returned)
    assert str(caught.value) == (
        "weight_gradient argument 1: delta[3, 1] (shape (4, 2), float64) is an input, which a slot must not "
        f"change: it was {before} and is 2.0"
    )


@pytest.mark.parametrize("got", [7.0, np.nan, None])
def test_a_wrong_number_that_is_returned_is_told(got):
    case = the_case("output_loss", label="softmax-cross_entropy")
    said = f"output_loss, softmax-cross_entropy, returns {got} and should return {case.returned:.9g}, within "
    with pytest.raises(AssertionError, match=f"^{re.escape(said)}"):
        case.check(right(case)[0], got)


def test_an_array_that_is_given_twice_stays_one():
    cases = SLOTS["drop"].cases(np.random.default_rng(0), np.dtype(np.float64), AGREEMENT_SIZES[1])
    (in_place,) = (case for case in cases if case.label.endswith("in place"))
    arguments = in_place.fresh()
    assert arguments[5] is arguments[6]
    assert arguments[5] is not in_place.arguments[5]
