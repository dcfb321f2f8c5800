"""Time whole processes, ours and Kafka's own dump tool side by side.

    python benchmarks/bench_kafka.py [--rounds N] [--mib N] [--work DIR]

Each pair of commands is run once to warm the page cache, then in turn, N times each, with its output going to a file.
The table gives best and median of the wall time. Kafka's tool is started as its own launcher starts it, without the
shell script around it. It needs Java 17; its jars are read from $KAFKA_DIST, and fetched there by Maven when absent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from make_segment import make_segment
from workload import BATCH_BYTES, HEADER_SIZE

REPOSITORY = Path(__file__).resolve().parent.parent
KAFKA_VERSION = "4.1.1"
TINY = REPOSITORY / "fixtures" / "kafka-4.1.1" / "clean" / "plain-0" / "00000000000000000000.log"
TINY_RECORDS = 240
LOGSTORE = str(Path(sys.executable).with_name("logstore"))

# What kafka-dump-log.sh hands to Java by default.
JAVA_OPTIONS = (
    "-Xmx256M",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:MaxInlineLevel=15",
    "-Djava.awt.headless=true",
)

Proof = Callable[[Path], bool]
"""Whether a file of output is what the command had to print."""


@dataclass(slots=True)
class Timed:
    """One command, what proves that it did its work, and the wall time of each of its runs, in seconds."""

    name: str
    command: Sequence[str]
    proof: Proof
    seconds: list[float] = field(default_factory=list)

    def run(self, output: Path) -> float:
        """Run it once; returns how long that took. The process must end well."""
        with output.open("wb") as sink:
            start = time.perf_counter()
            subprocess.run(self.command, stdout=sink, stdin=subprocess.DEVNULL, check=True)
            return time.perf_counter() - start

    def cells(self) -> str:
        return f"{show(min(self.seconds))} / {show(median(self.seconds))}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Time logstore's commands beside Kafka's own dump tool.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed runs of each (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=256, metavar="N", help="size of the segment (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "bench", metavar="DIR")
    arguments = parser.parse_args()
    stock = stock_tool()
    segment = segment_of(arguments.work / f"{arguments.mib}MiB", arguments.mib * 1024 * 1024)
    output = arguments.work / "output"
    print(f"Kafka {KAFKA_VERSION}, Python {sys.version.split()[0]}, {os.cpu_count()} processors, ", end="")
    print(f"segment of {segment.stat().st_size:,} bytes; best / median of {arguments.rounds} runs\n")
    compare_with_stock(stock, segment, output, arguments.rounds)
    print()
    compare_start(output, max(20, arguments.rounds))
    return 0


def compare_with_stock(stock: Sequence[str], segment: Path, output: Path, rounds: int) -> None:
    deep = ("--deep-iteration",)
    deep_with_data = ("--deep-iteration", "--print-data-log")
    print("| what | stock tool | logstore | ratio, best | ratio, median | asked |")
    print("|---|---|---|---|---|---|")
    batches, records = counts(segment)
    for what, path, stock_options, options, count, asked in (
        ("batch headers", segment, (), ("--batches",), batches, 5),
        ("count of records", segment, deep, ("--count",), records, 10),
        ("records with keys and values", segment, deep_with_data, ("--json",), records, 10),
        ("records of a tiny file", TINY, deep_with_data, ("--json",), TINY_RECORDS, 4),
    ):
        theirs = Timed("stock tool", [*stock, *stock_options, "--files", str(path)], lines(count))
        proof = prints(count) if "--count" in options else lines(count)
        ours = Timed("logstore", [LOGSTORE, "dump", *options, str(path)], proof)
        run_interleaved([theirs, ours], output, rounds)
        best = min(theirs.seconds) / min(ours.seconds)
        middle = median(theirs.seconds) / median(ours.seconds)
        shown = f"{what} (`{' '.join(stock_options) or 'no options'}`, `dump {' '.join(options)}`)"
        print(f"| {shown} | {theirs.cells()} | {ours.cells()} | {best:.1f}x | {middle:.1f}x | ≥ {asked}x |", flush=True)


def compare_start(output: Path, rounds: int) -> None:
    bare = Timed("bare interpreter", [sys.executable, "-c", "pass"], lines(0))
    imported = Timed("`import logstore`", [sys.executable, "-c", "import logstore"], lines(0))
    helped = Timed("`logstore --help`", [LOGSTORE, "--help"], lines(1))
    run_interleaved([bare, imported, helped], output, rounds)
    print("| start | best / median | above the bare interpreter, best | asked |")
    print("|---|---|---|---|")
    for timed, asked in ((bare, ""), (imported, "≤ 40 ms above"), (helped, "≤ 120 ms")):
        print(f"| {timed.name} | {timed.cells()} | {show(min(timed.seconds) - min(bare.seconds))} | {asked} |")


def run_interleaved(commands: Sequence[Timed], output: Path, rounds: int) -> None:
    """Run each once untimed and look at what it printed, then all in turn, `rounds` times."""
    for timed in commands:
        timed.run(output)
        if not timed.proof(output):
            sys.exit(f"{' '.join(timed.command)} did not print what it had to; see {output}")
    for _ in range(rounds):
        for timed in commands:
            output.unlink()
            timed.seconds.append(timed.run(output))
    output.unlink()


def counts(segment: Path) -> tuple[int, int]:
    """How many batches and records make_segment wrote: its batches are all of one size and one count."""
    with segment.open("rb") as file:
        header = file.read(HEADER_SIZE)
    batches = segment.stat().st_size // (12 + int.from_bytes(header[8:12], "big"))
    return batches, batches * int.from_bytes(header[57:61], "big")


def lines(count: int) -> Proof:
    """The output has at least `count` lines; a tool may add some of its own."""

    def proof(output: Path) -> bool:
        with output.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) >= count

    return proof


def prints(number: int) -> Proof:
    """The output is `number`, nothing else."""
    return lambda output: output.read_text().strip() == str(number)


def segment_of(directory: Path, segment_bytes: int) -> Path:
    """The segment to read, made on first use and read once, so that it lies in the page cache."""
    path = directory / "bench-0" / "00000000000000000000.log"
    if not path.exists():
        print(f"making {path}", file=sys.stderr)
        make_segment(directory, segment_bytes, BATCH_BYTES["16KiB"])
    path.read_bytes()
    return path


def stock_tool() -> list[str]:
    """The command line of Kafka's dump tool without arguments; fetches its jars when they are absent."""
    distribution = Path(os.environ.get("KAFKA_DIST", REPOSITORY / "build" / "kafka")).resolve()
    libraries = distribution / KAFKA_VERSION / "libs"
    make = REPOSITORY / "fixtures" / "make"
    for program in ["java"] if libraries.is_dir() else ["java", "mvn"]:
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; bench_kafka.py needs Java 17, and Maven to fetch Kafka's jars")
    if not libraries.is_dir():
        print(f"fetching Kafka {KAFKA_VERSION} into {distribution}", file=sys.stderr)
        subprocess.run([make / "get_kafka.sh", KAFKA_VERSION, distribution], check=True, stdout=sys.stderr)
    logging = f"-Dlog4j2.configurationFile={make / 'log4j2.xml'}"
    return ["java", *JAVA_OPTIONS, logging, "-cp", f"{libraries}/*", "kafka.tools.DumpLogSegments"]


def show(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
