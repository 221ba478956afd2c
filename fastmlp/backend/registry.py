"""The registry of backends.

A backend is a file: every module in `fastmlp.kernels.variants`, every entry point of the group
"fastmlp.variants", and every path given to `register_file` declares a `VARIANT`. An unusable plugin, as an
entry point is called here, is left out with a warning. The registry lists backends; `choice` and `auto`
choose.
"""

from __future__ import annotations

import functools
import importlib
import math
import pkgutil
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fastmlp import checks
from fastmlp.model.backend import Backend
from fastmlp.model.state import BFLOAT16
from fastmlp.system import forks
from fastmlp.system.forks import making, once

if TYPE_CHECKING:
    from fastmlp.kernels.jit.bind import Program
    from fastmlp.kernels.jit.entries import Entries
    from fastmlp.kernels.variant import Variant, Work

REFERENCE, ROUNDED = "reference", "reference_bfloat16"
"""NumPy's backends; the first use loads `fastmlp.backend.reference`."""

GROUP = "fastmlp.variants"
"""The entry points for packages with variants."""

registered: dict[str, Variant] = {}
"""The variants of registered files, by name."""

_paths: dict[str, Path] = {}
"""The registered files, by the variants' names."""


def variants() -> dict[str, Variant]:
    """Return the declarations of compiled backends by name: bases first, registered files last."""
    named = {name: variant for name, variant in shipped().items() if name not in _by_dtype()}
    return {**named, **plugins(), **registered}


def get_variant(name: str) -> Variant:
    """Return a compiled backend's declaration by name; ValueError with the choices for other names."""
    checks.choice("variant", name, tuple(variants()))
    return variants()[name]


def backends() -> tuple[str, ...]:
    """Return the names for `fit(backend=...)` besides "auto", the reference first."""
    return (REFERENCE, *built_in(), *given())


@functools.cache  # an import within a function takes half a microsecond every time
def built_in() -> Mapping[str, Variant]:
    """Return each built-in compiled backend without slots, by name, bases first."""
    with forks.collector_off():
        from fastmlp.kernels.estimates import BUILT_IN

    return BUILT_IN


def given() -> tuple[str, ...]:
    """Return the names of backends outside `built_in`: of further variants, plugins and registered files."""
    return (*further(), *plugins(), *registered)


@functools.cache
def further() -> tuple[str, ...]:
    """Return the names of the package's variants without an estimate; "auto" does not choose these."""
    known = {*built_in(), *_by_dtype()}
    folder = Path(__file__).parents[1] / "kernels" / "variants"
    if known >= {info.name for info in pkgutil.iter_modules([str(folder)])}:
        return ()  # so that none of them is loaded
    return tuple(name for name in shipped() if name not in known)


def get(name: str) -> Backend:
    """Return a backend by name; ValueError with the choices for other names."""
    if name == REFERENCE:
        return _reference(name)
    if name in built_in():
        return shipped_backend(checks.plain(name))
    if is_mixed(name):
        return _mixed(name)
    return _given(checks.choice("backend", name, backends()))[2]


def mixed() -> dict[str, Callable[[], str | None]]:
    """Return the backends of `fit(dtype="bfloat16")`, each with a function for the reason of a refusal."""
    from fastmlp.kernels.mixed.tiles import WHY_NOT

    return {**WHY_NOT, ROUNDED: lambda: None}


def is_mixed(name: str) -> bool:
    """Return True if a backend is in `mixed`."""
    return name == ROUNDED or name in _by_dtype()


def mixed_backend(name: str) -> Backend:
    """Return the backend for bfloat16 products, given the requested backend's name.

    Raises
    ------
    ValueError
        If there is no such backend, or not on this processor.
    """
    if name == REFERENCE:
        return _reference(ROUNDED)
    if is_mixed(name):
        return _mixed(name)
    if name != "auto":
        choices = ", ".join(("auto", REFERENCE, *mixed()))
        raise ValueError(f"dtype {BFLOAT16!r} goes with the backends {choices}; got {checks.shown(name)}")
    reasons = {backend: why_not() for backend, why_not in mixed().items() if not is_reference(backend)}
    for backend, reason in reasons.items():
        if reason is None:
            return shipped_backend(backend)
    missing = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())
    raise ValueError(f"dtype {BFLOAT16!r} needs other instructions, or backend='reference'; {missing}")


def restored(name: str) -> Backend:
    """Return the backend of a model from a file or a pickle.

    A processor without bfloat16 products takes NumPy's backend, with equal roundings.
    """
    return _reference(ROUNDED) if is_mixed(name) and mixed()[name]() else get(name)


def _mixed(name: str) -> Backend:
    if reason := mixed()[name]():
        raise ValueError(f"the backend {name!r} cannot run here: {reason}")
    return _reference(name) if is_reference(name) else shipped_backend(checks.plain(name))


def is_reference(name: str) -> bool:
    """Return True if a backend is NumPy's, with products of any numbers."""
    return name in (REFERENCE, ROUNDED)


def _reference(name: str) -> Backend:
    from fastmlp.backend.reference import BACKENDS

    return BACKENDS[name]


def calls_blas(name: str) -> bool:
    """Return True if a backend sums in the order of the BLAS, which depends on the BLAS's threads."""
    return is_reference(name) or bool(choice_of(name).libraries)


def is_exact(name: str) -> bool:
    """Return True if all results of a backend have the exact bits (see `Variant`)."""
    return not is_reference(name) and choice_of(name).exact and choice_of(name).specialize is None


