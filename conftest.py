"""For tests and benchmarks alike: which of the two run, and `--variant FILE` for a kernel variant of yours.

`pytest` runs tests/, `pytest --benchmark-only` runs benchmarks/, and a path runs what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastmlp.backend import registry


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --variant."""
    parser.addoption(
        "--variant",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that declares a VARIANT; it is tested and timed beside fastmlp's own",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the given variants before tests are collected over the registry; choose the directory."""
    for path in config.getoption("--variant"):
        registry.register_file(path)
    if config.getoption("benchmark_only") and config.args_source == pytest.Config.ArgsSource.TESTPATHS:
        config.args = [str(config.rootpath / "benchmarks")]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave benchmarks/ out of `pytest .`; pytest does not ask about paths that it was given."""
    benchmarks = config.rootpath / "benchmarks"
    return True if collection_path == benchmarks and not config.getoption("benchmark_only") else None


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return what prints a figure that a test has reached, past pytest's capture."""

    def tell(figure: str) -> None:
        with capsys.disabled():
            print(f"\n{request.node.name}: {figure}", end="", flush=True)

    return tell
