"""`OffsetIndex` finds what Kafka's finds, and knows where the content of a preallocated file ends."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptIndexError
from logstore.log import IndexExtent, OffsetIndex, OffsetIndexEntry, index_extent

BASE = 45
FETCH_ENTRIES = [(45, 0), (46, 10), (47, 23), (48, 37)]
bounded = settings(deadline=None, database=None)

increasing_entries = st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), min_size=1, max_size=60).map(
    lambda steps: [
        (BASE + sum(s[0] for s in steps[: n + 1]), sum(s[1] for s in steps[: n + 1])) for n in range(len(steps))
    ]
)


def file_of(entries: Iterable[tuple[int, int]], base_offset: int = BASE) -> bytes:
    return b"".join(struct.pack(">ii", offset - base_offset, position) for offset, position in entries)


def index_of(entries: Iterable[tuple[int, int]]) -> OffsetIndex:
    return OffsetIndex(file_of(entries), BASE)


@pytest.mark.kafka("INDEX-01")
@pytest.mark.parametrize("offset", [0, 45, 92, 2**63 - 1])
def test_an_empty_index_sends_every_offset_to_the_start(offset: int) -> None:
    assert index_of([]).lookup(offset) == index_of([]).last == (45, 0)


@pytest.mark.kafka("INDEX-02")
@given(increasing_entries)
@bounded
def test_lookup_finds_the_greatest_stored_offset_that_is_not_above(entries: list[tuple[int, int]]) -> None:
    index = index_of(entries)
    for offset in range(BASE - 2, entries[-1][0] + 3, 1 + entries[-1][0] // 200):
        assert index.lookup(offset) == max((e for e in entries if e[0] <= offset), default=(BASE, 0))
    assert [index.lookup(offset) for offset, _ in entries] == entries


@pytest.mark.kafka("INDEX-03")
def test_lookup_at_the_extremes_of_a_full_index() -> None:
    index = index_of([(BASE + n, n) for n in range(1, 31)])
    assert index.lookup(BASE) == (BASE, 0)
    assert index.lookup(BASE + 30) == index.last == (BASE + 30, 30)


@pytest.mark.kafka("INDEX-04")
def test_each_slot_holds_its_entry_and_no_other_slot_exists() -> None:
    index = index_of((BASE + n, n) for n in range(5))
    assert [index.entry(n) for n in range(5)] == list(index) == [(BASE + n, n) for n in range(5)]
    for number in (-1, 5):
        with pytest.raises(IndexError):
            index.entry(number)
    with pytest.raises(IndexError):
        index_of([]).entry(0)


@pytest.mark.kafka("INDEX-07")
@pytest.mark.parametrize(
    ("start_position", "size", "found"),
    [
        (0, 5, (46, 10)),
        (0, 10, (46, 10)),
        (0, 22, (47, 23)),
        (0, 23, (47, 23)),
        (10, 24, (48, 37)),
        (37, 1, None),
        (0, 200, None),
        (10, 200, None),
    ],
)
def test_the_upper_bound_of_a_fetch_is_the_first_entry_behind_it(
    start_position: int, size: int, found: tuple[int, int] | None
) -> None:
    assert index_of(FETCH_ENTRIES).upper_bound(start_position, size) == found
    assert index_of([]).upper_bound(start_position, size) is None


@pytest.mark.kafka("INDEX-10")
def test_one_entry_at_the_base_offset_is_sane() -> None:
    index = index_of([(BASE, 0)])
    index.sanity_check()
    assert list(index) == [(BASE, 0)]


def test_a_last_offset_below_the_base_is_corrupt() -> None:
    with pytest.raises(CorruptIndexError, match="44, is below its base offset 45") as caught:
        index_of([(46, 10), (44, 20)]).sanity_check()
    assert caught.value.position == 8


def test_a_size_that_is_no_multiple_of_an_entry_is_corrupt_and_counted() -> None:
    index = OffsetIndex(file_of(FETCH_ENTRIES) + b"\0\0\1", BASE)
    assert index.extent == IndexExtent(4, 0, 3)
    assert list(index) == FETCH_ENTRIES
    with pytest.raises(CorruptIndexError, match="3 bytes of an entry of 8") as caught:
        index.sanity_check()
    assert caught.value.position == 32


def test_the_zero_tail_of_a_live_index_is_not_searched() -> None:
    index = OffsetIndex(file_of(FETCH_ENTRIES) + bytes(8 * 100_000), BASE)
    assert index.extent == IndexExtent(4, 100_000, 0)
    assert index.last == index.lookup(10**9) == (48, 37)
    assert index.upper_bound(0, 200) is None


def test_an_index_that_is_all_zero_was_never_used() -> None:
    assert index_extent(bytes(8 * 8192), 8) == (0, 8192, 0)
    assert index_extent(bytes(8 * 2 + 3), 8) == (0, 2, 3)
    assert index_extent(b"", 8) == (0, 0, 0)


def test_a_zero_entry_counts_when_another_follows_it() -> None:
    assert list(OffsetIndex(bytes(8) + file_of([(47, 23)]) + bytes(16), BASE)) == [(45, 0), (47, 23)]
    assert index_extent(file_of([(47, 23)]) + bytes(8) + file_of([(48, 37)]) + bytes(8), 8) == (3, 1, 0)


def test_an_entry_that_ends_in_zero_bytes_is_not_cut() -> None:
    entries = [(BASE + 1, 0x01000000), (BASE + 256, 0)]
    assert list(OffsetIndex(file_of(entries) + bytes(80), BASE)) == entries


def test_a_view_copies_nothing_and_says_what_it_is() -> None:
    buffer = bytearray(file_of(FETCH_ENTRIES))
    index = OffsetIndex(memoryview(buffer), BASE)
    buffer[:] = file_of([(50, 60)]) * 4
    assert index.entry(0) == OffsetIndexEntry(50, 60)
    assert "base_offset=45" in repr(index)
    assert "entry_count=4" in repr(index)


@given(st.binary(max_size=400), st.integers(0, 2**62), st.integers(-(2**63), 2**63 - 1))
@bounded
def test_any_bytes_are_an_index_that_is_sane_or_corrupt(content: bytes, base_offset: int, target: int) -> None:
    index = OffsetIndex(content, base_offset)
    extent = index.extent
    assert (extent.entry_count + extent.padding_count) * 8 + extent.trailing_size == len(content)
    assert not any(content[extent.entry_count * 8 : len(content) - extent.trailing_size])
    assert len(list(index)) == len(index)
    index.lookup(target)
    index.upper_bound(target, 1)
    try:
        index.sanity_check()
    except CorruptIndexError as error:
        assert error.position is not None
