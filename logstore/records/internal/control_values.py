"""The values of control records: end-transaction markers and the records KRaft writes into its own log.

Every value begins with its own version. An end-transaction marker of a later version is read as version 0, its further
bytes passed over; KRaft values are flexible and read by the version they carry. Pure functions on immutable tables:
safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Mapping

from logstore.records.internal.reader import ByteReader
from logstore.records.internal.schema import (
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

VERSION_BYTES = 2

# Control record types. On disk; never change.
ABORT = 0
COMMIT = 1
LEADER_CHANGE = 2
SNAPSHOT_HEADER = 3
SNAPSHOT_FOOTER = 4
KRAFT_VERSION = 5
KRAFT_VOTERS = 6

_END_TRANSACTION_MARKER = Message("EndTxnMarker", (Field("version", INT16), Field("coordinatorEpoch", INT32)))
_VOTER = Struct((Field("voterId", INT32), Field("voterDirectoryId", UUID, since=1)))
_ENDPOINT = Struct((Field("name", STRING), Field("host", STRING), Field("port", UINT16)))
_VERSION_RANGE = Struct((Field("minSupportedVersion", INT16), Field("maxSupportedVersion", INT16)))
_VOTER_WITH_ENDPOINTS = Struct(
    (
        Field("voterId", INT32),
        Field("voterDirectoryId", UUID),
        Field("endpoints", Array(_ENDPOINT)),
        Field("kRaftVersionFeature", _VERSION_RANGE),
    )
)

# On disk; never change.
KRAFT_CONTROL_VALUES: Mapping[int, Message] = {
    LEADER_CHANGE: Message(
        "LeaderChangeMessage",
        (
            Field("version", INT16),
            Field("leaderId", INT32),
            Field("voters", Array(_VOTER)),
            Field("grantingVoters", Array(_VOTER)),
        ),
        latest=1,
        flexible_since=0,
    ),
    SNAPSHOT_HEADER: Message(
        "SnapshotHeaderRecord",
        (Field("version", INT16), Field("lastContainedLogTimestamp", INT64)),
        flexible_since=0,
    ),
    SNAPSHOT_FOOTER: Message("SnapshotFooterRecord", (Field("version", INT16),), flexible_since=0),
    KRAFT_VERSION: Message(
        "KRaftVersionRecord", (Field("version", INT16), Field("kRaftVersion", INT16)), flexible_since=0
    ),
    KRAFT_VOTERS: Message(
        "VotersRecord",
        (Field("version", INT16), Field("voters", Array(_VOTER_WITH_ENDPOINTS))),
        flexible_since=0,
    ),
}


def decode_control_value(control_type: int, value: bytes) -> dict[str, object]:
    """Return the fields of a control record's value by their names in Kafka, `version` first.

    `control_type` is the second int16 of the record's key. A type or version that is not known gives
    `{"type", "version", "base64"}` (of the whole value); its version is None where the value is too short to have one.

    Raises:
        InvalidRecordError: the value does not have the fields of its type and version, or its version is negative.
    """
    reader = ByteReader(value)
    known = _END_TRANSACTION_MARKER if control_type in (ABORT, COMMIT) else KRAFT_CONTROL_VALUES.get(control_type)
    if known is None and reader.remaining < VERSION_BYTES:
        return {"type": control_type, "version": None, "base64": to_base64(value)}
    version = ByteReader(value).integer(VERSION_BYTES)
    if known is _END_TRANSACTION_MARKER and version >= 0:
        return known.read(reader, 0)
    if known is not None and version < 0:
        reader.fail(f"version {version} of a control record's value is negative")
    if known is None or not known.knows(version):
        return {"type": control_type, "version": version, "base64": to_base64(value)}
    return known.read(reader, version)
