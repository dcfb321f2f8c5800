"""What those who append together tell each other of the end, so that nobody reads what others have written."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.open_logs import from_leader, from_producer, marker
from helpers.processes import Line, run
from helpers.shared_logs import SMALL, SharedPlace, fill, numbers, values

from logstore.config import LogConfig
from logstore.errors import LogClosedError, OutOfOrderSequenceError
from logstore.file_locks import LocalOpenLock
from logstore.log import AppendOrigin, FetchIsolation, Log, SharedLog
from logstore.log import tail as tail_module
from logstore.log import tail_writer as tail_writer_module
from logstore.log.log_end import END_BYTES, LogEnd, parse_end
from logstore.log.tail import Tail
from logstore.log.turns import RAW_BYTES
from logstore.records import iter_batches

FINE = LogConfig(index_interval_bytes=100)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[SharedPlace]:
    found = SharedPlace(tmp_path / "orders-0")
    yield found
    found.close()


@pytest.fixture
def one(place: SharedPlace) -> SharedLog:
    return place.open()


@pytest.fixture
def other(place: SharedPlace, one: SharedLog) -> SharedLog:
    """Another one; both have appended, and know of each other."""
    other = place.open()
    fill(one, 1)
    fill(other, 1, first=1)
    fill(one, 1, first=2)
    fill(other, 1, first=3)
    return other


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes from which on somebody has read what others have written."""
    found: list[int] = []
    follow = Tail._follow

    def noted(tail: Tail) -> object:
        found.append(tail.state.segments.active.size)
        return follow(tail)

    monkeypatch.setattr(Tail, "_follow", noted)
    return found


def lock_file(place: SharedPlace) -> Path:
    return place.directory / ".lock"


def told(place: SharedPlace) -> LogEnd | None:
    said = lock_file(place).read_bytes()
    return parse_end(said[RAW_BYTES:], said[:RAW_BYTES])


def known(log: SharedLog) -> tuple[object, ...]:
    """What a log has to know of itself in order to append, without a look at what others have appended."""
    assert log._attachment.parts is not None
    state = log._attachment.parts.tail.state
    active = state.segments.active
    producers = state.producers.active_producers()
    return (
        active.base_offset, active.size, state.next_offset, active.max_timestamp, active.offset_of_max,
        active.first_timestamp, state.leader_epoch, state.epochs.epochs, producers, state.last_stable_offset,
    )  # fmt: skip


def write_by_hand(place: SharedPlace, data: bytes) -> None:
    with place.path(0).open("ab") as file:
        file.write(data)


# ---- what is skipped


def test_what_others_have_appended_is_not_read_by_who_appends_behind_it(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int]
) -> None:
    for number in range(4, 40, 4):
        fill(one, 3, first=number)
        fill(other, 1, first=number + 3)
    assert looked == []
    assert values(one) == values(other) == numbers(0, 40)
    assert place.alarms() == []


def test_who_has_skipped_knows_what_one_knows_who_has_read(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int]
) -> None:
    later = place.clock.now_ms() + 5000
    one.append([(b"k", b"4")], timestamp=later)
    fill(one, 3, first=5)
    other.append([(b"k", b"8")], timestamp=later)
    assert looked == []
    assert known(other) == known(place.open())
    found = other.offset_for_time(later)
    assert found is not None
    assert found.offset == 4


def test_every_record_of_a_stretch_that_was_skipped_can_be_read(place: SharedPlace, looked: list[int]) -> None:
    one, other = place.open(FINE), place.open(FINE)
    fill(one, 1)
    fill(other, 1, first=1)
    for number in range(2, 200):
        one.append([(b"k", b"%d" % number)], timestamp=place.clock.now_ms() + number)
    other.append([(b"k", b"200")], timestamp=place.clock.now_ms() + 200)
    looked.clear()
    for number in range(2, 200):
        record = other.get(number)
        assert record is not None
        assert record.value == b"%d" % number
        assert values(other, number) == numbers(number, 201)
        found = other.offset_for_time(place.clock.now_ms() + number)
        assert found is not None
        assert found.offset == number
    assert looked == []


