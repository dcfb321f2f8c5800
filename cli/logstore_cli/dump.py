"""`logstore dump`."""

from __future__ import annotations

import base64
import binascii
import collections
import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click

from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.inspect import (
    DumpOptions,
    Format,
    Isolation,
    LogDirectoryFiles,
    PartitionFiles,
    Problem,
    RecordFilter,
    Renderer,
    Selection,
    SingleFile,
    Target,
    file_rows,
    iter_partitions,
    read_context,
    select_file,
    select_partition,
)
from logstore.records import ByteEncoding, Record
from logstore_cli.options import (
    Outcome,
    common_options,
    parse_offsets,
    parse_time,
    progress,
    say,
    topic_matcher,
    total_bytes,
)

ENCODINGS = {"utf8": ByteEncoding.UTF8, "base64": ByteEncoding.BASE64, "hex": ByteEncoding.HEX}

EPILOG = """\b
Examples:
  logstore dump orders-3                                  every record, as text
  logstore dump --json --since 2h --key-regex '^u' orders-3
  logstore dump --batches 00000000000000000000.log        batch headers
  logstore dump 00000000000000000000.timeindex            entries of an index
  logstore dump --isolation read_committed --count DATA   what a consumer would get
"""


@click.command("dump", epilog=EPILOG)
@common_options
@click.option(
    "--format", "line_format", type=click.Choice([f.value for f in Format]), help="Shape of a line.  [default: text]"
)
@click.option(
    "--encoding", type=click.Choice(list(ENCODINGS)), default="utf8", show_default=True, help="How bytes become text."
)
@click.option("-0", "--null", "nul", is_flag=True, help="With --format raw: end values with NUL, not newline.")
@click.option("--batch", "with_batch", is_flag=True, help="Add its batch to each record.")
@click.option("--batches", "batches_only", is_flag=True, help="Batch headers instead of records.")
@click.option(
    "--decode/--no-decode", default=True, show_default=True, help="Decode the records of Kafka's internal topics."
)
@click.option(
    "--isolation",
    type=click.Choice([i.value for i in Isolation]),
    help="Only what a consumer of this isolation level gets.",
)
@click.option(
    "--offsets", type=parse_offsets, metavar="FIRST:LAST", help="These offsets, both included; either side may be open."
)
@click.option("--since", type=parse_time, metavar="TIME", help="Records from this time on.")
@click.option("--until", type=parse_time, metavar="TIME", help="Records up to this time, included.")
@click.option("--key", metavar="BYTES", help="Records with this key, written in the chosen encoding.")
@click.option("--key-regex", metavar="REGEX", help="Records whose key holds a match.")
@click.option("--value-regex", metavar="REGEX", help="Records whose value holds a match.")
@click.option("--header", metavar="NAME[=VALUE]", help="Records with this header.")
@click.option("--tombstones", is_flag=True, help="Records without a value.")
@click.option("--producer-id", type=int, metavar="N", help="Records of this producer.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Stop after N.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N.")
@click.option("--count", "count_only", is_flag=True, help="Print only how many.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Check the CRC of every batch.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write there instead of stdout.",
)
def command(**given: Any) -> int:
    """Print records in offset order, one a line.

    PATH is a segment, index, snapshot or checkpoint file, a partition directory or a log directory. Where bytes are
    damaged, stderr says what and why, and printing goes on at the next batch that can be trusted.
    """
    wish = _wish(given)
    outcome = Outcome()
    _refuse_own_input(wish.output, given["paths"])
    with _opened(wish.output) as out:
        dumper = Dumper(wish, out, outcome)
        with progress("dump", lambda: _total(given["paths"], wish), quiet=wish.quiet) as advance:
            dumper.advance = advance
            out.write(dumper.renderer.header() if not wish.batches_only and not wish.count_only else b"")
            for target in outcome.targets(given["paths"]):
                with outcome.reported(target.path):
                    dumper.dump(target)
                if dumper.is_done:
                    break
            dumper.finish()
        out.flush()
    return outcome.exit_code


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


def _wish(given: dict[str, Any]) -> Wish:
    if given["as_json"] and given["line_format"] not in (None, "json"):
        raise click.UsageError(f"--json and --format {given['line_format']} contradict each other")
    line_format = Format.JSON if given["as_json"] else Format(given["line_format"] or "text")
    if given["nul"] and line_format != Format.RAW:
        raise click.UsageError("--null goes with --format raw")
    encoding = ENCODINGS[given["encoding"]]
    where = _filter(given, encoding)
    if given["batches_only"] and where.looks_inside:
        raise click.UsageError(
            "--key, --key-regex, --value-regex, --header and --tombstones choose records, not --batches"
        )
    if given["batches_only"] and line_format in (Format.CSV, Format.RAW):
        raise click.UsageError(f"--batches cannot be printed as {line_format}; use --json")
    if given["limit"] is not None and given["tail"] is not None:
        raise click.UsageError("--limit and --tail contradict each other")
    options = DumpOptions(
        where=where,
        isolation=Isolation(given["isolation"]) if given["isolation"] else None,
        verify=given["verify"],
        batch_bytes_max=given["max_batch_bytes"],
    )
    return Wish(
        options, line_format, encoding, topic_matcher(given["topics"]), given["partition"], given["decode"],
        given["with_batch"], given["batches_only"], given["count_only"], given["limit"], given["tail"], given["nul"],
        given["quiet"], given["output"], where != RecordFilter() or options.isolation is not None,
    )  # fmt: skip


