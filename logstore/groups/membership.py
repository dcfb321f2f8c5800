"""SyncGroup, Heartbeat and LeaveGroup (CLUSTER §7.5). Not thread-safe."""

from __future__ import annotations

from logstore.groups.errors import ErrorCode
from logstore.groups.group import Group
from logstore.groups.joining import check_member
from logstore.groups.messages import (
    HeartbeatRequest,
    LeaveGroupRequest,
    LeaveGroupResponse,
    LeavingMember,
    LeftMember,
    SyncGroupRequest,
    SyncGroupResponse,
)
from logstore.groups.pending import Pending
from logstore.groups.rebalancing import Desk, Rebalances
from logstore.groups.states import GroupState

MEMBER_LIST_VERSION = 3
"""From this version of LeaveGroup on several members can leave, each with its own error."""


class Membership:
    """Serves members between two joins."""

    def __init__(self, desk: Desk, rebalances: Rebalances) -> None:
        self._desk = desk
        self._rebalances = rebalances

    def __repr__(self) -> str:
        return f"<Membership {self._rebalances!r}>"

    # ---- sync

    def sync(self, request: SyncGroupRequest, group: Group, pending: Pending[SyncGroupResponse]) -> None:
        """Serve a sync: a follower's waits for its leader's, whose assignments are written first."""
        error = self._sync_error(request, group)
        if error is not ErrorCode.NONE:
            self._desk.outbox.answer(pending, SyncGroupResponse(error=error))
            return
        member = group.members[request.member_id]
        self._rebalances.note_sync(group, member)
        if group.state is GroupState.STABLE:
            self._desk.outbox.answer(pending, self._rebalances.synced(group, member))
            self._rebalances.touch(group, member)
            return
        # One that has waited until now was given up, or its client would not ask again.
        self._rebalances.answer_sync(member, SyncGroupResponse(error=ErrorCode.REBALANCE_IN_PROGRESS))
        member.sync = pending
        self._rebalances.stop_session(group, member.member_id)
        if group.leader == member.member_id and group.assigning != group.generation_id:
            self._write_assignments(request, group)

    def _sync_error(self, request: SyncGroupRequest, group: Group) -> ErrorCode:
        error = check_generation(group, request.member_id, request.group_instance_id, request.generation_id)
        if error is not ErrorCode.NONE:
            return error
        for given, own in ((request.protocol_type, group.protocol_type), (request.protocol_name, group.protocol_name)):
            if given is not None and given != own:
                return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if group.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def _write_assignments(self, request: SyncGroupRequest, group: Group) -> None:
        generation_id = group.assigning = group.generation_id
        assignments = {one: request.assignments.get(one, b"") for one in group.members}

        def done(error: ErrorCode) -> None:
            if group.state is not GroupState.COMPLETING_REBALANCE or group.generation_id != generation_id:
                return  # another rebalance has ended the syncs
            if error is ErrorCode.NONE:
                self._rebalances.assign(group, assignments)
            else:
                self._rebalances.fail_syncs(group, error)
                self._rebalances.prepare(group)

        self._desk.write_group(group, assignments, done)

    # ---- heartbeat

    def heartbeat(self, request: HeartbeatRequest, group: Group) -> ErrorCode:
        """Begin the member's session anew, and say whether it has to join again."""
        error = check_generation(group, request.member_id, request.group_instance_id, request.generation_id)
        if error is not ErrorCode.NONE:
            return error
        self._rebalances.touch(group, group.members[request.member_id])
        is_preparing = group.state is GroupState.PREPARING_REBALANCE
        return ErrorCode.REBALANCE_IN_PROGRESS if is_preparing else ErrorCode.NONE

    # ---- leave

    def leave(self, request: LeaveGroupRequest, group: Group | None, version: int) -> LeaveGroupResponse:
        """Remove members at once; the others begin a rebalance."""
        left = tuple(
            LeftMember(one.member_id, one.group_instance_id, self._leave_one(one, group)) for one in request.members
        )
        if version < MEMBER_LIST_VERSION:
            return LeaveGroupResponse(left[0].error)
        return LeaveGroupResponse(ErrorCode.NONE, left)

    def _leave_one(self, leaving: LeavingMember, group: Group | None) -> ErrorCode:
        if group is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        member_id, instance = leaving.member_id, leaving.group_instance_id
        if member_id in group.pending_members and instance is None:
            self._rebalances.remove_pending(group, member_id)
            return ErrorCode.NONE
        if not member_id:
            member_id = group.static_members.get(instance or "", "")
        error = check_member(group, member_id, instance)
        if error is ErrorCode.NONE:
            self._rebalances.remove(group, [group.members[member_id]], ErrorCode.UNKNOWN_MEMBER_ID)
        return error


def check_generation(group: Group, member_id: str, group_instance_id: str | None, generation_id: int) -> ErrorCode:
    """Whether somebody is the member that it says, in the current generation: an error of `check_member`,
    ILLEGAL_GENERATION, or NONE."""
    error = check_member(group, member_id, group_instance_id)
    if error is ErrorCode.NONE and group.generation_id != generation_id:
        return ErrorCode.ILLEGAL_GENERATION
    return error
