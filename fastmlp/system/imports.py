"""A call after the import of another package, which costs nothing before."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def after_import(module: str, call: Callable[[], Any]) -> None:
    """Make a call after a module's import, or at once if the module has been imported."""
    if module in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _Watch(module, call))


class _Watch(MetaPathFinder):
    """The first finder of modules, until the module is found."""

    def __init__(self, module: str, call: Callable[[], Any]) -> None:
        self._module, self._call = module, call

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._call()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
