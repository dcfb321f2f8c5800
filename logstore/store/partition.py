"""A partition of a store: a log that is opened when it is needed, and given up when too many others are.

Every operation sees what other processes have done. Thread-safe; a partition outlives the closing of its log, not that
of its store.
"""

from __future__ import annotations

import contextlib
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
    SegmentView,
    SharedLog,
    TimestampOffset,
)
from logstore.log.reading import READ_BYTES_MAX
from logstore.names import TopicPartition
from logstore.records import Codec, Record

AnyLog: TypeAlias = Log | SharedLog


class Partition:
    """One partition; `Store.partition` gives it.

    Attributes:
        name: topic and number.
        directory: where it is.
    """

    def __init__(self, name: TopicPartition, directory: Path, opener: Callable[[], AnyLog], pool: LogPool) -> None:
        self.name = name
        self.directory = directory
        self._opener = opener
        self._pool = pool
        self._log: AnyLog | None = None
        self._users = 0
        self._is_gone = False
        # Guards the three; an opening holds it, so that two do not open one log. Taken before the pool's.
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"<Partition {self.name} {'open' if self._log is not None else 'not open'}>"

    # ---- the log behind it

    @contextlib.contextmanager
    def using(self) -> Iterator[AnyLog]:
        """The log, open inside. Raises as `Log.open`, LogClosedError once the store is closed or the topic gone."""
        log = self._take()
        try:
            yield log
        finally:
            self._give_back()

    def _take(self) -> AnyLog:
        with self._guard:
            if self._is_gone:
                raise LogClosedError("its store is closed, or its topic deleted", path=self.directory)
            log = self._log
            if log is None:
                log = self._log = self._opener()
                self._pool.add(self)
            self._users += 1
            return log

    def _give_back(self) -> None:
        with self._guard:
            self._users -= 1

    @property
    def open_log(self) -> AnyLog | None:
        """The log, where it is open already."""
        return self._log

    def shut(self, *, for_good: bool = False) -> bool:
        """Close the log unless somebody uses it; whether it is closed. `for_good`: whoever uses it, once for all."""
        with self._guard:
            if self._users and not for_good:
                return False
            self._is_gone = self._is_gone or for_good
            log, self._log = self._log, None
        if log is not None:
            log.close()
        return True

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
        self, records: Iterable[Any], *, timestamp: int | None = None, codec: Codec | None = None
    ) -> AppendFuture:
        """Append records, and wait for their being on disk later; as `Log.append_later`."""
        with self.using() as log:
            return log.append_later(records, timestamp=timestamp, codec=codec)

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


class LogPool:
    """How many logs may be open at a time: each takes a few descriptors.

    Args:
        open_max: beyond so many, those are closed that were opened first and are not in use.
    """

    def __init__(self, open_max: int) -> None:
        self._open_max = open_max
        self._guard = threading.Lock()  # guards the order; innermost
        self._open: OrderedDict[TopicPartition, Partition] = OrderedDict()

    def __repr__(self) -> str:
        return f"<LogPool {len(self._open)} of {self._open_max}>"

    def add(self, partition: Partition) -> None:
        """Note that a log was opened, and choose others to be closed by `make_room`."""
        with self._guard:
            self._open[partition.name] = partition

    def make_room(self) -> None:
        """Close logs that are too many. Raises OSError."""
        with self._guard:
            surplus = len(self._open) - self._open_max
            chosen = [self._open.popitem(last=False)[1] for _ in range(surplus)]
        for one in chosen:
            if not one.shut():
                self.add(one)
