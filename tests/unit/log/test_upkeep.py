"""Upkeep: flushes in the background, deleted files unlinked, errors told to the owner."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from logstore.config import LogConfig
from logstore.log import Log, Upkeep
from logstore.testing import ManualClock, MemoryFileSystem

PLACE = Path("/data/orders-0")


def fresh() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_directory(PLACE.parent)
    fs.sync_directory(PLACE.parent.parent)
    return fs


def eventually(what: object, seconds: float = 5) -> bool:
    assert callable(what)
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


@pytest.mark.kafka("MGR-11")
def test_an_interval_log_is_synced_without_another_append() -> None:
    fs, clock = fresh(), ManualClock(1_700_000_000_000)
    log = Log.open(PLACE, LogConfig(durability="interval", flush_ms=50), fs=fs, clock=clock)
    with Upkeep([log], interval_ms=1):
        log.append([(None, b"a")])
        assert log.recovery_point == 0
        clock.advance(50)
        assert eventually(lambda: log.recovery_point == 1)
    assert [r.value for r in Log.open(PLACE, fs=fs.crash("nothing")).records()] == [b"a"]


def test_files_of_deleted_segments_go_when_their_time_has_come() -> None:
    fs, clock = fresh(), ManualClock(1_700_000_000_000)
    log = Log.open(PLACE, LogConfig(file_delete_delay_ms=1000), fs=fs, clock=clock)
    log.append([(None, b"a")])
    log.roll()
    log.advance_log_start(1)
    assert log.delete_before_log_start() == 1
    upkeep = Upkeep(interval_ms=1)
    upkeep.add(log)
    with upkeep:
        assert any(name.endswith(".deleted") for name in fs.list(PLACE))
        clock.advance(1000)
        assert eventually(lambda: not any(name.endswith(".deleted") for name in fs.list(PLACE)))


def test_an_error_is_raised_when_it_is_stopped_and_other_logs_are_kept_up() -> None:
    fs, clock = fresh(), ManualClock(1_700_000_000_000)
    config = LogConfig(durability="interval", flush_ms=10)
    bad = Log.open(PLACE, config, fs=fs, clock=clock)
    other = fresh()
    good = Log.open(PLACE, config, fs=other, clock=clock)
    for log in (bad, good):
        log.append([(None, b"a")])
    fs.fail_on(lambda operation: operation.kind == "sync", OSError(5, "Input/output error"))
    upkeep = Upkeep([bad, good], interval_ms=1)
    upkeep.start()
    clock.advance(10)
    assert eventually(lambda: good.recovery_point == 1)
    with pytest.raises(OSError, match="Input/output"):
        upkeep.stop()
    upkeep.stop()


def test_no_thread_runs_before_it_is_started_or_after_it_was_stopped() -> None:
    before = threading.active_count()
    upkeep = Upkeep()
    assert threading.active_count() == before
    upkeep.start()
    with pytest.raises(RuntimeError, match="already"):
        upkeep.start()
    upkeep.stop()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="0 ms"):
        Upkeep(interval_ms=0)
