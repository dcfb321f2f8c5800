"""What the commands share that write to directories: their options, their file system, their warnings."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from logstore.clock import SystemClock
from logstore.errors import InvalidNameError, LogstoreError
from logstore.fs import FileSystem, LocalFileSystem
from logstore.inspect import LogDirectoryFiles, PartitionFiles, Target, printable
from logstore.names import TopicPartition, parse_partition_directory
from logstore.repair import DryRunFileSystem, locate, youngest_file
from logstore_cli.options import complete_path, parse_path, say


def writing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that every command has which brings directories back to order."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="No notes and no progress on stderr; damage is still said."),
        click.option("--dry-run", is_flag=True, help="Only say what would be done; nothing is changed."),
        click.option("--json", "as_json", is_flag=True, help="JSON instead of text."),
    ):
        command = option(command)
    return command


def selecting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The paths, and what is chosen in those that are log directories."""
    for option in (
        click.option("--partition", type=click.IntRange(min=0), metavar="N", help="In a log directory: this number."),
        click.option("--topic", "topics", multiple=True, metavar="PATTERN",
                     help="In a log directory: topics whose name matches (globs; may be repeated)."),
        click.argument("paths", nargs=-1, required=True, type=parse_path, shell_complete=complete_path,
                       metavar="PATH..."),
    ):  # fmt: skip
        command = option(command)
    return command


force_option = click.option(
    "--force", is_flag=True, help="Take a broker's log directory also where it was not shut down cleanly."
)


def file_system(*, dry_run: bool) -> FileSystem:
    """The machine's files; for a dry run, a file system over them that forgets what is done."""
    return DryRunFileSystem(LocalFileSystem()) if dry_run else LocalFileSystem()


def warn_of_young(fs: FileSystem, target: Target, *, quiet: bool) -> None:
    """Say it where somebody may still be writing to a partition that stands alone. Raises OSError."""
    if quiet:
        return
    if isinstance(target, LogDirectoryFiles):
        partitions = [path for _, path in target.partitions]
    else:
        partitions = [locate(fs, target.path if isinstance(target, PartitionFiles) else target.directory)]
    for partition in partitions:
        young = youngest_file(fs, partition, SystemClock().now_ms())
        if young is not None:
            say(f"{young}: was changed less than a minute ago; make sure that nobody writes here")


def identity(partition: Path) -> dict[str, Any]:
    """Path, topic and number of a partition directory, as fields of a JSON object."""
    named: TopicPartition | None = None
    for name in (partition.name, partition.resolve().name):
        try:
            named = named or parse_partition_directory(name).topic_partition
        except InvalidNameError:
            continue
    topic, number = named or (None, None)
    return {"path": str(partition), "topic": topic, "partition": number}


def error_object(error: LogstoreError | OSError | None) -> dict[str, Any] | None:
    """An error as a JSON object."""
    if error is None:
        return None
    if isinstance(error, LogstoreError):
        place = {"path": error.path, "position": error.position, "offset": error.offset}
        return {"message": error.reason, **place, "remedy": error.remedy}
    return {"message": error.strerror or str(error), "path": error.filename and str(error.filename)}


def error_text(error: LogstoreError | OSError) -> str:
    """An error as a sentence with its place."""
    return str(error) if isinstance(error, LogstoreError) else f"{error.filename}: {error.strerror or error}"


def print_object(content: dict[str, Any]) -> None:
    """Print a JSON object on one line."""
    print_lines(iter([json.dumps(content, ensure_ascii=True)]))


def print_lines(lines: Iterator[str]) -> None:
    """Print lines for people, whatever bytes names have; where nobody reads them any more, the work goes on."""
    for line in lines:
        try:
            print(printable(line))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
