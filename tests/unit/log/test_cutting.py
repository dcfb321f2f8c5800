"""Truncating a log, letting it begin later, deleting it: what stays in memory, on disk, and after a restart."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.open_logs import (
    PLACE,
    SMALL,
    START,
    Place,
    Producer,
    bases,
    fill,
    from_leader,
    from_producer,
    offsets,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.errors import DamagedLogError, LogClosedError, LogLockedError, OffsetOutOfRangeError
from logstore.log import Log
from logstore.records import BatchOptions, Record, encode_batch, iter_batches
from logstore.records.builder import encode_empty_batch
from logstore.testing import SimulatedCrash


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def log(place: Place) -> Log:
    return place.open()


def snapshots(log: Log) -> list[int]:
    return list(log._state.producers.snapshot_offsets)


def epochs(log: Log) -> list[tuple[int, int]]:
    return [tuple(entry) for entry in log.leader_epochs.entries]


# ---------------------------------------------------------------- at the end


@pytest.mark.kafka("TRUNC-01")
def test_truncation_drops_what_lies_behind_and_appending_goes_on_there(log: Log) -> None:
    fill(log, 10)
    size = log.size
    for offset in (10, 11):
        assert not log.truncate_to(offset)
        assert (log.log_end_offset, log.size) == (10, size)
    assert log.truncate_to(5)
    assert (log.log_end_offset, log.size) == (5, size // 2)
    assert log.truncate_to(0)
    assert (log.log_end_offset, log.size) == (0, 0)
    fill(log, 10)
    assert (log.log_end_offset, log.size) == (10, size)
    log.truncate_fully_and_start_at(1)
    assert (log.log_start_offset, log.log_end_offset, log.size) == (1, 1, 0)
    fill(log, 10)
    assert (log.log_end_offset, log.size) == (11, size)
    assert log.truncate_to(0)
    assert (log.log_start_offset, log.log_end_offset, log.size, bases(log)) == (0, 0, 0, [0])
    fill(log, 1)
    assert values(log) == [b"0"]


@pytest.mark.kafka("TRUNC-02")
def test_truncating_to_the_end_or_beyond_forgets_an_epoch_that_has_no_records(log: Log) -> None:
    fill(log, 3)
    log.append_epoch(5, 3)
    assert epochs(log) == [(0, 0), (5, 3)]
    assert not log.truncate_to(7)
    assert epochs(log) == [(0, 0)]


@pytest.mark.kafka("TRUNC-03")
def test_epochs_that_begin_behind_the_cut_are_forgotten(log: Log) -> None:
    for epoch, start, end in ((0, 0, 10), (1, 10, 16), (2, 16, 20)):
        for offset in range(start, end):
            log.append_as_follower(from_leader(offset, leader_epoch=epoch))
    assert epochs(log) == [(0, 0), (1, 10), (2, 16)]
    for offset, count in ((20, 3), (11, 2), (10, 1), (0, 0)):
        log.truncate_to(offset)
        assert len(epochs(log)) == count
        assert place_of_epochs(log) == epochs(log)


@pytest.mark.kafka("EPOCH-08")
def test_the_epochs_on_disk_are_those_in_memory(place: Place) -> None:
    log = place.open()
    for epoch, offset in ((2, 6), (3, 8), (4, 11)):
        log.append_as_follower(from_leader(offset, leader_epoch=epoch))
        assert place_of_epochs(log) == epochs(log)
    again = place.crashed("nothing").open(damage="cut")
    assert epochs(again) == []  # its batches are not on disk, so nothing is there that they could be of
    log.truncate_to(9)
    assert place_of_epochs(log) == epochs(log) == [(2, 6), (3, 8)]
    log.advance_log_start(7)
    assert place_of_epochs(log) == epochs(log) == [(2, 7), (3, 8)]
    log.close()
    log = place.open()
    assert epochs(log) == [(2, 7), (3, 8)]
    log.truncate_fully_and_start_at(20)
    assert place_of_epochs(log) == epochs(log) == []


def place_of_epochs(log: Log) -> list[tuple[int, int]]:
    """The epochs on disk."""
    with log._state.fs.open(PLACE / "leader-epoch-checkpoint") as file:
        lines = file.read(0, 1000).decode().splitlines()[2:]
    return [(int(epoch), int(start)) for epoch, start in map(str.split, lines)]


def test_a_follower_finds_by_the_end_of_its_epoch_where_to_cut(log: Log) -> None:
    leader, follower = log, Place().open(replicated=True)
    for one, batches in ((leader, ((0, 0), (1, 3), (3, 5))), (follower, ((0, 0), (1, 3), (2, 4)))):
        for epoch, offset in batches:
            one.append_as_follower(from_leader(offset, 1, leader_epoch=epoch))
    latest = follower.latest().leader_epoch
    end = leader.end_offset_of_epoch(latest)
    assert (latest, end) == (2, (1, 5))
    assert follower.truncate_to(min(end.end_offset, follower.end_offset_of_epoch(end.epoch).end_offset))
    assert (epochs(follower), offsets(follower)) == ([(0, 0), (1, 3)], [0, 3])
    follower.append_as_follower(leader.read(follower.log_end_offset))
    assert (offsets(follower), epochs(follower)) == (offsets(leader), epochs(leader))


@pytest.mark.kafka("TRUNC-04")
def test_snapshots_behind_the_cut_go_and_one_at_the_cut_is_there(log: Log) -> None:
    producer = Producer(log, 7)
    producer.send(2, transactional=False)
    log.roll()
    producer.send(transactional=False)
    log.roll()
    producer.send(transactional=False)
    assert snapshots(log) == [2, 3]
    for offset, latest in ((2, 2), (1, None), (0, None)):
        log.truncate_to(offset)
        assert log._state.producers.map_end_offset == offset
        assert max(snapshots(log), default=None) in (latest, offset or None)


@pytest.mark.kafka("TRUNC-04")
def test_a_cut_between_two_batches_leaves_a_snapshot_there(log: Log) -> None:
    producer = Producer(log, 7)
    for _ in range(3):
        producer.send(transactional=False)
        log.roll()
    for offset in (2, 1):
        log.truncate_to(offset)
        assert (snapshots(log)[-1], log._state.producers.map_end_offset) == (offset, offset)
        assert log.producers[0].last_sequence == offset - 1
    log.truncate_to(0)
    assert (snapshots(log), log.producers) == ([], ())


@pytest.mark.kafka("TRUNC-05")
def test_without_snapshots_the_producers_are_taken_from_the_log(place: Place, log: Log) -> None:
    producer = Producer(log, 7)
    producer.send(transactional=False)
    log.roll()
    producer.send(transactional=False)
    log.roll()
    log._state.producers.delete_snapshots_before(100)
    assert place.names(".snapshot") == []
    log.truncate_to(1)
    assert (log.log_end_offset, log.producers[0].last_sequence) == (1, 0)
    assert producer_goes_on(log, 1)


def producer_goes_on(log: Log, sequence: int) -> bool:
    return log.append_batch(from_producer(7, sequence)).first_offset == log.log_end_offset - 1


@pytest.mark.kafka("TRUNC-06")
@pytest.mark.parametrize("is_reopened", [False, True])
def test_a_cut_below_an_open_transaction_forgets_it(place: Place, is_reopened: bool) -> None:
    for cut in (lambda log: log.truncate_to(0), lambda log: log.truncate_fully_and_start_at(1)):
        place = Place()
        log = place.open()
        Producer(log, 7).send(3)
        assert (log.first_unstable_offset, len(log.producers)) == (0, 1)
        if is_reopened:
            log.close()
            log = place.open()
            assert (log.first_unstable_offset, len(log.producers)) == (0, 1)
        cut(log)
        assert (log.first_unstable_offset, log.producers) == (None, ())


@pytest.mark.kafka("TRUNC-07")
def test_a_log_that_begins_anew_may_begin_before_its_first_record(place: Place, log: Log) -> None:
    Producer(log, 7).send(3)
    log.truncate_fully_and_start_at(2, log_start_offset=1)
    assert (log.log_start_offset, log.log_end_offset, log.producers) == (1, 2, ())
    assert snapshots(log) == [2]
    log.append([(None, b"a")])
    log.close()
    log = place.open()
    assert (log.log_start_offset, log.log_end_offset, offsets(log, 2)) == (2, 3, [2])


@pytest.mark.kafka("TRUNC-08", "LOCAL-09")
def test_a_log_that_begins_anew_has_one_empty_segment_and_no_snapshots(place: Place, log: Log) -> None:
    producer = Producer(log, 7)
    for _ in range(3):
        producer.send(5, transactional=False)
        log.roll()
    log.truncate_fully_and_start_at(29)
    assert (bases(log), snapshots(log), log._state.producers.map_end_offset) == ([29], [], 29)
    assert (log.log_end_offset, log.log_start_offset) == (29, 29)
    assert place.names(".log.deleted") == [f"{offset:020d}.log.deleted" for offset in (0, 5, 10, 15)]
    fresh = Place().open()
    fill(fresh, 3)
    fresh.truncate_fully_and_start_at(10)
    assert (bases(fresh), fresh.recovery_point, fresh.log_end_offset) == ([10], 0, 10)


@pytest.mark.kafka("LOCAL-08")
def test_a_segment_takes_the_place_of_the_only_one(place: Place, log: Log) -> None:
    fill(log, 1)
    log.truncate_fully_and_start_at(1)
    assert (bases(log), log.recovery_point, log.log_end_offset) == ([1], 0, 1)
    assert place.names(".log.deleted") == ["00000000000000000000.log.deleted"]
    assert log.read(1) == b""


@pytest.mark.kafka("LOCAL-11")
def test_segments_behind_the_cut_go_as_a_whole(place: Place) -> None:
    log = place.open(LogConfig(segment_bytes=3 * len(encode_batch([(b"k", b"0")]))))
    for number in range(12):
        log.append([(b"k", b"%d" % (number % 10))])
    assert bases(log) == [0, 3, 6, 9]
    log.roll()
    assert bases(log) == [0, 3, 6, 9, 12]
    log.truncate_to(7)
    assert (bases(log), log.log_end_offset) == ([0, 3, 6], 7)
    assert place.names(".log.deleted") == [f"{offset:020d}.log.deleted" for offset in (9, 12)]
    assert offsets(log, 6) == [6]
    assert log.append([(None, b"a")]).first_offset == 7
    assert log._state.segments.active.base_offset == 6


@pytest.mark.kafka("TRUNC-09")
@pytest.mark.parametrize("kept", [(1, 2), ()])
def test_what_compaction_has_left_of_a_batch_keeps_its_producers_sequence(log: Log, kept: tuple[int, ...]) -> None:
    options = BatchOptions(producer_id=7, producer_epoch=0, base_sequence=0, leader_epoch=0)
    records = [Record(offset, START, b"k", b"v") for offset in (kept or range(4))]
    batch = encode_batch(records, base_offset=0, last_offset=3, options=options)
    if not kept:
        batch = encode_empty_batch(next(iter_batches(batch)).header)
    log.append_as_follower(batch)
    log.append_as_follower(from_leader(4, 2))
    log.truncate_to(4)
    assert log.producers[0].last_sequence == 3
    assert (offsets(log), log.log_end_offset) == (list(kept), 4)


def test_a_batch_with_the_cut_in_its_middle_goes_as_a_whole(place: Place, log: Log) -> None:
    fill(log, 2)
    log.append([(None, b"%d" % number) for number in range(2, 6)])
    log.truncate_to(4)
    assert (log.log_end_offset, offsets(log), log.read(2)) == (4, [0, 1], b"")
    assert log.append([(None, b"a")]).first_offset == 4
    assert offsets(log) == offsets(place.crashed().open()) == [0, 1, 4]


def test_records_cut_from_a_sealed_segment_are_gone_after_a_power_cut(place: Place) -> None:
    log = place.open(SMALL)
    fill(log, 30)
    assert len(bases(log)) > 3
    log.flush()
    log.truncate_to(bases(log)[1] + 1)
    fill(log, 1, first=100)
    expected = [*range(bases(log)[1] + 1)]
    again = place.crashed("nothing").open(SMALL)
    assert offsets(again) == expected
    assert again.recovered is not None


def test_a_cut_that_meets_damage_changes_nothing(place: Place) -> None:
    log = place.open()
    for _ in range(2):
        fill(log, 5)
        log.roll()
    log.close()
    whole = place.fs.read_bytes(PLACE / f"{0:020d}.log")
    position = len(whole) // 5 * 2
    place.flip(f"{0:020d}.log", position + 16)
    log = place.open()
    before = place.fs.tree()
    with pytest.raises(DamagedLogError):
        log.truncate_to(4)
    assert place.fs.tree() == before
    assert offsets(log, 5) == [5, 6, 7, 8, 9]
    assert log.truncate_to(1)
    assert offsets(log) == [0]


def test_nothing_is_appended_or_read_after_a_cut_that_failed_until_the_log_is_opened_again(place: Place) -> None:
    for suffix in (".log", ".index", ".snapshot", "leader-epoch-checkpoint"):
        place = Place()
        log = place.open(SMALL)
        producer = Producer(log, 7)
        for number in range(6):
            producer.send(2, transactional=False)
            log.append_epoch(number + 1, log.log_end_offset)
            fill(log, 2)
            log.roll()
        expected = values(log)
        place.fs.fail_on(
            lambda operation, wanted=suffix: operation.kind in ("rename", "write") and wanted in operation.path,
            OSError(errno.EIO, "broken"),
        )
        with pytest.raises(OSError, match="broken"):
            log.truncate_to(8)
        place.fs.heal()
        calls: list[Callable[[Log], object]] = [lambda log: fill(log, 1), values, lambda log: log.truncate_to(3)]
        calls.append(Log.close)
        for call in calls:
            with pytest.raises(LogClosedError, match="open the log again"):
                call(log)
        log.close()
        with place.open(SMALL) as again:
            assert values(again) == expected[: len(values(again))]
            assert len(values(again)) >= 8


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 4)),
            st.tuples(st.just("producer"), st.integers(1, 3)),
            st.tuples(st.just("cut"), st.integers(0, 30)),
            st.tuples(st.just("start at"), st.integers(0, 30)),
            st.tuples(st.just("advance"), st.integers(0, 30)),
            st.tuples(st.just("roll"), st.just(0)),
            st.tuples(st.just("delete"), st.just(0)),
            st.tuples(st.just("maintain"), st.integers(0, 60_000)),
            st.tuples(st.just("reopen"), st.integers(0, 1)),
        ),
        max_size=14,
    )
)
@settings(deadline=None)
def test_whatever_is_cut_the_rest_is_as_it_was_also_when_it_is_opened_again(steps: list[tuple[str, int]]) -> None:
    place = Place()
    log = place.open(SMALL)
    batches: list[tuple[int, int]] = []  # first and next offset of each batch
    start = end = sequence = 0
    for what, number in steps:
        if what in ("append", "producer"):
            if what == "append":
                done = log.append([(b"k", b"v")] * number)
            else:
                known = {one.producer_id: one.last_sequence for one in log.producers}
                sequence = known.get(9, -1) + 1
                done = log.append_batch(from_producer(9, sequence, number))
            assert done.first_offset == end
            end += number
            batches.append((end - number, end))
        elif what == "cut" and number < end:
            log.truncate_to(number)
            batches = [one for one in batches if one[1] <= number]
            start, end = min(start, number), number
        elif what == "start at":
            log.truncate_fully_and_start_at(number)
            batches, start, end = [], number, number
        elif what == "advance" and number <= end:
            assert log.advance_log_start(number) == (number > start)
            start = max(start, number)
        elif what == "roll":
            log.roll()
        elif what == "delete":
            log.delete_before_log_start()
            assert bases(log)[0] <= start or len(bases(log)) == 1
        elif what == "maintain":
            place.clock.advance(number)
            log.maintain()
        elif what == "reopen":
            if number:
                log.close()
            else:
                place = place.crashed()
            log = place.open(SMALL)
            # A gap that a cut has left at the end is not remembered.
            end = max(batches[-1][1] if batches else bases(log)[-1], bases(log)[-1], start)
        assert (log.log_start_offset, log.log_end_offset) == (start, end)
        assert offsets(log) == [one for first, last in batches for one in range(first, last) if one >= start]
    log.close()


# ---------------------------------------------------------------- at the start


@pytest.mark.kafka("RETAIN-05", "RETAIN-13")
def test_readers_see_nothing_below_a_new_start_and_the_disk_is_freed_when_asked(place: Place) -> None:
    log = place.open()
    for number in range(3):
        if number:
            log.roll()
        fill(log, 5)
    assert log.advance_log_start(1)
    assert log.delete_before_log_start() == 0
    assert log.advance_log_start(6)
    assert not log.advance_log_start(6)
    assert log.delete_before_log_start() == 1
    assert (bases(log), offsets(log)) == ([5, 10], list(range(6, 15)))
    assert log.advance_log_start(15)
    assert log.delete_before_log_start() == 1
    assert (bases(log), log.log_start_offset, log.log_end_offset) == ([10], 15, 15)
    fill(log, 1, first=15)
    assert values(log) == [b"15"]
    with pytest.raises(OffsetOutOfRangeError):
        log.advance_log_start(17)


@pytest.mark.kafka("LOCAL-07", "RETAIN-09", "RETAIN-11")
def test_deleted_segments_are_renamed_at_once_and_unlinked_after_the_delay(place: Place, log: Log) -> None:
    producer = Producer(log, 7)
    for _ in range(2):
        producer.send(3, transactional=False)
        log.roll()
    log.advance_log_start(6)
    log.delete_before_log_start()
    gone = [f"{base:020d}.{suffix}.deleted" for base in (0, 3) for suffix in ("index", "log", "timeindex")]
    assert set(place.names(".deleted")) == {*gone, f"{3:020d}.snapshot.deleted"}
    place.clock.advance(59_999)
    log.maintain()
    assert len(place.names(".deleted")) == 7
    place.clock.advance(1)
    log.maintain()
    assert place.names(".deleted") == []
    assert len(log.producers) == 1  # in memory they stay


def test_a_start_that_was_moved_survives_a_power_cut_and_a_clean_close(place: Place) -> None:
    log = place.open(SMALL)
    fill(log, 20)
    log.advance_log_start(7)
    for again in (place.crashed("nothing").open(SMALL), place.crashed("everything").open(SMALL)):
        assert again.log_start_offset == 7
    log.close()
    log = place.open(SMALL)
    assert (log.log_start_offset, log.recovered, offsets(log)[0]) == (7, None, 7)


def test_a_start_ahead_of_what_is_on_disk_leaves_an_empty_log_and_no_damage(place: Place) -> None:
    log = place.open()
    fill(log, 10)
    log.advance_log_start(8)
    again = place.crashed("nothing").open()
    assert (again.log_start_offset, again.log_end_offset) == (8, 8)
    torn = place.crashed("torn").open()
    assert (torn.log_start_offset, torn.log_end_offset) == (8, 9)


def test_epochs_below_a_new_start_are_cut_to_it(log: Log) -> None:
    for epoch, offset in ((0, 0), (1, 7), (2, 10)):
        log.append_as_follower(from_leader(offset, leader_epoch=epoch))
    log.advance_log_start(5)
    assert epochs(log) == [(0, 5), (1, 7), (2, 10)]
    log.advance_log_start(10)
    assert epochs(log) == place_of_epochs(log) == [(2, 10)]


# ---------------------------------------------------------------- altogether


@pytest.mark.kafka("LOCAL-01", "LOCAL-07", "RETAIN-17")
@pytest.mark.parametrize("is_closed", [False, True])
def test_a_deleted_log_leaves_nothing_but_its_directory(tmp_path: Path, is_closed: bool) -> None:
    directory = tmp_path / "orders-0"
    log = Log.open(directory, SMALL)
    producer = Producer(log, 7)
    for _ in range(5):
        producer.send(3)
        producer.abort()
        fill(log, 10)
    log.truncate_to(60)
    (directory / ".00000000000000000099.log.aside").write_bytes(b"kept")
    (directory / "leader-epoch-checkpoint.tmp").write_bytes(b"")
    if is_closed:
        log.close()
    assert log.delete() == []
    assert list(directory.iterdir()) == []
    for call in (lambda: fill(log, 1), lambda: values(log), log.flush):
        with pytest.raises(LogClosedError):
            call()
    log.close()
    with Log.open(directory, SMALL) as again:
        assert (again.log_end_offset, again.producers, epochs(again)) == (0, (), [])


def test_files_that_are_not_the_logs_are_left_and_named(tmp_path: Path) -> None:
    directory = tmp_path / "orders-0"
    log = Log.open(directory)
    fill(log, 3)
    for name in ("notes.txt", ".hidden", "00000000000000000000.log.bak"):
        (directory / name).write_text("mine")
    (directory / "sub").mkdir()
    left = log.delete()
    assert sorted(left) == sorted(directory.iterdir())
    assert [path.name for path in left] == [".hidden", "00000000000000000000.log.bak", "notes.txt", "sub"]


def test_a_log_that_somebody_else_has_open_is_not_deleted(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "orders-0")
    fill(log, 3)
    log.close()
    with Log.open(tmp_path / "orders-0") as other:
        with pytest.raises(LogLockedError):
            log.delete()
        assert values(other) == [b"0", b"1", b"2"]
    other.delete()


def test_a_deletion_that_a_power_cut_ends_leaves_the_begin_of_the_log() -> None:
    for stop_at in range(1, 60):
        place = Place()
        log = place.open(SMALL)
        fill(log, 30)
        log.flush()
        place.fs.stop_at = place.fs.operations + stop_at
        try:
            log.delete()
            finished = True
        except SimulatedCrash:
            finished = False
        for mode in ("nothing", "everything"):
            with place.crashed(mode).open(SMALL, damage="cut") as again:  # type: ignore[arg-type]
                assert offsets(again) == list(range(len(offsets(again))))
        if finished:
            break
    assert finished
    assert stop_at > 10
