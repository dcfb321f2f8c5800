"""Sealed segments of an open log, to be rewritten by the log cleaner, and the swap that puts new ones in their place
(CLEANER §5).

Invariant: what was read is what is replaced; where the log was cut meanwhile, it stays as it is. Readers are not
disturbed: who has an old segment reads on. Thread-safe; two must not rewrite one log at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from logstore import names
from logstore.clock import Clock
from logstore.errors import CleaningAbortedError
from logstore.log.cleaned_segment import CleanedSegment
from logstore.log.log_state import LogState
from logstore.log.producers import ProducerStateEntry
from logstore.log.reading import LogReader
from logstore.log.segment import Segment
from logstore.log.segment_view import SegmentView, view_segment
from logstore.log.transaction_index import AbortedTransaction


class SealedSegment(NamedTuple):
    """A segment that is not appended to, and the facts about it when it was looked at."""

    segment: Segment
    facts: SegmentView


class RewritingFacts(NamedTuple):
    """What a log is like at the moment before it is rewritten.

    Attributes:
        sealed: all segments but the active one, in order.
        active: the facts about that one.
        log_start_offset, last_stable_offset, high_watermark, log_end_offset, cleaner_point: the log's.
        producers: as the log knows them, by all batches up to its end.
        aborted: the aborted transactions with records in sealed segments, also where their marker lies behind these.
    """

    sealed: tuple[SealedSegment, ...]
    active: SegmentView
    log_start_offset: int
    last_stable_offset: int
    high_watermark: int
    log_end_offset: int
    cleaner_point: int | None
    producers: tuple[ProducerStateEntry, ...]
    aborted: tuple[AbortedTransaction, ...]


class LogRewriter:
    """Replaces segments of one log; `Log.rewriter`."""

    def __init__(self, state: LogState, reader: LogReader) -> None:
        self._state = state
        self._reader = reader

    def __repr__(self) -> str:
        return f"<LogRewriter of {self._state.directory}>"

    @property
    def clock(self) -> Clock:
        """The log's."""
        return self._state.clock

    def facts(self) -> RewritingFacts:
        """What there is to rewrite. Raises LogClosedError, CorruptIndexError, OSError."""
        state = self._state
        with state.lock:
            state.check_open()
            segments = tuple(state.segments)
            ends = [*(one.base_offset for one in segments[1:]), state.next_offset]
            sealed = tuple(
                SealedSegment(one, view_segment(one, end, is_active=False))
                for one, end in zip(segments[:-1], ends, strict=False)
            )
            _, aborted = self._reader.aborted_from(segments[0].base_offset)
            return RewritingFacts(
                sealed, view_segment(segments[-1], state.next_offset, is_active=True), state.log_start_offset,
                state.last_stable_offset, state.high_watermark, state.next_offset, state.hold.cleaner_point,
                state.producers.active_producers(), aborted,
            )  # fmt: skip

    def create(self, base_offset: int, size_max: int) -> CleanedSegment:
        """Begin a segment that is to take the place of others. Raises OSError."""
        state = self._state
        return CleanedSegment(state.fs, state.directory, base_offset, state.config, size_max)

    def is_intact(self, old: Sequence[SealedSegment]) -> bool:
        """Whether these segments are what they were, but for those at their begin that were deleted meanwhile."""
        with self._state.lock:
            return self._state.is_open and self._present(old) is not None

    def replace(self, new: Sequence[CleanedSegment], old: Sequence[SealedSegment]) -> None:
        """Let finished segments take the place of adjacent ones, durably; a crash leaves the old or the new.

        No new ones: the old ones just go. Of the old, those that were deleted meanwhile are left alone. The old files
        are unlinked after file.delete.delay.ms (`Log.maintain`), with the producer snapshots of bases that are no
        more. Raises CleaningAbortedError where the log was cut or closed meanwhile: nothing has changed then; and
        OSError: the log has to be opened again.
        """
        state = self._state
        with state.lock:
            state.check_open()
            present = self._present(old)
            if not present:
                raise CleaningAbortedError(
                    "the segments that were cleaned are not there any more", path=state.directory
                )
            made = [
                Segment.existing(
                    state.fs, state.directory, one.base_offset, state.config, state.maps, state.clock.now_ms(),
                    names.CLEANED_SUFFIX,
                )
                for one in new
            ]  # fmt: skip
            due = state.clock.now_ms() + state.config.file_delete_delay_ms
            with state.sync_lock, state.cutting():
                state.segments.replace(made, present, due)
                kept = {one.base_offset for one in new}
                for segment in present:
                    if segment.base_offset not in kept:
                        renamed = state.producers.remove_and_mark_for_deletion(segment.base_offset)
                        if renamed is not None:
                            state.segments.doom_file(renamed, due)

    def _present(self, old: Sequence[SealedSegment]) -> list[Segment] | None:
        """Those of the segments that the log still has; None where the log was cut in them."""
        segments = self._state.segments
        there = [segments.get(one.segment.base_offset) is one.segment for one in old]
        first = there.index(True) if True in there else len(old)
        rest = old[first:]
        is_same = all(there[first:]) and all(
            not one.segment.is_active and one.segment.size == one.facts.size for one in rest
        )
        is_last = bool(rest) and rest[-1].segment is segments.active
        return [one.segment for one in rest] if is_same and not is_last else None
