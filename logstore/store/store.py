"""A data directory of many partitions, as a broker has it: topics, their logs, and what is due now and then.

A store is opened by one process alone, or by any number together; then each sees what the others do. What is on disk
is Kafka's, but for dot-files that it ignores. Invariant: a topic is there for all or for none. Thread-safe. Nothing
runs in the background: `retain`, `compact` and `maintain` are called by whoever wants them, or by a `StoreService`.
"""

from __future__ import annotations

import contextlib
import os
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self
from uuid import uuid4

from logstore import names
from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import LogstoreError, StoreClosedError, UnknownTopicError
from logstore.fs import LocalFileSystem, SharingFileSystem, StrPath
from logstore.log import Log, PartitionHold, SharedLog
from logstore.names import TopicPartition
from logstore.store.catalog import Catalog, Topic, find_root
from logstore.store.closing import Closing, close_all
from logstore.store.data_directory import DataDirectory, Mode
from logstore.store.network import find_network_file_system
from logstore.store.partition import AnyLog, LogPool, Partition, TopicsChangedError, maps_max, open_logs_max
from logstore.store.producer_ids import ProducerIds
from logstore.store.removal import remove_due
from logstore.store.topic_keeper import TopicKeeper
from logstore.store.watching import Watcher

if TYPE_CHECKING:  # what they need takes long to import, and few call for it
    from logstore.cleaner import Cleaner, CleaningStats
    from logstore.retention import RetentionPlan
    from logstore.store.housekeeping import OnPartitionError


