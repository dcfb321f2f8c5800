"""`logstore append`."""

from __future__ import annotations

from pathlib import Path

import click

from logstore.config import Durability, LogConfig
from logstore.errors import LogstoreError
from logstore.fs import LocalFileSystem
from logstore.inspect import PartitionFiles, resolve
from logstore.records import Codec
from logstore.repair import locate, opened
from logstore_cli.input_records import Batches, of_stdin, record_options
from logstore_cli.options import Outcome, complete_path, parse_path, say
from logstore_cli.writing import file_system, force_option, warn_of_young

EPILOG = """\b
Examples:
  logstore append /srv/queue/orders-0 < lines
  logstore append --key-separator : --durability always --ack orders-0 < lines
  logstore dump --json orders-3 | logstore append --json copy-0
  logstore append --dry-run --json copy-0 < records.json
"""


@click.command("append", epilog=EPILOG)
@click.argument("path", type=parse_path, shell_complete=complete_path, metavar="PARTITION_DIR")
@record_options
@click.option(
    "--batch-records",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="At most so many records a batch.",
)
@click.option("--ack", is_flag=True, help="Print each offset once its record is as durable as asked.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; nothing is changed.")
@click.option("-q", "--quiet", is_flag=True, help="No notes on stderr.")
@force_option
def command(
    path: Path, as_json: bool, encoding: str, key_separator: str | None, headers: tuple[str, ...], codec: str,
    batch_records: int, durability: Durability, ack: bool, dry_run: bool, quiet: bool, force: bool,
) -> int:  # fmt: skip
    """Append records from stdin to a partition directory; it is made when it is not there.

    What stdin has so far is written as soon as nothing more comes. A directory that another process has open is
    refused. In a broker's log directory, only a partition that is there is appended to, while the broker is stopped.
    """
    batches, outcome = of_stdin(as_json, encoding, key_separator, headers, batch_records), Outcome()
    with outcome.reported(path):
        target = _target(path)
        if target is not None:
            warn_of_young(LocalFileSystem(), target, quiet=quiet)
        _append(path, batches, Codec[codec.upper()], durability, ack, dry_run, quiet, force)
    return outcome.exit_code


def _target(path: Path) -> PartitionFiles | None:
    """The partition directory that is there; None where there is nothing yet. Raises LogstoreError, OSError."""
    if not path.exists() or (path.is_dir() and all(one.name.startswith(".") for one in path.iterdir())):
        return None
    target = resolve(path)
    if not isinstance(target, PartitionFiles):
        raise LogstoreError("is not a partition directory", path=path)
    return target


def _append(
    path: Path, batches: Batches, codec: Codec, durability: Durability, ack: bool, dry_run: bool, quiet: bool,
    force: bool,
) -> None:  # fmt: skip
    count = 0
    # Whatever a dump shows can be appended again, so no timestamp is too far from the clock.
    config = LogConfig(message_timestamp_after_max_ms=2**63 - 1)
    fs = file_system(dry_run=dry_run)
    with opened(fs, locate(fs, path), config, force=force) as log:
        if log.recovered is not None and log.recovered.kept_aside and not quiet:
            kept = ", ".join(map(str, log.recovered.kept_aside))
            say(f"{path}: recovered; {log.recovered.cut} bytes were kept aside in {kept}")
        for batch in batches:
            done = log.append(batch, codec=codec, durability=durability)
            count += len(batch)
            if ack:
                print("\n".join(map(str, range(done.first_offset, done.last_offset + 1))), flush=True)
        if not quiet:
            would, be = ("would be ", "would be") if dry_run else ("", "is")
            say(f"{path}: {count} records {would}appended, the next offset {be} {log.log_end_offset}")
    if batches.error is not None:
        raise batches.error