def choices() -> dict[str, Variant]:
    """Return `choice_of` each compiled backend, by name."""
    return {name: choice_of(name) for name in backends()[1:]}


def choice_of(name: str) -> Variant:
    """Return a compiled backend's variant, without loading a built-in backend, which then lacks slots."""
    for known in (built_in(), _by_dtype()):
        if name in known:
            return known[name]
    return variants()[name].inheriting()


@functools.cache
def _by_dtype() -> Mapping[str, Variant]:
    """Return each backend chosen by a dtype without slots, by name."""
    from fastmlp.kernels.estimates import MIXED

    return MIXED


def estimate(variant: Variant, work: Work) -> float:
    """Return a variant's estimate of a step's seconds; infinity, with a warning, for a bad estimate."""
    assert variant.seconds is not None
    try:
        seconds = float(variant.seconds(work))
        if not math.isnan(seconds):
            return seconds
        reason = "it is nan"
    except Exception as error:  # a plugin's function may raise anything
        reason = checks.message_of(error)
    _warn(f"the backend {variant.name!r} is left out of the choice: it gives no estimate, {reason}")
    return math.inf


def register_file(path: str | Path) -> str:
    """Load the variant of a Python file; return the variant's name.

    A file may be registered again after an edit: the new variant replaces the old variant.

    Raises
    ------
    ValueError, TypeError
        In a line, if the file cannot be run, if the file declares no usable variant, or a variant with the
        name of another file or backend.
    """
    from fastmlp.backend import declarations

    path = Path(path).absolute()
    module = declarations.load(path)
    earlier = [name for name in registered if _paths.get(name) == path]
    taken = [name for name in backends() if name not in earlier]
    variant = declarations.checked(declarations.declared(module), taken)
    for name in earlier:
        del _paths[name], registered[name]
    registered[variant.name], _paths[variant.name] = variant, path
    return variant.name


@functools.cache
def shipped() -> dict[str, Variant]:
    """Return the variants of the package, bases first."""
    from fastmlp.backend import declarations

    package = importlib.import_module("fastmlp.kernels.variants")
    variants = [
        declarations.declared(importlib.import_module(f"{package.__name__}.{info.name}"))
        for info in pkgutil.iter_modules(package.__path__)
    ]
    return {variant.name: variant for variant in sorted(variants, key=_depth)}


@functools.cache
def plugins() -> dict[str, Variant]:
    """Return the variants of installed packages, bases first."""
    if not _any_declares(GROUP):
        return {}
    from importlib.metadata import entry_points

    from fastmlp.backend import declarations

    plugins: list[Variant] = []
    for entry in sorted(entry_points(group=GROUP)):
        try:
            taken = [REFERENCE, *shipped(), *(variant.name for variant in plugins)]
            plugins.append(declarations.checked(declarations.declared(entry.load()), taken))
        except Exception as error:  # importing somebody's module may raise anything
            _warn(f"the plugin {entry.name!r} ({entry.value}) is left out: {checks.message_of(error)}")
    return {variant.name: variant for variant in sorted(plugins, key=_depth)}


def _any_declares(group: str) -> bool:
    """Return True if a package on the path may declare entry points of a group."""
    # The import of `importlib.metadata` takes 15 ms: a sixth of a first training.
    for path in map(Path, sys.path):
        if path.is_file():
            return True  # a zip, which may hold packages
        for kind in ("dist-info", "egg-info"):
            for declared in path.glob(f"*.{kind}/entry_points.txt"):
                if group in declared.read_text(errors="replace"):
                    return True
    return False


def _depth(variant: Variant) -> int:
    return 0 if variant.base is None else 1 + _depth(variant.base)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def entries(name: str) -> Entries:
    """Return a compiled backend's entry points."""
    return _built_in_entries(name) if name in built_in() or name in _by_dtype() else _given(name)[1]


@once
def shipped_backend(name: str) -> Backend:
    """Return a built-in compiled backend, made once."""
    with forks.collector_off():
        from fastmlp.kernels.runtime.adapter import compiled_backend

    return compiled_backend(_built_in_entries(name))


@once
def _built_in_entries(name: str) -> Entries:
    from fastmlp.kernels.jit.entries import Entries, home_of

    declared = choice_of(name)
    home = home_of(declared.base.name if declared.base else name)
    # Without its functions, which a process with all machine code on the disk does not need.
    return Entries(declared, home, lambda: program_of(shipped()[name]))


def program_of(variant: Variant) -> Program:
    """Return the source of a variant's entry points, for the compiler; this loads the compiler."""
    from fastmlp.kernels.jit.bind import Program

    return Program(variant)


_in_use: dict[str, tuple[Variant, Entries, Backend]] = {}
"""Variants of plugins and files after the first use, by name, with their entry points and backends."""


def _given(name: str) -> tuple[Variant, Entries, Backend]:
    variant = variants()[name]
    with making:
        if name not in _in_use or _in_use[name][0] is not variant:  # it has been registered anew
            _in_use[name] = _made(variant)
        return _in_use[name]


def _made(variant: Variant) -> tuple[Variant, Entries, Backend]:
    from fastmlp.kernels.jit.bind import scope_of
    from fastmlp.kernels.jit.entries import Entries
    from fastmlp.kernels.runtime.adapter import compiled_backend

    home = scope_of(variant).homes[-1]
    made = Entries(variant.inheriting(), home, lambda: program_of(variant))
    return variant, made, compiled_backend(made)


def backend_of(variant: Variant) -> Backend:
    """Return a variant as a backend, registered or not."""
    return _made(variant)[2]
