"""Transactions of a log: what is stable, what committed readers get, markers, verification, and restarts."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.fixtures import consumer_views
from helpers.open_logs import (
    PLACE,
    Place,
    Producer,
    bases,
    fill,
    from_leader,
    from_producer,
    marker,
    offsets,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import InvalidTransactionStateError, LogClosedError, ProducerFencedError
from logstore.log import AbortedTransaction, AppendOrigin, FetchIsolation, Log, TransactionIndex
from logstore.records import iter_batches
from logstore.records.builder import encode_empty_batch

COMMITTED, HIGH_WATERMARK = FetchIsolation.TXN_COMMITTED, FetchIsolation.HIGH_WATERMARK
REPLICATION, COORDINATOR = AppendOrigin.REPLICATION, AppendOrigin.COORDINATOR


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    """A log whose owner sets the high watermark."""
    return place.open(replicated=True)


def aborted(log: Log) -> list[AbortedTransaction]:
    """The entries of all transaction indexes."""
    return [one for segment in log._state.segments for one in segment.transaction_index.entries()]


# ---------------------------------------------------------------- what is stable


@pytest.mark.kafka("TXNLOG-01")
def test_without_transactions_all_is_stable(log: Log) -> None:
    fill(log, 3)
    log.append_batch(from_producer(1, 0))
    assert log.first_unstable_offset is None
    log.set_high_watermark(2)
    assert log.last_stable_offset == 2


@pytest.mark.kafka("TXNLOG-02")
def test_a_transaction_is_unstable_until_its_end_is_replicated(log: Log) -> None:
    fill(log, 2)
    producer = Producer(log, 7)
    producer.send()
    assert log.first_unstable_offset == 2
    producer.send(3)
    fill(log, 1)
    assert log.first_unstable_offset == 2
    end = producer.commit().first_offset
    assert log.first_unstable_offset == 2
    log.set_high_watermark(end)
    assert (log.first_unstable_offset, log.last_stable_offset) == (2, 2)
    log.set_high_watermark(end + 1)
    assert (log.first_unstable_offset, log.last_stable_offset) == (None, end + 1)


@pytest.mark.kafka("TXNLOG-03", "PROD-26")
def test_of_two_transactions_the_older_one_counts(log: Log) -> None:
    one, two = Producer(log, 1), Producer(log, 2)
    one.send()  # 0
    two.send()  # 1
    one.send()
    end = one.abort().last_offset
    assert log.first_unstable_offset == 0
    log.set_high_watermark(end + 1)
    assert log.first_unstable_offset == 1
    end = two.commit().last_offset
    assert log.first_unstable_offset == 1
    log.set_high_watermark(end + 1)
    assert log.first_unstable_offset is None


def interleaved() -> Iterator[tuple[int | None, int, str]]:
    """Producer (None: a plain batch), how many records, and what it is."""
    p1, p2, p3, p4 = 1, 2, 3, 4
    yield from ((p1, 5, "data"), (None, 3, "data"), (p2, 2, "data"), (p1, 4, "data"), (p3, 3, "data"))
    yield from ((None, 2, "data"), (p1, 10, "data"), (p1, 1, "abort"), (p2, 6, "data"), (p4, 3, "data"))
    yield from ((None, 10, "data"), (p3, 9, "data"), (p3, 1, "commit"), (p4, 8, "data"), (p2, 7, "data"))
    yield from ((p2, 1, "abort"), (None, 10, "data"), (p4, 4, "data"), (p4, 1, "commit"))


@pytest.mark.kafka("TXNLOG-04")
@pytest.mark.parametrize("is_follower", [False, True])
def test_interleaved_transactions_are_indexed_alike_by_leaders_and_followers(log: Log, is_follower: bool) -> None:
    leader = Place().open()
    for producer_id, count, what in interleaved():
        if producer_id is None:
            leader.append([(None, b"plain")] * count)
        elif what == "data":
            sequence = {one.producer_id: one.last_sequence for one in leader.producers}.get(producer_id, -1) + 1
            leader.append_batch(from_producer(producer_id, sequence, count, transactional=True))
        else:
            leader.end_transaction(producer_id, 0, commit=what == "commit")
    if is_follower:
        log.append_as_follower(leader.read(0))
    else:
        log = leader
    assert aborted(log) == [AbortedTransaction(1, 0, 29, 8), AbortedTransaction(2, 8, 74, 36)]
    assert log.log_end_offset == leader.log_end_offset == 90
    if is_follower:
        for watermark, unstable in ((30, 8), (75, 36), (90, None)):
            log.set_high_watermark(watermark)
            assert log.first_unstable_offset == unstable
    committed = offsets(log, isolation=COMMITTED)
    assert committed == offsets(leader, isolation=COMMITTED)
    assert not {*range(5), *range(10, 14)} & set(committed)


@pytest.mark.kafka("RETAIN-14")
def test_nothing_below_the_log_start_is_unstable(log: Log) -> None:
    producer = Producer(log, 7)
    producer.send(4)
    log.roll()
    producer.send(6)
    log.set_high_watermark(10)
    assert log.first_unstable_offset == 0
    log.advance_log_start(5)
    assert (log.first_unstable_offset, log.last_stable_offset) == (5, 5)
    assert log.fetch(5, isolation=COMMITTED)[:2] == ((5, 4, 0), b"")
    log.advance_log_start(8)
    log.delete_before_log_start()
    assert (bases(log), log.first_unstable_offset, log.last_stable_offset) == ([4], 8, 8)
    end = producer.commit().last_offset
    log.set_high_watermark(end + 1)
    assert log.first_unstable_offset is None


@pytest.mark.kafka("PROD-24", "TRUNC-06")
def test_a_cut_behind_the_end_of_a_transaction_opens_it_again(place: Place, log: Log) -> None:
    fill(log, 9)
    producer = Producer(log, 7)
    producer.send()  # 9
    log.roll()
    producer.send(3)
    producer.commit()  # 13
    fill(log, 2)
    log.set_high_watermark(16)
    log.truncate_to(14)
    assert log.first_unstable_offset is None
    log.truncate_to(10)
    assert log.first_unstable_offset == 9
    log.truncate_to(9)
    assert (log.first_unstable_offset, log.producers) == (None, ())


# ---------------------------------------------------------------- what committed readers get


@pytest.mark.kafka("READ-03")
def test_committed_reads_give_nothing_at_or_behind_the_last_stable_offset(log: Log) -> None:
    fill(log, 4)
    producer = Producer(log, 7)
    producer.send()  # 4
    fill(log, 3)
    for watermark in range(9):
        log.set_high_watermark(watermark)
        stable = min(watermark, 4)
        assert log.last_stable_offset == stable
        for offset in range(9):
            found = log.fetch(offset, isolation=COMMITTED)
            given = [record.offset for batch in iter_batches(found.data) for record in batch.records()]
            assert given == offsets(log, offset, isolation=COMMITTED) == list(range(offset, stable))
            assert found.aborted == ()
            if offset >= stable:
                assert found.metadata == log._reader.metadata_of(offset)


@pytest.mark.kafka("READ-11")
def test_a_fetch_names_the_transactions_that_were_aborted_in_later_segments(log: Log) -> None:
    producer = Producer(log, 7)
    producer.send(2)
    log.roll()
    producer.send(2)
    log.roll()
    end = producer.abort().last_offset
    fill(log, 1)
    log.set_high_watermark(6)
    expected = (AbortedTransaction(7, 0, end, end + 1),)
    for offset in range(5):
        assert log.fetch(offset, isolation=COMMITTED).aborted == expected
    assert log.fetch(5, isolation=COMMITTED).aborted == ()
    assert log.fetch(0, isolation=HIGH_WATERMARK).aborted is None
    assert offsets(log, isolation=COMMITTED) == [5]
    assert offsets(log) == [0, 1, 2, 3, 5]


def by_what_the_fetches_say(log: Log, bytes_max: int) -> list[int]:
    """The committed offsets as a consumer finds them: by fetches, with the aborted transactions that these name."""
    given, offset = [], log.log_start_offset
    while data := (found := log.fetch(offset, bytes_max, isolation=COMMITTED)).data:
        assert found.aborted is not None
        pending = sorted((one.first_offset, one.producer_id) for one in found.aborted)
        active: set[int] = set()
        for batch in iter_batches(data):
            while pending and pending[0][0] <= batch.last_offset:
                active.add(pending.pop(0)[1])
            if batch.is_control:
                if batch.control_type() == 0:
                    active.discard(batch.header.producer_id)
            elif not (batch.is_transactional and batch.header.producer_id in active):
                given += [record.offset for record in batch.records() if record.offset >= offset]
            offset = batch.next_offset
    return given


@dataclass
class Model:
    """Which records are committed, known from the history alone."""

    undecided: dict[int, list[int]] = field(default_factory=dict)
    decided: dict[int, bool] = field(default_factory=dict)
    end: int = 0

    def add(self, producer_id: int | None, count: int) -> None:
        for offset in range(self.end, self.end + count):
            if producer_id is None:
                self.decided[offset] = True
            else:
                self.undecided.setdefault(producer_id, []).append(offset)
        self.end += count

    def finish(self, producer_id: int, *, commit: bool) -> None:
        self.decided |= dict.fromkeys(self.undecided.pop(producer_id, []), commit)
        self.end += 1

    def stable(self, start: int) -> int:
        return max(start, min((found[0] for found in self.undecided.values()), default=self.end))

    def committed(self, start: int) -> list[int]:
        return sorted(one for one, kept in self.decided.items() if kept and start <= one < self.stable(start))

Step = tuple[str, int, int]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.integers(1, 4), st.integers(1, 3)),
        st.tuples(st.just("commit"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("abort"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("plain"), st.just(0), st.integers(1, 3)),
        st.tuples(st.just("roll"), st.just(0), st.just(0)),
        st.tuples(st.just("close"), st.just(0), st.just(0)),
        st.tuples(st.just("crash"), st.just(0), st.just(0)),
        st.tuples(st.just("start"), st.integers(0, 40), st.just(0)),
    ),
    max_size=25,
)


@given(history=steps, bytes_max=st.integers(1, 600), interval=st.sampled_from([0, 200, 4096]))
@settings(deadline=None)
def test_committed_readers_get_what_the_history_says(history: list[Step], bytes_max: int, interval: int) -> None:
    place, model, start = Place(), Model(), 0
    config = LogConfig(index_interval_bytes=interval, segment_bytes=900)
    log = place.open(config)
    for what, number, count in history:
        if what == "data":
            sequence = {one.producer_id: one.last_sequence for one in log.producers}.get(number, -1) + 1
            log.append_batch(from_producer(number, sequence, count, transactional=True))
            model.add(number, count)
        elif what in ("commit", "abort"):
            log.end_transaction(number, 0, commit=what == "commit")
            model.finish(number, commit=what == "commit")
        elif what == "plain":
            log.append([(None, b"x")] * count)
            model.add(None, count)
        elif what == "roll":
            log.roll()
        elif what == "start":
            # Of a transaction that is open where the log starts, a restart knows what lies behind the start.
            start = max(start, min(number, model.stable(start)))
            log.advance_log_start(start)
            log.delete_before_log_start()
        else:
            if what == "close":
                log.close()
            else:
                place = place.crashed()
            log = place.open(config)
        assert log.last_stable_offset == model.stable(start)
        committed = model.committed(start)
        assert offsets(log, isolation=COMMITTED, bytes_max=bytes_max) == committed
        assert by_what_the_fetches_say(log, bytes_max) == committed
    log.close()


def test_a_reader_that_goes_on_behind_a_cut_learns_anew_what_is_aborted(place: Place) -> None:
    log = place.open()
    producer = Producer(log, 7)
    for _ in range(3):
        producer.send()
        producer.abort()
    fill(log, 1)
    producer.send()
    producer.commit()
    walk = log.records(isolation=COMMITTED, bytes_max=1)
    assert next(walk).offset == 6
    log.truncate_to(7)
    other = Producer(log, 8)
    other.send(2)
    other.abort()
    other.send(1)
    other.commit()
    assert [record.offset for record in walk] == [10]


def test_a_producer_with_thousands_of_aborts_is_read_in_time(place: Place) -> None:
    log = place.open()
    producer = Producer(log, 7)
    for _ in range(3000):
        producer.send()
        producer.abort()
    producer.send()
    producer.commit()
    assert offsets(log, isolation=COMMITTED) == [6000]


# ---------------------------------------------------------------- beside Kafka


def test_a_brokers_transactions_are_read_as_its_consumers_read_them(kafka_fixtures: Path, tmp_path: Path) -> None:
    views = [view for view in consumer_views(kafka_fixtures) if view.partition.name.startswith("txn")]
    assert {view.isolation for view in views} >= {"read_committed", "read_uncommitted"}
    for number, view in enumerate(views):
        directory = tmp_path / str(number) / view.partition.name
        shutil.copytree(view.partition, directory)
        isolation = COMMITTED if view.isolation == "read_committed" else FetchIsolation.LOG_END
        with Log.open(directory) as log:
            found = [(record.offset, record.timestamp) for record in log.records(isolation=isolation)]
            assert found == [(record["offset"], record["timestamp"]) for record in view.records]
            if isolation is COMMITTED:
                assert by_what_the_fetches_say(log, 3000) == [offset for offset, _ in found]
            if "cleaned" not in str(view.partition):  # there the records of most transactions are gone
                for segment in log._state.segments:
                    assert segment.transaction_index.entries() == entries_in(view.partition, segment.base_offset)


def entries_in(directory: Path, base_offset: int) -> list[AbortedTransaction]:
    path = directory / f"{base_offset:020d}.txnindex"
    return list(TransactionIndex(path.read_bytes(), base_offset)) if path.exists() else []


# ---------------------------------------------------------------- markers and failures


@pytest.mark.kafka("TXNLOG-05")
@pytest.mark.parametrize("is_empty", [False, True])
def test_markers_of_older_coordinators_and_producers_are_refused(log: Log, is_empty: bool) -> None:
    producer = Producer(log, 7, epoch=1)
    if not is_empty:
        producer.send()
    producer.end(commit=True, coordinator_epoch=2)
    end = log.log_end_offset
    with pytest.raises(ProducerFencedError, match="coordinator"):
        producer.end(commit=False, coordinator_epoch=1)
    with pytest.raises(ProducerFencedError, match="epoch 0"):
        log.end_transaction(7, 0, commit=True, coordinator_epoch=2)
    assert log.log_end_offset == end
    producer.end(commit=False, coordinator_epoch=2)


@pytest.mark.kafka("PROD-12")
def test_a_producer_sends_nothing_outside_of_its_open_transaction(log: Log) -> None:
    producer = Producer(log, 7)
    producer.send()
    with pytest.raises(InvalidTransactionStateError):
        producer.send(transactional=False)
    assert log.log_end_offset == 1


@pytest.mark.kafka("TXNLOG-06")
def test_a_log_whose_transaction_index_cannot_be_written_is_out_of_use_until_it_is_opened_again(place: Place) -> None:
    log = place.open()
    producer = Producer(log, 7)
    producer.send(3)
    log.flush()
    place.fs.fail_on(
        lambda operation: operation.path.endswith(".txnindex") and operation.kind in ("create", "write"),
        OSError(28, "No space left on device"),
    )
    with pytest.raises(OSError, match="No space"):
        producer.abort()
    place.fs.heal()
    assert (log.log_end_offset, log.last_stable_offset) == (4, 0)
    for call in (
        lambda: fill(log, 1),
        producer.commit,
        log.roll,
        log.flush,
        lambda: log.read(0),
        lambda: log.fetch(0, isolation=COMMITTED),
        lambda: offsets(log),
        lambda: log.get(0),
        log.close,
    ):
        with pytest.raises(LogClosedError, match="open the log again"):
            call()
    log.close()
    for again in (place.crashed("everything").open(), place.open()):
        assert again.recovered is not None
        assert aborted(again) == [AbortedTransaction(7, 0, 3, 4)]
        assert (again.last_stable_offset, offsets(again, isolation=COMMITTED)) == (4, [])


@pytest.mark.kafka("TXNLOG-07")
@pytest.mark.parametrize("commit", [False, True])
def test_after_a_crash_a_finished_transaction_is_stable(place: Place, commit: bool) -> None:
    log = place.open(replicated=True)
    producer = Producer(log, 7)
    producer.send(3)
    producer.end(commit=commit)
    log.set_high_watermark(4)
    again = place.crashed().open(replicated=True)
    again.set_high_watermark(4)
    assert (again.first_unstable_offset, again.last_stable_offset) == (None, 4)
    assert offsets(again, isolation=COMMITTED) == ([0, 1, 2] if commit else [])


def test_an_open_transaction_survives_a_restart(place: Place) -> None:
    log = place.open()
    fill(log, 1)
    Producer(log, 7).send(2)
    fill(log, 1)
    for again in (place.crashed().open(), _reopened(place, log)):
        assert (again.first_unstable_offset, again.producers[0].current_transaction_first_offset) == (1, 1)
        producer = Producer(again, 7)
        producer.sequence = 2
        producer.send()
        producer.abort()
        assert offsets(again, isolation=COMMITTED) == [0, 3]


def _reopened(place: Place, log: Log) -> Log:
    log.close()
    return place.open()


@pytest.mark.kafka("PROD-31")
def test_a_marker_that_compaction_has_emptied_changes_nothing(log: Log) -> None:
    end = next(iter_batches(marker(7, commit=False, offset=1, leader_epoch=0))).header
    log.append_as_follower(from_producer(7, 0, transactional=True, offset=0, leader_epoch=0))
    log.append_as_follower(encode_empty_batch(end))
    log.append_as_follower(from_leader(2))
    assert (log.first_unstable_offset, log.log_end_offset, aborted(log)) == (0, 3, [])


# ---------------------------------------------------------------- verification


@pytest.fixture
def verified(place: Place) -> Log:
    return place.open(verify_transactions=True)


@pytest.mark.kafka("APPEND-22")
@pytest.mark.parametrize("origin", [AppendOrigin.CLIENT, COORDINATOR])
def test_a_transaction_begins_only_with_its_guard_where_that_is_verified(verified: Log, origin: AppendOrigin) -> None:
    log, batch = verified, bytes(from_producer(7, 0, transactional=True))
    with pytest.raises(InvalidTransactionStateError):
        log.append_batch(batch, origin=origin)
    guard = log.start_verification(7, 0, 0)
    assert guard is not None
    assert log.start_verification(7, 0, 0) is guard
    for wrong in (None, log.start_verification(8, 0, 0)):
        with pytest.raises(InvalidTransactionStateError):
            log.append_batch(batch, origin=origin, guard=wrong)
    log.append_batch(batch, origin=origin, guard=guard)
    assert log.start_verification(7, 1, 0) is None  # it is open
    log.append_batch(from_producer(7, 1, transactional=True), origin=origin)
    log.end_transaction(7, 0, commit=True)
    with pytest.raises(InvalidTransactionStateError):
        log.append_batch(from_producer(7, 2, transactional=True), origin=origin, guard=guard)
    other = log.start_verification(7, 2, 0)
    assert other is not None
    assert other is not guard
    log.append_batch(from_producer(7, 2, transactional=True), origin=origin, guard=other)
    assert log.log_end_offset == 4


@pytest.mark.kafka("APPEND-22")
def test_an_idempotent_append_keeps_the_guard_and_a_marker_of_nothing_clears_it(verified: Log) -> None:
    log = verified
    guard = log.start_verification(7, 0, 0)
    log.append_batch(from_producer(7, 0))
    assert log.start_verification(7, 0, 0) is guard
    log.end_transaction(7, 0, commit=False)
    with pytest.raises(InvalidTransactionStateError):
        log.append_batch(from_producer(7, 1, transactional=True), guard=guard)
    assert log.start_verification(7, 1, 0) is not guard


@pytest.mark.kafka("APPEND-23", "PROD-35")
def test_verification_may_be_switched_off_and_on(verified: Log) -> None:
    log = verified
    guard = log.start_verification(7, 0, 0)
    log.verify_transactions = False
    log.append_batch(from_producer(7, 0, transactional=True))
    log.end_transaction(7, 0, commit=True)
    assert log.start_verification(7, 1, 0) is not guard  # the append has cleared it
    log.verify_transactions = True
    assert log.verify_transactions
    with pytest.raises(InvalidTransactionStateError):
        log.append_batch(from_producer(7, 1, transactional=True), guard=guard)
    log.append_batch(from_producer(7, 1, transactional=True), guard=log.start_verification(7, 1, 0))
    assert log.log_end_offset == 3


def test_what_is_replicated_needs_no_guard(verified: Log) -> None:
    verified.append_as_follower(from_producer(7, 0, transactional=True, offset=0, leader_epoch=0))
    assert verified.first_unstable_offset == 0


def test_random_histories_of_many_transactions_leave_what_kafka_would(tmp_path: Path) -> None:
    for seed in range(4):
        place, chosen = Place(), random.Random(seed)
        with place.open(LogConfig(segment_bytes=2000, index_interval_bytes=100, segment_index_bytes=200)) as log:
            producers = [Producer(log, number) for number in range(1, 6)]
            actions: list[Callable[[], object]] = [
                lambda: chosen.choice(producers).send(chosen.randint(1, 4)),  # noqa: B023
                lambda: chosen.choice(producers).end(commit=chosen.random() < 0.5),  # noqa: B023
                lambda: fill(log, 1),
            ]
            for _ in range(150):
                chosen.choice(actions)()
        assert place.alarms(tmp_path / str(seed)) == []
        assert place.fs.exists(PLACE)
