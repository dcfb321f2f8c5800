"""How a process keeps up with a log that others append to and change: the machine room of `SharedLog`.

The log is attached as it was left by who changed it last, and followed from there; when somebody has changed more than
its end it is attached anew. Invariants: what is attached belongs to the bytes that the lock file had before and after;
it is replaced in one assignment, so that readers need no lock, and an old one serves them until there is a new one; the
first one of a session believes what is known of the log from elsewhere, all others only its own files. Thread-safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogClosedError, LogstoreError
from logstore.fs import SharingFileSystem
from logstore.log.appending import Appender, Encoder
from logstore.log.commit import Commits
from logstore.log.diagnosis import REMEDY
from logstore.log.log import Log
from logstore.log.log_state import LogState
from logstore.log.log_view import LogView
from logstore.log.partition_state import PartitionFacts, PartitionHold
from logstore.log.tail import Tail
from logstore.log.tail_writer import TailWriter
from logstore.log.turns import RAW_BYTES, Turn, Turns, parse_turn

LOOKS_MAX = 5  # without a lock; then with one


class _TailCommits(Commits):
    """Syncs what was appended, also where somebody has put other segments in its place: that one has synced it.

    Args:
        state: of the log as it was attached.
        is_current: whether the log is still as it was then.
    """

    def __init__(self, state: LogState, is_current: Callable[[], bool]) -> None:
        super().__init__(state)
        self._is_current = is_current

    def sync_batches(self) -> None:
        try:
            super().sync_batches()
        except FileNotFoundError:
            if self._is_current():
                raise
            self._state.refusal, self._state.synced_offset = None, self._state.next_offset


class Parts(NamedTuple):
    """A log as it was attached, and what the lock file said then."""

    raw: bytes
    tail: Tail
    view: LogView
    writer: TailWriter
    appender: Appender
    commits: Commits


class _Taken:
    """Keeps all others from appending and changing, inside a `with`; no generator, for every append does that."""

    __slots__ = ("_attachment", "_turn")

    def __init__(self, attachment: Attachment, turns: Turns) -> None:
        self._attachment = attachment
        self._turn = turns.taken()

    def __enter__(self) -> None:
        self._attachment.check()
        self._attachment.mutex.acquire()
        try:
            if not self._attachment.is_open:
                self._attachment.check()
            self._turn.__enter__()
        except BaseException:
            self._attachment.mutex.release()
            raise

    def __exit__(self, *exception: object) -> None:
        try:
            self._turn.__exit__(None, None, None)
        finally:
            self._attachment.mutex.release()


class Attachment:
    """A log directory that is attached again and again.

    Args:
        directory, config, fs, clock, topic_id: as of the log.
        turns: its lock file.
        known: what is known of it from elsewhere.

    Attributes:
        parts: as it was attached last; None while it is not.
        is_open: whether it was not closed yet.
        encoder: for the settings as they are.
        mutex: belongs to the thread that takes, or waits for, the turn; taken before the lock file.
    """

    def __init__(
        self, directory: Path, config: LogConfig, fs: SharingFileSystem, clock: Clock, turns: Turns,
        known: PartitionFacts, topic_id: UUID | None,
    ) -> None:  # fmt: skip
        self.parts: Parts | None = None
        self.mutex = threading.RLock()
        self.config = config
        self.encoder = Encoder(config, clock)
        self._directory = directory
        self._fs = fs
        self._clock = clock
        self._turns = turns
        self._known = known
        self._topic_id = topic_id
        self.is_open = True
        self._process = os.getpid()
        # Guards that one thread at a time attaches the log; taken after the lock file.
        self._attaching = threading.Lock()
        self._failed_before = False
        self._taken = _Taken(self, turns)

    def __repr__(self) -> str:
        return f"<Attachment {self._directory} {'open' if self.is_open else 'closed'}>"

    @property
    def has_failed(self) -> bool:
        """Whether a sync has failed, since it was opened."""
        parts = self.parts
        return self._failed_before or (parts is not None and parts.tail.state.refusal is not None)

    # ---- looking

    def refresh(self) -> Parts:
        """See what others have appended and changed. Raises DamagedLogError, LogClosedError, OSError."""
        parts = self.parts
        try:
            if parts is not None and self._turns.raw() == parts.raw:
                with contextlib.suppress(DamagedLogError):
                    parts.tail.catch_up()
                return parts
            return self._look_anew()
        except (OSError, ValueError):
            self.check()  # of what is closed, also by a fork, the lock file cannot be read
            raise

    def _look_anew(self) -> Parts:
        for _ in range(LOOKS_MAX):
            raw = self._turns.raw()
            turn = parse_turn(raw)
            self._check_there(turn)
            if not self._turns.is_good(turn):
                parts = self.parts
                # What was appended between another change and this one is not in what was attached before.
                if parts is None or not turn.follows(parse_turn(parts.raw)) or not self._is_somebody_at_work():
                    break
                with contextlib.suppress(OSError, LogstoreError):
                    parts.tail.catch_up()
                return parts  # what was there is still there to be read
            with contextlib.suppress(OSError, LogstoreError):
                parts = self._attach(raw)
                if parts is not None:
                    return parts
        return self.wait()

    def _is_somebody_at_work(self) -> bool:
        """Whether another process, or thread, changes it right now; else one has died at it."""
        if not self.mutex.acquire(blocking=False):
            return True
        try:
            with self._turns.tried() as nobody:
                return not nobody
        finally:
            self.mutex.release()

    def wait(self) -> Parts:
        """The log as it is once nobody changes it."""
        with self.taken():
            return self.current()

    def is_unchanged(self, parts: Parts) -> bool:
        """Whether nobody has changed the log since it was attached: what was met at reading is so."""
        return not self.is_open or (self._turns.raw() == parts.raw and parts.tail.state.is_open)

    # ---- under the lock

    def taken(self) -> contextlib.AbstractContextManager[None]:
        """Keep all others from appending and changing, inside. Raises LogClosedError, OSError."""
        return self._taken

    def current(self) -> Parts:
        """The log as it is, in order. Inside `taken`. Raises DamagedLogError, LogClosedError, OSError."""
        said, parts = self._turns.said(), self.parts
        raw = said[:RAW_BYTES]
        if parts is None or parts.raw != raw:
            turn = parse_turn(raw)
            self._check_there(turn)
            parts = self._attached(raw) if self._turns.is_good(turn) else self._put_in_order(turn)
        try:
            if parts is not None and parts.writer.catch_up(said if parts.raw == raw else b""):
                return parts
        except DamagedLogError:
            pass
        with self._as_log():  # its writer was killed
            pass
        parts = self._attach(self._turns.raw())
        if parts is None:
            raise LogstoreError("it was put in order, and is not", path=self._directory)
        if not parts.writer.catch_up(b""):
            active = parts.tail.state.segments.active
            raise DamagedLogError(
                "a log that was closed cleanly does not end with a batch that can be trusted", path=active.path,
                position=active.size, offset=parts.tail.state.next_offset, remedy=REMEDY,
            )  # fmt: skip
        return parts

    def _put_in_order(self, turn: Turn) -> Parts | None:
        """Begin a session with the log, or go on behind one who died."""
        is_first = turn.session != self._turns.session
        if is_first and turn.is_settled and self._is_nothing_known_better():
            parts = self._attached(self._turns.raw())
            if parts is not None and parts.tail.is_as_closed:
                self._turns.end()
                self.parts = parts._replace(raw=self._turns.raw())
                return self.parts
        with self._as_log(is_first=is_first):
            pass
        return self._attached(self._turns.raw())

    def _is_nothing_known_better(self) -> bool:
        """Whether the log's own files tell all that is known of it: nobody else has written it since they were."""
        own, known = PartitionHold.owned(self._fs, self._directory, PartitionFacts()).facts(), self._known
        knows_cleaner_point = own.cleaner_point is not None or known.cleaner_point is None
        return known.log_start_offset <= own.log_start_offset and knows_cleaner_point

    def rolled(self) -> Parts:
        """The log with a new segment. Inside `taken`. Raises OSError."""
        with self.as_log() as log:
            log.roll()
        return self.current()

    def failed(self, parts: Parts) -> None:
        """Let others look anew where an append has failed: of several batches they may have seen the first."""
        if self._turns.raw() == parts.raw:  # else it failed at something else, and they will
            self._turns.end()

    @contextlib.contextmanager
    def as_log(self) -> Iterator[Log]:
        """Open it as a `Log`, to change it in any way; others look at it anew afterwards. Inside `taken`."""
        turn = self._turns.read()
        self._check_there(turn)
        with self._as_log(is_first=turn.session != self._turns.session) as log:
            yield log

    @contextlib.contextmanager
    def _as_log(self, *, is_first: bool = False) -> Iterator[Log]:
        known = self._known if is_first else PartitionFacts()
        hold, config = PartitionHold.owned(self._fs, self._directory, known), _for_a_moment(self.config)
        with (
            self._turns.changing(),
            Log.open(
                self._directory, config, fs=self._fs, clock=self._clock, hold=hold, topic_id=self._topic_id,
                is_shared=True,
            ) as log,
        ):
            yield log
            log.maintain()  # unlinks what it has deleted: later nobody would remember

    # ---- attaching

    def _attached(self, raw: bytes) -> Parts | None:
        with contextlib.suppress(LogstoreError):  # opened as a `Log` it tells what is wrong, or puts it right
            return self._attach(raw)
        return None

    def _attach(self, raw: bytes) -> Parts | None:
        """Look at it anew; None where it has to be put in order first, or was changed meanwhile."""
        with self._attaching:
            before = self.parts
            if before is not None and before.raw == raw:
                return before
            self.check()
            known = PartitionFacts() if parse_turn(raw).session == self._turns.session else self._known
            hold = PartitionHold.owned(self._fs, self._directory, known)
            tail = Tail.attach(self._fs, self._directory, self.config, self._clock, hold)
            if tail is None:
                return None
            if self._turns.raw() != raw:
                tail.detach()
                return None
            state = tail.state
            commits = _TailCommits(state, lambda: self.is_open and self._turns.raw() == raw)
            writer = TailWriter(tail, self._turns)
            self.parts = Parts(raw, tail, LogView(state), writer, Appender(state, writer), commits)
            self._detach(before)
            return self.parts

    def _detach(self, parts: Parts | None) -> None:
        if parts is not None:
            self._failed_before = self._failed_before or parts.tail.state.refusal is not None
            parts.tail.detach()

    def configure(self, config: LogConfig) -> None:
        """Take other settings from the next operation on."""
        with self.mutex, self._attaching:
            self.config, self.encoder = config, Encoder(config, self._clock)
            if self.parts is not None:
                self.parts = self.parts._replace(raw=b"")

    # ---- the end

    def check(self) -> None:
        """Raise LogClosedError where it is closed, or another process's. Before any lock: a fork leaves them held."""
        if not self.is_open:
            raise LogClosedError("this log is closed", path=self._directory)
        if self._process != os.getpid():
            raise LogClosedError(
                "this log was opened by the process that this one was forked from", path=self._directory,
                remedy="open it again after the fork",
            )  # fmt: skip

    def _check_there(self, turn: Turn) -> None:
        self.check()
        if turn.is_deleted:
            raise LogClosedError("this partition was deleted", path=self._directory)

    def close(self) -> None:
        """Give it up; nothing is synced. Closing twice is fine."""
        if self._process != os.getpid():
            self.is_open = False
            return
        with self.mutex, self._attaching:
            if self.is_open:
                self.is_open = False
                parts, self.parts = self.parts, None
                self._detach(parts)
                self._turns.close()


def _for_a_moment(config: LogConfig) -> LogConfig:
    """Settings of a `Log` that is closed at once.

    No room is set aside in files: what lies behind the last batch has to be a batch, or the begin of one. What is
    deleted goes at once: who reads it in another process looks for what has taken its place.
    """
    return dataclasses.replace(config, preallocate=False, file_delete_delay_ms=0)
