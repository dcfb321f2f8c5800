"""The header of a batch as a value, and the words both kernels share for it.

Invariant: a `BatchHeader` is what stands in the file, believed or not; nothing in it has been checked against the
records behind it. Immutable, therefore thread-safe.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

# Record batch v2 (FORMAT §2.1), big endian. On disk; never change.
#
#    0 baseOffset i64       8 batchLength i32    12 partitionLeaderEpoch i32   16 magic i8     17 crc u32
#   21 attributes i16      23 lastOffsetDelta i32 27 baseTimestamp i64         35 maxTimestamp i64
#   43 producerId i64      51 producerEpoch i16  53 baseSequence i32           57 recordsCount i32   61 records
HEADER_V2 = struct.Struct(">qiibIhiqqqhii")
HEADER_V2_SIZE = 61
assert HEADER_V2.size == HEADER_V2_SIZE

# What every message format begins with (FORMAT §2.7): offset i64, size i32; the magic is the byte at 16.
LOG_OVERHEAD = 12
MAGIC_POSITION = 16
HEADER_SIZE_UP_TO_MAGIC = 17
CRC_V2_START = 21  # the CRC-32C covers everything from the attributes on
CRC_LEGACY_START = 16  # the CRC-32 of v0 and v1 covers everything from the magic on

# Smallest value of the size field, per magic (FORMAT §2.7, §3.1).
SIZE_MIN_V0 = 14
SIZE_MIN_V1 = 22
SIZE_MIN_V2 = HEADER_V2_SIZE - LOG_OVERHEAD

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
NONE = -1  # Kafka's "not there": timestamps, producer ids, epochs, sequences, offsets


Header = tuple[str, bytes | None]
"""A record's header: its key (what is not UTF-8 is kept as surrogate escapes) and its value (None is null)."""


class BatchHeader(NamedTuple):
    """The fields of one batch header, as they stand in the file.

    `position` is the byte in the file where the batch begins and `size` all its bytes. A message of format v0 or v1 is
    a batch of its own: `base_offset` is then the offset in its header (of a compressed set: the *last* inner offset),
    `count` is -1 when only decompression can tell, and the fields it does not have are -1.
    """

    position: int
    size: int
    base_offset: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # Kafka's name; hides tuple.count


class RecordStats(NamedTuple):
    """What one walk over the records of a batch shows, without making objects.

    Offsets and timestamps are deltas, as they stand in the records. `disordered` is the position in the walked buffer
    of the first record whose offset delta does not grow, -1 if there is none. For a batch without records all fields
    are zero and `disordered` is -1.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count
    first_offset_delta: int
    last_offset_delta: int
    timestamp_delta_min: int
    timestamp_delta_max: int
    null_keys: int
    tombstones: int
    headers: int
    key_bytes: int
    value_bytes: int
    disordered: int


class WalkEnd(enum.IntEnum):
    """Why `walk_batches` stopped where it did."""

    END = 0  # exactly at the end of the buffer
    INCOMPLETE = 1  # the buffer ends inside a batch, or inside what may be one
    BAD_SIZE = 2  # the size field is below the smallest batch of its format
    BAD_MAGIC = 3  # the magic byte names no format that exists
    BAD_CRC = 4  # the bytes are not those the CRC was made of


class Flaw(enum.IntEnum):
    """What can be wrong inside the records of an intact batch (FORMAT §2.6)."""

    RECORDS_END_EARLY = 1
    RECORD_TOO_LONG = 2
    VARINT_ENDLESS = 3
    FIELD_TOO_LONG = 4
    HEADER_COUNT = 5
    HEADER_KEY_NULL = 6
    RECORD_SLACK = 7
    BYTES_LEFT = 8
    COUNT_NEGATIVE = 9
    OFFSET_ORDER = 10  # only cleaning asks


FLAW_REASONS: dict[int, str] = {
    Flaw.RECORDS_END_EARLY: "the records end before the count in the batch header is reached",
    Flaw.RECORD_TOO_LONG: "a record claims more bytes than are left in its batch",
    Flaw.VARINT_ENDLESS: "a variable-length number does not end",
    Flaw.FIELD_TOO_LONG: "a field reaches beyond the end of its record",
    Flaw.HEADER_COUNT: "a record claims an impossible number of headers",
    Flaw.HEADER_KEY_NULL: "a record header has no key",
    Flaw.RECORD_SLACK: "the fields of a record do not fill its length",
    Flaw.BYTES_LEFT: "bytes are left after the last record of the batch",
    Flaw.COUNT_NEGATIVE: "the batch header claims a negative number of records",
    Flaw.OFFSET_ORDER: "the offset of a record does not follow the one before, or is beyond its batch",
}


class LineMode(enum.IntEnum):
    """The shape of a line that the kernel writes for a record."""

    JSON = 0
    TEXT = 1
    RAW = 2


class ByteEncoding(enum.IntEnum):
    """How bytes become text."""

    UTF8 = 0
    BASE64 = 1
    HEX = 2


class LineStyle(NamedTuple):
    """How records become lines: fixed bytes around the variable ones.

    JSON: `prefix` offset `,"timestamp":` timestamp `middle` key `,"value":` value `,"headers":` headers `suffix`.
    Text: `prefix` offset TAB time TAB key TAB value [TAB headers] `suffix`. Raw: value `suffix`.
    """

    mode: LineMode
    encoding: ByteEncoding
    prefix: bytes
    middle: bytes
    suffix: bytes


class MapEnd(enum.IntEnum):
    """Why a walk of the cleaner over plain batches stopped where it did."""

    END = 0  # exactly at the end of the buffer
    INCOMPLETE = 1  # the buffer ends inside a batch
    OTHER = 2  # a batch for the caller: of format v0 or v1, compressed, transactional or control; its CRC is unchecked
    FULL = 3  # the table is full; keys of this batch may already be in it
    BAD_CRC = 4  # the bytes are not those the CRC was made of
    BAD = 5  # a size, a magic, a count or records that cannot be
    RANGE = 6  # the batch begins at the end of the range or behind it
    FILLED = 7  # what comes of the next batch might not fit into the output
    ORDER = 8  # the batch begins before the end of the one before it


class FilterRule(NamedTuple):
    """What decides which records stay (CLEANER §4.3).

    Records with offsets above `latest` stay whatever they are. A tombstone goes once the delete horizon of its batch is
    at most `now_ms`; where a kept one has none, `new_horizon_ms` is stamped, but only in batches that end at or below
    `latest` (CLEANER §4.9, Q1). `protected` are the last offsets of batches that stay even without records.
    """

    latest: int
    now_ms: int
    new_horizon_ms: int
    protected: frozenset[int]
    drops_unkeyed: bool


class FilteredBatch(NamedTuple):
    """A batch that filtering has written: where in the output, and what indexes want to know of it."""

    position: int
    size: int
    base_offset: int
    last_offset: int
    max_timestamp: int


class FilterCounts(NamedTuple):
    """What filtering did.

    Each record is one of `kept`, `superseded` and `tombstones_expired`, or was dropped for having no key. `unkeyed` are
    those without a key up to `latest`, dropped or not; `tombstones_kept` are among the kept. Each batch is one of
    `verbatim`, `reencoded`, `emptied` and `dropped`; `stamped` are among the re-encoded.
    """

    batches: int
    records: int
    kept: int
    superseded: int
    tombstones_expired: int
    tombstones_kept: int
    unkeyed: int
    verbatim: int
    reencoded: int
    emptied: int
    dropped: int
    stamped: int
