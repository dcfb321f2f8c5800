"""Print the table of ratios from the JSON file of a benchmark run.

    python benchmarks/ratios.py RUN.json [--enforce]

Each row sets logstore beside its peer of the same run. `best` compares the fastest rounds, `median` the middle ones.
With --enforce the exit code is 1 when a figure that is asked for was missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASKED_RATIO = {"encode": 5.0, "decode": 1.6}
ASKED_GB_PER_S = {"scan": 8.0}


@dataclass(frozen=True, slots=True)
class Measured:
    """One benchmark of the run: what a round did and how long the best and the middle round took, in seconds."""

    operation: str
    library: str
    batch: str
    records: int
    nbytes: int
    best: float
    median: float

    def rate(self) -> str:
        nbytes = f"{self.nbytes / self.best / 1e9:.2f} GB/s"
        return f"{self.records / self.best / 1e6:.2f} M records/s, {nbytes}" if self.records else nbytes


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the table of ratios of a benchmark run.")
    parser.add_argument("run", type=Path, metavar="RUN.json")
    parser.add_argument("--enforce", action="store_true", help="exit 1 when a figure that is asked for was missed")
    arguments = parser.parse_args()
    run = json.loads(arguments.run.read_text())
    machine = run["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", "unknown processor")
    print(
        f"{machine['python_implementation']} {machine['python_version']}, {machine['logstore_kernel']} kernel, {cpu}\n"
    )
    print("| operation | batch | logstore | peer | ratio, best | ratio, median | asked |")
    print("|---|---|---|---|---|---|---|")
    missed = 0
    for ours, peer in compared([read_measured(one) for one in run["benchmarks"]]):
        missed += print_row(ours, peer)
    return 1 if arguments.enforce and missed else 0


def read_measured(benchmark: dict[str, Any]) -> Measured:
    said, stats = benchmark["extra_info"], benchmark["stats"]
    return Measured(
        operation=said["operation"],
        library=said["library"],
        batch=said["batch"],
        records=said.get("records", 0),
        nbytes=said["bytes"],
        best=stats["min"],
        median=stats["median"],
    )


def compared(measured: list[Measured]) -> Iterator[tuple[Measured, Measured | None]]:
    """Each of logstore's own measurements with its peer, or with None where the peer was skipped."""
    for ours in measured:
        if ours.library == "logstore":
            same = (one for one in measured if (one.operation, one.batch) == (ours.operation, ours.batch))
            yield ours, next((one for one in same if one.library != "logstore"), None)


def print_row(ours: Measured, peer: Measured | None) -> bool:
    """Print one row; True when a figure that is asked for was missed or could not be compared."""
    asked, missed = "", False
    if ours.operation in ASKED_RATIO:
        asked = f"≥ {ASKED_RATIO[ours.operation]:g}x"
        missed = peer is None or peer.best / ours.best < ASKED_RATIO[ours.operation]
    elif ours.operation in ASKED_GB_PER_S:
        asked = f"≥ {ASKED_GB_PER_S[ours.operation]:g} GB/s"
        missed = ours.nbytes / ours.best / 1e9 < ASKED_GB_PER_S[ours.operation]
    cells = [ours.operation, ours.batch, ours.rate()]
    if peer is None:
        cells += ["not installed", "", ""]
    else:
        cells.append(f"{peer.library}: {peer.rate()}")
        cells += [f"{peer.best / ours.best:.2f}x", f"{peer.median / ours.median:.2f}x"]
    print(f"| {' | '.join([*cells, asked + (' (missed)' if missed else '')])} |")
    return missed


if __name__ == "__main__":
    sys.exit(main())
