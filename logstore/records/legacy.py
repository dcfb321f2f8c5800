"""Messages of format v0 and v1, for reading (FORMAT §3).

Every entry is a batch of its own; a compressed one wraps further entries of the same layout. Pure and stateless.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from logstore.errors import CorruptRecordError, InvalidRecordError
from logstore.records.compression import Buffer, Codec, codec_of, decompress
from logstore.records.header import (
    CRC_LEGACY_START,
    INT64_MAX,
    LOG_OVERHEAD,
    NONE,
    SIZE_MIN_V0,
    SIZE_MIN_V1,
    BatchHeader,
)
from logstore.records.record import Record

# One entry. On disk; never change.
#
#   0 offset i64   8 size i32   12 crc u32   16 magic i8   17 attributes i8   [18 timestamp i64, v1 only]
#   then key length i32 (-1: null), key, value length i32 (-1: null), value
_ENTRY = struct.Struct(">qiIbb")
_TIMESTAMP = struct.Struct(">q")
_LENGTH = struct.Struct(">i")
_LOG_APPEND_TIME = 0x08


def decode_legacy(
    buffer: Buffer, start: int, header: BatchHeader, *, size_max: int, verify: bool = False
) -> list[Record]:
    """The records of the v0 or v1 entry at `start`: one, or those of the compressed set inside it.

    Offsets are absolute. With `verify` the CRCs of inner entries are checked, which readers of Kafka do not do. Raises
    InvalidRecordError, CorruptRecordError (an inner entry), BatchTooLargeError (more than `size_max` bytes
    decompressed), UnsupportedFormatError (codec).
    """
    view = memoryview(buffer)[start : start + header.size]
    codec = codec_of(header.attributes)
    key, value = _key_and_value(view, header.magic)
    if codec == Codec.NONE:
        return [Record(header.base_offset, header.max_timestamp, _own(key), _own(value))]
    if value is None:
        raise InvalidRecordError("a compressed set has no value", position=start, offset=header.base_offset)
    inner = memoryview(decompress(codec, value, size_max=size_max, magic=header.magic))
    records = list(_inner_records(inner, header, verify))
    if not records:
        raise InvalidRecordError("a compressed set holds no messages", position=start, offset=header.base_offset)
    base = _base_offset(header, records[-1].offset)
    if not all(-INT64_MAX - 1 <= base + record.offset <= INT64_MAX for record in records):
        raise InvalidRecordError("a compressed set holds an offset beyond 64 bits", offset=header.base_offset)
    return [record.replace(offset=base + record.offset) for record in records] if base else records


def _base_offset(header: BatchHeader, last: int) -> int:
    """What to add to inner offsets: nothing in v0, where they are absolute (FORMAT §3.2)."""
    wrapper = header.base_offset
    if header.magic == 0 or wrapper == 0:
        return 0
    if wrapper < last:
        raise InvalidRecordError(
            f"a compressed set at offset {wrapper} holds the relative offset {last}", offset=wrapper
        )
    return wrapper - last


def _inner_records(inner: memoryview, header: BatchHeader, verify: bool) -> Iterator[Record]:
    append_time = header.max_timestamp if header.magic == 1 and header.attributes & _LOG_APPEND_TIME else None
    position = 0
    while len(inner) - position >= LOG_OVERHEAD:
        (size,) = _LENGTH.unpack_from(inner, position + 8)
        if size < SIZE_MIN_V0:
            raise CorruptRecordError(f"a message inside a compressed set has size {size}", offset=header.base_offset)
        end = position + LOG_OVERHEAD + size
        if end > len(inner):
            return  # a last entry that is cut off ends the set, as in Kafka
        offset, _, crc, magic, attributes = _ENTRY.unpack_from(inner, position)
        if attributes & 7:
            raise InvalidRecordError(
                "a message inside a compressed set is itself compressed", offset=header.base_offset
            )
        if not 0 <= magic <= 1 or (magic == 1 and size < SIZE_MIN_V1):
            raise InvalidRecordError(
                "a message inside a compressed set has an impossible format", offset=header.base_offset
            )
        entry = inner[position:end]
        if verify and zlib.crc32(entry[CRC_LEGACY_START:]) != crc:
            raise CorruptRecordError("a message inside a compressed set has a wrong CRC", offset=header.base_offset)
        key, value = _key_and_value(entry, magic)
        timestamp = _TIMESTAMP.unpack_from(entry, 18)[0] if magic == 1 else NONE
        yield Record(offset, timestamp if append_time is None else append_time, _own(key), _own(value))
        position = end


def _key_and_value(entry: memoryview, magic: int) -> tuple[memoryview | None, memoryview | None]:
    key, position = _field(entry, 18 if magic == 0 else 26)
    value, position = _field(entry, position)
    if position != len(entry):
        raise InvalidRecordError("the fields of a message do not fill its size")
    return key, value


def _field(entry: memoryview, position: int) -> tuple[memoryview | None, int]:
    if len(entry) - position < 4:
        raise InvalidRecordError("a message ends inside a length")
    (length,) = _LENGTH.unpack_from(entry, position)
    position += 4
    if length < 0:
        return None, position
    if length > len(entry) - position:
        raise InvalidRecordError(f"a field claims {length} bytes where {len(entry) - position} are left in its message")
    return entry[position : position + length], position + length


def _own(data: memoryview | None) -> bytes | None:
    return None if data is None else bytes(data)
