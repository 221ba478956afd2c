"""Every slot of every variant against the reference: one table, no lists of exceptions."""

import ctypes
import re

import numpy as np
import pytest
import scipy.sparse
from support.selection import is_given, matrix

from fastmlp.backend import reference_losses
from fastmlp.backend.registry import variants
from fastmlp.kernels.jit.bind import slot
from fastmlp.kernels.thresholds import forced
from fastmlp.lab.slot_times import has_its_own
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.testing.slots import AGREEMENT_SIZES, PACKED, SLOTS


def test_the_table_has_every_slot_of_the_baseline():
    assert set(SLOTS) == set(variants()["baseline"].slots)


def slots():
    """Each slot of each variant: the quick suite has the fastest in one dtype, and all of a given variant."""
    for number, name in enumerate(SLOTS):
        own = [variant for variant in variants() if has_its_own(variant, name)]
        fastest = [variant for variant in own if not is_given(variant)][-1]
        for variant in own:
            for turn, dtype in enumerate((np.float32, np.float64), number):
                marks = () if is_given(variant) or (variant == fastest and turn % 2) else matrix
                yield pytest.param(variant, name, dtype, marks=marks)


@pytest.mark.parametrize(("variant", "name", "dtype"), [*slots()])
def test_slot_agrees_with_the_reference(variant, name, dtype):
    kernel = slot(variants()[variant], name)
    for sizes, tuning in (*((sizes, {}) for sizes in AGREEMENT_SIZES), (AGREEMENT_SIZES[-1], PACKED)):
        for case in SLOTS[name].cases(np.random.default_rng(0), np.dtype(dtype), sizes):
            arguments = case.fresh()
            with forced(tuning):
                returned = kernel(*arguments)
            try:
                case.check(arguments, returned)
            except AssertionError as error:
                raise AssertionError(f"{variant} at {sizes} {tuning or ''}: {error}") from None


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


def affine_that_swallows_nan(x, w, b, scratch, out):
    out[...] = np.nan_to_num(x @ w + b, nan=0, posinf=np.inf, neginf=-np.inf)


def affine_that_skips_zeros(x, w, b, scratch, out):
    for row, sums in zip(x, out, strict=True):
        sums[:] = row[row != 0] @ w[row != 0] + b


def affine_that_stops_at_nan(x, w, b, scratch, out):
    """It leaves what was there, which must not be taken for NaN that was written."""
    sums = x @ w + b
    out[~np.isnan(sums)] = sums[~np.isnan(sums)]


def affine_sparse_that_multiplies_zeros(indptr, indices, values, order, w, b, out):
    dense = scipy.sparse.csr_array((values, indices, indptr), (len(indptr) - 1, len(w))).toarray()
    out[...] = dense[order if len(order) else slice(len(out))] @ w + b


def activate_that_loses_nan(code, z, out):
    out[...] = reference_losses.activate(list(ACTIVATIONS)[code], np.nan_to_num(z, nan=0.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (affine_that_swallows_nan, "affine, NaN, argument 4: .* is 0.0 and should be nan"),
        (affine_that_skips_zeros, "affine, 0 times inf, argument 4: .* and should be nan"),
        (affine_that_stops_at_nan, "affine, NaN, argument 4: .* is 1000000000.0 and should be nan"),
        (affine_sparse_that_multiplies_zeros, "0 times inf, argument 6: .* is nan"),
        (activate_that_loses_nan, "NaN and inf, argument 2: .* and should be nan"),
    ],
)
def test_a_slot_that_loses_what_is_not_finite_is_caught(wrong, message):
    """Every ordinary case passes it."""
    name = wrong.__name__.partition("_that_")[0]
    said = []
    for case in SLOTS[name].cases(np.random.default_rng(0), np.dtype(np.float64), AGREEMENT_SIZES[6]):
        arguments = case.fresh()
        with np.errstate(invalid="ignore", over="ignore"):
            returned = wrong(*arguments)
        try:
            case.check(arguments, returned)
        except AssertionError as error:
            said.append((case.timed, str(error)))
    assert not any(timed for timed, _ in said), said
    assert any(re.search(message, one) for _, one in said), said


