"""A store that several processes have open: appending together, and the way from one to another; starting; memory.

Everything is done by processes of their own (measure_queue.py); only what they do once all are ready is timed. What
they appended and received is counted.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from peers import is_installed
from pytest_benchmark.fixture import BenchmarkFixture
from queue_peers import PersistAckQueue, RedisServer, SqliteQueue, has_redis, redis_server
from side_by_side import NOT_SYNCED, Side, by_size, compare, note
from workload import BATCH_BYTES, pairs, records_per_batch

import logstore
from logstore.queue.work_queue import WorkQueue

pytestmark = [pytest.mark.usefixtures("stack"), pytest.mark.starts_threads]  # `stack` removes the files

MEASURE = Path(__file__).with_name("measure_queue.py")
TOPIC = "records"
PARTITIONS = PROCESSES = 4
BATCH_RECORDS = records_per_batch(BATCH_BYTES["16KiB"])
PER_SECOND = 10_000
ROUNDS = 5
ROUNDS_OF_LATENCY = 3


class Process:
    """A run of measure_queue.py."""

    def __init__(self, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, str(MEASURE), *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line == "ready\n", line

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def said(self) -> dict[str, Any]:
        """What it says when it is done; its end is not waited for."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        out, _ = self._process.communicate()
        assert self._process.returncode == 0, out


