"""`logstore compact`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from logstore.cleaner import CleaningStats
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.inspect import LogDirectoryFiles, PartitionFiles, Target
from logstore.names import TopicPartition
from logstore.repair import CompactOptions, Compactor, PartitionCompaction, locate
from logstore.repair.compact import MAP_MEMORY
from logstore_cli.options import Outcome, parse_size, parse_span, parse_time, progress, say, topic_matcher, total_bytes
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
  logstore compact --dry-run orders-3
  logstore compact orders-3
  logstore compact --topic '__consumer_offsets' /var/lib/kafka/data
  logstore compact --output /backup/compacted --json orders-3
  logstore compact --min-dirty-ratio 0.5 --throttle 50MiB /var/lib/kafka/data
"""
_SUMS = (
    "records_before", "records_after", "bytes_before", "bytes_after", "segments_before", "segments_after", "superseded",
    "tombstones_expired", "unkeyed", "aborted", "markers_dropped",
)  # fmt: skip


@click.command("compact", epilog=EPILOG)
@selecting_options
@writing_options
@force_option
@click.option("--min-dirty-ratio", type=click.FloatRange(0, 1), metavar="F", help="Only logs that are dirtier.")
@click.option("--min-compaction-lag", type=parse_span, metavar="T", help="Leave what is younger: 90s, 2h, 7d, or ms.")
@click.option("--max-compaction-lag", type=parse_span, metavar="T",
              help="Also logs with an older dirty record, whatever their dirty ratio.")  # fmt: skip
@click.option("--delete-retention", type=parse_span, metavar="T", help="How long tombstones stay once they are clean.")
@click.option("--map-memory", type=parse_size, default=MAP_MEMORY, show_default="128MiB", metavar="SIZE",
              help="Memory for the map of keys, 32 bytes a key; with too little, more rounds.")  # fmt: skip
@click.option("--segment-bytes", type=parse_size, metavar="SIZE", help="How large merged segments become.")
@click.option("--throttle", type=parse_size, metavar="SIZE", help="Read and write at most so many bytes a second.")
@click.option("--include-active", is_flag=True, help="Seal the active segment, and compact it with the others.")
@click.option("--drop-unkeyed", is_flag=True, help="Let records without a key go; otherwise a log with some is left.")
@click.option("--now", type=parse_time, metavar="T", help="The time that ages are reckoned from.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR",
              help="Write compacted copies into DIR, and leave the sources as they are.")  # fmt: skip
@click.option("--no-verify", is_flag=True, help="Do not compare the newest value of every key before and after.")
def command(
    paths: tuple[Path, ...], topics: tuple[str, ...], partition: int | None, as_json: bool, dry_run: bool, quiet: bool,
    force: bool, min_dirty_ratio: float | None, min_compaction_lag: int | None, max_compaction_lag: int | None,
    delete_retention: int | None, map_memory: int, segment_bytes: int | None, throttle: int | None,
    include_active: bool, drop_unkeyed: bool, now: int | None, output: Path | None, no_verify: bool,
) -> int:  # fmt: skip
    """Keep the last record of each key, and drop those that it supersedes.

    A partition directory that is named itself is compacted, now. In a log directory only what is known to be compacted
    is: by the topics' configuration in `__cluster_metadata`, by the cleaner's checkpoint, Kafka's own offsets and
    transactions, or by --topic. Offsets never change. Of a partition with damage nothing is changed: exit code 1. One
    that has records without a key is left alone: exit code 3.
    """
    options = CompactOptions(
        min_dirty_ratio=min_dirty_ratio, min_compaction_lag_ms=min_compaction_lag,
        max_compaction_lag_ms=max_compaction_lag, delete_retention_ms=delete_retention, segment_bytes=segment_bytes,
        map_memory=map_memory, bytes_per_second=math.inf if throttle is None else throttle,
        includes_active=include_active, drops_unkeyed=drop_unkeyed, now_ms=now, verifies=not no_verify, force=force,
        output=output, dry_run=dry_run,
    )  # fmt: skip
    try:
        options.on(LogConfig())
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if throttle == 0:
        raise click.BadParameter("nothing can be done at 0 bytes a second", param_hint="--throttle")
    if include_active and not quiet:
        say("the active segment is compacted too, which Kafka's cleaner never does: even the newest records thin out")
    run = _Run(options, topics, partition, quiet=quiet, as_json=as_json)
    return run.run(paths)


