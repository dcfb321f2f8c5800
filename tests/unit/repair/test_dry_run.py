"""A dry run behaves as the file system it stands on would, and changes nothing of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.fs import FileSystem, LocalFileSystem, replace_atomically
from logstore.repair import DryRunFileSystem
from logstore.testing import ManualClock, MemoryFileSystem

MIB = 1 << 20
NAMES = ["d/a", "d/b", "d/c", "e/a", "new"]
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 40), st.binary(max_size=20)),
    st.tuples(st.just("copy"), st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 30)),
    st.tuples(st.just("truncate"), st.sampled_from(NAMES), st.integers(0, 40)),
    st.tuples(st.just("rename"), st.sampled_from([*NAMES, "d", "e", "f"]), st.sampled_from([*NAMES, "d", "e", "f"])),
    st.tuples(st.just("unlink"), st.sampled_from([*NAMES, "d"])),
    st.tuples(st.just("make_directory"), st.sampled_from(["d", "e", "f", "d/sub/below", "d/a"])),
    st.tuples(st.just("map"), st.sampled_from(NAMES)),
)


def filled() -> MemoryFileSystem:
    fs = MemoryFileSystem(ManualClock())
    fs.write_bytes("d/a", bytes(range(32)))
    fs.write_bytes("d/b", b"second")
    fs.write_bytes("e/a", b"")
    return fs


def done(fs: FileSystem, operation: tuple[Any, ...], maps: list[Any]) -> object:
    """What an operation gives, or the number of its error."""
    kind, *arguments = operation
    try:
        if kind == "write":
            with fs.open(arguments[0], write=True, create=True) as file:
                file.write(arguments[1], arguments[2])
        elif kind == "copy":
            with fs.open(arguments[0]) as source, fs.open(arguments[1], write=True, create=True) as target:
                target.write(arguments[2], source.read(3, 11))
        elif kind == "truncate":
            with fs.open(arguments[0], write=True) as file:
                file.truncate(max(arguments[1], *[len(one.view) for one in maps], 0) if maps else arguments[1])
        elif kind == "map":
            with fs.open(arguments[0]) as file:
                maps.append(file.map())
        else:
            getattr(fs, kind)(*arguments)
    except OSError as error:
        return error.errno
    return None


def tree(fs: FileSystem, directory: str = ".") -> dict[str, bytes | None]:
    """All that a file system says of itself: names, kinds, sizes and bytes."""
    found: dict[str, bytes | None] = {}
    for name in fs.list(directory):
        path = name if directory == "." else f"{directory}/{name}"
        assert fs.exists(path)
        if fs.is_directory(path):
            found[path] = None
            found |= tree(fs, path)
        else:
            with fs.open(path) as file:
                found[path] = file.read(0, 1000)
                assert file.size() == fs.file_size(path) == len(found[path] or b"")
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(OPERATIONS, max_size=25))
def test_it_does_what_the_file_system_below_would_do_and_leaves_that_alone(operations: list[tuple[Any, ...]]) -> None:
    plain, below = filled(), filled()
    dry = DryRunFileSystem(below, clock=ManualClock())
    before, count = below.tree(), below.operations
    plain_maps: list[Any] = []
    dry_maps: list[Any] = []
    for operation in operations:
        assert done(dry, operation, dry_maps) == done(plain, operation, plain_maps), operation
        assert tree(dry) == tree(plain), operation
    assert (below.tree(), below.operations) == (before, count)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.binary(max_size=9)), max_size=20))
def test_a_map_of_what_was_written_shows_what_is_written_since(writes: list[tuple[int, bytes]]) -> None:
    dry = DryRunFileSystem(MemoryFileSystem())
    with dry.open("index", write=True, create=True) as file:
        file.truncate(64)
        file.write(0, b"first")
        mapped = file.map()
        for position, data in writes:
            file.write(position, data)
        assert bytes(mapped.view) == file.read(0, 64)


# ---------------------------------------------------------------- on a real directory


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "log").write_bytes(os.urandom(3 * MIB))
    return tmp_path / "d"


def test_nothing_of_a_real_directory_changes(place: Path, tree_unchanged: Callable[..., Any]) -> None:
    dry = DryRunFileSystem(LocalFileSystem())
    with tree_unchanged(place):
        with dry.open(place / "log", write=True) as file:
            file.truncate(10)
            file.write(0, b"other")
            file.sync()
        replace_atomically(dry, place / "checkpoint", b"0\n")
        dry.rename(place / "log", place / "log.deleted")
        dry.set_modified_ms(place / "checkpoint", 5)
        dry.unlink(place / "log.deleted")
        lock = dry.lock(place / ".lock")
        assert lock is not None and lock.is_held
        assert dry.lock(place / ".lock") is None
        lock.release()
        assert dry.lock(place / ".lock") is not None
        dry.sync_directory(place)
        assert dry.list(place) == [".lock", "checkpoint"]
        assert dry.modified_ms(place / "checkpoint") == 5


def test_a_lock_that_somebody_holds_is_respected_and_left_to_them(place: Path) -> None:
    real = LocalFileSystem()
    held = real.lock(place / ".lock")
    assert held is not None
    before = (place / ".lock").stat().st_mtime_ns
    dry = DryRunFileSystem(real)
    assert dry.lock(place / ".lock") is None
    assert held.is_held and real.lock(place / ".lock") is None
    held.release()
    mine = dry.lock(place / ".lock")
    assert mine is not None
    assert (place / ".lock").stat().st_mtime_ns == before
    again = real.lock(place / ".lock")  # a dry run keeps nobody out
    assert again is not None
    again.release()


def test_times_are_those_of_the_files_until_they_change(place: Path) -> None:
    dry = DryRunFileSystem(LocalFileSystem(), clock=ManualClock(77))
    real = LocalFileSystem().modified_ms(place / "log")
    assert dry.modified_ms(place / "log") == real
    dry.rename(place / "log", place / "moved")
    assert dry.modified_ms(place / "moved") == real
    with dry.open(place / "moved", write=True) as file:
        file.truncate(0)
    assert dry.modified_ms(place / "moved") == 77


def test_what_a_file_may_not_is_what_it_may_not_really(place: Path) -> None:
    dry = DryRunFileSystem(LocalFileSystem())
    (place / "empty").mkdir()
    tried: list[tuple[int, Callable[[], object]]] = [
        (errno.ENOENT, lambda: dry.open(place / "missing")),
        (errno.ENOENT, lambda: dry.open(place / "no" / "x", write=True, create=True)),
        (errno.EEXIST, lambda: dry.open(place / "log", exclusive=True, write=True)),
        (errno.EISDIR, lambda: dry.open(place)),
        (errno.ENOENT, lambda: dry.unlink(place / "missing")),
        (errno.EISDIR, lambda: dry.unlink(place / "empty")),
        (errno.ENOENT, lambda: dry.rename(place / "missing", place / "x")),
        (errno.EISDIR, lambda: dry.rename(place / "log", place / "empty")),
        (errno.ENOENT, lambda: dry.list(place / "missing")),
        (errno.ENOENT, lambda: dry.modified_ms(place / "missing")),
        (errno.EBADF, lambda: dry.open(place / "log").write(0, b"x")),
        (errno.EINVAL, lambda: dry.open(place / "log").read(-1, 1)),
        (errno.EINVAL, lambda: dry.open(place / "log", write=True).truncate(-1)),
    ]
    for number, one in tried:
        with pytest.raises(OSError) as caught:
            one()
        assert caught.value.errno == number
    file = dry.open(place / "log")
    file.close()
    with pytest.raises(ValueError, match="is closed"):
        file.read(0, 1)


# ---------------------------------------------------------------- memory


def test_a_copy_of_a_real_file_is_kept_by_reference(place: Path) -> None:
    dry = DryRunFileSystem(LocalFileSystem())
    with dry.open(place / "log") as source, dry.open(place / "copy", write=True, create=True) as copy:
        for position in range(0, 2 * MIB, MIB):
            copy.write(position, source.read(position + 100, MIB))
        assert dry._tray.spool._size == 0
        mapped = copy.map()
        assert bytes(mapped.view) == copy.read(0, 9 * MIB) == (place / "log").read_bytes()[100 : 100 + 2 * MIB]
        copy.write(MIB, b"!")
        assert dry._tray.spool._size == 1
        assert copy.read(MIB - 1, 3)[1:2] == b"!"
    assert stat.S_ISREG((place / "log").stat().st_mode)


def test_what_is_written_beyond_a_bound_leaves_memory(place: Path) -> None:
    dry = DryRunFileSystem(LocalFileSystem())
    pieces = [bytes([number]) * MIB for number in range(40)]
    with dry.open(place / "new", write=True, create=True) as file:
        for number, piece in enumerate(pieces):
            file.write(number * MIB, piece)
        assert dry._tray.spool._file._rolled  # type: ignore[attr-defined]
        assert all(file.read(number * MIB, MIB) == piece for number, piece in enumerate(pieces))
    assert sorted(os.listdir(place)) == ["log"]
