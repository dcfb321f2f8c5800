"""Finds the batches and records that a dump shows: all of them, or those a filter or a consumer's view lets through.

Damage does not stop it: a `Problem` stands in the stream where something could not be read, and the next batch that
can be trusted follows. Read-only; one dump belongs to one thread.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from logstore import names
from logstore.errors import LogstoreError
from logstore.inspect.layout import (
    LogDirectoryContext,
    PartitionFiles,
    SegmentFiles,
    SingleFile,
    context_around,
    partition_files,
)
from logstore.inspect.tails import explain_tail
from logstore.inspect.text import printable
from logstore.inspect.transactions import ConsumerView, Isolation, consumer_view
from logstore.log import RecordFile
from logstore.names import TopicPartition
from logstore.records import BATCH_BYTES_MAX, Damage, LineStyle, Record, RecordBatch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """Which records are wanted; all conditions must hold.

    Offsets and timestamps (ms since the epoch) are inclusive at both ends. `header` is a name, or a name and a value.
    """

    first_offset: int | None = None
    last_offset: int | None = None
    since: int | None = None
    until: int | None = None
    key: bytes | None = None
    key_regex: re.Pattern[bytes] | None = None
    value_regex: re.Pattern[bytes] | None = None
    header: tuple[str, bytes | None] | None = None
    header_has_value: bool = False
    tombstones: bool = False
    producer_id: int | None = None

    @property
    def looks_inside(self) -> bool:
        """Whether keys, values or headers decide."""
        inside = (self.key, self.key_regex, self.value_regex, self.header)
        return self.tombstones or any(condition is not None for condition in inside)

    def skips(self, batch: RecordBatch) -> bool:
        """Whether no record of the batch can pass, by its header."""
        header = batch.header
        if self.looks_inside and batch.is_control:
            return True  # control records have neither key, value nor headers of a user's
        if self.producer_id is not None and header.producer_id != self.producer_id:
            return True
        if self.first_offset is not None and batch.last_offset < self.first_offset:
            return True
        if header.magic == 2 and self.last_offset is not None and header.base_offset > self.last_offset:
            return True
        return header.magic == 2 and self.since is not None and header.max_timestamp < self.since

    def takes_whole(self, batch: RecordBatch) -> bool:
        """Whether every record of the batch passes, by its header."""
        if self.looks_inside or self.since is not None or self.until is not None:
            return False
        header = batch.header
        if header.magic < 2:
            return self.first_offset is None and self.last_offset is None
        after = self.first_offset is None or header.base_offset >= self.first_offset
        return after and (self.last_offset is None or batch.last_offset <= self.last_offset)

    def takes(self, record: Record) -> bool:
        """Whether a record passes."""
        if self.first_offset is not None and record.offset < self.first_offset:
            return False
        if self.last_offset is not None and record.offset > self.last_offset:
            return False
        if self.since is not None and record.timestamp < self.since:
            return False
        if self.until is not None and record.timestamp > self.until:
            return False
        return not self.looks_inside or self._takes_content(record)

    def _takes_content(self, record: Record) -> bool:
        if self.tombstones and record.value is not None:
            return False
        if self.key is not None and record.key != self.key:
            return False
        if self.key_regex is not None and (record.key is None or not self.key_regex.search(record.key)):
            return False
        if self.value_regex is not None and (record.value is None or not self.value_regex.search(record.value)):
            return False
        if self.header is None:
            return True
        name, value = self.header
        return any(n == name and (not self.header_has_value or v == value) for n, v in record.headers)


EVERYTHING = RecordFilter()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DumpOptions:
    """What is dumped and how much is believed.

    `batch_bytes_max` caps one batch, as stored and as decompressed, in bytes.
    """

    where: RecordFilter = EVERYTHING
    isolation: Isolation | None = None
    verify: bool = True
    batch_bytes_max: int = BATCH_BYTES_MAX


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read; `is_damage` is False for what a healthy, living log may show.

    `is_failure` tells that the operating system would not let it be read. `batch` is the batch with a wrong CRC whose
    frame is whole, for those who want to look at its header.
    """

    path: Path
    position: int | None
    offset: int | None
    message: str
    is_damage: bool = True
    is_failure: bool = False
    batch: Selection | None = None

    def __str__(self) -> str:
        place = "" if self.position is None else f": position {self.position}"
        offset = "" if self.offset is None else f" (offset {self.offset})"
        return f"{self.path}{place}{offset}: {self.message}"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a batch was found and what is wanted there; `name` is the file's, `label` the partition's or a dash."""

    partition: TopicPartition | None
    path: Path
    options: DumpOptions
    log_start_offset: int = 0
    name: str = dataclasses.field(init=False)
    label: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.path.name)
        object.__setattr__(self, "label", "-" if self.partition is None else printable(str(self.partition)))


class Selection:
    """A batch of which records are wanted.

    Args:
        place: where it was found.
        batch: the batch.
        is_whole: whether all of its records are wanted.
    """

    __slots__ = ("batch", "is_whole", "place")

    def __init__(self, place: Place, batch: RecordBatch, is_whole: bool) -> None:
        self.place = place
        self.batch = batch
        self.is_whole = is_whole

    def __repr__(self) -> str:
        return f"<Selection {self.batch!r} whole {self.is_whole} of {self.place.path}>"

    def record_pieces(self) -> Iterator[list[Record]]:
        """The wanted records, in pieces. Raises LogstoreError as `RecordBatch.records`."""
        where, start = self.place.options.where, self.place.log_start_offset
        for piece in self.batch.record_pieces(size_max=self.place.options.batch_bytes_max):
            if self.is_whole:
                yield piece
            elif records := [r for r in piece if r.offset >= start and where.takes(r)]:
                yield records

    def lines(self, style: LineStyle) -> Iterator[tuple[bytes, int]]:
        """The records as lines, for a whole batch of format v2. Raises LogstoreError."""
        return self.batch.lines(style, size_max=self.place.options.batch_bytes_max)

    def without_bytes(self) -> Selection:
        """The same without the bytes around the batch, where its header says everything; for those who keep it long."""
        if self.batch.header.count < 0:
            return self
        return Selection(self.place, RecordBatch(self.batch.header, None), self.is_whole)

    def holds_any(self) -> bool:
        """Whether any record is wanted; a batch without records is, where nothing is asked of records."""
        return self.is_whole or any(self.record_pieces())

    def count(self) -> int:
        """How many records are wanted; they are walked, not just counted in the header. Raises LogstoreError."""
        if self.is_whole and self.batch.header.magic == 2:
            return self.batch.stats(size_max=self.place.options.batch_bytes_max).count
        return sum(map(len, self.record_pieces()))

    def problem(self, error: LogstoreError) -> Problem:
        """What could not be read of this batch."""
        header = self.batch.header
        return Problem(self.place.path, header.position, header.base_offset, str(_bare(error)))


def _bare(error: LogstoreError) -> LogstoreError:
    return type(error)(error.reason, remedy=error.remedy)


def select_file(file: SingleFile, options: DumpOptions) -> Iterator[Selection | Problem]:
    """The wanted batches of one file that holds batches. Raises OSError.

    A consumer's view of a segment is that of its partition; of any other file, that of the file alone.
    """
    segment = SegmentFiles(file.first_offset, file.path)
    files = PartitionFiles(file.directory, None, (segment,), (), (), (), (), {}, ())
    view = context = None
    if file.partition is not None and file.is_segment:
        files = partition_files(file.directory)
        context = context_around(file.directory)
    is_last = not files.segments or files.segments[-1].base_offset <= segment.base_offset
    if options.isolation is not None:
        yield from _unknown_start(context, file.partition)
        view = consumer_view(files, context, options.isolation, batch_bytes_max=options.batch_bytes_max)
    with RecordFile(file.path) as records:
        yield from _select(records, segment, file.partition, is_last, view, context, options)


def select_partition(
    partition: PartitionFiles, context: LogDirectoryContext | None, options: DumpOptions
) -> Iterator[Selection | Problem]:
    """The wanted batches of a partition directory, in offset order. Raises OSError where it could not be listed.

    A segment that vanishes between listing and opening is told, and no damage: brokers delete old ones. One that cannot
    be read does not keep the others from being read.
    """
    if partition.error is not None:
        raise partition.error
    where = options.where
    segments = partition.segments
    view = None
    if options.isolation is not None:
        yield from _unknown_start(context, partition.topic_partition)
        view = consumer_view(partition, context, options.isolation, batch_bytes_max=options.batch_bytes_max)
    for number, segment in enumerate(segments):
        following = segments[number + 1].base_offset if number + 1 < len(segments) else None
        if where.last_offset is not None and segment.base_offset > where.last_offset:
            return
        if where.first_offset is not None and following is not None and following <= where.first_offset:
            continue
        if view is not None and following is not None and following <= view.log_start_offset:
            continue
        try:
            with RecordFile(segment.log) as records:
                is_last = following is None
                yield from _select(records, segment, partition.topic_partition, is_last, view, context, options)
        except FileNotFoundError:
            if not segment.log.is_symlink():
                yield Problem(segment.log, None, segment.base_offset, "was deleted while the directory was read", False)
                continue
            yield Problem(segment.log, None, None, "the symbolic link leads nowhere", is_failure=True)
        except OSError as error:
            yield Problem(segment.log, None, None, error.strerror or str(error), is_failure=True)


def _unknown_start(context: LogDirectoryContext | None, partition: TopicPartition | None) -> Iterator[Problem]:
    for path, error in () if context is None else context.errors:
        if path.name == names.LOG_START_CHECKPOINT:
            reason = error.reason if isinstance(error, LogstoreError) else error.strerror
            message = f"{reason}; whether consumers of {partition} begin later than its first segment is unknown"
            yield Problem(path, None, None, message, is_failure=isinstance(error, OSError))


def _select(
    records: RecordFile,
    segment: SegmentFiles,
    partition: TopicPartition | None,
    is_last: bool,
    view: ConsumerView | None,
    context: LogDirectoryContext | None,
    options: DumpOptions,
) -> Iterator[Selection | Problem]:
    where = options.where
    log_start = 0 if view is None else view.log_start_offset
    everything = where == EVERYTHING and view is None
    place = Place(partition, segment.log, options, log_start)
    batches = records.batches(
        verify=options.verify, batch_bytes_max=options.batch_bytes_max, offset_min=segment.base_offset
    )
    for found in batches:
        if isinstance(found, Damage):
            tail = explain_tail(found, is_last, context)
            batch = found.batch
            unfit = batch is None or where.looks_inside or where.skips(batch)
            shown = None if batch is None or unfit else Selection(place, batch, True)
            message = f"{found.reason} ({found.size} bytes)" + (f"; {tail.message}" if tail else "")
            offset = None if batch is None else batch.header.base_offset
            is_damage = tail is None or tail.is_damage
            yield Problem(segment.log, found.position, offset, message, is_damage, batch=shown)
        elif everything:
            yield Selection(place, found, True)
        elif not where.skips(found) and (view is None or view.shows(found)):
            whole = where.takes_whole(found) and (view is None or found.header.base_offset >= log_start)
            if found.header.magic < 2:
                whole = whole and log_start <= segment.base_offset
            yield Selection(place, found, whole)
