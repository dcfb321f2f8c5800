"""Sending: when records are written, where they go, what is refused, and that nothing is lost without a word."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore.errors import (
    BatchTooLargeError,
    ClientClosedError,
    InvalidTimestampError,
    LogstoreError,
    RecordRejectedError,
    SerializationError,
    UnknownTopicError,
)
from logstore.log.commit import Commits
from logstore.names import TopicPartition
from logstore.queue.partitioner import RoundRobinPartitioner
from logstore.queue.producer import Producer
from logstore.queue.sending import RecordPlace, SendFuture, SentRange
from logstore.records import Codec, iter_batches
from logstore.records.kernel import partition_keys
from logstore.store import Store

PATIENCE = 20.0


@pytest.fixture(params=["shared", "exclusive"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with logstore.open(tmp_path / "store", mode=request.param) as opened:
        opened.create_topic("t")
        opened.create_topic("wide", 4)
        yield opened


def values(store: Store, topic: str = "t", partition: int = 0) -> list[bytes | None]:
    return [record.value for record in store.partition(topic, partition).records()]


def batch_sizes(store: Store) -> list[int]:
    data = store.partition("t").read(0, bytes_max=1 << 24)
    return [batch.header.size for batch in iter_batches(data)]


def eventually(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- when


def test_records_are_gathered_until_the_batch_has_no_room(store: Store) -> None:
    with Producer(store, batch_size=1000) as producer:
        futures = [producer.send("t", b"v" * 100) for _ in range(20)]
        assert 0 < store.partition("t").log_end_offset < 20
        assert futures[0].done() and not futures[-1].done()
    assert [future.result() for future in futures] == [RecordPlace(0, offset) for offset in range(20)]
    assert all(size <= 1000 for size in batch_sizes(store))


@pytest.mark.parametrize("end", ["result", "flush", "close"])
def test_what_is_gathered_is_written_when_it_is_asked_for(store: Store, end: str) -> None:
    producer = Producer(store)
    future = producer.send("t", b"one", b"key", headers=[("h", b"1")], timestamp=77)
    assert values(store) == []
    if end == "result":
        assert future.result() == (0, 0)
    else:
        getattr(producer, end)()
    (record,) = store.partition("t").records()
    assert (record.key, record.value, record.timestamp, record.headers) == (b"key", b"one", 77, (("h", b"1"),))
    producer.close()


def test_after_the_linger_it_is_written_without_being_asked(store: Store) -> None:
    threads = threading.active_count()
    with Producer(store, linger_ms=5) as producer:
        assert threading.active_count() == threads
        future = producer.send("t", b"one")
        eventually(future.done)
        assert values(store) == [b"one"]
        producer.send("t", b"two")
        eventually(lambda: values(store) == [b"one", b"two"])
    assert threading.active_count() == threads


def test_with_durability_always_it_is_on_disk_before_it_counts_as_done(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    original = Commits.sync_batches

    def sync(commits: Commits) -> None:
        original(commits)
        synced.append(commits._state.synced_offset)

    monkeypatch.setattr(Commits, "sync_batches", sync)
    with Producer(store, durability="always", batch_size=500) as producer:
        future = producer.send("t", b"one")
        assert synced == [] and not future.done()
        assert future.result() == (0, 0)
        assert synced == [1]
        for _ in range(10):
            producer.send("t", b"v" * 100)
        assert synced[-1] == store.partition("t").log_end_offset
        assert producer.send_many("t", [(None, b"x")])[-1].last_offset == synced[-1] - 1


def test_a_record_has_the_time_at_which_it_was_sent(store: Store) -> None:
    with Producer(store) as producer:
        before = store.clock.now_ms()
        producer.send("t", b"one")
        after = store.clock.now_ms()
        time.sleep(0.01)
    (record,) = store.partition("t").records()
    assert before <= record.timestamp <= after


# ---- where


@pytest.mark.kafka("PART-05")
def test_keys_go_where_the_java_client_sends_them_also_after_partitions_were_added(store: Store) -> None:
    keys = [b"key-%d" % number for number in range(50)]
    with Producer(store) as producer:
        sent = [producer.send("wide", b"v", key) for key in keys]
        assert [future.result().partition for future in sent] == partition_keys(keys, 4)
        store.grow_topic("wide", 6)
        sent = [producer.send("wide", b"v", key) for key in keys]
        producer.flush()
        sent = [producer.send("wide", b"v", key) for key in keys]
        assert [future.result().partition for future in sent] == partition_keys(keys, 6)
        assert producer.send("wide", b"v", b"key", partition=5).result().partition == 5


def test_without_keys_they_stay_on_a_partition_until_its_batch_is_full(store: Store) -> None:
    with Producer(store, batch_size=2000) as producer:
        places = [producer.send("wide", b"v" * 100) for _ in range(400)]
        producer.flush()
        partitions = [one.result().partition for one in places]
    assert len(set(partitions)) > 1
    assert sum(one != other for one, other in pairwise(partitions)) < 40


def test_another_partitioner_is_made_for_each_topic(store: Store) -> None:
    with Producer(store, partitioner=RoundRobinPartitioner) as producer:
        assert [producer.send("wide", b"v", b"same").result().partition for _ in range(5)] == [0, 1, 2, 3, 0]


def test_each_thread_finds_its_records_in_order(store: Store) -> None:
    with Producer(store, batch_size=300) as producer:

        def send(name: int) -> None:
            for number in range(300):
                producer.send("t", b"%d %d" % (name, number))

        threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [value.split() for value in values(store) if value is not None]
    for name in range(4):
        assert [int(number) for who, number in found if int(who) == name] == list(range(300))


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd", Codec.ZSTD, "none"])
def test_batches_are_compressed(store: Store, compression: str | Codec) -> None:
    with Producer(store, compression=compression) as producer:
        for number in range(100):
            producer.send("t", b"%d" % number * 20)
    assert values(store) == [b"%d" % number * 20 for number in range(100)]
    (batch,) = iter_batches(store.partition("t").read(0))
    assert batch.codec.label == (compression if isinstance(compression, str) else "zstd")


# ---- many


@pytest.mark.parametrize("topic", ["t", "wide"])
def test_many_are_written_at_once_and_behind_what_was_sent_before(store: Store, topic: str) -> None:
    with Producer(store) as producer:
        for number in range(50):
            producer.send(topic, b"first", b"key-%d" % number)
        items = [(b"key-%d" % (number % 50), b"%d" % number) for number in range(20_000)]
        ranges = producer.send_many(topic, iter(items))
        assert sum(one.last_offset - one.first_offset + 1 for one in ranges) == 20_000
        assert all(isinstance(one, SentRange) for one in ranges)
    count = store.topic(topic).partitions
    for number in range(count):
        of_key: dict[bytes | None, list[bytes | None]] = {}
        for record in store.partition(topic, number).records():
            of_key.setdefault(record.key, []).append(record.value)
        for key, found in of_key.items():
            assert key is not None and partition_keys([key], count) == [number]
            sent = [value for one, value in items if one == key]
            assert found == [b"first", *sent]


def test_of_many_only_those_are_refused_that_are_to_blame(store: Store) -> None:
    items: list[tuple[Any, ...]] = [(b"%d" % number, b"v") for number in range(1000)]
    items[3], items[500], items[999] = (b"3", "text"), (b"500", b"x" * (2 << 20)), (b"999",)
    for topic in ("t", "wide"):
        with Producer(store) as producer, pytest.raises(RecordRejectedError, match="3 of 1000") as caught:
            producer.send_many(topic, items)
        assert sorted(index for index, _ in caught.value.record_errors) == [3, 500, 999]
        written = sum(one.log_end_offset for one in store.partitions(topic))
        assert written == 997


def test_many_go_through_the_serializers(store: Store) -> None:
    with Producer(store, key_serializer=str.encode, value_serializer=lambda number: b"%d" % number) as producer:
        producer.send_many("t", [("a", 1), (None, 2, 5), ("c", None, 6, [("h", None)])])
        with pytest.raises(SerializationError, match="key for topic 't'"):
            producer.send_many("t", [("a", 1), (7, 2)])
    found = [(one.key, one.value) for one in store.partition("t").records()]
    assert found == [(b"a", b"1"), (None, b"2"), (b"c", None)]


# ---- what is refused


def test_a_record_that_cannot_be_is_refused_at_once_and_alone(store: Store) -> None:
    store.create_topic("compacted", settings={"cleanup.policy": "compact"})
    store.create_topic("recent", settings={"message.timestamp.after.max.ms": "1000"})
    with Producer(store) as producer:
        kept = producer.send("t", b"before")
        with pytest.raises(BatchTooLargeError, match=r"topic 't' takes \d+ bytes.*1048588"):
            producer.send("t", b"x" * (1 << 20))
        with pytest.raises(TypeError, match="value_serializer"):
            producer.send("t", "text")
        with pytest.raises(TypeError, match="key_serializer"):
            producer.send("t", b"v", 7)
        with pytest.raises(TypeError, match="header"):
            producer.send("t", b"v", headers=[("name", 7)])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="timestamp"):
            producer.send("t", b"v", timestamp="now")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="negative"):
            producer.send("t", b"v", timestamp=-1)
        with pytest.raises(UnknownTopicError, match="'nowhere'"):
            producer.send("nowhere", b"v")
        with pytest.raises(UnknownTopicError, match="number 9"):
            producer.send("wide", b"v", partition=9)
        with pytest.raises(RecordRejectedError, match="no key"):
            producer.send("compacted", b"v")
        with pytest.raises(InvalidTimestampError, match="recent"):
            producer.send("recent", b"v", timestamp=store.clock.now_ms() + 60_000)
        producer.send("t", bytearray(b"after"))
        assert kept.result() == (0, 0)
    assert values(store) == [b"before", b"after"]


def test_the_largest_record_there_may_be_is_taken(store: Store) -> None:
    limit = store.config.max_message_bytes
    for compression in ("none", "zstd"):
        with Producer(store, compression=compression) as producer:
            size = limit - 61 - 11 if compression == "none" else 3 * limit
            producer.send("t", b"x" * 5)
            future = producer.send("t", b"x" * size)
            assert future.done()
            assert future.result().partition == 0
            if compression == "none":
                with pytest.raises(BatchTooLargeError):
                    producer.send("t", b"x" * (size + 1))


def test_a_serializer_that_fails_is_named_with_its_topic(store: Store) -> None:
    with Producer(store, value_serializer=lambda thing: thing.no_such_thing) as producer:
        with pytest.raises(SerializationError, match=r"value for topic 't'.*AttributeError") as caught:
            producer.send("t", 1)
        assert isinstance(caught.value.__cause__, AttributeError)
        assert producer.send("t", None).result() == (0, 0)
    seven: Any = 7
    with Producer(store, key_serializer=lambda _: seven) as producer, pytest.raises(SerializationError, match="int"):
        producer.send("t", b"v", "key")


@pytest.mark.parametrize(
    "options",
    [{"batch_size": -1}, {"linger_ms": -1}, {"buffer_memory": 0}, {"compression": "zip"}, {"durability": "maybe"}],
)
def test_what_is_no_option_is_refused(store: Store, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"compression|batch_size|durability"):
        Producer(store, **options)


def test_more_partitions_than_memory_make_smaller_batches(store: Store) -> None:
    with Producer(store, buffer_memory=4000) as producer:
        for number in range(200):
            producer.send("wide", b"v" * 100, b"%d" % number)
        gathered = 200 - sum(one.log_end_offset for one in store.partitions("wide"))
        assert gathered * 100 <= 4000


# ---- what goes wrong


def test_records_that_cannot_be_written_are_told_once(store: Store) -> None:
    producer = Producer(store)
    lost = [producer.send("t", b"v") for _ in range(3)]
    store.delete_topic("t")
    with pytest.raises(UnknownTopicError) as caught:
        producer.flush()
    assert "3 records" in "".join(caught.value.__notes__)
    producer.flush()
    assert all(isinstance(one.exception(), UnknownTopicError) for one in lost)
    with pytest.raises(UnknownTopicError):
        lost[0].result()
    with pytest.raises(UnknownTopicError):
        producer.send("t", b"v")
    store.create_topic("t")
    assert producer.send("t", b"again").result() == (0, 0)
    producer.close()


def test_who_looked_at_the_futures_is_not_told_again(store: Store) -> None:
    with Producer(store) as producer:
        future = producer.send("wide", b"v")
        other = producer.send("wide", b"v", partition=(future._pack.lane.number + 1) % 4)
        store.delete_topic("wide")
        assert isinstance(future.exception(), UnknownTopicError)
        assert other.done() and isinstance(other.exception(), UnknownTopicError)


def test_a_send_that_finds_the_batch_before_it_lost_says_so_and_is_not_taken(store: Store) -> None:
    with Producer(store, batch_size=300) as producer:
        told: list[SendFuture] = []
        future = producer.send("t", b"v" * 200)
        future.add_done_callback(told.append)
        store.delete_topic("t")
        with pytest.raises(UnknownTopicError) as caught:
            producer.send("t", b"v" * 200)
        assert "1 records that were sent before" in caught.value.__notes__[0]
        assert told == [future]


def test_an_error_of_the_disk_reaches_the_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = logstore.open(tmp_path / "store")
    store.create_topic("t")
    producer = Producer(store, durability="always")
    future = producer.send("t", b"v")

    def fail(commits: Commits) -> None:
        commits._state.refusal = "a sync failed"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Commits, "sync_batches", fail)
    with pytest.raises(OSError, match="No space"):
        future.result()
    assert future.done()
    producer.close()
    monkeypatch.undo()
    store.close()


def test_a_callback_is_called_once_and_its_error_is_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[object] = []

    def fail(future: SendFuture) -> None:
        raise RuntimeError("of the callback")

    with Producer(store) as producer:
        future = producer.send("t", b"v")
        future.add_done_callback(fail)
        future.add_done_callback(lambda one: seen.append(one.result()))
        assert seen == []
        with caplog.at_level(logging.ERROR, "logstore.queue"):
            producer.flush()
        assert "of the callback" in caplog.text
        assert seen == [(0, 0)]
        future.add_done_callback(lambda one: seen.append(producer.send("t", b"more").result()))
        assert seen == [(0, 0), (0, 1)]


def test_a_wait_for_others_has_an_end(store: Store) -> None:
    with Producer(store) as producer:
        future = producer.send("t", b"v")
        with producer._desk.lock, pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        assert future.result() == (0, 0)
        assert "at 0" in repr(future)


# ---- the end


def test_a_closed_producer_takes_no_more(store: Store) -> None:
    producer = Producer(store)
    future = producer.send("t", b"v")
    producer.close()
    producer.close()
    assert future.result() == (0, 0)
    for late in (lambda: producer.send("t", b"v"), producer.flush, lambda: producer.send_many("t", [(None, b"v")])):
        with pytest.raises(ClientClosedError, match="closed"):
            late()


def test_a_producer_that_is_given_up_writes_what_it_has_and_warns(store: Store) -> None:
    producer = Producer(store)
    for _ in range(3):
        producer.send("t", b"v")
    with pytest.warns(ResourceWarning, match="3 records"):
        del producer
        gc.collect()
    assert values(store) == [b"v"] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Producer(store)
        gc.collect()


def test_at_the_end_of_python_what_is_gathered_is_written(tmp_path: Path) -> None:
    program = (
        "import sys, logstore\n"
        "from logstore.queue.producer import Producer\n"
        "store = logstore.open(sys.argv[1]); store.create_topic('t')\n"
        "producer = Producer(store, linger_ms=float(sys.argv[2])); producer.send('t', b'last words')\n"
    )
    for number, linger in enumerate(("0", "60000")):
        place = tmp_path / f"store{number}"
        command = [sys.executable, "-W", "always", "-c", program, str(place), linger]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 0 and "ResourceWarning" in done.stderr, done.stderr
        with logstore.open(place) as store:
            assert values(store) == [b"last words"]


def test_a_child_of_a_fork_leaves_what_is_gathered_to_its_parent(store: Store) -> None:
    with Producer(store) as producer:
        future = producer.send("t", b"v")
        child = os.fork()
        if not child:
            code = 1
            try:
                for late in (lambda: producer.send("t", b"x"), future.result, producer.flush):
                    try:
                        late()
                        break
                    except ClientClosedError:
                        continue
                else:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert future.result() == (0, 0)
    assert values(store) == [b"v"]


def test_other_settings_are_heeded_from_the_next_batch_on(store: Store) -> None:
    with Producer(store) as producer:
        producer.send("t", b"v" * 5000).result()
        store.alter_topic("t", {"max.message.bytes": "1000"})
        producer.send("t", b"v").result()
        with pytest.raises(BatchTooLargeError):
            producer.send("t", b"v" * 5000)


def test_errors_of_logstore_are_of_one_tree() -> None:
    assert issubclass(ClientClosedError, LogstoreError) and issubclass(SerializationError, LogstoreError)
    assert str(TopicPartition("t", 0)) == "t-0"


def test_closing_the_store_writes_what_a_producer_has_gathered(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.create_topic("orders")
    producer = Producer(store)
    future = producer.send("orders", b"gathered")
    store.close()
    assert future.result().offset == 0
    with pytest.raises(ClientClosedError):
        producer.send("orders", b"late")
    producer.close()
    with Store.open(tmp_path / "store") as opened:
        assert [one.value for one in opened.partition("orders").records()] == [b"gathered"]
