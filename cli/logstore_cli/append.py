"""`logstore append`."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from logstore.config import Durability, LogConfig
from logstore.errors import LogstoreError
from logstore.inspect import context_around, read_context
from logstore.log import Log
from logstore.records import Codec
from logstore_cli.options import Outcome, complete_path, parse_path, say

_RECORD_OVERHEAD_MAX = 40  # bytes of a record that are neither key, value nor headers: six varints and a byte
_BATCH_BYTES_MAX = LogConfig().max_message_bytes * 15 // 16  # the rest is for its header, and codecs that gain nothing

Pending = tuple[bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]

EPILOG = """\b
Examples:
  logstore append /srv/queue/orders-0 < lines
  logstore append --key-separator : --durability always --ack orders-0 < lines
  logstore dump --json orders-3 | logstore append --json copy-0
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
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
def command(
    path: Path, as_json: bool, encoding: str, key_separator: str | None, headers: tuple[str, ...], codec: str,
    batch_records: int, durability: Durability, ack: bool, quiet: bool,
) -> int:  # fmt: skip
    """Append records from stdin to a partition directory; it is made when it is not there.

    The directory must be this program's own: one inside a broker's log directory is refused, because the broker's
    checkpoints would no longer fit it.
    """
    if key_separator == "":
        raise click.BadParameter("an empty separator separates nothing", param_hint="--key-separator")
    extra = tuple(_header(text, encoding) for text in headers)
    source: Iterable[bytes] = sys.stdin.buffer
    records = _from_json(source, encoding, extra) if as_json else _from_lines(source, encoding, key_separator, extra)
    outcome = Outcome()
    with outcome.reported(path):
        if context_around(path) is not None or read_context(path) is not None:
            raise LogstoreError("lies in a broker's log directory, which only its broker may append to", path=path)
        _append(path, Batches(records, batch_records), Codec[codec.upper()], durability, ack, quiet)
    return outcome.exit_code


def _append(path: Path, batches: Batches, codec: Codec, durability: Durability, ack: bool, quiet: bool) -> None:
    count = 0
    # Whatever a dump shows can be appended again, so no timestamp is too far from the clock.
    config = LogConfig(message_timestamp_after_max_ms=2**63 - 1)
    with Log.open(path, config) as log:
        if log.recovered is not None and log.recovered.kept_aside is not None and not quiet:
            say(f"{path}: recovered; {log.recovered.segment.cut} bytes were kept aside in {log.recovered.kept_aside}")
        for batch in batches:
            done = log.append(batch, codec=codec, durability=durability)
            count += len(batch)
            if ack:
                print("\n".join(map(str, range(done.first_offset, done.last_offset + 1))), flush=True)
        if not quiet:
            say(f"{path}: {count} records appended, the next offset is {log.log_end_offset}")
    if batches.error is not None:
        raise batches.error


class Batches:
    """Groups records, by number and so that a batch is not above max.message.bytes unless a record is.

    What comes before a record that cannot be read is still given out; `error` says then why there is no more.
    """

    def __init__(self, records: Iterator[Pending], count_max: int) -> None:
        self.error: LogstoreError | None = None
        self._records = records
        self._count_max = count_max

    def __iter__(self) -> Iterator[list[Pending]]:
        batch: list[Pending] = []
        size = 0
        for record in self._until_error():
            added = _size_bound(record)
            if batch and size + added > _BATCH_BYTES_MAX:
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += added
            if len(batch) == self._count_max:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _until_error(self) -> Iterator[Pending]:
        try:
            yield from self._records
        except LogstoreError as error:
            self.error = error


def _size_bound(record: Pending) -> int:
    key, value, _, headers = record
    named = sum(len(name) * 4 + len(content or b"") + 10 for name, content in headers)
    return len(key or b"") + len(value or b"") + named + _RECORD_OVERHEAD_MAX


def _from_lines(
    source: Iterable[bytes], encoding: str, separator: str | None, extra: tuple[tuple[str, bytes | None], ...]
) -> Iterator[Pending]:
    mark = None if separator is None else separator.encode("utf-8", "surrogateescape")
    for number, raw in enumerate(source, 1):
        line = raw.removesuffix(b"\n")
        key: bytes | None = None
        if mark is not None:
            head, found, tail = line.partition(mark)
            if not found:
                raise LogstoreError(f"stdin, line {number}: no key separator {separator!r}")
            key, line = _bytes(head, encoding, number), tail
        yield key, _bytes(line, encoding, number), _now(), extra


def _from_json(
    source: Iterable[bytes], encoding: str, extra: tuple[tuple[str, bytes | None], ...]
) -> Iterator[Pending]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LogstoreError(f"stdin, line {number}: no JSON ({error})") from None
        if not isinstance(found, dict) or not isinstance(found.get("headers", []), list):
            raise LogstoreError(f"stdin, line {number}: not an object as `logstore dump --json` prints it")
        if "control" in found:
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
