"""What the records of both coordinators share: a key that begins with its type, a value that begins with its version.

    key    i16 type, fields of that type's key
    value  i16 version, fields of that type's value

The output has the shape of Kafka's dump tool, in which type and version are text. Trailing bytes are passed over, as
Kafka's coordinators do when they load a partition. Pure functions on immutable tables: safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from logstore.errors import InvalidRecordError
from logstore.records.internal.reader import ByteReader
from logstore.records.internal.schema import Message, to_base64

TYPE_BYTES = 2
VERSION_BYTES = 2


@dataclass(frozen=True, slots=True)
class RecordType:
    """The tables of one record type."""

    key: Message
    value: Message


def decode_coordinator_key(types: Mapping[int, RecordType], key: bytes | None) -> dict[str, object]:
    """Return `{"type", "data"}`, or `{"type", "base64"}` (of the whole key) for a type that `types` does not have.

    Raises:
        InvalidRecordError: the key is null, or does not have the fields of its type.
    """
    if key is None:
        raise InvalidRecordError("record has no key")
    reader = ByteReader(key)
    number = reader.integer(TYPE_BYTES)
    known = types.get(number)
    if known is None:
        return {"type": str(number), "base64": to_base64(key)}
    return {"type": str(number), "data": known.key.read(reader, 0)}


def decode_coordinator_value(
    types: Mapping[int, RecordType], key: bytes | None, value: bytes | None
) -> dict[str, object] | None:
    """Return `{"version", "data"}`, or None for a tombstone.

    A type or version that `types` does not have gives `{"type", "version", "base64"}` (of the whole value); its version
    is None where the value is too short to have one. Of the key only its type is read.

    Raises:
        InvalidRecordError: the key has no type, or the value does not have the fields of its type and version.
    """
    if value is None:
        return None
    if key is None:
        raise InvalidRecordError("record has no key, so the type of its value is not known")
    number = ByteReader(key).integer(TYPE_BYTES)
    known = types.get(number)
    reader = ByteReader(value)
    if known is None and reader.remaining < VERSION_BYTES:
        return {"type": str(number), "version": None, "base64": to_base64(value)}
    version = reader.integer(VERSION_BYTES)
    if known is None or not known.value.knows(version):
        return {"type": str(number), "version": str(version), "base64": to_base64(value)}
    return {"version": str(version), "data": known.value.read(reader, version)}
