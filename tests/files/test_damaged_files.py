"""A file that is damaged or crafted is refused in one line, and runs nothing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from support.forged_files import sealed, zipped

from fastmlp.checks import CheckpointError
from fastmlp.files import archive

OLD = ({"name": "old"}, {"values": np.arange(5.0)})


def test_every_flipped_bit_and_every_shorter_file_is_refused(path, report_figure):
    archive.write(path, *OLD)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + whole]
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            damaged.append(bytes(flipped))
    for content in damaged:
        path.unlink()  # Linux would have the disk written to for each file that is emptied and filled again
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a sound checkpoint: its checksum does not hold"):
            archive.read(path)
    report_figure(f"{len(damaged)} damaged files refused: every bit flipped, every length cut")


def npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


def promising(*shape):
    """An array of five numbers whose header speaks of another shape."""
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + np.arange(5.0).tobytes()


EMPTY = (archive.HEADER, b"{}")
BOMB = (archive.HEADER, b"{}" + b" " * (1 << 24))
VALUES = npy(np.arange(5.0))


class Touch:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


CRAFTED = {
    "nothing": b"",
    "a pickle": sealed(pickle.dumps(Touch()) + b" " * 64),
    "no header": zipped(("values.npy", VALUES)),
    "another comment": zipped(EMPTY, comment=b"x" * 80),
    "a header that is no JSON": zipped((archive.HEADER, b"{")),
    "a header of deep lists": zipped((archive.HEADER, b"[" * 100_000)),
    "a header that is a list": zipped((archive.HEADER, b"[]")),
    "a header with NaN": zipped((archive.HEADER, b'{"a": NaN}')),
    "a header that is not UTF-8": zipped((archive.HEADER, b'{"\xff": 1}')),
    "a number of a million digits": zipped((archive.HEADER, b'{"a": ' + b"1" * 1_000_000 + b"}")),
    "a compressed header": zipped(BOMB, compression=zipfile.ZIP_DEFLATED),
    "an array of objects": zipped(EMPTY, ("o.npy", npy(np.array([Touch()], object)))),
    "an array in Fortran's order": zipped(EMPTY, ("f.npy", npy(np.ones((2, 3)).T))),
    "an array of strings": zipped(EMPTY, ("s.npy", npy(np.array(["abc"])))),
    "a big-endian array": zipped(EMPTY, ("b.npy", npy(np.arange(3, dtype=">f8")))),
    "an array in version 2": zipped(EMPTY, ("v.npy", npy(np.arange(3.0), version=(2, 0)))),
    "an array cut short": zipped(EMPTY, ("values.npy", VALUES[:-1])),
    "an array with a tail": zipped(EMPTY, ("values.npy", VALUES + b"\0")),
    "an array of 10^18 numbers": zipped(EMPTY, ("v.npy", promising(10**18))),
    "an array of 2^64 bytes and 40": zipped(EMPTY, ("v.npy", promising(2**61 + 5))),
    "a shape below 0": zipped(EMPTY, ("v.npy", promising(-1, -5))),
    "an array that is text": zipped(EMPTY, ("../../etc/passwd", b"root:x:0:0")),
    "a size beyond the file": zipped(EMPTY, ("v.npy", VALUES)).replace(
        len(VALUES).to_bytes(4, "little"), (1 << 31).to_bytes(4, "little")
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_file_with_a_seal_that_holds_is_refused_and_runs_nothing(path, kind, monkeypatch):
    monkeypatch.chdir(path.parent)
    content = CRAFTED[kind]
    path.write_bytes(sealed(content) if content else content)
    with pytest.raises(CheckpointError) as caught:
        archive.read(path)
    assert "\n" not in str(caught.value)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_refused(path):
    path.write_bytes(zipped(EMPTY, ("v.npy", VALUES), ("v.npy", VALUES)))
    with pytest.raises(CheckpointError, match="another kind"):
        archive.read(path)


def test_what_is_not_json_is_not_written(path):
    with pytest.raises(ValueError, match="JSON"):
        archive.write(path, {"a": float("nan")}, {})
    with pytest.raises(TypeError, match="JSON"):
        archive.write(path, {"a": np.ones(3)}, {})
    assert os.listdir(path.parent) == []
