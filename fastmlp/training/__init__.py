"""`fit`: chunks of steps, and what happens between them.

Pickles of earlier versions name modules of this room that are in other rooms now: `_Moved` finds these.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_MOVED = {"callbacks": "callbacks.standard", "model": "trained.model", "pruning": "callbacks.standard"}


class _Moved:
    """Finder and loader of modules by their former names."""

    @staticmethod
    def find_spec(name: str, *place: object) -> ModuleSpec | None:
        room, _, module = name.rpartition(".")
        moved = room == __name__ and module in _MOVED
        return ModuleSpec(name, _Moved) if moved else None  # type: ignore[arg-type]  # a class will do

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        home = importlib.import_module(f"fastmlp.{_MOVED[module.__name__.rpartition('.')[2]]}")
        vars(module)["__getattr__"] = lambda name: getattr(home, name)


sys.meta_path.append(_Moved)
