"""`logstore retain`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from logstore.config import INT64_MAX, LogConfig
from logstore.errors import (
    CorruptCheckpointError,
    CorruptRecordError,
    DamagedLogError,
    InvalidRecordError,
    LogstoreError,
)
from logstore.inspect import LogDirectoryFiles, PartitionFiles, Target
from logstore.names import TopicPartition, log_file_name
from logstore.repair import Limits, PartitionRetention, Retainer, locate
from logstore.retention import Decision, Rule, Stay
from logstore_cli.describe import moment
from logstore_cli.options import Outcome, parse_size, parse_time, say, topic_matcher
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
  logstore retain --dry-run /var/lib/kafka/data
  logstore retain --retention-ms 604800000 orders-3
  logstore retain --retention-bytes 10GiB --topic 'orders*' /var/lib/kafka/data
"""

_DAMAGE = (DamagedLogError, CorruptRecordError, InvalidRecordError, CorruptCheckpointError)
_REASONS = {
    Rule.LOG_START: "below the log start",
    Rule.SIZE: "the log is large enough without it",
    Rule.TIME: "too old",
    Stay.HIGH_WATERMARK: "due, but not all of it is replicated",
    Stay.POLICY: "its cleanup.policy has no delete",
}


class Work(NamedTuple):
    """What a PATH comes to: the partitions to do, and those in a log directory that are left alone."""

    target: Target
    place: Path
    chosen: list[Path]
    left: list[Path]


def parse_limit(value: str | int) -> int:
    """Bytes, as `parse_size`, or -1 for none. Raises click.BadParameter."""
    size = -1 if str(value).strip() == "-1" else parse_size(value)
    if size > INT64_MAX:
        raise click.BadParameter(f"{value!r} is more than {INT64_MAX}")
    return size


@click.command("retain", epilog=EPILOG)
@selecting_options
@writing_options
@click.option(
    "--retention-ms",
    type=click.IntRange(-1, INT64_MAX),
    metavar="N",
    help="A segment goes when its newest record is older; -1: no limit. Default: the topic's own setting.",
)
@click.option(
    "--retention-bytes",
    type=parse_limit,
    metavar="SIZE",
    help="The oldest segments go while a log stays this large without them; -1: no limit. Default: the topic's own.",
)
@click.option("--now", type=parse_time, metavar="TIME", help="The time that ages are reckoned from. Default: now.")
@force_option
def command(
    paths: tuple[Path, ...], topics: tuple[str, ...], partition: int | None, as_json: bool, dry_run: bool, quiet: bool,
    retention_ms: int | None, retention_bytes: int | None, now: int | None, force: bool,
) -> int:  # fmt: skip
    """Delete old segments.

    PATH is a partition directory or a log directory. A limit is one that is given, or that the topic has in the
    `__cluster_metadata` of its log directory; without one nothing is done. In a log directory what is internal or
    compacted is left alone, unless its configuration says `delete`. Exit code 1 if a partition could not be done.
    """
    outcome = Outcome()
    matcher = topic_matcher(topics)
    fs = file_system(dry_run=dry_run)
    retainer = Retainer(fs, Limits(retention_ms, retention_bytes), now_ms=now, force=force)

    def wanted(one: TopicPartition) -> bool:
        return matcher(one.topic) and partition in (None, one.partition)

    works: list[Work] = []
    for target in outcome.targets(paths):
        with _reported(outcome, target.path):
            works.append(_planned(retainer, target, locate(fs, target.path), wanted))
    found: list[PartitionRetention] = []
    for work in works:
        with _reported(outcome, work.target.path):
            warn_of_young(fs, work.target, quiet=quiet)
            for one in _retained(retainer, work):
                found.append(one)
                if one.error is not None:
                    outcome.has_damage = True  # the others have been done
                    say(error_text(one.error))
                if not as_json:
                    print_lines(_lines(one, dry_run))
            if not quiet:
                _note(work)
    if as_json:
        print_object(_object(found, works, dry_run, retainer.now_ms))
    return outcome.exit_code


@contextlib.contextmanager
def _reported(outcome: Outcome, path: Path) -> Iterator[None]:
    """Report what goes wrong with a PATH, damage as damage, and go on."""
    with outcome.reported(path):
        try:
            yield
        except _DAMAGE as error:
            outcome.has_damage = True
            say(error_text(error))


def _planned(retainer: Retainer, target: Target, place: Path, wanted: Callable[[TopicPartition], bool]) -> Work:
    """What is to be done for a PATH, before anything is. Raises click.UsageError where no limit is known."""
    if isinstance(target, LogDirectoryFiles):
        work = Work(target, target.path, *retainer.choose(target.path, wanted))
        has_limit = bool(work.chosen) or retainer.limits.are_given
    elif isinstance(target, PartitionFiles):
        work = Work(target, place, [place], [])
        has_limit = retainer.has_limit(place)
    else:
        raise LogstoreError("is neither a partition directory nor a log directory", path=target.path)
    if not has_limit:
        raise click.UsageError(
            f"{target.path}: no limit is known from a topic's configuration; give --retention-ms or --retention-bytes"
        )
    return work