def in_a_process(*arguments: object, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    process = Process(*arguments, environment=environment)
    answer = process.said()
    process.end()
    return answer


# ---- appending together


class Writers:
    """Processes that write to the topic of a store that is made anew for every round."""

    def __init__(self, directory: Path, arguments: Callable[[int], Sequence[object]], processes: int) -> None:
        self._directory = directory
        self._arguments = arguments
        self._numbers = range(processes)
        self._processes: list[Process] = []
        self._written = 0

    def start(self) -> None:
        with logstore.open(self._directory) as store:
            store.create_topic(TOPIC, PARTITIONS, settings={"retention.ms": "-1"})
        self._processes = [Process(*self._arguments(number)) for number in self._numbers]
        for one in self._processes:
            one.wait_until_ready()

    def run(self) -> None:
        for one in self._processes:
            one.go()
        self._written = sum(one.said()["records"] for one in self._processes)

    def end(self) -> None:
        for one in self._processes:
            one.end()
        with logstore.open(self._directory) as store:
            ends = [one.log_end_offset for one in store.partitions(TOPIC)]
        assert sum(ends) == self._written
        shutil.rmtree(self._directory)


WAYS = {
    "own": "append, 16 KiB batches, a partition each",
    "all": "append, 16 KiB batches, all partitions in turn",
    "send-own": "Producer.send, a partition each",
    "send-all": "Producer.send, all partitions by key",
}


@pytest.mark.parametrize("way", WAYS)
def bench_append_together(benchmark: BenchmarkFixture, tmp_path: Path, way: str) -> None:
    """4 processes together beside one that writes as much to the same 4 partitions in turn, in shared mode as well."""
    sends = way.startswith("send")
    calls = by_size(benchmark, 200_000, 1000) if sends else by_size(benchmark, 3000, 20)
    job, call_records = ("send", 1) if sends else ("append", BATCH_RECORDS)

    def side(library: str, processes: int, asked: float | None = None) -> Side:
        directory, share = tmp_path / f"{processes}", calls * PROCESSES // processes

        def arguments(number: int) -> Sequence[object]:
            own = {"all": -1, "send-all": -2}.get(way, -1 if processes == 1 else number)
            return job, directory, TOPIC, share, own, PARTITIONS

        writers = Writers(directory, arguments, processes)
        count = share * processes * call_records
        return Side(library, writers.run, count, asked, before=writers.start, after=writers.end)

    compare(
        benchmark,
        f"4 processes, {WAYS[way]}",
        sync=NOT_SYNCED,
        unit="records/s",
        sides=[side("logstore", by_size(benchmark, PROCESSES, 2)), side("logstore, 1 process", 1, 1.3)],
        rounds=ROUNDS,
    )


# ---- from one to another


class Latencies:
    """What the receivers of all rounds said, in ms; all that was sent was received."""

    def __init__(self, records: int) -> None:
        self._records = records
        self.found: list[dict[str, Any]] = []
        self.seconds: list[float] = []

    def run(self, sender: Sequence[object], receiver: Sequence[object]) -> None:
        both = [Process(*receiver), Process(*sender)]
        for one in both:
            one.wait_until_ready()
        for one in both:
            one.go()
        received, sent = (one.said() for one in both)
        for one in both:
            one.end()
        assert received["records"] == self._records
        self.found.append(received)
        self.seconds.append(sent["seconds"])

    def numbers(self, library: str, which: str, asked: float | None = None) -> dict[str, Any]:
        values = [one[which] for one in self.found]
        return {"library": library, "best": min(values), "median": median(values), "asked": asked}

    def numbers_beside(self, library: str, which: str, ours: Latencies) -> dict[str, Any]:
        numbers = self.numbers(library, which)
        own = ours.numbers("", which)
        return numbers | {f"ratio_{one}": numbers[one] / own[one] for one in ("best", "median")}


@pytest.mark.parametrize("which", ["p50", "p99"])
@pytest.mark.parametrize("way", ["flush", "linger"])
def bench_latency(benchmark: BenchmarkFixture, tmp_path: Path, stack: ExitStack, way: str, which: str) -> None:
    """From just before `send` in one process until `poll` has returned in another, at 10,000 records/s."""
    records = by_size(benchmark, 2 * PER_SECOND, 200)
    ours, theirs = Latencies(records), Latencies(records)
    server: RedisServer | None = stack.enter_context(redis_server()) if has_redis() else None

    def measure() -> None:
        if server is not None:
            with closing(server.client()) as client:
                client.delete("latency")
            theirs.run(["redis-pace", server.socket, records, PER_SECOND], ["redis-receive", server.socket, records])
        directory = tmp_path / "store"
        with logstore.open(directory) as store:
            store.create_topic(TOPIC)
        ours.run(["pace", directory, TOPIC, records, PER_SECOND, way], ["receive", directory, TOPIC, records])
        shutil.rmtree(directory)

    benchmark.pedantic(measure, rounds=by_size(benchmark, ROUNDS_OF_LATENCY, 1))
    if not benchmark.disabled:
        assert min(ours.seconds) < 1.02 * records / PER_SECOND, "the sender did not keep its pace"
    name = "Redis Streams, XREAD BLOCK (no AOF)"
    absent = {"library": name, "best": None, "asked": None}
    note(
        benchmark,
        f"one process to another at {PER_SECOND:,}/s, "
        + ("each send flushed" if way == "flush" else "linger of 1 ms")
        + f", {which}",
        sync=NOT_SYNCED,
        unit="ms",
        ours=ours.numbers("logstore", which, 5 if which == "p99" else None),
        peers=[absent if server is None else theirs.numbers_beside(name, which, ours)],
    )


# ---- starting


def small_store(directory: Path) -> None:
    """Three topics of four partitions with a few records, and a queue with some jobs."""
    with logstore.open(directory, mode="exclusive") as store:
        with logstore.Producer(store) as producer:
            for number in range(3):
                store.create_topic(f"topic-{number}", PARTITIONS)
                for key, value in pairs(0, 100):
                    producer.send(f"topic-{number}", value, key)
        with WorkQueue(store, "jobs", durability="os") as queue:
            queue.put_many([value for _, value in pairs(0, 100)])


@pytest.mark.parametrize("what", ["shared", "exclusive", "queue"])
def bench_start(benchmark: BenchmarkFixture, tmp_path: Path, what: str) -> None:
    """Import and open in a new interpreter, beside what others take for that; their own start is not counted."""
    small_store(tmp_path / "store")
    (tmp_path / "persist").mkdir()
    (tmp_path / "sqlite").mkdir()
    with closing(SqliteQueue(tmp_path / "sqlite")) as table:
        table._connection.execute("INSERT INTO jobs (value) VALUES (x'00')")
    places = {what: tmp_path / "store", "sqlite": tmp_path / "sqlite"}
    if is_installed("persistqueue"):
        places["persist-queue"] = tmp_path / "persist"
    found: dict[str, list[float]] = {one: [] for one in places}
    # With bytecode, as something that is installed has it, and where the environment says to write none, too.
    bytecode = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    bytecode["PYTHONPYCACHEPREFIX"] = str(tmp_path / "bytecode")
    environment = by_size(benchmark, bytecode, None)

    def measure() -> None:
        if "persist-queue" in places:
            with closing(PersistAckQueue(tmp_path / "persist")) as queue:
                queue._queue.put(b"job")
        for one, place in places.items():
            said = in_a_process("start", one, place, environment=environment)
            assert said["found"] >= 1
            found[one].append(said["open_ms"])

    if not benchmark.disabled:
        measure()  # which writes the bytecode
        for times in found.values():
            times.clear()
    benchmark.pedantic(measure, rounds=by_size(benchmark, 10, 1))
    best, middle = min(found[what]), median(found[what])
    peers: list[dict[str, Any]] = []
    for name in ("persist-queue", "sqlite"):
        if name not in found:
            peers.append({"library": name, "best": None, "asked": None})
            continue
        numbers = {"library": name, "best": min(found[name]), "median": median(found[name]), "asked": None}
        peers.append(numbers | {"ratio_best": numbers["best"] / best, "ratio_median": numbers["median"] / middle})
    title = "import, open a store and its work queue" if what == "queue" else f"import, open a small store, {what}"
    note(
        benchmark,
        title,
        sync="syncs as it opens",
        unit="ms",
        ours={"library": "logstore", "best": best, "median": middle, "asked": None if what == "queue" else 100},
        peers=peers,
    )


# ---- memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is anonymous memory")
@pytest.mark.parametrize("what", ["records", "jobs"])
def bench_memory_over_many(
    benchmark: BenchmarkFixture, tmp_path: Path, request: pytest.FixtureRequest, what: str
) -> None:
    """By how much anonymous memory grows from 1 million records to 10 (a tenth of it without --large, and of jobs)."""
    full = (1_000_000, 10_000_000) if request.config.getoption("--large") else (100_000, 1_000_000)
    if what == "jobs":
        full = (full[0] // 10, full[1] // 10)
    few, many = by_size(benchmark, full, (1000, 5000))
    with logstore.open(tmp_path / "store", mode="exclusive") as store:
        store.create_topic("memory", settings={"segment.bytes": str(64 << 20)})
    found: list[dict[str, Any]] = []

    def measure() -> None:
        job = "memory" if what == "records" else "memory-of-jobs"
        found.append(in_a_process(job, tmp_path / "store", few, many))

    benchmark.pedantic(measure, rounds=1)
    (said,) = found
    assert said["records"] == many
    before, after = said["kib"][str(few)], said["kib"][str(many)]
    note(
        benchmark,
        f"memory from {few:,} {what} to {many:,} ({before:,} KiB, then {after:,})",
        sync=NOT_SYNCED,
        unit="KiB more",
        ours={"library": "logstore", "best": after - before, "median": after - before, "asked": 1024},
    )
