"""What a `Stepper` holds: copies, files, views of its arrays, and nothing that a step allocates."""

from __future__ import annotations

import copy
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from support.selection import few
from support.steppers import NETWORK, X, Y, stepped

import fastmlp
from fastmlp import SGD, Adam, Dense, Network, Numbers, PiecewiseLinear, Quantiles, StepDecay, Stepper


def go_on(stepper):
    """What two more steps come to: all that they depend on shows in it."""
    losses = [stepper.step(X, Y) for _ in range(2)]
    return losses, stepper.parameters.tobytes(), stepper.moments.tobytes(), stepper.steps


@pytest.mark.parametrize("copied", [Stepper.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_goes_on_the_same_way_and_by_itself(copied):
    stepper = stepped()
    stepper.rate_factor = 0.5
    twin, before = copied(stepper), stepper.parameters.copy()
    after = go_on(twin)
    np.testing.assert_array_equal(stepper.parameters, before)
    assert go_on(stepper) == after


def test_a_copy_has_the_bins_that_quantiles_have_made():
    network = Network(inputs=[Numbers(4, PiecewiseLinear(3))], layers=[Dense(Y.shape[1])])
    model = fastmlp.fit(network, [X], Y, epochs=1, seed=0, backend="reference")
    stepper = Stepper(network, SGD(0.1), initial=model)
    twin = pickle.loads(pickle.dumps(stepper))
    assert go_on(twin) == go_on(stepper.copy()) == go_on(stepper)


def test_a_copy_has_the_parameters_that_are_not_finite():
    network = Network(inputs=[Numbers(4, PiecewiseLinear(3))], layers=[Dense(Y.shape[1])])
    model = fastmlp.fit(network, [X], Y, epochs=1, seed=0, backend="reference")
    stepper = Stepper(network, SGD(0.1), initial=model)
    stepper.parameters[-1] = np.nan
    for twin in (stepper.copy(), pickle.loads(pickle.dumps(stepper))):
        np.testing.assert_array_equal(twin.parameters, stepper.parameters)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_file_holds_all_that_the_next_steps_depend_on(tmp_path, backend):
    stepper = stepped(backend=backend)
    stepper.rate_factor = 0.25
    stepper.save(tmp_path / "stepper")
    other = Stepper(NETWORK, Adam(0.01), seed=77, backend=backend)
    held = other.parameters, other.moments
    other.load(tmp_path / "stepper")
    assert held[0] is other.parameters
    np.testing.assert_array_equal(fastmlp.load(tmp_path / "stepper").predict(X), stepper.model().predict(X))
    assert go_on(other) == go_on(stepper)


def test_a_file_of_something_else_is_refused(tmp_path):
    stepper, path = stepped(), tmp_path / "stepper"
    stepper.save(path)
    fastmlp.save(stepper.model(), tmp_path / "model")
    for other, message in (
        (Stepper(Network((4, 8, 3)), Adam()), "of another network"),
        (Stepper(NETWORK, SGD()), "of another rule"),
        (Stepper(NETWORK, Adam(), dtype="f8"), "of another dtype: 'float32' then, 'float64' now"),
    ):
        with pytest.raises(fastmlp.CheckpointError, match=message):
            other.load(path)
    with pytest.raises(fastmlp.CheckpointError, match="holds no stepper"):
        stepper.load(tmp_path / "model")
    with pytest.raises(fastmlp.CheckpointError, match="holds a model without its training"):
        fastmlp.fit(NETWORK, X, Y, resume=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(fastmlp.CheckpointError):
        stepper.load(path)


def test_average_into_is_polyaks():
    online, target = stepped(seed=1), stepped(seed=2)
    correct = np.float32(0.1) * online.parameters + np.float32(0.9) * target.parameters
    online.average_into(target, 0.1)
    np.testing.assert_array_equal(target.parameters, correct)
    online.average_into(target, 1)
    np.testing.assert_array_equal(target.parameters, online.parameters)
    with pytest.raises(ValueError, match="other must have 67 parameters in float32, got 67 in float64"):
        online.average_into(stepped_in_double(), 0.5)


def stepped_in_double():
    return Stepper(NETWORK, Adam(), dtype=np.float64)


def test_its_arrays_are_writable_views():
    stepper = Stepper(NETWORK, SGD(0.1, 0.9), seed=0)
    for view in (*stepper.weights, *stepper.biases):
        assert np.shares_memory(view, stepper.parameters)
    assert stepper.moments.shape == (1, stepper.parameters.size)
    stepper.parameters[...] = 0
    np.testing.assert_array_equal(stepper.forward(X[:1]), np.full((1, 3), 1 / 3, "f"))
    stepper.gradients[...] = 1
    stepper.moments[...] = 2
    stepper.update()
    np.testing.assert_array_equal(stepper.parameters, np.float32(-0.1) * np.float32(0.9 * 2 + 1))


def test_a_model_is_a_copy():
    stepper = stepped()
    model, outputs = stepper.model(), stepper.forward(X)
    np.testing.assert_array_equal(model.predict(X), outputs)
    stepper.parameters[...] = 0
    np.testing.assert_array_equal(model.predict(X), outputs)


def test_auto_takes_the_program_of_the_network():
    assert Stepper(Network((4, 8, 3)), Adam()).backend == "specialized"
    assert Stepper(Network((4, 8, 3), "gelu"), Adam()).backend == "fused"
    assert Stepper(Network((4, 8, 3)), Adam(clip_norm=1.0)).backend == "fused"


def test_a_schedule_counts_steps():
    stepper = Stepper(NETWORK, SGD(StepDecay(0.5, 2, 0.1)), seed=0)
    stepper.gradients[...] = 1
    moves = []
    for _ in range(4):
        before = stepper.biases[0].copy()
        stepper.update()
        moves.append(float((before - stepper.biases[0])[0]))
    np.testing.assert_allclose(moves, [0.5, 0.5, 0.05, 0.05], rtol=1e-5)
    stepper.rate_factor = 0
    before = stepper.parameters.copy()
    stepper.update()
    np.testing.assert_array_equal(stepper.parameters, before)


def test_labels_stand_for_rows():
    stepper, other = stepped(), stepped()
    labels = Y.argmax(axis=1)
    assert stepper.step(X, labels) == other.step(X, Y)
    one = Stepper(Network((4, 1)), SGD(0.1), seed=0)
    assert one.step(X, X[:, 0].copy()) == Stepper(Network((4, 1)), SGD(0.1), seed=0).step(X, X[:, :1].copy())


def test_one_column_is_the_target_of_all_quantiles():
    network = Network((4, 3), loss=Quantiles([0.1, 0.5, 0.9]))
    for column in (X[:, 0].copy(), X[:, :1].copy()):
        whole = np.repeat(X[:, :1], 3, axis=1)
        one, other = (Stepper(network, SGD(0.1), seed=0) for _ in range(2))
        assert one.step(X, column) == other.step(X, whole)
        np.testing.assert_array_equal(one.parameters, other.parameters)


def test_steppers_work_side_by_side():
    alone = [go_on(stepped(seed=seed)) for seed in range(4)]
    steppers, found = [stepped(seed=seed) for seed in range(4)], [None] * 4

    def run(place):
        found[place] = go_on(steppers[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


@pytest.mark.parametrize("backend", few(["specialized", "fused", "packed"]))
def test_nothing_is_allocated_after_the_first_call(backend):
    network = Network((17, 64, 64, 6), input_scale=0.5, l2=0.1)
    stepper = Stepper(network, Adam(clip_norm=1.0), seed=0, backend=backend)
    plain = Stepper(Network((17, 64, 64, 6)), Adam(), seed=0, backend=backend)
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(64, 17)).astype("f"), rng.normal(size=(64, 6)).astype("f")
    out, by_inputs = np.empty((64, 6), "f"), np.empty((64, 17), "f")

    def use():
        for one in (stepper, plain):
            one.step(inputs, targets)
            one.forward(inputs, out)
            one.backward(targets, out=by_inputs)
            one.update()
            stepper.average_into(plain, 0.5)

    use()
    tracemalloc.start()
    try:
        use()  # what Python itself keeps for the next call
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(20):
            use()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # objects of Python's, none of which is as large as a row of this batch's smallest array
    assert after - held < 500
    assert peak - held < 64 * 6 * 4
