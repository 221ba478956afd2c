"""scikit-learn's own tests, from the installed copy, within the block in which networks train together."""

import importlib.util
from pathlib import Path

import pytest

from support.searches import together


def code(module):
    """A test module of sklearn.model_selection, compiled."""
    path = Path(importlib.util.find_spec(f"sklearn.model_selection.tests.{module}").origin)
    text = path.read_text(encoding="utf-8")
    backends = "yield_namespace_device_dtype_combinations()"
    text = text.replace(f" {backends}", f" [*{backends}]")  # pytest warns of parameters that are no list
    return compile(text, path, "exec")


def fixtures(*reading_the_stack):
    """Fixtures of scikit-learn's tests: each runs within the block, but not tests of these names.

    Those look at the call stack, where a thread has its own.
    """

    @pytest.fixture(autouse=True)
    def within_the_block(request):
        if request.node.name.startswith(reading_the_stack):
            yield
        else:
            with together():
                yield

    @pytest.fixture
    def global_random_seed():
        return 42

    return within_the_block, global_random_seed
