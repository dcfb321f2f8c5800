"""The records of a work queue's state topic: what was done to its jobs, and now and then all that is known of them.

A record has no key; its value begins with a head of four bytes. Big endian; offsets are those of the jobs' partition.

    head:             u8 version (1), u8 kind, u16 partition
    1 ADVANCED        i64 first, i64 position, i64 horizon, u64 owner, i64 until: nothing below `position` is to be
                      looked at any more. What is from `first` on and has no other state is acquired, the first time.
                      What is below `horizon` may be given away before this partition is spoken of again
    2 ACQUIRED        u64 owner, i64 until, then per job: i64 offset, u16 deliveries
    3 RELEASED        per job: i64 offset, i64 due, u16 deliveries: available from then on
    4 ACKNOWLEDGED    per job: i64 offset
    5 DEAD            per job: i64 offset: given up after too many deliveries, or rejected
    6 GONE            per job: i64 offset: there is no such record, or it is a second one of a unique key
    7 UNIQUE          i64 offset, then the key, until that job is finished
    8 SNAPSHOT        u32 index, u32 count, then a part of what `QueueState.dump` gives; takes the place of everything

Times are milliseconds since the epoch. Each batch is written under the queue's lock, and takes effect as a whole. Pure
functions: thread-safe.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from itertools import chain

from logstore.errors import InvalidRecordError, UnsupportedFormatError

VERSION = 1
PART_BYTES = 1 << 18
"""Of a snapshot in one record."""
PARTS_MAX = 1 << 14


class Kind(IntEnum):
    """What a record of the state topic says. On disk; never change."""

    ADVANCED = 1
    ACQUIRED = 2
    RELEASED = 3
    ACKNOWLEDGED = 4
    DEAD = 5
    GONE = 6
    UNIQUE = 7
    SNAPSHOT = 8


# On disk; never change.
_HEAD = struct.Struct(">BBH")
_ADVANCED = struct.Struct(">BBHqqqQq")
_ACQUIRED = struct.Struct(">BBHQq")
_DELIVERED = struct.Struct(">qH")
_RELEASED = struct.Struct(">qqH")
_OFFSET = struct.Struct(">q")
_FINISHED = struct.Struct(">BBHq")
_PART = struct.Struct(">BBHII")
assert (_HEAD.size, _ADVANCED.size, _ACQUIRED.size, _PART.size) == (4, 44, 20, 12)


def head_of(value: bytes | None) -> tuple[int, int]:
    """Kind and partition. Raises InvalidRecordError, UnsupportedFormatError for a later version."""
    if value is None or len(value) < _HEAD.size:
        raise InvalidRecordError("a record of a queue's state is too short")
    version, kind, partition = _HEAD.unpack_from(value)
    if version != VERSION:
        raise UnsupportedFormatError(
            f"this queue's state has version {version}, known is {VERSION}", remedy="use a newer logstore"
        )
    return kind, partition


def encode_advanced(partition: int, first: int, position: int, horizon: int, owner: int, until: int) -> bytes:
    return _ADVANCED.pack(VERSION, Kind.ADVANCED, partition, first, position, horizon, owner, until)


def decode_advanced(value: bytes) -> tuple[int, int, int, int, int]:
    """First, position, horizon, owner, until."""
    if len(value) != _ADVANCED.size:
        raise _wrong_size(Kind.ADVANCED)
    return _ADVANCED.unpack(value)[3:]


def encode_acquired(partition: int, owner: int, until: int, jobs: Sequence[tuple[int, int]]) -> bytes:
    """`jobs` are offsets and deliveries."""
    head = _ACQUIRED.pack(VERSION, Kind.ACQUIRED, partition, owner, until)
    return head + b"".join([_DELIVERED.pack(*job) for job in jobs])


def decode_acquired(value: bytes) -> tuple[int, int, list[tuple[int, int]]]:
    """Owner, until, and offsets with deliveries."""
    if len(value) < _ACQUIRED.size:
        raise _wrong_size(Kind.ACQUIRED)
    owner, until = _ACQUIRED.unpack_from(value)[3:]
    return owner, until, [(offset, count) for offset, count in _rows(_DELIVERED, value, _ACQUIRED.size, Kind.ACQUIRED)]


def encode_released(partition: int, jobs: Sequence[tuple[int, int, int]]) -> bytes:
    """`jobs` are offsets, times from which they are available, and deliveries."""
    return _HEAD.pack(VERSION, Kind.RELEASED, partition) + b"".join([_RELEASED.pack(*job) for job in jobs])


def decode_released(value: bytes) -> list[tuple[int, int, int]]:
    """Offsets, times, deliveries."""
    return [(offset, due, count) for offset, due, count in _rows(_RELEASED, value, _HEAD.size, Kind.RELEASED)]


def encode_acknowledged(partition: int, offset: int) -> bytes:
    """One job: the way of most acknowledgements."""
    return _FINISHED.pack(VERSION, Kind.ACKNOWLEDGED, partition, offset)


def encode_finished(kind: Kind, partition: int, offsets: Sequence[int]) -> bytes:
    """Jobs that are ACKNOWLEDGED, DEAD or GONE."""
    return _HEAD.pack(VERSION, kind, partition) + struct.pack(f">{len(offsets)}q", *offsets)


def decode_finished(value: bytes) -> tuple[int, ...]:
    """Offsets."""
    return tuple(chain.from_iterable(_rows(_OFFSET, value, _HEAD.size, Kind.GONE)))


def encode_unique(partition: int, offset: int, key: bytes) -> bytes:
    return _FINISHED.pack(VERSION, Kind.UNIQUE, partition, offset) + key


def decode_unique(value: bytes) -> tuple[int, bytes]:
    """Offset and key."""
    if len(value) < _FINISHED.size:
        raise _wrong_size(Kind.UNIQUE)
    return _FINISHED.unpack_from(value)[3], value[_FINISHED.size :]


def encode_snapshot(data: bytes) -> list[bytes]:
    """A snapshot as records, in order."""
    pieces = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    return [
        _PART.pack(VERSION, Kind.SNAPSHOT, 0, index, len(pieces)) + piece for index, piece in enumerate(pieces)
    ]  # fmt: skip


def decode_snapshot_part(value: bytes) -> tuple[int, int, bytes]:
    """Index, count and bytes of a part."""
    if len(value) < _PART.size:
        raise _wrong_size(Kind.SNAPSHOT)
    index, count = _PART.unpack_from(value)[3:]
    if not index < count <= PARTS_MAX:
        raise InvalidRecordError(f"part {index} of {count} is none of a queue's snapshot")
    return index, count, value[_PART.size :]


def _rows(row: struct.Struct, value: bytes, start: int, kind: Kind) -> list[tuple[int, ...]]:
    if (len(value) - start) % row.size:
        raise _wrong_size(kind)
    return list(row.iter_unpack(memoryview(value)[start:]))


def _wrong_size(kind: Kind) -> InvalidRecordError:
    return InvalidRecordError(f"a record of a queue's state of kind {kind.name} has a wrong size")
