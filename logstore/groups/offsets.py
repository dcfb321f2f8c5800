"""The records of `__consumer_offsets` that a classic group needs, written and read, and where a group's records are.

Offset commits and group metadata are written as Kafka writes them: keys 1 and 2, values of version 3 (an offset that
has its own expiry: version 1). Read are all versions, 0 to 4. Invariant: what is decoded from a value of version 3 and
encoded again gives the same bytes. Pure functions and immutable values: thread-safe. Layouts: CLUSTER §7.7.

    key 1    i16 1, string group, string topic, i32 partition
    value 3  i16 3, i64 offset, i32 leader epoch, string metadata, i64 commit timestamp
    value 1  i16 1, i64 offset, string metadata, i64 commit timestamp, i64 expire timestamp
    key 2    i16 2, string group
    value 3  i16 3, string protocol type, i32 generation, nullable string protocol, nullable string leader,
             i64 state timestamp, i32 count, then for each member: string id, nullable string instance id,
             string client id, string client host, i32 rebalance timeout, i32 session timeout,
             bytes subscription, bytes assignment
"""

from __future__ import annotations

import base64
import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from logstore.errors import UnsupportedFormatError
from logstore.names import TopicPartition
from logstore.records.internal.consumer_offsets import CONSUMER_OFFSETS_TYPES
from logstore.records.internal.coordinator import decode_coordinator_key, decode_coordinator_value

STRING_BYTES_MAX = 2**15 - 1
"""How long a string may be in UTF-8."""

# On disk; never change.
_OFFSET_KEY = 1
_GROUP_KEY = 2
_VALUE_VERSION = 3
_VALUE_WITH_EXPIRY_VERSION = 1

_READ_TYPES = {number: CONSUMER_OFFSETS_TYPES[number] for number in (0, _OFFSET_KEY, _GROUP_KEY)}
_I16 = struct.Struct(">h")
_I32 = struct.Struct(">i")
_I64 = struct.Struct(">q")
_WRITTEN = struct.Struct(">hqih")  # of an offset's value, up to the metadata
_KEYS_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class OffsetAndMetadata:
    """What was committed for a partition.

    Attributes:
        offset: of the next record to be consumed.
        leader_epoch: of the last record consumed, or -1.
        metadata: the client's own text.
        commit_timestamp, expire_timestamp: milliseconds since the epoch; an own expiry is rare, and overrides the
            retention.
    """

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_timestamp: int = -1
    expire_timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class StoredMember:
    """A member as its group's record has it; timeouts in milliseconds."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class StoredGroup:
    """A group as its record has it; without members it is Empty.

    Attributes:
        protocol_type: "" where the group never had members.
        state_timestamp: when it came into its state, in milliseconds since the epoch; -1 in old records.
    """

    protocol_type: str
    generation_id: int
    protocol_name: str | None
    leader: str | None
    state_timestamp: int
    members: tuple[StoredMember, ...] = ()


@dataclass(frozen=True, slots=True)
class OffsetRecord:
    """A commit; without a value a tombstone."""

    group_id: str
    partition: TopicPartition
    value: OffsetAndMetadata | None


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """The state of a group; without a value a tombstone."""

    group_id: str
    value: StoredGroup | None


def group_partition(group_id: str, partitions: int = 50) -> int:
    """Return the partition of `__consumer_offsets` whose leader coordinates this group (CLUSTER §7.1).

    Args:
        group_id: also of transactional ids, whose topic is `__transaction_state`.
        partitions: how many the topic has; they must never become more.
    """
    number = 0
    for (unit,) in struct.iter_unpack(">H", group_id.encode("utf-16-be", "surrogatepass")):
        number = (31 * number + unit) & 0xFFFFFFFF
    signed = number - (1 << 32) if number >> 31 else number
    # Java's abs of the smallest int is negative; Kafka takes 0 for it.
    return 0 if signed == -(1 << 31) else abs(signed) % partitions


def fits_string(text: str) -> bool:
    """Whether a record can hold the text: UTF-8 has it, in at most 32767 bytes."""
    try:
        return len(text.encode("utf-8")) <= STRING_BYTES_MAX
    except UnicodeEncodeError:
        return False


def offset_key(group_id: str, partition: TopicPartition) -> bytes:
    """Return the key of a commit. Raises ValueError for what it cannot hold."""
    return b"".join(
        (
            _I16.pack(_OFFSET_KEY),
            _string(group_id, "group"),
            _string(partition.topic, "topic"),
            _integer(_I32, partition.partition, "partition"),
        )
    )


def offset_value(value: OffsetAndMetadata) -> bytes:
    """Return a commit's value; one with an own expiry loses its leader epoch. Raises ValueError as `offset_key`."""
    offset = _integer(_I64, value.offset, "offset")
    metadata = _string(value.metadata, "metadata")
    timestamp = _integer(_I64, value.commit_timestamp, "commit timestamp")
    if value.expire_timestamp is not None:
        expiry = _integer(_I64, value.expire_timestamp, "expire timestamp")
        return b"".join((_I16.pack(_VALUE_WITH_EXPIRY_VERSION), offset, metadata, timestamp, expiry))
    epoch = _integer(_I32, value.leader_epoch, "leader epoch")
    return b"".join((_I16.pack(_VALUE_VERSION), offset, epoch, metadata, timestamp))


def group_key(group_id: str) -> bytes:
    """Return the key of a group's record. Raises ValueError for what it cannot hold."""
    return _I16.pack(_GROUP_KEY) + _string(group_id, "group")


