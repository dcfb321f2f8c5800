"""`logstore check`."""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import Any

import click

from logstore.inspect import CheckOptions, Finding, Severity, check, printable
from logstore_cli.options import Outcome, common_options, progress, topic_matcher, total_bytes

COLORS = {Severity.DAMAGE: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}

EPILOG = """\b
Examples:
  logstore check /var/lib/kafka/data
  logstore check --json --fail-on warning orders-3 | jq .code

Every code is explained in docs/damage.md.
"""


@click.command("check", epilog=EPILOG)
@common_options
@click.option(
    "--fail-on",
    type=click.Choice(["damage", "warning"]),
    default="damage",
    show_default=True,
    help="What makes exit code 1.",
)
def command(
    paths: tuple[Path, ...], as_json: bool, topics: tuple[str, ...], partition: int | None, quiet: bool,
    max_batch_bytes: int, fail_on: str,
) -> int:  # fmt: skip
    """Find everything that is wrong.

    Looks at batches, indexes, snapshots, checkpoints and names, and tells damage from what running, killed and
    compacted logs look like. Changes nothing. Exit code 1 if there is damage.
    """
    outcome = Outcome()
    counts: collections.Counter[Severity] = collections.Counter()
    matcher = topic_matcher(topics)

    def total() -> int:
        return total_bytes(list(Outcome().targets(paths)), matcher, partition)

    with progress("check", total, quiet=quiet) as advance:
        options = CheckOptions(batch_bytes_max=max_batch_bytes, topic=matcher, partition=partition, progress=advance)
        for target in outcome.targets(paths):
            with outcome.reported(target.path):
                for found in check(target, options):
                    counts[found.severity] += 1
                    outcome.has_failed |= found.code == "unreadable"
                    if not (quiet and found.severity == Severity.NOTE and not as_json):
                        print(_line(found, as_json))
    outcome.has_damage = bool(counts[Severity.DAMAGE] or (fail_on == "warning" and counts[Severity.WARNING]))
    totals = {name: getattr(options.totals, name) for name in ("partitions", "segments", "batches", "records", "bytes")}
    numbers = {severity.value: counts[severity] for severity in Severity}
    if as_json:
        print(json.dumps({"summary": {**numbers, **totals}}))
    elif not quiet:
        print(_summary(numbers, totals))
    return outcome.exit_code


def _line(found: Finding, as_json: bool) -> str:
    if as_json:
        return json.dumps(found.as_json(), ensure_ascii=True)
    place = "" if found.position is None else f" position {found.position}"
    place += "" if found.offset is None else f" offset {found.offset}"
    word = _colored(found.severity.value, COLORS[found.severity])
    remedy = "" if found.severity == Severity.NOTE else f"\n    remedy: {found.remedy}"
    return f"{word} {found.code}: {printable(str(found.path))}{place}: {printable(found.message)}{remedy}"


def _summary(numbers: dict[str, int], totals: dict[str, Any]) -> str:
    what = ", ".join(f"{count} {name}" for name, count in totals.items())
    return f"{numbers['damage']} damage, {numbers['warning']} warnings, {numbers['note']} notes in {what}"


def _colored(text: str, color: str) -> str:
    import os

    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=color, bold=True) if wanted else text
