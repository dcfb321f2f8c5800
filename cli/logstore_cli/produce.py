"""`logstore produce`."""

from __future__ import annotations

from pathlib import Path

import click

from logstore.config import Durability
from logstore.queue import Producer, SendFuture
from logstore.records import Codec
from logstore_cli.input_records import Batches, from_json, from_lines, parse_header
from logstore_cli.lines import InputLines
from logstore_cli.options import Outcome, say
from logstore_cli.stores import open_store, store_argument

EPILOG = """\b
Examples:
  logstore produce /srv/queue orders < lines
  logstore produce --key-separator : --durability always --ack /srv/queue orders < lines
  logstore dump --json orders-3 | logstore produce --json /srv/queue orders
"""


@click.command("produce", epilog=EPILOG)
@store_argument
@click.argument("topic")
@click.option("--json", "as_json", is_flag=True, help="Read JSON objects, one a line, in the shape that dump prints.")
@click.option(
    "--encoding", type=click.Choice(["utf8", "base64", "hex"]), default="utf8", show_default=True,
    help="How text on stdin becomes bytes.",
)  # fmt: skip
@click.option("--key-separator", metavar="S", help="Lines are KEY S VALUE; without it they are values.")
@click.option("--header", "headers", multiple=True, metavar="K=V", help="Add this header to each; may be repeated.")
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="All into this one, whatever their keys.")
@click.option(
    "--codec", type=click.Choice([codec.label for codec in Codec]), default="none", show_default=True,
    help="Compress batches.",
)  # fmt: skip
@click.option(
    "--durability", type=click.Choice(["os", "interval", "always"]), default="os", show_default=True,
    help="When a batch counts as written: in the page cache, synced from time to time, synced each time.",
)  # fmt: skip
@click.option("--ack", is_flag=True, help="Print partition and offset of each once it is as durable as asked.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
def command(
    path: Path, topic: str, as_json: bool, encoding: str, key_separator: str | None, headers: tuple[str, ...],
    partition: int | None, codec: str, durability: Durability, ack: bool, quiet: bool,
) -> int:  # fmt: skip
    """Send records from stdin to a topic of a store: by their keys to its partitions, as Kafka's clients do.

    What stdin has so far is written as soon as nothing more comes. Works beside other programs that have it open.
    """
    if key_separator == "":
        raise click.BadParameter("an empty separator separates nothing", param_hint="--key-separator")
    extra = tuple(parse_header(text, encoding) for text in headers)
    lines = InputLines.of_stdin()
    records = from_json(lines, encoding, extra) if as_json else from_lines(lines, encoding, key_separator, extra)
    outcome, count = Outcome(), 0
    with outcome.reported(path), open_store(path) as store:
        count_of = store.topic(topic).partitions
        if partition is not None and partition >= count_of:
            raise click.BadParameter(f"topic {topic} has partitions 0 to {count_of - 1}", param_hint="--partition")
        batches = Batches(records, 1000, lines.comes_within)
        with Producer(store, compression=codec, durability=durability) as producer:
            for batch in batches:
                sent: list[SendFuture] = [
                    producer.send(topic, value, key, partition=partition, timestamp=timestamp, headers=found)
                    for key, value, timestamp, found in batch
                ]
                producer.flush()
                count += len(sent)
                if ack:
                    print("\n".join(f"{one.result().partition} {one.result().offset}" for one in sent), flush=True)
        if not quiet:
            say(f"{path}: {count} records sent to {topic}")
        if batches.error is not None:
            raise batches.error
    return outcome.exit_code