def _retained(retainer: Retainer, work: Work) -> Iterator[PartitionRetention]:
    if isinstance(work.target, LogDirectoryFiles):
        yield from retainer.retain_all(work.place, work.chosen)
    else:
        yield retainer.retain_partition(work.place)


# ---- for people


def _note(work: Work) -> None:
    if work.left:
        say(f"{work.place}: {len(work.left)} partitions were left alone: no limit, or not for retention")
    if isinstance(work.target, LogDirectoryFiles) and work.target.set_aside:
        say(f"{work.place}: {len(work.target.set_aside)} directories set aside were not looked at")


def _lines(one: PartitionRetention, dry_run: bool) -> Iterator[str]:
    plan = one.plan
    if plan is None:
        yield f"{one.path}: could not be done, left as it is"
        return
    going = [decision for decision in plan.decisions if decision.goes]
    staying = plan.decisions[len(going) :]
    if going:
        verb, start = ("would delete", "would start") if dry_run else ("deleted", "starts")
        yield f"{one.path}: {verb} {len(going)} segments, {plan.size} bytes; the log {start} at {plan.log_start_offset}"
        for decision in going:
            yield f"  delete {_described(decision)}"
    else:
        size = sum(decision.segment.size for decision in staying)
        yield f"{one.path}: nothing to delete in {len(staying)} segments, {size} bytes"
    if staying and staying[0].reason in _REASONS:
        yield f"  keep {_described(staying[0])}"
    elif staying:
        times = [] if plan.next_due_ms is None else [f"after {moment(plan.next_due_ms)}"]
        sizes = [] if plan.next_due_bytes is None else [f"with {plan.next_due_bytes} more bytes of log"]
        if times or sizes:
            yield f"  next {log_file_name(staying[0].segment.base_offset)}: {' or '.join(times + sizes)}"


def _described(decision: Decision) -> str:
    segment, reason = decision
    newest = f", newest {moment(segment.largest_timestamp)}" if reason is Rule.TIME else ""
    offsets = f"offsets {segment.base_offset} to {segment.end_offset - 1}"
    return f"{log_file_name(segment.base_offset)}: {offsets}, {segment.size} bytes{newest}: {_REASONS[reason]}"


# ---- for programs


def _object(found: list[PartitionRetention], works: list[Work], dry_run: bool, now_ms: int) -> dict[str, Any]:
    objects = [_partition_object(one) for one in found]
    deleted = [segment for one in objects for segment in one["segments"] if segment["deleted"]]
    return {
        "dry_run": dry_run,
        "now": now_ms,
        "partitions": objects,
        "left_alone": [str(path) for work in works for path in work.left],
        "summary": {
            "partitions": len(found),
            "failed": sum(one.error is not None for one in found),
            "deleted_segments": len(deleted),
            "deleted_bytes": sum(segment["bytes"] for segment in deleted),
        },
    }


def _partition_object(one: PartitionRetention) -> dict[str, Any]:
    plan = one.plan
    going = () if plan is None else plan.going
    return {
        **identity(one.path),
        **_limits_object(one.config),
        "log_start_offset_before": None if one.before is None else one.before.log_start_offset,
        "log_start_offset": None if plan is None else plan.log_start_offset,
        "log_end_offset": None if one.before is None else one.before.log_end_offset,
        "deleted_segments": len(going),
        "deleted_bytes": sum(segment.size for segment in going),
        "next_due": None if plan is None else plan.next_due_ms,
        "next_due_bytes": None if plan is None else plan.next_due_bytes,
        "segments": [
            {
                "base_offset": decision.segment.base_offset,
                "end_offset": decision.segment.end_offset,
                "bytes": decision.segment.size,
                "largest_timestamp": decision.segment.largest_timestamp,
                "deleted": decision.goes,
                "reason": str(decision.reason),
            }
            for decision in (() if plan is None else plan.decisions)
        ],
        "error": error_object(one.error),
    }


def _limits_object(config: LogConfig | None) -> dict[str, Any]:
    if config is None:
        return {"retention_ms": None, "retention_bytes": None, "cleanup_policy": None}
    limits = {"retention_ms": config.retention_ms, "retention_bytes": config.retention_bytes}
    shown = {name: None if limit < 0 else limit for name, limit in limits.items()}
    return {**shown, "cleanup_policy": ",".join(sorted(config.cleanup_policy))}
