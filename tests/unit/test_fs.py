"""File systems: one suite of behaviour for the real one and for the one in memory, so that the fake is held to it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.fs import File, LocalFileSystem, OpenLock, SharingFileSystem, replace_atomically
from logstore.testing import MemoryFileSystem

LOCAL = LocalFileSystem()


class Place:
    """A directory to try things in, with verbs."""

    def __init__(self, fs: SharingFileSystem, root: str) -> None:
        self.fs = fs
        self.root = root

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def create(self, name: str, data: bytes = b"") -> File:
        file = self.fs.open(self.path(name), write=True, exclusive=True)
        file.write(0, data)
        return file

    def put(self, name: str, data: bytes = b"") -> str:
        self.create(name, data).close()
        return self.path(name)

    def content(self, name: str) -> bytes:
        with self.fs.open(self.path(name)) as file:
            return file.read(0, file.size() + 1)


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(LocalFileSystem(), str(tmp_path))
    fs = MemoryFileSystem()
    fs.make_directory("/data")
    return Place(fs, "/data")


# --- files ---


def test_bytes_are_read_back_by_position(place: Place) -> None:
    with place.create("a", b"hello world") as file:
        assert (file.read(0, 5), file.read(6, 5), file.size()) == (b"hello", b"world", 11)


def test_a_read_is_short_only_at_the_end(place: Place) -> None:
    with place.create("a", b"hello") as file:
        assert (file.read(3, 10), file.read(5, 10), file.read(99, 10), file.read(0, 0)) == (b"lo", b"", b"", b"")


def test_a_write_replaces_what_was_there_and_extends_the_file(place: Place) -> None:
    with place.create("a", b"hello") as file:
        file.write(1, b"E")
        file.write(4, b"O!!")
        assert file.read(0, 99) == b"hEllO!!"


def test_a_gap_before_a_write_is_zeros(place: Place) -> None:
    with place.create("a", b"x") as file:
        file.write(4, b"y")
        file.write(9, b"")
        assert file.read(0, 99) == b"x\0\0\0y"


@pytest.mark.parametrize("data", [b"abcd", bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"abcd").cast("H")])
def test_buffers_of_every_kind_are_written_whole(place: Place, data: bytes | bytearray | memoryview) -> None:
    with place.create("a") as file:
        file.write(0, data)
        assert file.read(0, 99) == b"abcd"


def test_truncating_cuts_a_file_or_extends_it_with_zeros(place: Place) -> None:
    with place.create("a", b"hello") as file:
        file.truncate(2)
        assert file.read(0, 99) == b"he"
        file.truncate(4)
        assert (file.read(0, 99), file.size()) == (b"he\0\0", 4)


def test_all_who_have_a_file_open_see_what_one_writes(place: Place) -> None:
    with place.create("a") as file, place.fs.open(place.path("a")) as reader:
        file.write(0, b"new")
        assert (reader.size(), reader.read(0, 9)) == (3, b"new")


def test_a_file_opened_for_reading_refuses_changes_and_says_which_it_is(place: Place) -> None:
    with place.fs.open(place.put("a", b"hello")) as file:
        changes: list[Callable[[], object]] = [lambda: file.write(0, b"x"), lambda: file.truncate(0)]
        for change in changes:
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.filename == place.path("a")
    assert place.content("a") == b"hello"


def test_negative_positions_and_sizes_are_refused(place: Place) -> None:
    with place.create("a", b"hello") as file:
        tried: list[Callable[[], object]] = [
            lambda: file.read(-1, 1),
            lambda: file.read(0, -1),
            lambda: file.write(-1, b"x"),
            lambda: file.truncate(-1),
        ]
        for one in tried:
            with pytest.raises(OSError) as caught:
                one()
            assert caught.value.errno == errno.EINVAL
        assert file.read(0, 99) == b"hello"


def test_text_is_not_written(place: Place) -> None:
    with place.create("a") as file, pytest.raises(TypeError):
        file.write(0, "text")  # type: ignore[arg-type]


def test_a_closed_file_refuses_everything_but_closing(place: Place) -> None:
    file = place.create("a", b"hello")
    with file:
        pass
    file.close()
    tried: list[Callable[[], object]] = [
        file.size,
        file.sync,
        file.map,
        lambda: file.read(0, 1),
        lambda: file.write(0, b"x"),
        lambda: file.truncate(0),
    ]
    for one in tried:
        with pytest.raises(ValueError, match="is closed"):
            one()
    assert "closed" in repr(file) and place.content("a") == b"hello"


def test_a_file_shows_its_path_and_size(place: Place) -> None:
    with place.create("a", b"hello") as file:
        assert file.path == place.path("a")
        assert place.path("a") in repr(file) and "size 5" in repr(file)


def test_syncing_succeeds_for_writers_and_readers(place: Place) -> None:
    with place.create("a", b"hello") as file, place.fs.open(place.path("a")) as reader:
        file.sync()
        reader.sync()
    place.fs.sync_directory(place.root)
    assert place.content("a") == b"hello"


# --- opening ---


def test_a_missing_file_is_not_opened_unless_it_is_to_be_created(place: Place) -> None:
    for write in (False, True):
        with pytest.raises(FileNotFoundError) as caught:
            place.fs.open(place.path("a"), write=write)
        assert caught.value.filename == place.path("a")
    with place.fs.open(place.path("a"), write=True, create=True) as file:
        assert file.size() == 0


def test_creating_a_file_that_is_there_keeps_its_bytes(place: Place) -> None:
    with place.fs.open(place.put("a", b"hello"), write=True, create=True) as file:
        assert file.read(0, 9) == b"hello"


def test_an_exclusive_file_must_be_new(place: Place) -> None:
    place.put("a", b"hello")
    place.fs.make_directory(place.path("d"))
    for name in ("a", "d"):
        with pytest.raises(FileExistsError):
            place.fs.open(place.path(name), write=True, exclusive=True)
    assert place.content("a") == b"hello"


def test_a_directory_is_not_opened_as_a_file(place: Place) -> None:
    for write in (False, True):
        with pytest.raises(IsADirectoryError):
            place.fs.open(place.root, write=write)


def test_a_file_is_no_directory_to_create_in(place: Place) -> None:
    place.put("a")
    with pytest.raises(NotADirectoryError):
        place.fs.open(place.path("a/b"), write=True, create=True)
    with pytest.raises(FileNotFoundError):
        place.fs.open(place.path("none/b"), write=True, create=True)


def test_paths_may_be_path_objects(place: Place) -> None:
    with place.fs.open(Path(place.put("a"))) as file:
        assert file.path == place.path("a")


# --- directories and names ---


def test_a_directorys_names_are_listed_in_order(place: Place) -> None:
    for name in ("b", "a", "c"):
        place.put(name)
    place.fs.make_directory(place.path("Z/y"))
    assert place.fs.list(place.root) == ["Z", "a", "b", "c"]
    with pytest.raises(FileNotFoundError):
        place.fs.list(place.path("none"))
    with pytest.raises(NotADirectoryError):
        place.fs.list(place.path("a"))


def test_directories_are_made_with_those_above_them_and_may_be_there(place: Place) -> None:
    for _ in range(2):
        place.fs.make_directory(place.path("x/y/z"))
    place.fs.make_directory(place.path("x/w/"))
    assert place.fs.list(place.path("x")) == ["w", "y"]


def test_a_directory_does_not_take_the_place_of_a_file(place: Place) -> None:
    place.put("a", b"hello")
    with pytest.raises(FileExistsError):
        place.fs.make_directory(place.path("a"))
    for below in ("a/b", "a/b/c"):
        with pytest.raises(NotADirectoryError):
            place.fs.make_directory(place.path(below))
    assert place.content("a") == b"hello"


def test_files_and_directories_are_told_apart(place: Place) -> None:
    place.put("a")
    place.fs.make_directory(place.path("d"))
    facts = {
        name: (place.fs.exists(place.path(name)), place.fs.is_directory(place.path(name)))
        for name in ("a", "d", "none", "a/b", "none/b")
    }
    assert facts == {
        "a": (True, False),
        "d": (True, True),
        "none": (False, False),
        "a/b": (False, False),
        "none/b": (False, False),
    }


def test_the_empty_path_names_nothing(place: Place) -> None:
    assert not place.fs.exists("")
    for one in (place.fs.open, place.fs.sync_directory, place.fs.list, place.fs.unlink):
        with pytest.raises(FileNotFoundError):
            one("")


def test_renaming_replaces_the_file_that_has_the_name(place: Place) -> None:
    place.fs.rename(place.put("new", b"new"), place.put("old", b"old"))
    assert (place.fs.list(place.root), place.content("old")) == (["old"], b"new")


def test_renaming_a_file_to_itself_changes_nothing(place: Place) -> None:
    place.fs.rename(place.put("a", b"hello"), place.path("a"))
    assert place.content("a") == b"hello"


def test_renaming_moves_directories_with_what_is_in_them(place: Place) -> None:
    place.fs.make_directory(place.path("d/e"))
    place.fs.make_directory(place.path("empty"))
    place.put("d/e/a", b"hello")
    place.fs.rename(place.path("d/e"), place.path("empty"))
    assert (place.fs.list(place.path("d")), place.content("empty/a")) == ([], b"hello")


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("none", "x", FileNotFoundError),
        ("a", "none/x", FileNotFoundError),
        ("a", "d", IsADirectoryError),
        ("d", "a", NotADirectoryError),
        ("a", "a/x", NotADirectoryError),
        ("e", "d", OSError),
        ("d", "d/x", OSError),
    ],
)
def test_a_rename_that_is_refused_changes_nothing(place: Place, source: str, target: str, error: type[OSError]) -> None:
    place.put("a", b"hello")
    place.fs.make_directory(place.path("d"))
    place.fs.make_directory(place.path("e"))
    place.put("d/b")
    with pytest.raises(error):
        place.fs.rename(place.path(source), place.path(target))
    assert (place.fs.list(place.root), place.fs.list(place.path("d"))) == (["a", "d", "e"], ["b"])


def test_an_open_file_goes_on_working_when_renamed_and_when_unlinked(place: Place) -> None:
    with place.create("a", b"hello") as file:
        place.fs.rename(place.path("a"), place.path("b"))
        file.write(5, b"!")
        assert place.content("b") == b"hello!"
        place.fs.unlink(place.path("b"))
        file.write(6, b"!")
        file.sync()
        assert (file.read(0, 99), file.size(), place.fs.list(place.root)) == (b"hello!!", 7, [])


def test_unlinking_removes_a_file_and_no_directory(place: Place) -> None:
    place.fs.unlink(place.put("a"))
    assert not place.fs.exists(place.path("a"))
    with pytest.raises(FileNotFoundError):
        place.fs.unlink(place.path("a"))
    place.fs.unlink(place.path("a"), missing_ok=True)
    place.fs.make_directory(place.path("d"))
    with pytest.raises((IsADirectoryError, PermissionError)):
        place.fs.unlink(place.path("d"))


def test_only_a_directory_that_is_there_can_be_synced(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.fs.sync_directory(place.path("none"))
    with pytest.raises(NotADirectoryError):
        place.fs.sync_directory(place.put("a"))


def test_the_time_of_a_change_can_be_set(place: Place) -> None:
    path = place.put("a")
    place.fs.set_modified_ms(path, 1_700_000_000_123)
    assert place.fs.modified_ms(path) == 1_700_000_000_123
    with place.fs.open(path, write=True) as file:
        file.write(0, b"x")
    assert place.fs.modified_ms(path) != 1_700_000_000_123
    with pytest.raises(FileNotFoundError):
        place.fs.modified_ms(place.path("none"))


# --- maps ---


def test_a_map_shows_the_bytes_the_file_had_and_what_is_written_there_since(place: Place) -> None:
    with place.create("a", b"hello") as file:
        mapped = file.map()
        file.write(4, b"O world")
        assert bytes(mapped.view) == b"hellO"
        mapped.close()


def test_a_map_is_read_only(place: Place) -> None:
    with place.create("a", b"hello") as file:
        mapped = file.map()
        assert mapped.view.readonly
        mapped.close()


def test_an_empty_file_has_an_empty_map(place: Place) -> None:
    with place.create("a") as file:
        mapped = file.map()
        assert (len(mapped.view), mapped.view.readonly) == (0, True)
        mapped.close()
        mapped.close()


def test_a_map_outlives_the_file_its_name_and_its_replacement(place: Place) -> None:
    with place.create("a", b"hello") as file:
        mapped = file.map()
    place.fs.rename(place.put("b", b"other"), place.path("a"))
    place.fs.unlink(place.path("a"))
    assert bytes(mapped.view) == b"hello"
    mapped.close()
    with pytest.raises(ValueError):
        mapped.view[0]


def test_a_slice_outlives_the_map_it_was_taken_from(place: Place) -> None:
    with place.create("a", b"hello") as file:
        mapped = file.map()
    piece = mapped.view[1:4]
    mapped.close()
    mapped.close()
    assert bytes(piece) == b"ell"


# --- replacing ---


def test_replacing_a_file_leaves_the_new_bytes_and_nothing_else(place: Place) -> None:
    for data in (b"first", bytearray(b"second, longer"), memoryview(b"3"), b""):
        replace_atomically(place.fs, place.path("a"), data)
        assert (place.content("a"), place.fs.list(place.root)) == (bytes(data), ["a"])


def test_replacing_a_file_takes_no_byte_of_what_a_crash_left_behind(place: Place) -> None:
    place.put("a.tmp", b"left behind, and longer")
    replace_atomically(place.fs, Path(place.path("a")), b"new")
    assert (place.content("a"), place.fs.list(place.root)) == (b"new", ["a"])


def test_a_file_without_a_directory_in_its_path_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for fs in (LocalFileSystem(), MemoryFileSystem()):
        replace_atomically(fs, "a", b"new")
        assert fs.list(".") == ["a"]


# --- locks ---


def test_a_lock_is_held_by_one_until_it_is_released(place: Place) -> None:
    path = place.path(".lock")
    lock = place.fs.lock(path)
    assert lock is not None and lock.is_held and lock.path == path and "held" in repr(lock)
    assert place.fs.exists(path)
    assert place.fs.lock(path) is None
    lock.release()
    lock.release()
    assert not lock.is_held and "released" in repr(lock)
    again = place.fs.lock(path)
    assert again is not None
    lock.release()
    assert place.fs.lock(path) is None
    again.release()


def test_a_lock_whose_file_is_unlinked_before_its_release_leaves_nothing(place: Place) -> None:
    lock = place.fs.lock(place.path(".lock"))
    assert lock is not None
    place.fs.unlink(lock.path)
    lock.release()
    assert place.fs.list(place.root) == []


def test_a_lock_needs_a_file_that_can_be_written(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.fs.lock(place.path("none/.lock"))
    with pytest.raises(IsADirectoryError):
        place.fs.lock(place.root)


def test_different_files_are_locked_independently(place: Place) -> None:
    locks = [place.fs.lock(place.path(name)) for name in ("a", "b")]
    assert all(locks)
    for lock in locks:
        assert lock is not None
        lock.release()


# --- locks of those who opened a file ---


@pytest.fixture
def open_locks(place: Place) -> Iterator[Callable[[], OpenLock]]:
    """Open one lock file again and again."""
    opened: list[OpenLock] = []

    def open_one() -> OpenLock:
        opened.append(place.fs.open_lock(place.path("turn")))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_an_open_lock_belongs_to_who_opened_it(place: Place, open_locks: Callable[[], OpenLock]) -> None:
    one, other = open_locks(), open_locks()
    assert one.path == place.path("turn") and place.fs.list(place.root) == ["turn"]
    assert one.acquire() and one.acquire()
    assert not other.acquire() and not other.acquire(shared=True)
    one.release()
    one.release()
    assert other.acquire(wait=True)
    assert not one.acquire()


def test_an_open_lock_is_shared_by_any_number_or_held_by_one(open_locks: Callable[[], OpenLock]) -> None:
    first, second, third = open_locks(), open_locks(), open_locks()
    assert first.acquire(shared=True) and second.acquire(shared=True)
    assert not third.acquire() and not first.acquire()
    second.release()
    assert first.acquire(), "it becomes of the other kind"
    assert not second.acquire(shared=True)
    assert first.acquire(shared=True) and second.acquire(shared=True)


def test_an_open_lock_goes_when_it_is_closed(open_locks: Callable[[], OpenLock]) -> None:
    one, other = open_locks(), open_locks()
    assert "open" in repr(one) and one.acquire()
    one.close()
    one.close()
    one.release()
    assert "closed" in repr(one) and other.acquire()
    for use in (one.acquire, lambda: one.read(1), lambda: one.write(b"x")):
        with pytest.raises((OSError, ValueError)):
            use()


def test_who_waits_for_an_open_lock_gets_it_once_it_is_released(open_locks: Callable[[], OpenLock]) -> None:
    one, other = open_locks(), open_locks()
    assert one.acquire()
    done: list[bool] = []
    waiting = threading.Thread(target=lambda: done.append(other.acquire(wait=True)))
    waiting.start()
    assert done == []
    one.release()
    waiting.join(60)
    assert done == [True] and not one.acquire()


def test_what_one_writes_into_an_open_lock_others_read(place: Place, open_locks: Callable[[], OpenLock]) -> None:
    one, other = open_locks(), open_locks()
    assert other.read(9) == b""
    one.write(b"hello")
    one.write(b"HE")
    one.write(b"O!", 4)
    assert (other.read(3), other.read(9), place.content("turn")) == (b"HEl", b"HEllO!", b"HEllO!")
    place.fs.rename(place.path("turn"), place.path("turned"))
    one.write(b"J")
    assert place.content("turned") == b"JEllO!"
    assert place.fs.open_lock(place.path("turn")).acquire(), "another file of the same name"


def test_both_kinds_of_locks_keep_each_other_out(place: Place, open_locks: Callable[[], OpenLock]) -> None:
    one = open_locks()
    for shared in (False, True):
        assert one.acquire(shared=shared)
        assert place.fs.lock(one.path) is None
        one.release()
    one.close()
    lock = place.fs.lock(one.path)
    assert lock is not None
    with pytest.raises(BlockingIOError):
        open_locks()
    lock.release()
    assert open_locks().acquire()


def test_an_open_lock_needs_a_file_that_can_be_written(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.fs.open_lock(place.path("none/turn"))
    with pytest.raises(IsADirectoryError):
        place.fs.open_lock(place.root)


def test_only_an_empty_directory_is_removed(place: Place) -> None:
    place.fs.make_directory(place.path("d"))
    place.put("d/a")
    for name, error in (("d", OSError), ("d/a", NotADirectoryError), ("none", FileNotFoundError)):
        with pytest.raises(error):
            place.fs.remove_directory(place.path(name))
    place.fs.unlink(place.path("d/a"))
    place.fs.remove_directory(place.path("d"))
    assert place.fs.list(place.root) == []


LOCK_AS_KAFKA_DOES = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("refused", flush=True)
else:
    print("locked", flush=True)
    sys.stdin.read()
"""

