"""What a leader refuses: which batches and records, by which error, and that nothing is changed then."""

from __future__ import annotations

import itertools
from typing import Any

import by_hand
import pytest
from helpers.legacy_batches import FORMATS, LEGACY_CODECS, LOG_APPEND_TIME, Row, record_set

from logstore.config import LogConfig
from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    InvalidRecordError,
    InvalidTimestampError,
    LogstoreError,
    RecordRejectedError,
    UnsupportedFormatError,
)
from logstore.log.append import Numbered, analyse, number
from logstore.log.origin import AppendOrigin
from logstore.log.validate import PROBLEMS_SHOWN_MAX, decompressed_size_max
from logstore.records import (
    BATCH_BYTES_MAX,
    BatchOptions,
    Codec,
    ControlType,
    EndTransactionMarker,
    decode,
    encode_batch,
    encode_end_transaction_batch,
)

NOW = 1_700_000_000_000
INT64_MAX = 2**63 - 1
CLIENT, COORDINATOR = AppendOrigin.CLIENT, AppendOrigin.COORDINATOR
TARGETS = ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]
COMPACTED = {"cleanup_policy": frozenset({"compact"})}
LIMITS = {"message_timestamp_before_max_ms": 1000, "message_timestamp_after_max_ms": 1000}
COMPRESSED = [(magic, codec) for magic, codec in FORMATS if codec]
DAY = 86_400_000


def numbered(
    data: bytes | bytearray, origin: AppendOrigin = CLIENT, *, next_offset: int = 0, **config: Any
) -> Numbered:
    settings = LogConfig(**config)
    found = analyse(data, origin, config=settings)
    return number(found, origin, next_offset=next_offset, leader_epoch=7, now_ms=NOW, config=settings)


def refused(data: bytearray, origin: AppendOrigin = CLIENT, **config: Any) -> LogstoreError:
    """The error for a batch that is not taken; it must be left as it was."""
    before = bytes(data)
    with pytest.raises(LogstoreError) as caught:
        numbered(data, origin, **config)
    assert data == before
    return caught.value


def is_invalid(error: LogstoreError) -> bool:
    return type(error) is InvalidRecordError


def indexes(error: LogstoreError) -> list[int]:
    assert isinstance(error, RecordRejectedError)
    assert all(problem for _, problem in error.record_errors)
    return [index for index, _ in error.record_errors]


def table(*timestamps: int) -> list[Row]:
    return [(b"k", b"v", timestamp) for timestamp in timestamps]


def by_offsets(*offset_deltas: int, codec: int = 0, **fields: int) -> bytearray:
    """A batch of v2 with a record at each offset."""
    records = [by_hand.record(b"k", b"v", offset_delta=delta) for delta in offset_deltas]
    return by_hand.batch(*records, codec=codec, **fields)


# ---------------------------------------------------------------- sets and headers


@pytest.mark.kafka("VALID-02")
@pytest.mark.parametrize("compression_type", TARGETS)
@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_only_plain_messages_of_v0_and_v1_may_be_several(magic: int, codec: Codec, compression_type: str) -> None:
    one = record_set(magic, table(NOW), codec=codec)
    if magic < 2 and codec == Codec.NONE:
        done = numbered(one + one, compression_type=compression_type)
        assert [record.offset for record in done.batches[0].records()] == [0, 1]
    else:
        error = refused(one + one, compression_type=compression_type)
        assert is_invalid(error)
        assert "2 batches" in str(error)


def test_batches_of_two_formats_are_refused() -> None:
    parts = {magic: record_set(magic, table(NOW)) for magic in (0, 1, 2)}
    for one, other in itertools.permutations(parts, 2):
        assert is_invalid(refused(parts[one] + parts[other]))
    assert is_invalid(refused(parts[1] + record_set(1, table(NOW), codec=Codec.GZIP)))


