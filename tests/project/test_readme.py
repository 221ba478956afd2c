"""README's examples run as they stand, its table is that of docs/speed.md; pages list what there is."""

import os
import re
import shlex
from pathlib import Path

import pytest
from support import pages
from support.processes import python

import fastmlp
from fastmlp.backend import registry
from fastmlp.model.optimizers import NAMED

CHECKS = """
assert accuracy > 0.9, accuracy
assert probabilities.shape == (297, 10)
"""


@pytest.mark.slow  # 15 s
def test_the_python_examples_run(tmp_path):
    pages.run("README.md", tmp_path, CHECKS)
    assert [*tmp_path.iterdir()] == [tmp_path / "four_rows.py"]


def letters_of(picture):
    """What an SVG says, text by text."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", pages.text_of(picture))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_picture_has_the_numbers_of_the_table(mode):
    """`python docs/chart.py` draws both pictures."""
    drawn, peers = letters_of(f"docs/readme-{mode}.svg"), ("JAX", "PyTorch", "scikit-learn")
    table = pages.text_of("README.md").partition("<!-- peers: ")[2].partition("<!-- end of peers -->")[0]
    lines = [line for line in table.splitlines() if "**" in line]
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines]
    assert len(rows) == 8
    by_peer = [row[2 + peer] for peer in range(3) for row in rows]
    assert [one for one in drawn if one in by_peer] == by_peer
    assert {*peers, *(row[0] for row in rows)} < {*drawn}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_picture_of_results_is_there(mode):
    picture = f"docs/readme-results-{mode}.svg"
    assert picture in pages.text_of("README.md")
    assert {"fit: losses of digits", "bmi"} < {*letters_of(picture)}


@pytest.mark.slow  # the tests are collected, which takes as long as a first training
def test_the_commands_check_a_kernel_and_find_one_that_is_wrong(tmp_path):
    (block,) = [one for one in pages.blocks("README.md", "python") if one.file == "four_rows.py"]
    file = tmp_path / block.file
    first, second, *_ = (
        shlex.split(line.replace(block.file, str(file)), comments=True)
        for one in pages.blocks("README.md", "sh")
        for line in one.text.splitlines()
        if line.startswith("pytest ")
    )
    environment = {name: None for name in os.environ if name.startswith("PYTEST_XDIST")}
    file.write_text(block.text)
    for command in (first, second):
        done = python("-m", *command, cwd=pages.ROOT, **environment)
        assert re.search(r"\d+ passed, (\d+ skipped, )?\d+ deselected", done.stdout), done.stdout
    file.write_text(block.text.replace("range(whole, len(delta))", "range(whole, len(delta) - 1)"))
    done = python("-m", *first, cwd=pages.ROOT, exit_code=1, **environment)
    assert "bias_gradient argument 1: out[" in done.stdout


def test_no_text_of_the_package_lists_optimisers_by_hand():
    """A list in a docstring is not what the next optimiser is added to."""
    name = rf"`?(?:{'|'.join(kind.__name__ for kind in NAMED)})`?"
    listed = re.compile(rf"{name}(?:,\s+{name})+,?\s+(?:or|and)\b")
    files = Path(fastmlp.__file__).parent.rglob("*.py")
    found = [(path.name, match[0]) for path in files for match in listed.finditer(path.read_text("utf-8"))]
    assert found == []


def test_every_backend_has_its_row():
    section = pages.text_of("docs/backends.md").partition("## What each of them is")[2].partition("\n## ")[0]
    shipped = set(registry.shipped())  # without those of --variant
    first_cells = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_cells)) == {"reference", *shipped}


def rows_of(page):
    """The table between a page's markers of the peers: its cells by work and heading."""
    table = re.search(r"<!-- peers.*?\n(\|.*?)\n\n", pages.text_of(page), re.DOTALL)[1]
    (_, *names), _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    return {work: dict(zip(names, cells, strict=True)) for work, *cells in rows}


def test_the_table_of_speed_is_that_of_its_page():
    whole = rows_of("docs/speed.md")
    for work, cells in rows_of("README.md").items():
        assert cells.items() <= whole[work].items(), work
