"""A data directory of many partitions, as a broker has it: topics, their logs, and what is due now and then.

A store is opened by one process alone, or by any number together; then each sees what the others do. What is on disk
is Kafka's, but for dot-files that it ignores. Invariant: a topic is there for all or for none. Thread-safe. Nothing
runs in the background unless `start` is called.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from logstore.cleaner import Cleaner, CleaningStats
from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogstoreError, StoreClosedError, UnknownTopicError
from logstore.fs import LocalFileSystem, SharingFileSystem, StrPath
from logstore.log import Log, PartitionHold, SharedLog, Turns
from logstore.names import TopicPartition
from logstore.retention import RetentionPlan, plan_retention, retain
from logstore.store.catalog import Catalog, Topic
from logstore.store.data_directory import DataDirectory, Mode, PartitionEnds
from logstore.store.partition import AnyLog, LogPool, Partition
from logstore.store.removal import remove_due, rename_for_deletion
from logstore.store.watching import Watcher

OPEN_LOGS_MAX = 200


class Store:
    """A store; `logstore.open` opens one.

    Attributes:
        paths: its directories; the first has the list of topics.
        mode: whether other processes may have it open, too.
        config: the settings of topics that have no others.
    """

    def __init__(
        self, directories: list[DataDirectory], mode: Mode, config: LogConfig, fs: SharingFileSystem, clock: Clock
    ) -> None:
        self.paths = tuple(one.path for one in directories)
        self.mode: Mode = mode
        self.config = config
        self._directories = directories
        self._fs = fs
        self._clock = clock
        self._pid = os.getpid()
        self._is_open = True
        # Guards catalog and partitions; taken before those of partitions and logs.
        self._guard = threading.RLock()
        self._partitions: dict[TopicPartition, Partition] = {}
        self._pool = LogPool(OPEN_LOGS_MAX)
        self._turns = Turns(fs.open_lock(self.paths[0] / ".logstore-turns"), directories[0].session.number)
        self._seen = self._turns.read()
        self._catalog = self._read_catalog()
        self._complete()

    @classmethod
    def open(
        cls,
        path: StrPath | Iterable[StrPath],
        *,
        mode: Mode = "shared",
        config: LogConfig | None = None,
        fs: SharingFileSystem | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Open a store, or make one where none is.

        Args:
            path: its directory, or several: new partitions go to the one with the fewest.
            mode: `shared` with other processes that open it so, or `exclusive`, as a broker does.
            config: the settings of topics that have no others.
            fs, clock: what it stands on.

        Raises LogLockedError (a broker has it, or one who wants it for itself), UnsupportedFormatError (a newer
        logstore has written it), OSError; ValueError for what is no such argument.
        """
        if mode not in ("shared", "exclusive"):
            raise ValueError(f"{mode!r} is no mode; there are shared and exclusive")
        places = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(one) for one in path]
        if not places or len({one.resolve() for one in places}) < len(places):
            raise ValueError("a store has one directory or more, each of them once")
        fs, held = fs or LocalFileSystem(), list[DataDirectory]()
        try:
            for place in places:
                held.append(DataDirectory.hold(fs, place, mode))
            return cls(held, mode, config or LogConfig(), fs, clock or SystemClock())
        except BaseException:
            for one in held:
                one.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Store {self.paths[0]} {self.mode} {'open' if self._is_open else 'closed'}>"

    @property
    def clock(self) -> Clock:
        """What tells it the time."""
        return self._clock

    def check_open(self) -> None:
        """Raise StoreClosedError where it is closed, or was opened before this process was forked."""
        if not self._is_open:
            raise StoreClosedError("this store is closed", path=self.paths[0])
        if self._pid != os.getpid():
            raise StoreClosedError(
                "this store was opened by the process that this one was forked from", path=self.paths[0],
                remedy="open it again after the fork",
            )  # fmt: skip

    # ---- topics

    def topics(self, *, internal: bool = False) -> list[Topic]:
        """All topics by name; `internal`: also those that are Kafka's own."""
        found = self._current_catalog().topics.values()
        return sorted((one for one in found if internal or not one.is_internal), key=lambda one: one.name)

    def topic(self, name: str) -> Topic:
        """The topic of a name. Raises UnknownTopicError."""
        return self._current_catalog().get(name)

    def has_topic(self, name: str) -> bool:
        """Whether there is a topic of this name."""
        return name in self._current_catalog().topics

    def create_topic(
        self, name: str, partitions: int = 1, settings: Mapping[str, str] | None = None, *, exist_ok: bool = False
    ) -> Topic:
        """Make a topic, durably.

        Args:
            name: by Kafka's rules (CLUSTER §2.1).
            partitions: how many.
            settings: Kafka's names and values as text; the rest is the store's.
            exist_ok: whether one that is there already is given instead, as it is.

        Raises InvalidNameError, TopicExistsError, InvalidPartitionsError, ValueError for a setting that is none.
        """
        topic = Topic(name, partitions, uuid4(), dict(settings or {}))
        topic.config(self.config)
        with self._changing_catalog() as change:
            if exist_ok and name in self._catalog.topics:
                return self._catalog.topics[name]
            change(self._catalog.with_topic(topic))
            self._make_directories(topic)
        return topic

    def grow_topic(self, name: str, partitions: int) -> Topic:
        """Give a topic more partitions, durably; keys go to other ones afterwards, what is there stays (CLUSTER §2.4).

        Raises UnknownTopicError, InvalidPartitionsError where that is not more.
        """
        with self._changing_catalog() as change:
            change(self._catalog.grown(name, partitions))
            topic = self._catalog.get(name)
            self._make_directories(topic)
        return topic

    def alter_topic(self, name: str, settings: Mapping[str, str | None]) -> Topic:
        """Set settings of a topic, durably, from the next operation on; None lets the store's count again.

        Raises UnknownTopicError, ValueError for a setting that is none.
        """
        with self._changing_catalog() as change:
            catalog = self._catalog.altered(name, settings)
            catalog.get(name).config(self.config)
            change(catalog)
            return catalog.get(name)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records: the directories are renamed, durably, and go after file.delete.delay.ms.

        Raises UnknownTopicError, OSError.
        """
        with self._changing_catalog() as change:
            change(self._catalog.without(name))
            self._finish_deletion(name)
            change(self._catalog.gone(name))

    def _finish_deletion(self, name: str) -> None:
        for directory in self._directories:
            for partition, path in directory.partitions().items():
                if partition.topic == name:
                    known = self._partitions.pop(partition, None)
                    if known is not None:
                        known.shut(for_good=True)
                    rename_for_deletion(self._fs, path, partition)

    def _make_directories(self, topic: Topic) -> None:
        there = self._places()
        counts = {one.path: sum(path.parent == one.path for path in there.values()) for one in self._directories}
        for number in range(topic.partitions):
            partition = TopicPartition(topic.name, number)
            if partition not in there:
                root = min(counts, key=counts.__getitem__)
                counts[root] += 1
                self._fs.make_directory(root / str(partition))
        for root in counts:
            self._fs.sync_directory(root)

    # ---- the catalog

    def _complete(self) -> None:
        """Finish what a crash has left of changes to topics."""
        there = {name.topic: 0 for name in self._places()}
        for name in self._places():
            there[name.topic] += 1
        missing = [one for one in self._catalog.topics.values() if there.get(one.name, 0) < one.partitions]
        if not missing and not self._catalog.deleting:
            return
        with self._changing_catalog() as change:
            for topic in missing:
                if topic.name in self._catalog.topics:
                    self._make_directories(topic)
            for deleted in self._catalog.deleting:
                self._finish_deletion(deleted)
                change(self._catalog.gone(deleted))

    def _read_catalog(self) -> Catalog:
        return Catalog.read(self._fs, self.paths[0], self.paths)

    def _current_catalog(self) -> Catalog:
        """The topics as they are now, whoever has changed them."""
        self.check_open()
        turn = self._turns.read()
        if turn != self._seen:
            with self._guard:
                self._seen = turn
                self._take_over(self._read_catalog())
        return self._catalog

    def _take_over(self, catalog: Catalog) -> None:
        """See a catalog that another process has changed: topics that went, and settings."""
        before, self._catalog = self._catalog, catalog
        for name, partition in list(self._partitions.items()):
            old, new = before.topics.get(name.topic), catalog.topics.get(name.topic)
            if new is None or old is None or old.topic_id != new.topic_id:
                del self._partitions[name]
                partition.shut(for_good=True)
            elif old.settings != new.settings:
                self._configure(partition, new)

    def _configure(self, partition: Partition, topic: Topic) -> None:
        log = partition.open_log
        if log is not None:
            log.configure(topic.config(self.config))

    @contextlib.contextmanager
    def _changing_catalog(self) -> Iterator[Callable[[Catalog], None]]:
        """Change the topics inside, with what is given; other processes wait, and see it then."""
        self.check_open()
        with self._guard, self._directories[0].working():
            self._take_over(self._read_catalog())

            def change(catalog: Catalog) -> None:
                catalog.write(self._fs, self.paths[0])
                self._take_over(catalog)

            try:
                yield change
            finally:
                with self._turns.changing():
                    pass
                self._seen = self._turns.read()

    # ---- partitions

    def partition(self, topic: str, number: int = 0) -> Partition:
        """A partition of a topic. Raises UnknownTopicError."""
        catalog, name = self._current_catalog(), TopicPartition(topic, number)
        found = self._partitions.get(name)
        if found is None:
            if not 0 <= number < catalog.get(topic).partitions:
                raise UnknownTopicError(
                    f"topic {topic!r} has {catalog.get(topic).partitions} partitions, and none with number {number}"
                )
            with self._guard:
                found = self._partitions.get(name) or self._new_partition(name)
        self._pool.make_room()
        return found

    def partitions(self, topic: str | None = None) -> list[Partition]:
        """All partitions, or those of a topic. Raises UnknownTopicError."""
        chosen = self.topics(internal=True) if topic is None else [self.topic(topic)]
        return [self.partition(one.name, number) for one in chosen for number in range(one.partitions)]

    def watch(self, partitions: Iterable[Partition]) -> Watcher:
        """What waits until somebody, in whatever process, appends to one of these."""
        return Watcher(one.directory for one in partitions)

    def _places(self) -> dict[TopicPartition, Path]:
        found: dict[TopicPartition, Path] = {}
        for directory in self._directories:
            for partition, path in directory.partitions().items():
                if partition in found:
                    raise LogstoreError(f"{partition} is in two directories, {found[partition].parent} too", path=path)
                found[partition] = path
        return found

    def _new_partition(self, name: TopicPartition) -> Partition:
        place = next((one for one in self._directories if self._fs.is_directory(one.path / str(name))), None)
        home = place or self._directories[0]
        directory = home.path / str(name)

        def opener() -> AnyLog:
            topic = self._catalog.get(name.topic)
            config, facts = topic.config(self.config), home.facts(name)
            if self.mode == "exclusive":
                hold = PartitionHold.owned(self._fs, directory, facts)
                return Log.open(
                    directory, config, fs=self._fs, clock=self._clock, hold=hold, topic_id=topic.topic_id
                )
            return SharedLog.open(
                directory, config, session=home.session.number, fs=self._fs, clock=self._clock, known=facts,
                topic_id=topic.topic_id,
            )  # fmt: skip

        found = self._partitions[name] = Partition(name, directory, opener, self._pool)
        return found

    # ---- what is due now and then

    def retain(self) -> dict[TopicPartition, RetentionPlan]:
        """Delete the segments that are due by the settings of their topics; what was done, where anything was.

        Compacted topics without `delete` in their policy keep what they have but below the log start. Raises OSError.
        """
        done: dict[TopicPartition, RetentionPlan] = {}
        for partition in self.partitions():
            now = self._clock.now_ms()
            with partition.using() as log:
                end = log.log_end_offset
                plan = plan_retention(
                    log.segments, log.config, log_start_offset=log.log_start_offset, high_watermark=end, now_ms=now
                )
            if plan.going:
                with partition.changing() as log:
                    done[partition.name] = retain(log, now)
        return done

    def compact(self, *, cleaner: Cleaner | None = None) -> dict[TopicPartition, list[CleaningStats]]:
        """Clean the logs of all topics whose policy has `compact` in it; what was done. Raises as `Cleaner.clean`."""
        cleaner, done = cleaner or Cleaner(), {}
        for topic in self.topics(internal=True):
            if topic.config(self.config).compacted:
                for partition in self.partitions(topic.name):
                    with partition.changing() as log:
                        done[partition.name] = cleaner.clean_fully(log)
        return done

    def maintain(self) -> None:
        """What is due now and then: flushes by flush.ms, and files and directories that wait to be deleted."""
        self._current_catalog()
        for partition in list(self._partitions.values()):
            log = partition.open_log
            if isinstance(log, Log):
                log.maintain()
        for directory in self._directories:
            remove_due(self._fs, directory.doomed(), self._clock.now_ms() - self.config.file_delete_delay_ms)

    # ---- the end

    def close(self) -> None:
        """Close all logs; the last process to close a shared store leaves it as a broker does that shuts down.

        Durable on return where this one is the last. Closing twice is fine. Raises OSError.
        """
        with self._guard:
            if not self._is_open:
                return
            self._is_open = False
            if self._pid != os.getpid():
                return
            with contextlib.ExitStack() as stack:
                for directory in self._directories:
                    stack.callback(directory.release)
                stack.callback(self._turns.close)
                for directory in self._directories:
                    stack.callback(self._finish, directory)
                for partition in self._partitions.values():
                    stack.callback(partition.shut, for_good=True)

    def _finish(self, directory: DataDirectory) -> None:
        """Leave a directory as a broker does that shuts down, if nobody else has it. Raises OSError."""
        with directory.working():
            if not directory.is_last():
                return
            ends: dict[TopicPartition, PartitionEnds] = {}
            for name, path in directory.partitions().items():
                found = self._ends(directory, name, path)
                if found is None:
                    return  # it has to be recovered: nothing says that all are complete
                ends[name] = found
            directory.mark_clean(ends)
            directory.release()

    def _ends(self, directory: DataDirectory, name: TopicPartition, path: Path) -> PartitionEnds | None:
        """Where a complete log begins and ends; it is completed first, if that can be done."""
        hold = PartitionHold.owned(self._fs, path, directory.facts(name))
        topic = self._catalog.topics.get(name.topic)
        try:
            with Log.open(
                path, self.config if topic is None else topic.config(self.config), fs=self._fs, clock=self._clock,
                hold=hold,
            ) as log:
                return PartitionEnds(
                    log.log_start_offset, log.segments[0].base_offset, log.log_end_offset, log.cleaner_point
                )
        except DamagedLogError:
            return None
