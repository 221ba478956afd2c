"""The file format: durable, whole or absent; a damaged or crafted file is refused, and runs nothing."""

import io
import json
import os
import pickle
import stat
import threading
import zipfile

import numpy as np
import pytest
from support import failing_disk, needs
from support.forged_files import sealed, zipped
from support.processes import importing, python

from fastmlp.checks import CheckpointError
from fastmlp.files import archive

OLD = ({"name": "old"}, {"values": np.arange(5.0)})
NEW = ({"name": "new", "list": [1, None, "x"]}, {"values": np.arange(7, dtype="f4"), "a/b": np.arange(3)})


def same(got, expected):
    header, arrays = got
    return header == expected[0] and set(arrays) == set(expected[1]) and all(
        arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)
        for name, array in expected[1].items()
    )  # fmt: skip


# --- what is written is what is read --------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0)[::2],
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0, dtype=">f8").reshape(3, 4)[:, ::-1],
        np.broadcast_to(np.float32(3), (2, 3)),
        np.zeros((2, 0), "f4"),
        np.array(5, np.int64),
        np.array([np.nan, np.inf, -0.0, 5e-324]),
    ],
    ids=["strided", "transposed", "big-endian", "broadcast", "empty", "0-d", "specials"],
)
def test_arrays_of_any_layout_come_back_with_their_bits(path, array):
    archive.write(path, {}, {"a": array})
    (got,) = archive.read(path)[1].values()
    assert got.shape == array.shape
    assert got.dtype == array.dtype.newbyteorder("=")
    assert got.tobytes() == array.astype(got.dtype).tobytes()


def test_numpy_opens_the_file_and_the_same_content_gives_the_same_bytes(path):
    archive.write(path, *NEW)
    with np.load(path, allow_pickle=False) as opened:
        assert np.array_equal(opened["values"], NEW[1]["values"])
        assert json.loads(opened["header.json"]) == NEW[0]
    first = path.read_bytes()
    archive.write(path, *NEW)
    assert path.read_bytes() == first


def test_short_writes_lose_nothing(path, monkeypatch):
    class Narrow(failing_disk.Disk):
        def write(self, descriptor, data):
            return os.write(descriptor, bytes(data)[:3])

    monkeypatch.setattr(archive, "os", Narrow())
    archive.write(path, *NEW)
    monkeypatch.undo()
    assert same(archive.read(path), NEW)


# --- as a plain write would leave it --------------------------------------------------------------------


@needs.modes
def test_a_new_file_has_the_mode_that_the_umask_leaves(path):
    before = os.umask(0o027)
    try:
        archive.write(path, *NEW)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@needs.modes
def test_an_old_file_s_mode_and_owner_stay(path):
    path.write_text("old")
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    before = path.stat()
    archive.write(path, *NEW)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@needs.posix("links that anybody may make")
def test_a_link_stays_a_link(path):
    target = path.with_name("target")
    path.symlink_to(target)
    archive.write(path, *NEW)
    assert path.is_symlink()
    assert same(archive.read(target), NEW)


@needs.modes
def test_paths_that_are_no_files_are_refused(path):
    with pytest.raises(IsADirectoryError):
        archive.write(path.parent, *NEW)
    with pytest.raises(IsADirectoryError):
        archive.read(path.parent)
    with pytest.raises(CheckpointError, match="is not a file"):
        archive.read("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        archive.write("/dev/null", *NEW)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is not a file"):
        archive.read(path)
    with pytest.raises(OSError, match="No such device or address"):
        archive.write(path, *NEW)
    path.unlink()
    for missing in (path, path / "below", ""):
        with pytest.raises(FileNotFoundError):
            archive.read(missing)
    with pytest.raises(FileNotFoundError):
        archive.write(path / "below", *NEW)
    with pytest.raises(ValueError, match="null"):
        archive.read("a\0b")
    with pytest.raises(TypeError):
        archive.read(0)
    assert os.listdir(path.parent) == []


@needs.posix("pathconf")
def test_an_error_names_the_path_that_was_given(tmp_path):
    missing = tmp_path / "missing" / "x.npz"
    with pytest.raises(FileNotFoundError) as raised:
        archive.write(missing, {}, {})
    assert raised.value.filename == str(missing)


def test_what_has_the_longest_name_there_is_can_be_written(path):
    longest = path.with_name("n" * os.pathconf(path.parent, "PC_NAME_MAX"))
    archive.write(longest, *OLD)
    archive.write(longest, *NEW)
    assert same(archive.read(longest), NEW)
    assert os.listdir(path.parent) == [longest.name]


