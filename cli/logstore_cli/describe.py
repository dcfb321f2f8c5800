"""`logstore describe`."""

from __future__ import annotations

import datetime
import json
from collections import Counter
from pathlib import Path

import click

from logstore.errors import CorruptCheckpointError, CorruptIndexError, CorruptSnapshotError
from logstore.inspect import DescribeOptions, Description, PartitionDescription, describe, printable
from logstore_cli.options import Outcome, common_options, progress, say, topic_matcher, total_bytes

EPILOG = """\b
Examples:
  logstore describe /var/lib/kafka/data
  logstore describe --topic 'orders*' /var/lib/kafka/data
  logstore describe --json orders-3
"""


@click.command("describe", epilog=EPILOG)
@common_options
def command(
    paths: tuple[Path, ...],
    as_json: bool,
    topics: tuple[str, ...],
    partition: int | None,
    quiet: bool,
    max_batch_bytes: int,
) -> int:
    """Say what a path holds, on one screen.

    Topics, partitions, segments, offsets, records, bytes, times, codecs, message formats, producers and transactions,
    leader epochs, clean and dirty part, and how the broker was shut down.
    """
    outcome = Outcome()
    matcher = topic_matcher(topics)

    def total() -> int:
        return total_bytes(list(Outcome().targets(paths)), matcher, partition)

    with progress("describe", total, quiet=quiet) as advance:
        options = DescribeOptions(batch_bytes_max=max_batch_bytes, topic=matcher, partition=partition, progress=advance)
        for target in outcome.targets(paths):
            with outcome.reported(target.path):
                try:
                    found = describe(target, options)
                except (CorruptCheckpointError, CorruptIndexError, CorruptSnapshotError) as error:
                    outcome.has_damage = True
                    say(error)
                    continue
                for problem in (*found.errors, *found.unreadable_files):
                    if not isinstance(problem, OSError):
                        say(problem)
                outcome.has_damage |= found.damages > 0
                outcome.has_failed |= bool(found.unreadable_files)
                print(json.dumps(found.as_json(), ensure_ascii=True) if as_json else text(found))
    return outcome.exit_code


def text(found: Description) -> str:
    """The description as a screen of text."""
    if found.entries is not None:
        ends = [
            f"  {word:<8}" + printable(" ".join(f"{key}={value}" for key, value in entry.items()))
            for word, entry in (("first", found.first_entry), ("last", found.last_entry))
            if entry
        ]
        return "\n".join([f"{printable(str(found.path))}: {found.kind}, {found.entries} entries", *ends])
    if found.kind != "log directory":
        return _partition(found.partitions[0], found)
    lines = [f"{printable(str(found.path))}: log directory, shutdown {found.shutdown}"]
    lines += [f"  {key} {value}" for key, value in sorted(found.properties.items()) if key != "version"]
    for what, names in (("set aside", found.set_aside), ("not a partition", found.foreign)):
        if names:
            shown = printable(", ".join(names[:5]))
            lines.append(f"  {what}: {shown}{' …' if len(names) > 5 else ''} ({len(names)})")
    lines += ["", *_table(found.partitions)]
    return "\n".join(lines)


