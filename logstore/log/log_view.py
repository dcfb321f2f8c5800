"""What a log shows: its bounds, its records, and which offset belongs to a time. Changes nothing.

Thread-safe: any number of threads may look while others append, truncate and delete.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from logstore.config import LogConfig
from logstore.fs import Buffer
from logstore.log.batch_walk import BatchWalk, OnDamage
from logstore.log.leader_epochs import LeaderEpochs
from logstore.log.log_state import LogState
from logstore.log.offsets_by_time import TimestampOffset, max_timestamp_offset, offset_for_time
from logstore.log.producers import ProducerStateEntry
from logstore.log.reading import READ_BYTES_MAX, Bounds, FetchData, FetchIsolation, LogReader
from logstore.log.segment_view import SegmentView, view_segment
from logstore.log.validate import decompressed_size_max
from logstore.records import Record


class LogView:
    """The part of a `Log` that only looks."""

    def __init__(self, state: LogState) -> None:
        self._state = state
        self._reader = LogReader(state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.directory} offsets {self.log_start_offset}..{self.log_end_offset}>"

    # ---- what it is

    @property
    def directory(self) -> Path:
        """The partition directory."""
        return self._state.directory

    @property
    def config(self) -> LogConfig:
        """Its settings; see `configure`."""
        return self._state.config

    @property
    def log_start_offset(self) -> int:
        """The first offset that readers may ask for."""
        return self._state.log_start_offset

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._state.next_offset

    @property
    def high_watermark(self) -> int:
        """Up to where all in-sync replicas have the log; the log end, unless the log was opened as `replicated`."""
        return self._state.high_watermark

    @property
    def last_stable_offset(self) -> int:
        """Up to where no transaction is undecided, and at most the high watermark."""
        with self._state.lock:
            return self._state.last_stable_offset

    @property
    def first_unstable_offset(self) -> int | None:
        """Where the oldest transaction begins that is open, or whose end is not replicated; None if there is none."""
        with self._state.lock:
            found = self._state.first_unstable
            return None if found is None else found.offset

    @property
    def recovery_point(self) -> int:
        """Everything below it is on disk."""
        return self._state.synced_offset

    @property
    def cleaner_point(self) -> int | None:
        """Up to where the log is cleaned, and the next cleaning begins; None when nobody has said."""
        return self._state.hold.cleaner_point

    @property
    def leader_epochs(self) -> LeaderEpochs:
        """The leader epochs and where they begin."""
        return self._state.epochs.epochs

    @property
    def size(self) -> int:
        """Bytes of batches in all segments."""
        return self._state.segments.size

    @property
    def segments(self) -> tuple[SegmentView, ...]:
        """The facts about each segment, in order; the last one is active. Raises OSError."""
        state = self._state
        with state.lock:
            segments = tuple(state.segments)
            ends = [*(one.base_offset for one in segments[1:]), state.next_offset]
            last = len(segments) - 1
            return tuple(view_segment(one, ends[at], is_active=at == last) for at, one in enumerate(segments))

    @property
    def producers(self) -> tuple[ProducerStateEntry, ...]:
        """What is known of each producer: its last sequence, where its open transaction began, and so on."""
        with self._state.lock:
            return self._state.producers.active_producers()

    # ---- read

    def read(
        self, offset: int, *, bytes_max: int = READ_BYTES_MAX, isolation: FetchIsolation = FetchIsolation.LOG_END
    ) -> bytes:
        """Whole batches as stored, from the one that holds `offset` on: at least one, and more up to `bytes_max`.

        Empty at the end. The first batch may begin below `offset`. CRCs are not checked. Raises OffsetOutOfRangeError,
        DamagedLogError.
        """
        return bytes(self._reader.stretch(offset, bytes_max, isolation).data)

    def fetch(
        self,
        offset: int,
        bytes_max: int = READ_BYTES_MAX,
        *,
        isolation: FetchIsolation = FetchIsolation.LOG_END,
        at_least_one: bool = True,
    ) -> FetchData:
        """Read as a broker answers a fetch: the data may end inside a batch, and is a slice of the mapped file.

        Raises OffsetOutOfRangeError, DamagedLogError, ValueError for a negative limit. LOG_SEMANTICS §6.
        """
        return self._reader.fetch(offset, bytes_max, isolation, at_least_one=at_least_one)

    def slices(
        self,
        offset: int | None = None,
        *,
        bytes_max: int = READ_BYTES_MAX,
        isolation: FetchIsolation = FetchIsolation.LOG_END,
    ) -> Iterator[Buffer]:
        """Whole batches as `read`, one stretch after the other, of mapped files where it can: nothing is copied.

        A slice keeps its file mapped as long as it lives. CRCs are not checked. Raises as `read`.
        """
        return self._reader.slices(self.log_start_offset if offset is None else offset, bytes_max, isolation)

    def get(self, offset: int) -> Record | None:
        """The record of an offset; None where compaction or a gap has left none, and for a control record.

        Its batch's CRC is not checked. Raises OffsetOutOfRangeError, DamagedLogError, and what a batch raises that
        cannot be decoded.
        """
        return self._reader.get(offset)

    def records(
        self,
        offset: int | None = None,
        *,
        bytes_max: int = READ_BYTES_MAX,
        isolation: FetchIsolation = FetchIsolation.LOG_END,
        on_damage: OnDamage | None = None,
    ) -> Iterator[Record]:
        """The records from `offset` (default: the log start) to the end there is when each read is made.

        Every CRC is checked. With TXN_COMMITTED, records of aborted transactions are left out. Damage raises
        DamagedLogError; with `on_damage` it is told instead, and what can be trusted behind it follows. Raises
        OffsetOutOfRangeError, also when what comes next was truncated or deleted meanwhile.
        """
        start = self.log_start_offset if offset is None else offset
        return BatchWalk(self._state, self._reader, start, bytes_max, isolation, on_damage).records()

    # ---- offsets by time

    def offset_for_time(self, timestamp: int) -> TimestampOffset | None:
        """The first record whose timestamp (ms) is `timestamp` or later; None if there is none (LOG_SEMANTICS §7).

        As in Kafka, only the first segment that has one is searched, from the log start on. Raises DamagedLogError.
        """

        def find(bounds: Bounds) -> TimestampOffset | None:
            return offset_for_time(bounds, self._state.segments, timestamp, decompressed_size_max(self._state.config))

        return self._reader.steadily(find, FetchIsolation.LOG_END)

    def earliest(self) -> TimestampOffset:
        """The log start offset, and the leader epoch of its records if that is known."""
        entries = self.leader_epochs.entries
        known = entries and entries[0].start_offset <= self.log_start_offset
        return TimestampOffset(-1, self.log_start_offset, entries[0].epoch if known else -1)

    def latest(self) -> TimestampOffset:
        """The log end offset, and the latest leader epoch."""
        return TimestampOffset(-1, self.log_end_offset, self._state.epochs.latest_epoch)

    def max_timestamp(self) -> TimestampOffset | None:
        """The first record of the largest timestamp; None where no record has one. Raises DamagedLogError."""
        state = self._state
        with state.lock:
            state.check_open(for_append=False)
            return max_timestamp_offset(state.segments, decompressed_size_max(state.config))
