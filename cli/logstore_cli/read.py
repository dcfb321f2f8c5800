"""`logstore read`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from logstore.errors import LogstoreError
from logstore.inspect import (
    DumpOptions,
    Follower,
    Format,
    Isolation,
    PartitionFiles,
    Problem,
    RecordFilter,
    Renderer,
    Selection,
    context_around,
    resolve,
    select_partition,
)
from logstore_cli.options import ENCODINGS, Outcome, complete_path, is_number, is_time, parse_path, parse_time, say

_POLL_SECONDS = 0.1

EPILOG = """\b
Examples:
  logstore read orders-3
  logstore read --from 2h --json orders-3
  logstore read --from end -f orders-3
  logstore read --from 2023-11-14T22:13:20Z --max 5 orders-3
"""


@click.command("read", epilog=EPILOG)
@click.argument("path", type=parse_path, shell_complete=complete_path, metavar="PARTITION_DIR")
@click.option(
    "--from", "start", default="start", show_default=True, metavar="OFFSET|TIME|start|end", help="Where to begin."
)
@click.option("--max", "limit", type=click.IntRange(min=0), metavar="N", help="Stop after N records.")
@click.option(
    "--isolation",
    type=click.Choice([i.value for i in Isolation]),
    default="read_uncommitted",
    show_default=True,
    help="What is seen of transactions.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option(
    "--encoding", type=click.Choice(list(ENCODINGS)), default="utf8", show_default=True, help="How bytes become text."
)
@click.option("-f", "--follow", is_flag=True, help="Wait for more at the end.")
def command(
    path: Path, start: str, limit: int | None, isolation: str, as_json: bool, encoding: str, follow: bool
) -> int:  # fmt: skip
    """Print records from an offset or time on, as a consumer gets them.

    A number for --from is an offset; only beyond the end of the log, and with twelve digits or more, is it a time in
    epoch milliseconds. Reads beside a process that writes; takes no lock and changes nothing.
    """
    reader = Reader(path, Isolation(isolation))
    with reader.outcome.reported(path):
        _read(reader, start, limit, Renderer(Format.JSON if as_json else Format.TEXT, ENCODINGS[encoding]), follow)
    return reader.outcome.exit_code


def _read(reader: Reader, start: str, limit: int | None, renderer: Renderer, follow: bool) -> None:
    where = RecordFilter(first_offset=reader.offset_of(start))
    left = limit
    for selections in reader.polls(where) if follow else (reader.selections(where),):
        for selection in selections if left is None or left > 0 else ():
            try:
                for piece in selection.record_pieces():
                    wanted = piece if left is None else piece[:left]
                    sys.stdout.buffer.writelines(lines for lines, _ in renderer.some_lines(selection, wanted))
                    left = None if left is None else left - len(wanted)
                    if left == 0:
                        break
            except LogstoreError as error:
                reader.report(selection.problem(error))
            if left == 0:
                break
        sys.stdout.buffer.flush()
        if left == 0:
            return


class Reader:
    """Reads a partition directory; problems are reported once each. Raises LogstoreError where it is none, OSError."""

    def __init__(self, path: Path, isolation: Isolation, outcome: Outcome | None = None) -> None:
        self._path = path
        self._isolation = isolation
        self._reported: set[str] = set()
        self.outcome = Outcome() if outcome is None else outcome

    def selections(self, where: RecordFilter) -> Iterator[Selection]:
        """What there is now."""
        partition = self._partition()
        return self._told(select_partition(partition, context_around(self._path), self._options(where)))

    def polls(self, where: RecordFilter) -> Iterator[Iterator[Selection]]:
        """What there is now, then what has come since, on and on; some time lies between two."""
        look = self.looks(where)
        while True:
            yield look()
            time.sleep(_POLL_SECONDS)

    def looks(self, where: RecordFilter) -> Callable[[], Iterator[Selection]]:
        """What gives, each time it is called, what has come since."""
        follower = Follower(self._partition(), context_around(self._path), self._options(where))
        return lambda: self._told(follower.poll())

    def offset_of(self, start: str) -> int:
        """The offset that `--from` means. Raises click.BadParameter."""
        partition = self._partition()
        if start == "start":
            return 0
        if start == "end":
            return self._end(partition)
        if is_number(start):
            is_beyond = is_time(start) and int(start) > self._end(partition)
            return self._offset_of_time(int(start)) if is_beyond else int(start)
        return self._offset_of_time(parse_time(start))

    def _offset_of_time(self, since: int) -> int:
        for selection in self.selections(RecordFilter(since=since)):
            with contextlib.suppress(LogstoreError):  # it is told when it is read
                for piece in selection.record_pieces():
                    return piece[0].offset
        return self._end(self._partition())

    def _end(self, partition: PartitionFiles) -> int:
        """The offset behind the last batch."""
        if not partition.segments:
            return 0
        end = partition.segments[-1].base_offset
        for found in select_partition(partition, None, DumpOptions(where=RecordFilter(first_offset=end))):
            if isinstance(found, Selection):
                end = found.batch.next_offset
        return end

    def _partition(self) -> PartitionFiles:
        target = resolve(self._path)
        if not isinstance(target, PartitionFiles):
            raise LogstoreError("is not a partition directory", path=self._path)
        return target

    def _options(self, where: RecordFilter) -> DumpOptions:
        return DumpOptions(where=where, isolation=self._isolation)

    def _told(self, found: Iterator[Selection | Problem]) -> Iterator[Selection]:
        for one in found:
            if isinstance(one, Selection):
                yield one
            else:
                self.report(one)

    def report(self, problem: Problem) -> None:
        """Say what could not be read, once."""
        if str(problem) not in self._reported:
            self._reported.add(str(problem))
            self.outcome.has_failed |= problem.is_failure
            self.outcome.has_damage |= problem.is_damage
            sys.stdout.buffer.flush()
            say(problem)
