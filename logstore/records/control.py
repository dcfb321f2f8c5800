"""Control records: the keys that name them and the values that end a transaction (FORMAT §2.9).

Pure and stateless. The values of KRaft's control records are decoded by `records.internal`.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from logstore.errors import InvalidRecordError

_KEY = struct.Struct(">hh")  # version, type. On disk; never change.
_MARKER = struct.Struct(">hi")  # version, coordinator epoch. On disk; never change.


class ControlType(enum.IntEnum):
    """What a control record says. On disk; never change."""

    UNKNOWN = -1
    ABORT = 0
    COMMIT = 1
    LEADER_CHANGE = 2
    SNAPSHOT_HEADER = 3
    SNAPSHOT_FOOTER = 4
    KRAFT_VERSION = 5
    KRAFT_VOTERS = 6

    @property
    def ends_transaction(self) -> bool:
        """Whether the record is an end-transaction marker."""
        return self in (ControlType.ABORT, ControlType.COMMIT)


class EndTransactionMarker(NamedTuple):
    """How a transaction ended, and the epoch of the coordinator that ended it."""

    control_type: ControlType
    coordinator_epoch: int


def parse_control_key(key: bytes | None) -> tuple[ControlType, int]:
    """The type of a control record and its number as it stands in the key.

    A type that is not known is `ControlType.UNKNOWN`; a higher key version reads like version 0. Raises
    InvalidRecordError for a key of fewer than four bytes or a negative version.
    """
    if key is None or len(key) < _KEY.size:
        raise InvalidRecordError("a control record needs a key of at least 4 bytes")
    version, number = _KEY.unpack_from(key)
    if version < 0:
        raise InvalidRecordError(f"a control record key has version {version}")
    known = ControlType.ABORT <= number <= ControlType.KRAFT_VOTERS
    return ControlType(number) if known else ControlType.UNKNOWN, number


def encode_control_key(control_type: ControlType) -> bytes:
    """The key of a control record. Raises ValueError for `UNKNOWN`."""
    if control_type == ControlType.UNKNOWN:
        raise ValueError("an unknown control type cannot be written")
    return _KEY.pack(0, control_type)


def parse_end_transaction_marker(key: bytes | None, value: bytes | None) -> EndTransactionMarker:
    """Read an ABORT or COMMIT marker; a higher value version reads like version 0.

    Raises InvalidRecordError for another control type, fewer than six bytes of value, or a negative version.
    """
    control_type, number = parse_control_key(key)
    if not control_type.ends_transaction:
        raise InvalidRecordError(f"control type {number} does not end a transaction")
    if value is None or len(value) < _MARKER.size:
        raise InvalidRecordError("an end-transaction marker needs a value of at least 6 bytes")
    version, coordinator_epoch = _MARKER.unpack_from(value)
    if version < 0:
        raise InvalidRecordError(f"an end-transaction marker has version {version}")
    return EndTransactionMarker(control_type, coordinator_epoch)


def encode_end_transaction_marker(marker: EndTransactionMarker) -> tuple[bytes, bytes]:
    """Key and value of a marker. Raises ValueError for a type that does not end a transaction."""
    if not marker.control_type.ends_transaction:
        raise ValueError(f"{marker.control_type.name} does not end a transaction")
    return encode_control_key(marker.control_type), _MARKER.pack(0, marker.coordinator_epoch)