@pytest.mark.parametrize("name", SLOTS)
def test_a_write_next_to_an_array_is_caught(name):
    """By one element after its end, and before its beginning, of every array; also of the scratch."""
    case = next(SLOTS[name].cases(np.random.default_rng(0), np.dtype(np.float32), AGREEMENT_SIZES[1]))
    for position, array in enumerate(case.arguments):
        if not isinstance(array, np.ndarray):
            continue
        for place, where in ((array.nbytes, "after its end"), (-array.itemsize, "before its beginning")):
            arguments, returned = right(case)
            address = arguments[position].ctypes.data + place
            before = ctypes.string_at(address, array.itemsize)
            ctypes.memset(address, 0, array.itemsize)
            said = rf"argument {position}: .*\): element 1 {where} was written"
            with pytest.raises(AssertionError, match=said):
                case.check(arguments, returned)
            ctypes.memmove(address, before, array.itemsize)  # the scratch is one for all calls
            case.check(arguments, returned)


WRONG = {
    "zeroes the deltas": lambda delta, out: np.copyto(out, delta.sum(axis=0)) or delta.fill(0),
    "on top of what was there": lambda delta, out: np.copyto(out, out + delta.sum(axis=0)),
    "without the last unit": lambda delta, out: np.copyto(out[:-1], delta[:, :-1].sum(axis=0)),
}
"""Gradients of biases that are wrong apart from their numbers."""


@pytest.mark.parametrize("wrong", WRONG)
def test_a_slot_that_is_wrong_apart_from_its_numbers_is_caught(wrong):
    message = "argument 0: .* is an input" if "deltas" in wrong else "argument 1: .* is nan and should be"
    for sizes in AGREEMENT_SIZES[1:3]:
        cases = SLOTS["bias_gradient"].cases(np.random.default_rng(0), np.dtype(np.float64), sizes)
        for case in (case for case in cases if case.timed):
            arguments = case.fresh()
            with pytest.raises(AssertionError, match=message):
                case.check(arguments, WRONG[wrong](*arguments))


def the_case(name, dtype=np.float32, label=""):
    cases = SLOTS[name].cases(np.random.default_rng(0), np.dtype(dtype), AGREEMENT_SIZES[1])
    return next(case for case in cases if label in case.label)


def refused(case, arguments, returned):
    with pytest.raises(AssertionError) as caught:
        case.check(arguments, returned)
    return str(caught.value)


def test_what_is_wrong_is_refused_in_one_line():
    """Slot, argument, index, got, correct, shape and dtype."""
    case = the_case("bias_gradient")
    arguments, returned = right(case)
    arguments[1][1] = 7
    correct = case.written[1][1]
    assert refused(case, arguments, returned) == (
        f"bias_gradient argument 1: out[1] (shape (2,), float32) is 7.0 and should be {correct:.9g}: "
        f"off by {7 - correct:.3g}, allowed are {case.bound[1][1]:.3g}; 1 of 2 elements are off"
    )
    case = the_case("weight_gradient", np.float64)
    arguments, returned = right(case)
    before = arguments[1][3, 1]
    arguments[1][3, 1] = 2
    assert refused(case, arguments, returned) == (
        "weight_gradient argument 1: delta[3, 1] (shape (4, 2), float64) is an input, which a slot must not "
        f"change: it was {before} and is 2.0"
    )
    case = the_case("output_loss", label="softmax-cross_entropy")
    for got in (7.0, np.nan, None):
        said = f"output_loss, softmax-cross_entropy, returns {got} and should return {case.returned:.9g}, "
        assert refused(case, right(case)[0], got).startswith(f"{said}within ")


def test_an_array_that_is_given_twice_stays_one():
    cases = SLOTS["drop"].cases(np.random.default_rng(0), np.dtype(np.float64), AGREEMENT_SIZES[1])
    (in_place,) = (case for case in cases if case.label.endswith("in place"))
    arguments = in_place.fresh()
    assert arguments[5] is arguments[6]
    assert arguments[5] is not in_place.arguments[5]
