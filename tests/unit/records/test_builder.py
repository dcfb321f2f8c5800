"""Building batches: exact sizes, every field where Kafka puts it, and no contradiction gets into a header."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from by_hand import GOLDEN_COMMIT, GZIP, LZ4, batch, message, message_set, record
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError
from logstore.records import (
    BatchBuilder,
    BatchOptions,
    Codec,
    ControlType,
    EndTransactionMarker,
    Record,
    RecordBatch,
    TimestampType,
    encode_batch,
    encode_control_key,
    encode_end_transaction_batch,
    encode_end_transaction_marker,
    iter_batches,
    kernel,
    parse_end_transaction_marker,
)
from logstore.records.internal import decode_control_value

INT32_MAX = 2**31 - 1
APPEND_TIME = TimestampType.LOG_APPEND_TIME
MANY = [
    (None, None, 0, ()),
    (b"key", b"", 5, (("h", None),)),
    (b"", b"value", 300, (("\u00e9", b"x"), ("", b""))),
    (b"k" * 300, b"v" * 20_000, 10**12, ()),
]


def only(data: bytes) -> RecordBatch:
    (found,) = iter_batches(data)
    return found


def filled(builder: BatchBuilder, records: list[Any] = MANY) -> BatchBuilder:
    for key, value, timestamp, headers in records:
        builder.append(key, value, timestamp=timestamp, headers=headers)
    return builder


# ---------------------------------------------------------------- sizes


@pytest.mark.kafka("BATCH-10", "RECORD-01")
def test_the_estimated_size_is_the_written_size_after_every_record() -> None:
    for count in range(1, len(MANY) + 1):
        builder = filled(BatchBuilder(base_offset=7), MANY[:count])
        assert builder.estimated_size == len(builder.build()) == len(encode_batch(MANY[:count], base_offset=7))


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(max_size=200),
            st.none() | st.binary(max_size=200),
            st.integers(-1, 2**63 - 1),
            st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=3),
        ),
        min_size=1,
        max_size=5,
    ),
    st.none() | st.integers(0, 2**50),
)
@settings(deadline=None, database=None)
def test_sizes_of_any_records_are_estimated_exactly(records: list[Any], horizon: int | None) -> None:
    options = BatchOptions(delete_horizon_ms=horizon)
    builder = filled(BatchBuilder(options=options), records)
    assert builder.estimated_size == len(builder.build())
    assert builder.build() == encode_batch(records, options=options)


@pytest.mark.kafka("BATCH-17")
def test_a_write_limit_of_nothing_takes_one_record_and_is_full() -> None:
    builder = BatchBuilder(bytes_max=0)
    assert builder.has_room_for(b"key", b"value" * 1000)
    builder.append(b"key", b"value" * 1000)
    assert not builder.has_room_for(None, None)
    assert len(only(builder.build()).records()) == 1


@pytest.mark.kafka("BATCH-17")
@pytest.mark.parametrize("codec", Codec)
def test_estimates_grow_with_each_record_and_bound_the_size(codec: Codec) -> None:
    builder = BatchBuilder(options=BatchOptions(codec=codec))
    sizes = [builder.estimated_size]
    for number in range(50):
        builder.append(b"key", b"value %d" % number)
        sizes.append(builder.estimated_size)
    assert sizes[0] == 0 and all(one < other for one, other in pairwise(sizes))
    assert len(builder.build()) <= sizes[-1]


def test_a_batch_with_a_write_limit_never_grows_beyond_it() -> None:
    builder = BatchBuilder(bytes_max=2000)
    while builder.has_room_for(b"key", b"value" * 10, [("header", b"data")]):
        builder.append(b"key", b"value" * 10, headers=[("header", b"data")], timestamp=builder.count**8)
    assert 1800 < builder.estimated_size <= 2000


# ---------------------------------------------------------------- the life of a builder


@pytest.mark.kafka("BATCH-12")
def test_a_builder_without_records_writes_nothing() -> None:
    builder = BatchBuilder()
    assert (builder.build(), builder.count, builder.estimated_size) == (b"", 0, 0)
    with pytest.raises(ValueError, match="at least one record"):
        encode_batch([])


@pytest.mark.kafka("BATCH-12")
def test_an_aborted_builder_refuses_to_go_on() -> None:
    builder = filled(BatchBuilder())
    builder.abort()
    assert (builder.count, builder.has_room_for(b"k", b"v")) == (0, False)
    with pytest.raises(ValueError, match="closed"):
        builder.append(b"k", b"v")
    with pytest.raises(ValueError, match="aborted"):
        builder.build()


@pytest.mark.kafka("BATCH-12")
def test_a_builder_that_is_built_takes_no_more_and_gives_the_same_batch_again() -> None:
    builder = filled(BatchBuilder())
    data = builder.build()
    assert not builder.has_room_for(None, None)
    with pytest.raises(ValueError, match="closed"):
        builder.append(b"k", b"v")
    assert builder.build() is data


@pytest.mark.kafka("BATCH-16")
def test_an_offset_that_does_not_ascend_is_refused() -> None:
    builder = BatchBuilder(base_offset=10)
    assert [builder.append(b"k", b"v", offset=offset) for offset in (10, 15)] == [10, 15]
    for offset in (15, 14, 9, -1):
        with pytest.raises(ValueError, match=f"offset {offset} does not follow 15"):
            builder.append(b"k", b"v", offset=offset)
    assert builder.append(b"k", b"v") == 16
    assert [one.offset for one in only(builder.build()).records()] == [10, 15, 16]


@pytest.mark.kafka("BATCH-16")
@pytest.mark.parametrize("offsets", [(5, 5), (5, 4), (3, 2**31 + 4)])
def test_records_out_of_order_or_too_far_apart_make_no_batch(offsets: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="record 1: its offset"):
        encode_batch([Record(offset, 0, None, None) for offset in offsets], base_offset=3)


def test_a_first_offset_below_the_base_is_refused() -> None:
    with pytest.raises(ValueError, match="does not follow 9"):
        BatchBuilder(base_offset=10).append(None, None, offset=9)
    with pytest.raises(ValueError, match="record 0: its offset"):
        encode_batch([Record(9, 0, None, None)], base_offset=10)


def test_a_refused_record_leaves_the_builder_as_it_was() -> None:
    builder = filled(BatchBuilder())
    before = builder.estimated_size
    for wrong in ({"timestamp": -2}, {"offset": 2**31}, {"headers": [("h", "text")]}):
        with pytest.raises((ValueError, TypeError)):
            builder.append(b"k", b"v", **wrong)
    assert (builder.count, builder.estimated_size) == (4, before)
    assert builder.build() == encode_batch(MANY)


def test_the_repr_shows_how_full_a_builder_is() -> None:
    builder = BatchBuilder(base_offset=7)
    builder.append(b"k", b"v")
    assert repr(builder) == "<BatchBuilder base_offset 7 records 1 bytes 70>"


# ---------------------------------------------------------------- what the header says


@pytest.mark.kafka("BATCH-14")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"is_transactional": True}, "needs a producer id"),
        ({"producer_id": 1}, "needs a producer epoch"),
        ({"producer_id": 1, "producer_epoch": 0}, "needs a base sequence"),
        ({"producer_id": 1, "producer_epoch": 0, "base_sequence": -2}, "needs a base sequence"),
        ({"timestamp_type": TimestampType.NONE}, "needs a timestamp type"),
        ({"timestamp_type": APPEND_TIME}, "append_time goes with LogAppendTime"),
        ({"append_time": 1}, "append_time goes with LogAppendTime"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BatchOptions(**wrong)


@pytest.mark.kafka("BATCH-14")
def test_an_end_marker_goes_in_a_transactional_batch_alone() -> None:
    marker = encode_end_transaction_marker(EndTransactionMarker(ControlType.ABORT, 1))
    with pytest.raises(ValueError, match="needs a transactional batch"):
        encode_batch([marker], options=BatchOptions(is_control=True))
    builder = BatchBuilder(options=BatchOptions(is_control=True))
    builder.append(*marker)
    with pytest.raises(ValueError, match="needs a transactional batch"):
        builder.build()


@pytest.mark.kafka("BATCH-14")
@pytest.mark.parametrize("control_type", [one for one in ControlType if one > ControlType.COMMIT])
def test_a_control_record_of_kraft_needs_a_leader_epoch(control_type: ControlType) -> None:
    item = (encode_control_key(control_type), b"")
    with pytest.raises(ValueError, match=f"a {control_type.name} record needs a leader epoch"):
        encode_batch([item], options=BatchOptions(is_control=True))
    found = only(encode_batch([item], options=BatchOptions(is_control=True, leader_epoch=0)))
    assert found.control_type() == control_type


def test_a_control_batch_takes_control_records_alone() -> None:
    with pytest.raises(InvalidRecordError, match="key of at least 4 bytes"):
        encode_batch([(b"key", b"value")], options=BatchOptions(is_control=True))


@pytest.mark.kafka("BATCH-08", "BATCH-21")
def test_a_commit_marker_is_78_bytes_that_were_made_by_hand() -> None:
    marker = EndTransactionMarker(ControlType.COMMIT, 5)
    data = encode_end_transaction_batch(
        marker, offset=7, timestamp=1000, producer_id=42, producer_epoch=2, leader_epoch=3
    )
    assert data == GOLDEN_COMMIT


@pytest.mark.kafka("BATCH-08", "BATCH-21")
@pytest.mark.parametrize("control_type", [ControlType.ABORT, ControlType.COMMIT])
def test_a_marker_batch_keeps_what_it_was_given(control_type: ControlType) -> None:
    marker = EndTransactionMarker(control_type, 29)
    data = encode_end_transaction_batch(
        marker, offset=142, timestamp=9, producer_id=983, producer_epoch=15, leader_epoch=8
    )
    found = only(data)
    header = found.header
    assert (len(data), found.is_control, found.is_transactional, found.control_type()) == (78, True, True, control_type)
    assert (header.base_offset, found.last_offset, header.leader_epoch) == (142, 142, 8)
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.count) == (983, 15, -1, 1)
    assert (header.base_timestamp, header.max_timestamp) == (9, 9)
    (one,) = found.records()
    assert parse_end_transaction_marker(one.key, one.value) == marker


@pytest.mark.kafka("BATCH-22")
def test_a_leader_change_batch_carries_epoch_leader_and_voters() -> None:
    value = bytes.fromhex("0000 00000001 03 00000002 00 00000003 00 01 00")  # FORMAT.md §2.9
    options = BatchOptions(is_control=True, leader_epoch=11)
    key = encode_control_key(ControlType.LEADER_CHANGE)
    found = only(encode_batch([(key, value, 5)], base_offset=20, options=options))
    assert (found.header.base_offset, found.header.leader_epoch, found.has_producer_id) == (20, 11, False)
    assert (found.control_type(), found.is_transactional) == (ControlType.LEADER_CHANGE, False)
    body = decode_control_value(ControlType.LEADER_CHANGE, found.records()[0].value or b"")
    assert (body["leaderId"], body["voters"]) == (1, [{"voterId": 2}, {"voterId": 3}])


@pytest.mark.kafka("BATCH-15")
@pytest.mark.parametrize("codec", Codec)
def test_log_append_time_is_the_largest_timestamp_and_the_last_offset_has_it(codec: Codec) -> None:
    options = BatchOptions(codec=codec, timestamp_type=APPEND_TIME, append_time=99)
    found = only(encode_batch([(b"k", b"v", time) for time in (0, 2, 1)], options=options))
    assert (found.timestamp_type, found.header.max_timestamp, found.last_offset) == (APPEND_TIME, 99, 2)
    assert found.header.base_timestamp == 0
    assert [one.timestamp for one in found.records()] == [99, 99, 99]


@pytest.mark.kafka("BATCH-15")
@pytest.mark.parametrize("codec", Codec)
def test_with_create_time_the_largest_is_found_and_the_last_offset_has_it(codec: Codec) -> None:
    found = only(encode_batch([(b"k", b"v", time) for time in (0, 2, 1)], options=BatchOptions(codec=codec)))
    assert (found.header.base_timestamp, found.header.max_timestamp, found.last_offset) == (0, 2, 2)
    assert [one.timestamp for one in found.records()] == [0, 2, 1]


@pytest.mark.kafka("BATCH-15")
def test_older_messages_have_their_largest_timestamp_each_for_itself_or_in_their_wrapper() -> None:
    messages = [
        [message(magic, b"k", b"v", offset=number, timestamp=time) for number, time in enumerate((0, 2, 1))]
        for magic in (0, 1)
    ]
    for magic, latest in ((0, (-1, 0)), (1, (2, 1))):
        plain = [(one.header.max_timestamp, one.last_offset) for one in iter_batches(b"".join(messages[magic]))]
        assert max(plain, key=lambda one: one[0]) == latest
        assert {time for time, _ in plain} == ({-1} if magic == 0 else {0, 1, 2})
    for codec in (GZIP, LZ4):
        found = only(message_set(1, codec, *messages[1], offset=2, timestamp=2))
        assert (found.header.max_timestamp, found.last_offset) == (2, 2)
        stamped = only(message_set(1, codec, *messages[1], offset=2, timestamp=9, attributes=0x08))
        assert (stamped.timestamp_type, {one.timestamp for one in stamped.records()}) == (APPEND_TIME, {9})


@pytest.mark.kafka("BATCH-18")
@pytest.mark.parametrize("codec", Codec)
def test_a_delete_horizon_takes_the_base_timestamp_and_records_keep_theirs(codec: Codec) -> None:
    options = BatchOptions(codec=codec, delete_horizon_ms=100)
    found = only(encode_batch([(b"k", b"v", time) for time in (50, 100, 150)], options=options))
    assert (found.delete_horizon_ms, found.header.base_timestamp, found.header.max_timestamp) == (100, 100, 150)
    assert [one.timestamp for one in found.records()] == [50, 100, 150]
    assert found.stats().timestamp_delta_min == -50


def test_a_batch_may_reach_beyond_its_last_record() -> None:
    found = only(encode_batch([Record(12, 0, b"k", b"v")], base_offset=10, last_offset=19))
    assert (found.header.base_offset, found.last_offset, found.header.count) == (10, 19, 1)
    assert found.records()[0].offset == 12
    for last_offset in (11, 10 + 2**31):
        with pytest.raises(ValueError, match="not behind the last record, or too far"):
            encode_batch([Record(12, 0, b"k", b"v")], base_offset=10, last_offset=last_offset)


def test_a_timestamp_for_records_that_have_none_is_theirs_alone() -> None:
    found = only(encode_batch([(b"k", b"v"), (b"k", b"v", 7)], timestamp=5))
    assert [one.timestamp for one in found.records()] == [5, 7]
    assert [one.timestamp for one in only(encode_batch([(b"k", b"v")])).records()] == [-1]
    assert only(encode_batch([(b"k", b"v")])).header.max_timestamp == -1


def test_what_is_encoded_is_what_was_put_together_by_hand() -> None:
    options = BatchOptions(producer_id=7, producer_epoch=3, base_sequence=9, is_transactional=True, leader_epoch=2)
    made = encode_batch(iter([(b"k", None, 50, [("h", b"x")]), (None, b"v", 40)]), base_offset=1 << 40, options=options)
    assert made == batch(
        record(b"k", None, headers=[(b"h", b"x")]), record(None, b"v", offset_delta=1, timestamp_delta=-10),
        base_offset=1 << 40, base_timestamp=50, max_timestamp=50, producer_id=7, producer_epoch=3, base_sequence=9,
        attributes=0x10, leader_epoch=2,
    )  # fmt: skip


@pytest.mark.parametrize("wrong", [[("text", b"v")], [(b"k", 7)], [b"kv", b"kv"], [(b"k",)], [None]], ids=str)
def test_what_is_no_record_is_refused(wrong: list[Any]) -> None:
    with pytest.raises(TypeError, match="record 0"):
        encode_batch(wrong)


def test_records_of_a_batch_go_into_another_as_they_are() -> None:
    records = only(encode_batch(MANY, base_offset=5)).records()
    assert only(encode_batch(records, base_offset=5, options=BatchOptions(codec=Codec.ZSTD))).records() == records
    compacted = only(encode_batch(records[1:3], base_offset=5, last_offset=8))
    assert (compacted.header.base_offset, compacted.last_offset, compacted.records()) == (5, 8, records[1:3])


@pytest.mark.parametrize("codec", Codec)
def test_every_codec_stands_in_the_attributes(codec: Codec) -> None:
    options = BatchOptions(codec=codec, level=1, timestamp_type=APPEND_TIME, append_time=1, delete_horizon_ms=0)
    found = only(encode_batch([(b"k", b"v")], options=options))
    assert found.header.attributes == options.attributes == codec | 0x48
    assert found.codec == codec


def test_the_largest_record_range_still_fits() -> None:
    found = only(encode_batch([Record(0, 0, None, None), Record(INT32_MAX, 0, None, None)]))
    assert (found.header.last_offset_delta, found.last_offset) == (INT32_MAX, INT32_MAX)


@pytest.mark.parametrize("timestamp", [1.5, "1", b"1"])
def test_a_timestamp_that_is_no_whole_number_is_refused(timestamp: object) -> None:
    with pytest.raises(TypeError, match="no whole number"):
        encode_batch([(b"k", b"v", timestamp)])
    with pytest.raises(TypeError, match="no whole number"):
        kernel.encode_plain_batch([(b"k", b"v", timestamp)], 1)


def test_a_plain_batch_is_the_batch_that_the_builder_makes() -> None:
    items = [(b"k", b"v", 7), (None, None, 5, [("h", None)]), (b"", b"")]
    plain, last_delta, newest = kernel.encode_plain_batch(items, 3)
    assert plain == encode_batch(items, timestamp=3)
    assert (last_delta, newest) == (2, 7)
    with pytest.raises(ValueError, match="at least one record"):
        kernel.encode_plain_batch([], 3)
    with pytest.raises(ValueError, match="ascend"):
        kernel.encode_plain_batch([Record(4, 0, None, None)], 3)
