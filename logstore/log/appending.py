"""From what a caller hands in to what is written: encoded, checked, numbered, under the log's lock where it must be.

Thread-safe: encoding and checking run outside the lock, numbering and writing inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from logstore.clock import Clock
from logstore.config import INT64_MAX, LogConfig
from logstore.errors import BatchTooLargeError, InvalidTimestampError
from logstore.fs import Buffer
from logstore.log.append import analyse, number
from logstore.log.log_state import LogState
from logstore.log.origin import AppendOrigin
from logstore.log.producer_append import Guard
from logstore.log.writing import Appended, Batch, LogWriter
from logstore.records import BatchOptions, Codec, encode_batch
from logstore.records.kernel import encode_plain_batch, parse_header

_OPTIONS = {codec: BatchOptions(codec=codec) for codec in Codec}


class Encoded(NamedTuple):
    """Records as a batch that is not numbered yet.

    Attributes:
        data: it.
        delta: of its last offset; -1 where the log has to look at it as at a client's.
        max_timestamp: the largest (ms).
        now_ms: the wall clock.
    """

    data: bytearray
    delta: int
    max_timestamp: int
    now_ms: int


class Encoder:
    """Makes records a batch for a log of these settings; needs nothing else of it."""

    def __init__(self, config: LogConfig, clock: Clock) -> None:
        self._clock = clock
        self._is_plain = _is_plain(config)
        self._batch_bytes_max = config.max_message_bytes
        self._ahead_ms_max = config.message_timestamp_after_max_ms

    def __repr__(self) -> str:
        return f"<Encoder of {'plain' if self._is_plain else 'other'} batches>"

    def encode(
        self, records: Iterable[Any], timestamp: int | None, codec: Codec | None, options: BatchOptions | None = None
    ) -> Encoded:
        """Make records one batch, and check what the settings limit.

        Raises ValueError and TypeError for what is no record, BatchTooLargeError, InvalidTimestampError.
        """
        now = self._clock.now_ms()
        default = now if timestamp is None else timestamp
        items = records if isinstance(records, (list, tuple)) else list(records)
        if options is not None or not self._is_plain:
            data = encode_batch(items, timestamp=default, options=options or _OPTIONS[codec or Codec.NONE])
            return Encoded(data, -1, -1, now)
        if codec:
            data = encode_batch(items, timestamp=default, options=_OPTIONS[codec])
            delta, newest = _range_of(data, len(items))
        else:
            data, delta, newest = encode_plain_batch(items, default)
        # What is made here needs no second look: only what the settings of the log limit.
        if len(data) > self._batch_bytes_max:
            raise BatchTooLargeError(
                f"a batch of {len(data)} bytes is above max.message.bytes, {self._batch_bytes_max}"
            )
        if newest - now > self._ahead_ms_max:
            raise InvalidTimestampError(
                f"timestamp {newest} is more than message.timestamp.after.max.ms, {self._ahead_ms_max}, after {now}"
            )
        return Encoded(data, delta, newest, now)


class Appender:
    """Appends to one log."""

    def __init__(self, state: LogState, writer: LogWriter) -> None:
        self._state = state
        self._writer = writer
        self.configure(state.config)

    def __repr__(self) -> str:
        return f"<Appender of {self._state.directory}>"

    def configure(self, config: LogConfig) -> None:
        """Heed other settings. Under the lock."""
        self._encode = Encoder(config, self._state.clock).encode

    def append_records(
        self, records: Iterable[Any], timestamp: int | None, codec: Codec | None, options: BatchOptions | None = None
    ) -> Appended:
        """Append records as one batch, as `Log.append`, whatever the durability."""
        return self.append_encoded(self._encode(records, timestamp, codec, options))

    def append_encoded(self, encoded: Encoded) -> Appended:
        """Append what an `Encoder` has made, whatever the durability."""
        data, delta, newest, now = encoded
        if delta < 0:
            return self.append_batch(data, AppendOrigin.CLIENT, None, None)
        state = self._state
        with state.lock:
            if not state.is_open or state.refusal is not None:
                state.check_open()
            return self._writer.write_plain(data, delta, newest, now)

    def append_batch(
        self, data: Buffer, origin: AppendOrigin, leader_epoch: int | None, guard: Guard | None
    ) -> Appended:
        """Append encoded batches, as `Log.append_batch`, whatever the durability."""
        state = self._state
        epoch = state.leader_epoch if leader_epoch is None else leader_epoch
        analysed = analyse(data, origin, config=state.config, leader_epoch=epoch)
        if not analysed.batches:
            return Appended(-1, -1, -1)
        with state.lock:
            state.check_open()
            now = state.clock.now_ms()
            ready = number(
                analysed, origin, next_offset=state.next_offset, leader_epoch=epoch, now_ms=now, config=state.config
            )
            batch = Batch(
                ready.data, ready.first_offset, ready.last_offset,
                ready.max_timestamp, ready.offset_of_max, ready.batches,
            )  # fmt: skip
            return self._writer.write(batch, now, origin, guard, verification=state.verify_transactions)


def _range_of(data: bytearray, count: int) -> tuple[int, int]:
    """Last offset delta and largest timestamp of a batch; ValueError where its records are not 0, 1, 2..."""
    header = parse_header(data, 0, 0)
    if header.last_offset_delta + 1 != count:
        raise ValueError("the offsets of the records do not ascend from 0 by one")
    return header.last_offset_delta, header.max_timestamp


def _is_plain(config: LogConfig) -> bool:
    """Whether what `append` has encoded itself can be written without looking at its records again."""
    return (
        config.compression_type == "producer"
        and config.message_timestamp_type == "CreateTime"
        and config.message_timestamp_before_max_ms == INT64_MAX
        and not config.compacted
    )
