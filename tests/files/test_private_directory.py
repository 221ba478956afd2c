"""Directories whose files are run: whoever else could put files there, by whatever way, has them not used."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import needs
from support.processes import python
from support.selection import quick

from fastmlp.kernels.jit import store
from fastmlp.system.private_files import (
    NO_DIRECTORY,
    OTHERS_COULD_WRITE,
    OTHERS_OWN,
    NotPrivate,
    make,
    opened,
)

pytestmark = needs.modes

STRANGER = 1234

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root acts for other users"
)


@pytest.fixture
def place(tmp_path):
    """A directory of this user's, two levels below the test's."""
    path = tmp_path / "above" / "own"
    make(path)
    return path


@pytest.fixture
def shared():
    """A directory that every user can go to."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def stranger(command, *arguments, **options):
    """Run a command as another user."""
    return subprocess.run(
        [*command, *map(str, arguments)],
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        check=True,
        **options,
    )


def refused(path, because, why=OTHERS_COULD_WRITE):
    with pytest.raises(NotPrivate) as refusal:
        opened(path)
    assert str(refusal.value) == why.format(str(because))


@pytest.mark.parametrize(("mode", "good"), [(0o755, True), (0o777, False), (0o1777, True), (0o757, False)])
def test_nobody_else_can_rename_it(place, mode, good):
    place.parent.chmod(mode)
    if good:
        assert opened(place).path == place
    else:
        refused(place, place.parent)


@needs_root
def test_a_group_on_the_way_has_no_other_member(place):
    place.parent.chmod(0o775)
    assert opened(place)  # of the group of root's name
    os.chown(place.parent, 0, STRANGER)
    opened(place)  # as it was opened before: it is held
    refused(place.parent, place.parent)
    other = place.with_name("other")
    other.mkdir(mode=0o700)
    refused(other, place.parent)


@needs_root
def test_nobody_else_owns_what_is_on_the_way(place, shared):
    os.chown(place.parent, STRANGER, STRANGER)
    refused(place, place.parent, OTHERS_OWN)
    os.chown(place.parent, 0, 0)
    shared.chmod(0o1777)
    link = shared / "link"
    stranger(["ln", "-s"], place.parent, link)
    refused(link / "own", link, OTHERS_OWN)
    link.unlink()
    link.symlink_to(place.parent)
    assert opened(link / "own").path == link / "own"


