"""What batches on disk say about producers, transactions and leader epochs (LOG_SEMANTICS §4.4, §11.1).

The batches were accepted once: they are taken as a follower takes them, without checks of sequences. One that cannot be
taken even so, such as a marker that cannot be read, ends what can be trusted. Runs under the log's lock.
"""

from __future__ import annotations

import contextlib

from logstore.errors import DamagedLogError, LogstoreError
from logstore.log.epoch_file import EpochFile
from logstore.log.index_file import RELATIVE_OFFSET_MAX
from logstore.log.leader_epochs import EpochEntry
from logstore.log.origin import AppendOrigin
from logstore.log.producer_state import DuplicateBatch, ProducerStates
from logstore.log.segment import Segment
from logstore.log.segments import Segments
from logstore.log.transaction_index import AbortedTransaction
from logstore.records import RecordBatch


class Replay:
    """Follows the batches of one segment.

    Attributes:
        aborted: the entries that the segment's transaction index should have.
        problem: why a batch could not be taken; it and all behind it were not.
        position: where that batch begins.
    """

    def __init__(self, producers: ProducerStates, epochs: EpochFile | None, segment_base_offset: int) -> None:
        self.aborted: list[AbortedTransaction] = []
        self.problem: str | None = None
        self.position = 0
        self._producers = producers
        self._epochs = epochs
        self._segment_base_offset = segment_base_offset

    def __repr__(self) -> str:
        return f"<Replay of segment {self._segment_base_offset} aborted {len(self.aborted)}>"

    @property
    def latest_epoch(self) -> int:
        """Batches of a later epoch are shown to `see`."""
        return 2**31 if self._epochs is None else self._epochs.latest_epoch

    def see(self, batch: RecordBatch) -> None:
        """Take a batch in; batches come in order."""
        if self.problem is not None:
            return
        try:
            self._take(batch)
        except LogstoreError as error:
            self.problem, self.position = error.reason, batch.header.position

    def _take(self, batch: RecordBatch) -> None:
        header = batch.header
        if header.producer_id >= 0:
            pending = self._producers.check(
                [batch], AppendOrigin.REPLICATION,
                segment_base_offset=self._segment_base_offset, position=header.position,
            )  # fmt: skip
            assert not isinstance(pending, DuplicateBatch)  # only a client's batch can be one
            for completed in self._producers.apply(pending):
                if completed.is_aborted:
                    stable = self._producers.last_stable_offset(completed)
                    self.aborted.append(
                        AbortedTransaction(completed.producer_id, completed.first_offset, completed.last_offset, stable)
                    )
                self._producers.complete(completed)
        if self._epochs is not None and header.magic == 2 and header.leader_epoch > self._epochs.latest_epoch:
            self._epochs.note(EpochEntry(header.leader_epoch, header.base_offset))


def rebuild_producers(
    segments: Segments,
    producers: ProducerStates,
    end_offset: int,
    now_ms: int,
    *,
    is_clean: bool,
    log_start_offset: int = 0,
) -> None:
    """Bring the producer state to `end_offset`: the newest snapshot below it, and the batches behind that (§4.4).

    Snapshots are taken at the bases of the last two segments that are passed and at the end. Raises OSError, and
    DamagedLogError where a segment cannot be read through.
    """
    bases = segments.bases
    points = {*bases[-2:], end_offset}
    if is_clean and not producers.snapshot_offsets:
        for point in sorted(points):
            producers.update_map_end_offset(point)
            take_snapshot(producers)
        return
    was_empty_there = producers.is_empty and producers.map_end_offset >= end_offset
    producers.truncate_and_reload(log_start_offset, end_offset, now_ms)
    latest = producers.latest_snapshot_offset
    if not is_clean and latest is not None:
        # It can be read, but who has written it may have been killed before it was on disk.
        producers.sync_snapshot(latest)
    if end_offset > producers.map_end_offset and not was_empty_there:
        for segment in segments.values(producers.map_end_offset, end_offset):
            start = max(segment.base_offset, producers.map_end_offset, log_start_offset)
            producers.update_map_end_offset(start)
            if segment.base_offset in points:
                take_snapshot(producers)
            replay_segment(segment, producers, start, end_offset)
    producers.update_map_end_offset(end_offset)
    take_snapshot(producers)


def take_snapshot(producers: ProducerStates) -> None:
    """Write a snapshot of the state, unless there is one, its content durable on return. Raises OSError.

    One whose content a crash has lost would be met late or never: what is looked for is the latest that is whole.
    """
    if producers.take_snapshot() is not None:
        producers.sync_snapshot(producers.map_end_offset)


def replay_segment(segment: Segment, producers: ProducerStates, start: int, end_offset: int) -> None:
    """Take in the batches of a segment from `start` up to `end_offset`. Raises DamagedLogError, OSError."""
    replay = Replay(producers, None, segment.base_offset)
    located = segment.locate(start, segment.size)
    position = segment.size if located is None else located.position
    while position < segment.size:
        found = segment.batches(position, segment.size)
        if not found or found[0].header.base_offset >= end_offset:
            return
        for batch in found:
            if batch.header.producer_id >= 0 and batch.header.base_offset < end_offset:
                replay.see(batch)
        if replay.problem is not None:
            raise DamagedLogError(replay.problem, path=segment.path, position=replay.position)
        position = found[-1].header.position + found[-1].header.size


def rebuild_epochs(segments: Segments, epochs: EpochFile) -> None:
    """Take the leader epochs from all batches, for a file that is missing or cannot be read. Raises OSError.

    A log that ends with a batch of an old format has none (§3.2) and is not read. Of a segment that cannot be read
    through, what lies behind the damage is left out.
    """
    if _last_magic(segments) < 2:
        return
    for segment in segments:
        position = 0
        with contextlib.suppress(DamagedLogError):
            while position < segment.size and (found := segment.batches(position, segment.size)):
                for batch in found:
                    header = batch.header
                    if header.magic == 2 and header.leader_epoch > epochs.latest_epoch:
                        epochs.note(EpochEntry(header.leader_epoch, header.base_offset))
                position = found[-1].header.position + found[-1].header.size
    epochs.save()


def _last_magic(segments: Segments) -> int:
    """The format of the last batch, -1 when there is none."""
    for segment in reversed(tuple(segments)):
        position, magic = segment.start_of(segment.base_offset + RELATIVE_OFFSET_MAX), -1
        while position < segment.size and (found := segment.batches(position, segment.size)):
            magic = found[-1].header.magic
            position = found[-1].header.position + found[-1].header.size
        if magic >= 0:
            return magic
    return -1
