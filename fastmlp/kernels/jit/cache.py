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
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CacheImpl, CompileResultCacheImpl, FunctionCache, NullCache
from numba.core.serialize import dumps

from fastmlp.kernels.jit.digest import Reach
from fastmlp.system.notices import say

SWITCH = "FASTMLP_CACHE"
"""The environment variable that turns the cache off if it is 0."""

BOUND, MOST_BYTES = "FASTMLP_CACHE_BYTES", 512 << 20
"""The environment variable that says how many bytes the files may take, and how many they may without it.

The least recently loaded give way.
"""

ROOM = 1 << 20
"""Bytes that must be free to promise that a program is kept: one takes up to 0.3 MB, its pieces the rest."""

NAME = re.compile(r".+\.[0-9a-f]{32}\.bin|.+\.[0-9a-f]{8}\.tmp")
"""The name of a file of ours; of the second kind while it is being written."""

ABANDONED_SECONDS = 3600
"""A file that has been being written for so long was left by a process that was killed."""

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
    """Return why the disk will not keep an entry point that is compiled now, None if it will."""
    reason: str | None = entry._cache.reason
    return reason


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
        most_bytes = _most_bytes()
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
        _directories.add(directory)
        # The name has the digest; Numba's has the function's line, too, and moves with what stands above.
        self._cache_file = _Files(directory, re.sub("[<>]", "", function.__qualname__))
        self._most_bytes = most_bytes

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Return types and processor; the code is in the name, closures over jitted functions included."""
        return sig, codegen.magic_tuple()

    @property
    def reason(self) -> str | None:
        """Why nothing can be saved now, None if it can; the disk may be full."""
        try:
            self._cache_file.try_room()
        except OSError as error:
            _lost.add(self._cache_file.directory)
            return f"{str(self._cache_file.directory)!r} takes no more files: {error.strerror}"
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Save if the disk lets us, and if the name still says what was compiled; else the next compiles."""
        if not self._reach.unchanged():
            return
        directory = self._cache_file.directory
        try:
            super().save_overload(sig, data)
        except OSError as error:
            if directory not in _lost:
                _lost.add(directory)
                why = f"{str(directory)!r} takes no more files: {error.strerror}"
                say(f"fastmlp: later runs will compile again, for {why}")
            return
        prune({*_directories, *_beside(directory)}, self._most_bytes)


_directories: set[Path] = set()
"""Where this process keeps programs."""

_lost: set[Path] = set()
"""Those of which it was said that nothing more can be saved there."""


def _most_bytes() -> int:
    given = os.environ.get(BOUND, str(MOST_BYTES))
    if not given.strip().isdecimal():
        raise _Refused(f"{BOUND} must be a whole number of bytes, got {given!r}")
    if int(given) < ROOM:
        raise _Refused(f"{BOUND} is {given}, and a program needs up to {ROOM}")
    return int(given)


def _beside(directory: Path) -> Iterator[Path]:
    """Yield the directories of other sources where all lie in one: NUMBA_CACHE_DIR, or the user's cache."""
    if directory.parent.name != "__pycache__":
        for other in directory.parent.parent.glob(f"*/{directory.name}"):
            with contextlib.suppress(OSError):
                found = other.lstat()
                if stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700 and _only_ours(found):
                    yield other


def prune(directories: Iterable[Path], most_bytes: int) -> None:
    """Remove the least recently loaded files of some directories until the others take most_bytes or less.

    Another process may load, save or remove the same files meanwhile: each is whole or is not there.
    """
    files = []
    abandoned = time.time() - ABANDONED_SECONDS
    for directory in directories:
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        found = entry.stat(follow_symlinks=False)
                        if entry.name.endswith(".bin") or found.st_mtime < abandoned:
                            files.append((found.st_mtime_ns, found.st_size, entry.path))
    excess = sum(size for _, size, _ in files) - most_bytes
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        excess -= size


class _Files:
    """One file for each key: a checksum, then a pickle of the key and the machine code."""

    def __init__(self, directory: Path, base: str) -> None:
        self.directory = directory
        self._base = base

    def _path(self, key: Any) -> Path:
        name = hashlib.sha256(repr((COMPILER, key)).encode()).hexdigest()[:32]
        return self.directory / f"{self._base}.{name}.bin"

    def load(self, key: Any) -> Any:
        """Return what was saved under the key, None if nothing sound was."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                if not _only_ours(os.fstat(file.fileno())):
                    return None
                content = file.read()
        except OSError:
            return None
        checksum, pickled = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(pickled).digest() != checksum:
            return None
        found, data = pickle.loads(pickled)
        if found != key:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is removed last
        return data

    def save(self, key: Any, data: Any) -> None:
        """Save, whole or not at all; OSError if it cannot be."""
        pickled = dumps((key, data))
        with self._written(hashlib.sha256(pickled).digest(), pickled) as temporary:
            os.replace(temporary, self._path(key))

    def try_room(self) -> None:
        """Raise OSError if there is no room for one more file."""
        with self._written(bytes(ROOM)):
            pass

    @contextlib.contextmanager
    def _written(self, *parts: bytes) -> Iterator[Path]:
        """Write a file beside the others, which is removed in the end if it is still there."""
        temporary = self.directory / f"{self._base}.{secrets.token_hex(4)}.tmp"
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                for part in parts:
                    file.write(part)
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def flush(self) -> None:
        """Forget nothing: the name of a program changes with its source."""


def _only_ours(found: os.stat_result) -> bool:
    """Return whether this user owns a file and is the only one who could have written it."""
    return not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
