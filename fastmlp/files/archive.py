"""A file of named arrays and a JSON header, written atomically and checked when read.

The file is an uncompressed `.npz` for `numpy.load`. The zip's comment holds a SHA-256 of the file. The
meaning of the arrays belongs to `fastmlp.checkpoints.checkpoint`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fastmlp.checks import CheckpointError
from fastmlp.system.private_files import KEEPS_OPEN_FILES, replace

if TYPE_CHECKING:
    import zipfile

try:
    import fcntl
except ImportError:  # Windows: there an open file cannot be removed, which replaces the lock
    fcntl = None  # type: ignore[assignment]

Arrays = Mapping[str, NDArray[Any]]

HEADER = "header.json"

DTYPES = ("<f4", "<f8", "<i8", "|u1")
"""The dtypes of arrays in a training; a description of many columns is bytes."""

SEAL, UNSEALED = b"sha256:", b"0" * 64
"""The zip's comment: a hexadecimal digest of the file, with 64 zeros in the digest's place."""

AT_ONCE = getattr(os, "O_NONBLOCK", 0)
"""Opens without waiting: a pipe without a process at the other end would block for ever."""

NO_LINK = getattr(os, "O_NOFOLLOW", 0)

UNFLUSHED = (errno.EBADF, errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems without a flush of directories, as network file systems."""

LEAST_AGE = 60.0
"""Seconds after which a temporary file counts as abandoned in a system without locks."""

PART_BYTES = 1 << 20
"""Bytes hashed at a time."""


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Arrays) -> None:
    """Replace the file at `path` with this content; after any failure the old file remains.

    The content is written to a file in the same folder, flushed to the disk, and renamed. Equal content gives
    equal bytes.

    Parameters
    ----------
    header : an object for `json`, without NaN and infinities
    arrays : of float32, float64, int64 or uint8, by names: identifiers or paths of identifiers

    Raises
    ------
    OSError
        If the operating system refuses; no new file remains.
    ValueError, TypeError
        If the header is not JSON.
    """
    text = json.dumps(header, allow_nan=False, sort_keys=True).encode()
    target = Path(os.path.realpath(path))  # as a plain write, it follows links
    _remove_abandoned(target)
    temporary = target.with_name(temporary_name(target.name, os.urandom(4).hex()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(temporary, flags, 0o666)  # less the umask: the mode of any new file
    except OSError as error:
        error.filename = os.fspath(path)  # the caller knows no temporary file
        raise
    try:
        try:
            _lock(descriptor, wait=True)  # `_remove_abandoned` of another process may hold it for a moment
            if not os.fstat(descriptor).st_nlink:  # another writer removed it before it was locked
                return write(path, header, arrays)
            _inherit(target, descriptor)
            _write_sealed(descriptor, text, arrays)
            _sync(descriptor)
            if not KEEPS_OPEN_FILES:
                replace(temporary, target)  # while it is locked, lest another writer removes it
        finally:
            os.close(descriptor)
        if KEEPS_OPEN_FILES:
            replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(target.parent)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return (header, arrays) of a file of `write`, after checks of checksum and form.

    The arrays are read-only views of the file's bytes.

    Raises
    ------
    CheckpointError
        If the file is damaged, or is not such a file.
    OSError
        If the file cannot be read.
    """
    with open(os.fspath(path), "rb", buffering=0, opener=_open_at_once) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{os.fspath(path)!r} is not a file")
        try:
            _check_seal(file, found.st_size)
            return _parse(file, found.st_size)
        except CheckpointError as error:
            raise CheckpointError(f"{os.fspath(path)!r} is not a sound checkpoint: {error}") from None
        except Exception as error:
            # The checksum is right, so the file was made like this on purpose. For such files zipfile, json
            # and numpy raise a dozen kinds of exception, of which they document three. The operating system
            # raises EINVAL for a seek to an offset that the file names.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise CheckpointError(f"{os.fspath(path)!r} is not a sound checkpoint: {reason}") from None


def separated(record: Any) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Return a record of dicts and lists as a header without arrays, and its dicts' arrays by paths."""
    arrays: dict[str, NDArray[Any]] = {}

    def without_arrays(part: Any, path: str) -> Any:
        if isinstance(part, (list, tuple)):
            return [without_arrays(one, f"{path}{index}/") for index, one in enumerate(part)]
        if not isinstance(part, dict):
            return part
        arrays.update({f"{path}{name}": one for name, one in part.items() if isinstance(one, np.ndarray)})
        others = {name: one for name, one in part.items() if not isinstance(one, np.ndarray)}
        return {name: without_arrays(one, f"{path}{name}/") for name, one in others.items()}

    return without_arrays(record, ""), arrays


def joined(header: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Return the record of `separated`, made of the header."""
    for path, array in arrays.items():
        *outer, last = path.split("/")
        place: Any = header
        for name in outer:
            place = place[int(name) if isinstance(place, list) else name]
        place[last] = array
    return header


# --- writing -------------------------------------------------------------------------------------


class _Hashed:
    """An append-only file with a digest, for zipfile."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        _write_all(self.descriptor, data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _write_sealed(descriptor: int, text: bytes, arrays: Arrays) -> None:
    import zipfile  # not before it is needed: with its compressors it takes 5 ms of a first training

    file = _Hashed(descriptor)
    with zipfile.ZipFile(file, "w") as archive:  # type: ignore[call-overload]  # it cannot seek
        archive.comment = SEAL + UNSEALED
        # A ZipInfo that is made here has no time in it, so the same content gives the same bytes.
        archive.writestr(zipfile.ZipInfo(HEADER), text)
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                native = np.asarray(array, np.dtype(array.dtype).newbyteorder("<"), order="C")
                npy.write_array(member, native, version=(1, 0), allow_pickle=False)
    os.lseek(descriptor, -len(UNSEALED), os.SEEK_END)
    _write_all(descriptor, file.digest.hexdigest().encode())


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Take a living writer's lock; return True for success."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _remove_abandoned(target: Path) -> None:
    """Remove the unlocked temporary files of killed writers of this target."""
    with contextlib.suppress(OSError):
        names = [name for name in os.listdir(target.parent) if _is_temporary(name, target.name)]
        for name in names:
            with contextlib.suppress(OSError):
                if fcntl is None:
                    _remove_old(target.with_name(name))
                else:
                    _remove_unlocked(target.with_name(name))


def _remove_old(path: Path) -> None:
    """Remove a file by age, without locks: a closed file may be about to be renamed."""
    if time.time() - path.stat().st_mtime > LEAST_AGE:
        os.unlink(path)


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | AT_ONCE | NO_LINK)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor, wait=False):
            os.unlink(path)
    finally:
        os.close(descriptor)


def temporary_name(target: str, token: str) -> str:
    """Return the name of a temporary file of a target, for a token of 8 hexadecimal digits.

    The length does not depend on the target, perhaps with the longest allowed name. The last digits follow
    from target and token, so that such a name shows a file of ours.
    """
    digits = hashlib.sha256(os.fsencode(token + target)).hexdigest()[:8]
    return f".fastmlp-{token}{digits}.tmp"


def _is_temporary(name: str, of: str) -> bool:
    return name == temporary_name(of, name[len(".fastmlp-") :][:8])


def _inherit(target: Path, descriptor: int) -> None:
    """Give the new file the mode and owner of the old; OSError if the old file is not writable."""
    try:
        old = os.open(target, os.O_WRONLY | AT_ONCE)
    except FileNotFoundError:
        return
    try:
        found = os.fstat(old)
    finally:
        os.close(old)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(target))
    if hasattr(os, "fchown"):
        with contextlib.suppress(PermissionError):  # only root gives files away
            os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))


