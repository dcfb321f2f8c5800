"""The rules by which commands take a partition for writing, and its log, opened wherever it lies.

What is in use is refused; a broker's log directory that was not shut down cleanly is for `recover` alone; a partition
that stands alone is taken as it is. Belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.fs import FileSystem
from logstore.log import Log, find_log_directory, read_facts
from logstore.names import OWN_PREFIX
from logstore.repair.held import Ends, HeldDirectory

YOUNG_MS = 60_000
"""What was changed less than this ago may belong to somebody who is still writing."""


def locate(fs: FileSystem, path: Path) -> Path:
    """A partition directory by a path that ends in its name: as it is given, or, for `.` and for a symbolic link into a
    log directory, as it is really."""
    is_named = bool(path.name) and os.pardir not in path.parts
    if is_named and (find_log_directory(fs, path) is not None or not path.is_symlink()):
        return path
    real = path.resolve()
    return path if is_named and find_log_directory(fs, real) is None else real


def youngest_file(fs: FileSystem, partition: Path, now_ms: int) -> Path | None:
    """A file of a partition that stands alone, changed so lately that somebody may still write here; None if there is
    none, or the partition is in a broker's log directory or one of our own, where locks tell."""
    if find_log_directory(fs, partition) is not None:
        return None
    found = fs.list(partition)
    if any(name.startswith(OWN_PREFIX) for name in found):
        return None
    times = {name: fs.modified_ms(partition / name) for name in found if not name.startswith(".")}
    name = max(times, key=times.__getitem__, default=None)
    return None if name is None or now_ms - times[name] >= YOUNG_MS else partition / name


def refuse_unclean(held: HeldDirectory, *, force: bool) -> None:
    """Raise LogstoreError where a broker's log directory was not shut down cleanly, unless that is overridden."""
    if held.is_broker and not held.was_clean and not force:
        raise LogstoreError(
            "this log directory was not shut down cleanly", path=held.path,
            remedy="`logstore recover` brings it back to order first; --force overrides this",
        )  # fmt: skip


@contextlib.contextmanager
def opened(
    fs: FileSystem,
    partition: Path,
    config: LogConfig | None = None,
    *,
    clock: Clock | None = None,
    force: bool = False,
) -> Iterator[Log]:
    """Open the log of a partition directory, wherever it lies; it is made where nothing is there.

    In a broker's log directory, that directory is held too, and its checkpoints and marker tell in the end what became
    of the log. `partition` is as `locate` gives it. Raises as `Log.open`, and LogstoreError as `refuse_unclean`, or for
    a partition that is not there in a broker's log directory: only its broker knows how to make one.
    """
    around = find_log_directory(fs, partition)
    if around is not None and not fs.is_directory(partition):
        raise LogstoreError("a partition that is not there cannot be made in a broker's log directory", path=partition)
    missing = [one for one in (partition, *partition.parents) if not fs.is_directory(one)]
    fs.make_directory(partition)
    for one in missing:
        fs.sync_directory(one.parent)
    held = HeldDirectory.take_partition(fs, partition)
    try:
        refuse_unclean(held, force=force)
        with taken(held, partition, config, clock=clock) as log:
            yield log
    finally:
        held.release()


@contextlib.contextmanager
def taken(
    held: HeldDirectory, partition: Path, config: LogConfig | None = None, *, clock: Clock | None = None,
    cut_damage: bool = False, replicated: bool = False,
) -> Iterator[Log]:  # fmt: skip
    """Open the log of a partition that is held; at the end its log directory's checkpoints tell what became of it.

    `replicated`: who opens it sets the high watermark.
    """
    held.begin()
    try:
        damage: Literal["refuse", "cut"] = "cut" if cut_damage else "refuse"
        log = Log.open(
            partition, config, fs=held.fs, clock=clock or SystemClock(), damage=damage, replicated=replicated
        )
    except DamagedLogError:
        held.finish(is_clean=held.was_clean)  # nothing was changed
        raise
    ends = Ends(log.log_start_offset, log.log_end_offset)
    try:
        with log:
            try:
                yield log
            finally:
                ends = Ends(log.log_start_offset, log.log_end_offset)
    finally:
        # A log that a failed sync has put out of use is not marked, and is recovered when it is opened again.
        if read_facts(held.fs, partition).clean_end == ends.log_end_offset:
            held.record(partition, ends)
            held.finish(is_clean=held.was_clean)