@pytest.mark.kafka("VALID-03")
@pytest.mark.parametrize("compression_type", TARGETS)
@pytest.mark.parametrize("codec", list(Codec))
def test_a_batch_without_records_is_refused(codec: Codec, compression_type: str) -> None:
    data = by_hand.batch(codec=codec, last_offset_delta=5)
    assert (is_invalid(refused(data, compression_type=compression_type)), data[57:61]) == (True, bytearray(4))
    assert is_invalid(refused(data, COORDINATOR, compression_type=compression_type))


@pytest.mark.kafka("VALID-16")
@pytest.mark.parametrize("origin", [CLIENT, COORDINATOR])
@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize(
    ("last_offset_delta", "count", "is_taken"),
    [(2, 3, True), (0, 3, False), (15, 3, False), (-3, 3, False), (5, 6, False), (1, 2, False)],
)
def test_a_header_that_lies_about_its_records_is_refused(
    last_offset_delta: int, count: int, is_taken: bool, codec: Codec, origin: AppendOrigin
) -> None:
    for compression_type in TARGETS:
        data = by_offsets(0, 1, 2, codec=codec, last_offset_delta=last_offset_delta, count=count)
        if is_taken:
            assert numbered(data, origin, compression_type=compression_type).count == 3
        else:
            assert is_invalid(refused(data, origin, compression_type=compression_type))


@pytest.mark.kafka("VALID-17")
@pytest.mark.parametrize("codec", list(Codec))
def test_a_range_that_the_count_does_not_fill_is_refused(codec: Codec) -> None:
    data = by_offsets(0, 2, 3, codec=codec, last_offset_delta=3)
    error = refused(data)
    assert is_invalid(error)
    assert "3 records for 4 offsets" in str(error)


@pytest.mark.kafka("VALID-17")
@pytest.mark.parametrize("deltas", [(0, 2, 3), (0, 0, 2), (1, 2, 3), (0, 2, 1), (-1, 0, 2), (0, 2, 2)])
def test_plain_records_that_are_not_counted_from_0_are_refused(deltas: tuple[int, ...]) -> None:
    for compression_type in ("producer", "uncompressed"):
        assert is_invalid(refused(by_offsets(*deltas, last_offset_delta=2), compression_type=compression_type))


@pytest.mark.parametrize("deltas", [(0, 2, 3), (0, 0, 0), (1, 2, 3), (2, 1, 0)])
def test_compressed_records_that_are_not_counted_from_0_are_encoded_anew(deltas: tuple[int, ...]) -> None:
    for compression_type in ("producer", "gzip", "zstd", "uncompressed"):
        data = by_offsets(*deltas, codec=Codec.GZIP, last_offset_delta=2)
        done = numbered(data, next_offset=5, compression_type=compression_type)
        assert done.data is not data
        assert [record.offset for record in done.batches[0].records()] == [5, 6, 7]


@pytest.mark.kafka("VALID-01")
@pytest.mark.parametrize("magic", [0, 1, 2])
def test_compressed_records_that_are_all_at_offset_0_are_taken_from_old_clients_only(magic: int) -> None:
    zeros = [0] * 20
    if magic == 2:
        assert is_invalid(refused(by_offsets(*zeros, codec=Codec.GZIP, last_offset_delta=0)))
    else:
        done = numbered(record_set(magic, table(*[NOW] * 20), codec=Codec.GZIP, inner_offsets=zeros))
        assert [record.offset for record in done.batches[0].records()] == list(range(20))


@pytest.mark.kafka("VALID-14")
@pytest.mark.parametrize("compression_type", TARGETS)
def test_a_client_must_not_send_control_batches(compression_type: str) -> None:
    marker = encode_end_transaction_batch(
        EndTransactionMarker(ControlType.ABORT, 0), offset=0, timestamp=NOW, producer_id=1, producer_epoch=0
    )
    error = refused(marker, compression_type=compression_type)
    assert is_invalid(error)
    assert "control batch" in str(error)


