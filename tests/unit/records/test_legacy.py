"""Messages of format v0 and v1: plain and compressed ones read as Kafka reads them, wrong ones are refused."""

from __future__ import annotations

import struct

import by_hand
import pytest
from by_hand import GOLDEN, GZIP, LZ4, SNAPPY, ZSTD, message, message_set

from logstore.errors import BatchTooLargeError, CorruptRecordError, InvalidRecordError, UnsupportedFormatError
from logstore.records import Codec, Record, TimestampType, decode, iter_batches
from logstore.records.legacy import decode_legacy

CODECS = [GZIP, SNAPPY, LZ4]
PAIRS = [(b"key0", b"value0"), (None, b"value1"), (b"key2", None)]
LOG_APPEND_TIME = 0x08
INT64_MAX = 2**63 - 1


def relative_messages(magic: int, offsets: tuple[int, ...] = (0, 1, 2)) -> list[bytearray]:
    """Three messages as they stand in a set, with timestamps 10, 20, 30 where the format has them."""
    return [
        message(magic, *pair, offset=offset, timestamp=10 * number if magic else -1)
        for number, (pair, offset) in enumerate(zip(PAIRS, offsets, strict=True), 1)
    ]


def offsets_of(data: bytes) -> list[int]:
    return [record.offset for record in decode(data)]


@pytest.mark.kafka("LEGACY-01")
@pytest.mark.parametrize("codec", [0, *CODECS])
@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("value", [None, b"", b"value", b"v" * 1000], ids=["null", "empty", "short", "long"])
@pytest.mark.parametrize("key", [None, b"", b"key", b"k" * 1000], ids=["null", "empty", "short", "long"])
def test_keys_and_values_of_any_size_read_back(key: bytes | None, value: bytes | None, magic: int, codec: int) -> None:
    data = message(magic, key, value, offset=7 if codec == 0 else 0, timestamp=42)
    if codec:
        data = message_set(magic, codec, data, offset=7 * magic)
    (batch,) = iter_batches(data)
    assert batch.records() == [Record(7 * (magic or codec == 0), 42 if magic else -1, key, value)]
    assert batch.timestamp_type == (TimestampType.CREATE_TIME if magic else TimestampType.NONE)


@pytest.mark.kafka("LEGACY-02")
@pytest.mark.parametrize("name", ["v0 none", "v0 lz4", "v1 none", "v1 lz4"])
def test_every_changed_byte_behind_the_crc_is_noticed(name: str) -> None:
    for position in range(16, len(GOLDEN[name])):
        with pytest.raises(CorruptRecordError):
            list(iter_batches(by_hand.flipped(GOLDEN[name], position, position % 8)))


@pytest.mark.kafka("LEGACY-04")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("magic", [0, 1])
def test_a_wrapper_at_offset_0_leaves_the_inner_offsets_alone(magic: int, codec: int) -> None:
    assert offsets_of(message_set(magic, codec, *relative_messages(magic), offset=0)) == [0, 1, 2]


def test_inner_offsets_of_v0_are_absolute() -> None:
    assert offsets_of(message_set(0, GZIP, *relative_messages(0, (40, 41, 45)), offset=45)) == [40, 41, 45]


def test_inner_offsets_of_v1_are_counted_back_from_the_wrapper() -> None:
    assert offsets_of(message_set(1, GZIP, *relative_messages(1, (0, 3, 5)), offset=105)) == [100, 103, 105]


@pytest.mark.kafka("LEGACY-04")
def test_an_inner_offset_of_v1_beyond_the_wrapper_is_invalid() -> None:
    with pytest.raises(InvalidRecordError, match="holds the relative offset 2"):
        decode(message_set(1, GZIP, *relative_messages(1), offset=1))


@pytest.mark.parametrize("offsets", [(INT64_MAX, 1, 2), (0, 1, -(2**63))], ids=["above", "below"])
def test_inner_offsets_that_leave_64_bits_are_invalid(offsets: tuple[int, ...]) -> None:
    data = message_set(1, GZIP, *relative_messages(1, offsets), offset=INT64_MAX)
    with pytest.raises(InvalidRecordError, match="beyond 64 bits"):
        decode(data)


