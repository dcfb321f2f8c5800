"""What a leader does to a batch before it is written: what it refuses, and what it changes."""

from __future__ import annotations

from typing import Any

import pytest

from logstore.checksum import crc32c
from logstore.config import LogConfig
from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    InvalidRecordError,
    RecordRejectedError,
    UnsupportedFormatError,
)
from logstore.log.append import Numbered, number_batch
from logstore.records import (
    BatchOptions,
    Codec,
    ControlType,
    EndTransactionMarker,
    RecordBatch,
    TimestampType,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
    set_max_timestamp,
)

NOW = 1_700_000_000_000


def numbered(data: bytes | bytearray, *, next_offset: int = 100, leader_epoch: int = 7, **config: Any) -> Numbered:
    return number_batch(
        data, next_offset=next_offset, leader_epoch=leader_epoch, now_ms=NOW, config=LogConfig(**config)
    )


def only(done: Numbered) -> RecordBatch:
    """The batch, read with its CRC checked."""
    (batch,) = iter_batches(bytes(done.data))
    return batch


def timed(*timestamps: int, codec: Codec = Codec.NONE) -> bytearray:
    return encode_batch([(b"k", b"v", timestamp) for timestamp in timestamps], options=BatchOptions(codec=codec))


def make_crc_right(data: bytearray) -> None:
    data[17:21] = crc32c(data[21:]).to_bytes(4, "big")


@pytest.mark.parametrize("codec", list(Codec))
def test_a_batch_gets_the_next_offsets_and_the_epoch(codec: Codec) -> None:
    done = numbered(timed(5, 9, 7, codec=codec))
    batch = only(done)
    assert (done.first_offset, done.last_offset, done.max_timestamp) == (100, 102, 9)
    assert [(r.offset, r.timestamp) for r in batch.records()] == [(100, 5), (101, 9), (102, 7)]
    assert (batch.header.leader_epoch, batch.header.max_timestamp, batch.codec) == (7, 9, codec)


def test_a_bytearray_is_changed_in_place_and_bytes_are_not() -> None:
    given = timed(5)
    assert numbered(given).data is given
    frozen = bytes(timed(5))
    numbered(frozen)
    assert frozen == timed(5)


@pytest.mark.parametrize("stated", [-1, 0, 4, 10**15])
def test_a_wrong_max_timestamp_is_corrected(stated: int) -> None:
    data = timed(5, 9)
    set_max_timestamp(data, TimestampType.CREATE_TIME, stated)
    done = numbered(data)
    assert done.max_timestamp == only(done).header.max_timestamp == 9


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
def test_log_append_time_leaves_the_records_and_sets_the_header(codec: Codec) -> None:
    done = numbered(timed(5, 9, codec=codec), message_timestamp_type="LogAppendTime")
    batch = only(done)
    assert done.max_timestamp == batch.header.max_timestamp == NOW
    assert batch.header.base_timestamp == 5
    assert [record.timestamp for record in batch.records()] == [NOW, NOW]


def test_another_codec_keeps_records_as_they_are() -> None:
    records = [(b"k", None, 3, [("h", b"1"), ("h", None)]), (None, b"v" * 200, -1)]
    done = numbered(encode_batch(records), compression_type="zstd")
    assert only(done).codec == Codec.ZSTD
    found = [(r.key, r.value, r.timestamp, [tuple(h) for h in r.headers]) for r in only(done).records()]
    assert found == [(b"k", None, 3, [("h", b"1"), ("h", None)]), (None, b"v" * 200, -1, [])]


def test_a_batch_that_only_decompressed_is_above_max_message_bytes_is_refused() -> None:
    data = encode_batch([(b"k", b"v" * 5000)], options=BatchOptions(codec=Codec.GZIP))
    assert len(numbered(bytes(data), max_message_bytes=1000).data) < 1000
    with pytest.raises(BatchTooLargeError, match=r"above max\.message\.bytes, 1000"):
        numbered(data, max_message_bytes=1000, compression_type="uncompressed")


@pytest.mark.parametrize("timestamps", [(NOW - 11,), (-1, NOW - 11), (NOW + 11,), (-1, NOW + 11)])
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
def test_one_record_too_far_from_the_clock_refuses_its_batch(timestamps: tuple[int, ...], codec: Codec) -> None:
    limits = {"message_timestamp_before_max_ms": 10, "message_timestamp_after_max_ms": 10}
    with pytest.raises(RecordRejectedError, match=r"max\.ms"):
        numbered(timed(*timestamps, codec=codec), **limits)
    assert numbered(timed(*timestamps, codec=codec), message_timestamp_type="LogAppendTime", **limits)


def test_records_at_the_limits_and_without_a_time_are_taken() -> None:
    limits = {"message_timestamp_before_max_ms": 10, "message_timestamp_after_max_ms": 10}
    assert numbered(timed(-1, NOW - 10, NOW + 10), **limits).max_timestamp == NOW + 10
    assert numbered(timed(-1), **limits).max_timestamp == -1


@pytest.mark.parametrize("policy", [{"compact"}, {"compact", "delete"}])
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
def test_one_record_without_key_refuses_its_batch_in_a_compacted_log(policy: set[str], codec: Codec) -> None:
    data = encode_batch([(b"k", b"v"), (None, b"v")], options=BatchOptions(codec=codec))
    with pytest.raises(RecordRejectedError, match="1 records have no key"):
        numbered(bytes(data), cleanup_policy=frozenset(policy))
    assert numbered(data).last_offset == 101


def test_batches_of_producers_and_of_transactions_are_refused() -> None:
    idempotent = encode_batch([(b"k", b"v")], options=BatchOptions(producer_id=1, producer_epoch=0, base_sequence=0))
    marker = encode_end_transaction_batch(
        EndTransactionMarker(ControlType.ABORT, 0), offset=0, timestamp=1, producer_id=1, producer_epoch=0,
        leader_epoch=0,
    )  # fmt: skip
    for data in (idempotent, marker):
        with pytest.raises(UnsupportedFormatError, match="producers"):
            numbered(data)


def test_what_is_not_one_whole_batch_is_refused() -> None:
    data = bytes(timed(1))
    for given in (b"", data[:11], data[:-1], data + b"\0", data + data):
        with pytest.raises(CorruptRecordError, match="exactly one whole batch"):
            numbered(given)
    with pytest.raises(CorruptRecordError):
        numbered(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_batch_whose_counts_disagree_is_refused() -> None:
    data = timed(1, 2, 3)
    data[57:61] = (2).to_bytes(4, "big")
    make_crc_right(data)
    with pytest.raises(InvalidRecordError, match="2 records for 3 offsets"):
        numbered(data)


def test_a_batch_with_a_gap_in_it_is_refused() -> None:
    data = timed(1, 2)
    data[data.rindex(b"\x02k") - 1] = 8  # the second record says that it is the fourth behind the first
    make_crc_right(data)
    with pytest.raises(InvalidRecordError, match="do not ascend"):
        numbered(data)
