"""What is published: the wheel, the sdist with its tests, and the facts that stand in several files."""

import io
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile

import pytest
from support import pages
from support.processes import python

import fastmlp

PROJECT = tomllib.loads(pages.text_of("pyproject.toml"))["project"]


def test_the_version_is_one():
    assert PROJECT["version"] == fastmlp.__version__
    cited = re.search(r"^version: (.*)$", pages.text_of("CITATION.cff"), re.M)
    assert cited[1] == fastmlp.__version__


def test_the_workflow_runs_the_pythons_that_are_promised():
    promised = {
        name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", name)
    }
    workflow = pages.text_of(".github/workflows/ci.yml")
    assert set(re.findall(r'"(3\.\d+)"', workflow)) == promised
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert promised == {f"3.{minor}" for minor in range(int(low), int(high))}
    assert {"ubuntu-latest", "macos-latest", "windows-latest"} <= set(re.findall(r"[\w.-]+-latest", workflow))


def test_a_tag_builds_wheels_with_machine_code_for_each_system_that_is_tested():
    tested, released = (pages.text_of(f".github/workflows/{name}.yml") for name in ("ci", "release"))
    systems = [{*re.findall(r"\b(?:ubuntu|macos|windows)-[\w.-]+", text)} for text in (tested, released)]
    assert systems[0] == systems[1]
    assert 'tags: ["v*"]' in released
    assert "python -m build --wheel\n        env:\n          FASTMLP_PREBUILD: all\n" in released
    assert "python -m build\n" in released  # the sdist, and `py3-none-any`


def test_a_missing_package_is_named_with_an_extra_that_there_is_and_by_one_function():
    texts = {path: path.read_text(encoding="utf-8") for path in (pages.ROOT / "fastmlp").rglob("*.py")}
    asked = [re.findall(r'\bneeded\("([\w.]+)", "(\w+)", ', text) for text in texts.values()]
    for package, extra in {pair for one in asked for pair in one}:
        installs = [re.match(r"[\w-]+", one)[0] for one in PROJECT["optional-dependencies"][extra]]
        assert package.partition(".")[0] in installs
    saying = {path.name for path, text in texts.items() if "pip install" in text}
    assert saying == {"checks.py"}


FROM_THE_WHEEL = """
import sys

sys.path.insert(0, sys.argv[1])
import fastmlp
from fastmlp.cli.main import main

assert fastmlp.__file__.startswith(sys.argv[1])
sys.exit(main(["train", "xor", "--backend", "reference", "--epochs", "50"]))
"""

FROM_THE_SDIST = """
import os, sys

sys.path.insert(0, os.getcwd())
os.environ["PYTHONPATH"] = os.getcwd()
import fastmlp, pytest

assert fastmlp.__file__.startswith(os.getcwd())
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with the wheel and the sdist, built from a copy: setuptools writes into what it builds."""
    for package in ("build", "twine"):
        pytest.importorskip(package, reason="needs fastmlp[publish]")
    folder = tmp_path_factory.mktemp("published")
    carried = pages.copy(pages.ROOT, folder / "source") / "fastmlp" / "prebuilt"
    carried.mkdir()
    (carried / "of_an_editable_installation.bin").touch()
    python("-m", "build", "--no-isolation", "--outdir", str(folder), cwd=folder / "source")
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_twine_takes_both(published):
    files = [str(path) for path in published.iterdir() if path.is_file()]
    assert len(files) == 2
    python("-m", "twine", "check", "--strict", *files, cwd=published)


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_wheel_has_the_package_alone_and_works(published, tmp_path):
    (wheel,) = published.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path)
    inside = {path.relative_to(pages.ROOT).as_posix() for path in (pages.ROOT / "fastmlp").rglob("*.py")}
    others = {name for name in names - inside if ".dist-info/" not in name}
    assert inside <= names
    assert {name.partition("/")[0] for name in others} == {"fastmlp"}
    assert {"fastmlp/py.typed", "fastmlp/lab/page.html"} <= others
    python("-c", FROM_THE_WHEEL, tmp_path, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.xdist_group("packaging")
def test_the_sdist_has_all_that_its_tests_need(published, tmp_path):
    (sdist,) = published.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    for folder in ("fastmlp", "tests", "benchmarks", "docs", ".ci", ".github"):
        for path in (pages.ROOT / folder).rglob("*"):
            place = path.relative_to(pages.ROOT)
            if path.is_file() and not {"__pycache__", "gallery", "prebuilt"} & set(place.parts):
                assert (root / place).read_bytes() == path.read_bytes(), place
    assert not (root / "fastmlp" / "prebuilt").exists()
    # A share of the quick tests; .ci/run in there runs all of them.
    chosen = (
        *(f"project/test_{name}" for name in ("packaging", "recipes", "selection", "readme")),
        "model/test_schedules",
    )
    files = [f"tests/{name}.py" for name in chosen]
    assert " passed" in python("-c", FROM_THE_SDIST, "-n0", "-q", *files, cwd=root).stdout


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs tar")
@pytest.mark.parametrize("script", [".ci/run", "tests/arm", "tests/newer-python"])
def test_scripts_copy_the_tree_without_what_was_made_there(script, tmp_path):
    made = ("build/lib/fit.py", "fastmlp/prebuilt/predict.bin", "tests/__pycache__/fit.pyc", ".git/HEAD")
    for name in ("fastmlp/fit.py", *made):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (command,) = re.findall(r"^tar .*? -cf - \.", pages.text_of(script), re.M)
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert [one.name for one in archive if one.isfile()] == ["./fastmlp/fit.py"]
