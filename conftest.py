"""For tests and benchmarks alike: which of the two run, in how many processes, and `--variant FILE`.

`pytest` runs tests/, `pytest --benchmark-only` runs benchmarks/, and a path runs what it says. FILE
declares a kernel variant of yours.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from fastmlp.backend import registry
from fastmlp.system.budget import cores

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # on tables of 200 rows its threads cost half of the time
os.environ.setdefault("FASTMLP_PREBUILD", "none")  # what an editable installation has compiled is not tested

FEW = 4
"""The most processes of which each takes whole files."""

LONGER = ("matrix", "slow", "campaign")
"""Marks of cases that the quick suite leaves out."""

NEEDED = {"benchmark": "pytest-benchmark", "xdist": "pytest-xdist", "hypothesispytest": "hypothesis"}
"""Packages of the extra `test`, by the plugins that they bring: pyproject.toml has options of theirs."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare --variant, or say what must be installed: pytest itself says that options are unknown."""
    missing = [package for plugin, package in NEEDED.items() if not pluginmanager.hasplugin(plugin)]
    if missing:
        raise pytest.UsageError(f'the tests need {", ".join(missing)}: pip install ".[test]"')
    parser.addoption(
        "--variant",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that declares a VARIANT; it is tested and timed beside fastmlp's own",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the given variants before tests are collected over the registry; choose the directory."""
    config.pluginmanager.register(Figures(config))
    logging.getLogger("fastmlp").setLevel(logging.INFO)  # what is compiled is said there, and not on stderr
    if config.getoption("dist", "no") != "no":
        config.option.benchmark_disable = (
            True  # as pytest-benchmark does where several processes run, and warns
        )
    for path in config.getoption("--variant"):
        try:
            registry.register_file(path)
        except (ValueError, TypeError) as error:
            raise pytest.UsageError(f"--variant: {error}") from None
    if config.getoption("benchmark_only"):
        config.option.reportchars += "s"  # why a row is in no table
    if config.getoption("benchmark_only") and config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        config.args = [str(config.rootpath / "benchmarks")]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Use all cores for a whole suite: a few tests end sooner in one process, and what times needs a core."""
    paths = [Path(config.invocation_params.dir, argument) for argument in config.args]
    timed = config.getoption("benchmark_only") or (
        not config.getoption("benchmark_disable") and any(path.name == "benchmarks" for path in paths)
    )
    whole = all(path.is_dir() for path in paths) and not config.getoption("keyword")
    return cores() if whole and not timed else 0


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of a file, or of a group, to one process: most of them run the same machine code.

    Among many processes each test goes alone: they would wait for the one that has the longest file.
    """
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid).partition("::")[0]

    few = config.getoption("dist") == "loadgroup" and (config.getoption("numprocesses") or 0) <= FEW
    if few:
        config.option.loadscopereorder = False  # or files of one test, the longest ones, would come last
    return ByFile(config, log) if few else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep thousands of cases, which live to the end, out of every garbage collection: 0.3 s each."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave benchmarks/ out of `pytest .`; pytest does not offer paths that it was given."""
    benchmarks = config.rootpath / "benchmarks"
    return True if collection_path == benchmarks and not config.getoption("benchmark_only") else None


