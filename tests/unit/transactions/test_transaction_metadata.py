"""The records of `__transaction_state`, written and read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from logstore.errors import InvalidRecordError, UnsupportedFormatError
from logstore.names import TopicPartition
from logstore.records import iter_batches
from logstore.records.internal.transaction_state import decode_transaction_state_value
from logstore.transactions import (
    TransactionMetadata,
    TransactionStatus,
    decode_transaction,
    transaction_key,
    transaction_partition,
)

T0, T1, U0 = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)
EMPTY = TransactionMetadata("id", 7, 2, 60_000, TransactionStatus.EMPTY, last_update_ms=5)


def test_what_is_written_is_read() -> None:
    ongoing = EMPTY.with_partitions([T0, U0], 100).with_partitions([T1], 200)
    for one in (EMPTY, ongoing, ongoing.prepared(commit=True, now_ms=300), ongoing.fenced().completed(400)):
        assert decode_transaction(transaction_key("id"), one.value()) == ("id", one)


def test_a_transaction_begins_with_its_first_partition_and_ends_without_any() -> None:
    begun = EMPTY.with_partitions([T0], 100)
    more = begun.with_partitions([T1], 200)
    assert (more.status, more.partitions, more.start_ms, more.last_update_ms) == (
        TransactionStatus.ONGOING, {T0, T1}, 100, 200,
    )  # fmt: skip
    committed = more.prepared(commit=True, now_ms=300).completed(400)
    assert (committed.status, committed.partitions) == (TransactionStatus.COMPLETE_COMMIT, frozenset())
    assert more.prepared(commit=False, now_ms=300).completed(400).status is TransactionStatus.COMPLETE_ABORT
    again = committed.with_partitions([U0], 500)
    assert (again.partitions, again.start_ms) == ({U0}, 500)


def test_an_empty_one_has_null_for_partitions_and_one_that_has_ended_an_empty_list() -> None:
    """As Kafka 4.1.1 writes it: see the partition below."""

    def partitions(one: TransactionMetadata) -> object:
        read = decode_transaction_state_value(transaction_key("id"), one.value())
        assert read is not None
        return read["data"]["transactionPartitions"]  # type: ignore[index]

    assert partitions(EMPTY) is None
    assert partitions(EMPTY.with_partitions([T0], 1).prepared(commit=True, now_ms=2).completed(3)) == []


def test_what_a_broker_wrote_is_read_and_reads_the_same_when_written_again(kafka_fixtures: Path) -> None:
    logs = sorted((kafka_fixtures / "kafka-4.1.1" / "clean").glob("__transaction_state-*/*.log"))
    seen = set()
    for record in (one for log in logs for batch in iter_batches(log.read_bytes()) for one in batch.records()):
        read = decode_transaction(record.key, record.value)
        assert read is not None
        transactional_id, metadata = read
        assert metadata is not None
        seen.add(metadata.status)
        assert transaction_key(transactional_id) == record.key
        assert decode_transaction(record.key, metadata.value()) == read
    assert seen >= {
        TransactionStatus.EMPTY, TransactionStatus.ONGOING, TransactionStatus.PREPARE_COMMIT,
        TransactionStatus.PREPARE_ABORT, TransactionStatus.COMPLETE_COMMIT, TransactionStatus.COMPLETE_ABORT,
    }  # fmt: skip


def test_an_id_that_was_deleted_and_a_key_of_another_kind_say_so() -> None:
    assert decode_transaction(transaction_key("id"), None) == ("id", None)
    assert decode_transaction(b"\x00\x09whatever", b"") is None


def test_a_value_of_a_newer_version_or_with_no_status_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match="version 9"):
        decode_transaction(transaction_key("id"), b"\x00\x09" + EMPTY.value()[2:])
    with pytest.raises(InvalidRecordError, match="99 is no status"):
        decode_transaction(transaction_key("id"), EMPTY.value()[:16] + b"\x63" + EMPTY.value()[17:])
    with pytest.raises(InvalidRecordError):
        decode_transaction(transaction_key("id"), EMPTY.value()[:-1])
    with pytest.raises(InvalidRecordError):
        decode_transaction(None, EMPTY.value())


def test_only_an_ongoing_transaction_can_be_late() -> None:
    ongoing = dataclasses.replace(EMPTY, timeout_ms=50).with_partitions([T0], 100)
    assert not ongoing.is_late(150)
    assert ongoing.is_late(151)
    assert not ongoing.prepared(commit=True, now_ms=120).is_late(1000)


def test_an_id_is_in_the_partition_that_kafka_looks_in() -> None:
    assert transaction_partition("my-group", 50) == 12


def test_an_id_that_is_too_long_for_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        transaction_key("x" * 40_000)
