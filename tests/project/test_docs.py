"""docs/: what its pages say runs, every page is in the site, and every public name is in the API."""

import doctest
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from support import browser_pages, needs, pages
from support.processes import python
from support.selection import campaign

import fastmlp
import fastmlp.kernels
import fastmlp.testing
from fastmlp.cli.main import argument_parser
from fastmlp.model import initializers
from fastmlp.model.activations import HIDDEN, OUTPUTS
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.layers import LAYERS
from fastmlp.model.losses import LOSSES
from fastmlp.model.optimizers import BY_NAME, NAMED
from fastmlp.model.second_order import WHOLE

DOCS = pages.ROOT / "docs"

CHECKS = {
    "index.md": "assert classifier.score(X[1500:], y[1500:]) > 0.9",
    "first-steps.md": """
assert error < 0.8 * error_of_the_mean, (error, error_of_the_mean)
assert accuracy > 0.95, accuracy
assert "has not improved" in model.stop_reason
assert min(on_held_out_rows) < on_held_out_rows[0] / 4
assert search.best_score_ > 0.9
""",
    "choices.md": "assert model.history['validation_loss'][-1] < 0.3",
    "sparse.md": "assert error < 0.2, error",
    "layers.md": """
assert model.history["validation_loss"][-1] < 0.7
assert frozen.layers["batch_norm1"]["gain"].tobytes() == model.layers["batch_norm1"]["gain"].tobytes()
""",
    "inputs-and-heads.md": """
assert read.layers["dense1"]["weights"].shape == (8 + 2 + 4 + words.shape[1], 32)
assert np.corrcoef(predicted[:, 0], progress)[0, 1] > 0.6
assert min(model.history["validation_loss"]) < model.history["validation_loss"][0]
assert sparse.history["progress_loss"][-1] < sparse.history["progress_loss"][0]
assert alone.history["loss"][-1] < alone.history["loss"][0]
assert max(measured.history["validation_severe_roc_auc"]) > 0.7
""",
    "training-options.md": """
assert 0.7 < covered < 0.9
assert 0.8 < np.std((y - mean) / deviation) < 1.2
assert averaged.history["loss"] == plain.history["loss"]
assert averaged.history["validation_loss"][-1] < plain.history["validation_loss"][0] / 2
assert free.history["validation_loss"][-1] < plain.history["validation_loss"][0] / 2
np.testing.assert_allclose(several.history["loss"], one.history["loss"], rtol=1e-6)
assert max(mixed.history["validation_loss"]) < 0.3 < min(mixed.history["loss"])
assert 0.9 < best <= 1
assert muon.history["loss"][-1] < muon.history["loss"][0] / 2
assert 1e-4 < search.rate < 0.1
assert model.history["loss"][-1] < 0.8 * model.history["loss"][0]
""",
    "backends.md": "assert model.backend in fastmlp.backends()",
    "notebook.md": "assert 0.2 < losses[0] < 0.5 and losses[-1] < 0.02",
    "many-models.md": """
assert np.mean(errors) < 0.8, errors
assert same_morning.shape == (40, 1, 1)
assert 0 < spread < 0.5
assert of_all < curves[:, -1].mean()
assert [isinstance(model, fastmlp.DivergenceError) for model in swept] == [False] * 4 + [True]
assert 0 < deviation.mean() < 1
assert len({len(model.history["loss"]) for model in models}) > 1
""",
    "searches.md": """
assert -search.best_score_ < 0.12
assert -halving.best_score_ < 0.12
assert len(raced[-1].history["loss"]) < 40 == len(raced[0].history["loss"])
assert scores.min() > 0.93
assert uncertain[30] > 2 * uncertain[10]
""",
    "own-loop.md": """
assert loss < 0.02
assert np.log(np.cosh(stepper.forward(X) - y)).mean() < 0.005
""",
    "explain.md": """
assert attribution.error < 1e-5
assert std[1, 0] > 1.3 * std[0, 0] and std[2, 0] > 2 * std[0, 0]
assert parts.error < 0.1 * parts.change.std()
""",
    "surrogates.md": """
assert error.std() < 0.05 * y.std()
assert np.std(slopes[:, 0] - true_slope) < 0.1 * true_slope.std()
fine = minimize(lambda x: simulation(x[None])[0], center, bounds=np.transpose([LOW, HIGH]))
assert simulation(best[None])[0] - fine.fun < 0.02
assert stuck.fun > found.fun + 0.5 > exact.fun
assert std[1, 0] > 2 * std[0, 0]
assert model.predict(z).min() < -0.5
""",
    "blocks.md": """
assert model.history["loss"][-1] < model.history["loss"][0]
assert prices.history["loss"][-1] < prices.history["loss"][0]
assert len(tomorrow.history["loss"]) == 7
""",
    "columns.md": "assert [model.encoding_.kinds[one] for one in ('sold', 'rooms')] == ['date', 'number']",
    "table-targets.md": "assert both.predict(flats).columns == ['price', 'city']",
    "second-order.md": """
assert model.history["loss"][-1] < 0.2 * by_adam.history["loss"][-1]
assert by_lbfgs.history["loss"][-1] < 1e-3
assert best.history["loss"][-1] < 1e-3
assert 4 < regularised.history["effective_parameters"][-1] < 30
assert 0.1 < regularised.history["noise"][-1] < 0.3
assert std[1, 0] > 1.5 * std[0, 0]
""",
    "coming-from/scikit-learn.md": "assert classifier.n_iter_ > 10",
    "coming-from/pytorch.md": """
assert losses[-1] < losses[0] / 4
assert "validation_loss has not improved" in stopped.stop_reason
""",
    "coming-from/keras.md": "assert len(model.history['validation_loss']) > 5",
    "coming-from/matlab.md": """
assert np.corrcoef(predicted[:, 0], y_test[:, 0])[0, 1] > 0.4
assert 2 < regularised.history["effective_parameters"][-1] < 100
assert np.corrcoef(fitted, y)[0, 1] > 0.7
assert trained.history["validation_loss"][-1] < 0.7
""",
}
"""Pages whose Python is one script, and what must be true when it has run."""

