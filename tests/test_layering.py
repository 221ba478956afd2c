"""Imports point down: one table of levels, and every module has its place in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent

LEVELS = (
    ("archive", "batches", "budget", "checks", "estimators.warned", "formulas.numbers", "interrupts"),
    ("formulas.coefficients", "initializers", "schedules"),
    ("formulas.elementary",),
    ("formulas.expressions",),
    ("formulas.derivatives", "pieces"),
    ("activations", "rules"),
    ("losses", "optimizers"),
    ("kernels.codes", "kernels.records", "kernels.sources", "kernels.subnormals", "network", "state"),
    ("kernels.cache", "layout"),
    ("backend", "kernels.variant"),
    ("kernels.pieces", "kernels.vectors"),
    ("kernels.roots", "reference"),
    ("kernels.symbols",),
    ("kernels.views",),
    (
        "kernels.buffers",
        "kernels.contract",
        "kernels.lanes",
        "kernels.padded",
        "kernels.program",
        "kernels.scalars",
        "kernels.tiles",
        "kernels.workers",
    ),
    ("kernels.bind", "kernels.columns", "kernels.descents", "kernels.panels", "kernels.row_losses"),
    ("kernels.abreast", "kernels.products"),
    ("kernels.matmuls", "kernels.stages"),
    ("kernels.sideways",),
    ("kernels.adapter", "kernels.narrow", "kernels.registers", "kernels.sweeps"),
    ("kernels.blocked",),
    ("kernels.variants.*",),
    ("registry", "slots"),
    ("testing",),
    ("callbacks", "data", "datasets", "draft"),
    ("divergence",),
    ("loop", "model"),
    ("checkpoint",),
    ("trainer",),
    (
        "ahead",
        "estimators.convergence",
        "estimators.descriptions",
        "estimators.display",
        "estimators.draws",
        "estimators.lbfgs",
        "estimators.rows",
        "estimators.sparse_rows",
    ),
    ("estimators.constraints", "estimators.fitted"),
    ("estimators.base",),
    ("estimators.classifier", "estimators.regressor"),
    ("cli",),
    ("__main__",),
)
"""A module imports from the levels before its own; a variant also from another, its base."""


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


def level(module):
    found = [i for i, names in enumerate(LEVELS) if any(fnmatch(module, name) for name in names)]
    assert len(found) == 1, f"{module} must have one place in LEVELS, has {len(found)}"
    return found[0]


def is_a_variant(module):
    return module.startswith("kernels.variants.")


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    for imported in imports(MODULES[module]):
        a_base = is_a_variant(module) and is_a_variant(imported)
        assert a_base or level(imported) < level(module), f"{module} imports {imported}, not below it"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("kernels.")])
def test_a_kernel_shares_nothing_with_its_oracle(module):
    # a mistake in code that both used would be one that no comparison shows
    assert "reference" not in imports(MODULES[module])


def test_the_oracle_shares_nothing_with_the_kernels():
    assert not [name for name in imports(MODULES["reference"]) if name.startswith("kernels.")]


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
