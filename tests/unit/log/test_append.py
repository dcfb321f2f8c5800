"""What happens to batches before they are written: who may send which offsets, what is numbered, changed and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import by_hand
import pytest
from helpers.legacy_batches import FORMATS, Row, record_set
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    InvalidRecordError,
    LogstoreError,
    UnexpectedOffsetError,
    UnsupportedFormatError,
)
from logstore.log.append import Analysed, Numbered, analyse, number
from logstore.log.origin import AppendOrigin
from logstore.records import (
    BatchOptions,
    Codec,
    ControlType,
    EndTransactionMarker,
    Record,
    RecordBatch,
    TimestampType,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
    set_leader_epoch,
    set_max_timestamp,
)

NOW = 1_700_000_000_000
INT64_MAX = 2**63 - 1
CLIENT, COORDINATOR = AppendOrigin.CLIENT, AppendOrigin.COORDINATOR
RAFT_LEADER, REPLICATION = AppendOrigin.RAFT_LEADER, AppendOrigin.REPLICATION
TYPES = ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]
THREE: list[Row] = [(b"a", b"1", NOW - 1), (b"b", b"2", NOW + 1), (b"c", None, NOW)]
PRODUCER = {"producer_id": 7, "producer_epoch": 3, "base_sequence": 11, "is_transactional": True}

usual = settings(deadline=None, database=None, max_examples=150)


def appended(
    data: bytes | bytearray | memoryview,
    origin: AppendOrigin = CLIENT,
    *,
    next_offset: int = 100,
    leader_epoch: int = 7,
    **config: Any,
) -> Numbered:
    """The result of both steps. What is checked of it in every test: its bytes are whole batches with right CRCs."""
    settings = LogConfig(**config)
    analysed = analyse(data, origin, config=settings, leader_epoch=leader_epoch)
    done = number(
        analysed, origin, next_offset=next_offset, leader_epoch=leader_epoch, now_ms=NOW, config=settings
    )  # fmt: skip
    assert [b.header for b in iter_batches(bytes(done.data))] == [b.header for b in done.batches]
    return done


def only(done: Numbered) -> RecordBatch:
    (batch,) = done.batches
    return batch


def rows(done: Numbered) -> list[Row]:
    return [(r.key, r.value, r.timestamp) for r in only(done).records()]


def offsets(done: Numbered) -> list[int]:
    return [record.offset for record in only(done).records()]


def timed(*timestamps: int, codec: Codec = Codec.NONE) -> bytearray:
    return encode_batch([(b"k", b"v", timestamp) for timestamp in timestamps], options=BatchOptions(codec=codec))


def given_at(base_offset: int, count: int = 1, *, magic: int = 2, codec: Codec = Codec.NONE) -> bytearray:
    return record_set(magic, [(b"k", b"v", 5)] * count, codec=codec, base_offset=base_offset)


def analysed(data: bytes | bytearray, origin: AppendOrigin = REPLICATION) -> Analysed:
    return analyse(data, origin, config=LogConfig())


# ---------------------------------------------------------------- analysis


def test_an_append_of_nothing_has_no_batches() -> None:
    nothing = analysed(b"")
    assert (nothing.batches, nothing.size, nothing.first_offset, nothing.last_offset) == ([], 0, -1, -1)
    assert (nothing.max_timestamp, nothing.offset_of_max, nothing.codec) == (-1, -1, Codec.NONE)
    for origin in AppendOrigin:
        with pytest.raises(InvalidRecordError, match="holds no batch"):
            appended(b"", origin)


def test_the_facts_of_all_batches_are_put_together() -> None:
    parts = [
        record_set(2, [(b"k", b"v", 30), (b"k", b"v", 10)], codec=Codec.GZIP, base_offset=4),
        record_set(2, [(b"k", b"v", 30)], base_offset=9),
    ]
    found = analysed(b"".join(parts))
    assert [(b.header.position, b.last_offset) for b in found.batches] == [(0, 5), (len(parts[0]), 9)]
    assert (found.first_offset, found.last_offset, found.size) == (4, 9, len(parts[0]) + len(parts[1]))
    assert (found.max_timestamp, found.offset_of_max) == (30, 5)  # the first one that has it
    assert (found.codec, found.is_monotonic) == (Codec.GZIP, True)


@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_the_first_offset_is_known_of_v2_alone(magic: int, codec: Codec) -> None:
    found = analysed(given_at(20, 3, magic=magic, codec=codec))
    assert (found.first_offset, found.last_offset, found.codec) == (20 if magic == 2 else -1, 22, codec)


@pytest.mark.kafka("APPEND-25")
@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize("origin", [CLIENT, REPLICATION])
def test_a_batch_that_is_cut_off_at_the_end_is_left_out(origin: AppendOrigin, kind: Callable[[bytes], bytes]) -> None:
    whole = bytes(given_at(0, 3))
    for cut in by_hand.torn(whole):
        done = appended(kind(whole + cut), origin, next_offset=0, leader_epoch=-1)
        assert bytes(done.data) == whole
    assert analysed(whole[:-1], origin).batches == []


@pytest.mark.parametrize("origin", list(AppendOrigin))
def test_bytes_that_are_no_intact_batch_are_corrupt_at_every_origin(origin: AppendOrigin) -> None:
    data = bytes(given_at(0))
    for position in range(8, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x90
        try:
            found = analyse(damaged, origin, config=LogConfig(), leader_epoch=-1)
        except (CorruptRecordError, InvalidRecordError):
            continue
        # Outside the CRC: a size that reaches beyond the end makes it a partial batch, and epochs are checked for Raft.
        assert found.batches == [] or (12 <= position < 16 and origin is not RAFT_LEADER)


@pytest.mark.parametrize(
    ("position", "byte", "what"), [(8, 0x80, "size"), (11, 13, "size"), (16, 3, "magic"), (60, 9, "CRC")]
)
def test_the_error_says_what_is_wrong_and_where(position: int, byte: int, what: str) -> None:
    good, bad = given_at(0), given_at(1)
    bad[position] = byte
    with pytest.raises(CorruptRecordError, match=f"wrong {what}") as caught:
        analysed(good + bad)
    assert caught.value.position == len(good)


def test_an_unknown_codec_is_unsupported() -> None:
    with pytest.raises(UnsupportedFormatError, match="codec 5"):
        analysed(by_hand.batch(by_hand.record(), attributes=5))


@pytest.mark.kafka("APPEND-08")
@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_a_batch_above_max_message_bytes_is_taken_from_a_leader_only(magic: int, codec: Codec) -> None:
    data = record_set(magic, [(b"k", b"v" * 100, 5)], codec=codec)
    limit = len(data) - 1
    for origin in (CLIENT, COORDINATOR, RAFT_LEADER):
        with pytest.raises(BatchTooLargeError, match=rf"{len(data)} bytes is above max\.message\.bytes, {limit}"):
            appended(data, origin, next_offset=0, leader_epoch=-1, max_message_bytes=limit)
    assert appended(data, REPLICATION, next_offset=0, max_message_bytes=limit).data is data
    assert appended(data, next_offset=0, max_message_bytes=200).last_offset == 0


def test_a_batch_is_too_large_before_its_crc_is_wrong() -> None:
    data = given_at(0)
    data[-1] ^= 1
    with pytest.raises(BatchTooLargeError):
        appended(data, max_message_bytes=20)
    with pytest.raises(CorruptRecordError):
        appended(data)


def test_a_client_begins_its_batches_at_0_and_a_coordinator_anywhere() -> None:
    with pytest.raises(InvalidRecordError, match="base offset 1, not 0"):
        appended(given_at(1))
    assert offsets(appended(given_at(1, 2), COORDINATOR)) == [100, 101]
    assert offsets(appended(given_at(1, 2, magic=1), CLIENT)) == [100, 101]


# ---------------------------------------------------------------- offsets that are given


@pytest.mark.kafka("APPEND-02")
def test_batches_of_a_raft_leader_keep_their_offsets_and_must_not_begin_below_the_log_end() -> None:
    first = given_at(0, 3)
    set_leader_epoch(first, 7)
    unchanged = bytes(first)
    done = appended(first, RAFT_LEADER, next_offset=0)
    assert (bytes(done.data), done.first_offset, done.last_offset, done.count) == (unchanged, 0, 2, 3)
    for base_offset, is_taken in ((1, False), (3, True)):
        data = given_at(base_offset, 3)
        set_leader_epoch(data, 7)
        if is_taken:
            assert appended(data, RAFT_LEADER, next_offset=3).last_offset == 5
        else:
            with pytest.raises(UnexpectedOffsetError):
                appended(data, RAFT_LEADER, next_offset=3)


def test_batches_of_a_raft_leader_must_be_of_its_epoch() -> None:
    data = given_at(0)
    set_leader_epoch(data, 6)
    with pytest.raises(InvalidRecordError, match="leader epoch 6 is in an append of leader epoch 7"):
        appended(data, RAFT_LEADER, next_offset=0)
    assert appended(data, REPLICATION, next_offset=0).last_offset == 0


@pytest.mark.kafka("APPEND-05")
def test_given_offsets_that_do_not_ascend_are_refused() -> None:
    data = b"".join(given_at(offset) for offset in (0, 1, 3, 2, 4))
    for origin in (RAFT_LEADER, REPLICATION):
        with pytest.raises(UnexpectedOffsetError, match="do not ascend") as caught:
            analysed(data, origin)
        assert (caught.value.first_offset, caught.value.last_offset) == (0, 4)
    assert not analysed(data[: len(given_at(0))] * 2, COORDINATOR).is_monotonic


@pytest.mark.parametrize(("base_offset", "last_offset_delta"), [(INT64_MAX, 0), (INT64_MAX - 1, 5), (-2, 0)])
def test_given_offsets_beyond_the_range_of_offsets_are_refused(base_offset: int, last_offset_delta: int) -> None:
    with pytest.raises(UnexpectedOffsetError):
        analysed(by_hand.batch(by_hand.record(), base_offset=base_offset, last_offset_delta=last_offset_delta))


@pytest.mark.parametrize("origin", list(AppendOrigin))
def test_a_range_of_offsets_that_ends_below_its_begin_is_invalid(origin: AppendOrigin) -> None:
    base_offset = 0 if origin is CLIENT else 5
    with pytest.raises(InvalidRecordError, match="last offset of a batch is below its first"):
        analysed(by_hand.batch(by_hand.record(), base_offset=base_offset, last_offset_delta=-2), origin)


@pytest.mark.kafka("APPEND-06")
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
@pytest.mark.parametrize("magic", [0, 1, 2])
def test_given_offsets_below_the_log_end_are_refused(magic: int, codec: Codec) -> None:
    for base_offset in (0, 1):
        with pytest.raises(UnexpectedOffsetError):
            appended(given_at(base_offset, magic=magic, codec=codec), REPLICATION, next_offset=2)
    assert appended(given_at(2, magic=magic, codec=codec), REPLICATION, next_offset=2).last_offset == 2


@pytest.mark.kafka("APPEND-07")
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
@pytest.mark.parametrize("magic", [0, 1, 2])
def test_the_error_has_the_offsets_that_came_even_if_they_must_be_decompressed(magic: int, codec: Codec) -> None:
    with pytest.raises(UnexpectedOffsetError) as caught:
        appended(given_at(4, 3, magic=magic, codec=codec), REPLICATION, next_offset=7)
    assert (caught.value.first_offset, caught.value.last_offset) == (4, 6)


def test_given_offsets_may_leave_gaps_and_their_batches_stay_as_they_are() -> None:
    parts = [given_at(40, 2), given_at(49), given_at(60, 2, codec=Codec.ZSTD)]
    data = b"".join(parts)
    done = appended(data, REPLICATION, next_offset=7, compression_type="gzip", max_message_bytes=0)
    assert done.data is data
    assert (done.first_offset, done.last_offset, done.count, done.log_append_time) == (40, 61, 5, -1)
    assert (done.max_timestamp, done.offset_of_max) == (5, 41)
    assert [batch.header.position for batch in done.batches] == by_hand.joined(parts)[1]


def test_the_count_of_given_batches_is_unknown_where_only_decompression_tells() -> None:
    assert appended(given_at(3, 2, magic=1), REPLICATION, next_offset=0).count == 2
    mixed = given_at(3, 2, magic=1) + given_at(5, 2, magic=1, codec=Codec.GZIP)
    done = appended(mixed, REPLICATION, next_offset=0)
    assert (done.first_offset, done.last_offset, done.count) == (-1, 6, -1)


# ---------------------------------------------------------------- numbering


@pytest.mark.kafka("VALID-13")
@pytest.mark.parametrize("compression_type", ["producer", "uncompressed", "gzip"])
@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_offsets_are_consecutive_from_the_log_end_on(magic: int, codec: Codec, compression_type: str) -> None:
    data = record_set(magic, THREE, codec=codec)
    done = appended(data, next_offset=1_234_567, compression_type=compression_type)
    assert offsets(done) == [1_234_567, 1_234_568, 1_234_569]
    assert (done.first_offset, done.last_offset, done.count) == (1_234_567, 1_234_569, 3)
    assert only(done).header.magic == 2


@pytest.mark.kafka("APPEND-12")
@pytest.mark.parametrize("compression_type", TYPES)
@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_the_leader_epoch_is_stamped_on_whatever_is_numbered(magic: int, codec: Codec, compression_type: str) -> None:
    for origin in (CLIENT, COORDINATOR):
        data = record_set(magic, THREE, codec=codec)
        done = appended(data, origin, leader_epoch=72, compression_type=compression_type)
        assert only(done).header.leader_epoch == 72


@pytest.mark.kafka("APPEND-20")
@pytest.mark.parametrize("compression_type", TYPES)
@pytest.mark.parametrize(("magic", "codec"), FORMATS)
def test_the_codec_is_the_configured_one_or_that_of_the_batch(magic: int, codec: Codec, compression_type: str) -> None:
    done = appended(record_set(magic, THREE, codec=codec), compression_type=compression_type)
    label = "none" if compression_type == "uncompressed" else compression_type
    assert only(done).codec.label == (codec.label if compression_type == "producer" else label)
    assert rows(done) == [(key, value, time if magic else -1) for key, value, time in THREE]


@pytest.mark.parametrize("codec", list(Codec))
def test_a_writable_buffer_is_changed_in_place_and_bytes_are_not(codec: Codec) -> None:
    plain = bytes(timed(5, 9, codec=codec))
    owned = bytearray(plain)
    assert appended(owned).data is owned
    assert owned != plain
    frozen = bytes(plain)
    assert bytes(appended(frozen).data) == bytes(appended(memoryview(frozen)).data) == owned
    assert frozen == plain
    shared = bytearray(b"before" + plain)
    appended(memoryview(shared)[6:])
    assert shared == b"before" + owned


def test_what_was_cut_off_behind_a_batch_is_left_alone() -> None:
    data = timed(5) + b"behind it"
    done = appended(data)
    assert bytes(done.data) == data[:-9]
    assert data.endswith(b"behind it")


@pytest.mark.parametrize("codec", list(Codec))
def test_only_offsets_and_epoch_change_where_the_timestamps_stay(codec: Codec) -> None:
    data = bytes(timed(5, 9, codec=codec))
    done = appended(data)
    assert bytes(done.data) == (100).to_bytes(8, "big") + data[8:12] + (7).to_bytes(4, "big") + data[16:]


@pytest.mark.kafka("VALID-08")
@pytest.mark.parametrize("magic", [1, 2])
def test_create_times_and_the_producer_are_kept(magic: int) -> None:
    data = record_set(magic, THREE)
    if magic == 2:
        data = encode_batch(THREE, options=BatchOptions(**PRODUCER))
    done = appended(data, next_offset=0, leader_epoch=9)
    batch, header = only(done), only(done).header
    assert rows(done) == THREE
    assert (batch.timestamp_type, header.base_timestamp, header.max_timestamp) == (
        TimestampType.CREATE_TIME, NOW - 1, NOW + 1,
    )  # fmt: skip
    assert (done.max_timestamp, done.offset_of_max, done.log_append_time) == (NOW + 1, 2, -1)
    assert header.leader_epoch == 9
    if magic == 2:
        assert done.data is data
        assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 3, 11)
        assert batch.is_transactional


@pytest.mark.kafka("VALID-09")
@pytest.mark.parametrize("magic", [1, 2])
def test_plain_batches_are_compressed_into_one(magic: int) -> None:
    data = record_set(magic, THREE)
    done = appended(data, next_offset=0, compression_type="gzip")
    assert done.data is not data
    assert (only(done).codec, rows(done), done.count) == (Codec.GZIP, THREE, 3)
    assert (only(done).header.base_timestamp, done.max_timestamp, done.offset_of_max) == (NOW - 1, NOW + 1, 2)


@pytest.mark.kafka("VALID-10")
@pytest.mark.parametrize("compression_type", ["producer", "gzip"])
def test_a_batch_that_is_compressed_as_the_log_wants_stays_so(compression_type: str) -> None:
    data = record_set(2, THREE, codec=Codec.GZIP)
    before = bytes(data)
    done = appended(data, next_offset=0, compression_type=compression_type)
    assert done.data is data
    assert data[16:] == before[16:]
    assert (rows(done), done.max_timestamp, done.offset_of_max) == (THREE, NOW + 1, 2)


@pytest.mark.kafka("VALID-11")
@pytest.mark.parametrize("magic", [0, 1])
def test_old_messages_become_a_batch_of_v2(magic: int) -> None:
    done = appended(record_set(magic, THREE, codec=Codec.GZIP), next_offset=0)
    header = only(done).header
    if magic == 0:
        assert (done.max_timestamp, done.offset_of_max, header.base_timestamp, header.max_timestamp) == (-1, -1, -1, -1)
    else:
        assert (done.max_timestamp, done.offset_of_max, rows(done)) == (NOW + 1, 2, THREE)
    assert (header.magic, header.producer_id, header.producer_epoch, header.base_sequence) == (2, -1, -1, -1)
    assert only(done).codec == Codec.GZIP


@pytest.mark.kafka("VALID-05")
@pytest.mark.parametrize("magic", [0, 1, 2])
def test_log_append_time_replaces_the_times_of_plain_records(magic: int) -> None:
    data = record_set(magic, [(b"a", b"1", 1234), (b"b", b"2", 1300), (b"c", b"3", 1200)])
    size = len(data)
    done = appended(data, next_offset=0, message_timestamp_type="LogAppendTime")
    batch = only(done)
    assert batch.timestamp_type == TimestampType.LOG_APPEND_TIME
    assert [(r.key, r.timestamp) for r in batch.records()] == [(b"a", NOW), (b"b", NOW), (b"c", NOW)]
    assert done.max_timestamp == batch.header.max_timestamp == done.log_append_time == NOW
    assert done.offset_of_max == 2
    assert batch.header.base_timestamp == (1234 if magic else -1)
    if magic == 2:
        assert done.data is data
        assert len(data) == size


@pytest.mark.kafka("VALID-06")
def test_log_append_time_does_not_compress_again() -> None:
    data = record_set(2, [(b"k", b"v", time) for time in (1234, 1235, 1236)], codec=Codec.GZIP)
    before = bytes(data)
    done = appended(data, next_offset=0, compression_type="gzip", message_timestamp_type="LogAppendTime")
    assert done.data is data
    assert data[61:] == before[61:]
    assert only(done).header.base_timestamp == 1234
    assert [r.timestamp for r in only(done).records()] == [NOW, NOW, NOW]
    assert (done.max_timestamp, done.offset_of_max) == (NOW, 2)


@pytest.mark.kafka("VALID-07")
def test_log_append_time_of_a_set_of_v0_is_that_of_the_new_batch() -> None:
    done = appended(
        record_set(0, THREE, codec=Codec.GZIP), next_offset=0, message_timestamp_type="LogAppendTime"
    )  # fmt: skip
    assert [r.timestamp for r in only(done).records()] == [NOW, NOW, NOW]
    assert (only(done).header.base_timestamp, only(done).codec) == (-1, Codec.GZIP)
    assert (done.max_timestamp, done.offset_of_max, done.log_append_time) == (NOW, 2, NOW)


def test_log_append_time_is_marked_even_if_the_largest_time_is_that_already() -> None:
    batch = only(appended(timed(NOW - 5, NOW), message_timestamp_type="LogAppendTime"))
    assert [record.timestamp for record in batch.records()] == [NOW, NOW]


@pytest.mark.parametrize("stated", [-1, 0, 4, 10**15])
@pytest.mark.parametrize("codec", [Codec.NONE, Codec.LZ4])
def test_a_wrong_max_timestamp_is_corrected(codec: Codec, stated: int) -> None:
    data = timed(5, 9, codec=codec)
    set_max_timestamp(data, TimestampType.CREATE_TIME, stated)
    done = appended(data)
    assert done.max_timestamp == only(done).header.max_timestamp == 9


def test_attributes_that_mean_nothing_go_when_others_change_and_the_delete_horizon_stays() -> None:
    data = by_hand.batch(by_hand.record(b"k"), attributes=0x7FC0, base_timestamp=5, max_timestamp=5)
    assert only(appended(bytes(data))).header.attributes == 0x7FC0
    done = appended(data, message_timestamp_type="LogAppendTime")
    assert (only(done).header.attributes, only(done).delete_horizon_ms) == (0x48, 5)


def test_records_without_a_time_have_no_largest_one() -> None:
    for codec in Codec:
        done = appended(timed(-1, -1, codec=codec))
        assert (done.max_timestamp, done.offset_of_max, only(done).header.max_timestamp) == (-1, -1, -1)


@pytest.mark.parametrize(
    ("source", "target"), [(a, b) for a in (Codec.NONE, Codec.GZIP) for b in Codec if b not in (Codec.NONE, a)]
)
def test_a_batch_that_is_encoded_anew_keeps_its_producer_and_headers(source: Codec, target: Codec) -> None:
    records = [Record(0, 3, b"k", None, (("h", b"1"), ("h", None))), Record(1, -1, None, b"v" * 200)]
    data = encode_batch(records, options=BatchOptions(codec=source, **PRODUCER))
    before = bytes(data)
    done = appended(data, compression_type=target.label)
    batch, header = only(done), only(done).header
    assert batch.records() == [record.replace(offset=100 + record.offset) for record in records]
    assert (header.producer_id, header.producer_epoch, header.base_sequence, batch.is_transactional) == (7, 3, 11, True)
    assert data == before


@pytest.mark.kafka("VALID-23")
def test_another_level_of_the_same_codec_changes_nothing() -> None:
    words = [(b"%d" % number, b"some words, some more words" * 5, NOW) for number in range(50)]
    for name, codec, level, wanted in (("gzip", Codec.GZIP, 1, 9), ("zstd", Codec.ZSTD, 1, 19)):
        data = encode_batch(words, options=BatchOptions(codec=codec, level=level))
        assert data != encode_batch(words, options=BatchOptions(codec=codec, level=wanted))
        done = appended(bytes(data), compression_type=name, **{f"compression_{name}_level": wanted})
        assert bytes(done.data)[61:] == data[61:]


@pytest.mark.kafka("VALID-23")
@pytest.mark.parametrize(
    ("source", "target", "config"),
    [
        (Codec.GZIP, Codec.LZ4, {}),
        (Codec.GZIP, Codec.SNAPPY, {}),
        (Codec.NONE, Codec.GZIP, {"compression_gzip_level": 1}),
        (Codec.LZ4, Codec.GZIP, {"compression_gzip_level": 9}),
        (Codec.GZIP, Codec.ZSTD, {"compression_zstd_level": 1}),
        (Codec.SNAPPY, Codec.ZSTD, {"compression_zstd_level": 19}),
    ],
)
def test_another_codec_gives_what_compressing_directly_gives(
    source: Codec, target: Codec, config: dict[str, int]
) -> None:
    words = [(b"%d" % number, b"some words, some more words" * 5, NOW) for number in range(50)]
    options = BatchOptions(codec=target, level=next(iter(config.values()), None), leader_epoch=7)
    done = appended(
        encode_batch(words, options=BatchOptions(codec=source)), compression_type=target.label, **config
    )  # fmt: skip
    assert done.data == encode_batch(words, base_offset=100, options=options)


def test_a_batch_that_only_decompressed_is_above_max_message_bytes_is_refused_where_it_has_to_be_so() -> None:
    data = encode_batch([(b"k", b"v" * 5000)], options=BatchOptions(codec=Codec.GZIP))
    assert len(appended(bytes(data), max_message_bytes=1000).data) < 1000
    with pytest.raises(BatchTooLargeError, match=r"above max\.message\.bytes, 1000"):
        appended(data, max_message_bytes=1000, compression_type="uncompressed")


@pytest.mark.kafka("VALID-14")
@pytest.mark.parametrize("compression_type", TYPES)
def test_a_control_batch_of_a_coordinator_stays_uncompressed(compression_type: str) -> None:
    marker = encode_end_transaction_batch(
        EndTransactionMarker(ControlType.COMMIT, 5), offset=0, timestamp=NOW, producer_id=1, producer_epoch=0
    )
    done = appended(marker, COORDINATOR, compression_type=compression_type)
    assert done.data is marker
    assert (only(done).codec, only(done).control_type(), offsets(done)) == (Codec.NONE, ControlType.COMMIT, [100])


def test_a_control_batch_that_came_compressed_is_encoded_as_the_log_wants() -> None:
    record = by_hand.record(bytes(3) + b"\1", bytes(6))
    for source, target in ((Codec.GZIP, "lz4"), (Codec.GZIP, "uncompressed")):
        data = by_hand.batch(record, codec=source, attributes=source | 0x30, producer_id=1, producer_epoch=0)
        batch = only(appended(data, COORDINATOR, compression_type=target))
        assert (batch.is_control, batch.is_transactional, batch.control_type()) == (True, True, ControlType.COMMIT)
        assert batch.codec == (Codec.LZ4 if target == "lz4" else Codec.NONE)


@pytest.mark.parametrize("codec", list(Codec))
def test_the_log_end_must_stay_an_offset(codec: Codec) -> None:
    data = bytes(timed(1, 2, codec=codec))
    for compression_type in ("producer", "gzip"):
        with pytest.raises(UnexpectedOffsetError, match="2 records do not fit"):
            appended(data, next_offset=INT64_MAX - 1, compression_type=compression_type)
        assert appended(data, next_offset=INT64_MAX - 2).last_offset == INT64_MAX - 1


# ---------------------------------------------------------------- any bytes at all

times = st.integers(NOW - 50, NOW + 50) | st.just(-1)
tables = st.lists(
    st.tuples(st.none() | st.binary(max_size=5), st.none() | st.binary(max_size=40), times), min_size=1, max_size=12
)
configs = st.builds(
    LogConfig,
    compression_type=st.sampled_from(TYPES),
    message_timestamp_type=st.sampled_from(["CreateTime", "LogAppendTime"]),
    message_timestamp_before_max_ms=st.sampled_from([10, INT64_MAX]),
    message_timestamp_after_max_ms=st.sampled_from([10, INT64_MAX]),
    cleanup_policy=st.sampled_from([frozenset({"delete"}), frozenset({"compact"})]),
    max_message_bytes=st.sampled_from([90, 1 << 20]),
)


@usual
@given(tables, st.sampled_from(FORMATS), st.sampled_from(TYPES), st.integers(0, 2**40))
def test_every_record_survives_every_pair_of_codecs(
    table: Sequence[Row], source: tuple[int, Codec], compression_type: str, next_offset: int
) -> None:
    magic, codec = source
    done = appended(
        record_set(magic, table, codec=codec), next_offset=next_offset, compression_type=compression_type
    )  # fmt: skip
    expected = [(key, value, time if magic else -1) for key, value, time in table]
    assert [(r.offset, r.key, r.value, r.timestamp) for r in only(done).records()] == [
        (next_offset + number, *row) for number, row in enumerate(expected)
    ]
    newest = max(time for _, _, time in expected)
    assert done.max_timestamp == only(done).header.max_timestamp == newest
    assert done.offset_of_max == (-1 if newest == -1 else done.last_offset)
    assert (done.first_offset, done.last_offset, done.count) == (next_offset, next_offset + len(table) - 1, len(table))


@st.composite
def mutated_sets(draw: st.DrawFn) -> bytes:
    """Batches of any format, bytes of them changed, with outer CRCs that are mostly made right again."""
    parts = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        magic, codec = draw(st.sampled_from(FORMATS))
        part = record_set(magic, draw(tables), codec=codec)
        for _ in range(draw(st.integers(0, 3))):
            position = draw(st.integers(12, min(len(part) - 1, 70)) | st.integers(0, len(part) - 1))
            part[position] = draw(st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        size = 12 + int.from_bytes(part[8:12], "big", signed=True)
        if size == len(part) > 26 and draw(st.integers(0, 9)):
            by_hand.refresh_crc(part)
        parts.append(part)
    return b"".join(parts)


@settings(usual, max_examples=600)
@given(mutated_sets() | st.binary(max_size=120), st.sampled_from(list(AppendOrigin)), configs)
def test_whatever_comes_is_refused_by_our_errors_or_numbered_without_gaps(
    data: bytes, origin: AppendOrigin, config: LogConfig
) -> None:
    owned = bytearray(data)
    try:
        found = analyse(owned, origin, config=config)
        done = number(found, origin, next_offset=0, leader_epoch=3, now_ms=NOW, config=config)
    except LogstoreError:
        assert owned == data
        return
    batches = list(iter_batches(bytes(done.data)))
    assert [batch.header for batch in batches] == [batch.header for batch in done.batches]
    assert batches[-1].last_offset == done.last_offset
    assert max(-1, *(batch.header.max_timestamp for batch in batches)) == done.max_timestamp
    if not origin.assigns_offsets:
        assert owned == data
        return
    (batch,) = batches
    records = batch.records()
    assert [record.offset for record in records] == list(range(done.count)) == list(range(done.last_offset + 1))
    assert max(-1, *(record.timestamp for record in records)) == done.max_timestamp
    assert batch.header.leader_epoch == 3
