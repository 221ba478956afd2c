"""Keeps machine code on the disk, between processes; it does not need Numba.

Every piece of machine code is a file with a checksum. A file is loaded only if no other user could have
written it or its directory, and if its checksum is right; otherwise the code is compiled again. A file's name
has a digest of all that its code is made of, and a hash of its key: the types, the processor and the
compiler.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numpy as np

from fastmlp.kernels.codegen.machine import target
from fastmlp.system.locks import alone
from fastmlp.system.notices import say
from fastmlp.system.renaming import replace

PLACE = "FASTMLP_CACHE_DIR"
"""The environment variable that names the directory. Without it: NUMBA_CACHE_DIR, else the user's cache."""

SWITCH = "FASTMLP_CACHE"
"""The environment variable that turns the cache off if it is 0."""

BOUND, MOST_BYTES = "FASTMLP_CACHE_BYTES", 512 << 20
"""The environment variable for the most bytes that the files may take, and its default.

When they take more, the least recently loaded files are removed.
"""

ROOM = 1 << 20
"""Bytes that must be free before a message promises to keep a program: 0.3 MB, and its pieces the rest."""

NAME = re.compile(r".*\.[0-9a-f]{32}\.(bin|json|done)|.+\.[0-9a-f]{8}\.tmp")
"""The name of a file of ours; `.tmp` is the ending of a file that is being written."""

BESIDE = re.compile(r"lock\.([0-9a-f]|names|partner)|background\.lock|.+-[0-9a-f]{32}\.(request|[0-9a-f]{8})")
"""The name of a lock, or of a request (`fastmlp.system.background`)."""

ABANDONED_SECONDS = 3600
"""An unfinished file of this age was left by a process that was killed."""

DIGEST = hashlib.sha256().digest_size

SETTINGS = ("BOUNDSCHECK", "OPT", "DEBUGINFO", "LOOP_VECTORIZE", "SLP_VECTORIZE")
"""NUMBA_* variables that machine code depends on, beside those that name the processor."""


class MachineCode(NamedTuple):
    """The result of a compilation.

    symbol : of the function that is called; object_code : an object file
    externals : symbols that the object file needs and does not define
    """

    symbol: str
    object_code: bytes
    externals: tuple[str, ...]


class Refused(Exception):
    """The store cannot be used; the text says why."""


@functools.cache
def compiler() -> str:
    """Return what machine code depends on beside source and types: versions, settings, the processor."""
    settings = [os.environ.get(f"NUMBA_{name}") for name in SETTINGS]
    return repr(
        (_numba_version(), llvmlite.__version__, np.__version__, sys.version_info[:3], settings, target())
    )


def _numba_version() -> str:
    """Return the version of Numba without importing it."""
    if "numba" in sys.modules:
        return str(sys.modules["numba"].__version__)
    spec = importlib.util.find_spec("numba")
    places = spec.submodule_search_locations if spec is not None else None
    text = Path(next(iter(places or [""])), "_version.py").read_text()
    found = re.search(r'"version": "([^"]+)"', text)
    return found[1] if found else text


def directory() -> Path:
    """Return the directory of the files, and make it if it does not exist; Refused if it cannot be used."""
    if os.environ.get(SWITCH) == "0":
        raise Refused(f"{SWITCH} is 0")
    most_bytes()
    place = _place()
    try:
        try:
            found = place.lstat()
        except FileNotFoundError:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.lstat()
        writable = os.access(place, os.W_OK)
    except OSError as error:
        raise Refused(f"there is no directory to write to; {PLACE} can name one ({error.strerror})") from None
    if not stat.S_ISDIR(found.st_mode) or not _only_ours(found):
        raise Refused(f"others could write to {str(place)!r}; remove it, or set {PLACE}")
    if not writable:
        raise Refused(f"there is no directory to write to; {PLACE} can name one")
    return place


def _place() -> Path:
    """Return the path of the directory, which need not exist yet."""
    for variable in (PLACE, "NUMBA_CACHE_DIR"):
        if given := os.environ.get(variable):
            return Path(given).absolute() / "fastmlp"
    if sys.platform == "darwin":
        home = Path("~/Library/Caches")
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return home.expanduser() / "fastmlp"
    except RuntimeError:
        raise Refused(f"there is no directory to write to; {PLACE} can name one") from None


