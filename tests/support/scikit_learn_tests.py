"""scikit-learn's own tests, from the installed copy, with names of ours put in."""

import ast
import importlib.util
from pathlib import Path

import pytest

from fastmlp.searches import searches


def code(module, *names):
    """A test module of sklearn.model_selection, compiled, that takes some names from fastmlp."""
    path = Path(importlib.util.find_spec(f"sklearn.model_selection.tests.{module}").origin)
    text = path.read_text(encoding="utf-8")
    backends = "yield_namespace_device_dtype_combinations()"
    text = text.replace(f" {backends}", f" [*{backends}]")  # pytest warns of parameters that are no list
    imports = (ast.Import, ast.ImportFrom)
    first = next(node for node in ast.parse(text).body[1:] if not isinstance(node, imports))
    line = min([first.lineno, *(one.lineno for one in getattr(first, "decorator_list", []))]) - 1
    lines = text.splitlines(keepends=True)
    imported = "".join(lines[:line])
    missing = [name for name in names if name not in imported]
    assert not missing, f"{module} of this scikit-learn imports no {missing}"
    return compile(
        f"{imported}\nfrom fastmlp import {', '.join(names)}\n{''.join(lines[line:])}", path, "exec"
    )


def fixtures(*reading_the_stack):
    """Fixtures of scikit-learn's tests: our backend takes all estimators, but not in tests of these names.

    Those look at the call stack, where a thread has its own.
    """

    @pytest.fixture(autouse=True)
    def all_estimators(monkeypatch, request):
        if not request.node.name.startswith(reading_the_stack):
            monkeypatch.setattr(searches, "trains_networks", lambda estimator: True)

    @pytest.fixture
    def global_random_seed():
        return 42

    return all_estimators, global_random_seed
