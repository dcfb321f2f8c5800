"""Groups and offsets as the records of one partition of `__consumer_offsets` give them (CLUSTER §7.8).

The last record of a key wins, by its place in the log; tombstones remove; commits of a transaction wait for its marker.
What is not understood is skipped and counted: it must not cost the other groups of the partition. Pure, no I/O; not
thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from logstore.errors import LogstoreError
from logstore.groups.offsets import OffsetAndMetadata, OffsetRecord, StoredGroup, decode
from logstore.names import TopicPartition
from logstore.records import ControlType, Record, RecordBatch

FLAWS_KEPT = 100
"""So many reasons are kept of records that could not be read; all are counted."""


@dataclass(frozen=True, slots=True)
class StoredOffset:
    """A commit, and the offset of its record in `__consumer_offsets`, by which later ones win."""

    record_offset: int
    value: OffsetAndMetadata


PartitionOffsets = dict[TopicPartition, StoredOffset]


@dataclass(slots=True)
class LoadedGroups:
    """What one partition holds.

    Attributes:
        groups: by id; a group that only stores offsets has none here.
        offsets: by group id; never empty for a group that is there.
        pending: by producer id and group id, the commits of transactions that are open at the end of the log.
        unknown_count: records with keys of another kind, or of a newer version.
        malformed_count: records and batches that do not decode; `flaws` has the first reasons, with their offsets.
    """

    groups: dict[str, StoredGroup] = field(default_factory=dict)
    offsets: dict[str, PartitionOffsets] = field(default_factory=dict)
    pending: dict[int, dict[str, PartitionOffsets]] = field(default_factory=dict)
    unknown_count: int = 0
    malformed_count: int = 0
    flaws: list[tuple[int, str]] = field(default_factory=list)

    def group_ids(self) -> set[str]:
        """Return all groups that have a record, an offset, or an open commit."""
        return {*self.groups, *self.offsets, *(group_id for groups in self.pending.values() for group_id in groups)}


def load_groups(batches: Iterable[RecordBatch], into: LoadedGroups | None = None) -> LoadedGroups:
    """Return the state after all records of a partition, in the order of the log, up to its end.

    `into` is the state after those before, and takes these in. A record that does not decode leaves what earlier ones
    of its key said. Errors of the iterable itself pass through.
    """
    loaded = LoadedGroups() if into is None else into
    for batch in batches:
        try:
            if batch.is_control:
                _end_transaction(loaded, batch.header.producer_id, batch.control_type())
                continue
            records = batch.records()
        except LogstoreError as error:
            _note(loaded, batch.header.base_offset, error)
            continue
        producer_id = batch.header.producer_id if batch.is_transactional else None
        for record in records:
            _apply_record(loaded, record, producer_id)
    return loaded


def _apply_record(loaded: LoadedGroups, record: Record, producer_id: int | None) -> None:
    try:
        decoded = decode(record.key, record.value)
    except LogstoreError as error:
        _note(loaded, record.offset, error)
        return
    if decoded is None:
        loaded.unknown_count += 1
    elif isinstance(decoded, OffsetRecord):
        _apply_offset(loaded, decoded, record.offset, producer_id)
    elif decoded.value is None:
        loaded.groups.pop(decoded.group_id, None)
    else:
        loaded.groups[decoded.group_id] = decoded.value


def _apply_offset(loaded: LoadedGroups, decoded: OffsetRecord, record_offset: int, producer_id: int | None) -> None:
    group_id, partition = decoded.group_id, decoded.partition
    if decoded.value is None:
        # An offset that was deleted stays so, though a transaction that wrote it before may end later.
        _remove(loaded.offsets, group_id, partition)
        for groups in loaded.pending.values():
            _remove(groups, group_id, partition)
        return
    groups = loaded.offsets if producer_id is None else loaded.pending.setdefault(producer_id, {})
    groups.setdefault(group_id, {})[partition] = StoredOffset(record_offset, decoded.value)


def _end_transaction(loaded: LoadedGroups, producer_id: int, control_type: ControlType | None) -> None:
    if control_type is None or not control_type.ends_transaction:
        return
    ended = loaded.pending.pop(producer_id, {})
    if control_type is ControlType.ABORT:
        return
    for group_id, offsets in ended.items():
        committed = loaded.offsets.setdefault(group_id, {})
        for partition, stored in offsets.items():
            before = committed.get(partition)
            if before is None or before.record_offset < stored.record_offset:
                committed[partition] = stored


def _remove(groups: dict[str, PartitionOffsets], group_id: str, partition: TopicPartition) -> None:
    offsets = groups.get(group_id)
    if offsets is not None:
        offsets.pop(partition, None)
        if not offsets:
            del groups[group_id]


def _note(loaded: LoadedGroups, offset: int, error: LogstoreError) -> None:
    loaded.malformed_count += 1
    if len(loaded.flaws) < FLAWS_KEPT:
        loaded.flaws.append((offset, error.reason))
