"""What the commands on stores share: the path, whether it is a store, topics as a broker or a store has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from logstore.errors import LogstoreError
from logstore.fs import LocalFileSystem
from logstore.inspect import (
    DumpOptions,
    LogDirectoryFiles,
    PartitionFiles,
    RecordFilter,
    Selection,
    iter_partitions,
    resolve,
    select_partition,
)
from logstore.log import read_facts
from logstore.repair import TopicConfigs
from logstore.store import Catalog, Store, Topic, is_store
from logstore_cli.options import complete_path, parse_path


class Ends(NamedTuple):
    """Where a log begins and ends, and what it takes."""

    log_start_offset: int
    log_end_offset: int
    size: int
    segments: int


json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text, one object a line.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say what would be done; nothing is changed.")


def would(dry_run: bool) -> str:
    """What is added to a line that says what was done."""
    return " (dry run: nothing was changed)" if dry_run else ""


def store_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument STORE."""
    return click.argument("path", type=parse_path, shell_complete=complete_path, metavar="STORE")(command)


def read_topics(path: Path) -> dict[str, Topic]:
    """The topics of a store or of a broker's log directory, with their settings; changes nothing.

    Raises LogstoreError where it is neither, OSError.
    """
    fs = LocalFileSystem()
    if not isinstance(resolve(path), LogDirectoryFiles):
        raise LogstoreError("is neither a store nor a log directory", path=path)
    topics = dict(Catalog.read(fs, path, [path]).topics)
    if not is_store(fs, path):
        configs = TopicConfigs.read(fs, path)
        topics = {name: one.with_settings(configs.topics.get(name, {})) for name, one in topics.items()}
    return topics


def open_store(path: Path, *, create: bool = False) -> Store:
    """Open a store to change it. Raises LogstoreError for a broker's log directory, or where there is nothing."""
    fs = LocalFileSystem()
    if not is_store(fs, path):
        if path.exists() and not path.is_dir():
            raise LogstoreError("is no directory", path=path)
        if path.is_dir() and any(not one.name.startswith(".") for one in path.iterdir()):
            raise LogstoreError(
                "is not empty, and no store", path=path,
                remedy="a broker's log directory is changed by its broker; reading commands work on it",
            )  # fmt: skip
        if not create:
            raise LogstoreError("there is no store", path=path, remedy="`logstore topics create` makes one")
    return Store.open(path)


def partitions_of(path: Path, topic: str) -> dict[int, PartitionFiles]:
    """The partition directories of a topic, by number; changes nothing."""
    found = resolve(path)
    assert isinstance(found, LogDirectoryFiles)
    return {
        one.topic_partition.partition: one
        for one in iter_partitions(found, topic=lambda name: name == topic, partition=None)
        if one.topic_partition is not None
    }


def ends_of(partition: PartitionFiles) -> Ends:
    """Where a log begins and ends, read beside whoever writes it. Raises LogstoreError, OSError."""
    start = read_facts(LocalFileSystem(), partition.path).log_start_offset
    size = sum(one.log.stat().st_size for one in partition.segments if one.log is not None)
    if not partition.segments:
        return Ends(start, start, 0, 0)
    first, end = partition.segments[0].base_offset, partition.segments[-1].base_offset
    for found in select_partition(partition, None, DumpOptions(where=RecordFilter(first_offset=end))):
        if isinstance(found, Selection):
            end = found.batch.next_offset
    return Ends(max(start, first), max(end, start), size, len(partition.segments))


def parse_settings(texts: tuple[str, ...]) -> Mapping[str, str]:
    """`KEY=VALUE` options. Raises click.BadParameter."""
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--config")
        found[name.strip()] = value.strip()
    return found
