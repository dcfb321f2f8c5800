"""A partition of a store: a log that is opened when it is needed, and given up when too many others are.

Every operation sees what other processes have done. Thread-safe; a partition outlives the closing of its log, not that
of its store, nor its topic.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from logstore.config import Durability, LogConfig
from logstore.errors import LogClosedError
from logstore.fs import Buffer
from logstore.log import (
    Appended,
    AppendFuture,
    AppendOrigin,
    FetchData,
    FetchIsolation,
    Guard,
    Log,
    ProducerStateEntry,
    SegmentView,
    SharedLog,
    TimestampOffset,
)
from logstore.log.maps import MAPS_MAX
from logstore.log.reading import READ_BYTES_MAX
from logstore.names import TopicPartition
from logstore.records import BatchOptions, Codec, Record
from logstore.store.data_directory import PartitionEnds

AnyLog: TypeAlias = Log | SharedLog

_OPEN_LOGS_MIN, _OPEN_LOGS_MAX = 8, 200
_DESCRIPTORS_LEFT = 100  # for all else
_DESCRIPTORS_SHARED = 11  # lock, log file and its map, and as many sealed files as a shared log maps
_DESCRIPTORS = 16  # those of the active segment, and some sealed files
_DESCRIPTORS_ACTIVE = 7  # log file, indexes, and their maps


class TopicsChangedError(Exception):
    """A log cannot be opened before somebody has looked whether it still is of the topic."""


class Partition:
    """One partition; `Store.partition` gives it.

    Attributes:
        name: topic and number.
        directory: where it is.
        ends: of the log as it was closed, where this process had it alone; None while it is open, and before.
        has_failed: whether closing the log, or a sync of it, has failed.
    """

    def __init__(
        self, name: TopicPartition, directory: Path, opener: Callable[[], AnyLog], check: Callable[[], object],
        pool: LogPool,
    ) -> None:  # fmt: skip
        self.name = name
        self.directory = directory
        self.ends: PartitionEnds | None = None
        self.has_failed = False
        self._was_used = False
        self._opener = opener
        self._check = check
        self._pool = pool
        self._log: AnyLog | None = None
        self._users = 0
        self._using = _Using(self)
        self._is_gone = False
        # Guards the log, its users, and whether it is gone; an opening holds it, so that two do not open one log.
        # Taken before the pool's.
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"<Partition {self.name} {'open' if self._log is not None else 'not open'}>"

    # ---- the log behind it

    def using(self) -> _Using:
        """The log, open inside a `with`.

        Raises as `Log.open`; LogClosedError once the topic is gone, StoreClosedError once the store is closed.
        """
        return self._using

    def _take(self) -> AnyLog:
        self._check()
        with self._guard:
            log = self._log
            if log is not None:
                self._users += 1
                self._was_used = True
                return log
        log = self._opened()
        while log is None:
            self._check()
            log = self._opened()
        self._pool.add(self)
        return log

    def _opened(self) -> AnyLog | None:
        """The log, in use; None where topics have changed meanwhile, and one has to look first whether it is there."""
        with self._guard:
            if self._log is None:
                if self._is_gone:
                    raise LogClosedError("its topic was deleted", path=self.directory)
                try:
                    self._log = self._opener()
                except TopicsChangedError:
                    return None
                self.ends = None
            self._users += 1
            self._was_used = True
            return self._log

    def _give_back(self) -> None:
        with self._guard:
            self._users -= 1

    @property
    def is_gone(self) -> bool:
        """Whether its store is closed, or its topic deleted."""
        return self._is_gone

    def configure(self, config: LogConfig) -> None:
        """Let the log, where it is open, take other settings."""
        with self._guard:
            if self._log is not None:
                self._log.configure(config)

    def maintain(self) -> None:
        """What is due now and then, where the log is open; as `Log.maintain`."""
        log = self._log
        if log is not None:
            log.maintain()

    def shut(self, *, for_good: bool = False) -> bool:
        """Close the log unless somebody uses it; whether it is closed. `for_good`: whoever uses it, once for all.

        Raises as `Log.close`.
        """
        with self._guard:
            if self._users and not for_good:
                return False
            self._is_gone = self._is_gone or for_good
            log, self._log = self._log, None
            if log is not None:
                self._close(log)
        return True

    def _close(self, log: AnyLog) -> None:
        """Under the guard: nobody opens it before it is closed."""
        if isinstance(log, SharedLog):
            log.close()
            self.has_failed = self.has_failed or log.has_failed
            return
        ends = PartitionEnds(log.log_start_offset, log.segments[0].base_offset, log.log_end_offset, log.cleaner_point)
        try:
            log.close()
        except BaseException:
            self.has_failed = True
            raise
        self.ends = ends

    @contextlib.contextmanager
    def changing(self) -> Iterator[Log]:
        """The log, to change it in any way inside; in a shared store no process appends meanwhile."""
        with self.using() as log:
            if isinstance(log, SharedLog):
                with log.changing() as inner:
                    yield inner
            else:
                yield log

    # ---- append

    def append(
        self,
        records: Iterable[Any],
        *,
        timestamp: int | None = None,
        codec: Codec | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Append records as one batch; as `Log.append`."""
        with self.using() as log:
            return log.append(records, timestamp=timestamp, codec=codec, durability=durability)

    def append_later(
        self, records: Iterable[Any], *, timestamp: int | None = None, codec: Codec | None = None,
        options: BatchOptions | None = None,
    ) -> AppendFuture:  # fmt: skip
        """Append records, and wait for their being on disk later; as `Log.append_later`."""
        with self.using() as log:
            return log.append_later(records, timestamp=timestamp, codec=codec, options=options)

    def append_batch(
        self,
        data: Buffer,
        *,
        origin: AppendOrigin = AppendOrigin.CLIENT,
        durability: Durability | None = None,
        guard: Guard | None = None,
    ) -> Appended:
        """Append encoded batches; as `Log.append_batch`."""
        with self.using() as log:
            return log.append_batch(data, origin=origin, durability=durability, guard=guard)

    def flush(self) -> None:
        """Make everything durable that was appended up to now. Raises OSError."""
        with self.using() as log:
            log.flush()

    # ---- read

    @property
    def config(self) -> LogConfig:
        """Its settings."""
        with self.using() as log:
            return log.config

    @property
    def log_start_offset(self) -> int:
        """The first offset that readers may ask for."""
        with self.using() as log:
            return log.log_start_offset

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        with self.using() as log:
            return log.log_end_offset

    @property
    def last_stable_offset(self) -> int:
        """Up to where no transaction is undecided."""
        with self.using() as log:
            return log.last_stable_offset

    @property
    def producers(self) -> tuple[ProducerStateEntry, ...]:
        """What is known of each producer: its last sequence, where its open transaction began, and so on."""
        with self.using() as log:
            return log.producers

    @property
    def size(self) -> int:
        """Bytes of batches in all segments."""
        with self.using() as log:
            return log.size

    @property
    def segments(self) -> tuple[SegmentView, ...]:
        """The facts about each segment, in order; the last one is active. Raises OSError."""
        with self.using() as log:
            return log.segments

    def read(
        self, offset: int, *, bytes_max: int = READ_BYTES_MAX, isolation: FetchIsolation = FetchIsolation.LOG_END
    ) -> bytes:
        """Whole batches as stored; as `Log.read`."""
        with self.using() as log:
            return log.read(offset, bytes_max=bytes_max, isolation=isolation)

    def fetch(
        self,
        offset: int,
        bytes_max: int = READ_BYTES_MAX,
        *,
        isolation: FetchIsolation = FetchIsolation.LOG_END,
        at_least_one: bool = True,
    ) -> FetchData:
        """Read as a broker answers a fetch; as `Log.fetch`."""
        with self.using() as log:
            return log.fetch(offset, bytes_max, isolation=isolation, at_least_one=at_least_one)

    def get(self, offset: int) -> Record | None:
        """The record of an offset; as `Log.get`."""
        with self.using() as log:
            return log.get(offset)

    def records(
        self, offset: int | None = None, *, isolation: FetchIsolation = FetchIsolation.LOG_END
    ) -> Iterator[Record]:
        """The records from `offset` (default: the log start) on; as `Log.records`."""
        with self.using() as log:
            yield from log.records(offset, isolation=isolation)

    def offset_for_time(self, timestamp: int) -> TimestampOffset | None:
        """The first record whose timestamp (ms) is `timestamp` or later; as `Log.offset_for_time`."""
        with self.using() as log:
            return log.offset_for_time(timestamp)


