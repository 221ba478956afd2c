"""The examples of docs/blocks.md run as they stand."""

from __future__ import annotations

import pytest
from support import pages

CHECKS = """
assert model.history["loss"][-1] < model.history["loss"][0]
assert prices.history["loss"][-1] < prices.history["loss"][0]
assert len(tomorrow.history["loss"]) == 7
"""


@pytest.mark.slow  # 7 s
def test_the_examples_run(tmp_path):
    pytest.importorskip("pyarrow")
    pages.run("docs/blocks.md", tmp_path, CHECKS)
