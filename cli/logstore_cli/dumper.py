"""What `logstore dump` does once its options are understood: writes lines, counts them, or keeps the last ones."""

from __future__ import annotations

import collections
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.inspect import (
    DumpOptions,
    Format,
    LogDirectoryFiles,
    PartitionFiles,
    Problem,
    Renderer,
    Selection,
    SingleFile,
    Target,
    context_around,
    file_rows,
    iter_partitions,
    read_context,
    select_file,
    select_partition,
)
from logstore.records import ByteEncoding, Record
from logstore_cli.options import Outcome, say


@dataclasses.dataclass(frozen=True, slots=True)
class Wish:
    """What the options ask for."""

    options: DumpOptions
    line_format: Format
    encoding: ByteEncoding
    topic: Callable[[str], bool]
    partition: int | None
    decode: bool
    with_batch: bool
    batches_only: bool
    count_only: bool
    limit: int | None
    tail: int | None
    nul: bool
    quiet: bool
    output: Path | None
    has_filters: bool


class Dumper:
    """Writes the selections of one path after the other, up to a limit, or keeps the last ones."""

    def __init__(self, wish: Wish, out: IO[bytes], outcome: Outcome) -> None:
        self._wish = wish
        self._out = out
        self._outcome = outcome
        self._left = wish.limit
        self._count = 0
        kept_max = None if wish.tail is None else min(wish.tail, sys.maxsize)
        self._tail: collections.deque[bytes | tuple[Selection, Record]] = collections.deque(maxlen=kept_max)
        self._with_identity = False
        self._columns: tuple[str, ...] = ()  # of CSV, as last written
        self.advance: Callable[[int], object] = lambda _: None
        self.renderer = Renderer(
            wish.line_format, wish.encoding, decode=wish.decode, with_batch=wish.with_batch,
            verified=wish.options.verify, raw_end=b"\0" if wish.nul else b"\n",
        )  # fmt: skip

    @property
    def is_done(self) -> bool:
        """Whether the limit is reached."""
        return self._left is not None and self._left <= 0

    def dump(self, target: Target) -> None:
        """Write what is wanted of a target. Raises OSError and LogstoreError."""
        if isinstance(target, SingleFile) and not target.holds_batches:
            self._rows(target)
            return
        if not self._wish.batches_only:
            self._header(self.renderer.columns)
        if isinstance(target, SingleFile):
            self._take_all(select_file(target, self._wish.options))
        elif isinstance(target, PartitionFiles):
            self._note_leftovers(target)
            self._take_all(select_partition(target, context_around(target.path), self._wish.options))
        else:
            self._directory(target)

    def finish(self) -> None:
        """Write what had to wait for the end."""
        if self._wish.count_only:
            count = self._count if self._wish.tail is None else min(self._count, self._wish.tail)
            text = f'{{"count":{count}}}\n' if self._wish.line_format == Format.JSON else f"{count}\n"
            self._out.write(text.encode())
            return
        for kept in self._tail:
            if isinstance(kept, bytes):
                self._out.write(kept)
            else:
                self._out.writelines(lines for lines, _ in self.renderer.some_lines(kept[0], [kept[1]]))

    def _directory(self, directory: LogDirectoryFiles) -> None:
        context = read_context(directory.path)
        self._with_identity = True
        found = False
        for partition in iter_partitions(directory, topic=self._wish.topic, partition=self._wish.partition):
            found = True
            self._note_leftovers(partition)
            with self._outcome.reported(partition.path):
                self._take_all(select_partition(partition, context, self._wish.options))
            if self.is_done:
                return
        if not self._wish.quiet:
            if not found:
                say(f"{directory.path}: no partition matches")
            if directory.set_aside:
                count = len(directory.set_aside)
                say(f"{directory.path}: {count} directories set aside were not read; name one to read it")

    def _note_leftovers(self, partition: PartitionFiles) -> None:
        if partition.leftovers and not self._wish.quiet:
            say(f"{partition.path}: {len(partition.leftovers)} leftover files were not read; name one to read it")

    def _take_all(self, selections: Iterator[Selection | Problem]) -> None:
        batches_only = self._wish.batches_only
        for found in selections:
            if isinstance(found, Problem):
                self._problem(found)
                if batches_only and found.batch is not None:
                    self._batch(found.batch, False)
            else:
                try:
                    if not batches_only:
                        self._records(found)
                    elif found.is_whole or found.holds_any():
                        self._batch(found, True)
                except LogstoreError as error:
                    self._problem(found.problem(error))
                self.advance(found.batch.header.size)
            if self._left == 0:
                return

    def _problem(self, problem: Problem) -> None:
        if problem.is_failure:
            self._outcome.has_failed = True
        elif problem.is_damage:
            self._outcome.has_damage = True
        elif self._wish.quiet:
            return
        self._out.flush()
        say(problem)

    def _batch(self, selection: Selection, is_valid: bool) -> None:
        if self._wish.count_only:
            self._counted(1)
        elif self._wish.line_format == Format.CSV:
            row = self.renderer.batch_row(selection, is_valid, with_identity=self._with_identity)
            self._header(tuple(row))
            self._line(self.renderer.row(row))
        else:
            self._line(self.renderer.batch_line(selection, is_valid, with_identity=self._with_identity))

    def _header(self, columns: tuple[str, ...]) -> None:
        """Name the columns of the CSV lines that follow, where they are others than before."""
        if self._wish.line_format == Format.CSV and not self._wish.count_only and columns != self._columns:
            self._columns = columns
            self._out.write(",".join(columns).encode() + b"\n")

    def _line(self, line: bytes) -> None:
        if self._left is not None:
            self._left -= 1
        if self._wish.tail is not None:
            self._tail.append(line)
        else:
            self._out.write(line)

    def _counted(self, count: int) -> None:
        if self._left is not None:
            count = min(count, self._left)
            self._left -= count
        self._count += count

    def _records(self, selection: Selection) -> None:
        if selection.batch.is_control and self._wish.line_format == Format.RAW:
            return  # control records have no values
        if self._wish.count_only:
            self._counted(selection.count())
        elif self._wish.tail is None and self._left is None:
            for lines, _ in self.renderer.lines(selection):
                self._out.write(lines)
        else:
            for piece in selection.record_pieces():
                self._some_records(selection, piece[: self._left])
                if self.is_done:
                    return

    def _some_records(self, selection: Selection, records: list[Record]) -> None:
        if self._left is not None:
            self._left -= len(records)
        if self._wish.tail is not None:
            kept = selection.without_bytes()
            self._tail.extend((kept, record) for record in records)
        else:
            self._out.writelines(lines for lines, _ in self.renderer.some_lines(selection, records))

    def _rows(self, file: SingleFile) -> None:
        if self._wish.has_filters:
            raise UnsupportedFormatError("filters choose records, and this file holds none", path=file.path)
        try:
            for row in file_rows(file):
                if self._wish.count_only:
                    self._counted(1)
                else:
                    self._header(tuple(row))
                    self._line(self.renderer.row(row))
                if self.is_done:
                    return
        except UnsupportedFormatError:
            raise
        except LogstoreError as error:
            self._outcome.has_damage = True
            self._out.flush()
            say(error)
