"""Index files that are written: what they take, what is on disk, and what is left of them when they are cut."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptIndexError
from logstore.log.index_file import OffsetIndexFile, TimeIndexFile
from logstore.testing import MemoryFileSystem

PLACE = Path("/data/00000000000000000045.index")
BASE = 45
bounded = settings(deadline=None, database=None, max_examples=60)


@pytest.fixture
def fs() -> MemoryFileSystem:
    return new_file_system()


def new_file_system() -> MemoryFileSystem:
    found = MemoryFileSystem()
    found.make_directory(PLACE.parent)
    return found


def offset_index(fs: MemoryFileSystem, base_offset: int = BASE, bytes_max: int = 30 * 8) -> OffsetIndexFile:
    return OffsetIndexFile(fs, PLACE, base_offset, bytes_max)


def time_index(fs: MemoryFileSystem, count: int = 0, bytes_max: int = 30 * 12) -> TimeIndexFile:
    """Entries (10, 55), (20, 65), ... as Kafka's own test of time indexes has them."""
    index = TimeIndexFile(fs, PLACE, BASE, bytes_max)
    for number in range(1, count + 1):
        index.maybe_append(number * 10, BASE + number * 10)
    return index


# ---------------------------------------------------------------- offsets


@pytest.mark.kafka("INDEX-05")
def test_a_full_offset_index_takes_no_more(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    for number in range(30):
        index.append(BASE + number + 1, number)
    assert index.is_full
    with pytest.raises(ValueError, match="full at 30 entries"):
        index.append(BASE + 31, 31)
    assert len(index) == 30


@pytest.mark.kafka("INDEX-06")
@pytest.mark.parametrize("offset", [50, 51])
def test_offsets_have_to_ascend(fs: MemoryFileSystem, offset: int) -> None:
    index = offset_index(fs)
    index.append(51, 0)
    with pytest.raises(ValueError, match="does not ascend behind 51"):
        index.append(offset, 1)
    assert index.last == (51, 0)


@pytest.mark.kafka("INDEX-08")
def test_a_trimmed_index_holds_its_entries_alone_and_is_full_when_opened_again(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(51, 0)
    index.append(52, 1)
    index.trim()
    index.close()
    assert len(fs.read_bytes(PLACE)) == 16
    again = offset_index(fs)
    assert [again.lookup(offset) for offset in (51, 52)] == [(51, 0), (52, 1)]
    assert (again.last, len(again)) == ((52, 1), 2)
    with pytest.raises(ValueError, match="full"):
        again.append(53, 2)


@pytest.mark.kafka("INDEX-09")
def test_an_offset_index_is_cut_below_an_offset_and_goes_on(fs: MemoryFileSystem) -> None:
    index = offset_index(fs, base_offset=0)
    for offset in range(1, 10):
        index.append(offset, offset)
    for cut_at, last, following in [(12, 9, 10), (10, 9, 10), (9, 8, 9), (5, 4, 5)]:
        index.truncate_to(cut_at)
        assert index.last == (last, last)
        index.append(following, following)
    index.keep(0)
    assert (len(index), index.last) == (0, (0, 0))
    index.append(1, 1)


@pytest.mark.kafka("INDEX-11")
@pytest.mark.parametrize(
    ("base", "last"),
    [(0, -(2**31)), (0, 2**31), (1, 0), (100, 10), (2**31, 0), (-(2**31), 0), (2**31, 2**32)],
)
def test_an_offset_index_refuses_what_four_bytes_do_not_hold(fs: MemoryFileSystem, base: int, last: int) -> None:
    index = offset_index(fs, base_offset=base)
    with pytest.raises(ValueError, match="not in the range of segment"):
        index.append(last, 0)
    index.sync()
    assert not any(fs.read_bytes(PLACE))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 99)), max_size=150), st.integers(0, 800))
