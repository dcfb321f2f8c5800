"""The records of `__cluster_metadata`: how a KRaft controller's log spells the state of a cluster.

    value  unsigned varint frame version (1), unsigned varint type, unsigned varint version, fields

Keys are null. All types are flexible in all versions. The output has the shape of Kafka's dump tool, in which the type
is its name and the version a number; as there, bytes after the fields are an error. Pure functions on immutable tables:
safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Mapping

from logstore.records.internal.reader import ByteReader
from logstore.records.internal.schema import (
    BOOLEAN,
    BYTES,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    STRING,
    UINT16,
    UUID,
    Array,
    Field,
    Message,
    Struct,
    to_base64,
)

FRAME_VERSION = 1
"""On disk; never change. (0 was the preview of KRaft in Kafka 2.8, whose records differ.)"""
TYPE_MAX = 2**15 - 1

_ENDPOINT = Struct(
    (Field("name", STRING), Field("host", STRING), Field("port", UINT16), Field("securityProtocol", INT16))
)
_FEATURE = Struct((Field("name", STRING), Field("minSupportedVersion", INT16), Field("maxSupportedVersion", INT16)))
_QUOTA_ENTITY = Struct((Field("entityType", STRING), Field("entityName", STRING, nullable=True)))


def _message(name: str, *fields: Field, latest: int = 0) -> Message:
    return Message(name, fields, latest=latest, flexible_since=0)


# On disk; never change.
METADATA_TYPES: Mapping[int, Message] = {
    0: _message(
        "REGISTER_BROKER_RECORD",
        Field("brokerId", INT32),
        Field("isMigratingZkBroker", BOOLEAN, since=2),
        Field("incarnationId", UUID),
        Field("brokerEpoch", INT64),
        Field("endPoints", Array(_ENDPOINT)),
        Field("features", Array(_FEATURE)),
        Field("rack", STRING, nullable=True),
        Field("fenced", BOOLEAN),
        Field("inControlledShutdown", BOOLEAN, since=1),
        Field("logDirs", Array(UUID), since=3, tag=0, default=[]),
        latest=3,
    ),
    1: _message("UNREGISTER_BROKER_RECORD", Field("brokerId", INT32), Field("brokerEpoch", INT64)),
    2: _message("TOPIC_RECORD", Field("name", STRING), Field("topicId", UUID)),
    3: _message(
        "PARTITION_RECORD",
        Field("partitionId", INT32),
        Field("topicId", UUID),
        Field("replicas", Array(INT32)),
        Field("isr", Array(INT32)),
        Field("removingReplicas", Array(INT32)),
        Field("addingReplicas", Array(INT32)),
        Field("leader", INT32),
        Field("leaderRecoveryState", INT8, tag=0, default=0),
        Field("leaderEpoch", INT32),
        Field("partitionEpoch", INT32),
        Field("directories", Array(UUID), since=1),
        Field("eligibleLeaderReplicas", Array(INT32), since=2, nullable=True, tag=1),
        Field("lastKnownElr", Array(INT32), since=2, nullable=True, tag=2),
        latest=2,
    ),
    4: _message(
        "CONFIG_RECORD",
        Field("resourceType", INT8),
        Field("resourceName", STRING),
        Field("name", STRING),
        Field("value", STRING, nullable=True),
    ),
    5: _message(
        "PARTITION_CHANGE_RECORD",
        Field("partitionId", INT32),
        Field("topicId", UUID),
        Field("isr", Array(INT32), nullable=True, tag=0),
        Field("leader", INT32, tag=1, default=-2),
        Field("replicas", Array(INT32), nullable=True, tag=2),
        Field("removingReplicas", Array(INT32), nullable=True, tag=3),
        Field("addingReplicas", Array(INT32), nullable=True, tag=4),
        Field("leaderRecoveryState", INT8, tag=5, default=-1),
        Field("directories", Array(UUID), since=1, nullable=True, tag=8),
        Field("eligibleLeaderReplicas", Array(INT32), since=2, nullable=True, tag=6),
        Field("lastKnownElr", Array(INT32), since=2, nullable=True, tag=7),
        latest=2,
    ),
    7: _message("FENCE_BROKER_RECORD", Field("id", INT32), Field("epoch", INT64)),
    8: _message("UNFENCE_BROKER_RECORD", Field("id", INT32), Field("epoch", INT64)),
    9: _message("REMOVE_TOPIC_RECORD", Field("topicId", UUID)),
    10: _message(
        "DELEGATION_TOKEN_RECORD",
        Field("owner", STRING),
        Field("requester", STRING),
        Field("renewers", Array(STRING)),
        Field("issueTimestamp", INT64),
        Field("maxTimestamp", INT64),
        Field("expirationTimestamp", INT64),
        Field("tokenId", STRING),
    ),
    11: _message(
        "USER_SCRAM_CREDENTIAL_RECORD",
        Field("name", STRING),
        Field("mechanism", INT8),
        Field("salt", BYTES),
        Field("storedKey", BYTES),
        Field("serverKey", BYTES),
        Field("iterations", INT32),
    ),
    12: _message("FEATURE_LEVEL_RECORD", Field("name", STRING), Field("featureLevel", INT16)),
    14: _message(
        "CLIENT_QUOTA_RECORD",
        Field("entity", Array(_QUOTA_ENTITY)),
        Field("key", STRING),
        Field("value", FLOAT64),
        Field("remove", BOOLEAN),
    ),
    15: _message(
        "PRODUCER_IDS_RECORD", Field("brokerId", INT32), Field("brokerEpoch", INT64), Field("nextProducerId", INT64)
    ),
    17: _message(
        "BROKER_REGISTRATION_CHANGE_RECORD",
        Field("brokerId", INT32),
        Field("brokerEpoch", INT64),
        Field("fenced", INT8, tag=0, default=0),
        Field("inControlledShutdown", INT8, since=1, tag=1, default=0),
        Field("logDirs", Array(UUID), since=2, tag=2, default=[]),
        latest=2,
    ),
    18: _message(
        "ACCESS_CONTROL_ENTRY_RECORD",
        Field("id", UUID),
        Field("resourceType", INT8),
        Field("resourceName", STRING),
        Field("patternType", INT8),
        Field("principal", STRING),
        Field("host", STRING),
        Field("operation", INT8),
        Field("permissionType", INT8),
    ),
    19: _message("REMOVE_ACCESS_CONTROL_ENTRY_RECORD", Field("id", UUID)),
    20: _message("NO_OP_RECORD"),
    21: _message("ZK_MIGRATION_STATE_RECORD", Field("zkMigrationState", INT8)),
    22: _message("REMOVE_USER_SCRAM_CREDENTIAL_RECORD", Field("name", STRING), Field("mechanism", INT8)),
    23: _message("BEGIN_TRANSACTION_RECORD", Field("name", STRING, nullable=True, tag=0)),
    24: _message("END_TRANSACTION_RECORD"),
    25: _message("ABORT_TRANSACTION_RECORD", Field("reason", STRING, nullable=True, tag=0)),
    26: _message("REMOVE_DELEGATION_TOKEN_RECORD", Field("tokenId", STRING)),
    27: _message(
        "REGISTER_CONTROLLER_RECORD",
        Field("controllerId", INT32),
        Field("incarnationId", UUID),
        Field("zkMigrationReady", BOOLEAN),
        Field("endPoints", Array(_ENDPOINT)),
        Field("features", Array(_FEATURE)),
    ),
    28: _message("CLEAR_ELR_RECORD", Field("topicName", STRING)),
}


def decode_metadata_key(key: bytes | None) -> dict[str, object] | None:
    """Return None, for Kafka writes no keys here, or `{"base64"}` of a key that is there nevertheless."""
    return None if key is None else {"base64": to_base64(key)}


def decode_metadata_value(value: bytes | None) -> dict[str, object] | None:
    """Return `{"type", "version", "data"}`, or None for a null value.

    A type or version that is not known gives `{"type", "version", "base64"}`: the type by its name if it has one, else
    by its number, and the whole value, its frame included.

    Raises:
        InvalidRecordError: the frame version is not 1, or the value does not have the fields of its type and version.
    """
    if value is None:
        return None
    reader = ByteReader(value)
    frame_version = reader.unsigned_varint()
    if frame_version != FRAME_VERSION:
        reader.fail(f"frame version {frame_version} of a metadata record is not {FRAME_VERSION}", 0)
    number = _read_number(reader, "type")
    version = _read_number(reader, "version")
    known = METADATA_TYPES.get(number)
    if known is None or not known.knows(version):
        return {
            "type": number if known is None else known.name,
            "version": version,
            "base64": to_base64(value),
        }
    data = known.read(reader, version)
    reader.expect_end(f"{known.name} version {version}")
    return {"type": known.name, "version": version, "data": data}


def _read_number(reader: ByteReader, what: str) -> int:
    start = reader.position
    number = reader.unsigned_varint()
    if number > TYPE_MAX:
        reader.fail(f"{what} {number} of a metadata record is above {TYPE_MAX}", start)
    return number
