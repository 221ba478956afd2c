"""A training like one before: what differs is seen, and nothing stays behind."""

import gc
import inspect
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.callbacks import calling
from test_overhead import calls_of

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.variant import Work
from fastmlp.kernels.variants import baseline

RNG = np.random.default_rng(0)
X, Y = RNG.random((24, 3)), RNG.random((24, 2))
NETWORK, OPTIMIZER = fastmlp.Network([3, 4, 2]), fastmlp.SGD(0.1)


OPTIONS = [name for name in inspect.signature(fastmlp.fit).parameters if name not in ("network", "X", "y")]
BASE = {
    "optimizer": OPTIMIZER, "epochs": 2, "batch_size": 8, "seed": 0, "progress": False, "threads": 1,
    "backend": "fused",
}  # fmt: skip
OTHER = {
    "optimizer": fastmlp.SGD(0.2), "epochs": 3, "batch_size": 6, "shuffle": False, "window": 8, "seed": 1,
    "initial": ([np.ones((3, 4)), np.ones((4, 2))], [np.ones(4), np.ones(2)]),
    "sample_weight": np.arange(24.0), "validation": 0.25, "backend": "reference",
    "callbacks": [calling(on_epoch_end=lambda run: run.stop("enough"))],
    "dtype": "float32", "average": fastmlp.EMA(0.5), "accumulate": 2, "mixup": 0.3,
    "metrics": ["r2"], "training_metrics": True,
}  # fmt: skip
WITH = {"metrics": {"training_metrics": True}, "training_metrics": {"metrics": ["r2"]}}
"""Options that another one has a meaning with."""
WRONG = {
    "optimizer": "sgd", "epochs": True, "batch_size": 8.0, "shuffle": 1, "window": 0, "seed": -1,
    "initial": "zeros", "sample_weight": -np.ones(24), "validation": 2.0, "callbacks": [1], "progress": "no",
    "backend": "fussed", "threads": 1.0, "dtype": "int8", "resume": "nowhere.npz", "communicator": 1,
    "average": 0.5, "metrics": ["nonsense"], "training_metrics": "yes", "accumulate": 0, "mixup": 0.0,
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("built_in_backends")


def fit(network=NETWORK, x=X, y=Y, **options):
    return fastmlp.fit(network, x, y, **{**BASE, **options})


def outcome(**options):
    """What a training comes to, or the error that it ends with."""
    try:
        model = fit(**options)
    except Exception as error:
        return type(error), str(error)
    return model.backend, model.parameters.dtype, model.parameters.tobytes(), repr(model.history)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_changes_between_two_calls_is_seen(name):
    more = WITH.get(name, {})
    usual = outcome(**more)
    for values in (OTHER, WRONG):
        if name in values:
            changed = {**more, name: values[name]}
            for _ in range(3):
                assert outcome(**more) == usual
            again = [outcome(**changed) for _ in range(2)]
            assert again == [outcome(**changed)] * 2
            assert again[0] != usual, "the change has no effect"
    assert outcome(**more) == usual


def test_a_training_goes_on_by_the_backend_that_it_had():
    model = fit(backend="auto")
    assert model.fit_more(X, Y, epochs=1, progress=False).backend in registry.built_in()
    model.training = model.training._replace(backend="reference")
    assert model.fit_more(X, Y, epochs=1, progress=False).backend == "reference"


@pytest.mark.parametrize("changed", ["X", "y"])
def test_numbers_that_are_written_between_two_calls_are_looked_at(changed):
    x, y = X.copy(), Y.copy()
    model = fit(x=x, y=y)
    (x if changed == "X" else y)[5, 1] = np.nan
    for call in (lambda: fit(x=x, y=y), lambda: model.fit_more(x, y, epochs=1, progress=False)):
        with pytest.raises(ValueError, match=rf"{changed} must be finite, got nan at {changed}\[5, 1\]"):
            call()


def test_targets_that_leave_their_range_are_looked_at():
    network, y = fastmlp.Network([3, 4, 2], output="sigmoid", loss="binary_cross_entropy"), Y.copy()
    fit(network, y=y)
    y[0, 0] = 1.5
    with pytest.raises(ValueError, match="must lie in"):
        fit(network, y=y)


def test_rows_of_another_dtype_or_number_are_seen():
    for _ in range(2):
        for x in (X, X.astype("f")):
            model = fit(x=x)
            assert model.parameters.dtype == model.training.options.dtype == x.dtype
        assert fit(x=X[:5], y=Y[:5]).training.rows == 5
        assert fit().training.rows == 24


def test_networks_are_known_by_identity_while_they_live():
    expected = fit().parameters
    for _ in range(3):
        for n_hidden in (4, 5):  # a network may lie where one lay that is gone
            model = fit(fastmlp.Network([3, n_hidden, 2]))
            assert model.network.widths == (3, n_hidden, 2)
            assert (n_hidden != 4) or np.array_equal(model.parameters, expected)


def test_a_number_may_lie_where_one_lay_that_is_gone():
    for epochs in range(300, 320):
        assert len(fit(epochs=int(str(epochs))).history["loss"]) == epochs


def test_what_was_given_as_a_list_may_have_changed():
    callbacks = []
    fit(callbacks=callbacks)
    callbacks.extend(OTHER["callbacks"])
    assert len(fit(callbacks=callbacks).history["loss"]) == 1


def test_a_terminal_that_is_there_later_shows_a_bar(monkeypatch):
    fit(progress=None)
    monkeypatch.setattr("fastmlp.fitting.is_watched", lambda: True)
    assert calls_of(lambda: fit(progress=None))["on_chunk_end"] > 0


def test_threads_fit_at_once():
    expected = [fit(seed=seed).parameters for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda seed: [fit(seed=seed).parameters for _ in range(20)], range(4))
    for models, alone in zip(found, expected, strict=True):
        np.testing.assert_array_equal(models, [alone] * 20)


def test_a_backend_that_is_registered_anew_is_taken():
    for _ in range(2):
        registry.registered["mine"] = baseline.VARIANT._replace(name="mine")
        for _ in range(2):
            backend, _ = fit(epochs=0, backend="mine").prediction(X, Y)
            assert backend is registry.get("mine")
    del registry.registered["mine"]
    assert outcome(epochs=0, backend="mine") == outcome(epochs=0, backend="mine")
    with pytest.raises(ValueError, match="unknown backend 'mine'"):
        fit(epochs=0, backend="mine")


@pytest.mark.slow  # compiles a program that no process has
def test_auto_takes_a_program_that_is_compiled_meanwhile():
    network = fastmlp.Network([3, 7, 2], l2=float(RNG.random()))  # no process has compiled it

    def taken(backend):
        return fit(network, backend=backend, epochs=1).backend

    before = {taken("auto") for _ in range(3)}
    assert taken("specialized") == "specialized"
    assert taken("auto") == "specialized", before


def test_the_choice_goes_by_the_cores_that_are_left(monkeypatch, cores_left):
    fit(backend="specialized")  # "auto" keeps to it
    found, of = [], Work.of
    cores_left(3)

    def noted(*given):
        found.append(of(*given))
        return found[-1]

    monkeypatch.setattr(Work, "of", noted)
    monkeypatch.setattr(
        "fastmlp.kernels.variant.available_cores", lambda: 1
    )  # another training has begun meanwhile
    fit(threads=None, backend="auto")
    assert {work.threads for work in found} == {3}


def test_nothing_keeps_rows_or_models_alive():
    x, y = X.copy(), Y.copy()
    model = fit(x=x, y=y)
    model = fit(x=x, y=y, initial=model).fit_more(x, y, epochs=1, progress=False)
    watched = [weakref.ref(one) for one in (x, y, model, model.parameters)]
    del x, y, model
    gc.collect()
    assert not any(one() is not None for one in watched)