FORK_WITH_A_LOCK = """
import os, sys
from logstore.fs import LocalFileSystem

def say(who):
    lock = fs.lock(sys.argv[1])
    os.write(1, f"{who} {lock}\\n".replace(sys.argv[1], "it").encode())

fs = LocalFileSystem()
lock = fs.lock(sys.argv[1])
(tried, has_tried), (released, has_released) = os.pipe(), os.pipe()
if os.fork() == 0:
    lock.release()  # the child's own copy: the parent goes on holding it
    say("child")
    os.write(has_tried, b"x")
    os.read(released, 1)
    say("child")
    os._exit(0)
os.read(tried, 1)
say("parent")
lock.release()
os.write(has_released, b"x")
sys.exit(os.wait()[1])
"""


@pytest.fixture
def other_process() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a process that locks a file as Kafka does, says what came of it, and ends with its standard input."""
    started: list[subprocess.Popen[str]] = []

    def start(path: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOCK_AS_KAFKA_DOES, path]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_lock_of_another_process_is_respected_until_that_ends(
    tmp_path: Path, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    path = tmp_path / ".lock"
    path.touch()
    process = other_process(str(path))
    assert said(process) == "locked"
    assert LOCAL.lock(path) is None
    process.communicate()
    lock = LOCAL.lock(path)
    assert lock is not None
    lock.release()


def test_another_process_respects_our_lock_also_after_we_tried_to_take_it_twice(
    tmp_path: Path, other_process: Callable[[str], subprocess.Popen[str]]
) -> None:
    path = str(tmp_path / ".lock")
    lock = LOCAL.lock(path)
    assert lock is not None
    (tmp_path / "by-another-name").symlink_to(path)
    assert LocalFileSystem().lock(path) is LocalFileSystem().lock(tmp_path / "by-another-name") is None
    assert said(other_process(path)) == "refused"
    lock.release()
    assert said(other_process(path)) == "locked"


def test_a_forked_child_holds_no_lock_of_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK_WITH_A_LOCK, str(tmp_path / ".lock")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["child None", "parent None", "child <LocalFileLock it held>"]


# --- the operating system's own ways ---


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, pread = os.pwrite, os.pread
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: pwrite(fd, memoryview(data)[:3], position))
    monkeypatch.setattr(os, "pread", lambda fd, size, position: pread(fd, min(size, 2), position))
    with LOCAL.open(tmp_path / "a", write=True, create=True) as file:
        file.write(0, b"0123456789")
        assert (file.read(1, 5), file.read(1, 99)) == (b"12345", b"123456789")


def test_a_write_that_gets_nowhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, position: 0)
    with LOCAL.open(tmp_path / "a", write=True, create=True) as file, pytest.raises(OSError, match="0 of 10 bytes"):
        file.write(0, b"0123456789")


WRITE_BEYOND_THE_LIMIT = """
import resource, sys
from logstore.fs import LocalFileSystem
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with LocalFileSystem().open(sys.argv[1], write=True, create=True) as file:
    try:
        file.write(0, bytes(range(150)))
    except OSError as error:
        print(error.errno, error.filename)
