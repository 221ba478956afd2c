"""setuptools, and machine code: `pip install .` compiles what first calls need, for the machine it runs on.

FASTMLP_PREBUILD=none compiles nothing, as builds by other programs do: what `python -m build` makes can be
uploaded. FASTMLP_PREBUILD=all compiles for all levels of this platform, as for an index, and names of levels,
x86-64-v3,x86-64-v4, for these. A build that compiles needs Numba, and its wheel is for one system;
`fastmlp.cli.prebuilding` compiles. An installation never fails for it: the folder says why nothing is there.
"""

from __future__ import annotations

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
    needed = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    return [one for one in needed if one.startswith(("numba", "numpy"))] if levels() else []


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
    command = [sys.executable, "-m", "fastmlp.cli.prebuilding", str(FOLDER), *wanted]
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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
