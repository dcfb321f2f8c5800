"""`logstore recover`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from logstore.errors import LogstoreError
from logstore.inspect import LogDirectoryFiles, PartitionFiles, Target
from logstore.names import TopicPartition
from logstore.repair import DirectoryRecovery, PartitionRecovery, Recoverer, locate
from logstore_cli.options import Outcome, progress, say, topic_matcher, total_bytes
from logstore_cli.writing import (
    error_object,
    error_text,
    file_system,
    identity,
    print_lines,
    print_object,
    selecting_options,
    warn_of_young,
    writing_options,
)

EPILOG = """\b
Examples:
  logstore recover --dry-run /var/lib/kafka/data
  logstore recover /var/lib/kafka/data
  logstore recover --json --cut-damage orders-3
"""


@click.command("recover", epilog=EPILOG)
@selecting_options
@writing_options
@click.option(
    "--cut-damage",
    is_flag=True,
    help="Cut a log also where it is damaged below its recovery point, as Kafka does; what is cut is kept aside.",
)
def command(
    paths: tuple[Path, ...], topics: tuple[str, ...], partition: int | None, as_json: bool, dry_run: bool, quiet: bool,
    cut_damage: bool,
) -> int:  # fmt: skip
    """Bring logs back to order after a crash.

    Cuts torn ends, keeping aside what it cuts, and makes indexes and snapshots anew. A broker's log directory of which
    every log could be recovered is marked as shut down cleanly. A log that is damaged below its recovery point, where a
    crash leaves no damage, is reported and left as it is. Exit code 1 if there is such damage.
    """
    outcome = Outcome()
    matcher = topic_matcher(topics)

    def wanted(one: TopicPartition) -> bool:
        return matcher(one.topic) and partition in (None, one.partition)

    def total() -> int:
        return total_bytes(list(Outcome().targets(paths)), matcher, partition)

    found: list[PartitionRecovery] = []
    with progress("recover", total, quiet=quiet) as advance:
        fs = file_system(dry_run=dry_run)
        recoverer = Recoverer(fs, cut_damage=cut_damage, on_read=advance)
        for target in outcome.targets(paths):
            with outcome.reported(target.path):
                warn_of_young(fs, target, quiet=quiet)
                for one in _recovered(recoverer, target, wanted, locate(fs, target.path)):
                    found.append(one)
                    _report(outcome, one)
                    if not as_json:
                        print_lines(_lines(one, dry_run))
    if as_json:
        print_object(_object(found, recoverer.directories, dry_run))
    else:
        print_lines(line for one in recoverer.directories for line in _directory_lines(one, dry_run, quiet))
    return outcome.exit_code


def _recovered(recoverer: Recoverer, target: Target, wanted: Any, place: Path) -> Iterator[PartitionRecovery]:
    if isinstance(target, LogDirectoryFiles):
        yield from recoverer.recover_all(target.path, wanted)
    elif isinstance(target, PartitionFiles):
        yield recoverer.recover_partition(place)
    else:
        raise LogstoreError("is neither a partition directory nor a log directory", path=target.path)


def _report(outcome: Outcome, one: PartitionRecovery) -> None:
    if one.damage is not None:
        outcome.has_damage = True
        say(error_text(one.damage))
    if one.error is not None:
        outcome.has_failed = True
        say(error_text(one.error))


def _state(one: PartitionRecovery) -> str:
    if one.error is not None:
        return "failed"
    if one.damage is not None:
        return "cut" if one.is_complete else "damaged"
    return "recovered" if one.actions or not one.was_clean else "clean"


def _lines(one: PartitionRecovery, dry_run: bool) -> Iterator[str]:
    state = _state(one)
    would = "would be " if dry_run else ""
    sentence = {
        "failed": "could not be recovered",
        "damaged": "DAMAGED, left as it is",
        "cut": f"DAMAGED, {would}cut",
        "recovered": f"{would}recovered",
        "clean": "clean, nothing to do",
    }[state]
    ends = "" if one.ends is None else f", offsets {one.ends.log_start_offset} to {one.ends.log_end_offset} (next)"
    yield f"{one.path}: {sentence}{ends}"
    for action in one.actions:
        yield f"  {action.kind} {action.path.name}: {action.detail}"


def _directory_lines(one: DirectoryRecovery, dry_run: bool, quiet: bool) -> Iterator[str]:
    would = "would be " if dry_run else ""
    if one.is_clean:
        state = "shut down cleanly" if one.was_clean else f"{would}marked as shut down cleanly"
    else:
        state = f"not marked as shut down cleanly: {one.unclean_because}"
    yield f"{one.path}: {state}"
    if one.set_aside and not quiet:
        yield f"  {len(one.set_aside)} directories set aside were not looked at; name one to recover it"


def _object(found: list[PartitionRecovery], directories: list[DirectoryRecovery], dry_run: bool) -> dict[str, Any]:
    states = [_state(one) for one in found]
    counts = {state: states.count(state) for state in ("clean", "recovered", "cut", "damaged", "failed")}
    return {
        "dry_run": dry_run,
        "partitions": [_partition_object(one) for one in found],
        "log_directories": [
            {
                "path": str(one.path),
                "was_clean": one.was_clean,
                "is_clean": one.is_clean,
                "unclean_because": one.unclean_because,
                "set_aside": [path.name for path in one.set_aside],
            }
            for one in directories
        ],
        "summary": {"partitions": len(found), **counts, "cut_bytes": sum(one.cut for one in found)},
    }


def _partition_object(one: PartitionRecovery) -> dict[str, Any]:
    return {
        **identity(one.path),
        "state": _state(one),
        "was_clean": one.was_clean,
        "log_start_offset": None if one.ends is None else one.ends.log_start_offset,
        "log_end_offset": None if one.ends is None else one.ends.log_end_offset,
        "cut_bytes": one.cut,
        "kept_aside": [str(path) for path in one.kept_aside],
        "actions": [
            {"action": action.kind, "path": str(action.path), "detail": action.detail} for action in one.actions
        ],
        "damage": error_object(one.damage),
        "error": error_object(one.error),
    }
