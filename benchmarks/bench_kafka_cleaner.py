"""Time `logstore compact` beside the cleaner of a real Kafka broker, on the same directory.

    python benchmarks/bench_kafka_cleaner.py [--records N] [--keys N] [--codecs none,lz4,zstd] [--rounds N] [--work DIR]

One partition of records with 12-byte keys and 100-byte values in batches of 16 KiB, all of it dirty, sealed segments of
64 MiB. Kafka's figure is what its own log says of the round (map and rewrite, without its final sync); the broker gets
a compacted topic, is stopped, gets our files, and cleans them once it runs again. Ours is the time of the round as the
command says it, its syncs included, and the wall time of the whole process, without the verification pass and with it.
Everything lies in the page cache before. Needs Java 17 and Kafka's jars in $KAFKA_DIST, and the package
confluent-kafka.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "fixtures" / "make"))

from logstore.config import LogConfig  # noqa: E402
from logstore.log import Log  # noqa: E402
from logstore.records import Codec  # noqa: E402

KAFKA_VERSION = "4.1.1"
LOGSTORE = str(Path(sys.executable).with_name("logstore"))
SEGMENT_BYTES = 64 << 20
RECORDS_PER_BATCH = 130  # 16 KiB
TIMESTAMP = 1_700_000_000_000
PATIENCE_S = 600
_ROUND = re.compile(
    r"(?P<bytes>[\d,.]+) MB of log processed in (?P<seconds>[\d,.]+) seconds .*?"
    r"Indexed [\d,.]+ MB in (?P<map>[\d,.]+) seconds.*?Cleaned [\d,.]+ MB in (?P<rewrite>[\d,.]+) seconds",
    re.DOTALL,
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time logstore compact beside Kafka's log cleaner.")
    parser.add_argument("--records", type=int, default=4_400_000, help="default: %(default)s")
    parser.add_argument("--keys", type=int, default=1_000_000, help="different keys (default: %(default)s)")
    parser.add_argument("--codecs", default="none,lz4,zstd", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of ours (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "bench-cleaner", metavar="DIR")
    options = parser.parse_args()
    if not (Path(os.environ.get("KAFKA_DIST", "")) / KAFKA_VERSION / "libs").is_dir():
        sys.exit("KAFKA_DIST has not Kafka's jars; fixtures/make/get_kafka.sh fetches them")
    print("| codec | log | Kafka (map, rewrite) | our round | ratio | whole process | ratio | verified | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.codecs.split(","):
        codec = next(one for one in Codec if one.label == name)
        source = made(options.work / f"source-{name}", codec, options.records, options.keys)
        size = sum(path.stat().st_size for path in source.glob("*.log"))
        theirs = kafka_round(source, options.work / f"broker-{name}")
        bare, bare_left = ours(source, options.work / "ours", options.rounds, "--no-verify")
        verified, verified_left = ours(source, options.work / "ours", options.rounds)
        if bare_left != theirs["left"] or verified_left != theirs["left"]:
            sys.exit(f"Kafka left {theirs['left']} records, logstore {bare_left} and {verified_left}")
        print(
            f"| {name} | {size / 1e6:.0f} MB | {theirs['seconds']:.2f} s ({theirs['map']:.2f}, {theirs['rewrite']:.2f})"
            f" | {beside([one.rounds for one in bare], theirs['seconds'])}"
            f" | {beside([one.whole for one in bare], theirs['seconds'])}"
            f" | {beside([one.whole for one in verified], theirs['seconds'])} |",
            flush=True,
        )
    return 0


def beside(seconds: list[float], theirs: float) -> str:
    """The best and the middle of ours, and how many times as long theirs took as our best."""
    return f"{min(seconds):.2f} s / {median(seconds):.2f} s | {theirs / min(seconds):.1f}x"


def made(directory: Path, codec: Codec, records: int, keys: int) -> Path:
    """The partition to clean, made on first use."""
    place = directory / "bench-0"
    if not place.exists():
        shutil.rmtree(directory, ignore_errors=True)
        unfinished = directory / "unfinished-0"
        chance = random.Random(7)
        config = LogConfig(segment_bytes=SEGMENT_BYTES, message_timestamp_after_max_ms=2**63 - 1)
        with Log.open(unfinished, config) as log:
            left = records
            while left:
                count = min(RECORDS_PER_BATCH, left)
                batch = [(b"%012d" % chance.randrange(keys), value(chance)) for _ in range(count)]
                log.append(batch, codec=codec, timestamp=TIMESTAMP)
                left -= count
            log.roll()
        unfinished.rename(place)
    return place


WORDS = [b"alpha", b"bravo", b"charly", b"delta", b"echo", b"foxtrot", b"golf", b"hotel", b"india", b"juliet"]


def value(chance: random.Random) -> bytes:
    """100 bytes that compress about as well as small JSON does."""
    text = b'{"id":%010d,"a":"%s","b":"%s"' % (chance.randrange(10**10), chance.choice(WORDS), chance.choice(WORDS))
    return (text + b"-%016x" % chance.randrange(2**64)).ljust(99, b".") + b"}"


def kafka_round(source: Path, home: Path) -> dict[str, Any]:
    """What Kafka's cleaner says of one round over a copy of the partition, and how many records it has left."""
    from broker import Broker
    from content import create

    shutil.rmtree(home, ignore_errors=True)
    properties = {"log.cleaner.backoff.ms": 200, "log.cleaner.dedupe.buffer.size": 134_217_728, "log.retention.ms": -1}
    broker = Broker(KAFKA_VERSION, home, port=19592, props=properties)
    try:
        broker.start()
        create(broker, "bench", cleanup__policy="compact", segment__bytes=SEGMENT_BYTES)
        broker.stop()
        place = broker.data / "bench-0"
        for file in place.iterdir():
            if file.name != "partition.metadata":
                file.unlink()
        for file in source.iterdir():
            if not file.name.startswith(".") and file.name != "partition.metadata":
                shutil.copy2(file, place / file.name)
        for name in ("replication-offset-checkpoint", "cleaner-offset-checkpoint"):
            (broker.data / name).unlink(missing_ok=True)
        end = max(int(path.stem) for path in place.glob("*.log"))
        (broker.data / "recovery-point-offset-checkpoint").write_text(f"0\n1\nbench 0 {end}\n")
        warm(place)
        (home / "log").write_text("")
        broker.start()
        said = wait_for_round(home / "log", broker.data / "cleaner-offset-checkpoint")
        broker.stop()
        found = {name: float(text.replace(",", "")) for name, text in said.groupdict().items()}
        return {**found, "left": records_in(place)}
    finally:
        broker.end()


