"""How many cores a training takes where some are slower; each system's report is made up here."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from fastmlp.system import budget
from fastmlp.system.budget import EFFICIENCY, on_linux, on_macos, on_windows, worth_using


@pytest.mark.parametrize(
    ("speeds", "count"),
    [
        ([1.0] * 4, 4),
        ([1.0] * 4 + [EFFICIENCY] * 4, 4),  # Apple's M1
        ([EFFICIENCY] * 8 + [1.0] * 4, 12),  # so many slow cores do more, and the fast ones wait
        ([1024, 900, 900, 900, 300, 300, 300, 300], 4),  # one of them is faster still
        ([5.0], 1),
    ],
)
def test_the_slowest_core_sets_the_pace(speeds, count):
    assert worth_using(tuple(speeds)) == count


def written(folder, **texts):
    for name, text in texts.items():
        place = folder.joinpath(*name.split("__"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")
    return folder


def test_linux_lists_fast_cores_or_has_the_capacity_of_each(tmp_path):
    assert on_linux([0, 1], tmp_path) == [1.0, 1.0]
    intel = written(tmp_path / "intel", cpu_core__cpus="0-2,5")
    assert on_linux([0, 2, 3, 5], intel) == [1.0, 1.0, EFFICIENCY, 1.0]
    assert on_linux([0, 2], written(tmp_path / "odd", cpu_core__cpus="?")) == [1.0, 1.0]
    capacities = {f"system__cpu__cpu{core}__cpu_capacity": speed for core, speed in ((0, 446), (4, 1024))}
    assert on_linux([0, 4], written(tmp_path / "arm", **capacities)) == [446, 1024]


@pytest.mark.parametrize(
    ("count", "speeds"), [(2, [1.0, 1.0, EFFICIENCY]), (None, [1.0] * 3), (8, [1.0] * 3)]
)
def test_macos_counts_its_performance_cores(count, speeds):
    def sysctlbyname(name, number, length, new, new_length):
        assert name == b"hw.perflevel0.logicalcpu"
        if count is None:  # Intel's have one kind
            return -1
        ctypes.cast(number, ctypes.POINTER(ctypes.c_int32))[0] = count
        return 0

    assert on_macos(3, SimpleNamespace(sysctlbyname=sysctlbyname)) == speeds


@pytest.mark.parametrize(
    ("cores", "fast", "used"),
    [
        pytest.param(10, 8, 8, id="M1 Max"),
        pytest.param(11, 5, 5, id="M3 Pro"),
        pytest.param(16, 12, 12, id="M4 Max"),
        pytest.param(15, 5, 15, id="M5 Pro"),  # its slower cores, of 4.4 GHz, do most of the work
        pytest.param(18, 6, 18, id="M5 Max"),
    ],
)
def test_cores_of_apples_processors_by_what_their_owners_have_published(cores, fast, used):
    def sysctlbyname(name, number, *rest):
        ctypes.cast(number, ctypes.POINTER(ctypes.c_int32))[0] = fast
        return 0

    assert worth_using(tuple(on_macos(cores, SimpleNamespace(sysctlbyname=sysctlbyname)))) == used


@pytest.mark.parametrize(("classes", "speeds"), [((1, 0, None, 1), [1.0, EFFICIENCY, 1.0]), ((), [1.0] * 3)])
def test_windows_has_a_class_for_each_core(classes, speeds):
    of_another_kind = bytes([40, 0, 0, 0, 1, *[0] * 13, 9, *[0] * 21])
    given = b"".join(
        of_another_kind if one is None else bytes([32, *[0] * 17, one, *[0] * 13]) for one in classes
    )

    def inform(place, room, length, process, flags):
        ctypes.cast(length, ctypes.POINTER(ctypes.c_ulong))[0] = len(given)
        if place is None or not given:
            return 0
        ctypes.memmove(place, given, len(given))
        return 1

    assert on_windows(3, SimpleNamespace(GetSystemCpuSetInformation=inform)) == speeds


def test_a_training_takes_no_efficiency_cores_and_trainings_at_once_take_all(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(budget, "cores", lambda: 8)
    monkeypatch.setattr(budget, "speeds", lambda cores: (1.0,) * 4 + (EFFICIENCY,) * 4)
    assert budget.available_cores() == 4
    with budget.training():
        assert budget.available_cores() == 4
        with budget.training():
            assert budget.available_cores() == 4
            with budget.training():
                assert budget.available_cores() == 2
    assert budget.usable_cores() == 8
