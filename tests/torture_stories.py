"""What `torture_story_sweep` stops: stories of a store, of a work queue, and of a group, each with two processes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

from torture_story_sweep import Stage

from logstore.names import CONSUMER_OFFSETS_TOPIC, TopicPartition
from logstore.queue import Consumer, Job, WorkQueue
from logstore.queue.membership import Member
from logstore.queue.offsets_store import OffsetsStore
from logstore.store import Store

DAY_MS = 86_400_000
DELIVERIES = 3


@dataclasses.dataclass
class Kept:
    """A partition: what was appended, in order; how many of these are promised, and where the log may start."""

    values: list[bytes] = dataclasses.field(default_factory=list)
    promised: int = 0
    starts: set[int] = dataclasses.field(default_factory=lambda: {0})


@dataclasses.dataclass
class Topics:
    """What a store is to have."""

    kept: dict[str, list[Kept]] = dataclasses.field(default_factory=dict)
    settings: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)


class StoreStory:
    """Two processes make, change and delete topics, append to them in turn, retain, and close the store."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.possible = [Topics()]  # of which one is there
        self.opened: list[Store] = []
        self._count = 0

    def prepare(self) -> None:
        """The second process has the store open."""
        self.opened.append(self.stage.open(self.stage.second))

    @property
    def now(self) -> Topics:
        return self.possible[-1]

    @contextlib.contextmanager
    def changing(self) -> Iterator[Topics]:
        """Do something: until it is done, what was there before is there, or what is behind it."""
        after = copy.deepcopy(self.now)
        self.possible.append(after)
        yield after
        self.possible = [after]

    def run(self) -> None:
        other, store = self.opened[0], self.stage.open(self.stage.first)
        self.opened.insert(0, store)
        self.create(store, "a", 2)
        self.append(store, "a", 3)
        self.append(other, "a", 2, durability="always")
        self.append(store, "a", 2, number=1)
        self.create(other, "b", 1, {"retention.bytes": "600"})
        for writer in self.opened * 4:
            self.append(writer, "b", 1, size=150)
        with self.changing() as after:
            after.kept["a"] += [Kept()]
            store.grow_topic("a", 3)
        self.append(other, "a", 1, number=2)
        with self.changing() as after:
            after.settings["b"]["retention.bytes"] = "300"
            store.alter_topic("b", {"retention.bytes": "300"})
        self.retain(store)
        self.append(other, "b", 1)
        self.flush(store, "a")
        with self.changing() as after:
            del after.kept["b"], after.settings["b"]
            store.delete_topic("b")
        store.maintain()
        self.create(other, "b", 1)
        self.append(store, "b", 2, durability="always")
        self.append(store, "a", 2)
        store.close()
        self.close(other)

    def create(self, store: Store, name: str, partitions: int, settings: dict[str, str] | None = None) -> None:
        with self.changing() as after:
            after.kept[name] = [Kept() for _ in range(partitions)]
            after.settings[name] = dict(settings or {})
            store.create_topic(name, partitions, settings)

    def append(
        self, store: Store, topic: str, count: int, *, number: int = 0, size: int = 10, durability: str | None = None
    ) -> None:
        kept = self.now.kept[topic][number]
        for _ in range(count):
            self._count += 1
            kept.values.append((b"%d" % self._count).ljust(size, b"."))
            done = store.partition(topic, number).append([(b"k", kept.values[-1])], durability=durability)  # type: ignore[arg-type]
            assert done.first_offset == len(kept.values) - 1
            if (durability or self.stage.durability) == "always":
                kept.promised = len(kept.values)

    def retain(self, store: Store) -> None:
        kept = self.now.kept["b"][0]
        kept.starts |= set(range(len(kept.values)))
        (plan,) = store.retain().values()
        assert plan.going
        kept.starts = {store.partition("b").log_start_offset}

    def flush(self, store: Store, topic: str) -> None:
        for number, kept in enumerate(self.now.kept[topic]):
            store.partition(topic, number).flush()
            kept.promised = len(kept.values)

    def close(self, store: Store) -> None:
        store.close()
        for kept in (one for some in self.now.kept.values() for one in some):
            kept.promised = len(kept.values)

    def leave(self) -> None:
        self.opened[-1].close()

    def forget(self) -> None:
        """Nothing."""

    def check(self, store: Store, *, survived: bool) -> None:
        found = {one.name: (one.partitions, dict(one.settings)) for one in store.topics()}
        known = [
            one for one in self.possible
            if found == {name: (len(kept), one.settings[name]) for name, kept in one.kept.items()}
        ]  # fmt: skip
        assert known, f"there are {found}, and not {self.possible}"
        for name, some in known[0].kept.items():
            for number, kept in enumerate(some):
                self._check_partition(store, name, number, kept, survived=survived)
        store.create_topic("later")
        store.partition("later").append([(b"k", b"v")], durability="always")

    def _check_partition(self, store: Store, name: str, number: int, kept: Kept, *, survived: bool) -> None:
        partition = store.partition(name, number)
        start, end = partition.log_start_offset, partition.log_end_offset
        assert start in kept.starts, f"{name}-{number} starts at {start}, not in {kept.starts}"
        # Of the last append, which had not returned, it is not known whether it is there.
        promised = len(kept.values) - 1 if survived else kept.promised
        assert promised <= end <= max(len(kept.values), start), f"{name}-{number} ends at {end}: {kept}"
        assert [record.value for record in partition.records()] == kept.values[start:end]
        assert partition.append([(b"k", b"more")], durability="always").first_offset == end