@pytest.mark.kafka("VALID-20")
@pytest.mark.parametrize("base_sequence", [-1, -2])
def test_a_producer_id_needs_a_sequence(base_sequence: int) -> None:
    data = by_offsets(0, 1, producer_id=7, producer_epoch=0, base_sequence=base_sequence)
    for origin in (CLIENT, COORDINATOR):
        error = refused(data, origin)
        assert is_invalid(error)
        assert f"base sequence {base_sequence}" in str(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"producer_id": -2},
        {"producer_id": -2, "producer_epoch": 0, "base_sequence": 0},
        {"producer_id": 7, "base_sequence": 0},
        {"producer_id": 7, "base_sequence": 0, "producer_epoch": -2},
        {"attributes": 0x10},
    ],
)
def test_a_producer_is_there_with_id_and_epoch_or_not_at_all(fields: dict[str, int]) -> None:
    assert is_invalid(refused(by_offsets(0, **fields)))


# ---------------------------------------------------------------- records


@pytest.mark.kafka("VALID-04")
@pytest.mark.parametrize("codec", LEGACY_CODECS[1:])
@pytest.mark.parametrize(("magic", "inner"), [(0, 1), (1, 0)])
def test_messages_of_another_format_than_their_set_are_refused_one_by_one(magic: int, inner: int, codec: Codec) -> None:
    data = record_set(magic, table(*[NOW] * 20), codec=codec, inner_magic=inner)
    error = refused(data)
    assert type(error) is RecordRejectedError
    assert indexes(error) == list(range(20))
    assert f"it is of message format v{inner} in a set of v{magic}" in str(error)
    unkeyed = record_set(magic, [(None, b"v", NOW)], codec=codec, inner_magic=inner)
    assert "it is of message format" in str(refused(unkeyed, **COMPACTED))


def test_a_set_with_a_key_of_its_own_is_read_all_the_same() -> None:
    inner = by_hand.message(1, b"k", b"v", timestamp=NOW)
    data = by_hand.message(1, b"key", by_hand.compressed(Codec.GZIP, bytes(inner)), attributes=Codec.GZIP)
    assert numbered(data).count == 1


@pytest.mark.kafka("VALID-19")
@pytest.mark.parametrize("codec", LEGACY_CODECS[1:])
@pytest.mark.parametrize("magic", [0, 1])
def test_a_wrong_crc_inside_a_compressed_set_is_corrupt(magic: int, codec: Codec) -> None:
    data = record_set(magic, table(NOW, NOW), codec=codec, inner_crc=1)
    assert isinstance(refused(data), CorruptRecordError)


@pytest.mark.parametrize("magic", [0, 1])
def test_a_set_inside_a_set_and_zstd_before_v2_are_refused(magic: int) -> None:
    inner = record_set(magic, table(NOW), codec=Codec.GZIP)
    assert is_invalid(refused(by_hand.message_set(magic, Codec.GZIP, inner, offset=0)))
    zstd = by_hand.message_set(magic, Codec.ZSTD, by_hand.message(magic, b"k", b"v"), offset=0)
    assert isinstance(refused(zstd), UnsupportedFormatError)


@pytest.mark.kafka("VALID-21", "CLEAN-57")
@pytest.mark.parametrize("policy", [{"compact"}, {"compact", "delete"}])
@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_a_compacted_log_takes_no_record_without_a_key(magic: int, codec: Codec, policy: set[str]) -> None:
    for compression_type in TARGETS:
        data = record_set(magic, [(None, b"v", NOW), (None, b"w", NOW)], codec=codec)
        error = refused(data, compression_type=compression_type, cleanup_policy=frozenset(policy))
        assert (type(error), indexes(error)) == (RecordRejectedError, [0, 1])
        assert numbered(data, compression_type=compression_type).count == 2


