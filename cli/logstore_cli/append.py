"""`logstore append`."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from logstore.config import Durability, LogConfig
from logstore.errors import LogstoreError
from logstore.fs import LocalFileSystem
from logstore.inspect import PartitionFiles, resolve
from logstore.records import Codec
from logstore.repair import locate, opened
from logstore_cli.lines import InputLines
from logstore_cli.options import Outcome, complete_path, parse_path, say
from logstore_cli.writing import file_system, force_option, warn_of_young

_LINGER_SECONDS = 0.01  # how long a batch that is not full waits for more, where the next record is not there yet
_RECORD_OVERHEAD_MAX = 40  # bytes of a record that are neither key, value nor headers: six varints and a byte
_BATCH_BYTES_MAX = LogConfig().max_message_bytes * 15 // 16  # the rest is for its header, and codecs that gain nothing

Headers = tuple[tuple[str, bytes | None], ...]
Pending = tuple[bytes | None, bytes | None, int, Headers]

EPILOG = """\b
Examples:
  logstore append /srv/queue/orders-0 < lines
  logstore append --key-separator : --durability always --ack orders-0 < lines
  logstore dump --json orders-3 | logstore append --json copy-0
  logstore append --dry-run --json copy-0 < records.json
"""


@click.command("append", epilog=EPILOG)
@click.argument("path", type=parse_path, shell_complete=complete_path, metavar="PARTITION_DIR")
@click.option("--json", "as_json", is_flag=True, help="Read JSON objects, one a line, in the shape that dump prints.")
@click.option(
    "--encoding",
    type=click.Choice(["utf8", "base64", "hex"]),
    default="utf8",
    show_default=True,
    help="How text on stdin becomes bytes.",
)
@click.option("--key-separator", metavar="S", help="Lines are KEY S VALUE; without it they are values.")
@click.option("--header", "headers", multiple=True, metavar="K=V", help="Add this header to each; may be repeated.")
@click.option(
    "--codec",
    type=click.Choice([codec.label for codec in Codec]),
    default="none",
    show_default=True,
    help="Compress batches.",
)
@click.option(
    "--batch-records",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="At most so many records a batch.",
)
@click.option(
    "--durability",
    type=click.Choice(["os", "interval", "always"]),
    default="os",
    show_default=True,
    help="When a batch counts as written: in the page cache, synced from time to time, synced each time.",
)
@click.option("--ack", is_flag=True, help="Print each offset once its record is as durable as asked.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; nothing is changed.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
@force_option
def command(
    path: Path, as_json: bool, encoding: str, key_separator: str | None, headers: tuple[str, ...], codec: str,
    batch_records: int, durability: Durability, ack: bool, dry_run: bool, quiet: bool, force: bool,
) -> int:  # fmt: skip
    """Append records from stdin to a partition directory; it is made when it is not there.

    What stdin has so far is written as soon as nothing more comes. A directory that another process has open is
    refused. In a broker's log directory, only a partition that is there is appended to, while the broker is stopped.
    """
    if key_separator == "":
        raise click.BadParameter("an empty separator separates nothing", param_hint="--key-separator")
    extra = tuple(_header(text, encoding) for text in headers)
    lines = InputLines.of_stdin()
    records = _from_json(lines, encoding, extra) if as_json else _from_lines(lines, encoding, key_separator, extra)
    outcome = Outcome()
    with outcome.reported(path):
        target = _target(path)
        batches = Batches(records, batch_records, lines.comes_within)
        if target is not None:
            warn_of_young(LocalFileSystem(), target, quiet=quiet)
        _append(path, batches, Codec[codec.upper()], durability, ack, dry_run, quiet, force)
    return outcome.exit_code


def _target(path: Path) -> PartitionFiles | None:
    """The partition directory that is there; None where there is nothing yet. Raises LogstoreError, OSError."""
    if not path.exists() or (path.is_dir() and all(one.name.startswith(".") for one in path.iterdir())):
        return None
    target = resolve(path)
    if not isinstance(target, PartitionFiles):
        raise LogstoreError("is not a partition directory", path=path)
    return target


def _append(
    path: Path, batches: Batches, codec: Codec, durability: Durability, ack: bool, dry_run: bool, quiet: bool,
    force: bool,
) -> None:  # fmt: skip
    count = 0
    # Whatever a dump shows can be appended again, so no timestamp is too far from the clock.
    config = LogConfig(message_timestamp_after_max_ms=2**63 - 1)
    fs = file_system(dry_run=dry_run)
    with opened(fs, locate(fs, path), config, force=force) as log:
        if log.recovered is not None and log.recovered.kept_aside and not quiet:
            kept = ", ".join(map(str, log.recovered.kept_aside))
            say(f"{path}: recovered; {log.recovered.cut} bytes were kept aside in {kept}")
        for batch in batches:
            done = log.append(batch, codec=codec, durability=durability)
            count += len(batch)
            if ack:
                print("\n".join(map(str, range(done.first_offset, done.last_offset + 1))), flush=True)
        if not quiet:
            would, be = ("would be ", "would be") if dry_run else ("", "is")
            say(f"{path}: {count} records {would}appended, the next offset {be} {log.log_end_offset}")
    if batches.error is not None:
        raise batches.error


class Batches:
    """Groups records, by number and so that a batch is not above max.message.bytes unless a record is.

    A batch is given out before it is full when nothing more comes. What comes before a record that cannot be read is
    still given out; `error` says then why there is no more.

    Args:
        records: the records; None stands for a line that was none.
        count_max: of one batch.
        comes_within: whether the next record, or the end, comes within so many seconds.
    """

    def __init__(
        self, records: Iterator[Pending | None], count_max: int, comes_within: Callable[[float], bool] = lambda _: True
    ) -> None:
        self.error: LogstoreError | None = None
        self._records = records
        self._count_max = count_max
        self._comes_within = comes_within

    def __iter__(self) -> Iterator[list[Pending]]:
        batch: list[Pending] = []
        size, began = 0, 0.0
        for record in self._until_error():
            if record is not None:
                added = _size_bound(record)
                if batch and size + added > _BATCH_BYTES_MAX:
                    yield batch
                    batch, size = [], 0
                began = began if batch else time.monotonic()
                batch.append(record)
                size += added
            if len(batch) == self._count_max or (batch and not self._goes_on(began)):
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _goes_on(self, began: float) -> bool:
        return self._comes_within(0) or self._comes_within(max(began + _LINGER_SECONDS - time.monotonic(), 0))

    def _until_error(self) -> Iterator[Pending | None]:
        try:
            yield from self._records
        except LogstoreError as error:
            self.error = error


def _size_bound(record: Pending) -> int:
    key, value, _, headers = record
    named = sum(len(name) * 4 + len(content or b"") + 10 for name, content in headers)
    return len(key or b"") + len(value or b"") + named + _RECORD_OVERHEAD_MAX


def _from_lines(
    source: Iterable[bytes], encoding: str, separator: str | None, extra: Headers
) -> Iterator[Pending | None]:
    mark = None if separator is None else separator.encode("utf-8", "surrogateescape")
    for number, line in enumerate(source, 1):
        key: bytes | None = None
        if mark is not None:
            head, found, tail = line.partition(mark)
            if not found:
                raise LogstoreError(f"stdin, line {number}: no key separator {separator!r}")
            key, line = _bytes(head, encoding, number), tail
        yield key, _bytes(line, encoding, number), _now(), extra


def _from_json(source: Iterable[bytes], encoding: str, extra: Headers) -> Iterator[Pending | None]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            yield None
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LogstoreError(f"stdin, line {number}: no JSON ({error})") from None
        if not isinstance(found, dict) or not isinstance(found.get("headers", []), list):
            raise LogstoreError(f"stdin, line {number}: not an object as `logstore dump --json` prints it")
        if "control" in found:
            yield None
            continue  # markers belong to the log they were written in
        timestamp = found.get("timestamp", _now())
        if not isinstance(timestamp, int) or isinstance(timestamp, bool) or not -1 <= timestamp < 2**63:
            raise LogstoreError(f"stdin, line {number}: timestamp {timestamp!r} is no time in milliseconds")
        headers = tuple(_json_header(pair, encoding, number) for pair in found.get("headers", []))
        key = _json_bytes(found.get("key"), encoding, number)
        yield key, _json_bytes(found.get("value"), encoding, number), timestamp, headers + extra


def _json_header(pair: Any, encoding: str, number: int) -> tuple[str, bytes | None]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise LogstoreError(f"stdin, line {number}: a header is a pair of name and value")
    name = _json_bytes(pair[0], "utf8", number)
    if name is None:
        raise LogstoreError(f"stdin, line {number}: a header has no name")
    return name.decode("utf-8", "surrogateescape"), _json_bytes(pair[1], encoding, number)


def _json_bytes(value: Any, encoding: str, number: int) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, dict) and list(value) == ["base64"] and isinstance(value["base64"], str):
        return _bytes(value["base64"].encode(), "base64", number)
    if not isinstance(value, str):
        raise LogstoreError(f'stdin, line {number}: {value!r} is neither text, null nor {{"base64": text}}')
    return _bytes(value.encode("utf-8", "surrogatepass"), encoding, number)


def _bytes(text: bytes, encoding: str, number: int) -> bytes:
    try:
        if encoding == "base64":
            return base64.b64decode(text, validate=True)
        return bytes.fromhex(text.decode("ascii")) if encoding == "hex" else text
    except (ValueError, binascii.Error):
        raise LogstoreError(f"stdin, line {number}: {text[:40]!r} is not {encoding}") from None


def _header(text: str, encoding: str) -> tuple[str, bytes | None]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
    try:
        return name, _bytes(value.encode("utf-8", "surrogateescape"), encoding, 0)
    except LogstoreError:
        raise click.BadParameter(f"{value!r} is not {encoding}", param_hint="--header") from None


def _now() -> int:
    from logstore.clock import SystemClock

    return SystemClock().now_ms()
