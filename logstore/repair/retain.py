"""Retention of partitions and log directories, offline: by given limits, or by what is known of a topic's.

Kafka's default of seven days is never applied: without a limit that somebody has set, nothing goes. What is known to be
compacted loses only what lies below its log start, unless its configuration says `delete` too. Each partition is tried
out first, and one that loses nothing is not touched. Belongs to one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from logstore import names
from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import InvalidNameError, LogstoreError
from logstore.fs import FileSystem
from logstore.log import Log, Recovered
from logstore.names import TopicPartition
from logstore.repair.directories import is_broker_directory, partition_directories
from logstore.repair.dry_run import DryRunFileSystem
from logstore.repair.held import Ends, HeldDirectory
from logstore.repair.opening import refuse_unclean, taken
from logstore.repair.topic_configs import TopicConfigs
from logstore.retention import RetentionPlan, retain

_LIMITS = ("retention.ms", "retention.bytes")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Limits that were asked for; None where the topic's configuration is to say. -1 is none."""

    retention_ms: int | None = None
    retention_bytes: int | None = None

    @property
    def are_given(self) -> bool:
        """Whether there is one."""
        return self.retention_ms is not None or self.retention_bytes is not None

    def on(self, config: LogConfig) -> LogConfig:
        """A configuration with these limits in it. Raises ValueError for one out of range."""
        return dataclasses.replace(
            config,
            retention_ms=config.retention_ms if self.retention_ms is None else self.retention_ms,
            retention_bytes=config.retention_bytes if self.retention_bytes is None else self.retention_bytes,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionRetention:
    """What became of one partition.

    Attributes:
        path: its directory.
        config: its settings, the limits among them; None where they could not be known.
        before: where the log began and ended before; None where it could not be opened.
        plan: what went and what stayed; None likewise.
        recovered: what opening the log has done, if anything.
        error: why nothing, or not all, could be done.
    """

    path: Path
    config: LogConfig | None = None
    before: Ends | None = None
    plan: RetentionPlan | None = None
    recovered: Recovered | None = None
    error: LogstoreError | OSError | None = None


class Retainer:
    """Does retention on partitions and log directories.

    Args:
        fs: where they are; a `DryRunFileSystem` makes it a rehearsal.
        limits: those asked for; they take the place of a topic's own.
        now_ms: the time that ages are reckoned from; the clock unless given.
        force: take a broker's log directory also where it was not shut down cleanly.
        clock: tells the time.

    Attributes:
        limits, now_ms: as they are used.
    """

    def __init__(
        self,
        fs: FileSystem,
        limits: Limits | None = None,
        *,
        now_ms: int | None = None,
        force: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._fs = fs
        self.limits = limits or Limits()
        self._force = force
        self._clock = clock or SystemClock()
        self.now_ms = self._clock.now_ms() if now_ms is None else now_ms
        self._read: dict[Path, TopicConfigs] = {}

    def __repr__(self) -> str:
        return f"<Retainer at {self.now_ms} on {self._fs!r}>"

    def has_limit(self, partition: Path) -> bool:
        """Whether a limit is given, or known of a partition's topic; raises as `TopicConfigs.read`."""
        return self._has_limit(topic_of(partition), self._configs(partition.parent))

    def choose(self, path: Path, wanted: Callable[[TopicPartition], bool]) -> tuple[list[Path], list[Path]]:
        """The wanted partitions of a log directory that retention is for, and those that are left alone.

        It is for those with a limit whose policy has `delete`, and never for `__cluster_metadata`, nor for what is
        internal or compacted where no configuration says `delete`. Raises as `TopicConfigs.read`.
        """
        configs = self._configs(path)
        chosen: list[Path] = []
        left: list[Path] = []
        for name, place in partition_directories(self._fs, path)[0]:
            if wanted(name.topic_partition):
                is_for_it = self._has_limit(name.topic, configs) and _has_delete(name.topic, configs)
                (chosen if is_for_it else left).append(place)
        return chosen, left

    def retain_all(self, path: Path, chosen: list[Path]) -> Iterator[PartitionRetention]:
        """Do it on partitions of a directory that holds several, as `choose` gives them.

        What goes wrong with one is said in what is yielded for it, and the others go on. Raises LogLockedError,
        LogstoreError as `refuse_unclean` and `TopicConfigs.read`, OSError.
        """
        if not is_broker_directory(self._fs, path):
            for place in chosen:
                yield self._retain_alone(place)
            return
        held = HeldDirectory.take(self._fs, path)
        try:
            refuse_unclean(held, force=self._force)
            for place in chosen:
                found = self._retain_entered(held, place)
                if found.error is not None and not self._fs.exists(path / names.CLEAN_SHUTDOWN):
                    held.was_clean = False  # it has to be recovered: nothing may say any more that all are in order
                yield found
        finally:
            held.release()

    def retain_partition(self, path: Path) -> PartitionRetention:
        """Do it on one partition directory, wherever it lies; `path` is as `locate` gives it.

        Raises LogLockedError, DamagedLogError with nothing changed, LogstoreError as `refuse_unclean` and
        `TopicConfigs.read`, or for `__cluster_metadata`, OSError.
        """
        self._configs(path.parent)  # where it cannot be read, no lock file comes and goes
        held = HeldDirectory.take_partition(self._fs, path)
        try:
            refuse_unclean(held, force=self._force)
            return self._retain(held, path)
        finally:
            held.release()

    def _retain_alone(self, path: Path) -> PartitionRetention:
        try:
            return self.retain_partition(path)
        except (LogstoreError, OSError) as error:
            return PartitionRetention(path, error=error)

    def _retain_entered(self, held: HeldDirectory, path: Path) -> PartitionRetention:
        try:
            held.enter(path)
            return self._retain(held, path)
        except (LogstoreError, OSError) as error:
            return PartitionRetention(path, error=error)

    def _retain(self, held: HeldDirectory, path: Path) -> PartitionRetention:
        topic = topic_of(path)
        if topic == names.CLUSTER_METADATA_TOPIC:
            raise LogstoreError("a metadata log is kept short by its snapshots; retention is not for it", path=path)
        config = self.limits.on(self._configs(path.parent).config_of(topic))
        working = dataclasses.replace(config, file_delete_delay_ms=0)  # nobody is reading
        watermark = held.high_watermark(path)
        trial = DryRunFileSystem(held.fs, clock=self._clock)
        with Log.open(path, working, fs=trial, clock=self._clock) as log:
            recovered, before = log.recovered, Ends(log.log_start_offset, log.log_end_offset)
            plan = retain(log, self.now_ms, high_watermark=watermark)
        if not plan.going:
            return PartitionRetention(path, config, before, plan)
        held.raise_start(path, plan.log_start_offset)
        with taken(held, path, working, clock=self._clock) as log:
            # The same go as were tried, most of them below the log start by now.
            retain(log, self.now_ms, high_watermark=watermark)
        return PartitionRetention(path, config, before, plan, recovered)

    def _configs(self, log_directory: Path) -> TopicConfigs:
        """What the directory around partitions tells of their topics; read once."""
        if log_directory not in self._read:
            self._read[log_directory] = TopicConfigs.read(self._fs, log_directory)
        return self._read[log_directory]

    def _has_limit(self, topic: str, configs: TopicConfigs) -> bool:
        return self.limits.are_given or any(name in configs.settings(topic) for name in _LIMITS)


def topic_of(path: Path) -> str:
    """The topic of a partition directory, by its name or by that of what it really is; empty for one without."""
    for name in (path.name, path.resolve().name):
        try:
            return names.parse_partition_directory(name).topic
        except InvalidNameError:
            continue
    return ""


def _has_delete(topic: str, configs: TopicConfigs) -> bool:
    """Whether segments of a topic may go by size and time."""
    if topic == names.CLUSTER_METADATA_TOPIC:
        return False
    policy = configs.policy(topic)
    if policy is not None:
        return "delete" in policy
    return not names.is_internal_topic(topic) and not configs.is_compacted(topic)
