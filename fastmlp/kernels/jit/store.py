"""Keeps machine code on the disk between processes, without Numba.

Every program or function is a file with a checksum; a file with a wrong checksum counts as none. The user's
directory is searched first, where a file is loaded only if no other user but root could have written it
(`fastmlp.system.private_files`), then the package's folder, filled by a build. A file's name has the name of
the code, and a hash of what the code depends on: the package's sources, the types, and the level of
processors. A name is the function's and that of the module that makes it; names of code with users' functions
have a `~`, and their code stays in the process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastmlp.kernels.codegen import machine
from fastmlp.system.notices import say
from fastmlp.system.private_files import NotPrivate, PrivateDirectory, alone, make, opened

VARIABLE = "FASTMLP_CACHE_DIR"
"""The environment variable of the directory; default: NUMBA_CACHE_DIR, else the user's cache."""

SWITCH = "FASTMLP_CACHE"
"""The environment variable of the cache: 0 turns off the cache, and the package's folder as well."""

CARRIED = Path(__file__).parents[2] / "prebuilt"
"""The package's folder of plain files: to open a zip file of 850 took a new process 4 ms."""

PREBUILD = "FASTMLP_PREBUILD"
"""The environment variable of builds, to fill the folder; "none": a process reads nothing there, too."""

VERIFY = "FASTMLP_VERIFY"
"""The environment variable of verification: 1 compiles all code that is read again, and compares."""

SETTINGS = ("BOUNDSCHECK", "OPT", "DEBUGINFO", "LOOP_VECTORIZE", "SLP_VECTORIZE")
"""NUMBA_* variables that change machine code, besides the names of the processor."""

BOUND, MOST_BYTES = "FASTMLP_CACHE_BYTES", 512 << 20
"""The environment variable for the most bytes of all files; beyond, the least recently loaded go."""

ROOM = 1 << 20
"""Free bytes needed before a message promises to save a program: 0.3 MB, and its lazy functions the rest."""

NAME = re.compile(r".*\.[0-9a-f]{32}\.bin|.+\.[0-9a-f]{8}\.tmp")
"""The name of a file of machine code; `.tmp` is the ending of an unfinished file."""

LOCKS = re.compile(r"lock\.[0-9a-f]")
"""The name of a lock, which does not count for the bound."""

UNKEPT = "~"
"""A mark in the names of code that no file may hold, since no digest covers users' functions."""

ABANDONED_SECONDS = 3600
"""The age of unfinished files left by killed processes."""

DIGEST = hashlib.sha256().digest_size


class MachineCode(NamedTuple):
    """The result of a compilation; externals : symbols needed by the object file and not defined there"""

    symbol: str
    object_code: bytes
    externals: tuple[str, ...]


class StoreUnusable(Exception):
    """The store cannot be used; the text says why."""


@functools.cache
def compiled_for() -> str:
    """Return the key of machine code besides source and types: level or processor, and settings."""
    settings = {name: value for name in SETTINGS if (value := os.environ.get(f"NUMBA_{name}"))}
    return repr((sys.platform, machine.level() or machine.processor(), settings))


def is_off() -> bool:
    """Return whether the user has turned off the cache, which is no fault."""
    return os.environ.get(SWITCH) == "0"


def directory(to_write: bool = False) -> PrivateDirectory:
    """Return the directory of the files, made if missing; StoreUnusable if it cannot be used."""
    if is_off():
        raise StoreUnusable(f"{SWITCH} is 0")
    if package_digest() is None:
        raise StoreUnusable("the sources of fastmlp are no files, or have changed since they were loaded")
    most_bytes()
    folder = default_folder()
    try:
        try:
            private = opened(folder)
        except FileNotFoundError:
            make(folder)
            private = opened(folder)
        if not to_write or private.writable:
            return private
        why = f"{str(folder)!r} can only be read"
    except NotPrivate as error:
        why = str(error)
    except OSError as error:
        why = f"{str(folder)!r} cannot be used ({error.strerror})"
    raise StoreUnusable(f"{why}; {VARIABLE} can name another directory")


