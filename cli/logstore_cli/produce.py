"""`logstore produce`."""

from __future__ import annotations

from pathlib import Path

import click

from logstore.config import Durability
from logstore.queue import Producer, SendFuture
from logstore_cli.input_records import of_stdin, record_options
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
@record_options
@click.option("--partition", type=click.IntRange(min=0), metavar="N", help="All into this one, whatever their keys.")
@click.option("--ack", is_flag=True, help="Print partition and offset of each once it is as durable as asked.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
def command(
    path: Path, topic: str, as_json: bool, encoding: str, key_separator: str | None, headers: tuple[str, ...],
    partition: int | None, codec: str, durability: Durability, ack: bool, quiet: bool,
) -> int:  # fmt: skip
    """Send records from stdin to a topic of a store: by their keys to its partitions, as Kafka's clients do.

    What stdin has so far is written as soon as nothing more comes. Works beside other programs that have it open.
    """
    batches, outcome, count = of_stdin(as_json, encoding, key_separator, headers), Outcome(), 0
    with outcome.reported(path), open_store(path) as store:
        count_of = store.topic(topic).partitions
        if partition is not None and partition >= count_of:
            raise click.BadParameter(f"topic {topic} has partitions 0 to {count_of - 1}", param_hint="--partition")
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
