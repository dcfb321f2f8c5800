"""Makes record batches of format v2 (FORMAT §2), the only format that is written.

`encode_batch` turns records into one batch in one kernel call; `BatchBuilder` collects them one by one and knows how
large the batch would be. A builder belongs to one thread.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from logstore.checksum import crc32c
from logstore.records import kernel
from logstore.records.batch import TimestampType
from logstore.records.compression import Codec, compress
from logstore.records.control import ControlType, EndTransactionMarker, encode_end_transaction_marker, parse_control_key
from logstore.records.header import CRC_V2_START, HEADER_V2, HEADER_V2_SIZE, INT32_MAX, LOG_OVERHEAD, NONE, BatchHeader
from logstore.records.record import Header, Record

_CRC = struct.Struct(">I")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What a batch header says beyond its records.

    With `timestamp_type` LOG_APPEND_TIME every record reports `append_time` (ms since the epoch). `delete_horizon_ms`
    is the time from which tombstones in the batch may go; records keep their own timestamps. Raises ValueError for
    combinations that Kafka refuses (FORMAT §2.6).
    """

    codec: Codec = Codec.NONE
    level: int | None = None
    timestamp_type: TimestampType = TimestampType.CREATE_TIME
    append_time: int | None = None
    leader_epoch: int = NONE
    producer_id: int = NONE
    producer_epoch: int = NONE
    base_sequence: int = NONE
    is_transactional: bool = False
    is_control: bool = False
    delete_horizon_ms: int | None = None
    attributes: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.timestamp_type == TimestampType.NONE:
            raise ValueError("a batch of format v2 needs a timestamp type")
        if (self.timestamp_type == TimestampType.LOG_APPEND_TIME) != (self.append_time is not None):
            raise ValueError("append_time goes with LogAppendTime, and only with it")
        if self.is_transactional and self.producer_id == NONE:
            raise ValueError("a transactional batch needs a producer id")
        if self.producer_id != NONE and self.producer_epoch == NONE:
            raise ValueError("a producer id needs a producer epoch")
        if self.producer_id != NONE and self.base_sequence < 0 and not self.is_control:
            raise ValueError("a producer id needs a base sequence of 0 or more")
        attributes = (
            self.codec
            | 0x08 * (self.timestamp_type == TimestampType.LOG_APPEND_TIME)
            | 0x10 * self.is_transactional
            | 0x20 * self.is_control
            | 0x40 * (self.delete_horizon_ms is not None)
        )
        object.__setattr__(self, "attributes", attributes)


PLAIN = BatchOptions()


def encode_batch(
    records: Iterable[Any],
    *,
    base_offset: int = 0,
    timestamp: int = NONE,
    last_offset: int | None = None,
    options: BatchOptions = PLAIN,
) -> bytearray:
    """Encode records as one batch.

    Each is a tuple (key, value), (key, value, timestamp) or (key, value, timestamp, headers), numbered from
    `base_offset` on, or a `Record`, which keeps its own offset. `timestamp` (ms) is for tuples without one;
    `last_offset` keeps the range of a batch whose last records are gone. The result is mutable so that a leader can
    number it in place; nothing is written anywhere. Raises ValueError for no records, a batch of 2 GiB or more, and
    what a record cannot hold, TypeError for keys or values that are not bytes.
    """
    items: Sequence[Any] = records if isinstance(records, (list, tuple)) else list(records)
    if not items:
        raise ValueError("a batch needs at least one record")
    if options.is_control:
        _check_kind(items, options)
    buffer, last_delta, base_timestamp, max_timestamp = kernel.encode_records(
        items, HEADER_V2_SIZE, base_offset, options.delete_horizon_ms, timestamp
    )
    if last_offset is not None:
        if not last_delta <= last_offset - base_offset <= INT32_MAX:
            raise ValueError(f"the last offset {last_offset} is not behind the last record, or too far from the first")
        last_delta = last_offset - base_offset
    if options.codec:
        plain = memoryview(buffer)[HEADER_V2_SIZE:]
        buffer = bytearray(HEADER_V2_SIZE) + compress(options.codec, plain, level=options.level)
    if len(buffer) > INT32_MAX:
        raise ValueError(f"a batch of {len(buffer)} bytes is larger than Kafka's format can say")
    if options.append_time is not None:
        max_timestamp = options.append_time
    HEADER_V2.pack_into(
        buffer, 0, base_offset, len(buffer) - LOG_OVERHEAD, options.leader_epoch, 2, 0, options.attributes, last_delta,
        base_timestamp, max_timestamp, options.producer_id, options.producer_epoch, options.base_sequence, len(items),
    )  # fmt: skip
    _write_crc(buffer, 0, len(buffer))
    return buffer


def encode_empty_batch(header: BatchHeader) -> bytearray:
    """The batch without records that remembers a producer's last sequence after compaction (FORMAT §2.8)."""
    buffer = bytearray(HEADER_V2_SIZE)
    attributes = header.attributes & 0x38  # neither codec nor delete horizon
    write_header(buffer, 0, header._replace(size=HEADER_V2_SIZE, attributes=attributes, base_timestamp=NONE, count=0))
    return buffer


