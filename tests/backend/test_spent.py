"""What trainings have taken of a program that they lack, by which `auto` has it compiled."""

from __future__ import annotations

import time

import needs
import pytest
from choosing import work
from processes import python

from fastmlp.backend import auto
from fastmlp.backend.auto import Auto
from fastmlp.kernels.jit import spent as spent_module
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.spent import Spent, key_of, spent
from fastmlp.lab.explain import outlook
from fastmlp.system import background

pytestmark = pytest.mark.usefixtures("place")


def key():
    (own,) = (one for one in auto.field(work(1000)).found if one.name == "specialized")
    return key_of(own.bound)


def test_what_trainings_have_taken_is_counted_until_it_is_worth_the_program(requested, on_disk):
    on_disk.add("fused")
    spent().add(key(), 1.9)
    assert Auto(work(1000)).name == "fused"
    assert requested == []
    spent().add(key(), 0.2)
    assert [Auto(work(1000)).name for _ in range(3)] == ["fused"] * 3
    assert [call[:2] for call in requested] == [("compile", "specialized")]


def test_nothing_is_requested_without_a_background_process(requested, on_disk, monkeypatch):
    monkeypatch.setattr(background, "is_possible", lambda: False)
    on_disk.add("fused")
    spent().add(key(), 100.0)
    assert Auto(work(1000)).name == "fused"
    assert requested == []


def test_explain_tells_what_a_training_takes(requested, on_disk):
    def explained(steps):
        return " ".join(outlook(work(steps)))

    assert explained(1000).startswith(
        "A training of 1000 steps begins on fused, which is compiled first. It stays there: "
    )
    on_disk.add("fused")
    assert "begins on fused, which is compiled already. It stays there: specialized would save" in explained(
        1000
    )
    spent().add(key(), 0.5)
    assert (
        "Trainings have taken 0.5 s without it so far; once that is 2 s, it is compiled meanwhile"
        in explained(1000)
    )
    assert (
        "specialized is compiled in the background, in about 2 s. This changes over then, after about "
        in explained(10**8)
    )
    spent().add(key(), 1.6)
    assert "specialized is compiled in the background, in about 2 s. Later ones take that." in explained(1000)
    on_disk.add("specialized")
    assert explained(1) == (
        "A training of 1 steps begins on specialized, which is compiled already. "
        "It stays there: no backend of the same bits has a smaller estimate."
    )
    assert requested == []


def test_sums_are_written_without_a_look_at_all_files(place, monkeypatch):
    monkeypatch.setattr(store, "prune", lambda *arguments: pytest.fail("it took 80 ms of every 100"))
    spent().add(key(), 1.0)
    assert len([*place.glob("spent.*")]) == 1


def test_what_is_spent_is_summed_over_processes(place):
    one, other = Spent(), Spent()
    one.add("a", 0.25)
    other.add("a", 0.5)
    other.add("b", 0.01)
    assert (Spent().seconds("a"), Spent().seconds("b")) == (0.75, 0.0)
    other.keep()
    other.keep()
    assert (Spent().seconds("a"), Spent().seconds("b")) == (0.75, 0.01)
    one.forget()
    one.add("c", 0.01)
    assert len([*place.glob("spent.*")]) == 1


def test_the_sums_of_the_programs_that_were_trained_last_are_kept(place, monkeypatch):
    monkeypatch.setattr(spent_module, "MOST_PROGRAMS", 2)
    sums = Spent()
    for name in ("a", "b", "a", "c"):
        sums.add(name, 1.0)
    assert [Spent().seconds(name) for name in "abc"] == [2.0, 0.0, 1.0]


FITS = """
import sys, time
import numpy as np, fastmlp
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.entries import MEASURED

rng = np.random.default_rng(0)
X, y = rng.standard_normal((256, 4)), rng.standard_normal((256, 3))
network = fastmlp.Network([4, 20, 14, 3], "tanh", l2=1e-4)

def fit(backend, epochs):
    return fastmlp.fit(
        network, X, y, epochs=epochs, batch_size=32, seed=0, threads=1, progress=False, backend=backend
    )

backend, seconds = sys.argv[1], float(sys.argv[2])
if backend == "fused":
    fit(backend, 1)
    store.names().put(MEASURED, "0.3")
else:
    model, expected = None, fit("fused", 500)
    latest = time.monotonic() + seconds
    while model is None or time.monotonic() < latest:
        model = fit(backend, 500)
        assert np.array_equal(model.parameters, expected.parameters)
        assert model.history == expected.history
        print(model.backend)
        if model.backend == "specialized":
            break
"""


def fits(backend, seconds=0.0, **environment):
    """The backends that trainings of one shape took, which a process began in so many seconds."""
    done = python("-W", "error", "-c", FITS, backend, seconds, **environment)
    assert "network" not in done.stderr, "a training itself has compiled"
    return done.stdout.split()


@needs.locks
@pytest.mark.slow  # trains until a process of the least priority has compiled
@pytest.mark.parametrize("seconds", [0.15, 300.0], ids=["many processes", "one process"])
def test_short_trainings_come_to_the_program_of_their_network(seconds, place):
    """None of them is worth it, all of them together are; every bit stays."""
    fits("fused")
    assert {*fits("auto", 1.0, FASTMLP_BACKGROUND="0")} == {"fused"}
    assert [*place.glob("*.request")] == []
    for file in place.glob("spent.*"):
        file.unlink()
    latest, taken = time.monotonic() + needs.PATIENCE, []
    while "specialized" not in taken and time.monotonic() < latest:
        taken += fits("auto", seconds)
    assert (taken[0], taken[-1]) == ("fused", "specialized")
