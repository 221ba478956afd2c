"""A disk that fails on demand: the real system calls, until one of them is set to fail."""

import contextlib
import errno
import os
import signal

from fastmlp.files import archive
from fastmlp.system import private_files

CALLS = ("open", "write", "fsync", "lseek", "fchmod", "fchown", "fstat", "replace", "close")
"""System calls of `fastmlp.files` while it writes."""


class Disk:
    """Stands for the module `os` in `fastmlp.files`; counts calls, and fails at number `at`."""

    def __init__(self, at=None, fail=None):
        self.at, self.fail, self.seen = at, fail, []

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments, **named):
            self.seen.append(name)
            if len(self.seen) - 1 == self.at:
                self.fail(real, name, arguments)
            return real(*arguments, **named)

        return call


def refuse(code):
    """Fail with an errno; of a write, half has happened by then, and a close has."""

    def fail(real, name, arguments):
        if name == "write":
            descriptor, data = arguments
            real(descriptor, bytes(data)[: len(data) // 2])
        if name == "close":
            real(*arguments)
        raise OSError(code, os.strerror(code))

    return fail


def kill(real, name, arguments):
    """Die at once, half of a write done."""
    if name == "write":
        descriptor, data = arguments
        real(descriptor, bytes(data)[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {code: refuse(getattr(errno, code)) for code in ("ENOSPC", "EIO", "EACCES")}


@contextlib.contextmanager
def disk(at=None, fail=None):
    """Let `fastmlp.files` write to a disk that fails at its call number `at`."""
    failing = Disk(at, fail)
    archive.os = private_files.os = failing
    try:
        yield failing
    finally:
        archive.os = private_files.os = os