def _table(partitions: list[PartitionDescription]) -> list[str]:
    head = ("PARTITION", "SEGMENTS", "OFFSETS", "RECORDS", "BYTES", "CODECS", "FORMATS", "LAST RECORD", "")
    rows = [head, *map(_row, partitions)]
    segments = sum(one.segments for one in partitions)
    records = sum(one.records for one in partitions)
    log_bytes = size(sum(one.log_bytes for one in partitions))
    rows.append((f"{len(partitions)} partitions", str(segments), "", str(records), log_bytes, "", "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    aligned = [">" if column in (1, 3, 4) else "<" for column in range(len(head))]
    layout = "  ".join(f"{{:{align}{width}}}" for align, width in zip(aligned, widths, strict=True))
    return [layout.format(*row).rstrip() for row in rows]


def _row(one: PartitionDescription) -> tuple[str, ...]:
    return (
        printable(f"{one.topic}-{one.partition}"),
        str(one.segments),
        f"{one.log_start_offset}..{one.log_end_offset}",
        str(one.records),
        size(one.log_bytes),
        _names(one.codecs),
        _names(one.formats),
        moment(one.last_timestamp),
        _remarks(one),
    )


def _remarks(one: PartitionDescription) -> str:
    remarks = []
    if one.damages:
        remarks.append(f"{one.damages} DAMAGED")
    if one.unreadable_files:
        remarks.append(f"{len(one.unreadable_files)} UNREADABLE")
    if one.dirty_ratio is not None:
        remarks.append(f"dirty {one.dirty_ratio:.0%}")
    if one.transactions_open:
        remarks.append(f"{one.transactions_open} open transactions")
    return ", ".join(remarks)


def _partition(one: PartitionDescription, found: Description) -> str:
    name = "" if one.topic is None else " " + printable(f"{one.topic}-{one.partition}")
    control = f" and {one.control_records} control records" if one.control_records else ""
    rows: list[tuple[str, str]] = [
        *sorted(found.properties.items()),
        ("shutdown", found.shutdown),
        ("segments", f"{one.segments}, {size(one.log_bytes)} of log, {size(one.index_bytes)} of indexes"),
        ("offsets", f"{one.log_start_offset} to {one.log_end_offset} (next)"),
        ("records", f"{one.records}{control} in {one.batches} batches"),
        (
            "times",
            f"{moment(one.first_timestamp)} to {moment(one.last_timestamp)} ({_names(one.timestamp_types) or 'none'})",
        ),
        ("codecs", _counts(one.codecs)),
        ("formats", _counts(one.formats)),
    ]
    if one.producers:
        transactions = (
            f"{one.transactions_committed} committed, {one.transactions_aborted} aborted, {one.transactions_open} open"
        )
        rows += [("producers", str(one.producers)), ("transactions", transactions)]
    if one.leader_epochs:
        shown = ", ".join(f"{epoch} from {start}" for epoch, start in one.leader_epochs[-4:])
        rows.append(("leader epochs", shown if len(one.leader_epochs) <= 4 else f"… {shown}"))
    checkpoints = [("high watermark", one.high_watermark), ("recovery point", one.recovery_point)]
    if shown := ", ".join(f"{what} {offset}" for what, offset in checkpoints if offset is not None):
        rows.append(("checkpoints", shown))
    if one.dirty_ratio is not None and one.clean_bytes is not None and one.dirty_bytes is not None:
        parts = f"{size(one.clean_bytes)} clean, {size(one.dirty_bytes)} dirty"
        rows.append(("compaction", f"cleaned up to {one.cleaner_offset}, {parts}, ratio {one.dirty_ratio:.2f}"))
    if one.leftovers:
        rows.append(("leftovers", f"{one.leftovers} files"))
    if one.damages or one.unread_batches:
        rows.append(("DAMAGE", f"{one.damages} places, {one.unread_batches} unreadable batches; see `logstore check`"))
    if one.unreadable_files:
        rows.append(("UNREADABLE", f"{len(one.unreadable_files)} files, which the operating system does not give"))
    return "\n".join(
        [f"{printable(str(one.path))}: {found.kind}{name}", *(f"  {label:<14}{value}" for label, value in rows)]
    )


def _names(counts: Counter[str]) -> str:
    return ",".join(sorted(counts))


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def moment(timestamp: int | None) -> str:
    """A time in ISO 8601, or a dash."""
    if timestamp is None:
        return "-"
    try:
        return datetime.datetime.fromtimestamp(timestamp / 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(timestamp)


def size(count: int) -> str:
    """Bytes for people."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while value >= 1024 and unit != "GiB":
        value, unit = value / 1024, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
