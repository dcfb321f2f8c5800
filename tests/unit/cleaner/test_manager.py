"""The manager of the cleaner: which log is picked, who may work on it, and what it remembers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.many_logs import COMPACT, COMPACT_DELETE, DATA, DELETE, ManyLogs, tp, write
from helpers.open_logs import START
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logstore.cleaner.checkpoints import DirectoryCheckpoints
from logstore.cleaner.manager import (
    CleaningFailure,
    CleaningState,
    CleaningStatus,
    LogCleanerManager,
    LogToClean,
)
from logstore.config import LogConfig
from logstore.errors import CleaningAbortedError, CorruptCheckpointError, DamagedLogError
from logstore.log import Log
from logstore.names import CLEANER_CHECKPOINT, TopicPartition

IN_PROGRESS = CleaningState(CleaningStatus.IN_PROGRESS)


def paused(count: int) -> CleaningState:
    return CleaningState(CleaningStatus.PAUSED, count)


class Managed(ManyLogs):
    """Logs, and their manager."""

    def __init__(self) -> None:
        super().__init__()
        self.manager: LogCleanerManager[Log] = LogCleanerManager(self.logs)

    def pick(self) -> TopicPartition | None:
        """What is picked; it is in progress then."""
        picked = self.manager.pick(self.clock.now_ms())
        assert not isinstance(picked, CleaningFailure)
        return None if picked is None else picked.partition

    def look(self) -> LogToClean[Log] | None:
        """What would be picked."""
        picked = self.manager.pick(self.clock.now_ms())
        assert not isinstance(picked, CleaningFailure)
        if picked is not None:
            self.manager.done_cleaning(picked.partition, None)
        return picked

    def three(self) -> list[TopicPartition]:
        """Three logs of which more is dirty in each."""
        for number, name in enumerate(("clean", "dirty", "dirtiest")):
            log = self.open(name, LogConfig(cleanup_policy=COMPACT.cleanup_policy, min_cleanable_dirty_ratio=0.1))
            write(log, 6)
            log.set_cleaner_point(log.segments[4 - 2 * number].base_offset)
        return list(self.logs)

    def mark(self, partition: TopicPartition) -> None:
        self.manager.mark_uncleanable(CleaningFailure(partition, self.logs[partition], DamagedLogError("x")))

    def one(self, config: LogConfig = COMPACT, segments: int = 2) -> TopicPartition:
        """One log, all of it dirty."""
        write(self.open("one", config), segments)
        return tp("one")


class Broken:
    """A log that cannot be looked at."""

    def __init__(self, log: Log, error: Exception) -> None:
        self.log = log
        self.error = error

    @property
    def segments(self) -> Any:
        raise self.error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


# ---- picking


@pytest.mark.kafka("CLEAN-10")
def test_the_dirtiest_log_is_picked() -> None:
    managed = Managed()
    _, _, dirtiest = managed.three()
    assert managed.pick() == dirtiest
    assert managed.manager.dirtiest_ratio == 1
    assert managed.manager.last_run_ms == START


@pytest.mark.kafka("CLEAN-11")
def test_an_uncleanable_log_is_not_picked() -> None:
    managed = Managed()
    _, dirty, dirtiest = managed.three()
    managed.mark(dirtiest)
    assert managed.pick() == dirty


@pytest.mark.kafka("CLEAN-12")
def test_a_log_in_progress_is_not_picked() -> None:
    managed = Managed()
    _, dirty, dirtiest = managed.three()
    assert [managed.pick(), managed.pick()] == [dirtiest, dirty]
    assert managed.manager.state(dirtiest) == managed.manager.state(dirty) == IN_PROGRESS


@pytest.mark.kafka("CLEAN-13")
def test_nothing_is_picked_when_no_log_is_both_free_and_dirty() -> None:
    managed = Managed()
    clean, dirty, dirtiest = managed.three()
    assert managed.pick() == dirtiest
    managed.mark(dirty)
    log = managed.logs[clean]
    log.set_cleaner_point(log.segments[-1].base_offset)
    assert managed.pick() is None
    assert managed.manager.state(clean) is None


@pytest.mark.kafka("CLEAN-14")
@pytest.mark.parametrize("error", [DamagedLogError("a bad index"), OSError(5, "Input/output error")])
def test_a_log_that_cannot_be_looked_at_is_named_with_the_reason_and_can_be_marked(error: Exception) -> None:
    managed = Managed()
    _, dirty, dirtiest = managed.three()
    managed.logs[dirtiest] = broken = Broken(managed.logs[dirtiest], error)  # type: ignore[assignment]
    failure = managed.manager.pick(START)
    assert isinstance(failure, CleaningFailure)
    assert (failure.partition, failure.log, failure.error) == (dirtiest, broken, error)
    assert managed.manager.state(dirtiest) is None
    managed.manager.mark_uncleanable(failure)
    assert managed.pick() == dirty


@pytest.mark.kafka("CLEAN-15")
def test_a_cleaner_point_behind_the_end_makes_the_whole_log_dirty() -> None:
    managed = Managed()
    one = managed.one()
    managed.logs[one].set_cleaner_point(200)
    picked = managed.look()
    assert picked is not None and picked.cleanability.first_dirty.offset == 0


@pytest.mark.kafka("CLEAN-16")
def test_a_log_is_dirty_from_its_start_on_when_that_has_passed_the_cleaner_point() -> None:
    managed = Managed()
    one = managed.one(segments=3)
    log = managed.logs[one]
    log.set_cleaner_point(0)
    log.advance_log_start(10)
    picked = managed.look()
    assert picked is not None and picked.cleanability.first_dirty.offset == 10


@pytest.mark.kafka("CLEAN-17")
def test_a_log_that_starts_inside_its_active_segment_has_nothing_to_clean() -> None:
    managed = Managed()
    log = managed.open("one")
    log.append([(b"k", b"v")] * 20)
    log.set_cleaner_point(0)
    log.advance_log_start(10)
    assert managed.pick() is None
    assert not managed.manager.uncleanable


@pytest.mark.kafka("CLEAN-18")
def test_a_log_that_is_clean_up_to_inside_its_active_segment_has_nothing_to_clean() -> None:
    managed = Managed()
    log = managed.open("one")
    log.append([(b"k", b"v")] * 20)
    log.set_cleaner_point(3)
    assert managed.pick() is None
    assert log.cleaner_point == 3


@pytest.mark.kafka("CLEAN-38")
def test_a_cleaner_point_below_the_log_start_is_set_right_though_nothing_is_picked() -> None:
    managed = Managed()
    log = managed.open("one")
    for _ in range(3):
        log.append([(b"k", b"v")] * 10)
        log.roll()
    log.set_cleaner_point(15)
    log.advance_log_start(30)
    assert managed.pick() is None
    assert managed.manager.points() == {tp("one"): 30}


@pytest.mark.kafka("CLEAN-39")
def test_the_cleaner_point_of_a_log_that_is_not_picked_is_set_right() -> None:
    managed = Managed()
    for name, point in (("cleaner", 10), ("dirtier", 0)):
        write(managed.open(name), 6)
        managed.logs[tp(name)].set_cleaner_point(point)
    managed.logs[tp("cleaner")].advance_log_start(15)
    managed.logs[tp("cleaner")].delete_before_log_start()
    assert managed.pick() == tp("dirtier")
    assert managed.manager.points()[tp("cleaner")] == 15


@pytest.mark.parametrize("config", [COMPACT, COMPACT_DELETE])
def test_logs_of_both_compacting_policies_are_picked(config: LogConfig) -> None:
    managed = Managed()
    assert managed.pick() is None
    assert managed.one(config) == managed.pick()


def test_a_log_that_is_only_deleted_from_is_not_picked() -> None:
    managed = Managed()
    managed.one(DELETE)
    assert managed.pick() is None


def test_how_late_a_log_is_can_be_asked() -> None:
    managed = Managed()
    managed.one(LogConfig(cleanup_policy=COMPACT.cleanup_policy, max_compaction_lag_ms=1000))
    managed.clock.advance(1500)
    assert managed.pick() == tp("one")
    assert managed.manager.max_delay_ms == 500


def test_checkpoints_that_cannot_be_read_are_an_error_and_nothing_is_picked() -> None:
    managed = Managed()
    managed.one()
    managed.fs.write_bytes(DATA / CLEANER_CHECKPOINT, b"what?")
    manager = LogCleanerManager(managed.logs, DirectoryCheckpoints(managed.fs, [DATA], managed.logs))
    with pytest.raises(CorruptCheckpointError):
        manager.pick(START)
    assert manager.state(tp("one")) is None


# ---- retention


@pytest.mark.kafka("CLEAN-19")
def test_a_log_that_is_only_deleted_from_is_not_the_cleaners_to_delete_from() -> None:
    managed = Managed()
    managed.one(DELETE)
    assert managed.manager.compacted_logs() == {}


@pytest.mark.kafka("CLEAN-20")
@pytest.mark.kafka("CLEAN-21")
@pytest.mark.parametrize("config", [COMPACT, COMPACT_DELETE])
def test_a_compacted_log_is_the_cleaners_to_delete_from_unless_somebody_works_on_it(config: LogConfig) -> None:
    managed = Managed()
    one = managed.one(config)
    assert managed.manager.compacted_logs() == managed.logs
    assert managed.manager.state(one) == IN_PROGRESS
    assert managed.manager.compacted_logs() == {}
    assert managed.pick() is None
    managed.manager.done_deleting([one])
    assert managed.pick() == one
    assert managed.manager.compacted_logs() == {}


@pytest.mark.kafka("CLEAN-22")
def test_nothing_is_deleted_from_an_uncleanable_log() -> None:
    managed = Managed()
    managed.mark(managed.one())
    assert managed.manager.compacted_logs() == {}


@pytest.mark.kafka("CLEAN-23")
def test_a_log_whose_policy_is_switched_is_never_cleaned_and_deleted_from_at_once() -> None:
    managed = Managed()
    one = managed.one(DELETE)
    assert managed.manager.pause_for_retention() == managed.logs
    assert managed.manager.pause_for_retention() == {}
    managed.logs[one].configure(COMPACT)
    assert managed.pick() is None
    managed.manager.resume([one])
    assert managed.pick() == one
    managed.logs[one].configure(DELETE)
    assert managed.manager.pause_for_retention() == {}
    managed.manager.done_cleaning(one, 20)
    assert managed.manager.pause_for_retention() == managed.logs


@pytest.mark.parametrize("config", [COMPACT, COMPACT_DELETE])
def test_logs_that_are_compacted_are_not_paused_for_retention(config: LogConfig) -> None:
    managed = Managed()
    managed.one(config)
    assert managed.manager.pause_for_retention() == {}


# ---- points


@pytest.mark.kafka("CLEAN-26")
def test_a_truncation_lowers_the_point_and_never_raises_it() -> None:
    managed = Managed()
    one = managed.one()
    managed.manager.truncate_point(one, 1000)
    assert managed.manager.points() == {}
    managed.logs[one].set_cleaner_point(999)
    managed.manager.truncate_point(one, 1000)
    assert managed.manager.points() == {one: 999}
    managed.manager.truncate_point(one, 1)
    assert managed.manager.points() == {one: 1}


def test_a_forgotten_log_has_no_mark_and_no_point() -> None:
    managed = Managed()
    one = managed.one()
    manager = LogCleanerManager(managed.logs, DirectoryCheckpoints(managed.fs, [DATA], managed.logs))
    picked = manager.pick(START)
    assert isinstance(picked, LogToClean)
    manager.done_cleaning(one, 20)
    assert manager.points() == {one: 20}
    manager.mark_uncleanable(CleaningFailure(one, managed.logs[one], DamagedLogError("x")))
    manager.forget(one)
    assert (manager.points(), manager.uncleanable) == ({}, {})


def test_a_point_that_cannot_be_written_leaves_the_log_free() -> None:
    managed = Managed()
    one = managed.one()
    assert managed.pick() == one
    managed.fs.fail_on(lambda operation: operation.kind == "rename", OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        managed.manager.done_cleaning(one, 20)
    assert managed.manager.state(one) is None


# ---- states


def aborter(managed: Managed, partition: TopicPartition, work: Callable[[TopicPartition], None]) -> threading.Thread:
    """A thread that calls something off, as soon as the manager knows of it."""
    thread = threading.Thread(target=work, args=(partition,))
    thread.start()
    end = time.monotonic() + 10
    while not managed.manager.is_aborted(partition):
        assert time.monotonic() < end
        time.sleep(0.001)
    return thread


@pytest.mark.kafka("CLEAN-28")
def test_a_truncation_while_retention_has_a_log_paused_leaves_no_state() -> None:
    managed = Managed()
    one = managed.one(DELETE)
    paused_logs = managed.manager.pause_for_retention()
    managed.manager.abort_and_pause(one)
    assert managed.manager.state(one) == paused(2)
    managed.manager.resume([one])
    assert managed.manager.state(one) == paused(1)
    managed.manager.resume(paused_logs)
    assert managed.manager.state(one) is None


@pytest.mark.kafka("CLEAN-29")
def test_a_deletion_while_retention_has_a_log_paused_leaves_no_state() -> None:
    managed = Managed()
    one = managed.one(DELETE)
    paused_logs = managed.manager.pause_for_retention()
    managed.manager.abort(one)
    assert managed.manager.state(one) == paused(1)
    managed.manager.resume(paused_logs)
    assert managed.manager.state(one) is None


@pytest.mark.kafka("CLEAN-36")
def test_done_cleaning_frees_a_log_in_progress_and_pauses_one_that_was_called_off() -> None:
    managed = Managed()
    one = managed.one()
    with pytest.raises(RuntimeError, match="one-0 is not in progress, but idle"):
        managed.manager.done_cleaning(one, 1)
    managed.manager.abort_and_pause(one)
    with pytest.raises(RuntimeError, match=r"one-0 is not in progress, but paused\(1\)"):
        managed.manager.done_cleaning(one, 1)
    managed.manager.resume([one])

    assert managed.pick() == one
    managed.manager.done_cleaning(one, 1)
    assert (managed.manager.state(one), managed.manager.points()) == (None, {one: 1})

    assert managed.pick() == one
    thread = aborter(managed, one, managed.manager.abort_and_pause)
    managed.manager.done_cleaning(one, 20)
    thread.join()
    assert (managed.manager.state(one), managed.manager.points()) == (paused(1), {one: 1})


@pytest.mark.kafka("CLEAN-37")
def test_done_deleting_frees_a_log_in_progress_and_pauses_one_that_was_called_off() -> None:
    managed = Managed()
    one = managed.one()
    with pytest.raises(RuntimeError, match="idle"):
        managed.manager.done_deleting([one])
    managed.manager.abort_and_pause(one)
    with pytest.raises(RuntimeError, match="paused"):
        managed.manager.done_deleting([one])
    managed.manager.resume([one])

    managed.manager.compacted_logs()
    managed.manager.done_deleting([one])
    assert managed.manager.state(one) is None

    managed.manager.compacted_logs()
    thread = aborter(managed, one, managed.manager.abort_and_pause)
    managed.manager.done_deleting([one])
    thread.join()
    assert managed.manager.state(one) == paused(1)


def test_who_calls_work_off_waits_until_it_has_ended_and_the_log_is_free_then() -> None:
    managed = Managed()
    one = managed.one()
    assert managed.pick() == one
    managed.manager.check_aborted(one)
    thread = aborter(managed, one, managed.manager.abort)
    with pytest.raises(CleaningAbortedError, match="one-0 was called off"):
        managed.manager.check_aborted(one)
    with pytest.raises(RuntimeError, match="called off already"):
        managed.manager.abort_and_pause(one)
    thread.join(0.02)
    assert thread.is_alive()
    managed.manager.done_cleaning(one, None)
    thread.join()
    assert managed.manager.state(one) is None
    assert managed.pick() == one


def test_a_log_that_is_not_paused_cannot_be_resumed() -> None:
    managed = Managed()
    one = managed.one()
    with pytest.raises(RuntimeError, match="one-0 is not paused, but idle"):
        managed.manager.resume([one])
    managed.pick()
    with pytest.raises(RuntimeError, match="one-0 is not paused, but in progress"):
        managed.manager.resume([one])


def test_a_paused_log_is_not_picked_until_all_have_resumed_it() -> None:
    managed = Managed()
    one = managed.one()
    for _ in range(3):
        managed.manager.abort_and_pause(one)
    for _ in range(3):
        assert managed.pick() is None
        assert managed.manager.compacted_logs() == {}
        managed.manager.resume([one])
    assert managed.pick() == one


@pytest.mark.kafka("CLEAN-110")
def test_cleaning_is_called_off_when_compaction_is_taken_from_the_policy() -> None:
    managed = Managed()
    one = managed.one()
    assert managed.pick() == one
    thread = aborter(managed, one, lambda partition: managed.manager.configure(partition, DELETE))
    managed.manager.done_cleaning(one, 20)
    thread.join()
    assert managed.logs[one].config == DELETE
    assert (managed.manager.state(one), managed.manager.points()) == (None, {})


def test_other_settings_do_not_disturb_cleaning() -> None:
    managed = Managed()
    one = managed.one()
    assert managed.pick() == one
    managed.manager.configure(one, COMPACT_DELETE)
    assert (managed.logs[one].config, managed.manager.state(one)) == (COMPACT_DELETE, IN_PROGRESS)


# ---- logs that cannot be cleaned


def test_a_mark_lasts_until_the_log_is_opened_again_or_forgiven() -> None:
    managed = Managed()
    one = managed.one()
    managed.mark(one)
    assert list(managed.manager.uncleanable) == [one]
    managed.logs[one].close()
    managed.open("one")
    assert managed.manager.uncleanable == {}
    managed.mark(one)
    managed.manager.forgive(one)
    assert managed.pick() == one


def test_a_mark_goes_with_the_log() -> None:
    managed = Managed()
    one = managed.one()
    managed.mark(one)
    del managed.logs[one]
    assert managed.manager.uncleanable == {}


def test_the_bytes_of_uncleanable_logs_are_those_that_could_be_cleaned() -> None:
    managed = Managed()
    for name in ("one", "two", "three"):
        write(managed.open(name), 3)
    logs = managed.logs
    logs[tp("one")].set_cleaner_point(logs[tp("one")].segments[1].base_offset)
    expected = [sum(one.size for one in log.segments) for log in logs.values()]
    expected[0] -= logs[tp("one")].segments[0].size
    assert managed.manager.uncleanable_bytes(START) == 0
    managed.mark(tp("one"))
    assert managed.manager.uncleanable_bytes(START) == expected[0]
    managed.mark(tp("two"))
    assert managed.manager.uncleanable_bytes(START) == sum(expected[:2])
    logs[tp("two")] = Broken(logs[tp("two")], OSError(5, "Input/output error"))  # type: ignore[assignment]
    managed.mark(tp("two"))
    assert managed.manager.uncleanable_bytes(START) == expected[0]


def test_its_text_shows_who_works_on_what() -> None:
    managed = Managed()
    managed.one()
    assert repr(managed.manager) == "<LogCleanerManager of 1 logs: idle; 0 uncleanable>"
    managed.pick()
    assert repr(managed.manager) == "<LogCleanerManager of 1 logs: one-0 in progress; 0 uncleanable>"


# ---- against a model


class StateMachine(RuleBasedStateMachine):
    """Pauses, picks and ends in any order: a log is worked on by one at most, and never while it is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.managed = Managed()
        for name in ("one", "two"):
            write(self.managed.open(name), 1, each=2)
        self.working: set[TopicPartition] = set()
        self.pauses = dict.fromkeys(self.managed.logs, 0)

    @rule()
    def pick(self) -> None:
        picked = self.managed.pick()
        free = {one for one in self.pauses if not self.pauses[one] and one not in self.working}
        assert (picked in free) if free else picked is None
        if picked is not None:
            self.working.add(picked)

    @rule()
    def take_for_deletion(self) -> None:
        taken = self.managed.manager.compacted_logs()
        assert taken.keys() == {one for one in self.pauses if not self.pauses[one]} - self.working
        self.working |= taken.keys()

    @rule(data=st.data())
    @precondition(lambda self: self.working)
    def finish(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.working)))
        self.managed.manager.done_deleting([partition])
        self.working.remove(partition)

    @rule(partition=st.sampled_from([tp("one"), tp("two")]))
    def pause(self, partition: TopicPartition) -> None:
        if partition in self.working:
            thread = aborter(self.managed, partition, self.managed.manager.abort_and_pause)
            self.managed.manager.done_cleaning(partition, 1)
            thread.join()
            self.working.remove(partition)
        else:
            self.managed.manager.abort_and_pause(partition)
        self.pauses[partition] += 1

    @rule(partition=st.sampled_from([tp("one"), tp("two")]))
    def resume(self, partition: TopicPartition) -> None:
        if self.pauses[partition]:
            self.managed.manager.resume([partition])
            self.pauses[partition] -= 1
        else:
            with pytest.raises(RuntimeError):
                self.managed.manager.resume([partition])

    @invariant()
    def the_states_are_those_of_the_model(self) -> None:
        for partition, pauses in self.pauses.items():
            expected = IN_PROGRESS if partition in self.working else paused(pauses) if pauses else None
            assert self.managed.manager.state(partition) == expected
        assert self.managed.manager.points() == {}  # of those that were called off, none has moved


TestStates = StateMachine.TestCase
TestStates.settings = settings(deadline=None, database=None, max_examples=25, stateful_step_count=20)


def test_a_partition_in_a_log_directory_has_its_point_in_the_directorys_file() -> None:
    managed = Managed()
    write(managed.open("one", directory=Path("/disk1")), 2)
    manager = LogCleanerManager(managed.logs, DirectoryCheckpoints(managed.fs, [Path("/disk1")], managed.logs))
    assert isinstance(manager.pick(START), LogToClean)
    manager.done_cleaning(tp("one"), 20)
    assert managed.fs.read_bytes(Path("/disk1") / CLEANER_CHECKPOINT) == b"0\n1\none 0 20\n"
    assert manager.pick(START) is None
