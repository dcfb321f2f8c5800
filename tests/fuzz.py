"""Feeds changed files to all readers: no crash, no hang, no unbounded memory, no error but logstore's own.

    python tests/fuzz.py [--seed N] [--count N] [--processes N]
    python tests/fuzz.py --seed N --case N        one case again, in this process
    python tests/fuzz.py --reader NAME FILE       one reader on the bytes of a file

Each case has two seconds of processor time, after which its process is killed. The input of a case that failed is
written to a file. Exit 1 when any failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz_inputs import Case, make_case
from fuzz_readers import READERS, compare_kernels

from logstore.records import KERNEL_NAME

COUNT = 200_000
FORK = multiprocessing.get_context("fork")
CASE_SECONDS = 2.0
MEMORY_BYTES = 150 << 20
KINDS_MAX = 10
"""It ends when so many failures of different causes were seen."""
COMPARE_EVERY = 5
"""Every so many segments are given to both kernels; the plain one is slow."""


@dataclass(slots=True)
class Tally:
    """What some cases came to."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    grown: int = 0
    slowest: tuple[float, int] = (0.0, -1)

    def add(self, other: Tally) -> None:
        self.done += other.done
        self.refused += other.refused
        self.compared += other.compared
        self.grown = max(self.grown, other.grown)
        self.slowest = max(self.slowest, other.slowest)


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that failed, and how."""

    seed: int
    number: int
    what: str

    @property
    def kind(self) -> str:
        """What tells it from failures of another cause: the place it came from."""
        return "".join(self.what.splitlines(keepends=True)[-4:-1]) or self.what


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Feed changed files to all readers.")
    parser.add_argument("--seed", type=int, help="default: another one each time; it is printed")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--case", type=int, help="run this case of the seed alone")
    parser.add_argument("--reader", nargs=2, metavar=("NAME", "FILE"), help="run one reader on the bytes of a file")
    options = parser.parse_args(arguments)
    if options.reader:
        name, path = options.reader
        print("right" if READERS[name](Path(path).read_bytes()) else "refused")
        return 0
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    if options.case is not None:
        case = make_case(seed, options.case)
        print(f"{case.reader}: {case.data!r}")
        run_case(case, options.case, Tally())
        return 0
    return fuzz(seed, options.count, max(options.processes, 1))


def fuzz(seed: int, count: int, processes: int) -> int:
    """Run the cases in some processes and say what came of them; 1 when any failed."""
    print(f"seed {seed}, {count:,} cases, {processes} processes, kernel {KERNEL_NAME}", flush=True)
    start = time.monotonic()
    total, failures = run_all(seed, count, processes)
    seconds = time.monotonic() - start
    done = sum(total.done.values())
    print(f"{done:,} cases in {seconds:.1f} s, {done / seconds:,.0f} a second")
    for name, cases in sorted(total.done.items()):
        print(f"  {name:<10}{cases:>9,}, found wrong {100 * total.refused[name] / cases:3.0f} %")
    print(f"both kernels compared on {total.compared:,} segments")
    print(f"memory grew by at most {total.grown >> 20} MiB, the slowest case took {total.slowest[0]:.3f} s")
    kinds = Counter(failure.kind for failure in failures)
    for failure in {failure.kind: failure for failure in reversed(failures)}.values():
        print(report(failure, kinds[failure.kind]), file=sys.stderr)
    return 1 if failures else 0


def report(failure: Failure, times: int) -> str:
    """How it failed, how often that was seen, where its input lies, and how to run it again."""
    what = f"{failure.what}\nseen {times} times" if times > 1 else failure.what
    again = f"again: python tests/fuzz.py --seed {failure.seed} --case {failure.number}"
    try:
        case = make_case(failure.seed, failure.number)
    except Exception as error:  # noqa: BLE001  # the fuzzer's own fault; the other failures are still to be told
        return f"\ncase {failure.number} could not be made: {error!r}\n{again}"
    path = Path(tempfile.mkdtemp(prefix="logstore-fuzz-")) / f"{case.reader}-{failure.seed}-{failure.number}"
    path.write_bytes(case.data)
    return f"\ncase {failure.number} failed: {what}\n{again}\ninput: python tests/fuzz.py --reader {case.reader} {path}"


# ---------------------------------------------------------------- processes


@dataclass(frozen=True, slots=True)
class Worker:
    """A process and the case it is at."""

    process: Any
    at: Any


def run_all(seed: int, count: int, processes: int) -> tuple[Tally, list[Failure]]:
    """Share the cases between processes. One that dies is a failure of its case, and another goes on behind it.

    What a process did since it last said so is not counted then.
    """
    total, failures = Tally(), []
    workers = dict(start_worker(seed, range(number, count, processes)) for number in range(processes))
    while workers:
        for connection in multiprocessing.connection.wait(list(workers)):
            try:
                message = connection.recv()  # type: ignore[union-attr]
            except (EOFError, OSError):  # the process has ended
                worker = workers.pop(connection)
                worker.process.join()
                if worker.process.exitcode:
                    number = worker.at.value
                    failures.append(Failure(seed, number, cause_of_death(worker.process.exitcode)))
                    workers.update([start_worker(seed, range(number + processes, count, processes))])
                continue
            if isinstance(message, Failure):
                failures.append(message)
            else:
                total.add(message)
        if len({failure.kind for failure in failures}) >= KINDS_MAX:
            for worker in workers.values():
                worker.process.kill()
            break
    return total, failures


def start_worker(seed: int, numbers: range) -> tuple[Any, Worker]:
    receiver, sender = FORK.Pipe(duplex=False)
    at = FORK.Value("q", numbers.start, lock=False)
    process = FORK.Process(target=work, args=(seed, numbers, at, sender))
    process.start()
    sender.close()
    return receiver, Worker(process, at)


def cause_of_death(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"it took more than {CASE_SECONDS} seconds"
    return f"its process ended by {signal.Signals(-code).name if code < 0 else f'exit {code}'}"


def work(seed: int, numbers: range, at: Any, parent: Any) -> None:
    """Run cases; what failed and, every now and then, what was done goes to the parent."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    make_case(seed, 0)  # reads the fixtures, which is no case's cost
    tally = Tally()
    base = peak_memory()
    for number in numbers:
        at.value = number
        signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
        start = time.perf_counter()
        try:
            run_case(make_case(seed, number), number, tally)
        except Exception:  # noqa: BLE001  # whatever a reader lets through is what is looked for
            parent.send(Failure(seed, number, traceback.format_exc()))
        signal.setitimer(signal.ITIMER_PROF, 0)
        tally.slowest = max(tally.slowest, (time.perf_counter() - start, number))
        grown = max(peak_memory() - base, 0)
        if grown > MEMORY_BYTES >= tally.grown:
            parent.send(
                Failure(seed, number, f"memory grew by {grown >> 20} MiB, {anonymous_memory() >> 20} MiB are held")
            )
        tally.grown = max(tally.grown, grown)
        if number // numbers.step % 1000 == 999:
            parent.send(tally)
            tally = Tally(grown=tally.grown)
    parent.send(tally)


def run_case(case: Case, number: int, tally: Tally) -> None:
    """Read one case; raises what must not come out of a reader."""
    tally.done[case.reader] += 1
    tally.refused[case.reader] += not READERS[case.reader](case.data)
    if case.reader == "segment" and number % COMPARE_EVERY == 0:
        tally.compared += compare_kernels(case.data)


def peak_memory() -> int:
    """The most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def anonymous_memory() -> int:
    """Memory of this process that no file backs, in bytes."""
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    sys.exit(main())
