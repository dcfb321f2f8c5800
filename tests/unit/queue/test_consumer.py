"""Consuming: what comes in which order, what is committed when, and who reads what in a group."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore.errors import (
    ClientClosedError,
    FencedMemberError,
    OffsetOutOfRangeError,
    SerializationError,
    StoreClosedError,
    UnknownTopicError,
)
from logstore.log import AppendOrigin
from logstore.names import TopicPartition
from logstore.queue.consumer import Consumer
from logstore.queue.offsets_store import OffsetsStore
from logstore.queue.reading import Message
from logstore.records import BatchOptions, ControlType, EndTransactionMarker, encode_batch
from logstore.records.builder import encode_end_transaction_batch
from logstore.store import Store, Watcher

SPAWN = multiprocessing.get_context("spawn")
PATIENCE = 30.0
T = TopicPartition("t", 0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("t")
        opened.create_topic("wide", 4)
        yield opened


def fill(store: Store, count: int, topic: str = "t", partition: int = 0, begin: int = 0) -> None:
    records = [(None, b"%d" % number, 1000 + number) for number in range(begin, begin + count)]
    store.partition(topic, partition).append(records)


def values(messages: list[Message]) -> list[int]:
    return [int(message.value) for message in messages]


def committed(store: Store, group: str = "g") -> dict[TopicPartition, int]:
    return {name: value.offset for name, value in OffsetsStore(store).committed(group).items()}


def drained(consumer: Consumer) -> list[Message]:
    return list(consumer.records(until_end=True))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- messages


def test_a_message_says_all_there_is_to_say(store: Store) -> None:
    store.partition("t").append([(b"key", b"value", 77, [("h", b"1")])])
    with Consumer(store, "t") as consumer:
        (message,) = consumer.poll()
    assert (message.topic, message.partition, message.offset, message.timestamp) == ("t", 0, 0, 77)
    assert (message.key, message.value, message.headers) == (b"key", b"value", (("h", b"1"),))
    assert message == Message("t", 0, message.record) != Message("u", 0, message.record)
    assert message != "message" and len({message, Message("t", 0, message.record)}) == 1
    assert "t-0 offset 0" in repr(message)


def test_messages_come_in_order_each_once(store: Store) -> None:
    with Consumer(store, "t", max_poll_records=7) as consumer:
        fill(store, 20)
        assert [len(consumer.poll()) for _ in range(4)] == [7, 7, 6, 0]
        fill(store, 3, begin=20)
        assert values(consumer.poll()) == [20, 21, 22]
        assert consumer.position(T) == 23
        assert consumer.lag() == {T: 0}


def test_all_partitions_get_their_turn(store: Store) -> None:
    for number in range(4):
        fill(store, 100, "wide", number)
    with Consumer(store, "wide", max_poll_records=10) as consumer:
        seen = {message.partition for _ in range(4) for message in consumer.poll()}
        assert seen == {0, 1, 2, 3}
        assert len(drained(consumer)) == 360


def test_a_poll_waits_for_messages_and_no_longer(store: Store) -> None:
    with Consumer(store, "t") as consumer:
        begin = time.monotonic()
        assert consumer.poll(0.05) == []
        assert 0.04 < time.monotonic() - begin < 2
        written: list[float] = []

        def write() -> None:
            time.sleep(0.1)
            written.append(time.monotonic())
            fill(store, 1)

        thread = threading.Thread(target=write)
        thread.start()
        assert values(consumer.poll(PATIENCE)) == [0]
        assert time.monotonic() - written[0] < 1
        thread.join()


def test_a_kernel_that_tells_nothing_is_asked_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstore.store.watching._inotify", lambda: None)
    assert "looking" in repr(Watcher())
    with Consumer(store, "t") as consumer:
        threading.Timer(0.05, fill, (store, 1)).start()
        assert values(consumer.poll(PATIENCE)) == [0]


def test_iteration_waits_for_more_until_it_is_woken(store: Store) -> None:
    fill(store, 3)
    with Consumer(store, "t") as consumer:
        threading.Timer(0.05, fill, (store, 2, "t", 0, 3)).start()
        seen = []
        for message in consumer:
            seen.append(int(message.value))
            if len(seen) == 5:
                threading.Timer(0.05, consumer.wakeup).start()
        assert seen == [0, 1, 2, 3, 4]
        consumer.wakeup()
        assert consumer.poll(PATIENCE) == []
        fill(store, 1)
        assert len(consumer.poll(PATIENCE)) == 1


def test_until_the_end_there_is_now(store: Store) -> None:
    fill(store, 5)
    with Consumer(store, "t", max_poll_records=2) as consumer:
        assert [len(batch) for batch in consumer.batches(until_end=True)] == [2, 2, 1]
        assert drained(consumer) == []
        fill(store, 3)
        consumer.wakeup()
        assert drained(consumer) == []
        assert len(drained(consumer)) == 3


def test_objects_are_made_of_keys_and_values(store: Store) -> None:
    store.partition("t").append([(b"a", b"[1]"), (None, None)])
    with Consumer(store, "t", key_deserializer=bytes.decode, value_deserializer=json.loads) as consumer:
        assert [(one.key, one.value, one.offset) for one in consumer.poll()] == [("a", [1], 0), (None, None, 1)]


def test_a_value_that_cannot_be_read_comes_after_those_before_it_and_can_be_passed(store: Store) -> None:
    store.partition("t").append([(None, b"1"), (None, b"{"), (None, b"3")])
    with Consumer(store, "t", value_deserializer=json.loads) as consumer:
        assert [one.value for one in consumer.poll()] == [1]
        for _ in range(2):
            with pytest.raises(SerializationError, match="value failed on t-0: JSONDecodeError") as caught:
                consumer.poll()
        assert caught.value.offset == 1
        consumer.seek(T, 2)
        assert [one.value for one in consumer.poll()] == [3]


def test_read_committed_leaves_out_what_was_aborted_and_waits_for_what_is_open(store: Store) -> None:
    partition = store.partition("t")

    def append(value: bytes, producer_id: int) -> None:
        options = BatchOptions(producer_id=producer_id, producer_epoch=0, base_sequence=0, is_transactional=True)
        partition.append_batch(encode_batch([(None, value, 1)], options=options))

    def end(kind: ControlType, producer_id: int) -> None:
        marker = EndTransactionMarker(kind, 0)
        data = encode_end_transaction_batch(marker, offset=0, timestamp=1, producer_id=producer_id, producer_epoch=0)
        partition.append_batch(data, origin=AppendOrigin.COORDINATOR)

    append(b"1", 1)
    end(ControlType.ABORT, 1)
    append(b"2", 2)
    fill(store, 1, begin=3)
    with Consumer(store, "t", isolation="read_committed") as consumer, Consumer(store, "t") as other:
        assert values(consumer.poll()) == []
        assert (consumer.position(T), consumer.lag()[T]) == (2, 0)
        assert values(drained(other)) == [1, 2, 3]
        end(ControlType.COMMIT, 2)
        assert values(consumer.poll()) == [2, 3]
        assert values(consumer.poll(0.01)) == []
        assert consumer.position(T) == 5
        assert other.poll(0.01) == [] and other.lag() == {T: 0}


# ---- places


def test_one_can_go_anywhere(store: Store) -> None:
    fill(store, 10)
    with Consumer(store, "t") as consumer:
        assert consumer.assignment == [T]
        assert consumer.lag() == {T: 10}
        consumer.seek(T, 7)
        assert values(consumer.poll()) == [7, 8, 9]
        consumer.seek_to_beginning()
        assert values(consumer.poll())[0] == 0
        consumer.seek_to_time(1004)
        assert values(consumer.poll())[0] == 4
        consumer.seek_to_time(9999, ("t", 0))
        assert (consumer.position(T), consumer.poll()) == (10, [])
        consumer.seek_to_end(T)
        assert consumer.positions() == {T: 10}
        with pytest.raises(ValueError, match="-1"):
            consumer.seek(T, -1)
        with pytest.raises(UnknownTopicError, match="not assigned"):
            consumer.seek(("wide", 0), 1)


def test_what_is_paused_waits(store: Store) -> None:
    fill(store, 1, "wide", 0)
    fill(store, 1, "wide", 1)
    with Consumer(store, "wide") as consumer:
        consumer.pause(("wide", 0))
        assert consumer.paused == [("wide", 0)]
        assert [one.partition for one in drained(consumer)] == [1]
        assert consumer.poll(0.01) == []
        consumer.resume()
        assert [one.partition for one in consumer.poll()] == [0]


@pytest.mark.parametrize(("reset", "first"), [("earliest", 5), ("latest", 20)])
def test_where_retention_took_the_next_message_it_goes_on_as_it_is_told(store: Store, reset: Any, first: int) -> None:
    fill(store, 20)
    with Consumer(store, "t", auto_offset_reset=reset) as consumer:
        consumer.seek(T, 2)
        with store.partition("t").changing() as log:
            log.advance_log_start(5)
        assert [one.offset for one in consumer.poll()[:1]] == []
        assert consumer.position(T) == first
        fill(store, 1, begin=20)
        assert consumer.poll()[0].offset == first
        consumer.seek(T, 99)
        consumer.poll()
        assert consumer.position(T) == (5 if reset == "earliest" else 21)


def test_where_it_shall_not_guess_it_says_what_there_is(store: Store) -> None:
    fill(store, 3)
    with pytest.raises(OffsetOutOfRangeError, match=r"nothing is committed for t-0.*0\.\.3"):
        Consumer(store, "t", group="g", auto_offset_reset="error")
    OffsetsStore(store).commit("g", {T: 1})
    with Consumer(store, "t", group="g", auto_offset_reset="error") as consumer:
        assert values(consumer.poll()) == [1, 2]
        consumer.seek(T, 9)
        with pytest.raises(OffsetOutOfRangeError, match="seek"):
            consumer.poll()
        consumer.seek(T, 3)


def test_a_damaged_position_does_not_lose_what_was_read_before_it(store: Store) -> None:
    fill(store, 5)
    with Consumer(store, "t", max_poll_records=2) as consumer:
        consumer.poll()
        store.delete_topic("t")
        with pytest.raises(UnknownTopicError):
            for _ in range(5):
                consumer.poll()
        store.create_topic("t")
        fill(store, 1, begin=7)
        until(lambda: values(consumer.poll(0.01)) == [7])


# ---- which topics


def test_new_partitions_are_read_from_their_begin(store: Store) -> None:
    with Consumer(store, "t", auto_offset_reset="latest", metadata_interval_ms=20) as consumer:
        store.grow_topic("t", 3)
        fill(store, 2, "t", 2)
        assert [one.partition for one in consumer.poll(PATIENCE)] == [2, 2]
        assert len(consumer.assignment) == 3


def test_topics_that_match_a_pattern_are_read_new_ones_too(store: Store) -> None:
    fill(store, 1, "wide")
    with Consumer(store, pattern="w.*", metadata_interval_ms=20) as consumer:
        assert [one.topic for one in consumer.poll()] == ["wide"]
        store.create_topic("wider")
        store.create_topic("not-w")
        fill(store, 1, "wider")
        assert [one.topic for one in consumer.poll(PATIENCE)] == ["wider"]
        store.delete_topic("wide")
        until(lambda: consumer.poll(0.01) == [] and consumer.assignment == [("wider", 0)])
    with Consumer(store, pattern=re.compile("none"), group="g") as consumer:
        assert consumer.assignment == [] and consumer.poll(0.01) == []


def test_some_partitions_may_be_enough(store: Store) -> None:
    for number in range(4):
        fill(store, 2, "wide", number)
    with Consumer(store, partitions=[("wide", 1), ("wide", 3)], group="g") as consumer:
        assert consumer.member is None
        assert {one.partition for one in drained(consumer)} == {1, 3}
    assert committed(store) == {("wide", 1): 2, ("wide", 3): 2}


@pytest.mark.parametrize(
    ("topics", "options"),
    [
        ((), {}),
        (("t",), {"pattern": "x"}),
        (("t",), {"auto_offset_reset": "middle"}),
        (("t",), {"isolation": "none"}),
        (("t",), {"max_poll_records": 0}),
        (("t",), {"metadata_interval_ms": -1}),
        (("t",), {"group": ""}),
        (("t",), {"group": "g", "assignor": "mine"}),
    ],
)
def test_what_is_no_argument_is_refused(store: Store, topics: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"consumer reads|is no|1 or more"):
        Consumer(store, *topics, **options)


def test_topics_and_partitions_that_are_not_there_are_refused(store: Store) -> None:
    with pytest.raises(UnknownTopicError, match="'no'"):
        Consumer(store, "no")
    with pytest.raises(UnknownTopicError):
        Consumer(store, partitions=[("t", 5)])


# ---- commits


def test_what_was_handed_out_before_the_last_poll_is_committed_by_itself(store: Store) -> None:
    fill(store, 10)
    with Consumer(store, "t", group="g", auto_commit_interval_ms=0, max_poll_records=4) as consumer:
        consumer.poll()
        assert committed(store).get(T, 0) == 0
        consumer.poll()
        assert committed(store)[T] == 4
    assert committed(store)[T] == 8
    with Consumer(store, "t", group="g") as again:
        assert values(again.poll()) == [8, 9]


def test_what_was_being_dealt_with_when_an_error_came_comes_again(store: Store) -> None:
    fill(store, 10)
    with pytest.raises(KeyError), Consumer(store, "t", group="g", max_poll_records=4) as consumer:
        consumer.poll()
        consumer.poll()
        raise KeyError
    assert committed(store)[T] == 4
    with pytest.raises(KeyError), Consumer(store, "t", group="g") as consumer:
        for message in consumer:
            if message.offset == 6:
                raise KeyError
    assert committed(store)[T] == 6


def test_in_an_iteration_a_commit_means_the_message_in_hand_too(store: Store) -> None:
    fill(store, 10)
    with Consumer(store, "t", group="g", enable_auto_commit=False) as consumer:
        for message in consumer:
            if message.offset == 3:
                consumer.commit()
                assert consumer.position(T) == 4
                break
        assert committed(store) == {T: 4}
        value = consumer.committed(T)
        assert value is not None and value.offset == 4
        assert consumer.committed(("wide", 0)) is None
        assert values(consumer.poll()) == [4, 5, 6, 7, 8, 9]
    assert committed(store) == {T: 4}


def test_the_rest_of_an_iteration_is_not_lost(store: Store) -> None:
    fill(store, 6)
    with Consumer(store, "t", group="g") as consumer:
        assert int(next(iter(consumer)).value) == 0
        assert int(next(iter(consumer)).value) == 1
        consumer.seek(T, 4)
        assert values(consumer.poll()) == [4, 5]
        consumer.put_back(consumer.poll() or [Message("t", 0, record) for record in store.partition("t").records(4)])
        assert consumer.position(T) == 4
    assert committed(store) == {T: 4}


def test_offsets_may_be_chosen_within_what_there_is(store: Store) -> None:
    fill(store, 3)
    with Consumer(store, "t", group="g", enable_auto_commit=False) as consumer:
        consumer.commit({T: 2})
        assert committed(store) == {T: 2}
        with pytest.raises(OffsetOutOfRangeError, match="ends at 3"):
            consumer.commit({T: 4})
        with pytest.raises(ValueError, match="no offset"):
            consumer.commit({T: -4})
        with pytest.raises(FencedMemberError, match="does not own wide-0"):
            consumer.commit({TopicPartition("wide", 0): 0})
    with Consumer(store, "t") as alone:
        for call in (alone.commit, lambda: alone.committed(T)):
            with pytest.raises(ValueError, match="without a group"):
                call()


# ---- groups


def share(*consumers: Consumer) -> None:
    for _ in range(30):
        for consumer in consumers:
            consumer.poll(0.01)


def test_a_group_shares_and_goes_on_where_it_was(store: Store) -> None:
    for number in range(4):
        fill(store, 5, "wide", number)
    told: list[tuple[str, int]] = []
    one = Consumer(
        store, "wide", group="g", on_assigned=lambda some: told.append(("got", len(some))),
        on_revoked=lambda some: told.append(("lost", len(some))),
    )  # fmt: skip
    assert len(drained(one)) == 20
    other = Consumer(store, "wide", group="g")
    share(one, other)
    assert (len(one.assignment), len(other.assignment)) == (2, 2)
    assert told == [("got", 4), ("lost", 2)]
    for number in range(4):
        fill(store, 1, "wide", number, begin=5)
    assert sorted(values(drained(one)) + values(drained(other))) == [5, 5, 5, 5]
    one.close()
    until(lambda: other.poll(0.01) == [] and len(other.assignment) == 4)
    assert drained(other) == []
    other.close()


def test_what_a_member_had_not_dealt_with_comes_to_its_follower(store: Store) -> None:
    fill(store, 10)
    one = Consumer(store, "t", group="g", max_poll_records=4)
    one.poll()
    one.commit()
    one.poll()
    with pytest.warns(ResourceWarning, match="not closed"):
        del one
        gc.collect()
    with Consumer(store, "t", group="g") as other:
        assert values(other.poll()) == [4, 5, 6, 7, 8, 9]


def test_a_member_that_was_taken_for_dead_commits_nothing_more(store: Store) -> None:
    fill(store, 10)
    one = Consumer(store, "t", group="g", enable_auto_commit=False)
    one.poll()
    for name in os.listdir(store.paths[0]):
        if name.endswith(".member"):
            os.unlink(store.paths[0] / name)
    with Consumer(store, "t", group="g") as other:
        assert len(other.poll()) == 10
        with pytest.raises(FencedMemberError):
            one.commit()
    assert committed(store) == {T: 10}
    until(lambda: one.poll(0.01) == [] and one.assignment == [T])
    assert one.position(T) == 10
    one.close()


def consume(path: str, log: str) -> None:
    """Write what one reads to a file of one's own, a line each, and commit after each batch."""
    with (
        logstore.open(path) as store,
        open(f"{log}.{os.getpid()}", "a", buffering=1) as out,
        Consumer(store, "wide", group="g", auto_commit_interval_ms=0, max_poll_records=20) as consumer,
    ):
        for message in consumer:
            out.write(f"{message.partition} {message.offset}\n")
            time.sleep(0.0005)


