"""What happens to batches before they are written: they are checked, numbered and stamped (LOG_SEMANTICS §3.2, §3.3).

`analyse` needs nothing of a log but its configuration and can run outside the log's lock; `number` needs the log end.
Invariants: what comes back are whole batches with right CRCs; what gets its offsets here is one batch of format v2, and
its records have every offset from the log end on. Pure: no I/O, no clock, no state; thread-safe as long as no two
threads share a buffer.
"""

from __future__ import annotations

import dataclasses
import struct

from logstore.checksum import crc32c
from logstore.config import INT64_MAX, LogConfig
from logstore.errors import BatchTooLargeError, CorruptRecordError, InvalidRecordError, UnexpectedOffsetError
from logstore.log.origin import AppendOrigin
from logstore.log.validate import (
    check_header,
    check_messages,
    check_records,
    check_set,
    decompressed_size_max,
    invalid_batch,
)
from logstore.records import BatchOptions, Codec, Record, RecordBatch, TimestampType, encode_batch
from logstore.records.compression import Buffer
from logstore.records.header import CRC_V2_START, LOG_OVERHEAD, NONE, BatchHeader, WalkEnd
from logstore.records.kernel import parse_header, walk_batches

# What a leader writes into a v2 header (FORMAT §2.1): from byte 0 base offset, length and leader epoch, and where the
# timestamps change, CRC, attributes and maximum timestamp. On disk; never change.
_OFFSET_TO_EPOCH = struct.Struct(">qii")
_CRC, _CRC_START = struct.Struct(">I"), 17
_ATTRIBUTES, _ATTRIBUTES_START = struct.Struct(">h"), 21
_MAX_TIMESTAMP, _MAX_TIMESTAMP_START = struct.Struct(">q"), 35

_CODEC_BITS, _LOG_APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20
_KEPT_BITS = 0x77  # rewriting the attributes clears the timestamp type and the bits that mean nothing (FORMAT §2.2)

_CLIENT, _RAFT_LEADER, _REPLICATION = AppendOrigin.CLIENT, AppendOrigin.RAFT_LEADER, AppendOrigin.REPLICATION


@dataclasses.dataclass(frozen=True, slots=True)
class Analysed:
    """The whole batches of an append, checked as far as that takes no more than the configuration.

    Attributes:
        batches: in order; none for an append of nothing.
        data: their bytes: what was given, or a view on it where a batch that is cut off follows them.
        size: bytes of `data`.
        first_offset: base offset of the first batch, -1 for message formats v0 and v1.
        last_offset: of the last batch, -1 if there is none.
        max_timestamp: the largest in the headers (ms), -1 if none has one.
        offset_of_max: last offset of the first batch with that timestamp, or -1.
        codec: of the last batch that is compressed, NONE if none is.
        is_monotonic: whether the last offsets of the batches ascend.
    """

    batches: list[RecordBatch]
    data: Buffer = dataclasses.field(repr=False)
    size: int
    first_offset: int
    last_offset: int
    max_timestamp: int
    offset_of_max: int
    codec: Codec
    is_monotonic: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Numbered:
    """Batches that are ready to be written.

    Attributes:
        data: what to write.
        batches: views on `data`; `header.position` is the place in it.
        first_offset: of the first record; -1 where messages of format v0 or v1 came with their offsets.
        last_offset: of the last record.
        max_timestamp: the largest (ms), -1 if there is none.
        offset_of_max: last offset of the first batch with that timestamp, or -1.
        log_append_time: the time (ms) that all records got; -1 where they keep their own.
        count: how many records there are, -1 where only decompression could tell.
    """

    data: Buffer = dataclasses.field(repr=False)
    batches: list[RecordBatch]
    first_offset: int
    last_offset: int
    max_timestamp: int
    offset_of_max: int
    log_append_time: int
    count: int