def test_no_more_is_skipped_than_may_be_without_an_index_entry(
    place: SharedPlace, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_module, "SKIPPED_MAX", 1000)
    one, other = place.open(FINE), place.open(FINE)
    fill(one, 1)
    fill(other, 1, first=1)
    looked.clear()
    for turn in range(5):
        fill(one, 5, first=2 + 6 * turn)
        fill(other, 1, first=7 + 6 * turn)
    assert looked == []
    fill(one, 20, first=32)
    size = place.path(0).stat().st_size
    fill(other, 1, first=52)
    assert len(looked) == 1
    assert looked[0] < size - 1000
    assert values(other) == numbers(0, 53)


def test_one_who_is_alone_tells_nobody_until_others_come(
    place: SharedPlace, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail_writer_module, "SKIPPED_MAX", 1000)
    one, other = place.open(), place.open()
    fill(one, 50)
    assert told(place) is None
    fill(other, 1, first=50)
    fill(one, 1, first=51)
    end = told(place)
    assert end is not None
    assert (end.size, end.next_offset) == (place.path(0).stat().st_size, 52)
    looked.clear()
    fill(other, 1, first=52)
    assert looked == []
    fill(one, 50, first=53)
    end = told(place)
    assert end is not None
    assert end.size < place.path(0).stat().st_size
    assert values(other) == numbers(0, 103)


# ---- what is not


@pytest.mark.parametrize(
    "appended",
    [
        pytest.param(lambda log: log.append_batch(from_producer(5, 0)), id="a producer"),
        pytest.param(lambda log: log.append_batch(from_producer(5, 0, transactional=True)), id="a transaction"),
        pytest.param(
            lambda log: log.append_batch(from_leader(4, leader_epoch=3), origin=AppendOrigin.REPLICATION), id="an epoch"
        ),
    ],
)
def test_what_changes_more_than_the_end_is_read(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int], appended: Callable[[SharedLog], object]
) -> None:
    size = place.path(0).stat().st_size
    appended(one)
    fill(one, 2, first=5)
    fill(other, 1, first=7)
    assert looked == [size]
    assert known(other) == known(place.open())
    looked.clear()
    fill(one, 1, first=8)
    fill(other, 1, first=9)
    assert looked == []


def test_a_sequence_is_checked_behind_what_was_skipped(one: SharedLog, other: SharedLog) -> None:
    one.append_batch(from_producer(5, 0))
    fill(other, 3)
    fill(one, 3)
    assert other.append_batch(from_producer(5, 0)).is_duplicate
    with pytest.raises(OutOfOrderSequenceError):
        other.append_batch(from_producer(5, 7))
    fill(other, 1)
    assert one.append_batch(from_producer(5, 1)).first_offset == 12
    assert other.append_batch(from_producer(5, 1)).is_duplicate


def test_a_transaction_that_was_aborted_stays_hidden_from_who_skips(one: SharedLog, other: SharedLog) -> None:
    one.append_batch(from_producer(5, 0, transactional=True))
    fill(other, 2, first=5)
    one.append_batch(marker(5, commit=False), origin=AppendOrigin.COORDINATOR)
    fill(other, 2, first=7)
    fill(one, 1, first=9)
    fill(other, 1, first=10)
    for log in (one, other):
        seen = values(log, isolation=FetchIsolation.TXN_COMMITTED)
        assert seen == [*numbers(0, 4), *numbers(5, 11)]


def test_an_append_takes_the_leader_epoch_of_what_others_have_appended(one: SharedLog, other: SharedLog) -> None:
    one.append_batch(from_leader(4, leader_epoch=3), origin=AppendOrigin.REPLICATION)
    fill(other, 1, first=5)
    fill(one, 1, first=6)
    fill(other, 1, first=7)
    assert [batch.header.leader_epoch for batch in iter_batches(other.read(4))] == [3, 3, 3, 3]


