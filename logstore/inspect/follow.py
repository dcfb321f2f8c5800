"""Reads a partition directory on and on while somebody writes to it: each poll gives what has come since the last one.

Invariant: no byte that was passed is read again, however large the segment, and where nothing has changed a poll opens
no file. The end of the last segment may be in the making: what cannot be read there is told only once something
follows it. Read-only, takes no lock; belongs to one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from logstore.errors import LogstoreError
from logstore.inspect.dump import DumpOptions, Place, Problem, Selection
from logstore.inspect.layout import LogDirectoryContext, PartitionFiles, SegmentFiles, partition_files
from logstore.inspect.transactions import ConsumerView, Isolation, TransactionTracker, consumer_view
from logstore.log import RecordFile
from logstore.records import Damage, RecordBatch

_SETTLED_NS = 2_000_000_000  # a directory changed less than this ago may have changed again at the same time


class Follower:
    """Follows one partition directory.

    Args:
        partition: its files, as `resolve` gives them.
        context: what the log directory around it says.
        options: what is wanted; `isolation` must be given, `where` holds for each record.
    """

    def __init__(self, partition: PartitionFiles, context: LogDirectoryContext | None, options: DumpOptions) -> None:
        assert options.isolation is not None
        self._options = options
        self._partition = partition.topic_partition
        self._listing = _Listing(partition)
        view = consumer_view(partition, context, Isolation.READ_UNCOMMITTED, batch_bytes_max=options.batch_bytes_max)
        self._log_start = view.log_start_offset
        is_committed = options.isolation is Isolation.READ_COMMITTED
        self._tracker = TransactionTracker() if is_committed else None
        # Transactions are followed up to the end, records shown up to where they are decided.
        self._ahead = _Cursor(options) if is_committed else None
        self._shown = _Cursor(options, options.where.first_offset or 0)

    def __repr__(self) -> str:
        return f"<Follower of {self._listing.path} at {self._shown.next_offset}>"

    def poll(self) -> Iterator[Selection | Problem]:
        """What has come. Raises OSError where the directory is gone."""
        segments = self._listing.segments()
        if self._ahead is not None and self._tracker is not None:
            for _, found in self._ahead.walk(segments):
                if isinstance(found, RecordBatch):
                    try:
                        self._tracker.add(found)
                    except LogstoreError:
                        continue  # reading the records will report it
        limit = None if self._tracker is None else self._tracker.first_open_offset
        aborted = {} if self._tracker is None else self._tracker.aborted
        assert self._options.isolation is not None
        view = ConsumerView(self._options.isolation, self._log_start, limit, aborted)
        for segment, found in self._shown.walk(segments):
            if isinstance(found, Problem):
                yield found
            elif limit is not None and found.header.base_offset >= limit:
                return
            elif not self._options.where.skips(found) and view.shows(found):
                yield self._selection(segment, found)

    def _selection(self, segment: SegmentFiles, batch: RecordBatch) -> Selection:
        place = Place(self._partition, segment.log, self._options, self._log_start)
        whole = self._options.where.takes_whole(batch) and batch.header.base_offset >= self._log_start
        if batch.header.magic < 2:
            whole = whole and self._log_start <= segment.base_offset
        return Selection(place, batch, whole)


class _Listing:
    """The segments of a directory, listed anew when it has changed."""

    def __init__(self, partition: PartitionFiles) -> None:
        self.path: Path = partition.path
        self._segments = partition.segments
        self._modified_ns = -1

    def segments(self) -> tuple[SegmentFiles, ...]:
        modified_ns = os.stat(self.path).st_mtime_ns
        if modified_ns != self._modified_ns:
            self._segments = partition_files(self.path).segments
            is_settled = time.time_ns() - modified_ns > _SETTLED_NS
            self._modified_ns = modified_ns if is_settled else -1
        return self._segments


class _Cursor:
    """How far a log was read.

    Attributes:
        next_offset: what was passed lies below it.
    """

    def __init__(self, options: DumpOptions, first_offset: int = 0) -> None:
        self.next_offset = first_offset
        self._options = options
        self._base_offset = -1
        self._position = 0
        self._seen: tuple[int, int, bool] | None = None  # file, size and whether it was the last, read up to its end

    def walk(self, segments: tuple[SegmentFiles, ...]) -> Iterator[tuple[SegmentFiles, RecordBatch | Problem]]:
        """What lies ahead; each is passed when the next is asked for."""
        for number in range(self._start(segments), len(segments)):
            segment, is_last = segments[number], number == len(segments) - 1
            if segment.base_offset != self._base_offset:
                self._base_offset, self._position, self._seen = segment.base_offset, 0, None
            try:
                status = os.stat(segment.log)
                identity = (status.st_ino, status.st_size, is_last)
                if identity == self._seen:
                    continue
                for problem in self._check_replaced(segment, status.st_ino, status.st_size):
                    yield segment, problem
                for found in self._read(segment, is_last):
                    yield segment, found
                self._seen = identity
            except FileNotFoundError:
                message = "was deleted while it was followed"
                yield segment, Problem(segment.log, None, segment.base_offset, message, False)
            except OSError as error:
                yield segment, Problem(segment.log, None, None, error.strerror or str(error), is_failure=True)

    def _start(self, segments: tuple[SegmentFiles, ...]) -> int:
        """The number of the segment to go on with: the last one that may hold the next offset, or the one begun."""
        found = 0
        for number, segment in enumerate(segments):
            if segment.base_offset == self._base_offset:
                return number
            if segment.base_offset <= self.next_offset:
                found = number
        return found

    def _check_replaced(self, segment: SegmentFiles, file: int, size: int) -> Iterator[Problem]:
        if self._seen is not None and file != self._seen[0]:
            self._position = 0  # compacted, or cut by replacing it; what was passed is known by its offsets
        if size < self._position:
            message = "became shorter; reading goes on at its end"
            yield Problem(segment.log, size, self.next_offset, message, False)
            self._position, self.next_offset = size, segment.base_offset

    def _read(self, segment: SegmentFiles, is_last: bool) -> Iterator[RecordBatch | Problem]:
        pending: list[Problem] = []
        options = self._options
        with RecordFile(segment.log) as file:
            for found in file.batches(
                start=self._position, verify=options.verify, batch_bytes_max=options.batch_bytes_max,
                offset_min=segment.base_offset,
            ):  # fmt: skip
                if isinstance(found, Damage):
                    offset = None if found.batch is None else found.batch.header.base_offset
                    message = f"{found.reason} ({found.size} bytes)"
                    pending.append(Problem(segment.log, found.position, offset, message))
                    continue
                yield from pending
                pending.clear()
                if found.last_offset >= self.next_offset:
                    yield found
                    self.next_offset = found.next_offset
                self._position = found.header.position + found.header.size
        if not is_last:
            yield from pending
