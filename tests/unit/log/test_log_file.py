"""The log file of a segment: what is cut in place and what is replaced, and readers that nothing disturbs."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.segments import FILE_SYSTEMS, Place, read_while

from logstore.errors import LogClosedError
from logstore.fs import Buffer, FileSystem
from logstore.log import log_file
from logstore.log.log_file import LogFile
from logstore.log.maps import MapCache
from logstore.testing import MemoryFileSystem
from logstore.testing.memory_file import MemoryFile

FULL = OSError(28, "No space left on device")


class Bench:
    """A log file with ten bytes in it."""

    def __init__(self, fs: FileSystem, directory: Path, *, has_spare_room: bool = False) -> None:
        self.fs = fs
        self.maps = MapCache(fs)
        self.path = directory / "00000000000000000000.log"
        self.file = LogFile(fs, self.path, self.maps, has_spare_room=has_spare_room)
        self.file.create(0)
        self.file.write(0, b"0123456789")

    @property
    def content(self) -> bytes:
        with self.fs.open(self.path) as file:
            return file.read(0, file.size())


@pytest.fixture(params=FILE_SYSTEMS)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    place = Place.on(request.param, tmp_path)
    monkeypatch.setattr(log_file, "_MAP_STEP", 4)
    return Bench(place.fs, place.path)


def sealed(bench: Bench) -> LogFile:
    bench.file.close()
    return bench.file


def test_an_open_file_is_mapped_once_it_has_grown(bench: Bench) -> None:
    mapped = bench.file.read(0, 10, 10)
    assert isinstance(mapped, memoryview)
    bench.file.write(10, b"ab")
    assert (bench.file.read(8, 12, 12), mapped) == (b"89ab", b"0123456789")
    assert isinstance(bench.file.read(8, 12, 12), bytes)  # two bytes more are not worth a map
    bench.file.write(12, b"cd")
    assert isinstance(bench.file.read(8, 14, 14), memoryview)


def test_a_file_with_spare_room_is_not_mapped_while_it_is_open(tmp_path: Path) -> None:
    place = Place.on("memory", tmp_path)
    bench = Bench(place.fs, place.path, has_spare_room=True)
    assert isinstance(bench.file.read(0, 10, 10), bytes)
    assert bench.file.cut(4) is False
    assert bench.content == b"0123"


def test_a_sealed_file_is_mapped_anew_where_it_has_grown(bench: Bench) -> None:
    assert sealed(bench).read(0, 10, 10) == b"0123456789"
    with bench.fs.open(bench.path, write=True) as other:
        other.write(10, b"ab")
    assert bench.file.read(0, 12, 12) == b"0123456789ab"
    assert bench.file.read(5, 14, 14) == b"56789ab"  # no more is there


def test_what_nobody_has_mapped_is_cut_in_place(bench: Bench) -> None:
    assert bench.file.cut(10) is False
    assert bench.file.cut(12) is False
    assert bench.file.cut(4) is False
    assert (bench.content, bench.file.is_open) == (b"0123", True)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_what_was_mapped_is_replaced(bench: Bench, is_sealed: bool) -> None:
    kept = (sealed(bench) if is_sealed else bench.file).read(2, 10, 10)
    assert bench.file.cut(4) is True
    assert (bench.content, kept) == (b"0123", b"23456789")
    bench.file.write(4, b"new")
    assert (bench.file.read(0, 7, 7), bench.content, kept) == (b"0123new", b"0123new", b"23456789")
    assert bench.fs.list(bench.path.parent) == [bench.path.name]


def test_a_file_that_was_replaced_may_be_cut_in_place_again(bench: Bench) -> None:
    kept = bench.file.read(2, 10, 10)
    bench.file.cut(4)
    assert bench.file.cut(2) is False
    assert (bench.content, kept) == (b"01", b"23456789")


def test_what_lies_behind_all_maps_is_cut_in_place(bench: Bench) -> None:
    kept = bench.file.read(0, 10, 10)
    bench.file.write(10, b"abc")
    assert bench.file.cut(10) is False
    assert (bench.content, kept) == (b"0123456789", b"0123456789")


def test_a_map_of_what_is_no_longer_there_is_not_used_again(bench: Bench) -> None:
    old = bench.file.open()
    bench.file.read(0, 10, 10)
    bench.file.cut(4)
    assert bench.file._map_open(old) is None  # a reader that was on its way
    bench.file.write(4, b"abcdef")
    assert bench.file.read(0, 10, 10) == b"0123abcdef"


def test_a_failed_replacement_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    for kind in ("create", "truncate", "write", "sync", "rename"):
        place = Place.on("memory", tmp_path)
        fs = place.fs
        assert isinstance(fs, MemoryFileSystem)
        bench = Bench(fs, place.path)
        kept = sealed(bench).read(0, 10, 10)
        fs.fail_on(lambda one, kind=kind: one.kind == kind and one.path.endswith("cleaned"), FULL)  # type: ignore[misc]
        with pytest.raises(OSError, match="No space"):
            bench.file.cut(4)
        fs.heal()
        assert (bench.content, bytes(kept)) == (b"0123456789", b"0123456789")
        assert fs.list(place.path) == [bench.path.name]
        bench.file.write(10, b"ab")
        assert bench.file.read(0, 12, 12) == b"0123456789ab"


def test_half_of_a_failed_write_goes_at_once(tmp_path: Path) -> None:
    place = Place.on("memory", tmp_path)
    assert isinstance(place.fs, MemoryFileSystem)
    bench = Bench(place.fs, place.path)
    place.fs.fail_on(lambda one: one.kind == "write", FULL, written=3, times=1)
    with pytest.raises(OSError, match="No space"):
        bench.file.write(10, b"abcdef")
    assert bench.content == b"0123456789"


def test_half_of_a_failed_write_that_was_mapped_meanwhile_stays_until_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_MAP_STEP", 4)
    place = Place.on("memory", tmp_path)
    assert isinstance(place.fs, MemoryFileSystem)
    bench = Bench(place.fs, place.path)
    original, views = MemoryFile.write, []

    def write(self: MemoryFile, position: int, data: Buffer) -> None:
        try:
            original(self, position, data)
        finally:
            if not views and position == 10:
                views.append(bench.file.read(0, 10, 10))  # a reader comes in between

    monkeypatch.setattr(MemoryFile, "write", write)
    place.fs.fail_on(lambda one: one.kind == "write", FULL, written=3, times=1)
    with pytest.raises(OSError, match="No space"):
        bench.file.write(10, b"abcdef")
    assert (bench.content, views) == (b"0123456789abc", [b"0123456789"])
    assert bench.file.cut(10) is True
    assert (bench.content, views) == (b"0123456789", [b"0123456789"])


def test_a_new_name_closes_the_file_and_reading_goes_on(bench: Bench) -> None:
    before = bench.file.read(0, 10, 10)
    target = bench.path.with_name("00000000000000000000.log.deleted")
    assert bench.file.rename(target)
    assert (bench.file.path, bench.file.is_open) == (target, False)
    bench.fs.open(bench.path, write=True, create=True).write(0, b"another")
    assert (bench.file.read(0, 10, 10), before) == (b"0123456789", b"0123456789")


def test_a_file_that_is_not_there_has_another_name_from_then_on(bench: Bench) -> None:
    bench.fs.unlink(bench.path)
    target = bench.path.with_name("00000000000000000000.log.swap")
    assert not bench.file.rename(target)
    assert bench.file.path == target


def test_who_reads_a_doomed_file_goes_on_when_it_is_gone_and_nobody_writes_to_it(bench: Bench) -> None:
    bench.file.rename(target := bench.path.with_name("00000000000000000000.log.deleted"))
    bench.file.doom()
    bench.fs.unlink(target)
    bench.maps.clear()
    assert bench.file.read(3, 10, 10) == b"3456789"
    bench.file.sync()
    with pytest.raises(LogClosedError, match="was removed"):
        bench.file.write(10, b"ab")
    assert bench.fs.list(bench.path.parent) == []


def test_a_doomed_file_that_cannot_be_mapped_is_doomed_all_the_same(bench: Bench) -> None:
    sealed(bench)
    bench.fs.unlink(bench.path)
    bench.file.doom()
    with pytest.raises(FileNotFoundError):
        bench.file.read(0, 10, 10)


def test_a_sealed_file_is_synced_too(tmp_path: Path) -> None:
    place = Place.on("memory", tmp_path)
    assert isinstance(place.fs, MemoryFileSystem)
    bench = Bench(place.fs, place.path)
    place.fs.sync_directory(place.path)
    sealed(bench).sync()
    assert place.fs.crash("nothing").read_bytes(bench.path) == b"0123456789"


def test_a_file_follows_its_directory(bench: Bench) -> None:
    sealed(bench).read(0, 10, 10)
    target = bench.path.parent.with_name("moved")
    bench.fs.rename(bench.path.parent, target)
    bench.file.path = target / bench.path.name
    bench.file.write(10, b"ab")
    assert bench.file.read(0, 12, 12) == b"0123456789ab"


def test_readers_never_see_anything_but_what_was_at_a_place_at_some_time(bench: Bench) -> None:
    def write() -> None:
        for number in range(300):
            bench.file.cut(5)
            bench.file.write(5, b"%05d" % number)
            if number % 3 == 0:
                bench.file.close()

    def read() -> None:
        found = bytes(bench.file.read(0, 10, 10))
        assert found[:5] == b"01234"
        assert found[5:].isdigit() or not found[5:]

    read_while(read, write)


def test_a_log_file_says_what_it_is(bench: Bench) -> None:
    assert repr(bench.file) == "<LogFile 00000000000000000000.log open mapped 0>"
    sealed(bench).read(0, 10, 10)
    assert repr(bench.file) == "<LogFile 00000000000000000000.log sealed mapped 10>"
