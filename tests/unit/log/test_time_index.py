"""`TimeIndex` finds what Kafka's finds; how a preallocated tail is told apart is tested with `OffsetIndex`."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptIndexError
from logstore.log import IndexExtent, TimeIndex, TimeIndexEntry

BASE = 45
ENTRIES = [(10 * n, BASE + 10 * n) for n in range(1, 30)]
bounded = settings(deadline=None, database=None)


def file_of(entries: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack(">qi", timestamp, offset - BASE) for timestamp, offset in entries)


def index_of(entries: Iterable[tuple[int, int]]) -> TimeIndex:
    return TimeIndex(file_of(entries), BASE)


@pytest.mark.kafka("TIME-01")
def test_an_empty_index_knows_no_timestamp() -> None:
    assert index_of([]).lookup(100) == index_of([]).last == (-1, 45)


@pytest.mark.kafka("TIME-02")
def test_lookup_finds_the_greatest_timestamp_that_is_not_above() -> None:
    index = index_of(ENTRIES)
    assert [index.lookup(timestamp) for timestamp in (9, 25, 30)] == [(-1, 45), (20, 65), (30, 75)]


@pytest.mark.kafka("TIME-05")
def test_an_empty_or_well_formed_index_is_sane() -> None:
    index_of([]).sanity_check()
    index_of(ENTRIES).sanity_check()


@pytest.mark.kafka("TIME-05")
@pytest.mark.parametrize(
    ("content", "problem", "position"),
    [
        (file_of([*ENTRIES, (300, 44)]), "44, is below its base offset 45", 29 * 12),
        (file_of([*ENTRIES, (9, 400)]), "9, is below its first, 10", 29 * 12),
        (file_of(ENTRIES) + b"\1", "1 bytes of an entry of 12", 29 * 12),
    ],
)
def test_an_index_that_contradicts_itself_is_corrupt(content: bytes, problem: str, position: int) -> None:
    with pytest.raises(CorruptIndexError, match=problem) as caught:
        TimeIndex(content, BASE).sanity_check()
    assert caught.value.position == position


@pytest.mark.kafka("TIME-07")
def test_an_entry_has_12_bytes_and_slot_0_can_be_read() -> None:
    index = index_of([(1, BASE + 1)])
    assert len(file_of([(1, BASE + 1)])) == 12
    assert index.entry(0) == TimeIndexEntry(1, BASE + 1)
    with pytest.raises(IndexError):
        index_of([]).entry(0)


def test_the_zero_tail_of_a_live_index_is_left_out() -> None:
    index = TimeIndex(file_of(ENTRIES) + bytes(12 * 5000 + 4), BASE)
    assert index.extent == IndexExtent(29, 5000, 4)
    assert index.last == index.lookup(10**15) == (290, 335)
    assert list(index) == ENTRIES


def test_a_closed_segment_of_one_record_of_1970_keeps_its_entry() -> None:
    assert list(TimeIndex(bytes(12), BASE)) == [(0, 45)]


def test_a_view_says_what_it_is() -> None:
    assert "base_offset=45" in repr(index_of(ENTRIES))


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 2**31 - 1)), unique_by=lambda entry: entry[0]))
@bounded
def test_written_entries_are_read_and_found(pairs: list[tuple[int, int]]) -> None:
    entries = [(timestamp, BASE + relative) for timestamp, relative in sorted(pairs)]
    index = index_of(entries)
    if any(pair != (0, 0) for pair in pairs):
        assert list(index) == entries
        assert [index.lookup(timestamp) for timestamp, _ in entries] == entries


@given(st.binary(max_size=400), st.integers(0, 2**62), st.integers(-(2**63), 2**63 - 1))
@bounded
def test_any_bytes_are_an_index_that_is_sane_or_corrupt(content: bytes, base_offset: int, timestamp: int) -> None:
    index = TimeIndex(content, base_offset)
    assert len(list(index)) == len(index)
    index.lookup(timestamp)
    try:
        index.sanity_check()
    except CorruptIndexError as error:
        assert error.position is not None
