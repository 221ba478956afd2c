"""Intrinsics for the program of one network, which are deleted with the program.

Numba keeps every `@intrinsic` in its registries for ever: 8 MB for each network that had a program of its
own, a gigabyte after a search over a hundred shapes. Only the program that uses them refers to the intrinsics
made here.

This uses private parts of Numba; tried on 0.62.1 and 0.68.1.
"""

# mypy: ignore-errors

import functools
import weakref

from numba import types
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate


class Intrinsic:
    """Numba's `@intrinsic`, which Numba forgets when the last reference to it is deleted."""

    def __init__(self, definition):
        functools.update_wrapper(self, definition)
        del self.__wrapped__  # Numba would take that for the function which jitted code calls
        self._defn = definition  # the name of Numba's intrinsics, which digests read
        parts = {"key": self.__name__, "definition": staticmethod(definition), "known": {}}
        template = type(f"{self.__name__}_template", (_Template,), parts)
        # The table refers to its keys weakly; the template must not refer to the intrinsic, its key.
        cpu_target.typing_context.insert_global(self, types.Function(template))
        weakref.finalize(self, _forget, template.known)

    def __deepcopy__(self, memo):
        return self


class _Template(AbstractTemplate):
    """Types a call, and registers the call's code generator under a key of its own."""

    def generic(self, args, kws):
        """Return the signature of a call, None if there is none."""
        args = tuple(map(types.unliteral, args))
        if args not in self.known:
            found = self.definition(self.context, *args)
            if found is None:
                return None
            signature, emit = found
            key = f"{self.key} {id(emit)}"
            cpu_target.target_context.insert_func_defn([(emit, key, signature.args)])
            self.known[args] = self.known[signature.args] = signature, key
        return self.known[args][0]

    def get_impl_key(self, signature):
        """Return the key of the code generator."""
        return self.known[signature.args][1]


def _forget(known):
    for key in {key for _, key in known.values()}:
        cpu_target.target_context.remove_user_function(key)
