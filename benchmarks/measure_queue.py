"""Use a store's queues in a process of its own, and print as JSON what that took.

    python benchmarks/measure_queue.py append DIRECTORY TOPIC BATCHES OWN PARTITIONS
    python benchmarks/measure_queue.py send DIRECTORY TOPIC RECORDS OWN PARTITIONS
    python benchmarks/measure_queue.py pace DIRECTORY TOPIC RECORDS PER_SECOND WAY
    python benchmarks/measure_queue.py receive DIRECTORY TOPIC RECORDS
    python benchmarks/measure_queue.py redis-pace SOCKET RECORDS PER_SECOND
    python benchmarks/measure_queue.py redis-receive SOCKET RECORDS
    python benchmarks/measure_queue.py start WHAT DIRECTORY
    python benchmarks/measure_queue.py memory DIRECTORY RECORDS RECORDS
    python benchmarks/measure_queue.py memory-of-jobs DIRECTORY JOBS JOBS

All but `start` and `memory` say "ready" first, and begin at a line from standard input. OWN is the number of the
partition that the process writes to, -1 for all in turn, -2 for what the keys choose. `start` imports what nothing has
imported before.
"""

from __future__ import annotations

import json
import sys
import time

TYPE_CHECKING = False  # `typing` would be imported before what `start` times
if TYPE_CHECKING:
    from collections.abc import Callable

VALUE = b"v" * 100


def ready() -> None:
    """Wait for the others."""
    print("ready", flush=True)
    sys.stdin.readline()


def append(directory: str, topic: str, batches: str, own: str, partitions: str) -> None:
    """Append batches of 16 KiB to one partition, or to all in turn; how many records that were."""
    from workload import BATCH_BYTES, recent_pairs, records_per_batch

    import logstore

    batch = recent_pairs(0, records_per_batch(BATCH_BYTES["16KiB"]))
    numbers = range(int(partitions)) if own == "-1" else [int(own)]
    with logstore.open(directory, mode="shared") as store:
        appends = [store.partition(topic, number).append for number in numbers]
        for one in appends:
            one(batch, durability="os")  # opens it
        ready()
        for number in range(int(batches)):
            appends[number % len(appends)](batch, durability="os")
        print(json.dumps({"records": (int(batches) + len(appends)) * len(batch)}), flush=True)