@pytest.hookimpl(tryfirst=True)  # before cases are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave `quick(n)` cases of a test to the quick suite, evenly spread, and mark the others `matrix`.

    Cases of a backend that `--variant` names stay where they are.
    """
    cases: dict[tuple[Any, ...], list[pytest.Item]] = {}
    for item in items:
        mark = item.get_closest_marker("quick")
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        stays = any(map(item.get_closest_marker, LONGER)) or registry.registered.keys() & {*map(str, values)}
        if mark and not stays:
            cases.setdefault((*mark.args, item.path, getattr(item, "originalname", "")), []).append(item)
    for (count, *_), of_test in cases.items():
        kept = {len(of_test) * turn // count for turn in range(count)}
        for number in {*range(len(of_test))} - kept:
            of_test[number].add_marker(pytest.mark.matrix)


@pytest.fixture(autouse=True)
def _own_registry() -> Generator[None, None, None]:
    """What a test registers goes with it: "auto" and the lab look at all that is registered."""
    before = dict(registry.registered)
    yield
    registry.registered.clear()
    registry.registered.update(before)


@pytest.fixture
def report_figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return what prints a figure that a test has reached, past pytest's capture."""
    return lambda figure: request.node.user_properties.append(("figure", figure))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return command(text, *more, code=0): what `fastmlp` prints, or the one line of an error with its code.

    The words of a text are arguments; `command.output` and `command.errors` are all that it wrote.
    """
    from fastmlp.cli.main import main

    def run(text: str, *more: object, code: int = 0) -> str:
        capsys.readouterr()
        try:
            found = main([*text.split(), *map(str, more)])
        except SystemExit as left:
            found = left.code
        run.output, run.errors = capsys.readouterr()
        assert found == code, run.errors
        if code in (2, 3):
            assert (run.errors.count("\n"), run.errors[:16]) == (1, "fastmlp: error: "), run.errors
        return run.errors if code else run.output

    return run


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return chunks(steps=, seconds=, visits=, mixed=), which bounds the chunks of trainings from then on."""
    from fastmlp.training import loop

    bounds = {
        "steps": "MAX_CHUNK_STEPS",
        "seconds": "CHUNK_SECONDS",
        "visits": "MAX_CHUNK_VISITS",
        "mixed": "MIXED_BYTES",
    }

    def bound(**given: float) -> None:
        for name, value in given.items():
            monkeypatch.setattr(loop, bounds[name], value)

    return bound


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the epochs whose orders are drawn from then on, each with the number of the window."""
    from fastmlp.data.seeding import RowOrders

    found: list[tuple[int, int]] = []

    class Spy(RowOrders):
        def draw(self, epoch: int, out: Any, window: int = 0) -> None:
            found.extend((epoch + place, window) for place in range(len(out)))
            super().draw(epoch, out, window)

    monkeypatch.setattr("fastmlp.training.preparation.RowOrders", Spy)
    return found


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return windows(size=, held_out=), which bounds the bytes of windows of rows from then on."""
    places = {"size": "blocks.windows.WINDOW_BYTES", "held_out": "blocks.training.HELD_OUT_BYTES"}

    def bound(**given: int) -> None:
        for name, value in given.items():
            monkeypatch.setattr(f"fastmlp.{places[name]}", value)

    return bound


@pytest.fixture
def long_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return long_calls(seconds): calls that may take so long can be left behind from then on."""
    return lambda seconds: monkeypatch.setattr("fastmlp.training.threads.LONG_SECONDS", seconds)


@pytest.fixture
def cores_left(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return cores_left(count): so many cores are left for trainings that begin from then on."""
    return lambda count: monkeypatch.setattr("fastmlp.training.preparation.available_cores", lambda: count)


@pytest.fixture
def built_in_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backend that other tests have registered."""
    monkeypatch.setattr(registry, "registered", {})


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a cache of the test's keeps its files, of which there is none."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    return tmp_path / "fastmlp"


@pytest.fixture
def lane_programs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return lane_programs(name=value), which replaces what decides on programs of lanes, or takes steps."""
    from fastmlp.backend import lanes, programs
    from fastmlp.kernels import estimates

    places = {
        **dict.fromkeys(("is_worth", "is_ready", "saved_by"), lanes.LaneProgram),
        "blocks_of": lanes,
        **dict.fromkeys(("about_seconds_of_a_network", "available_cores"), programs),
        "lane_seconds": estimates,
    }

    def replace(**given: Any) -> None:
        for name, value in given.items():
            monkeypatch.setattr(places[name], name, value)

    return replace


class Figures:
    """Prints the figures that tests report, in whichever process they ran."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print the figures of a test that has run."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        for name, figure in report.user_properties:
            if name == "figure" and report.when == "call" and terminal is not None:
                terminal.ensure_newline()
                terminal.write_line(f"{report.nodeid.rpartition('::')[2]}: {figure}")
