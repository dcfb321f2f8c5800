"""Waiting for what others append, with inotify and without."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.processes import Child, Line

import logstore
from logstore.store import Store, Watcher, watching


@pytest.fixture(params=["inotify", "looking"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "looking":
        monkeypatch.setattr(watching, "_inotify", lambda: None)
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with logstore.open(tmp_path / "store") as found:
        found.create_topic("orders", 2)
        yield found


def test_it_says_how_it_waits(kind: str) -> None:
    with Watcher() as watcher:
        assert ("inotify" in repr(watcher)) == (kind == "inotify")


def test_it_wakes_when_somebody_appends(store: Store, kind: str) -> None:
    partitions = store.partitions("orders")
    with store.watch(partitions) as watcher, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watcher.wait, 20, lambda: partitions[1].log_end_offset == 1)
        time.sleep(0.02)
        assert not waiting.done()
        with logstore.open(store.paths[0]) as other:
            other.partition("orders", 1).append([(b"k", b"v")])
        assert waiting.result(5)


def test_what_was_written_before_the_wait_is_not_slept_through(store: Store, kind: str) -> None:
    partition = store.partition("orders")
    with store.watch([partition]) as watcher:
        partition.append([(b"k", b"v")])
        assert watcher.wait(5)
        begun = time.monotonic()
        assert watcher.wait(5, lambda: partition.log_end_offset == 1)
        assert time.monotonic() - begun < 1


def test_it_gives_up_in_time(store: Store, kind: str) -> None:
    partition = store.partition("orders")
    assert partition.log_end_offset == 0
    with store.watch([partition]) as watcher:
        begun = time.monotonic()
        assert not watcher.wait(0.05, lambda: False)
        assert 0.04 < time.monotonic() - begun < 1
        assert not watcher.wait(0, lambda: False)
        assert watcher.wait(0, lambda: True)


def test_rolls_and_deletions_wake_too(store: Store) -> None:
    partition = store.partition("orders")
    assert partition.log_end_offset == 0
    with store.watch([partition]) as watcher:
        with partition.changing() as log:
            log.append([(b"k", b"v")])
            log.roll()
        assert watcher.wait(5)
        while watcher.wait(0):
            pass
        store.delete_topic("orders")
        assert watcher.wait(5)


def test_others_can_wake_it(kind: str) -> None:
    with Watcher() as watcher, ThreadPoolExecutor(1) as pool:
        called = threading.Event()
        waiting = pool.submit(watcher.wait, 20, called.is_set)
        time.sleep(0.02)
        called.set()
        watcher.wake()
        assert waiting.result(5)
        for _ in range(100_000):
            watcher.wake()  # a pipe that is full is no trap
        assert watcher.wait(1)


def test_one_that_is_closed_wakes_who_waits_and_takes_no_more(store: Store, kind: str) -> None:
    watcher = store.watch(store.partitions("orders"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watcher.wait, 20, lambda: False)
        time.sleep(0.02)
        watcher.close()
        waiting.result(5)
    watcher.close()
    watcher.wake()
    with pytest.raises(ValueError, match="closed"):
        watcher.wait(0)
    with pytest.raises(ValueError, match="closed"):
        watcher.add(store.paths[0])


def test_closing_gives_no_descriptor_to_somebody_elses_file(tmp_path: Path) -> None:
    watcher = Watcher()
    watcher.close()
    with (tmp_path / "file").open("w+b") as one, (tmp_path / "other").open("w+b") as other:
        watcher.wake()
        assert os.fstat(one.fileno()).st_size == os.fstat(other.fileno()).st_size == 0


def test_a_directory_that_is_not_there_is_told_and_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        Watcher([tmp_path / "no"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_the_kernel_takes_no_more_watches_it_looks_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = store.partition("orders")
    watcher = Watcher([partition.directory])
    monkeypatch.setattr(watching, "_EVENTS", 0)  # which the kernel refuses
    watcher.add(store.paths[0])
    assert "often" in repr(watcher)
    partition.append([(b"k", b"v")])
    assert watcher.wait(5, lambda: partition.log_end_offset == 1)
    watcher.close()


def test_a_record_of_another_process_is_there_within_milliseconds(store: Store) -> None:
    path = store.paths[0]

    def send(line: Line) -> None:
        with logstore.open(path) as mine:
            partition = mine.partition("orders")
            line.tell("ready")
            line.wait()
            for _ in range(100):
                partition.append([(None, b"%d" % time.monotonic_ns())])
                time.sleep(0.001)

    partition, delays, position = store.partition("orders"), list[float](), 0
    with Child(send) as child, store.watch([partition]) as watcher:
        child.hear()
        child.say()
        while position < 100:
            assert watcher.wait(10, lambda: partition.log_end_offset > position)  # noqa: B023
            now = time.monotonic_ns()
            for record in partition.records(position):
                assert record.value is not None
                delays.append((now - int(record.value)) / 1e6)
                position = record.offset + 1
        child.result()
    assert statistics.median(delays) < 5, delays
