"""The bytes by which the members of a consumer group tell each other what they want and get (CLUSTER §7.10).

    subscription:  i16 version, topics, user data, v1: owned partitions, v2: generation, v3: rack
    assignment:    i16 version, partitions by topic, user data

The coordinator stores and hands on these bytes unread. Big endian; strings have an i16 length, bytes and arrays an i32
count, where -1 is null. A version later than 3 is read as 3: its first fields are the same. Decoding believes no length
before it is bounded by the bytes that are there, and passes over what follows the last field, as Kafka does. Pure
functions and immutable values: thread-safe.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from logstore.errors import InvalidRecordError, UnsupportedFormatError
from logstore.names import TopicPartition
from logstore.records.internal.consumer_protocol import ASSIGNMENT, SUBSCRIPTION, VERSION_BYTES
from logstore.records.internal.reader import STRING_BYTES_MAX, ByteReader
from logstore.records.internal.schema import Message

PROTOCOL_VERSION = 3
NO_GENERATION = -1
"""The generation of a member that has not been in the group before, or does not say."""

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a member of a group wants, and what it has.

    Attributes:
        topics: the names of the topics it subscribes to.
        user_data: what its assignor adds, or None.
        owned_partitions: what it was assigned last and has not given up.
        generation_id: the generation that assigned them, or -1.
        rack_id: the rack it reads from, or None.
        group_instance_id: the name of a static member. It is not in the bytes: the coordinator tells it.
    """

    topics: tuple[str, ...]
    user_data: bytes | None = None
    owned_partitions: tuple[TopicPartition, ...] = ()
    generation_id: int = NO_GENERATION
    rack_id: str | None = None
    group_instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a member of a group gets; `user_data` is what the assignor of the leader adds, or None."""

    partitions: tuple[TopicPartition, ...] = ()
    user_data: bytes | None = None


def encode_subscription(subscription: Subscription, version: int = PROTOCOL_VERSION) -> bytes:
    """Write a subscription for JoinGroup. What the version has no field for is left out.

    Raises ValueError for a version that is none of 0 to 3, and for values that do not fit their fields.
    """
    out = [_version(version), _array([_string(topic) for topic in subscription.topics])]
    out.append(_bytes(subscription.user_data))
    if version >= 1:
        out.append(_partitions(subscription.owned_partitions))
    if version >= 2:
        out.append(_int32(subscription.generation_id, "a generation", -1))
    if version >= 3:
        out.append(_string(subscription.rack_id))
    return b"".join(out)


def decode_subscription(data: bytes) -> Subscription:
    """Read the subscription of a member. Fields that its version does not have get their defaults.

    Raises InvalidRecordError, with the position in `data` where a field does not fit, for bytes that are none, and
    UnsupportedFormatError for a negative version.
    """
    fields = _read(SUBSCRIPTION, data)
    return Subscription(
        topics=tuple(fields["topics"]),
        user_data=_user_data(fields),
        owned_partitions=_topic_partitions(fields.get("ownedPartitions", ())),
        generation_id=fields.get("generationId", NO_GENERATION),
        rack_id=fields.get("rackId"),
    )


def encode_assignment(assignment: Assignment, version: int = PROTOCOL_VERSION) -> bytes:
    """Write an assignment for SyncGroup; all versions have the same fields.

    Kafka's members use the version of their own subscription. Raises ValueError for a version that is none of 0 to 3,
    and for values that do not fit their fields.
    """
    return _version(version) + _partitions(assignment.partitions) + _bytes(assignment.user_data)


def decode_assignment(data: bytes) -> Assignment:
    """Read the assignment of a member. No bytes at all are no partitions: so a leader may leave a member out.

    Raises InvalidRecordError, with the position in `data` where a field does not fit, for bytes that are none, and
    UnsupportedFormatError for a negative version.
    """
    if not data:
        return Assignment()
    fields = _read(ASSIGNMENT, data)
    return Assignment(_topic_partitions(fields["assignedPartitions"]), _user_data(fields))


def _read(message: Message, data: bytes) -> dict[str, Any]:
    reader = ByteReader(data)
    version = reader.integer(VERSION_BYTES)
    if version < 0:
        raise UnsupportedFormatError(f"version {version} of {message.name}", position=0)
    return message.read(reader, min(version, message.latest))


def _user_data(fields: dict[str, Any]) -> bytes | None:
    text = fields["userData"]  # base64, as Kafka's tools print it
    return None if text is None else base64.b64decode(text)


def _topic_partitions(topics: Iterable[dict[str, Any]]) -> tuple[TopicPartition, ...]:
    found = [TopicPartition(one["topic"], number) for one in topics for number in one["partitions"]]
    for partition in found:
        if partition.partition < 0:
            raise InvalidRecordError(f"partition {partition.partition} of topic {partition.topic!r} is below 0")
    return tuple(found)


def _partitions(partitions: Sequence[TopicPartition]) -> bytes:
    """Partitions by topic: topics and numbers each in the order in which they come."""
    by_topic: dict[str, list[bytes]] = {}
    for topic, number in partitions:
        by_topic.setdefault(topic, []).append(_int32(number, "a partition", 0))
    return _array([_string(topic) + _array(numbers) for topic, numbers in by_topic.items()])


def _version(version: int) -> bytes:
    if not 0 <= version <= PROTOCOL_VERSION:
        raise ValueError(f"version {version} of the consumer protocol; there are 0 to {PROTOCOL_VERSION}")
    return struct.pack(">h", version)


def _array(items: Sequence[bytes]) -> bytes:
    return struct.pack(">i", len(items)) + b"".join(items)


def _string(text: str | None) -> bytes:
    if text is None:
        return struct.pack(">h", -1)
    raw = text.encode()
    if len(raw) > STRING_BYTES_MAX:
        raise ValueError(f"a string of {len(raw)} bytes, longer than {STRING_BYTES_MAX}")
    return struct.pack(">h", len(raw)) + raw


def _bytes(data: bytes | None) -> bytes:
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def _int32(number: int, what: str, minimum: int) -> bytes:
    if not minimum <= number <= _INT32_MAX:
        raise ValueError(f"{what} is {number}; it is {minimum} to {_INT32_MAX}")
    return struct.pack(">i", number)
