"""Files for code to be run: directories writable by this user and root alone, locks, atomic renames.

A user with write access to a directory on the way could rename directories and replace the target. So the
whole way is checked.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # not POSIX: there is no lock that goes with its holder, and nobody waits
    fcntl = None  # type: ignore[assignment]

HAS_OWNERS = hasattr(os, "O_NOFOLLOW")
"""True if files have owners and modes. Windows has none, and no check runs there."""

NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK if HAS_OWNERS else 0
"""Opens no link, and does not wait for the other end of a pipe."""

MOST_LINKS = 40
"""The most nested links on the way to a directory; more count as a loop."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NotPrivate(Exception):
    """Other users could replace a directory's files; the text names the directory and the reason."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(why.format(str(path)))


OTHERS_COULD_WRITE = "others could write to {!r}, which chmod go-w forbids"
OTHERS_OWN = "another user owns {!r}"
NO_DIRECTORY = "{!r} is a link or no directory"
"""Reasons against a directory."""


class PrivateDirectory(NamedTuple):
    """A directory writable by this user and root alone, made by `opened`. path : absolute"""

    path: Path

    @property
    def writable(self) -> bool:
        """True if files can be made in the directory."""
        return os.access(self.path, os.W_OK)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return the descriptor of a file, created by the flags with the mode of the umask.

        Raises
        ------
        PermissionError
            If another user but root owns the file or may write to the file, or for a link or another object
            than a file.
        OSError
            If the file cannot be opened.
        """
        descriptor = os.open(self.path / name, flags | NO_LINK, 0o644)
        found = os.fstat(descriptor)
        if why_not_trusted(found) or not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise PermissionError(errno.EPERM, "others could write to it", name)
        return descriptor

    def read(self, name: str) -> bytes:
        """Return a file's content; OSError as for `open`."""
        with open(self.open(name), "rb") as file:
            return file.read()

    def create(self, name: str, *parts: bytes) -> None:
        """Write a new file; OSError if the name exists."""
        with open(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            for part in parts:
                file.write(part)

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the names of all entries with their stat results, links not followed."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.name, entry.stat(follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Return True if a file of a name exists."""
        return os.path.lexists(self.path / name)

    def touch(self, name: str) -> None:
        """Set a file's times to now."""
        os.utime(self.path / name)

    def replace(self, source: str, target: str) -> None:
        """Rename a file, replacing the target."""
        replace(self.path / source, self.path / target)

    def unlink(self, name: str) -> None:
        """Remove a file, if present."""
        (self.path / name).unlink(missing_ok=True)


def make(path: Path) -> None:
    """Make a directory, with missing parents, writable to this user alone; OSError if impossible."""
    # Others may read as the umask allows: other users load code compiled by root.
    for parent in reversed([one for one in (path, *path.parents) if not one.exists()]):
        parent.mkdir(mode=0o755, exist_ok=True)


def opened(path: Path) -> PrivateDirectory:
    """Return the directory at an absolute path.

    Raises
    ------
    NotPrivate
        If another user could put files there.
    OSError
        If the directory is missing or cannot be opened.
    """
    if HAS_OWNERS:
        _check_way(path, os.geteuid())
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise NotPrivate(path, NO_DIRECTORY)
        if why := why_not_trusted(found):
            raise NotPrivate(path, why)
    os.scandir(path).close()
    return PrivateDirectory(path)


def why_not_trusted(found: os.stat_result) -> str | None:
    """Return a reason if users besides this user and root may have written a file or directory, or None."""
    # "nobody" is not root here as on the way: in a container "nobody" stands for every user outside.
    if HAS_OWNERS and found.st_uid not in (os.geteuid(), 0):
        return OTHERS_OWN
    return OTHERS_COULD_WRITE if HAS_OWNERS and found.st_mode & OTHERS_WRITE else None


# --- the way to a directory ------------------------------------------------------------------------------


@functools.cache  # what was good once: the directory and each file in it are looked at again
def _check_way(path: Path, user: int, links: int = 0) -> None:
    """Raise NotPrivate if another user could redirect the path of a directory.

    From the root down: entries of a checked directory are from this user or root.
    """
    if links > MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    for here in reversed(path.parents):
        found = os.lstat(here)
        if found.st_uid not in {user, *_root()}:
            raise NotPrivate(here, OTHERS_OWN)
        if stat.S_ISLNK(found.st_mode):
            _check_way(here.parent / os.readlink(here) / path.name, user, links + 1)
        elif not stat.S_ISDIR(found.st_mode):
            raise NotPrivate(here, NO_DIRECTORY)
        elif _others_rename(found):
            raise NotPrivate(here, OTHERS_COULD_WRITE)


def _others_rename(found: os.stat_result) -> bool:
    """Return True if others may rename this user's entries in a directory; not in a sticky directory."""
    if found.st_mode & stat.S_ISVTX or not found.st_mode & OTHERS_WRITE:
        return False
    return bool(found.st_mode & stat.S_IWOTH) or not _is_own_group(found.st_gid)


def _is_own_group(number: int) -> bool:
    """Return True for the user's private group, named as the user."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return (number, group.gr_name) == (user.pw_gid, user.pw_name) and {*group.gr_mem} <= {user.pw_name}


@functools.cache
def _root() -> frozenset[int]:
    """Return the user numbers of root: two in a container without root, as of Apptainer.

    There the files of all outside users have the owner "nobody": root's files, and strangers' files, too.
    """
    try:
        known = Path("/proc/self/uid_map").read_text().splitlines()
        nobody = int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return frozenset({0})
    return frozenset({0} if any(int(line.split()[0]) == 0 for line in known) else {0, nobody})


# --- locks of files: the system releases a lock at the holder's end -----------------------------------------

POLL = 0.01
"""Seconds between two tries to lock or to rename."""

_in_vain: set[Path] = set()
"""Locks with a stopped holder, after a wait in vain: never waited for again."""


@contextlib.contextmanager
def alone(directory: PrivateDirectory, name: str, patience: float) -> Iterator[None]:
    """Hold the lock of a file in a directory for the time of a `with` block.

    Without locks in the system, as in some file systems of clusters, or after `patience` seconds of another
    holder, the block runs without the lock.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            if fcntl is not None:
                descriptor = directory.open(name, os.O_RDWR | os.O_CREAT)
                held.callback(os.close, descriptor)
                _lock(descriptor, directory.path / name, patience)
        yield


def _lock(descriptor: int, path: Path, patience: float) -> None:
    """Lock a file; give up after `patience` seconds of another process's lock."""
    latest = time.monotonic() + (0.0 if path in _in_vain else patience)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= latest:
                _in_vain.add(path)
                return
            time.sleep(POLL)
        else:
            _in_vain.discard(path)
            return


# --- atomic renames, also on Windows, where open files cannot be replaced -----------------------------------

MOST_SECONDS = 1.0
"""Seconds of tries to rename over a file opened by others."""

KEEPS_OPEN_FILES = sys.platform == "win32"
"""True if the system neither renames, replaces nor removes an open file."""


def replace(
    source: str | os.PathLike[str], target: str | os.PathLike[str], directory: int | None = None
) -> None:
    """Rename a closed file, replacing the target.

    On Windows a reader may have the target open for some milliseconds: then the rename is tried again.
    directory : a descriptor of the directory of both names; None for paths

    Raises
    ------
    OSError
        If the system refuses, on Windows for a second.
    """
    latest = time.monotonic() + MOST_SECONDS
    while True:
        try:
            os.replace(source, target, src_dir_fd=directory, dst_dir_fd=directory)
        except PermissionError:
            if not KEEPS_OPEN_FILES or time.monotonic() > latest:
                raise
            time.sleep(POLL)
        else:
            return