def test_processes_share_a_topic_and_of_a_killed_one_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    path, log = str(store.paths[0]), str(tmp_path / "read")
    processes = [SPAWN.Process(target=consume, args=(path, log), daemon=True) for _ in range(2)]
    for process in processes:
        process.start()

    def read() -> dict[str, set[str]]:
        return {one.name: set(one.read_text().splitlines()) for one in tmp_path.glob("read.*")}

    def write(begin: int) -> None:
        for number in range(4):
            fill(store, 100, "wide", number, begin=begin)

    write(0)
    until(lambda: len(set().union(*read().values())) > 150)
    assert processes[0].pid is not None
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    write(100)
    wanted = {f"{partition} {offset}" for partition in range(4) for offset in range(200)}
    until(lambda: {line for lines in read().values() for line in lines} >= wanted)
    processes[1].kill()
    processes[1].join()


# ---- the end


def test_a_closed_consumer_gives_nothing(store: Store) -> None:
    consumer = Consumer(store, "t", group="g")
    consumer.close()
    consumer.close()
    for late in (consumer.poll, consumer.commit, lambda: consumer.committed(T), lambda: next(iter(consumer))):
        with pytest.raises(ClientClosedError, match="closed"):
            late()
    consumer.wakeup()


def test_a_consumer_whose_store_is_closed_says_so(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store:
        store.create_topic("t")
        consumer = Consumer(store, "t", group="g")
    with pytest.raises(StoreClosedError):
        consumer.poll()
    with pytest.raises(StoreClosedError):  # what it has read is not committed
        consumer.close()
    with pytest.raises(ClientClosedError):
        consumer.poll()


def test_a_child_of_a_fork_cannot_consume_for_its_parent(store: Store) -> None:
    with Consumer(store, "t", group="g") as consumer:
        child = os.fork()
        if not child:
            code = 1
            try:
                consumer.poll()
            except StoreClosedError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert consumer.assignment == [T]
        consumer.commit()


def test_many_partitions_are_read_with_few_of_them_open(store: Store) -> None:
    store.create_topic("many", 120)
    for number in range(120):
        fill(store, 3, "many", number)
    with Consumer(store, "many", max_poll_records=50) as consumer:
        assert len(drained(consumer)) == 360
