"""Giving the directory of an open log another name (LOG_SEMANTICS §8.3).

Invariant: whatever remembers a path of the log is told here and nowhere else. Runs under the log's lock.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from logstore.log.log_state import LogState
from logstore.log.segment import Segment
from logstore.log.segments import Doomed


def rename_log(state: LogState, directory: Path) -> bool:
    """Rename the directory of a log, durably; whether it has another name now.

    It stays in the directory above it: another one may be on another disk, or a broker's. Raises ValueError for one
    that is not, FileExistsError, OSError.
    """
    if directory == state.directory:
        return False
    if directory.parent != state.directory.parent:
        raise ValueError(f"{state.directory} can only get another name in {state.directory.parent}, not {directory}")
    if state.fs.exists(directory):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory))
    with state.sync_lock, state.cutting():
        state.fs.rename(state.directory, directory)
        _tell(state, directory)
        state.fs.sync_directory(directory.parent)
    return True


def _tell(state: LogState, directory: Path) -> None:
    state.directory = directory
    state.hold._directory = directory
    state.epochs.path = directory / state.epochs.path.name
    state.producers.move_to(directory)
    segments = state.segments
    segments.directory = directory
    segments._doomed[:] = [
        Doomed(one.due_ms, tuple(directory / path.name for path in one.paths)) for one in segments._doomed
    ]
    for segment in segments:
        move_segment(segment, directory)
    state.maps.clear()


def move_segment(segment: Segment, directory: Path) -> None:
    """Let the files of a segment be those in another directory; touches none of them."""
    indexes = segment.indexes
    segment._directory = directory
    segment._log.path = directory / segment.path.name
    indexes.offset_path = directory / indexes.offset_path.name
    indexes.time_path = directory / indexes.time_path.name
    for index in (indexes._offset, indexes._time):
        if index is not None:
            index.path = directory / index.path.name
    transactions = segment.transaction_index
    transactions._path = directory / transactions.path.name
