"""Reindexes partitions and log directories, and says what was done. See `remake`. Belongs to one thread."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.fs import FileSystem
from logstore.names import TopicPartition
from logstore.repair.directories import is_broker_directory, partition_directories
from logstore.repair.held import HeldDirectory, OnRead
from logstore.repair.opening import refuse_unclean
from logstore.repair.remake import FileChange, Remaker


@dataclasses.dataclass(frozen=True, slots=True)
class Reindexing:
    """What became of one partition, or of one segment.

    Attributes:
        path: the partition directory.
        changes: the files that were not as they should be.
        torn: bytes at the end of the active segment that no index covers: recovery will cut them.
        log_end_offset: where the log ends without them; None where that was not found out.
        damage: the damage that keeps the log from being reindexed; nothing was changed.
        error: why nothing could be done.
    """

    path: Path
    changes: tuple[FileChange, ...] = ()
    torn: int = 0
    log_end_offset: int | None = None
    damage: DamagedLogError | None = None
    error: LogstoreError | OSError | None = None


class Reindexer:
    """Reindexes what nobody else has open.

    Args:
        fs: where it is; a `DryRunFileSystem` makes it a rehearsal.
        force: take a broker's log directory also where it was not shut down cleanly.
        config: what logs are opened with; `index_interval_bytes` and `segment_index_bytes` count.
        clock: tells the time.
        on_read: told how many bytes each reading of a log file gave.
    """

    def __init__(
        self,
        fs: FileSystem,
        *,
        force: bool = False,
        config: LogConfig | None = None,
        clock: Clock | None = None,
        on_read: OnRead | None = None,
    ) -> None:
        self._fs = fs
        self._force = force
        self._config = config
        self._clock = clock
        self._on_read = on_read

    def __repr__(self) -> str:
        return f"<Reindexer on {self._fs!r}>"

    def reindex_partition(self, path: Path, base_offset: int | None = None) -> Reindexing:
        """Reindex one partition directory, or of it the segment with this base offset alone.

        Raises LogLockedError, LogstoreError as `refuse_unclean`, OSError; damage is said in what is returned.
        """
        held = HeldDirectory.take_partition(self._fs, path, self._on_read)
        try:
            refuse_unclean(held, force=self._force)
            return self._reindex(held, path, base_offset)
        finally:
            held.release()

    def reindex_all(self, path: Path, wanted: Callable[[TopicPartition], bool]) -> Iterator[Reindexing]:
        """Reindex the wanted partitions of a directory that holds several, in order of topic and number.

        Raises as `reindex_partition`; what goes wrong with one partition is said in what is yielded for it.
        """
        here, _ = partition_directories(self._fs, path)
        chosen = [place for name, place in here if wanted(name.topic_partition)]
        if not is_broker_directory(self._fs, path):
            for place in chosen:
                yield self._reported(place, self.reindex_partition)
            return
        held = HeldDirectory.take(self._fs, path, self._on_read)
        try:
            refuse_unclean(held, force=self._force)
            for place in chosen:
                yield self._reported(place, functools.partial(self._entered, held))
        finally:
            held.release()

    def _entered(self, held: HeldDirectory, path: Path) -> Reindexing:
        held.enter(path)
        return self._reindex(held, path, None)

    @staticmethod
    def _reported(path: Path, do: Callable[[Path], Reindexing]) -> Reindexing:
        try:
            return do(path)
        except (LogstoreError, OSError) as error:
            return Reindexing(path, error=error)

    def _reindex(self, held: HeldDirectory, path: Path, base_offset: int | None) -> Reindexing:
        remaker = Remaker(held.fs, config=self._config, clock=self._clock)
        try:
            return Reindexing(path, *remaker.remake(path, base_offset))
        except DamagedLogError as error:
            return Reindexing(path, damage=error)