def most_bytes() -> int:
    """Return how many bytes the files may take; Refused if the environment variable is no such number."""
    given = os.environ.get(BOUND, str(MOST_BYTES))
    if not given.strip().isdecimal():
        raise Refused(f"{BOUND} must be a whole number of bytes, got {given!r}")
    if int(given) < ROOM:
        raise Refused(f"{BOUND} is {given}, and a program needs up to {ROOM}")
    return int(given)


def why_not_kept() -> str | None:
    """Return why nothing can be saved now, for instance on a full disk; None if it can."""
    try:
        place = directory()
    except Refused as refused:
        return str(refused)
    try:
        with _written(place, "room", bytes(ROOM)):
            return None
    except OSError as error:
        _lost.add(place)
        return f"{str(place)!r} takes no more files: {error.strerror}"


def load(name: str, key: str) -> MachineCode | None:
    """Return the machine code under a name and a key; None if there is none, or its file is damaged."""
    content = read(name, key, "bin")
    if content is None:
        return None
    length = int.from_bytes(content[:4], "little")
    symbol, externals = json.loads(content[4 : 4 + length])
    return MachineCode(symbol, content[4 + length :], tuple(externals))


def has(name: str, key: str) -> bool:
    """Whether machine code of a name and a key is there, sound or not."""
    try:
        return _path(directory(), name, key, "bin").exists()
    except (OSError, Refused):
        return False


def save(name: str, key: str, code: MachineCode) -> None:
    """Save machine code, if the directory can be written."""
    header = json.dumps([code.symbol, code.externals]).encode()
    write(name, key, "bin", len(header).to_bytes(4, "little") + header + code.object_code)


def read(name: str, key: str, kind: str) -> bytes | None:
    """Return the content of a file; None if there is none, or it is damaged."""
    try:
        path = _path(directory(), name, key, kind)
        with open(path, "rb") as file:
            if not _only_ours(os.fstat(file.fileno())):
                return None
            content = file.read()
    except (OSError, Refused):
        return None
    checksum, content = content[:DIGEST], content[DIGEST:]
    if hashlib.sha256(content).digest() != checksum:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the time of the last use, by which files are removed
    return content


def write(name: str, key: str, kind: str, content: bytes) -> None:
    """Write a file, whole or not at all. If it cannot be written, warn once for each directory."""
    try:
        place = directory()
    except Refused:
        return
    try:
        with _written(place, name, hashlib.sha256(content).digest(), content) as temporary:
            replace(temporary, _path(place, name, key, kind))
    except OSError as error:
        if place not in _lost:
            _lost.add(place)
            why = f"{str(place)!r} takes no more files: {error.strerror}"
            say(f"fastmlp: later runs will compile again, for {why}")
        return
    prune(place, most_bytes())


_lost: set[Path] = set()
"""Directories for which the warning was given that nothing can be saved there."""


def _path(place: Path, name: str, key: str, kind: str) -> Path:
    digest = hash_of(f"{compiler()} {key}")
    return place / f"{re.sub('[^a-zA-Z0-9_.@-]', '', name)}.{digest}.{kind}"


