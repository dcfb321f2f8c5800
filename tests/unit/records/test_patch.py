"""A leader numbers and stamps batches in place; their CRCs stay right, and what is no batch is refused."""

from __future__ import annotations

import by_hand
import pytest
from by_hand import GZIP, message, message_set

from logstore.errors import CorruptRecordError, UnsupportedFormatError
from logstore.records import (
    Codec,
    RecordBatch,
    TimestampType,
    encode_batch,
    iter_batches,
    set_last_offset,
    set_leader_epoch,
    set_max_timestamp,
)
from logstore.records.builder import BatchOptions

CODECS = list(Codec)
APPEND_TIME, CREATE_TIME = TimestampType.LOG_APPEND_TIME, TimestampType.CREATE_TIME


def three_records(codec: Codec = Codec.NONE) -> bytearray:
    pairs = [(b"key", b"value", 10 + number) for number in range(3)]
    return encode_batch(pairs, options=BatchOptions(codec=codec))


def only_batch(data: bytearray) -> RecordBatch:
    """The one batch of `data`, its CRC checked."""
    (batch,) = iter_batches(data)
    return batch


@pytest.mark.kafka("BATCH-07")
@pytest.mark.parametrize("codec", CODECS)
def test_the_last_offset_moves_the_whole_batch(codec: Codec) -> None:
    data = three_records(codec)
    set_last_offset(data, 500)
    assert only_batch(data).header.base_offset == 498
    assert [record.offset for record in only_batch(data).records()] == [498, 499, 500]


@pytest.mark.kafka("LEGACY-03")
def test_the_last_offset_of_a_v1_set_numbers_its_messages_backwards() -> None:
    data = message_set(1, GZIP, *(message(1, b"k", b"v", offset=number) for number in range(3)), offset=2)
    set_last_offset(data, 500)
    assert [record.offset for record in only_batch(data).records()] == [498, 499, 500]


@pytest.mark.kafka("BATCH-07")
@pytest.mark.parametrize("codec", CODECS)
def test_the_leader_epoch_is_stamped_without_touching_the_crc(codec: Codec) -> None:
    data = three_records(codec)
    crc = only_batch(data).header.crc
    set_leader_epoch(data, 500)
    assert (only_batch(data).header.leader_epoch, only_batch(data).header.crc) == (500, crc)


@pytest.mark.kafka("BATCH-07")
@pytest.mark.parametrize("codec", CODECS)
def test_log_append_time_makes_every_record_report_it(codec: Codec) -> None:
    data = three_records(codec)
    set_max_timestamp(data, APPEND_TIME, 15)
    batch = only_batch(data)
    assert (batch.timestamp_type, batch.header.max_timestamp, batch.header.base_timestamp) == (APPEND_TIME, 15, 10)
    assert {record.timestamp for record in batch.records()} == {15}


def test_going_back_to_create_time_shows_the_records_own_timestamps_again() -> None:
    data = three_records()
    set_max_timestamp(data, APPEND_TIME, 15)
    set_max_timestamp(data, CREATE_TIME, 12)
    assert data == three_records()


def test_nothing_is_written_where_type_and_timestamp_stand_there() -> None:
    data = three_records()
    set_max_timestamp(data, CREATE_TIME, 12)
    assert data == three_records()
    data[17] ^= 1  # a wrong CRC is left alone then, too
    set_max_timestamp(data, CREATE_TIME, 12)
    assert not next(iter_batches(data, verify=False)).crc_is_valid()


def test_unused_attribute_bits_are_cleared() -> None:
    data = by_hand.batch(by_hand.record(b"k", b"v"), attributes=-0x0100)
    set_max_timestamp(data, APPEND_TIME, 15)
    assert only_batch(data).header.attributes == 0x08
    data = message(1, b"k", b"v", attributes=-0x80)
    set_max_timestamp(data, APPEND_TIME, 15)
    assert only_batch(data).header.attributes == 0x08


@pytest.mark.kafka("BATCH-07")
def test_a_timestamp_type_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="none"):
        set_max_timestamp(three_records(), TimestampType.NONE, 15)


@pytest.mark.kafka("LEGACY-05")
def test_formats_before_v2_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(UnsupportedFormatError, match="no timestamps"):
        set_max_timestamp(message(0, b"k", b"v"), CREATE_TIME, 15)
    for magic in (0, 1):
        with pytest.raises(UnsupportedFormatError, match="no leader epoch"):
            set_leader_epoch(message(magic, b"k", b"v"), 15)


@pytest.mark.kafka("LEGACY-05")
@pytest.mark.parametrize(("kind", "shown"), [(APPEND_TIME, [15, 15]), (CREATE_TIME, [1, 2])])
def test_a_v1_set_is_given_a_timestamp_in_its_wrapper(kind: TimestampType, shown: list[int]) -> None:
    inner = [message(1, b"k", b"v", offset=number, timestamp=number + 1) for number in range(2)]
    data = message_set(1, GZIP, *inner, offset=1, timestamp=2)
    set_max_timestamp(data, kind, 15)
    assert (only_batch(data).timestamp_type, only_batch(data).header.max_timestamp) == (kind, 15)
    assert [record.timestamp for record in only_batch(data).records()] == shown


def test_a_batch_behind_another_is_patched_alone() -> None:
    first = three_records()
    data = first + three_records()
    set_last_offset(data, 900, len(first))
    set_leader_epoch(data, 3, len(first))
    set_max_timestamp(data, APPEND_TIME, 77, len(first))
    one, other = iter_batches(data)
    assert one.raw == first
    assert (other.last_offset, other.header.leader_epoch, other.header.max_timestamp) == (900, 3, 77)


@pytest.mark.parametrize("start", [0, 50, 1000])
@pytest.mark.parametrize("data", [b"", bytes(16), bytes(60), b"\xff" * 70], ids=["empty", "16", "60", "ff"])
def test_bytes_that_are_no_whole_batch_are_refused(data: bytes, start: int) -> None:
    for patch in (lambda at: set_last_offset(at, 1, start), lambda at: set_leader_epoch(at, 1, start)):
        with pytest.raises(CorruptRecordError):
            patch(bytearray(data))


def test_a_batch_that_is_cut_anywhere_is_refused_and_left_alone() -> None:
    for piece in by_hand.torn(three_records()):
        data = bytearray(piece)
        with pytest.raises(CorruptRecordError):
            set_max_timestamp(data, APPEND_TIME, 15)
        assert data == piece
