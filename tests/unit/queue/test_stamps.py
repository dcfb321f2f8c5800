"""Idempotent producers: a batch whose writing failed or was interrupted is written again, and is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import logstore
from logstore.queue import Producer
from logstore.queue.stamps import Stamps
from logstore.records import Codec, RecordBatch, iter_batches
from logstore.store import FIRST_PRODUCER_ID, Partition, Store
from logstore.transactions import EPOCH_MAX


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("t")
        yield opened


@pytest.fixture
def partition(store: Store) -> Partition:
    return store.partition("t")


def batches(partition: Partition) -> list[RecordBatch]:
    return list(iter_batches(partition.read(0, bytes_max=1 << 20))) if partition.log_end_offset else []


def stamps_of(partition: Partition) -> list[tuple[int, int, int]]:
    """Producer, epoch and first sequence of each batch."""
    return [
        (one.header.producer_id - FIRST_PRODUCER_ID, one.header.producer_epoch, one.header.base_sequence)
        for one in batches(partition)
    ]


def values(partition: Partition) -> list[bytes | None]:
    return [one.value for one in partition.records()]


class Disturbed:
    """An append that is disturbed in the ways given, one after the other; then it works."""

    def __init__(self, append: Callable[..., Any], *ways: str) -> None:
        self.append = append
        self.ways = list(ways)

    def __call__(self, *given: Any, **options: Any) -> Any:
        way = self.ways.pop(0) if self.ways else ""
        if way == "before":
            raise OSError("no disk")
        done = self.append(*given, **options)
        if way == "after":
            raise OSError("no disk")
        if way == "interrupted":
            raise KeyboardInterrupt
        return done


@pytest.mark.parametrize("durability", ["os", "always"])
def test_batches_are_stamped_in_a_row(store: Store, partition: Partition, durability: Any) -> None:
    with Producer(store, enable_idempotence=True, durability=durability, compression="lz4") as producer:
        for count in (3, 2, 1):
            for number in range(count):
                producer.send("t", b"%d" % number)
            producer.flush()
        producer.send_many("t", [(None, b"x")] * 4)
    assert stamps_of(partition) == [(0, 0, 0), (0, 0, 3), (0, 0, 5), (0, 0, 6)]
    assert {one.codec for one in batches(partition)} == {Codec.LZ4}
    with Producer(store, enable_idempotence=True) as another:
        another.send("t", b"y")
    assert stamps_of(partition)[-1] == (1, 0, 0)


@pytest.mark.kafka("TXNC-37")
@pytest.mark.parametrize("ways", [["before"], ["after"], ["after", "before"], ["before", "after"]])
def test_a_write_that_fails_is_tried_again_and_is_there_once(
    store: Store, partition: Partition, monkeypatch: pytest.MonkeyPatch, ways: list[str]
) -> None:
    monkeypatch.setattr(partition, "append_batch", Disturbed(partition.append_batch, *ways))
    with Producer(store, enable_idempotence=True) as producer:
        first = producer.send("t", b"a")
        producer.flush()
        second = producer.send("t", b"b")
    assert (first.result().offset, second.result().offset) == (0, 1)
    assert values(partition) == [b"a", b"b"]


def test_after_a_write_that_keeps_failing_a_new_epoch_begins(
    store: Store, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Producer(store, enable_idempotence=True) as producer:
        producer.send("t", b"a").result()
        with monkeypatch.context() as patch:
            patch.setattr(partition, "append_batch", Disturbed(partition.append_batch, *["before"] * 3))
            assert isinstance(producer.send("t", b"b").exception(), OSError)
        producer.send("t", b"c").result()
    assert stamps_of(partition) == [(0, 0, 0), (0, 1, 0)]
    assert values(partition) == [b"a", b"c"]


def test_what_was_interrupted_is_written_with_the_next_flush_and_once(
    store: Store, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "append_batch", Disturbed(partition.append_batch, "interrupted"))
    with Producer(store, enable_idempotence=True) as producer:
        first = producer.send("t", b"a")
        with pytest.raises(KeyboardInterrupt):
            producer.flush()
        second = producer.send("t", b"b")  # does not join what was written already
        producer.flush()
    assert (first.result().offset, second.result().offset) == (0, 1)
    assert values(partition) == [b"a", b"b"]
    assert stamps_of(partition) == [(0, 0, 0), (0, 0, 1)]


def test_many_records_that_were_interrupted_do_not_pass_for_others(
    store: Store, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "append_batch", Disturbed(partition.append_batch, "interrupted"))
    with Producer(store, enable_idempotence=True) as producer:
        with pytest.raises(KeyboardInterrupt):
            producer.send_many("t", [(None, b"a"), (None, b"b")])
        producer.send_many("t", [(None, b"c"), (None, b"d")])
    assert values(partition) == [b"a", b"b", b"c", b"d"]
    assert stamps_of(partition) == [(0, 0, 0), (0, 1, 0)]


def test_behind_the_last_epoch_comes_another_producer(store: Store, partition: Partition) -> None:
    stamps = Stamps(store, Codec.NONE)
    for _ in range(EPOCH_MAX):
        stamps.lost(OSError())
    with stamps.stamped(partition.name, [1]) as options:
        before = options
    stamps.lost(OSError())
    with stamps.stamped(partition.name, [1]) as options:
        assert (options.producer_id, options.producer_epoch) == (before.producer_id + 1, 0)
    assert before.producer_epoch == EPOCH_MAX


def test_what_is_refused_takes_no_sequence(store: Store, partition: Partition) -> None:
    store.alter_topic("t", {"cleanup.policy": "compact"})
    with Producer(store, enable_idempotence=True) as producer:
        producer.send("t", b"a", key=b"k").result()
        with pytest.raises(logstore.LogstoreError, match="refused"):
            producer.send_many("t", [(b"k", b"b"), (None, b"no key"), (b"k", b"c")])
        producer.send("t", b"d", key=b"k").result()
    assert values(partition) == [b"a", b"b", b"c", b"d"]
    assert [first for _, _, first in stamps_of(partition)] == [0, 1, 2, 3]