class _Using:
    """Keeps a log open inside a `with`: every operation does that, and a generator would cost it a microsecond."""

    __slots__ = ("_partition",)

    def __init__(self, partition: Partition) -> None:
        self._partition = partition

    def __enter__(self) -> AnyLog:
        return self._partition._take()

    def __exit__(self, *exception: object) -> None:
        self._partition._give_back()


def open_logs_max(*, is_shared: bool) -> int:
    """How many logs may be open at a time, by the descriptors that this process may have."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _OPEN_LOGS_MAX
    each = _DESCRIPTORS_SHARED if is_shared else _DESCRIPTORS
    return min(max((limit - _DESCRIPTORS_LEFT) // each, _OPEN_LOGS_MIN), _OPEN_LOGS_MAX)


def maps_max(open_max: int) -> int:
    """How many sealed files each of so many open logs may keep mapped, by the same descriptors."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAPS_MAX
    return max(min((limit - _DESCRIPTORS_LEFT) // open_max - _DESCRIPTORS_ACTIVE, MAPS_MAX), 1)


class LogPool:
    """How many logs may be open at a time: each takes a few descriptors.

    Args:
        open_max: beyond so many, those are closed that were not used for the longest time, and are not in use.
    """

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        # Guards the order; innermost. Logs are closed without it.
        self._guard = threading.Lock()
        self._open: OrderedDict[TopicPartition, Partition] = OrderedDict()

    def __repr__(self) -> str:
        return f"<LogPool {len(self._open)} of {self._open_max}>"

    def add(self, partition: Partition) -> None:
        """Note that a log was opened, and close others that are too many. Raises as `Partition.shut`."""
        with self._guard:
            self._open[partition.name] = partition
            chosen = self._surplus()
        for one in chosen:
            if one is partition or not one.shut():
                with self._guard:
                    self._open[one.name] = one

    def _surplus(self) -> list[Partition]:
        chosen: list[Partition] = []
        for _ in range(2 * len(self._open)):
            if len(self._open) <= self._open_max:
                break
            _, oldest = self._open.popitem(last=False)
            if oldest._was_used:  # since it was looked at last: it gets a second chance
                oldest._was_used = False
                self._open[oldest.name] = oldest
            else:
                chosen.append(oldest)
        return chosen