@pytest.mark.kafka("LEGACY-05")
@pytest.mark.parametrize("codec", CODECS)
def test_log_append_time_of_a_wrapper_overrides_the_inner_timestamps(codec: int) -> None:
    data = message_set(1, codec, *relative_messages(1), offset=2, timestamp=99, attributes=LOG_APPEND_TIME)
    (batch,) = iter_batches(data)
    assert batch.timestamp_type == TimestampType.LOG_APPEND_TIME
    assert [record.timestamp for record in batch.records()] == [99, 99, 99]


@pytest.mark.kafka("LEGACY-05")
def test_create_time_of_a_wrapper_leaves_the_inner_timestamps_alone() -> None:
    data = message_set(1, GZIP, *relative_messages(1), offset=2, timestamp=99)
    assert [record.timestamp for record in decode(data)] == [10, 20, 30]


def test_the_log_append_time_bit_means_nothing_in_v0() -> None:
    data = message_set(0, GZIP, *relative_messages(0), offset=2, attributes=LOG_APPEND_TIME)
    assert [record.timestamp for record in decode(data)] == [-1, -1, -1]


@pytest.mark.kafka("LEGACY-06")
@pytest.mark.parametrize("magic", [0, 1])
def test_a_compressed_set_without_a_value_is_invalid(magic: int) -> None:
    with pytest.raises(InvalidRecordError, match="has no value"):
        decode(message(magic, None, None, attributes=GZIP))


@pytest.mark.kafka("LEGACY-06")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("magic", [0, 1])
def test_a_compressed_set_of_nothing_is_invalid(magic: int, codec: int) -> None:
    with pytest.raises(InvalidRecordError, match="holds no messages"):
        decode(message_set(magic, codec, offset=0))


@pytest.mark.kafka("LEGACY-07")
@pytest.mark.parametrize(("magic", "size"), [(0, 13), (1, 21), (0, 0), (1, -1)])
def test_a_message_shorter_than_its_header_is_corrupt(magic: int, size: int) -> None:
    with pytest.raises(CorruptRecordError, match="wrong size"):
        decode(message(magic, b"key", b"value", size=size))


@pytest.mark.kafka("LEGACY-07")
@pytest.mark.parametrize("magic", [0, 1])
def test_a_message_of_wrong_crc_is_corrupt(magic: int) -> None:
    data = message(magic, b"key", b"value", crc=1)
    with pytest.raises(CorruptRecordError, match="wrong CRC"):
        decode(data)
    assert not next(iter_batches(data, verify=False)).crc_is_valid()


@pytest.mark.parametrize("magic", [0, 1])
def test_zstd_does_not_exist_before_v2(magic: int) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"v{magic}"):
        decode(message_set(magic, ZSTD, *relative_messages(magic), offset=2))


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_an_unknown_codec_is_unsupported(codec: int) -> None:
    with pytest.raises(UnsupportedFormatError, match=f"codec {codec}"):
        decode(message(1, None, b"value", attributes=codec))


def test_a_set_inside_a_set_is_invalid() -> None:
    inner = message_set(1, GZIP, *relative_messages(1), offset=2)
    with pytest.raises(InvalidRecordError, match="itself compressed"):
        decode(message_set(1, GZIP, inner, offset=2))


def test_an_inner_message_of_the_other_old_format_is_read() -> None:
    assert decode(message_set(1, GZIP, message(0, b"k", b"v"), offset=4)) == [Record(4, -1, b"k", b"v")]
    assert decode(message_set(0, GZIP, message(1, b"k", b"v", timestamp=5), offset=0)) == [Record(0, 5, b"k", b"v")]


