"""`fastmlp cache`: what lies where, and that `--clear` removes that and nothing else."""

import os
import re

import numpy as np
import pytest
from support import needs
from support.processes import python

import fastmlp
from fastmlp.cli.cache import CACHED
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.store import MachineCode


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory of the test's for the cache; where its files are."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    return tmp_path / "fastmlp"


def counts(output):
    found = re.findall(r"^(\w+) +(\d+) files?, (\d+) bytes", output, re.MULTILINE)
    return {kind: (int(count), int(size)) for kind, count, size in found}


@pytest.fixture
def filled(place, monkeypatch):
    """Have a file of each kind that this package writes."""
    code = MachineCode("f", bytes(100), ())
    home = "kernels.variants.fused"
    for name in (f"train_chunk-{home}", f"train_chunk@3-4-1.0123abcd-{home}", f"evaluate-{home}"):
        store.save(name, "float32", code)
    for name in (f"activate-{home}", f"update_all-{home}"):
        store.save(name, "float32", code)
    with store.only_one("any", "key"):
        pass
    (place / f"train_chunk-{home}.0123abcd.tmp").write_bytes(bytes(7))


@needs.locks
def test_it_is_listed_by_kind(place, filled, command):
    os.utime(next(place.glob("*.tmp")), (1, 1))  # abandoned
    found = command("cache")
    assert command.errors == ""
    assert re.search(rf"^directory +{re.escape(str(place))}$", found, re.MULTILINE)
    by_kind = counts(found)
    assert {kind: count for kind, (count, _) in by_kind.items()} == {
        "programs": 3, "functions": 2, "abandoned": 1, "locks": 1, "together": 7,
    }  # fmt: skip
    assert {*by_kind} == {*CACHED, "together"}
    files = [path.stat().st_size for path in place.iterdir()]
    assert by_kind["together"] == (len(files), sum(files))
    assert "at most 537 MB are kept" in found


def test_clear_removes_what_is_ours_and_nothing_else(place, filled, command):
    ours = [*place.iterdir()]
    written = next(place.glob("*.tmp"))  # by another process, just now
    strange = ["weights.bin", "notes.request", "x.json", "lock", "lock.z", f"x-{'0' * 32}.txt"]
    for name in strange:
        (place / name).write_text("somebody's")
    assert command("cache --clear").startswith(f"removed    {len(ours) - 1} files, ")
    assert {path.name for path in place.iterdir()} == {*strange, written.name}
    assert counts(command("cache")) == {"together": (0, 0)}


def test_what_real_trainings_leave_is_known_to_it(place, command):
    X = np.ones((4, 2))
    fastmlp.fit(fastmlp.Network([2, 1]), X, X[:, 0], epochs=1, backend="specialized", progress=False)
    left = [*place.iterdir()]
    assert f"together   {len(left)} files, " in command("cache")
    command("cache --clear")
    assert [*place.iterdir()] == []


@pytest.mark.slow  # three processes, of which one compiles
def test_it_says_what_serves_a_network_and_what_was_compiled_and_why(place):
    def said():
        return python("-m", "fastmlp", "cache", "5-3-1", "--quiet").stdout.splitlines()[1:]

    count = r"(\d+) of 5-3-1"
    (compiled,) = said()
    names = re.fullmatch(rf"compiled   {count}, as no folder has it: (.+)", compiled)
    assert {"train_chunk", "predict", "evaluate", "apply_rule"} <= {*names[2].split(", ")}
    (served,) = said()
    assert served == f"served     {names[1]} of 5-3-1 from {place}"
    damaged = next(place.glob("apply_rule-*.bin"))
    damaged.write_bytes(b"short")
    assert said() == [
        f"served     {int(names[1]) - 1} of 5-3-1 from {place}",
        f"compiled   1 of 5-3-1, as its file in {place} is damaged: apply_rule",
    ]


@pytest.mark.parametrize("text", ["64x10", "5"])
def test_a_network_that_is_none_is_refused_in_one_line(command, text):
    assert command(f"cache {text}", code=2)


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("FASTMLP_CACHE", "0", "FASTMLP_CACHE is 0"),
        ("FASTMLP_CACHE_BYTES", "lots", "FASTMLP_CACHE_BYTES must be a whole number of bytes, got 'lots'"),
    ],
)
def test_where_nothing_is_kept_it_says_why(monkeypatch, command, variable, value, why):
    monkeypatch.setenv(variable, value)
    for text in ("cache", "cache --clear"):
        assert command(text).splitlines()[-1] == f"nothing is kept: {why}"


def test_where_the_disk_takes_no_more_it_says_why(place, filled, monkeypatch, command):
    monkeypatch.setattr(store, "why_not_saved", lambda: "it is full")
    assert "nothing more is kept: it is full\n" in command("cache")


def test_what_cannot_be_removed_shows_in_the_exit_code(place, filled, monkeypatch, command):
    monkeypatch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    assert command("cache --clear", code=1) == ""
    assert command.output.startswith("removed    0 files, 0 bytes of ")
