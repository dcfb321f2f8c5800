"""Requests to the group coordinator, and its responses: Kafka's fields, without the wire.

Names are those of Kafka's protocol in Python's spelling; times are milliseconds. A group id may be None, which the wire
can say; it is refused. Immutable, therefore thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from logstore.groups.errors import ErrorCode
from logstore.groups.states import GroupState
from logstore.names import TopicPartition

NO_GENERATION = -1
CLASSIC = "classic"
"""The type of all groups here, as ListGroups says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroupRequest:
    """Ask to become, or to stay, a member.

    Attributes:
        member_id: "" for a new member.
        group_instance_id: makes the member static.
        protocols: name and metadata of each, the preferred one first.
        rebalance_timeout_ms: None for the session timeout, as in version 0.
        client_host: as Kafka writes it, with a slash before the address; one without gets it.
    """

    group_id: str | None
    session_timeout_ms: int
    rebalance_timeout_ms: int | None = None
    member_id: str = ""
    group_instance_id: str | None = None
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    client_id: str = ""
    client_host: str = ""


@dataclass(frozen=True, slots=True)
class JoinedMember:
    """A member as its leader is told of it: `metadata` is that of the chosen protocol."""

    member_id: str
    group_instance_id: str | None
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinGroupResponse:
    """The generation that the member is in; `members` is for the leader only."""

    error: ErrorCode
    member_id: str
    generation_id: int = NO_GENERATION
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncGroupRequest:
    """Bring, as the leader, the assignments of all members, and ask for one's own."""

    group_id: str | None
    generation_id: int
    member_id: str
    group_instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncGroupResponse:
    """The member's assignment; empty where the leader gave it none."""

    error: ErrorCode
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignment: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatRequest:
    """Say that a member lives."""

    group_id: str | None
    generation_id: int
    member_id: str
    group_instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class LeavingMember:
    """Who leaves; without a member id, the static member of this instance."""

    member_id: str = ""
    group_instance_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveGroupRequest:
    """Take members out of a group; up to version 2 exactly one."""

    group_id: str | None
    members: tuple[LeavingMember, ...]


@dataclass(frozen=True, slots=True)
class LeftMember:
    """What became of one who leaves."""

    member_id: str
    group_instance_id: str | None
    error: ErrorCode


@dataclass(frozen=True, slots=True)
class LeaveGroupResponse:
    """The error of the request, which up to version 2 is that of its member, and the members' own."""

    error: ErrorCode
    members: tuple[LeftMember, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitOffset:
    """What is to be committed for one partition; without a timestamp, as of now."""

    offset: int
    leader_epoch: int = -1
    metadata: str | None = ""
    commit_timestamp: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetCommitRequest:
    """Commit offsets, as a member, or as one who does without members.

    Attributes:
        retention_ms: an own expiry, as versions 2 to 4 could ask for.
        producer_id, producer_epoch: of the transaction that they belong to (TxnOffsetCommit).
    """

    group_id: str | None
    offsets: Mapping[TopicPartition, CommitOffset]
    generation_id: int = NO_GENERATION
    member_id: str = ""
    group_instance_id: str | None = None
    retention_ms: int | None = None
    producer_id: int = -1
    producer_epoch: int = -1

    @property
    def is_transactional(self) -> bool:
        """Whether they count only once their transaction commits."""
        return self.producer_id >= 0


@dataclass(frozen=True, slots=True)
class OffsetCommitResponse:
    """What became of each partition."""

    errors: Mapping[TopicPartition, ErrorCode]


@dataclass(frozen=True, slots=True)
class OffsetFetchRequest:
    """Ask for committed offsets: of these partitions, or of all.

    With `require_stable`, a partition that has a commit under way is refused instead of answered with the last one.
    """

    group_id: str | None
    partitions: tuple[TopicPartition, ...] | None = None
    require_stable: bool = False


@dataclass(frozen=True, slots=True)
class FetchedOffset:
    """What is committed for a partition; an offset of -1: nothing."""

    offset: int = -1
    leader_epoch: int = -1
    metadata: str = ""
    error: ErrorCode = ErrorCode.NONE


@dataclass(frozen=True, slots=True)
class OffsetFetchResponse:
    """The error of the group, or its offsets."""

    error: ErrorCode
    offsets: Mapping[TopicPartition, FetchedOffset] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OffsetDeleteRequest:
    """Delete committed offsets."""

    group_id: str | None
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class OffsetDeleteResponse:
    """The error of the group, or of each partition."""

    error: ErrorCode
    errors: Mapping[TopicPartition, ErrorCode] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeleteGroupsResponse:
    """What became of each group."""

    errors: Mapping[str, ErrorCode]


@dataclass(frozen=True, slots=True)
class DescribedMember:
    """A member; metadata and assignment are empty unless its group is Stable."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedGroup:
    """A group as DescribeGroups shows it; one that is not there is Dead."""

    error: ErrorCode
    group_id: str
    state: str = ""
    protocol_type: str = ""
    protocol_name: str = ""
    members: tuple[DescribedMember, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedGroup:
    """A group as ListGroups shows it."""

    group_id: str
    protocol_type: str
    state: GroupState
    group_type: str = CLASSIC


@dataclass(frozen=True, slots=True)
class ListGroupsResponse:
    """The groups; with an error there may be more."""

    error: ErrorCode
    groups: tuple[ListedGroup, ...] = ()


def join_error(
    error: ErrorCode, version: int, member_id: str = "", generation_id: int = NO_GENERATION
) -> JoinGroupResponse:
    """Return the response to a join that failed; from version 7 on it has no protocol name, before an empty one."""
    name = None if version >= 7 else ""
    return JoinGroupResponse(error=error, member_id=member_id, generation_id=generation_id, protocol_name=name)


def commit_error(error: ErrorCode, partitions: Iterable[TopicPartition]) -> OffsetCommitResponse:
    """Return the response to a commit that failed as a whole."""
    return OffsetCommitResponse(dict.fromkeys(partitions, error))