class Client(Protocol):
    """What works on a store, and has something to do before that is closed."""

    def close(self) -> None:
        """Do it; closing twice is fine."""


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
        self._process = os.getpid()
        self._is_open = True
        self._partitions: dict[TopicPartition, Partition] = {}  # changed under the guard of the keeper
        open_max = open_logs_max(is_shared=mode == "shared")
        self._pool = LogPool(open_max)
        self._maps_max = maps_max(open_max)
        self._keeper = TopicKeeper(fs, directories, self._take_over)
        self._producer_ids = ProducerIds(fs, self.paths[0])
        self._clients: weakref.WeakSet[Client] = weakref.WeakSet()

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
        logstore has written it), OSError; ValueError for what is no such argument. Warns of a network file system
        where it is to be shared: there, others may not see locks, or what was written.
        """
        if mode not in ("shared", "exclusive"):
            raise ValueError(f"{mode!r} is no mode; there are shared and exclusive")
        given = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        places = [Path(os.path.abspath(one)) for one in given]
        if not places or len({one.resolve() for one in places}) < len(places):
            raise ValueError("a store has one directory or more, each of them once")
        fs, held = fs or LocalFileSystem(), list[DataDirectory]()
        if mode == "shared" and isinstance(fs, LocalFileSystem):
            _warn_of_networks(places)
        places = find_root(fs, places)  # before anything is changed: what is refused is as it was
        try:
            for place in places:
                held.append(DataDirectory.hold(fs, place, mode))
            return cls(held, mode, config or LogConfig(), fs, clock or SystemClock())
        except BaseException:
            for one in held:
                one.abandon()
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
    def fs(self) -> SharingFileSystem:
        """What it stands on."""
        return self._fs

    @property
    def clock(self) -> Clock:
        """What tells it the time."""
        return self._clock

    def check_open(self) -> None:
        """Raise StoreClosedError where it is closed, or was opened before this process was forked."""
        if not self._is_open:
            raise StoreClosedError("this store is closed", path=self.paths[0])
        if self._process != os.getpid():
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
        self.check_open()
        topic = Topic(name, partitions, uuid4(), dict(settings or {}))
        topic.config(self.config)
        with self._keeper.changing() as change:
            known = self._keeper.catalog.topics.get(name)
            if exist_ok and known is not None:
                return known
            change(self._keeper.catalog.with_topic(topic))
            self._keeper.make_directories(topic)
        return topic

    def grow_topic(self, name: str, partitions: int) -> Topic:
        """Give a topic more partitions, durably; keys go to other ones afterwards, what is there stays (CLUSTER §2.4).

        Raises UnknownTopicError, InvalidPartitionsError where that is not more.
        """
        self.check_open()
        with self._keeper.changing() as change:
            change(self._keeper.catalog.grown(name, partitions))
            topic = self._keeper.catalog.get(name)
            self._keeper.make_directories(topic)
        return topic

    def alter_topic(self, name: str, settings: Mapping[str, str | None]) -> Topic:
        """Set settings of a topic, durably, from the next operation on; None lets the store's count again.

        Raises UnknownTopicError, ValueError for a setting that is none.
        """
        self.check_open()
        with self._keeper.changing() as change:
            catalog = self._keeper.catalog.altered(name, settings)
            topic = catalog.get(name)
            topic.config(self.config)
            change(catalog)
        return topic

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records: the directories are renamed, durably, and go after file.delete.delay.ms.

        Raises UnknownTopicError, OSError.
        """
        self.check_open()
        with self._keeper.changing() as change:
            change(self._keeper.catalog.without(name))
            self._keeper.rename_directories(name)
            change(self._keeper.catalog.gone(name))

    def _current_catalog(self) -> Catalog:
        if not self._is_open:
            self.check_open()
        try:
            return self._keeper.current()
        except (OSError, ValueError):
            self.check_open()  # of what is closed, also by a fork, the lock file cannot be read
            raise

    def _take_over(self, before: Catalog, after: Catalog) -> None:
        """See topics that went or came, and other settings, whoever has changed them."""
        for name, partition in list(self._partitions.items()):
            old, new = before.topics.get(name.topic), after.topics.get(name.topic)
            if new is None or old is None or old.topic_id != new.topic_id:
                del self._partitions[name]
                partition.shut(for_good=True)
            elif old.settings != new.settings:
                partition.configure(new.config(self.config))

    # ---- partitions

    def partition(self, topic: str, number: int = 0) -> Partition:
        """A partition of a topic. Raises UnknownTopicError."""
        catalog, name = self._current_catalog(), TopicPartition(topic, number)
        found = self._partitions.get(name)
        if found is not None:
            return found
        if not 0 <= number < catalog.get(topic).partitions:
            raise UnknownTopicError(
                f"topic {topic!r} has {catalog.get(topic).partitions} partitions, and none with number {number}"
            )
        with self._keeper.guard:
            found = self._partitions.get(name) or self._new_partition(name)
        if found is None:
            raise UnknownTopicError(
                f"partition {number} of topic {topic!r} is not in this store", path=self.paths[0],
                remedy="of a topic that a broker has made the other partitions may be with other brokers",
            )  # fmt: skip
        return found

    def partitions(self, topic: str | None = None) -> list[Partition]:
        """All partitions that are here, or those of a topic. Raises UnknownTopicError."""
        chosen = self.topics(internal=True) if topic is None else [self.topic(topic)]
        found = []
        with self._keeper.guard:
            for one in chosen:
                for name in (TopicPartition(one.name, number) for number in range(one.partitions)):
                    partition = self._partitions.get(name) or self._new_partition(name)
                    if partition is not None:
                        found.append(partition)
        return found

    def watch(self, partitions: Iterable[Partition]) -> Watcher:
        """What waits until somebody, in whatever process, appends to one of these."""
        return Watcher(one.directory for one in partitions)

    def new_producer_id(self) -> int:
        """An id for a producer that nobody has got before; that is durable. Raises StoreClosedError, OSError."""
        self.check_open()
        return self._producer_ids.next()

    def _new_partition(self, name: TopicPartition) -> Partition | None:
        """One that was not asked for before; None where it has no directory. Under the guard."""
        home = next((one for one in self._directories if self._fs.is_directory(one.path / str(name))), None)
        if home is None or name.topic not in self._keeper.catalog.topics:
            return None
        check: Callable[[], object] = self.check_open if self.mode == "exclusive" else self._current_catalog
        directory = home.path / str(name)
        found = Partition(name, directory, lambda: self._open_log(home, directory, name), check, self._pool)
        self._partitions[name] = found
        return found

    def _open_log(self, home: DataDirectory, directory: Path, name: TopicPartition) -> AnyLog:
        topic = self._keeper.catalog.get(name.topic)
        config, facts = topic.config(self.config), home.facts(name)
        if self.mode == "exclusive":
            hold = PartitionHold.owned(self._fs, directory, facts)
            return Log.open(
                directory, config, fs=self._fs, clock=self._clock, hold=hold, topic_id=topic.topic_id,
                maps_max=self._maps_max,
            )  # fmt: skip
        try:
            lock = self._fs.open_lock(directory / names.LOCK)
        except FileNotFoundError:
            if self._keeper.is_current():
                raise
            raise TopicsChangedError from None
        if not self._keeper.is_current():
            # The directory may be that of another topic of the name, whose log must not get this one's id.
            lock.close()
            raise TopicsChangedError
        return SharedLog.open(
            directory, config, session=home.session.number, fs=self._fs, clock=self._clock, known=facts,
            topic_id=topic.topic_id, lock=lock,
        )  # fmt: skip

    # ---- what is due now and then

    def retain(self, *, on_error: OnPartitionError | None = None) -> dict[TopicPartition, RetentionPlan]:
        """Delete the segments that are due by the settings of their topics; what was done, where anything was.

        Compacted topics without `delete` in their policy keep what they have but below the log start. `on_error` is
        told of a partition that could not be done, and the others are; without it the first error is raised.
        """
        from logstore.store.housekeeping import retain_partitions

        return retain_partitions(self.partitions(), self._clock, on_error)

    def compact(
        self, *, cleaner: Cleaner | None = None, only_due: bool = False, but: Collection[TopicPartition] = (),
        on_error: OnPartitionError | None = None,
    ) -> dict[TopicPartition, list[CleaningStats]]:  # fmt: skip
        """Clean the logs of all topics whose policy has `compact` in it; what was done.

        Args:
            cleaner: what does it.
            only_due: not those that are not dirty enough, as Kafka's log cleaner has it (min.cleanable.dirty.ratio,
                max.compaction.lag.ms).
            but: partitions that are left alone.
            on_error: as of `retain`.

        Raises as `Cleaner.clean`.
        """
        from logstore.store.housekeeping import compact_partitions

        topics = [one for one in self.topics(internal=True) if one.config(self.config).compacted]
        found = [one for topic in topics for one in self.partitions(topic.name) if one.name not in but]
        return compact_partitions(found, cleaner, self._clock, only_due=only_due, on_error=on_error)

    def recover(self, *, threads: int = 2) -> dict[TopicPartition, LogstoreError]:
        """Put all logs in order after a crash, a few at a time, instead of each when it is first used.

        What cannot be opened, and why. Does nothing where the store was closed cleanly. `threads` is Kafka's
        num.recovery.threads.per.data.dir. Raises OSError.
        """
        from logstore.store.housekeeping import recover_partitions

        unclean = {one.path for one in self._directories if not one.session.was_clean}
        return recover_partitions([one for one in self.partitions() if one.directory.parent in unclean], threads)

    def maintain(self) -> None:
        """What is due now and then: flushes by flush.ms, and files and directories that wait to be deleted."""
        self._current_catalog()
        for partition in list(self._partitions.values()):
            partition.maintain()
        for directory in self._directories:
            remove_due(self._fs, directory.doomed(), self._clock.now_ms() - self.config.file_delete_delay_ms)

    # ---- the end

    def close_first(self, client: Client) -> None:
        """Let something be closed before the store is, as long as there is a reference to it."""
        self._clients.add(client)

    def close(self) -> None:
        """Close all logs; the last process to close a shared store leaves it as a broker does that shuts down.

        Producers are closed before, which writes what they have gathered. Durable on return where this one is the
        last. Closing twice is fine. Raises OSError, LogClosedError where a sync has failed before, and what closing a
        producer raises; then the store is closed all the same, and recovered when it is opened again.
        """
        if self._process != os.getpid():
            self._is_open = False
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            for client in tuple(self._clients) if self._is_open else ():
                stack.callback(client.close)

    def _close(self) -> None:
        with self._keeper.guard:
            if not self._is_open:
                return
            self._is_open = False
        with contextlib.ExitStack() as stack:
            stack.callback(self._keeper.close)
            for directory in self._directories:
                stack.callback(self._leave, directory)
            close_all(self._partitions.values())

    def _leave(self, directory: DataDirectory) -> None:
        """Leave a directory as a broker does that shuts down, if nobody else has it. Raises OSError."""
        mine = [one for one in self._partitions.values() if one.directory.parent == directory.path]
        closed = {one.name: one.ends for one in mine if one.ends is not None}
        try:
            with directory.working():
                if directory.is_last() and not any(one.has_failed for one in mine):
                    closing = Closing(self._fs, self._clock, self._config_of, closed)
                    ends = closing.complete(directory)
                    if ends is not None:
                        directory.mark_clean(ends)
                directory.release()
        finally:
            directory.release()

    def _config_of(self, topic: str) -> LogConfig:
        found = self._keeper.catalog.topics.get(topic)
        return self.config if found is None else found.config(self.config)


def _warn_of_networks(places: Iterable[Path]) -> None:
    for place in places:
        kind = find_network_file_system(place)
        if kind is not None:
            warnings.warn(
                f"{place} is on a file system of the kind {kind!r}: processes on several machines, and often on one,"
                " do not see each other's locks there; open the store as exclusive, or put it on a disk",
                RuntimeWarning, stacklevel=3,
            )  # fmt: skip
