"""A work queue gives each job to one worker at a time until it is acknowledged, and says when it was given before."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

import logstore
from logstore.clock import SystemClock
from logstore.config import LogConfig
from logstore.errors import BatchTooLargeError, InvalidNameError, LogLockedError, LogstoreError, StoreClosedError
from logstore.queue.work_queue import WorkQueue
from logstore.queue.work_queue_errors import JobLostError, QueueClosedError
from logstore.queue.work_queue_job import Job
from logstore.store import Store
from logstore.testing import ManualClock, MemoryFileSystem


class Place:
    """A store in a directory, and queues on it that can be opened again."""

    def __init__(self, path: Path, mode: Literal["shared", "exclusive"]) -> None:
        self.path = path
        self.mode = mode
        self.clock = ManualClock(1_700_000_000_000)
        self.store = self.open_store()

    def open_store(self, config: LogConfig | None = None) -> Store:
        return logstore.open(self.path, mode=self.mode, clock=self.clock, config=config)

    def queue(self, name: str = "jobs", **options: Any) -> WorkQueue:
        return WorkQueue(self.store, name, **{"durability": "os", **options})

    def reopened(self, queue: WorkQueue, **options: Any) -> WorkQueue:
        queue.close()
        self.store.close()
        self.store = self.open_store()
        return self.queue(queue.name, **options)


@pytest.fixture(params=["exclusive", "shared"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path / "store", request.param)
    yield found
    found.store.close()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path / "store", "shared")
    yield found
    found.store.close()


def taken(queue: WorkQueue, timeout: float | None = 0) -> Job:
    job = queue.get(timeout)
    assert job is not None
    return job


def values(jobs: list[Job]) -> list[bytes]:
    return [job.value for job in jobs]


# ---- put, get, ack


def test_jobs_come_in_the_order_in_which_they_were_put(place: Place) -> None:
    queue = place.queue()
    for value in (b"a", b"b", b"c"):
        queue.put(value)
    assert values(queue.get(0, n=2)) == [b"a", b"b"]
    assert taken(queue).value == b"c"
    assert queue.get(0) is None
    assert queue.get(0, n=5) == []


def test_a_job_has_what_was_put_with_it(place: Place) -> None:
    queue = place.queue()
    queue.put(b"v", key=b"k", headers=[("h", b"1"), ("h", None)])
    job = taken(queue)
    assert (job.value, job.key, job.headers) == (b"v", b"k", (("h", b"1"), ("h", None)))
    assert (job.delivery_count, job.is_redelivered, job.record.timestamp) == (1, False, place.clock.now_ms())


def test_an_acknowledged_job_does_not_come_again(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put(b"a")
    taken(queue).ack()
    place.clock.advance(60_000)
    assert queue.get(0) is None
    queue = place.reopened(queue)
    assert queue.get(0) is None
    assert queue.stats().acknowledged == 1


def test_jobs_are_acknowledged_together_and_out_of_order(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put_many([b"%d" % number for number in range(10)])
    jobs = queue.get(0, n=10)
    queue.ack(jobs[3:7])
    jobs[9].ack()
    queue = place.reopened(queue)
    again = queue.get(0, n=10)
    assert values(again) == [b"0", b"1", b"2", b"7", b"8"]
    assert all(job.is_redelivered for job in again)


def test_put_many_gives_the_ids_of_its_jobs_and_takes_more_than_one_batch_holds(place: Place) -> None:
    queue = place.queue()
    ids = queue.put_many([bytes(100_000) for _ in range(25)], headers=[("a", b"b")])
    assert [one.offset for one in ids] == list(range(25))
    jobs = queue.get(0, n=100)
    assert [job.id for job in jobs] == ids
    assert jobs[0].headers == (("a", b"b"),)
    assert queue.put_many([]) == []


def test_serializers_are_the_callers(place: Place) -> None:
    queue = place.queue(serialize=lambda value: json.dumps(value).encode(), deserialize=json.loads)
    queue.put({"a": 1})
    queue.put_many([[2], None])
    assert [job.value for job in queue.get(0, n=3)] == [{"a": 1}, [2], None]


def test_what_was_put_by_any_producer_is_a_job_and_jobs_are_ordinary_records(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a", key=b"k")
    place.store.partition("jobs").append([(None, b"b"), (None, None)])
    assert [job.value for job in queue.get(0, n=5)] == [b"a", b"b", None]
    assert [record.value for record in place.store.partition("jobs").records()] == [b"a", b"b", None]


# ---- redelivery


def test_a_job_is_given_again_when_its_visibility_has_run_out(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put(b"a")
    first = taken(queue)
    place.clock.advance(9_999)
    assert queue.get(0) is None
    place.clock.advance(1)
    second = taken(queue)
    assert (second.value, second.delivery_count, second.is_redelivered) == (b"a", 2, True)
    with pytest.raises(JobLostError, match="another worker has it"):
        first.ack()
    second.ack()
    with pytest.raises(JobLostError, match="has finished it"):
        first.nack()


def test_a_late_acknowledgement_counts_where_nobody_else_has_the_job(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put(b"a")
    job = taken(queue)
    place.clock.advance(60_000)
    job.ack()
    assert queue.get(0) is None


def test_a_job_can_be_had_for_longer(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put(b"a")
    job = taken(queue)
    place.clock.advance(9_000)
    job.extend(10)
    place.clock.advance(9_000)
    assert queue.get(0) is None
    job.ack()


def test_a_job_that_was_given_back_comes_at_once_or_after_its_delay(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a")
    taken(queue).nack()
    taken(queue).nack(delay=5)
    assert queue.get(0) is None
    queue = place.reopened(queue)
    place.clock.advance(4_999)
    assert queue.get(0) is None
    place.clock.advance(1)
    assert taken(queue).delivery_count == 3


def test_a_queue_may_let_jobs_come_again_later_each_time(place: Place) -> None:
    queue = place.queue(redelivery_delay=2, redelivery_delay_max=5, max_deliveries=None)
    queue.put(b"a")
    for seconds in (2, 4, 5, 5):
        with pytest.raises(ZeroDivisionError), taken(queue):
            raise ZeroDivisionError
        place.clock.advance(seconds * 1000 - 1)
        assert queue.get(0) is None
        place.clock.advance(1)
    taken(queue).nack(delay=0)  # this once
    taken(queue).nack()
    queue = place.reopened(queue, max_deliveries=None)
    assert queue.get(0) is None
    place.clock.advance(5_000)
    assert taken(queue).delivery_count == 7
    for wrong in ({"redelivery_delay": -1}, {"redelivery_delay_max": -1}):
        with pytest.raises(ValueError, match="redelivery"):
            place.queue("other", **wrong)


def test_a_job_as_a_context_manager_is_acknowledged_unless_there_is_an_exception(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a")
    with pytest.raises(ZeroDivisionError), taken(queue):
        raise ZeroDivisionError
    with taken(queue) as job:
        assert job.is_redelivered
    with pytest.raises(JobLostError, match="settled already"):
        job.ack()
    assert queue.get(0) is None
    queue.put(b"b")
    with taken(queue) as job:
        job.ack()
    assert queue.stats().acknowledged == 2


def test_after_too_many_deliveries_a_job_goes_to_the_dead_letters(place: Place) -> None:
    queue = place.queue(visibility_timeout=10, max_deliveries=2)
    queue.put(b"a", key=b"k", headers=[("h", b"1")], delay=1)
    queue.put(b"b")
    place.clock.advance(1_000)
    for _ in range(2):
        queue.get(0, n=2)
        place.clock.advance(10_000)
    assert queue.get(0) is None
    letters = list(place.store.partition("jobs.dead").records())
    assert [(one.key, one.value) for one in letters] == [(b"k", b"a"), (None, b"b")]
    assert letters[0].headers == (
        ("h", b"1"), ("logstore.dead-from", b"jobs-0@0"), ("logstore.dead-reason", b"delivered 2 times"),
    )  # fmt: skip
    assert queue.stats().dead == 2
    dead = place.queue("jobs.dead", dead_letter=None)
    assert taken(dead).headers == (("h", b"1"),)


def test_a_rejected_job_goes_to_the_dead_letters_at_once_and_so_does_one_given_back_too_often(place: Place) -> None:
    queue = place.queue(dead_letter="morgue", max_deliveries=1)
    queue.put_many([b"a", b"b"])
    first, second = queue.get(0, n=2)
    first.reject()
    second.nack()
    assert queue.get(0) is None
    letters = list(place.store.partition("morgue").records())
    assert [one.headers[-1][1] for one in letters] == [b"rejected", b"delivered 1 times"]


def test_without_dead_letters_they_are_counted_and_without_a_limit_there_are_none(place: Place) -> None:
    queue = place.queue(dead_letter=None, max_deliveries=1)
    queue.put(b"a")
    taken(queue).reject()
    assert queue.stats().dead == 1
    assert [topic.name for topic in place.store.topics()] == ["jobs"]
    assert [topic.name for topic in place.store.topics(internal=True)] == ["__work_queue-jobs", "jobs"]
    endless = place.queue("endless", max_deliveries=None)
    endless.put(b"a")
    for _ in range(20):
        taken(endless).nack()
    assert taken(endless).delivery_count == 21


# ---- delays, priorities, unique keys


def test_a_delayed_job_comes_when_its_time_has_come_and_lets_others_pass(place: Place) -> None:
    queue = place.queue()
    now = place.clock.now_ms() / 1000
    queue.put(b"late", delay=20)
    queue.put(b"at", at=now + 10)
    queue.put(b"date", at=datetime.fromtimestamp(now + 5, UTC))
    queue.put(b"past", at=now - 5)
    queue.put(b"now")
    assert queue.stats().delayed == 3
    assert values(queue.get(0, n=9)) == [b"past", b"now"]
    queue = place.reopened(queue)
    assert values(queue.get(0, n=9)) == [b"past", b"now"]
    assert queue.stats().delayed == 3
    order = []
    for _ in range(20):
        place.clock.advance(1_000)
        order += [(job.value, job.delivery_count) for job in queue.get(0, n=9)]
    assert order == [(b"date", 1), (b"at", 1), (b"late", 1)]


def test_a_delay_that_only_the_record_tells_counts_as_well(place: Place) -> None:
    queue = place.queue()
    due = place.clock.now_ms() + 5_000
    headers = [("logstore.not-before", due.to_bytes(8, "big")), ("logstore.not-before", b"short")]
    place.store.partition("jobs").append([(None, b"late", place.clock.now_ms(), headers), (None, b"now")])
    assert values(queue.get(0, n=9)) == [b"now"]
    place.clock.advance(5_000)
    assert taken(queue).value == b"late"


def test_jobs_of_a_higher_priority_come_first(place: Place) -> None:
    queue = place.queue(priorities=3)
    for priority in (0, 2, 1, 2):
        queue.put(b"%d" % priority, priority=priority)
    assert values(queue.get(0, n=3)) == [b"2", b"2", b"1"]
    assert taken(queue).value == b"0"
    with pytest.raises(ValueError, match="3 is no priority"):
        queue.put(b"", priority=3)
    with pytest.raises(ValueError, match="-1 is no priority"):
        queue.put_many([b""], priority=-1)


def test_the_number_of_priorities_grows_and_never_shrinks(place: Place) -> None:
    queue = place.queue(priorities=2)
    queue.put(b"a", priority=1)
    queue = place.reopened(queue)
    assert taken(queue).value == b"a"
    queue = place.reopened(queue, priorities=4)
    queue.put(b"b", priority=3)
    assert values(queue.get(0, n=2)) == [b"b", b"a"]


def test_a_job_of_a_unique_key_is_not_put_twice_until_it_is_finished(place: Place) -> None:
    queue = place.queue()
    first = queue.put(b"a", unique="k")
    queue.put(b"other", unique=b"l")
    assert not first.is_duplicate
    again = queue.put(b"b", unique="k")
    assert again == (first.priority, first.offset, True)
    queue = place.reopened(queue)
    assert queue.put(b"c", unique=b"k").is_duplicate
    jobs = queue.get(0, n=9)
    assert values(jobs) == [b"a", b"other"]
    queue.ack(jobs)
    assert not queue.put(b"d", unique="k").is_duplicate
    assert taken(queue).value == b"d"


def test_two_records_of_a_unique_key_that_nobody_has_told_of_are_one_job(place: Place) -> None:
    queue = place.queue()
    job = (None, b"a", place.clock.now_ms(), [("logstore.unique", b"k")])
    place.store.partition("jobs").append([job, job])
    assert values(queue.get(0, n=9)) == [b"a"]
    assert queue.put(b"b", unique="k").is_duplicate
    place.store.partition("jobs").append([job])
    assert queue.get(0) is None


# ---- waiting


def test_a_worker_that_waits_is_woken_by_a_job(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store, WorkQueue(store, "jobs", durability="os") as queue:
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(taken(queue, 20).value)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        for number in range(4):
            queue.put(b"%d" % number)
        for thread in threads:
            thread.join(20)
        assert sorted(found) == [b"0", b"1", b"2", b"3"]


def test_a_worker_that_waits_is_woken_when_the_time_of_a_job_comes(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store, WorkQueue(store, "jobs", durability="os") as queue:
        queue.put(b"a", delay=0.1)
        begun = time.monotonic()
        assert taken(queue, 20).value == b"a"
        assert 0.09 <= time.monotonic() - begun < 10


def test_waiting_has_an_end(place: Place) -> None:
    queue = place.queue()
    begun = time.monotonic()
    assert queue.get(0.05) is None
    assert queue.get(0.05, n=3) == []
    assert 0.1 <= time.monotonic() - begun < 5


def test_closing_a_queue_ends_the_waiting(place: Place) -> None:
    queue = place.queue()
    errors: list[Exception] = []

    def wait() -> None:
        try:
            queue.get()
        except QueueClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    queue.close()
    thread.join(20)
    assert len(errors) == 1


# ---- the whole


def test_statistics_tell_how_the_queue_stands(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    assert queue.stats().oldest_age is None
    queue.put_many([b"a"] * 5)
    queue.put(b"b", delay=100)
    place.clock.advance(2_000)
    jobs = queue.get(0, n=3)
    jobs[0].ack()
    jobs[1].nack()
    stats = queue.stats()
    assert (stats.available, stats.delayed, stats.acquired, stats.acknowledged, stats.dead) == (3, 1, 1, 1, 0)
    assert stats.oldest_age == 2.0
    assert stats.size == sum(one.size for one in place.store.partitions() if one.name.topic != "jobs.dead")


def test_a_purged_queue_is_empty_and_what_workers_have_is_lost(place: Place) -> None:
    queue = place.queue()
    queue.put_many([b"a"] * 5)
    queue.put(b"u", unique="k")
    queue.put(b"d", delay=100)
    job = taken(queue)
    assert queue.purge() == 7
    with pytest.raises(JobLostError, match="purged"):
        job.ack()
    assert not queue.put(b"new", unique="k").is_duplicate
    queue = place.reopened(queue)
    place.clock.advance(200_000)
    assert values(queue.get(0, n=9)) == [b"new"]
    assert queue.purge() == 1


def test_of_several_jobs_those_that_are_lost_are_named_and_the_others_acknowledged(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put_many([b"a", b"b", b"c"])
    jobs = queue.get(0, n=3)
    jobs[1].ack()
    with pytest.raises(JobLostError, match="1 of 3 jobs") as caught:
        queue.ack(jobs)
    assert caught.value.jobs == (jobs[1],)
    assert queue.stats().acknowledged == 3
    queue.ack([])


def test_the_state_stays_small_however_many_jobs_pass(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstore.queue.work_queue_journal.SNAPSHOT_BYTES", 5_000)
    queue = place.queue(visibility_timeout=10)
    queue.put_many([b"x"] * 1500)
    stuck = queue.get(0, n=3)
    for job in queue.get(0, n=1000):
        job.ack()
    queue.ack(queue.get(0, n=300))
    state = place.store.partition("__work_queue-jobs")
    assert state.size < 40_000
    assert state.log_start_offset > 0
    assert len(os.listdir(state.directory)) < 20
    queue = place.reopened(queue)
    assert queue.stats().acknowledged == 1300
    assert [job.id for job in queue.get(0, n=5)[:3]] == [job.id for job in stuck]


def test_segments_whose_jobs_are_finished_are_deleted_where_that_is_wanted(place: Place) -> None:
    queue = place.queue(retention="consumed", visibility_timeout=10)
    place.store.alter_topic("jobs", {"segment.bytes": "100000"})
    jobs: list[Job] = []
    for _ in range(10):
        queue.put_many([bytes(1000)] * 80)
        jobs += queue.get(0, n=100)
    queue.ack(jobs[:5] + jobs[6:])
    queue = place.reopened(queue, retention="consumed")
    partition = place.store.partition("jobs")
    assert partition.log_start_offset == 0
    job = taken(queue)
    assert (job.id, job.is_redelivered) == (jobs[5].id, True)
    job.ack()
    queue = place.reopened(queue, retention="consumed")
    partition = place.store.partition("jobs")
    assert partition.log_start_offset > 700
    assert partition.size < 200_000
    assert not [name for name in os.listdir(partition.directory) if name.endswith(".deleted")]
    queue.put(b"after")
    assert taken(queue).value == b"after"


def test_a_drained_queue_gives_all_its_disk_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstore.queue.work_queue_settling._HOUSE_JOBS", 50)
    queue = place.queue(retention="consumed")
    queue.put_many([bytes(50_000)] * 50)
    assert queue.stats().size > 2_000_000
    queue.ack(queue.get(0, n=50))
    assert queue.stats().size < 10_000


def test_jobs_that_retention_has_deleted_are_gone(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put_many([b"%d" % number for number in range(10)])
    queue.get(0, n=3)
    queue = place.reopened(queue)
    with place.store.partition("jobs").changing() as log:
        log.roll()
        log.advance_log_start(6)
    place.clock.advance(10_000)
    assert values(queue.get(0, n=20)) == [b"6", b"7", b"8", b"9"]
    assert queue.stats().available == 0
    queue = place.reopened(queue)
    assert values(queue.get(0, n=20)) == [b"6", b"7", b"8", b"9"]


def test_jobs_of_an_undecided_transaction_are_waited_for(place: Place) -> None:
    from logstore.records import BatchOptions, encode_batch

    queue = place.queue()
    options = BatchOptions(producer_id=7, producer_epoch=0, base_sequence=0, is_transactional=True)
    partition = place.store.partition("jobs")
    partition.append_batch(encode_batch([(None, b"open")], timestamp=place.clock.now_ms(), options=options))
    queue.put(b"behind")
    assert queue.get(0) is None
    with partition.changing() as log:
        log.end_transaction(7, 0, commit=False)
    assert values(queue.get(0, n=9)) == [b"behind"]


def test_a_topic_that_was_deleted_and_made_again_is_another_queue(place: Place) -> None:
    queue = place.queue()
    queue.put_many([b"a"] * 9)
    queue.ack(queue.get(0, n=5))
    queue.close()
    place.store.delete_topic("jobs")
    queue = place.queue()
    queue.put_many([b"new"] * 3)
    assert values(queue.get(0, n=9)) == [b"new"] * 3


def test_what_is_said_of_jobs_that_a_power_cut_has_taken_is_forgotten(place: Place) -> None:
    queue = place.queue()
    queue.put_many([b"%d" % number for number in range(10)])
    queue.ack(queue.get(0, n=8))
    queue.put(b"unique", unique="k")
    queue.close()
    with place.store.partition("jobs").changing() as log:
        log.truncate_to(3)
    queue = place.queue()
    queue.put_many([b"new 3", b"new 4"])
    assert not queue.put(b"unique again", unique="k").is_duplicate
    assert values(queue.get(0, n=9)) == [b"new 3", b"new 4", b"unique again"]


@pytest.mark.parametrize("mode", ["exclusive", "shared"])
def test_a_delayed_job_that_was_given_before_a_power_cut_says_so(mode: Literal["shared", "exclusive"]) -> None:
    clock = ManualClock(1_700_000_000_000)
    fs = MemoryFileSystem(clock)
    queue = WorkQueue(logstore.open("/store", mode=mode, fs=fs, clock=clock), "jobs")
    queue.put(b"delayed", delay=5)
    clock.advance(5_000)
    assert not taken(queue).is_redelivered
    store = logstore.open("/store", mode=mode, fs=fs.crash("nothing"), clock=clock)
    with store, WorkQueue(store, "jobs") as again:
        assert taken(again).is_redelivered


# ---- wrong use


def test_wrong_arguments_are_refused(place: Place) -> None:
    for options in (
        {"durability": "never"}, {"visibility_timeout": 0}, {"max_deliveries": 0}, {"priorities": 0},
        {"priorities": 101}, {"retention": "some"}, {"dead_letter": "{name}"},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            place.queue(**options)
    with pytest.raises(InvalidNameError):
        place.queue("a/b")
    with pytest.raises(InvalidNameError):
        place.queue("x" * 240)
    queue = place.queue()
    for call in (
        lambda: queue.put(b"", delay=-1), lambda: queue.put(b"", delay=1, at=5.0), lambda: queue.get(0, n=0),
        lambda: queue.put(b"", headers=[("logstore.unique", b"")]),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        queue.put("text")
    queue.put(b"a")
    with pytest.raises(ValueError):
        taken(queue).nack(-1)
    assert queue.stats().available == 0


def test_too_large_jobs_are_refused_before_any_is_put(place: Place) -> None:
    queue = place.queue()
    with pytest.raises(BatchTooLargeError):
        queue.put(bytes(2 << 20))
    with pytest.raises(BatchTooLargeError):
        queue.put_many([b"a", bytes(2 << 20)])
    with pytest.raises(BatchTooLargeError):
        queue.put(bytes(2 << 20), unique="k")
    assert not queue.put(b"a", unique="k").is_duplicate
    assert queue.stats().available == 1


def test_a_closed_queue_says_so(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a")
    job = taken(queue)
    queue.close()
    queue.close()
    for call in (
        lambda: queue.put(b""), lambda: queue.put_many([b""]), lambda: queue.get(0), job.ack, job.nack, job.reject,
        lambda: job.extend(1), lambda: queue.ack([job]), queue.stats, queue.purge,
    ):  # fmt: skip
        with pytest.raises(QueueClosedError):
            call()
    assert "closed" in repr(queue)


def test_a_queue_of_a_closed_store_says_so_and_can_be_closed(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a")
    taken(queue)
    place.store.close()
    with pytest.raises(LogstoreError):
        queue.put(b"b")
    with pytest.raises((StoreClosedError, LogstoreError)):
        queue.get(0)
    queue.close()
    place.store = place.open_store()
    assert taken(place.queue()).is_redelivered


def test_a_queue_that_was_opened_before_a_fork_refuses_to_work_in_the_child(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            queue.put(b"b")
        except StoreClosedError:
            queue.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert values(queue.get(0, n=9)) == [b"a"]


def test_in_an_exclusive_store_a_queue_is_opened_once(tmp_path: Path) -> None:
    place = Place(tmp_path / "store", "exclusive")
    queue = place.queue()
    with pytest.raises(LogLockedError, match="open already"):
        place.queue()
    queue.close()
    place.queue().close()
    place.store.close()


def test_in_a_shared_store_two_queues_share_the_jobs(shared: Place) -> None:
    first, second = shared.queue(), shared.queue()
    first.put_many([b"%d" % number for number in range(6)])
    one, two = first.get(0, n=2), second.get(0, n=2)
    assert values(one) + values(two) == [b"0", b"1", b"2", b"3"]
    one[0].ack()
    assert second.stats().acknowledged == 1
    first.close()
    redelivered = [*second.get(0, n=9), taken(second)]
    assert [(job.value, job.is_redelivered) for job in redelivered] == [(b"4", False), (b"5", False), (b"1", True)]


def test_who_was_away_while_a_snapshot_was_written_sees_what_it_says(shared: Place) -> None:
    first, second = shared.queue(), shared.queue()
    first.put_many([b"%d" % number for number in range(6)])
    jobs = first.get(0, n=4)
    first._files.journal.write_snapshot(first._files.state)
    first.ack(jobs[0])
    assert values(second.get(0, n=9)) == [b"4", b"5"]


def test_the_settings_of_the_topics_keep_jobs_until_they_are_finished(place: Place) -> None:
    queue = place.queue()
    queue.put(b"a")
    with place.store.partition("jobs").changing() as log:
        log.roll()
    place.clock.advance(100 * 86_400_000)
    place.store.retain()
    assert taken(queue).value == b"a"


def test_durability_always_syncs_what_was_put_and_acknowledged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from logstore.log.segment import Segment

    count = 0
    original = Segment.sync_log

    def sync(segment: Segment) -> None:
        nonlocal count
        count += 1
        original(segment)

    queue = place.queue(durability="always")
    monkeypatch.setattr(Segment, "sync_log", sync)
    counts = []
    steps: list[Callable[[], object]] = [
        lambda: queue.put(b"a"), lambda: queue.get(0), lambda: queue.put(b"b"), lambda: jobs.append(taken(queue)),
        lambda: jobs[0].ack(), lambda: queue.put_many([b"c", b"d"]), lambda: queue.ack(queue.get(0, n=2)),
    ]  # fmt: skip
    jobs: list[Job] = []
    for step in steps:
        before = count
        step()
        counts.append(count - before)
    # Of the gets only the first syncs: it says that the next ones may be given away, too.
    assert counts == [1, 1, 1, 0, 1, 1, 1]


def test_the_system_clock_is_the_default(tmp_path: Path) -> None:
    with logstore.open(tmp_path / "store") as store, WorkQueue(store, "jobs") as queue:
        assert isinstance(store.clock, SystemClock)
        queue.put(b"a")
        with taken(queue) as job:
            assert abs(job.record.timestamp / 1000 - time.time()) < 60


def crashed(place: Place, queue: WorkQueue, **options: Any) -> WorkQueue:
    """As a process leaves the queue that is killed: a copy of the store as it is now."""
    copy = place.path.with_name(place.path.name + "+")
    shutil.copytree(place.path, copy)
    place.store.close()
    queue.close()
    place.path = copy
    place.store = place.open_store()
    return place.queue(**options)


@pytest.mark.parametrize("durability", ["os", "always"])
@pytest.mark.parametrize("count", [3, 300, 700])
def test_what_a_process_had_that_was_killed_is_given_again_and_nothing_else_is_lost(
    place: Place, count: int, durability: str
) -> None:
    queue = place.queue(durability=durability)
    queue.put_many([b"%d" % number for number in range(1000)])
    jobs = [taken(queue) for _ in range(count)]
    queue.put(b"late", delay=1)
    jobs += queue.get(0, n=5)
    jobs[1].ack()
    jobs[count + 2].ack()
    queue = crashed(place, queue)
    assert queue.stats().acknowledged == 2
    place.clock.advance(1_000)
    again = queue.get(0, n=2000)
    rest = {b"%d" % number for number in range(1000)} - {b"1", b"%d" % (count + 2)} | {b"late"}
    assert len(again) == len(rest) and set(values(again)) == rest
    flagged = {job.value for job in again if job.is_redelivered}
    had = set(values(jobs)) & rest
    assert had <= flagged
    assert len(flagged - had) <= (256 if place.mode == "exclusive" or durability == "always" else 0)


def test_where_a_job_is_delivered_only_once_a_crash_counts_for_those_only_that_were(place: Place) -> None:
    queue = place.queue(max_deliveries=1)
    queue.put_many([b"%d" % number for number in range(9)])
    queue.get(0, n=2)
    taken(queue)
    queue = crashed(place, queue, max_deliveries=1)
    assert values(queue.get(0, n=99)) == [b"%d" % number for number in range(3, 9)]
    assert queue.stats().dead == 3


def test_after_a_clean_end_only_what_was_acquired_is_said_to_come_again(place: Place) -> None:
    queue = place.queue()
    queue.put_many([b"a", b"b", b"c", b"d"])
    jobs = queue.get(0, n=3)
    jobs[1].ack()
    queue = place.reopened(queue)
    assert [(job.value, job.delivery_count) for job in queue.get(0, n=9)] == [(b"a", 2), (b"c", 2), (b"d", 1)]


def test_a_job_that_was_extended_and_given_back_in_one_moment_comes_once(place: Place) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put_many([b"a", b"b"])
    job = queue.get(0, n=2)[0]
    job.extend(10)
    job.extend(10)
    place.clock.advance(10_000)
    assert sorted(values(queue.get(0, n=9))) == [b"a", b"b"]


def test_where_nothing_can_be_written_nothing_is_done_and_nothing_is_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = place.queue(visibility_timeout=10)
    queue.put_many([b"a", b"b", b"c"])
    jobs = queue.get(0, n=2)
    place.clock.advance(10_000)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("logstore.queue.work_queue_journal.Journal.write", fail)
        for call in (
            lambda: queue.get(0, n=3), lambda: queue.get(0), lambda: queue.ack(jobs), jobs[0].nack, jobs[0].reject,
        ):  # fmt: skip
            with pytest.raises(OSError, match="No space"):
                call()
    jobs[0].ack()
    assert [(job.value, job.delivery_count) for job in queue.get(0, n=9)] == [(b"b", 2), (b"c", 1)]
