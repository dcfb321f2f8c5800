"""A log that is open: what it takes and gives back, what it refuses, and what its durability promises."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from by_hand import message
from helpers.open_logs import PLACE, SMALL, START, Place, bases, fill, from_leader, offsets, values

from logstore.config import INT64_MAX, LogConfig
from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    InconsistentTopicIdError,
    InvalidRecordError,
    LogClosedError,
    LogLockedError,
    OffsetOutOfRangeError,
    RecordRejectedError,
    UnexpectedOffsetError,
)
from logstore.log import AppendOrigin, FetchIsolation, Log
from logstore.records import BatchOptions, Codec, Record, TimestampType, encode_batch, iter_batches
from logstore.testing import MemoryFileSystem

TOPIC_ID = UUID(int=7)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    return place.open()


# ---------------------------------------------------------------- appending


def test_offsets_go_on_from_append_to_append(log: Log) -> None:
    assert log.append([(b"k", b"a"), (b"k", b"b")])[:2] == (0, 1)
    assert log.append([(None, b"c")])[:2] == (2, 2)
    assert (log.log_start_offset, log.log_end_offset) == (0, 3)
    assert values(log) == [b"a", b"b", b"c"]


@pytest.mark.kafka("APPEND-01")
def test_clients_batches_get_the_offsets_behind_the_log_end_also_in_a_new_segment(log: Log) -> None:
    batch = bytes(encode_batch([(None, b"x")] * 3))
    assert log.append_batch(batch).first_offset == 0
    assert log.append_batch(batch).first_offset == 3
    log.roll()
    assert log.append_batch(batch).first_offset == 6
    assert offsets(log) == list(range(9))


@pytest.mark.kafka("APPEND-02")
def test_a_raft_leaders_batches_keep_their_offsets(place: Place) -> None:
    log = place.open(leader_epoch=1)
    raft = {"origin": AppendOrigin.RAFT_LEADER, "leader_epoch": 1}
    assert log.append_batch(from_leader(0, 3, leader_epoch=1), **raft)[:2] == (0, 2)
    with pytest.raises(UnexpectedOffsetError) as refused:
        log.append_batch(from_leader(1, 3, leader_epoch=1), **raft)
    assert (refused.value.first_offset, refused.value.last_offset) == (1, 3)
    assert log.log_end_offset == 3
    log.append_batch(from_leader(3, 3, leader_epoch=1), **raft)
    assert (log.log_end_offset, offsets(log)) == (6, [0, 1, 2, 3, 4, 5])


@pytest.mark.kafka("APPEND-04")
def test_a_follower_takes_gaps_and_a_read_in_one_gives_what_follows(place: Place) -> None:
    log = place.open(SMALL)
    known = [*range(50), *range(50, 200, 7)]
    for offset in known:
        log.append_as_follower(from_leader(offset))
    assert offsets(log) == known
    for offset in range(197):
        found = next(iter_batches(log.read(offset, bytes_max=1))).header.base_offset
        assert found == min(one for one in known if one >= offset)
        assert next(iter(log.records(offset))).offset == found


@pytest.mark.kafka("APPEND-12")
def test_a_leader_stamps_its_epoch(place: Place) -> None:
    log = place.open(leader_epoch=72)
    log.append([(None, b"a")])
    log.append_batch(encode_batch([(None, b"b")]))
    assert [one.header.leader_epoch for one in iter_batches(log.read(0))] == [72, 72]


@pytest.mark.kafka("APPEND-13")
def test_a_follower_takes_the_epochs_of_its_batches(log: Log) -> None:
    log.append_as_follower(from_leader(0, leader_epoch=42))
    assert log.latest().leader_epoch == 42
    assert log.leader_epochs.latest == (42, 0)


@pytest.mark.kafka("DIR-04")
def test_a_batch_of_an_old_format_makes_a_follower_forget_its_epochs(log: Log) -> None:
    log.append_as_follower(from_leader(0, leader_epoch=42))
    log.append_as_follower(message(1, b"k", b"v", offset=1, timestamp=START))
    assert (log.leader_epochs.entries, log.latest()) == ((), (-1, 2, -1))


@pytest.mark.kafka("APPEND-14")
def test_an_append_of_nothing_does_nothing(place: Place) -> None:
    log = place.open(LogConfig(segment_ms=1000))
    log.append([(None, b"a", -1)])
    place.clock.advance(5000)
    before = place.fs.operations
    for origin in AppendOrigin:
        assert log.append_batch(b"", origin=origin).first_offset == -1
    assert (place.fs.operations, bases(log), log.log_end_offset) == (before, [0], 1)


@pytest.mark.kafka("APPEND-11")
def test_null_values_and_missing_timestamps_are_kept(log: Log) -> None:
    log.append([(b"k", None, -1)])
    assert [(r.value, r.timestamp) for r in log.records()] == [(None, -1)]


@pytest.mark.kafka("APPEND-20")
@pytest.mark.parametrize("wanted", ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("given", list(Codec))
def test_batches_are_stored_with_the_codec_of_the_log(place: Place, given: Codec, wanted: str) -> None:
    log = place.open(LogConfig(compression_type=wanted))  # type: ignore[arg-type]
    log.append([(b"k", b"v" * 100)], codec=given)
    expected = {"producer": given.label, "uncompressed": "none"}.get(wanted, wanted)
    assert next(iter_batches(log.read(0))).codec.label == expected
    assert values(log) == [b"v" * 100]


def test_log_append_time_replaces_the_timestamps(place: Place) -> None:
    log = place.open(LogConfig(message_timestamp_type="LogAppendTime"))
    log.append([(None, b"a", 5)])
    assert [r.timestamp for r in log.records()] == [place.clock.now_ms()]
    assert next(iter_batches(log.read(0))).timestamp_type == TimestampType.LOG_APPEND_TIME


@pytest.mark.kafka("APPEND-08")
def test_a_batch_above_max_message_bytes_is_refused_but_not_from_a_leader(place: Place) -> None:
    batch = encode_batch([(None, b"x" * 100)], options=BatchOptions(leader_epoch=0))
    log = place.open(LogConfig(max_message_bytes=len(batch) - 1))
    for append in (lambda: log.append_batch(batch), lambda: log.append([(None, b"x" * 100)])):
        with pytest.raises(BatchTooLargeError, match=r"max\.message\.bytes"):
            append()
    assert log.log_end_offset == 0
    log.append_as_follower(batch)
    assert values(log) == [b"x" * 100]


@pytest.mark.kafka("APPEND-09")
def test_an_append_above_segment_bytes_is_refused(place: Place) -> None:
    batch = encode_batch([(None, b"x" * 100)] * 3)
    log = place.open(LogConfig(segment_bytes=len(batch) - 1))
    for append in (lambda: log.append_batch(bytes(batch)), lambda: log.append([(None, b"x" * 100)] * 3)):
        with pytest.raises(BatchTooLargeError, match=r"segment\.bytes"):
            append()
    assert (log.log_end_offset, log.size) == (0, 0)


def test_what_is_no_intact_batch_is_refused(log: Log) -> None:
    batch = bytes(encode_batch([(None, b"x")]))
    with pytest.raises(CorruptRecordError):
        log.append_batch(batch[:65] + b"?" + batch[66:])
    with pytest.raises(InvalidRecordError):
        log.append_batch(batch + batch)
    assert log.append_batch(batch[:-1]).first_offset == -1  # an incomplete last batch does not count
    assert (log.log_end_offset, log.size) == (0, 0)


def test_a_compacted_log_refuses_records_without_key(place: Place) -> None:
    log = place.open(LogConfig(cleanup_policy=frozenset({"compact"})))
    log.append([(b"k", b"v")])
    with pytest.raises(RecordRejectedError, match="no key"):
        log.append([(None, b"v")])


def test_timestamps_too_far_from_the_clock_are_refused(place: Place) -> None:
    log = place.open(LogConfig(message_timestamp_before_max_ms=10, message_timestamp_after_max_ms=10))
    now = place.clock.now_ms()
    for timestamp in (now - 11, now + 11):
        with pytest.raises(RecordRejectedError, match=r"max\.ms"):
            log.append([(None, b"a", timestamp)])
    log.append([(None, b"a", now - 10), (None, b"b", now + 10), (None, b"c", -1)])


@pytest.mark.parametrize("compression_type", ["producer", "zstd"])
def test_records_with_offsets_of_their_own_are_taken_where_they_go_up_from_0(
    place: Place, compression_type: str
) -> None:
    log = place.open(LogConfig(compression_type=compression_type))  # type: ignore[arg-type]
    given = [Record(0, 5, b"k", b"a", (("h", None),)), Record(1, 6, None, None)]
    log.append(given)
    log.append([(None, b"x")])
    assert list(log.records())[:2] == given
    with pytest.raises((InvalidRecordError, ValueError)):
        log.append([Record(0, 5, None, b"a"), Record(5, 5, None, b"b")])
    assert log.log_end_offset == 3


# ---------------------------------------------------------------- offsets that a segment cannot hold


@pytest.mark.kafka("INDEX-11")
def test_an_offset_that_does_not_fit_the_segment_begins_another(place: Place, tmp_path: Path) -> None:
    far = 2**31 + 4
    with place.open() as log:
        for offset in (0, 1, far, far + 1, 2**33):
            log.append_as_follower(from_leader(offset))
        assert bases(log) == [0, far, 2**33]
        assert offsets(log) == [0, 1, far, far + 1, 2**33]
    assert all("segment-gap" in one for one in place.alarms(tmp_path))


# ---------------------------------------------------------------- arguments that are none


@pytest.mark.parametrize(
    "call",
    [
        lambda log: log.append([(None, "text")]),
        lambda log: log.append([(None,)]),
        lambda log: log.append([]),
        lambda log: log.append(None),
        lambda log: log.append([(None, b"a")], timestamp="now"),
        lambda log: log.append([(None, b"a")], timestamp=2**63),
        lambda log: log.append([(None, b"a")], codec="lz4"),
        lambda log: log.append([(None, b"a")], durability="soon"),
        lambda log: log.append_later([(None, b"a")], codec=1),
        lambda log: log.append_batch("text"),
        lambda log: log.append_batch(None),
        lambda log: log.append_batch(encode_batch([(None, b"a")]), origin="client"),
        lambda log: log.append_batch(encode_batch([(None, b"a")]), durability=True),
        lambda log: log.append_batch(encode_batch([(None, b"a")]), leader_epoch=-1),
        lambda log: log.append_batch(encode_batch([(None, b"a")]), leader_epoch=2**31),
        lambda log: log.append_batch(encode_batch([(None, b"a")]), leader_epoch="1"),
        lambda log: log.end_transaction("1", 0, commit=True),
        lambda log: log.end_transaction(-1, 0, commit=True),
        lambda log: log.end_transaction(1, 2**15, commit=True),
        lambda log: log.end_transaction(1, 0, commit=True, coordinator_epoch=1.0),
        lambda log: log.read("0"),
        lambda log: log.read(None),
        lambda log: log.read(0, isolation="log_end"),
        lambda log: log.fetch(0, -1),
        lambda log: log.fetch(0, isolation=None),
        lambda log: log.get("0"),
        lambda log: list(log.records("0")),
        lambda log: list(log.slices(0, isolation="committed")),
        lambda log: log.offset_for_time("now"),
        lambda log: log.append_epoch(-1, 0),
        lambda log: log.append_epoch(1.5, 3),
        lambda log: log.append_epoch(1, 3.0),
        lambda log: log.append_epoch(2**31, 3),
        lambda log: log.truncate_to(-1),
        lambda log: log.truncate_to(1.0),
        lambda log: log.truncate_to("1"),
        lambda log: log.truncate_fully_and_start_at(-1),
        lambda log: log.truncate_fully_and_start_at(2**63),
        lambda log: log.truncate_fully_and_start_at(5, 6),
        lambda log: log.truncate_fully_and_start_at(5, 1.5),
        lambda log: log.advance_log_start(-1),
        lambda log: log.advance_log_start(0.5),
        lambda log: log.configure({"segment_bytes": 100}),
        lambda log: log.configure(None),
        lambda log: log.set_high_watermark(1),
        lambda log: log.start_verification("7", 0, 0),
        lambda log: log.start_verification(7, -1, 0),
        lambda log: log.start_verification(7, 0, 2**15),
    ],
)
def test_what_is_no_argument_is_a_value_or_type_error_and_changes_nothing(place: Place, tmp_path: Path, call) -> None:
    with place.open() as log:
        fill(log, 3)
        with pytest.raises((ValueError, TypeError)):
            call(log)
        assert (log.log_start_offset, log.log_end_offset, log.high_watermark) == (0, 3, 3)
        assert values(log) == [b"0", b"1", b"2"]
        fill(log, 1, first=3)
    assert place.alarms(tmp_path) == []
    assert values(place.open()) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"segment_bytes": 100}},
        {"leader_epoch": -1},
        {"leader_epoch": 2**31},
        {"log_start_offset": -1},
        {"log_start_offset": 2**63},
        {"log_start_offset": 1.5},
        {"damage": "ignore"},
        {"topic_id": "AAAAAAAAAAAAAAAAAAAAAQ"},
    ],
)
def test_a_log_is_not_opened_with_what_is_no_argument(place: Place, options: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        place.open(**options)
    assert not place.fs.exists(PLACE)


# ---------------------------------------------------------------- opening and closing


def test_two_writers_of_one_log_are_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path / "orders-0"), pytest.raises(LogLockedError):
        Log.open(tmp_path / "orders-0")


@pytest.mark.kafka("LOCAL-05")
def test_what_was_appended_and_not_synced_is_there_but_not_below_the_recovery_point(log: Log) -> None:
    log.append([(None, b"a")])
    log.append([(None, b"b")])
    assert (log.log_end_offset, log.recovery_point, values(log)) == (2, 0, [b"a", b"b"])


@pytest.mark.kafka("APPEND-21")
def test_the_topic_id_is_on_disk_after_the_first_append_and_after_a_close(place: Place) -> None:
    log = place.open(topic_id=TOPIC_ID)
    log.append([(None, b"a")])
    assert b"topic_id: AAAAAAAAAAAAAAAAAAAABw" in place.fs.crash("nothing").read_bytes(PLACE / "partition.metadata")
    log.close()
    place.open(topic_id=TOPIC_ID).close()
    with pytest.raises(InconsistentTopicIdError):
        place.open(topic_id=UUID(int=8))


@pytest.mark.kafka("LOCAL-06")
def test_a_closed_log_says_so(log: Log) -> None:
    fill(log, 2)
    later, reading = log.append_later([(None, b"a")]), log.records()
    next(reading)
    log.close()
    log.close()
    calls = [
        lambda: log.append([(None, b"a")]),
        lambda: log.append_later([(None, b"a")]),
        lambda: log.append_batch(encode_batch([(None, b"a")])),
        lambda: log.end_transaction(1, 0, commit=True),
        lambda: log.read(0),
        lambda: log.fetch(0),
        lambda: log.get(0),
        lambda: list(log.slices()),
        lambda: list(log.records()),
        lambda: log.offset_for_time(0),
        log.max_timestamp,
        log.flush,
        log.roll,
        lambda: log.append_epoch(1, 3),
        lambda: log.truncate_to(1),
        lambda: log.truncate_fully_and_start_at(1),
        lambda: log.advance_log_start(1),
        log.delete_before_log_start,
        lambda: log.start_verification(1, 0, 0),
        lambda: log.rename(PLACE.with_name("orders-1")),
    ]
    for call in calls:
        with pytest.raises(LogClosedError, match="closed"):
            call()
    assert later.is_durable
    assert later.result() == (2, 2)
    log.maintain()


@pytest.mark.kafka("LOCAL-06", "ROLL-12")
def test_a_log_that_is_out_of_use_takes_nothing_and_its_close_says_so_once(place: Place) -> None:
    log = place.open()
    fill(log, 2)
    place.fs.fail_on(lambda operation: operation.kind == "sync", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        log.flush()
    place.fs.heal()
    for call in (log.roll, log.flush, lambda: fill(log, 1), lambda: log.truncate_to(1)):
        with pytest.raises(LogClosedError, match="open the log again"):
            call()
    with pytest.raises(LogClosedError, match="open the log again"):
        log.close()
    log.close()
    assert place.open().recovered is not None


def test_inside_a_context_manager_the_first_error_is_the_one_that_is_raised(place: Place) -> None:
    place.fs.fail_on(lambda one: one.kind == "sync" and one.path.endswith(".log"), OSError(5, "broken"))
    with pytest.raises(OSError, match="broken"), place.open() as log:
        log.append([(None, b"a")], durability="always")
    assert not place.open().recovered.was_clean  # type: ignore[union-attr]


def test_a_clean_close_leaves_what_kafka_would(place: Place, tmp_path: Path) -> None:
    with place.open(SMALL) as log:
        for number in range(40):
            log.append([(b"k%d" % number, b"v")])
    assert place.alarms(tmp_path) == []
    with place.open(SMALL) as log:
        assert log.recovered is None
        assert log.append([(None, b"on")]).first_offset == 40
        assert len(values(log)) == 41
    assert place.alarms(tmp_path) == []


def test_what_recovery_cuts_is_kept_aside(place: Place) -> None:
    log = place.open()
    log.append([(None, b"a")], durability="always")
    path = PLACE / "00000000000000000000.log"
    whole = place.fs.read_bytes(path)
    after = place.crashed("nothing")
    after.fs.write_bytes(path, whole + whole[:40])
    opened = after.open()
    assert opened.recovered is not None
    [aside] = opened.recovered.kept_aside
    assert after.fs.read_bytes(aside) == whole[:40]
    assert values(opened) == [b"a"]


def test_a_setting_holds_from_the_next_operation_on(place: Place) -> None:
    log = place.open()
    fill(log, 3)
    log.configure(LogConfig(max_message_bytes=80, segment_bytes=200))
    with pytest.raises(BatchTooLargeError):
        log.append([(None, b"x" * 100)])
    fill(log, 3)
    assert (log.config.max_message_bytes, len(bases(log))) == (80, 3)


def test_a_batch_larger_than_the_cap_of_readers_is_read_where_the_log_takes_it(tmp_path: Path) -> None:
    large = b"x" * (33 << 20)
    with Log.open(tmp_path / "orders-0", LogConfig(max_message_bytes=40 << 20)) as log:
        log.append([(b"k", large, 5)])
        assert log.get(0).value == large  # type: ignore[union-attr]
        assert [len(record.value or b"") for record in log.records()] == [len(large)]
        assert log.offset_for_time(5) == log.max_timestamp() == (5, 0, 0)


# ---------------------------------------------------------------- durability


def test_after_a_failed_sync_appends_are_refused_until_it_is_opened_again(place: Place) -> None:
    log = place.open()
    log.append([(None, b"a")], durability="always")
    place.fs.fail_on(lambda operation: operation.kind == "sync", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        log.append([(None, b"b")], durability="always")
    place.fs.heal()
    with pytest.raises(LogClosedError, match="open the log again"):
        log.append([(None, b"c")])
    assert values(log)[:1] == [b"a"]


def test_interval_syncs_when_the_time_or_the_count_is_reached(place: Place) -> None:
    log = place.open(LogConfig(durability="interval", flush_ms=100, flush_messages=3))
    log.append([(None, b"a")])
    assert _survivors(place.fs) == []
    place.clock.advance(100)
    log.append([(None, b"b")])
    assert _survivors(place.fs) == [b"a", b"b"]
    for value in (b"c", b"d", b"e"):
        log.append([(None, value)])
    assert _survivors(place.fs) == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.kafka("LOCAL-04")
def test_a_flush_moves_the_recovery_point_to_the_end_and_the_time_of_the_next_one_on(place: Place) -> None:
    log = place.open(LogConfig(flush_ms=100))
    fill(log, 5)
    log.roll()
    fill(log, 2)
    place.clock.advance(60)
    log.flush()
    assert (log.recovery_point, _survivors(place.fs)) == (7, values(log))
    fill(log, 1)
    place.clock.advance(60)
    log.maintain()
    assert log.recovery_point == 7
    place.clock.advance(40)
    log.maintain()
    assert log.recovery_point == 8


def _survivors(fs: MemoryFileSystem) -> list[bytes | None]:
    return values(Log.open(PLACE, fs=fs.crash("nothing")))


def test_repr_shows_where_it_is(place: Place) -> None:
    log = place.open(replicated=True)
    fill(log, 2)
    assert repr(log) == "<Log /data/orders-0 offsets 0..2>"
    assert log.fetch(0, isolation=FetchIsolation.HIGH_WATERMARK).data == b""
    with pytest.raises(OffsetOutOfRangeError):
        log.read(INT64_MAX)
