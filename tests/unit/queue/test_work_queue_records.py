"""The records of a queue's state come back as they were written, and bytes that are none are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError, UnsupportedFormatError
from logstore.queue import work_queue_records as records
from logstore.queue.work_queue_records import Kind

OFFSETS = st.integers(0, 2**63 - 1)
COUNTS = st.integers(0, 2**16 - 1)
NUMBERS = st.integers(0, 2**16 - 1)
WORKERS = st.integers(0, 2**64 - 1)


def test_the_bytes_are_those_of_the_layout() -> None:
    assert records.encode_acknowledged(2, 5).hex() == "01040002" + "0000000000000005"
    assert records.encode_advanced(1, 2, 3, 4, 5, 6).hex() == "01010001" + "".join(f"{one:016x}" for one in range(2, 7))
    assert records.encode_acquired(0, 7, 8, [(9, 10)]).hex() == "01020000" + f"{7:016x}{8:016x}{9:016x}000a"
    assert records.encode_released(0, [(1, 2, 3)]).hex() == "01030000" + f"{1:016x}{2:016x}0003"
    assert records.encode_unique(0, 1, b"key").hex() == "01070000" + f"{1:016x}" + b"key".hex()
    assert records.encode_snapshot(b"abc") == [bytes.fromhex("01080000" + "00000000" + "00000001") + b"abc"]


@given(NUMBERS, OFFSETS, OFFSETS, OFFSETS, WORKERS, OFFSETS)
def test_an_advance_comes_back(number: int, first: int, position: int, horizon: int, owner: int, until: int) -> None:
    value = records.encode_advanced(number, first, position, horizon, owner, until)
    assert records.head_of(value) == (Kind.ADVANCED, number)
    assert records.decode_advanced(value) == (first, position, horizon, owner, until)


@given(NUMBERS, WORKERS, OFFSETS, st.lists(st.tuples(OFFSETS, COUNTS)))
def test_acquired_jobs_come_back(number: int, owner: int, until: int, jobs: list[tuple[int, int]]) -> None:
    value = records.encode_acquired(number, owner, until, jobs)
    assert records.head_of(value) == (Kind.ACQUIRED, number)
    assert records.decode_acquired(value) == (owner, until, jobs)


@given(st.lists(st.tuples(OFFSETS, OFFSETS, COUNTS)))
def test_released_jobs_come_back(jobs: list[tuple[int, int, int]]) -> None:
    assert records.decode_released(records.encode_released(3, jobs)) == jobs


@given(st.sampled_from([Kind.ACKNOWLEDGED, Kind.DEAD, Kind.GONE]), st.lists(OFFSETS))
def test_finished_jobs_come_back(kind: Kind, offsets: list[int]) -> None:
    value = records.encode_finished(kind, 0, offsets)
    assert records.head_of(value) == (kind, 0)
    assert records.decode_finished(value) == tuple(offsets)
    if len(offsets) == 1 and kind == Kind.ACKNOWLEDGED:
        assert value == records.encode_acknowledged(0, offsets[0])


@given(OFFSETS, st.binary())
def test_a_unique_key_comes_back(offset: int, key: bytes) -> None:
    assert records.decode_unique(records.encode_unique(0, offset, key)) == (offset, key)


def test_a_large_snapshot_is_in_several_parts() -> None:
    data = bytes(range(256)) * 3000
    parts = [records.decode_snapshot_part(one) for one in records.encode_snapshot(data)]
    assert [(index, count) for index, count, _ in parts] == [(0, 3), (1, 3), (2, 3)]
    assert b"".join(piece for _, _, piece in parts) == data


@pytest.mark.parametrize("value", [None, b"", b"\x01\x01\x00"])
def test_what_is_too_short_for_a_head_is_refused(value: bytes | None) -> None:
    with pytest.raises(InvalidRecordError):
        records.head_of(value)


def test_a_later_version_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match="newer logstore"):
        records.head_of(b"\x02\x01\x00\x00")


def test_wrong_sizes_and_parts_are_refused() -> None:
    head = b"\x01\x00\x00\x00"
    for decode, value in (
        (records.decode_advanced, head), (records.decode_acquired, head), (records.decode_acquired, head + bytes(17)),
        (records.decode_released, head + b"\0"), (records.decode_finished, head + b"\0"),
        (records.decode_unique, head), (records.decode_snapshot_part, head),
        (records.decode_snapshot_part, head + struct.pack(">II", 1, 1)),
        (records.decode_snapshot_part, head + struct.pack(">II", 0, 2**31)),
    ):  # fmt: skip
        with pytest.raises(InvalidRecordError):
            decode(value)
