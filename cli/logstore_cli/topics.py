"""`logstore topics`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from logstore.config import LogConfig
from logstore.errors import UnknownTopicError
from logstore.inspect import printable
from logstore.log import format_kafka_uuid
from logstore.store import Catalog, Topic
from logstore_cli.options import Outcome, count_of, say
from logstore_cli.stores import (
    Ends,
    dry_run_option,
    ends_of,
    json_option,
    open_store,
    parse_settings,
    partitions_of,
    read_topics,
    store_argument,
    would,
)
from logstore_cli.writing import print_lines, print_object

EPILOG = """\b
Examples:
  logstore topics create --partitions 4 --config retention.ms=604800000 /srv/queue orders
  logstore topics list /var/lib/kafka/data
  logstore topics describe --json /srv/queue orders
  logstore topics alter --partitions 8 --config cleanup.policy=compact /srv/queue orders
"""

_topic_argument = click.argument("topic")


@click.group("topics", epilog=EPILOG)
def command() -> None:
    """Topics of a store: make, list, describe, change, delete.

    list and describe take no lock and work on a broker's log directory, too. The others work beside programs that have
    the store open, which see the change at once.
    """


@command.command("list")
@store_argument
@click.option("--internal", is_flag=True, help="Also Kafka's own topics.")
@json_option
def list_topics(path: Path, internal: bool, as_json: bool) -> int:
    """List the topics of a store or of a broker's log directory."""
    outcome = Outcome()
    with outcome.reported(path):
        for _, topic in sorted(read_topics(path).items()):
            if internal or not topic.is_internal:
                _print(_object(topic) if as_json else None, f"{topic.name}  {count_of(topic.partitions, 'partition')}")
    return outcome.exit_code


@command.command("describe")
@store_argument
@click.argument("topic", required=False)
@json_option
def describe(path: Path, topic: str | None, as_json: bool) -> int:
    """Show settings and partitions of a topic, or of all: where their logs begin and end, and what they take."""
    outcome = Outcome()
    with outcome.reported(path):
        topics = read_topics(path)
        if topic is not None and topic not in topics:
            raise UnknownTopicError(f"there is no topic {topic!r}", path=path)
        for name in sorted(topics) if topic is None else [topic]:
            found = {number: ends_of(files) for number, files in sorted(partitions_of(path, name).items())}
            _describe(topics[name], found, as_json)
    return outcome.exit_code


@command.command("create")
@store_argument
@_topic_argument
@click.option(
    "--partitions", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How many it gets."
)
@click.option("--config", "texts", multiple=True, metavar="KEY=VALUE", help="A setting by Kafka's name; repeatable.")
@click.option("--if-not-exists", is_flag=True, help="Fine where there is one already.")
@json_option
@dry_run_option
def create(
    path: Path, topic: str, partitions: int, texts: tuple[str, ...], if_not_exists: bool, as_json: bool, dry_run: bool
) -> int:
    """Make a topic; the store is made, too, where there is none."""
    settings, outcome = _checked(parse_settings(texts)), Outcome()
    with outcome.reported(path):
        if dry_run:
            catalog = Catalog(read_topics(path)) if path.is_dir() and any(path.iterdir()) else Catalog()
            if not (if_not_exists and topic in catalog.topics):
                catalog = catalog.with_topic(Topic(topic, partitions, uuid4(), settings))
            done = catalog.get(topic)
        else:
            with open_store(path, create=True) as store:
                done = store.create_topic(topic, partitions, settings, exist_ok=if_not_exists)
        _print(_object(done) if as_json else None, f"{topic}: {count_of(done.partitions, 'partition')}{would(dry_run)}")
    return outcome.exit_code


@command.command("alter")
@store_argument
@_topic_argument
@click.option("--partitions", type=click.IntRange(min=1), metavar="N", help="More than there are; never fewer.")
@click.option("--config", "texts", multiple=True, metavar="KEY=VALUE", help="Set a setting; repeatable.")
@click.option("--unset", multiple=True, metavar="KEY", help="Let a setting have its default again; repeatable.")
@json_option
@dry_run_option
def alter(
    path: Path, topic: str, partitions: int | None, texts: tuple[str, ...], unset: tuple[str, ...], as_json: bool,
    dry_run: bool,
) -> int:  # fmt: skip
    """Change the settings of a topic, or give it more partitions."""
    settings, outcome = _checked(parse_settings(texts)), Outcome()
    changes: dict[str, str | None] = {**settings, **dict.fromkeys(unset)}
    if partitions is None and not changes:
        raise click.UsageError("nothing to change: give --partitions, --config or --unset")
    with outcome.reported(path):
        if dry_run:
            catalog = Catalog(read_topics(path)).altered(topic, changes)
            done = (catalog if partitions is None else catalog.grown(topic, partitions)).get(topic)
        else:
            with open_store(path) as store:
                done = store.alter_topic(topic, changes) if changes else store.topic(topic)
                if partitions is not None:
                    done = store.grow_topic(topic, partitions)
        text = f"{topic}: {count_of(done.partitions, 'partition')}{_settings(done.settings)}{would(dry_run)}"
        _print(_object(done) if as_json else None, text)
    return outcome.exit_code


@command.command("delete")
@store_argument
@_topic_argument
@json_option
@dry_run_option
def delete(path: Path, topic: str, as_json: bool, dry_run: bool) -> int:
    """Delete a topic and all its records; the disk is given back after a minute (file.delete.delay.ms)."""
    outcome = Outcome()
    with outcome.reported(path):
        if dry_run:
            gone = Catalog(read_topics(path)).get(topic)
        else:
            with open_store(path) as store:
                gone = store.topic(topic)
                store.delete_topic(topic)
                store.maintain()
        _print(_object(gone) if as_json else None, f"{topic}: deleted{would(dry_run)}")
    return outcome.exit_code


def _checked(settings: Mapping[str, str]) -> Mapping[str, str]:
    try:
        Topic("any", 1, None, settings).config(LogConfig())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--config") from error
    return settings


def _describe(topic: Topic, partitions: Mapping[int, Ends], as_json: bool) -> None:
    if as_json:
        rows = [{"partition": number, **one._asdict()} for number, one in partitions.items()]
        _print({**_object(topic), "partition_list": rows}, "")
        return
    identity = "" if topic.topic_id is None else f"  id {format_kafka_uuid(topic.topic_id)}"
    print(f"{topic.name}  {count_of(topic.partitions, 'partition')}{identity}{_settings(topic.settings)}")
    for number, one in partitions.items():
        print(
            f"  {number}: offsets {one.log_start_offset} to {one.log_end_offset}, {one.size} bytes in"
            f" {count_of(one.segments, 'segment')}"
        )
    missing = topic.partitions - len(partitions)
    if missing > 0:
        say(f"{topic.name}: {count_of(missing, 'partition')} not in this directory")


def _object(topic: Topic) -> dict[str, Any]:
    return {
        "topic": topic.name,
        "partitions": topic.partitions,
        "id": None if topic.topic_id is None else format_kafka_uuid(topic.topic_id),
        "internal": topic.is_internal,
        "settings": dict(topic.settings),
    }


def _settings(settings: Mapping[str, str]) -> str:
    return "".join(f"  {name}={printable(text)}" for name, text in sorted(settings.items()))


def _print(content: dict[str, Any] | None, text: str) -> None:
    if content is None:
        print_lines(iter([text]))
    else:
        print_object(content)
