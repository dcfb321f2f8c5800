"""What is known of a transactional id: its producer and the state of its transaction, as `__transaction_state` has it.

Invariant: what is written is version 0 of Kafka's value, which all brokers read; read are all versions that
`records.internal` knows. Pure functions and immutable values: thread-safe. Layout: CLUSTER §8.6.

    key 0    i16 0, string transactional id
    value 0  i16 0, i64 producer id, i16 epoch, i32 timeout (ms), i8 status, i32 count of topics or -1, then for each
             string topic, i32 count, i32 partitions...; i64 last update (ms), i64 start (ms)
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterable, Mapping
from typing import Any, Self

from logstore.errors import InvalidRecordError, UnsupportedFormatError
from logstore.groups import fits_string, group_partition
from logstore.names import TopicPartition
from logstore.records.internal.transaction_state import decode_transaction_state_key, decode_transaction_state_value

EPOCH_MAX = 2**15 - 2
"""The last epoch that a producer gets; the one behind it is for who fences it."""

transaction_partition = group_partition
"""The partition of `__transaction_state` that has a transactional id, of so many (CLUSTER §8.3)."""

_VALUE = struct.Struct(">hqhib")
_TIMES = struct.Struct(">qq")
_NO_TIME = -1


class TransactionStatus(enum.IntEnum):
    """Where a transaction stands. On disk; never change."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5
    DEAD = 6

    @property
    def is_prepared(self) -> bool:
        """Whether it is decided how it ends, and not all partitions may know."""
        return self in (TransactionStatus.PREPARE_COMMIT, TransactionStatus.PREPARE_ABORT)

    @property
    def is_commit(self) -> bool:
        """Whether it is decided that what was written counts."""
        return self in (TransactionStatus.PREPARE_COMMIT, TransactionStatus.COMPLETE_COMMIT)

    @property
    def is_open(self) -> bool:
        """Whether partitions may hold data of it whose end they do not know."""
        return self is TransactionStatus.ONGOING or self.is_prepared


@dataclasses.dataclass(frozen=True, slots=True)
class TransactionMetadata:
    """A transactional id.

    Attributes:
        transactional_id: it.
        producer_id, producer_epoch: of its producer; all before are fenced.
        timeout_ms: how long a transaction may be open before anybody may abort it.
        status: of its transaction.
        partitions: that take part in it; none unless it is open.
        last_update_ms, start_ms: when this was written, and when the transaction began; -1 without one.
    """

    transactional_id: str
    producer_id: int
    producer_epoch: int
    timeout_ms: int
    status: TransactionStatus
    partitions: frozenset[TopicPartition] = frozenset()
    last_update_ms: int = _NO_TIME
    start_ms: int = _NO_TIME

    # ---- transitions

    def with_producer(self, producer_id: int, producer_epoch: int, timeout_ms: int, now_ms: int) -> Self:
        """The same id in the hands of another producer, without a transaction."""
        return dataclasses.replace(
            self, producer_id=producer_id, producer_epoch=producer_epoch, timeout_ms=timeout_ms,
            status=TransactionStatus.EMPTY, partitions=frozenset(), last_update_ms=now_ms, start_ms=_NO_TIME,
        )  # fmt: skip

    def with_partitions(self, partitions: Iterable[TopicPartition], now_ms: int) -> Self:
        """With these in its transaction, which begins where none is open."""
        is_ongoing = self.status is TransactionStatus.ONGOING
        return dataclasses.replace(
            self, status=TransactionStatus.ONGOING,
            partitions=self.partitions.union(partitions) if is_ongoing else frozenset(partitions),
            last_update_ms=now_ms, start_ms=self.start_ms if is_ongoing else now_ms,
        )  # fmt: skip

    def prepared(self, *, commit: bool, now_ms: int) -> Self:
        """With its transaction decided."""
        status = TransactionStatus.PREPARE_COMMIT if commit else TransactionStatus.PREPARE_ABORT
        return dataclasses.replace(self, status=status, last_update_ms=now_ms)

    def fenced(self) -> Self:
        """In an epoch of its own, in which no producer works."""
        return dataclasses.replace(self, producer_epoch=self.producer_epoch + 1)

    def completed(self, now_ms: int) -> Self:
        """With its transaction ended in all partitions."""
        is_commit = self.status is TransactionStatus.PREPARE_COMMIT
        status = TransactionStatus.COMPLETE_COMMIT if is_commit else TransactionStatus.COMPLETE_ABORT
        return dataclasses.replace(self, status=status, partitions=frozenset(), last_update_ms=now_ms)

    def is_late(self, now_ms: int) -> bool:
        """Whether its transaction is open for longer than it may."""
        return self.status is TransactionStatus.ONGOING and now_ms - self.start_ms > self.timeout_ms

    # ---- bytes

    def value(self) -> bytes:
        """The value of its record. Raises ValueError for names that do not fit."""
        topics: dict[str, list[int]] = {}
        for topic, number in sorted(self.partitions):
            topics.setdefault(topic, []).append(number)
        # None as long as there is no transaction, as Kafka has it: a transaction that has ended has an empty list.
        count = -1 if self.status is TransactionStatus.EMPTY else len(topics)
        parts = [
            _VALUE.pack(0, self.producer_id, self.producer_epoch, self.timeout_ms, self.status),
            struct.pack(">i", count),
        ]
        for topic, numbers in topics.items():
            parts += [_string(topic), struct.pack(f">i{len(numbers)}i", len(numbers), *numbers)]
        return b"".join((*parts, _TIMES.pack(self.last_update_ms, self.start_ms)))


