"""A log and its model are told the same, in any order, with crashes between: they never tell different things.

In a normal run the cases are always the same. `LOGSTORE_MODEL_EXAMPLES=N` tries N others, with longer histories.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.model_checks import check_producers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from logstore.config import Durability, LogConfig
from logstore.errors import LogstoreError, UnexpectedOffsetError
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log import Appended, AppendFuture, FetchIsolation, Log
from logstore.records import BatchOptions, Codec, encode_batch, increment_sequence, iter_batches
from logstore.testing import CrashMode, LogModel, ManualClock, MemoryFileSystem, ModelProducer
from logstore.testing.strategies import (
    ProducerStep,
    RecordTuple,
    batches,
    codecs,
    configs,
    producer_histories,
    producer_steps,
    records,
)

PLACE = Path("/data/orders-0")
START_MS = 1_000_000_000
EXAMPLES = int(os.environ.get("LOGSTORE_MODEL_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=EXAMPLES or 150,
    stateful_step_count=60 if EXAMPLES else 35,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
durabilities = st.sampled_from([None, None, *get_args(Durability)])
crash_modes = st.sampled_from(get_args(CrashMode))
places = st.integers(0, 1_000)
"""Where in the log something happens, in thousandths."""


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the kind of error it raises."""
    try:
        found = call()
        # A snapshot keeps one time of a producer: it may be that of a marker behind its last batch.
        return ("again", *found[:2]) if isinstance(found, Appended) and found.is_duplicate else found
    except (LogstoreError, ValueError) as error:
        return type(error)


# What a log looks like whose offsets have gaps, as leaders of compacted logs send them, or whose end lies behind its
# last batch, as truncation inside a batch leaves it.
GAPS = {"segment-gap", "segment-missing"}
END_BEHIND_BATCHES = GAPS | {"checkpoint-beyond-end", "epoch-beyond-end", "snapshot-beyond-end"}


def check_tree(fs: MemoryFileSystem, usual: Set[str] = frozenset()) -> None:
    """Let `check` look at a copy of the log: it finds nothing but what is usual."""
    with tempfile.TemporaryDirectory(prefix="logstore-model-") as directory:
        fs.export(directory)
        found = list(check(resolve(Path(directory, PLACE.relative_to("/"))), CheckOptions()))
    alarms = [str(one) for one in found if one.severity != Severity.NOTE and one.code not in usual]
    assert not alarms, alarms


