"""setuptools, and machine code: `pip install .` compiles what first calls need, for the machine it runs on.

FASTMLP_PREBUILD=none compiles nothing, as builds by other programs do: what `python -m build` makes can be
uploaded. FASTMLP_PREBUILD=all compiles for all levels of this platform, as for an index, and names of levels,
x86-64-v3,x86-64-v4, for these. A build that compiles needs Numba: that of the environment which pip installs
into, or else pip installs one into the environment of the build, in 2 s, or 5 s with the bytecode that pips
before 25 make. The wheel is for one system. `machine_code.py` compiles. An installation never fails
for it: the folder says why nothing is there.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # the other hooks of a build backend

HOST = "host"

FOLDER = Path("fastmlp/prebuilt")

WHY = FOLDER / "why.txt"
"""What was compiled, or why nothing was: `fastmlp cache` shows it."""


def levels() -> tuple[str, ...]:
    """Return what to compile for: "host", "all", names of levels, or nothing."""
    given = os.environ.get("FASTMLP_PREBUILD", HOST if "PIP_BUILD_TRACKER" in os.environ else "none").strip()
    return () if given in ("none", "") else tuple(level.strip() for level in given.split(","))


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what to install for a build: what compiles, if it does."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_compilers()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Return what to install for a build: what compiles, if it does."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_compilers()]


def _compilers() -> list[str]:
    """Return the requirements of a build that compiles, unless the environment outside meets them."""
    from packaging.requirements import Requirement  # setuptools brings it, and lets it be imported

    dependencies = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    needed = [one for one in map(Requirement, dependencies) if levels() and one.name in ("numba", "numpy")]
    command = [sys.executable, "-c", VERSIONS, *(one.name for one in needed)]
    done = subprocess.run(command, env=_outside(), check=False, text=True, capture_output=True)
    found = done.stdout.split() or [""] * len(needed)
    met = all(version and one.specifier.contains(version) for one, version in zip(needed, found, strict=True))
    return [] if met else [*map(str, needed)]


VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
"""A program that prints the versions of packages."""


def _outside() -> dict[str, str]:
    """Return the environment variables by which a process leaves pip's isolated environment.

    pip runs a build by the interpreter that it installs for, and hides the packages there by PYTHONPATH.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _with_compilers() -> dict[str, str]:
    """Return the environment variables by which a process finds Numba: here or outside."""
    return dict(os.environ) if importlib.util.find_spec("numba") else _outside()


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build a wheel; return its name."""
    wanted = _compiled()
    settings = config_settings
    if wanted:
        settings = {**(config_settings or {}), "--build-option": f"--plat-name={tag(wanted)}"}
    try:
        return str(build_meta.build_wheel(wheel_directory, settings, metadata_directory))
    finally:  # the next build may be without
        for folder in (FOLDER, "build/lib" / FOLDER):
            shutil.rmtree(folder, ignore_errors=True)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build the wheel of an editable installation, whose machine code stays in the checkout."""
    _compiled()
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))


def _compiled() -> tuple[str, ...]:
    """Fill the folder anew; return what it is compiled for. A level that is named must succeed."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    wanted = levels()
    if not wanted:
        return ()
    command = [sys.executable, "-m", "wheels.machine_code", str(FOLDER), *wanted]
    done = subprocess.run(
        command,
        env=_with_compilers(),
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    print(done.stdout)
    if done.returncode and wanted != (HOST,):
        raise SystemExit(done.returncode)
    if done.returncode:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    last = (done.stdout.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    WHY.write_text(f"nothing was compiled: {last}\n" if done.returncode else f"{last}\n")
    return () if done.returncode else wanted


def tag(wanted: tuple[str, ...]) -> str:
    """Return the tag of this system for a wheel: object files call nothing that only newer ones have.

    A wheel for the host alone has one that no index takes.
    """
    match "" if wanted == (HOST,) else sys.platform:
        case "linux":
            return f"manylinux2014_{platform.machine()}"
        case "darwin":
            return f"macosx_11_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_")
