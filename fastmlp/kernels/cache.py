"""Where compiled programs are kept between processes, and what may be loaded from there.

Numba's own cache unpickles and runs whatever lies in its files, numbers the files by an index that
two processes can overwrite for one another, and raises if a file is damaged. Here every program is a
file of its own, in a directory and by an owner that nobody else can be, with a checksum; what does not
hold is compiled anew. Where Numba would put its files (NUMBA_CACHE_DIR and so on) still decides.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CacheImpl, CompileResultCacheImpl, FunctionCache, NullCache
from numba.core.serialize import dumps

from fastmlp.kernels.sources import Reach

SWITCH = "FASTMLP_CACHE"
"""The environment variable that turns the cache off if it is 0."""

DIGEST = hashlib.sha256().digest_size

COMPILER = (
    numba.__version__,
    llvmlite.__version__,
    {name: getattr(numba.config, name, None) for name in ("BOUNDSCHECK", "OPT", "DEBUGINFO_DEFAULT")},
)
"""What machine code depends on beside its source, its types and the processor."""


def kept_on_disk(entry: Any, reach: Reach) -> Any:
    """Have a function of `numba.njit` load its machine code from the disk, and save it there.

    Where that cannot be done safely it just compiles; `why_not_kept` then has the reason.

    reach : what the function is made of; its qualified name has the digest in it
    """
    if not numba.config.DISABLE_JIT:
        entry._cache = cache_of(entry.py_func, CompileResultCacheImpl, reach)
    return entry


def cache_of(function: Callable[..., Any], form: type[CacheImpl], reach: Reach) -> Any:
    """Return the cache on the disk of what is compiled for a function, which is kept there in that form.

    Where that cannot be done safely it keeps nothing.
    """
    try:
        return _Cache(function, form, reach)
    except _Refused as refused:
        return _NotKept(str(refused))


def why_not_kept(entry: Any) -> str | None:
    """Return why the disk does not keep an entry point, None if it does."""
    return entry._cache.reason if isinstance(entry._cache, _NotKept) else None


class _Refused(Exception):
    """The cache cannot be used."""


class _NotKept(NullCache):  # type: ignore[misc]  # numba is untyped
    """No cache, and why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Cache(FunctionCache):  # type: ignore[misc]  # numba is untyped
    """Numba's cache of a function, with files of ours below it."""

    def __init__(self, function: Callable[..., Any], form: type[CacheImpl], reach: Reach) -> None:
        self._impl_class = form
        self._reach = reach
        if reach.unknown is not None:
            raise _Refused(f"what it is made of cannot be known: {reach.unknown}")
        if os.environ.get(SWITCH) == "0":
            raise _Refused(f"{SWITCH} is 0")
        try:
            super().__init__(function)
        except (RuntimeError, OSError):
            raise _Refused("there is no directory to write to; NUMBA_CACHE_DIR can name one") from None
        directory = Path(self._cache_path) / "fastmlp"
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
        except OSError as error:
            raise _Refused(f"the cache directory cannot be used: {error}") from None
        if not stat.S_ISDIR(found.st_mode) or not _only_ours(found):
            raise _Refused(f"others could write to {str(directory)!r}; remove it, or set NUMBA_CACHE_DIR")
        # The name has the digest; Numba's has the function's line, too, and moves with what stands above.
        self._cache_file = _Files(directory, re.sub("[<>]", "", function.__qualname__))

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Return types and processor; the code is in the name, closures over jitted functions included."""
        return sig, codegen.magic_tuple()

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save if the disk lets us, and if the name still says what was compiled; else the next compiles."""
        if self._reach.unchanged():
            with contextlib.suppress(OSError):
                super().save_overload(sig, data)


class _Files:
    """One file for each key: a checksum, then a pickle of the key and the machine code."""

    def __init__(self, directory: Path, base: str) -> None:
        self._directory = directory
        self._base = base

    def _path(self, key: Any) -> Path:
        name = hashlib.sha256(repr((COMPILER, key)).encode()).hexdigest()[:32]
        return self._directory / f"{self._base}.{name}.bin"

    def load(self, key: Any) -> Any:
        """Return what was saved under the key, None if nothing sound was."""
        try:
            with open(self._path(key), "rb") as file:
                if not _only_ours(os.fstat(file.fileno())):
                    return None
                content = file.read()
        except OSError:
            return None
        checksum, pickled = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(pickled).digest() != checksum:
            return None
        found, data = pickle.loads(pickled)
        return data if found == key else None

    def save(self, key: Any, data: Any) -> None:
        """Save, whole or not at all; OSError if it cannot be."""
        path = self._path(key)
        pickled = dumps((key, data))
        temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(hashlib.sha256(pickled).digest())
                file.write(pickled)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def flush(self) -> None:
        """Forget nothing: the name of a program changes with its source."""


def _only_ours(found: os.stat_result) -> bool:
    """Return whether this user owns a file and is the only one who could have written it."""
    return not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
