"""A log as one of several processes that append to it sees it: what was there when it looked, and what came since.

Nothing is changed on disk by looking. Batches count that are whole and match their CRC; a tail that does not is one
that is being written, or whose writer has died. Only who appends, and was told where the end is, goes there without
looking (`skip_to`). Invariants: what was seen once is believed until the log is attached anew; the last stable offset
is not past a marker before the aborted transactions are known that go with it. What is seen is taken in under the lock
of the state: any number of threads may look, and read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from logstore import names
from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.errors import CorruptIndexError, DamagedLogError, LogstoreError
from logstore.fs import Buffer, FileSystem
from logstore.log.epoch_file import EpochFile
from logstore.log.log_end import LogEnd
from logstore.log.log_state import LogState
from logstore.log.maps import MapCache
from logstore.log.partition_state import PartitionFacts, PartitionHold
from logstore.log.producer_state import ProducerStates
from logstore.log.replay import Replay, replay_segment
from logstore.log.scratch_indexes import scratch_indexes, scratch_transaction_index
from logstore.log.segment import Segment
from logstore.log.segments import Segments
from logstore.names import FileKind
from logstore.records import BatchHeader, RecordBatch, first_batch_size
from logstore.records.kernel import walk_batches

_MAPS_MAX = 8  # each keeps a descriptor, and many logs are open at a time
_WINDOW_BYTES = 1 << 19
SKIPPED_MAX = 2 << 20  # bytes without an index entry: who looks for an offset among them walks over so many
_NOT_ORDERED = "the offsets of a batch do not ascend"


class Seen(NamedTuple):
    """What looking for more has found.

    Attributes:
        is_new: whether there was more.
        is_whole: whether the file ends behind a whole batch.
    """

    is_new: bool
    is_whole: bool


_NOTHING_NEW = Seen(is_new=False, is_whole=True)


class Tail:
    """The state of an attached log, and how it follows what others write; see `attach`."""

    def __init__(self, state: LogState, facts: PartitionFacts) -> None:
        self.state = state
        self._facts = facts
        self._segment = state.segments.active
        self._file = self._segment.file
        self._replay = Replay(state.producers, state.epochs, self._segment.base_offset)
        entries = self._segment.transaction_index.entries()
        self._last_marker = entries[-1].last_offset if entries else -1

    def __repr__(self) -> str:
        return f"<Tail at {self.state.next_offset} of {self.state.directory}>"

    @classmethod
    def attach(
        cls, fs: FileSystem, directory: Path, config: LogConfig, clock: Clock, hold: PartitionHold
    ) -> Tail | None:
        """Look at a log that was closed cleanly once, and may have been appended to since; None where it was not.

        Raises OSError: files may vanish while one looks without a lock. Raises DamagedLogError.
        """
        facts, maps = hold.facts(), MapCache(fs, _MAPS_MAX)
        segments, epochs = Segments(fs, directory), EpochFile(fs, directory)
        found = fs.list(directory)
        bases = sorted(_bases(found))
        if not bases or epochs.load() is not None:
            return None
        now = clock.now_ms()
        segments.load([Segment.existing(fs, directory, base, config, maps, now) for base in bases])
        if any(one.size and not _has_indexes(one.base_offset, found) for one in segments):
            return None
        producers = ProducerStates(
            fs, directory, producer_id_expiration_ms=config.producer_id_expiration_ms,
            transaction_max_timeout_ms=config.transaction_max_timeout_ms,
        )  # fmt: skip
        position = _share(fs, maps, segments.active, config)
        start = max(facts.log_start_offset, bases[0])
        producers.load_latest(start, now)
        hold.cleaner_point = facts.cleaner_point
        state = LogState(
            fs, clock, directory, config, maps, hold, segments, epochs, producers,
            leader_epoch=max(epochs.latest_epoch, 0), log_start_offset=start,
            next_offset=bases[-1] if position == 0 else 0, synced_offset=_recovery_point(facts, start),
            synced_ns=clock.monotonic_ns(),
        )  # fmt: skip
        try:
            tail = cls(state, facts)
            tail._replay_sealed()
            tail.catch_up()
            is_sound = not position or state.next_offset > 0  # else the batch that the index names is none
        except CorruptIndexError:
            is_sound = False
        except BaseException:
            _give_up(state)
            raise
        if not is_sound:
            _give_up(state)
            return None
        state.next_offset = max(state.next_offset, start)
        state.synced_offset = min(state.synced_offset, state.next_offset)
        return tail

    @property
    def is_as_closed(self) -> bool:
        """Whether it is as its last clean close has left it, ours or, where it is vouched for, a broker's."""
        facts, segment = self._facts, self._segment
        ends = (facts.clean_end, facts.recovery_point if facts.is_vouched_for else None)
        return self.state.next_offset in ends and self._file.size() == segment.size

    def detach(self) -> None:
        """Give up what is open. Who is reading finishes undisturbed."""
        _give_up(self.state)

    def _replay_sealed(self) -> None:
        """Bring the producers up to the begin of the active segment."""
        state = self.state
        base = state.segments.active.base_offset
        known = state.producers.map_end_offset
        if known < base:
            for segment in state.segments.values(known, base):
                replay_segment(segment, state.producers, max(segment.base_offset, known), base)
            state.producers.update_map_end_offset(base)

    def file_size(self) -> int:
        """Bytes in the active segment's file, whatever they are. Raises OSError."""
        return self._file.size()

    def catch_up(self) -> Seen:
        """Take in what was written since. Raises DamagedLogError for batches that cannot follow, OSError."""
        if self._file.size() == self._segment.size:
            return _NOTHING_NEW
        with self.state.lock:
            return self._follow()

    def skip_to(self, end: LogEnd) -> bool:
        """Go to the end without a look at what is before it, where nothing is lost by that; whether it was done.

        For one who has the turn, where the file is as large as the end says.
        """
        state, segment = self.state, self._segment
        with state.lock:
            more = end.size - segment.size
            if not end.plain_from <= segment.size < end.size or more + segment.bytes_since_entry > SKIPPED_MAX:
                return False
            if end.leader_epoch != state.epochs.latest_epoch:
                return False
            segment.skip(more, end.max_timestamp, end.offset_of_max)
            state.next_offset = end.next_offset
            return True

    def _follow(self) -> Seen:
        state, segment, file = self.state, self._segment, self._file
        before = segment.size
        whole = file.size()
        try:
            while segment.size < whole:
                start = segment.size
                window = file.read(start, min(_WINDOW_BYTES, whole - start))
                headers, _, _ = walk_batches(window, 0, len(window), start, True)
                if not headers:
                    window = self._large(window, start, whole)
                    headers, _, _ = walk_batches(window, 0, len(window), start, True)
                if not headers:
                    break
                self._take(headers, window, start)
        finally:
            is_new = segment.size > before
            if is_new:
                state.producers.update_map_end_offset(max(state.next_offset, state.producers.map_end_offset))
                state.after_append()
        return Seen(is_new, segment.size == whole)

    def _large(self, window: bytes, start: int, whole: int) -> bytes:
        """The batch at `start`, where it may be larger than a window."""
        try:
            needed = first_batch_size(window)
        except LogstoreError:
            return b""
        if needed is None or not len(window) < needed <= whole - start:
            return b""
        return self._file.read(start, needed)

    def _take(self, headers: list[BatchHeader], window: Buffer, start: int) -> None:
        state, segment, replay = self.state, self._segment, self._replay
        replayed, latest_epoch = state.producers.map_end_offset, replay.latest_epoch
        for header in headers:
            last = header.base_offset + header.last_offset_delta
            if last < state.next_offset or last < segment.base_offset:
                raise DamagedLogError(_NOT_ORDERED, path=segment.path, position=header.position)
            if last >= replayed and (header.producer_id >= 0 or header.leader_epoch > latest_epoch):
                replay.see(RecordBatch(header, window, header.position - start))
                latest_epoch = replay.latest_epoch
                if replay.problem is not None:
                    raise DamagedLogError(replay.problem, path=segment.path, position=header.position)
                if replay.aborted:
                    self._index_aborted()
            segment.take(header.size, last, header.max_timestamp, last)
            state.next_offset = last + 1
        state.leader_epoch = max(state.leader_epoch, latest_epoch)

    def _index_aborted(self) -> None:
        """Let committed readers leave out what the markers seen just now have aborted."""
        for one in self._replay.aborted:
            if one.last_offset > self._last_marker:  # else it was in the file already
                self._segment.transaction_index.append(one)
                self._last_marker = one.last_offset
        self._replay.aborted.clear()


def _give_up(state: LogState) -> None:
    state.is_open = False
    state.segments.active.close()
    state.maps.clear()


def _share(fs: FileSystem, maps: MapCache, segment: Segment, config: LogConfig) -> int:
    """Open the active segment up to the batch that its index names last; where that begins."""
    offset_path, time_path = segment.indexes.offset_path, segment.indexes.time_path
    transaction_path = segment.transaction_index.path
    whole = segment.size
    indexes = scratch_indexes(fs, maps, segment.base_offset, offset_path, time_path, config.segment_index_bytes)
    indexes.open()
    position = segment.start_of(indexes.last_offset_entry.offset) if whole else 0
    segment.share(indexes, scratch_transaction_index(fs, segment.base_offset, transaction_path), position)
    return position


def _bases(found: Sequence[str]) -> set[int]:
    kinds = map(names.classify_file, found)
    return {base for kind, base, suffix in kinds if kind is FileKind.LOG and suffix is None and base is not None}


def _has_indexes(base: int, found: Sequence[str]) -> bool:
    wanted = (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX)
    return all(names.segment_file_name(base, kind) in found for kind in wanted)


def _recovery_point(facts: PartitionFacts, start: int) -> int:
    return start if facts.recovery_point is None else facts.recovery_point
