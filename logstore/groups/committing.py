"""OffsetCommit, TxnOffsetCommit, OffsetFetch, and what removes offsets and groups (CLUSTER §7.6, §7.9).

Invariant: what is committed, and what is gone, follows the log: nothing changes before its record has been written, and
of two records of a partition the later one counts. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from logstore.groups.errors import ErrorCode, offset_write_error
from logstore.groups.expiry import GroupFacts, expired_offsets
from logstore.groups.group import Group
from logstore.groups.loading import StoredOffset
from logstore.groups.membership import check_generation
from logstore.groups.messages import (
    CommitOffset,
    FetchedOffset,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
    commit_error,
)
from logstore.groups.offsets import OffsetAndMetadata, fits_string, group_key, offset_key, offset_value
from logstore.groups.pending import KeyAndValue, Pending
from logstore.groups.rebalancing import Desk, Rebalances
from logstore.groups.states import GroupState
from logstore.names import TopicPartition

HasPartition = Callable[[TopicPartition], bool]


class Offsets:
    """Serves all that concerns committed offsets.

    Args:
        has_partition: whether there is such a partition to commit for.
    """

    def __init__(self, desk: Desk, rebalances: Rebalances, has_partition: HasPartition) -> None:
        self._desk = desk
        self._rebalances = rebalances
        self._has_partition = has_partition
        self._open: dict[int, set[str]] = {}  # by producer, the groups it may have an open transaction in

    def __repr__(self) -> str:
        return f"<Offsets of {len(self._desk.groups)} groups>"

    # ---- commit

    def commit(self, request: OffsetCommitRequest, group: Group, pending: Pending[OffsetCommitResponse]) -> None:
        """Serve a commit; `group` may be a new one that nobody knows yet."""
        error = self._commit_error(request, group)
        if error is not ErrorCode.NONE:
            self._desk.outbox.answer(pending, commit_error(error, request.offsets))
            return
        member = group.members.get(request.member_id)
        if member is not None:
            self._rebalances.touch(group, member)
        errors = {partition: self._partition_error(partition, one) for partition, one in request.offsets.items()}
        values = {
            partition: self._value(request.offsets[partition], request.retention_ms)
            for partition, refused in errors.items()
            if refused is ErrorCode.NONE
        }
        records: list[KeyAndValue] = [
            (offset_key(group.group_id, partition), offset_value(value)) for partition, value in values.items()
        ]
        producer_id = request.producer_id
        if values:
            self._desk.groups[group.group_id] = group
            group.offsets.begin(values, producer_id)
            if request.is_transactional:
                self._open.setdefault(producer_id, set()).add(group.group_id)

        def done(error: ErrorCode, base_offset: int) -> None:
            is_written = error is ErrorCode.NONE
            for number, (partition, value) in enumerate(values.items()):
                stored = StoredOffset(base_offset + number, value) if is_written else None
                group.offsets.end(partition, producer_id, stored)
                errors[partition] = offset_write_error(error)
            self._desk.outbox.answer(pending, OffsetCommitResponse(errors))
            self._desk.forget_blank(group)

        self._desk.write(group, records, done, (producer_id, request.producer_epoch))

    def _commit_error(self, request: OffsetCommitRequest, group: Group) -> ErrorCode:
        has_generation = request.generation_id >= 0
        if not has_generation and group.state is GroupState.EMPTY:
            return ErrorCode.NONE  # somebody who assigns partitions itself, or an administrator
        if has_generation or request.member_id or request.group_instance_id is not None:
            member_id, instance = request.member_id, request.group_instance_id
            error = check_generation(group, member_id, instance, request.generation_id)
            if error is not ErrorCode.NONE:
                return error
        elif not request.is_transactional:  # older transactional producers do not say who they are
            return ErrorCode.UNKNOWN_MEMBER_ID
        if group.state is GroupState.COMPLETING_REBALANCE and not request.is_transactional:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def _partition_error(self, partition: TopicPartition, offset: CommitOffset) -> ErrorCode:
        if not self._has_partition(partition):
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        text = offset.metadata or ""
        # Java counts UTF-16 units.
        size = len(text.encode("utf-16-be", "surrogatepass")) // 2
        if size > self._desk.config.offset_metadata_max_bytes or not fits_string(text):
            return ErrorCode.OFFSET_METADATA_TOO_LARGE
        return ErrorCode.NONE

    def _value(self, offset: CommitOffset, retention_ms: int | None) -> OffsetAndMetadata:
        now = self._desk.clock.now_ms()
        return OffsetAndMetadata(
            offset.offset,
            offset.leader_epoch,
            offset.metadata or "",
            now if offset.commit_timestamp is None else offset.commit_timestamp,
            None if retention_ms is None or retention_ms < 0 else now + retention_ms,
        )

    # ---- transactions

    def load_transaction(self, group: Group, producer_id: int, written: dict[TopicPartition, StoredOffset]) -> None:
        """Take over the commits of an open transaction from the log."""
        group.offsets.load_transaction(producer_id, written)
        self._open.setdefault(producer_id, set()).add(group.group_id)

    def end_transaction(self, producer_id: int, partitions: Iterable[int], is_commit: bool) -> None:
        """Heed the marker that has been written to these partitions of `__consumer_offsets`."""
        ended = set(partitions)
        left = set()
        for group_id in sorted(self._open.pop(producer_id, ())):
            group = self._desk.groups.get(group_id)
            if group is None:
                continue
            if group.partition in ended:
                group.offsets.end_transaction(producer_id, is_commit)
                self._desk.forget_blank(group)
            else:
                left.add(group_id)
        if left:
            self._open[producer_id] = left

    # ---- fetch

    def fetch(self, request: OffsetFetchRequest, group: Group | None) -> OffsetFetchResponse:
        """Return what is committed; an unknown group has nothing, and is no error."""
        if group is None:
            return OffsetFetchResponse(ErrorCode.NONE, dict.fromkeys(request.partitions or (), FetchedOffset()))
        committed = group.offsets.committed
        partitions = request.partitions
        if partitions is None:
            partitions = tuple(committed)
        unstable = set(group.offsets.pending()) if request.require_stable else set()
        return OffsetFetchResponse(
            ErrorCode.NONE, {one: _fetched(committed.get(one), one in unstable) for one in partitions}
        )

    # ---- what goes

    def delete(
        self,
        group: Group,
        partitions: Iterable[TopicPartition],
        done: Callable[[dict[TopicPartition, ErrorCode]], None],
    ) -> None:
        """Delete offsets that no member may be using; `done` is told what became of each."""
        errors = {}
        for partition in partitions:
            if not self._has_partition(partition):
                errors[partition] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif group.members and group.is_subscribed(partition.topic):
                errors[partition] = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
            else:
                errors[partition] = ErrorCode.NONE
        allowed = [partition for partition, error in errors.items() if error is ErrorCode.NONE]

        def written(error: ErrorCode) -> None:
            done({one: error if refused is ErrorCode.NONE else refused for one, refused in errors.items()})

        self._erase(group, [one for one in allowed if self._has_commit(group, one)], False, written)

    def delete_group(self, group: Group, done: Callable[[ErrorCode], None]) -> None:
        """Delete an Empty group with all its offsets, those under way included; `done` is told what became of it."""
        partitions = dict.fromkeys((*group.offsets.committed, *group.offsets.pending()))
        self._erase(group, partitions, True, done)

    def delete_partitions(self, partitions: Iterable[TopicPartition]) -> None:
        """Delete the offsets of partitions that are no more, in all groups."""
        gone = list(dict.fromkeys(partitions))
        for group in list(self._desk.groups.values()):
            found = [one for one in gone if self._has_commit(group, one)]
            if found:
                self._erase(group, found, False, lambda error: None)

    def expire(self) -> None:
        """Delete what is too old, and Empty groups that have no offsets; what fails is tried again next time."""
        now = self._desk.clock.now_ms()
        for group in list(self._desk.groups.values()):
            expired = expired_offsets(_facts(group), now, self._desk.config.offsets_retention_ms)
            dies = (
                group.state is GroupState.EMPTY
                and not group.pending_members
                and not any(group.offsets.pending())
                and len(expired) == len(group.offsets.committed)
            )
            if expired or dies:
                self._erase(group, expired, dies, lambda error: None)

    def _erase(
        self, group: Group, partitions: Iterable[TopicPartition], with_group: bool, done: Callable[[ErrorCode], None]
    ) -> None:
        """Write tombstones; once they are written, the offsets are gone, and the group, if nothing keeps it."""
        erased = sorted(partitions)
        records: list[KeyAndValue] = [(offset_key(group.group_id, partition), None) for partition in erased]
        if with_group and group.generation_id > 0:
            records.append((group_key(group.group_id), None))

        def written(error: ErrorCode, base_offset: int) -> None:
            if error is ErrorCode.NONE:
                for number, partition in enumerate(erased):
                    group.offsets.remove(partition, base_offset + number)
                is_over = with_group and group.state is GroupState.EMPTY and not group.pending_members
                if is_over and not group.offsets:
                    self._desk.bury(group)
            done(offset_write_error(error))

        self._desk.write(group, records, written)

    def _has_commit(self, group: Group, partition: TopicPartition) -> bool:
        return partition in group.offsets.committed or group.offsets.is_pending(partition)


def _facts(group: Group) -> GroupFacts:
    offsets = {partition: stored.value for partition, stored in group.offsets.committed.items()}
    return GroupFacts(
        group.state,
        group.protocol_type,
        group.state_timestamp,
        group.subscribed_topics,
        offsets,
        set(group.offsets.pending()),
    )


def _fetched(stored: StoredOffset | None, is_unstable: bool) -> FetchedOffset:
    if is_unstable:
        return FetchedOffset(error=ErrorCode.UNSTABLE_OFFSET_COMMIT)
    if stored is None:
        return FetchedOffset()
    value = stored.value
    return FetchedOffset(value.offset, value.leader_epoch, value.metadata)
