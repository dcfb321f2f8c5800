"""The cleaner in the background: threads that clean what is due, failures that stay with their log, other settings."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from helpers.many_logs import COMPACT, COMPACT_DELETE, DELETE, HOUR, ManyLogs, newest, tp, write

from logstore.cleaner.checkpoints import DirectoryCheckpoints
from logstore.cleaner.cleaner import Cleaner
from logstore.cleaner.manager import CleaningFailure, CleaningState, CleaningStatus, LogCleanerManager, LogToClean
from logstore.cleaner.service import CleanedRound, LogCleaner, RoundTerms, clean_round
from logstore.cleaner.stats import CleaningStats
from logstore.cleaner.throttle import Throttle
from logstore.config import CleanerConfig, LogConfig
from logstore.errors import (
    CleaningAbortedError,
    CorruptCheckpointError,
    DamagedLogError,
    LogClosedError,
    MapTooSmallError,
    UnkeyedRecordsError,
)
from logstore.log import Log
from logstore.names import TopicPartition
from logstore.retention import retain

QUICK = CleanerConfig(backoff_ms=1)


class Cleaned(ManyLogs):
    """Logs, their manager, and what their cleaner has told."""

    def __init__(self) -> None:
        super().__init__()
        self.manager: LogCleanerManager[Log] = LogCleanerManager(self.logs)
        self.rounds: list[tuple[TopicPartition, CleanedRound]] = []
        self.failures: list[CleaningFailure[Log]] = []

    def cleaner(self, config: CleanerConfig = QUICK, **options: Any) -> LogCleaner:
        return LogCleaner(
            self.manager,
            config,
            **{
                "clock": self.clock,
                "on_cleaned": lambda partition, done: self.rounds.append((partition, done)),
                "on_failure": self.failures.append,
                **options,
            },
        )

    def dirty(self, *topics: str, config: LogConfig = COMPACT) -> None:
        for topic in topics:
            write(self.open(topic, config), 3)

    def points(self) -> dict[str, int]:
        return {partition.topic: point for partition, point in self.manager.points().items()}


def eventually(what: Callable[[], object], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def done(work: LogToClean[Log]) -> CleaningStats:
    """What a round says that has got to the end."""
    found = work.cleanability
    return CleaningStats(
        log_start_offset=0, first_dirty_offset=found.first_dirty.offset,
        uncleanable_offset=found.uncleanable.offset, end_offset=found.uncleanable.offset,
    )  # fmt: skip


def nothing_but_say_so(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
    return done(work)


def until_cancelled(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
    assert eventually(terms.is_cancelled)
    raise CleaningAbortedError("called off")


# ---- one attempt


def test_an_attempt_cleans_the_dirtiest_log_and_moves_its_point() -> None:
    logs = Cleaned()
    logs.dirty("one", "two")
    logs.logs[tp("one")].set_cleaner_point(10)
    cleaner = logs.cleaner()
    expected = {name: newest(log) for name, log in logs.logs.items()}
    before = {name: log.size for name, log in logs.logs.items()}
    assert cleaner.attempt() and logs.points() == {"one": 10, "two": 30}
    assert cleaner.attempt() and logs.points() == {"one": 30, "two": 30}
    assert not cleaner.attempt()
    assert [partition.topic for partition, _ in logs.rounds] == ["two", "one"]
    assert {name: newest(log) for name, log in logs.logs.items()} == expected
    assert all(log.size < before[name] for name, log in logs.logs.items())
    assert logs.manager.state(tp("one")) is None


def test_a_round_is_told_its_bounds_the_time_and_the_settings() -> None:
    logs, seen = Cleaned(), []
    logs.dirty("one")
    logs.logs[tp("one")].set_cleaner_point(10)

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        seen.append((work.partition, work.log, work.cleanability.first_dirty.offset, terms.now_ms, terms.config))
        assert not terms.is_cancelled()
        return done(work)

    logs.cleaner(clean=clean).attempt()
    assert seen == [(tp("one"), logs.logs[tp("one")], 10, logs.clock.now_ms(), QUICK)]


def test_an_attempt_with_nothing_to_do_does_nothing() -> None:
    logs = Cleaned()
    assert not logs.cleaner().attempt()
    assert not logs.cleaner(retain=retain).attempt()
    assert (logs.rounds, logs.failures) == ([], [])


def test_a_round_that_was_called_off_moves_no_point_and_is_no_failure() -> None:
    logs = Cleaned()
    logs.dirty("one")

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        raise CleaningAbortedError("the log was cut")

    assert not logs.cleaner(clean=clean).attempt()
    assert (logs.points(), logs.rounds, logs.failures) == ({}, [], [])
    assert logs.manager.state(tp("one")) is None


def test_a_running_round_is_called_off_by_who_needs_the_log() -> None:
    logs = Cleaned()
    logs.dirty("one")
    with logs.cleaner(clean=until_cancelled):
        assert eventually(lambda: logs.manager.state(tp("one")))
        logs.manager.abort_and_pause(tp("one"))
        assert logs.manager.state(tp("one")) == CleaningState(CleaningStatus.PAUSED, 1)
        logs.logs[tp("one")].truncate_to(5)
        logs.manager.resume([tp("one")])
    assert (logs.points(), logs.failures) == ({}, [])


# ---- failures


@pytest.mark.parametrize("error", [DamagedLogError("bad"), OSError(28, "No space left on device")])
def test_a_log_that_fails_is_told_left_alone_and_keeps_its_point(error: Exception) -> None:
    logs = Cleaned()
    logs.dirty("one", "two")
    logs.logs[tp("two")].set_cleaner_point(10)

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        if work.partition == tp("one"):
            raise error
        return done(work)

    cleaner = logs.cleaner(clean=clean)
    assert [cleaner.attempt(), cleaner.attempt(), cleaner.attempt()] == [False, True, False]
    assert logs.failures == [CleaningFailure(tp("one"), logs.logs[tp("one")], error)]  # type: ignore[arg-type]
    assert logs.points() == {"two": 30}
    assert list(logs.manager.uncleanable) == [tp("one")]


def test_a_log_that_cannot_be_looked_at_is_told_and_left_alone() -> None:
    logs = Cleaned()
    logs.dirty("one", "two")
    logs.logs[tp("one")].close()
    cleaner = logs.cleaner()
    while not cleaner.attempt():
        assert len(logs.failures) == 1
    assert isinstance(logs.failures[0].error, LogClosedError | ValueError)
    assert logs.points()["two"] == 30
    logs.open("one")
    assert cleaner.attempt() and logs.points() == {"one": 30, "two": 30}


def test_checkpoints_that_cannot_be_read_are_told_without_a_log() -> None:
    logs = Cleaned()
    logs.dirty("one")
    error = CorruptCheckpointError("bad")

    class Unreadable:
        def points(self) -> dict[TopicPartition, int]:
            raise error

    logs.manager = LogCleanerManager(logs.logs, Unreadable())  # type: ignore[arg-type]
    assert not logs.cleaner().attempt()
    assert logs.failures == [CleaningFailure(None, None, error)]
    assert logs.manager.uncleanable == {}


def test_a_point_that_cannot_be_written_is_a_failure_of_its_log() -> None:
    logs = Cleaned()
    logs.dirty("one")
    logs.fs.fail_on(lambda operation: operation.kind == "rename", OSError(28, "No space left on device"))
    assert not logs.cleaner(clean=nothing_but_say_so).attempt() or logs.rounds == []
    assert [failure.partition for failure in logs.failures] == [tp("one")]
    assert logs.manager.state(tp("one")) is None


def test_without_a_listener_the_first_error_is_raised_when_it_is_stopped() -> None:
    logs = Cleaned()
    logs.dirty("one", "two")
    errors = [DamagedLogError("first"), DamagedLogError("second")]

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        raise errors[work.partition == tp("two")]

    cleaner = logs.cleaner(clean=clean, on_failure=None)
    cleaner.start()
    assert eventually(lambda: len(logs.manager.uncleanable) == 2)
    with pytest.raises(DamagedLogError, match="first"):
        cleaner.stop()
    cleaner.stop()


@pytest.mark.kafka("CLEAN-86")
def test_logs_with_garbage_in_them_are_left_alone_and_the_others_are_cleaned_on() -> None:
    logs = Cleaned()
    logs.dirty("good", "bad", "worse")
    for name in ("bad", "worse"):
        logs.damage(logs.logs[tp(name)])
    uncleaned = {name: logs.logs[tp(name)].size for name in ("bad", "worse")}
    with logs.cleaner():
        assert eventually(lambda: len(logs.failures) == 2 and logs.points() == {"good": 30})
        write(logs.logs[tp("good")], 3)
        assert eventually(lambda: logs.points() == {"good": 60})
    assert {failure.partition.topic for failure in logs.failures if failure.partition} == {"bad", "worse"}
    assert set(logs.manager.uncleanable) == {tp("bad"), tp("worse")}
    assert logs.manager.uncleanable_bytes(logs.clock.now_ms()) == sum(uncleaned.values())
    assert {name: logs.logs[tp(name)].size for name in uncleaned} == uncleaned
    del logs.logs[tp("bad")]
    assert list(logs.manager.uncleanable) == [tp("worse")]
    assert logs.manager.uncleanable_bytes(logs.clock.now_ms()) == uncleaned["worse"]


def test_records_without_keys_are_dropped_only_where_that_is_asked_for() -> None:
    logs = Cleaned()
    log = logs.open("one", DELETE)
    log.append([(None, b"unkeyed"), (b"k", b"v")])
    log.roll()
    log.configure(COMPACT)
    assert not logs.cleaner().attempt()
    assert isinstance(logs.failures[0].error, UnkeyedRecordsError)
    logs.manager.forgive(tp("one"))
    assert logs.cleaner(clean=functools.partial(clean_round, drops_unkeyed=True)).attempt()
    assert newest(log) == {b"k": b"v"}


# ---- threads


def test_no_thread_runs_before_it_is_started_or_after_it_was_stopped() -> None:
    before = threading.active_count()
    logs = Cleaned()
    cleaner = logs.cleaner(CleanerConfig(threads=3, backoff_ms=60_000))
    assert threading.active_count() == before
    cleaner.start()
    assert threading.active_count() == before + 3
    with pytest.raises(RuntimeError, match="already"):
        cleaner.start()
    assert repr(cleaner) == "<LogCleaner with 3 threads, 0 of them dead>"
    cleaner.stop()
    cleaner.stop()
    assert threading.active_count() == before
    assert repr(cleaner) == "<LogCleaner stopped>"


def test_it_can_be_started_again() -> None:
    logs = Cleaned()
    cleaner = logs.cleaner()
    for name in ("one", "two"):
        logs.dirty(name)
        with cleaner:
            assert eventually(lambda name=name: logs.points().get(name) == 30)  # type: ignore[misc]


def test_stopping_calls_a_round_off_and_waits_for_it() -> None:
    logs = Cleaned()
    logs.dirty("one")
    cleaner = logs.cleaner(clean=until_cancelled)
    cleaner.start()
    assert eventually(lambda: logs.manager.state(tp("one")))
    cleaner.stop()
    assert (logs.manager.state(tp("one")), logs.points(), logs.failures) == (None, {}, [])


def test_threads_clean_different_logs_at_a_time() -> None:
    logs = Cleaned()
    logs.dirty("one", "two", "three")
    together, working = threading.Barrier(3, timeout=10), []

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        working.append(work.partition)
        together.wait()
        return done(work)

    with logs.cleaner(CleanerConfig(threads=3, backoff_ms=1), clean=clean):
        assert eventually(lambda: len(logs.rounds) == 3)
    assert sorted(working) == sorted(logs.logs)


@pytest.mark.kafka("CLEAN-88")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_ended_by_themselves_are_counted_and_leave_no_log_in_progress() -> None:
    logs = Cleaned()
    logs.dirty("one", "two")

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        raise ZeroDivisionError

    cleaner = logs.cleaner(CleanerConfig(threads=2, backoff_ms=1), clean=clean)
    assert cleaner.dead_thread_count == 0
    cleaner.start()
    assert eventually(lambda: cleaner.dead_thread_count == 2)
    assert [logs.manager.state(partition) for partition in logs.logs] == [None, None]
    cleaner.stop()
    assert cleaner.dead_thread_count == 0


# ---- other settings


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_other_settings_count_from_then_on_and_revive_dead_threads() -> None:
    logs = Cleaned()
    logs.dirty("one")

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        if terms.config.threads == 1:
            raise ZeroDivisionError
        return done(work)

    cleaner = logs.cleaner(clean=clean)
    cleaner.start()
    assert eventually(lambda: cleaner.dead_thread_count == 1)
    cleaner.reconfigure(CleanerConfig(threads=2, backoff_ms=1))
    assert eventually(lambda: logs.points() == {"one": 30})
    assert (cleaner.dead_thread_count, cleaner.config.threads) == (0, 2)
    cleaner.stop()


def test_other_settings_start_no_threads_where_none_run() -> None:
    before = threading.active_count()
    cleaner = Cleaned().cleaner()
    cleaner.reconfigure(CleanerConfig(threads=2, io_max_bytes_per_second=5))
    assert threading.active_count() == before
    assert cleaner.bytes_per_second == 5


@pytest.mark.kafka("CLEAN-89")
def test_a_changed_limit_counts_for_the_rounds_that_follow() -> None:
    logs, limits = Cleaned(), []
    logs.dirty("one")

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        limits.append(terms.throttle.bytes_per_second)
        return done(work)

    cleaner = logs.cleaner(CleanerConfig(io_max_bytes_per_second=10_000_000, backoff_ms=1), clean=clean)
    cleaner.attempt()
    cleaner.reconfigure(dataclasses.replace(cleaner.config, io_max_bytes_per_second=20_000_000))
    write(logs.logs[tp("one")], 3)
    logs.logs[tp("one")].set_cleaner_point(0)
    cleaner.attempt()
    assert limits == [10_000_000, 20_000_000]


@pytest.mark.parametrize(
    ("now", "legal", "illegal"),
    [(1, (1, 2), (0, 3)), (3, (1, 6), (0, 7)), (4, (2, 8), (1, 9))],
)
def test_the_number_of_threads_changes_by_a_factor_of_two_at_most(
    now: int, legal: tuple[int, ...], illegal: tuple[int, ...]
) -> None:
    for wanted in illegal:
        cleaner = Cleaned().cleaner(CleanerConfig(threads=now))
        with pytest.raises(
            ValueError, match=f"log.cleaner.threads is {wanted}; its range is: {legal[0]} to {legal[1]}"
        ):
            cleaner.reconfigure(CleanerConfig(threads=wanted))
        assert cleaner.config.threads == now
    for wanted in legal:
        cleaner = Cleaned().cleaner(CleanerConfig(threads=now))
        cleaner.reconfigure(CleanerConfig(threads=wanted))
        assert cleaner.config.threads == wanted


def test_logs_whose_map_was_too_small_are_cleaned_after_other_settings_and_damaged_ones_are_not() -> None:
    logs = Cleaned()
    logs.dirty("big", "bad")

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        if work.partition == tp("bad"):
            raise DamagedLogError("bad")
        if terms.config.map_memory < 4 << 20:
            raise MapTooSmallError("too small")
        return done(work)

    cleaner = logs.cleaner(CleanerConfig(dedupe_buffer_size=2 << 20), clean=clean)
    assert [cleaner.attempt() for _ in range(3)] == [False] * 3
    assert (len(logs.failures), logs.points()) == (2, {})
    cleaner.reconfigure(CleanerConfig(dedupe_buffer_size=4 << 20))
    assert [cleaner.attempt() for _ in range(2)] == [True, False]
    assert logs.points() == {"big": 30}
    assert list(logs.manager.uncleanable) == [tp("bad")]


# ---- retention of compacted logs


def test_after_each_attempt_all_compacted_logs_are_given_to_retention() -> None:
    logs, given = Cleaned(), []
    logs.dirty("one", "two")
    logs.dirty("other", config=DELETE)
    paused = tp("two")
    logs.manager.abort_and_pause(paused)
    assert logs.cleaner(retain=given.append).attempt()
    assert given == [logs.logs[tp("one")]]
    logs.manager.resume([paused])
    assert logs.cleaner(retain=given.append).attempt()
    assert given[1:] == [logs.logs[tp("one")], logs.logs[tp("two")]]
    assert [logs.manager.state(partition) for partition in logs.logs] == [None] * 3


def test_a_log_that_retention_fails_on_is_told_and_left_alone_and_the_others_are_not() -> None:
    logs, given = Cleaned(), []
    logs.dirty("one", "two")

    def fail_once(log: Log) -> None:
        if log is logs.logs[tp("one")]:
            raise OSError(5, "Input/output error")
        given.append(log)

    cleaner = logs.cleaner(clean=nothing_but_say_so, retain=fail_once)
    for _ in range(3):
        cleaner.attempt()
    assert [failure.partition for failure in logs.failures] == [tp("one")]
    assert given == [logs.logs[tp("two")]] * 3
    assert list(logs.manager.uncleanable) == [tp("one")]


def test_retention_is_left_out_for_a_log_that_somebody_waits_for() -> None:
    logs, given, threads = Cleaned(), [], []
    logs.dirty("one", "two")

    def take_the_other(log: Log) -> None:
        given.append(log)
        thread = threading.Thread(target=logs.manager.abort_and_pause, args=(tp("two"),))
        threads.append(thread)
        thread.start()
        assert eventually(lambda: logs.manager.is_aborted(tp("two")))

    logs.cleaner(clean=nothing_but_say_so, retain=take_the_other).attempt()
    threads[0].join()
    assert given == [logs.logs[tp("one")]]
    assert logs.manager.state(tp("two")) == CleaningState(CleaningStatus.PAUSED, 1)


@pytest.mark.kafka("CLEAN-107")
def test_a_log_of_both_policies_is_compacted_and_aged_segments_go() -> None:
    logs = Cleaned()
    config = dataclasses.replace(COMPACT_DELETE, retention_ms=HOUR, file_delete_delay_ms=0)
    log = logs.open("one", config)
    write(log, 3)
    expected, size = newest(log), log.size
    cleaner = logs.cleaner(retain=retain)
    assert cleaner.attempt()
    assert newest(log) == expected and log.size < size and log.log_start_offset == 0
    logs.clock.advance(HOUR + 1000)
    end = log.log_end_offset
    cleaner.attempt()
    assert log.log_start_offset == end
    assert (len(log.segments), newest(log)) == (1, {})
    write(log, 3)
    assert cleaner.attempt()
    assert (newest(log), logs.points()) == ({b"0": b"58", b"1": b"59"}, {"one": 60})


@pytest.mark.kafka("CLEAN-108")
@pytest.mark.parametrize("config", [COMPACT, COMPACT_DELETE])
def test_the_retention_task_leaves_compacted_logs_alone(config: LogConfig) -> None:
    logs = Cleaned()
    for topic, policy in (("kept", config), ("deleted", DELETE)):
        write(logs.open(topic, dataclasses.replace(policy, retention_ms=HOUR)), 3)
    logs.clock.advance(HOUR + 1000)
    paused = logs.manager.pause_for_retention()
    for log in paused.values():
        retain(log)
    logs.manager.resume(paused)
    assert len(logs.logs[tp("kept")].segments) == 4
    assert logs.logs[tp("deleted")].log_start_offset == 30


@pytest.mark.kafka("CLEAN-109")
def test_aged_segments_of_a_log_go_only_where_its_policy_says_delete_too() -> None:
    logs = Cleaned()
    never = {"min_cleanable_dirty_ratio": 1.0, "retention_ms": HOUR}
    for topic, policy in (("kept", COMPACT), ("deleted", COMPACT_DELETE), ("started", COMPACT)):
        write(logs.open(topic, dataclasses.replace(policy, **never)), 3)  # type: ignore[arg-type]
    logs.logs[tp("started")].advance_log_start(20)
    logs.clock.advance(HOUR + 1000)
    logs.cleaner(retain=retain).attempt()
    starts = {name.topic: [one.base_offset for one in log.segments] for name, log in logs.logs.items()}
    assert starts == {"kept": [0, 10, 20, 30], "deleted": [30], "started": [20, 30]}


# ---- with the real cleaner


CODECS = ["uncompressed", "gzip", "snappy", "lz4", "zstd"]


@pytest.mark.kafka("CLEAN-105")
@pytest.mark.parametrize("codec", CODECS)
def test_nothing_is_cleaned_within_the_minimum_lag_and_what_is_older_is_behind_it(codec: str) -> None:
    logs = Cleaned()
    config = dataclasses.replace(COMPACT, min_compaction_lag_ms=HOUR, compression_type=codec)  # type: ignore[arg-type]
    log = logs.open("one", config)
    write(log, 3)
    first, size = log.segments[-1].base_offset, log.size
    cleaner = logs.cleaner()
    logs.clock.advance(HOUR // 2)
    assert not cleaner.attempt()
    assert (log.size, logs.points()) == (size, {})
    logs.clock.advance(HOUR // 2 + 1)
    write(log, 3)
    expected = newest(log)
    assert cleaner.attempt() and not cleaner.attempt()
    assert logs.points() == {"one": first}
    assert [record.offset for record in log.records() if record.offset < first] == [first - 2, first - 1]
    assert sum(record.offset >= first for record in log.records()) == 30
    assert newest(log) == expected


@pytest.mark.kafka("CLEAN-106")
def test_what_is_overdue_is_cleaned_whatever_the_ratio_and_not_before() -> None:
    logs = Cleaned()
    log = logs.open("one", dataclasses.replace(COMPACT, min_cleanable_dirty_ratio=1.0, max_compaction_lag_ms=6 * HOUR))
    cleaner = logs.cleaner()
    for number in (1, 2):
        write(log, 3)
        expected, size = newest(log), log.size
        logs.clock.advance(3 * HOUR)
        assert not cleaner.attempt()
        assert log.size == size
        logs.clock.advance(3 * HOUR + 1)
        assert cleaner.attempt() and not cleaner.attempt()
        assert logs.points() == {"one": 30 * number}
        assert newest(log) == expected and log.size < size


def test_a_round_cleans_what_was_picked_by_the_time_and_the_limit_that_it_was_given() -> None:
    logs, taken = Cleaned(), []
    log = logs.open("one", dataclasses.replace(COMPACT, min_compaction_lag_ms=HOUR))
    write(log, 3)
    log.set_cleaner_point(20)
    checkpoints = DirectoryCheckpoints(logs.fs, [log.directory.parent], logs.logs)
    checkpoints.put(tp("one"), 10)
    later = logs.clock.now_ms() + 2 * HOUR
    work = LogCleanerManager(logs.logs, checkpoints).pick(later)
    assert isinstance(work, LogToClean)
    write(log, 2)

    class Counting(Throttle):
        def delay(self, size: int) -> float:
            taken.append(size)
            return 0

    terms = RoundTerms(later, QUICK, Counting(math.inf, logs.clock), lambda: False)
    stats = clean_round(work, terms)
    assert (stats.first_dirty_offset, stats.uncleanable_offset, stats.end_offset) == (10, 30, 30)
    assert sum(taken) > 0
    with pytest.raises(CleaningAbortedError):
        clean_round(work, terms._replace(is_cancelled=lambda: True))


def test_rounds_go_on_while_the_map_does_not_hold_all_keys() -> None:
    logs = Cleaned()
    log = logs.open("one")
    write(log, 3, keys=7)
    expected = newest(log)
    small = dataclasses.replace(COMPACT, min_cleanable_dirty_ratio=0.0)
    log.configure(small)

    def clean(work: LogToClean[Log], terms: RoundTerms) -> CleaningStats:
        found = work.cleanability
        return Cleaner(24 * 4, is_cancelled=terms.is_cancelled).clean(
            work.log, now_ms=terms.now_ms, first_dirty_offset=found.first_dirty.offset,
            uncleanable_offset=found.uncleanable.offset,
        )  # fmt: skip

    cleaner = logs.cleaner(clean=clean)
    while cleaner.attempt():
        pass
    assert len(logs.rounds) > 2 and logs.points() == {"one": 30}
    ends = [done.end_offset for _, done in logs.rounds]
    assert ends == sorted(set(ends)) and newest(log) == expected


def test_appends_and_truncations_go_on_while_logs_are_cleaned() -> None:
    logs = Cleaned()
    logs.dirty("one", "two")
    expected: dict[TopicPartition, dict[bytes | None, bytes | None]] = {}
    with logs.cleaner(CleanerConfig(threads=2, backoff_ms=1), retain=retain):
        for number in range(30):
            for partition, log in logs.logs.items():
                write(log, 1, keys=3)
                if number % 7 == 6:
                    logs.manager.abort_and_pause(partition)
                    log.truncate_to(log.log_end_offset - 5)
                    logs.manager.truncate_point(partition, log.segments[-1].base_offset)
                    logs.manager.resume([partition])
                expected[partition] = newest(log)
        assert eventually(
            lambda: set(logs.points().values()) == {log.segments[-1].base_offset for log in logs.logs.values()}
        )
    assert logs.failures == []
    for partition, log in logs.logs.items():
        assert newest(log) == expected[partition]
        log.close()
        assert newest(logs.open(partition.topic)) == expected[partition]
