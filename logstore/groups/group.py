"""One classic group: its members, their protocols, its state and its generation (CLUSTER §7.3, §7.4).

Invariant: the counts that answer "has everybody joined" and "which protocols does everybody support" are those of the
members that are there; the leader is a member whenever there are members; static instances and members belong to each
other one to one. Decides nothing about time and answers nobody: `Rebalances` does. Not thread-safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from logstore.groups.group_offsets import GroupOffsets
from logstore.groups.messages import JoinedMember, JoinGroupResponse, SyncGroupResponse
from logstore.groups.offsets import StoredGroup, StoredMember
from logstore.groups.pending import Pending
from logstore.groups.states import GroupState
from logstore.records.internal.consumer_protocol import (
    CONSUMER_PROTOCOL_TYPE,
    SUBSCRIPTION,
    VERSION_BYTES,
    decode_member_bytes,
)

Protocols = tuple[tuple[str, bytes], ...]


class Member:
    """A member of a group.

    Attributes:
        protocols: name and metadata, the preferred one first.
        assignment: what the leader gave it in this generation.
        is_new: it has not been answered since it came, so it cannot send heartbeats yet.
        join, sync: its request that waits; a join only by way of its group.
    """

    __slots__ = (
        "assignment",
        "client_host",
        "client_id",
        "group_instance_id",
        "is_new",
        "join",
        "member_id",
        "protocols",
        "rebalance_timeout_ms",
        "session_timeout_ms",
        "sync",
    )

    def __init__(
        self,
        member_id: str,
        group_instance_id: str | None,
        client_id: str,
        client_host: str,
        timeouts: tuple[int, int],
        protocols: Protocols,
        assignment: bytes = b"",
    ) -> None:
        self.member_id = member_id
        self.group_instance_id = group_instance_id
        self.client_id = client_id
        self.client_host = client_host
        self.rebalance_timeout_ms, self.session_timeout_ms = timeouts
        self.protocols = protocols
        self.assignment = assignment
        self.is_new = False
        self.join: Pending[JoinGroupResponse] | None = None
        self.sync: Pending[SyncGroupResponse] | None = None

    def __repr__(self) -> str:
        waits = "in join" if self.join else "in sync" if self.sync else "not waiting"
        return f"<Member {self.member_id} {waits}>"

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for an answer, so that it cannot send heartbeats."""
        return self.join is not None or self.sync is not None

    def metadata(self, protocol_name: str | None) -> bytes:
        """Return what it said of a protocol, or nothing."""
        return next((metadata for name, metadata in self.protocols if name == protocol_name), b"")


