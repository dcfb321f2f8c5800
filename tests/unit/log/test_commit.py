"""Group commit: what one sync serves, who does the next one, and what those who wait are told when it fails."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from helpers.open_logs import Place, fill, values

from logstore.config import LogConfig
from logstore.errors import LogClosedError, OffsetOutOfRangeError
from logstore.log import Log
from logstore.log.commit import _Turn
from logstore.log.segment import Segment

PATIENCE = 20.0


class Syncs:
    """Holds up every sync of a log file until it is let go."""

    def __init__(self, original: Callable[[Segment], None]) -> None:
        self._original = original
        self._begun = threading.Semaphore(0)
        self._allowed = threading.Semaphore(0)
        self.errors: list[OSError] = []
        self.count = 0

    def sync(self, segment: Segment) -> None:
        self._begun.release()
        assert self._allowed.acquire(timeout=PATIENCE)
        self.count += 1
        if self.errors:
            raise self.errors.pop()
        self._original(segment)

    def wait_for_one(self) -> None:
        """Until a sync is under way."""
        assert self._begun.acquire(timeout=PATIENCE)

    def let_go(self, count: int = 1) -> None:
        self._allowed.release(count)


@pytest.fixture
def log() -> Log:
    return Place().open()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    gate = Syncs(Segment.sync_log)
    monkeypatch.setattr(Segment, "sync_log", lambda segment: gate.sync(segment))
    return gate


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def always(log: Log, value: bytes) -> int:
    return log.append([(None, value)], durability="always").last_offset


def waiting(log: Log, count: int) -> None:
    """Until so many threads wait for a sync of somebody else."""
    end = time.monotonic() + PATIENCE
    while len(log._commits._turns) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def hold_up(log: Log, syncs: Syncs, pool: ThreadPoolExecutor, followers: int) -> list[Future[int]]:
    """One append whose sync is under way, and others that came after it began."""
    first = pool.submit(always, log, b"first")
    syncs.wait_for_one()
    rest = [pool.submit(always, log, b"%d" % number) for number in range(followers)]
    waiting(log, followers)
    return [first, *rest]


def test_all_who_came_during_a_sync_share_the_next_one(log: Log, syncs: Syncs, pool: ThreadPoolExecutor) -> None:
    appends = hold_up(log, syncs, pool, 16)
    syncs.let_go()
    assert appends[0].result(PATIENCE) == 0
    syncs.wait_for_one()
    assert not any(append.done() for append in appends[1:])
    syncs.let_go()
    assert sorted(append.result(PATIENCE) for append in appends) == list(range(17))
    assert (syncs.count, log._state.synced_offset) == (2, 17)
    assert (log._commits._turns, log._commits._is_led) == ([], False)


def test_a_future_of_what_a_sync_covered_needs_no_other(log: Log, syncs: Syncs) -> None:
    futures = [log.append_later([(None, b"%d" % number)]) for number in range(5)]
    assert not any(future.is_durable for future in futures)
    syncs.let_go()
    assert [future.result() for future in futures] == [(number, number) for number in range(5)]
    assert (syncs.count, repr(futures[4])) == (1, "<AppendFuture 4..4 durable>")


def test_when_a_sync_fails_all_who_wait_are_told(log: Log, syncs: Syncs, pool: ThreadPoolExecutor) -> None:
    appends = hold_up(log, syncs, pool, 8)
    syncs.errors.append(OSError(5, "Input/output error"))
    syncs.let_go()
    with pytest.raises(OSError, match="Input/output error"):
        appends[0].result(PATIENCE)
    for append in appends[1:]:
        with pytest.raises(LogClosedError, match="a sync failed"):
            append.result(PATIENCE)
    assert (syncs.count, log._commits._is_led) == (1, False)
    with pytest.raises(LogClosedError, match="open the log again"):
        always(log, b"later")


def test_what_is_cut_off_while_somebody_waits_for_it_is_no_success(
    log: Log, syncs: Syncs, pool: ThreadPoolExecutor
) -> None:
    appends = hold_up(log, syncs, pool, 4)
    # The leader's sync covers the first append alone; before the next one the others are cut off.
    cutting = pool.submit(log.truncate_to, 1)
    syncs.let_go(50)
    cutting.result(PATIENCE)
    outcomes = []
    for append in appends[1:]:
        try:
            outcomes.append(append.result(PATIENCE))
        except OffsetOutOfRangeError as error:
            assert "was truncated to 1" in str(error)
            outcomes.append(-1)
    # Each was on disk for a while, or was said to be cut off; nobody waits for ever, and the log goes on.
    assert all(outcome == -1 or 1 <= outcome <= 4 for outcome in outcomes)
    assert (log.log_end_offset, values(log)) == (1, [b"first"])
    assert always(log, b"next") == 1


def test_what_was_cut_off_before_its_sync_is_told_so(log: Log) -> None:
    fill(log, 3)
    future = log.append_later([(None, b"a")])
    log.truncate_to(2)
    with pytest.raises(OffsetOutOfRangeError, match="truncated to 2"):
        future.result()
    assert always(log, b"b") == 2


def test_one_who_waits_and_is_interrupted_holds_up_nobody(log: Log, syncs: Syncs, pool: ThreadPoolExecutor) -> None:
    hold_up(log, syncs, pool, 0)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> list[Future[int]]:
        waiting(log, 1)
        behind = [pool.submit(always, log, b"behind") for _ in range(3)]
        waiting(log, 4)
        signal.pthread_kill(main, signal.SIGINT)
        return behind

    interrupter = pool.submit(interrupt)
    with pytest.raises(KeyboardInterrupt):
        always(log, b"interrupted")
    behind = interrupter.result(PATIENCE)
    assert len(log._commits._turns) == 3
    syncs.let_go(5)
    assert sorted(append.result(PATIENCE) for append in behind) == [2, 3, 4]
    assert log._commits._is_led is False


def test_one_who_is_to_sync_and_is_interrupted_hands_it_on(
    log: Log, syncs: Syncs, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken = iter([True])
    wait = _Turn.wait

    def wait_and_be_interrupted_once(turn: _Turn) -> None:
        wait(turn)
        if next(woken, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(_Turn, "wait", wait_and_be_interrupted_once)
    appends = hold_up(log, syncs, pool, 5)
    syncs.let_go(10)
    outcomes = [type(append.exception(PATIENCE)) for append in appends]
    assert (outcomes.count(KeyboardInterrupt), outcomes.count(type(None))) == (1, 5)
    assert (log._state.synced_offset, log._commits._is_led) == (6, False)


def test_sixteen_threads_append_durably_and_every_record_is_there_once(log: Log, pool: ThreadPoolExecutor) -> None:
    def many(thread: int) -> list[int]:
        return [always(log, b"%d:%d" % (thread, number)) for number in range(50)]

    offsets = [offset for result in pool.map(many, range(16)) for offset in result]
    assert sorted(offsets) == list(range(800))
    kept = values(log)
    assert sorted(kept) == sorted(b"%d:%d" % (thread, number) for thread in range(16) for number in range(50))
    for thread in range(16):
        mine = [value for value in kept if value is not None and value.startswith(b"%d:" % thread)]
        assert mine == [b"%d:%d" % (thread, number) for number in range(50)]


@pytest.mark.parametrize("jump_ms", [-86_400_000, 86_400_000])
def test_an_interval_is_time_that_passes_whatever_the_clock_is_set_to(jump_ms: int) -> None:
    place = Place()
    log = place.open(LogConfig(durability="interval", flush_ms=100))
    place.clock.set(place.clock.now_ms() + jump_ms)
    log.append([(None, b"a")])
    assert log.recovery_point == 0
    place.clock.advance(100)
    log.maintain()
    assert log.recovery_point == 1