def default_folder() -> Path:
    """Return the path of the directory, which need not exist yet."""
    for variable in (VARIABLE, "NUMBA_CACHE_DIR"):
        if path := os.environ.get(variable):
            return Path(path).absolute() / "fastmlp"
    from platformdirs import user_cache_path  # 2 ms, which a named directory saves

    with contextlib.suppress(RuntimeError, ValueError):  # later releases raise where there is no home
        folder = user_cache_path("fastmlp", appauthor=False, opinion=False)
        if folder.is_absolute():
            return folder
    raise StoreUnusable(f"there is no directory to write to; {VARIABLE} can name one")


def most_bytes() -> int:
    """Return the most bytes of all files; StoreUnusable if the environment variable is no number."""
    setting = os.environ.get(BOUND, str(MOST_BYTES))
    if not setting.strip().isdecimal():
        raise StoreUnusable(f"{BOUND} must be a whole number of bytes, got {setting!r}")
    if int(setting) < ROOM:
        raise StoreUnusable(f"{BOUND} is {setting}, and a program needs up to {ROOM}")
    return int(setting)


def why_not_saved() -> str | None:
    """Return why nothing can be saved now, for instance on a full disk; None if saving works."""
    try:
        folder = directory(to_write=True)
    except StoreUnusable as refused:
        return str(refused)
    try:
        # Only a file of this size shows that neither a quota nor a full disk refuses the program.
        with _written(folder, "room", bytes(ROOM)):
            return None
    except OSError as error:
        folders_lost.add(folder.path)
        return f"{str(folder.path)!r} takes no more files: {error.strerror}"


def load(name: str, key: str) -> MachineCode | None:
    """Return the machine code under a name and a key; None if absent or damaged."""
    content = read(name, key)
    if content is None:
        return None
    length = int.from_bytes(content[:4], "little")
    symbol, externals = json.loads(content[4 : 4 + length])
    return MachineCode(symbol, content[4 + length :], tuple(externals))


def has(name: str, key: str) -> bool:
    """Return whether the store has machine code of a name and a key."""
    file = file_name(name, key)
    with contextlib.suppress(OSError, StoreUnusable):
        if directory().has(file):
            return True
    return _carried(file) is not None


def save(name: str, key: str, code: MachineCode) -> None:
    """Save machine code, if a file may hold it, the directory can be written, and nothing is verified."""
    if UNKEPT not in name and os.environ.get(VERIFY) != "1":
        write(name, key, content_of(code))


def why_missing(name: str, key: str) -> str:
    """Return why machine code is compiled and not read."""
    if is_off():
        return f"{SWITCH} is 0"
    if UNKEPT in name:
        return "code of users' functions stays in its process"
    file = file_name(name, key)
    with contextlib.suppress(OSError, StoreUnusable):
        if directory().has(file):
            return f"its file in {directory().path} is damaged"
    if not (CARRIED / file).exists():
        return "no folder has it"
    return f"{PREBUILD} is none" if _carries_nothing() else f"its file in {CARRIED} is damaged"


def content_of(code: MachineCode) -> bytes:
    """Return machine code as bytes for `load`."""
    header = json.dumps([code.symbol, code.externals]).encode()
    return len(header).to_bytes(4, "little") + header + code.object_code


def read(name: str, key: str) -> bytes | None:
    """Return the content of a file; None if absent or damaged."""
    file = file_name(name, key)
    try:
        folder = directory()
        content = _checked(folder.read(file))
    except (OSError, StoreUnusable):
        content = None
    if content is None:
        if (content := _carried(file)) is not None:
            read_from[file] = CARRIED
        return content
    read_from[file] = folder.path
    with contextlib.suppress(OSError):
        folder.touch(file)  # the time of the last use, by which files are removed
    return content


read_from: dict[str, Path] = {}
"""The folder of each file that the process has read."""


def _checked(content: bytes) -> bytes | None:
    """Return the bytes after a file's checksum; None if damaged."""
    checksum, content = content[:DIGEST], content[DIGEST:]
    return content if checksum_of(content) == checksum else None


def _carried(file: str) -> bytes | None:
    """Return the content of a file in the package's folder; None also where reading is off."""
    if is_off() or _carries_nothing():
        return None
    try:
        return _checked((CARRIED / file).read_bytes())
    except OSError:
        return None


def _carries_nothing() -> bool:
    """Return whether the user has turned off the package's folder."""
    return os.environ.get(PREBUILD) == "none"


