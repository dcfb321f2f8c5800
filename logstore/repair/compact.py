"""Compaction of partitions and log directories, offline.

What lies in a log directory is compacted only where something says that it is: never is a topic gutted whose policy is
`delete` or unknown. Damage, records without a key, a full disk: that partition stays as it was, the others go on. With
an output directory the sources are not touched: their files are copied, and the copies compacted. Belongs to one
thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from logstore import names
from logstore.cleaner import Cleaner, CleaningStats, NewestRecords
from logstore.cleaner.selection import Cleanability, assess
from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import LogLockedError, LogstoreError
from logstore.fs import FileSystem
from logstore.log import Log, Recovered, find_log_directory, read_facts
from logstore.names import FileKind, TopicPartition
from logstore.repair.directories import is_broker_directory, partition_directories
from logstore.repair.held import Ends, HeldDirectory, high_watermark_of
from logstore.repair.looking import refuse_damage
from logstore.repair.opening import refuse_unclean, taken
from logstore.repair.retain import topic_of
from logstore.repair.topic_configs import TopicConfigs

_Number = TypeVar("_Number", int, float)

MAP_MEMORY = 128 << 20
_COPY_BYTES = 8 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class CompactOptions:
    """How logs are compacted. What is None is as the topic's configuration has it, else Kafka's default.

    Attributes:
        min_dirty_ratio: only logs of which a larger share is dirty.
        min_compaction_lag_ms: what is younger stays as it is; for a partition that is named itself, 0 unless given.
        max_compaction_lag_ms: a log with an older dirty record is compacted whatever its dirty ratio.
        delete_retention_ms: for how long tombstones stay once they are clean.
        segment_bytes: how large merged segments become.
        map_memory: bytes for the map of keys; 32 a key. What does not fit takes more rounds.
        bytes_per_second: limit of reading and writing together.
        includes_active: the active segment is sealed first, and compacted with the others.
        drops_unkeyed: records without a key go; otherwise a log that has some is left alone.
        now_ms: the time that ages are reckoned from; the clock unless given.
        verifies: the newest value of every key is looked up before and after, and nothing changes unless all are there.
        force: take a broker's log directory also where it was not shut down cleanly.
        output: write compacted copies into this directory, and leave the sources as they are.
        dry_run: only find out what would be done; for a `DryRunFileSystem`.
    """

    min_dirty_ratio: float | None = None
    min_compaction_lag_ms: int | None = None
    max_compaction_lag_ms: int | None = None
    delete_retention_ms: int | None = None
    segment_bytes: int | None = None
    map_memory: int = MAP_MEMORY
    bytes_per_second: float = math.inf
    includes_active: bool = False
    drops_unkeyed: bool = False
    now_ms: int | None = None
    verifies: bool = True
    force: bool = False
    output: Path | None = None
    dry_run: bool = False

    def on(self, config: LogConfig) -> LogConfig:
        """A configuration with these settings in it. Raises ValueError for one out of range."""
        return dataclasses.replace(
            config,
            min_cleanable_dirty_ratio=_first(self.min_dirty_ratio, config.min_cleanable_dirty_ratio),
            min_compaction_lag_ms=_first(self.min_compaction_lag_ms, config.min_compaction_lag_ms),
            max_compaction_lag_ms=_first(self.max_compaction_lag_ms, config.max_compaction_lag_ms),
            delete_retention_ms=_first(self.delete_retention_ms, config.delete_retention_ms),
            segment_bytes=_first(self.segment_bytes, config.segment_bytes),
            file_delete_delay_ms=0,  # nobody is reading
        )


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionCompaction:
    """What became of one partition.

    Attributes:
        path: its directory.
        output: where the compacted copy is; None where it was compacted in place.
        left_alone: why it was not compacted; None if it was.
        ends: where the log begins and ends.
        rounds: what each round of the cleaner has done, or would.
        cleanability: what there was to clean, and why just that.
        verified: the newest records, the same before and after; None where they were not compared.
        recovered: what opening the log has done, if anything.
        error: why nothing could be done.
    """

    path: Path
    output: Path | None = None
    left_alone: str | None = None
    ends: Ends | None = None
    rounds: tuple[CleaningStats, ...] = ()
    cleanability: Cleanability | None = None
    verified: NewestRecords | None = None
    recovered: Recovered | None = None
    error: LogstoreError | OSError | None = None


class _Wanted(NamedTuple):
    """One partition, its settings, and whether it is compacted whatever its age and dirty ratio."""

    path: Path
    config: LogConfig
    is_named: bool


class Compactor:
    """Compacts partitions and log directories.

    Args:
        fs: where they are; a `DryRunFileSystem` for a dry run.
        options: how.
        clock: tells the time.
        on_progress: told how many bytes were read or written; what it raises ends the work.
    """

    def __init__(
        self,
        fs: FileSystem,
        options: CompactOptions,
        *,
        clock: Clock | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        self._fs = fs
        self._options = options
        self._clock = clock or SystemClock()
        self._now_ms = self._clock.now_ms() if options.now_ms is None else options.now_ms
        self._on_progress = on_progress or (lambda _: None)

    def __repr__(self) -> str:
        return f"<Compactor at {self._now_ms} on {self._fs!r}>"

    # ---- which

    def choose(
        self, path: Path, wanted: Callable[[TopicPartition], bool], *, are_named: bool
    ) -> tuple[list[Path], dict[Path, str]]:
        """The wanted partitions of a log directory that are compacted, and why the others are not.

        `are_named`: whether the topics were asked for by name; that counts where their configuration is not known.
        Raises LogstoreError as `TopicConfigs.read`, OSError.
        """
        here, _ = partition_directories(self._fs, path)
        configs = self._configs(path)
        chosen: list[Path] = []
        left: dict[Path, str] = {}
        for name, place in here:
            if not wanted(name.topic_partition):
                continue
            reason = _why_not(name.topic, configs, are_named=are_named)
            if reason is None:
                chosen.append(place)
            else:
                left[place] = reason
        return chosen, left

    # ---- doing it

    def compact_all(self, path: Path, chosen: list[Path]) -> Iterator[PartitionCompaction]:
        """Compact partitions of a directory that holds several, as `choose` gave them.

        What goes wrong with one is said in what is yielded for it, and the others go on. Raises LogLockedError,
        LogstoreError as `refuse_unclean` and `TopicConfigs.read`, OSError.
        """
        configs = self._configs(path)
        if self._options.output is not None or not is_broker_directory(self._fs, path):
            if is_broker_directory(self._fs, path):
                self._refuse_as_source(path)
            for place in chosen:
                yield self._guarded(place, functools.partial(self._compact_one, place, configs, is_named=False))
            return
        held = HeldDirectory.take(self._fs, path)
        try:
            refuse_unclean(held, force=self._options.force)
            for place in chosen:
                found = self._guarded(place, functools.partial(self._entered, held, place, configs))
                if found.error is not None and not self._fs.exists(path / names.CLEAN_SHUTDOWN):
                    held.was_clean = False  # this one has to be recovered: not all are in order any more
                yield found
        finally:
            held.release()

    def compact_partition(self, path: Path) -> PartitionCompaction:
        """Compact one partition directory, wherever it lies, now; `path` is as `locate` gives it.

        Raises LogLockedError, DamagedLogError and UnkeyedRecordsError with nothing changed, LogstoreError as
        `refuse_unclean` and `TopicConfigs.read`, or for `__cluster_metadata`, OSError.
        """
        around = find_log_directory(self._fs, path)
        configs = TopicConfigs() if around is None else self._configs(around)
        return self._compact_one(path, configs, is_named=True)

    def _configs(self, log_directory: Path) -> TopicConfigs:
        return TopicConfigs.read(self._fs, log_directory)

    def _guarded(self, path: Path, work: Callable[[], PartitionCompaction]) -> PartitionCompaction:
        try:
            return work()
        except (LogstoreError, OSError) as error:
            return PartitionCompaction(path, error=error)

    def _entered(self, held: HeldDirectory, path: Path, configs: TopicConfigs) -> PartitionCompaction:
        held.enter(path)
        return self._compact_held(held, self._wanted(path, configs, is_named=False))

    def _compact_one(self, path: Path, configs: TopicConfigs, *, is_named: bool) -> PartitionCompaction:
        wanted = self._wanted(path, configs, is_named=is_named)
        if self._options.output is not None:
            return self._compact_copy(wanted, self._options.output)
        held = HeldDirectory.take_partition(self._fs, path)
        try:
            refuse_unclean(held, force=self._options.force)
            return self._compact_held(held, wanted)
        finally:
            held.release()

    def _wanted(self, path: Path, configs: TopicConfigs, *, is_named: bool) -> _Wanted:
        topic = topic_of(path)
        if topic == names.CLUSTER_METADATA_TOPIC:
            raise LogstoreError(
                "it is never compacted: its records have no keys, and snapshots keep it in order", path=path
            )
        config = configs.config_of(topic)
        if is_named:
            config = dataclasses.replace(config, min_compaction_lag_ms=0)
        try:
            return _Wanted(path, self._options.on(config), is_named)
        except ValueError as error:  # what is given does not go with what is known of the topic
            raise LogstoreError(str(error), path=path) from error

    def _compact_held(self, held: HeldDirectory, wanted: _Wanted) -> PartitionCompaction:
        watermark = held.high_watermark(wanted.path)
        self._look(held.fs, wanted)
        with taken(
            held, wanted.path, wanted.config, clock=self._clock, replicated=watermark is not None
        ) as log:
            if watermark is not None:
                log.set_high_watermark(watermark)
            return self._compact(log, wanted)

    # ---- a copy

    def _compact_copy(self, wanted: _Wanted, output: Path) -> PartitionCompaction:
        """Copy the files of a partition, and compact the copy."""
        source = wanted.path
        around = find_log_directory(self._fs, source)
        if around is not None:
            self._refuse_as_source(around)
        self._refuse_live(source)
        target = output / source.resolve().name
        if self._fs.is_directory(target) and self._fs.list(target):
            raise LogstoreError("there is something in it already", path=target, remedy="name another directory")
        self._refuse_inside(output, target)
        self._look(self._fs, wanted)
        facts = read_facts(self._fs, source)
        watermark = None if around is None else high_watermark_of(self._fs, around, source)
        made = _copy_files(self._fs, source, target, self._on_progress)
        try:
            with Log.open(
                target, wanted.config, fs=self._fs, clock=self._clock, log_start_offset=facts.log_start_offset,
                replicated=watermark is not None,
            ) as log:
                if watermark is not None:
                    log.set_high_watermark(watermark)
                done = self._compact(log, wanted)
        except BaseException:
            for path in made:
                self._fs.unlink(path, missing_ok=True)
            raise
        # That a copy was checked whole is nothing to tell of; what was cut from it is.
        is_told = done.recovered is not None and done.recovered.cut
        return dataclasses.replace(done, output=target, recovered=done.recovered if is_told else None)

    def _refuse_as_source(self, log_directory: Path) -> None:
        self._refuse_live(log_directory)
        if not self._options.force and not self._fs.exists(log_directory / names.CLEAN_SHUTDOWN):
            raise LogstoreError(
                "this log directory was not shut down cleanly", path=log_directory,
                remedy="`logstore recover` brings it back to order first; --force overrides this",
            )  # fmt: skip

    def _refuse_live(self, directory: Path) -> None:
        """Raise LogLockedError where somebody holds a directory; nothing is made where there is no lock."""
        place = directory / names.LOCK
        if not self._fs.exists(place):
            return
        lock = self._fs.lock(place)
        if lock is None:
            raise LogLockedError(
                "another process has it open for writing", path=directory, remedy="stop that process, or work on a copy"
            )
        lock.release()

    def _refuse_inside(self, output: Path, target: Path) -> None:
        """Raise LogstoreError where a copy would lie in a partition, or a directory of ours in a broker's."""
        real = output.resolve()
        inside = next((one for one in (real, *real.parents) if _is_partition(self._fs, one)), None)
        around = find_log_directory(self._fs, real / target.name)
        if inside is None and around is None:
            around = next((one for one in real.parents if is_broker_directory(self._fs, one)), None)
        if inside is not None or around is not None:
            raise LogstoreError("a copy does not belong there", path=inside or around, remedy="name another directory")

    # ---- the work

    def _look(self, fs: FileSystem, wanted: _Wanted) -> None:
        """Raise DamagedLogError for damage anywhere in a log, before anything of it is touched."""
        refuse_damage(fs, wanted.path, wanted.config, clock=self._clock, on_read=self._on_progress)

    def _compact(self, log: Log, wanted: _Wanted) -> PartitionCompaction:
        options = self._options
        if options.includes_active:
            log.roll()
        found = self._assess(log)
        ends = Ends(log.log_start_offset, log.log_end_offset)
        asked = options.min_dirty_ratio is not None or options.max_compaction_lag_ms is not None
        is_held_back = asked and not found.is_due
        if is_held_back or not (wanted.is_named or found.cleanable_bytes):
            return PartitionCompaction(
                wanted.path, left_alone=found.verdict, ends=ends, cleanability=found, recovered=log.recovered
            )
        cleaner = Cleaner(
            options.map_memory, bytes_per_second=options.bytes_per_second, drops_unkeyed=options.drops_unkeyed,
            on_progress=self._on_progress, has_helper=True,
        )  # fmt: skip
        # Where nothing is dirty, what has expired goes all the same: somebody asked for it.
        first_dirty = None if found.cleanable_bytes else log.log_start_offset
        if options.dry_run:
            rounds = [cleaner.clean(log, now_ms=self._now_ms, first_dirty_offset=first_dirty, dry_run=True)]
            if not rounds[0].is_complete:  # the next one begins at what this one leaves: all is done, on nothing real
                rounds = cleaner.clean_fully(log, now_ms=self._now_ms, first_dirty_offset=first_dirty)
        else:
            rounds = cleaner.clean_fully(
                log, now_ms=self._now_ms, first_dirty_offset=first_dirty, verifies=options.verifies
            )
            log.maintain()
        return PartitionCompaction(
            wanted.path, ends=ends, rounds=tuple(rounds), cleanability=found, recovered=log.recovered,
            verified=rounds[-1].verified,
        )  # fmt: skip

    def _assess(self, log: Log) -> Cleanability:
        # That it is compacted was decided already.
        config = dataclasses.replace(log.config, cleanup_policy=frozenset({"compact"}))
        return assess(
            log.segments, config, cleaner_point=log.cleaner_point, log_start_offset=log.log_start_offset,
            log_end_offset=log.log_end_offset, last_stable_offset=log.last_stable_offset,
            high_watermark=log.high_watermark, now_ms=self._now_ms,
        )  # fmt: skip


