"""The service of a store: what it does by itself, when, and what becomes of its errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from logstore.errors import DamagedLogError, LogstoreError
from logstore.names import TopicPartition
from logstore.queue import StoreService
from logstore.records import BatchOptions, encode_batch
from logstore.store import Store
from logstore.transactions import TransactionCoordinator


def eventually(is_true: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not is_true() and time.monotonic() < end:
        time.sleep(0.01)
    return is_true()


@pytest.fixture(params=["shared", "exclusive"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", mode=request.param)


def test_it_deletes_compacts_and_removes_without_being_asked_again(store: Store) -> None:
    small = {"segment.bytes": "1000", "file.delete.delay.ms": "0"}
    store.create_topic("short", 1, {**small, "retention.bytes": "2000"})
    store.create_topic("keyed", 1, {**small, "cleanup.policy": "compact"})
    with store:
        for number in range(60):
            store.partition("short").append([(None, b"%d" % number + b"." * 100)])
            store.partition("keyed").append([(b"k%d" % (number % 3), b"%d" % number + b"." * 100)])
        size = store.partition("short").size
        with StoreService(
            store, retention_interval=0.05, compaction_interval=0.05, maintenance_interval=0.05
        ) as service:
            assert eventually(lambda: store.partition("short").log_start_offset > 0)
            assert eventually(lambda: sum(1 for _ in store.partition("keyed").records()) < 30)
            assert service.errors == ()
        assert store.partition("short").size < size
        newest = {one.key: one.value for one in store.partition("keyed").records()}
        assert {key: value.split(b".")[0] for key, value in newest.items() if value} == {
            b"k0": b"57", b"k1": b"58", b"k2": b"59",
        }  # fmt: skip


def test_the_transaction_of_a_producer_that_is_gone_does_not_stay_open(store: Store) -> None:
    store.create_topic("t")
    store.create_topic("__transaction_state")
    with store:
        coordinator = TransactionCoordinator(store)
        owner = coordinator.init_producer("id", 60_000)
        coordinator.add_partitions(owner, [TopicPartition("t", 0)])
        options = BatchOptions(
            producer_id=owner.producer_id, producer_epoch=owner.producer_epoch, base_sequence=0, is_transactional=True
        )
        partition = store.partition("t")
        partition.append_batch(encode_batch([(None, b"x")], options=options))
        with StoreService(store, transaction_interval=0.02) as service:
            time.sleep(0.1)
            assert partition.last_stable_offset == 0  # it is there still
            coordinator.release(owner)
            assert eventually(lambda: partition.last_stable_offset == 2)
            assert service.errors == ()


def test_nothing_runs_before_it_is_started_nor_after_it_has_stopped(store: Store) -> None:
    store.create_topic("short", 1, {"segment.bytes": "1000", "retention.bytes": "2000"})
    partition = store.partition("short")

    def fill() -> None:
        for number in range(30):
            partition.append([(None, b"%d" % number + b"." * 100)])

    with store:
        service = StoreService(store, retention_interval=0.02)
        fill()
        time.sleep(0.1)
        assert partition.log_start_offset == 0
        service.start()
        with pytest.raises(RuntimeError, match="runs already"):
            service.start()
        assert eventually(lambda: partition.log_start_offset > 0)
        service.stop()
        service.stop()
        fill()
        start = partition.log_start_offset
        time.sleep(0.1)
        assert partition.log_start_offset == start


def test_errors_reach_the_owner_and_the_other_tasks_go_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def fail(**options: object) -> None:
        runs.append("retain")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "retain", fail)
    monkeypatch.setattr(store, "maintain", lambda: runs.append("maintain"))
    told: list[LogstoreError | OSError] = []
    with store:
        with StoreService(store, retention_interval=0.01, maintenance_interval=0.01, on_error=told.append):
            assert eventually(lambda: len(told) > 2 and runs.count("maintain") > 2)
        service = StoreService(store, retention_interval=0.01, maintenance_interval=None)
        service.start()
        assert eventually(lambda: len(service.errors) > 1)
        with pytest.raises(OSError, match="No space left"):
            service.stop()


def test_one_log_with_damage_does_not_keep_the_others_from_what_is_due(store: Store) -> None:
    small = {"segment.bytes": "1000", "file.delete.delay.ms": "0", "cleanup.policy": "compact"}
    with store:
        for topic in ("bad", "good"):
            store.create_topic(topic, 1, small)
            for number in range(60):
                store.partition(topic).append([(b"k%d" % (number % 3), b"." * 100)])
        first = store.partition("bad").directory / "00000000000000000000.log"
        data = bytearray(first.read_bytes())
        data[-1] ^= 1
        first.write_bytes(data)
        told: list[LogstoreError | OSError] = []
        with StoreService(
            store, retention_interval=None, compaction_interval=0.02, maintenance_interval=None, on_error=told.append
        ):
            assert eventually(lambda: sum(1 for _ in store.partition("good").records()) < 30)
            assert eventually(lambda: len(told) > 0)
            time.sleep(0.2)
        assert [type(one) for one in told] == [DamagedLogError]  # once: it is left alone from then on
        with pytest.raises(DamagedLogError):
            store.compact()
        assert store.compact(but=[store.partition("bad").name]).keys() == {store.partition("good").name}


def test_it_ends_with_its_store(store: Store) -> None:
    service = StoreService(store, maintenance_interval=0.01)
    service.start()
    store.close()
    thread = service._thread
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()
    service.stop()


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_is_above_nothing(store: Store, interval: float) -> None:
    with store, pytest.raises(ValueError, match="every"):
        StoreService(store, retention_interval=interval)