@needs.linux("names of any bytes")
def test_the_sweep_takes_files_that_a_writer_of_this_path_left_and_nothing_else(path):
    ours = archive.temporary_name(path.name, "12345678")
    another_s = archive.temporary_name("another", "12345678")
    kept = {
        another_s,
        *(ours.replace("12345678", token) for token in ("87654321", "settings")),
        *(f".{path.name}.{middle}.tmp" for middle in ("settings", "deadbeef", "12345678")),
        os.fsdecode(b".fastmlp-\xff1234567abcdefgh.tmp"),
    }
    for name in {ours, *kept}:
        path.with_name(name).write_text("somebody's")
    archive.write(path, *NEW)
    assert set(os.listdir(path.parent)) == {path.name, *kept}


@needs.modes
def test_the_sweep_waits_for_no_pipe_and_follows_no_link(path):
    pipes = [archive.temporary_name(path.name, "12345678"), f".{path.name}.12345678.tmp"]
    link, target = archive.temporary_name(path.name, "abcdef01"), path.with_name("target")
    for pipe in pipes:
        os.mkfifo(path.with_name(pipe))
    target.write_text("somebody's")
    path.with_name(link).symlink_to(target)
    writer = threading.Thread(target=archive.write, args=(path, *NEW), daemon=True)
    writer.start()
    writer.join(300)
    assert not writer.is_alive(), "it waits at a pipe"
    assert same(archive.read(path), NEW)
    assert set(os.listdir(path.parent)) == {path.name, "target", link, *pipes}


# --- faults ---------------------------------------------------------------------------------------------


def calls_of_a_write(path):
    with failing_disk.disk() as disk:
        archive.write(path, *NEW)
    return disk.seen


@pytest.mark.parametrize("before", [None, OLD], ids=["no old file", "an old file"])
@pytest.mark.parametrize("fault", failing_disk.FAULTS)
def test_a_fault_at_any_call_is_raised_and_leaves_the_old_or_the_new_file(path, fault, before, report_figure):
    archive.write(path, *OLD)
    calls = calls_of_a_write(path) if before else calls_of_a_write(path.with_name("other"))
    assert {"open", "write", "fsync", "replace"} <= set(calls)
    for at, name in enumerate(calls):
        for other in path.parent.iterdir():
            other.unlink()
        if before:
            archive.write(path, *before)
        raised = False
        with failing_disk.disk(at, failing_disk.FAULTS[fault]):
            try:
                archive.write(path, *NEW)
            except OSError:
                raised = True
        # The mode and owner are best effort, and sweeping what others left is, too.
        found = archive.read(path) if path.exists() else None
        replaced = found is not None and same(found, NEW)
        assert replaced or (found is None if before is None else same(found, before)), (at, name)
        assert raised or replaced, f"{name}, call {at}: neither written nor raised"
        assert raised or name not in ("write", "fsync", "replace"), f"{name}, call {at}: not raised"
        assert os.listdir(path.parent) == ([path.name] if path.exists() else []), (at, name)
    report_figure(f"{len(calls)} calls failed with {fault}, each in turn; every file whole")


KILLS = """
import os, sys
import test_archive
from support import failing_disk
from fastmlp.files import archive
path = sys.argv[1]
archive.write(path, *test_archive.OLD)
calls = test_archive.calls_of_a_write(path)
for at, name in enumerate(calls):
    archive.write(path, *test_archive.OLD)
    child = os.fork()
    if child == 0:
        with failing_disk.disk(at, failing_disk.kill):
            archive.write(path, *test_archive.NEW)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9, name
    found = archive.read(path)
    assert test_archive.same(found, test_archive.OLD) or test_archive.same(found, test_archive.NEW), name
    archive.write(path, *test_archive.NEW)
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)], (name, "left something behind")
print(len(calls))
"""


@pytest.mark.slow  # a process, and a fork for each call
@needs.forks
def test_a_kill_at_any_call_leaves_a_whole_file_and_the_next_write_sweeps(path, report_figure):
    done = python("-c", KILLS, path, **importing(), OPENBLAS_NUM_THREADS="1")
    report_figure(f"{done.stdout.strip()} calls killed, each in turn; every file whole")


def test_writers_of_one_path_at_once_leave_one_of_their_files(path):
    contents = [({"writer": i}, {"values": np.full(1000, float(i))}) for i in range(8)]
    errors = []

    def write_often(content):
        try:
            for _ in range(20):
                archive.write(path, *content)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write_often, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            found = archive.read(path)
            assert same(found, contents[found[0]["writer"]])
    for thread in threads:
        thread.join()
    assert errors == []
    assert os.listdir(path.parent) == [path.name]


# --- damaged and crafted files --------------------------------------------------------------------------


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_and_every_shorter_file_is_refused(every, path, report_figure):
    archive.write(path, *OLD)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))] + [whole + b"\0", whole + whole]
    for place in range(0, len(whole), every):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            damaged.append(bytes(flipped))
    for content in damaged:
        path.unlink()  # Linux would have the disk written to for each file that is emptied and filled again
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a sound checkpoint: its checksum does not hold"):
            archive.read(path)
    report_figure(f"{len(damaged)} damaged files refused: every length, and the bits of one byte in {every}")


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