class _Run:
    """One call of the command."""

    def __init__(
        self, options: CompactOptions, topics: tuple[str, ...], partition: int | None, *, quiet: bool, as_json: bool
    ) -> None:
        self._options = options
        self._topics = topics
        self._partition = partition
        self._quiet = quiet
        self._as_json = as_json
        self._matcher = topic_matcher(topics)
        self._outcome = Outcome()
        self._found: list[PartitionCompaction] = []

    def run(self, paths: tuple[Path, ...]) -> int:
        """Compact what the paths name; the exit code."""
        outcome = self._outcome
        with progress("compact", lambda: self._total(paths), quiet=self._quiet) as advance:
            fs = file_system(dry_run=self._options.dry_run)
            compactor = Compactor(fs, self._options, on_progress=advance)
            for target in outcome.targets(paths):
                with outcome.reported(target.path):
                    warn_of_young(fs, target, quiet=self._quiet)
                    for one in self._compacted(compactor, target, locate(fs, target.path)):
                        self._take(one)
        if self._as_json:
            print_object(_object(self._found, self._options.dry_run))
        return outcome.exit_code

    def _total(self, paths: tuple[Path, ...]) -> int:
        """Bytes that will be read: twice by the cleaner, about three times more to compare what was with what is."""
        passes = 5 if self._options.verifies and not self._options.dry_run else 2
        return passes * total_bytes(list(Outcome().targets(paths)), self._matcher, self._partition)

    def _compacted(self, compactor: Compactor, target: Target, place: Path) -> Iterator[PartitionCompaction]:
        if isinstance(target, LogDirectoryFiles):
            chosen, left = compactor.choose(target.path, self._is_wanted, are_named=bool(self._topics))
            for path, reason in left.items():
                yield PartitionCompaction(path, left_alone=reason)
            yield from compactor.compact_all(target.path, chosen)
        elif isinstance(target, PartitionFiles):
            try:
                yield compactor.compact_partition(place)
            except DamagedLogError as error:
                yield PartitionCompaction(place, error=error)
        else:
            raise LogstoreError("is neither a partition directory nor a log directory", path=target.path)

    def _is_wanted(self, one: TopicPartition) -> bool:
        return self._matcher(one.topic) and self._partition in (None, one.partition)

    def _take(self, one: PartitionCompaction) -> None:
        self._found.append(one)
        if isinstance(one.error, DamagedLogError):
            self._outcome.has_damage = True
        elif one.error is not None:
            self._outcome.has_failed = True
        if one.error is not None:
            say(error_text(one.error))
        if one.recovered is not None and not self._quiet:
            for action in one.recovered.actions:
                say(f"{action.path}: {action.kind}: {action.detail}")
        if not self._as_json:
            print_lines(_lines(one, self._options.dry_run))


def _state(one: PartitionCompaction) -> str:
    if one.error is not None:
        return "damaged" if isinstance(one.error, DamagedLogError) else "failed"
    if one.left_alone is not None:
        return "left alone"
    return "compacted" if any(stats.has_changed for stats in one.rounds) else "nothing to do"


def _sums(rounds: tuple[CleaningStats, ...]) -> dict[str, int]:
    """What all rounds come to: counts are added. The last round has gone through all that there is after it; before it
    there was as much more as the earlier rounds have taken away."""
    sums = {name: sum(getattr(stats, name) for stats in rounds) for name in _SUMS}
    for what in ("records", "bytes", "segments") if rounds else ():
        before, after = f"{what}_before", f"{what}_after"
        sums[after] = getattr(rounds[-1], after)
        sums[before] = getattr(rounds[-1], before) + sum(
            getattr(stats, before) - getattr(stats, after) for stats in rounds[:-1]
        )
    return sums


