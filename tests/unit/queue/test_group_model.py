"""A group whose members join, leave, are killed and come late is held against what it must never do.

Each member is a process of its own on a file system in memory; a crash is a power cut, after which all is opened again.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import logstore
from logstore.config import LogConfig
from logstore.errors import FencedMemberError
from logstore.names import CONSUMER_OFFSETS_TOPIC, TopicPartition
from logstore.queue import Consumer
from logstore.queue.assignors import ASSIGNORS
from logstore.queue.membership import MEMBER_SUFFIX
from logstore.queue.offsets_store import OffsetsStore
from logstore.store import Store
from logstore.testing import CrashMode, ManualClock, MemoryFileSystem

# Without shrinking, which takes minutes: the steps of a failure are few enough to be read.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
MEMBERS_MAX = 3
PARTITIONS_MAX = 5
AUTO_COMMIT_MS = 100
LOOK_MS = 1_100
"""After so long a member looks at all: who is dead, and which partitions there are."""


@dataclass(eq=False)
class Process:
    """A member's process; `is_passed_over`: the others may have taken it for dead."""

    fs: MemoryFileSystem
    store: Store
    consumer: Consumer
    is_passed_over: bool = False

    def owned(self) -> frozenset[TopicPartition]:
        member = self.consumer.member
        return frozenset() if member is None else member.owned