@bounded
def test_lookups_agree_with_a_list_written_or_not_and_after_a_cut(steps: list[tuple[int, int]], cut: int) -> None:
    index, entries, offset = offset_index(new_file_system(), bytes_max=150 * 8), [], BASE
    for ahead, position in steps:
        offset += ahead
        index.append(offset, position)
        entries.append((offset, position))
    for _ in range(2):
        for wanted in range(BASE - 1, offset + 2, 1 + len(steps) // 10):
            assert index.lookup(wanted) == max((e for e in entries if e[0] <= wanted), default=(BASE, 0))
        index.truncate_to(BASE + cut)
        entries = [entry for entry in entries if entry[0] < BASE + cut]
        assert len(index) == len(entries)


# ---------------------------------------------------------------- times


@pytest.mark.kafka("TIME-03")
def test_the_last_slot_of_a_time_index_is_kept_for_the_final_entry(fs: MemoryFileSystem) -> None:
    index = time_index(fs, 29)
    assert index.is_full
    with pytest.raises(ValueError, match="full at 29 entries"):
        index.maybe_append(10_000, 1000)
    with pytest.raises(ValueError, match="does not ascend"):
        index.maybe_append(10_000, BASE, is_final=True)
    index.maybe_append(10_000, 1000, is_final=True)
    assert (len(index), index.last) == (30, (10_000, 1000))


@pytest.mark.kafka("TIME-04")
def test_a_time_index_is_cut_to_nothing_and_filled_again(fs: MemoryFileSystem) -> None:
    index = time_index(fs, 29)
    for empty in (lambda: index.truncate_to(55), lambda: index.keep(0)):
        empty()
        assert (len(index), index.last) == (0, (-1, BASE))
        index.maybe_append(10, 55)
        assert index.last == (10, 55)


def test_a_time_index_is_cut_below_an_offset(fs: MemoryFileSystem) -> None:
    index = time_index(fs, 29)
    index.truncate_to(75)
    assert (len(index), index.last) == (2, (20, 65))
    assert (index.lookup(9), index.lookup(15), index.lookup(99)) == ((-1, BASE), (10, 55), (20, 65))


def test_times_that_do_not_grow_add_nothing_and_those_that_fall_are_refused(fs: MemoryFileSystem) -> None:
    index = time_index(fs, 2)
    index.maybe_append(20, 70)
    assert len(index) == 2
    with pytest.raises(ValueError, match="does not ascend"):
        index.maybe_append(19, 71)


@pytest.mark.kafka("TIME-06")
@pytest.mark.parametrize(
    ("bytes_max", "capacity", "is_other"),
    [(360, 30, False), (361, 30, False), (180, 15, True), (720, 60, True), (100, 8, True), (0, 3, True)],
)
def test_an_index_is_resized_to_whole_entries_but_never_below_the_used_ones(
    fs: MemoryFileSystem, bytes_max: int, capacity: int, is_other: bool
) -> None:
    index = time_index(fs, 3)
    assert index.resize(bytes_max) is is_other
    assert index.capacity == capacity
    assert len(fs.read_bytes(PLACE)) == capacity * 12
    assert index.last == (30, 75)
    index.sync()
    assert index.last == (30, 75)
    assert not index.resize(bytes_max)


@pytest.mark.kafka("TIME-07")
def test_an_entry_of_a_time_index_is_a_time_and_an_offset_in_twelve_bytes(fs: MemoryFileSystem) -> None:
    index = time_index(fs)
    index.maybe_append(1, BASE + 1)
    assert index.get(0) == (1, 1)
    index.trim()
    assert fs.read_bytes(PLACE) == bytes(7) + b"\1" + bytes(3) + b"\1"


@pytest.mark.kafka("TIME-01", "TIME-02")
def test_times_are_looked_up_as_on_the_reading_side(fs: MemoryFileSystem) -> None:
    empty = time_index(fs)
    assert (empty.lookup(100), empty.last) == ((-1, BASE), (-1, BASE))
    fs.unlink(PLACE)
    index = time_index(fs, 29)
    assert [index.lookup(time) for time in (9, 25, 30)] == [(-1, BASE), (20, 65), (30, 75)]


def test_the_times_and_offsets_of_records_may_be_any(fs: MemoryFileSystem) -> None:
    index = time_index(fs)
    index.maybe_append(-1, BASE)  # none at all: never stored
    index.maybe_append(0, BASE)
    index.maybe_append(2**63 - 1, BASE + 2**31 - 1)
    assert [index.lookup(time) for time in (-1, 0, 2**63 - 2, 2**63 - 1)] == [
        (-1, BASE), (0, BASE), (0, BASE), (2**63 - 1, BASE + 2**31 - 1),
    ]  # fmt: skip
    assert len(index) == 2


# ---------------------------------------------------------------- on disk


def test_a_new_index_is_full_size_and_zeros_and_a_cut_one_has_zeros_behind_its_entries(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    assert fs.read_bytes(PLACE) == bytes(240)
    for number in range(1, 4):
        index.append(BASE + number, number)
    index.write()
    assert fs.read_bytes(PLACE) == struct.pack(">iiiiii", 1, 1, 2, 2, 3, 3) + bytes(216)
    index.truncate_to(BASE + 2)
    assert fs.read_bytes(PLACE) == struct.pack(">ii", 1, 1) + bytes(232)
    index.append(BASE + 9, 9)
    index.truncate_to(BASE + 1)  # of what is gathered nothing is on disk
    assert (len(index), fs.read_bytes(PLACE)) == (0, bytes(240))


def test_entries_are_gathered_until_sync(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(46, 7)
    assert not any(fs.read_bytes(PLACE))
    assert index.lookup(46) == (46, 7)
    index.sync()
    fs.sync_directory("/")
    fs.sync_directory(PLACE.parent)
    assert fs.crash("nothing").read_bytes(PLACE)[:8] == struct.pack(">ii", 1, 7)


def test_an_index_that_became_shorter_behind_our_back_says_so(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(46, 7)
    index.write()
    with fs.open(PLACE, write=True) as file:
        file.truncate(4)
    for reading in (lambda: index.lookup(46), lambda: index.get(0)):
        with pytest.raises(CorruptIndexError, match="became shorter"):
            reading()


def test_a_piece_of_an_entry_at_the_end_is_no_entry_and_is_written_over(fs: MemoryFileSystem) -> None:
    fs.write_bytes(PLACE, struct.pack(">ii", 1, 7) + b"\1\1\1")
    index = offset_index(fs)
    assert (len(index), index.capacity, index.last) == (1, 1, (46, 7))
    assert index.resize(240)
    index.append(47, 8)
    index.trim()
    assert fs.read_bytes(PLACE) == struct.pack(">iiii", 1, 7, 2, 8)


def test_a_piece_of_an_entry_alone_becomes_a_new_index(fs: MemoryFileSystem) -> None:
    fs.write_bytes(PLACE, b"\1\1\1")
    index = offset_index(fs)
    assert (len(index), index.capacity) == (0, 30)
    index.append(46, 7)
    index.trim()
    assert fs.read_bytes(PLACE) == struct.pack(">ii", 1, 7)


def test_entries_that_cannot_be_made_zeros_are_gone_all_the_same(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    for number in range(1, 10):
        index.append(BASE + number, number)
    index.write()
    fs.fail_on(lambda operation: operation.kind == "write", OSError(28, "No space left on device"), written=20)
    with pytest.raises(OSError, match="No space"):
        index.truncate_to(BASE + 3)
    fs.heal()
    assert (len(index), index.last, index.lookup(BASE + 9)) == (2, (BASE + 2, 2), (BASE + 2, 2))
    index.append(BASE + 3, 33)
    index.trim()
    assert fs.read_bytes(PLACE) == struct.pack(">iiiiii", 1, 1, 2, 2, 3, 33)


def test_an_index_keeps_what_it_has_when_it_cannot_be_resized(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(46, 7)
    fs.fail_on(lambda operation: operation.kind == "truncate", OSError(28, "No space left on device"))
    for change in (lambda: index.resize(480), index.trim):
        with pytest.raises(OSError, match="No space"):
            change()
        assert (index.capacity, index.last, index.lookup(50)) == (30, (46, 7), (46, 7))


def test_an_index_is_cut_though_it_was_searched_before(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(46, 7)
    index.write()
    assert index.lookup(99) == (46, 7)  # of a map
    index.trim()
    assert index.lookup(99) == (46, 7)
    index.resize(480)
    index.append(47, 8)
    index.write()
    assert index.lookup(99) == (47, 8)


def test_entries_that_could_not_be_written_are_not_lost(fs: MemoryFileSystem) -> None:
    index = offset_index(fs, bytes_max=200 * 8)
    fs.fail_on(lambda operation: operation.kind == "write", OSError(28, "No space left on device"))
    for number in range(1, 101):  # more than are gathered
        index.append(BASE + number, number)
    with pytest.raises(OSError, match="No space"):
        index.sync()
    fs.heal()
    index.sync()
    assert fs.read_bytes(PLACE)[:800] == b"".join(struct.pack(">ii", number, number) for number in range(1, 101))


def test_closing_gives_the_file_back_even_where_the_last_entries_cannot_be_written(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(46, 7)
    fs.fail_on(lambda operation: operation.kind == "write", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        index.close()
    fs.heal()
    with pytest.raises(ValueError, match="closed"):
        index.write()


def test_an_index_says_what_it_is(fs: MemoryFileSystem) -> None:
    index = offset_index(fs)
    index.append(46, 7)
    assert repr(index) == "<OffsetIndexFile 00000000000000000045.index entries 1 of 30>"
