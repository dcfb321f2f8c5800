"""JoinGroup: new members, known ones, and static ones that come back under a new id (CLUSTER §7.4).

Invariant: a join that is refused changes nothing, but for one that the group has no room for: its member is removed.
Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable

from logstore.groups.errors import ErrorCode
from logstore.groups.group import Group, Member
from logstore.groups.messages import JoinGroupRequest, JoinGroupResponse, SyncGroupResponse, join_error
from logstore.groups.offsets import STRING_BYTES_MAX
from logstore.groups.pending import Pending
from logstore.groups.rebalancing import NEW_MEMBER_JOIN_TIMEOUT_MS, Deadline, Desk, Rebalances
from logstore.groups.states import GroupState

MEMBER_ID_REQUIRED_VERSION = 4
"""From this version of JoinGroup on a dynamic member is told its id first, and joins with it."""
SKIP_ASSIGNMENT_VERSION = 9
_ID_PREFIX_MAX = STRING_BYTES_MAX // 4 - 50  # characters of a client's name in an id: it fits with any of them

JoinPending = Pending[JoinGroupResponse]


class Joins:
    """Serves JoinGroup."""

    def __init__(self, desk: Desk, rebalances: Rebalances) -> None:
        self._desk = desk
        self._rebalances = rebalances

    def __repr__(self) -> str:
        return f"<Joins {self._rebalances!r}>"

    def join(self, request: JoinGroupRequest, group: Group, pending: JoinPending) -> None:
        """Serve a request that has been checked by itself; `group` may be a new one that nobody knows yet."""
        if not self._has_room(group, request.member_id):
            self._refuse(pending, ErrorCode.GROUP_MAX_SIZE_REACHED, "")
            self._turn_away(group, request.member_id)
        elif not group.supports(request.protocol_type, request.protocols):
            self._refuse(pending, ErrorCode.INCONSISTENT_GROUP_PROTOCOL, request.member_id)
        elif not request.member_id:
            self._join_new(request, group, pending)
        elif request.member_id in group.pending_members and request.group_instance_id is None:
            self._add(request, request.member_id, group, pending)
        else:
            self._join_known(request, group, pending)
        if not group.is_blank:
            self._desk.groups[group.group_id] = group

    # ---- new members

    def _has_room(self, group: Group, member_id: str) -> bool:
        if group.state is GroupState.EMPTY:
            return True
        limit = self._desk.config.group_max_size
        member = group.members.get(member_id)
        if group.state is GroupState.PREPARING_REBALANCE:
            return (member is not None and member.join is not None) or group.joined_count < limit
        return member is not None or len(group.members) < limit

    def _turn_away(self, group: Group, member_id: str) -> None:
        member = group.members.get(member_id)
        if member_id in group.pending_members:
            self._rebalances.remove_pending(group, member_id)
        elif member is not None:
            self._rebalances.remove(group, [member], ErrorCode.GROUP_MAX_SIZE_REACHED)

    def _join_new(self, request: JoinGroupRequest, group: Group, pending: JoinPending) -> None:
        instance = request.group_instance_id
        prefix = request.client_id if instance is None else instance
        member_id = f"{prefix[:_ID_PREFIX_MAX]}-{self._desk.new_id()}"
        if instance is not None and instance in group.static_members:
            self._replace(request, member_id, group, pending)
        elif instance is None and pending.version >= MEMBER_ID_REQUIRED_VERSION:
            group.pending_members.add(member_id)
            self._desk.set_timer(Deadline("pending", group.group_id, member_id), request.session_timeout_ms)
            self._refuse(pending, ErrorCode.MEMBER_ID_REQUIRED, member_id)
        else:
            self._add(request, member_id, group, pending)

    def _add(self, request: JoinGroupRequest, member_id: str, group: Group, pending: JoinPending) -> None:
        desk = self._desk
        desk.timers.clear(Deadline("pending", group.group_id, member_id))
        if not group.members:
            group.protocol_type = request.protocol_type
        host = request.client_host if "/" in request.client_host else f"/{request.client_host}"
        timeouts = _timeouts(request, pending.version)
        member = Member(member_id, request.group_instance_id, request.client_id, host, timeouts, request.protocols)
        member.is_new = True
        group.add(member)
        group.park_join(member, pending)
        if group.delay_left_ms is not None:
            group.has_newcomer = True
        desk.set_timer(Deadline("session", group.group_id, member_id), NEW_MEMBER_JOIN_TIMEOUT_MS)
        self._rebalances.prepare(group)

    # ---- known members

    def _join_known(self, request: JoinGroupRequest, group: Group, pending: JoinPending) -> None:
        error = check_member(group, request.member_id, request.group_instance_id)
        if error is not ErrorCode.NONE:
            self._refuse(pending, error, request.member_id)
            return
        member = group.members[request.member_id]
        is_unchanged = member.protocols == request.protocols
        has_current = group.state is GroupState.COMPLETING_REBALANCE or (
            group.state is GroupState.STABLE and group.leader != member.member_id
        )
        if is_unchanged and has_current and member.join is None:
            self._desk.outbox.answer(pending, self._rebalances.joined(group, member))
            self._rebalances.touch(group, member)
            return
        group.update(member, request.protocols, _timeouts(request, pending.version))
        self._park(group, member, pending)
        self._rebalances.prepare(group)

    def _park(self, group: Group, member: Member, pending: JoinPending) -> None:
        """Let a known member wait; a join that it has waited in until now was given up."""
        before = group.take_join(member)
        if before is not None:
            self._refuse(before, ErrorCode.REBALANCE_IN_PROGRESS, member.member_id)
        group.park_join(member, pending)
        if not member.is_new:
            self._rebalances.stop_session(group, member.member_id)

    # ---- static members that come back

    def _replace(self, request: JoinGroupRequest, member_id: str, group: Group, pending: JoinPending) -> None:
        """Let a static member that has forgotten its id go on under another one; who uses the old one is fenced."""
        assert request.group_instance_id is not None
        old_id = group.static_members[request.group_instance_id]
        member = group.members[old_id]
        old_leader = group.leader or ""
        undo = self._undoing(group, member)
        before = group.take_join(member)
        if before is not None:
            self._refuse(before, ErrorCode.FENCED_INSTANCE_ID, old_id)
        self._rebalances.answer_sync(member, SyncGroupResponse(error=ErrorCode.FENCED_INSTANCE_ID))
        self._rebalances.stop_session(group, old_id)
        group.rename(member, member_id)
        group.update(member, request.protocols, _timeouts(request, pending.version))
        group.park_join(member, pending)
        if member.is_new:
            self._desk.set_timer(Deadline("session", group.group_id, member_id), NEW_MEMBER_JOIN_TIMEOUT_MS)
        if group.state is not GroupState.STABLE or group.choose_protocol() != group.protocol_name:
            self._rebalances.prepare(group)
            return

        def done(error: ErrorCode) -> None:
            if member.join is not pending:
                return  # answered meanwhile: by a rebalance, or because it is gone
            if error is not ErrorCode.NONE:
                group.take_join(member)
                undo()
                self._refuse(pending, error, "", group.generation_id)
            elif group.state is not GroupState.PREPARING_REBALANCE:  # else it has joined that one
                group.take_join(member)
                self._desk.outbox.answer(pending, self._replaced(group, member, old_leader, pending.version))
                self._rebalances.touch(group, member)

        assignments = {one.member_id: one.assignment for one in group.members.values()}
        self._desk.write_group(group, assignments, done)

    def _undoing(self, group: Group, member: Member) -> Callable[[], None]:
        """Return what makes a replaced member what it is now."""
        member_id, protocols = member.member_id, member.protocols
        timeouts = (member.rebalance_timeout_ms, member.session_timeout_ms)

        def undo() -> None:
            group.update(member, protocols, timeouts)
            group.rename(member, member_id)
            self._rebalances.touch(group, member)

        return undo

    def _replaced(self, group: Group, member: Member, old_leader: str, version: int) -> JoinGroupResponse:
        """Return the current generation so that a leader does not assign anew: it is told so, or that another leads."""
        response = self._rebalances.joined(group, member)
        is_told = version >= SKIP_ASSIGNMENT_VERSION
        return JoinGroupResponse(
            error=ErrorCode.NONE,
            member_id=response.member_id,
            generation_id=response.generation_id,
            protocol_type=response.protocol_type,
            protocol_name=response.protocol_name,
            leader=response.leader if is_told else old_leader,
            skip_assignment=is_told and group.leader == member.member_id,
            members=response.members if is_told else (),
        )

    def _refuse(self, pending: JoinPending, error: ErrorCode, member_id: str, generation_id: int = -1) -> None:
        self._desk.outbox.answer(pending, join_error(error, pending.version, member_id, generation_id))


def check_member(group: Group, member_id: str, group_instance_id: str | None) -> ErrorCode:
    """Whether somebody is the member that it says: UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, or NONE."""
    if group_instance_id is not None:
        current = group.static_members.get(group_instance_id)
        if current is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if current != member_id:
            return ErrorCode.FENCED_INSTANCE_ID
    return ErrorCode.NONE if member_id in group.members else ErrorCode.UNKNOWN_MEMBER_ID


def _timeouts(request: JoinGroupRequest, version: int) -> tuple[int, int]:
    """The rebalance and the session timeout; version 0 has one for both."""
    session, rebalance = request.session_timeout_ms, request.rebalance_timeout_ms
    return (session if version == 0 or rebalance is None or rebalance < 0 else rebalance), session