class GroupMachine(RuleBasedStateMachine):
    """A topic, and the members of one group that read it."""

    @initialize(assignor=st.sampled_from(sorted(ASSIGNORS)))
    def begin(self, assignor: str) -> None:
        self.assignor = assignor
        self.clock = ManualClock(1_700_000_000_000)
        self.members: list[Process] = []
        self.ends: dict[TopicPartition, int] = {TopicPartition("t", number): 0 for number in range(2)}
        self.delivered: dict[TopicPartition, set[int]] = {one: set() for one in self.ends}
        self.committed: dict[TopicPartition, int] = {}
        self._open(MemoryFileSystem(self.clock))
        self.store.create_topic("t", 2)
        self.store.create_topic(CONSUMER_OFFSETS_TOPIC, 1)

    def _open(self, fs: MemoryFileSystem) -> None:
        self.fs = fs
        self.store = self._store(fs)
        self.offsets = OffsetsStore(self.store)

    def _store(self, fs: MemoryFileSystem) -> Store:
        return logstore.open("/store", fs=fs, clock=self.clock, config=LogConfig(durability="always"))

    def teardown(self) -> None:
        """Whoever comes last gets all that was not committed; then nothing was skipped."""
        if not hasattr(self, "fs"):
            return
        while self.members:
            self._leave(self.members[0])
        with Consumer(self.store, "t", group="g", assignor=self.assignor, enable_auto_commit=False) as last:  # type: ignore[arg-type]
            for messages in last.batches(until_end=True):
                for one in messages:
                    self.delivered[one.topic, one.partition].add(one.offset)  # type: ignore[index]
        assert {one: set(range(end)) for one, end in self.ends.items()} == self.delivered
        self.store.close()

    # ---- what members do

    @precondition(lambda self: len(self.members) < MEMBERS_MAX)
    @rule(commits_itself=st.booleans())
    def join(self, commits_itself: bool) -> None:
        process = self.fs.process()
        store = self._store(process)
        consumer = Consumer(
            store, "t", group="g", assignor=self.assignor, enable_auto_commit=commits_itself,  # type: ignore[arg-type]
            auto_commit_interval_ms=AUTO_COMMIT_MS, max_poll_records=3,
        )  # fmt: skip
        self.members.append(Process(process, store, consumer))

    def _member(self, number: int) -> Process:
        return self.members[number % len(self.members)]

    @precondition(lambda self: self.members)
    @rule(number=st.integers(0, 2))
    def poll(self, number: int) -> None:
        self._poll(self._member(number))

    def _poll(self, member: Process) -> None:
        try:
            messages = member.consumer.poll(0)
        except FencedMemberError:
            assert member.is_passed_over
            return
        for one in messages:
            name = TopicPartition(one.topic, one.partition)
            assert name in member.owned()
            assert one.value == b"%d" % one.offset
            self.delivered[name].add(one.offset)

    @precondition(lambda self: self.members)
    @rule(number=st.integers(0, 2))
    def commit(self, number: int) -> None:
        member = self._member(number)
        positions, before = member.consumer.positions(), self.offsets.committed("g")
        try:
            member.consumer.commit()
        except FencedMemberError:
            assert member.is_passed_over
            assert self.offsets.committed("g") == before
        else:
            known = {name: one.offset for name, one in self.offsets.committed("g").items()}
            assert positions == {name: known.get(name, 0) for name in positions}

    @precondition(lambda self: self.members)
    @rule(number=st.integers(0, 2))
    def leave(self, number: int) -> None:
        self._leave(self._member(number))

    def _leave(self, member: Process) -> None:
        self.members.remove(member)
        try:
            member.consumer.close()
        except FencedMemberError:
            assert member.is_passed_over
        member.store.close()

    @precondition(lambda self: self.members)
    @rule(number=st.integers(0, 2))
    def is_killed(self, number: int) -> None:
        self._kill(self._member(number))

    def _kill(self, member: Process) -> None:
        self.members.remove(member)
        member.fs.kill()
        member.consumer._end.detach()  # else it would be told that nobody has closed it

    @precondition(lambda self: len(self.members) > 1)
    @rule(number=st.integers(0, 2), other=st.integers(1, 2))
    def is_passed_over(self, number: int, other: int) -> None:
        """One is taken for dead that is not: what it commits from then on does not count."""
        late = self._member(number)
        rest = [one for one in self.members if one is not late]
        if late.consumer.member is None:
            return
        for name in self.fs.list("/store"):
            if name.endswith(late.consumer.member.member_id + MEMBER_SUFFIX):
                self.fs.unlink(f"/store/{name}")
        late.is_passed_over = True
        self.clock.advance(LOOK_MS)
        self._poll(rest[other % len(rest)])
        before, positions = self.offsets.committed("g"), late.consumer.positions()
        if positions and positions != late.consumer._known:
            try:
                late.consumer.commit()
            except FencedMemberError:
                pass
            else:
                raise AssertionError("one that was passed over could commit")
        assert self.offsets.committed("g") == before
        for ms in (LOOK_MS, AUTO_COMMIT_MS - 1):  # it learns of it, be it by a commit of its own, and comes back
            self.clock.advance(ms)
            self._poll(late)
        late.is_passed_over = False

    # ---- what happens around them

    @rule(number=st.integers(0, 4), count=st.integers(1, 5))
    def produce(self, number: int, count: int) -> None:
        name = TopicPartition("t", number % len(self.ends))
        for _ in range(count):
            self.store.partition(*name).append([(b"k", b"%d" % self.ends[name])])
            self.ends[name] += 1

    @precondition(lambda self: len(self.ends) < PARTITIONS_MAX)
    @rule()
    def grow(self) -> None:
        name = TopicPartition("t", len(self.ends))
        self.store.grow_topic("t", name.partition + 1)
        self.ends[name], self.delivered[name] = 0, set()

    @rule(ms=st.sampled_from([10, 60, LOOK_MS]))
    def pass_time(self, ms: int) -> None:
        self.clock.advance(ms)

    @precondition(lambda self: self.committed and not self.members)
    @rule(number=st.integers(0, 4))
    def reset(self, number: int) -> None:
        """Somebody sets an offset back: the only way for it to go there."""
        name = sorted(self.committed)[number % len(self.committed)]
        self.committed[name] //= 2
        self.offsets.commit("g", {name: self.committed[name]})

    @rule(mode=st.sampled_from(["nothing", "everything", "torn", "metadata", "subset"]), seed=st.integers(0, 9))
    def crash(self, mode: CrashMode, seed: int) -> None:
        after = self.fs.crash(mode, seed)
        for member in tuple(self.members):
            self._kill(member)
        self.fs.kill()
        self._open(after)

    # ---- what must always be so

    @invariant()
    def nobody_shares_a_partition(self) -> None:
        owned = [one for member in getattr(self, "members", []) if not member.is_passed_over for one in member.owned()]
        assert len(owned) == len(set(owned))

    @invariant()
    def offsets_never_go_back_and_skip_nothing(self) -> None:
        if not hasattr(self, "store"):
            return
        found = {name: one.offset for name, one in self.offsets.committed("g").items()}
        for name, offset in self.committed.items():
            assert found.get(name, -1) >= offset, f"{name} went from {offset} back to {found.get(name)}"
        for name, offset in found.items():
            assert self.delivered[name] >= set(range(offset)), f"{name} is committed to {offset}, and not delivered"
        self.committed = found


TestGroup = GroupMachine.TestCase
TestGroup.settings = settings(max_examples=15, stateful_step_count=30, deadline=None, phases=PHASES)