def test_links_on_the_way_are_followed_and_looked_at(place, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("above/../above/./")
    assert opened(link / "own").path == link / "own"
    place.parent.chmod(0o777)
    above = tmp_path / "link" / ".." / "above"
    refused(above / "own", above)
    open_to_all = tmp_path / "all"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    place.parent.chmod(0o755)
    (open_to_all / "link").symlink_to(place.parent)
    refused(open_to_all / "link" / "own", open_to_all)
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        opened(tmp_path / "round" / "own")


def test_it_is_itself_no_link_and_no_file(place):
    link = place.with_name("link")
    link.symlink_to(place)
    refused(link, link, NO_DIRECTORY)
    (place / "file").touch()
    refused(place / "file", place / "file", NO_DIRECTORY)


def test_it_is_looked_at_again(place):
    assert opened(place)
    place.chmod(0o720)
    refused(place, place)
    place.chmod(0o700)
    assert opened(place)


def test_what_is_put_in_its_place_is_looked_at(place):
    first = opened(place)
    first.create("file", b"first")
    away = place.with_name("away")
    place.rename(away)
    with pytest.raises(FileNotFoundError):
        opened(place)
    place.symlink_to(away)
    refused(place, place, NO_DIRECTORY)
    place.unlink()
    make(place)
    (place / "file").write_bytes(b"second")
    (place / "file").chmod(0o666)
    with pytest.raises(PermissionError):
        first.read("file")
    (place / "file").chmod(0o600)
    assert opened(place).read("file") == b"second"


@needs_root
def test_what_is_good_for_one_user_is_not_for_another(shared):
    shared.chmod(0o755)
    place = shared / "above" / "own"
    make(place)
    for path in (place.parent, place):
        os.chown(path, STRANGER, STRANGER)
    os.seteuid(STRANGER)
    try:
        assert opened(place)
    finally:
        os.seteuid(0)
    refused(place, place.parent, OTHERS_OWN)


@pytest.mark.parametrize("kind", ["link", "pipe", "others write", "a stranger's"])
def test_a_file_that_others_may_have_written_is_not_read(place, kind):
    directory = opened(place)
    directory.create("own", b"own")
    match kind:
        case "link":
            (place / "file").symlink_to("own")
        case "pipe":
            os.mkfifo(place / "file", 0o600)
        case "others write":
            (place / "file").touch()
            (place / "file").chmod(0o620)
        case _:
            if os.geteuid() != 0:
                return
            (place / "file").touch()
            os.chown(place / "file", STRANGER, STRANGER)
    with pytest.raises(OSError):  # noqa: PT011 -- ELOOP of a link, EPERM of others
        directory.read("file")
    assert directory.read("own") == b"own"


@pytest.mark.parametrize(("mask", "folder", "file"), [(0, 0o755, 0o644), (0o077, 0o700, 0o600)])
def test_what_is_made_is_writable_to_this_user_alone(tmp_path, mask, folder, file):
    before = os.umask(mask)
    try:
        make(tmp_path / "a" / "b")
        opened(tmp_path / "a" / "b").create("c", b"")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c")]
    assert modes == [folder, folder, file]


# --- the store --------------------------------------------------------------------------------------------


def test_the_store_says_which_directory_it_is(place, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(place))
    assert store.directory().path == place / "fastmlp"
    place.parent.chmod(0o777)
    monkeypatch.setenv(store.VARIABLE, str(place / "new"))
    with pytest.raises(store.StoreUnusable) as refusal:
        store.directory()
    assert str(refusal.value) == (
        f"others could write to {str(place.parent)!r}, which chmod go-w forbids; "
        f"{store.VARIABLE} can name another directory"
    )


def test_the_store_names_a_directory_that_cannot_be_used(place, monkeypatch):
    (place / "file").touch()
    monkeypatch.setenv(store.VARIABLE, str(place / "file"))
    why = NO_DIRECTORY.format(str(place / "file"))
    assert store.why_not_saved() == f"{why}; {store.VARIABLE} can name another directory"


BY_ANOTHER = """
import os, sys
from fastmlp.kernels.jit import store

user = int(sys.argv[1])
store.compiled_for(), store.package_digest()  # our sources may lie where that user cannot read
os.setgroups([]), os.setgid(user), os.setuid(user)
print(store.load("piece", "key") is not None, store.why_not_saved(), sep="\\n")
store.save("piece", "another key", store.MachineCode("f", b"", ()))
"""

ONLY_READ, UNREADABLE = "{!r} can only be read", f"{{!r}} cannot be used ({os.strerror(errno.EACCES)})"


def each_file(change):
    return lambda place: [change(file) for file in place.iterdir()]


ROOTS = {
    # what root does with its cache, what another user finds there, and why that user keeps nothing there
    "nothing": (lambda place: None, True, ONLY_READ),
    "a sticky folder above": (lambda place: place.parent.chmod(0o1777), True, ONLY_READ),
    "modes of 0700": (lambda place: place.chmod(0o700), False, UNREADABLE),
    "a group that may write": (lambda place: place.chmod(0o775), False, OTHERS_COULD_WRITE),
    "another owner": (lambda place: os.chown(place, 4321, 4321), False, OTHERS_OWN),
    "files that others may write": (each_file(lambda file: file.chmod(0o666)), False, ONLY_READ),
    "files of another user": (each_file(lambda file: os.chown(file, 4321, 4321)), False, ONLY_READ),
}


@quick(2)
@needs_root
@pytest.mark.parametrize("what", ROOTS)
def test_what_root_has_compiled_is_read_by_others(shared, monkeypatch, what):
    """As in an image of a container that root has warmed up, and that runs as another user."""
    shared.chmod(0o755)
    monkeypatch.setenv(store.VARIABLE, str(shared))
    store.save("piece", "key", store.MachineCode("f", b"code", ()))
    place = shared / "fastmlp"
    before = sorted(place.iterdir())
    change, found, why = ROOTS[what]
    change(place)
    done = python("-c", BY_ANOTHER, STRANGER)
    assert done.stdout.splitlines() == [
        str(found), f"{why.format(str(place))}; {store.VARIABLE} can name another directory"
    ]  # fmt: skip
    assert done.stderr == ""
    assert sorted(place.iterdir()) == before


IN_A_CONTAINER = """
import ctypes, os, sys
from fastmlp.kernels.jit import store

PR_SET_DUMPABLE, CLONE_NEWUSER, user, libc = 4, 0x10000000, int(sys.argv[1]), ctypes.CDLL(None)
store.package_digest()  # read while the sources can be: an environment in a private folder is root's
os.setgroups([]), os.setgid(user), os.setuid(user)
libc.prctl(PR_SET_DUMPABLE, 1)  # which a change of the user takes from a process
if libc.unshare(CLONE_NEWUSER):  # it takes a process of one thread
    sys.exit("no user may make a container")
with open("/proc/self/uid_map", "w") as file:
    file.write(f"{user} {user} 1")
assert os.stat("/").st_uid not in (0, user)
try:
    print(store.directory().path)
except store.StoreUnusable as refused:
    print(refused)
"""


@needs_root
@needs.reads_proc
def test_a_container_without_root_has_it_as_nobody(shared):
    """As Apptainer's: `/` belongs to nobody there."""
    command = [sys.executable, "-c", IN_A_CONTAINER, str(STRANGER)]

    def found():
        environment = {**os.environ, store.VARIABLE: str(shared), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if "no user may make a container" in done.stderr:
            pytest.skip("the system lets users make no containers")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    shared.chmod(0o1777)
    assert found() == str(shared / "fastmlp")
    shared.chmod(0o777)
    assert found().startswith(OTHERS_COULD_WRITE.format(str(shared)))
