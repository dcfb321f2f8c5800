"""Brings directories back to order after a crash, as opening their logs does, and says what was done.

A partition that is damaged below its recovery point is left as it is, and one that needs nothing is not touched. A
broker's log directory of which every log could be recovered gets what a
clean shutdown leaves: its recovery points, and the marker. Belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError
from logstore.fs import FileSystem
from logstore.log import Log, Recovered, RecoveryAction, read_facts
from logstore.names import DirectoryKind, TopicPartition
from logstore.repair.directories import is_broker_directory, partition_directories
from logstore.repair.dry_run import DryRunFileSystem
from logstore.repair.held import Ends, HeldDirectory, OnRead


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionRecovery:
    """What became of one partition.

    Attributes:
        path: its directory.
        was_clean: whether it was closed cleanly; None where that was not found out.
        actions: what was done, in order.
        cut: bytes of batches cut from the log; `kept_aside` says where they are kept.
        ends: where the log begins and ends now; None where it was left as it was.
        damage: the damage below its recovery point; the log was left as it was, or cut there where that was asked for.
        error: why nothing could be done.
    """

    path: Path
    was_clean: bool | None = None
    actions: tuple[RecoveryAction, ...] = ()
    cut: int = 0
    kept_aside: tuple[Path, ...] = ()
    ends: Ends | None = None
    damage: DamagedLogError | None = None
    error: LogstoreError | OSError | None = None

    @property
    def is_complete(self) -> bool:
        """Whether its log is in order now."""
        return self.ends is not None


@dataclasses.dataclass(frozen=True, slots=True)
class DirectoryRecovery:
    """What became of a broker's log directory.

    Attributes:
        path: it.
        was_clean: whether its broker had shut down cleanly.
        is_clean: whether it looks so now.
        unclean_because: why not, if not.
        set_aside: directories in it that wait for deletion, move or decision; they were not looked at.
    """

    path: Path
    was_clean: bool
    is_clean: bool
    unclean_because: str | None
    set_aside: tuple[Path, ...]


class Recoverer:
    """Recovers partitions and log directories.

    Args:
        fs: where they are; a `DryRunFileSystem` makes it a rehearsal.
        cut_damage: cut logs also at damage below their recovery point, as Kafka does, keeping aside what is cut.
        config: what logs are opened with.
        clock: tells the time.
        on_read: told how many bytes each reading of a log file gave.

    Attributes:
        directories: the broker's log directories that were taken.
    """

    def __init__(
        self,
        fs: FileSystem,
        *,
        cut_damage: bool = False,
        config: LogConfig | None = None,
        clock: Clock | None = None,
        on_read: OnRead | None = None,
    ) -> None:
        self.directories: list[DirectoryRecovery] = []
        self._fs = fs
        self._cut_damage = cut_damage
        self._config = config or LogConfig()
        self._clock = clock or SystemClock()
        self._on_read = on_read

    def __repr__(self) -> str:
        return f"<Recoverer on {self._fs!r}>"

    def recover_partition(self, path: Path) -> PartitionRecovery:
        """Recover one partition directory, wherever it lies. Raises LogLockedError, OSError."""
        held = HeldDirectory.take_partition(self._fs, path, self._on_read)
        try:
            found = self._recover(held, path)
            held.finish(is_clean=held.was_clean)
            return found
        finally:
            held.release()

    def recover_all(self, path: Path, wanted: Callable[[TopicPartition], bool]) -> Iterator[PartitionRecovery]:
        """Recover the wanted partitions of a directory that holds several, in order of topic and number.

        Raises LogLockedError, OSError; what goes wrong with one partition is said in what is yielded for it.
        """
        here, set_aside = partition_directories(self._fs, path)
        chosen = [place for name, place in here if wanted(name.topic_partition)]
        if not is_broker_directory(self._fs, path):
            yield from map(self._recover_alone, chosen)
            return
        held = HeldDirectory.take(self._fs, path, self._on_read)
        try:
            found: list[PartitionRecovery] = []
            for place in chosen:
                found.append(self._recover_entered(held, place))
                yield found[-1]
            reason = _unclean_because(held, found, len(here), set_aside)
            held.finish(is_clean=reason is None)
            self.directories.append(DirectoryRecovery(path, held.was_clean, reason is None, reason, tuple(set_aside)))
        finally:
            held.release()

    def _recover_alone(self, path: Path) -> PartitionRecovery:
        try:
            return self.recover_partition(path)
        except (LogstoreError, OSError) as error:
            return PartitionRecovery(path, error=error)

    def _recover_entered(self, held: HeldDirectory, path: Path) -> PartitionRecovery:
        try:
            held.enter(path)
            return self._recover(held, path)
        except (LogstoreError, OSError) as error:
            return PartitionRecovery(path, error=error)

    def _recover(self, held: HeldDirectory, path: Path) -> PartitionRecovery:
        facts = read_facts(held.fs, path)
        damage: DamagedLogError | None = None
        try:
            if facts.clean_end is not None or facts.is_vouched_for:
                # What looks clean is tried out: most of it needs nothing, and is not touched then.
                planned, ends = self._open(DryRunFileSystem(held.fs, clock=self._clock), path, "refuse")
                if planned is None:
                    if not held.was_clean:
                        held.record(path, ends)
                    return PartitionRecovery(path, was_clean=True, ends=ends)
                held.begin()
            done, ends = self._open(held.fs, path, "refuse")
        except DamagedLogError as error:  # nothing was changed
            damage = error
            if not self._cut_damage:
                return PartitionRecovery(path, damage=damage)
            held.begin()
            done, ends = self._open(held.fs, path, "cut")
        held.record(path, ends)
        report = done or Recovered()
        return PartitionRecovery(
            path, report.was_clean, tuple(report.actions), report.cut, tuple(report.kept_aside), ends, damage
        )

    def _open(self, fs: FileSystem, path: Path, damage: Literal["refuse", "cut"]) -> tuple[Recovered | None, Ends]:
        log = Log.open(path, self._config, fs=fs, clock=self._clock, damage=damage)
        try:
            return log.recovered, Ends(log.log_start_offset, log.log_end_offset)
        finally:
            log.close()


def _unclean_because(
    held: HeldDirectory, found: list[PartitionRecovery], count: int, set_aside: list[Path]
) -> str | None:
    """Why a log directory gets no clean-shutdown marker; None when it gets one."""
    if held.was_clean and not any(one.error for one in found):
        return None  # what is damaged was left as its broker has closed it
    failed = sum(not one.is_complete for one in found)
    if failed:
        return f"{failed} of {count} partitions could not be recovered"
    if len(found) < count:
        return f"only {len(found)} of {count} partitions were chosen"
    future = [one.name for one in set_aside if one.name.endswith(f"-{DirectoryKind.FUTURE}")]
    return f"{future[0]}, which is being moved here, was not looked at" if future else None
