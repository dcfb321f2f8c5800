"""Many processes at one store, some of them killed at any moment: nothing acknowledged is lost, nothing is torn."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.open_logs import from_producer
from helpers.processes import Child, Line
from helpers.stores import alarms, ends, fill, is_clean, numbers, values

import logstore
from logstore.config import LogConfig
from logstore.errors import LogstoreError, OffsetOutOfRangeError
from logstore.retention import retain
from logstore.store import Partition, Store

SMALL = {"segment.bytes": "3000", "index.interval.bytes": "200"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with logstore.open(tmp_path / "store") as store:
        store.create_topic("orders", settings=SMALL)
    return tmp_path / "store"


def sequences(store: Store) -> dict[bytes | None, list[int]]:
    """The numbers of each writer, in the order of the log."""
    found: dict[bytes | None, list[int]] = {}
    for record in store.partition("orders").records():
        found.setdefault(record.key, []).append(int(record.value or b""))
    return found


def writer(place: Path, name: bytes, count: int | None, *, size: int = 1) -> Callable[[Line], None]:
    """One who appends batches of ascending numbers, and tells the last one that it has been promised."""

    def work(line: Line) -> None:
        with logstore.open(place) as store:
            partition, number = store.partition("orders"), 0
            while count is None or number < count:
                partition.append([(name, b"%d" % (number + at)) for at in range(size)])
                number += size
                line.tell(number)

    return work


def reader(place: Path, size: int) -> Callable[[Line], int]:
    """One who reads along, and meets whole batches alone, each once."""

    def work(line: Line) -> int:
        with logstore.open(place) as store:
            partition, position, seen = store.partition("orders"), 0, dict[bytes | None, int]()
            while not line.is_called() or position < partition.log_end_offset:
                batch = []
                for record in partition.records(position):
                    assert record.offset == position
                    position += 1
                    number = int(record.value or b"")
                    assert number >= seen.get(record.key, 0)
                    seen[record.key] = number
                    batch.append(number)
                assert len(batch) % size == 0
            return position

    return work


def test_appends_of_many_processes_interleave_without_loss_in_the_order_of_each(place: Path) -> None:
    with logstore.open(place) as store:
        with Child(reader(place, 3)) as reading:
            children = [Child(writer(place, b"%d" % at, 150, size=3)) for at in range(4)]
            for child in children:
                while child.hear() < 150:
                    pass
                child.result()
            reading.say()
            assert reading.result() == 600
        assert sequences(store) == {b"%d" % at: list(range(150)) for at in range(4)}
        assert len(store.partition("orders").segments) > 3
    assert is_clean(place)
    assert alarms(place) == []


@pytest.mark.parametrize("seed", range(3))
def test_writers_that_are_killed_lose_nothing_that_was_promised(place: Path, seed: int) -> None:
    chance, promised = random.Random(seed), dict[bytes, int]()
    watching = logstore.open(place)
    assert watching.partition("orders").log_end_offset == 0
    with Child(reader(place, 1)) as reading, Child(writer(place, b"lives", None)) as alive:
        for number in range(12):
            name = b"killed %d" % number
            with Child(writer(place, name, None)) as child:
                child.hear()
                time.sleep(chance.random() * 0.02)
                child.kill()
                promised[name] = max([1, *child.heard()])
            if number % 3 == 0:
                tear(place, chance)
        alive.kill()
        promised[b"lives"] = max(alive.heard())
        reading.say()
        reading.result()
    for store in (watching, logstore.open(place)):
        found = sequences(store)
        for name, count in promised.items():
            assert found[name] == list(range(len(found[name]))), "a gap, or one twice"
            assert count <= len(found[name]) <= count + 1
        assert len(values(store, "orders")) == sum(map(len, found.values()))
        store.close()
    assert is_clean(place)
    assert alarms(place) == []


def tear(place: Path, chance: random.Random) -> None:
    """What a writer that dies in the middle of a write leaves, where nobody writes at the same time."""
    with logstore.open(place) as store, store.partition("orders").using() as log:
        attachment = log._attachment  # type: ignore[union-attr]
        with attachment.taken():
            segment = attachment.current().tail.state.segments.active
            batch = bytes(from_producer(9, 0, 5))
            with Path(segment.path).open("ab") as file:
                file.write(batch[: chance.randrange(1, len(batch))])


def test_one_who_dies_while_changing_a_log_harms_nobody(place: Path) -> None:
    def die(line: Line) -> None:
        store = logstore.open(place)
        with store.partition("orders").changing() as log:
            log.roll()
            line.tell(log.log_end_offset)
            line.wait()

    with logstore.open(place) as store:
        fill(store, "orders", 20)
        with Child(die) as child:
            assert child.hear() == 20
            assert values(store, "orders") == numbers(0, 20)  # readers do not wait for it
        assert values(store, "orders") == numbers(0, 20)
        fill(store, "orders", 20, first=20)
        assert values(store, "orders") == numbers(0, 40)
    assert is_clean(place)
    assert alarms(place) == []


def test_one_who_is_killed_while_rolling_and_deleting_harms_nobody(place: Path) -> None:
    config = {"retention.bytes": "6000", "file.delete.delay.ms": "0"}

    def change(line: Line) -> None:
        store = logstore.open(place)
        partition = store.partition("orders")
        while True:
            line.tell("again")
            with partition.changing() as log:
                log.roll()
                retain(log, store.clock.now_ms())

    def read_on(partition: Partition, position: int) -> int:
        try:
            for record in partition.records(position):
                assert record.value == b"%d" % record.offset
                assert record.offset >= position
                position = record.offset + 1
        except OffsetOutOfRangeError:
            position = partition.log_start_offset
        return position

    chance = random.Random(5)
    with logstore.open(place) as store:
        store.alter_topic("orders", config)
        partition, number, position = store.partition("orders"), 0, 0
        for _ in range(10):
            with Child(change) as child:
                child.hear()
                end = time.monotonic() + chance.random() * 0.04
                while time.monotonic() < end:
                    assert partition.append([(b"k", b"%d" % number)]).first_offset == number
                    number += 1
                    position = read_on(partition, position)
            assert partition.append([(b"k", b"%d" % number)]).first_offset == number
            number += 1
            position = read_on(partition, position)
        assert position == number
    assert is_clean(place)
    assert ends(place) == {("orders", 0): number}
    assert alarms(place) == []


def test_a_sequence_that_was_promised_before_a_kill_is_a_duplicate_after_it(place: Path) -> None:
    now = time.time_ns() // 1_000_000

    def send(line: Line) -> None:
        partition = logstore.open(place).partition("orders")
        sequence = 0
        while True:
            partition.append_batch(from_producer(1, sequence, timestamp=now))
            sequence += 1
            line.tell(sequence)

    chance = random.Random(3)
    with Child(send) as child:
        child.hear()
        time.sleep(chance.random() * 0.05)
        child.kill()
        promised = max([1, *child.heard()])
    with logstore.open(place) as store:
        partition = store.partition("orders")
        end = partition.log_end_offset
        assert promised <= end <= promised + 1
        again = partition.append_batch(from_producer(1, end - 1, timestamp=now))
        assert (again.first_offset, again.is_duplicate) == (end - 1, True)
        done = partition.append_batch(from_producer(1, end, timestamp=now))
        assert (done.first_offset, done.is_duplicate) == (end, False)
        assert [record.offset for record in partition.records()] == list(range(end + 1))


def test_topics_that_come_and_go_under_processes_that_use_them(place: Path) -> None:
    def use(line: Line) -> None:
        count = 0
        with logstore.open(place) as store:
            while not line.is_called():
                try:
                    partition = store.partition("moving", count % 2)
                    partition.append([(b"k", b"v")])
                    assert {one.value for one in partition.records()} == {b"v"}
                    count += 1
                    if count == 1:
                        line.tell("used")
                except LogstoreError:
                    pass  # not there, deleted, or deleted meanwhile: a clear error each time

    with logstore.open(place, config=LogConfig(file_delete_delay_ms=0)) as store:
        children = [Child(use) for _ in range(3)]
        rounds, used, end = 0, 0, time.monotonic() + 30
        while (rounds < 15 or not used) and time.monotonic() < end:
            rounds += 1
            store.create_topic("moving", 2, SMALL)
            time.sleep(0.02)
            store.delete_topic("moving")
            store.maintain()
            used += sum(len(child.heard()) for child in children)
        for child in children:
            child.say()
        assert used
        for child in children:
            child.finish()
        store.maintain()
    assert sorted(one.name for one in place.iterdir() if one.is_dir()) == ["orders-0"]
    assert is_clean(place)
    assert alarms(place) == []


@pytest.mark.parametrize("how", ["records", "get"])
def test_who_reads_a_segment_that_another_process_cuts_lives_on(tmp_path: Path, how: str) -> None:
    """What is mapped and becomes shorter kills who looks at it."""
    place = tmp_path / "store"
    with logstore.open(place) as store:
        store.create_topic("t", settings={"segment.bytes": "400000", "index.interval.bytes": "1"})
        fill(store, "t", 6000)
        count = len(store.partition("t").segments)
        assert count > 1

        def work(line: Line) -> int:
            with logstore.open(place) as theirs:
                partition = theirs.partition("t")
                reading = partition.records()
                seen = [next(reading).offset, *(partition.get(offset) is not None for offset in range(0, 6000, 50))]
                line.tell(len(seen))
                line.wait()
                if how == "get":
                    return sum(partition.get(offset) is not None for offset in range(10))
                with contextlib.suppress(LogstoreError):
                    seen.extend(record.offset for record in reading)
                return len(seen)

        with Child(work) as child:
            assert child.hear() == 121
            with store.partition("t").changing() as log:
                log.truncate_to(10)
            child.say()
            assert child.result() >= 10


def test_the_files_of_a_segment_that_is_cut_once_it_was_sealed_are_others(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store:
        store.create_topic("t", settings={"segment.bytes": "4000", "index.interval.bytes": "1"})
        fill(store, "t", 100)
        partition = store.partition("t")
        assert len(partition.segments) == 2
        files = [partition.directory / f"{0:020}{suffix}" for suffix in (".log", ".index", ".timeindex")]
        before = [one.open("rb") for one in files]  # as long as they are open nobody else gets their numbers
        sizes = [one.stat().st_size for one in files]
        with partition.changing() as log:
            log.truncate_to(10)
        for held, size, path in zip(before, sizes, files, strict=True):
            with held:
                assert path.stat().st_ino != os.fstat(held.fileno()).st_ino
                assert os.fstat(held.fileno()).st_size == size
        assert values(store, "t") == numbers(0, 10)
    assert alarms(tmp_path / "store") == []
