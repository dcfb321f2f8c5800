"""`logstore dump`."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import re
import stat
import sys
from pathlib import Path
from typing import IO, Any

import click

from logstore.inspect import DumpOptions, Format, Isolation, RecordFilter
from logstore.records import ByteEncoding
from logstore_cli.dumper import Dumper, Wish
from logstore_cli.options import (
    ENCODINGS,
    Outcome,
    common_options,
    parse_offsets,
    parse_time,
    progress,
    topic_matcher,
    total_bytes,
)

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
            for target in outcome.targets(given["paths"]):
                with outcome.reported(target.path):
                    dumper.dump(target)
                if dumper.is_done:
                    break
            dumper.finish()
        out.flush()
    return outcome.exit_code


def _wish(given: dict[str, Any]) -> Wish:
    if given["as_json"] and given["line_format"] not in (None, "json"):
        raise click.UsageError(f"--json and --format {given['line_format']} contradict each other")
    line_format = Format.JSON if given["as_json"] else Format(given["line_format"] or "text")
    if given["nul"] and line_format != Format.RAW:
        raise click.UsageError("--null goes with --format raw")
    encoding = ENCODINGS[given["encoding"]]
    where = _filter(given, encoding)
    if line_format == Format.RAW and (given["batches_only"] or given["with_batch"]):
        raise click.UsageError("--format raw prints values alone, no batches; use --json")
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
        if target == source or source in target.parents or _holds(path, output):
            raise click.UsageError(f"--output {output} lies inside {path}, which is being read")


def _holds(path: Path, output: Path) -> bool:
    """Whether a file that would be read is the output under another name: a hard or symbolic link."""
    try:
        wanted = output.stat()
    except OSError:
        return False
    for file in [path] if not path.is_dir() else [*path.glob("*"), *path.glob("*/*")]:
        with contextlib.suppress(OSError):
            if os.path.samestat(file.stat(), wanted) and stat.S_ISREG(wanted.st_mode):
                return True
    return False


def _opened(output: Path | None) -> Any:
    return _Stdout() if output is None else open(output, "wb")


class _Stdout:
    """Stdout in bytes, left open, and buffered even where Python runs unbuffered."""

    def __init__(self) -> None:
        self._buffer: io.BufferedWriter | None = None

    def __enter__(self) -> IO[bytes]:
        stream = sys.stdout.buffer
        if not isinstance(stream, io.RawIOBase):
            return stream
        self._buffer = io.BufferedWriter(stream)
        return self._buffer

    def __exit__(self, *exception: object) -> None:
        if self._buffer is not None:
            self._buffer.detach()
