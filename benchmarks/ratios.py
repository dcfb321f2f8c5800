"""Print the tables of ratios from the JSON file of a benchmark run.

    python benchmarks/ratios.py RUN.json [--enforce]

Each row sets logstore beside its peer of the same run. `best` compares the fastest rounds, `median` the middle ones.
The first table has the codecs; the second what a log does, with its sync mode, measured by side_by_side.py: its
`median` is the middle one of the ratios of each round. A ratio says how many times as fast logstore is.
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
ASKED_GB_PER_S = {"scan": 8.0, "map": 1.5, "filter": 1.0}


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
    of_logs = [one["extra_info"] for one in run["benchmarks"] if "figure" in one["extra_info"]]
    of_codecs = [read_measured(one) for one in run["benchmarks"] if "figure" not in one["extra_info"]]
    missed = 0
    if of_codecs:
        print("| operation | batch | logstore | peer | ratio, best | ratio, median | asked |")
        print("|---|---|---|---|---|---|---|")
        for ours, peer in compared(of_codecs):
            missed += print_row(ours, peer)
    if of_codecs and of_logs:
        print()
    if of_logs:
        print("| figure | sync | logstore, best / median | peer | ratio, best | ratio, median | asked |")
        print("|---|---|---|---|---|---|---|")
        for figure in of_logs:
            missed += print_figure(figure)
        with_threads = dict.fromkeys(figure["figure"] for figure in of_logs if figure["had_threads"])
        if with_threads:
            print(f"\nIn a process that has or had threads: {'; '.join(with_threads)}.")
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
    wish, missed = "", False
    if ours.operation in ASKED_RATIO:
        wish = f"≥ {ASKED_RATIO[ours.operation]:g}x"
        missed = peer is None or peer.best / ours.best < ASKED_RATIO[ours.operation]
    elif ours.operation in ASKED_GB_PER_S:
        wish = f"≥ {ASKED_GB_PER_S[ours.operation]:g} GB/s"
        missed = ours.nbytes / ours.best / 1e9 < ASKED_GB_PER_S[ours.operation]
    cells = [ours.operation, ours.batch, ours.rate()]
    if peer is None:
        cells += ["not installed", "", ""]
    else:
        cells.append(f"{peer.library}: {peer.rate()}")
        cells += [f"{peer.best / ours.best:.2f}x", f"{peer.median / ours.median:.2f}x"]
    print_cells([*cells, asked(wish, not missed)])
    return missed


def print_figure(figure: dict[str, Any]) -> int:
    """Print the rows of one figure, one for each peer; how many of the things asked for were missed."""
    unit, ours, judged = figure["unit"], figure["ours"], figure["judged"]
    missed, asked_of_ours = 0, ""
    if ours["asked"] is not None:
        is_rate = unit.endswith("/s")
        is_met = ours[judged] >= ours["asked"] if is_rate else ours[judged] <= ours["asked"]
        missed += not is_met
        asked_of_ours = asked(f"{'≥' if is_rate else '≤'} {in_unit(ours['asked'], unit)}", is_met)
    start = [figure["figure"], figure["sync"], both(ours, unit)]
    if not figure["peers"]:
        print_cells([*start, "", "", "", asked_of_ours])
    for peer in figure["peers"]:
        wishes = [asked_of_ours] if asked_of_ours else []
        asked_of_ours = ""
        is_there = peer["best"] is not None
        if peer["asked"] is not None:
            is_met = is_there and peer[f"ratio_{judged}"] >= peer["asked"]
            missed += not is_met
            wishes.append(asked(f"≥ {peer['asked']:g}x", is_met))
        ratios = [f"{peer['ratio_best']:.2f}x", f"{peer['ratio_median']:.2f}x"] if is_there else ["", ""]
        shown = both(peer, unit) if is_there else "not installed"
        print_cells([*start, f"{peer['library']}: {shown}", *ratios, "; ".join(wishes)])
    return missed


def both(side: dict[str, Any], unit: str) -> str:
    return f"{in_unit(side['best'], unit)} / {in_unit(side['median'], unit)}"


def in_unit(number: float, unit: str) -> str:
    """Three digits, and thousands or millions of it where that is shorter."""
    for scale, prefix in ((1e6, "M "), (1e3, "k ")):
        if unit.endswith("s/s") and number >= scale:
            return f"{number / scale:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def asked(text: str, is_met: bool) -> str:
    return text if is_met else f"{text} (missed)"


def print_cells(cells: list[str]) -> None:
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
