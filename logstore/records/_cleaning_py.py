"""The cleaner's part of the kernel in plain Python: the readable reference of that part of `_kernel.pyx`.

A table of the latest offset of each key, and walks over batches that fill it, drop what it supersedes, and digest what
is left (CLEANER §3.2, §4.3). The walks take plain batches, which are whole batches of format v2, uncompressed, neither
transactional nor control; of the others, callers bring the decompressed records. No I/O. Invariant: a batch is taken
only with a right CRC and well-formed records at ascending offsets. A table belongs to one thread at a time.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from logstore.checksum import crc32c
from logstore.errors import InvalidRecordError
from logstore.records._kernel_py import (
    Buffer,
    _crc_matches,
    _encode_varint,
    _error,
    _parse_record,
    _record_start,
    _wrap,
    parse_header,
)
from logstore.records.header import (
    CRC_V2_START,
    HEADER_SIZE_UP_TO_MAGIC,
    HEADER_V2,
    HEADER_V2_SIZE,
    INT32_MAX,
    INT64_MAX,
    LOG_OVERHEAD,
    MAGIC_POSITION,
    NONE,
    SIZE_MIN_V0,
    SIZE_MIN_V1,
    SIZE_MIN_V2,
    BatchHeader,
    FilterCounts,
    FilteredBatch,
    FilterRule,
    Flaw,
    MapEnd,
)
from logstore.records.siphash import siphash

_SIZE_MIN = (SIZE_MIN_V0, SIZE_MIN_V1, SIZE_MIN_V2)
_NOT_PLAIN = 0x37  # attributes: a codec, transactional, control
_APPEND_TIME = 0x08
_HORIZON = 0x40
_KEPT_ATTRIBUTES = 0x7F  # readers know no more (FORMAT §2.2)
_GROWTH_MAX = 10  # bytes by which re-encoding can lengthen a record: 9 of the timestamp delta, 1 of the length
_SLOT_BYTES = 24
_SEED_BYTES = 16
_NEGATIVE = "a position in a buffer is not below 0"


class KeyTable:
    """The latest offset of each key, in memory that the caller gives: 24 bytes a slot, three of four slots in use.

    The compiled table keeps keys of up to 15 bytes as they are and 127 bits of a keyed hash of longer ones; `seed`, 16
    bytes, keys it, so that nobody who does not know the seed can make two keys meet. This twin keeps a dict instead and
    leaves the memory alone.
    """

    __slots__ = ("_memory", "_offsets", "_seed", "_shard", "_shards", "capacity", "slots")

    def __init__(self, memory: bytearray | memoryview, seed: bytes) -> None:
        """Make an empty table over a writable buffer; raises ValueError for a seed of another size."""
        if len(seed) != _SEED_BYTES:
            raise ValueError(f"the seed of a table has {_SEED_BYTES} bytes, not {len(seed)}")
        self._memory = memoryview(memory)
        if self._memory.readonly:
            raise BufferError("the memory of a table must be writable")
        self._seed = bytes(seed)
        self.slots = self._memory.nbytes // _SLOT_BYTES
        self.capacity = self.slots * 3 // 4
        self._offsets: dict[bytes, int] = {}
        self._shard, self._shards = 0, 1

    @property
    def count(self) -> int:
        """How many keys are in the table."""
        return len(self._offsets)

    def clear(self) -> None:
        """Forget all keys, and take all from now on."""
        self._offsets.clear()
        self._shard, self._shards = 0, 1

    def restrict(self, shard: int, shards: int) -> None:
        """Forget all keys, and take only one of so many parts of them: of others, nothing is kept nor found.

        Which part a key belongs to depends on the seed. Raises ValueError for a part that there is not.
        """
        if not 0 <= shard < shards <= INT32_MAX:
            raise ValueError(f"there is no part {shard} of {shards}")
        self.clear()
        self._shard, self._shards = shard, shards

    def absorb(self, other: KeyTable) -> None:
        """Put all that another table has. Raises ValueError for one of another seed, or with too many keys."""
        if other._seed != self._seed or self.count + other.count > self.capacity:
            raise ValueError("a table takes in one of the same seed whose keys it has room for")
        self._offsets.update(other._offsets)

    def _is_foreign(self, key: bytes) -> bool:
        return self._shards > 1 and siphash(self._seed, key) % self._shards != self._shard

    def put(self, key: bytes, offset: int) -> bool:
        """Say that a key is at an offset; False, and nothing done, in a full table, even for a key it has.

        Raises ValueError for an offset below 0.
        """
        if not 0 <= offset <= INT64_MAX:
            raise ValueError(f"{offset} is no offset")
        if self._is_foreign(bytes(key)):
            return True
        if len(self._offsets) >= self.capacity:
            return False
        self._offsets[bytes(key)] = offset
        return True

    def get(self, key: bytes) -> int:
        """The offset that was put last for a key, or -1."""
        return self._offsets.get(bytes(key), NONE)


# ---------------------------------------------------------------- batches and records


class _Item(NamedTuple):
    """A record as the cleaner sees it; `tail` is all of it from the length of its key on."""

    offset: int
    offset_delta: int
    timestamp: int
    key: bytes | None
    has_value: bool
    tail: bytes


def _plain_header(view: memoryview, position: int, end: int, offset_end: int | None) -> BatchHeader | MapEnd:
    """The header of the plain batch at `position`, its CRC checked, or why there is none."""
    left = end - position
    if left < HEADER_SIZE_UP_TO_MAGIC:
        return MapEnd.INCOMPLETE if left > 0 else MapEnd.END
    (size,) = struct.unpack_from(">i", view, position + 8)
    magic = view[position + MAGIC_POSITION]
    if magic > 2 or size < _SIZE_MIN[magic]:
        return MapEnd.BAD
    if LOG_OVERHEAD + size > left:
        return MapEnd.INCOMPLETE
    if magic != 2:
        return MapEnd.OTHER
    header = parse_header(view, position, position)
    if offset_end is not None and header.base_offset >= offset_end:
        return MapEnd.RANGE
    if header.attributes & _NOT_PLAIN:
        return MapEnd.OTHER
    if not _crc_matches(view[position : position + header.size], header):
        return MapEnd.BAD_CRC
    return header if _has_range(header) else MapEnd.BAD


def _last_offset(header: BatchHeader) -> int:
    return header.base_offset + header.last_offset_delta


def _has_range(header: BatchHeader) -> bool:
    return header.base_offset >= 0 and header.last_offset_delta >= 0 and _last_offset(header) <= INT64_MAX


def _parse(
    view: memoryview,
    start: int,
    end: int,
    count: int,
    base_offset: int,
    last_offset: int,
    base_timestamp: int,
    append_time: int | None,
) -> list[_Item]:
    """Read the records that fill `start` to `end`. Raises InvalidRecordError."""
    if count < 0:
        raise _error(Flaw.COUNT_NEGATIVE, start)
    items = []
    previous, position = NONE, start
    for _ in range(count):
        fields = _parse_record(view, position, end)
        _, _, tail, _ = _record_start(view, position, end)
        offset = base_offset + fields.offset_delta
        if fields.offset_delta <= previous or offset > last_offset:
            raise _error(Flaw.OFFSET_ORDER, position)
        timestamp = _wrap(base_timestamp + fields.timestamp_delta) if append_time is None else append_time
        has_value = fields.value is not None
        items.append(
            _Item(offset, fields.offset_delta, timestamp, fields.key, has_value, bytes(view[tail : fields.end]))
        )
        previous, position = fields.offset_delta, fields.end
    if position != end:
        raise _error(Flaw.BYTES_LEFT, position)
    return items


def _items(view: memoryview, start: int, end: int, count: int, header: BatchHeader) -> list[_Item]:
    if not _has_range(header):
        raise _error(Flaw.OFFSET_ORDER, start)
    append = header.max_timestamp if header.attributes & _APPEND_TIME else None
    return _parse(view, start, end, count, header.base_offset, _last_offset(header), header.base_timestamp, append)


def _batch_items(view: memoryview, header: BatchHeader) -> list[_Item] | None:
    """The records of a plain batch, or None where they are not well-formed."""
    start, end = header.position + HEADER_V2_SIZE, header.position + header.size
    try:
        return _items(view, start, end, header.count, header)
    except InvalidRecordError:
        return None


def _opened(buffer: Buffer, start: int, end: int) -> tuple[memoryview, int]:
    if start < 0:
        raise ValueError(_NEGATIVE)
    view = memoryview(buffer)
    return view, min(end, len(view))


# ---------------------------------------------------------------- the map


def map_plain_batches(
    table: KeyTable, buffer: Buffer, start: int, end: int, offset_min: int, offset_end: int, expected: int = 0
) -> tuple[int, int, int, int, MapEnd, int]:
    """Put the keys of plain batches into a table.

    Returns where the walk stopped, the latest offset, records, unkeyed, why it stopped, and the least offset with which
    the next batch can begin, which for the first one is `expected`.

    Records with `offset_min` <= offset < `offset_end` count. The latest offset is how far the table is complete: the
    last offset of the batches taken (within the range), in a full table of the records put, -1 before either. A batch
    is put as a whole or, when the table becomes full, in part; the position is then its start, and nothing of it is
    counted. Raises ValueError for a `start` below 0.
    """
    view, end = _opened(buffer, start, end)
    latest, records, unkeyed = NONE, 0, 0
    while True:
        header = _plain_header(view, start, end, offset_end)
        if isinstance(header, MapEnd):
            return start, latest, records, unkeyed, header, expected
        if header.base_offset < expected:
            return start, latest, records, unkeyed, MapEnd.ORDER, expected
        items = _batch_items(view, header)
        if items is None:
            return start, latest, records, unkeyed, MapEnd.BAD, expected
        put, looked, without, is_full = _put_items(table, items, offset_min, offset_end)
        records, unkeyed, latest = records + looked, unkeyed + without, max(latest, put)
        if is_full:
            return start, latest, records, unkeyed, MapEnd.FULL, expected
        if _last_offset(header) >= offset_min:
            latest = max(latest, min(_last_offset(header), offset_end - 1))
        expected = min(_last_offset(header) + 1, INT64_MAX)
        start += header.size


def map_records(
    table: KeyTable, payload: Buffer, count: int, base_offset: int, offset_min: int, offset_end: int
) -> tuple[int, int, int, bool]:
    """Put the keys of one batch's decompressed records: the last offset put or -1, records, unkeyed, whether full.

    Records and range are as in `map_plain_batches`; of a batch that does not fit, nothing is counted. Raises
    InvalidRecordError, before anything is put, for records that are not well-formed.
    """
    view = memoryview(payload)
    if base_offset < 0:
        raise _error(Flaw.OFFSET_ORDER, 0)
    items = _parse(view, 0, len(view), count, base_offset, INT64_MAX, 0, None)
    return _put_items(table, items, offset_min, offset_end)


def _put_items(table: KeyTable, items: list[_Item], offset_min: int, offset_end: int) -> tuple[int, int, int, bool]:
    put, records, unkeyed = NONE, 0, 0
    for item in items:
        if not offset_min <= item.offset < offset_end:
            continue
        if item.key is not None:
            if not table.put(item.key, item.offset):
                return put, 0, 0, True
            put = item.offset
        records += 1
        unkeyed += item.key is None
    return put, records, unkeyed, False


# ---------------------------------------------------------------- the filter


class _Outcome(NamedTuple):
    """What becomes of one batch: None for `kept` is nothing to change."""

    kept: bytes | None
    count: int  # type: ignore[assignment]  # hides tuple.count
    base_timestamp: int
    max_timestamp: int
    is_stamped: bool
    counts: FilterCounts


def filter_plain_batches(
    table: KeyTable,
    buffer: Buffer,
    start: int,
    end: int,
    out: bytearray | memoryview,
    out_start: int,
    rule: FilterRule,
) -> tuple[int, int, list[FilteredBatch], FilterCounts, MapEnd]:
    """Write to `out` what stays of plain batches: where both stopped, the batches written, counts, why.

    A batch that loses nothing is copied as it is. It ends with FILLED before a batch that might not fit, which is one
    whose size plus 10 bytes a record is more than is left in `out`. Raises ValueError for positions below 0.
    """
    view, end = _opened(buffer, start, end)
    room = memoryview(out)
    if out_start < 0:
        raise ValueError(_NEGATIVE)
    written: list[FilteredBatch] = []
    counts = FilterCounts(*[0] * 12)
    while True:
        header = _plain_header(view, start, end, None)
        if isinstance(header, MapEnd):
            return start, out_start, written, counts, header
        items = _batch_items(view, header)
        if items is None:
            return start, out_start, written, counts, MapEnd.BAD
        if header.size + _GROWTH_MAX * header.count > len(room) - out_start:
            return start, out_start, written, counts, MapEnd.FILLED
        outcome = _decide(table, items, header, rule)
        counts = FilterCounts(*map(sum, zip(counts, outcome.counts, strict=True)))
        batch = _written(view, header, outcome)
        if batch:
            room[out_start : out_start + len(batch)] = batch
            written.append(
                FilteredBatch(out_start, len(batch), header.base_offset, _last_offset(header), outcome.max_timestamp)
            )
        start, out_start = start + header.size, out_start + len(batch)


def filter_records(
    table: KeyTable, payload: Buffer, count: int, header: BatchHeader, rule: FilterRule
) -> tuple[bytes | None, int, int, int, bool, FilterCounts]:
    """Drop what goes from one batch's decompressed records: what stays, its number, base and max timestamp, and more.

    None for what stays means that nothing changes, and the batch is best copied. Otherwise it is a new records section
    whose timestamp deltas count from the base timestamp; b"" without any record, and then the batch is dropped, or kept
    as an empty header if `rule` protects it (the base timestamp is -1, the maximum the batch's own). The boolean says
    that a delete horizon was stamped and is the base timestamp; one that was there before stays the base, too. The
    counts are those of this one batch. Raises InvalidRecordError for records that are not well-formed.
    """
    view = memoryview(payload)
    return tuple(_decide(table, _items(view, 0, len(view), count, header), header, rule))  # type: ignore[return-value]


def _decide(table: KeyTable, items: list[_Item], header: BatchHeader, rule: FilterRule) -> _Outcome:
    has_horizon = bool(header.attributes & _HORIZON)
    is_past = has_horizon and header.base_timestamp <= rule.now_ms
    last_offset = _last_offset(header)
    kept = []
    superseded = expired = unkeyed = 0
    for item in items:
        if item.offset > rule.latest:
            kept.append(item)
        elif item.key is None:
            unkeyed += 1
            if not rule.drops_unkeyed:
                kept.append(item)
        elif item.offset < table.get(item.key):
            superseded += 1
        elif is_past and not item.has_value:
            expired += 1
        else:
            kept.append(item)
    tombstones = sum(item.key is not None and not item.has_value for item in kept)
    is_stamped = not has_horizon and tombstones > 0 and last_offset <= rule.latest
    is_verbatim = len(kept) == len(items) and not is_stamped and (bool(items) or last_offset in rule.protected)
    is_gone = not kept and not is_verbatim
    is_emptied = is_gone and last_offset in rule.protected
    fates = is_verbatim, bool(kept) and not is_verbatim, is_emptied, is_gone and not is_emptied, is_stamped
    counts = FilterCounts(1, len(items), len(kept), superseded, expired, tombstones, unkeyed, *map(int, fates))
    if is_verbatim:
        return _Outcome(None, len(kept), header.base_timestamp, header.max_timestamp, False, counts)
    if not kept:
        return _Outcome(b"", 0, NONE, header.max_timestamp, False, counts)
    base = rule.new_horizon_ms if is_stamped else header.base_timestamp if has_horizon else kept[0].timestamp
    newest = max(item.timestamp for item in kept)  # of LogAppendTime, the one they all have
    return _Outcome(b"".join(_encode(item, base) for item in kept), len(kept), base, newest, is_stamped, counts)


def _encode(item: _Item, base_timestamp: int) -> bytes:
    body = b"\0" + _encode_varint(_wrap(item.timestamp - base_timestamp), 64) + _encode_varint(item.offset_delta, 32)
    return _encode_varint(len(body) + len(item.tail), 32) + body + item.tail


def _written(view: memoryview, header: BatchHeader, outcome: _Outcome) -> bytes:
    """The bytes of what becomes of a plain batch (CLEANER §4.7), b"" when it is dropped."""
    if outcome.kept is None:
        return bytes(view[header.position : header.position + header.size])
    if outcome.counts.dropped:
        return b""
    attributes = header.attributes & (_KEPT_ATTRIBUTES if outcome.count else _APPEND_TIME)
    attributes |= _HORIZON if outcome.is_stamped else 0
    batch = bytearray(HEADER_V2_SIZE) + outcome.kept
    HEADER_V2.pack_into(
        batch, 0, header.base_offset, len(batch) - LOG_OVERHEAD, header.leader_epoch, 2, 0, attributes,
        header.last_offset_delta, outcome.base_timestamp, outcome.max_timestamp, header.producer_id,
        header.producer_epoch, header.base_sequence, outcome.count,
    )  # fmt: skip
    batch[17:21] = crc32c(memoryview(batch)[CRC_V2_START:]).to_bytes(4, "big")
    return bytes(batch)


# ---------------------------------------------------------------- the digest


def digest_plain_batches(
    table: KeyTable, buffer: Buffer, start: int, end: int, offset_end: int
) -> tuple[int, int, int, int, int, MapEnd]:
    """Sum up what readers see of plain batches: where the walk stopped, values, tombstones, superseded, digest, why.

    Records with a key and an offset below `offset_end` count. One that the table has as the latest of its key is a
    value or a tombstone, any other is superseded. The digest is the sum, modulo 2**64, of a keyed hash over each
    value's offset, timestamp, key, value and headers. Raises ValueError for a `start` below 0.
    """
    view, end = _opened(buffer, start, end)
    values = tombstones = superseded = digest = 0
    while True:
        header = _plain_header(view, start, end, offset_end)
        if isinstance(header, MapEnd):
            return start, values, tombstones, superseded, digest, header
        items = _batch_items(view, header)
        if items is None:
            return start, values, tombstones, superseded, digest, MapEnd.BAD
        found = _digest(table, items, offset_end)
        values, tombstones, superseded = values + found[0], tombstones + found[1], superseded + found[2]
        digest = (digest + found[3]) % 2**64
        start += header.size


def digest_records(
    table: KeyTable, payload: Buffer, count: int, header: BatchHeader, offset_end: int
) -> tuple[int, int, int, int]:
    """Sum up one batch's decompressed records as `digest_plain_batches` does: values, tombstones, superseded, digest.

    Raises InvalidRecordError for records that are not well-formed.
    """
    view = memoryview(payload)
    return _digest(table, _items(view, 0, len(view), count, header), offset_end)


def _digest(table: KeyTable, items: list[_Item], offset_end: int) -> tuple[int, int, int, int]:
    values = tombstones = superseded = digest = 0
    for item in items:
        if item.key is None or item.offset >= offset_end or table._is_foreign(item.key):
            continue
        if table.get(item.key) != item.offset:
            superseded += 1
        elif not item.has_value:
            tombstones += 1
        else:
            values += 1
            digest += siphash(table._seed, struct.pack("<qq", item.offset, item.timestamp) + item.tail)
    return values, tombstones, superseded, digest % 2**64