def transaction_key(transactional_id: str) -> bytes:
    """The key of its record. Raises ValueError for one that is too long."""
    return struct.pack(">h", 0) + _string(transactional_id)


def decode_transaction(key: bytes | None, value: bytes | None) -> tuple[str, TransactionMetadata | None] | None:
    """The id of a record and what it says, None for one that was deleted; None for a key of another kind.

    Raises InvalidRecordError, UnsupportedFormatError for a value of a newer version.
    """
    named: Mapping[str, Any] = decode_transaction_state_key(key)
    if "data" not in named:
        return None
    transactional_id = str(named["data"]["transactionalId"])
    read: Mapping[str, Any] | None = decode_transaction_state_value(key, value)
    if read is None:
        return transactional_id, None
    if "data" not in read:
        raise UnsupportedFormatError(f"the state of {transactional_id!r} is of version {read['version']}")
    return transactional_id, _metadata(transactional_id, read["data"])


def check_transactional_id(transactional_id: str) -> None:
    """Raise ValueError for what is none."""
    if not isinstance(transactional_id, str) or not transactional_id or not fits_string(transactional_id):
        raise ValueError(f"{transactional_id!r} is no transactional id: it is text, not empty, and not too long")


def _metadata(transactional_id: str, fields: Mapping[str, Any]) -> TransactionMetadata:
    number = fields["transactionStatus"]
    if number not in TransactionStatus.__members__.values():
        raise InvalidRecordError(f"{number} is no status of a transaction")
    partitions = frozenset(
        TopicPartition(one["topic"], partition)
        for one in fields["transactionPartitions"] or ()
        for partition in one["partitionIds"]
    )
    return TransactionMetadata(
        transactional_id, fields["producerId"], fields["producerEpoch"], fields["transactionTimeoutMs"],
        TransactionStatus(number), partitions, fields["transactionLastUpdateTimestampMs"],
        fields["transactionStartTimestampMs"],
    )  # fmt: skip


def _string(text: str) -> bytes:
    if not fits_string(text):
        raise ValueError(f"{text[:100]!r}... does not fit a record")
    data = text.encode()
    return struct.pack(">h", len(data)) + data