@pytest.mark.parametrize("magic", [2, 3, 255])
def test_an_inner_message_of_another_format_is_invalid(magic: int) -> None:
    inner = message(0, b"key", b"a value of some length")
    inner[16] = magic
    with pytest.raises(InvalidRecordError, match="impossible format"):
        decode(message_set(0, GZIP, inner, offset=0))


def test_an_inner_size_below_the_smallest_message_is_corrupt() -> None:
    with pytest.raises(CorruptRecordError, match="has size 13"):
        decode(message_set(1, GZIP, message(1, b"k", b"v", size=13), offset=0))


def test_an_inner_v1_message_smaller_than_its_own_header_is_invalid() -> None:
    inner = struct.pack(">qiIbb", 0, 14, 0, 1, 0) + bytes(8)
    with pytest.raises(InvalidRecordError, match="impossible format"):
        decode(message_set(1, GZIP, inner, offset=0))


def test_a_last_inner_message_that_is_cut_off_ends_the_set() -> None:
    messages = relative_messages(0)
    for size in range(len(messages[2])):
        assert offsets_of(message_set(0, GZIP, *messages[:2], messages[2][:size], offset=1)) == [0, 1]


def test_inner_crcs_are_checked_only_when_asked_for() -> None:
    data = message_set(0, GZIP, message(0, b"k", b"v", crc=1), offset=0)
    (batch,) = iter_batches(data)
    assert batch.records() == [Record(0, -1, b"k", b"v")]
    with pytest.raises(CorruptRecordError, match="wrong CRC"):
        decode_legacy(data, 0, batch.header, size_max=1000, verify=True)


@pytest.mark.parametrize(("position", "number"), [(18, 100), (18, 2**31 - 1), (22, 6), (22, -2)])
def test_a_field_length_that_lies_is_invalid(position: int, number: int) -> None:
    data = message(0, None, b"value")
    struct.pack_into(">i", data, position, number)
    by_hand.refresh_crc(data)
    with pytest.raises(InvalidRecordError):
        decode(data)


def test_bytes_behind_the_value_are_invalid() -> None:
    data = message(0, b"k", b"v") + b"more"
    data[8:12] = struct.pack(">i", len(data) - 12)
    by_hand.refresh_crc(data)
    with pytest.raises(InvalidRecordError, match="do not fill its size"):
        decode(data)


def test_a_set_larger_than_the_cap_is_refused() -> None:
    data = message_set(1, GZIP, message(1, b"k", bytes(10_000)), offset=0)
    (batch,) = iter_batches(data)
    with pytest.raises(BatchTooLargeError):
        batch.records(size_max=10_000)
    assert len(batch.records(size_max=11_000)) == 1


def test_v0_lz4_is_read_with_the_header_checksum_that_v0_writers_make() -> None:
    assert by_hand.compressed(LZ4, b"x", magic=0)[6] == 0x1A
    assert by_hand.compressed(LZ4, b"x", magic=1)[6] == 0x82
    inner = message(0, b"k", b"v")
    for checksum in (0x1A, 0x82, 0):
        data = message(0, None, by_hand.lz4_frame(bytes(inner), checksum=checksum), attributes=Codec.LZ4)
        assert decode(data) == [Record(0, -1, b"k", b"v")]


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_have_none_of_the_fields_of_v2(magic: int) -> None:
    (batch,) = iter_batches(message(magic, b"k", b"v", offset=3, timestamp=5, attributes=0x70))
    header = batch.header
    assert (header.leader_epoch, header.producer_id, header.producer_epoch, header.base_sequence) == (-1, -1, -1, -1)
    assert not (batch.is_transactional or batch.is_control or batch.has_producer_id or batch.delete_horizon_ms)
    assert (batch.last_offset, batch.last_sequence, header.count) == (3, -1, 1)


def test_the_count_of_a_compressed_set_is_not_known() -> None:
    (batch,) = iter_batches(message_set(1, GZIP, *relative_messages(1), offset=5))
    assert (batch.header.count, batch.header.base_offset, batch.last_offset) == (-1, 5, 5)
