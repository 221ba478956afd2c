"""Digests of the sources that machine code is made of: a name with one in it never means older code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import fastmlp.activations
import fastmlp.formulas
import fastmlp.losses
import fastmlp.rules


def digest_of(texts: Iterable[bytes]) -> str:
    """Return a short digest of some texts in their order."""
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@functools.cache
def _ours() -> list[bytes]:
    modules = [Path(module.__file__ or "") for module in (fastmlp.activations, fastmlp.losses, fastmlp.rules)]
    folders = [Path(__file__).parent, Path(fastmlp.formulas.__file__).parent]
    found = {*modules, *(file for folder in folders for file in folder.rglob("*.py"))}
    return [source.read_bytes() for source in found]


def sources(*files: Path) -> str:
    """Return a digest of these files as they are now, and of all from which the kernels are made.

    What was defined in no file, in a notebook or by exec, has none.
    """
    return digest_of(sorted({*_ours(), *(file.read_bytes() for file in files if file.is_file())}))
