"""What the commands share: option types, paths, messages and progress."""

from __future__ import annotations

import contextlib
import datetime
import fnmatch
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from logstore.errors import LogstoreError
from logstore.inspect import LogDirectoryFiles, PartitionFiles, Target, iter_partitions, resolve
from logstore.records import BATCH_BYTES_MAX, ByteEncoding

ENCODINGS = {"utf8": ByteEncoding.UTF8, "base64": ByteEncoding.BASE64, "hex": ByteEncoding.HEX}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30, "gib": 1 << 30}
_SPANS = {"": 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_TIME_DIGITS_MIN = 12  # milliseconds of 1973 and later
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_PROGRESS_BYTES_MIN = 256 << 20  # less is done before a bar is worth looking at


def parse_size(value: str | int) -> int:
    """Bytes: `1048576`, `64MiB`, `1.5GiB`. Raises click.BadParameter."""
    match = re.fullmatch(r"([0-9]{1,18})(\.[0-9]{1,9})?\s*([a-zA-Z]*)", str(value).strip())
    if match is None or match[3].lower() not in _UNITS:
        raise click.BadParameter(f"{value!r} is no size; write bytes, or a number with KiB, MiB or GiB")
    unit = _UNITS[match[3].lower()]
    return int(match[1]) * unit + int(float(match[2] or 0) * unit)


def parse_time(value: str | int) -> int:
    """A moment, in ms since the epoch: ISO 8601 (UTC unless it says otherwise), epoch ms, or `90s`, `2h`, `7d` ago.

    Raises click.BadParameter.
    """
    text = str(value).strip()
    if re.fullmatch(r"-?[0-9]{1,19}", text):
        return int(text)
    if match := re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)", text):
        return int(time.time() * 1000 - float(match[1]) * _SPANS[match[2]])
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is no time; write ISO 8601, epoch milliseconds, or 90s, 2h, 7d for so long ago"
        raise click.BadParameter(message) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH) // datetime.timedelta(milliseconds=1)


def parse_span(value: str | int) -> int:
    """A length of time in ms: a plain number, or `90s`, `2h`, `7d`. Raises click.BadParameter."""
    match = re.fullmatch(r"([0-9]{1,15})(\.[0-9]{1,6})?(ms|s|m|h|d|w)?", str(value).strip())
    if match is None:
        raise click.BadParameter(f"{value!r} is no length of time; write milliseconds, or 90s, 2h, 7d")
    unit = _SPANS[match[3] or ""]
    return int(match[1]) * unit + int(float(match[2] or 0) * unit)


def is_number(text: str) -> bool:
    """Whether it is an offset, or a time in epoch milliseconds."""
    return re.fullmatch(r"[0-9]{1,19}", text) is not None


def is_time(text: str) -> bool:
    """Whether an offset or a time is a time: what is no number, and numbers of twelve digits or more."""
    return not is_number(text) or len(text.lstrip("0")) >= _TIME_DIGITS_MIN


def count_of(number: int, what: str) -> str:
    """`1 partition`, `2 partitions`."""
    return f"{number} {what}{'s' * (number != 1)}"


def parse_offsets(value: str) -> tuple[int | None, int | None]:
    """`FIRST:LAST`, inclusive; either side may be left out. Raises click.BadParameter."""
    match = re.fullmatch(r"([0-9]{1,19})?(:)?([0-9]{1,19})?", value.strip())
    if match is None or not (match[1] or match[3]):
        raise click.BadParameter(f"{value!r} is no range of offsets; write FIRST:LAST, FIRST: or :LAST")
    first = int(match[1]) if match[1] else None
    last = int(match[3]) if match[3] else None
    if match[2] is None:
        last = first
    if first is not None and last is not None and first > last:
        raise click.BadParameter(f"the range {value!r} ends before it begins")
    return first, last


def parse_path(value: str | Path) -> Path:
    """A path; whether it can be read is for the command to say. Raises click.ClickException for an empty one."""
    if not str(value):
        raise click.ClickException("an empty PATH names nothing")
    return Path(value)


def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a path."""
    return [CompletionItem(incomplete, type="file")]


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every reading command has."""
    for option in (
        click.option("--max-batch-bytes", type=parse_size, default=BATCH_BYTES_MAX, show_default="32MiB",
                     metavar="SIZE", help="Cap on one batch, as stored and decompressed; bounds memory."),
        click.option("-q", "--quiet", is_flag=True, help="No notes and no progress on stderr; damage is still said."),
        click.option("--partition", type=click.IntRange(min=0), metavar="N", help="In a log directory: this number."),
        click.option("--topic", "topics", multiple=True, metavar="PATTERN",
                     help="In a log directory: topics whose name matches (globs; may be repeated)."),
        click.option("--json", "as_json", is_flag=True, help="JSON instead of text."),
        click.argument("paths", nargs=-1, required=True, type=parse_path, shell_complete=complete_path,
                       metavar="PATH..."),
    ):  # fmt: skip
        command = option(command)
    return command


def topic_matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a topic is wanted: no pattern means all of them."""
    return lambda topic: not patterns or any(fnmatch.fnmatchcase(topic, pattern) for pattern in patterns)


def say(message: object) -> None:
    """Write a line to stderr."""
    print(f"logstore: {message}", file=sys.stderr)


class Outcome:
    """Collects what happens over several paths, and knows the exit code."""

    def __init__(self) -> None:
        self.has_damage = False
        self.has_failed = False

    @property
    def exit_code(self) -> int:
        """3 if something could not be done, else 1 if there was damage, else 0."""
        return 3 if self.has_failed else 1 if self.has_damage else 0

    def targets(self, paths: tuple[Path, ...]) -> Iterator[Target]:
        """The paths one after the other; one that cannot be taken is reported and left out."""
        for path in paths:
            with self.reported(path):
                yield resolve(path)

    @contextlib.contextmanager
    def reported(self, path: Path) -> Iterator[None]:
        """Report what goes wrong inside, and go on."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            self.has_failed = True
            say(f"{error.filename or path}: {error.strerror or error}")
        except LogstoreError as error:
            self.has_failed = True
            say(error)


def total_bytes(targets: list[Target], topic: Callable[[str], bool], partition: int | None) -> int:
    """Bytes of the logs that would be read."""
    total = 0
    for target in targets:
        if isinstance(target, LogDirectoryFiles):
            partitions = list(iter_partitions(target, topic=topic, partition=partition))
        else:
            partitions = [target] if isinstance(target, PartitionFiles) else []
        for files in partitions:
            for segment in files.segments:
                with contextlib.suppress(OSError):
                    total += segment.log.stat().st_size
        if not isinstance(target, (LogDirectoryFiles, PartitionFiles)):
            with contextlib.suppress(OSError):
                total += target.path.stat().st_size
    return total


@contextlib.contextmanager
def progress(what: str, total: Callable[[], int], *, quiet: bool) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, where it is a terminal and the work is long; yields what is to be told the bytes done."""
    if quiet or not sys.stderr.isatty() or (size := total()) < _PROGRESS_BYTES_MIN:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=size)
        yield lambda done: bar.advance(task, done)
