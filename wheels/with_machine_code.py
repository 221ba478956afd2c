"""setuptools, and machine code in wheels: `FASTMLP_PREBUILD=x86-64-v3,x86-64-v4 python -m build --wheel`.

Without the variable all is as setuptools does it. With it the build needs what fastmlp needs, and the wheel
is for one system; `fastmlp.cli.prebuilding` compiles what it carries.
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

LEVELS = [level.strip() for level in os.environ.get("FASTMLP_PREBUILD", "").split(",") if level.strip()]

FOLDER = "fastmlp/prebuilt"


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what to install for a build: with levels, what compiles."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(config_settings)
    if LEVELS:
        needed += tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    return needed


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Build a wheel; return its name."""
    if not LEVELS:
        return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
    try:
        compiled = subprocess.run(
            [sys.executable, "-m", "fastmlp.cli.prebuilding", FOLDER, *LEVELS], check=False
        )
        if compiled.returncode:
            raise SystemExit(compiled.returncode)
        settings = {**(config_settings or {}), "--build-option": f"--plat-name={tag()}"}
        return str(build_meta.build_wheel(wheel_directory, settings, metadata_directory))
    finally:  # the next build may be without
        for folder in (FOLDER, f"build/lib/{FOLDER}"):
            shutil.rmtree(folder, ignore_errors=True)


def tag() -> str:
    """Return the tag of this system for a wheel: object files call nothing that only newer ones have."""
    match sys.platform:
        case "linux":
            return f"manylinux2014_{platform.machine()}"
        case "darwin":
            return f"macosx_11_0_{platform.machine()}"
    return sysconfig.get_platform().replace("-", "_")