def _lines(one: PartitionCompaction, dry_run: bool) -> Iterator[str]:
    state, would = _state(one), "would be " if dry_run else ""
    if state in ("damaged", "failed"):
        yield f"{one.path}: {'DAMAGED, left as it is' if state == 'damaged' else 'could not be compacted'}"
        return
    if state == "left alone":
        yield f"{one.path}: left alone, {one.left_alone}"
        return
    sums, last = _sums(one.rounds), one.rounds[-1]
    if state == "nothing to do":
        yield f"{one.path}: nothing to compact, {sums['records_after']} records stay"
        return
    to = "" if one.output is None else f" into {one.output}"
    saved = sums["bytes_before"] - sums["bytes_after"]
    share = 100 * saved / sums["bytes_before"] if sums["bytes_before"] else 0.0
    yield (
        f"{one.path}: {would}compacted{to}: {saved} of {sums['bytes_before']} bytes reclaimed ({share:.1f} %),"
        f" {sums['records_after']} of {sums['records_before']} records stay"
    )
    yield (
        f"  offsets {one.rounds[0].first_dirty_offset} to {last.end_offset} in {len(one.rounds)}"
        f" round{'s' * (len(one.rounds) > 1)}, {sum(stats.map_keys for stats in one.rounds)} keys;"
        f" segments {sums['segments_before']} to {sums['segments_after']}"
    )
    yield (
        f"  went: {sums['superseded']} superseded, {sums['tombstones_expired']} expired tombstones,"
        f" {sums['aborted']} of aborted transactions, {sums['unkeyed']} without a key,"
        f" {sums['markers_dropped']} markers; {last.tombstones_kept} tombstones stay"
    )
    if one.verified is not None:
        yield f"  verified: {one.verified.values} keys have the value that they had"


def _object(found: list[PartitionCompaction], dry_run: bool) -> dict[str, Any]:
    states = [_state(one) for one in found]
    names = ("compacted", "nothing to do", "left alone", "damaged", "failed")
    sums = [_sums(one.rounds) for one in found]
    return {
        "dry_run": dry_run,
        "partitions": [_partition_object(one) for one in found],
        "summary": {
            "partitions": len(found),
            **{name.replace(" ", "_"): states.count(name) for name in names},
            **{name: sum(one[name] for one in sums) for name in _SUMS},
            "bytes_reclaimed": sum(one["bytes_before"] - one["bytes_after"] for one in sums),
        },
    }


def _partition_object(one: PartitionCompaction) -> dict[str, Any]:
    rounds, sums = one.rounds, _sums(one.rounds)
    return {
        **identity(one.path),
        "state": _state(one),
        "output": None if one.output is None else str(one.output),
        "left_alone": one.left_alone,
        "reasons": [] if one.cleanability is None else list(one.cleanability.reasons),
        "log_start_offset": None if one.ends is None else one.ends.log_start_offset,
        "log_end_offset": None if one.ends is None else one.ends.log_end_offset,
        "first_dirty_offset": rounds[0].first_dirty_offset if rounds else None,
        "end_offset": rounds[-1].end_offset if rounds else None,
        "uncleanable_offset": rounds[-1].uncleanable_offset if rounds else None,
        **sums,
        "bytes_reclaimed": sums["bytes_before"] - sums["bytes_after"],
        "tombstones_kept": rounds[-1].tombstones_kept if rounds else 0,
        "keys": sum(stats.map_keys for stats in rounds),
        "rounds": [_round_object(stats) for stats in rounds],
        "verified": one.verified is not None,
        "error": error_object(one.error),
    }


def _round_object(stats: CleaningStats) -> dict[str, Any]:
    names = (
        "first_dirty_offset", "end_offset", "map_keys", "map_capacity", "map_bytes", "bytes_read", "bytes_before",
        "bytes_after", "records_before", "records_after", "batches_verbatim", "batches_reencoded", "batches_emptied",
        "batches_dropped", "batches_stamped", "batches_converted", "segments_before", "segments_after",
        "segments_untouched", "groups",
    )  # fmt: skip
    seconds = {"map_seconds": round(stats.map_seconds, 3), "rewrite_seconds": round(stats.rewrite_seconds, 3)}
    return {**{name: getattr(stats, name) for name in names}, **seconds}