@pytest.mark.kafka("APPEND-10", "CLEAN-57")
def test_the_error_has_index_and_problem_of_each_record_without_a_key() -> None:
    keyed, unkeyed = (b"k", b"v", NOW), (None, b"v", NOW)
    first = refused(record_set(2, [unkeyed, keyed]), **COMPACTED)
    second = refused(record_set(2, [keyed, unkeyed], codec=Codec.GZIP), **COMPACTED)
    for error, index in ((first, 0), (second, 1)):
        assert isinstance(error, RecordRejectedError)
        assert error.record_errors == ((index, "it has no key, and the log is compacted"),)
        assert f"1 of 2 records are refused: record {index}: it has no key" in str(error)
    for codec in (Codec.NONE, Codec.GZIP):
        assert numbered(record_set(2, [keyed, keyed], codec=codec), **COMPACTED).count == 2


def test_the_message_names_three_records_and_the_error_all_of_them() -> None:
    data = record_set(2, [(None, b"v", NOW)] * 5)
    error = refused(data, **COMPACTED)
    assert indexes(error) == [0, 1, 2, 3, 4]
    assert str(error).count("it has no key") == PROBLEMS_SHOWN_MAX == 3
    assert str(error).endswith("; 2 more")


# ---------------------------------------------------------------- timestamps


@pytest.mark.kafka("VALID-12")
@pytest.mark.parametrize("compression_type", ["producer", "gzip", "uncompressed"])
@pytest.mark.parametrize(("magic", "codec"), [(magic, codec) for magic, codec in FORMATS if magic])
def test_a_record_too_far_from_the_clock_refuses_its_batch(magic: int, codec: Codec, compression_type: str) -> None:
    for distance in (-1001, 1001):
        for times in ((NOW, NOW + distance), (-1, NOW + distance)):
            error = refused(record_set(magic, table(*times), codec=codec), compression_type=compression_type, **LIMITS)
            assert (type(error), indexes(error)) == (InvalidTimestampError, [1])
            assert f"its timestamp {NOW + distance} is more than message.timestamp." in str(error)
    at_the_limits = record_set(magic, table(-1, NOW - 1000, NOW + 1000), codec=codec)
    assert numbered(at_the_limits, compression_type=compression_type, **LIMITS).max_timestamp == NOW + 1000


@pytest.mark.kafka("VALID-12")
@pytest.mark.parametrize(("magic", "codec"), [(magic, codec) for magic, codec in FORMATS if magic])
def test_every_record_five_minutes_beyond_the_limit_is_named(magic: int, codec: Codec) -> None:
    limits = {"message_timestamp_before_max_ms": DAY, "message_timestamp_after_max_ms": 3_600_000}
    for time in (NOW - DAY - 300_000, NOW + 3_600_000 + 300_000):
        error = refused(record_set(magic, table(time, time, time), codec=codec), **limits)
        assert (type(error), indexes(error)) == (InvalidTimestampError, [0, 1, 2])


def test_times_far_from_the_clock_are_taken_by_log_append_time() -> None:
    data = record_set(2, table(NOW - 5000, NOW + 5000))
    done = numbered(data, message_timestamp_type="LogAppendTime", **LIMITS)
    assert done.max_timestamp == NOW


def test_records_without_a_time_are_taken_whatever_the_limits() -> None:
    for magic, codec in FORMATS:
        data = record_set(magic, table(-1, -1), codec=codec)
        limits = {"message_timestamp_before_max_ms": 0, "message_timestamp_after_max_ms": 0}
        assert numbered(data, **limits).max_timestamp == -1


@pytest.mark.parametrize("time", [0, NOW * 1000, INT64_MAX])
def test_the_largest_limits_refuse_no_time(time: int) -> None:
    limits = {"message_timestamp_before_max_ms": INT64_MAX, "message_timestamp_after_max_ms": INT64_MAX}
    assert numbered(record_set(2, table(time)), **limits).max_timestamp == time


