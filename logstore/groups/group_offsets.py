"""The committed offsets of one group, and the commits that are under way (CLUSTER §7.6).

Invariant: of two commits of a partition the one with the later record in the log wins, in whichever order their writes
end or their transaction's marker comes. Commits that are under way are never visible as committed. Not thread-safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from logstore.groups.loading import PartitionOffsets, StoredOffset
from logstore.names import TopicPartition


class GroupOffsets:
    """What a group has committed.

    Attributes:
        committed: by partition; change it by the methods only.
    """

    def __init__(self, committed: Mapping[TopicPartition, StoredOffset] | None = None) -> None:
        self.committed: PartitionOffsets = dict(committed or {})
        self._writing: Counter[TopicPartition] = Counter()
        # By producer: commits whose writes have not ended, and those that are in the log and wait for the marker.
        self._transactions: dict[int, _Transaction] = {}

    def __repr__(self) -> str:
        return f"<GroupOffsets {len(self.committed)} committed, {len(set(self.pending()))} pending>"

    def __bool__(self) -> bool:
        """Whether there is a commit, or one under way."""
        return bool(self.committed or self._writing or self._transactions)

    def pending(self) -> Iterator[TopicPartition]:
        """The partitions with a commit under way, some perhaps twice."""
        yield from self._writing
        for transaction in self._transactions.values():
            yield from transaction.writing
            yield from transaction.written

    def is_pending(self, partition: TopicPartition) -> bool:
        """Whether the partition has a commit that is not in the log yet, or belongs to an open transaction."""
        return partition in self._writing or any(
            partition in transaction.writing or partition in transaction.written
            for transaction in self._transactions.values()
        )

    def begin(self, partitions: Iterable[TopicPartition], producer_id: int) -> None:
        """Note that commits are being written: of a transaction, or with -1 plain ones."""
        writing = self._writing
        if producer_id >= 0:
            writing = self._transactions.setdefault(producer_id, _Transaction()).writing
        writing.update(iter(partitions))  # a mapping would be taken for counts

    def end(self, partition: TopicPartition, producer_id: int, stored: StoredOffset | None) -> None:
        """Note how a commit ended that `begin` announced; None: it is not in the log."""
        if producer_id < 0:
            _count_down(self._writing, partition)
            if stored is not None:
                _keep_later(self.committed, partition, stored)
            return
        transaction = self._transactions.get(producer_id)
        if transaction is None:  # the transaction has ended meanwhile
            return
        _count_down(transaction.writing, partition)
        if stored is not None:
            _keep_later(transaction.written, partition, stored)
        if transaction.is_empty:
            del self._transactions[producer_id]

    def load_transaction(self, producer_id: int, written: PartitionOffsets) -> None:
        """Take over the commits of a transaction that was open when the log was loaded."""
        self._transactions[producer_id] = _Transaction(written)

    def end_transaction(self, producer_id: int, is_commit: bool) -> None:
        """Make the commits of a producer's transaction count, or drop them."""
        transaction = self._transactions.pop(producer_id, None)
        if transaction is not None and is_commit:
            for partition, stored in transaction.written.items():
                _keep_later(self.committed, partition, stored)

    def remove(self, partition: TopicPartition, tombstone_offset: int) -> None:
        """Drop what was committed for a partition before its tombstone, in transactions that are still open too."""
        for offsets in (self.committed, *(transaction.written for transaction in self._transactions.values())):
            stored = offsets.get(partition)
            if stored is not None and stored.record_offset < tombstone_offset:
                del offsets[partition]
        for producer_id in [one for one, transaction in self._transactions.items() if transaction.is_empty]:
            del self._transactions[producer_id]


class _Transaction:
    """The commits of one producer."""

    __slots__ = ("writing", "written")

    def __init__(self, written: PartitionOffsets | None = None) -> None:
        self.writing: Counter[TopicPartition] = Counter()
        self.written: PartitionOffsets = dict(written or {})

    @property
    def is_empty(self) -> bool:
        return not self.writing and not self.written


def _keep_later(offsets: PartitionOffsets, partition: TopicPartition, stored: StoredOffset) -> None:
    before = offsets.get(partition)
    if before is None or before.record_offset < stored.record_offset:
        offsets[partition] = stored


def _count_down(writing: Counter[TopicPartition], partition: TopicPartition) -> None:
    writing[partition] -= 1
    if writing[partition] <= 0:
        del writing[partition]