def group_value(group: StoredGroup) -> bytes:
    """Return the value of a group's record. Raises ValueError as `group_key`."""
    parts = [
        _I16.pack(_VALUE_VERSION),
        _string(group.protocol_type, "protocol type"),
        _integer(_I32, group.generation_id, "generation"),
        _nullable(group.protocol_name, "protocol"),
        _nullable(group.leader, "leader"),
        _integer(_I64, group.state_timestamp, "state timestamp"),
        _integer(_I32, len(group.members), "count of members"),
    ]
    for member in group.members:
        parts += (
            _string(member.member_id, "member id"),
            _nullable(member.group_instance_id, "group instance id"),
            _string(member.client_id, "client id"),
            _string(member.client_host, "client host"),
            _integer(_I32, member.rebalance_timeout_ms, "rebalance timeout"),
            _integer(_I32, member.session_timeout_ms, "session timeout"),
            _bytes(member.subscription, "subscription"),
            _bytes(member.assignment, "assignment"),
        )
    return b"".join(parts)


def decode(key: bytes | None, value: bytes | None) -> OffsetRecord | GroupRecord | None:
    """Return what a record says, or None for a key of another kind, such as those of newer group protocols.

    Raises:
        InvalidRecordError: there is no key, or key or value do not have the fields of their version.
        UnsupportedFormatError: the value is of a version above 4.
    """
    of = _decode_key(key)
    if of is None:
        return None
    group_id, partition = of
    if partition is None:
        body = _value_fields(key, value)
        return GroupRecord(group_id, None if body is None else _stored_group(body))
    if value is not None and (found := _decode_written(value)) is not None:
        return OffsetRecord(group_id, partition, found)
    body = _value_fields(key, value)
    return OffsetRecord(group_id, partition, None if body is None else _offset_and_metadata(body))


@functools.lru_cache(_KEYS_KNOWN)  # the same ones come again with each commit
def _decode_key(key: bytes | None) -> tuple[str, TopicPartition | None] | None:
    """The group of a key, and the partition of an offset's; None for a key of another kind."""
    decoded = decode_coordinator_key(_READ_TYPES, key)
    fields: Any = decoded.get("data")
    if fields is None:
        return None
    is_group = decoded["type"] == str(_GROUP_KEY)
    return fields["group"], None if is_group else TopicPartition(fields["topic"], fields["partition"])


def _decode_written(value: bytes) -> OffsetAndMetadata | None:
    """A commit's value as `offset_value` writes it, without a look at the tables; None for any other."""
    if len(value) < _WRITTEN.size + _I64.size:
        return None
    version, offset, epoch, length = _WRITTEN.unpack_from(value)
    end = _WRITTEN.size + length
    if version != _VALUE_VERSION or not 0 <= length == len(value) - _WRITTEN.size - _I64.size:
        return None
    try:
        metadata = value[_WRITTEN.size : end].decode()
    except UnicodeDecodeError:
        return None
    return OffsetAndMetadata(offset, epoch, metadata, _I64.unpack_from(value, end)[0])


def _value_fields(key: bytes | None, value: bytes | None) -> Mapping[str, Any] | None:
    decoded = decode_coordinator_value(_READ_TYPES, key, value)
    if decoded is None:
        return None
    fields: Any = decoded.get("data")
    if fields is None:
        raise UnsupportedFormatError(
            f"a value of version {decoded['version']}, not 0 to 4", remedy="read it with a newer version"
        )
    found: Mapping[str, Any] = fields
    return found


def _offset_and_metadata(fields: Mapping[str, Any]) -> OffsetAndMetadata:
    expiry = fields.get("expireTimestamp", -1)
    return OffsetAndMetadata(
        fields["offset"],
        fields.get("leaderEpoch", -1),
        fields["metadata"],
        fields["commitTimestamp"],
        None if expiry == -1 else expiry,
    )


def _stored_group(fields: Mapping[str, Any]) -> StoredGroup:
    return StoredGroup(
        fields["protocolType"],
        fields["generation"],
        fields["protocol"],
        fields["leader"],
        fields.get("currentStateTimestamp", -1),
        tuple(_stored_member(member) for member in fields["members"]),
    )


def _stored_member(fields: Mapping[str, Any]) -> StoredMember:
    session_timeout = fields["sessionTimeout"]
    return StoredMember(
        fields["memberId"],
        fields.get("groupInstanceId"),
        fields["clientId"],
        fields["clientHost"],
        fields.get("rebalanceTimeout", session_timeout),  # version 0 has one timeout for both
        session_timeout,
        base64.b64decode(fields["subscription"]),
        base64.b64decode(fields["assignment"]),
    )


def _integer(kind: struct.Struct, number: int, what: str) -> bytes:
    limit = 1 << (8 * kind.size - 1)
    if not -limit <= number < limit:
        raise ValueError(f"{what} is {number}, which does not fit into {8 * kind.size} bits")
    return kind.pack(number)


def _string(text: str, what: str) -> bytes:
    data = text.encode("utf-8")
    if len(data) > STRING_BYTES_MAX:
        raise ValueError(f"{what} is a string of {len(data)} bytes, longer than {STRING_BYTES_MAX}")
    return _I16.pack(len(data)) + data


def _nullable(text: str | None, what: str) -> bytes:
    return _I16.pack(-1) if text is None else _string(text, what)


def _bytes(data: bytes, what: str) -> bytes:
    return _integer(_I32, len(data), f"size of {what}") + data
