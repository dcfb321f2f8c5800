"""Who owns a transactional id, how its transactions end, and what others do for a producer that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import Child, Line

import logstore
from logstore.errors import InvalidTransactionStateError, ProducerFencedError
from logstore.log import FetchIsolation
from logstore.names import TopicPartition
from logstore.records import BatchOptions, ControlType, RecordBatch, encode_batch, iter_batches
from logstore.store import FIRST_PRODUCER_ID, Store
from logstore.testing import ManualClock
from logstore.transactions import (
    EPOCH_MAX,
    TransactionCoordinator,
    TransactionMetadata,
    TransactionOwner,
    TransactionStatus,
)
from logstore.transactions.transaction_log import TransactionLog

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
STATE = "__transaction_state"
NOW = 1_700_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with logstore.open(tmp_path / "store", clock=clock) as opened:
        opened.create_topic("t", 2)
        opened.create_topic(STATE)  # fewer partitions than it would get: they are made much sooner
        yield opened


def send(store: Store, owner: TransactionOwner, where: TopicPartition, value: bytes, sequence: int = 0) -> None:
    options = BatchOptions(
        producer_id=owner.producer_id, producer_epoch=owner.producer_epoch, base_sequence=sequence,
        is_transactional=True,
    )  # fmt: skip
    store.partition(*where).append_batch(encode_batch([(b"k", value, NOW)], options=options))


def begun(store: Store, coordinator: TransactionCoordinator, transactional_id: str = "id") -> TransactionOwner:
    """An owner that has written to both partitions in a transaction."""
    owner = coordinator.init_producer(transactional_id, 60_000)
    coordinator.add_partitions(owner, [T0, T1])
    send(store, owner, T0, b"a")
    send(store, owner, T1, b"b")
    return owner


def committed(store: Store, where: TopicPartition) -> list[bytes | None]:
    return [one.value for one in store.partition(*where).records(isolation=FetchIsolation.TXN_COMMITTED)]


def batches(store: Store, where: TopicPartition) -> list[RecordBatch]:
    return list(iter_batches(store.partition(*where).read(0)))


def markers(store: Store, where: TopicPartition) -> list[tuple[ControlType | None, int, int]]:
    """Kind, producer and epoch of each marker."""
    return [
        (one.control_type(), one.header.producer_id, one.header.producer_epoch)
        for one in batches(store, where)
        if one.is_control
    ]


def state(coordinator: TransactionCoordinator, transactional_id: str = "id") -> TransactionMetadata:
    return coordinator.transactions()[transactional_id]


def history(store: Store) -> list[TransactionStatus]:
    """All that was written about ids."""
    return [TransactionStatus((record.value or b"")[16]) for record in store.partition(STATE).records()]


# ---------------------------------------------------------------- owners


def test_the_topic_is_made_as_kafka_makes_it(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "other") as store:
        TransactionCoordinator(store).init_producer("my-group", 60_000)
        topic = store.topic(STATE)
        assert (topic.partitions, topic.is_internal, topic.config(store.config).compacted) == (50, True, True)
        assert store.partition(STATE, 12).log_end_offset == 1


@pytest.mark.kafka("TXNC-03")
def test_a_later_producer_of_an_id_has_the_next_epoch(store: Store) -> None:
    first = TransactionCoordinator(store).init_producer("id", 60_000)
    second = TransactionCoordinator(store).init_producer("id", 60_000)
    assert first == ("id", FIRST_PRODUCER_ID, 0)
    assert second == ("id", FIRST_PRODUCER_ID, 1)
    assert TransactionCoordinator(store).init_producer("other", 1).producer_id != first.producer_id


@pytest.mark.kafka("TXNC-08")
def test_behind_the_last_epoch_comes_another_producer_id(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    first = coordinator.init_producer("id", 60_000)
    known = state(coordinator).with_producer(first.producer_id, EPOCH_MAX, 60_000, NOW)
    TransactionLog(store, 0).write(known, durable=False)
    after = coordinator.init_producer("id", 60_000)
    assert (after.producer_id != first.producer_id, after.producer_epoch) == (True, 0)


@pytest.mark.kafka("TXNC-48")
def test_an_older_producer_of_an_id_can_do_nothing_more(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    old = begun(store, coordinator)
    new = coordinator.init_producer("id", 60_000)
    for attempt in (
        lambda: coordinator.add_partitions(old, [T0]),
        lambda: coordinator.end(old, commit=True, durable=False),
        lambda: coordinator.end(old, commit=False, durable=False),
        lambda: send(store, old, T0, b"late", 1),
    ):
        with pytest.raises(ProducerFencedError):
            attempt()
    assert committed(store, T0) == []
    assert new.producer_epoch == 2


@pytest.mark.parametrize("timeout", [0, -1, 900_001])
def test_a_timeout_that_is_none_is_refused(store: Store, timeout: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 900000"):
        TransactionCoordinator(store).init_producer("id", timeout)


@pytest.mark.parametrize("transactional_id", ["", None, 7, "x" * 40_000, "\ud800"])
def test_an_id_that_is_none_is_refused(store: Store, transactional_id: str) -> None:
    with pytest.raises(ValueError, match="no transactional id"):
        TransactionCoordinator(store).init_producer(transactional_id, 60_000)


# ---------------------------------------------------------------- the end


@pytest.mark.kafka("TXNC-12", "TXNC-13", "TXNC-16")
def test_a_commit_is_decided_then_told_to_each_partition_once(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    assert (state(coordinator).status, state(coordinator).start_ms) == (TransactionStatus.ONGOING, NOW)
    assert committed(store, T0) == committed(store, T1) == []
    coordinator.end(owner, commit=True, durable=True)
    assert (committed(store, T0), committed(store, T1)) == ([b"a"], [b"b"])
    assert markers(store, T0) == markers(store, T1) == [(ControlType.COMMIT, *owner[1:])]
    assert history(store) == [
        TransactionStatus.EMPTY, TransactionStatus.ONGOING, TransactionStatus.PREPARE_COMMIT,
        TransactionStatus.COMPLETE_COMMIT,
    ]  # fmt: skip


def test_what_is_aborted_is_seen_by_no_committed_reader(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    coordinator.end(owner, commit=False, durable=True)
    assert committed(store, T0) == committed(store, T1) == []
    assert markers(store, T0) == markers(store, T1) == [(ControlType.ABORT, *owner[1:])]
    assert state(coordinator).status is TransactionStatus.COMPLETE_ABORT


@pytest.mark.kafka("TXNC-11")
def test_a_partition_that_takes_part_already_is_not_written_again(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    before = history(store)
    coordinator.add_partitions(owner, [T1])
    assert history(store) == before


def test_an_end_without_a_transaction_writes_nothing(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    owner = coordinator.init_producer("id", 60_000)
    coordinator.end(owner, commit=True, durable=True)
    assert history(store) == [TransactionStatus.EMPTY]


def test_a_commit_that_was_decided_is_finished_by_the_same_call_and_cannot_be_aborted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    with monkeypatch.context() as patch:
        patch.setattr(TransactionCoordinator, "_mark", _fail)
        with pytest.raises(OSError, match="no disk"):
            coordinator.end(owner, commit=True, durable=True)
    with pytest.raises(InvalidTransactionStateError, match="committed already"):
        coordinator.end(owner, commit=False, durable=True)
    coordinator.end(owner, commit=True, durable=True)
    assert (committed(store, T0), committed(store, T1)) == ([b"a"], [b"b"])


@pytest.mark.parametrize("commit", [True, False])
def test_what_others_have_finished_is_not_told_to_have_ended_otherwise(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, commit: bool
) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    with monkeypatch.context() as patch:
        patch.setattr(TransactionCoordinator, "_mark", _fail)
        with pytest.raises(OSError, match="no disk"):
            coordinator.end(owner, commit=commit, durable=False)
    assert not TransactionCoordinator(store).settle(store.partition(*T0))
    with pytest.raises(InvalidTransactionStateError, match="already"):
        coordinator.end(owner, commit=not commit, durable=False, is_begun=True)
    coordinator.end(owner, commit=commit, durable=False, is_begun=True)


def test_who_could_not_become_the_owner_can_try_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = TransactionCoordinator(store)
    first = coordinator.init_producer("id", 60_000)
    with monkeypatch.context() as patch:
        patch.setattr(TransactionLog, "write", _fail)
        with pytest.raises(OSError, match="no disk"):
            coordinator.init_producer("id", 60_000)
    second = coordinator.init_producer("id", 60_000)
    assert second.producer_epoch == first.producer_epoch + 1


@pytest.mark.kafka("TXNC-24")
@pytest.mark.parametrize("commit", [True, False])
def test_whoever_comes_next_finishes_what_was_decided(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, commit: bool
) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    with monkeypatch.context() as patch:
        patch.setattr(TransactionCoordinator, "_completed", _fail)
        with pytest.raises(OSError, match="no disk"):
            coordinator.end(owner, commit=commit, durable=True)
    after = TransactionCoordinator(store).init_producer("id", 60_000)
    assert after.producer_epoch == 1
    assert committed(store, T0) == ([b"a"] if commit else [])
    kind = ControlType.COMMIT if commit else ControlType.ABORT
    assert markers(store, T1) == [(kind, *owner[1:])]


@pytest.mark.kafka("TXNC-05")
def test_the_next_owner_aborts_what_was_open_in_an_epoch_between(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    old = begun(store, coordinator)
    new = coordinator.init_producer("id", 60_000)
    assert committed(store, T0) == committed(store, T1) == []
    assert markers(store, T0) == [(ControlType.ABORT, old.producer_id, 1)]
    assert new.producer_epoch == 2
    assert state(coordinator).status is TransactionStatus.EMPTY


def test_a_topic_deleted_in_a_transaction_does_not_keep_it_from_ending(store: Store) -> None:
    store.create_topic("gone")
    coordinator = TransactionCoordinator(store)
    owner = coordinator.init_producer("id", 60_000)
    gone = TopicPartition("gone", 0)
    coordinator.add_partitions(owner, [T0, gone])
    send(store, owner, T0, b"a")
    send(store, owner, gone, b"b")
    store.delete_topic("gone")
    coordinator.end(owner, commit=True, durable=True)
    assert committed(store, T0) == [b"a"]
    assert state(coordinator).status is TransactionStatus.COMPLETE_COMMIT


# ---------------------------------------------------------------- for those who wait


def test_the_transaction_of_a_live_producer_is_left_alone(store: Store) -> None:
    begun(store, TransactionCoordinator(store))
    assert TransactionCoordinator(store).settle(store.partition(*T0))
    assert markers(store, T0) == []


def test_nothing_is_open_where_nothing_was_sent(store: Store) -> None:
    assert not TransactionCoordinator(store).settle(store.partition(*T0))


@pytest.mark.kafka("TXNC-20")
def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(
    store: Store, clock: ManualClock
) -> None:
    coordinator = TransactionCoordinator(store)
    owner = begun(store, coordinator)
    clock.advance(60_001)
    assert not TransactionCoordinator(store).settle(store.partition(*T0))
    assert markers(store, T0) == markers(store, T1) == [(ControlType.ABORT, owner.producer_id, 1)]
    with pytest.raises(ProducerFencedError, match="took too long"):
        coordinator.end(owner, commit=True, durable=False)


def test_the_transaction_of_a_killed_process_is_aborted_at_once(store: Store) -> None:
    place = store.paths[0]

    def work(line: Line) -> None:
        with logstore.open(place) as theirs:
            begun(theirs, TransactionCoordinator(theirs))
            line.tell("begun")
            line.wait()

    with Child(work) as child:
        assert child.hear() == "begun"
        mine = TransactionCoordinator(store)
        assert mine.settle(store.partition(*T0))
        child.kill()
        assert not mine.settle(store.partition(*T0))
    assert committed(store, T0) == committed(store, T1) == []
    assert store.partition(*T1).last_stable_offset == store.partition(*T1).log_end_offset
    assert [one.name for one in place.iterdir() if one.name.startswith(".logstore-producer-1")] == []


def test_a_commit_that_a_killed_process_has_decided_is_finished(store: Store) -> None:
    place = store.paths[0]

    def work(line: Line) -> None:
        with logstore.open(place) as theirs:
            coordinator = TransactionCoordinator(theirs)
            owner = begun(theirs, coordinator)
            coordinator._completed = lambda *_, **__: line.tell("decided") or line.wait()  # type: ignore[assignment, func-returns-value, method-assign]
            coordinator.end(owner, commit=True, durable=False)

    with Child(work) as child:
        assert child.hear() == "decided"
        child.kill()
        assert not TransactionCoordinator(store).settle(store.partition(*T0))
    assert (committed(store, T0), committed(store, T1)) == ([b"a"], [b"b"])


def test_data_of_which_a_power_cut_has_left_no_transaction_is_aborted(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    owner = coordinator.init_producer("id", 60_000)
    send(store, owner, T0, b"a")  # what was said before it is gone
    assert not coordinator.settle(store.partition(*T0))
    assert markers(store, T0) == [(ControlType.ABORT, owner.producer_id, 0)]
    assert committed(store, T0) == []


def test_a_transaction_of_somebody_elses_making_is_not_touched(store: Store) -> None:
    owner = TransactionOwner("foreign", 5, 0)
    send(store, owner, T0, b"a")
    assert not TransactionCoordinator(store).settle(store.partition(*T0))
    assert markers(store, T0) == []


def test_a_killed_producer_without_a_transaction_leaves_no_file_once_it_has_a_successor(store: Store) -> None:
    place = store.paths[0]

    def work(line: Line) -> None:
        with logstore.open(place) as theirs:
            line.tell(TransactionCoordinator(theirs).init_producer("id", 60_000).producer_epoch)
            line.wait()

    with Child(work) as child:
        assert child.hear() == 0
        child.kill()
    coordinator = TransactionCoordinator(store)
    owner = coordinator.init_producer("id", 60_000)
    (left,) = [one.name for one in place.iterdir() if one.name.startswith(".logstore-producer-1")]
    assert left.endswith("-1")
    coordinator.release(owner)


def test_a_producer_that_lets_go_leaves_no_file(store: Store) -> None:
    coordinator = TransactionCoordinator(store)
    owner = coordinator.init_producer("id", 60_000)
    coordinator.release(owner)
    coordinator.release(owner)
    assert [one.name for one in store.paths[0].iterdir() if one.name.startswith(".logstore-producer-1")] == []


def _fail(*_: object, **__: object) -> None:
    raise OSError("no disk")
