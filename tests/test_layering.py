"""Imports point down: one table of levels, and every module has its place in it."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent

FLOORS = (
    ("checks", "system"),
    ("files",),
    ("formulas",),
    ("model",),
    ("kernels.codes", "kernels.variant"),
    ("kernels.codegen",),
    ("kernels.tuning",),
    ("kernels.program",),
    ("kernels.jit",),
    ("kernels.gemm", "kernels.runtime"),
    ("kernels.elementwise",),
    ("kernels.mixed", "kernels.small"),
    ("kernels.estimates",),
    ("backend", "kernels.variants"),
    ("exchange",),
    ("distributed",),
    ("training",),
    ("estimators", "testing"),
    ("lab", "onnx", "tables"),
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


def imports(path):
    """The package's modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for imported in imports(MODULES[module]):
        below = room(imported) == room(module) or floor(imported) < floor(module)
        assert below, f"{module} imports {imported}, not below it"


def test_the_picture_of_the_architecture_has_these_floors():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = re.search(r"^```text\n(.*?)^```", page, re.M | re.S)[1].splitlines()
    drawn = [tuple(line.partition("  ")[0].split(", ")) for line in lines]
    assert drawn == [tuple(sorted(rooms)) for rooms in reversed(FLOORS)]


def test_no_module_leads_back_to_itself():
    graph = {module: {*imports(path)} for module, path in MODULES.items()}
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("kernels.")])
def test_a_kernel_shares_nothing_with_its_oracle(module):
    # a mistake in code that both used would be one that no comparison shows
    assert "backend.reference" not in imports(MODULES[module])


def test_the_oracle_shares_nothing_with_the_kernels():
    assert not [name for name in imports(MODULES["backend.reference"]) if name.startswith("kernels.")]


BLAS_WORDS = {"dot", "vdot", "inner", "matmul", "einsum", "tensordot", "vecdot", "matvec", "vecmat", "linalg"}

BLAS_CALLERS = {"backend.reference", "testing.slots", "kernels.variants.blas"}
"""The oracles of trainings and of kernels, and the backend that is made of it."""


def calls_the_blas(path):
    for node in ast.walk(ast.parse(path.read_text())):
        named = isinstance(node, ast.Attribute) and node.attr in BLAS_WORDS
        imported = isinstance(node, ast.ImportFrom) and BLAS_WORDS & set(f"{node.module}".split("."))
        if named or imported or isinstance(getattr(node, "op", None), ast.MatMult):
            return True
    return False


def test_the_blas_is_called_where_the_documentation_says_only():
    # a fork beside its threads hangs them
    assert {module for module, path in MODULES.items() if calls_the_blas(path)} == BLAS_CALLERS


def test_importing_the_package_is_light():
    heavy = ["numba", "sklearn", "matplotlib", "scipy", "tqdm", "pandas"]
    code = f"""
import sys, fastmlp
fastmlp.Network([3, 4, 1]), fastmlp.SGD(0.1), dir(fastmlp)
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
