"""A log that is written: what it keeps, what it refuses, and what a power cut leaves of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from logstore.config import LogConfig
from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    LogClosedError,
    LogLockedError,
    OffsetOutOfRangeError,
    RecordRejectedError,
    UnsupportedFormatError,
)
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import Log
from logstore.records import BatchOptions, Codec, TimestampType, encode_batch, iter_batches
from logstore.testing import ManualClock, MemoryFileSystem, SimulatedCrash

PLACE = Path("/data/orders-0")
SMALL = LogConfig(segment_bytes=600, index_interval_bytes=100, segment_index_bytes=96)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_000_000)


@pytest.fixture
def fs() -> MemoryFileSystem:
    found = MemoryFileSystem()
    found.make_directory(PLACE.parent)
    found.sync_directory(PLACE.parent.parent)
    return found


Open = Callable[..., Log]


@pytest.fixture
def open_log(fs: MemoryFileSystem, clock: ManualClock) -> Open:
    def opened(config: LogConfig | None = None, **options: object) -> Log:
        return Log.open(PLACE, config, **{"fs": fs, "clock": clock, **options})  # type: ignore[arg-type]

    return opened


def values(log: Log, offset: int | None = None) -> list[bytes | None]:
    return [record.value for record in log.records(offset)]


def alarms(fs: MemoryFileSystem, directory: Path) -> list[str]:
    fs.export(directory)
    target = resolve(directory / PLACE.relative_to("/"))
    return [str(found) for found in check(target, CheckOptions()) if found.severity != Severity.NOTE]


def test_offsets_go_on_from_append_to_append(open_log: Open) -> None:
    log = open_log()
    assert log.append([(b"k", b"a"), (b"k", b"b")])[:2] == (0, 1)
    assert log.append([(None, b"c")])[:2] == (2, 2)
    assert (log.log_start_offset, log.log_end_offset) == (0, 3)
    assert values(log) == [b"a", b"b", b"c"]


@pytest.mark.kafka("APPEND-03", "READ-01")
def test_each_offset_reads_its_own_record_and_the_end_reads_nothing(open_log: Open) -> None:
    log = open_log(SMALL)
    for number in range(50):
        log.append([(None, b"%d" % (2 * number))])
    for offset in range(50):
        first = next(iter_batches(log.read(offset, bytes_max=1)))
        assert [(r.offset, r.key, r.value) for r in first.records()] == [(offset, None, b"%d" % (2 * offset))]
    assert log.read(50) == b""


@pytest.mark.kafka("READ-04")
def test_an_offset_beyond_the_end_is_refused(open_log: Open) -> None:
    log = open_log()
    log.append([(None, b"a")])
    for offset in (-1, 2):
        with pytest.raises(OffsetOutOfRangeError, match=r"not in 0\.\.1"):
            log.read(offset)


@pytest.mark.kafka("READ-06")
def test_a_read_gives_at_least_one_whole_batch_and_never_part_of_one(open_log: Open) -> None:
    log = open_log()
    sizes = [len(log.read(log.append([(None, b"x" * 50)]).first_offset)) for _ in range(3)]
    assert len(log.read(0, bytes_max=1)) == sizes[0]
    assert len(log.read(0, bytes_max=2 * sizes[0] + 5)) == 2 * sizes[0]


@pytest.mark.kafka("READ-08")
def test_a_read_inside_a_compressed_batch_begins_with_that_batch(open_log: Open) -> None:
    log = open_log()
    log.append([(None, b"%d" % n) for n in range(4)], codec=Codec.LZ4)
    assert next(iter_batches(log.read(3))).header.base_offset == 0
    assert values(log, 3) == [b"3"]


@pytest.mark.kafka("APPEND-12")
def test_a_leader_stamps_its_epoch(open_log: Open) -> None:
    log = open_log(leader_epoch=72)
    log.append([(None, b"a")])
    assert next(iter_batches(log.read(0))).header.leader_epoch == 72


@pytest.mark.kafka("APPEND-11")
def test_null_values_and_missing_timestamps_are_kept(open_log: Open) -> None:
    log = open_log()
    log.append([(b"k", None, -1)])
    assert [(r.value, r.timestamp) for r in log.records()] == [(None, -1)]


@pytest.mark.kafka("APPEND-20")
@pytest.mark.parametrize("wanted", ["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"])
@pytest.mark.parametrize("given", list(Codec))
def test_batches_are_stored_with_the_codec_of_the_log(open_log: Open, given: Codec, wanted: str) -> None:
    log = open_log(LogConfig(compression_type=wanted))  # type: ignore[arg-type]
    log.append([(b"k", b"v" * 100)], codec=given)
    expected = {"producer": given.label, "uncompressed": "none"}.get(wanted, wanted)
    assert next(iter_batches(log.read(0))).codec.label == expected
    assert values(log) == [b"v" * 100]


def test_log_append_time_replaces_the_timestamps(open_log: Open, clock: ManualClock) -> None:
    log = open_log(LogConfig(message_timestamp_type="LogAppendTime"))
    log.append([(None, b"a", 5)])
    assert [r.timestamp for r in log.records()] == [clock.now_ms()]
    assert next(iter_batches(log.read(0))).timestamp_type == TimestampType.LOG_APPEND_TIME


@pytest.mark.kafka("APPEND-08")
def test_a_batch_above_max_message_bytes_is_refused(open_log: Open) -> None:
    batch = encode_batch([(None, b"x" * 100)])
    log = open_log(LogConfig(max_message_bytes=len(batch) - 1))
    with pytest.raises(BatchTooLargeError, match=r"max\.message\.bytes"):
        log.append_batch(batch)
    assert log.log_end_offset == 0


def test_what_is_no_single_intact_batch_is_refused(open_log: Open) -> None:
    log, batch = open_log(), bytes(encode_batch([(None, b"x")]))
    for data in (b"", batch[:-1], batch + batch, batch[:30] + b"?" + batch[31:]):
        with pytest.raises(CorruptRecordError):
            log.append_batch(data)
    options = BatchOptions(producer_id=1, producer_epoch=0, base_sequence=0)
    with pytest.raises(UnsupportedFormatError):
        log.append_batch(encode_batch([(None, b"x")], options=options))
    assert log.log_end_offset == 0


def test_a_compacted_log_refuses_records_without_key(open_log: Open) -> None:
    log = open_log(LogConfig(cleanup_policy=frozenset({"compact"})))
    log.append([(b"k", b"v")])
    with pytest.raises(RecordRejectedError, match="no key"):
        log.append([(None, b"v")])


def test_timestamps_too_far_from_the_clock_are_refused(open_log: Open, clock: ManualClock) -> None:
    log = open_log(LogConfig(message_timestamp_before_max_ms=10, message_timestamp_after_max_ms=10))
    now = clock.now_ms()
    for timestamp in (now - 11, now + 11):
        with pytest.raises(RecordRejectedError, match=r"max\.ms"):
            log.append([(None, b"a", timestamp)])
    log.append([(None, b"a", now - 10), (None, b"b", now + 10), (None, b"c", -1)])


@pytest.mark.kafka("ROLL-05")
def test_a_segment_is_rolled_when_the_next_batch_does_not_fit(open_log: Open, fs: MemoryFileSystem) -> None:
    size = len(encode_batch([(None, b"x")]))
    log = open_log(LogConfig(segment_bytes=10 * (size - 1)))
    for _ in range(11):
        log.append([(None, b"x")])
    assert len([name for name in fs.list(PLACE) if name.endswith(".log")]) == 2


@pytest.mark.kafka("ROLL-03")
def test_timestamps_roll_by_their_distance_not_by_the_clock(
    open_log: Open, fs: MemoryFileSystem, clock: ManualClock
) -> None:
    log = open_log(LogConfig(segment_ms=1000))
    log.append([(None, b"a", 5_000)])
    clock.advance(10_000)
    log.append([(None, b"b", 6_000)])
    assert len([name for name in fs.list(PLACE) if name.endswith(".log")]) == 1
    log.append([(None, b"c", 6_001)])
    assert len([name for name in fs.list(PLACE) if name.endswith(".log")]) == 2


@pytest.mark.kafka("ROLL-14")
def test_a_new_segment_has_no_index_before_its_first_append(open_log: Open, fs: MemoryFileSystem) -> None:
    log = open_log(LogConfig(segment_bytes=100))
    log.append([(None, b"a")])
    log._roll()
    names = fs.list(PLACE)
    assert len([n for n in names if n.endswith(".log")]) == 2
    assert len([n for n in names if n.endswith(".index")]) == 1


def test_two_writers_of_one_log_are_refused(tmp_path: Path) -> None:
    with Log.open(tmp_path / "orders-0"), pytest.raises(LogLockedError):
        Log.open(tmp_path / "orders-0")


def test_a_closed_log_says_so(open_log: Open) -> None:
    log = open_log()
    log.close()
    log.close()
    for call in (lambda: log.append([(None, b"a")]), lambda: log.read(0), log.flush):
        with pytest.raises(LogClosedError, match="closed"):
            call()


def test_a_clean_close_leaves_what_kafka_would(open_log: Open, fs: MemoryFileSystem, tmp_path: Path) -> None:
    with open_log(SMALL) as log:
        for number in range(40):
            log.append([(b"k%d" % number, b"v")])
    assert alarms(fs, tmp_path) == []
    with open_log(SMALL) as log:
        assert log.recovered is None
        assert log.append([(None, b"on")]).first_offset == 40
        assert len(values(log)) == 41
    assert alarms(fs, tmp_path) == []


def test_after_a_failed_sync_appends_are_refused_until_it_is_opened_again(open_log: Open, fs: MemoryFileSystem) -> None:
    log = open_log()
    log.append([(None, b"a")], durability="always")
    fs.fail_on(lambda operation: operation.kind == "sync", OSError(5, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        log.append([(None, b"b")], durability="always")
    fs.heal()
    with pytest.raises(LogClosedError, match="open the log again"):
        log.append([(None, b"c")])
    assert values(log)[:1] == [b"a"]


def test_interval_syncs_when_the_time_or_the_count_is_reached(
    open_log: Open, fs: MemoryFileSystem, clock: ManualClock
) -> None:
    log = open_log(LogConfig(durability="interval", flush_ms=100, flush_messages=3))
    log.append([(None, b"a")])
    assert _survivors(fs) == []
    clock.advance(100)
    log.append([(None, b"b")])
    assert _survivors(fs) == [b"a", b"b"]
    for value in (b"c", b"d", b"e"):
        log.append([(None, value)])
    assert _survivors(fs) == [b"a", b"b", b"c", b"d", b"e"]


def _survivors(fs: MemoryFileSystem) -> list[bytes | None]:
    return values(Log.open(PLACE, fs=fs.crash("nothing")))


def test_what_recovery_cuts_is_kept_aside(open_log: Open, fs: MemoryFileSystem) -> None:
    log = open_log()
    log.append([(None, b"a")], durability="always")
    path = PLACE / "00000000000000000000.log"
    whole = fs.read_bytes(path)
    after = fs.crash("nothing")
    after.write_bytes(path, whole + whole[:40])
    opened = Log.open(PLACE, fs=after)
    assert opened.recovered is not None
    assert opened.recovered.kept_aside is not None
    assert after.read_bytes(opened.recovered.kept_aside) == whole[:40]
    assert values(opened) == [b"a"]


# ---------------------------------------------------------------- the crash sweep


def _script(log: Log, acknowledged: list[bytes], appended: list[bytes]) -> None:
    """Appends of every durability over several segments, a flush, a close; what was promised is noted at once."""
    waiting: list[bytes] = []
    for number in range(14):
        value = b"value-%d" % number
        appended.append(value)
        log.append([(b"k", value)] * 2, durability="always" if number % 3 == 2 else "os")
        waiting += [value, value]
        if number % 3 == 2:
            acknowledged += waiting
            waiting = []
        if number == 7:
            log.flush()
            acknowledged += waiting
            waiting = []
    log.close()
    acknowledged += waiting


def _fresh() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(PLACE.parent)
    fs.sync_directory(PLACE.parent.parent)
    return fs


@pytest.mark.parametrize("mode", ["nothing", "everything", "torn", "metadata", "subset"])
def test_a_power_cut_at_any_file_operation_loses_nothing_that_was_promised(mode: str, tmp_path: Path) -> None:
    crash_points = 0
    for stop_at in itertools.count(1):
        fs, acknowledged, appended = _fresh(), list[bytes](), list[bytes]()
        fs.stop_at = fs.operations + stop_at
        try:
            _script(Log.open(PLACE, SMALL, fs=fs, clock=ManualClock(1000)), acknowledged, appended)
            finished = True
        except SimulatedCrash:
            finished = False
        after = fs.crash(mode, seed=stop_at)  # type: ignore[arg-type]
        if after.exists(PLACE.parent):
            with Log.open(PLACE, SMALL, fs=after, clock=ManualClock(2000)) as log:
                found = values(log)
                assert found[: len(acknowledged)] == acknowledged, f"stopped at operation {stop_at}"
                expected = [value for value in appended for _ in range(2)]
                assert found == expected[: len(found)], f"stopped at operation {stop_at}"
                assert log.append([(None, b"more")]).first_offset == len(found)
            assert alarms(after, tmp_path / str(stop_at)) == [], f"stopped at operation {stop_at}"
        crash_points += 1
        if finished:
            break
    assert crash_points > 70
