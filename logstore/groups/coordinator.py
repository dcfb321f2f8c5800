"""The group coordinator of the classic protocol, as a state machine without I/O.

It is told what clients ask, what time it is (by a `Clock`), and how writes ended; it hands out answers and the records
to be written. Whoever drives it goes round in a circle:

    coordinator.expire()                                     # at the latest when next_deadline_ms has come
    pending = coordinator.join_group(request, version)       # requests; those that may have to wait give a Pending
    for write in coordinator.take_writes():                  # append each to its partition, in order, acks from all
        coordinator.written(write, base_offset)              # or coordinator.failed(write, error)
    for pending in coordinator.take_answers():               # send pending.response to whoever asked
        ...

A partition of `__consumer_offsets` is coordinated here from `begin_load` and `finish_load` until `unload`. Requests
come and writes end in any order, but of the writes of one partition those that succeed are told in the order of the
log.

Invariant: each request is answered once; while one waits, there is a write that has not ended, or a deadline.
Generations of a group only grow. The same calls at the same times give the same answers, but for the ids of new
members. Not thread-safe: one lock, or one thread, for all calls. Rules: CLUSTER §7.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any

from logstore.clock import Clock
from logstore.groups.administration import Administration
from logstore.groups.committing import HasPartition, Offsets
from logstore.groups.errors import ErrorCode
from logstore.groups.group import Group
from logstore.groups.group_offsets import GroupOffsets
from logstore.groups.joining import Joins
from logstore.groups.loading import LoadedGroups
from logstore.groups.membership import MEMBER_LIST_VERSION, Membership
from logstore.groups.messages import (
    DeleteGroupsResponse,
    DescribedGroup,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    ListGroupsResponse,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetFetchRequest,
    OffsetFetchResponse,
    SyncGroupRequest,
    SyncGroupResponse,
    commit_error,
    join_error,
)
from logstore.groups.offsets import fits_string, group_partition
from logstore.groups.ownership import Ownership
from logstore.groups.pending import Pending, Write
from logstore.groups.rebalancing import Desk, Rebalances
from logstore.groups.settings import GroupConfig
from logstore.names import TopicPartition

JOIN_VERSION = 9
SYNC_VERSION = 5
LEAVE_VERSION = 5
DESCRIBE_VERSION = 6
_INT32_MAX = 2**31 - 1


class GroupCoordinator:
    """Coordinates the groups of some partitions of `__consumer_offsets`.

    Args:
        config: bounds and delays.
        clock: deadlines go by its monotonic time, timestamps by its wall clock.
        has_partition: whether there is such a partition to commit for; by default all are.
        new_id: makes the random part of a member id.
    """

    def __init__(
        self,
        config: GroupConfig | None = None,
        *,
        clock: Clock,
        has_partition: HasPartition = lambda partition: True,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._ownership = Ownership()
        self._desk = Desk(config or GroupConfig(), clock, new_id, epochs=self._ownership.owned)
        self._rebalances = Rebalances(self._desk)
        self._joins = Joins(self._desk, self._rebalances)
        self._membership = Membership(self._desk, self._rebalances)
        self._offsets = Offsets(self._desk, self._rebalances, has_partition)
        self._administration = Administration(self._desk, self._offsets)
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<GroupCoordinator groups {len(self._desk.groups)} {self._ownership!r}>"

    # ---- time, answers, writes

    @property
    def next_deadline_ms(self) -> int | None:
        """When `expire` has to be called at the latest: milliseconds on the clock's monotonic scale; None: need not."""
        return self._desk.timers.next_ms

    def expire(self) -> None:
        """Do what is due: sessions, rebalances, initial delays, ids that nobody came back with."""
        now = self._desk.monotonic_ms
        for deadline in self._desk.timers.due(now):
            if self._desk.timers.take(deadline, now):
                self._rebalances.heed(deadline)

    def take_answers(self) -> list[Pending[Any]]:
        """Return every `Pending` answered since the last call, those included that were answered at once."""
        return self._desk.outbox.take_answers()

    def take_writes(self) -> list[Write]:
        """Return what is to be appended, in order; each is to be `written` or `failed`."""
        return self._desk.outbox.take_writes()

    def written(self, write: Write, base_offset: int) -> None:
        """Tell that the records are in the log for good, the first one at this offset. Raises ValueError if told."""
        write.end(ErrorCode.NONE, base_offset)

    def failed(self, write: Write, error: ErrorCode) -> None:
        """Tell that the records are not in the log, and the log's error. Raises ValueError if told."""
        assert error is not ErrorCode.NONE
        write.end(error, -1)

    # ---- partitions

    def begin_load(self, partition: int, leader_epoch: int) -> bool:
        """Become coordinator of a partition; True: read its log to the end, and call `finish_load`.

        False where there is nothing to load: the news are older than what is known, or its groups are here already.
        """
        return self._ownership.begin_load(partition, leader_epoch)

    def finish_load(self, partition: int, leader_epoch: int, loaded: LoadedGroups) -> bool:
        """Take over what the log has; False, and nothing done, where another epoch has come meanwhile."""
        if not self._ownership.finish_load(partition, leader_epoch):
            return False
        for group_id in sorted(loaded.group_ids()):
            self._install(Group(group_id, partition), loaded)
        return True

    def unload(self, partition: int, leader_epoch: int | None = None) -> bool:
        """Stop coordinating a partition: who waits is told NOT_COORDINATOR. False, and nothing done, for old news.

        Args:
            leader_epoch: in which another broker leads; None where the partition is deleted.
        """
        if not self._ownership.unload(partition, leader_epoch):
            return False
        for group in [one for one in self._desk.groups.values() if one.partition == partition]:
            self._drop(group)
        for write in self._desk.outbox.take_writes_of(partition):
            write.end(ErrorCode.NOT_LEADER_OR_FOLLOWER, -1)
        return True

    def close(self) -> None:
        """Unload everything; from now on all requests are told COORDINATOR_NOT_AVAILABLE."""
        for partition in {*self._ownership.owned, *self._ownership.loading}:
            self.unload(partition)
        self._is_closed = True

    def end_transaction(self, producer_id: int, partitions: Iterable[int], *, is_commit: bool) -> None:
        """Tell that a transaction's marker is in the log of these partitions."""
        self._offsets.end_transaction(producer_id, partitions, is_commit)

    def delete_partitions(self, partitions: Iterable[TopicPartition]) -> None:
        """Delete the offsets of partitions that are no more."""
        self._offsets.delete_partitions(partitions)

    def expire_offsets(self) -> None:
        """Delete offsets that are too old, and groups that have nothing left; every 10 minutes by Kafka's defaults."""
        self._offsets.expire()

    # ---- members

    def join_group(self, request: JoinGroupRequest, version: int = JOIN_VERSION) -> Pending[JoinGroupResponse]:
        """Serve JoinGroup (11): answered when the rebalance is complete, or at once."""
        pending: Pending[JoinGroupResponse] = Pending(version)
        error = self._join_error(request)
        group = self._find(request.group_id)
        if error is ErrorCode.NONE and group is None and request.member_id:
            error = ErrorCode.UNKNOWN_MEMBER_ID
        if error is not ErrorCode.NONE:
            self._desk.outbox.answer(pending, join_error(error, version, request.member_id))
            return pending
        assert request.group_id is not None
        self._joins.join(request, group or self._new_group(request.group_id), pending)
        return pending

    def sync_group(self, request: SyncGroupRequest, version: int = SYNC_VERSION) -> Pending[SyncGroupResponse]:
        """Serve SyncGroup (14): answered when the leader's assignments are written, or at once."""
        pending: Pending[SyncGroupResponse] = Pending(version)
        error = self._status(request.group_id)
        group = self._find(request.group_id)
        if version >= 5 and (request.protocol_type is None or request.protocol_name is None):
            error = ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        elif error is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            error = ErrorCode.REBALANCE_IN_PROGRESS  # so that older clients join again
        elif error is ErrorCode.NONE and group is None:
            error = ErrorCode.UNKNOWN_MEMBER_ID
        if error is not ErrorCode.NONE:
            self._desk.outbox.answer(pending, SyncGroupResponse(error=error))
            return pending
        assert group is not None
        self._membership.sync(request, group, pending)
        return pending

    def heartbeat(self, request: HeartbeatRequest) -> ErrorCode:
        """Serve Heartbeat (12): REBALANCE_IN_PROGRESS is the call to join again."""
        error = self._status(request.group_id)
        if error is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            return ErrorCode.NONE  # its session begins anew when its group is loaded
        if error is not ErrorCode.NONE:
            return error
        group = self._find(request.group_id)
        return ErrorCode.UNKNOWN_MEMBER_ID if group is None else self._membership.heartbeat(request, group)

    def leave_group(self, request: LeaveGroupRequest, version: int = LEAVE_VERSION) -> LeaveGroupResponse:
        """Serve LeaveGroup (13)."""
        error = self._status(request.group_id)
        if version < MEMBER_LIST_VERSION and len(request.members) != 1:
            error = ErrorCode.INVALID_REQUEST
        if error is not ErrorCode.NONE:
            return LeaveGroupResponse(error)
        return self._membership.leave(request, self._find(request.group_id), version)

    # ---- offsets

    def commit_offsets(self, request: OffsetCommitRequest) -> Pending[OffsetCommitResponse]:
        """Serve OffsetCommit (8), and with a producer id TxnOffsetCommit (28): answered when the log has it.

        Raises ValueError for what a record cannot hold: numbers out of range, a topic name of more than 32767 bytes.
        """
        pending: Pending[OffsetCommitResponse] = Pending(0)
        error = self._status(request.group_id, can_be_empty=not request.is_transactional)
        group = self._find(request.group_id)
        if error is ErrorCode.NONE and group is None and not request.is_transactional and request.generation_id >= 0:
            error = ErrorCode.ILLEGAL_GENERATION
        if error is not ErrorCode.NONE:
            self._desk.outbox.answer(pending, commit_error(error, request.offsets))
            return pending
        assert request.group_id is not None
        self._offsets.commit(request, group or self._new_group(request.group_id), pending)
        return pending

    def fetch_offsets(self, request: OffsetFetchRequest) -> OffsetFetchResponse:
        """Serve OffsetFetch (9) for one group; from version 8 on a request has several."""
        error = self._status(request.group_id, can_be_empty=True)
        if error is not ErrorCode.NONE:
            return OffsetFetchResponse(error)
        return self._offsets.fetch(request, self._find(request.group_id))

    def delete_offsets(self, request: OffsetDeleteRequest) -> Pending[OffsetDeleteResponse]:
        """Serve OffsetDelete (47): answered when the log has it."""
        pending: Pending[OffsetDeleteResponse] = Pending(0)
        error = self._status(request.group_id)
        if error is ErrorCode.NONE:
            self._administration.delete_offsets(request, self._find(request.group_id), pending)
        else:
            self._desk.outbox.answer(pending, OffsetDeleteResponse(error))
        return pending

    # ---- groups

    def describe_groups(
        self, group_ids: Iterable[str | None], version: int = DESCRIBE_VERSION
    ) -> tuple[DescribedGroup, ...]:
        """Serve DescribeGroups (15)."""
        described = []
        for group_id in group_ids:
            error = self._status(group_id, can_be_empty=True)
            if error is ErrorCode.NONE and group_id is not None:
                described.append(self._administration.describe(group_id, self._find(group_id), version))
            else:
                described.append(DescribedGroup(error=error, group_id=group_id or ""))
        return tuple(described)

    def list_groups(self, states: Collection[str] = (), types: Collection[str] = ()) -> ListGroupsResponse:
        """Serve ListGroups (16): the groups here; while a partition is being loaded, with an error."""
        if self._is_closed:
            return ListGroupsResponse(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        error = ErrorCode.COORDINATOR_LOAD_IN_PROGRESS if self._ownership.loading else ErrorCode.NONE
        return ListGroupsResponse(error, self._administration.list_groups(states, types))

    def delete_groups(self, group_ids: Iterable[str]) -> Pending[DeleteGroupsResponse]:
        """Serve DeleteGroups (42): answered when the log has it."""
        pending: Pending[DeleteGroupsResponse] = Pending(0)
        found: dict[str, Group | ErrorCode] = {}
        for group_id in group_ids:
            error = self._status(group_id, can_be_empty=True)
            group = self._find(group_id)
            found[group_id] = error if error else group or ErrorCode.GROUP_ID_NOT_FOUND
        self._administration.delete_groups(found, pending)
        return pending

    # ---- finding groups

    def _status(self, group_id: str | None, *, can_be_empty: bool = False) -> ErrorCode:
        """The checks in front of every request, in Kafka's order (CLUSTER §7.2)."""
        if group_id is None or not (group_id or can_be_empty) or not fits_string(group_id):
            return ErrorCode.INVALID_GROUP_ID
        if self._is_closed:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        return self._ownership.status(self._partition(group_id))

    def _join_error(self, request: JoinGroupRequest) -> ErrorCode:
        error = self._status(request.group_id)
        if error is not ErrorCode.NONE:
            return error
        config = self._desk.config
        if not config.group_min_session_timeout_ms <= request.session_timeout_ms <= config.group_max_session_timeout_ms:
            return ErrorCode.INVALID_SESSION_TIMEOUT
        texts = [request.protocol_type, request.client_id, f"/{request.client_host}", request.group_instance_id or ""]
        texts += [name for name, _ in request.protocols]
        if (request.rebalance_timeout_ms or 0) > _INT32_MAX or not all(map(fits_string, texts)):
            return ErrorCode.INVALID_REQUEST  # the group's record could not be written
        return ErrorCode.NONE

    def _find(self, group_id: str | None) -> Group | None:
        return None if group_id is None else self._desk.groups.get(group_id)

    def _new_group(self, group_id: str) -> Group:
        return Group(group_id, self._partition(group_id))

    def _partition(self, group_id: str) -> int:
        return group_partition(group_id, self._desk.config.offsets_topic_num_partitions)

    # ---- loading and unloading groups

    def _install(self, group: Group, loaded: LoadedGroups) -> None:
        stored = loaded.groups.get(group.group_id)
        if stored is not None:
            group.load(stored)
        group.offsets = GroupOffsets(loaded.offsets.get(group.group_id))
        for producer_id, groups in loaded.pending.items():
            if group.group_id in groups:
                self._offsets.load_transaction(group, producer_id, groups[group.group_id])
        self._desk.groups[group.group_id] = group
        for member in group.members.values():
            self._rebalances.touch(group, member)
        if len(group.members) > self._desk.config.group_max_size:
            self._rebalances.prepare(group)

    def _drop(self, group: Group) -> None:
        error = ErrorCode.NOT_COORDINATOR
        for member in group.members.values():
            join = group.take_join(member)
            if join is not None:
                self._desk.outbox.answer(join, join_error(error, join.version, member.member_id))
            self._rebalances.answer_sync(member, SyncGroupResponse(error=error))
        self._desk.bury(group)
