"""The records of `__consumer_offsets`: committed offsets and the state of groups.

Types 0 and 1 are offset commits, 2 a classic group, 3 to 8 and 16 a consumer group of the newer protocol, 10 to 15 a
share group, 17 to 23 a streams group. Types 9 and 18 were written by previews only, and are not described. Pure
functions on immutable tables: safe to share between threads.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from logstore.records.internal.consumer_protocol import (
    ASSIGNMENT,
    CONSUMER_PROTOCOL_TYPE,
    SUBSCRIPTION,
    decode_member_bytes,
)
from logstore.records.internal.coordinator import RecordType, decode_coordinator_key, decode_coordinator_value
from logstore.records.internal.schema import (
    BYTES,
    INT8,
    INT16,
    INT32,
    INT64,
    NO_UUID,
    STRING,
    UINT16,
    UUID,
    Array,
    Field,
    Message,
    Struct,
)

_MEMBER = Struct(
    (
        Field("memberId", STRING),
        Field("groupInstanceId", STRING, since=3, nullable=True),
        Field("clientId", STRING),
        Field("clientHost", STRING),
        Field("rebalanceTimeout", INT32, since=1),
        Field("sessionTimeout", INT32),
        Field("subscription", BYTES),
        Field("assignment", BYTES),
    )
)
_PARTITION_RACKS = Struct((Field("partition", INT32), Field("racks", Array(STRING))))
_TOPIC_METADATA = Struct(
    (
        Field("topicId", UUID),
        Field("topicName", STRING),
        Field("numPartitions", INT32),
        Field("partitionMetadata", Array(_PARTITION_RACKS)),
    )
)
_CLASSIC_PROTOCOL = Struct((Field("name", STRING), Field("metadata", BYTES)))
_CLASSIC_MEMBER = Struct(
    (Field("sessionTimeoutMs", INT32), Field("supportedProtocols", Array(_CLASSIC_PROTOCOL))), null_marker=0
)
_NO_CLASSIC_MEMBER = {"sessionTimeoutMs": 0, "supportedProtocols": []}
"""What Kafka leaves out; a null, which says that the member is no classic one, it writes."""
_TOPIC_PARTITIONS = Struct((Field("topicId", UUID), Field("partitions", Array(INT32))))
_NAMED_TOPIC = Struct((Field("topicId", UUID), Field("topicName", STRING)))
_NAMED_TOPIC_PARTITIONS = Struct(
    (Field("topicId", UUID), Field("topicName", STRING), Field("partitions", Array(INT32)))
)
_ENDPOINT = Struct((Field("host", STRING), Field("port", UINT16)))
_KEY_VALUE = Struct((Field("key", STRING), Field("value", STRING)))
_TASKS = Struct((Field("subtopologyId", STRING), Field("partitions", Array(INT32))))
_INTERNAL_TOPIC = Struct(
    (
        Field("name", STRING),
        Field("partitions", INT32),
        Field("replicationFactor", INT16),
        Field("topicConfigs", Array(_KEY_VALUE)),
    )
)
_COPARTITION_GROUP = Struct(
    (
        Field("sourceTopics", Array(INT16)),
        Field("sourceTopicRegex", Array(INT16)),
        Field("repartitionSourceTopics", Array(INT16)),
    )
)
_SUBTOPOLOGY = Struct(
    (
        Field("subtopologyId", STRING),
        Field("sourceTopics", Array(STRING)),
        Field("sourceTopicRegex", Array(STRING)),
        Field("stateChangelogTopics", Array(_INTERNAL_TOPIC)),
        Field("repartitionSinkTopics", Array(STRING)),
        Field("repartitionSourceTopics", Array(_INTERNAL_TOPIC)),
        Field("copartitionGroups", Array(_COPARTITION_GROUP)),
    )
)

_GROUP_KEY = (Field("groupId", STRING),)
_MEMBER_KEY = (Field("groupId", STRING), Field("memberId", STRING))
_OFFSET_COMMIT = RecordType(
    Message("OffsetCommitKey", (Field("group", STRING), Field("topic", STRING), Field("partition", INT32))),
    Message(
        "OffsetCommitValue",
        (
            Field("offset", INT64),
            Field("leaderEpoch", INT32, since=3),
            Field("metadata", STRING),
            Field("commitTimestamp", INT64),
            Field("expireTimestamp", INT64, since=1, until=1),
            Field("topicId", UUID, since=4, tag=0, default=NO_UUID),
        ),
        latest=4,
        flexible_since=4,
    ),
)
_GROUP_METADATA = RecordType(
    Message("GroupMetadataKey", (Field("group", STRING),)),
    Message(
        "GroupMetadataValue",
        (
            Field("protocolType", STRING),
            Field("generation", INT32),
            Field("protocol", STRING, nullable=True),
            Field("leader", STRING, nullable=True),
            Field("currentStateTimestamp", INT64, since=2),
            Field("members", Array(_MEMBER)),
        ),
        latest=4,
        flexible_since=4,
    ),
)


def _record_type(name: str, key: tuple[Field, ...], *value: Field) -> RecordType:
    """Return the tables of a type of the newer coordinator: a key of plain fields, a value flexible from the start."""
    return RecordType(Message(f"{name}Key", key), Message(f"{name}Value", value, flexible_since=0))


# On disk; never change.
CONSUMER_OFFSETS_TYPES: Mapping[int, RecordType] = {
    0: _OFFSET_COMMIT,
    1: _OFFSET_COMMIT,
    2: _GROUP_METADATA,
    3: _record_type(
        "ConsumerGroupMetadata",
        _GROUP_KEY,
        Field("epoch", INT32),
        Field("metadataHash", INT64, tag=0, default=0),
    ),
    4: _record_type("ConsumerGroupPartitionMetadata", _GROUP_KEY, Field("topics", Array(_TOPIC_METADATA))),
    5: _record_type(
        "ConsumerGroupMemberMetadata",
        _MEMBER_KEY,
        Field("instanceId", STRING, nullable=True),
        Field("rackId", STRING, nullable=True),
        Field("clientId", STRING),
        Field("clientHost", STRING),
        Field("subscribedTopicNames", Array(STRING)),
        Field("subscribedTopicRegex", STRING, nullable=True),
        Field("rebalanceTimeoutMs", INT32),
        Field("serverAssignor", STRING, nullable=True),
        Field("classicMemberMetadata", _CLASSIC_MEMBER, nullable=True, tag=0, default=_NO_CLASSIC_MEMBER),
    ),
    6: _record_type("ConsumerGroupTargetAssignmentMetadata", _GROUP_KEY, Field("assignmentEpoch", INT32)),
    7: _record_type(
        "ConsumerGroupTargetAssignmentMember", _MEMBER_KEY, Field("topicPartitions", Array(_TOPIC_PARTITIONS))
    ),
    8: _record_type(
        "ConsumerGroupCurrentMemberAssignment",
        _MEMBER_KEY,
        Field("memberEpoch", INT32),
        Field("previousMemberEpoch", INT32),
        Field("state", INT8),
        Field("assignedPartitions", Array(_TOPIC_PARTITIONS)),
        Field("partitionsPendingRevocation", Array(_TOPIC_PARTITIONS)),
    ),
    10: _record_type(
        "ShareGroupMemberMetadata",
        _MEMBER_KEY,
        Field("rackId", STRING, nullable=True),
        Field("clientId", STRING),
        Field("clientHost", STRING),
        Field("subscribedTopicNames", Array(STRING)),
    ),
    11: _record_type("ShareGroupMetadata", _GROUP_KEY, Field("epoch", INT32), Field("metadataHash", INT64)),
    12: _record_type("ShareGroupTargetAssignmentMetadata", _GROUP_KEY, Field("assignmentEpoch", INT32)),
    13: _record_type(
        "ShareGroupTargetAssignmentMember", _MEMBER_KEY, Field("topicPartitions", Array(_TOPIC_PARTITIONS))
    ),
    14: _record_type(
        "ShareGroupCurrentMemberAssignment",
        _MEMBER_KEY,
        Field("memberEpoch", INT32),
        Field("previousMemberEpoch", INT32),
        Field("state", INT8),
        Field("assignedPartitions", Array(_TOPIC_PARTITIONS)),
    ),
    15: _record_type(
        "ShareGroupStatePartitionMetadata",
        _GROUP_KEY,
        Field("initializingTopics", Array(_NAMED_TOPIC_PARTITIONS)),
        Field("initializedTopics", Array(_NAMED_TOPIC_PARTITIONS)),
        Field("deletingTopics", Array(_NAMED_TOPIC)),
    ),
    16: _record_type(
        "ConsumerGroupRegularExpression",
        (Field("groupId", STRING), Field("regularExpression", STRING)),
        Field("topics", Array(STRING)),
        Field("version", INT64),
        Field("timestamp", INT64),
    ),
    17: _record_type("StreamsGroupMetadata", _GROUP_KEY, Field("epoch", INT32), Field("metadataHash", INT64)),
    19: _record_type(
        "StreamsGroupMemberMetadata",
        _MEMBER_KEY,
        Field("instanceId", STRING, nullable=True),
        Field("rackId", STRING, nullable=True),
        Field("clientId", STRING),
        Field("clientHost", STRING),
        Field("rebalanceTimeoutMs", INT32),
        Field("topologyEpoch", INT32),
        Field("processId", STRING),
        Field("userEndpoint", _ENDPOINT, nullable=True),
        Field("clientTags", Array(_KEY_VALUE)),
    ),
    20: _record_type("StreamsGroupTargetAssignmentMetadata", _GROUP_KEY, Field("assignmentEpoch", INT32)),
    21: _record_type(
        "StreamsGroupTargetAssignmentMember",
        _MEMBER_KEY,
        Field("activeTasks", Array(_TASKS)),
        Field("standbyTasks", Array(_TASKS)),
        Field("warmupTasks", Array(_TASKS)),
    ),
    22: _record_type(
        "StreamsGroupCurrentMemberAssignment",
        _MEMBER_KEY,
        Field("memberEpoch", INT32),
        Field("previousMemberEpoch", INT32),
        Field("state", INT8),
        Field("activeTasks", Array(_TASKS)),
        Field("standbyTasks", Array(_TASKS)),
        Field("warmupTasks", Array(_TASKS)),
        Field("activeTasksPendingRevocation", Array(_TASKS)),
        Field("standbyTasksPendingRevocation", Array(_TASKS)),
        Field("warmupTasksPendingRevocation", Array(_TASKS)),
    ),
    23: _record_type(
        "StreamsGroupTopology", _GROUP_KEY, Field("epoch", INT32), Field("subtopologies", Array(_SUBTOPOLOGY))
    ),
}


def decode_consumer_offsets_key(key: bytes | None) -> dict[str, object]:
    """Return what a record is about, in the shape of `decode_coordinator_key`."""
    return decode_coordinator_key(CONSUMER_OFFSETS_TYPES, key)


def decode_consumer_offsets_value(key: bytes | None, value: bytes | None) -> dict[str, object] | None:
    """Return the value of a record, in the shape of `decode_coordinator_value`.

    Members of a classic consumer group have their subscription and assignment decoded, each on its own; where that
    fails they stay base64, for the broker stores whatever a client sends.
    """
    decoded = decode_coordinator_value(CONSUMER_OFFSETS_TYPES, key, value)
    data: Any = None if decoded is None else decoded.get("data")
    if data is not None and data.get("protocolType") == CONSUMER_PROTOCOL_TYPE:
        for member in data["members"]:
            _decode_member(member)
    return decoded


def _decode_member(member: dict[str, Any]) -> None:
    for name, message in (("subscription", SUBSCRIPTION), ("assignment", ASSIGNMENT)):
        fields = decode_member_bytes(message, base64.b64decode(member[name]))
        if fields is not None:
            member[name] = fields
