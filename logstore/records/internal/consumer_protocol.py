"""The bytes that members of a classic consumer group exchange through their coordinator, which stores them unread.

    i16 version, fields of a subscription or of an assignment

They are embedded in group metadata where the group's protocol type is `consumer`. Members may speak a later version
than any table here: its first fields are those of the latest one known, so it is read as that one. (A negative version
is read as 0, as Kafka's dump tool does.) Pure functions on immutable tables: safe to share between threads.
"""

from __future__ import annotations

from logstore.errors import InvalidRecordError
from logstore.records.internal.reader import ByteReader
from logstore.records.internal.schema import BYTES, INT32, STRING, Array, Field, Message, Struct

CONSUMER_PROTOCOL_TYPE = "consumer"
VERSION_BYTES = 2

_PARTITIONS = Struct((Field("topic", STRING), Field("partitions", Array(INT32))))

# On disk; never change.
SUBSCRIPTION = Message(
    "ConsumerProtocolSubscription",
    (
        Field("topics", Array(STRING)),
        Field("userData", BYTES, nullable=True),
        Field("ownedPartitions", Array(_PARTITIONS), since=1),
        Field("generationId", INT32, since=2),
        Field("rackId", STRING, since=3, nullable=True),
    ),
    latest=3,
)
ASSIGNMENT = Message(
    "ConsumerProtocolAssignment",
    (Field("assignedPartitions", Array(_PARTITIONS)), Field("userData", BYTES, nullable=True)),
    latest=3,
)


def decode_member_bytes(message: Message, data: bytes) -> dict[str, object] | None:
    """Return the fields of a member's `data`, or None where it is not what `message` describes."""
    reader = ByteReader(data)
    try:
        version = reader.integer(VERSION_BYTES)
        return message.read(reader, min(max(version, 0), message.latest))
    except InvalidRecordError:
        return None