@pytest.mark.parametrize(
    ("base", "delta", "wrapped"),
    [(INT64_MAX, 5, 4 - 2**63), (-(2**63), -3, INT64_MAX - 2), (-(2**63), NOW + 1 - 2**63, NOW + 1)],
)
def test_times_that_wrap_count_as_they_are_read(base: int, delta: int, wrapped: int) -> None:
    data = by_hand.batch(by_hand.record(b"k", timestamp_delta=delta), base_timestamp=base)
    assert [record.timestamp for record in decode(data)] == [wrapped]
    error = refused(bytearray(data), message_timestamp_after_max_ms=0, message_timestamp_before_max_ms=0)
    assert isinstance(error, InvalidTimestampError)
    assert f"its timestamp {wrapped} is more than" in str(error)
    if wrapped > 0:
        assert numbered(data, message_timestamp_after_max_ms=INT64_MAX).max_timestamp == wrapped
    else:
        assert isinstance(refused(data, message_timestamp_after_max_ms=INT64_MAX), InvalidTimestampError)


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP])
@pytest.mark.parametrize("magic", [1, 2])
def test_a_batch_must_not_be_marked_with_log_append_time(magic: int, codec: Codec, kind: str) -> None:
    if magic == 1:
        data = record_set(1, table(NOW, NOW), codec=codec, attributes=LOG_APPEND_TIME)
    else:
        data = by_offsets(0, 1, codec=codec, attributes=codec | LOG_APPEND_TIME, max_timestamp=NOW)
    error = refused(data, message_timestamp_type=kind)
    assert (type(error), indexes(error)) == (InvalidTimestampError, [0, 1])
    assert "LogAppendTime, which only the log sets" in str(error)


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_a_negative_time_is_kept_but_not_written_anew(kind: str) -> None:
    data = by_hand.batch(by_hand.record(b"k", timestamp_delta=-7))
    error = refused(data, compression_type="gzip", message_timestamp_type=kind)
    assert is_invalid(error)
    assert "timestamp -7 is negative" in str(error)
    assert numbered(data, message_timestamp_type=kind).max_timestamp == (-1 if kind == "CreateTime" else NOW)


@pytest.mark.kafka("VALID-22")
@pytest.mark.parametrize(("magic", "codec"), [(magic, codec) for magic, codec in FORMATS if magic])
def test_one_wrong_time_among_other_problems_makes_it_an_error_of_time(magic: int, codec: Codec) -> None:
    records: list[Row] = [(b"k", b"v", NOW - 1200), *[(None, b"%d" % i, NOW) for i in range(5)], (b"k", b"v", NOW)]
    error = refused(record_set(magic, records, codec=codec), **COMPACTED, **LIMITS)
    assert (type(error), indexes(error)) == (InvalidTimestampError, [0, 1, 2, 3, 4, 5])
    problems = dict(error.record_errors)
    assert "before.max.ms" in problems[0]
    assert all("has no key" in problems[index] for index in range(1, 6))


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize(("magic", "codec"), COMPRESSED)
def test_what_decompresses_to_more_than_the_cap_is_refused(magic: int, codec: Codec) -> None:
    assert decompressed_size_max(LogConfig()) == BATCH_BYTES_MAX
    assert decompressed_size_max(LogConfig(max_message_bytes=BATCH_BYTES_MAX + 1)) == BATCH_BYTES_MAX + 1
    data = record_set(magic, [(b"k", bytes(BATCH_BYTES_MAX), NOW)], codec=codec)
    assert isinstance(refused(data, max_message_bytes=BATCH_BYTES_MAX), BatchTooLargeError)


def test_compressed_bytes_that_are_no_stream_are_invalid() -> None:
    for codec in list(Codec)[1:]:
        data = by_hand.batch(body=b"no stream at all", attributes=codec, count=1)
        assert is_invalid(refused(data))
        assert is_invalid(refused(data, compression_type="uncompressed"))


def test_a_batch_of_a_producer_with_everything_right_is_taken() -> None:
    options = BatchOptions(producer_id=0, producer_epoch=0, base_sequence=0)
    assert numbered(encode_batch(table(NOW), options=options)).count == 1
