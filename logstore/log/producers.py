"""Producer snapshots (`<offset>.snapshot`): the state of all producers, as of the records below the name's offset.

A snapshot holds, per producer, only the last of its cached batches. Its CRC-32C covers everything behind the CRC.
Bytes <-> values only; what is done with a snapshot that cannot be trusted (Kafka deletes it and takes the one before)
is the caller's. Values are immutable, therefore thread-safe.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from logstore.checksum import crc32c
from logstore.errors import CorruptSnapshotError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

#  0         2             6              10
#  | i16     | u32         | i32          |  entries     big-endian; on disk, never change
#  | version | CRC-32C of  | entry        |  46 bytes
#  | = 1     | bytes 6...  | count        |  each
_HEADER = struct.Struct(">hIi")
assert _HEADER.size == 10

#  0          8          10         14         18...        46
#  | i64      | i16      | i32      | i64      | i32        | i64       | i32         | i64                |
#  | producer | producer | last     | last     | offset     | timestamp | coordinator | first offset of    |
#  | id       | epoch    | sequence | offset   | delta      | (ms)      | epoch       | open transaction   |
_ENTRY = struct.Struct(">qhiqiqiq")
assert _ENTRY.size == 46

_VERSION = 1
_CRC_START = 6
_SEQUENCE_MAX = 2**31 - 1
_NONE = -1


class ProducerStateEntry(NamedTuple):
    """What is remembered of one producer; -1 stands for none, as on disk.

    `last_sequence`, `last_offset` and `offset_delta` (last - first offset) describe its last batch; `last_timestamp`
    is in milliseconds; `current_transaction_first_offset` is that of its open transaction.
    """

    producer_id: int
    producer_epoch: int
    last_sequence: int = _NONE
    last_offset: int = _NONE
    offset_delta: int = 0
    last_timestamp: int = _NONE
    coordinator_epoch: int = _NONE
    current_transaction_first_offset: int = _NONE

    @property
    def has_batch(self) -> bool:
        """Whether a batch of this producer is known; after a marker alone, none is."""
        return self.last_offset >= 0

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of this producer is open."""
        return self.current_transaction_first_offset >= 0

    @property
    def first_sequence(self) -> int:
        """The first sequence of the last batch, counted back through the wrap at 2^31 - 1; -1 if there is no batch.

        A batch without sequence (-1) answers 2147483647, as Kafka's dump tool does.
        """
        if not self.has_batch:
            return _NONE
        first = self.last_sequence - self.offset_delta
        return first if first >= 0 else first + _SEQUENCE_MAX + 1

    @property
    def first_offset(self) -> int:
        """The first offset of the last batch; -1 if there is no batch."""
        return self.last_offset - self.offset_delta if self.has_batch else _NONE


@dataclass(frozen=True, slots=True)
class ProducerSnapshot:
    """All entries of a snapshot file, in the file's order, which means nothing."""

    entries: tuple[ProducerStateEntry, ...] = ()

    @classmethod
    def decode(cls, buffer: Buffer) -> ProducerSnapshot:
        """Read a whole snapshot file (FORMAT.md §4.5).

        Raises:
            CorruptSnapshotError: too short, unknown version, wrong CRC, or a count that is not the file's size; its
                position is that of the field that is wrong.
        """
        data = bytes(buffer)
        if len(data) < _HEADER.size:
            raise CorruptSnapshotError(
                f"a producer snapshot of {len(data)} bytes is shorter than its header of {_HEADER.size}", position=0
            )
        version, crc, count = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise CorruptSnapshotError(
                f"the producer snapshot has version {version}; only {_VERSION} is known", position=0
            )
        actual_crc = crc32c(memoryview(data)[_CRC_START:])
        if crc != actual_crc:
            raise CorruptSnapshotError(
                f"the producer snapshot's CRC is {crc:#010x}, of its content {actual_crc:#010x}", position=2
            )
        if count * _ENTRY.size != len(data) - _HEADER.size:
            raise CorruptSnapshotError(
                f"the producer snapshot counts {count} entries of {_ENTRY.size} bytes in"
                f" {len(data) - _HEADER.size} bytes",
                position=_CRC_START,
            )
        return cls(tuple(map(ProducerStateEntry._make, _ENTRY.iter_unpack(data[_HEADER.size :]))))

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        content = len(self.entries).to_bytes(4, "big") + b"".join(_ENTRY.pack(*entry) for entry in self.entries)
        return _VERSION.to_bytes(2, "big") + crc32c(content).to_bytes(4, "big") + content
