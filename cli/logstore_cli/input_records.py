"""Records from standard input, as lines or JSON objects, and put together to batches."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click

from logstore.clock import SystemClock
from logstore.config import LogConfig
from logstore.errors import LogstoreError
from logstore.records import Codec
from logstore_cli.lines import InputLines

_LINGER_SECONDS = 0.01  # how long a batch that is not full waits for more, where the next record is not there yet
_RECORD_OVERHEAD_MAX = 40  # bytes of a record that are neither key, value nor headers: six varints and a byte
_BATCH_BYTES_MAX = LogConfig().max_message_bytes * 15 // 16  # the rest is for its header, and codecs that gain nothing

Headers = tuple[tuple[str, bytes | None], ...]
Pending = tuple[bytes | None, bytes | None, int, Headers]


_BATCH_RECORDS = 1000


def record_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how stdin becomes records, and how these are written."""
    for option in (
        click.option(
            "--durability", type=click.Choice(["os", "interval", "always"]), default="os", show_default=True,
            help="When a batch counts as written: in the page cache, synced from time to time, synced each time.",
        ),
        click.option(
            "--codec", type=click.Choice([codec.label for codec in Codec]), default="none", show_default=True,
            help="Compress batches.",
        ),
        click.option(
            "--header", "headers", multiple=True, metavar="K=V", help="Add this header to each; may be repeated."
        ),
        click.option("--key-separator", metavar="S", help="Lines are KEY S VALUE; without it they are values."),
        click.option(
            "--encoding", type=click.Choice(["utf8", "base64", "hex"]), default="utf8", show_default=True,
            help="How text on stdin becomes bytes.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, help="Read JSON objects, one a line, in the shape that dump prints."
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def of_stdin(
    as_json: bool, encoding: str, key_separator: str | None, headers: tuple[str, ...],
    batch_records: int = _BATCH_RECORDS,
) -> Batches:  # fmt: skip
    """The records of stdin, in batches, by the values of `record_options`. Raises click.BadParameter."""
    if key_separator == "":
        raise click.BadParameter("an empty separator separates nothing", param_hint="--key-separator")
    extra = tuple(_parse_header(text, encoding) for text in headers)
    lines = InputLines.of_stdin()
    records = _from_json(lines, encoding, extra) if as_json else _from_lines(lines, encoding, key_separator, extra)
    return Batches(records, batch_records, lines.comes_within)


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
    """Records of lines that are values, or keys and values. Raises LogstoreError with the line's number."""
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
    """Records as `dump --json` prints them; None for what is none. Raises LogstoreError with the line's number."""
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


def _parse_header(text: str, encoding: str) -> tuple[str, bytes | None]:
    """`NAME=VALUE`. Raises click.BadParameter."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
    try:
        return name, _bytes(value.encode("utf-8", "surrogateescape"), encoding, 0)
    except LogstoreError:
        raise click.BadParameter(f"{value!r} is not {encoding}", param_hint="--header") from None


def _now() -> int:
    return SystemClock().now_ms()
