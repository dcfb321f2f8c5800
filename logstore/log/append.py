"""What a leader does to a batch before it is written: check it, number it, stamp it (LOG_SEMANTICS §3.2, §3.3).

Pure: it takes bytes and facts and returns bytes and facts; the caller writes.
"""

from __future__ import annotations

import dataclasses

from logstore.config import INT64_MAX, LogConfig
from logstore.errors import (
    BatchTooLargeError,
    CorruptRecordError,
    InvalidRecordError,
    RecordRejectedError,
    UnsupportedFormatError,
)
from logstore.records import (
    BATCH_BYTES_MAX,
    BatchOptions,
    Codec,
    RecordBatch,
    TimestampType,
    encode_batch,
    first_batch_size,
    iter_batches,
    set_last_offset,
    set_leader_epoch,
    set_max_timestamp,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Numbered:
    """A batch that is ready to be written."""

    data: bytearray
    first_offset: int
    last_offset: int
    max_timestamp: int


def number_batch(
    data: bytes | bytearray, *, next_offset: int, leader_epoch: int, now_ms: int, config: LogConfig
) -> Numbered:
    """Check one batch of format v2 as a leader does, and give it offsets from `next_offset` on.

    A bytearray is changed in place where nothing has to be encoded anew. Raises CorruptRecordError (size or CRC),
    InvalidRecordError (contents), RecordRejectedError (against the log's configuration), BatchTooLargeError (above
    max.message.bytes) and UnsupportedFormatError (message formats v0 and v1, producers' sequences).
    """
    batch = _only_batch(data)
    header = batch.header
    _check_size(header.size, config)
    if header.magic < 2:
        raise UnsupportedFormatError(f"batches of message format v{header.magic} are not appended")
    if batch.is_control or batch.is_transactional or batch.has_producer_id:
        raise UnsupportedFormatError("batches of idempotent and transactional producers are not appended yet")
    if header.count < 1 or header.count != header.last_offset_delta + 1:
        raise InvalidRecordError(f"a batch claims {header.count} records for {header.last_offset_delta + 1} offsets")
    stats = batch.stats(size_max=max(BATCH_BYTES_MAX, config.max_message_bytes))
    if stats.disordered >= 0 or stats.first_offset_delta != 0 or stats.last_offset_delta != header.last_offset_delta:
        raise InvalidRecordError("the offsets of the records in a batch do not ascend from 0 by one")
    if stats.null_keys and "compact" in config.cleanup_policy:
        raise RecordRejectedError(f"{stats.null_keys} records have no key, and the log is compacted")
    newest = header.base_timestamp + stats.timestamp_delta_max
    oldest = header.base_timestamp + stats.timestamp_delta_min
    if oldest < 0 and config.message_timestamp_before_max_ms < INT64_MAX:  # -1 may hide one that is too old
        oldest = min((r.timestamp for r in batch.records() if r.timestamp != -1), default=-1)
    _check_times(oldest, newest, now_ms, config)
    owned = data if isinstance(data, bytearray) else bytearray(data)
    codec = _target_codec(batch.codec, config)
    if codec != batch.codec:
        owned = _encoded_anew(batch, codec, config)
        _check_size(len(owned), config)
    if config.message_timestamp_type == "LogAppendTime":
        newest = now_ms
        set_max_timestamp(owned, TimestampType.LOG_APPEND_TIME, now_ms)
    else:
        set_max_timestamp(owned, TimestampType.CREATE_TIME, newest)
    last_offset = next_offset + header.count - 1
    set_last_offset(owned, last_offset)
    set_leader_epoch(owned, leader_epoch)
    return Numbered(owned, next_offset, last_offset, newest)


def _only_batch(data: bytes | bytearray) -> RecordBatch:
    size = first_batch_size(data)
    if size is None or size != len(data):
        raise CorruptRecordError("an append takes exactly one whole batch")
    for batch in iter_batches(data):
        return batch
    raise CorruptRecordError("an append takes exactly one whole batch")


def _check_size(size: int, config: LogConfig) -> None:
    if size > config.max_message_bytes:
        raise BatchTooLargeError(f"a batch of {size} bytes is above max.message.bytes, {config.max_message_bytes}")


def _check_times(oldest: int, newest: int, now_ms: int, config: LogConfig) -> None:
    """Timestamps too far from the clock are refused; -1, none at all, is not (LOG_SEMANTICS §3.3)."""
    if config.message_timestamp_type != "CreateTime":
        return
    if oldest != -1 and now_ms - oldest > config.message_timestamp_before_max_ms:
        raise RecordRejectedError(f"timestamp {oldest} is more than message.timestamp.before.max.ms before {now_ms}")
    if newest - now_ms > config.message_timestamp_after_max_ms:
        raise RecordRejectedError(f"timestamp {newest} is more than message.timestamp.after.max.ms after {now_ms}")


def _target_codec(source: Codec, config: LogConfig) -> Codec:
    if config.compression_type == "producer":
        return source
    return Codec.NONE if config.compression_type == "uncompressed" else Codec[config.compression_type.upper()]


def _encoded_anew(batch: RecordBatch, codec: Codec, config: LogConfig) -> bytearray:
    levels = {
        Codec.GZIP: config.compression_gzip_level,
        Codec.ZSTD: config.compression_zstd_level,
    }
    options = BatchOptions(codec=codec, level=levels.get(codec))
    return encode_batch(batch.records(), base_offset=batch.header.base_offset, options=options)