def encode_end_transaction_batch(
    marker: EndTransactionMarker,
    *,
    offset: int,
    timestamp: int,
    producer_id: int,
    producer_epoch: int,
    leader_epoch: int = NONE,
) -> bytearray:
    """The control batch that ends a transaction: one record, 78 bytes (FORMAT §2.9)."""
    key, value = encode_end_transaction_marker(marker)
    options = BatchOptions(
        is_transactional=True,
        is_control=True,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        leader_epoch=leader_epoch,
    )
    return encode_batch([(key, value, timestamp)], base_offset=offset, options=options)


def write_header(buffer: bytearray, start: int, header: BatchHeader) -> None:
    """Write a v2 header over the first 61 bytes of the batch at `start`, with the CRC of what is there then."""
    end = start + header.size
    fields = (header.base_offset, header.size - LOG_OVERHEAD, header.leader_epoch, 2, 0, *header[6:])
    HEADER_V2.pack_into(buffer, start, *fields)
    _write_crc(buffer, start, end)


def _write_crc(buffer: bytearray, start: int, end: int) -> None:
    _CRC.pack_into(buffer, start + 17, crc32c(memoryview(buffer)[start + CRC_V2_START : end]))


def _check_kind(items: Sequence[Any], options: BatchOptions) -> None:
    """Control records go in control batches, markers in transactional ones, KRaft's with a leader epoch."""
    for item in items:
        control_type, _ = parse_control_key(item.key if isinstance(item, Record) else item[0])
        if control_type.ends_transaction and not options.is_transactional:
            raise ValueError("an end-transaction marker needs a transactional batch")
        if control_type >= ControlType.LEADER_CHANGE and options.leader_epoch < 0:
            raise ValueError(f"a {control_type.name} record needs a leader epoch")


class BatchBuilder:
    """Collects records for one batch.

    Args:
        base_offset: offset of the first record.
        bytes_max: write limit; `has_room_for` tells whether a record still fits. The first record always does.
        options: what the header says.
    """

    def __init__(self, *, base_offset: int = 0, bytes_max: int = INT32_MAX, options: BatchOptions = PLAIN) -> None:
        self._base_offset = base_offset
        self._bytes_max = bytes_max
        self._options = options
        self._items: list[Record] = []
        self._size = HEADER_V2_SIZE
        self._built: bytearray | None = None
        self._is_aborted = False

    def __repr__(self) -> str:
        return f"<BatchBuilder base_offset {self._base_offset} records {len(self._items)} bytes {self.estimated_size}>"

    @property
    def count(self) -> int:
        """How many records were appended."""
        return len(self._items)

    @property
    def estimated_size(self) -> int:
        """Bytes of the batch if it were built now: exact without compression, an upper bound with it."""
        return self._size if self._items else 0

    def has_room_for(self, key: bytes | None, value: bytes | None, headers: Iterable[Header] = ()) -> bool:
        """Whether a record fits under the write limit; the first one always does."""
        if self._built is not None or self._is_aborted:
            return False
        return not self._items or self._size + record_size_max(key, value, headers) <= self._bytes_max

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        timestamp: int = NONE,
        headers: Iterable[Header] = (),
        offset: int | None = None,
    ) -> int:
        """Add a record and return its offset: the next one, or the given one, which must be higher than the last.

        Raises ValueError for an offset that does not ascend and for a builder that is built or aborted.
        """
        if self._built is not None or self._is_aborted:
            raise ValueError("this builder is closed")
        following = self._items[-1].offset + 1 if self._items else self._base_offset
        offset = following if offset is None else offset
        if offset < following:
            raise ValueError(f"offset {offset} does not follow {following - 1}")
        item = Record(offset, timestamp, key, value, tuple(headers))
        base_timestamp = self._options.delete_horizon_ms
        if base_timestamp is None and self._items:
            base_timestamp = self._items[0].timestamp
        self._size += len(kernel.encode_records([item], 0, self._base_offset, base_timestamp, NONE)[0])
        self._items.append(item)
        return offset

    def build(self) -> bytearray:
        """The batch, or nothing where there are no records; the builder is closed then.

        Raises ValueError after `abort`.
        """
        if self._is_aborted:
            raise ValueError("this builder was aborted")
        if self._built is None:
            self._built = (
                encode_batch(self._items, base_offset=self._base_offset, options=self._options)
                if self._items
                else bytearray()
            )
        return self._built

    def abort(self) -> None:
        """Drop all records; nothing can be appended or built any more."""
        self._items.clear()
        self._is_aborted = True


def record_size_max(key: bytes | None, value: bytes | None, headers: Iterable[Header] = ()) -> int:
    """Upper bound of the bytes one record takes: its data, and 21 bytes and length fields around it (FORMAT §2.5)."""
    size = 21 + 5 + len(key or b"") + len(value or b"")
    for name, header_value in headers:
        size += 10 + len(name.encode("utf-8", "surrogateescape")) + len(header_value or b"")
    return size
