"""Making appends durable: one sync for all that wait, flushes, and the recovery point (LOG_SEMANTICS §13).

Of those who need an offset on disk one leads: it syncs everything appended so far, wakes all whom that serves, and
hands over to one of those who came meanwhile. Appends go on all the time. After a failed sync nothing is appended any
more: what it left in the page cache counts as clean, so another try would report success and lose it.
"""

from __future__ import annotations

import contextlib
import threading

from logstore.config import INT64_MAX, INTERVAL_FLUSH_MS, Durability
from logstore.errors import LogClosedError, OffsetOutOfRangeError
from logstore.log.log_state import LogState

_NS = 1_000_000  # in a millisecond


class Commits:
    """Syncs one log. Thread-safe."""

    def __init__(self, state: LogState) -> None:
        self._state = state
        # Guards who leads and who waits; innermost.
        self._guard = threading.Lock()
        self._is_led = False  # somebody syncs, or is about to
        self._turns: list[_Turn] = []

    def __repr__(self) -> str:
        return f"<Commits up to {self._state.synced_offset} of {self._state.next_offset}>"

    def wait(self, end_offset: int) -> None:
        """Return once everything below `end_offset` is on disk.

        Raises OSError, LogClosedError after a failed sync, OffsetOutOfRangeError when it was cut off meanwhile.
        """
        state = self._state
        if state.synced_offset >= end_offset or self._waited(end_offset):
            return
        try:
            with state.sync_lock:
                if state.synced_offset < end_offset:
                    self._check()
                    if state.next_offset < end_offset:
                        raise OffsetOutOfRangeError(
                            f"what was to be synced up to offset {end_offset} was truncated to {state.next_offset}",
                            path=state.directory, offset=end_offset,
                        )  # fmt: skip
                    self.sync_batches()
        finally:
            self._hand_over()

    def _waited(self, end_offset: int) -> bool:
        """Whether somebody else has synced up to there; if not, it is for the caller to sync, and to hand over."""
        with self._guard:
            if not self._is_led:
                self._is_led = True
                return False
            turn = _Turn(end_offset)
            self._turns.append(turn)
        try:
            turn.wait()
        except BaseException:  # Ctrl-C
            self._leave(turn)
            raise
        if turn.leads:
            return False
        if self._state.synced_offset < end_offset:
            self._check()
        return True

    def _leave(self, turn: _Turn) -> None:
        """Wait no longer; what was handed over already goes to another one."""
        with self._guard:
            if turn in self._turns:
                self._turns.remove(turn)
        if turn.leads:
            self._hand_over()

    def _hand_over(self) -> None:
        """Wake all whose offsets are on disk now, and first of all one who is to sync for the others.

        With a plain lock each would wake the next one in turn, and no sync would run meanwhile.
        """
        with self._guard:
            synced, has_failed = self._state.synced_offset, self._state.refusal is not None
            left = [turn for turn in self._turns if turn.end_offset > synced and not has_failed]
            done = [turn for turn in self._turns if turn.end_offset <= synced or has_failed]
            self._is_led, self._turns = bool(left), left[1:]
            for turn in left[:1]:
                turn.leads = True
        for turn in (*left[:1], *done):
            turn.end()

    def sync_batches(self) -> None:
        """Sync the log files that are not on disk yet. Under the sync lock."""
        state = self._state
        # In this order: what is appended in between is in the segments that are looked up after it.
        end_offset, start = state.next_offset, state.synced_offset
        try:
            active = state.segments.active
            if start >= active.base_offset:
                active.sync_log()
            else:
                for segment in state.segments.from_floor(start):
                    segment.sync_log()
        except OSError as error:
            state.refusal = f"a sync failed ({error.strerror}); open the log again"
            raise
        state.synced_offset = end_offset
        state.synced_ns = state.clock.monotonic_ns()

    def settle(self, end_offset: int, durability: Durability) -> None:
        """Wait for what the durability asks, and sync when flush.messages or flush.ms say so."""
        if durability == "always":
            self.wait(end_offset)
        elif self._is_due(durability):
            self.wait(self._state.next_offset)

    def _is_due(self, durability: Durability) -> bool:
        state = self._state
        config = state.config
        if state.next_offset - state.synced_offset >= config.flush_messages:
            return True
        return durability == "interval" and self._is_interval_over()

    def _is_interval_over(self) -> bool:
        """Whether flush.ms has passed since the last sync; setting the clock does not matter."""
        passed = self._state.clock.monotonic_ns() - self._state.synced_ns
        return passed >= flush_interval_ms(self._state.config.flush_ms) * _NS

    def flush_if_due(self) -> bool:
        """Sync when flush.ms has passed since the last sync, or the interval's own; whether it was. For a scheduler."""
        state = self._state
        config = state.config
        if config.durability != "interval" and config.flush_ms == INT64_MAX:
            return False
        if state.synced_offset >= state.next_offset:
            return False
        if not self._is_interval_over():
            return False
        self.wait(state.next_offset)
        return True

    def flush(self) -> None:
        """Make everything durable, indexes included. Raises OSError, after which the log refuses appends."""
        state = self._state
        with state.lock, state.sync_lock:
            self._check()
            end_offset = state.next_offset
            try:
                for segment in state.segments.from_floor(state.synced_offset):
                    segment.sync()
                with contextlib.suppress(FileNotFoundError):  # its owner has renamed or removed it meanwhile
                    state.fs.sync_directory(state.directory)
            except OSError as error:
                state.refusal = f"a sync failed ({error.strerror}); open the log again"
                raise
            state.synced_offset, state.synced_ns = end_offset, state.clock.monotonic_ns()

    def _check(self) -> None:
        if self._state.refusal is not None:
            raise LogClosedError(f"this log takes no more appends: {self._state.refusal}", path=self._state.directory)


class _Turn:
    """One who waits for a sync, or to be the next who syncs."""

    __slots__ = ("_lock", "end_offset", "leads")

    def __init__(self, end_offset: int) -> None:
        self.end_offset = end_offset
        self.leads = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self) -> None:
        """Until `end`."""
        self._lock.acquire()

    def end(self) -> None:
        """Let it go on."""
        self._lock.release()


class AppendFuture:
    """An append that may not be on disk yet; several of them share one sync.

    Attributes:
        first_offset, last_offset: of its records.
    """

    __slots__ = ("_commits", "first_offset", "last_offset")

    def __init__(self, commits: Commits, first_offset: int, last_offset: int) -> None:
        self._commits = commits
        self.first_offset = first_offset
        self.last_offset = last_offset

    def __repr__(self) -> str:
        state = "durable" if self.is_durable else "in the page cache"
        return f"<AppendFuture {self.first_offset}..{self.last_offset} {state}>"

    @property
    def is_durable(self) -> bool:
        """Whether it is on disk already."""
        return self._commits._state.synced_offset > self.last_offset

    def result(self) -> tuple[int, int]:
        """First and last offset, once they are on disk: syncs all that was appended until now, if nobody has yet.

        Raises OSError, LogClosedError after a failed sync.
        """
        self._commits.wait(self.last_offset + 1)
        return self.first_offset, self.last_offset


def flush_interval_ms(flush_ms: int) -> int:
    """`flush.ms`, or what the durability `interval` takes where it is not set."""
    return INTERVAL_FLUSH_MS if flush_ms == INT64_MAX else flush_ms