class LogMachine(RuleBasedStateMachine):
    """A log in memory, and its model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(START_MS)
        self.fs = MemoryFileSystem(self.clock)
        self.futures: list[tuple[AppendFuture, Appended]] = []
        self.usual = set[str]()
        self.epoch = 0
        self.replicated = False
        self.log: Log = None  # type: ignore[assignment]
        self.model: LogModel = None  # type: ignore[assignment]

    @initialize(config=configs(), replicated=st.booleans())
    def begin(self, config: LogConfig, replicated: bool) -> None:
        self.replicated = replicated
        self.model = LogModel(config, clock=self.clock, replicated=replicated)
        self.log = self.opened(self.fs)

    def opened(self, fs: MemoryFileSystem) -> Log:
        return Log.open(
            PLACE, self.model.config, fs=fs, clock=self.clock, leader_epoch=self.epoch, replicated=self.replicated
        )

    def both(self, call: Callable[[Any], Any]) -> Any:
        """Do the same to both: they return the same, or raise the same."""
        found, expected = outcome(lambda: call(self.log)), outcome(lambda: call(self.model))
        assert found == expected, f"{found} where the model says {expected}"
        return found

    def offset_at(self, place: int, beyond: int = 0) -> int:
        start, end = self.model.log_start_offset, self.model.log_end_offset
        return start + (end - start + beyond) * place // 1_000

    # ---- append

    @rule(content=records(around_ms=START_MS), codec=codecs(), durability=durabilities)
    def append(self, content: list[RecordTuple], codec: Codec, durability: Durability | None) -> None:
        found = outcome(lambda: self.log.append(content, codec=codec, durability=durability))
        assert found == outcome(lambda: self.model.append(content, durability=durability))

    @rule(content=records(around_ms=START_MS))
    def append_later(self, content: list[RecordTuple]) -> None:
        future = outcome(lambda: self.log.append_later(content))
        done = outcome(lambda: self.model.append_later(content))
        if isinstance(future, AppendFuture):
            assert (future.first_offset, future.last_offset) == done[:2]
            self.futures.append((future, done))
        else:
            assert future == done

    @precondition(lambda self: self.futures)
    @rule(place=places)
    def wait(self, place: int) -> None:
        future, done = self.futures.pop(len(self.futures) * place // 1_001)
        assert future.result() == done[:2]
        assert future.is_durable
        self.model.wait(done)

    @rule(step=producer_steps(), is_transactional=st.booleans())
    def produce(self, step: ProducerStep, is_transactional: bool) -> None:
        self.settle_doubts(step.producer_id)
        produce(self.both, self.model, step, is_transactional)

    def settle_doubts(self, producer_id: int) -> None:
        """A marker of a higher epoch: after it log and model know the same again."""
        if not self.model.producers.is_certain(producer_id):
            self.usual.add("txn-index-missing")  # the marker may end what the log has forgotten
            known = self.model.producers.known[producer_id]
            self.both(
                lambda log: log.end_transaction(
                    producer_id, known.epoch + 1, commit=False, coordinator_epoch=max(known.coordinator_epoch, 0)
                )
            )

    @rule(data=st.data(), durability=durabilities, is_new_epoch=st.booleans())
    def append_as_follower(self, data: st.DataObject, durability: Durability | None, is_new_epoch: bool) -> None:
        self.epoch += is_new_epoch
        self.usual |= GAPS
        content, offset = b"", self.model.log_end_offset
        for _ in range(data.draw(st.integers(1, 2))):
            content += data.draw(batches(base_offset=offset, gap_max=4, leader_epoch=self.epoch, around_ms=START_MS))
            offset = list(iter_batches(content))[-1].next_offset
        cut = data.draw(st.sampled_from([None, None, -1, 30]))
        self.both(lambda log: log.append_as_follower(content[:cut], durability=durability))
        self.both(lambda log: log.append_epoch(self.epoch, self.model.log_end_offset))

    @rule()
    def another_leader(self) -> None:
        self.epoch += 1
        self.both(lambda log: log.append_epoch(self.epoch, self.model.log_end_offset))
        data = bytes(encode_batch([(None, b"x")], base_offset=max(self.model.log_end_offset - 1, 0)))
        if self.model.log_end_offset:  # it is refused: the log has it
            assert self.both(lambda log: log.append_as_follower(data)) is UnexpectedOffsetError

    # ---- upkeep

    @rule()
    def roll(self) -> None:
        self.both(lambda log: log.roll())

    @rule()
    def flush(self) -> None:
        self.both(lambda log: log.flush())

    @rule()
    def maintain(self) -> None:
        self.both(lambda log: log.maintain())

    @rule(config=configs())
    def configure(self, config: LogConfig) -> None:
        self.both(lambda log: log.configure(config))

    @rule(ms=st.sampled_from([1, 99, 300, 1_000, 7_000]))
    def time_passes(self, ms: int) -> None:
        self.clock.advance(ms)

    @rule(ms=st.sampled_from([-5_000, -500, -1, 500, 86_400_000]))
    def the_clock_is_set(self, ms: int) -> None:
        self.clock.set(max(self.clock.now_ms() + ms, START_MS - 100_000))

    @precondition(lambda self: self.replicated)
    @rule(place=places)
    def set_high_watermark(self, place: int) -> None:
        offset = self.offset_at(place, 3)
        self.both(lambda log: log.set_high_watermark(offset))

    # ---- read

    @rule(place=places, bytes_max=st.sampled_from([0, 1, 100, 300, 1 << 20]))
    def read(self, place: int, bytes_max: int) -> None:
        offset = self.offset_at(place, 2)
        expected = outcome(lambda: self.model.batches_from(offset))
        found = outcome(lambda: self.log.read(offset, bytes_max=bytes_max))
        fetched = outcome(lambda: self.log.fetch(offset, bytes_max))
        if not isinstance(expected, list):
            assert found == fetched == expected
            return
        ranges = [(one.base_offset, one.last_offset) for one in expected]
        for data in (found, fetched.data):
            parts = [(one.header.base_offset, one.last_offset) for one in iter_batches(data) if one.header.size]
            assert parts == ranges[: len(parts)]
            assert bool(parts) == bool(ranges)
        assert fetched.metadata.offset == offset or not ranges
        self.both(lambda log: log.get(offset))
        self.both(lambda log: list(log.records(offset)))

    @rule(timestamp=st.integers(START_MS - 2_500, START_MS + 2_500))
    def offset_for_time(self, timestamp: int) -> None:
        found, expected = self.log.offset_for_time(timestamp), self.model.offset_for_time(timestamp)
        # It looks at one segment alone: below the log start, or without a timestamp in it, there may be nothing.
        assert found == expected or (found is None and (self.model.log_start_offset or self.has_untimed_batches))

    @property
    def has_untimed_batches(self) -> bool:
        return any(batch.max_timestamp < 0 for batch in self.model.batches)

    # ---- cut

    @rule(place=places, is_whole=st.booleans())
    def truncate_to(self, place: int, is_whole: bool) -> None:
        offset = max(self.offset_at(place, 2) - 1, 0)
        if is_whole and self.model.log_start_offset <= offset <= self.model.log_end_offset:
            offset = next((one.base_offset for one in self.model.batches_from(offset)), offset)
        self.futures.clear()
        self.both(lambda log: log.truncate_to(offset))
        if self.model.log_end_offset not in {batch.last_offset + 1 for batch in self.model.batches}:
            self.usual |= END_BEHIND_BATCHES

    @rule(offset=st.integers(0, 100), above_start=st.sampled_from([None, None, 0, 2]))
    def truncate_fully(self, offset: int, above_start: int | None) -> None:
        start = None if above_start is None else max(offset - above_start, 0)
        self.futures.clear()
        self.both(lambda log: log.truncate_fully_and_start_at(offset, start))

    @rule(place=places)
    def advance_log_start(self, place: int) -> None:
        offset = self.offset_at(place, 1)
        self.both(lambda log: log.advance_log_start(offset))

    @rule()
    def delete_before_log_start(self) -> None:
        self.log.delete_before_log_start()

    # ---- opened again

    @rule()
    def reopen(self) -> None:
        self.futures.clear()
        self.log.close()
        check_tree(self.fs, self.usual)
        check_producers(self.fs, PLACE, self.model)
        self.log = self.opened(self.fs)
        actions = self.log.recovered.actions if self.log.recovered is not None else []
        assert {action.kind for action in actions} <= {"remove"} or self.usual >= END_BEHIND_BATCHES, actions
        self.model.reopen(self.log.log_end_offset, leader_epoch=self.epoch)
        self.take_epoch_of_nothing()

    @rule(mode=crash_modes, seed=st.integers(0, 2**16))
    def crash(self, mode: CrashMode, seed: int) -> None:
        self.futures.clear()
        self.fs = self.fs.crash(mode, seed)
        copy = self.fs.crash("everything")
        self.opened(copy).close()
        check_tree(copy, self.usual)
        self.log = self.opened(self.fs)
        self.model.crash(self.log.log_end_offset, leader_epoch=self.epoch)
        self.take_epoch_of_nothing()

    def take_epoch_of_nothing(self) -> None:
        """Where all lies below the log start, recovery may take the epoch of what it read there for the next one."""
        found = [tuple(entry) for entry in self.log.leader_epochs.entries]
        if not self.model.epochs and self.log.log_start_offset == self.log.log_end_offset and len(found) == 1:
            assert found[0][0] <= self.epoch
            assert found[0][1] == self.log.log_start_offset
            self.model.append_epoch(*found[0])

    # ---- what always holds

    @invariant()
    def log_and_model_agree(self) -> None:
        if self.log is None:
            return
        log, model = self.log, self.model
        assert (log.log_start_offset, log.log_end_offset) == (model.log_start_offset, model.log_end_offset)
        assert log.high_watermark == model.high_watermark
        assert log.log_start_offset <= log.high_watermark <= log.log_end_offset
        assert log.recovery_point <= log.log_end_offset
        (low, high), stable = model.stable_offsets, log.last_stable_offset
        assert low <= stable <= high
        committed = log.records(min(log.log_start_offset, stable), isolation=FetchIsolation.TXN_COMMITTED)
        assert list(committed) == model.committed_records(min(model.log_start_offset, stable), stable)
        assert [tuple(entry) for entry in log.leader_epochs.entries] == model.epochs
        assert list(log.records()) == model.records()

    @invariant()
    def what_was_promised_survives_a_power_cut(self) -> None:
        if self.log is not None:
            copy, model = self.fs.crash("nothing"), self.model.copy()
            with self.opened(copy) as log:
                model.crash(log.log_end_offset, leader_epoch=self.epoch)
                assert log.log_start_offset == model.log_start_offset
                assert list(log.records()) == model.records()
            check_producers(copy, PLACE, model)

    def teardown(self) -> None:
        if self.log is not None:
            self.log.close()
            check_tree(self.fs, self.usual)
            check_producers(self.fs, PLACE, self.model)


def produce(
    both: Callable[[Callable[[Any], Any]], Any], model: LogModel, step: ProducerStep, is_transactional: bool
) -> Any:
    """Let a producer take a step of its history, on a log and its model."""
    known = model.producers.known.get(step.producer_id, ModelProducer(epoch=0))
    epoch, action = known.epoch, step.action
    if action in ("commit", "abort"):
        coordinator_epoch = known.coordinator_epoch + step.size - 2
        return both(
            lambda log: log.end_transaction(
                step.producer_id, epoch, commit=action == "commit", coordinator_epoch=max(coordinator_epoch, 0)
            )
        )
    sequence, count = increment_sequence(known.last_sequence, 1), step.size
    if action == "repeat" and known.batches:
        repeated = known.batches[-min(step.size, len(known.batches))]
        sequence, count = repeated.base_sequence, len(repeated.records)
    elif action == "skip":
        sequence = increment_sequence(sequence, step.size)
    elif action == "new epoch":
        epoch, sequence = epoch + 1, (0, 0, 1)[step.size - 1]
    elif action == "old epoch":
        epoch = max(epoch - 1, 0)
    options = BatchOptions(
        producer_id=step.producer_id, producer_epoch=epoch, base_sequence=sequence, is_transactional=is_transactional
    )
    data = bytes(encode_batch([(b"k", b"%d" % sequence)] * count, timestamp=START_MS, options=options))
    return both(lambda log: log.append_batch(data))


def test_a_log_does_what_its_model_does_whatever_the_order_and_the_crashes() -> None:
    run_state_machine_as_test(LogMachine, settings=SETTINGS)


@pytest.mark.kafka("PROD-01")
@given(history=producer_histories(steps_max=40), data=st.data())
@settings(SETTINGS, max_examples=EXAMPLES or 40)
def test_producers_are_taken_and_refused_as_by_the_model(history: list[ProducerStep], data: st.DataObject) -> None:
    machine = LogMachine()
    machine.begin(LogConfig(), False)
    for step in history:
        produce(machine.both, machine.model, step, data.draw(st.booleans()))
        machine.log_and_model_agree()
    machine.teardown()