def _is_partition(fs: FileSystem, directory: Path) -> bool:
    if not fs.is_directory(directory):
        return False
    return any(names.classify_file(name).kind is FileKind.LOG for name in fs.list(directory))


def _first(given: _Number | None, known: _Number) -> _Number:
    return known if given is None else given


def _why_not(topic: str, configs: TopicConfigs, *, are_named: bool) -> str | None:
    """Why the logs of a topic are not compacted; None where they are."""
    if topic == names.CLUSTER_METADATA_TOPIC:
        return "it is never compacted: its records have no keys, and snapshots keep it in order"
    if are_named:
        return None
    is_compacted = configs.is_compacted(topic)
    if is_compacted is None:
        return "whether it is compacted is not known; --topic says so"
    return None if is_compacted else "its cleanup.policy has no `compact`"


def _copy_files(
    fs: FileSystem, source: Path, target: Path, on_progress: Callable[[int], object]
) -> list[Path]:
    """Copy the files of a partition but those that wait for deletion and our own; what was made. Raises OSError."""
    fs.make_directory(target)
    made: list[Path] = []
    try:
        for name in fs.list(source):
            if name.startswith(".") or name.endswith(names.DELETED_SUFFIX) or fs.is_directory(source / name):
                continue
            made.append(target / name)
            with fs.open(source / name) as old, fs.open(target / name, write=True, create=True) as new:
                size, position = old.size(), 0
                while position < size:
                    data = old.read(position, min(_COPY_BYTES, size - position))
                    if not data:
                        break
                    new.write(position, data)
                    position += len(data)
                    on_progress(len(data))
                new.sync()
            fs.set_modified_ms(target / name, fs.modified_ms(source / name))
        fs.sync_directory(target)
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                fs.unlink(path, missing_ok=True)
        raise
    return made
