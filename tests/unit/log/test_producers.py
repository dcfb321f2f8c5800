"""`ProducerSnapshot` reads and writes the bytes of `<offset>.snapshot`, and trusts nothing without its CRC."""

from __future__ import annotations

import random
import struct

import crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptSnapshotError
from logstore.log import ProducerSnapshot, ProducerStateEntry

# FORMAT.md §4.5
EMPTY = bytes.fromhex("000148674bc700000000")
ONE = bytes.fromhex(
    "0001be185ebb00000001000000000000000100000000000300000000000000070000000300000000000003e8ffffffffffffffffffffffff"
)
ONE_ENTRY = ProducerStateEntry(1, 0, last_sequence=3, last_offset=7, offset_delta=3, last_timestamp=1000)

int16, int32, int64 = (st.integers(-(2**bits), 2**bits - 1) for bits in (15, 31, 63))
entries = st.builds(ProducerStateEntry, int64, int16, int32, int64, int32, int64, int32, int64)
bounded = settings(deadline=None, database=None)


def signed(content: bytes, version: int = 1) -> bytes:
    return struct.pack(">hI", version, crc32c.crc32c(content)) + content


def test_the_golden_snapshots_are_read_and_written() -> None:
    assert ProducerSnapshot.decode(EMPTY) == ProducerSnapshot()
    assert ProducerSnapshot.decode(memoryview(ONE)).entries == (ONE_ENTRY,)
    assert (ProducerSnapshot().encode(), ProducerSnapshot((ONE_ENTRY,)).encode()) == (EMPTY, ONE)


@pytest.mark.kafka("PROD-38")
def test_entries_with_and_without_batch_and_transaction_round_trip_in_any_order() -> None:
    kinds = [
        ProducerStateEntry(1, 2, 3, 100, 1, 1000, 1, 98),
        ProducerStateEntry(2, 2, 3, 100, 1, 1000, 1),
        ProducerStateEntry(3, 2, last_timestamp=1000, current_transaction_first_offset=98),
        ProducerStateEntry(4, 2),
    ]
    for seed in range(5):
        shuffled = tuple(random.Random(seed).sample(kinds, len(kinds)))
        assert ProducerSnapshot.decode(ProducerSnapshot(shuffled).encode()).entries == shuffled
    assert [(entry.has_batch, entry.in_transaction) for entry in kinds] == [
        (True, True),
        (True, False),
        (False, True),
        (False, False),
    ]


@given(st.lists(entries, max_size=10))
@bounded
def test_any_entries_round_trip(found: list[ProducerStateEntry]) -> None:
    assert ProducerSnapshot.decode(ProducerSnapshot(tuple(found)).encode()).entries == tuple(found)


def test_the_first_offset_and_sequence_are_counted_back_from_the_last() -> None:
    assert (ONE_ENTRY.first_sequence, ONE_ENTRY.first_offset) == (0, 4)
    wrapped = ProducerStateEntry(1, 0, last_sequence=9, last_offset=2020, offset_delta=20)
    assert (wrapped.first_sequence, wrapped.first_offset) == (2**31 - 11, 2000)
    assert (ProducerStateEntry(1, 0).first_sequence, ProducerStateEntry(1, 0).first_offset) == (-1, -1)


@pytest.mark.parametrize(
    ("content", "problem", "position"),
    [
        (b"", "0 bytes is shorter", 0),
        (EMPTY[:9], "9 bytes is shorter", 0),
        (signed(bytes(4), version=0), "version 0; only 1", 0),
        (signed(bytes(4), version=257), "version 257; only 1", 0),
        (ONE[:-1] + b"\0", "CRC is 0xbe185ebb", 2),
        (ONE[:-1], "CRC", 2),
        (ONE + b"\0", "CRC", 2),
        (signed(b"\0\0\0\1" + bytes(45)), "counts 1 entries of 46 bytes in 45 bytes", 6),
        (signed(b"\0\0\0\1" + bytes(47)), "counts 1 entries", 6),
        (signed(b"\x7f\xff\xff\xff"), "counts 2147483647 entries", 6),
        (signed(b"\xff\xff\xff\xff"), "counts -1 entries", 6),
    ],
)
def test_a_snapshot_that_cannot_be_trusted_says_what_is_wrong_where(
    content: bytes, problem: str, position: int
) -> None:
    with pytest.raises(CorruptSnapshotError, match=problem) as caught:
        ProducerSnapshot.decode(content)
    assert caught.value.position == position


def test_every_flipped_bit_is_noticed() -> None:
    for bit in range(len(ONE) * 8):
        damaged = bytearray(ONE)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptSnapshotError):
            ProducerSnapshot.decode(damaged)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(signed))
@bounded
def test_any_bytes_are_a_snapshot_or_corrupt(content: bytes) -> None:
    try:
        snapshot = ProducerSnapshot.decode(content)
    except CorruptSnapshotError as error:
        assert error.position is not None
    else:
        assert snapshot.encode() == content
