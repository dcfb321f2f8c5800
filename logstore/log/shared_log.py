"""One partition that any number of processes append to and read at once.

An append takes a short lock, looks at what others have appended, and writes behind it. Readers take no lock: they see
whole batches with a right CRC. All else that changes a log (a roll, retention, compaction, what a killed writer left)
is done by opening it as a `Log` for that moment, under the same lock; others notice and look at it anew. So at any
moment the directory is one that a `Log` could have left in a crash, and is recovered as such. Thread-safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from uuid import UUID

from logstore import names
from logstore.clock import Clock, SystemClock
from logstore.config import Durability, LogConfig
from logstore.errors import DamagedLogError, LogClosedError, LogstoreError
from logstore.fs import Buffer, LocalFileSystem, SharingFileSystem
from logstore.log.appending import Appender
from logstore.log.commit import AppendFuture, Commits
from logstore.log.log import Log
from logstore.log.log_view import LogView
from logstore.log.offsets_by_time import TimestampOffset
from logstore.log.origin import AppendOrigin
from logstore.log.partition_state import PartitionFacts, PartitionHold
from logstore.log.producer_append import Guard
from logstore.log.reading import READ_BYTES_MAX, FetchData, FetchIsolation
from logstore.log.segment import Segment
from logstore.log.segment_view import SegmentView
from logstore.log.tail import Tail
from logstore.log.turns import Turn, Turns
from logstore.log.writing import Appended, LogWriter
from logstore.records import Codec, Record

_T = TypeVar("_T")
_LOOKS_MAX = 5  # without a lock; then with one


class _RollWantedError(Exception):
    """The append belongs into a new segment."""


class _TailWriter(LogWriter):
    """Writes behind the last batch, and nothing else."""

    def roll(self, base_offset: int) -> Segment:
        raise _RollWantedError


class _Parts(NamedTuple):
    """A log as it was attached."""

    turn: Turn
    tail: Tail
    view: LogView
    appender: Appender
    commits: Commits


class SharedLog:
    """A partition directory that is open together with other processes; use `SharedLog.open`.

    Attributes:
        directory: it.
    """

    def __init__(
        self, directory: Path, config: LogConfig, fs: SharingFileSystem, clock: Clock, turns: Turns,
        known: PartitionFacts, topic_id: UUID | None,
    ) -> None:  # fmt: skip
        self.directory = directory
        self._config = _sharable(config)
        self._fs = fs
        self._clock = clock
        self._turns = turns
        self._known = known
        self._topic_id = topic_id
        self._parts: _Parts | None = None
        self._is_open = True
        # Guards all of it; taken before the lock file.
        self._mutex = threading.RLock()

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
    ) -> Self:
        """Open a partition directory together with other processes of a session.

        The first one of a session recovers the log, if that is due.

        Args:
            session: a number that all who have the store open know, and that nobody has used before them.
            known: what is known of the log from elsewhere, such as a broker's checkpoints.
            topic_id: as of `Log.open`.

        Raises DamagedLogError, InconsistentTopicIdError, LogClosedError for one that was deleted, FileNotFoundError
        where there is no such directory, OSError.
        """
        place, fs = Path(directory), fs or LocalFileSystem()
        turns = Turns(fs.open_lock(place / names.LOCK), session)
        log = cls(
            place, config or LogConfig(), fs, clock or SystemClock(), turns, known or PartitionFacts(), topic_id
        )
        try:
            log.refresh()
        except BaseException:
            log.close()
            raise
        return log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SharedLog {self.directory} {'open' if self._is_open else 'closed'}>"

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
        items = records if isinstance(records, (list, tuple)) else list(records)
        return self._append(lambda parts: parts.appender.append_records(items, timestamp, codec), durability)

    def append_later(
        self, records: Iterable[Any], *, timestamp: int | None = None, codec: Codec | None = None
    ) -> AppendFuture:
        """As `Log.append_later`."""
        items = records if isinstance(records, (list, tuple)) else list(records)
        done, parts = self._place(lambda parts: parts.appender.append_records(items, timestamp, codec))
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
        return self._append(lambda parts: parts.appender.append_batch(data, origin, None, guard), durability)

    def _append(self, work: Callable[[_Parts], Appended], durability: Durability | None) -> Appended:
        done, parts = self._place(work)
        try:
            parts.commits.settle(done.last_offset + 1, durability or self._config.durability)
        except FileNotFoundError:
            if self._turns.read() == parts.turn:
                raise
            # Who has put another segment in its place has synced that.
        return done

    def _place(self, work: Callable[[_Parts], Appended]) -> tuple[Appended, _Parts]:
        """Append behind what all others have appended; and where."""
        with self._mutex, self._turns.taken():
            parts = self._current()
            try:
                return work(parts), parts
            except _RollWantedError:
                with self._as_log() as log:
                    log.roll()
                parts = self._attached_now()
                return work(parts), parts

    def flush(self) -> None:
        """Make everything durable that was appended up to now, by whom ever. Raises OSError, LogClosedError."""
        parts = self.refresh()
        parts.commits.wait(parts.tail.state.next_offset)

    # ---- change

    @contextlib.contextmanager
    def changing(self) -> Iterator[Log]:
        """Open it as a `Log` inside, to change it in any way; no process appends meanwhile. Raises as `Log.open`."""
        with self._mutex, self._turns.taken():
            self._check_open()
            with self._as_log() as log:
                yield log
            self._attached_now()

    def configure(self, config: LogConfig) -> None:
        """Take other settings from the next operation on."""
        with self._mutex:
            self._config = _sharable(config)
            self._detach()

    @contextlib.contextmanager
    def _as_log(self) -> Iterator[Log]:
        """Under the lock; others look at it anew afterwards."""
        self._detach()
        hold = PartitionHold.owned(self._fs, self.directory, self._known)
        with (
            self._turns.changing(),
            Log.open(
                self.directory, self._config, fs=self._fs, clock=self._clock, hold=hold, topic_id=self._topic_id
            ) as log,
        ):
            yield log
        # From now on its own files tell how it was closed.
        self._known = self._known._replace(is_vouched_for=False)

    # ---- look

    def refresh(self) -> _Parts:
        """See what others have appended and changed. Raises DamagedLogError, LogClosedError, OSError."""
        with self._mutex:
            self._check_open()
            for _ in range(_LOOKS_MAX):
                parts, turn = self._parts, self._turns.read()
                if parts is not None and turn == parts.turn:
                    with contextlib.suppress(DamagedLogError):
                        parts.tail.catch_up()
                    return parts
                if not self._turns.is_good(turn):
                    with self._turns.tried() as is_mine:
                        if is_mine:
                            return self._current()
                    if parts is not None:  # somebody is at work: what was there is still there to be read
                        return parts
                    break
                with contextlib.suppress(OSError, LogstoreError):
                    self._attach(turn)
            with self._turns.taken():
                return self._current()

    def _current(self) -> _Parts:
        """The log as it is, in order. Under the lock."""
        self._check_open()
        turn = self._turns.read()
        parts = self._parts
        if turn.is_deleted:
            raise LogClosedError("this partition was deleted", path=self.directory)
        if not self._turns.is_good(turn):
            return self._put_in_order(turn)
        if parts is None or parts.turn != turn:
            parts = self._attach(turn)
        try:
            is_whole = parts is not None and parts.tail.catch_up().is_whole
        except DamagedLogError:
            is_whole = False
        if parts is None or not is_whole:  # its writer was killed
            with self._as_log():
                pass
            parts = self._attached_now()
        return parts

    def _put_in_order(self, turn: Turn) -> _Parts:
        """Begin a session with the log, or go on behind one who died. Under the lock."""
        if turn.is_settled:
            parts = self._attach(turn)
            if parts is not None and parts.tail.is_as_closed:
                self._turns.vouch()
                return self._attached_now()
        with self._as_log():
            pass
        return self._attached_now()

    def _attached_now(self) -> _Parts:
        parts = self._attach(self._turns.read())
        if parts is None or not parts.tail.catch_up().is_whole:
            raise LogstoreError("it was put in order, and is not", path=self.directory)
        return parts

    def _attach(self, turn: Turn) -> _Parts | None:
        """Look at it anew; None where it has to be put in order first, or was changed meanwhile."""
        self._detach()
        hold = PartitionHold.owned(self._fs, self.directory, self._known)
        tail = Tail.attach(self._fs, self.directory, self._config, self._clock, hold)
        if tail is None or self._turns.read() != turn:
            if tail is not None:
                tail.detach()
            return None
        state = tail.state
        writer = _TailWriter(state)
        self._parts = _Parts(turn, tail, LogView(state), Appender(state, writer), Commits(state))
        return self._parts

    def _detach(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.tail.detach()

    def _check_open(self) -> None:
        if not self._is_open:
            raise LogClosedError("this log is closed", path=self.directory)

    def close(self) -> None:
        """Give it up; nothing is synced. Closing twice is fine."""
        with self._mutex:
            if self._is_open:
                self._is_open = False
                self._detach()
                self._turns.close()

    # ---- read

    def _seen(self, look: Callable[[LogView], _T]) -> _T:
        """What there is to be seen now; files may go while one looks."""
        for _ in range(_LOOKS_MAX):
            parts = self.refresh()
            try:
                return look(parts.view)
            except (OSError, LogstoreError):
                if self._turns.read() == parts.turn and parts.tail.state.is_open:
                    raise
        return look(self.refresh().view)

    @property
    def config(self) -> LogConfig:
        """Its settings."""
        return self._config

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
        """The records from `offset` (default: the log start) to the end there is at first, as `Log.records`."""
        parts = self.refresh()
        end = parts.tail.state.next_offset
        following = parts.view.log_start_offset if offset is None else offset
        while following < end:
            parts = self.refresh()
            try:
                for record in parts.view.records(following, isolation=isolation):
                    following = record.offset + 1
                    yield record
                return
            except (OSError, LogstoreError):
                if self._turns.read() == parts.turn and parts.tail.state.is_open:
                    raise

    def offset_for_time(self, timestamp: int) -> TimestampOffset | None:
        """The first record whose timestamp (ms) is `timestamp` or later, as `Log.offset_for_time`."""
        return self._seen(lambda view: view.offset_for_time(timestamp))


def _sharable(config: LogConfig) -> LogConfig:
    """Without room set aside in files: what lies behind the last batch has to be a batch, or the begin of one."""
    return dataclasses.replace(config, preallocate=False) if config.preallocate else config