@dataclasses.dataclass
class Put:
    """A job: how often it was surely delivered, from when on it may be; how it ends."""

    delivered: int = 0
    due: int = 0
    is_open: bool = True  # it has to come
    is_done: bool = False  # it must not come any more
    has_letter: bool = False


class QueueStory:
    """Two workers put, get, acknowledge, give back and reject jobs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.jobs: dict[bytes, Put] = {}
        self.stores: list[Store] = []
        self.queues: list[WorkQueue] = []

    def prepare(self) -> None:
        """The second process has the queue open."""
        self._open(self.stage.open(self.stage.second))

    def _open(self, store: Store) -> WorkQueue:
        self.stores.append(store)
        self.queues.append(self.queue(store))
        return self.queues[-1]

    def queue(self, store: Store) -> WorkQueue:
        return WorkQueue(
            store, "q", durability=self.stage.durability, visibility_timeout=10.0, max_deliveries=DELIVERIES,
            priorities=2,
        )  # fmt: skip

    def run(self) -> None:
        two = self.queues[0]
        one = self._open(self.stage.open(self.stage.first))
        for number in range(6):
            self.put((one, two)[number % 2], b"plain %d" % number)
        self.put(one, b"delayed", delay=20)
        self.put(two, b"urgent", priority=1)
        self.put(one, b"unique", unique=b"u")
        assert one.put(b"other", unique="u").is_duplicate
        urgent, first = self.get(one, 2)
        self.ack(one, urgent)
        second, third, fourth = self.get(two, 3)
        self.nack(two, second)
        self.reject(two, third)
        self.ack(one, first)
        (second,) = self.get(one, 1)
        self.nack(one, second, delay=5)
        with one._turn:
            one._files.journal.write_snapshot(one._files.state)
        self.stage.clock.advance(11_000)  # the fourth one's time is over
        again = self.get(one, 2)
        assert {job.value for job in again} == {second.value, fourth.value}
        for job in again:
            (self.ack if job.value == fourth.value else self.bury)(one, job)
        self.stage.clock.advance(10_000)
        (delayed,) = [job for job in self.get(one, 9) if job.value == b"delayed"]
        one.extend(delayed, 60)
        self.put(two, b"last")
        two.close()
        one.close()
        for store in self.stores:
            store.close()

    # ---- what is done, and what of it is promised on return

    def put(self, queue: WorkQueue, value: bytes, delay: float = 0, **options: object) -> None:
        due = self.stage.clock.now_ms() + int(delay * 1000)
        self.jobs[value] = Put(due=due, is_open=False)
        queue.put(value, delay=delay, **options)  # type: ignore[arg-type]
        self.jobs[value].is_open = True

    def get(self, queue: WorkQueue, count: int) -> list[Job]:
        found = queue.get(0, n=count)
        for job in found:
            known = self.jobs[job.value]
            assert known.delivered < job.delivery_count, job
            assert known.due <= self.stage.clock.now_ms(), job
            known.delivered = job.delivery_count
        return found

    def ack(self, queue: WorkQueue, job: Job) -> None:
        self._finish(lambda: queue.ack(job), job)

    def reject(self, queue: WorkQueue, job: Job) -> None:
        self._finish(lambda: queue.reject(job), job)
        self.jobs[job.value].has_letter = True

    def bury(self, queue: WorkQueue, job: Job) -> None:
        """Give it back for the last time."""
        assert job.delivery_count == DELIVERIES
        self._finish(lambda: queue.nack(job), job)
        self.jobs[job.value].has_letter = True

    def nack(self, queue: WorkQueue, job: Job, delay: float = 0) -> None:
        queue.nack(job, delay)
        self.jobs[job.value].due = self.stage.clock.now_ms() + int(delay * 1000)

    def _finish(self, settle: object, job: Job) -> None:
        known = self.jobs[job.value]
        known.is_open = False
        settle()  # type: ignore[operator]
        known.is_done = True

    # ---- what is left of it

    def leave(self) -> None:
        self.queues[0].close()
        self.stores[0].close()

    def forget(self) -> None:
        """Nothing."""

    def check(self, store: Store, *, survived: bool) -> None:
        is_promised = survived or self.stage.durability == "always"
        with self.queue(store) as queue:
            found: dict[bytes, int] = {}
            for wait_ms in (0, DAY_MS):
                self.stage.clock.advance(wait_ms)
                now = self.stage.clock.now_ms()
                jobs = queue.get(0, n=100)
                for job in jobs:
                    known = self.jobs[job.value]
                    assert job.value not in found, f"{job.value} comes twice"
                    assert not (is_promised and known.is_done), f"{job.value} comes after its end"
                    assert not (is_promised and now < known.due and not known.delivered), f"{job.value} comes early"
                    assert job.is_redelivered or not (is_promised and known.delivered), f"{job.value} seems to be new"
                    found[job.value] = job.delivery_count
                queue.ack(jobs)
            letters = {record.value for record in store.partition("q.dead").records()}
            if is_promised:
                wanted = {value for value, job in self.jobs.items() if job.is_open and job.delivered < DELIVERIES}
                assert wanted <= found.keys(), f"{wanted - found.keys()} do not come, {found} do"
                lost = {value for value, job in self.jobs.items() if job.has_letter} - letters
                assert not lost, f"{lost} have no dead letters"
            queue.put(b"more")
            assert [job.value for job in queue.get(0, n=9)] == [b"more"]


class GroupStory:
    """Two members of a group read, commit, join and leave."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.promised: dict[TopicPartition, int] = {}
        self.least: dict[TopicPartition, int] = {}
        self.stores: list[Store] = []
        self.readers: list[Consumer] = []

    def prepare(self) -> None:
        """The second process has topics, records, and a member."""
        store = self.stage.open(self.stage.second)
        self.stores.append(store)
        store.create_topic("t", 2)
        store.create_topic(CONSUMER_OFFSETS_TOPIC, 1)
        for number in range(2):
            for value in range(10):
                store.partition("t", number).append([(b"k", b"%d" % value)], durability="always")
        self._join(store)

    def _join(self, store: Store) -> Consumer:
        self.readers.append(Consumer(store, "t", group="g", enable_auto_commit=False, max_poll_records=3))
        return self.readers[-1]

    def run(self) -> None:
        two = self.readers[0]
        store = self.stage.open(self.stage.first)
        self.stores.append(store)
        self.read(two)
        one = self._join(store)
        for reader in (two, one, two, one):
            self.read(reader)
        third = self._join(store)
        for reader in (two, one, third, one):
            self.read(reader)
        third.close()
        self.read(one)
        member = Member(store, "g", ["t"])
        member.review()
        member.abandon()
        self.read(two)
        self.read(one)
        one.close()
        self.read(two)
        two.close()
        for each in self.stores:
            each.close()

    def read(self, reader: Consumer) -> None:
        self.stage.clock.advance(60)
        reader.poll(0)
        positions = reader.positions()
        self.promised |= positions
        reader.commit()
        if self.stage.durability == "always":
            self.least |= positions

    def leave(self) -> None:
        self.readers[0].close()
        self.stores[0].close()

    def forget(self) -> None:
        """A consumer that nobody closes would say so."""
        for reader in self.readers:
            reader._end.detach()

    def check(self, store: Store, *, survived: bool) -> None:
        committed = {name: one.offset for name, one in OffsetsStore(store).committed("g").items()}
        for name, offset in committed.items():
            assert self.least.get(name, 0) <= offset <= self.promised[name], f"{committed}, not {self.least}"
        assert committed.keys() >= self.least.keys(), f"{committed}, not {self.least}"
        with Consumer(store, "t", group="g", enable_auto_commit=False) as reader:
            assert len(reader.assignment) == 2, "nothing that was left keeps a new member from all"
            read = {(one.partition, one.offset) for messages in reader.batches(until_end=True) for one in messages}
            reader.commit()
        begins = [committed.get(TopicPartition("t", number), 0) for number in range(2)]
        assert read == {(number, offset) for number, begin in enumerate(begins) for offset in range(begin, 10)}
        assert {one.offset for one in OffsetsStore(store).committed("g").values()} == {10}
