"""Tries to make a log lose what it has promised: power cuts at every file operation, threads, killed processes.

    python tests/torture.py [--kills N] [--seed N] [--seconds N] [--soak SECONDS]
                            [--shared SECONDS] [--groups SECONDS] [--queue SECONDS]
                            [--transactions SECONDS] [--stories SECONDS]

First scripts of appends, rolls, flushes, cuts, transactions, followers, retention, compaction and reopenings run in
memory; they are stopped at every file operation, the power is cut in every mode, and the log is opened and looked at;
some of these openings are stopped in turn; rounds of compaction are called off. The same is done to what two processes
do with a log, a store, a work queue and a group, and one of them is killed. Then threads append to two logs, clean
them, delete from them and read them, all at once. Then real processes that append to one directory are killed
(SIGKILL), and all that they were told to be appended must be there; first one at a time, then nine that share a store:
its log, a consumer group, a work queue, transactions. Exit 1 when anything was lost, or is there that was not appended,
or a reader saw what it must not, or twice what it must not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from torture_compaction import CompactionSweep
from torture_groups import torture_groups
from torture_kills import KillTally, torture_by_kills
from torture_processes import torture_processes
from torture_queue import torture_queue
from torture_scripts import COMPACTIONS, SCRIPTS
from torture_sharing import SharedSweep
from torture_soak import SoakTally, soak
from torture_stories import GroupStory, QueueStory, StoreStory
from torture_story_sweep import StorySweep
from torture_sweep import Sweep, SweepTally, sweep_damage
from torture_transaction_story import TransactionStory
from torture_transactions import torture_transactions

from logstore.config import Durability
from logstore.records import KERNEL_NAME

KILLS = 300
SECONDS = 660
SWEEP_SHARE = 0.6
"""Of the time, for the power cuts."""
SOAK_SECONDS = 60
SHARED_SECONDS = 60
"""Of processes that share a log, and of those that share a group, a work queue, and transactions."""
STORIES_SECONDS = 600
"""For power cuts of what several processes share; each of it has an equal part."""
STORIES = {
    "a store": StoreStory, "a work queue": QueueStory, "a group": GroupStory, "transactions": TransactionStory,
}  # fmt: skip
STRIDE = 31  # odd: half of the places are in the middle of an operation
OPENINGS_EVERY = 31
"""At every so many operations of a script the opening of what it leaves is stopped in turn."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cut the power and kill processes; what was promised must be there.")
    parser.add_argument("--kills", type=int, default=KILLS, help="processes to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the kills; default: another one each time; it is printed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="ends about then (default: %(default)s)")
    parser.add_argument("--soak", type=float, default=SOAK_SECONDS, help="seconds of threads (default: %(default)s)")
    for option, what in (
        ("--shared", "share a log"), ("--groups", "share a group"), ("--queue", "share a queue"),
        ("--transactions", "copy in transactions"),
    ):  # fmt: skip
        parser.add_argument(
            option, type=float, default=SHARED_SECONDS, help=f"seconds of processes that {what} (default: %(default)s)"
        )
    parser.add_argument(
        "--stories", type=float, default=STORIES_SECONDS,
        help="seconds of power cuts of what processes share (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    print(f"seed {seed}, kernel {KERNEL_NAME}", flush=True)
    begin = time.monotonic()
    swept = cut_power(begin + options.seconds * SWEEP_SHARE)
    soaked = read_meanwhile(seed, options.soak)
    killed = kill(seed, options.kills, begin + options.seconds)
    told = cut_power_of_many(options.stories)
    shared = share(seed, options.shared) + share_group(seed, options.groups) + share_queue(seed, options.queue)
    shared += share_transactions(seed, options.transactions)
    print(f"{time.monotonic() - begin:.0f} s")
    problems = swept.problems + told.problems + soaked.problems + killed.problems + shared
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems or killed.lost or killed.foreign else 0


def cut_power(until: float) -> SweepTally:
    """Sweep all scripts, and say what came of it."""
    total = SweepTally()

    def is_over() -> bool:
        return time.monotonic() >= until

    scripts = [*((Sweep, *one) for one in SCRIPTS.items()), *((CompactionSweep, *one) for one in COMPACTIONS.items())]
    for kind, name, script in scripts:
        with kind(script, is_over) as sweep:
            tell(name, sweep.operations(), total)
    for name, script in COMPACTIONS.items():
        with CompactionSweep(script, is_over) as sweep:
            called_off = sweep.cancellations()
        wrong = ", WRONG" if called_off.problems else ""
        print(f"  {name:<42}{called_off.points:>6,} times called off{wrong}", flush=True)
        total.problems += called_off.problems
    tell("damage that is cut", sweep_damage(is_over), total)
    for kind, name, script in scripts:
        with kind(script, is_over) as sweep:
            tell(f"opening after {name}", sweep.openings(OPENINGS_EVERY), total)
    tell("power cuts", total, SweepTally())
    if is_over():
        print("the time for power cuts was up before all were done")
    return total


def cut_power_of_many(seconds: float) -> SweepTally:
    """Sweep what several processes do together, and kill one of them; say what came of it.

    Each gets its part of the time, and goes through as many operations as it can, evenly spread.
    """
    total = SweepTally()
    part = seconds / (2 * len(SCRIPTS) + 4 * len(STORIES))

    def within(end: float) -> Callable[[], bool]:
        return lambda: time.monotonic() >= end

    for name, script in SCRIPTS.items():
        with SharedSweep(script, within(time.monotonic() + part)) as sweep:
            tell(f"shared: {name}", spread(sweep.operations), total)
        with SharedSweep(script, within(time.monotonic() + part)) as sweep:
            tell(f"shared, one is killed: {name}", spread(sweep.kills), total)
    for name, story in STORIES.items():
        for durability in get_args(Durability)[::2]:
            with StorySweep(story, durability, within(time.monotonic() + part)) as told:
                tell(f"{name}, {durability}", spread(told.cuts), total)
            with StorySweep(story, durability, within(time.monotonic() + part)) as told:
                tell(f"{name}, {durability}, one is killed", spread(told.kills), total)
    tell("all that is shared", total, SweepTally())
    return total


def spread(sweep: Callable[[int, int], SweepTally]) -> SweepTally:
    """Stop at every so many operations, each time at others, until the time is up or all were stopped at."""
    return [sweep(first, STRIDE) for first in range(1, STRIDE + 1)][-1]


def tell(name: str, tally: SweepTally, total: SweepTally) -> None:
    total.add(tally)
    numbers = f"{tally.points:>6,} crash points, {tally.crashes:>9,} crashes, {tally.different:>7,} that differ"
    print(f"  {name:<42}{numbers}{', WRONG' if tally.problems else ''}", flush=True)


def read_meanwhile(seed: int, seconds: float) -> SoakTally:
    """Let threads append, clean, delete and read, and say what they did."""
    tally = kept(lambda directory: soak(directory, seconds, seed))
    print(f"  {tally.appended:,} records appended by threads, {tally.acknowledged:,} of them to stay")
    print(f"  {tally.rounds:,} rounds of cleaning meanwhile, {tally.verified:,} verified")
    print(f"  {tally.called_off:,} called off, {tally.superseded:,} records superseded")
    print(f"  {tally.deleted:,} segments deleted by retention")
    print(f"  {tally.passes:,} passes of readers, {tally.overtaken:,} overtaken, {tally.slow:,} slow")
    print(f"  {tally.read:,} records read, {tally.gets:,} single ones, {len(tally.problems)} problems", flush=True)
    return tally


def kill(seed: int, count: int, until: float) -> KillTally:
    """Kill processes, and say what came of it."""
    tally = kept(lambda directory: torture_by_kills(directory, seed, count, until))
    print(f"  {tally.kills:,} kills, {tally.while_opening:,} while the log was opened, {tally.recovered:,} recoveries")
    print(f"  {tally.acknowledged:,} records acknowledged, {tally.truncations:,} truncations")
    print(f"  {tally.in_flight:,} records were in flight, {tally.lost:,} lost, {tally.foreign:,} foreign", flush=True)
    return tally


def share(seed: int, seconds: float) -> list[str]:
    """Kill processes that share a store, and say what came of it; what was wrong."""
    tally = kept(lambda directory: torture_processes(directory, seed, seconds))
    print(f"  {tally.kills:,} kills of processes that share a store, {tally.segments:,} segments")
    print(f"  {tally.acknowledged:,} records acknowledged, {tally.records:,} there, {len(tally.problems)} problems")
    return tally.problems


def share_group(seed: int, seconds: float) -> list[str]:
    """Kill members of a group, and say what came of it; what was wrong."""
    tally = kept(lambda directory: torture_groups(directory, seed, seconds))
    print(f"  {tally.kills:,} kills of processes that share a group ({tally.assignor})")
    print(f"  {tally.acknowledged:,} records acknowledged, {tally.records:,} there")
    print(f"  {tally.delivered:,} delivered, {tally.again:,} of them again")
    print(f"  {tally.assigned:,} times a partition got a reader, {tally.moved:,} of them from a live one")
    print(f"  {len(tally.problems)} problems of the group", flush=True)
    return tally.problems


def share_queue(seed: int, seconds: float) -> list[str]:
    """Kill those who share a work queue, and say what came of it; what was wrong."""
    tally = kept(lambda directory: torture_queue(directory, seed, seconds))
    print(f"  {tally.kills:,} kills of processes that share a work queue, {tally.put:,} jobs put")
    print(f"  {tally.delivered:,} deliveries, {tally.again:,} of them again, {tally.unsaid:,} were not told of")
    print(f"  {tally.acknowledged:,} jobs acknowledged, {tally.dead:,} dead letters, {tally.deleted:,} jobs deleted")
    print(f"  {len(tally.problems)} problems of the queue", flush=True)
    return tally.problems


def share_transactions(seed: int, seconds: float) -> list[str]:
    """Kill those who copy in transactions, and say what came of it; what was wrong."""
    tally = kept(lambda directory: torture_transactions(directory, seed, seconds))
    print(f"  {tally.kills:,} kills of processes that copy in transactions")
    print(f"  {tally.acknowledged:,} records acknowledged, {tally.copied:,} copied, {tally.written:,} written")
    print(f"  {tally.committed:,} transactions committed, {tally.aborted:,} aborted, {tally.fenced:,} times fenced")
    print(f"  {len(tally.problems)} problems of transactions", flush=True)
    return tally.problems


_Tally = TypeVar("_Tally", bound=Any)


def kept(run: Callable[[Path], _Tally]) -> _Tally:
    """What came of something in a directory of its own, which is kept where something is wrong."""
    directory = Path(tempfile.mkdtemp(prefix="logstore-torture-"))
    tally = run(directory)
    if tally.problems:
        print(f"the directory is {directory}", file=sys.stderr)
    else:
        shutil.rmtree(directory)
    return tally


if __name__ == "__main__":
    sys.exit(main())
