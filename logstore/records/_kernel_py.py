"""The kernel in plain Python: the readable reference of `_kernel.pyx`, function for function.

It is the oracle of the tests, and what runs where no C compiler was found. Bytes in, values out: no I/O, no state,
therefore thread-safe. Positions in errors are positions in the buffer that was given.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from logstore.checksum import crc32c
from logstore.errors import CorruptRecordError, InvalidRecordError
from logstore.records.header import (
    CRC_LEGACY_START,
    CRC_V2_START,
    FLAW_REASONS,
    HEADER_SIZE_UP_TO_MAGIC,
    HEADER_V2,
    HEADER_V2_SIZE,
    INT32_MAX,
    LOG_OVERHEAD,
    MAGIC_POSITION,
    NONE,
    SIZE_MIN_V0,
    SIZE_MIN_V1,
    SIZE_MIN_V2,
    BatchHeader,
    ByteEncoding,
    Flaw,
    Header,
    LineMode,
    LineStyle,
    RecordStats,
    WalkEnd,
)

Buffer = bytes | bytearray | memoryview

_SIZE_MIN = (SIZE_MIN_V0, SIZE_MIN_V1, SIZE_MIN_V2)
_HEADER_LEGACY = struct.Struct(">qiIBb")  # offset, size, crc, magic, attributes
_HEADER_SIZE = {1: 26, 2: HEADER_V2_SIZE}  # v1 has a timestamp behind the attributes
_EPOCH = datetime.datetime(1970, 1, 1)
_TIME_MIN, _TIME_MAX = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999, in ms since the epoch
_NEGATIVE = "a position in a buffer is not below 0"
# Kafka's; which partition a key belongs to depends on them. Never change.
_MURMUR2_SEED = 0x9747B28C
_MURMUR2_FACTOR = 0x5BD1E995


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One record of a log.

    `offset` is its logical number in the partition, `timestamp` is in milliseconds since the epoch (-1: none, as in
    message format v0), `key` and `value` are bytes or None (a None value is a tombstone in a compacted log), `headers`
    are pairs of text and bytes or None.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()

    def replace(self, **changes: Any) -> Record:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


# ---------------------------------------------------------------- indexes


def floor_entry(buffer: Buffer, count: int, entry_bytes: int, key_bytes: int, key_position: int, target: int) -> int:
    """The number of the last of `count` entries whose key is at most `target`, or -1.

    The entries are at the start of `buffer`, all of the same size; their keys are signed, big endian, of `key_bytes` (4
    or 8) from byte `key_position` of the entry on, and ascend: where they do not, some entry is the answer, or -1.
    Raises ValueError for keys of another width or not within their entry, and for more entries than there are bytes.
    """
    view = memoryview(buffer)
    if key_bytes not in (4, 8) or not 0 <= key_position <= entry_bytes - key_bytes:
        raise ValueError(f"no key of {key_bytes} bytes at {key_position} in an entry of {entry_bytes}")
    if count > len(view) // entry_bytes:
        raise ValueError(f"{count} entries of {entry_bytes} bytes are more than {len(view)} bytes")
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        position = middle * entry_bytes + key_position
        if target < int.from_bytes(view[position : position + key_bytes], "big", signed=True):
            high = middle
        else:
            low = middle + 1
    return low - 1


# ---------------------------------------------------------------- batches


def walk_batches(
    buffer: Buffer, start: int, end: int, base_position: int, verify: bool
) -> tuple[list[BatchHeader], int, int]:
    """Walk whole batches from `start`: their headers, where the walk stopped in `buffer`, and why (`WalkEnd`)."""
    view = memoryview(buffer)
    end = min(end, len(view))
    headers: list[BatchHeader] = []
    position = start
    while position < end:
        if end - position < HEADER_SIZE_UP_TO_MAGIC:
            return headers, position, WalkEnd.INCOMPLETE
        (size,) = struct.unpack_from(">i", view, position + 8)
        magic = view[position + MAGIC_POSITION]
        if size < SIZE_MIN_V0:
            return headers, position, WalkEnd.BAD_SIZE
        if magic > 2:
            return headers, position, WalkEnd.BAD_MAGIC
        if size < _SIZE_MIN[magic]:
            return headers, position, WalkEnd.BAD_SIZE
        total = LOG_OVERHEAD + size
        if total > end - position:
            return headers, position, WalkEnd.INCOMPLETE
        header = parse_header(view, position, base_position + position)
        if verify and not _crc_matches(view[position : position + total], header):
            return headers, position, WalkEnd.BAD_CRC
        headers.append(header)
        position += total
    return headers, position, WalkEnd.END


def parse_header(buffer: Buffer, position: int, file_position: int) -> BatchHeader:
    """Read the batch header at `position`; the caller has made sure that its magic is 0 to 2.

    Raises CorruptRecordError where the buffer ends inside it.
    """
    view = memoryview(buffer)
    left = len(view) - position if position >= 0 else -1
    if left < HEADER_SIZE_UP_TO_MAGIC or left < _HEADER_SIZE.get(view[position + MAGIC_POSITION], _HEADER_LEGACY.size):
        raise CorruptRecordError("the bytes end inside the header of a batch", position=position)
    if view[position + MAGIC_POSITION] == 2:
        fields = HEADER_V2.unpack_from(view, position)
        return BatchHeader(file_position, LOG_OVERHEAD + fields[1], fields[0], *fields[2:])
    offset, size, crc, magic, attributes = _HEADER_LEGACY.unpack_from(view, position)
    timestamp = struct.unpack_from(">q", view, position + 18)[0] if magic == 1 else NONE
    count = NONE if attributes & 7 else 1
    return BatchHeader(
        file_position, LOG_OVERHEAD + size, offset, NONE, magic, crc, attributes, 0, timestamp, timestamp,
        NONE, NONE, NONE, count,
    )  # fmt: skip


def _crc_matches(batch: memoryview, header: BatchHeader) -> bool:
    if header.magic == 2:
        return bool(crc32c(batch[CRC_V2_START:]) == header.crc)
    return zlib.crc32(batch[CRC_LEGACY_START:]) == header.crc


def find_candidate(buffer: Buffer, start: int, end: int, size_max: int, offset_min: int, offset_max: int) -> int:
    """The first position from `start` at which a batch could begin, or -1.

    Its whole header lies before `end`, its size is at most `size_max` minus the bytes before it, and its offset is
    within the bounds; only a CRC can say more.
    """
    view = memoryview(buffer)
    end = min(end, len(view))
    for position in range(start, end - HEADER_SIZE_UP_TO_MAGIC + 1):
        magic = view[position + MAGIC_POSITION]
        if magic > 2:
            continue
        offset, size = struct.unpack_from(">qi", view, position)
        if not (_SIZE_MIN[magic] <= size and LOG_OVERHEAD + size <= size_max - (position - start)):
            continue
        if not offset_min <= offset <= offset_max:
            continue
        length = HEADER_V2_SIZE if magic == 2 else LOG_OVERHEAD + _SIZE_MIN[magic]
        if end - position < length:
            continue
        if _is_plausible(parse_header(view, position, 0)):
            return position
    return -1


def find_batch(buffer: Buffer, start: int, end: int, offset: int) -> tuple[int, int, int]:
    """Find the first batch from `start` that ends at `offset` or behind it: its position, size and base offset.

    A message of format v0 or v1 ends at the offset in its header. The body of the batch found may reach beyond `end`,
    its header does not (of a v0 or v1 message: what comes up to the magic). Without such a batch: where the walk
    stopped, 0, and why (`WalkEnd`). No CRC is checked. Raises ValueError for a `start` below 0.
    """
    view = memoryview(buffer)
    end = min(end, len(view))
    if start < 0:
        raise ValueError(_NEGATIVE)
    position = start
    while position < end:
        if end - position < HEADER_SIZE_UP_TO_MAGIC:
            return position, 0, WalkEnd.INCOMPLETE
        last_offset, size = struct.unpack_from(">qi", view, position)
        base_offset = last_offset
        magic = view[position + MAGIC_POSITION]
        if size < SIZE_MIN_V0:
            return position, 0, WalkEnd.BAD_SIZE
        if magic > 2:
            return position, 0, WalkEnd.BAD_MAGIC
        if size < _SIZE_MIN[magic]:
            return position, 0, WalkEnd.BAD_SIZE
        if magic == 2:
            if end - position < HEADER_V2_SIZE:
                return position, 0, WalkEnd.INCOMPLETE
            (delta,) = struct.unpack_from(">i", view, position + 23)
            last_offset = _wrap(base_offset + delta)
        total = LOG_OVERHEAD + size
        if last_offset >= offset:
            return position, total, base_offset
        if total > end - position:
            return position, 0, WalkEnd.INCOMPLETE
        position += total
    return position, 0, WalkEnd.END


def _is_plausible(header: BatchHeader) -> bool:
    if header.magic == 2:
        return (
            0 <= header.attributes < 128
            and header.attributes & 7 <= 4
            and header.last_offset_delta >= 0
            and 0 <= header.count <= header.last_offset_delta + 1
        )
    return 0 <= header.attributes < 16 and header.attributes & 7 <= 3


# ---------------------------------------------------------------- records


def decode_records(
    buffer: Buffer,
    start: int,
    end: int,
    count: int,
    base_offset: int,
    base_timestamp: int,
    append_time: int | None,
) -> tuple[list[Record], int]:
    """Decode `count` records from `start`: the records and the position behind the last one.

    `append_time` replaces every timestamp (LogAppendTime). Raises InvalidRecordError at the first record that is wrong.
    """
    view = memoryview(buffer)
    end = min(end, len(view))
    records = []
    position = start
    for _ in range(count):
        fields = _parse_record(view, position, end)
        timestamp = _wrap(base_timestamp + fields.timestamp_delta) if append_time is None else append_time
        records.append(
            Record(_wrap(base_offset + fields.offset_delta), timestamp, fields.key, fields.value, tuple(fields.headers))
        )
        position = fields.end
    return records, position


def decode_plain_batches(
    buffer: Buffer, start: int, end: int, offset_min: int, offset_end: int, mask: int, records_max: int
) -> tuple[list[Record], int, int]:
    """Decode batch after batch from `start`, CRCs checked: records, where it stopped, and the offset expected there.

    It stops before the first batch that takes a closer look (of format v0 or v1, cut off, empty, with one of the
    attributes of `mask`, a wrong CRC, malformed records, or not within `offset_min` <= offsets < `offset_end`), and
    once there are `records_max` records or more. Raises ValueError for a `start` below 0.
    """
    view = memoryview(buffer)
    end = min(end, len(view))
    if start < 0:
        raise ValueError(_NEGATIVE)
    records: list[Record] = []
    while end - start >= HEADER_V2_SIZE and len(records) < records_max:
        headers, _, _ = walk_batches(view[start : min(end, start + _first_size(view, start))], 0, end, start, True)
        header = headers[0] if headers else None
        if header is None or header.magic != 2 or header.attributes & 0xFF & mask or header.count <= 0:
            break
        last_offset = header.base_offset + header.last_offset_delta
        if header.last_offset_delta < 0 or not offset_min <= header.base_offset <= last_offset < offset_end:
            break
        append_time = header.max_timestamp if header.attributes & 0x08 else None
        batch_end = start + header.size
        try:
            found, stop = decode_records(
                view, start + HEADER_V2_SIZE, batch_end, header.count, header.base_offset, header.base_timestamp,
                append_time,
            )  # fmt: skip
        except InvalidRecordError:
            break
        if stop != batch_end:
            break
        records += found
        start, offset_min = batch_end, last_offset + 1
    return records, start, offset_min


def _first_size(view: memoryview, position: int) -> int:
    """Bytes that the batch at `position` claims to have."""
    return LOG_OVERHEAD + max(int.from_bytes(view[position + 8 : position + 12], "big", signed=True), 0)


def decode_at(
    buffer: Buffer,
    position: int,
    end: int,
    count: int,
    base_offset: int,
    base_timestamp: int,
    append_time: int | None,
    offset: int,
) -> Record | None:
    """Decode the first of `count` records from `position` that has this offset; None if none has it.

    `append_time` replaces its timestamp (LogAppendTime). Raises InvalidRecordError at the first record whose length,
    timestamp or offset is wrong, or if the record found is wrong in any field; ValueError for a `position` below 0.
    """
    view = memoryview(buffer)
    end = min(end, len(view))
    if position < 0:
        raise ValueError(_NEGATIVE)
    for _ in range(count):
        _, offset_delta, _, record_end = _record_start(view, position, end)
        if _wrap(base_offset + offset_delta) == offset:
            return decode_records(view, position, end, 1, base_offset, base_timestamp, append_time)[0][0]
        position = record_end
    return None


def find_record(buffer: Buffer, position: int, end: int, offset: int) -> Record | None:
    """Find and decode the record of an offset, in the batches that begin at `position`; the way of most point reads.

    None where it takes a closer look: no batch holds the offset, or its batch is compressed, a control batch, of format
    v0 or v1, cut off, or malformed. CRCs are not checked. Raises ValueError for a `position` below 0.
    """
    view = memoryview(buffer)
    end = min(end, len(view))
    found, size, base_offset = find_batch(view, position, end, offset)
    if not size or base_offset > offset or size > end - found or view[found + MAGIC_POSITION] != 2:
        return None
    header = parse_header(view, found, 0)
    if header.attributes & 0x27:
        return None
    append_time = header.max_timestamp if header.attributes & 0x08 else None
    start, stop = found + HEADER_V2_SIZE, found + size
    try:
        return decode_at(
            view, start, stop, header.count, base_offset, header.base_timestamp, append_time, offset
        )
    except InvalidRecordError:
        return None


def check_records(buffer: Buffer, start: int, end: int, count: int) -> RecordStats:
    """Walk `count` records that fill `start` to `end` exactly, and say what they hold. Raises InvalidRecordError."""
    view = memoryview(buffer)
    end = min(end, len(view))
    position = start
    offsets: list[int] = []
    times: list[int] = []
    null_keys = tombstones = headers = key_bytes = value_bytes = 0
    disordered = -1
    for _ in range(count):
        fields = _parse_record(view, position, end)
        if disordered < 0 and (fields.offset_delta <= offsets[-1] if offsets else fields.offset_delta < 0):
            disordered = position
        offsets.append(fields.offset_delta)
        times.append(fields.timestamp_delta)
        null_keys += fields.key is None
        tombstones += fields.value is None
        headers += len(fields.headers)
        key_bytes += len(fields.key or b"")
        value_bytes += len(fields.value or b"")
        position = fields.end
    if position != end:
        raise _error(Flaw.BYTES_LEFT, position)
    if not offsets:
        return RecordStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1)
    return RecordStats(
        len(offsets), offsets[0], offsets[-1], min(times), max(times),
        null_keys, tombstones, headers, key_bytes, value_bytes, disordered,
    )  # fmt: skip


class _Fields:
    """The fields of one record, deltas not yet applied."""

    __slots__ = ("end", "headers", "key", "offset_delta", "timestamp_delta", "value")

    def __init__(
        self,
        timestamp_delta: int,
        offset_delta: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header],
        end: int,
    ) -> None:
        self.timestamp_delta = timestamp_delta
        self.offset_delta = offset_delta
        self.key = key
        self.value = value
        self.headers = headers
        self.end = end


def _record_start(view: memoryview, start: int, limit: int) -> tuple[int, int, int, int]:
    """The deltas of timestamp and offset, the position of the key behind them, and the end of the record."""
    if start >= limit:
        raise _error(Flaw.RECORDS_END_EARLY, start)
    length, position = _varint(view, start, limit, 5, start)
    if length < 0 or length > limit - position:
        raise _error(Flaw.RECORD_TOO_LONG, start)
    end = position + length
    position += 1  # attributes, always 0, ignored
    timestamp_delta, position = _varint(view, position, end, 10, start)
    offset_delta, position = _varint(view, position, end, 5, start)
    return timestamp_delta, offset_delta, position, end


def _parse_record(view: memoryview, start: int, limit: int) -> _Fields:
    timestamp_delta, offset_delta, position, end = _record_start(view, start, limit)
    key, position = _bytes(view, position, end, start)
    value, position = _bytes(view, position, end, start)
    count, position = _varint(view, position, end, 5, start)
    if count < 0 or count > end - position:
        raise _error(Flaw.HEADER_COUNT, start)
    headers: list[Header] = []
    for _ in range(count):
        name, position = _bytes(view, position, end, start)
        if name is None:
            raise _error(Flaw.HEADER_KEY_NULL, start)
        header_value, position = _bytes(view, position, end, start)
        headers.append((name.decode("utf-8", "surrogateescape"), header_value))
    if position != end:
        raise _error(Flaw.RECORD_SLACK, start)
    return _Fields(timestamp_delta, offset_delta, key, value, headers, end)


def _varint(view: memoryview, position: int, end: int, size_max: int, record: int) -> tuple[int, int]:
    raw = 0
    for i in range(size_max):
        if position >= end:
            raise _error(Flaw.FIELD_TOO_LONG, record)
        byte = view[position]
        position += 1
        raw |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            raw &= 0xFFFFFFFF if size_max == 5 else 0xFFFFFFFFFFFFFFFF  # bits beyond the type fall off (FORMAT §2.5)
            return (raw >> 1) ^ -(raw & 1), position
    raise _error(Flaw.VARINT_ENDLESS, record)


def _bytes(view: memoryview, position: int, end: int, record: int) -> tuple[bytes | None, int]:
    length, position = _varint(view, position, end, 5, record)
    if length < 0:
        return None, position
    if length > end - position:
        raise _error(Flaw.FIELD_TOO_LONG, record)
    return bytes(view[position : position + length]), position + length


def _error(flaw: Flaw, position: int) -> InvalidRecordError:
    return InvalidRecordError(FLAW_REASONS[flaw], position=position)


def _wrap(number: int) -> int:
    """Sixty-four bits, as Java adds."""
    return (number + 2**63) % 2**64 - 2**63


def encode_records(
    items: Sequence[Any], reserve: int, base_offset: int, base_timestamp: int | None, default_timestamp: int
) -> tuple[bytearray, int, int, int]:
    """Encode records behind `reserve` zero bytes: the buffer, last offset delta, base timestamp and max timestamp.

    An item is a tuple (key, value), (key, value, timestamp) or (key, value, timestamp, headers), numbered by its place,
    or a `Record`, which keeps its offset. Without `base_timestamp` the first record's timestamp is the base
    (FORMAT §2.4). Raises ValueError or TypeError for what cannot be written.
    """
    out = bytearray(reserve)
    previous = max_timestamp = -1
    _check_time(default_timestamp, 0)
    for index, item in enumerate(items):
        delta, timestamp, key, value, headers = _item(item, index, base_offset, default_timestamp)
        if not previous < delta <= INT32_MAX:
            raise ValueError(f"record {index}: its offset does not follow the one before, or is beyond the batch")
        _check_time(timestamp, index)
        fields = _encode_headers(headers, index)
        if base_timestamp is None:
            base_timestamp = timestamp
        body = b"\0" + _encode_varint(_wrap(timestamp - base_timestamp), 64) + _encode_varint(delta, 32)
        body += _encode_bytes(key, index, "key") + _encode_bytes(value, index, "value")
        body += _encode_varint(len(fields), 32) + b"".join(fields)
        if len(body) > INT32_MAX:
            raise ValueError(f"record {index}: larger than a record can be")
        out += _encode_varint(len(body), 32) + body
        previous, max_timestamp = delta, max(max_timestamp, timestamp)
    return out, previous, NONE if base_timestamp is None else base_timestamp, max_timestamp


def encode_plain_batch(items: Sequence[Any], default_timestamp: int) -> tuple[bytearray, int, int]:
    """Encode records as a whole uncompressed batch of no producer: the buffer, last offset delta and max timestamp.

    Base offset 0 and leader epoch -1 are for the log to fill in; the CRC covers neither. Raises ValueError for no
    records or records that bring other offsets than 0, 1, 2..., and as `encode_records`.
    """
    out, last_delta, base, newest = encode_records(items, HEADER_V2_SIZE, 0, None, default_timestamp)
    if not items:
        raise ValueError("a batch needs at least one record")
    if last_delta + 1 != len(items):
        raise ValueError("the offsets of the records do not ascend from 0 by one")
    if len(out) > INT32_MAX:
        raise ValueError(f"a batch of {len(out)} bytes is larger than Kafka's format can say")
    fields = (0, len(out) - LOG_OVERHEAD, NONE, 2, 0, 0, last_delta, base, newest, NONE, NONE, NONE, len(items))
    HEADER_V2.pack_into(out, 0, *fields)
    out[17:21] = crc32c(memoryview(out)[CRC_V2_START:]).to_bytes(4, "big")
    return out, last_delta, newest


def _item(item: Any, index: int, base_offset: int, default_timestamp: int) -> tuple[int, int, Any, Any, Any]:
    if isinstance(item, Record):
        return item.offset - base_offset, item.timestamp, item.key, item.value, item.headers
    if not isinstance(item, tuple) or not 2 <= len(item) <= 4:
        raise TypeError(f"record {index}: expected a tuple of 2 to 4 fields or a Record")
    timestamp = item[2] if len(item) > 2 else default_timestamp
    return index, timestamp, item[0], item[1], (item[3] if len(item) > 3 else None) or ()


def _check_time(timestamp: int, index: int) -> None:
    if not isinstance(timestamp, int):
        raise TypeError(f"record {index}: timestamp {timestamp!r} is no whole number")
    if not -1 <= timestamp <= 2**63 - 1:
        raise ValueError(f"record {index}: timestamp {timestamp} is negative, or beyond 64 bits")


def _encode_headers(headers: Iterable[Header], index: int) -> list[bytes]:
    fields = []
    for name, value in headers:
        if not isinstance(name, str):
            raise TypeError(f"record {index}: a header name must be text, not {type(name).__name__}")
        raw_name = name.encode("utf-8", "surrogateescape")
        fields.append(_encode_bytes(raw_name, index, "header") + _encode_bytes(value, index, "header value"))
    return fields


def _encode_varint(number: int, bits: int) -> bytes:
    raw = ((number << 1) ^ (number >> (bits - 1))) & (2**bits - 1)
    out = bytearray()
    while raw >= 0x80:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    out.append(raw)
    return bytes(out)


def _encode_bytes(data: Any, index: int, what: str) -> bytes:
    if data is None:
        return b"\x01"
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"record {index}: {what} must be bytes or None, not {type(data).__name__}")
    raw = bytes(data)
    return _encode_varint(len(raw), 32) + raw


# ---------------------------------------------------------------- lines


def format_body(
    buffer: Buffer,
    start: int,
    end: int,
    count: int,
    base_offset: int,
    base_timestamp: int,
    append_time: int | None,
    style: LineStyle,
    bytes_wanted: int,
) -> tuple[bytes, int, int]:
    """Write records as lines until `count` are done or `bytes_wanted` are there: lines, position, how many.

    Raises InvalidRecordError at the first record that is wrong; the lines before it are in its `lines` attribute, their
    number in `lines_count`.
    """
    out: list[bytes] = []
    size = done = 0
    position = start
    while done < count and size < bytes_wanted:
        try:
            records, position = decode_records(buffer, position, end, 1, base_offset, base_timestamp, append_time)
        except InvalidRecordError as error:
            error.lines, error.lines_count = b"".join(out), done  # type: ignore[attr-defined]
            raise
        out.append(_line(records[0], style))
        size += len(out[-1])
        done += 1
    return b"".join(out), position, done


def format_records(records: Sequence[Record], style: LineStyle) -> bytes:
    """Write records as lines."""
    return b"".join(_line(record, style) for record in records)


def _line(record: Record, style: LineStyle) -> bytes:
    if style.mode == LineMode.RAW:
        return (record.value or b"") + style.suffix
    if style.mode == LineMode.JSON:
        headers = b",".join(
            b"[%s,%s]" % (_json(_name(name), ByteEncoding.UTF8), _json(value, style.encoding))
            for name, value in record.headers
        )
        return b'%s%d,"timestamp":%d%s%s,"value":%s,"headers":[%s]%s' % (
            style.prefix, record.offset, record.timestamp, style.middle, _json(record.key, style.encoding),
            _json(record.value, style.encoding), headers, style.suffix,
        )  # fmt: skip
    pairs = b" ".join(
        b"%s=%s" % (_text(_name(name), ByteEncoding.UTF8), _text(value, style.encoding))
        for name, value in record.headers
    )
    fields = [b"%d" % record.offset, _time(record.timestamp), _text(record.key, style.encoding)]
    fields.append(_text(record.value, style.encoding))
    return style.prefix + b"\t".join([*fields, pairs] if pairs else fields) + style.suffix


def _name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _json(data: bytes | None, encoding: ByteEncoding) -> bytes:
    if data is None:
        return b"null"
    if encoding == ByteEncoding.BASE64:
        return b'"%s"' % base64.b64encode(data)
    if encoding == ByteEncoding.HEX:
        return b'"%s"' % binascii.hexlify(data)
    try:
        return json.dumps(data.decode(), ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return b'{"base64":"%s"}' % base64.b64encode(data)


def _text(data: bytes | None, encoding: ByteEncoding) -> bytes:
    if data is None:
        return b"null"
    if encoding == ByteEncoding.BASE64:
        return base64.b64encode(data)
    if encoding == ByteEncoding.HEX:
        return binascii.hexlify(data)
    out = []
    for char in data.decode("utf-8", "surrogateescape"):
        plain = {"\n": "\\n", "\t": "\\t", "\\": "\\\\"}.get(char)
        if plain is None and (
            char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029" or "\udc80" <= char <= "\udcff"
        ):
            plain = "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        out.append(char if plain is None else plain)
    return "".join(out).encode()


def _time(timestamp: int) -> bytes:
    if timestamp == NONE:
        return b"-"
    if not _TIME_MIN <= timestamp <= _TIME_MAX:
        return b"%d" % timestamp
    moment = _EPOCH + datetime.timedelta(milliseconds=timestamp)
    return f"{moment.isoformat(timespec='milliseconds')}Z".encode()


# ---------------------------------------------------------------- keys and partitions


def murmur2(key: Buffer) -> int:
    """Kafka's 32-bit hash of a key, signed as Java has it (CLUSTER §3). Raises TypeError for what is no bytes."""
    if not isinstance(key, (bytes, bytearray, memoryview)):
        raise TypeError(f"a key must be bytes, not {type(key).__name__}")
    data = bytes(key)
    value = _MURMUR2_SEED ^ (len(data) & 0xFFFFFFFF)
    whole = len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        word = word * _MURMUR2_FACTOR & 0xFFFFFFFF
        word = (word ^ word >> 24) * _MURMUR2_FACTOR
        value = (value * _MURMUR2_FACTOR ^ word) & 0xFFFFFFFF
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MURMUR2_FACTOR & 0xFFFFFFFF
    value = (value ^ value >> 13) * _MURMUR2_FACTOR & 0xFFFFFFFF
    value ^= value >> 15
    return value - 2**32 if value >= 2**31 else value


def partition_keys(keys: Iterable[Buffer | None], partitions: int) -> list[int]:
    """The partition of each key, as Kafka's clients choose it by murmur2; -1 where a key is None.

    The sign bit of the hash is masked off, not the absolute value taken (CLUSTER §3); an empty key is a key. Raises
    ValueError for a number of partitions that no topic has, and TypeError for what is neither bytes nor None.
    """
    if not 1 <= partitions <= INT32_MAX:
        raise ValueError(f"{partitions} partitions; a topic has 1 to {INT32_MAX}")
    chosen: list[int] = []
    for key in keys:
        if not isinstance(key, (bytes, bytearray, memoryview, type(None))):
            raise TypeError(f"key {len(chosen)}: must be bytes or None, not {type(key).__name__}")
        chosen.append(-1 if key is None else (murmur2(key) & INT32_MAX) % partitions)
    return chosen