def analyse(data: Buffer, origin: AppendOrigin, *, config: LogConfig, leader_epoch: int = NONE) -> Analysed:
    """Walk the batches of an append, of any message format, and check them (LOG_SEMANTICS §3.2, steps 2 and 3).

    A batch that is cut off at the end is left out. `leader_epoch` is what the batches of a Raft leader must have.

    Raises CorruptRecordError (size, magic or CRC), BatchTooLargeError (above max.message.bytes; not when replicating),
    InvalidRecordError (a wrong leader epoch, a client's batch that does not begin at offset 0, a negative range),
    UnexpectedOffsetError (given offsets that do not ascend) and UnsupportedFormatError (an unknown codec).
    """
    size = len(data)
    headers, stop, status = walk_batches(data, 0, size, 0, True)
    batches: list[RecordBatch] = []
    codec = Codec.NONE
    last_offset = max_timestamp = offset_of_max = NONE
    is_monotonic = True
    for header in headers:
        _check_frame(header, origin, config, leader_epoch)
        batch = RecordBatch(header, data, header.position)
        batches.append(batch)
        previous, last_offset = last_offset, header.base_offset + header.last_offset_delta
        if not previous < last_offset < INT64_MAX:  # below it, since the log end behind it must be an offset, too
            is_monotonic = False
        if header.max_timestamp > max_timestamp:
            max_timestamp, offset_of_max = header.max_timestamp, last_offset
        if header.attributes & _CODEC_BITS:
            codec = batch.codec
    if status != WalkEnd.END:
        if status != WalkEnd.INCOMPLETE:
            if status == WalkEnd.BAD_CRC:  # what its header says comes first, as in Kafka
                _check_frame(parse_header(data, stop, stop), origin, config, leader_epoch)
            raise CorruptRecordError(f"a batch has a wrong {_WRONG[WalkEnd(status)]}", position=stop)
        data, size = memoryview(data)[:stop], stop
    first_offset = headers[0].base_offset if headers and headers[0].magic == 2 else NONE
    if not is_monotonic and not origin.assigns_offsets:
        raise UnexpectedOffsetError(
            f"the offsets of {len(batches)} batches do not ascend", first_offset=first_offset, last_offset=last_offset
        )
    return Analysed(
        batches, data, size, first_offset, last_offset, max_timestamp, offset_of_max, codec, is_monotonic
    )  # fmt: skip


_WRONG = {WalkEnd.BAD_SIZE: "size", WalkEnd.BAD_MAGIC: "magic", WalkEnd.BAD_CRC: "CRC"}


def _check_frame(header: BatchHeader, origin: AppendOrigin, config: LogConfig, leader_epoch: int) -> None:
    """Refuse what a header must not say at this origin, before its CRC says anything."""
    if origin is _RAFT_LEADER and header.leader_epoch != leader_epoch:
        raise invalid_batch(
            header, f"a batch of leader epoch {header.leader_epoch} is in an append of leader epoch {leader_epoch}"
        )
    if origin is _CLIENT and header.magic == 2 and header.base_offset != 0:
        raise invalid_batch(header, f"a client sent a batch with the base offset {header.base_offset}, not 0")
    if origin is not _REPLICATION and header.size > config.max_message_bytes:
        raise _too_large(header.size, config)
    if header.last_offset_delta < 0:
        raise invalid_batch(header, "the last offset of a batch is below its first")


def number(
    analysed: Analysed, origin: AppendOrigin, *, next_offset: int, leader_epoch: int, now_ms: int, config: LogConfig
) -> Numbered:
    """Give batches their place behind the log end, `next_offset` (LOG_SEMANTICS §3.2, step 5, and §3.3).

    Where the origin gives offsets they must not be below `next_offset`; nothing is changed. Otherwise the batches are
    validated and become one of format v2, stamped with `leader_epoch`. If its codec already is that of the log nothing
    is encoded anew: then a bytearray or a writable memoryview is changed in place (the headers in `analysed` are old
    then), and bytes are copied once. What is refused is left as it was. `now_ms` is the wall clock.

    Raises UnexpectedOffsetError (given offsets), InvalidRecordError (batches that contradict themselves),
    RecordRejectedError and InvalidTimestampError (records against the configuration), CorruptRecordError (a message in
    a compressed set), BatchTooLargeError (encoded anew, or decompressed), UnsupportedFormatError.
    """
    if not origin.assigns_offsets:
        return _with_given_offsets(analysed, next_offset, config)
    batches, source = analysed.batches, analysed.codec
    check_set(batches, source)
    batch = batches[0]
    header = batch.header
    target = _CODECS.get(config.compression_type, source)
    append_time = now_ms if config.message_timestamp_type == "LogAppendTime" else None
    if header.magic < 2:
        records = check_messages(batches, now_ms=now_ms, config=config)
    else:
        check_header(header, origin)
        size_max = decompressed_size_max(config)
        stats = batch.stats(size_max=size_max)
        newest = check_records(batch, stats, now_ms=now_ms, config=config)
        if source == target or (source == Codec.NONE and header.attributes & _CONTROL):
            if stats.disordered < 0 and stats.last_offset_delta == header.last_offset_delta:  # 0, 1, 2 and so on
                return _in_place(batch, analysed.data, newest, next_offset, leader_epoch, append_time)
            if source == Codec.NONE:
                raise invalid_batch(header, "the offsets of the records in a batch do not ascend from 0 by one")
        records = batch.records(size_max=size_max)
    return _encoded_anew(batch, records, target, next_offset, leader_epoch, append_time, config)


