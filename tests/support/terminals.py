"""Processes whose stderr is a terminal, or passes for one: bars and notices are for someone who looks on."""

import io
import os
import re
import subprocess
import tempfile
from contextlib import suppress

WATCHED = "import sys; sys.stderr.isatty = lambda: True\n"
"""What a script begins with whose notices a test reads from a pipe, on any system."""


class Terminal(io.StringIO):
    """What passes for a terminal."""

    def isatty(self):
        return True


def on_terminal(*command, **environment):
    """Run a command with a terminal as its stderr; return (exit code, stdout, stderr)."""
    import pty  # of POSIX, as the next one
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))  # a bar fills the line
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=theirs, text=True
        )
        os.close(theirs)
        parts = []
        with suppress(OSError):  # of Linux, when the last one has closed it
            while part := os.read(ours, 1 << 16):
                parts.append(part)
        os.close(ours)
        code = process.wait()
        output.seek(0)
        return code, output.read(), b"".join(parts).decode().replace("\r\n", "\n")


def on_screen(text):
    """The lines that a terminal shows of what was written to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|[\r\n]|[^\r\n\x1b]+", text):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]
