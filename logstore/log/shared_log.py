"""One partition that any number of processes append to and read at once.

An append takes a short lock, looks at what others have appended, and writes behind it. Readers take no lock: they see
whole batches with a right CRC. All else that changes a log (a roll, retention, compaction, what a killed writer left)
is done by opening it as a `Log` for that moment, under the same lock; others notice and look at it anew. So at any
moment the directory is one that a `Log` could have left in a crash, and is recovered as such. Thread-safe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar, get_args
from uuid import UUID

from logstore import names
from logstore.clock import Clock, SystemClock
from logstore.config import INT64_MAX, Durability, LogConfig
from logstore.errors import LogstoreError
from logstore.fs import Buffer, LocalFileSystem, OpenLock, SharingFileSystem
from logstore.log.attachment import LOOKS_MAX, Attachment, Parts
from logstore.log.commit import AppendFuture
from logstore.log.log import Log
from logstore.log.log_view import LogView
from logstore.log.offsets_by_time import TimestampOffset
from logstore.log.origin import AppendOrigin
from logstore.log.partition_state import PartitionFacts, PartitionHold
from logstore.log.producer_append import Guard
from logstore.log.producers import ProducerStateEntry
from logstore.log.reading import READ_BYTES_MAX, FetchData, FetchIsolation
from logstore.log.segment_view import SegmentView
from logstore.log.tail_writer import RollWantedError
from logstore.log.turns import Turns
from logstore.log.writing import Appended
from logstore.records import BatchOptions, Codec, Record
from logstore.records.header import HEADER_V2_SIZE

_T = TypeVar("_T")
_DURABILITIES = frozenset(get_args(Durability))


class SharedLog:
    """A partition directory that is open together with other processes; use `SharedLog.open`.

    Attributes:
        directory: it.
    """

    def __init__(self, directory: Path, attachment: Attachment) -> None:
        self.directory = directory
        self._attachment = attachment

    @classmethod
    def open(
        cls,
        directory: str | Path,
        config: LogConfig | None = None,
        *,
        session: int,
        fs: SharingFileSystem | None = None,
        clock: Clock | None = None,
        known: PartitionFacts | None = None,
        topic_id: UUID | None = None,
        lock: OpenLock | None = None,
    ) -> Self:
        """Open a partition directory together with other processes of a session.

        The first one of a session recovers the log, if that is due.

        Args:
            session: a number that all who have the store open know, and that nobody has used before them.
            known: what is known of the log from elsewhere, such as a broker's checkpoints.
            topic_id: as of `Log.open`.
            lock: its lock file, where that is open already; it is the log's from now on.

        Raises DamagedLogError, InconsistentTopicIdError, LogClosedError for one that was deleted, FileNotFoundError
        where there is no such directory, OSError.
        """
        place, fs, known = Path(directory), fs or LocalFileSystem(), known or PartitionFacts()
        turns = Turns(lock or fs.open_lock(place / names.LOCK), session)
        attachment = Attachment(place, config or LogConfig(), fs, clock or SystemClock(), turns, known, topic_id)
        try:
            if topic_id is not None:
                PartitionHold.owned(fs, place, known).topic_id(topic_id)
            attachment.refresh()
        except BaseException:
            attachment.close()
            raise
        return cls(place, attachment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SharedLog {self.directory} {'open' if self._attachment.is_open else 'closed'}>"

    # ---- append

    def append(
        self,
        records: Iterable[Any],
        *,
        timestamp: int | None = None,
        codec: Codec | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Append records as one batch, as `Log.append`; other processes see them on return."""
        wanted, items = self._durability(durability), _listed(records, codec)
        done, parts = self._place_records(items, timestamp, codec)
        if wanted != "os" or self._attachment.config.flush_messages != INT64_MAX:
            parts.commits.settle(done.last_offset + 1, wanted)
        return done

    def append_later(
        self, records: Iterable[Any], *, timestamp: int | None = None, codec: Codec | None = None,
        options: BatchOptions | None = None,
    ) -> AppendFuture:  # fmt: skip
        """As `Log.append_later`."""
        items = _listed(records, codec)
        done, parts = self._place_records(items, timestamp, codec, options)
        return AppendFuture(parts.commits, done.first_offset, done.last_offset)

    def append_batch(
        self,
        data: Buffer,
        *,
        origin: AppendOrigin = AppendOrigin.CLIENT,
        durability: Durability | None = None,
        guard: Guard | None = None,
    ) -> Appended:
        """Append encoded batches, as `Log.append_batch`."""
        wanted = self._durability(durability)
        if not isinstance(origin, AppendOrigin):
            raise TypeError(f"{origin!r} is no AppendOrigin")
        done, parts = self._place_batch(data, origin, guard)
        parts.commits.settle(done.last_offset + 1, wanted)
        return done

    def _durability(self, wanted: Durability | None) -> Durability:
        if wanted is None:
            return self._attachment.config.durability
        if wanted not in _DURABILITIES:
            raise ValueError(f"{wanted!r} is no durability; there are {', '.join(sorted(_DURABILITIES))}")
        return wanted

    def _place_records(
        self, items: list[Any] | tuple[Any, ...], timestamp: int | None, codec: Codec | None,
        options: BatchOptions | None = None,
    ) -> tuple[Appended, Parts]:  # fmt: skip
        """Make a batch of records before others have to wait, and append it."""
        attachment = self._attachment
        if not attachment.is_open:
            attachment.check()
        encoded = attachment.encoder.encode(items, timestamp, codec, options)
        if encoded.delta < 0:
            return self._place_batch(encoded.data, AppendOrigin.CLIENT, None)
        return self._place(lambda parts: parts.appender.append_encoded(encoded))

    def _place_batch(self, data: Buffer, origin: AppendOrigin, guard: Guard | None) -> tuple[Appended, Parts]:
        view = memoryview(data).cast("B")
        head = None if view.readonly else bytes(view[:HEADER_V2_SIZE])

        def work(parts: Parts) -> Appended:
            if head is not None:
                view[: len(head)] = head  # it may have got its numbers already, before the log was rolled
            return parts.appender.append_batch(data, origin, None, guard)

        return self._place(work)

    def _place(self, work: Callable[[Parts], Appended]) -> tuple[Appended, Parts]:
        """Append behind what all others have appended; and where."""
        attachment = self._attachment
        with attachment.taken():
            parts = attachment.current()
            try:
                try:
                    done = work(parts)
                except RollWantedError:
                    parts = attachment.rolled()
                    done = work(parts)
            except OSError:
                attachment.failed(parts)
                raise
            parts.writer.tell_end(parts.raw)
            return done, parts

    def flush(self) -> None:
        """Make everything durable that was appended up to now, by whom ever. Raises OSError, LogClosedError."""
        parts = self._attachment.refresh()
        parts.commits.wait(parts.tail.state.next_offset)

    # ---- change and upkeep

    @contextlib.contextmanager
    def changing(self) -> Iterator[Log]:
        """Open it as a `Log` inside, to change it in any way; no process appends meanwhile. Raises as `Log.open`."""
        with self._attachment.taken(), self._attachment.as_log() as log:
            yield log

    def configure(self, config: LogConfig) -> None:
        """Take other settings from the next operation on."""
        self._attachment.configure(config)

    def maintain(self) -> None:
        """Sync what this process has appended, where flush.ms is over. For a scheduler. Raises OSError."""
        parts = self._attachment.parts
        if parts is not None:
            parts.commits.flush_if_due()

    @property
    def has_failed(self) -> bool:
        """Whether a sync has failed: what was appended before it may not be on disk, whatever later ones say."""
        return self._attachment.has_failed

    def close(self) -> None:
        """Give it up; nothing is synced. Closing twice is fine."""
        self._attachment.close()

    # ---- read

    def _seen(self, look: Callable[[LogView], _T]) -> _T:
        """What there is to be seen now; files may go while one looks."""
        attachment = self._attachment
        for _ in range(LOOKS_MAX):
            parts = attachment.refresh()
            try:
                return look(parts.view)
            except (OSError, LogstoreError):
                if attachment.is_unchanged(parts):
                    raise
        return look(attachment.wait().view)

    @property
    def config(self) -> LogConfig:
        """Its settings."""
        return self._attachment.config

    @property
    def log_start_offset(self) -> int:
        """The first offset that readers may ask for."""
        return self._seen(lambda view: view.log_start_offset)

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._seen(lambda view: view.log_end_offset)

    @property
    def last_stable_offset(self) -> int:
        """Up to where no transaction is undecided."""
        return self._seen(lambda view: view.last_stable_offset)

    @property
    def cleaner_point(self) -> int | None:
        """Up to where the log is cleaned; None when nobody has said."""
        return self._seen(lambda view: view.cleaner_point)

    @property
    def producers(self) -> tuple[ProducerStateEntry, ...]:
        """What is known of each producer, as `Log.producers`."""
        return self._seen(lambda view: view.producers)

    @property
    def size(self) -> int:
        """Bytes of batches in all segments."""
        return self._seen(lambda view: view.size)

    @property
    def segments(self) -> tuple[SegmentView, ...]:
        """The facts about each segment, in order; the last one is active. Raises OSError."""
        return self._seen(lambda view: view.segments)

    def read(
        self, offset: int, *, bytes_max: int = READ_BYTES_MAX, isolation: FetchIsolation = FetchIsolation.LOG_END
    ) -> bytes:
        """Whole batches as stored, as `Log.read`."""
        return self._seen(lambda view: view.read(offset, bytes_max=bytes_max, isolation=isolation))

    def fetch(
        self,
        offset: int,
        bytes_max: int = READ_BYTES_MAX,
        *,
        isolation: FetchIsolation = FetchIsolation.LOG_END,
        at_least_one: bool = True,
    ) -> FetchData:
        """Read as a broker answers a fetch, as `Log.fetch`."""
        return self._seen(lambda view: view.fetch(offset, bytes_max, isolation=isolation, at_least_one=at_least_one))

    def get(self, offset: int) -> Record | None:
        """The record of an offset, as `Log.get`."""
        return self._seen(lambda view: view.get(offset))

    def records(
        self, offset: int | None = None, *, isolation: FetchIsolation = FetchIsolation.LOG_END
    ) -> Iterator[Record]:
        """The records from `offset` (default: the log start) on, as `Log.records`: at least to the end there is now."""
        parts = self._attachment.refresh()
        end = parts.tail.state.next_offset
        following = parts.view.log_start_offset if offset is None else offset
        failures = 0
        while following < end:
            try:
                for record in parts.view.records(following, isolation=isolation):
                    following, failures = record.offset + 1, 0
                    yield record
                return
            except (OSError, LogstoreError):
                if self._attachment.is_unchanged(parts):
                    raise
            failures += 1
            parts = self._attachment.refresh() if failures < LOOKS_MAX else self._attachment.wait()

    def offset_for_time(self, timestamp: int) -> TimestampOffset | None:
        """The first record whose timestamp (ms) is `timestamp` or later, as `Log.offset_for_time`."""
        return self._seen(lambda view: view.offset_for_time(timestamp))


def _listed(records: Iterable[Any], codec: Codec | None) -> list[Any] | tuple[Any, ...]:
    if codec is not None and not isinstance(codec, Codec):
        raise TypeError(f"{codec!r} is no Codec")
    return records if isinstance(records, (list, tuple)) else list(records)
