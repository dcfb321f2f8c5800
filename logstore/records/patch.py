"""What a leader changes in a batch that it did not make: in place, in the caller's buffer (FORMAT §2.1, §2.4).

Offsets and leader epochs lie outside the CRC and cost nothing; a new timestamp recomputes it. A buffer without a whole
batch at `start` is refused by CorruptRecordError.
"""

from __future__ import annotations

import struct
import zlib

from logstore.errors import CorruptRecordError, UnsupportedFormatError
from logstore.records import kernel
from logstore.records.batch import TimestampType, first_batch_size
from logstore.records.builder import write_header
from logstore.records.header import CRC_LEGACY_START, BatchHeader


def set_last_offset(buffer: bytearray, last_offset: int, start: int = 0) -> None:
    """Move the batch at `start` so that its last record has `last_offset`; the CRC stays right."""
    header = _header(buffer, start)
    struct.pack_into(">q", buffer, start, last_offset - header.last_offset_delta)


def set_leader_epoch(buffer: bytearray, leader_epoch: int, start: int = 0) -> None:
    """Stamp the leader epoch; the CRC stays right. Raises UnsupportedFormatError for format v0 and v1."""
    if _header(buffer, start).magic < 2:
        raise UnsupportedFormatError("message formats v0 and v1 have no leader epoch")
    struct.pack_into(">i", buffer, start + 12, leader_epoch)


def set_max_timestamp(buffer: bytearray, timestamp_type: TimestampType, timestamp: int, start: int = 0) -> None:
    """Set timestamp type and maximum timestamp (ms) and recompute the CRC; nothing changes if both stand there.

    Raises ValueError for the type NONE and UnsupportedFormatError for format v0, which has no timestamps.
    """
    header = _header(buffer, start)
    if timestamp_type == TimestampType.NONE:
        raise ValueError("a batch cannot be given a timestamp type of none")
    if header.magic == 0:
        raise UnsupportedFormatError("message format v0 has no timestamps")
    is_append_time = timestamp_type == TimestampType.LOG_APPEND_TIME
    if bool(header.attributes & 0x08) == is_append_time and timestamp == header.max_timestamp:
        return
    attributes = header.attributes & 0x77 | 0x08 * is_append_time  # unused bits are cleared (FORMAT §2.2)
    if header.magic == 2:
        write_header(buffer, start, header._replace(attributes=attributes, max_timestamp=timestamp))
        return
    buffer[start + 17] = attributes
    struct.pack_into(">q", buffer, start + 18, timestamp)
    crc = zlib.crc32(memoryview(buffer)[start + CRC_LEGACY_START : start + header.size])
    struct.pack_into(">I", buffer, start + 12, crc)


def _header(buffer: bytearray, start: int) -> BatchHeader:
    size = first_batch_size(buffer, start)
    if size is None or size > len(buffer) - start:
        raise CorruptRecordError("the bytes end inside a batch", position=start)
    return kernel.parse_header(buffer, start, 0)
