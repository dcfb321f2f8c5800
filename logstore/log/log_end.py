"""What a lock file tells of the end of a log: see `turns`. Pure; thread-safe."""

from __future__ import annotations

import struct
from typing import NamedTuple

from logstore.checksum import crc32c

# Behind the numbers of a lock file; in files of ours, never change:
#    0  the numbers that it belongs to, again           16
#   16  size, next_offset, plain_from, leader_epoch,
#       max_timestamp, offset_of_max                     8 each
#   64  CRC-32C of what is before                        4
_FIELDS = struct.Struct(">16sQqQqqq")
_CRC = struct.Struct(">I")
END_BYTES = _FIELDS.size + _CRC.size
assert END_BYTES == 68


class LogEnd(NamedTuple):
    """Where an append has left the end of a log.

    Attributes:
        size: of the active segment's file.
        next_offset: the log end offset.
        plain_from: from this position on there are only batches of no producer, and of `leader_epoch`.
        leader_epoch: the latest.
        max_timestamp: the largest of the segment (ms), -1 if there is none.
        offset_of_max: the last offset of the first batch that had it.
    """

    size: int
    next_offset: int
    plain_from: int
    leader_epoch: int
    max_timestamp: int
    offset_of_max: int

    def pack(self, raw: bytes) -> bytes:
        """As bytes, for a lock file with the numbers `raw`."""
        fields = _FIELDS.pack(raw, *self)
        return fields + _CRC.pack(crc32c(fields))


def parse_end(told: bytes, raw: bytes) -> LogEnd | None:
    """The end that these bytes tell, None where they tell none that belongs to the numbers `raw`."""
    if len(told) != END_BYTES or not told.startswith(raw):
        return None
    if told[_FIELDS.size :] != _CRC.pack(crc32c(told[: _FIELDS.size])):
        return None
    return LogEnd._make(_FIELDS.unpack_from(told)[1:])
