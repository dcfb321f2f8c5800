"""A log that several processes append to, read and change at once. Two logs in one process are as good as two processes
where nobody is killed: the kernel's locks belong to each of them."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from helpers.open_logs import from_leader, from_producer, marker
from helpers.shared_logs import SMALL, SharedPlace, fill, numbers, values

from logstore.cleaner import Cleaner
from logstore.config import LogConfig
from logstore.errors import (
    BatchTooLargeError,
    DamagedLogError,
    InconsistentTopicIdError,
    LogClosedError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceError,
    ProducerFencedError,
)
from logstore.fs import LocalFile
from logstore.log import AppendOrigin, FetchIsolation, PartitionFacts, SharedLog
from logstore.records import Codec, iter_batches
from logstore.retention import retain
from logstore.testing import MemoryFileSystem

COMMITTED = FetchIsolation.TXN_COMMITTED
COMPACT = LogConfig(
    cleanup_policy=frozenset({"compact"}), segment_bytes=600, index_interval_bytes=100, min_cleanable_dirty_ratio=0.0
)


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
    return place.open()


def bases(log: SharedLog) -> list[int]:
    return [segment.base_offset for segment in log.segments]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


# ---- appending and reading


def test_each_sees_what_the_others_append(one: SharedLog, other: SharedLog) -> None:
    assert one.append([(b"k", b"0"), (b"k", b"1")]).last_offset == 1
    assert other.log_end_offset == 2
    assert other.append([(b"k", b"2")]).first_offset == 2
    assert one.append([(b"k", b"3")]).first_offset == 3
    assert values(one) == values(other) == numbers(0, 4)
    record = one.get(2)
    assert record is not None
    assert record.value == b"2"


def test_all_ways_to_append_and_read_are_those_of_a_log(one: SharedLog, other: SharedLog, place: SharedPlace) -> None:
    one.append([(b"k", b"zstd")] * 20, codec=Codec.ZSTD, timestamp=place.clock.now_ms() + 5)
    future = one.append_later(iter([(b"k", b"later")]))
    assert not future.is_durable
    assert future.result() == (20, 20)
    one.append_batch(bytes(from_producer(1, 0)))
    one.append_batch(from_leader(30, leader_epoch=1), origin=AppendOrigin.REPLICATION)
    assert (other.log_start_offset, other.log_end_offset, other.last_stable_offset) == (0, 31, 31)
    assert other.size == one.size > 0
    assert len(other.read(0)) == other.size
    assert bytes(other.fetch(0).data) == other.read(0)
    found = other.offset_for_time(place.clock.now_ms() + 1)
    assert found is not None
    assert found.offset == 0
    assert other.get(25) is None
    assert one.append_batch(b"") == (-1, -1, -1, False)
    assert other.segments[0].size == other.size
    assert repr(one).startswith("<SharedLog ")


def test_what_is_no_argument_is_refused_before_anything_is_written(one: SharedLog) -> None:
    with pytest.raises(ValueError, match="durability"):
        one.append([(b"k", b"v")], durability="soon")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="durability"):
        one.append_batch(from_producer(1, 0), durability="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Codec"):
        one.append([(b"k", b"v")], codec="gzip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Codec"):
        one.append_later([(b"k", b"v")], codec="gzip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="AppendOrigin"):
        one.append_batch(from_producer(1, 0), origin="client")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        one.append([1])
    assert one.log_end_offset == 0


def test_offsets_that_are_not_there_are_refused(one: SharedLog, other: SharedLog) -> None:
    fill(one, 3)
    with pytest.raises(OffsetOutOfRangeError):
        other.read(4)
    with pytest.raises(OffsetOutOfRangeError):
        other.get(7)
    assert values(other, 3) == []


def test_nobody_reads_a_part_of_a_batch_and_the_next_append_takes_its_place(place: SharedPlace, one: SharedLog) -> None:
    fill(one, 3)
    torn = bytes(from_leader(3, 5))[:100]
    with place.path(0).open("ab") as file:
        file.write(torn)
    reader = place.open()
    assert values(reader) == numbers(0, 3)
    assert reader.log_end_offset == 3
    assert one.append([(b"k", b"3")]).first_offset == 3
    assert values(reader) == numbers(0, 4)
    kept = [name for name in place.names(".aside") if name.startswith(".")]
    assert [(place.directory / name).read_bytes() for name in kept] == [torn]
    assert place.alarms() == []


def test_a_reader_that_comes_first_puts_in_order_what_the_dead_have_left(place: SharedPlace) -> None:
    log = place.open()
    fill(log, 3)
    with log._attachment.taken():
        log._attachment._turns.begin()
    log.close()
    assert values(place.open()) == numbers(0, 3)
    assert place.open()._attachment._turns.read().is_settled


def test_reading_goes_on_while_somebody_has_the_log_for_long(
    one: SharedLog, other: SharedLog, pool: ThreadPoolExecutor
) -> None:
    fill(one, 5)
    assert other.log_end_offset == 5
    with one.changing() as log:
        log.append([(b"k", b"new")])
        for reader in (one, other):
            assert pool.submit(values, reader).result(5)[:5] == numbers(0, 5)
            record = pool.submit(reader.get, 1).result(5)
            assert record is not None
            assert record.value == b"1"
    assert other.log_end_offset == 6


def test_a_reader_who_has_missed_a_change_waits_for_the_next_to_end_rather_than_going_back(
    place: SharedPlace, one: SharedLog, other: SharedLog, pool: ThreadPoolExecutor
) -> None:
    fill(one, 5)
    assert other.log_end_offset == 5
    with one.changing() as log:
        log.roll()
    fill(one, 1)  # in a segment that the other has not seen
    with place.open().changing():
        end = pool.submit(lambda: other.log_end_offset)
        time.sleep(0.05)
        assert not end.done()
    assert end.result(5) == 6


def test_one_who_opens_a_log_waits_until_it_is_in_order(
    place: SharedPlace, one: SharedLog, pool: ThreadPoolExecutor
) -> None:
    fill(one, 5)
    with one.changing() as log:
        waiting = pool.submit(lambda: place.open().log_end_offset)
        time.sleep(0.05)
        assert not waiting.done()
        log.append([(b"k", b"v")])
    assert waiting.result(5) == 6


def test_threads_of_one_process_append_and_read_at_once(
    place: SharedPlace, one: SharedLog, pool: ThreadPoolExecutor
) -> None:
    def work(name: bytes, log: SharedLog) -> None:
        for number in range(60):
            log.append([(name, b"%d" % number)])
            assert log.get(0) is not None

    logs = [one, one, one, place.open()]
    for future in [pool.submit(work, b"%d" % at, log) for at, log in enumerate(logs)]:
        future.result(20)
    records = list(one.records())
    assert [record.offset for record in records] == list(range(240))
    for at in range(4):
        assert [record.value for record in records if record.key == b"%d" % at] == numbers(0, 60)


# ---- rolling, deleting, compacting, cutting, in the middle of others' reading


def test_rolls_by_one_are_seen_by_others_in_the_middle_of_reading(place: SharedPlace) -> None:
    one, other = place.open(SMALL), place.open(SMALL)
    fill(one, 40)
    reading = other.records()
    begun = [next(reading).value for _ in range(10)]
    fill(one, 40, first=40)
    fill(other, 40, first=80)
    assert len(bases(one)) > 3
    assert bases(one) == bases(other)
    found = begun + [record.value for record in reading]
    assert found == numbers(0, len(found))
    assert len(found) >= 40
    assert values(one) == values(other) == numbers(0, 120)
    assert place.alarms() == []


@pytest.mark.parametrize("batch", [bytearray, bytes])
def test_an_encoded_batch_that_begins_a_segment_is_written_once(place: SharedPlace, batch: type) -> None:
    log = place.open(SMALL)
    for number in range(30):
        done = log.append_batch(batch(from_producer(1, number)))
        assert (done.first_offset, done.is_duplicate) == (number, False)
    assert len(bases(log)) > 2
    assert [record.offset for record in log.records()] == list(range(30))


def test_a_batch_larger_than_a_segment_is_refused(place: SharedPlace) -> None:
    log = place.open(SMALL)
    with pytest.raises(BatchTooLargeError):
        log.append([(None, bytes(1000))])
    assert log.append([(None, b"v")]).first_offset == 0


def test_an_old_recovery_point_is_not_believed_for_ever(place: SharedPlace) -> None:
    place.alone(SMALL).close()
    log = place.open(SMALL, known=PartitionFacts(recovery_point=0, is_vouched_for=True))
    fill(log, 60)
    sealed = bases(log)[0]
    content = bytearray(place.path(sealed).read_bytes())
    content[80] ^= 1
    place.path(sealed).write_bytes(content)
    with log.changing() as inner:  # what was sealed is on disk, and need not be read through again and again
        assert inner.recovery_point > sealed


def test_what_is_deleted_by_one_goes_at_once_and_others_go_on_behind_it(place: SharedPlace) -> None:
    config = LogConfig(segment_bytes=600, index_interval_bytes=100, retention_bytes=1200)
    one, other = place.open(config), place.open(config)
    fill(one, 60)
    held = other.records()
    assert next(held).offset == 0
    with one.changing() as log:
        assert retain(log, place.clock.now_ms()).going
    assert place.names(".deleted") == []
    start = one.log_start_offset
    assert start > 0
    assert values(other) == numbers(start, 60)
    with pytest.raises(OffsetOutOfRangeError):
        other.read(0)
    with pytest.raises(OffsetOutOfRangeError):
        list(held)
    assert place.alarms() == []


def test_the_log_start_is_moved_for_all(place: SharedPlace, one: SharedLog, other: SharedLog) -> None:
    fill(one, 20)
    assert other.get(0) is not None
    with one.changing() as log:
        log.advance_log_start(7)
    assert other.log_start_offset == 7
    assert values(other) == numbers(7, 20)
    with pytest.raises(OffsetOutOfRangeError):
        other.get(6)
    with pytest.raises(OffsetOutOfRangeError):
        values(other, 6)
    assert one.append([(b"k", b"20")]).first_offset == 20


def test_what_one_cuts_off_others_write_anew(one: SharedLog, other: SharedLog, place: SharedPlace) -> None:
    fill(one, 20)
    assert other.log_end_offset == 20
    with one.changing() as log:
        log.truncate_to(12)
    assert other.log_end_offset == 12
    assert other.append([(b"k", b"new")]).first_offset == 12
    assert values(one) == [*numbers(0, 12), b"new"]
    with other.changing() as log:
        log.truncate_fully_and_start_at(100)
    assert (one.log_start_offset, one.log_end_offset) == (100, 100)
    assert one.append([(b"k", b"again")]).first_offset == 100
    assert place.alarms() == []


def test_an_append_that_is_torn_behind_a_cut_inside_a_batch_is_no_damage(place: SharedPlace, one: SharedLog) -> None:
    one.append([(b"k", b"kept")])
    one.append([(b"k", b"cut"), (b"k", b"cut")])
    with one.changing() as log:
        log.truncate_to(2)
    assert one.log_end_offset == 1, "the batch goes as a whole"
    with place.path(0).open("ab") as file:
        file.write(bytes(from_leader(1, 3))[:50])
    assert one.append([(b"k", b"new")]).first_offset == 1
    assert values(place.open()) == [b"kept", b"new"]


def test_a_log_that_grows_again_to_where_it_was_cut_inside_a_batch_was_not_closed_there(place: SharedPlace) -> None:
    log = place.open()
    log.append([(b"k", b"cut"), (b"k", b"cut")])
    with log.changing() as inner:
        inner.truncate_to(1)
    log.append([(b"k", b"new")])
    with log.changing() as inner:
        inner.roll()
    assert place.alarms() == []


def test_nothing_is_shortened_that_others_may_have_mapped() -> None:
    fs = MemoryFileSystem()  # cutting what is mapped is an error there; here it would kill who reads it
    fs.make_directory("/orders-0")
    one, other = (SharedLog.open("/orders-0", SMALL, session=7, fs=fs.process()) for _ in range(2))
    fill(one, 40)
    seen = other.records(0)
    assert [next(seen).value for _ in range(30)] == numbers(0, 30)
    for offset in range(40):
        other.get(offset)
    assert len(bases(other)) > 2
    for end in (bases(one)[1] + 3, 2):
        with one.changing() as log:
            log.truncate_to(end)
        assert values(other) == numbers(0, end)
        assert other.append([(b"k", b"%d" % end)]).first_offset == end


def test_others_keep_the_newest_values_while_one_compacts(place: SharedPlace) -> None:
    one, other = place.open(COMPACT), place.open(COMPACT)
    for number in range(120):
        one.append([(b"%d" % (number % 5), b"%d" % number)])
    reading = other.records()
    begun = [next(reading) for _ in range(15)]
    with one.changing() as log:
        Cleaner().clean_fully(log)
    assert one.size < 3000
    found = begun + list(reading)
    offsets = [record.offset for record in found]
    assert offsets == sorted(set(offsets))
    assert {record.key: record.value for record in found} == {b"%d" % key: b"%d" % (115 + key) for key in range(5)}
    assert {record.key: record.value for record in other.records()} == {r.key: r.value for r in one.records()}
    other.append([(b"0", b"last")])
    assert values(one)[-1] == b"last"
    assert place.alarms() == []


def test_readers_and_writers_beside_endless_rolls_and_deletions(place: SharedPlace, pool: ThreadPoolExecutor) -> None:
    config = LogConfig(segment_bytes=600, index_interval_bytes=100, retention_bytes=1500)
    writer, changer, reader = place.open(config), place.open(config), place.open(config)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            with changer.changing() as log:
                retain(log, place.clock.now_ms())

    def read() -> None:
        position = 0
        while not over.is_set():
            try:
                for record in reader.records(position):
                    assert record.value == b"%d" % record.offset
                    assert record.offset >= position
                    position = record.offset + 1
            except OffsetOutOfRangeError:
                position = reader.log_start_offset

    others = [pool.submit(change), pool.submit(read)]
    try:
        for number in range(200):
            assert writer.append([(b"k", b"%d" % number)]).first_offset == number
    finally:
        over.set()
    for future in others:
        future.result(20)
    assert place.alarms() == []


# ---- producers and transactions


def test_sequences_of_producers_are_checked_across_processes(one: SharedLog, other: SharedLog) -> None:
    assert one.append_batch(from_producer(1, 0, 3)).first_offset == 0
    again = other.append_batch(from_producer(1, 0, 3))
    assert (again.first_offset, again.last_offset, again.is_duplicate) == (0, 2, True)
    assert other.append_batch(from_producer(1, 3)).first_offset == 3
    with pytest.raises(OutOfOrderSequenceError):
        one.append_batch(from_producer(1, 9))
    one.append_batch(from_producer(1, 0, epoch=1))
    with pytest.raises(ProducerFencedError):
        other.append_batch(from_producer(1, 4))
    assert one.log_end_offset == other.log_end_offset == 5


def test_producers_are_known_after_rolls_and_to_those_who_come_later(place: SharedPlace) -> None:
    one = place.open(SMALL)
    for number in range(20):
        one.append_batch(from_producer(1, number))
    assert len(bases(one)) > 2
    late = place.open(SMALL)
    assert late.append_batch(from_producer(1, 19)).is_duplicate
    with pytest.raises(OutOfOrderSequenceError):
        late.append_batch(from_producer(1, 30))
    assert one.append_batch(from_producer(1, 20)).first_offset == 20


def test_a_transaction_that_one_begins_and_another_ends_is_seen_by_all(place: SharedPlace) -> None:
    one, other, third = place.open(), place.open(), place.open()
    one.append([(b"k", b"before")])
    one.append_batch(from_producer(1, 0, 2, transactional=True))
    other.append_batch(from_producer(2, 0, 2, transactional=True))
    one.append([(b"k", b"plain")])
    for log in (one, other, third):
        assert log.last_stable_offset == 1
        assert values(log, isolation=COMMITTED) == [b"before"]
    third.append_batch(marker(1, commit=False), origin=AppendOrigin.COORDINATOR)
    for log in (one, other, third):
        assert log.last_stable_offset == 3
        assert values(log, isolation=COMMITTED) == [b"before"]
    one.append_batch(marker(2, commit=True), origin=AppendOrigin.COORDINATOR)
    fourth = place.open()
    for log in (one, other, third, fourth):
        assert log.last_stable_offset == 8
        assert values(log, isolation=COMMITTED) == [b"before", b"2:0", b"2:1", b"plain"]
        aborted = log.fetch(0, isolation=COMMITTED).aborted
        assert aborted is not None
        assert [(found.producer_id, found.first_offset) for found in aborted] == [(1, 1)]
    assert place.alarms() == []


def test_aborted_records_stay_hidden_in_sealed_segments_and_after_the_last_close(place: SharedPlace) -> None:
    one, other = place.open(SMALL), place.open(SMALL)
    for number in range(12):
        one.append_batch(from_producer(1, 2 * number, 2, transactional=True))
        other.append_batch(marker(1, commit=bool(number % 2)), origin=AppendOrigin.COORDINATOR)
    committed = [b"1:%d" % (2 * number + at) for number in range(1, 12, 2) for at in range(2)]
    assert len(bases(one)) > 2
    for log in (one, other, place.open(SMALL)):
        assert values(log, isolation=COMMITTED) == committed
    place.close()
    with place.alone(SMALL) as alone:
        assert values(alone, isolation=COMMITTED) == committed
    assert place.alarms() == []


# ---- durability


def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    original = LocalFile.sync

    def sync(file: LocalFile) -> None:
        done.append(os.path.basename(file.path))
        original(file)

    monkeypatch.setattr(LocalFile, "sync", sync)
    return done


def test_always_syncs_the_log_and_os_syncs_nothing(one: SharedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    one.append([(b"k", b"first")])  # which writes the leader epoch
    done = syncs(monkeypatch)
    one.append([(b"k", b"v")])
    assert done == []
    one.append([(b"k", b"v")], durability="always")
    assert done == ["00000000000000000000.log"]
    one.append_later([(b"k", b"v")]).result()
    one.flush()
    assert len(done) == 2


def test_an_interval_is_kept_by_who_has_appended(place: SharedPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    one = place.open(LogConfig(durability="interval", flush_ms=1000))
    one.append([(b"k", b"v")])
    done = syncs(monkeypatch)
    one.maintain()
    assert done == []
    place.clock.advance(1001)
    one.maintain()
    one.maintain()
    assert done == ["00000000000000000000.log"]


def test_what_was_promised_later_is_kept_when_others_have_replaced_the_segments(place: SharedPlace) -> None:
    one, other = place.open(COMPACT), place.open(COMPACT)
    futures = [one.append_later([(b"k", b"%d" % number)]) for number in range(50)]
    with other.changing() as log:
        log.roll()
        Cleaner().clean_fully(log)
        log.advance_log_start(log.log_end_offset)
        log.delete_before_log_start()
    for number, future in enumerate(futures):
        assert future.result() == (number, number)
        assert future.is_durable
    assert one.append([(b"k", b"v")], durability="always").first_offset == 50


def test_after_a_failed_sync_this_process_appends_no_more(one: SharedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    one.append([(b"k", b"v")])

    def fail(file: LocalFile) -> None:
        raise OSError(5, "Input/output error", file.path)

    assert not one.has_failed
    with monkeypatch.context() as patch:
        patch.setattr(LocalFile, "sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            one.append([(b"k", b"v")], durability="always")
    with pytest.raises(LogClosedError, match="no more appends"):
        one.append([(b"k", b"v")])
    assert one.has_failed
    one.close()
    assert one.has_failed


def test_an_append_that_fails_in_the_middle_is_unseen_by_all(
    place: SharedPlace, one: SharedLog, other: SharedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(one, 2)
    first, second = from_leader(2, 2), from_leader(4, 2)
    original = LocalFile.write

    def stop_in_between(file: LocalFile, position: int, data: bytes) -> None:
        if not file.path.endswith(".log"):
            original(file, position, data)
            return
        original(file, position, bytes(data)[: len(first) + 10])
        assert other.log_end_offset == 4, "the first of two batches is there for a moment"
        raise OSError(28, "No space left on device", file.path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFile, "write", stop_in_between)
        with pytest.raises(OSError, match="No space"):
            one.append_batch(first + second, origin=AppendOrigin.REPLICATION)
    assert one.log_end_offset == other.log_end_offset == 2
    assert other.append([(b"k", b"2")]).first_offset == 2
    assert values(one) == values(other) == numbers(0, 3)
    assert place.alarms() == []


# ---- opening and closing


def test_nothing_is_recovered_twice_in_a_session(place: SharedPlace, one: SharedLog) -> None:
    fill(one, 3)
    turn = one._attachment._turns.raw()
    assert place.open().log_end_offset == 3
    assert one._attachment._turns.raw() == turn


def test_a_log_that_was_closed_cleanly_is_not_opened_again_for_the_next_session(place: SharedPlace) -> None:
    with place.alone() as log:
        fill(log, 3)
    before = {name: (place.directory / name).stat().st_mtime_ns for name in place.names() if name != ".lock"}
    log = place.open(session=8)
    assert log.append([(b"k", b"3")]).first_offset == 3
    after = {name: (place.directory / name).stat().st_mtime_ns for name in before}
    assert {name for name in before if after[name] != before[name]} == {place.path(0).name}


def test_a_session_without_a_clean_end_is_recovered_by_the_next(place: SharedPlace) -> None:
    log = place.open(SMALL)
    fill(log, 30)
    place.close()
    with place.path(max(int(name[:20]) for name in place.names(".log"))).open("ab") as file:
        file.write(b"torn")
    log = place.open(SMALL, session=8)
    assert values(log) == numbers(0, 30)
    assert log.append([(b"k", b"30")]).first_offset == 30
    assert place.alarms() == []


def test_a_last_batch_whose_offset_a_power_cut_has_taken_does_not_look_like_a_clean_end(place: SharedPlace) -> None:
    log = place.open()
    log.append([(b"k", b"0")])
    with log.changing():
        pass  # closed behind offset 0
    size = log.size
    log.append([(b"k", b"." * (504 - 2 * size - 2 + 1))])  # lengths of two bytes, twice
    assert log.size == 504
    log.append([(b"k", b"2")])
    with place.path(0).open("r+b") as file:
        file.seek(504)
        file.write(bytes(8))  # what lies in its first block
    log.close()
    again = place.open(session=8)
    assert values(again) == [b"0", b"." * (504 - 2 * size - 2 + 1)]
    assert again.append([(b"k", b"new")]).first_offset == 2
    assert place.alarms() == []


def test_what_a_broker_knows_better_counts_in_the_first_session_alone(place: SharedPlace) -> None:
    with place.alone() as log:
        fill(log, 10)
    known = PartitionFacts(recovery_point=10, log_start_offset=4, is_vouched_for=True)
    one = place.open(known=known)
    assert one.log_start_offset == 4
    with one.changing() as log:
        log.truncate_fully_and_start_at(2)
    assert (one.log_start_offset, one.log_end_offset) == (2, 2)
    assert place.open(known=known).log_start_offset == 2


def test_room_that_a_log_would_set_aside_is_not(place: SharedPlace) -> None:
    one, other = place.open(LogConfig(preallocate=True)), place.open(LogConfig(preallocate=True))
    fill(one, 3)
    with one.changing() as log:
        log.roll()
    fill(one, 3, first=3)
    assert values(other) == numbers(0, 6)
    assert one.config.preallocate


def test_settings_count_from_the_next_operation_on(place: SharedPlace, one: SharedLog) -> None:
    fill(one, 10)
    one.configure(LogConfig(max_message_bytes=100))
    assert one.config.max_message_bytes == 100
    with pytest.raises(BatchTooLargeError):
        one.append([(None, bytes(200))])
    one.configure(SMALL)
    fill(one, 20, first=10)
    assert len(bases(one)) > 1


def test_damage_is_refused_and_told(place: SharedPlace) -> None:
    with place.alone(SMALL) as log:
        fill(log, 60)
    content = bytearray(place.path(0).read_bytes())
    content[80] ^= 1
    place.path(0).write_bytes(content)
    log = place.open(SMALL)  # nothing of it is read
    with pytest.raises(DamagedLogError) as caught:
        values(log)
    assert caught.value.path == str(place.path(0))
    assert values(log, 30) == numbers(30, 60)


def test_damage_above_the_last_index_entry_is_met_when_it_is_opened(place: SharedPlace) -> None:
    with place.alone() as log:
        fill(log, 10)
    content = bytearray(place.path(0).read_bytes())
    content[-1] ^= 1
    place.path(0).write_bytes(content)
    with pytest.raises(DamagedLogError, match="logstore check") as caught:
        place.open()
    assert (caught.value.path, caught.value.offset) == (str(place.path(0)), 9)


def test_a_directory_of_another_topic_is_refused(place: SharedPlace) -> None:
    place.open(topic_id=uuid4()).close()
    with pytest.raises(InconsistentTopicIdError):
        place.open(topic_id=uuid4())


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SharedLog.open(tmp_path / "no-0", session=1)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_log_says_so(one: SharedLog, place: SharedPlace) -> None:
    one.append([(b"k", b"v")])
    reading = one.records()
    future = one.append_later([(b"k", b"v")])
    one.close()
    one.close()
    for use in (
        lambda: one.append([(b"k", b"v")]), lambda: one.append_later([]), lambda: one.get(0), lambda: list(reading),
        lambda: one.log_end_offset, one.flush, lambda: one.append_batch(from_producer(1, 0)),
    ):  # fmt: skip
        with pytest.raises(LogClosedError, match="closed"):
            use()
    with pytest.raises(LogClosedError), one.changing():
        pass
    one.maintain()
    assert future.result() == (1, 1)
    assert "closed" in repr(one)


def test_closing_a_log_that_threads_use_gives_clear_errors(place: SharedPlace, pool: ThreadPoolExecutor) -> None:
    log = place.open()
    fill(log, 100)

    def use(work: Callable[[], object]) -> None:
        while True:
            work()

    works = (lambda: log.append([(b"k", b"v")]), lambda: values(log), lambda: log.get(5), lambda: log.size)
    using = [pool.submit(use, work) for work in works]
    time.sleep(0.05)
    log.close()
    for future in using:
        with pytest.raises(LogClosedError, match="closed"):
            future.result(10)


def test_a_partition_that_was_deleted_does_not_come_back(place: SharedPlace, one: SharedLog, other: SharedLog) -> None:
    fill(one, 3)
    attachment = one._attachment
    with attachment.taken():
        attachment._turns.delete()
        place.directory.rename(place.directory.with_name("gone"))
    for use in (lambda: other.append([(b"k", b"v")]), lambda: values(other), lambda: other.log_end_offset, other.flush):
        with pytest.raises(LogClosedError, match="deleted"):
            use()
    with pytest.raises(LogClosedError, match="deleted"), other.changing():
        pass
    assert not place.directory.exists()


def test_descriptors_are_given_back(place: SharedPlace) -> None:
    def count() -> int:
        gc.collect()  # of what other tests have left
        return len(os.listdir("/proc/self/fd"))

    place.open(SMALL).close()
    before = count()
    for session in range(10, 15):
        log = place.open(SMALL, session=session)
        fill(log, 40)
        assert values(log)
        log.close()
    assert count() == before


def test_each_batch_is_read_whole(one: SharedLog, other: SharedLog) -> None:
    for number in range(10):
        one.append([(b"k", b"%d" % number)] * 7)
        assert [batch.header.count for batch in iter_batches(other.read(0))] == [7] * (number + 1)


def test_no_index_becomes_shorter_under_those_who_may_have_it_mapped(
    place: SharedPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[tuple[str, int, int]] = []
    truncate = LocalFile.truncate

    def noted(file: LocalFile, size: int) -> None:
        if file.path.endswith("index") and size < file.size():
            cut.append((file.path, file.size(), size))
        truncate(file, size)

    monkeypatch.setattr(LocalFile, "truncate", noted)
    log = place.open(LogConfig(segment_bytes=2000, index_interval_bytes=1))
    fill(log, 200)
    with log.changing() as inner:
        inner.roll()
        fill(inner, 50, first=200)
        inner.truncate_to(120)
    fill(log, 100, first=120)
    assert values(log) == numbers(0, 220)
    assert len(log.segments) > 5
    assert cut == []
    assert place.alarms() == []
