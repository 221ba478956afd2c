"""Which backends there are: plugins that are broken or take a name, files, slots that nobody calls."""

import math
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.processes import python

import fastmlp
from fastmlp.backend import registry
from fastmlp.backend.choice import choose
from fastmlp.kernels.jit.bind import slot
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline, fused, tiled

X = np.linspace(-1, 1, 8).reshape(4, 2)

DECLARED = """
from fastmlp.kernels.jit.bind import slot
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline
VARIANT = Variant({name!r}, baseline.VARIANT, {{}}{more})
"""


def fit(backend):
    network = fastmlp.Network([2, 1])
    return fastmlp.fit(network, X, X[:, :1], epochs=1, seed=0, backend=backend, progress=False)


def source(name, more=""):
    return DECLARED.format(name=name, more=more)


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """Install distributions of one plugin each: {name of its module: its text}."""

    def install(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
            info = tmp_path / f"{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[fastmlp.variants]\n{name} = {name}\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry.plugins.cache_clear()

    before = {*sys.modules}
    yield install
    registry.plugins.cache_clear()
    for name in {*sys.modules} - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == tmp_path:
            del sys.modules[name]


def test_a_plugin_is_a_backend(plugins):
    plugins(good_plugin=source("good"))
    assert "good" in registry.backends()


BROKEN = {
    "cannot be imported": ("import there_is_no_such_module", "ModuleNotFoundError: No module named"),
    "is no Python": ("VARIANT = (", "SyntaxError"),
    "declares nothing": ("", "must declare VARIANT"),
    "declares something else": ("VARIANT = 3", "got 3"),
    "is named as a built-in": (source("baseline"), "'baseline' exists already"),
    "is named as the reference": (source("reference"), "'reference' exists already"),
    "is named auto": (source("auto"), "no variant can be named 'auto'"),
    "has no name": (source(""), "must be letters"),
    "has a number for a name": (source(3), "got 3"),
    "has two lines for a name": (source("a\nb"), "must be letters"),
    "misspells a slot": (source("mine").replace("{}", '{"biass_gradient": max}'), "mean 'bias_gradient'"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_left_out_and_reported_once(plugins, kind):
    text, why = BROKEN[kind]
    before = registry.variants()
    plugins(broken_plugin=text, good_plugin=source("good"))
    with pytest.warns(
        RuntimeWarning, match=r"the plugin 'broken_plugin' \(broken_plugin\) is left out: "
    ) as warned:
        fit("reference")
    (warning,) = warned
    assert why in str(warning.message)
    assert "\n" not in str(warning.message)
    assert registry.variants() == {**before, "good": registry.variants()["good"]}
    fit("reference")  # warnings are errors


def test_of_two_plugins_of_one_name_there_is_one(plugins):
    plugins(first=source("twice"), second=source("twice"))
    with pytest.warns(RuntimeWarning, match=r"^the plugin 'second' .* named 'twice' exists already"):
        registry.backends()


@pytest.mark.parametrize("name", ["auto", "reference", "fused", "", "a\nb"])
def test_a_file_s_variant_must_have_a_name_of_its_own(tmp_path, name):
    before = registry.variants()
    path = tmp_path / "mine.py"
    path.write_text(source(name))
    with pytest.raises(ValueError, match="name"):
        registry.register_file(path)
    assert registry.variants() == before


def test_files_of_one_name_are_two_modules(tmp_path, no_files):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "mine.py"
        path.write_text(source(name, ", lambda work: 1.0"))
        assert registry.register_file(path) == name
    first, second = (registry.variants()[name].seconds.__module__ for name in ("one", "two"))
    assert first != second


KERNEL = """from fastmlp.kernels import Variant
from fastmlp.kernels.variants import baseline

def bias_gradient(delta, out):
    rows, units = delta.shape
    for j in range(units):
        out[j] = scaled(delta[:, j].sum())

def scaled(x):
    return 1.0 * x

VARIANT = Variant("mine", baseline.VARIANT, {"bias_gradient": bias_gradient})
"""

FAULTS = {
    "a syntax error": ("(delta, out):", "(delta, out)", "mine.py, line 4: SyntaxError: expected ':'"),
    "a name that is not defined": (
        '"mine"', "mine", "mine.py, line 12: NameError: name 'mine' is not defined",
    ),
    "one within a kernel": ("= scaled(", "= skaled(", "mine.py, line 7: name 'skaled' is not defined"),
    "one in what it calls": ("1.0 * x", "ONE * x", "mine.py, line 10: name 'ONE' is not defined"),
    "an import that fails": ("kernels import V", "kernels import W", "mine.py, line 1: ImportError: "),
    "a wrong signature": (
        "(delta, out):",
        "(delta, scratch, out):",
        "slot 'bias_gradient' of the variant 'mine' must take (delta, out), takes (delta, scratch, out)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_variant_s_file_is_reported_with_its_place(tmp_path, fault):
    right, wrong, said = FAULTS[fault]
    before, path = registry.variants(), tmp_path / "mine.py"
    path.write_text(KERNEL.replace(right, wrong, 1))
    with pytest.raises((ValueError, TypeError)) as caught:
        registry.register_file(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert registry.variants() == before


def test_a_signature_that_takes_more_than_it_must_is_right(tmp_path, no_files):
    path = tmp_path / "mine.py"
    path.write_text(KERNEL.replace("(delta, out):", "(delta, out, *others):", 1))
    assert registry.register_file(path) == "mine"


@pytest.mark.slow  # a process, 2 s
def test_pytest_tells_a_fault_in_a_variant_s_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(KERNEL.replace("(delta, out):", "(delta, out)", 1))
    command = ["-m", "pytest", "-n0", "-q", f"--variant={path}", __file__]
    done = python(*command, cwd=Path(__file__).parents[2], exit_code=pytest.ExitCode.USAGE_ERROR)
    assert done.stderr.strip() == f"ERROR: --variant: {path}, line 4: SyntaxError: expected ':'"
    assert "INTERNALERROR" not in done.stdout


def sums(name):
    delta, out = np.ones((3, 2)), np.empty(2)
    slot(registry.variants()[name], "bias_gradient")(delta, out)
    return out.tolist()


@pytest.mark.slow  # compiles a variant twice, 3 s
def test_a_file_is_registered_again_after_an_edit(tmp_path, monkeypatch, no_files):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    path.write_text(KERNEL)
    stamp = path.stat()
    assert registry.register_file(path) == "mine"
    assert sums("mine") == [3, 3]
    first = registry.get("mine")
    # Of the same length and the same second: bytecode on the disk would pass for it.
    path.write_text(KERNEL.replace("1.0 * x", "2.0 * x"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    monkeypatch.chdir(tmp_path)
    assert registry.register_file("mine.py") == "mine"
    assert sums("mine") == [6, 6]
    assert registry.get("mine") is not first
    # What cannot be run leaves what there is.
    path.write_text("VARIANT = (")
    with pytest.raises(ValueError, match="SyntaxError"):
        registry.register_file(path)
    assert sums("mine") == [6, 6]
    # Under another name it takes the place, too.
    path.write_text(KERNEL.replace('"mine"', '"yours"'))
    assert registry.register_file(path) == "yours"
    assert "mine" not in registry.backends()


def test_another_file_does_not_take_a_name(tmp_path, no_files):
    (tmp_path / "mine.py").write_text(KERNEL)
    (tmp_path / "other.py").write_text(KERNEL)
    registry.register_file(tmp_path / "mine.py")
    with pytest.raises(ValueError, match=r"^a backend named 'mine' exists already"):
        registry.register_file(tmp_path / "other.py")


BEYOND = """
import sys
import numpy as np
from fastmlp.kernels import get_variant, register_file, slot
try:
    slot(get_variant(register_file(sys.argv[1])), "bias_gradient")(np.ones((3, 2)), np.empty(2))
except IndexError as error:
    print(error)
"""


@pytest.mark.slow  # a process that compiles, 4 s
def test_numba_reports_an_index_beyond_an_array_if_set_to(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(KERNEL.replace("range(units)", "range(units + 1)").replace("delta[:, j]", "delta[:, 0]"))
    assert python("-c", BEYOND, path, NUMBA_BOUNDSCHECK="1").stdout == "index is out of bounds\n"


@pytest.mark.parametrize("seconds", [lambda work: 1 / 0, lambda work: "soon", lambda work: math.nan])
def test_a_variant_whose_estimate_is_no_number_is_not_chosen(monkeypatch, seconds):
    monkeypatch.setitem(registry.registered, "odd", Variant("odd", baseline.VARIANT, {}, seconds))
    work = fastmlp.Network([2, 1]), fastmlp.SGD(), 4, np.dtype("f8"), 1
    with pytest.warns(RuntimeWarning, match="^the backend 'odd' is left out of the choice: "):
        assert choose("auto", *work).name != "odd"


def nothing():
    pass


@pytest.mark.parametrize(
    ("base", "name", "function", "error", "said"),
    [
        (baseline, "biass_gradient", nothing, ValueError, "unknown slot .* did you mean 'bias_gradient'"),
        (baseline, "", nothing, ValueError, "unknown slot .* choose from: accumulate, activate, "),
        (tiled, "rows_transposed", nothing, ValueError, "unknown slot 'rows_transposed'"),
        (fused, "affine", nothing, ValueError, "slot 'affine' .* would never run"),
        (baseline, "affine", None, TypeError, "slot 'affine' .* must be a function, got None"),
    ],
)
def test_a_slot_that_nobody_calls_is_refused(monkeypatch, base, name, function, error, said):
    variant = Variant("misspelt", base.VARIANT, {name: function})
    monkeypatch.setitem(registry.registered, "misspelt", variant)
    with pytest.raises(error, match=said):
        fit("misspelt")


ZIPPED = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, fastmlp
assert fastmlp.__file__.startswith(sys.argv[1])
X = np.linspace(-1, 1, 10).reshape(5, 2)
for backend in sys.argv[2:]:
    model = fastmlp.fit(fastmlp.Network([2, 1]), X, X[:, 0], epochs=2, seed=0, backend=backend)
    print(f"{model.history['loss'][-1]:.9f}")
"""


@pytest.mark.slow  # a process that compiles
def test_the_package_works_from_a_zip(tmp_path):
    package, path = Path(fastmlp.__file__).parent, tmp_path / "fastmlp.zip"
    with zipfile.ZipFile(path, "w") as file:
        for source in [*package.rglob("*.py"), package / "__init__.pyi"]:
            file.write(source, source.relative_to(package.parent))
    run = python("-c", ZIPPED, path, "reference", "baseline", cwd=tmp_path)
    assert len(set(run.stdout.splitlines())) == 1
    assert run.stdout.count("\n") == 2
