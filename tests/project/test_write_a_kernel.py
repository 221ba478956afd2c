"""docs/write-a-kernel.md: its files and commands, in their order, and what it says comes of them."""

import json
import shlex

import pytest
from support import pages

from fastmlp.cli.main import main

pytest.importorskip("rich")


def run(command, capsys):
    """What a command exits with and prints; it runs here, since a process each takes longer to start."""
    # Other programs on the cores must not decide who is faster. Rivals differ by more than short times do.
    brief = ["--clock", "cpu", "--seconds", "0.01"] if command[0] == "bench" else []
    code = main([*command, *brief])
    return code, "".join(capsys.readouterr())


@pytest.mark.slow  # ten commands
def test_the_page_comes_true(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = []
    for block in pages.blocks("docs/write-a-kernel.md", "sh", "python"):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
            continue
        expected = 1 if "# exits with 1" in block.text else 0
        for line in block.text.splitlines():
            if line.startswith("fastmlp "):
                code, text = run(shlex.split(line)[1:], capsys)
                assert code == expected, f"{line}: {text}"
                printed.append(text)
    assert any(
        "outer is wrong and was not timed: weight_gradient 4x256x256 float32" in text for text in printed
    )
    assert "outer weight_gradient 1x256x256 float32: the inner loop" in "".join(printed)
    assert "compared, 0 slower" in printed[-1]
    found = json.loads((tmp_path / "outer.json").read_text())["measurements"]
    medians = {m["variant"]: m["time"]["median"] for m in found if m["slot"] == "weight_gradient"}
    assert medians["outer"] < medians["baseline"]
    assert medians["outer"] < medians["tiled"]
    page = (tmp_path / "outer.html").read_text()
    assert "64-128-10 b1" in page
    pages.run("docs/write-a-kernel.md", tmp_path, "assert model.backend == 'outer'")
