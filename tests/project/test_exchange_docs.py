"""docs/exchange.md runs as it stands, and its C program prints what the model predicts."""

from __future__ import annotations

import subprocess

import pytest
from support import needs, pages

PAGE = "docs/exchange.md"
CHECKS = """
import importlib.util
spec = importlib.util.spec_from_file_location("net", "net.py")
net = importlib.util.module_from_spec(spec)
spec.loader.exec_module(net)
assert np.allclose(net.predict(X), model.predict(X), rtol=0, atol=1e-13)
assert pipeline.score(X, y) > 0.9
print(repr(model.predict([[0.5, -1.0, 0.25, 2.0]])[0, 0].item()))
"""


@pytest.mark.slow  # imports what five formats need, 6 s
def test_the_examples_run(tmp_path):
    pytest.importorskip("skl2onnx")
    expected = float(pages.run(PAGE, tmp_path, CHECKS).split()[-1])
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    (program,) = pages.blocks(PAGE, "c")
    (tmp_path / "main.c").write_text(program.text)
    subprocess.run([needs.COMPILER, "-std=c99", "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert abs(float(printed) - expected) <= 1e-13