"""


def test_a_write_that_the_kernel_cuts_short_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    command = [sys.executable, "-c", WRITE_BEYOND_THE_LIMIT, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert done.stdout.strip() == f"{errno.EFBIG} {path}"
    assert path.read_bytes() == bytes(range(100))


def test_without_fdatasync_a_file_is_synced_by_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.setattr(os, "fsync", synced.append)
    with LOCAL.open(tmp_path / "a", write=True, create=True) as file:
        file.sync()
    assert len(synced) == 1


def test_a_failed_sync_of_a_directory_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as caught:
        LOCAL.sync_directory(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))


def test_new_files_cannot_be_executed(tmp_path: Path) -> None:
    LOCAL.open(tmp_path / "a", write=True, create=True).close()
    lock = LOCAL.lock(tmp_path / ".lock")
    assert lock is not None
    lock.release()
    assert all(path.stat().st_mode & 0o111 == 0 for path in tmp_path.iterdir())


def test_a_map_gives_its_descriptor_back(tmp_path: Path) -> None:
    with LOCAL.open(tmp_path / "a", write=True, create=True) as file:
        file.write(0, b"hello")
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for _ in range(10):
            mapped = file.map()
            piece = mapped.view[:1]
            mapped.close()
            del piece
        assert not before or len(os.listdir("/proc/self/fd")) == before


# --- both at once ---

names = st.sampled_from(["a", "b", "d", "d/a", "d/e", "d/e/a"])
positions = st.integers(0, 20)
steps = st.one_of(
    st.tuples(st.just("open"), names, st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.just("write"), names, positions, st.binary(max_size=9)),
    st.tuples(st.just("truncate"), names, positions),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("unlink"), names, st.booleans()),
    st.tuples(st.just("make_directory"), names),
    st.tuples(st.just("remove_directory"), names),
    st.tuples(st.just("list"), names),
    st.tuples(st.just("facts"), names),
)


def outcome(fs: SharingFileSystem, root: str, step: tuple[object, ...]) -> object:
    """What a step gives, or the number of the error it ends in."""
    kind, name, *rest = step
    path = f"{root}/{name}"
    try:
        match kind, rest:
            case "open", [bool(write), bool(create), bool(exclusive)]:
                fs.open(path, write=write, create=create, exclusive=exclusive).close()
            case "write", [int(position), bytes(data)]:
                with fs.open(path, write=True, create=True) as file:
                    file.write(position, data)
                    return file.size(), file.read(0, 99)
            case "truncate", [int(size)]:
                with fs.open(path, write=True) as file:
                    file.truncate(size)
            case "rename", [target]:
                fs.rename(path, f"{root}/{target}")
            case "unlink", [bool(missing_ok)]:
                fs.unlink(path, missing_ok)
            case "make_directory", []:
                fs.make_directory(path)
            case "remove_directory", []:
                fs.remove_directory(path)
            case "list", []:
                return fs.list(path)
            case "facts", []:
                return fs.exists(path), fs.is_directory(path)
    except OSError as error:
        return error.errno
    return None


@given(st.lists(steps, max_size=25))
@settings(deadline=None, database=None, max_examples=150)
def test_any_steps_have_the_same_outcome_on_disk_and_in_memory(script: list[tuple[object, ...]]) -> None:
    memory = MemoryFileSystem()
    memory.make_directory("/root")
    with tempfile.TemporaryDirectory() as root:
        for step in script:
            assert outcome(LOCAL, root, step) == outcome(memory, "/root", step), step
        files = {
            path.relative_to(root).as_posix(): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()
        }
    assert files == {path.removeprefix("root/"): data for path, data in memory.tree().items()}
