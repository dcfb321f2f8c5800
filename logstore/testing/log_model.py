"""A plain-Python model of one log: what `logstore.log.Log` must do, said with lists and dicts, without a file.

For tests: do the same to a log and to its model, and compare. Methods are named as those of `Log` and raise what it
raises. What a log knows and a model cannot, where segments end or how far a torn tail reaches, is told to it: after a
crash, `possible_ends` says where the log may end, and `crash` goes on from there.

    model = LogModel(config, clock=clock)
    assert log.append([(b"k", b"v")], durability="always") == model.append([(b"k", b"v")], durability="always")
    log = Log.open(directory, config, fs=fs.crash("torn"), clock=clock)
    model.crash(log.log_end_offset)
    assert list(log.records()) == model.records()

Invariants: `batches` ascend and lie below `log_end_offset`; all records below `durable_end` survive a power cut. Well
formed batches of format v2 within the limits on sizes are expected. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from logstore.clock import Clock
from logstore.config import INT64_MAX, INTERVAL_FLUSH_MS, Durability, LogConfig
from logstore.errors import (
    BatchTooLargeError,
    InvalidTimestampError,
    LogstoreError,
    OffsetOutOfRangeError,
    RecordRejectedError,
    UnexpectedOffsetError,
)
from logstore.fs import Buffer
from logstore.log import Appended, AppendOrigin, TimestampOffset
from logstore.records import (
    ControlType,
    EndTransactionMarker,
    Record,
    TimestampType,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
    set_last_offset,
    set_leader_epoch,
    set_max_timestamp,
)
from logstore.testing.producer_model import ModelBatch, ModelProducers

_MS = 1_000_000


class LogModel:
    """What a log holds and promises.

    Attributes:
        batches: those with records at or behind the log start, oldest first, markers included.
        log_start_offset, log_end_offset, leader_epoch: as of the log.
        durable_end: all records below it have been promised to survive a power cut.
        epochs: leader epochs and the offsets they begin at.
        producers: what is known of producers and their transactions.
        config: the settings it heeds: times, durability, codecs do not matter.
    """

    def __init__(
        self,
        config: LogConfig | None = None,
        *,
        clock: Clock,
        leader_epoch: int = 0,
        replicated: bool = False,
        log_start_offset: int = 0,
    ) -> None:
        self.config = config or LogConfig()
        self.leader_epoch = leader_epoch
        self.log_start_offset = self.log_end_offset = self.durable_end = log_start_offset
        self.batches: list[ModelBatch] = []
        self.epochs: list[tuple[int, int]] = []
        self.producers = ModelProducers()
        self._clock = clock
        self._watermark = log_start_offset if replicated else None
        self._appended: list[tuple[int, int]] = []  # when (monotonic ms) the log got which end, while that may be lost
        self._bases = {log_start_offset}  # where segments may begin
        self._first_base = log_start_offset  # the first segment begins here, or at or below the log start

    def __repr__(self) -> str:
        return f"<LogModel offsets {self.log_start_offset}..{self.log_end_offset} durable below {self.durable_end}>"

    def copy(self) -> LogModel:
        """A model of the same state that goes its own way, with the same clock."""
        other = LogModel(self.config, clock=self._clock, leader_epoch=self.leader_epoch)
        other.log_start_offset, other.log_end_offset = self.log_start_offset, self.log_end_offset
        other.durable_end, other._watermark = self.durable_end, self._watermark
        other.batches, other.epochs, other.producers = self.batches[:], self.epochs[:], self.producers.copy()
        other._appended, other._bases, other._first_base = self._appended[:], set(self._bases), self._first_base
        return other

    # ---- append

    def append(
        self, records: Iterable[Any], *, timestamp: int | None = None, durability: Durability | None = None
    ) -> Appended:
        """Append records as one batch of no producer, as `Log.append`."""
        default = self._clock.now_ms() if timestamp is None else timestamp
        return self.append_batch(encode_batch(records, timestamp=default), durability=durability)

    def append_later(self, records: Iterable[Any], *, timestamp: int | None = None) -> Appended:
        """Append records that nobody has waited for; hand what it returns to `wait` for `AppendFuture.result`."""
        default = self._clock.now_ms() if timestamp is None else timestamp
        return self._append(encode_batch(records, timestamp=default), AppendOrigin.CLIENT, None)

    def wait(self, appended: Appended) -> None:
        """Note that records are durable now, with all that was appended before them."""
        self.durable_end = max(self.durable_end, appended.last_offset + 1)

    def append_batch(
        self,
        data: Buffer,
        *,
        origin: AppendOrigin = AppendOrigin.CLIENT,
        leader_epoch: int | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Append encoded batches, as `Log.append_batch`; `data` stays as it is."""
        done = self._append(data, origin, leader_epoch)
        self._settle(done.last_offset + 1, durability or self.config.durability)
        return done

    def append_as_follower(self, data: Buffer, *, durability: Durability | None = None) -> Appended:
        """Append batches with their offsets, as `Log.append_as_follower`."""
        return self.append_batch(data, origin=AppendOrigin.REPLICATION, durability=durability)

    def end_transaction(
        self, producer_id: int, producer_epoch: int, *, commit: bool, coordinator_epoch: int = 0
    ) -> Appended:
        """Write a marker, as `Log.end_transaction`."""
        marker = EndTransactionMarker(ControlType.COMMIT if commit else ControlType.ABORT, coordinator_epoch)
        data = encode_end_transaction_batch(
            marker, offset=0, timestamp=self._clock.now_ms(), producer_id=producer_id, producer_epoch=producer_epoch
        )
        return self.append_batch(data, origin=AppendOrigin.COORDINATOR)

    def _append(self, data: Buffer, origin: AppendOrigin, leader_epoch: int | None) -> Appended:
        if origin.assigns_offsets:
            data = self._numbered(bytearray(data), self.leader_epoch if leader_epoch is None else leader_epoch)
        batches = [ModelBatch.of(batch) for batch in iter_batches(data)]
        if not batches:
            return Appended(-1, -1, -1)
        end = self.log_end_offset
        for batch in batches:
            if batch.base_offset < end:
                raise UnexpectedOffsetError("out of order", first_offset=batches[0].base_offset)
            end = batch.last_offset + 1
        if origin is AppendOrigin.CLIENT:
            self._check_records(batches[0])
        # A log notes the epochs first, whatever it finds of the producers then.
        for batch in batches:
            self._assign_epoch(batch.leader_epoch, batch.base_offset)
        if len(data) > self.config.segment_bytes:
            raise BatchTooLargeError("larger than a segment")
        if origin is AppendOrigin.CLIENT and (known := self.producers.find_duplicate(batches[0])) is not None:
            return Appended(known.base_offset, known.last_offset, known.max_timestamp, is_duplicate=True)
        self.producers.append(batches, origin)
        if batches[0].base_offset != (self.batches[-1].last_offset + 1 if self.batches else self.log_start_offset):
            self._bases.add(batches[0].base_offset)
        self.batches += batches
        self._set_end(end)
        return Appended(batches[0].base_offset, end - 1, max(batch.max_timestamp for batch in batches))

    def _numbered(self, data: bytearray, leader_epoch: int) -> bytearray:
        header = next(iter_batches(data)).header
        set_last_offset(data, self.log_end_offset + header.last_offset_delta)
        set_leader_epoch(data, leader_epoch)
        if self.config.message_timestamp_type == "LogAppendTime":
            set_max_timestamp(data, TimestampType.LOG_APPEND_TIME, self._clock.now_ms())
        return data

    def _check_records(self, batch: ModelBatch) -> None:
        config, now = self.config, self._clock.now_ms()
        refused: type[LogstoreError] | None = None
        for record in batch.records:
            if record.key is None and config.compacted:
                refused = refused or RecordRejectedError
            elif config.message_timestamp_type == "CreateTime" and record.timestamp != -1:
                is_old = now - record.timestamp > config.message_timestamp_before_max_ms
                if is_old or record.timestamp - now > config.message_timestamp_after_max_ms:
                    refused = InvalidTimestampError
        if refused is not None:
            raise refused("against the configuration")

    # ---- durability

    def flush(self) -> None:
        """All is durable now: also what a roll or a clean close promises."""
        self.durable_end = self.log_end_offset
        self._appended.clear()

    def roll(self) -> None:
        """Begin a segment, as `Log.roll`."""
        self.flush()
        self._bases.add(self.log_end_offset)

    def maintain(self) -> None:
        """What is due, as `Log.maintain`."""
        if self.config.durability == "interval" or self.config.flush_ms != INT64_MAX:
            self._settle_by_time()
        self.producers.expire(self._clock.now_ms(), self.config.producer_id_expiration_ms, self.log_end_offset)

    def configure(self, config: LogConfig) -> None:
        """Take other settings from now on."""
        self.config = config

    def _settle(self, end_offset: int, durability: Durability) -> None:
        """What an append promises on return."""
        if durability == "always":
            self.durable_end = max(self.durable_end, end_offset)
            return
        if durability == "interval":
            self._settle_by_time()
        # Fewer records than flush.messages are not synced.
        self.durable_end = max(self.durable_end, self.log_end_offset - self.config.flush_messages + 1)

    def _settle_by_time(self) -> None:
        """What was appended an interval ago, or earlier, has been synced since: then, or now."""
        interval = INTERVAL_FLUSH_MS if self.config.flush_ms == INT64_MAX else self.config.flush_ms
        limit = self._clock.monotonic_ns() // _MS - interval
        while self._appended and self._appended[0][0] <= limit:
            self.durable_end = max(self.durable_end, self._appended.pop(0)[1])

    def _set_end(self, offset: int) -> None:
        self.log_end_offset = offset
        self._appended.append((self._clock.monotonic_ns() // _MS, offset))
        if self._watermark is None:
            self.producers.on_high_watermark(offset)

    # ---- read

    def batches_from(self, offset: int, end_offset: int | None = None) -> list[ModelBatch]:
        """The batches from the one that holds `offset` on, those that lie below `end_offset` as a whole.

        Raises OffsetOutOfRangeError.
        """
        self._check_range(offset)
        end = self.log_end_offset if end_offset is None else end_offset
        return [batch for batch in self.batches if offset <= batch.last_offset < end]

    def records(self, offset: int | None = None, end_offset: int | None = None) -> list[Record]:
        """The records from `offset` (default: the log start) on, markers left out. Raises OffsetOutOfRangeError."""
        start = self.log_start_offset if offset is None else offset
        batches = self.batches_from(start, end_offset)
        return [one for batch in batches if batch.marker is None for one in batch.records if one.offset >= start]

    def committed_records(self, offset: int | None = None, end_offset: int | None = None) -> list[Record]:
        """The records that committed readers see below `end_offset` (default: the last stable offset)."""
        end = self.last_stable_offset if end_offset is None else end_offset
        aborted = self._aborted_offsets()
        return [one for one in self.records(offset, end) if one.offset not in aborted]

    def _aborted_offsets(self) -> set[int]:
        found: set[int] = set()
        pending: dict[int, set[int]] = {}
        for batch in self.batches:
            if batch.marker is not None:
                offsets = pending.pop(batch.producer_id, set())
                found |= offsets if batch.marker is ControlType.ABORT else set()
            elif batch.is_transactional:
                pending.setdefault(batch.producer_id, set()).update(one.offset for one in batch.records)
        return found

    def get(self, offset: int) -> Record | None:
        """The record of an offset, as `Log.get`."""
        self._check_range(offset)
        return next((one for one in self.records(offset)[:1] if one.offset == offset), None)

    def offset_for_time(self, timestamp: int) -> TimestampOffset | None:
        """The first record that is as late, markers included.

        A log may find none instead where it holds records below its start, or segments without any timestamp: it
        searches the first segment alone that may have one (LOG_SEMANTICS §7).
        """
        for batch in self.batches:
            for record in batch.records:
                if record.timestamp >= timestamp and record.offset >= self.log_start_offset:
                    return TimestampOffset(record.timestamp, record.offset, batch.leader_epoch)
        return None

    def _check_range(self, offset: int) -> None:
        if not self.log_start_offset <= offset <= self.log_end_offset:
            raise OffsetOutOfRangeError("not in the log", offset=offset)

    # ---- bounds

    @property
    def high_watermark(self) -> int:
        """Up to where all is replicated."""
        return self.log_end_offset if self._watermark is None else self._watermark

    @property
    def last_stable_offset(self) -> int:
        """Up to where committed readers go, if the log remembers all transactions; see `stable_offsets`."""
        return self.stable_offsets[0]

    @property
    def stable_offsets(self) -> tuple[int, int]:
        """The least and the greatest last stable offset that the log may have."""
        watermark = self.high_watermark
        low, high = (
            watermark if first is None else min(max(first, self.log_start_offset), watermark)
            for first in self.producers.stable_limits()
        )
        return low, high

    def set_high_watermark(self, offset: int) -> int:
        """Set it, within the log; what it became."""
        self._watermark = max(min(offset, self.log_end_offset), self.log_start_offset)
        self.producers.on_high_watermark(self._watermark)
        return self._watermark

    # ---- leader epochs

    def append_epoch(self, leader_epoch: int, start_offset: int) -> None:
        """Note that a leader's epoch begins, as `Log.append_epoch`."""
        self._assign_epoch(leader_epoch, start_offset)
        self.leader_epoch = max(self.leader_epoch, leader_epoch)

    def _assign_epoch(self, epoch: int, start: int) -> None:
        if self.epochs and self.epochs[-1][0] == epoch and self.epochs[-1][1] <= start:
            return
        while self.epochs and (self.epochs[-1][0] >= epoch or self.epochs[-1][1] >= start):
            self.epochs.pop()
        self.epochs.append((epoch, start))

    def _cut_epochs(self, start: int, end: int) -> None:
        """Forget the epochs from `end` on, and what lies before `start`."""
        self.epochs = [one for one in self.epochs if one[1] < end]
        before = [(epoch, start) for epoch, begin in self.epochs if begin <= start]
        self.epochs = before[-1:] + [one for one in self.epochs if one[1] > start]

    # ---- cut

    def truncate_to(self, offset: int) -> bool:
        """Drop the records from `offset` on, as `Log.truncate_to`."""
        if offset >= self.log_end_offset:
            self._cut_epochs(-1, self.log_end_offset)
            return False
        if self.log_start_offset <= offset < self._first_base:
            self.truncate_fully_and_start_at(offset)
            return True
        kept = [batch for batch in self.batches if batch.last_offset < offset]
        self._shorten(kept, offset, offset)
        self.durable_end = offset
        self._appended.clear()
        if offset < self.log_start_offset:
            self.log_start_offset, self._first_base = offset, min(self._first_base, offset)
            self.producers.doubt_all()
        else:
            self._reload_producers()
        if self._watermark is not None:
            self.set_high_watermark(self._watermark)
        return True

    def truncate_fully_and_start_at(self, offset: int, log_start_offset: int | None = None) -> None:
        """Drop everything and go on at `offset`, as `Log.truncate_fully_and_start_at`."""
        self.log_start_offset = offset if log_start_offset is None else log_start_offset
        self.log_end_offset = self.durable_end = self._first_base = offset
        self.batches, self.epochs, self._appended, self._bases = [], [], [], {offset}
        self.producers.clear()
        if self._watermark is not None:
            self._watermark = offset

    def advance_log_start(self, offset: int) -> bool:
        """Let the log begin at `offset`, as `Log.advance_log_start`."""
        if offset > self.high_watermark:
            raise OffsetOutOfRangeError("above the high watermark", offset=offset)
        if offset <= self.log_start_offset:
            return False
        self.log_start_offset = offset
        self.producers.on_high_watermark(offset)
        gone = [batch for batch in self.batches if batch.last_offset < offset]
        self.producers.drop(gone)
        del self.batches[: len(gone)]
        self._cut_epochs(offset, INT64_MAX)
        return True

    def delete_before_log_start(self) -> None:
        """Nothing that readers could see; how many segments go, a model cannot know."""

    def _shorten(self, batches: list[ModelBatch], end: int, base_max: int) -> None:
        self.batches, self.log_end_offset = batches, end
        self._bases = {base for base in self._bases if base <= base_max}
        self._cut_epochs(-1, end)

    def _reload_producers(self) -> None:
        now, expiration = self._clock.now_ms(), self.config.producer_id_expiration_ms
        self.producers.reload(
            self.batches,
            self.high_watermark,
            lambda batch: batch.base_offset < self.log_start_offset or now - batch.max_timestamp >= expiration,
        )

    # ---- opened again

    def possible_ends(self, durable_end: int | None = None) -> list[int]:
        """Where the log may end after a power cut, ascending: nothing durable is lost, batches go from the last on.

        `durable_end` is what is durable at least; after a clean close, or a kill of the process, the log end.
        """
        durable = self.durable_end if durable_end is None else durable_end
        kept = [batch.last_offset + 1 for batch in self.batches if batch.last_offset < durable]
        least = max([self.log_start_offset, self._first_base, *kept[-1:]])
        ends = {batch.last_offset + 1 for batch in self.batches} | self._bases | {self.log_start_offset}
        return sorted(end for end in ends if end >= least)

    def crash(self, log_end_offset: int, *, leader_epoch: int = 0) -> None:
        """Go on with what a power cut has left, as the log was opened again. Raises ValueError for what cannot be."""
        self._reopen(self.possible_ends(), log_end_offset, leader_epoch)

    def reopen(self, log_end_offset: int, *, leader_epoch: int = 0) -> None:
        """Go on after a close, or a kill of the process. Raises ValueError for what cannot be.

        The end is that of the last batch, or where an empty segment begins: lower than it was where a truncation has
        cut inside a batch.
        """
        self._reopen(self.possible_ends(self.log_end_offset), log_end_offset, leader_epoch)

    def _reopen(self, possible: list[int], end: int, leader_epoch: int) -> None:
        if end not in possible:
            raise ValueError(f"the log ends at {end}, it may end at {possible}")
        kept = [batch for batch in self.batches if batch.last_offset < end]
        self._shorten(kept, end, end)
        self.durable_end = end
        self._appended.clear()
        self.log_start_offset = max(self.log_start_offset, self._first_base)
        self._cut_epochs(self.log_start_offset, end)
        self.leader_epoch = max([leader_epoch, *(epoch for epoch, _ in self.epochs[-1:])])
        if self._watermark is not None:
            self._watermark = self.log_start_offset
        self._reload_producers()
