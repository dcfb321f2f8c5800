"""Making a log shorter: at its end (truncation, LOG_SEMANTICS §9), at its start (§8.2), and altogether (§8.3).

Everything here runs under the log's lock. The dot-file with recovery point and log start is written first, so that a
crash in the middle leaves a log that is recovered from there; segments go from the last to the first, so that what is
left has no gap. Nobody syncs while files are renamed: who needed one of them would take that for a failed sync.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from logstore import names
from logstore.errors import OffsetOutOfRangeError
from logstore.log.aside import ASIDE_SUFFIX
from logstore.log.log_state import LogState
from logstore.log.partition_state import CLEAN_CLOSE, STATE
from logstore.log.replay import rebuild_producers
from logstore.log.segment import Segment
from logstore.log.writing import LogWriter
from logstore.names import FileKind

_OWN_KINDS = {
    FileKind.LOG,
    FileKind.OFFSET_INDEX,
    FileKind.TIME_INDEX,
    FileKind.TRANSACTION_INDEX,
    FileKind.PRODUCER_SNAPSHOT,
    FileKind.LEADER_EPOCH_CHECKPOINT,
    FileKind.PARTITION_METADATA,
}


class LogCutter:
    """Shortens one log."""

    def __init__(self, state: LogState, writer: LogWriter) -> None:
        self._state = state
        self._writer = writer

    def __repr__(self) -> str:
        return f"<LogCutter of {self._state.directory}>"

    # ---- at the end

    def truncate_to(self, offset: int) -> bool:
        """Drop all records from `offset` on; whether there were any. Durable on return.

        A batch with `offset` in its middle goes as a whole. Raises ValueError for a negative offset, OSError, and
        DamagedLogError where the batch cannot be found; nothing has changed then.
        """
        state = self._state
        if offset < 0:
            raise ValueError(f"a log cannot be truncated to {offset}")
        if offset >= state.next_offset:
            state.epochs.truncate_from_end(state.next_offset)
            return False
        if state.segments.first.base_offset > offset:
            self.truncate_fully_and_start_at(offset)
            return True
        floor = state.segments.floor(offset)
        if floor is not None:
            floor.locate(offset, floor.size)  # damage shall be met before anything has changed
        with state.sync_lock, state.cutting():
            self._truncate(offset, min(offset, state.log_start_offset))
        return True

    def _truncate(self, offset: int, start: int) -> None:
        state = self._state
        unsynced = state.synced_offset
        state.synced_offset = min(unsynced, offset)
        floor, last = state.segments.floor(offset), state.segments.active
        state.hold.lower_cleaner_point(offset if floor is None else floor.base_offset)
        state.hold.write_state(self._recovery_point(offset), start)
        self._remove_from_end(state.segments.above(offset))
        active = state.segments.active
        active.truncate_to(offset, state.clock.now_ms(), was_sealed=active is not last)
        state.next_offset, state.log_start_offset = offset, start
        state.epochs.truncate_from_end(offset)
        rebuild_producers(
            state.segments, state.producers, offset, state.clock.now_ms(), is_clean=False, log_start_offset=start
        )
        state.clamp_watermark()
        for segment in state.segments.from_floor(unsynced)[:-1]:
            segment.sync_log()
        active.sync()
        state.fs.sync_directory(state.directory)
        state.synced_offset = offset

    def truncate_fully_and_start_at(self, offset: int, log_start_offset: int | None = None) -> None:
        """Drop everything and go on at `offset`. Durable on return. Raises ValueError, OSError."""
        state = self._state
        start = offset if log_start_offset is None else log_start_offset
        if not 0 <= start <= offset:
            raise ValueError(f"a log from {start} to {offset} cannot be")
        with state.sync_lock, state.cutting():
            state.synced_offset = min(state.synced_offset, offset)
            state.hold.lower_cleaner_point(offset)
            state.hold.write_state(self._recovery_point(offset), start)
            self._remove_from_end(tuple(state.segments))
            # Before there is a segment: its recovery would begin with the latest snapshot it finds.
            state.producers.truncate_fully_and_start_at(offset)
            state.fs.sync_directory(state.directory)
            self._writer.begin(offset)
            state.next_offset, state.log_start_offset = offset, start
            state.epochs.clear()
            if start < offset:
                state.producers.take_snapshot()
            if state.owner_watermark is not None:
                state.owner_watermark = offset
            state.clamp_watermark()

    def _recovery_point(self, offset: int) -> int:
        """What the dot-file may say of a log that is to end at `offset`.

        Never above the base of the segment that will be active then: its indexes are made anew after a crash.
        """
        floor = self._state.segments.floor(offset)
        return min(self._state.synced_offset, offset if floor is None else floor.base_offset)

    def _remove_from_end(self, segments: Sequence[Segment]) -> None:
        state = self._state
        due = state.clock.now_ms() + state.config.file_delete_delay_ms
        for segment in reversed(segments):
            state.segments.remove(segment.base_offset)
            state.segments.doom(segment, due)
            self._doom_snapshot(segment.base_offset, due)
            # Each for itself: else a power cut might bring back a later segment, and not the one before it.
            state.fs.sync_directory(state.directory)

    def _doom_snapshot(self, offset: int, due_ms: int) -> None:
        renamed = self._state.producers.remove_and_mark_for_deletion(offset)
        if renamed is not None:
            self._state.segments.doom_file(renamed, due_ms)

    # ---- at the start

    def advance_log_start(self, offset: int) -> bool:
        """Let readers see nothing below `offset`; whether that is new. Durable on return; no file goes yet.

        Raises ValueError for a negative offset, OffsetOutOfRangeError above the high watermark, OSError.
        """
        state = self._state
        if offset < 0:
            raise ValueError(f"a log cannot start at {offset}")
        if offset > state.high_watermark:
            raise OffsetOutOfRangeError(
                f"the log cannot start at {offset}, above the high watermark {state.high_watermark}",
                path=state.directory, offset=offset,
            )  # fmt: skip
        if offset <= state.log_start_offset:
            return False
        self._move_log_start(offset)
        return True

    def _move_log_start(self, offset: int) -> None:
        state = self._state
        with state.sync_lock:
            state.hold.write_state(self._recovery_point(state.next_offset), offset)
            # What lies below the start need not be on disk any more. The file does not say so: were it torn there, the
            # log would be taken for a damaged one.
            state.synced_offset = max(state.synced_offset, offset)
        state.log_start_offset = offset
        state.epochs.truncate_from_start(offset)
        state.producers.remove_unreplicated_below(offset)

    def delete_before_log_start(self) -> int:
        """Delete the segments wholly below the log start; how many. Their files go after file.delete.delay.ms."""
        state = self._state
        count = 0
        for _ in range(len(state.segments)):
            following = state.segments.higher(state.segments.first.base_offset)
            if following is None or following.base_offset > state.log_start_offset:
                break
            self.delete_oldest()
            count += 1
        return count

    def delete_oldest(self) -> None:
        """Delete the first segment, and let the log start behind it; where it is the only one, an empty one follows."""
        state = self._state
        segment = state.segments.first
        if len(state.segments) == 1:
            self._writer.roll(state.next_offset)
        following = state.segments.higher(segment.base_offset)
        assert following is not None
        if following.base_offset > state.log_start_offset:
            self._move_log_start(following.base_offset)
        due = state.clock.now_ms() + state.config.file_delete_delay_ms
        with state.sync_lock, state.cutting():
            state.segments.remove(segment.base_offset)
            state.segments.doom(segment, due)
            self._doom_snapshot(segment.base_offset, due)

    # ---- altogether

    def delete(self) -> list[Path]:
        """Unlink all that is the log's own, durably; what else is in the directory stays, and is returned.

        The last segment goes first, so that a crash leaves the begin of the log. Raises OSError.
        """
        state = self._state
        with state.sync_lock, state.cutting():
            for segment in reversed(tuple(state.segments)):
                state.segments.remove(segment.base_offset)
                segment.close()
            found = state.fs.list(state.directory)
            own = sorted(filter(_is_own, found), key=_deletion_order)
            # The lock goes last: once its file is gone somebody else may take it.
            for name in [*own, names.LOCK]:
                state.fs.unlink(state.directory / name, missing_ok=True)
            state.fs.sync_directory(state.directory)
        return [state.directory / name for name in found if name != names.LOCK and name not in own]


def _is_own(name: str) -> bool:
    """Whether a file in a partition directory is the log's."""
    whole = name.removesuffix(names.TEMPORARY_FILE_SUFFIX)
    is_aside = name.startswith(".") and name.endswith(ASIDE_SUFFIX)
    return is_aside or whole in (STATE, CLEAN_CLOSE) or names.classify_file(whole).kind in _OWN_KINDS


def _deletion_order(name: str) -> tuple[bool, int]:
    """Logs from the last to the first, then the rest."""
    found = names.classify_file(name)
    is_log = found.kind is FileKind.LOG and found.temporary_suffix is None
    return not is_log, -(found.base_offset or 0)
