"""`logstore read`."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from logstore.errors import LogstoreError
from logstore.inspect import (
    DumpOptions,
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
from logstore_cli.options import ENCODINGS, Outcome, complete_path, parse_path, parse_time, say

_POLL_SECONDS = 0.1

EPILOG = """\b
Examples:
  logstore read orders-3
  logstore read --from 2h --json orders-3
  logstore read --from end -f orders-3
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

    Reads beside a process that writes; takes no lock and changes nothing.
    """
    reader = Reader(path, Isolation(isolation))
    with reader.outcome.reported(path):
        _read(reader, start, limit, Renderer(Format.JSON if as_json else Format.TEXT, ENCODINGS[encoding]), follow)
    return reader.outcome.exit_code


def _read(reader: Reader, start: str, limit: int | None, renderer: Renderer, follow: bool) -> None:
    offset = reader.offset_of(start)
    left = limit
    while left is None or left > 0:
        for selection in reader.selections(RecordFilter(first_offset=offset), is_followed=follow):
            try:
                for piece in selection.record_pieces():
                    wanted = piece if left is None else piece[:left]
                    sys.stdout.buffer.writelines(lines for lines, _ in renderer.some_lines(selection, wanted))
                    left = None if left is None else left - len(wanted)
                    if left == 0:
                        break
            except LogstoreError as error:
                reader.report(selection.problem(error))
            offset = max(offset, selection.batch.next_offset)
            if left == 0:
                break
        sys.stdout.buffer.flush()
        if not follow:
            break
        time.sleep(_POLL_SECONDS)


class Reader:
    """Reads a partition directory anew each time it is asked."""

    def __init__(self, path: Path, isolation: Isolation) -> None:
        self._path = path
        self._isolation = isolation
        self._reported: set[str] = set()
        self.outcome = Outcome()

    def selections(self, where: RecordFilter, *, is_followed: bool = False) -> Iterator[Selection]:
        """What there is now; problems are reported once, and at the end of a log that is followed not at all."""
        target = resolve(self._path)
        if not isinstance(target, PartitionFiles):
            raise LogstoreError("is not a partition directory", path=self._path)
        options = DumpOptions(where=where, isolation=self._isolation)
        for found in select_partition(target, context_around(self._path), options):
            if isinstance(found, Selection):
                yield found
            elif not is_followed:
                self.report(found)

    def offset_of(self, start: str) -> int:
        """The offset that `--from` means. Raises click.BadParameter."""
        if start == "start":
            return 0
        if re.fullmatch(r"[0-9]{1,19}", start):
            return int(start)
        if start == "end":
            return max((one.batch.next_offset for one in self.selections(RecordFilter())), default=0)
        since = parse_time(start)
        for selection in self.selections(RecordFilter(since=since)):
            with contextlib.suppress(LogstoreError):  # it is told when it is read
                for piece in selection.record_pieces():
                    return piece[0].offset
        return self.offset_of("end")

    def report(self, problem: Problem) -> None:
        """Say what could not be read, once."""
        if str(problem) not in self._reported:
            self._reported.add(str(problem))
            self.outcome.has_failed |= problem.is_failure
            self.outcome.has_damage |= problem.is_damage
            say(problem)
