"""Imports point down: one table of levels, and every module has its place in it."""

import ast
import functools
import graphlib
import re
from collections import Counter
from pathlib import Path

import pytest
from support.processes import python
from support.selection import matrix

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")

FLOORS = (
    ("checks", "system"),
    ("files",),
    ("formulas",),
    ("model",),
    ("kernels.codes", "kernels.variant"),
    ("kernels.codegen",),
    ("kernels.thresholds",),
    ("kernels.program",),
    ("kernels.jit",),
    ("kernels.gemm", "kernels.runtime"),
    ("kernels.elementwise",),
    ("kernels.mixed", "kernels.small"),
    ("kernels.lanes",),
    ("kernels.estimates",),
    ("backend", "kernels.variants"),
    ("data",),
    ("trained",),
    ("callbacks",),
    ("training",),
    ("blocks", "checkpoints", "metrics"),
    ("distributed", "exchange", "stepper"),
    ("derivatives",),
    ("second_order",),
    ("fitting",),
    ("estimators", "many", "testing"),
    ("searches",),
    ("lab", "onnx", "tables", "torch"),
    ("cli",),
    ("__main__",),
)
"""The rooms: a module imports from its own room and from the floors below."""


def modules():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] != "__init__":
            found[".".join(parts)] = path
    return found


MODULES = modules()


@functools.cache
def nodes(path):
    """All nodes of a file's syntax tree."""
    return [*ast.walk(ast.parse(path.read_text()))]


def slots_declared(path):
    """The imports of `variants.baseline` that never run: where editors find the slots of a file."""
    for node in nodes(path):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            yield from (one for one in node.body if getattr(one, "module", "") == BASELINE)


BASELINE = "fastmlp.kernels.variants.baseline"


def imports(path):
    """The package's modules that a file imports, wherever in it."""
    for node in {*nodes(path)} - {*slots_declared(path)}:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            inside = name.removeprefix("fastmlp.")
            if inside == name:
                continue
            module = inside if inside in MODULES else inside.rpartition(".")[0]
            if module in MODULES:
                yield module


def room(module):
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "kernels" else 1])


def floor(module):
    found = [number for number, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert len(found) == 1, f"{room(module)} must have one place in FLOORS, has {len(found)}"
    return found[0]


def test_imports_point_down():
    for module, path in MODULES.items():
        for imported in imports(path):
            below = room(imported) == room(module) or floor(imported) < floor(module)
            assert below, f"{module} imports {imported}, not below it"


def test_the_picture_of_the_architecture_has_these_floors():
    lines = re.search(r"^```text\n(.*?)^```", PAGE, re.M | re.S)[1].splitlines()
    drawn = [tuple(line.partition("  ")[0].split(", ")) for line in lines]
    assert drawn == [tuple(sorted(rooms)) for rooms in reversed(FLOORS)]


CORE = {
    *("checks", "model", "formulas", "backend", "kernels", "data", "trained", "callbacks", "training"),
    *("files", "system"),
}
"""Rooms that train a network, without what is built on them."""


def first(module):
    return module.partition(".")[0]


def named_by(path):
    """The rooms that a file's strings name as modules, as those that are imported by name."""
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"^(?:fastmlp\.)?(\w+)(?:\.\w+)+$", node.value)


def test_the_core_does_not_know_what_is_built_on_it():
    built = {first(module) for module in MODULES} - CORE
    inside = {module: path for module, path in MODULES.items() if first(module) in CORE}
    leaks = {(module, first(name)) for module, path in inside.items() for name in imports(path)}
    leaks |= {(module, name) for module, path in inside.items() for name in named_by(path)}
    assert not {leak for leak in leaks if leak[1] in built}


def test_the_page_lists_the_rooms_with_their_lines():
    listed = {}
    for room, said in re.findall(r"^\| `fastmlp/([\w/]+)/` \|.*\| (\d+) \|$", PAGE, re.M):
        listed[room] = int(said)
        lines = sum(len(path.read_text().splitlines()) for path in (PACKAGE / room).rglob("*.py"))
        assert abs(lines - listed[room]) < 0.15 * lines, f"{room} has {lines} lines"
    folders = {path.parent for pattern in ("*/*.py", "kernels/*/*.py") for path in PACKAGE.glob(pattern)}
    assert set(listed) == {path.relative_to(PACKAGE).as_posix() for path in folders}


def test_the_page_lists_the_names_for_extensions():
    rows = re.findall(r"^\| `fastmlp\.?([\w.]*)` \| (.*) \|$", PAGE, re.M)
    listed = {f"{room}.{name}".lstrip(".") for room, names in rows for name in re.findall(r"`(\w+)`", names)}
    built = [path for module, path in MODULES.items() if first(module) not in CORE]
    used = {name for path in built for name in imports(path)}
    assert {name for name in used if first(name) in CORE and first(name) != "kernels"} == listed


def test_one_class_name_stands_for_one_class():
    names = [node.name for path in MODULES.values() for node in nodes(path) if isinstance(node, ast.ClassDef)]
    assert not [name for name, times in Counter(names).items() if times > 1]


