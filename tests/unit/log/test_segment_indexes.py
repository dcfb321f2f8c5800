"""Both indexes of a segment: open or sealed, they say the same, and what fails leaves them usable."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from helpers.segments import FILE_SYSTEMS, Place, read_while
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.log.segment_indexes import SegmentIndexes
from logstore.testing import MemoryFileSystem

BASE = 45
FULL = OSError(28, "No space left on device")
Facts = list[object]


@pytest.fixture(params=FILE_SYSTEMS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place.on(request.param, tmp_path)


@pytest.fixture
def memory(tmp_path: Path) -> Place:
    return Place.on("memory", tmp_path)


def indexes_in(place: Place, bytes_max: int = 600) -> SegmentIndexes:
    paths = place.path / f"{BASE:020d}.index", place.path / f"{BASE:020d}.timeindex"
    return SegmentIndexes(place.fs, place.maps, BASE, *paths, bytes_max)


def filled(place: Place, count: int = 10, bytes_max: int = 600) -> SegmentIndexes:
    """Entries at offsets 50, 60, ..., positions 100, 200, ..., and times 1000, 2000, ..."""
    indexes = indexes_in(place, bytes_max)
    for number in range(1, count + 1):
        indexes.put(BASE + 10 * number - 5, 100 * number, 1000 * number, BASE + 10 * number - 6)
    return indexes


def facts(indexes: SegmentIndexes) -> Facts:
    """All that they say."""
    return [
        *(indexes.floor_position(offset) for offset in (0, BASE - 1, *range(BASE, BASE + 130), 2**40)),
        *(indexes.upper_bound_offset(start, size) for start in (0, 150, 900) for size in (1, 49, 50, 51, 101, 2000)),
        *(indexes.time_floor(time) for time in (-1, 0, 999, *range(1000, 12_000, 500), 2**62)),
        indexes.last_time_entry,
        indexes.last_offset_entry,
    ]


def close(indexes: SegmentIndexes) -> SegmentIndexes:
    indexes.trim()
    indexes.close()
    return indexes


# ---------------------------------------------------------------- open, sealed, missing


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 500), st.integers(0, 9)), max_size=150))
@settings(deadline=None, database=None, max_examples=40)
def test_they_say_the_same_gathered_written_sealed_and_opened_again(steps: list[tuple[int, int, int]]) -> None:
    place = Place(MemoryFileSystem(), Path("/data/orders-0"))
    indexes, offset, position, time = indexes_in(place, 4000), BASE, 0, 0
    for ahead, size, later in steps:
        offset, position, time = offset + ahead, position + size, time + later
        indexes.put(offset, position, time, offset)
    before = facts(indexes)
    indexes.sync()
    assert facts(indexes) == before
    close(indexes)
    assert not indexes.is_open
    assert facts(indexes) == before
    indexes.open()
    assert facts(indexes) == before


def test_indexes_that_are_not_there_say_what_empty_ones_say(place: Place) -> None:
    missing = indexes_in(place)
    said = facts(missing)
    assert place.fs.list(place.path) == []
    assert (missing.last_time_entry, missing.last_offset_entry) == ((-1, BASE), (BASE, 0))
    missing.open()
    assert facts(missing) == said
    assert facts(close(missing)) == said
    assert place.sizes() == {"index": 0, "timeindex": 0}


@pytest.mark.kafka("INDEX-07")
def test_the_upper_bound_is_the_first_entry_behind_what_is_read(place: Place) -> None:
    indexes = indexes_in(place)
    for offset, position in ((45, 0), (46, 10), (47, 23), (48, 37)):
        indexes.put(offset, position, -1, BASE)
    for _ in ("open", "sealed"):
        found = [indexes.upper_bound_offset(*where) for where in ((0, 5), (0, 10), (0, 22), (0, 23), (10, 24))]
        assert found == [46, 46, 47, 47, 48]
        assert [indexes.upper_bound_offset(*where) for where in ((37, 1), (0, 200), (10, 200))] == [None] * 3
        close(indexes)
    assert indexes_in(place).upper_bound_offset(37, 1) is None


@pytest.mark.parametrize("tail", [1, 7, 8, 12, 24, 240])
def test_zeros_behind_sealed_entries_never_lead_too_far(place: Place, tail: int) -> None:
    indexes = close(filled(place))
    true = {offset: indexes.floor_position(offset) for offset in range(BASE, BASE + 130)}
    bounds = {size: indexes.upper_bound_offset(0, size) for size in range(1, 1200, 50)}
    for path in (indexes.offset_path, indexes.time_path):
        place.write(path.name, place.read(path.name) + bytes(tail))
        place.maps.forget(path)
    again = indexes_in(place)
    assert all(again.floor_position(offset) <= position for offset, position in true.items())
    for size, bound in bounds.items():
        assert again.upper_bound_offset(0, size) in (bound, None)


# ---------------------------------------------------------------- what they take


def test_a_full_index_takes_no_more_of_either(place: Place) -> None:
    indexes = filled(place, count=30, bytes_max=60)  # 7 offsets, 4 times and the last one
    assert indexes.are_full
    assert (indexes.last_offset_entry.offset, indexes.last_time_entry.timestamp) == (BASE + 35, 4000)
    indexes.put_final(99_999, BASE + 295)
    assert indexes.last_time_entry == (99_999, BASE + 295)
    close(indexes)
    assert place.sizes() == {"index": 32, "timeindex": 60}


@pytest.mark.parametrize("bytes_max", [1, 4, 8, 12, 13])
def test_the_smallest_indexes_hold_the_final_time_alone(place: Place, bytes_max: int) -> None:
    indexes = filled(place, count=3, bytes_max=bytes_max)
    assert indexes.are_full
    indexes.put_final(3000, BASE + 24)
    close(indexes)
    assert place.sizes() == {"index": 0, "timeindex": 12}


def test_the_final_time_finds_room_also_where_there_is_less_than_there_was(place: Place) -> None:
    close(filled(place))
    indexes = indexes_in(place, 24)
    assert indexes.are_full
    indexes.put(BASE + 500, 5000, 20_000, BASE + 500)
    indexes.put_final(20_000, BASE + 500)
    assert indexes.last_time_entry == (20_000, BASE + 500)
    close(indexes)
    assert place.sizes() == {"index": 80, "timeindex": 132}


def test_a_final_time_that_is_no_later_adds_nothing(place: Place) -> None:
    indexes = filled(place)
    indexes.put_final(10_000, BASE + 94)
    indexes.put_final(-1, BASE)
    indexes.put_final(99_999, BASE)  # of an offset below the last one
    assert indexes.last_time_entry == (10_000, BASE + 94)


def test_what_does_not_ascend_is_left_out_of_both(place: Place) -> None:
    indexes = filled(place)
    said = facts(indexes)
    indexes.put(BASE + 95, 2000, 20_000, BASE + 95)  # an offset that is there
    indexes.put(BASE + 200, 2000, 9_999, BASE + 200)  # a time before the last one
    indexes.put(BASE + 200, 2000, 10_000, BASE + 1)  # the time of an offset before the last one
    assert facts(indexes) == said
    indexes.put(BASE + 200, 2000, 10_000, BASE + 94)  # no later time: an offset alone
    assert indexes.floor_position(BASE + 200) == 2000


def test_entries_are_dropped_from_both(place: Place) -> None:
    for is_sealed in (False, True):
        indexes = filled(place)
        if is_sealed:
            close(indexes)
        indexes.truncate_to(BASE + 35)
        assert (indexes.last_offset_entry, indexes.last_time_entry) == ((BASE + 25, 300), (4000, BASE + 34))
        assert place.sizes() == {"index": 600, "timeindex": 600}
        indexes.put(BASE + 35, 400, 5000, BASE + 35)
        close(indexes)
        assert place.sizes() == {"index": 32, "timeindex": 60}
        for path in (indexes.offset_path, indexes.time_path):
            place.fs.unlink(path)


# ---------------------------------------------------------------- names, syncs


def test_new_names_go_with_what_is_there(place: Place) -> None:
    indexes = filled(place)
    said = facts(indexes)
    indexes.trim()
    other = [path.with_name(path.name + ".swap") for path in (indexes.offset_path, indexes.time_path)]
    assert indexes.rename(*other) == other
    assert place.sizes() == {"index.swap": 80, "timeindex.swap": 120}
    assert facts(indexes) == said
    place.fs.unlink(other[0])
    back = [path.with_name(path.name.removesuffix(".swap")) for path in other]
    assert indexes.rename(*back) == back[1:]
    assert (indexes.offset_path, indexes.time_path) == (back[0], back[1])


def test_they_follow_their_directory_open_or_not(place: Place) -> None:
    indexes = filled(place)
    said = facts(indexes)
    for number in range(2):
        target = place.path.with_name(f"moved-{number}")
        place.fs.rename(indexes.offset_path.parent, target)
        indexes.move_to(target)
        assert facts(indexes) == said
        close(indexes)
    indexes.open()
    assert facts(indexes) == said


def test_a_sync_makes_open_ones_durable_and_does_not_open_sealed_ones(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    indexes = filled(memory)
    indexes.sync()
    memory.fs.sync_directory(memory.path)
    after = Place(memory.fs.crash("nothing"), memory.path)
    assert after.sizes() == {"index": 600, "timeindex": 600}
    assert after.read(indexes.offset_path.name)[:8] == struct.pack(">ii", 5, 100)
    close(indexes)
    indexes.sync()
    assert not indexes.is_open
    after = Place(memory.fs.crash("nothing"), memory.path)
    assert after.sizes() == {"index": 80, "timeindex": 120}
    memory.fs.unlink(indexes.offset_path)
    indexes.sync()
    assert memory.sizes() == {"timeindex": 120}


# ---------------------------------------------------------------- failures


def test_one_that_was_made_is_not_taken_for_full_of_entries_when_the_other_fails(memory: Place) -> None:
    fs = memory.fs
    assert isinstance(fs, MemoryFileSystem)
    for number in range(1, 5):
        indexes = indexes_in(memory)
        target = fs.operations + number
        fs.fail_on(lambda one, n=target: one.number == n, FULL)  # type: ignore[misc]
        with pytest.raises(OSError, match="No space"):
            indexes.open()
        assert not indexes.is_open
        assert (indexes.floor_position(10**6), indexes.last_time_entry) == (0, (-1, BASE))
        assert not indexes.are_full
        indexes.put(BASE + 5, 100, 1000, BASE + 4)
        close(indexes)
        assert memory.sizes() == {"index": 8, "timeindex": 12}
        for path in (indexes.offset_path, indexes.time_path):
            fs.unlink(path)


def test_sealed_ones_that_cannot_grow_say_what_they_said(memory: Place) -> None:
    fs = memory.fs
    assert isinstance(fs, MemoryFileSystem)
    for number in range(1, 3):
        said = facts(close(filled(memory)))
        indexes, target = indexes_in(memory), fs.operations + number
        fs.fail_on(lambda one, n=target: one.number == n, FULL)  # type: ignore[misc]
        with pytest.raises(OSError, match="No space"):
            indexes.open()
        assert facts(indexes) == said
        assert facts(close(indexes)) == said
        for path in (indexes.offset_path, indexes.time_path):
            fs.unlink(path)


def test_a_trim_that_fails_leaves_them_open_and_may_be_tried_again(memory: Place) -> None:
    fs = memory.fs
    assert isinstance(fs, MemoryFileSystem)
    for number in range(1, 5):
        indexes = filled(memory)
        said, target = facts(indexes), fs.operations + number
        fs.fail_on(lambda one, n=target: one.number == n, FULL, written=5)  # type: ignore[misc]
        with pytest.raises(OSError, match="No space"):
            indexes.trim()
        assert facts(indexes) == said
        fs.heal()
        assert facts(close(indexes)) == said
        assert memory.sizes() == {"index": 80, "timeindex": 120}
        for path in (indexes.offset_path, indexes.time_path):
            fs.unlink(path)


def test_closing_raises_nothing_and_gives_the_files_back(memory: Place) -> None:
    assert isinstance(memory.fs, MemoryFileSystem)
    indexes = filled(memory)
    memory.fs.fail_on(lambda one: one.kind == "write", FULL)
    indexes.close()
    assert not indexes.is_open


# ---------------------------------------------------------------- readers beside the writer


def test_readers_go_on_while_they_are_sealed_cut_and_opened(place: Place) -> None:
    indexes = filled(place)

    def write() -> None:
        for number in range(150):
            close(indexes)
            indexes.truncate_to(BASE + 35)
            for again in range(4, 11):
                indexes.put(BASE + 10 * again - 5, 100 * again, 1000 * again, BASE + 10 * again - 6)
            if number % 10 == 0:
                other = [path.with_name(path.name + "x") for path in (indexes.offset_path, indexes.time_path)]
                indexes.trim()
                indexes.rename(*other)

    def read() -> None:
        assert indexes.floor_position(BASE + 26) == 300
        assert indexes.floor_position(BASE + 96) in range(300, 1100, 100)
        assert indexes.upper_bound_offset(0, 250) == BASE + 25
        assert indexes.time_floor(2500) == (2000, BASE + 14)
        assert indexes.last_time_entry.timestamp in range(3000, 11_000, 1000)

    read_while(read, write)


def test_indexes_say_what_they_are(place: Place) -> None:
    indexes = filled(place)
    assert "entries 10 of 75" in repr(indexes)
    assert repr(close(indexes)) == "<SegmentIndexes 45 sealed>"
