"""Storms of joins, syncs, heartbeats, commits, leaves and failures in any order (GROUP-85).

Clients do what clients do, and much that they should not: they ask with old ids and generations, ask again while they
wait, and vanish. Writes end late, or fail; the partition moves away and comes back.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers.group_clients import Clients
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from logstore.groups import (
    ErrorCode,
    GroupState,
    JoinGroupResponse,
    LeavingMember,
    Pending,
    SyncGroupResponse,
    group_partition,
)
from logstore.groups.group import Group
from logstore.groups.rebalancing import Deadline

GROUPS = ("g", "h")
WHO = (("g", None), ("g", None), ("g", None), ("g", "one"), ("g", "two"), ("g", "one"), ("h", None), ("h", "one"))
PROTOCOLS = (
    (("range", b"r"),),
    (("range", b"r2"), ("sticky", b"s")),
    (("sticky", b"s"), ("range", b"r")),
)
PARTITIONS = range(6)
MAX_SIZE = 4
JOINS = {"session_ms": 6_000, "rebalance_ms": 9_000}
numbers = st.integers(0, len(WHO) - 1)
GONE = (ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_INSTANCE_ID)


class Client:
    """A consumer, and what it believes."""

    def __init__(self, group: str, instance: str | None) -> None:
        self.group = group
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.led: tuple[str, ...] = ()  # the members that it is to assign partitions to

    def __repr__(self) -> str:
        return f"<Client {self.group} {self.instance} {self.member_id} generation {self.generation}>"


class Storm(RuleBasedStateMachine):
    """Two groups, their clients, and all that has not been answered yet."""

    @initialize(delay=st.sampled_from([0, 3_000]))
    def begin(self, delay: int) -> None:
        self.world = Clients(
            group_initial_rebalance_delay_ms=delay, group_max_size=MAX_SIZE, offsets_topic_num_partitions=2
        )
        self.world.holds_writes = True
        self.clients = [Client(group, instance) for group, instance in WHO]
        self.open: dict[Pending[Any], Client] = {}
        self.epoch = 0
        # Of each group, as long as it is known here: its highest generation, and who owns what in which generation.
        self.generations: dict[str, int] = {}
        self.owners: dict[tuple[str, int, int], str] = {}

    # ---- what clients do

    @rule(number=numbers, protocols=st.sampled_from(PROTOCOLS), version=st.sampled_from([3, 4, 8, 9]))
    def join(self, number: int, protocols: tuple[tuple[str, bytes], ...], version: int) -> None:
        client = self.clients[number]
        more: dict[str, Any] = {"instance": client.instance, "protocols": protocols, **JOINS}
        self._asked(client, self.world.join(client.member_id, group=client.group, version=version, **more))

    @rule(number=numbers)
    def sync(self, number: int) -> None:
        client = self.clients[number]
        assignments: dict[str, bytes] = {}
        for number, member in enumerate(client.led):
            assignments[member] = bytes(PARTITIONS[number :: len(client.led)])
        more: dict[str, Any] = {"group": client.group, "instance": client.instance}
        self._asked(client, self.world.sync(client.member_id, client.generation, assignments, **more))

    @rule(number=numbers)
    def heartbeat(self, number: int) -> None:
        client = self.clients[number]
        code = self.world.heartbeat(client.member_id, client.generation, group=client.group, instance=client.instance)
        if code in GONE:
            client.member_id = ""

    @rule(number=numbers, offset=st.integers(0, 99), has_member=st.booleans())
    def commit(self, number: int, offset: int, has_member: bool) -> None:
        client = self.clients[number]
        who: dict[str, Any] = {"member_id": client.member_id, "generation": client.generation}
        more = who if has_member else {}
        self._asked(client, self.world.commit({("t", 0): offset}, group=client.group, **more))

    @rule(number=numbers)
    def leave(self, number: int) -> None:
        client = self.clients[number]
        self.world.leave(LeavingMember(client.member_id, client.instance), group=client.group)
        self._heed_answers()

    @rule(number=numbers)
    def forget(self, number: int) -> None:
        """Begin as if for the first time, as after a crash."""
        client = self.clients[number]
        client.member_id, client.generation, client.led = "", -1, ()

    @rule(group=st.sampled_from(GROUPS), some=st.sets(numbers, min_size=2), syncs=st.booleans())
    def do_what_they_should(self, group: str, some: set[int], syncs: bool) -> None:
        """Some join together, and perhaps ask for their assignments, the leader last."""
        members = [number for number in sorted(some) if self.clients[number].group == group]
        for number in members:
            self.join(number, PROTOCOLS[0], 9)
            if self.clients[number].generation < 0:
                self.join(number, PROTOCOLS[0], 9)
        self.let_time_pass(3_000)
        self.write(9)
        for number in sorted(members, key=lambda one: len(self.clients[one].led)) if syncs else ():
            self.sync(number)

    # ---- what befalls them

    @rule(ms=st.sampled_from([1, 500, 2_999, 3_000, 3_000, 6_000, 9_000]))
    def let_time_pass(self, ms: int) -> None:
        self.world.pass_ms(ms)
        self._heed_answers()

    @rule(count=st.integers(1, 3))
    def write(self, count: int) -> None:
        for _ in range(min(count, len(self.world.held))):
            self.world.write(self.world.held.pop(0))
            self.world.settle()
        self._heed_answers()

    @rule(error=st.sampled_from([ErrorCode.REQUEST_TIMED_OUT, ErrorCode.NOT_ENOUGH_REPLICAS]))
    def fail_writes(self, error: ErrorCode) -> None:
        self.world.fail(error)
        self._heed_answers()

    @rule()
    def expire_offsets(self) -> None:
        self.world.coordinator.expire_offsets()
        self.world.settle()

    @rule(group=st.sampled_from(GROUPS))
    def delete_group(self, group: str) -> None:
        self._asked(Client(group, None), self.world.coordinator.delete_groups([group]))

    @rule(group=st.sampled_from(GROUPS))
    def move_away_and_back(self, group: str) -> None:
        partition = group_partition(group, 2)
        while self.world.held:  # the broker that led until now has its appends replicated, or failed
            self.write(1)
        self.epoch += 2
        assert self.world.coordinator.unload(partition, self.epoch - 1)
        self._heed_answers()
        assert self.world.coordinator.begin_load(partition, self.epoch)
        assert self.world.coordinator.finish_load(partition, self.epoch, self.world.loaded(partition))
        for one in [one for one in self.generations if group_partition(one, 2) == partition]:
            self._forget_group(one)

    # ---- answers

    def _asked(self, client: Client, pending: Pending[Any]) -> None:
        assert pending not in self.open
        self.open[pending] = client
        self.world.settle()
        self._heed_answers()

    def _heed_answers(self) -> None:
        for pending in self.world.coordinator.take_answers():
            client = self.open.pop(pending)  # fails for one that was answered twice
            response = pending.response
            if isinstance(response, JoinGroupResponse):
                self._joined(client, response)
            elif isinstance(response, SyncGroupResponse) and response.error is ErrorCode.NONE:
                self._synced(client, response)
        known = self.world.coordinator._desk.groups
        for group_id in [one for one in self.generations if one not in known]:
            self._forget_group(group_id)

    def _joined(self, client: Client, response: JoinGroupResponse) -> None:
        if response.error is ErrorCode.NONE:
            client.member_id, client.generation = response.member_id, response.generation_id
            client.led = () if response.skip_assignment else tuple(one.member_id for one in response.members)
            assert response.generation_id >= self.generations.get(client.group, 0)
            self.generations[client.group] = response.generation_id
        elif response.error is ErrorCode.MEMBER_ID_REQUIRED:
            client.member_id = response.member_id
        elif response.error in GONE or not response.member_id:
            client.member_id = ""

    def _synced(self, client: Client, response: SyncGroupResponse) -> None:
        group = self.world.coordinator._desk.groups[client.group]
        for partition in response.assignment:
            key = (client.group, group.generation_id, partition)
            owner = client.instance or client.member_id
            assert self.owners.setdefault(key, owner) == owner, f"two own {key}"

    def _forget_group(self, group_id: str) -> None:
        self.generations.pop(group_id, None)
        self.owners = {key: owner for key, owner in self.owners.items() if key[0] != group_id}

    # ---- what always holds

    @invariant()
    def who_waits_has_a_deadline_or_a_write(self) -> None:
        if self.open:
            assert self.world.coordinator.next_deadline_ms is not None or self.world.held

    @invariant()
    def nothing_is_overdue(self) -> None:
        deadline = self.world.coordinator.next_deadline_ms
        assert deadline is None or deadline > self.world.clock.monotonic_ns() // 1_000_000

    @invariant()
    def generations_only_grow(self) -> None:
        for group in self.world.coordinator._desk.groups.values():
            assert group.generation_id >= self.generations.get(group.group_id, 0)
            self.generations[group.group_id] = group.generation_id

    @invariant()
    def no_member_is_in_two_places(self) -> None:
        seen: set[str] = set()
        for group in self.world.coordinator._desk.groups.values():
            ids = [*group.members, *group.pending_members]
            assert len(set(ids)) == len(ids)
            assert not seen & set(ids)
            seen.update(ids)
            self._check_group(group)

    @invariant()
    def deadlines_are_of_somebody(self) -> None:
        desk = self.world.coordinator._desk
        for deadline in desk.timers._deadlines:
            group = desk.groups[deadline.group_id]
            if deadline.kind == "sync":
                assert group.pending_sync
            elif deadline.kind != "join":
                assert deadline.member_id in (group.members if deadline.kind == "session" else group.pending_members)

    def _check_group(self, group: Group) -> None:
        members, timers = group.members, self.world.coordinator._desk.timers
        assert not group.is_dead
        assert all(member.member_id == one for one, member in members.items())
        assert (group.leader in members) if members else (group.leader is None)
        statics = {member.group_instance_id: one for one, member in members.items() if member.group_instance_id}
        assert group.static_members == statics
        assert group.joined_count == sum(member.join is not None for member in members.values())
        assert group.pending_sync <= set(members)
        assert group.joined_count <= MAX_SIZE
        if group.state is not GroupState.PREPARING_REBALANCE:  # in which those who come first have the places
            assert len(members) <= MAX_SIZE + len(statics)
        assert (group.state is GroupState.EMPTY) <= (not members)
        assert (group.state in (GroupState.STABLE, GroupState.COMPLETING_REBALANCE)) <= bool(members)
        is_preparing = group.state is GroupState.PREPARING_REBALANCE
        assert (Deadline("join", group.group_id) in timers) == is_preparing
        assert (Deadline("sync", group.group_id) in timers) == bool(group.pending_sync)
        assert all(Deadline("pending", group.group_id, one) in timers for one in group.pending_members)
        for one, member in members.items():
            has_session = Deadline("session", group.group_id, one) in timers
            assert has_session == (not member.is_waiting or (member.is_new and member.join is not None))
            assert not (member.join and member.sync)
            assert all(pending is None or pending in self.open for pending in (member.join, member.sync))
            if member.sync:
                assert group.state is GroupState.COMPLETING_REBALANCE

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.release()
        self._heed_answers()
        after = self.world.restarted()
        for group in self.world.coordinator._desk.groups.values():
            group_id = group.group_id
            assert after.fetch(group=group_id) == self.world.fetch(group=group_id)
            if group.state is GroupState.STABLE:
                before, now = (one.coordinator.describe_groups([group_id])[0].members for one in (self.world, after))
                assert now == before
        self.world.pass_ms(2_000_000)
        self._heed_answers()
        assert not self.open
        assert all(not group.members for group in self.world.coordinator._desk.groups.values())
        assert self.world.coordinator.next_deadline_ms is None


TestStorm = pytest.mark.kafka("GROUP-85")(Storm.TestCase)
TestStorm.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
