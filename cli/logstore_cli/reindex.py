"""`logstore reindex`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from logstore.errors import LogstoreError
from logstore.inspect import LogDirectoryFiles, PartitionFiles, Target
from logstore.names import TopicPartition
from logstore.repair import Reindexer, Reindexing, locate
from logstore_cli.options import Outcome, progress, say, topic_matcher, total_bytes
from logstore_cli.writing import (
    error_object,
    error_text,
    file_system,
    force_option,
    identity,
    print_lines,
    print_object,
    selecting_options,
    warn_of_young,
    writing_options,
)

EPILOG = """\b
Examples:
  logstore reindex --dry-run orders-3
  logstore reindex orders-3 payments-0
  logstore reindex orders-3/00000000000000000000.log
"""


@click.command("reindex", epilog=EPILOG)
@selecting_options
@writing_options
@force_option
def command(
    paths: tuple[Path, ...], topics: tuple[str, ...], partition: int | None, as_json: bool, dry_run: bool, quiet: bool,
    force: bool,
) -> int:  # fmt: skip
    """Make indexes, producer snapshots and leader epochs anew from the batches.

    PATH is a partition directory, a log directory, or one segment (then only its indexes). Log files are never touched.
    A log with damage in it is refused, unless that is the torn end of its last segment: then its indexes cover all
    before it. Exit code 1 if there is damage.
    """
    outcome = Outcome()
    matcher = topic_matcher(topics)

    def wanted(one: TopicPartition) -> bool:
        return matcher(one.topic) and partition in (None, one.partition)

    def total() -> int:
        return total_bytes(list(Outcome().targets(paths)), matcher, partition)

    found: list[Reindexing] = []
    with progress("reindex", total, quiet=quiet) as advance:
        fs = file_system(dry_run=dry_run)
        reindexer = Reindexer(fs, force=force, on_read=advance)
        for target in outcome.targets(paths):
            with outcome.reported(target.path):
                warn_of_young(fs, target, quiet=quiet)
                for one in _reindexed(reindexer, target, wanted, fs):
                    found.append(one)
                    _report(outcome, one, quiet)
                    if not as_json:
                        print_lines(_lines(one, dry_run))
    if as_json:
        print_object(_object(found, dry_run))
    return outcome.exit_code


def _reindexed(reindexer: Reindexer, target: Target, wanted: Any, fs: Any) -> Iterator[Reindexing]:
    if isinstance(target, LogDirectoryFiles):
        yield from reindexer.reindex_all(target.path, wanted)
    elif isinstance(target, PartitionFiles):
        yield reindexer.reindex_partition(locate(fs, target.path))
    elif target.is_segment:
        yield reindexer.reindex_partition(locate(fs, target.directory), target.base_offset)
    else:
        raise LogstoreError("is neither a segment, a partition directory nor a log directory", path=target.path)


def _report(outcome: Outcome, one: Reindexing, quiet: bool) -> None:
    if one.damage is not None:
        outcome.has_damage = True
        say(error_text(one.damage))
    if one.error is not None:
        outcome.has_failed = True
        say(error_text(one.error))
    if one.torn and not quiet:
        say(f"{one.path}: {one.torn} bytes at the end of the log are in no index; `logstore recover` cuts them")


def _state(one: Reindexing) -> str:
    if one.error is not None:
        return "failed"
    return "damaged" if one.damage is not None else "reindexed" if one.changes else "sound"


def _lines(one: Reindexing, dry_run: bool) -> Iterator[str]:
    files = f"{len(one.changes)} files {'differ' if dry_run else 'made anew'}"
    sentence = {
        "failed": "could not be reindexed",
        "damaged": "DAMAGED, left as it is",
        "reindexed": files,
        "sound": "all files are as they should be",
    }[_state(one)]
    yield f"{one.path}: {sentence}"
    for change in one.changes:
        before, after = (("no file" if size is None else f"{size} bytes") for size in (change.size_before, change.size))
        yield f"  {change.action} {change.path.name}: {before} -> {after}"


def _object(found: list[Reindexing], dry_run: bool) -> dict[str, Any]:
    states = [_state(one) for one in found]
    counts = {state: states.count(state) for state in ("sound", "reindexed", "damaged", "failed")}
    files = sum(len(one.changes) for one in found)
    return {
        "dry_run": dry_run,
        "partitions": [
            {
                **identity(one.path),
                "state": state,
                "log_end_offset": one.log_end_offset,
                "torn_bytes": one.torn,
                "files": [
                    {
                        "path": str(change.path),
                        "action": change.action,
                        "size_before": change.size_before,
                        "size": change.size,
                    }
                    for change in one.changes
                ],
                "damage": error_object(one.damage),
                "error": error_object(one.error),
            }
            for one, state in zip(found, states, strict=True)
        ],
        "summary": {"partitions": len(found), **counts, "files": files},
    }
