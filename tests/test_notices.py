"""What is said beside the work never decides over it: stderr that is full, closed, or not a file at all."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys

import needs
import pytest

import fastmlp
from fastmlp.system.notices import say


class Faulty:
    """What a program may put in stderr's place."""

    def write(self, text):
        raise RuntimeError("no")

    def isatty(self):
        raise RuntimeError("no")


def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


def full_disk():
    return open("/dev/full", "w")


def closed():
    with open(os.devnull, "w") as stream:
        return stream


STREAMS = {
    "a full disk": full_disk,
    "a broken pipe": broken_pipe,
    "closed": closed,
    "closed before Python started": lambda: None,
    "no stream": Faulty,
}


each_stream = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=needs.linux("/dev/full") if make is full_disk else [])
        for kind, make in STREAMS.items()
    ],
)


@contextlib.contextmanager
def stderr_of(kind, monkeypatch):
    """An stderr that cannot be written to, while pytest's own is not in its place."""
    stream = STREAMS[kind]()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield
    # Closing fails as writing did, and again when the garbage collector tries.
    if isinstance(stream, io.TextIOWrapper) and not stream.closed:
        with contextlib.suppress(OSError):
            stream.close()


@each_stream
def test_a_line_that_cannot_be_written_is_lost(kind, monkeypatch, capsys):
    with stderr_of(kind, monkeypatch):
        say("a line")
    assert capsys.readouterr().out == "", "a line for stderr went to stdout"


@pytest.mark.parametrize("progress", [None, True])
@each_stream
def test_a_training_does_not_need_its_bar(kind, progress, monkeypatch):
    options = {"epochs": 30, "batch_size": 1, "backend": "reference", "progress": progress}
    with stderr_of(kind, monkeypatch):
        model = fastmlp.fit(fastmlp.Network([1, 1]), [[1.0]] * 9, [1.0] * 9, **options)
    assert len(model.history["loss"]) == 30


FIT = """
import os
import fastmlp

def fit(width):
    model = fastmlp.fit(
        fastmlp.Network([width, 1]), [[1.0] * width], [1.0], epochs=1, backend="specialized",
        optimizer=fastmlp.SGD(0.1),
    )
    print(len(model.history["loss"]), flush=True)

read, write = os.pipe()
os.close(read)
for width, stderr in enumerate((os.open("/dev/full", os.O_WRONLY), write), 1):
    os.dup2(stderr, 2)
    fit(width)
"""


@needs.linux("/dev/full")
def test_a_compilation_that_cannot_be_announced_goes_on():
    environment = {**os.environ, "FASTMLP_CACHE": "0"}
    command = [sys.executable, "-W", "error", "-c", FIT]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n1\n")


@needs.posix("a shell")
def test_with_stderr_closed_stdout_has_only_what_was_printed():
    script = FIT[: FIT.index("read,")] + "fit(3)\n"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script],
        env={**os.environ, "FASTMLP_CACHE": "0"}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n")
