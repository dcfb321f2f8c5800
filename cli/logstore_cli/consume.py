"""`logstore consume`."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from logstore.errors import UnknownTopicError
from logstore.inspect import Format, Isolation, RecordFilter, Renderer, Selection
from logstore.names import TopicPartition
from logstore.queue import Consumer, Message
from logstore.records import ByteEncoding, LineMode, LineStyle, Record, format_records
from logstore.store import Store
from logstore_cli.options import ENCODINGS, Outcome, is_number, is_time, parse_time
from logstore_cli.read import Reader
from logstore_cli.stores import open_store, partitions_of, read_topics, store_argument

_POLL_SECONDS = 0.1

EPILOG = """\b
Examples:
  logstore consume /srv/queue orders
  logstore consume --group billing --json -f /srv/queue orders
  logstore consume --from 2h --max 10 /var/lib/kafka/data orders
"""


@click.command("consume", epilog=EPILOG)
@store_argument
@click.argument("topic")
@click.option("--group", metavar="G", help="As a member of this group: go on where it was, and commit.")
@click.option(
    "--from", "start", default="earliest", show_default=True, metavar="earliest|latest|OFFSET|TIME",
    help="Where to begin; with a group, where it has committed nothing yet.",
)  # fmt: skip
@click.option("--max", "limit", type=click.IntRange(min=0), metavar="N", help="Stop after N records.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop when nothing came for so long.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more at the end.")
@click.option(
    "--isolation", type=click.Choice([i.value for i in Isolation]), default="read_uncommitted", show_default=True,
    help="What is seen of transactions.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option(
    "--encoding", type=click.Choice(list(ENCODINGS)), default="utf8", show_default=True, help="How bytes become text."
)
def command(
    path: Path, topic: str, group: str | None, start: str, limit: int | None, timeout: float | None, follow: bool,
    isolation: str, as_json: bool, encoding: str,
) -> int:  # fmt: skip
    """Print the records of a topic, partition by partition.

    Without a group it takes no lock, changes nothing, and works on a broker's log directory, too. With one, records
    are committed once they are printed, and other members of the group read other partitions. A number of twelve
    digits or more for --from is a time. With --timeout it waits, as with -f.
    """
    outcome = Outcome()
    renderer = Renderer(Format.JSON if as_json else Format.TEXT, ENCODINGS[encoding])
    waits = follow or timeout is not None
    with outcome.reported(path):
        if start not in ("earliest", "latest") and not is_number(start):
            parse_time(start)
        if group is None:
            looker = _Looker(path, topic, Isolation(isolation), outcome)
            looker.print(renderer, start, limit, timeout if waits else 0.0)
        else:
            with open_store(path) as store:
                styles = _Styles(store, topic, ENCODINGS[encoding], as_json=as_json)
                _consume(store, topic, group, start, limit, timeout if waits else 0.0, isolation, styles)
    return outcome.exit_code


# ---------------------------------------------------------------- as a member of a group


def _consume(
    store: Store, topic: str, group: str, start: str, limit: int | None, timeout: float | None, isolation: str,
    styles: _Styles,
) -> None:  # fmt: skip
    left, most = limit, 500
    with Consumer(
        store, topic, group=group, auto_offset_reset="latest" if start == "latest" else "earliest",
        isolation="read_committed" if isolation == "read_committed" else "read_uncommitted", enable_auto_commit=False,
        max_poll_records=most if limit is None else max(min(limit, most), 1),
    ) as consumer:  # fmt: skip
        begun: set[TopicPartition] = set()
        while left is None or left > 0:
            _begin(consumer, begun, start)
            found = consumer.poll(timeout)
            if not found and timeout is not None:
                return
            wanted = found if left is None else found[:left]
            styles.print(wanted)
            consumer.commit({
                TopicPartition(topic, number): offset for number, offset in _following(wanted).items()
            })  # fmt: skip
            left = None if left is None else left - len(wanted)


def _begin(consumer: Consumer, begun: set[TopicPartition], start: str) -> None:
    """Let partitions for which the group has committed nothing begin where `--from` says."""
    for one in set(consumer.assignment) - begun:
        begun.add(one)
        if start not in ("earliest", "latest") and consumer.committed(one) is None:
            if is_time(start):
                consumer.seek_to_time(parse_time(start), one)
            else:
                consumer.seek(one, int(start))


def _following(messages: Iterable[Message]) -> dict[int, int]:
    return {one.partition: one.offset + 1 for one in messages}


class _Styles:
    """How messages become lines: as those of `read`."""

    def __init__(self, store: Store, topic: str, encoding: ByteEncoding, *, as_json: bool) -> None:
        self._topic = topic
        self._encoding = encoding
        self._as_json = as_json
        self._timestamp_type = store.topic(topic).config(store.config).message_timestamp_type

    def print(self, messages: list[Message]) -> None:
        """Print messages, those of one partition that follow each other at once."""
        for number, group in itertools.groupby(messages, key=lambda one: one.partition):
            records = [Record(one.offset, one.timestamp, one.key, one.value, one.headers) for one in group]
            sys.stdout.buffer.write(format_records(records, self._style(number)))
        sys.stdout.buffer.flush()

    def _style(self, partition: int) -> LineStyle:
        if not self._as_json:
            return LineStyle(LineMode.TEXT, self._encoding, f"{self._topic}-{partition}\t".encode(), b"", b"\n")
        prefix = f'{{"topic":{json.dumps(self._topic)},"partition":{partition},"offset":'
        middle = f',"timestamp_type":"{self._timestamp_type}","key":'
        return LineStyle(LineMode.JSON, self._encoding, prefix.encode(), middle.encode(), b"}\n")


# ---------------------------------------------------------------- looking on


class _Looker:
    """Reads the partitions of a topic beside whoever writes them."""

    def __init__(self, path: Path, topic: str, isolation: Isolation, outcome: Outcome) -> None:
        if topic not in read_topics(path):
            raise UnknownTopicError(f"there is no topic {topic!r}", path=path)
        self._readers = {
            number: Reader(files.path, isolation, outcome) for number, files in partitions_of(path, topic).items()
        }

    def print(self, renderer: Renderer, start: str, limit: int | None, timeout: float | None) -> None:
        """Print what there is, and what comes until nothing has come for `timeout` seconds (None: for ever)."""
        looks = [
            reader.looks(RecordFilter(first_offset=reader.offset_of(_as_read(start))))
            for _, reader in sorted(self._readers.items())
        ]
        left, last = limit, time.monotonic()
        while left is None or left > 0:
            count = 0
            for look in looks:
                count += self._print_some(renderer, look(), None if left is None else left - count)
            left = None if left is None else left - count
            now = time.monotonic()
            last = now if count else last
            if timeout == 0.0 or (timeout is not None and now - last >= timeout):
                return
            if not count:
                time.sleep(_POLL_SECONDS)

    @staticmethod
    def _print_some(renderer: Renderer, selections: Iterator[Selection], left: int | None) -> int:
        count = 0
        for selection in selections:
            for piece in selection.record_pieces():
                wanted = piece if left is None else piece[: max(left - count, 0)]
                sys.stdout.buffer.writelines(lines for lines, _ in renderer.some_lines(selection, wanted))
                count += len(wanted)
        sys.stdout.buffer.flush()
        return count


def _as_read(start: str) -> str:
    return {"earliest": "start", "latest": "end"}.get(start, start)
