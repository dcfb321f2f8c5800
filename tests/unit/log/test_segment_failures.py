"""A segment whose disk fails at any operation, and one that is read while it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.segments import (
    CONFIG,
    FILE_SYSTEMS,
    NOW,
    Place,
    offsets_from,
    offsets_of,
    put,
    read_while,
)

from logstore.config import LogConfig
from logstore.log import log_file
from logstore.log.segment import Segment
from logstore.testing import MemoryFileSystem, Operation

FULL = OSError(28, "No space left on device")


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    return Place.on("memory", tmp_path)


# ---------------------------------------------------------------- what fails


def failing(first: int, last: int) -> Callable[[Operation], bool]:
    """Whether an operation is one of those that fail; a name can be given back also where the disk is full."""
    return lambda one: first <= one.number <= last and one.kind != "unlink"


def sweep(
    tmp_path: Path,
    prepare: Callable[[Place], Segment],
    act: Callable[[Segment], object],
    check: Callable[[Segment], None],
    config: LogConfig = CONFIG,
) -> int:
    """Let each operation of `act` fail, once or for as long as it goes on, and check what is left then."""
    for number in range(1, 10_000):
        happened = False
        for written, once in ((0, True), (7, True), (7, False)):
            place = Place.on("memory", tmp_path, config)
            segment = prepare(place)
            fs = place.fs
            assert isinstance(fs, MemoryFileSystem)
            target = fs.operations + number
            fs.fail_on(failing(target, target if once else 10**9), FULL, written=written)
            try:
                act(segment)
            except OSError as error:
                assert "No space" in str(error)
            happened = happened or fs.operations >= target
            fs.heal()
            check(segment)
            end = segment.next_offset()
            for offset in range(end, end + 5):
                put(segment, offset, timestamp=5000 + offset)
            place.sealed(segment)
            segment.sync()
            again = place.existing(segment.base_offset)
            assert offsets_of(again) == [*range(40, end + 5)]
            assert [offsets_from(again, offset) for offset in range(40, end + 5)] == [[n] for n in range(40, end + 5)]
            assert again.max_timestamp == 5000 + end + 4
            assert place.scan(segment.base_offset).cut == 0
            left = {name.partition(".")[2] for name in place.fs.list(place.path)}
            assert left <= {"log", "index", "timeindex"}
            if number % 5 == 1:
                assert place.alarms(tmp_path / f"{number}-{written}-{once}") == []
        if not happened:
            return number
    raise AssertionError("it never ends")


def test_an_append_that_fails_anywhere_leaves_the_segment_as_it_was(tmp_path: Path) -> None:
    appended = 0

    def act(segment: Segment) -> None:
        nonlocal appended
        appended = 0
        for offset in range(40, 120):
            put(segment, offset)
            appended += 1

    def check(segment: Segment) -> None:
        assert offsets_of(segment) == list(range(40, 40 + appended))
        assert segment.max_timestamp == (39 + appended if appended else -1)

    config = LogConfig(index_interval_bytes=0, segment_index_bytes=4000)
    assert sweep(tmp_path, lambda place: place.create(40), act, check, config) > 80


def test_a_seal_that_fails_anywhere_may_be_tried_again(tmp_path: Path) -> None:
    def prepare(place: Place) -> Segment:
        segment = place.create(40)
        for offset in range(40, 60):
            put(segment, offset)
        return segment

    def check(segment: Segment) -> None:
        assert offsets_of(segment) == list(range(40, 60))

    assert sweep(tmp_path, prepare, Segment.seal, check) > 3


def test_a_sync_that_fails_anywhere_changes_nothing(tmp_path: Path) -> None:
    def prepare(place: Place) -> Segment:
        segment = place.create(40)
        for offset in range(40, 60):
            put(segment, offset)
        return segment

    def check(segment: Segment) -> None:
        assert offsets_of(segment) == list(range(40, 60))

    assert sweep(tmp_path, prepare, Segment.sync, check) > 3


@pytest.mark.parametrize("state", ["active", "mapped", "sealed", "reopened"])
def test_a_truncation_that_fails_anywhere_leaves_all_or_what_was_wanted(
    tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state == "mapped":
        monkeypatch.setattr(log_file, "_MAP_STEP", 1)
    views: list[object] = []

    def prepare(place: Place) -> Segment:
        segment = place.create(40)
        for offset in range(40, 60):
            put(segment, offset)
        if state in ("sealed", "reopened"):
            place.sealed(segment)
        if state == "reopened":
            segment = place.existing(40)
        views[:] = [segment.slice(0, segment.size)]
        return segment

    def check(segment: Segment) -> None:
        found = offsets_of(segment)
        assert found in (list(range(40, 60)), list(range(40, 50)))
        assert segment.max_timestamp == found[-1]

    assert sweep(tmp_path, prepare, lambda segment: segment.truncate_to(50, NOW), check) > 1


def test_a_segment_that_cannot_be_preallocated_is_not_made(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    config = LogConfig(preallocate=True, segment_bytes=4000)
    memory.fs.fail_on(lambda one: one.kind == "truncate", FULL)
    with pytest.raises(OSError, match="No space"):
        memory.create(0, config)
    assert memory.fs.list(memory.path) == []
    memory.fs.heal()
    put(memory.create(0, config), 0)


def test_what_a_failed_write_has_left_goes_at_once_where_nobody_has_mapped_it(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    segment = memory.create(0)
    first = put(segment, 0)
    memory.fs.fail_on(lambda one: one.kind == "write", FULL, written=30)
    with pytest.raises(OSError, match="No space"):
        put(segment, 1)
    assert memory.read(segment.path.name) == first


def test_what_a_failed_write_has_left_in_a_map_goes_when_the_segment_is_sealed(
    memory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    monkeypatch.setattr(log_file, "_MAP_STEP", 1)
    segment = memory.create(0)
    first = put(segment, 0)
    memory.fs.fail_on(lambda one: one.kind in ("write", "truncate"), FULL, written=30)
    with pytest.raises(OSError, match="No space"):
        put(segment, 1)
    memory.fs.heal()
    view = segment.slice(0, segment.size)  # of a map that holds the 30 bytes
    assert len(memory.read(segment.path.name)) == len(first) + 30
    memory.sealed(segment)
    assert memory.read(segment.path.name) == first
    assert view == first


# ---------------------------------------------------------------- readers beside the writer


@pytest.mark.parametrize("interval", [0, 100, 10**6])
def test_readers_find_what_was_appended_while_more_is(place: Place, interval: int) -> None:
    segment = place.create(0, LogConfig(index_interval_bytes=interval, segment_index_bytes=40_000))
    end = 0

    def write() -> None:
        nonlocal end
        for offset in range(1500):
            put(segment, offset, size=2000)
            end = offset + 1

    def read() -> None:
        known = end
        for offset in {0, known // 2, known - 1} if known else ():
            assert offsets_from(segment, offset) == [offset]
        assert segment.next_offset() >= known
        assert segment.max_timestamp >= known - 1

    read_while(read, write)


def test_readers_go_on_while_a_segment_is_sealed_and_resumed(place: Place) -> None:
    segment = place.create(0, LogConfig(index_interval_bytes=100, segment_index_bytes=4000))
    for offset in range(300):
        put(segment, offset)

    def write() -> None:
        for offset in range(300, 500):
            place.sealed(segment)
            segment.resume()
            put(segment, offset)

    def read() -> None:
        for offset in (0, 17, 155, 299):
            assert offsets_from(segment, offset) == [offset]
        assert segment.indexes.time_floor(200).timestamp <= 200

    read_while(read, write)


@pytest.mark.parametrize("is_sealed", [False, True])
def test_readers_of_what_is_kept_go_on_while_the_rest_is_cut_and_written_anew(
    place: Place, is_sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_file, "_MAP_STEP", 2000)
    segment = place.create(0, LogConfig(index_interval_bytes=100, segment_index_bytes=4000))
    for offset in range(100):
        put(segment, offset)

    def write() -> None:
        for round_number in range(100):
            if is_sealed:
                place.sealed(segment)
            segment.truncate_to(50, NOW)
            for offset in range(50, 100):
                put(segment, offset, timestamp=round_number, size=round_number)

    def read() -> None:
        for offset in (0, 17, 49):
            assert offsets_from(segment, offset) == [offset]
        size = segment.size
        assert len(segment.slice(0, size)) <= size

    read_while(read, write)


def test_readers_go_on_while_a_segment_gets_other_names(place: Place) -> None:
    segment = place.create(0)
    for offset in range(100):
        put(segment, offset)
    place.sealed(segment)

    def write() -> None:
        for _ in range(100):
            for suffix in (".cleaned", ".swap", ""):
                segment.rename(suffix)
                put_other(place, segment, suffix)

    def read() -> None:
        for offset in (0, 17, 99):
            assert offsets_from(segment, offset) == [offset]

    read_while(read, write)


def put_other(place: Place, segment: Segment, suffix: str) -> None:
    """Let all names but those of the segment be those of other files."""
    for other in {".cleaned", ".swap", ""} - {suffix}:
        for path in segment.files():
            name = path.name.removesuffix(suffix) if suffix else path.name
            with place.fs.open(path.with_name(name + other), write=True, create=True) as file:
                file.write(0, b"\x01" * 500)
