"""What the last one to have a directory open leaves behind: as a broker that shuts down (LOG_SEMANTICS §13, §14).

Invariant: the marker of a clean shutdown is written only when every log in the directory is complete and on disk: its
batches, its indexes, its producers. Logs that nobody has opened are so if they were before; the others are looked at,
and opened and closed where it takes that, a few at a time. Nobody else has the directory meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.fs import SharingFileSystem
from logstore.log import Log, PartitionFacts, PartitionHold, find_closed_log
from logstore.names import TopicPartition
from logstore.store.data_directory import DataDirectory, PartitionEnds
from logstore.store.partition import Partition

_T = TypeVar("_T")
_R = TypeVar("_R")
_THREADS = 4  # what takes time is mostly to wait for the disk


def close_all(partitions: Iterable[Partition]) -> None:
    """Close logs, whoever uses them, a few at a time. All are awaited even if some fail; one error is raised then."""
    in_parallel(lambda one: one.shut(for_good=True), list(partitions))


class Closing:
    """Completes the logs of directories.

    Args:
        fs, clock: what they stand on.
        config_of: the settings of a topic's logs, by its name.
        closed: logs that this process had alone and has closed.
    """

    def __init__(
        self, fs: SharingFileSystem, clock: Clock, config_of: Callable[[str], LogConfig],
        closed: Mapping[TopicPartition, PartitionEnds],
    ) -> None:  # fmt: skip
        self._fs = fs
        self._clock = clock
        self._config_of = config_of
        self._closed = closed

    def __repr__(self) -> str:
        return f"<Closing {len(self._closed)} closed already>"

    def complete(self, directory: DataDirectory) -> dict[TopicPartition, PartitionEnds] | None:
        """Where all logs of a directory begin and end, complete and on disk; None where one is damaged.

        All are awaited even if some fail. Raises OSError, LogstoreError.
        """
        ends: dict[TopicPartition, PartitionEnds] = {}
        rest: dict[TopicPartition, Path] = {}
        for name, path in directory.partitions().items():
            known = self._closed.get(name) or self._known(directory, name, path)
            if known is None:
                rest[name] = path
            else:
                ends[name] = known
        completed = in_parallel(lambda one: self._complete(directory, *one), list(rest.items()))
        for name, found in zip(rest, completed, strict=True):
            if found is None:
                return None
            ends[name] = found
        return ends

    def _known(self, directory: DataDirectory, name: TopicPartition, path: Path) -> PartitionEnds | None:
        """Where a log begins and ends that need not be opened."""
        is_touched = directory.is_touched(path)
        if not is_touched and (untouched := directory.untouched_ends(name)) is not None:
            return untouched
        known = PartitionFacts() if is_touched else directory.facts(name)
        found = find_closed_log(self._fs, path, self._config_of(name.topic), known)
        return None if found is None else PartitionEnds(*found)

    def _complete(self, directory: DataDirectory, name: TopicPartition, path: Path) -> PartitionEnds | None:
        """Open a log and close it."""
        known = PartitionFacts() if directory.is_touched(path) else directory.facts(name)
        hold, config = PartitionHold.owned(self._fs, path, known), self._config_of(name.topic)
        try:
            with Log.open(path, config, fs=self._fs, clock=self._clock, hold=hold) as log:
                return PartitionEnds(
                    log.log_start_offset, log.segments[0].base_offset, log.log_end_offset, log.cleaner_point
                )
        except DamagedLogError:
            return None


def in_parallel(work: Callable[[_T], _R], items: Sequence[_T], threads_max: int = _THREADS) -> list[_R]:
    """What `work` gives for each. All are awaited even if some fail; the first error is raised then."""
    if len(items) < 2:
        return [work(one) for one in items]
    from concurrent.futures import ThreadPoolExecutor  # it takes long to import, and many need it only at the end

    with ThreadPoolExecutor(threads_max) as threads:
        waiting = [threads.submit(work, one) for one in items]
    return [one.result() for one in waiting]
