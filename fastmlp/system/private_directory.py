"""Directories that nobody but this user and root can write to: what lies there may be run.

Whoever can write to a directory on the way to one could rename it and put another in its place. So the way is
looked at, too, and the directory is held by a descriptor, through which its files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import weakref
from collections.abc import Iterator
from pathlib import Path

HELD = hasattr(os, "O_DIRECTORY")
"""Whether directories have descriptors, owners and modes. On Windows they have none: nothing is looked at."""

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW if HELD else 0

NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK if HELD else 0
"""Opens no link, and waits for nobody at the other end of a pipe."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

MOST_LINKS = 40
"""Links on the way to a directory, after which there is no end of them."""


class NotPrivate(Exception):
    """Other users could put files of theirs in a directory's place; the text names it, and says why."""

    def __init__(self, place: Path, why: str) -> None:
        super().__init__(why.format(str(place)))


OTHERS_COULD_WRITE = "others could write to {!r}, which chmod go-w forbids"
OTHERS_OWN = "another user owns {!r}"
NO_DIRECTORY = "{!r} is a link or no directory"
"""Why a directory is not private."""


class PrivateDirectory:
    """A directory that no other user but root can write to; its files are opened by their names in it.

    It stays the same directory, whatever its path leads to later.
    path : absolute; of a directory, and no link to one
    writable : whether files could be made in it when it was opened
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        if not HELD:
            os.scandir(path).close()  # OSError if there is none
            self.writable = os.access(path, os.W_OK)
            return
        _check_way(path)
        try:
            self.descriptor = os.open(path, DIRECTORY)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise NotPrivate(path, NO_DIRECTORY) from None
            raise
        self.writable = os.access(path, os.W_OK)  # only now, since another thread may make it meanwhile
        self._found = os.fstat(self.descriptor)
        weakref.finalize(self, _close, self.descriptor, self._found).atexit = False
        self._check(self._found)

    def _check(self, found: os.stat_result) -> None:
        if why := why_not_trusted(found):
            raise NotPrivate(self.path, why)

    def is_there(self) -> bool:
        """Return whether its path and its descriptor still lead to it; a program may close any descriptor.

        Raises
        ------
        NotPrivate
            If another user but root owns it by now, or may write to it.
        OSError
            If its path leads nowhere.
        """
        at_path = os.lstat(self.path)
        found = None if self.descriptor is None else _found_at(self.descriptor, self._found)
        if found is None or not os.path.samestat(found, at_path):
            return False
        self._check(found)
        return True

    def _of(self, name: str) -> str:
        return name if HELD else str(self.path / name)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return the descriptor of a file, created if the flags say so, with the mode that the umask leaves.

        Raises
        ------
        PermissionError
            If another user but root owns the file or may write to it, or if it is a link or another thing
            than a file.
        OSError
            If it cannot be opened.
        """
        descriptor = os.open(self._of(name), flags | NO_LINK, 0o644, dir_fd=self.descriptor)
        found = os.fstat(descriptor)
        if why_not_trusted(found) or not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise PermissionError(errno.EPERM, "others could write to it", name)
        return descriptor

    def read(self, name: str) -> bytes:
        """Return what a file holds; OSError as for `open`."""
        with open(self.open(name), "rb") as file:
            return file.read()

    def create(self, name: str, *parts: bytes) -> None:
        """Write a new file; OSError if there is one of its name."""
        with open(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            for part in parts:
                file.write(part)

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the names of all that is in it, with what the system says of each, links not followed."""
        # A description of its own: whoever shares one shares the place in the list, in other threads, too.
        place = os.open(".", DIRECTORY, dir_fd=self.descriptor) if HELD else self.path
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.name, entry.stat(follow_symlinks=False)
        finally:
            if isinstance(place, int):
                os.close(place)

    def status(self, name: str) -> os.stat_result:
        """Return what the system says of a file, links not followed; OSError if there is none."""
        return os.stat(self._of(name), dir_fd=self.descriptor, follow_symlinks=False)

    def has(self, name: str) -> bool:
        """Return whether there is a file of a name."""
        with contextlib.suppress(OSError):
            return bool(self.status(name))
        return False

    def touch(self, name: str) -> None:
        """Set a file's times to now."""
        os.utime(self._of(name), dir_fd=self.descriptor)

    def replace(self, source: str, target: str) -> None:
        """Rename a file, in place of the target where there is one."""
        from fastmlp.system import renaming

        renaming.replace(self._of(source), self._of(target), self.descriptor)

    def unlink(self, name: str) -> None:
        """Remove a file, unless somebody has."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._of(name), dir_fd=self.descriptor)


def make(path: Path) -> None:
    """Make a directory, and what is missing of the way to it, writable to this user alone; or raise OSError.

    Others may read what the umask lets them: of what root has compiled other users load their code.
    """
    for place in reversed([place for place in (path, *path.parents) if not place.exists()]):
        place.mkdir(mode=0o755, exist_ok=True)


def why_not_trusted(found: os.stat_result) -> str | None:
    """Return why others than this user and root may have written a file or a directory; None if they may not.

    "nobody" is not root here as it is on the way: it is a container's word for every user outside.
    """
    if HELD and found.st_uid not in (os.geteuid(), 0):
        return OTHERS_OWN
    return OTHERS_COULD_WRITE if HELD and found.st_mode & OTHERS_WRITE else None


def _found_at(descriptor: int, before: os.stat_result) -> os.stat_result | None:
    """Return what the system says of a descriptor; None if it is closed, or another file's by now."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found if os.path.samestat(found, before) else None


def _close(descriptor: int, before: os.stat_result) -> None:
    if _found_at(descriptor, before) is not None:
        os.close(descriptor)


# --- the way to a directory ------------------------------------------------------------------------------


def _check_way(path: Path) -> None:
    """Raise NotPrivate if another user could have the path of a directory lead elsewhere.

    From the root down: what lies in a directory that was checked is what this user or root put there.
    """
    here, rest, links = Path(path.anchor), [*reversed(path.parts[1:-1])], 0
    while True:
        found = os.lstat(here)
        if found.st_uid not in {os.geteuid(), *_root()}:
            raise NotPrivate(here, OTHERS_OWN)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(os.readlink(here))
            rest += reversed(target.parts)  # the first one leads to the root, if the target does
            here = here.parent
        elif not stat.S_ISDIR(found.st_mode):
            raise NotPrivate(here, NO_DIRECTORY)
        elif _others_rename(found):
            raise NotPrivate(here, OTHERS_COULD_WRITE)
        if not rest:
            return
        part = rest.pop()
        here = here.parent if part == ".." else here / part


def _others_rename(found: os.stat_result) -> bool:
    """Return whether others may rename what this user has in a directory; in a sticky one they may not."""
    if found.st_mode & stat.S_ISVTX or not found.st_mode & OTHERS_WRITE:
        return False
    return bool(found.st_mode & stat.S_IWOTH) or not _is_own_group(found.st_gid)


def _is_own_group(number: int) -> bool:
    """Return whether a group is the one that many systems make for each user, by the user's name."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return (number, group.gr_name) == (user.pw_gid, user.pw_name) and {*group.gr_mem} <= {user.pw_name}


@functools.cache
def _root() -> frozenset[int]:
    """Return the numbers of the user root: two in a container that has no root, as of Apptainer.

    There the files of all users outside have one owner, "nobody": root's, and those of strangers, too.
    """
    try:
        known = Path("/proc/self/uid_map").read_text().splitlines()
        nobody = int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return frozenset({0})
    return frozenset({0} if any(int(line.split()[0]) == 0 for line in known) else {0, nobody})


_last: PrivateDirectory | None = None
"""The directory that was opened last."""


def opened(path: Path) -> PrivateDirectory:
    """Return the directory at an absolute path; the one that was opened last, if it is still there.

    Raises
    ------
    NotPrivate
        If another user could put files of theirs there.
    OSError
        If there is none, or if it cannot be opened.
    """
    global _last
    known = _last
    if known is None or known.path != path or not known.is_there():
        known = _last = PrivateDirectory(path)
    return known