_CODECS = {codec.label: codec for codec in Codec} | {"uncompressed": Codec.NONE}
"""What the words of compression.type stand for; `producer` is the codec that a batch comes with."""


def _in_place(
    batch: RecordBatch, data: Buffer, newest: int, next_offset: int, leader_epoch: int, append_time: int | None
) -> Numbered:
    """Stamp the one batch that `data` is; its CRC is made anew only if its timestamp changes."""
    header = batch.header
    last_offset = _last_offset(next_offset, header.count)
    is_writable = isinstance(data, bytearray) or (isinstance(data, memoryview) and not data.readonly)
    owned = data if is_writable else bytearray(data)
    if append_time is not None:
        newest = append_time
    if append_time is not None or newest != header.max_timestamp:
        attributes = header.attributes & _KEPT_BITS | (0 if append_time is None else _LOG_APPEND_TIME)
        _ATTRIBUTES.pack_into(owned, _ATTRIBUTES_START, attributes)
        _MAX_TIMESTAMP.pack_into(owned, _MAX_TIMESTAMP_START, newest)
        _CRC.pack_into(owned, _CRC_START, crc32c(memoryview(owned)[CRC_V2_START:]))
    _OFFSET_TO_EPOCH.pack_into(owned, 0, next_offset, header.size - LOG_OVERHEAD, leader_epoch)
    return _numbered(owned, last_offset, append_time)


def _encoded_anew(
    batch: RecordBatch,
    records: list[Record],
    codec: Codec,
    next_offset: int,
    leader_epoch: int,
    append_time: int | None,
    config: LogConfig,
) -> Numbered:
    """One batch of the records, numbered one by one, with the producer of `batch`."""
    last_offset = _last_offset(next_offset, len(records))
    header = batch.header
    items = [(record.key, record.value, record.timestamp, record.headers) for record in records]
    try:
        options = BatchOptions(
            codec=codec,
            level=_level(codec, config),
            timestamp_type=TimestampType.CREATE_TIME if append_time is None else TimestampType.LOG_APPEND_TIME,
            append_time=append_time,
            leader_epoch=leader_epoch,
            producer_id=header.producer_id,
            producer_epoch=header.producer_epoch,
            base_sequence=header.base_sequence,
            is_transactional=batch.is_transactional,
            is_control=batch.is_control,
        )
        data = encode_batch(items, base_offset=next_offset, options=options)
    except ValueError as error:  # what can be read but must not be written, such as a timestamp below -1
        raise invalid_batch(header, f"a batch cannot be encoded anew: {error}") from None
    if len(data) > config.max_message_bytes:
        raise _too_large(len(data), config)
    return _numbered(data, last_offset, append_time)


def _numbered(data: Buffer, last_offset: int, append_time: int | None) -> Numbered:
    header = parse_header(data, 0, 0)
    newest = header.max_timestamp
    return Numbered(
        data,
        [RecordBatch(header, data)],
        header.base_offset,
        last_offset,
        newest,
        NONE if newest == NONE else last_offset,
        NONE if append_time is None else append_time,
        header.count,
    )


def _with_given_offsets(analysed: Analysed, next_offset: int, config: LogConfig) -> Numbered:
    """Check that the batches begin at the log end or behind it: gaps are fine."""
    batches = analysed.batches
    if not batches:
        raise InvalidRecordError("an append holds no batch")
    first = batches[0]
    first_offset = first.header.base_offset  # of a compressed set of v0 or v1 it is the last one
    if first_offset < next_offset:
        if first.header.magic < 2:
            first_offset = first.records(size_max=decompressed_size_max(config))[0].offset
        raise UnexpectedOffsetError(
            f"batches of offsets {first_offset} to {analysed.last_offset} come where the log end is {next_offset}",
            first_offset=first_offset,
            last_offset=analysed.last_offset,
        )
    counts = [batch.header.count for batch in batches]
    return Numbered(
        analysed.data,
        batches,
        analysed.first_offset,
        analysed.last_offset,
        analysed.max_timestamp,
        analysed.offset_of_max,
        NONE,
        NONE if min(counts) < 0 else sum(counts),
    )


def _last_offset(next_offset: int, count: int) -> int:
    last_offset = next_offset + count - 1
    if last_offset >= INT64_MAX:
        raise UnexpectedOffsetError(f"{count} records do not fit between the log end, {next_offset}, and {INT64_MAX}")
    return last_offset


def _level(codec: Codec, config: LogConfig) -> int | None:
    if codec == Codec.GZIP:
        return config.compression_gzip_level
    return config.compression_zstd_level if codec == Codec.ZSTD else None


def _too_large(size: int, config: LogConfig) -> BatchTooLargeError:
    return BatchTooLargeError(f"a batch of {size} bytes is above max.message.bytes, {config.max_message_bytes}")
