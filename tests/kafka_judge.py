"""Let a real Kafka broker judge what logstore writes, and logstore what a killed broker left (`make kafka-judge`).

    python tests/kafka_judge.py [--work DIR] [--keep]

A fresh broker gets an empty topic for each directory, is stopped, and receives our files in place of its own. It is
started twice: once without a clean-shutdown mark, so that it checks every batch and makes indexes and producer state
anew, and once with it, so that it trusts our indexes, snapshots and epochs. Each time a consumer reads everything, in
both isolation levels, and has to get exactly what was appended. Then the other way round: the directories that a broker
left when it was killed, recovered by us, have to give what Kafka itself served after its own recovery.

Some of the directories are compacted by us before. And a log is cleaned in turn by Kafka's cleaner and by ours, more
being written in between: every consumer has to find the newest value of each key. Last come a whole store, with what
groups have committed (`kafka_judge_store`), and one with transactions (`kafka_judge_transactions`).

Needs Java 17, Kafka's jars in $KAFKA_DIST (fixtures/make/get_kafka.sh) and the package confluent-kafka.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "fixtures" / "make"), str(REPOSITORY / "tests")]

from helpers.fixtures import consumer_views  # noqa: E402
from kafka_judge_store import judge_store, replace_files  # noqa: E402
from kafka_judge_transactions import judge_transactions  # noqa: E402

from logstore.cleaner import Cleaner  # noqa: E402
from logstore.config import LogConfig  # noqa: E402
from logstore.inspect import (  # noqa: E402
    DumpOptions,
    Isolation,
    PartitionFiles,
    Selection,
    context_around,
    resolve,
    select_partition,
)
from logstore.log import Log  # noqa: E402
from logstore.records import BatchOptions, Codec, Record, encode_batch  # noqa: E402

KAFKA_VERSION = "4.1.1"
T0 = 1_700_000_000_000
CONFIG = LogConfig(message_timestamp_after_max_ms=2**63 - 1, index_interval_bytes=512)
_COMPLAINT = re.compile(r"\] (WARN|ERROR|FATAL) |orrupt")  # what a broker says when it drops or doubts something
_TRUSTED = (".kafka_cleanshutdown", "recovery-point-offset-checkpoint")
_FORGOTTEN = ("replication-offset-checkpoint", "log-start-offset-checkpoint")


@dataclass
class Made:
    """A partition directory of ours, and what consumers of each isolation level have to get from it."""

    path: Path
    appended: list[tuple[Any, ...]] | None = None
    """Keys, values, timestamps and headers as they were handed in, where all of them have to be there."""
    committed: list[Record] = field(default_factory=list)
    uncommitted: list[Record] = field(default_factory=list)

    @property
    def topic(self) -> str:
        return self.path.name.rpartition("-")[0]


def _visible(data: Any) -> list[Record]:
    from logstore.records import iter_batches

    return [r for batch in iter_batches(data) if not batch.is_control for r in batch.records()]


def _committed(path: Path) -> list[Record]:
    target = resolve(path)
    assert isinstance(target, PartitionFiles)
    options = DumpOptions(isolation=Isolation.READ_COMMITTED)
    found: list[Record] = []
    for one in select_partition(target, context_around(path), options):
        assert isinstance(one, Selection), one
        found += [record for piece in one.record_pieces() for record in piece]
    return found


def records(count: int, seed: int) -> list[tuple[Any, ...]]:
    """Null and empty keys and values, headers, binary, timestamps out of order."""
    chance = random.Random(seed)
    made = []
    for i in range(count):
        key = [None, b"", b"k%d" % (i % 17), chance.randbytes(9)][i % 4]
        value = [b"v%d" % i, None, b"", chance.randbytes(chance.randrange(1, 300)), b"x" * 90][i % 5]
        headers = [(), (("trace", b"t%d" % i),), (("a", None), ("a", b""))][i % 3]
        made.append((key, value, T0 + i * 1000 - (chance.randrange(60_000) if i % 7 == 0 else 0), headers))
    return made


# ---------------------------------------------------------------- what we write


def codec(codec: Codec) -> Callable[[Path], Made]:
    def make(path: Path) -> Made:
        with Log.open(path, CONFIG) as log:
            for n in range(20):
                log.append(records(25, n), codec=codec)
        return Made(path, [one for n in range(20) for one in records(25, n)])

    return make


def many_segments(path: Path) -> Made:
    config = LogConfig(segment_bytes=8192, index_interval_bytes=512, message_timestamp_after_max_ms=2**63 - 1)
    with Log.open(path, config) as log:
        for n in range(150):
            log.append(records(7, n), codec=list(Codec)[n % 5])
    return Made(path, [one for n in range(150) for one in records(7, n)])


def transactions(path: Path) -> Made:
    """Interleaved producers, aborts, commits, plain records between, transactions open at the end."""
    config = LogConfig(segment_bytes=4096, index_interval_bytes=512, message_timestamp_after_max_ms=2**63 - 1)
    chance = random.Random(5)
    with Log.open(path, config) as log:
        sequences = {11: 0, 12: 0, 13: 0}
        for n in range(80):
            producer = 11 + n % 3
            batch = records(chance.randrange(1, 6), n)
            options = BatchOptions(
                producer_id=producer, producer_epoch=0, base_sequence=sequences[producer], is_transactional=True
            )
            log.append_batch(encode_batch(batch, options=options))
            sequences[producer] += len(batch)
            if n % 4 == 3:
                log.end_transaction(producer, 0, commit=chance.random() < 0.5)
            if n % 9 == 0:
                log.append(records(2, n))
    return Made(path)


def idempotent(path: Path) -> Made:
    with Log.open(path, CONFIG) as log:
        sequence = 0
        for n in range(30):
            batch = records(5, n)
            options = BatchOptions(producer_id=7, producer_epoch=3, base_sequence=sequence)
            data = bytes(encode_batch(batch, options=options))
            assert not log.append_batch(data).is_duplicate
            assert log.append_batch(data).is_duplicate
            sequence += 5
    return Made(path, [one for n in range(30) for one in records(5, n)])


def append_time(path: Path) -> Made:
    with Log.open(path, LogConfig(message_timestamp_type="LogAppendTime")) as log:
        for n in range(10):
            log.append(records(10, n), codec=list(Codec)[n % 5])
    return Made(path)


def truncated(path: Path) -> Made:
    config = LogConfig(segment_bytes=8192, index_interval_bytes=512, message_timestamp_after_max_ms=2**63 - 1)
    with Log.open(path, config) as log:
        for n in range(60):
            log.append(records(7, n))
        log.append_epoch(1, log.log_end_offset)
        for n in range(60):
            log.append(records(7, n))
        log.truncate_to(301)
        for n in range(10):
            log.append(records(3, n), codec=Codec.ZSTD)
    kept = [one for n in range(43) for one in records(7, n)]  # 301 records, as it happens whole batches
    return Made(path, kept + [one for n in range(10) for one in records(3, n)])


def followed(path: Path) -> Made:
    """As a follower, with gaps between the batches and epochs of several leaders."""
    with Log.open(path, CONFIG) as log:
        offset = 0
        for n in range(40):
            options = BatchOptions(leader_epoch=n // 20)
            log.append_as_follower(encode_batch(records(4, n), base_offset=offset, options=options))
            offset += 4 + n % 3
    return Made(path, [one for n in range(40) for one in records(4, n)])


def never_closed(path: Path) -> Made:
    """Written by a process that is killed, with half a batch behind the last whole one."""
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import kafka_judge as j, os, signal\n"
        "log = j.Log.open(sys.argv[1], j.LogConfig(segment_bytes=8192, message_timestamp_after_max_ms=2**63 - 1))\n"
        "for n in range(40): log.append(j.records(7, n))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), str(REPOSITORY / "tests")], check=False)
    assert done.returncode == -signal.SIGKILL
    last = max(path.glob("*.log"))
    with last.open("ab") as file:
        file.write(encode_batch(records(5, 1))[:70])
    return Made(path, [one for n in range(40) for one in records(7, n)])


def recovered(path: Path) -> Made:
    """The same, opened again by us and gone on with."""
    before = never_closed(path).appended
    assert before is not None
    with Log.open(path, CONFIG) as log:
        assert log.recovered is not None and log.recovered.kept_aside
        assert log.log_end_offset == 280
        log.append(records(9, 3))
    return Made(path, before + records(9, 3))


def gone_on_with(path: Path) -> Made:
    """A directory that Kafka wrote, and we appended to."""
    source = REPOSITORY / "fixtures" / "kafka-4.1.1" / "clean" / "txn-0"
    shutil.copytree(source, path)
    (path / "partition.metadata").unlink()
    with Log.open(path, CONFIG) as log:
        before = log.log_end_offset
        assert log.append(records(9, 3), codec=Codec.LZ4).first_offset == before
    return Made(path)


def compacted(path: Path) -> Made:
    """Transactions, codecs, tombstones and producers over many segments, cleaned twice, the second time much later."""
    config = LogConfig(
        segment_bytes=4096, index_interval_bytes=512, message_timestamp_after_max_ms=2**63 - 1,
        cleanup_policy=frozenset({"compact"}), file_delete_delay_ms=0,
    )  # fmt: skip
    chance = random.Random(11)
    with Log.open(path, config) as log:
        sequences = {21: 0, 22: 0}
        for n in range(160):
            rows = [(b"k%d" % chance.randrange(60), None if chance.random() < 0.2 else b"v%d" % n) for _ in range(5)]
            if n % 3:
                log.append(rows, codec=list(Codec)[n % 5], timestamp=T0 + n)
            else:
                producer = 21 + n % 2
                options = BatchOptions(
                    producer_id=producer, producer_epoch=0, base_sequence=sequences[producer], is_transactional=True
                )
                log.append_batch(encode_batch(rows, timestamp=T0 + n, options=options))
                sequences[producer] += len(rows)
                log.end_transaction(producer, 0, commit=chance.random() < 0.6)
            if n == 120:
                Cleaner().clean_fully(log, now_ms=T0, verifies=True)
        log.roll()
        Cleaner().clean_fully(log, now_ms=T0 + 2 * config.delete_retention_ms, verifies=True)
        log.append([(b"k1", b"last")], timestamp=T0 + 999)
    return Made(path)


MAKERS: dict[str, Callable[[Path], Made]] = {
    "compacted": compacted,
    **{f"codec-{one.label}": codec(one) for one in Codec},
    "many-segments": many_segments,
    "transactions": transactions,
    "idempotent": idempotent,
    "append-time": append_time,
    "truncated": truncated,
    "followed": followed,
    "never-closed": never_closed,
    "recovered": recovered,
    "gone-on-with": gone_on_with,
}


# ---------------------------------------------------------------- the judge


def judge(made: list[Made], work: Path, *, trusting: bool) -> list[str]:
    """What a broker, and a consumer of it, find wrong with our directories."""
    from broker import Broker

    properties = {
        "log.retention.ms": -1, "log.cleaner.enable": "false", "log.retention.check.interval.ms": 3_600_000,
        "producer.id.expiration.ms": 2_000_000_000,
    }  # fmt: skip
    port = 19392 if trusting else 19492
    broker = Broker(KAFKA_VERSION, work / ("trusting" if trusting else "checking"), port=port, props=properties)
    try:
        return _judge_with(broker, made, trusting=trusting)
    finally:
        broker.end()


def _judge_with(broker: Any, made: list[Made], *, trusting: bool) -> list[str]:
    from content import consume, create

    broker.start()
    for one in made:
        create(broker, one.topic, max__message__bytes=10_485_760)
    broker.stop()
    for one in made:
        replace_files(one.path, broker.data / one.path.name)
    for name in _FORGOTTEN if trusting else (*_TRUSTED, *_FORGOTTEN):
        (broker.data / name).unlink(missing_ok=True)
    (broker.home / "log").write_text("")
    broker.start()
    problems = []
    for one in made:
        for isolation, wanted in (("read_uncommitted", one.uncommitted), ("read_committed", one.committed)):
            found = consume(broker, one.topic, isolation=isolation)["records"]
            if [_shown(record) for record in wanted] != [_told(row) for row in found]:
                problems.append(f"{one.topic}: {isolation} gives {len(found)} records, not the {len(wanted)} written")
    broker.stop()
    said = (broker.home / "log").read_text(errors="replace").splitlines()
    whole = [one.path.name for one in made if one.topic not in TORN]
    complaints = [line for line in said if _COMPLAINT.search(line) and any(name in line for name in whole)]
    return problems + [f"the broker: {line[:300]}" for line in complaints]


# The broker has to cut what these end in.
TORN = {"never-closed"}


def _shown(record: Record) -> tuple[Any, ...]:
    return record.offset, record.timestamp, record.key, record.value, tuple(record.headers)


def _told(row: dict[str, Any]) -> tuple[Any, ...]:
    headers = tuple((name, _bytes(value)) for name, value in row["headers"])
    return row["offset"], row["timestamp"], _bytes(row["key"]), _bytes(row["value"]), headers


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def killed(fixtures: Path, work: Path) -> Iterator[tuple[str, bool]]:
    """Each directory of a killed broker, and whether it gives after our recovery what Kafka gave after its own."""
    copies: dict[Path, Path] = {}
    for view in consumer_views(fixtures):
        if "after-kill" not in view.file.parent.name:
            continue
        source = view.partition.parent
        if source not in copies:
            copies[source] = work / f"killed-{uuid.uuid4().hex[:8]}"
            shutil.copytree(source, copies[source])
        with Log.open(copies[source] / view.partition.name, CONFIG) as log:
            ours = [_shown(r) for r in log.records()]
        yield f"{source.parent.name}/{view.partition.name}", ours == [_told(row) for row in view.records]


# ---------------------------------------------------------------- cleaners in turn


def clean_in_turn(work: Path) -> list[str]:
    """Let Kafka's cleaner and ours clean one log in turn; what a consumer then misses of the newest values."""
    from broker import Broker
    from content import alter, create

    home, topic, problems = work / "in-turn", "turns", []
    broker = Broker(KAFKA_VERSION, home, port=19692, props={"log.retention.ms": -1, "log.cleaner.backoff.ms": 200})
    newest: dict[bytes, bytes | None] = {}
    try:
        broker.start()
        create(
            broker, topic, cleanup__policy="compact", min__cleanable__dirty__ratio=0.01,
            internal__segment__bytes=16_384, delete__retention__ms=86_400_000,
        )  # fmt: skip
        for turn in range(4):
            alter(broker, topic, min__compaction__lag__ms=0 if turn % 2 else 2**62)  # ours in the even turns
            _write_turn(broker, topic, turn, newest)
            if turn % 2:
                _wait_for_cleaner(broker.data / "cleaner-offset-checkpoint", topic, 3000 * turn + 1500)
            broker.stop()
            if not turn % 2:
                done = subprocess.run(
                    [str(Path(sys.executable).with_name("logstore")), "compact", str(broker.data / f"{topic}-0")],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                print(f"  {done.stdout.splitlines()[0] if done.stdout else done.stderr}")
                problems += [] if done.returncode == 0 else [f"turn {turn}: {done.stderr}"]
            (broker.home / "log").write_text("")
            broker.start()
            problems += _missed(broker, topic, turn, newest)
        broker.stop()
    finally:
        broker.end()
    return problems


def _write_turn(broker: Any, topic: str, turn: int, newest: dict[bytes, bytes | None]) -> None:
    from content import producer, send

    chance = random.Random(turn)
    rows = []
    for number in range(3000):
        key = b"key-%d" % chance.randrange(400)
        value = None if chance.random() < 0.1 else b"%d-%d-" % (turn, number) + chance.randbytes(40)
        rows.append((key, value, T0 + number, None))
        newest[key] = rows[-1][1]
    codec = ["none", "lz4", "zstd", "gzip"][turn]
    send(producer(broker, compression_type=codec), topic, rows, flush_every=100)  # a batch has to fit a segment


def _wait_for_cleaner(checkpoint: Path, topic: str, offset: int) -> None:
    """Until Kafka's cleaner has come beyond an offset."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = re.search(rf"^{topic} 0 (\d+)$", checkpoint.read_text(), re.MULTILINE) if checkpoint.exists() else None
        if found is not None and int(found[1]) > offset:
            return
        time.sleep(0.2)
    raise TimeoutError(f"Kafka's cleaner has not cleaned {topic}")


def _missed(broker: Any, topic: str, turn: int, newest: dict[bytes, bytes | None]) -> list[str]:
    from content import consume

    found: dict[bytes | None, bytes | None] = {}
    for row in consume(broker, topic)["records"]:
        found[_bytes(row["key"])] = _bytes(row["value"])
    wrong = [key for key, value in newest.items() if found.get(key) != value]
    return [f"turn {turn}: {len(wrong)} keys have another value, as {wrong[:3]}"] if wrong else []


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--work", type=Path, help="where directories and brokers are put (default: a temporary one)")
    arguments.add_argument("--fixtures", type=Path, default=REPOSITORY / "fixtures", help="what brokers wrote")
    options = arguments.parse_args()
    if not (Path(os.environ.get("KAFKA_DIST", "")) / KAFKA_VERSION / "libs").is_dir():
        print("KAFKA_DIST has not Kafka's jars; fixtures/make/get_kafka.sh fetches them", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="kafka-judge-", ignore_cleanup_errors=True) as temporary:
        return _run(options.work or Path(temporary), options.fixtures)


def _run(work: Path, fixtures: Path) -> int:
    failures = 0
    made = []
    for name, make in MAKERS.items():
        one = make(work / "ours" / f"{name}-0")
        copy = work / "read" / one.path.name
        shutil.copytree(one.path, copy)
        with Log.open(copy, CONFIG) as log:
            one.uncommitted = [r for data in log.slices() for r in _visible(data)]
        one.committed = _committed(copy)
        ours = [(r.key, r.value, r.timestamp, r.headers) for r in one.uncommitted]
        if one.appended is not None and ours != one.appended:
            print(f"{name}: {len(ours)} records are read, {len(one.appended)} were appended, or others")
            failures += 1
        made.append(one)
    for trusting in (False, True):
        how = "indexes trusted" if trusting else "indexes made anew"
        judged = [one for one in made if not (trusting and one.topic in TORN)]
        problems = judge(judged, work, trusting=trusting)
        total = sum(len(one.uncommitted) for one in judged)
        print(f"Kafka {KAFKA_VERSION}, {how}: {len(judged)} directories, {total} records, {len(problems)} problems")
        for problem in problems:
            print(f"  {problem}")
        failures += len(problems)
    for name, is_right in killed(fixtures, work):
        print(f"recovered by us, {name}: {'as Kafka served it' if is_right else 'DIFFERENT from what Kafka served'}")
        failures += not is_right
    problems = clean_in_turn(work)
    print(f"cleaned in turn by logstore and by Kafka's cleaner: {len(problems)} problems")
    for problem in problems:
        print(f"  {problem}")
    failures += len(problems)
    for what, problems in (
        ("a store, its topics and committed offsets", judge_store(work, KAFKA_VERSION, records, _told, _shown)),
        ("transactions of a store, finished by a broker, and back", judge_transactions(work, KAFKA_VERSION)),
    ):
        print(f"{what}: {len(problems)} problems")
        for problem in problems:
            print(f"  {problem}")
        failures += len(problems)
    print("passed" if not failures else f"{failures} problems")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