ELSEWHERE = {
    *("architecture.md", "custom-components.md", "distributed.md", "exchange.md", "jobs.md", "tables.md"),
    "write-a-kernel.md",
}
"""Pages whose code has a test of its own: test_recipes, _jobs, _mpi, _custom_components, ..."""

SHOWN_ONLY = {"reliability.md", "how-it-is-fast.md", "mixed-precision.md"}
"""Pages whose Python shows calls, and is no script."""


@pytest.mark.slow  # each is a process, 2 to 6 s of its time
@pytest.mark.parametrize("page", CHECKS)
def test_the_pages_examples_run(page, tmp_path):
    if needed := {"coming-from/pytorch.md": "torch", "blocks.md": "pyarrow"}.get(page):
        pytest.importorskip(needed)
    pages.run(f"docs/{page}", tmp_path, f"\nimport numpy as np\n{CHECKS[page]}")


EXCHANGED = """
import importlib.util
spec = importlib.util.spec_from_file_location("net", "net.py")
net = importlib.util.module_from_spec(spec)
spec.loader.exec_module(net)
assert np.allclose(net.predict(X), model.predict(X), rtol=0, atol=1e-13)
assert pipeline.score(X, y) > 0.9
print(repr(model.predict([[0.5, -1.0, 0.25, 2.0]])[0, 0].item()))
"""