def send(directory: str, topic: str, records: str, own: str, partitions: str) -> None:
    """The same through a producer, one record a call: to one partition, to all in turn (-1), or by key (-2)."""
    from workload import recent_pairs

    import logstore

    some = recent_pairs(0, 1000)
    everything = list(range(int(partitions)))
    numbers: list[int | None] = [None] if own == "-2" else list(everything) if own == "-1" else [int(own)]
    opened = everything if numbers == [None] else numbers
    with logstore.open(directory, mode="shared") as store, logstore.Producer(store, durability="os") as producer:
        for number in opened:
            producer.send(topic, VALUE, partition=number).result()  # opens it
        ready()
        for call in range(int(records) // len(some)):
            partition = numbers[call % len(numbers)]
            for key, value in some:
                producer.send(topic, value, key, partition=partition)
        producer.flush()
        print(json.dumps({"records": len(opened) + int(records) // len(some) * len(some)}), flush=True)


def paced(records: int, per_second: int, send_one: Callable[[bytes], object]) -> float:
    """Call at a steady rate with the moment in the value; how long it took in all."""
    start = time.monotonic_ns()
    for number in range(records):
        due = start + number * 1_000_000_000 // per_second
        left = due - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)
        send_one(b"%020d" % time.monotonic_ns() + VALUE[20:])
    return (time.monotonic_ns() - start) / 1e9


def pace(directory: str, topic: str, records: str, per_second: str, way: str) -> None:
    """Send at a steady rate: each flushed at once, or after a linger of 1 ms."""
    import logstore

    linger = 0.0 if way == "flush" else 1.0
    with (
        logstore.open(directory, mode="shared") as store,
        logstore.Producer(store, durability="os", linger_ms=linger) as producer,
    ):

        def flushed(value: bytes) -> None:
            producer.send(topic, value)
            producer.flush()

        def lingering(value: bytes) -> None:
            producer.send(topic, value)

        ready()
        seconds = paced(int(records), int(per_second), flushed if way == "flush" else lingering)
    print(json.dumps({"seconds": seconds}), flush=True)


def receive(directory: str, topic: str, records: str) -> None:
    """Poll until all is there: how long each record took, sorted, in ms."""
    import logstore

    late: list[int] = []
    with logstore.open(directory, mode="shared") as store, logstore.Consumer(store, topic) as consumer:
        ready()
        while len(late) < int(records) and (messages := consumer.poll(10)):
            now = time.monotonic_ns()
            late += [now - int(one.value[:20]) for one in messages]
    said(late)


def redis_pace(socket: str, records: str, per_second: str) -> None:
    """As `pace`, to a Redis stream."""
    import redis

    client = redis.Redis(unix_socket_path=socket)
    ready()
    seconds = paced(int(records), int(per_second), lambda value: client.xadd("latency", {b"v": value}))
    print(json.dumps({"seconds": seconds}), flush=True)


def redis_receive(socket: str, records: str) -> None:
    """As `receive`, from a Redis stream."""
    import redis

    client, last, late = redis.Redis(unix_socket_path=socket), b"0", []
    ready()
    while len(late) < int(records) and (found := client.xread({"latency": last}, count=500, block=10_000)):
        now = time.monotonic_ns()
        ((_, entries),) = found.items() if isinstance(found, dict) else found
        entries = entries[0] if isinstance(entries[0], list) else entries
        last = entries[-1][0]
        late += [now - int(fields[b"v"][:20]) for _, fields in entries]
    said(late)


def said(late: list[int]) -> None:
    late.sort()
    print(json.dumps({"records": len(late), "p50": at(late, 50), "p99": at(late, 99), "most": late[-1] / 1e6}))


def at(values: list[int], percent: int) -> float:
    return values[min(len(values) * percent // 100, len(values) - 1)] / 1e6


def start(what: str, directory: str) -> None:
    """Import and open; how long both took together, and the first record after it, in ms."""
    begun = time.perf_counter()
    if what in ("shared", "exclusive"):
        import logstore

        with logstore.open(directory, mode=what) as store:
            opened = time.perf_counter()
            with logstore.Consumer(store, "topic-0") as consumer:
                found = len(consumer.poll())
            read = time.perf_counter()
    elif what == "queue":
        import logstore
        from logstore.queue.work_queue import WorkQueue

        with logstore.open(directory, mode="exclusive") as store, WorkQueue(store, "jobs", durability="os") as queue:
            opened = time.perf_counter()
            found = len(queue.get(0, n=1))
            read = time.perf_counter()
    elif what == "persist-queue":
        import persistqueue

        queue = persistqueue.SQLiteAckQueue(directory)
        opened = time.perf_counter()
        found = 1 if queue.get() else 0
        read = time.perf_counter()
    else:
        assert what == "sqlite"
        import sqlite3

        connection = sqlite3.connect(directory + "/jobs.db")
        connection.execute("PRAGMA journal_mode = WAL")
        opened = time.perf_counter()
        (found,) = connection.execute("SELECT count(*) FROM (SELECT * FROM jobs LIMIT 1)").fetchone()
        read = time.perf_counter()
    print(json.dumps({"open_ms": (opened - begun) * 1e3, "read_ms": (read - begun) * 1e3, "found": found}))


def memory(directory: str, *counts: str) -> None:
    """Send and poll in turn; the anonymous memory after so many records, in KiB."""
    import logstore

    grown: dict[int, int] = {}
    done = 0
    with (
        logstore.open(directory, mode="exclusive") as store,
        logstore.Producer(store, durability="os") as producer,
        logstore.Consumer(store, "memory", group="readers") as consumer,
    ):
        for count in map(int, counts):
            while done < count:
                share = min(100_000, count - done)
                for _ in range(share):
                    producer.send("memory", VALUE)
                producer.flush()
                taken = 0
                while messages := consumer.poll():
                    taken += len(messages)
                del messages
                assert taken == share
                done += share
            grown[count] = anonymous_kib()
    print(json.dumps({"kib": grown, "records": done}))


def memory_of_jobs(directory: str, *counts: str) -> None:
    """Put, get and acknowledge; the anonymous memory after so many jobs, in KiB."""
    import logstore
    from logstore.queue.work_queue import WorkQueue

    grown: dict[int, int] = {}
    done = 0
    with (
        logstore.open(directory, mode="exclusive") as store,
        WorkQueue(store, "jobs", durability="os", retention="consumed") as queue,
    ):
        for count in map(int, counts):
            while done < count:
                queue.put(VALUE)
                queue.ack(queue.get())
                done += 1
            grown[count] = anonymous_kib()
        acknowledged = queue.stats().acknowledged
    print(json.dumps({"kib": grown, "records": acknowledged}))


def anonymous_kib() -> int:
    """Pages of this process that no file backs."""
    import gc

    gc.collect()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


JOBS = {
    "append": append,
    "send": send,
    "pace": pace,
    "receive": receive,
    "redis-pace": redis_pace,
    "redis-receive": redis_receive,
    "start": start,
    "memory": memory,
    "memory-of-jobs": memory_of_jobs,
}

if __name__ == "__main__":
    JOBS[sys.argv[1]](*sys.argv[2:])
