"""Digests of the sources that machine code is made of: a name with one in it never means older code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import fastmlp.activations
import fastmlp.losses


def digest_of(texts: Iterable[bytes]) -> str:
    """Return a short digest of some texts in their order."""
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@functools.cache
def sources(*files: Path) -> str:
    """Return a digest of these files, and of all from which the kernels are made."""
    modules = [Path(module.__file__ or "") for module in (fastmlp.activations, fastmlp.losses)]
    everything = {*files, *modules, *Path(__file__).parent.rglob("*.py")}
    return digest_of(sorted(source.read_bytes() for source in everything))