# ---- ends that are not believed


def test_whole_batches_of_one_who_was_killed_before_it_told_of_them_are_read(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int]
) -> None:
    write_by_hand(place, from_leader(4, 3))
    assert one.append([(b"k", b"7")]).first_offset == 7
    assert len(looked) == 1
    assert other.append([(b"k", b"8")]).first_offset == 8
    assert values(other) == values(one) == numbers(0, 9)
    assert place.alarms() == []


def test_a_torn_batch_behind_the_end_is_put_aside(one: SharedLog, other: SharedLog, place: SharedPlace) -> None:
    write_by_hand(place, bytes(from_leader(4, 3))[:80])
    assert one.append([(b"k", b"4")]).first_offset == 4
    assert other.append([(b"k", b"5")]).first_offset == 5
    assert values(one) == numbers(0, 6)
    assert place.names(".aside")
    assert place.alarms() == []


@pytest.mark.parametrize("more", [-1, 1, 100])
def test_an_end_at_another_size_is_not_believed(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int], more: int
) -> None:
    fill(one, 1, first=4)
    end = told(place)
    assert end is not None
    raw = lock_file(place).read_bytes()[:RAW_BYTES]
    lock_file(place).write_bytes(raw + end._replace(size=end.size + more, next_offset=1000).pack(raw))
    assert other.append([(b"k", b"5")]).first_offset == 5
    assert len(looked) == 1
    assert values(one) == numbers(0, 6)


@pytest.mark.parametrize("rest", [b"", b"x", bytes(END_BYTES), b"\xff" * END_BYTES, b"more than it may be" * 20])
def test_a_lock_file_that_tells_no_end_is_as_one_of_an_older_version(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int], rest: bytes
) -> None:
    fill(one, 1, first=4)
    lock_file(place).write_bytes(lock_file(place).read_bytes()[:RAW_BYTES] + rest)
    assert other.append([(b"k", b"5")]).first_offset == 5
    assert len(looked) == 1
    fill(one, 1, first=6)
    assert len(looked) == 1
    assert values(other) == numbers(0, 7)


def test_older_versions_find_the_numbers_where_they_were(one: SharedLog, other: SharedLog, place: SharedPlace) -> None:
    raw = one._attachment._turns.raw()
    assert len(raw) == RAW_BYTES
    fill(one, 3)
    fill(other, 3)
    assert one._attachment._turns.raw() == raw
    assert lock_file(place).read_bytes()[:RAW_BYTES] == raw


def test_an_end_of_an_older_session_is_not_believed(place: SharedPlace, looked: list[int]) -> None:
    one, other = place.open(), place.open()
    fill(one, 1)
    fill(other, 1, first=1)
    fill(one, 1, first=2)
    before = lock_file(place).read_bytes()[RAW_BYTES:]
    place.close()
    later, another = place.open(session=8), place.open(session=8)
    fill(later, 1, first=3)
    lock_file(place).write_bytes(lock_file(place).read_bytes()[:RAW_BYTES] + before)
    looked.clear()
    assert another.append([(b"k", b"4")]).first_offset == 4
    assert looked != []
    assert values(later) == numbers(0, 5)


def test_an_end_from_before_a_roll_is_not_believed_behind_it(place: SharedPlace, looked: list[int]) -> None:
    one, other = place.open(SMALL), place.open(SMALL)
    for number in range(0, 60, 2):
        fill(one, 1, first=number)
        fill(other, 1, first=number + 1)
    assert len(one.segments) > 3
    assert values(one) == values(other) == numbers(0, 60)
    assert known(one) == known(place.open(SMALL))
    assert place.alarms() == []


def test_a_log_that_was_cut_and_is_as_long_again_is_looked_at_anew(
    one: SharedLog, other: SharedLog, place: SharedPlace
) -> None:
    size = place.path(0).stat().st_size
    with one.changing() as log:
        log.truncate_to(3)
        log.append_batch(from_producer(5, 0))
    assert place.path(0).stat().st_size > size - 10
    assert other.append_batch(from_producer(5, 0)).is_duplicate
    fill(other, 1, first=4)
    fill(one, 1, first=5)
    assert known(one) == known(place.open())
    assert one.append_batch(from_producer(5, 0)).is_duplicate


