"""Committed offsets of a store's groups, in `__consumer_offsets`, as Kafka's coordinator keeps them (CLUSTER §7.7).

Invariant: a group's records are in the partition by Kafka's hash of its id, so a broker that gets the directory finds
them; the last record of a key counts. What other processes commit is seen by the next look. Thread-safe. Fencing is not
done here: see `membership`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from logstore.config import Durability
from logstore.errors import OffsetOutOfRangeError, UnknownTopicError
from logstore.groups import (
    GroupConfig,
    LoadedGroups,
    OffsetAndMetadata,
    group_key,
    group_partition,
    load_groups,
    offset_key,
    offset_value,
)
from logstore.names import CONSUMER_OFFSETS_TOPIC, TopicPartition
from logstore.records import RecordBatch
from logstore.store import Followed, Partition, Store
from logstore.transactions import TransactionCoordinator

PARTITIONS = GroupConfig().offsets_topic_num_partitions
"""How many partitions the topic gets where it is made here; they must never become more (CLUSTER §7.1)."""
METADATA_BYTES_MAX = GroupConfig().offset_metadata_max_bytes
_STABLE_WAIT_S = 0.005

OffsetRecords = list[tuple[bytes, bytes | None]]
"""Keys and values, for one partition of the topic."""


class OffsetsStore:
    """The committed offsets of all groups of a store.

    Args:
        store: it.
        durability: of commits; by default that of the store.
    """

    def __init__(self, store: Store, *, durability: Durability | None = None) -> None:
        self._store = store
        self._durability = durability
        self._transactions: TransactionCoordinator | None = None
        self._guard = threading.Lock()  # guards what was replayed; taken before the partitions' own
        self._replayed: dict[int, Followed[LoadedGroups]] = {}

    def __repr__(self) -> str:
        return f"<OffsetsStore of {self._store!r}>"

    # ---- write

    def commit(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata | int]) -> None:
        """Commit the offsets of the records that are to be read next. They are all written, or none.

        Durable as the store is. An offset gets the time of its commit unless it brings one. Raises ValueError for
        what is no offset, and metadata or names that are too long; OSError.
        """
        records = self.records_of(group, offsets)
        if records:
            self.partition_of(group).append(records, durability=self._durability)

    def delete(self, group: str, partitions: Iterable[TopicPartition] | None = None) -> None:
        """Delete committed offsets of a group, all and the group itself unless some are named. Raises OSError."""
        loaded = self._loaded(group)
        if loaded is None:
            return
        known = loaded.offsets.get(group, {})
        chosen = known if partitions is None else [one for one in map(_named, partitions) if one in known]
        records: OffsetRecords = [(offset_key(group, one), None) for one in chosen]
        if partitions is None and group in loaded.groups:
            records.append((group_key(group), None))
        if records:
            self.partition_of(group).append(records, durability=self._durability)

    def records_of(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata | int]) -> OffsetRecords:
        """The records of a commit, for one who writes them in a transaction. Raises as `commit`."""
        now = self._store.clock.now_ms()
        records: OffsetRecords = []
        for partition, given in offsets.items():
            value = given if isinstance(given, OffsetAndMetadata) else OffsetAndMetadata(given)
            if not isinstance(value.offset, int) or value.offset < 0:
                raise ValueError(f"{value.offset!r} for {_named(partition)} is no offset to commit")
            if len(value.metadata) > METADATA_BYTES_MAX:
                raise ValueError(
                    f"the metadata for {_named(partition)} has {len(value.metadata)} characters, above "
                    f"{METADATA_BYTES_MAX}"
                )
            if value.commit_timestamp < 0:
                value = dataclasses.replace(value, commit_timestamp=now)
            records.append((offset_key(group, _named(partition)), offset_value(value)))
        return records

    def partition_of(self, group: str) -> Partition:
        """The partition that has a group's records; the topic is made where there is none."""
        if not self._store.has_topic(CONSUMER_OFFSETS_TOPIC):
            self._store.create_topic(CONSUMER_OFFSETS_TOPIC, PARTITIONS, exist_ok=True)
        count = self._store.topic(CONSUMER_OFFSETS_TOPIC).partitions
        return self._store.partition(CONSUMER_OFFSETS_TOPIC, group_partition(group, count))

    def check(self, offsets: Mapping[TopicPartition, OffsetAndMetadata | int]) -> None:
        """Refuse offsets that no reader could have come to.

        Raises UnknownTopicError, and OffsetOutOfRangeError for one behind the end of its partition.
        """
        for partition, given in offsets.items():
            offset = given.offset if isinstance(given, OffsetAndMetadata) else given
            end = self._store.partition(*partition).log_end_offset
            if offset > end:
                raise OffsetOutOfRangeError(f"{_named(partition)} ends at {end}", offset=offset)

    # ---- read

    def committed(self, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
        """What a group has committed, by partition; nothing for a group that nobody knows. Raises OSError."""
        loaded = self._loaded(group)
        found = {} if loaded is None else loaded.offsets.get(group, {})
        return {partition: stored.value for partition, stored in found.items()}

    def stable(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The same once no transaction is open that commits for any of `partitions` (CLUSTER §7.6).

        Waits for transactions of others to end, at most until their timeout; those of dead processes end here. One of
        this thread's own is waited for like any other: end it before.
        """
        wanted = frozenset(partitions)
        while True:
            loaded = self._loaded(group)
            pending = {} if loaded is None else loaded.pending
            if not any(wanted & groups.get(group, {}).keys() for groups in pending.values()):
                return self.committed(group)
            if not self.settle(self.partition_of(group)):
                return self.committed(group)
            time.sleep(_STABLE_WAIT_S)

    def settle(self, partition: Partition) -> bool:
        """End the transactions in any partition that nobody else will end; whether there are others."""
        if self._transactions is None:
            self._transactions = TransactionCoordinator(self._store)
        return self._transactions.settle(partition)

    def groups(self) -> list[str]:
        """All groups that have records, by name. Reads all partitions of the topic."""
        if not self._store.has_topic(CONSUMER_OFFSETS_TOPIC):
            return []
        with self._guard:
            found = [self._replay(one).group_ids() for one in self._store.partitions(CONSUMER_OFFSETS_TOPIC)]
        return sorted(set[str]().union(*found))

    def _loaded(self, group: str) -> LoadedGroups | None:
        with suppress(UnknownTopicError):  # nobody has committed anything
            count = self._store.topic(CONSUMER_OFFSETS_TOPIC).partitions
            with self._guard:
                return self._replay(self._store.partition(CONSUMER_OFFSETS_TOPIC, group_partition(group, count)))
        return None

    def _replay(self, partition: Partition) -> LoadedGroups:
        known = self._replayed.get(partition.name.partition)
        if known is None or known.partition is not partition:
            known = self._replayed[partition.name.partition] = Followed(partition, LoadedGroups, _take_in)
        return known.caught_up()


def _take_in(loaded: LoadedGroups, batches: Iterable[RecordBatch]) -> None:
    load_groups(batches, into=loaded)


def _named(partition: tuple[str, int]) -> TopicPartition:
    return TopicPartition(*partition)
