"""What a leader refuses: batches that contradict themselves or the configuration of the log (LOG_SEMANTICS §3.3).

Invariant: nothing is changed here, so a batch that is refused is as its owner gave it. The walk of a kernel says
whether anything can be wrong; only then are records made into objects, to name those that fail. Pure and stateless: no
I/O, no clock, thread-safe.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from logstore.config import INT64_MAX, LogConfig
from logstore.errors import InvalidRecordError, InvalidTimestampError, RecordRejectedError
from logstore.log.origin import AppendOrigin
from logstore.records import BATCH_BYTES_MAX, Codec, Record, RecordBatch, RecordStats, TimestampType, decompress
from logstore.records.header import NONE, BatchHeader
from logstore.records.kernel import walk_batches
from logstore.records.legacy import decode_legacy

PROBLEMS_SHOWN_MAX = 3
"""How many records the message of an error names; its `record_errors` name them all."""

_LENGTH = struct.Struct(">i")
_LOG_APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x08, 0x10, 0x20  # attributes (FORMAT §2.2)


def decompressed_size_max(config: LogConfig) -> int:
    """Bytes that a batch may hold decompressed; max.message.bytes bounds only what is stored."""
    return max(BATCH_BYTES_MAX, config.max_message_bytes)


def check_set(batches: Sequence[RecordBatch], codec: Codec) -> None:
    """Refuse a set without a batch, and one of several but for plain messages of one old format.

    `codec` is the last one in the set that compresses. Raises InvalidRecordError.
    """
    if len(batches) == 1:
        return
    if not batches:
        raise InvalidRecordError("an append holds no batch")
    first = batches[0].header
    if first.magic == 2 or codec != Codec.NONE:
        what = "of format v2" if first.magic == 2 else "with a compressed one among them"
        raise invalid_batch(first, f"an append holds {len(batches)} batches {what}, where only one may be")
    for batch in batches:
        if batch.header.magic != first.magic:
            raise invalid_batch(
                batch.header, f"an append holds batches of message formats v{first.magic} and v{batch.header.magic}"
            )


def check_header(header: BatchHeader, origin: AppendOrigin) -> None:
    """Refuse what the header of a v2 batch, with a range that is not negative, must not say; raises InvalidRecordError.

    Kafka holds only clients to counts and sequences. Here coordinators are held to them too: no builder makes such a
    batch (FORMAT §2.6), and one whose range is not that of its records would tear the offsets of the log.
    """
    if header.count != header.last_offset_delta + 1:
        raise invalid_batch(header, f"a batch claims {header.count} records for {header.last_offset_delta + 1} offsets")
    is_control = header.attributes & _CONTROL
    if is_control and origin is AppendOrigin.CLIENT:
        raise invalid_batch(header, "a client sent a control batch")
    if header.producer_id == NONE:
        if header.attributes & _TRANSACTIONAL:
            raise invalid_batch(header, "a transactional batch has no producer id")
        return
    if header.producer_id < 0 or header.producer_epoch < 0:
        raise invalid_batch(header, f"no producer has id {header.producer_id} and epoch {header.producer_epoch}")
    if header.base_sequence < 0 and not is_control:
        raise invalid_batch(header, f"producer {header.producer_id} sent the base sequence {header.base_sequence}")


def check_records(batch: RecordBatch, stats: RecordStats, *, now_ms: int, config: LogConfig) -> int:
    """Refuse a v2 batch with a record that the log does not take; return the largest timestamp (ms, -1 if none).

    `stats` are those of `batch`, which holds a record at least. Raises RecordRejectedError with all records that fail,
    InvalidTimestampError if any of them fails by its timestamp.
    """
    header = batch.header
    newest = header.base_timestamp + stats.timestamp_delta_max
    if header.attributes & _LOG_APPEND_TIME or (stats.null_keys and config.compacted):
        is_doubtful = True
    elif config.message_timestamp_type == "CreateTime":
        # Where the oldest is -1, no time at all, it hides nothing: a limit that -1 is within holds for all later times.
        # What lies below 64 bits is beyond every limit.
        oldest = header.base_timestamp + stats.timestamp_delta_min
        is_doubtful = (
            now_ms - oldest > config.message_timestamp_before_max_ms
            or newest - now_ms > config.message_timestamp_after_max_ms
            or newest > INT64_MAX
        )
    else:
        is_doubtful = False
    if not is_doubtful:
        return newest if newest > NONE else NONE
    # Decoded timestamps wrap at 64 bits, as in Java; from here on they count as readers will see them.
    records = batch.records(size_max=decompressed_size_max(config))
    review = _Review(now_ms, config)
    for record in records:
        review.add(record, batch.timestamp_type)
    review.finish()
    return max(NONE, max(record.timestamp for record in records))


def check_messages(batches: Iterable[RecordBatch], *, now_ms: int, config: LogConfig) -> list[Record]:
    """Refuse messages of format v0 or v1 as `check_records` does; return the records in them, with offsets as given.

    The messages inside a compressed set are checked against their own CRCs, and must be of its format. Raises
    CorruptRecordError for such a CRC, otherwise as `check_records` and `decode_legacy`.
    """
    size_max = decompressed_size_max(config)
    found: list[Record] = []
    review = _Review(now_ms, config)
    for batch in batches:
        header = batch.header
        records = decode_legacy(batch.raw, 0, header, size_max=size_max, verify=True)
        magics = [header.magic] if batch.codec == Codec.NONE else _inner_magics(batch, size_max)
        for record, magic in zip(records, magics, strict=True):
            flaw = f"it is of message format v{magic} in a set of v{header.magic}" if magic != header.magic else None
            review.add(record, batch.timestamp_type, flaw)
        found += records
    review.finish()
    return found


def _inner_magics(batch: RecordBatch, size_max: int) -> list[int]:
    """The formats of the messages in a compressed set that `decode_legacy` has read."""
    position = 18 if batch.header.magic == 0 else 26
    (key_size,) = _LENGTH.unpack_from(batch.raw, position)
    value = batch.raw[position + 4 + max(key_size, 0) + 4 :]
    inner = decompress(batch.codec, value, size_max=size_max, magic=batch.header.magic)
    headers, _, _ = walk_batches(inner, 0, len(inner), 0, False)
    return [header.magic for header in headers]


class _Review:
    """Goes through records one by one and remembers which are refused, and why."""

    __slots__ = ("_config", "_count", "_has_time", "_now_ms", "_problems")

    def __init__(self, now_ms: int, config: LogConfig) -> None:
        self._now_ms = now_ms
        self._config = config
        self._count = 0
        self._problems: list[tuple[int, str]] = []
        self._has_time = False

    def add(self, record: Record, timestamp_type: TimestampType, flaw: str | None = None) -> None:
        """Take the next record of a batch with `timestamp_type`; `flaw` is what the caller has found wrong with it."""
        if flaw is None and record.key is None and self._config.compacted:
            flaw = "it has no key, and the log is compacted"
        if flaw is None:
            flaw = self._time_flaw(record.timestamp, timestamp_type)
            self._has_time |= flaw is not None
        if flaw is not None:
            self._problems.append((self._count, flaw))
        self._count += 1

    def finish(self) -> None:
        """Raise for all records that were refused, if any was."""
        if not self._problems:
            return
        shown = [f"record {index}: {problem}" for index, problem in self._problems[:PROBLEMS_SHOWN_MAX]]
        if len(self._problems) > PROBLEMS_SHOWN_MAX:
            shown.append(f"{len(self._problems) - PROBLEMS_SHOWN_MAX} more")
        kind = InvalidTimestampError if self._has_time else RecordRejectedError
        raise kind(
            f"{len(self._problems)} of {self._count} records are refused: {'; '.join(shown)}",
            record_errors=self._problems,
        )

    def _time_flaw(self, timestamp: int, timestamp_type: TimestampType) -> str | None:
        """Both limits are strict, and -1, no time at all, is always within them."""
        config = self._config
        if config.message_timestamp_type == "CreateTime" and timestamp != NONE:
            if self._now_ms - timestamp > config.message_timestamp_before_max_ms:
                return f"its timestamp {timestamp} is more than message.timestamp.before.max.ms before {self._now_ms}"
            if timestamp - self._now_ms > config.message_timestamp_after_max_ms:
                return f"its timestamp {timestamp} is more than message.timestamp.after.max.ms after {self._now_ms}"
        if timestamp_type == TimestampType.LOG_APPEND_TIME:
            return "its timestamp is of the type LogAppendTime, which only the log sets"
        return None


def invalid_batch(header: BatchHeader, reason: str) -> InvalidRecordError:
    """The error for a batch that contradicts itself, with the place of the batch."""
    return InvalidRecordError(reason, position=header.position, offset=header.base_offset)
