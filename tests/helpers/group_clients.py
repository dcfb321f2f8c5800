"""A group coordinator with a clock and a log in memory, and verbs for what clients do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import count
from typing import Any

from logstore.groups import (
    CommitOffset,
    ErrorCode,
    FetchedOffset,
    GroupConfig,
    GroupCoordinator,
    HeartbeatRequest,
    JoinGroupRequest,
    JoinGroupResponse,
    LeaveGroupRequest,
    LeaveGroupResponse,
    LeavingMember,
    LoadedGroups,
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetFetchRequest,
    Pending,
    SyncGroupRequest,
    SyncGroupResponse,
    Write,
    group_partition,
    load_groups,
)
from logstore.names import TopicPartition
from logstore.records import (
    BatchOptions,
    ControlType,
    EndTransactionMarker,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
)
from logstore.testing.manual_clock import ManualClock

BEGIN_MS = 1_700_000_000_000
SESSION_MS = 10_000
REBALANCE_MS = 60_000
GROUP = "g"
RANGE = (("range", b"r"),)


def subscription(*topics: str) -> bytes:
    """The metadata of a consumer, version 0, without user data."""
    names = b"".join(len(topic).to_bytes(2, "big") + topic.encode() for topic in topics)
    return bytes(2) + len(topics).to_bytes(4, "big") + names + b"\xff\xff\xff\xff"


class Clients:
    """Drives a coordinator of all partitions; writes succeed at once unless `holds_writes`.

    Attributes:
        logs: for each partition of `__consumer_offsets` its batches.
        held: writes that have been taken and not ended, where `holds_writes`.
    """

    def __init__(self, *, logs: dict[int, bytearray] | None = None, now_ms: int = BEGIN_MS, **config: Any) -> None:
        settings = {"group_initial_rebalance_delay_ms": 0, **config}
        self.config = GroupConfig(**settings)
        self.clock = ManualClock(now_ms)
        self.logs = {} if logs is None else logs
        self.unknown: set[TopicPartition] = set()
        numbers = count(1)
        self.coordinator = GroupCoordinator(
            self.config,
            clock=self.clock,
            has_partition=lambda partition: partition not in self.unknown,
            new_id=lambda: f"id{next(numbers)}",
        )
        self.holds_writes = False
        self.held: list[Write] = []
        for partition in range(self.config.offsets_topic_num_partitions):
            assert self.coordinator.begin_load(partition, 0)
            assert self.coordinator.finish_load(partition, 0, self.loaded(partition))

    def loaded(self, partition: int) -> LoadedGroups:
        """What the log of a partition says."""
        return load_groups(iter_batches(self.logs.get(partition, b"")))

    def restarted(self) -> Clients:
        """Another coordinator, that has the same log."""
        return Clients(logs=self.logs, now_ms=self.clock.now_ms(), **asdict(self.config))

    # ---- time and writes

    def pass_ms(self, ms: int) -> None:
        """Let time pass, and everything happen at its time."""
        end = self.clock.monotonic_ns() // 1_000_000 + ms
        while True:
            deadline = self.coordinator.next_deadline_ms
            now = self.clock.monotonic_ns() // 1_000_000
            if deadline is None or deadline > end:
                self.clock.advance(end - now)
                return
            self.clock.advance(max(deadline - now, 0))
            self.coordinator.expire()
            self.settle()

    def settle(self) -> None:
        """Take what is to be written, and write it unless it is to be held."""
        self.held += self.coordinator.take_writes()
        while self.held and not self.holds_writes:
            self.write(self.held.pop(0))
            self.held += self.coordinator.take_writes()

    def write(self, write: Write) -> None:
        """Append records and tell so."""
        options = BatchOptions()
        if write.producer_id >= 0:
            options = BatchOptions(is_transactional=True, producer_id=write.producer_id, producer_epoch=0,
                                   base_sequence=0)  # fmt: skip
        base_offset = self._end(write.partition)
        self._log(write.partition).extend(
            encode_batch(
                [(key, value) for key, value in write.records],
                base_offset=base_offset, options=options, timestamp=write.timestamp_ms,
            )
        )  # fmt: skip
        self.coordinator.written(write, base_offset)

    def fail(self, error: ErrorCode) -> None:
        """Let the writes that are held fail."""
        held, self.held = self.held, []
        for write in held:
            self.coordinator.failed(write, error)
        self.settle()

    def release(self) -> None:
        """Let the writes that are held succeed, and all later ones at once."""
        self.holds_writes = False
        self.settle()

    def end_transaction(self, producer_id: int, control_type: ControlType, group: str = GROUP) -> None:
        """Write a marker to the group's partition and tell so."""
        partition = group_partition(group)
        self._log(partition).extend(
            encode_end_transaction_batch(
                EndTransactionMarker(control_type, 0), offset=self._end(partition), timestamp=self.clock.now_ms(),
                producer_id=producer_id, producer_epoch=0,
            )
        )  # fmt: skip
        self.coordinator.end_transaction(producer_id, [partition], is_commit=control_type is ControlType.COMMIT)

    def _log(self, partition: int) -> bytearray:
        return self.logs.setdefault(partition, bytearray())

    def _end(self, partition: int) -> int:
        return max((batch.next_offset for batch in iter_batches(bytes(self._log(partition)))), default=0)

    # ---- what clients do

    def join(
        self,
        member_id: str = "",
        *,
        group: str | None = GROUP,
        version: int = 3,
        protocols: tuple[tuple[str, bytes], ...] = RANGE,
        protocol_type: str = "consumer",
        instance: str | None = None,
        session_ms: int = SESSION_MS,
        rebalance_ms: int | None = REBALANCE_MS,
        client_id: str = "c",
    ) -> Pending[JoinGroupResponse]:
        pending = self.coordinator.join_group(
            JoinGroupRequest(
                group_id=group,
                member_id=member_id,
                group_instance_id=instance,
                session_timeout_ms=session_ms,
                rebalance_timeout_ms=rebalance_ms,
                protocol_type=protocol_type,
                protocols=protocols,
                client_id=client_id,
                client_host="127.0.0.1",
            ),
            version,
        )
        self.settle()
        return pending

    def joined(self, member_id: str = "", **more: Any) -> JoinGroupResponse:
        """Join, and have an answer at once."""
        return answer(self.join(member_id, **more))

    def sync(
        self,
        member_id: str,
        generation: int,
        assignments: Mapping[str, bytes] | None = None,
        *,
        group: str | None = GROUP,
        version: int = 3,
        instance: str | None = None,
        protocol: tuple[str | None, str | None] = (None, None),
    ) -> Pending[SyncGroupResponse]:
        pending = self.coordinator.sync_group(
            SyncGroupRequest(
                group_id=group,
                member_id=member_id,
                generation_id=generation,
                group_instance_id=instance,
                protocol_type=protocol[0],
                protocol_name=protocol[1],
                assignments=assignments or {},
            ),
            version,
        )
        self.settle()
        return pending

    def heartbeat(
        self, member_id: str, generation: int, *, group: str | None = GROUP, instance: str | None = None
    ) -> ErrorCode:
        request = HeartbeatRequest(
            group_id=group, member_id=member_id, generation_id=generation, group_instance_id=instance
        )
        return self.coordinator.heartbeat(request)

    def leave(self, *members: str | LeavingMember, group: str | None = GROUP, version: int = 3) -> LeaveGroupResponse:
        leaving = tuple(LeavingMember(one) if isinstance(one, str) else one for one in members)
        response = self.coordinator.leave_group(LeaveGroupRequest(group_id=group, members=leaving), version)
        self.settle()
        return response

    def commit(
        self,
        offsets: Mapping[tuple[str, int], int | CommitOffset],
        *,
        member_id: str = "",
        generation: int = -1,
        group: str | None = GROUP,
        **more: Any,
    ) -> Pending[OffsetCommitResponse]:
        pending = self.coordinator.commit_offsets(
            OffsetCommitRequest(
                group_id=group,
                member_id=member_id,
                generation_id=generation,
                offsets={
                    TopicPartition(*partition): CommitOffset(one) if isinstance(one, int) else one
                    for partition, one in offsets.items()
                },
                **more,
            )
        )
        self.settle()
        return pending

    def committed(self, offset: int = 1, **more: Any) -> ErrorCode:
        """Commit an offset of one partition, and have an answer at once."""
        (error,) = answer(self.commit({("t", 0): offset}, **more)).errors.values()
        return error

    def fetch(self, *partitions: tuple[str, int], group: str | None = GROUP, stable: bool = False) -> dict[Any, Any]:
        """What is committed for these partitions, or for all."""
        wanted = tuple(TopicPartition(*one) for one in partitions) or None
        response = self.coordinator.fetch_offsets(OffsetFetchRequest(group, wanted, stable))
        assert response.error is ErrorCode.NONE
        return dict(response.offsets)

    def offset(self, topic: str = "t", partition: int = 0, **more: Any) -> int:
        fetched: FetchedOffset = self.fetch((topic, partition), **more)[topic, partition]
        return fetched.offset

    def state(self, group: str = GROUP) -> str:
        (described,) = self.coordinator.describe_groups([group])
        return described.state

    def listed(self) -> set[str]:
        return {group.group_id for group in self.coordinator.list_groups().groups}

    # ---- whole rebalances

    def stable(self, count: int = 1, **more: Any) -> list[str]:
        """A Stable group of so many members, the first of which leads; each is assigned its own id."""
        members = [self.joined(**more).member_id]
        pendings = [self.join(**more) for _ in range(count - 1)]
        if pendings:
            pendings.insert(0, self.join(members[0], **more))
            members += [answer(one).member_id for one in pendings[1:]]
        self.assign(members, group=more.get("group", GROUP))
        return members

    def assign(self, members: list[str], group: str = GROUP) -> None:
        """Let all members, the leader first, sync with the current generation."""
        generation = self.generation(group)
        assignments = {member: member.encode() for member in members}
        for number, member in enumerate(members):
            response = answer(self.sync(member, generation, {} if number else assignments, group=group))
            assert (response.error, response.assignment) == (ErrorCode.NONE, member.encode())

    def generation(self, group: str = GROUP) -> int:
        """The generation of a group, looked up inside."""
        return self.coordinator._desk.groups[group].generation_id

    def live(self, ms: int, members: list[str]) -> set[ErrorCode]:
        """Let time pass in steps of three seconds, at each of which the members send a heartbeat."""
        codes = set()
        while ms > 0:
            self.pass_ms(min(ms, 3_000))
            ms -= 3_000
            codes |= {self.heartbeat(member, self.generation()) for member in members}
        return codes


def answer(pending: Pending[Any]) -> Any:
    """The answer to a request, which must be there."""
    assert pending.response is not None, "the request still waits"
    return pending.response
