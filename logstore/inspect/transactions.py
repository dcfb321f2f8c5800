"""Which records a consumer gets: log start offset, last stable offset and aborted transactions of a partition.

Taken from the log itself, not from the transaction indexes: in one walk over the batches, as the broker would build
its producer state. Pure facts about the moment of the walk.
"""

from __future__ import annotations

import bisect
import dataclasses
import enum
from collections import defaultdict
from collections.abc import Iterable

from logstore.errors import LogstoreError
from logstore.inspect.layout import LogDirectoryContext, PartitionFiles
from logstore.log import AbortedTransaction, RecordFile
from logstore.records import ControlType, Damage, RecordBatch


class Isolation(enum.StrEnum):
    """What a consumer may see of transactions, with Kafka's words."""

    READ_UNCOMMITTED = "read_uncommitted"
    READ_COMMITTED = "read_committed"


@dataclasses.dataclass(frozen=True, slots=True)
class ConsumerView:
    """The part of a partition that a consumer is given when everything up to the log end is replicated.

    `aborted` maps a producer id to the offset ranges (first record, marker) of its aborted transactions, ascending.
    """

    isolation: Isolation
    log_start_offset: int
    last_stable_offset: int | None
    aborted: dict[int, list[tuple[int, int]]]

    def shows(self, batch: RecordBatch) -> bool:
        """Whether records of the batch reach the consumer."""
        if batch.is_control or batch.last_offset < self.log_start_offset:
            return False
        if self.isolation == Isolation.READ_UNCOMMITTED:
            return True
        first = batch.header.base_offset
        if self.last_stable_offset is not None and first >= self.last_stable_offset:
            return False
        return not (batch.is_transactional and self._is_aborted(batch.header.producer_id, first))

    def _is_aborted(self, producer_id: int, offset: int) -> bool:
        ranges = self.aborted.get(producer_id, [])
        found = bisect.bisect_right(ranges, (offset, 2**63)) - 1
        return found >= 0 and ranges[found][0] <= offset <= ranges[found][1]


class TransactionTracker:
    """Follows transactions batch by batch, in offset order (LOG_SEMANTICS §4.3)."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}  # producer id -> first offset
        self.aborted: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.aborts: list[AbortedTransaction] = []  # what the transaction indexes should hold
        self.committed_count = 0

    def add(self, batch: RecordBatch) -> ControlType | None:
        """Take a batch; the type of marker it is, if it is one. Raises LogstoreError for a marker without sense."""
        if not batch.is_transactional:
            return None
        producer_id = batch.header.producer_id
        if not batch.is_control:
            self.open.setdefault(producer_id, batch.header.base_offset)
            return None
        control_type = batch.control_type()
        if control_type is None or not control_type.ends_transaction:
            return control_type
        first = self.open.pop(producer_id, None)
        if control_type == ControlType.COMMIT:
            self.committed_count += 1
        elif first is not None:
            marker = batch.last_offset
            self.aborted[producer_id].append((first, marker))
            stable = min(self.open.values(), default=marker + 1)
            self.aborts.append(AbortedTransaction(producer_id, first, marker, stable))
        return control_type

    @property
    def first_open_offset(self) -> int | None:
        """First offset of the oldest transaction that has not ended."""
        return min(self.open.values(), default=None)


def consumer_view(
    partition: PartitionFiles, context: LogDirectoryContext | None, isolation: Isolation, *, batch_bytes_max: int
) -> ConsumerView:
    """Work out what a consumer of `partition` is given.

    Damaged batches count for nothing here, as they do when the records are read.
    """
    log_start = partition.segments[0].base_offset if partition.segments else 0
    if context is not None and partition.checkpointed is not None:
        log_start = max(log_start, context.log_starts.get(partition.checkpointed, 0))
    tracker = TransactionTracker()
    if isolation == Isolation.READ_COMMITTED:
        for batch in _batches(partition, batch_bytes_max):
            try:
                tracker.add(batch)
            except LogstoreError:
                continue  # reading the records will report it
    return ConsumerView(isolation, log_start, tracker.first_open_offset, tracker.aborted)


def _batches(partition: PartitionFiles, batch_bytes_max: int) -> Iterable[RecordBatch]:
    for segment in partition.segments:
        try:
            with RecordFile(segment.log) as file:
                for found in file.batches(batch_bytes_max=batch_bytes_max, offset_min=segment.base_offset):
                    if not isinstance(found, Damage):
                        yield found
        except OSError:
            continue  # reading the records will report it
