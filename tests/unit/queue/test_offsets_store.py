"""Committed offsets: written as Kafka writes them, found by any process, replayed only once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import logstore
from logstore.errors import OffsetOutOfRangeError, UnknownTopicError
from logstore.groups import OffsetAndMetadata, group_partition, offset_key, offset_value
from logstore.log import AppendOrigin
from logstore.names import TopicPartition
from logstore.queue import offsets_store
from logstore.queue.offsets_store import OffsetsStore
from logstore.records import BatchOptions, ControlType, EndTransactionMarker, encode_batch
from logstore.records.builder import encode_end_transaction_batch
from logstore.store import Store

T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as opened:
        opened.create_topic("t", 2)
        yield opened


def offsets_of(store: OffsetsStore, group: str) -> dict[TopicPartition, int]:
    return {partition: value.offset for partition, value in store.committed(group).items()}


def test_nothing_is_committed_for_a_group_that_nobody_knows(store: Store) -> None:
    assert OffsetsStore(store).committed("g") == {}
    assert OffsetsStore(store).groups() == []
    assert not store.has_topic("__consumer_offsets")


@pytest.mark.kafka("GROUP-52", "GROUP-60")
def test_what_was_committed_last_counts_even_if_it_is_smaller(store: Store) -> None:
    offsets = OffsetsStore(store)
    offsets.commit("g", {T0: OffsetAndMetadata(7, 3, "note"), T1: 2})
    found = offsets.committed("g")
    assert (found[T0].offset, found[T0].leader_epoch, found[T0].metadata) == (7, 3, "note")
    assert found[T0].commit_timestamp == pytest.approx(store.clock.now_ms(), abs=10_000)
    offsets.commit("g", {T0: 5})
    assert offsets_of(offsets, "g") == {T0: 5, T1: 2}


@pytest.mark.kafka("GROUP-82", "PART-06")
def test_a_group_is_in_the_partition_that_kafka_looks_in(store: Store) -> None:
    for group, number in (("", 0), ("foo", 24), ("my-group", 12), ("polygenelubricants", 0)):
        OffsetsStore(store).commit(group, {T0: 1})
        keys = [record.key for record in store.partition("__consumer_offsets", number).records()]
        assert offset_key(group, T0) in keys
    topic = store.topic("__consumer_offsets")
    assert topic.partitions == 50
    assert topic.config(store.config).compacted


def test_offsets_survive_reopening_and_another_process_sees_them(store: Store, tmp_path: Path) -> None:
    mine = OffsetsStore(store)
    with logstore.open(tmp_path / "store") as again:
        theirs = OffsetsStore(again)
        theirs.commit("g", {T0: 1})
        assert offsets_of(mine, "g") == {T0: 1}
        theirs.commit("g", {T0: 2})
        assert offsets_of(mine, "g") == {T0: 2}
    store.close()
    with logstore.open(tmp_path / "store") as reopened:
        assert offsets_of(OffsetsStore(reopened), "g") == {T0: 2}


def test_later_looks_read_only_what_is_new(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = OffsetsStore(store)
    for number in range(5):
        offsets.commit("g", {T0: number})
    offsets.committed("g")
    seen: list[int] = []
    original = offsets_store.load_groups
    monkeypatch.setattr(
        offsets_store, "load_groups",
        lambda batches, into: original((seen.append(one.header.base_offset) or one for one in batches), into),  # type: ignore[func-returns-value]
    )  # fmt: skip
    offsets.committed("g")
    assert seen == []
    offsets.commit("g", {T0: 9})
    assert offsets_of(offsets, "g") == {T0: 9}
    assert seen == [5]


def test_deleted_offsets_are_gone_and_the_rest_stays(store: Store) -> None:
    offsets = OffsetsStore(store)
    offsets.commit("g", {T0: 1, T1: 2})
    offsets.commit("other", {T0: 3})
    offsets.committed("g")
    offsets.delete("g", [T0])
    assert offsets_of(offsets, "g") == {T1: 2}
    assert offsets.groups() == ["g", "other"]
    offsets.delete("g")
    offsets.delete("nobody")
    assert offsets.committed("g") == {}
    assert offsets.groups() == ["other"]


@pytest.mark.kafka("GROUP-67", "GROUP-68")
def test_offsets_of_a_transaction_count_once_it_is_committed(store: Store) -> None:
    offsets = OffsetsStore(store)
    offsets.commit("g", {T0: 1})
    partition = offsets.partition_of("g")

    def append(offset: int, producer_id: int) -> None:
        options = BatchOptions(producer_id=producer_id, producer_epoch=0, base_sequence=0, is_transactional=True)
        records = [(key, value, 1) for key, value in offsets.records_of("g", {T0: offset})]
        partition.append_batch(encode_batch(records, options=options))

    def end(kind: ControlType, producer_id: int) -> None:
        marker = EndTransactionMarker(kind, 0)
        data = encode_end_transaction_batch(marker, offset=0, timestamp=1, producer_id=producer_id, producer_epoch=0)
        partition.append_batch(data, origin=AppendOrigin.COORDINATOR)

    append(10, 1)
    assert offsets_of(offsets, "g") == {T0: 1}
    end(ControlType.ABORT, 1)
    assert offsets_of(offsets, "g") == {T0: 1}
    append(20, 2)
    offsets.commit("g", {T1: 5})
    assert offsets_of(offsets, "g") == {T0: 1, T1: 5}
    end(ControlType.COMMIT, 2)
    assert offsets_of(offsets, "g") == {T0: 20, T1: 5}


def test_compaction_keeps_the_last_offset_of_each_partition(store: Store) -> None:
    offsets = OffsetsStore(store)
    for number in range(100):
        offsets.commit("g", {T0: number, T1: number + 1})
    partition = offsets.partition_of("g")
    with partition.changing() as log:
        log.roll()
    store.compact()
    assert len(list(partition.records())) < 10
    assert offsets_of(offsets, "g") == {T0: 99, T1: 100}
    assert offsets_of(OffsetsStore(store), "g") == {T0: 99, T1: 100}


def test_what_is_no_offset_is_refused(store: Store) -> None:
    offsets = OffsetsStore(store)
    with pytest.raises(ValueError, match="no offset"):
        offsets.commit("g", {T0: -1})
    with pytest.raises(ValueError, match="no offset"):
        offsets.commit("g", {T0: OffsetAndMetadata("7")})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="4097"):
        offsets.commit("g", {T0: OffsetAndMetadata(1, metadata="x" * 4097)})
    with pytest.raises(ValueError, match="longer than 32767"):
        offsets.commit("g" * 40_000, {T0: 1})
    with pytest.raises(OffsetOutOfRangeError, match="ends at 0"):
        offsets.check({T0: 1})
    with pytest.raises(UnknownTopicError):
        offsets.check({TopicPartition("no", 0): 1})
    assert offsets.committed("g") == {}


def test_the_topic_deleted_and_made_again_has_nothing_of_before(store: Store) -> None:
    offsets = OffsetsStore(store)
    offsets.commit("g", {T0: 1})
    offsets.committed("g")
    store.delete_topic("__consumer_offsets")
    assert offsets.committed("g") == {}
    offsets.commit("g", {T1: 4})
    assert offsets_of(offsets, "g") == {T1: 4}


def test_offsets_that_kafka_has_committed_are_read(kafka_fixtures: Path, tmp_path: Path) -> None:
    shutil.copytree(kafka_fixtures / "kafka-4.1.1" / "clean", tmp_path / "store")
    with logstore.open(tmp_path / "store", mode="exclusive") as store:
        offsets = OffsetsStore(store)
        # make_41.py: six groups commit three times; group-4 is deleted.
        assert offsets.groups() == [f"group-{number}" for number in (0, 1, 2, 3, 5)]
        for number in (0, 1, 2, 3, 5):
            found = offsets.committed(f"group-{number}")
            last = found[TopicPartition("plain", 0)]
            # librdkafka counts the zero at the end of a C string as one of its bytes.
            assert (last.offset, last.metadata) == (40 + number, f"note {40 + number}\0")
            assert found[TopicPartition("segments", 1)].offset == 2 * (40 + number)
        assert offsets.committed("group-4") == {}
        count = store.topic("__consumer_offsets").partitions
        assert offsets.partition_of("group-0").name.partition == group_partition("group-0", count)
        offsets.commit("group-0", {TopicPartition("plain", 0): 41})
        assert offsets_of(offsets, "group-0")[TopicPartition("plain", 0)] == 41


def test_a_value_with_an_expiry_is_kept_as_it_is(store: Store) -> None:
    value = OffsetAndMetadata(3, commit_timestamp=5, expire_timestamp=9)
    assert OffsetsStore(store).records_of("g", {T0: value}) == [(offset_key("g", T0), offset_value(value))]