def wait_for_round(log: Path, checkpoint: Path) -> re.Match[str]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = _ROUND.search(log.read_text(errors="replace"))
        if found is not None and checkpoint.exists() and "bench 0" in checkpoint.read_text():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"no round of the cleaner is told of in {log}")


class Times(NamedTuple):
    """Seconds: of the rounds, as the command says, all their syncs in it; and of the whole process."""

    rounds: float
    whole: float


def ours(source: Path, home: Path, rounds: int, *options: str) -> tuple[list[Times], int]:
    """How long our command took on fresh copies, and how many records are left."""
    times = []
    for _ in range(rounds):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(source, home / "bench-0")
        os.sync()
        warm(home / "bench-0")
        start = time.perf_counter()
        command = [LOGSTORE, "compact", "-q", "--json", "--segment-bytes", str(SEGMENT_BYTES), *options]
        command.append(str(home / "bench-0"))
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        whole = time.perf_counter() - start
        (one,) = json.loads(done.stdout)["partitions"]
        times.append(Times(sum(part["map_seconds"] + part["rewrite_seconds"] for part in one["rounds"]), whole))
    return times, records_in(home / "bench-0")


def records_in(directory: Path) -> int:
    return int(subprocess.run([LOGSTORE, "dump", "--count", str(directory)], check=True, capture_output=True).stdout)


def warm(directory: Path) -> None:
    for file in directory.glob("*.log"):
        file.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
