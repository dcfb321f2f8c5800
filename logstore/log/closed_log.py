"""Whether a log that nobody has open is complete, and where it begins and ends; changes nothing.

What it says is what opening the log would find: if there was nothing to be done then, there is no need to open it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.fs import FileSystem
from logstore.log.diagnosis import Diagnosis
from logstore.log.epoch_file import EpochFile
from logstore.log.partition_state import PartitionFacts, PartitionHold


class ClosedLog(NamedTuple):
    """A log that was closed cleanly."""

    log_start_offset: int
    first_base_offset: int
    log_end_offset: int
    cleaner_point: int | None


def find_closed_log(fs: FileSystem, directory: Path, config: LogConfig, known: PartitionFacts) -> ClosedLog | None:
    """The log in a partition directory, where it is complete and on disk; None where it has to be opened for that.

    `known` is what others say of it. A directory that no log was made in yet has one that ends at 0. Raises OSError.
    """
    facts = PartitionHold.owned(fs, directory, known).facts()
    try:
        found = Diagnosis(fs, directory, config, facts, EpochFile(fs, directory), refuses_damage=True)
    except DamagedLogError:
        return None
    if not found.was_clean or found.unsound or found.epoch_problem is not None:
        return None
    first = 0 if found.is_new else found.listing.bases[0]
    start = max(facts.log_start_offset, first)
    return ClosedLog(start, first, found.limit, facts.cleaner_point) if start <= found.limit else None