def hash_of(text: str) -> str:
    """Return 32 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _written(place: Path, name: str, *parts: bytes) -> Iterator[Path]:
    """Write a temporary file in the directory; it is removed at the end if it is still there."""
    temporary = place / f"{re.sub('[^a-zA-Z0-9_.@-]', '', name)}.{os.urandom(4).hex()}.tmp"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for part in parts:
                file.write(part)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def files(place: Path) -> list[tuple[int, int, Path]]:
    """Return (time of the last use, bytes, path) of the files of ours, the least recently used first."""
    abandoned = (time.time() - ABANDONED_SECONDS) * 1e9
    return [one for one in _listed(place, NAME) if one[2].suffix != ".tmp" or one[0] < abandoned]


def files_beside(place: Path) -> list[tuple[int, int, Path]]:
    """Return the same of locks and requests, which do not count for the bound."""
    return _listed(place, BESIDE)


def _listed(place: Path, name: re.Pattern[str]) -> list[tuple[int, int, Path]]:
    found = []
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if name.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
    return sorted(found)


def prune(place: Path, most: int) -> None:
    """Remove the least recently used files until the others take `most` bytes or less.

    Other processes may load, save or remove the same files at the same time: a file is whole or does not
    exist.
    """
    found = files(place)
    excess = sum(size for _, size, _ in found) - most
    for _, size, path in found:
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        excess -= size


def _only_ours(found: os.stat_result) -> bool:
    """Return whether this user owns a file, and no other user may write to it."""
    return not hasattr(os, "geteuid") or (
        found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def package_digest() -> str | None:
    """Return a digest of the source files that machine code is made of; None if the sources are no files."""
    root = Path(__file__).parents[2]
    text = hashlib.sha256()
    try:
        for room in ("formulas", "kernels", "model"):
            for path in sorted((root / room).rglob("*.py")):
                text.update(path.read_bytes())
    except OSError:
        return None
    return text.hexdigest()[:16]


def mark(name: str, key: str) -> None:
    """Mark a program, for all processes: all that it calls for this key is on the disk."""
    write(name, key, "done", b"")


def is_marked(name: str, key: str) -> bool:
    """Whether a program was marked. Its files may have been removed since."""
    try:
        return _path(directory(), name, key, "done").exists()
    except (OSError, Refused):
        return False


LOOK_SECONDS = 0.05
"""Between two looks at the disk for what was not there: two took 140 us, half of the smallest training."""


class Names:
    """The names of machine code, kept for processes that load no compiler, by a description of the program.

    A name has a digest of all that a program reaches, and only a process with the compiler can compute it.
    Names are kept in a file for the digest of our sources, because those names depend on no other files.
    """

    def __init__(self) -> None:
        self._package = package_digest()
        self._seen: tuple[int, int] | None = None
        """The inode and the length of the file when it was read last; its content only grows."""
        self._looked = time.monotonic()
        self._known = self._read()

    def _read(self) -> dict[str, Any]:
        """Return the content of the file if it has changed since it was read last, else nothing."""
        if self._package is None:
            return {}
        try:
            found = os.stat(_path(directory(), "names", self._package, "json"))
        except (OSError, Refused):
            return {}
        seen, self._seen = self._seen, (found.st_ino, found.st_size)
        if seen == self._seen:
            return {}
        content = read("names", self._package, "json")
        return {} if content is None else dict(json.loads(content))

    def get(self, what: str) -> str | None:
        """Return a name; None if it is not known. Another process may have added it to the file."""
        if what not in self._known and (now := time.monotonic()) >= self._looked + LOOK_SECONDS:
            self._known, self._looked = {**self._read(), **self._known}, now
        found: str | None = self._known.get(what)
        return found

    def put(self, what: str, name: str) -> None:
        """Keep a name, beside those that other processes have kept since the file was read."""
        if self._package is not None and self._known.get(what) != name:
            with _alone("lock.names", MOST_PATIENCE):
                self._known = {**self._known, **self._read(), what: name}
                write("names", self._package, "json", json.dumps(self._known).encode())


@functools.cache
def names() -> Names:
    """Return the names that are kept for this package."""
    return Names()


def only_one(name: str, key: str, patient: bool = True) -> contextlib.AbstractContextManager[bool]:
    """Return a context for one process at a time: others that compile the same name and key wait for it.

    patient : whether to wait; otherwise the context gives False while another process is in it
    """
    return _alone(f"lock.{hash_of(f'{name} {key}')[:1]}", MOST_PATIENCE if patient else 0.0)


def only_partner() -> contextlib.AbstractContextManager[bool]:
    """Return a context for the one process that helps trainings to compile; it gives False to others."""
    return _alone("lock.partner", 0.0)


def _alone(lock: str, patience: float) -> contextlib.AbstractContextManager[bool]:
    """As `fastmlp.system.locks.alone`, for a lock in the directory; free where there is no directory."""
    try:
        return alone(directory() / lock, patience)
    except Refused:
        return contextlib.nullcontext(True)


MOST_PATIENCE = 60.0
"""Seconds that a process waits at most for another one's compilation."""