def _filter(given: dict[str, Any], encoding: ByteEncoding) -> RecordFilter:
    first, last = given["offsets"] or (None, None)
    header, has_value = None, False
    if given["header"] is not None:
        name, equals, value = given["header"].partition("=")
        has_value = bool(equals)
        header = (name, _bytes("--header", value, encoding) if has_value else None)
    return RecordFilter(
        first_offset=first,
        last_offset=last,
        since=given["since"],
        until=given["until"],
        key=None if given["key"] is None else _bytes("--key", given["key"], encoding),
        key_regex=_regex("--key-regex", given["key_regex"]),
        value_regex=_regex("--value-regex", given["value_regex"]),
        header=header,
        header_has_value=has_value,
        tombstones=given["tombstones"],
        producer_id=given["producer_id"],
    )


def _bytes(option: str, text: str, encoding: ByteEncoding) -> bytes:
    try:
        if encoding == ByteEncoding.BASE64:
            return base64.b64decode(text, validate=True)
        if encoding == ByteEncoding.HEX:
            return bytes.fromhex(text)
    except (ValueError, binascii.Error):
        raise click.BadParameter(f"{text!r} is not {encoding.name.lower()}", param_hint=option) from None
    return text.encode("utf-8", "surrogateescape")


def _regex(option: str, pattern: str | None) -> re.Pattern[bytes] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern.encode("utf-8", "surrogateescape"))
    except re.error as error:
        raise click.BadParameter(f"{pattern!r} is no regular expression: {error}", param_hint=option) from None


def _total(paths: tuple[Path, ...], wish: Wish) -> int:
    return total_bytes(list(Outcome().targets(paths)), wish.topic, wish.partition)


def _refuse_own_input(output: Path | None, paths: tuple[Path, ...]) -> None:
    """Never write into what is being read."""
    if output is None:
        return
    target = output.resolve()
    for path in paths:
        source = path.resolve()
        if target == source or source in target.parents:
            raise click.UsageError(f"--output {output} lies inside {path}, which is being read")


def _opened(output: Path | None) -> Any:
    return _Stdout() if output is None else open(output, "wb")


class _Stdout:
    """Stdout in bytes, left open."""

    def __enter__(self) -> IO[bytes]:
        return sys.stdout.buffer

    def __exit__(self, *exception: object) -> None:
        pass


class Dumper:
    """Writes the selections of one path after the other, up to a limit, or keeps the last ones."""

    def __init__(self, wish: Wish, out: IO[bytes], outcome: Outcome) -> None:
        self._wish = wish
        self._out = out
        self._outcome = outcome
        self._left = wish.limit
        self._count = 0
        self._tail: collections.deque[bytes | tuple[Selection, Record]] = collections.deque(maxlen=wish.tail)
        self._with_identity = False
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
        if isinstance(target, SingleFile):
            if target.holds_batches:
                self._take_all(select_file(target, self._wish.options))
            else:
                self._rows(target)
            return
        if isinstance(target, PartitionFiles):
            self._note_leftovers(target)
            self._take_all(select_partition(target, read_context(target.path.absolute().parent), self._wish.options))
            return
        self._directory(target)

    def finish(self) -> None:
        """Write what had to wait for the end."""
        if self._wish.count_only:
            count = self._count if self._wish.tail is None else min(self._count, self._wish.tail)
            text = f'{{"count":{count}}}\n' if self._wish.line_format == Format.JSON else f"{count}\n"
            self._out.write(text.encode())
            return
        for line in self._tail:
            self._out.write(line if isinstance(line, bytes) else self.renderer.records(line[0], [line[1]])[0])

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
        for found in selections:
            if isinstance(found, Problem):
                self._problem(found)
                if not (self._wish.batches_only and found.batch is not None):
                    continue
                self._batch(found.batch, False)
            elif self._wish.batches_only:
                self._batch(found, True)
                self.advance(found.batch.header.size)
            else:
                try:
                    self._records(found)
                except LogstoreError as error:
                    self._problem(found.problem(error))
                self.advance(found.batch.header.size)
            if self.is_done:
                return

    def _problem(self, problem: Problem) -> None:
        if problem.is_damage:
            self._outcome.has_damage = True
        elif self._wish.quiet:
            return
        self._out.flush()
        say(problem)

    def _batch(self, selection: Selection, is_valid: bool) -> None:
        if self._wish.count_only:
            self._counted(1)
        else:
            line = self.renderer.batch_line(selection, is_valid, with_identity=self._with_identity)
            self._line(line)

    def _line(self, line: bytes) -> None:
        if self._wish.tail is not None:
            self._tail.append(line)
            return
        self._out.write(line)
        if self._left is not None:
            self._left -= 1

    def _counted(self, count: int) -> None:
        if self._left is not None:
            count = min(count, self._left)
            self._left -= count
        self._count += count

    def _records(self, selection: Selection) -> None:
        if self._wish.count_only:
            self._counted(selection.count())
        elif self._wish.tail is not None:
            for piece in selection.record_pieces():
                self._tail.extend((selection, record) for record in piece)
        elif self._left is None:
            for lines, _ in self.renderer.lines(selection):
                self._out.write(lines)
        else:
            for piece in selection.record_pieces():
                lines, count = self.renderer.records(selection, piece[: self._left])
                self._out.write(lines)
                self._left -= count
                if self._left <= 0:
                    return

    def _rows(self, file: SingleFile) -> None:
        if self._wish.has_filters:
            raise UnsupportedFormatError("filters choose records, and this file holds none", path=file.path)
        try:
            for row in file_rows(file):
                if self._wish.count_only:
                    self._counted(1)
                else:
                    self._line(self.renderer.row(row))
                if self.is_done:
                    return
        except UnsupportedFormatError:
            raise
        except LogstoreError as error:
            self._outcome.has_damage = True
            self._out.flush()
            say(error)