def test_functions_take_few_arguments_by_position():
    """Eight, twelve in kernels: Numba takes no arguments by name in the calls of lazy functions."""
    for module, path in MODULES.items():
        most = 12 if module.startswith("kernels.") else 8
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                names = [one.arg for one in node.args.posonlyargs + node.args.args]
                count = len(names) - (names[:1] == ["self"])
                assert count <= most, f"{module}, line {node.lineno}: {count} arguments by position"


TESTS = PACKAGE.parent / "tests"

NUMBAS = {"_function_pass_manager", "_module_pass_manager"}
"""Methods that fastmlp overrides by the names that Numba has for them."""


def private_names(nodes_of_a_file):
    """Names with an underscore that a file defines: functions, classes, attributes, and variables."""
    for node in nodes_of_a_file:
        stored = isinstance(getattr(node, "ctx", None), ast.Store)
        name = getattr(node, "attr", getattr(node, "id", "")) if stored else getattr(node, "name", "")
        if re.fullmatch(r"_[a-z]\w*", f"{name}"):
            yield name


@matrix
def test_tests_use_no_private_name_of_the_package():
    private = {name for path in MODULES.values() for name in private_names(nodes(path))} - NUMBAS
    for path in TESTS.rglob("*.py"):
        used = set()
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") != "self":
                used.add(node.attr)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("setattr", "setitem"):
                used |= {one.value for one in node.args if isinstance(one, ast.Constant)}
            elif isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("fastmlp"):
                used |= {alias.name for alias in node.names}
        names = {f"{name}".rpartition(".")[2] for name in used}
        assert not names & private - {*private_names(nodes(path))}, path


def modules_named_by(path):
    """The package's modules that a file's strings name, alone or before a colon."""
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module = node.value.removeprefix("fastmlp.").partition(":")[0]
            if module in MODULES and "." in module:
                yield module


def test_no_module_leads_back_to_itself_by_import_or_by_name():
    graph = {module: {*imports(path), *modules_named_by(path)} for module, path in MODULES.items()}
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(MODULES)


def test_a_kernel_shares_nothing_with_its_oracle():
    # a mistake in code that both used would be one that no comparison shows
    kernels = [module for module in MODULES if module.startswith("kernels.")]
    assert not [module for module in kernels if "backend.reference" in imports(MODULES[module])]


def test_the_oracle_shares_nothing_with_the_kernels():
    assert not [name for name in imports(MODULES["backend.reference"]) if name.startswith("kernels.")]


BLAS_WORDS = {"dot", "vdot", "inner", "matmul", "einsum", "tensordot", "vecdot", "matvec", "vecmat", "linalg"}

ORACLE = ("backend.reference", *(f"backend.reference_{part}" for part in ("losses", "operations", "rules")))
DERIVATIVES = {f"derivatives.{part}" for part in ("tape", "parameter_derivatives", "laplace")}
WHOLE_DATA = {"second_order.objective", "second_order.levenberg_marquardt"}
BLAS_CALLERS = {*ORACLE, *DERIVATIVES, *WHOLE_DATA, "testing.slots", "kernels.variants.blas"}
"""The oracles of trainings and of kernels, derivatives of models, and the backend that is made of it."""


def calls_the_blas(path):
    for node in nodes(path):
        named = isinstance(node, ast.Attribute) and node.attr in BLAS_WORDS
        imported = isinstance(node, ast.ImportFrom) and BLAS_WORDS & set(f"{node.module}".split("."))
        if named or imported or isinstance(getattr(node, "op", None), ast.MatMult):
            return True
    return False


def test_the_blas_is_called_where_the_documentation_says_only():
    # a fork beside its threads hangs them
    assert {module for module, path in MODULES.items() if calls_the_blas(path)} == BLAS_CALLERS


RUNS_WHAT_IT_READS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
"""Modules whose files are programs: reading one may call anything."""

TRUSTING = {"distributed.ranks", "searches.backend"}
"""The first takes pickles from the ranks of one training, over what connects them: from no disk and no pipe.
The other is a backend of joblib's, which makes calls in this process."""


def names_in(path):
    """The first names of the modules that a file imports; "pickle" where NumPy would read one."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}".partition(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"import (\w+)", node.value)  # code that another process is given
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield "pickle" if not (isinstance(node.value, ast.Constant) and node.value.value is False) else ""


def test_no_pickle_is_read_from_a_disk_or_a_pipe():
    reading = {module for module, path in MODULES.items() if RUNS_WHAT_IT_READS & {*names_in(path)}}
    assert reading == TRUSTING


def test_importing_the_package_is_light():
    heavy = ["numba", "sklearn", "matplotlib", "scipy", "tqdm", "pandas"]
    code = f"""
import sys, fastmlp
fastmlp.Network([3, 4, 1]), fastmlp.SGD(0.1), dir(fastmlp)
print([name for name in {heavy} if name in sys.modules])
"""
    assert python("-c", code).stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name) is not None
    assert set(fastmlp.__all__) <= set(dir(fastmlp))
    with pytest.raises(AttributeError, match="fit_transform"):
        fastmlp.fit_transform  # noqa: B018


def test_every_folder_is_a_package():
    """What has no __init__.py is not installed."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]