@pytest.mark.slow  # imports what five formats need, 6 s
def test_the_page_of_exports_runs_and_its_c_program_prints_what_the_model_predicts(tmp_path):
    pytest.importorskip("skl2onnx")
    expected = float(pages.run("docs/exchange.md", tmp_path, EXCHANGED).split()[-1])
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    (program,) = pages.blocks("docs/exchange.md", "c")
    (tmp_path / "main.c").write_text(program.text)
    subprocess.run([needs.COMPILER, "-std=c99", "main.c", "-o", "main", "-lm"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert abs(float(printed) - expected) <= 1e-13


@pytest.mark.parametrize("name", ["fitting", "stepper.stepper"])
def test_the_examples_of_docstrings_run(name):
    failed, tried = doctest.testmod(importlib.import_module(f"fastmlp.{name}"))
    assert tried
    assert not failed


def pages_of_docs():
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_page_with_python_is_run_somewhere():
    with_python = {page for page in pages_of_docs() if pages.blocks(f"docs/{page}", "python")}
    assert with_python == {*CHECKS, *ELSEWHERE, *SHOWN_ONLY}


LONG = {"architecture.md", "custom-components.md"}
"""The rooms and the recipes; an example of each kind of component."""


def test_a_page_is_short():
    named = [one for one in pages_of_docs() if not one.startswith(("api/", "measured/")) and one not in LONG]
    lines = {one: len(pages.text_of(f"docs/{one}").splitlines()) for one in named}
    assert {one: count for one, count in lines.items() if count > 200} == {}


def test_links_have_words():
    """A link without words, which Sphinx fills with the page's title, shows as nothing on a forge."""
    texts = [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]
    assert not [path.name for path in texts if "[](" in path.read_text(encoding="utf-8")]


def test_every_page_is_in_the_site():
    listed = {"index.md"}
    for page in pages_of_docs():
        folder = (DOCS / page).parent
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", pages.text_of(f"docs/{page}"), re.M | re.S):
            names = [line for line in block.split() if not line.startswith(":")]
            listed |= {(folder / f"{name}.md").relative_to(DOCS).as_posix() for name in names}
    assert not set(pages_of_docs()) - listed, "pages that no toctree lists: add them to docs/index.md"


FOLDERS = ("", "fastmlp", "fastmlp/kernels", "docs")
"""Where a path that a page names begins."""

each_page = pytest.mark.parametrize("page", ["README.md", *(f"docs/{page}" for page in pages_of_docs())])


@each_page
def test_every_file_that_a_page_names_is_there(page):
    named = re.findall(
        r"(?<![\w/.~])(?:[\w-]+/)+[\w-]+\.(?:py|md|c|toml|yml)(?!, new$)", pages.text_of(page), re.M
    )
    folders = [*(pages.ROOT / folder for folder in FOLDERS), (pages.ROOT / page).parent]
    missing = [path for path in set(named) if not any((folder / path).exists() for folder in folders)]
    assert not missing


@each_page
def test_every_command_of_a_page_is_one_that_the_command_line_knows(page):
    for block in pages.blocks(page, "sh", "text"):
        for line in re.findall(r"^(?:\$ |.*&& )?(fastmlp .*)$", block.text, re.M):
            for command in line.split(" && "):
                if command.startswith("fastmlp ") and "--version" not in command:
                    argument_parser().parse_args(shlex.split(command, comments=True)[1:])


def test_every_public_name_is_in_the_api():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    listed = re.findall(r"^\.\. (?:auto|py:)\w+:: fastmlp\.(\S+)$", text, re.M)
    for module, table in re.findall(r"^\.\. autoclasses:: (\S+):(\w+)$", text, re.M):  # as in docs/conf.py
        found = getattr(importlib.import_module(module), table)
        listed += found if isinstance(found, dict) else [kind.__name__ for kind in found]
    public = [*fastmlp.__all__]
    public += [f"kernels.{name}" for name in fastmlp.kernels.__all__]
    public += [f"testing.{name}" for name in fastmlp.testing.__all__]
    assert sorted(name for name in listed if name in public) == sorted(public)


CHOICES = {
    "hidden activations": HIDDEN,
    "outputs": OUTPUTS,
    "losses": LOSSES,
    "optimisers": [kind.__name__ for kind in (*NAMED, *WHOLE)],
    "optimisers by name, with their defaults": BY_NAME,
    "custom": ("Activation", "Loss", "RowLoss", "Rule"),
    "schedules": [
        name
        for name in fastmlp.__all__
        if getattr(getattr(fastmlp, name), "__module__", "") == "fastmlp.model.schedules"
    ],
    "initialisers": (*initializers.WEIGHT_INITS, *initializers.BIAS_INITS, "Normal(scale)"),
}
"""What rows of docs/choices.md name."""


@pytest.mark.parametrize("row", CHOICES)
def test_a_row_of_choices_has_the_names_of_its_table(row):
    (said,) = re.findall(rf"^\| {row} \| (.*) \|$", pages.text_of("docs/choices.md"), re.M)
    assert {*re.findall(r'`"?([^`"]+)"?`', said)} == {*CHOICES[row]}


@pytest.mark.parametrize(("page", "table"), [("layers.md", LAYERS), ("inputs-and-heads.md", BLOCKS)])
def test_a_page_names_what_its_table_has(page, table):
    text = pages.text_of(f"docs/{page}")
    assert [name for name in table if not re.search(rf"\b{name}\b", text)] == []


def test_every_attribute_has_a_line_of_its_own():
    # Sphinx takes "shape, dtype : of the array" for one name and what is in it, and prose for names.
    for module in (fastmlp, fastmlp.kernels, fastmlp.testing):
        for name in module.__all__:
            text = inspect.getdoc(getattr(module, name)) or ""
            section = re.search(r"^Attributes\n-+\n(.*?)(?=^[^\n]+\n-{3,}\n|\Z)", text, re.M | re.S)
            lines = [line for line in section[1].splitlines() if line and line[0] != " "] if section else []
            assert not [line for line in lines if not re.match(r"\w+( :|$)", line)], name


@pytest.mark.slow
@pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds
def test_two_commits_are_compared_as_the_page_says(tmp_path):
    # In a copy: the runs are kept in .benchmarks/ beside what was run.
    pages.copy(pages.ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "tests").mkdir()  # that pyproject.toml names
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(pages.ROOT / name, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(pages.ROOT), os.environ.get("PYTHONPATH", "")])
    ran = []
    for block in pages.blocks("docs/benchmarks.md", "sh"):
        for line in block.text.splitlines():
            program, *arguments = shlex.split(line.replace("float32", "float32 and (baseline or tiled)"))
            if program == "git":
                continue  # both are this commit
            if "--histogram" in line and importlib.util.find_spec("pygal") is None:
                continue  # pytest-benchmark[histogram] has it
            done = subprocess.run(
                [sys.executable, "-m", program.replace("-", "_"), *arguments],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            slower = "Performance has regressed" in done.stderr + done.stdout  # others may have the cores
            assert done.returncode == 0 or slower, done.stdout + done.stderr
            ran.append(done.stdout)
    compared = [text for text in ran if "(0001" in text]
    assert len(compared) >= 2
    assert "(NOW)" in compared[0]
    assert "(0001)" in compared[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The directory of the site, built from a copy, as the gallery writes its pages next to the others."""
    for package in ("sphinx_gallery", "furo", "myst_parser", "palmerpenguins"):
        pytest.importorskip(package, reason="needs fastmlp[docs]")
    folder = tmp_path_factory.mktemp("site")
    pages.copy(DOCS, folder / "docs")
    python("-m", "sphinx", "-q", "-W", "--keep-going", "docs", "site", cwd=folder)
    return folder / "site"


@pytest.mark.slow
def test_the_site_has_the_pictures_of_every_example(site):
    for example in (DOCS / "examples").glob("*.py"):
        page = (site / "gallery" / f"{example.stem}.html").read_text(encoding="utf-8")
        pictures = re.findall(r'src="\.\./_images/(sphx_glr_\w+\.png)"', page)
        assert pictures, example
        assert all((site / "_images" / picture).stat().st_size > 5000 for picture in pictures)


@pytest.mark.slow
def test_the_site_has_attributes_by_their_names(site):
    page = (site / "api" / "estimators.html").read_text(encoding="utf-8")
    assert {"coefs_", "intercepts_", "models_", "classes_"} <= {*re.findall(r"<strong>(\w+)</strong>", page)}


@needs.browser
@pytest.mark.parametrize(
    ("width", "mode"),
    [
        *(pytest.param(*look, marks=pytest.mark.slow) for look in ((1280, "light"), (390, "dark"))),
        *(pytest.param(*look, marks=campaign) for look in ((1280, "dark"), (390, "light"))),
    ],
)
def test_every_page_of_the_site_can_be_read(site, width, mode, tmp_path):
    written = [path.relative_to(site).as_posix() for path in site.rglob("*.html")]
    names = [name for name in written if not name.startswith(("_", "genindex", "search"))]
    assert len(names) > 40
    assert browser_pages.complaints(site, names, width, mode, tmp_path) == {}
