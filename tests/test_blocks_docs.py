"""The examples of docs/blocks.md run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "blocks.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path):
    pytest.importorskip("pyarrow")
    script = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    checks = """
assert model.history["loss"][-1] < model.history["loss"][0]
assert prices.history["loss"][-1] < prices.history["loss"][0]
assert len(tomorrow.history["loss"]) == 7
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script + checks],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