def _sync(descriptor: int) -> None:
    """Flush a file to the disk; on macOS fsync may leave the file in the drive's cache."""
    whole = getattr(fcntl, "F_FULLFSYNC", None)
    if whole is not None:
        with contextlib.suppress(OSError):  # a file system of the network may not know it
            fcntl.fcntl(descriptor, whole)
            return
    os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Flush a rename to the disk, if directories can be opened and flushed."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNFLUSHED:
            raise
    finally:
        os.close(descriptor)


# --- reading -------------------------------------------------------------------------------------


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | AT_ONCE)


def _check_seal(file: BinaryIO | io.RawIOBase, size: int) -> None:
    digest = hashlib.sha256()
    left = size - len(UNSEALED)
    while left > 0:
        part = file.read(min(left, PART_BYTES))
        if not part:
            break
        digest.update(part)
        left -= len(part)
    digest.update(UNSEALED)
    if left or file.read(len(UNSEALED)) != digest.hexdigest().encode():
        raise CheckpointError("its checksum does not hold")


def _parse(file: Any, size: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    import zipfile

    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if archive.comment[: len(SEAL)] != SEAL or len({m.filename for m in members}) < len(members):
            raise CheckpointError("it is a zip of another kind")
        # Members are not compressed. So together they are not larger than the file, and none can expand.
        if sum(m.file_size for m in members) > size or any(m.compress_type for m in members):
            raise CheckpointError("its members are larger than the file")
        if HEADER not in archive.NameToInfo:
            raise CheckpointError("its header is missing")
        header = json.loads(archive.read(HEADER), parse_constant=_refuse_constant)
        if not isinstance(header, dict):
            raise CheckpointError("its header is not an object")
        return header, dict(_arrays(archive, members))


def _refuse_constant(name: str) -> float:
    raise CheckpointError(f"{name} stands in its header")


def _arrays(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[tuple[str, NDArray[Any]]]:
    for member in members:
        if member.filename == HEADER:
            continue
        content = archive.read(member)
        start = io.BytesIO(content)
        if npy.read_magic(start) != (1, 0):
            raise CheckpointError(f"{member.filename} is an array of another version")
        shape, fortran, dtype = npy.read_array_header_1_0(start)
        count = 1
        for length in shape:
            count *= length
        whole = len(content) - start.tell() == count * dtype.itemsize
        if dtype.str not in DTYPES or fortran or min(shape, default=0) < 0 or not whole:
            raise CheckpointError(f"{member.filename} is not an array of its size in {', '.join(DTYPES)}")
        array = np.frombuffer(content, dtype, count, start.tell()).reshape(shape)
        yield member.filename.removesuffix(".npy"), array
