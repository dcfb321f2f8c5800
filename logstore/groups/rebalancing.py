"""How a group comes to its next generation: joins, the assignment, members that go (CLUSTER §7.4, §7.5).

Invariant: while a request waits, its group has a deadline or an open write that ends the waiting. Deadlines are on the
monotonic clock, timestamps of records on the wall clock. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from logstore.clock import Clock
from logstore.groups.errors import ErrorCode, group_write_error
from logstore.groups.group import Group, Member
from logstore.groups.messages import JoinGroupResponse, SyncGroupResponse, join_error
from logstore.groups.offsets import group_key, group_value
from logstore.groups.pending import Done, KeyAndValue, Outbox, Write
from logstore.groups.settings import GroupConfig
from logstore.groups.states import GroupState
from logstore.groups.timers import Timers

NEW_MEMBER_JOIN_TIMEOUT_MS = 300_000
"""How long a new member may wait in join: it cannot send heartbeats."""
_NS = 1_000_000  # in a millisecond


class Deadline(NamedTuple):
    """What passes for whom: `session` and `pending` of a member, `join` and `sync` of a group."""

    kind: str
    group_id: str
    member_id: str = ""


@dataclass(slots=True)
class Desk:
    """What everybody who works on groups shares."""

    config: GroupConfig
    clock: Clock
    new_id: Callable[[], str]
    groups: dict[str, Group] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)  # of the partitions that are led here
    timers: Timers[Deadline] = field(default_factory=Timers)
    outbox: Outbox = field(default_factory=Outbox)

    @property
    def monotonic_ms(self) -> int:
        """The time of deadlines."""
        return self.clock.monotonic_ns() // _NS

    def set_timer(self, deadline: Deadline, delay_ms: int) -> None:
        """Have a deadline pass after so many milliseconds."""
        self.timers.set(deadline, self.monotonic_ms + delay_ms)

    def write(
        self, group: Group, records: Sequence[KeyAndValue], done: Done, producer: tuple[int, int] = (-1, -1)
    ) -> None:
        """Have records of a group written, or end at once where there are none."""
        if not records:
            done(ErrorCode.NONE, -1)
            return
        epoch = self.epochs[group.partition]
        self.outbox.write(Write(group.partition, epoch, records, self.clock.now_ms(), done, producer))

    def write_group(self, group: Group, assignments: Mapping[str, bytes], done: Callable[[ErrorCode], None]) -> None:
        """Have the record of a group written; `done` is told what its members are to be told."""
        record = (group_key(group.group_id), group_value(group.stored(assignments)))
        self.write(group, [record], lambda error, _: done(group_write_error(error)))

    def bury(self, group: Group) -> None:
        """Make a group one that nobody finds, without deadlines; nobody waits in it any more."""
        group.become(GroupState.DEAD, self.clock.now_ms())
        for kind in ("join", "sync"):
            self.timers.clear(Deadline(kind, group.group_id))
        for member_id in group.members:
            self.timers.clear(Deadline("session", group.group_id, member_id))
        for member_id in group.pending_members:
            self.timers.clear(Deadline("pending", group.group_id, member_id))
        self.groups.pop(group.group_id, None)

    def forget_blank(self, group: Group) -> None:
        """Bury a group that was made for a request that came to nothing."""
        if group.is_blank and self.groups.get(group.group_id) is group:
            self.bury(group)


class Rebalances:
    """Starts and completes rebalances."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __repr__(self) -> str:
        return f"<Rebalances of {len(self._desk.groups)} groups>"

    # ---- a member's time

    def touch(self, group: Group, member: Member) -> None:
        """Begin a member's session anew; one that waits has none."""
        if not member.is_waiting:
            self._desk.set_timer(Deadline("session", group.group_id, member.member_id), member.session_timeout_ms)

    def stop_session(self, group: Group, member_id: str) -> None:
        """Let a member's session not pass."""
        self._desk.timers.clear(Deadline("session", group.group_id, member_id))

    def heed(self, deadline: Deadline) -> None:
        """Do what is to be done when a deadline has passed."""
        group = self._desk.groups.get(deadline.group_id)
        if group is None:
            return
        if deadline.kind == "join":
            self._join_time_is_over(group)
        elif deadline.kind == "sync":
            self.remove(group, [group.members[one] for one in sorted(group.pending_sync)], ErrorCode.UNKNOWN_MEMBER_ID)
        elif deadline.kind == "pending":
            self.remove_pending(group, deadline.member_id)
        else:
            self.remove(group, [group.members[deadline.member_id]], ErrorCode.UNKNOWN_MEMBER_ID)

    # ---- members that go

    def remove(self, group: Group, members: Iterable[Member], error: ErrorCode) -> None:
        """Remove members; what they wait for ends with `error`, and the others go on without them."""
        for member in members:
            self._drop(group, member, error)
        self._go_on(group)

    def remove_pending(self, group: Group, member_id: str) -> None:
        """Forget an id that was handed out."""
        group.pending_members.discard(member_id)
        self._desk.timers.clear(Deadline("pending", group.group_id, member_id))
        self.try_to_complete(group)
        self._desk.forget_blank(group)

    def _go_on(self, group: Group) -> None:
        """Without some members: begin a rebalance, or see whether the one that is on is complete."""
        if group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE):
            self.prepare(group)
        else:
            self.try_to_complete(group)

    def _drop(self, group: Group, member: Member, error: ErrorCode) -> None:
        join = group.take_join(member)
        if join is not None:
            self._desk.outbox.answer(join, join_error(error, join.version))
        self.answer_sync(member, SyncGroupResponse(error=error))
        self.stop_session(group, member.member_id)
        group.remove(member)

    # ---- the rebalance

    def prepare(self, group: Group) -> None:
        """Begin to collect joins, unless that is on already; where it can, complete at once."""
        if group.state is GroupState.PREPARING_REBALANCE:
            self.try_to_complete(group)
            return
        desk = self._desk
        if group.state is GroupState.COMPLETING_REBALANCE:
            self.fail_syncs(group, ErrorCode.REBALANCE_IN_PROGRESS)
        desk.timers.clear(Deadline("sync", group.group_id))
        group.pending_sync.clear()
        was_empty = group.state is GroupState.EMPTY
        group.become(GroupState.PREPARING_REBALANCE, desk.clock.now_ms())
        group.has_newcomer = False
        timeout = group.rebalance_timeout_ms
        if was_empty:
            delay = min(desk.config.group_initial_rebalance_delay_ms, timeout)
            group.delay_left_ms = timeout - delay
            if delay == 0:
                self._complete(group)
            else:
                desk.set_timer(Deadline("join", group.group_id), delay)
            return
        desk.set_timer(Deadline("join", group.group_id), timeout)
        self.try_to_complete(group)

    def try_to_complete(self, group: Group) -> None:
        """Complete the rebalance if everybody has joined; not during the initial delay."""
        if group.state is GroupState.PREPARING_REBALANCE and group.delay_left_ms is None and group.have_all_joined:
            self._complete(group)

    def _join_time_is_over(self, group: Group) -> None:
        left = group.delay_left_ms
        if left and group.has_newcomer:
            delay = min(self._desk.config.group_initial_rebalance_delay_ms, left)
            group.has_newcomer = False
            group.delay_left_ms = left - delay
            self._desk.set_timer(Deadline("join", group.group_id), delay)
        else:
            self._complete(group)

    def _complete(self, group: Group) -> None:
        """Go over to the next generation with those who have joined."""
        desk = self._desk
        group.delay_left_ms = None
        for member in [one for one in group.members.values() if one.join is None and one.group_instance_id is None]:
            self._drop(group, member, ErrorCode.UNKNOWN_MEMBER_ID)
        deadline = Deadline("join", group.group_id)
        if group.members and not group.elect_joined_leader():
            # Static members only, none of whom has come: their sessions will tell.
            desk.set_timer(deadline, group.rebalance_timeout_ms)
            return
        desk.timers.clear(deadline)
        group.begin_generation(desk.clock.now_ms())
        if group.members:
            self._answer_joins(group)
        else:
            # What the log lost of an Empty group it learns again with the next generation.
            desk.write_group(group, {}, lambda error: None)

    def _answer_joins(self, group: Group) -> None:
        for member in group.members.values():
            pending = group.take_join(member)
            member.assignment = b""
            if pending is None:
                continue  # static, and its session is running
            member.is_new = False
            group.pending_sync.add(member.member_id)
            self._desk.outbox.answer(pending, self.joined(group, member))
            self.touch(group, member)
        self._desk.set_timer(Deadline("sync", group.group_id), group.rebalance_timeout_ms)

    def joined(self, group: Group, member: Member) -> JoinGroupResponse:
        """Return what a member is told of the current generation; the leader also who is in it."""
        is_leader = group.leader == member.member_id
        return JoinGroupResponse(
            error=ErrorCode.NONE,
            member_id=member.member_id,
            generation_id=group.generation_id,
            protocol_type=group.protocol_type,
            protocol_name=group.protocol_name,
            leader=group.leader or "",
            members=group.members_for_leader() if is_leader else (),
        )

    # ---- the assignment

    def note_sync(self, group: Group, member: Member) -> None:
        """Note that a member has asked for its assignment; when all have, nobody is waited for."""
        group.pending_sync.discard(member.member_id)
        if not group.pending_sync:
            self._desk.timers.clear(Deadline("sync", group.group_id))

    def assign(self, group: Group, assignments: Mapping[str, bytes]) -> None:
        """Give the members their assignments; the group is Stable."""
        group.become(GroupState.STABLE, self._desk.clock.now_ms())
        for member in group.members.values():
            member.assignment = assignments.get(member.member_id, b"")
            if self.answer_sync(member, self.synced(group, member)):
                self.touch(group, member)

    def fail_syncs(self, group: Group, error: ErrorCode) -> None:
        """End the syncs that wait with an error; nobody has an assignment any more."""
        for member in group.members.values():
            member.assignment = b""
            if self.answer_sync(member, SyncGroupResponse(error=error)):
                self.touch(group, member)

    def answer_sync(self, member: Member, response: SyncGroupResponse) -> bool:
        """Answer a member's sync if one waits; whether one did."""
        pending, member.sync = member.sync, None
        if pending is None:
            return False
        self._desk.outbox.answer(pending, response)
        return True

    def synced(self, group: Group, member: Member) -> SyncGroupResponse:
        """Return a member's assignment."""
        return SyncGroupResponse(
            error=ErrorCode.NONE,
            protocol_type=group.protocol_type,
            protocol_name=group.protocol_name,
            assignment=member.assignment,
        )