class Group:
    """A group and its members, who are in the order in which they came.

    Attributes:
        pending_members: ids that were handed out and are to come back with a join.
        pending_sync: members that know of this generation and have not asked for their assignment.
        static_members: member ids by instance id.
        assigning: the generation whose assignments have been handed in: the first ones count, in the log too.
        state_timestamp: since when it is in its state, milliseconds since the epoch; None for old records.
        subscribed_topics: of a consumer group's members; None where they are not known.
        delay_left_ms: during the initial delay by how much more it can be extended, else None.
        has_newcomer: whether somebody came during the initial delay.
    """

    def __init__(self, group_id: str, partition: int) -> None:
        self.group_id = group_id
        self.partition = partition
        self.state = GroupState.EMPTY
        self.state_timestamp: int | None = None
        self.generation_id = 0
        self.protocol_type: str | None = None
        self.protocol_name: str | None = None
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self.static_members: dict[str, str] = {}
        self.pending_members: set[str] = set()
        self.pending_sync: set[str] = set()
        self.assigning: int | None = None
        self.subscribed_topics: frozenset[str] | None = None
        self.delay_left_ms: int | None = None
        self.has_newcomer = False
        self.offsets = GroupOffsets()
        self._joined_count = 0
        self._supporters: Counter[str] = Counter()

    def __repr__(self) -> str:
        return (
            f"<Group {self.group_id} {self.state} generation {self.generation_id} members {len(self.members)} "
            f"joined {self._joined_count} pending {len(self.pending_members)}>"
        )

    # ---- state

    @property
    def is_dead(self) -> bool:
        """Whether nobody finds it any more."""
        return self.state is GroupState.DEAD

    @property
    def is_blank(self) -> bool:
        """Whether it is as one that has just been made, so that nothing is lost with it."""
        return (
            self.state is GroupState.EMPTY and not self.generation_id and not self.pending_members and not self.offsets
        )

    @property
    def joined_count(self) -> int:
        """How many members wait in join."""
        return self._joined_count

    @property
    def have_all_joined(self) -> bool:
        """Whether a rebalance has nobody left to wait for."""
        return self._joined_count == len(self.members) and not self.pending_members

    @property
    def rebalance_timeout_ms(self) -> int:
        """The longest of its members, at least 1."""
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=1) or 1

    def become(self, state: GroupState, now_ms: int) -> None:
        """Go over to another state, at a wall clock's time."""
        assert self.state.may_become(state), f"{self.state} does not become {state}"
        self.state = state
        self.state_timestamp = now_ms

    def begin_generation(self, now_ms: int) -> None:
        """Go over to the next generation: its protocol is chosen, its assignments are to come."""
        self.generation_id += 1
        self.protocol_name = self.choose_protocol() if self.members else None
        self.subscribed_topics = self._subscribed_topics()
        self.become(GroupState.COMPLETING_REBALANCE if self.members else GroupState.EMPTY, now_ms)

    # ---- members

    def add(self, member: Member) -> None:
        """Take in a member; the first one leads."""
        if self.leader is None:
            self.leader = member.member_id
        self.members[member.member_id] = member
        self.pending_members.discard(member.member_id)
        if member.group_instance_id is not None:
            self.static_members[member.group_instance_id] = member.member_id
        self._supporters.update(_names(member.protocols))

    def remove(self, member: Member) -> None:
        """Let a member go, who waits for nothing; the first of the others leads where it did."""
        assert not member.is_waiting, "who waits is answered first"
        del self.members[member.member_id]
        self.pending_sync.discard(member.member_id)
        if member.group_instance_id is not None:
            del self.static_members[member.group_instance_id]
        self._supporters.subtract(_names(member.protocols))
        self._supporters += Counter()
        if self.leader == member.member_id:
            self.leader = next(iter(self.members), None)

    def update(self, member: Member, protocols: Protocols, timeouts: tuple[int, int]) -> None:
        """Note what a member says anew: its protocols, its rebalance and session timeout."""
        self._supporters.subtract(_names(member.protocols))
        self._supporters.update(_names(protocols))
        self._supporters += Counter()
        member.protocols = protocols
        member.rebalance_timeout_ms, member.session_timeout_ms = timeouts

    def rename(self, member: Member, member_id: str) -> None:
        """Give a static member another id, and its place in everything."""
        assert member.group_instance_id is not None
        old_id = member.member_id
        del self.members[old_id]
        member.member_id = member_id
        self.members[member_id] = member
        self.static_members[member.group_instance_id] = member_id
        if self.leader == old_id:
            self.leader = member_id
        if old_id in self.pending_sync:
            self.pending_sync.remove(old_id)
            self.pending_sync.add(member_id)

    def park_join(self, member: Member, pending: Pending[JoinGroupResponse]) -> None:
        """Let a join wait; the member has no other one waiting."""
        assert member.join is None
        member.join = pending
        self._joined_count += 1

    def take_join(self, member: Member) -> Pending[JoinGroupResponse] | None:
        """Return the join that a member waits in, so that it is answered."""
        pending, member.join = member.join, None
        self._joined_count -= pending is not None
        return pending

    def elect_joined_leader(self) -> bool:
        """See to it that the leader is one that has joined; whether anybody has."""
        if self.leader is not None and self.members[self.leader].join is None:
            self.leader = next((one for one, member in self.members.items() if member.join), self.leader)
        return self._joined_count > 0

    # ---- protocols

    def supports(self, protocol_type: str, protocols: Protocols) -> bool:
        """Whether somebody can come with these: any for an Empty group, else one that all members support."""
        if self.state is GroupState.EMPTY:
            return bool(protocol_type and protocols)
        count = len(self.members)
        return protocol_type == self.protocol_type and any(self._supporters[name] == count for name, _ in protocols)

    def choose_protocol(self) -> str:
        """Return what most members prefer of what all support; of equals the one that was voted for first."""
        count = len(self.members)
        votes = Counter(
            next(name for name, _ in member.protocols if self._supporters[name] == count)
            for member in self.members.values()
        )
        return votes.most_common(1)[0][0]

    def members_for_leader(self) -> tuple[JoinedMember, ...]:
        """Return what the leader makes its assignments from."""
        return tuple(
            JoinedMember(member.member_id, member.group_instance_id, member.metadata(self.protocol_name))
            for member in self.members.values()
        )

    def is_subscribed(self, topic: str) -> bool:
        """Whether a member may be consuming the topic."""
        return self.subscribed_topics is None or topic in self.subscribed_topics

    def _subscribed_topics(self) -> frozenset[str] | None:
        if self.protocol_type != CONSUMER_PROTOCOL_TYPE:
            return None
        topics: set[str] = set()
        for member in self.members.values():
            # Only what version 0 has is looked at: later fields may be of a version that is not known here.
            data = bytes(VERSION_BYTES) + member.metadata(self.protocol_name)[VERSION_BYTES:]
            fields = decode_member_bytes(SUBSCRIPTION, data)
            if fields is None:
                return None
            found = fields["topics"]
            assert isinstance(found, list)
            topics.update(found)
        return frozenset(topics)

    # ---- records

    def stored(self, assignments: Mapping[str, bytes]) -> StoredGroup:
        """Return what its record says, with these assignments."""
        return StoredGroup(
            self.protocol_type or "",
            self.generation_id,
            self.protocol_name,
            self.leader,
            -1 if self.state_timestamp is None else self.state_timestamp,
            tuple(
                StoredMember(
                    member.member_id,
                    member.group_instance_id,
                    member.client_id,
                    member.client_host,
                    member.rebalance_timeout_ms,
                    member.session_timeout_ms,
                    member.metadata(self.protocol_name),
                    assignments.get(member.member_id, b""),
                )
                for member in self.members.values()
            ),
        )

    def load(self, stored: StoredGroup) -> None:
        """Become what a record says: Stable with members, Empty without."""
        assert not self.members
        self.generation_id = stored.generation_id
        self.protocol_type = stored.protocol_type or None
        self.protocol_name = stored.protocol_name
        self.state_timestamp = None if stored.state_timestamp < 0 else stored.state_timestamp
        for one in stored.members:
            if one.member_id in self.members or one.group_instance_id in self.static_members:
                continue  # no coordinator writes that
            timeouts = (one.rebalance_timeout_ms, one.session_timeout_ms)
            protocols = ((stored.protocol_name or "", one.subscription),)
            self.add(
                Member(one.member_id, one.group_instance_id, one.client_id, one.client_host, timeouts, protocols,
                       one.assignment)
            )  # fmt: skip
        if stored.leader in self.members:
            self.leader = stored.leader
        self.state = GroupState.STABLE if self.members else GroupState.EMPTY
        self.subscribed_topics = self._subscribed_topics()


def _names(protocols: Protocols) -> Iterable[str]:
    return {name for name, _ in protocols}
