"""Tries to make a log lose what it has promised: power cuts at every file operation, and processes killed at random.

    python tests/torture.py [--kills N] [--seed N] [--seconds N]

First scripts of appends, rolls, flushes, cuts, transactions, followers and reopenings run in memory; they are stopped
at every file operation, the power is cut in every mode, and the log is opened and looked at; some of these openings are
stopped in turn. Then real processes that append to one directory are killed (SIGKILL), and all that they were told to
be appended must be there. Exit 1 when anything was lost, or is there that was not appended.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from torture_kills import KillTally, torture_by_kills
from torture_scripts import SCRIPTS
from torture_sweep import Sweep, SweepTally, sweep_damage

from logstore.records import KERNEL_NAME

KILLS = 300
SECONDS = 540
SWEEP_SHARE = 0.6
"""Of the time, for the power cuts."""
OPENINGS_EVERY = 31
"""At every so many operations of a script the opening of what it leaves is stopped in turn."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Cut the power and kill processes; what was promised must be there.")
    parser.add_argument("--kills", type=int, default=KILLS, help="processes to kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the kills; default: another one each time; it is printed")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="ends about then (default: %(default)s)")
    options = parser.parse_args(arguments)
    seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    print(f"seed {seed}, kernel {KERNEL_NAME}", flush=True)
    begin = time.monotonic()
    swept = cut_power(begin + options.seconds * SWEEP_SHARE)
    killed = kill(seed, options.kills, begin + options.seconds)
    print(f"{time.monotonic() - begin:.0f} s")
    problems = swept.problems + killed.problems
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems or killed.lost or killed.foreign else 0


def cut_power(until: float) -> SweepTally:
    """Sweep all scripts, and say what came of it."""
    total = SweepTally()

    def is_over() -> bool:
        return time.monotonic() >= until

    for name, script in SCRIPTS.items():
        with Sweep(script, is_over) as sweep:
            tell(name, sweep.operations(), total)
    tell("damage that is cut", sweep_damage(is_over), total)
    for name, script in SCRIPTS.items():
        with Sweep(script, is_over) as sweep:
            tell(f"opening after {name}", sweep.openings(OPENINGS_EVERY), total)
    tell("power cuts", total, SweepTally())
    if is_over():
        print("the time for power cuts was up before all were done")
    return total


def tell(name: str, tally: SweepTally, total: SweepTally) -> None:
    total.add(tally)
    numbers = f"{tally.points:>7,} crash points, {tally.crashes:>9,} crashes, {tally.different:>7,} that differ"
    print(f"  {name:<40}{numbers}{', WRONG' if tally.problems else ''}", flush=True)


def kill(seed: int, count: int, until: float) -> KillTally:
    """Kill processes, and say what came of it; the directory is kept where something is wrong."""
    directory = Path(tempfile.mkdtemp(prefix="logstore-torture-"))
    tally = torture_by_kills(directory, seed, count, until)
    print(f"  {tally.kills:,} kills, {tally.while_opening:,} while the log was opened, {tally.recovered:,} recoveries")
    print(f"  {tally.acknowledged:,} records acknowledged, {tally.truncations:,} truncations")
    print(f"  {tally.in_flight:,} records were in flight, {tally.lost:,} lost, {tally.foreign:,} foreign")
    if tally.problems or tally.lost or tally.foreign:
        print(f"the directory is {directory}", file=sys.stderr)
    else:
        shutil.rmtree(directory)
    return tally


if __name__ == "__main__":
    sys.exit(main())
