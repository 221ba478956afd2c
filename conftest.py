"""For tests and benchmarks alike: `--variant FILE` brings a kernel variant of your own into both."""

from __future__ import annotations

import pytest

from fastmlp import registry


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
    """Register the given variants before tests are collected over the registry."""
    for path in config.getoption("--variant"):
        registry.register_file(path)
