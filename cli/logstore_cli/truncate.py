"""`logstore truncate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from logstore.errors import DamagedLogError, LogstoreError, OffsetOutOfRangeError
from logstore.inspect import PartitionFiles, resolve
from logstore.repair import Truncation, locate, truncate
from logstore_cli.options import Outcome, complete_path, parse_path, progress, say, total_bytes
from logstore_cli.writing import (
    error_text,
    file_system,
    force_option,
    identity,
    print_lines,
    print_object,
    warn_of_young,
    writing_options,
)

EPILOG = """\b
Examples:
  logstore truncate --to 1500 --dry-run orders-3
  logstore truncate --to 1500 orders-3
"""


@click.command("truncate", epilog=EPILOG)
@click.argument("path", type=parse_path, shell_complete=complete_path, metavar="PARTITION_DIR")
@click.option(
    "--to", "offset", type=click.IntRange(min=0), required=True, metavar="OFFSET", help="The first offset that goes."
)
@writing_options
@force_option
def command(path: Path, offset: int, as_json: bool, dry_run: bool, quiet: bool, force: bool) -> int:
    """Drop all records from an offset on.

    What is dropped is gone; --dry-run says how much that is. A batch with the offset in its middle goes as a whole.
    OFFSET must be in the log, or be its end.
    """
    outcome = Outcome()
    with outcome.reported(path):
        target = resolve(path)
        if not isinstance(target, PartitionFiles):
            raise LogstoreError("is not a partition directory", path=path)
        fs = file_system(dry_run=dry_run)
        place = locate(fs, path)
        warn_of_young(fs, target, quiet=quiet)
        with progress("truncate", lambda: total_bytes([target], lambda _: True, None), quiet=quiet) as advance:
            try:
                found = truncate(fs, place, offset, force=force, on_read=advance)
            except OffsetOutOfRangeError as error:
                raise click.BadParameter(f"{offset} is not in the log: {error.reason}", param_hint="--to") from None
            except DamagedLogError as error:
                outcome.has_damage = True
                say(error_text(error))
                return outcome.exit_code
        _note(found, quiet)
        if as_json:
            print_object(_object(found, dry_run))
        else:
            print_lines(_lines(found, dry_run))
    return outcome.exit_code


def _note(found: Truncation, quiet: bool) -> None:
    if found.split is not None:
        first, last = found.split
        say(f"{found.path}: offset {found.offset} lies within the batch of {first} to {last}, which goes as a whole")
    if found.recovered is not None and not quiet:
        for action in found.recovered.actions:
            say(f"{action.path}: {action.kind}: {action.detail}")


def _lines(found: Truncation, dry_run: bool) -> Iterator[str]:
    if not found.size:
        yield f"{found.path}: nothing to drop, the next offset is {found.end}"
        return
    what = "what is damaged" if found.records is None else f"{found.records} records in {found.batches} batches"
    verb = "would drop" if dry_run else "dropped"
    yield (
        f"{found.path}: {verb} {what}, {found.size} bytes, {found.segments} whole segments;"
        f" the next offset {'would be' if dry_run else 'is'} {found.end}"
    )


def _object(found: Truncation, dry_run: bool) -> dict[str, Any]:
    return {
        **identity(found.path),
        "dry_run": dry_run,
        "to": found.offset,
        "log_start_offset": found.log_start_offset,
        "log_end_offset_before": found.end_before,
        "log_end_offset": found.end,
        "segments": found.segments,
        "bytes": found.size,
        "batches": found.batches,
        "records": found.records,
        "split_batch": None if found.split is None else list(found.split),
    }
