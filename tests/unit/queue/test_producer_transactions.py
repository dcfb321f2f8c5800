"""Producers that send in transactions, and consumers whose offsets are committed with what they have sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import Child, Line

import logstore
from logstore.errors import (
    BatchTooLargeError,
    ClientClosedError,
    FencedMemberError,
    InvalidTransactionStateError,
    OffsetOutOfRangeError,
    ProducerFencedError,
    RecordRejectedError,
    TransactionAbortedError,
)
from logstore.names import TopicPartition
from logstore.queue import Consumer, OffsetsStore, Producer
from logstore.queue.aio import AsyncConsumer, AsyncProducer
from logstore.store import Store
from logstore.testing import ManualClock
from logstore.transactions import TransactionCoordinator, TransactionMetadata, TransactionStatus
from logstore.transactions.transaction_log import TransactionLog

IN0 = TopicPartition("in", 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("in", 2)
        opened.create_topic("out", 2)
        opened.create_topic("__transaction_state")  # fewer partitions than it would get: they are made much sooner
        opened.create_topic("__consumer_offsets")
        yield opened


@pytest.fixture
def producer(store: Store) -> Iterator[Producer]:
    with Producer(store, transactional_id="id") as made:
        yield made


def fill(store: Store, count: int) -> None:
    with Producer(store) as producer:
        for number in range(count):
            producer.send("in", b"%d" % number, partition=number % 2)


def read(store: Store, topic: str = "out", *, committed: bool = True) -> list[bytes]:
    isolation: Any = "read_committed" if committed else "read_uncommitted"
    with Consumer(store, topic, isolation=isolation) as consumer:
        return sorted(one.value for one in consumer.records(until_end=True))


def copying(store: Store, **options: Any) -> Consumer:
    return Consumer(store, "in", group="g", enable_auto_commit=False, max_poll_records=4, **options)


def offsets(store: Store) -> dict[TopicPartition, int]:
    return {name: one.offset for name, one in OffsetsStore(store).committed("g").items()}


# ---------------------------------------------------------------- sending


def test_what_is_sent_in_a_transaction_is_seen_when_it_ends(store: Store, producer: Producer) -> None:
    with producer.transaction():
        futures = [producer.send("out", b"%d" % number, partition=number % 2) for number in range(4)]
        producer.send_many("out", [(None, b"4"), (None, b"5")])
        producer.flush()
        assert read(store) == []
        assert read(store, committed=False) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert read(store) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert all(one.done() for one in futures)


@pytest.mark.kafka("TXNC-32", "TXNC-33")
def test_after_an_error_nobody_sees_it(store: Store, producer: Producer) -> None:
    with pytest.raises(RuntimeError, match="mine"), producer.transaction():
        written = producer.send("out", b"written")
        producer.flush()
        gathered = producer.send("out", b"gathered")
        raise RuntimeError("mine")
    assert read(store) == []
    assert read(store, committed=False) == [b"written"]
    assert written.result().offset == 0
    with pytest.raises(TransactionAbortedError):
        gathered.result()
    with producer.transaction():
        producer.send("out", b"next")
    assert read(store) == [b"next"]


def test_a_transaction_of_nothing_leaves_nothing(store: Store, producer: Producer) -> None:
    with producer.transaction():
        pass
    assert store.partition("out", 0).log_end_offset == store.partition("out", 1).log_end_offset == 0


def test_what_belongs_inside_is_refused_outside(store: Store, producer: Producer) -> None:
    with pytest.raises(InvalidTransactionStateError, match="no transaction of 'id' is open"):
        producer.send("out", b"x")
    with pytest.raises(InvalidTransactionStateError, match="no transaction of 'id' is open"):
        producer.send_many("out", [(None, b"x")])
    with pytest.raises(InvalidTransactionStateError, match="is open"):
        producer.commit_transaction()
    with pytest.raises(InvalidTransactionStateError, match="is open"):
        producer.abort_transaction()
    producer.begin_transaction()
    with pytest.raises(InvalidTransactionStateError, match="open already"):
        producer.begin_transaction()
    producer.commit_transaction()
    with Producer(store) as plain, pytest.raises(InvalidTransactionStateError, match="no transactional_id"):
        plain.begin_transaction()


@pytest.mark.kafka("TXNC-48")
def test_a_later_producer_of_the_id_fences_an_earlier_one_for_good(store: Store) -> None:
    with pytest.raises(ProducerFencedError), Producer(store, transactional_id="id") as old, old.transaction():
        old.send("out", b"old")
        old.flush()
        with Producer(store, transactional_id="id") as new, new.transaction():
            new.send("out", b"new")
    assert read(store) == [b"new"]
    old = Producer(store, transactional_id="id")
    Producer(store, transactional_id="id").close()
    old.begin_transaction()
    with pytest.raises(ProducerFencedError):
        old.send("out", b"x").result()
    with pytest.raises(ProducerFencedError):
        old.commit_transaction()
    old.abort_transaction()
    with pytest.raises(ProducerFencedError):
        old.begin_transaction()
    old.close()


def test_a_record_that_could_not_be_written_keeps_the_rest_from_being_committed(
    store: Store, producer: Producer
) -> None:
    store.alter_topic("out", {"cleanup.policy": "compact"})
    with pytest.raises(InvalidTransactionStateError, match="only be aborted"), producer.transaction():
        producer.send("in", b"fine")
        future = producer.send("out", b"x" * 100, key=b"k")
        store.alter_topic("out", {"max.message.bytes": "80"})
        assert isinstance(future.exception(), BatchTooLargeError)
    assert read(store, "in") == []
    with producer.transaction(), pytest.raises(RecordRejectedError):
        producer.send("out", b"no key")
    with producer.transaction():
        producer.send("in", b"later")
    assert read(store, "in") == [b"later"]


def test_a_failed_disk_aborts_and_the_next_transaction_goes_on(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = store.partition("out", 0)
    with pytest.raises(InvalidTransactionStateError, match="no disk") as raised, producer.transaction():
        producer.send("out", b"lost", partition=0)
        with monkeypatch.context() as patch:
            patch.setattr(partition, "append_batch", _no_disk)
            assert isinstance(producer.send("out", b"x", partition=0).exception(), OSError)
    assert isinstance(raised.value.__cause__, OSError)
    for number in range(3):
        with producer.transaction():
            producer.send("out", b"%d" % number, partition=0)
    assert read(store) == [b"0", b"1", b"2"]


def test_a_commit_that_fails_before_it_is_decided_is_aborted(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = store.partition("__transaction_state")
    with pytest.raises(OSError, match="no disk"), producer.transaction():
        producer.send("out", b"x")
        producer.flush()
        append = state.append
        calls = iter([_no_disk])
        monkeypatch.setattr(state, "append", lambda *given, **options: next(calls, append)(*given, **options))
    assert read(store) == []
    with producer.transaction():
        producer.send("out", b"y")
    assert read(store) == [b"y"]


def test_a_commit_that_fails_once_it_is_decided_counts_and_says_so(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 2)
    partition = store.partition("out", 0)
    append = partition.append_batch
    calls = iter([append, _no_disk])
    with copying(store) as consumer:
        (message, *_) = consumer.poll()
        with pytest.raises(OSError, match="no disk") as raised, producer.transaction(consumer):
            producer.send("out", message.value, partition=0)
            monkeypatch.setattr(
                partition, "append_batch", lambda *given, **options: next(calls, append)(*given, **options)
            )
        assert raised.value.__notes__ == ["the transaction is committed; a power cut may take it back"]
        assert consumer.poll() == []
    assert read(store) == [message.value]


def test_what_an_interrupted_commit_has_committed_does_not_come_again(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    write = TransactionLog.write

    def interrupted(log: TransactionLog, metadata: TransactionMetadata, *, durable: bool) -> None:
        write(log, metadata, durable=durable)
        if metadata.status is TransactionStatus.COMPLETE_COMMIT:
            raise KeyboardInterrupt

    with copying(store) as consumer:
        with monkeypatch.context() as patch:
            patch.setattr(TransactionLog, "write", interrupted)
            with pytest.raises(KeyboardInterrupt), producer.transaction(consumer):
                producer.send("out", consumer.poll()[0].value)
        with producer.transaction(consumer):
            assert consumer.poll() == []
    assert read(store) == [b"0"]


def test_an_abort_that_fails_is_made_up_for_before_the_next_transaction(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        with pytest.raises(ZeroDivisionError) as raised, producer.transaction():
            producer.send("out", b"lost").result()
            producer.send("out", b"dropped")
            patch.setattr(TransactionLog, "write", _no_disk)
            raise ZeroDivisionError
        assert raised.value.__notes__ == ["aborting the transaction failed, too: no disk"]
        with pytest.raises(OSError, match="no disk"), producer.transaction():
            pass
    with pytest.raises(InvalidTransactionStateError, match="can only be aborted: no disk"):
        producer.send("out", b"outside")
    with pytest.raises(InvalidTransactionStateError, match="can only be aborted: no disk"):
        producer.commit_transaction()
    with producer.transaction():
        producer.send("out", b"next")
    assert read(store) == [b"next"]


def test_a_commit_that_fails_twice_is_made_up_for_before_the_next_transaction(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    with copying(store) as consumer:
        with monkeypatch.context() as patch:
            patch.setattr(TransactionCoordinator, "_mark", _no_disk)
            with pytest.raises(OSError, match="no disk") as raised, producer.transaction(consumer):
                producer.send("out", consumer.poll()[0].value)
        assert raised.value.__notes__[1] == "ending the transaction failed, too: no disk"
        with producer.transaction(consumer):
            assert consumer.poll() == []
    assert read(store) == [b"0"]
    assert offsets(store) == {IN0: 1}


def test_nothing_is_sent_into_a_transaction_whose_commit_has_failed(
    store: Store, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.begin_transaction()
    producer.send("out", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(TransactionCoordinator, "_mark", _no_disk)
        with pytest.raises(OSError, match="no disk"):
            producer.commit_transaction()
    with pytest.raises(InvalidTransactionStateError, match="commit it again, or abort it"):
        producer.send("out", b"late")
    producer.commit_transaction()
    assert read(store) == [b"x"]


# ---------------------------------------------------------------- consume, process, produce


@pytest.mark.kafka("TXNC-25")
def test_offsets_count_with_what_was_sent_and_come_again_without(store: Store, producer: Producer) -> None:
    fill(store, 20)
    failures = 0
    with copying(store) as consumer:
        for tries, batch in enumerate(consumer.batches(until_end=True)):
            before = offsets(store)
            try:
                with producer.transaction(consumer):
                    for one in batch:
                        producer.send("out", one.value)
                    producer.flush()
                    assert offsets(store) == before
                    if tries % 3 == 1:
                        raise RuntimeError
            except RuntimeError:
                failures += 1
                assert offsets(store) == before
    assert failures >= 2
    assert read(store) == sorted(b"%d" % number for number in range(20))
    assert sum(offsets(store).values()) >= 20


def test_one_message_is_one_transaction_where_they_are_gone_through_one_by_one(
    store: Store, producer: Producer
) -> None:
    fill(store, 6)
    seen = []
    with copying(store) as consumer:
        for one in consumer.records(until_end=True):
            seen.append(one.value)
            try:
                with producer.transaction(consumer):
                    producer.send("out", one.value)
                    if len(seen) in (2, 3):
                        raise RuntimeError
            except RuntimeError:
                continue
    assert len(seen) == 8
    assert read(store) == sorted(b"%d" % number for number in range(6))


def test_what_was_committed_does_not_come_again_when_a_later_transaction_is_aborted(
    store: Store, producer: Producer
) -> None:
    fill(store, 8)
    with copying(store) as consumer:
        for turn in range(9):
            with contextlib.suppress(RuntimeError), producer.transaction(consumer):
                for one in consumer.poll():  # inside: what came before is of an earlier transaction
                    producer.send("out", one.value)
                if turn % 2:
                    raise RuntimeError
    assert read(store) == sorted(b"%d" % number for number in range(8))


@pytest.mark.parametrize("between", [True, False])
def test_what_two_aborted_transactions_have_read_comes_again(
    store: Store, producer: Producer, *, between: bool
) -> None:
    fill(store, 10)
    with Consumer(store, partitions=[IN0], group="g", enable_auto_commit=False, max_poll_records=2) as consumer:
        with contextlib.suppress(ZeroDivisionError), producer.transaction(consumer):
            assert [one.offset for _ in range(2) for one in consumer.poll()] == [0, 1, 2, 3]
            raise ZeroDivisionError
        with contextlib.suppress(ZeroDivisionError), producer.transaction(consumer):
            assert not between or [one.offset for one in consumer.poll()] == [0, 1]
            raise ZeroDivisionError
        with producer.transaction(consumer):
            assert [one.offset for one in consumer.poll()] == [0, 1]
    assert offsets(store) == {IN0: 2}


def test_seeking_elsewhere_leaves_the_message_in_hand_to_its_transaction(store: Store, producer: Producer) -> None:
    fill(store, 4)
    seen = []
    with copying(store) as consumer:
        for message in consumer.records():
            seen.append(message.value)
            other = ("in", 1 - message.partition)
            consumer.seek(other, consumer.position(other))
            with contextlib.suppress(ZeroDivisionError), producer.transaction(consumer):
                producer.send("out", message.value)
                if len(seen) == 1:
                    raise ZeroDivisionError
            if len(seen) == 5:
                break
    assert sorted(seen) == [b"0", b"0", b"1", b"2", b"3"]
    assert read(store) == [b"0", b"1", b"2", b"3"]


def test_one_message_may_have_several_transactions(store: Store, producer: Producer) -> None:
    fill(store, 3)
    first = []
    with copying(store) as consumer:
        for one in consumer.records(until_end=True):
            first.append(one.value)
            with producer.transaction(consumer):
                producer.send("out", one.value)
            with contextlib.suppress(RuntimeError), producer.transaction(consumer):
                producer.send("out", b"never")
                raise RuntimeError
    assert sorted(first) == read(store) == [b"0", b"1", b"2"]


def test_a_producer_given_up_whose_id_cannot_be_let_go_says_so_in_the_log(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = Producer(store, transactional_id="id")
    producer.begin_transaction()
    monkeypatch.setattr(TransactionCoordinator, "release", _no_disk)
    del producer
    gc.collect()
    assert "could not let go of its transactional id: no disk" in caplog.text


def test_a_producer_may_be_given_up_while_its_thread_works_for_another_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    producers = [Producer(store, transactional_id="given up")]
    producers[0].begin_transaction()
    producers[0].send("out", b"x").result()
    write = TransactionLog.write

    def collecting(log: TransactionLog, metadata: TransactionMetadata, *, durable: bool) -> None:
        producers.clear()  # as the garbage collector may do it, under the lock of the ids
        write(log, metadata, durable=durable)

    monkeypatch.setattr(TransactionLog, "write", collecting)
    with Producer(store, transactional_id="other") as other, other.transaction():
        other.send("out", b"y")
    assert read(store) == [b"y"]


def test_offsets_can_be_given_and_the_group_named(store: Store, producer: Producer) -> None:
    fill(store, 4)
    with producer.transaction():
        producer.send_offsets_to_transaction({IN0: 2}, "g")
        producer.send_offsets_to_transaction({}, "g")
        assert offsets(store) == {}
    assert offsets(store) == {IN0: 2}
    with pytest.raises(OffsetOutOfRangeError), producer.transaction():
        producer.send_offsets_to_transaction({IN0: 3}, "g")
    with pytest.raises(ValueError, match="for a group"), producer.transaction():
        producer.send_offsets_to_transaction({IN0: 2}, "")
    assert offsets(store) == {IN0: 2}


def test_a_consumer_that_commits_by_itself_or_has_no_group_is_refused(store: Store, producer: Producer) -> None:
    for options in ({"group": "g"}, {}):
        with (
            Consumer(store, "in", **options) as consumer,
            pytest.raises(ValueError, match="enable_auto_commit=False"),
            producer.transaction(consumer),
        ):
            raise AssertionError
    with producer.transaction():
        pass


def test_a_member_that_has_lost_its_partitions_cannot_commit_for_them(store: Store, producer: Producer) -> None:
    fill(store, 4)
    with copying(store) as consumer, pytest.raises(FencedMemberError):  # noqa: SIM117
        with producer.transaction(consumer):
            for one in consumer.poll():
                producer.send("out", one.value)
            assert consumer.member is not None
            consumer.member.leave()
    assert read(store) == []
    assert offsets(store) == {}


def test_partitions_that_went_away_in_a_transaction_are_not_committed(store: Store, producer: Producer) -> None:
    fill(store, 4)
    with copying(store) as consumer, pytest.raises(FencedMemberError, match="took partitions away"):  # noqa: SIM117
        with producer.transaction(consumer):
            for one in consumer.poll():
                producer.send("out", one.value)
            with copying(store):
                while len(consumer.assignment) == 2:
                    consumer.poll(0.01)
    assert read(store) == []
    with copying(store) as consumer, producer.transaction(consumer):
        for one in consumer.records(until_end=True):
            producer.send("out", one.value)
    assert read(store) == [b"0", b"1", b"2", b"3"]


def test_who_takes_a_partition_over_waits_for_a_transaction_that_commits_for_it(store: Store) -> None:
    fill(store, 4)
    place = store.paths[0]

    def work(line: Line) -> None:
        with logstore.open(place) as theirs, Producer(theirs, transactional_id="theirs") as producer:
            producer.begin_transaction()
            producer.send_offsets_to_transaction({IN0: 2}, "g")
            line.tell("sent")
            line.wait()
            producer.commit_transaction()
            line.tell("committed")

    with Child(work) as child:
        assert child.hear() == "sent"
        found = OffsetsStore(store)
        assert found.committed("g") == {}
        child.say()
        assert {name: one.offset for name, one in found.stable("g", [IN0]).items()} == {IN0: 2}
        assert child.hear() == "committed"


@pytest.mark.parametrize("decided", [False, True])
def test_a_reader_does_not_wait_for_a_killed_producer(store: Store, *, decided: bool) -> None:
    place = store.paths[0]

    def work(line: Line) -> None:
        theirs = logstore.open(place)
        producer = Producer(theirs, transactional_id="theirs")
        producer.begin_transaction()
        producer.send("out", b"theirs")
        producer.flush()
        if decided:
            store_state = theirs.partition("__transaction_state")
            append = store_state.append

            def told(*given: Any, **options: Any) -> Any:
                done = append(*given, **options)
                line.tell("ready")
                line.wait()
                return done

            store_state.append = told  # type: ignore[method-assign]
            producer.commit_transaction()
        line.tell("ready")
        line.wait()

    with Child(work) as child:
        assert child.hear() == "ready"
        with Consumer(store, "out", isolation="read_committed", metadata_interval_ms=300_000) as consumer:
            with Producer(store) as plain:
                plain.send("out", b"plain", partition=0)
                plain.send("out", b"plain", partition=1)
            assert len(consumer.poll(0.2)) == 1  # of the partition without a transaction
            child.kill()
            found = []
            while len(found) < (2 if decided else 1):
                found += [one.value for one in consumer.poll(10)]
    assert found == ([b"theirs", b"plain"] if decided else [b"plain"])


def test_a_transaction_that_takes_too_long_is_aborted_by_who_waits(tmp_path: Path) -> None:
    clock = ManualClock(1_700_000_000_000)
    with logstore.open(tmp_path / "store", clock=clock) as store:
        store.create_topic("out")
        store.create_topic("__transaction_state")
        with Producer(store, transactional_id="id", transaction_timeout_ms=1000) as producer:
            producer.begin_transaction()
            producer.send("out", b"slow")
            producer.flush()
            clock.advance(2000)
            assert read(store) == []
            assert store.partition("out").last_stable_offset == 2
            with pytest.raises(ProducerFencedError, match="took too long"):
                producer.commit_transaction()
            producer.abort_transaction()


# ---------------------------------------------------------------- closing


def test_a_producer_closed_in_a_transaction_aborts_it_and_says_so(store: Store) -> None:
    producer = Producer(store, transactional_id="id")
    producer.begin_transaction()
    producer.send("out", b"x")
    producer.flush()
    with pytest.raises(InvalidTransactionStateError, match="was aborted"):
        producer.close()
    producer.close()
    with pytest.raises(ClientClosedError):
        producer.begin_transaction()
    assert store.partition("out", 0).last_stable_offset == store.partition("out", 0).log_end_offset
    assert read(store) == []


def test_who_waits_for_a_record_is_told_when_its_producer_is_closed_in_the_transaction(store: Store) -> None:
    producer = Producer(store, transactional_id="id")
    producer.begin_transaction()
    told: list[Exception | None] = []
    future = producer.send("out", b"x")
    future.add_done_callback(lambda done: told.append(done.exception()))
    with pytest.raises(InvalidTransactionStateError, match="was closed in a transaction"):
        producer.close()
    assert future.done()
    assert [type(one) for one in told] == [TransactionAbortedError]


def test_a_producer_given_up_in_a_transaction_aborts_it_and_warns(store: Store) -> None:
    producer = Producer(store, transactional_id="id")
    producer.begin_transaction()
    producer.send("out", b"x")
    with pytest.warns(ResourceWarning, match="1 records gathered, aborted with their transaction"):
        del producer
        gc.collect()
    with Producer(store, transactional_id="id") as after, after.transaction():
        after.send("out", b"y")
    assert read(store) == [b"y"]


def test_an_error_that_ends_a_with_aborts_what_was_begun_in_it(store: Store) -> None:
    with pytest.raises(RuntimeError), Producer(store, transactional_id="id") as producer:
        producer.begin_transaction()
        producer.send("out", b"x")
        raise RuntimeError
    assert read(store) == []


def test_what_was_committed_is_there_when_the_store_is_opened_again(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store, Producer(
        store, transactional_id="id", durability="always"
    ) as producer:
        store.create_topic("out", 2)
        with producer.transaction():
            producer.send("out", b"x", partition=0)
            producer.send("out", b"y", partition=1)
    with logstore.open(tmp_path / "store", mode="exclusive") as store:
        assert read(store) == [b"x", b"y"]


# ---------------------------------------------------------------- asyncio


def test_transactions_have_an_async_twin(store: Store) -> None:
    fill(store, 8)

    async def run() -> None:
        async with AsyncProducer(store, transactional_id="id") as producer:
            consumer = await AsyncConsumer.open(
                store, "in", group="g", enable_auto_commit=False, max_poll_records=4
            )
            async with consumer:
                tries = 0
                while batch := await consumer.poll(0.1):
                    tries += 1
                    try:
                        async with producer.transaction(consumer):
                            await asyncio.gather(*(producer.send("out", one.value) for one in batch))
                            if tries == 1:
                                raise RuntimeError
                    except RuntimeError:
                        continue

    asyncio.run(run())
    assert read(store) == sorted(b"%d" % number for number in range(8))


def _no_disk(*_: object, **__: object) -> Any:
    raise OSError("no disk")


def test_a_message_whose_async_transaction_was_aborted_comes_next(store: Store) -> None:
    fill(store, 8)

    async def copy() -> list[bytes]:
        seen = []
        async with (
            AsyncProducer(store, transactional_id="async") as producer,
            await AsyncConsumer.open(
                store, partitions=[IN0], group="g", enable_auto_commit=False, isolation="read_committed"
            ) as consumer,
        ):
            async for message in consumer.records(until_end=True):
                seen.append(message.value)
                with contextlib.suppress(ZeroDivisionError):
                    async with producer.transaction(consumer):
                        await producer.send("out", message.value)
                        if len(seen) == 2:
                            raise ZeroDivisionError
        return seen

    assert asyncio.run(copy()) == [b"0", b"2", b"2", b"4", b"6"]
    assert read(store) == [b"0", b"2", b"4", b"6"]
    assert offsets(store) == {IN0: 4}