def write(name: str, key: str, content: bytes) -> None:
    """Write a file, whole or not at all, with a warning once for each directory without success."""
    try:
        folder = directory(to_write=True)
    except StoreUnusable:
        return
    try:
        with _written(folder, name, checksum_of(content), content) as temporary:
            folder.replace(temporary, file_name(name, key))
    except OSError as error:
        if folder.path not in folders_lost:
            folders_lost.add(folder.path)
            why = f"{str(folder.path)!r} takes no more files: {error.strerror}"
            say(f"fastmlp: later runs will compile again, for {why}")
        return
    prune(folder, most_bytes())


folders_lost: set[Path] = set()
"""Directories with a warning given, because nothing can be saved there."""


def checksum_of(content: bytes) -> bytes:
    """Return the checksum before a content in its file."""
    return hashlib.sha256(content).digest()


def file_name(name: str, key: str) -> str:
    """Return the name of a file."""
    depends_on = f"{package_digest()} {compiled_for()} {name} {key}"
    return f"{re.sub('[^a-zA-Z0-9_.@-]', '', name)}.{hash_of(depends_on)}.bin"


def hash_of(text: str) -> str:
    """Return 32 hexadecimal digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextlib.contextmanager
def _written(folder: PrivateDirectory, name: str, *parts: bytes) -> Iterator[str]:
    """Write a temporary file and give its name; an unmoved file is removed at the end."""
    # Random, because several processes may write the same file at a time.
    temporary = f"{re.sub('[^a-zA-Z0-9_.@-]', '', name)}.{os.urandom(4).hex()}.tmp"
    try:
        folder.create(temporary, *parts)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            folder.unlink(temporary)


def files(folder: PrivateDirectory) -> list[tuple[int, int, str]]:
    """Return (time of the last use, bytes, name) of the store's files, the least recently used first."""
    abandoned = (time.time() - ABANDONED_SECONDS) * 1e9
    return [file for file in listed(folder, NAME) if not file[2].endswith(".tmp") or file[0] < abandoned]


def listed(folder: PrivateDirectory, pattern: re.Pattern[str]) -> list[tuple[int, int, str]]:
    """Return the same for files whose names match a pattern."""
    entries = []
    with contextlib.suppress(OSError):
        for name, status in folder.files():
            if pattern.fullmatch(name):
                entries.append((status.st_mtime_ns, status.st_size, name))
    return sorted(entries)


def prune(folder: PrivateDirectory, most: int) -> None:
    """Remove the least recently used files until the rest takes `most` bytes or less."""
    entries = files(folder)
    excess = sum(size for _, size, _ in entries) - most
    for _, size, name in entries:
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            folder.unlink(name)
        excess -= size


loaded_at = time.time()


@functools.cache
def package_digest() -> str | None:
    """Return a digest of the sources of machine code; None if edited since they were loaded, or no files."""
    root = str(Path(__file__).parents[2])
    text, content = hashlib.sha256(), b""
    try:
        for room in ("formulas", "kernels", "model"):
            for folder, folders, names in os.walk(os.path.join(root, room)):
                # `os.walk` gives the disk's order, which differs between copies of the package.
                folders.sort()
                for name in sorted(name for name in names if name.endswith(".py")):
                    with open(os.path.join(folder, name), "rb") as file:
                        # This process runs the text from before the edit.
                        if os.fstat(file.fileno()).st_mtime > loaded_at:
                            return None
                        content = file.read()
                    # With the length: text moved from the end of a file to the next file's start is another
                    # digest.
                    text.update(f"{room} {name} {len(content)} ".encode() + content)
    except OSError:
        return None
    return text.hexdigest()[:16] if content else None


LOOK_SECONDS = 0.05
"""Seconds between two searches of the disk: two took 140 us, half of the smallest training."""


def only_one(name: str, key: str) -> contextlib.AbstractContextManager[None]:
    """Return a context for one process at a time; other processes with the same name and key wait."""
    try:
        # By one digit of the hash: 16 files of locks, however many programs there are.
        return alone(directory(), f"lock.{hash_of(f'{name} {key}')[:1]}", MOST_PATIENCE)
    except StoreUnusable:
        return contextlib.nullcontext()


MOST_PATIENCE = 60.0
"""The most seconds that a process waits for another process's compilation."""