def test_an_append_counts_where_the_end_cannot_be_told(
    one: SharedLog, other: SharedLog, looked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(lock: LocalOpenLock, data: bytes, position: int = 0) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalOpenLock, "write", fail)
        assert one.append([(b"k", b"4")]).first_offset == 4
    assert other.append([(b"k", b"5")]).first_offset == 5
    assert len(looked) == 1
    assert values(one) == numbers(0, 6)


# ---- beside others


def test_threads_that_read_beside_those_who_skip_see_all_in_order(
    one: SharedLog, other: SharedLog, place: SharedPlace
) -> None:
    third = place.open()

    def append(log: SharedLog, name: bytes) -> None:
        for number in range(150):
            log.append([(name, b"%d" % number)])

    def read(log: SharedLog) -> None:
        seen = 4
        while seen < 454:
            for record in log.records(seen):
                assert record.offset == seen
                seen += 1

    with ThreadPoolExecutor(6) as pool:
        work = [pool.submit(append, log, name) for log, name in ((one, b"1"), (other, b"2"), (third, b"3"))]
        work += [pool.submit(read, log) for log in (one, other, third)]
        for future in work:
            future.result(60)
    assert values(one) == values(other) == values(third)
    assert place.alarms() == []


def test_a_child_of_a_fork_opens_it_anew_and_appends_behind_its_parent(
    one: SharedLog, other: SharedLog, place: SharedPlace, looked: list[int]
) -> None:
    def work(line: Line) -> int:
        with pytest.raises(LogClosedError):
            one.append([(b"k", b"no")])
        mine = place.open()
        fill(mine, 2, first=4)
        return mine.append([(b"k", b"6")]).first_offset

    assert run(work) == 6
    fill(one, 1, first=7)
    fill(other, 1, first=8)
    looked.clear()
    fill(one, 1, first=9)
    fill(other, 1, first=10)
    assert looked == []
    assert values(one) == values(other) == numbers(0, 11)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_appended_and_changed_those_who_append_know_the_same(place: SharedPlace, seed: int) -> None:
    chance = random.Random(seed)
    config = LogConfig(segment_bytes=3000, index_interval_bytes=200)
    logs = [place.open(config) for _ in range(3)]
    sequences = {5: 0, 6: 0}
    epoch = 0

    def change(log: SharedLog) -> None:
        with log.changing() as inner:
            roll_or_cut(inner)

    def roll_or_cut(log: Log) -> None:
        if chance.random() < 0.5 or sequences != {5: 0, 6: 0}:
            log.roll()
        else:
            log.truncate_to(max(log.log_end_offset - 2, log.log_start_offset))

    for _ in range(120):
        log, way = chance.choice(logs), chance.random()
        if way < 0.7:
            records = [(b"k", b"v" * chance.randrange(50))] * chance.randrange(1, 4)
            log.append(records, timestamp=chance.randrange(10**6))
        elif way < 0.8:
            producer = chance.choice([5, 6])
            log.append_batch(from_producer(producer, sequences[producer]))
            sequences[producer] += 1
        elif way < 0.85:
            epoch += chance.randrange(2)
            batch = from_leader(log.log_end_offset, leader_epoch=epoch)
            log.append_batch(batch, origin=AppendOrigin.REPLICATION)
        elif way < 0.9:
            change(log)
        elif way < 0.95:
            path = max(place.directory.glob("*.log"))
            with path.open("ab") as file:
                file.write(bytes(from_leader(log.log_end_offset, leader_epoch=epoch))[: chance.randrange(1, 90)])
        log.append([(b"k", b"last")])
        with place.open(config) as anew:
            assert known(log) == known(anew)
    assert len({tuple(values(log)) for log in logs}) == 1
    assert place.alarms() == []
