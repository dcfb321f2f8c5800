"""Run the sides of one figure in turn, round by round, and leave their numbers in the run's JSON for ratios.py.

Invariant: what the machine does to one side it does to all: a round runs every peer once and then logstore, so that
each round of logstore has one of each peer right before it. Only `Side.run` is timed; `before` and `after` are not.
Sides may do a different amount a round, for the slow ones not to take all the time: rates are compared.

A process that has ever had a second thread is slower, and not all sides by the same: glibc's locks cost more from then
on, and LMDB loses a third. So the benchmarks whose sides start threads are marked `starts_threads` and come last (see
conftest.py), and each figure says whether there had been threads when it ended.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

NOT_SYNCED = "no sync"
SYNC_EACH = "sync each append"

TIME_UNITS = {"ms": 1e3, "µs": 1e6}
"""Units of the time that one thing takes, in seconds; every other unit is a rate: things a second."""
RATE_UNITS = {"GB/s": 1e-9}
"""Rates that are not shown as they are counted; `count` is bytes for these."""

T = TypeVar("T")


@dataclass(slots=True)
class Side:
    """One of those compared: what it runs a round, and how many things (records, appends, bytes) that makes.

    `asked` of logstore is the number it has to reach, in the figure's unit; `asked` of a peer is how many times as fast
    logstore has to be. A peer that is not installed has nothing to run, and still its row in the table.
    """

    library: str
    run: Callable[[], object] | None
    count: int
    asked: float | None = None
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    seconds: list[float] = field(default_factory=list)
    """How long one thing took, a number for each round."""

    @classmethod
    def absent(cls, library: str, asked: float | None = None) -> Side:
        return cls(library, None, 1, asked)

    def timed(self) -> None:
        assert self.run is not None
        start = time.perf_counter()
        self.run()
        self.seconds.append((time.perf_counter() - start) / self.count)

    def numbers(self, unit: str) -> dict[str, Any]:
        return {
            "library": self.library,
            "best": _in_unit(min(self.seconds), unit),
            "median": _in_unit(median(self.seconds), unit),
            "asked": self.asked,
        }

    def numbers_beside(self, ours: Side, unit: str) -> dict[str, Any]:
        """The same of a peer, and the ratios: of the best rounds, and the middle one of the ratios of each round."""
        if self.run is None:
            return {"library": self.library, "best": None, "asked": self.asked}
        each = [theirs / own for theirs, own in zip(self.seconds, ours.seconds, strict=True)]
        ratios = {"ratio_best": min(self.seconds) / min(ours.seconds), "ratio_median": median(each)}
        return self.numbers(unit) | ratios


def compare(
    benchmark: BenchmarkFixture,
    figure: str,
    *,
    sync: str,
    unit: str,
    sides: Sequence[Side],
    rounds: int,
    judged: Literal["best", "median"] = "best",
) -> None:
    """Run the figure; the first of `sides` is logstore. With benchmarks disabled every side runs once.

    `judged` says which numbers are held against what is asked: the best where others only make a side slower, the
    median where a side may also be lucky, as with a disk.
    """
    ours, *peers = sides
    present = [peer for peer in peers if peer.run is not None]

    def peers_first() -> None:
        if ours.seconds:
            ours.after()  # of the round before; pytest-benchmark leaves a teardown out where it is disabled
        for peer in present:
            peer.before()
            peer.timed()
            peer.after()
        ours.before()

    gc.collect()
    gc.freeze()  # the many objects of the workload are nobody's garbage: no side has to look through them
    try:
        benchmark.pedantic(ours.timed, setup=peers_first, rounds=1 if benchmark.disabled else rounds)
        ours.after()
    finally:
        gc.unfreeze()
    note(
        benchmark,
        figure,
        sync=sync,
        unit=unit,
        ours=ours.numbers(unit),
        peers=[peer.numbers_beside(ours, unit) for peer in peers],
        judged=judged,
    )


def note(
    benchmark: BenchmarkFixture,
    figure: str,
    *,
    sync: str,
    unit: str,
    ours: dict[str, Any],
    peers: Sequence[dict[str, Any]] = (),
    judged: Literal["best", "median"] = "best",
) -> None:
    """Leave a figure for the table; `compare` does so of itself."""
    benchmark.group = f"{figure}, {sync}"
    benchmark.extra_info.update(
        figure=figure, sync=sync, unit=unit, judged=judged, ours=ours, peers=list(peers), had_threads=had_threads()
    )


def by_size(benchmark: BenchmarkFixture, full: T, small: T) -> T:
    """`full` in a run of the benchmarks, `small` where they run once, as tests."""
    return small if benchmark.disabled else full


def had_threads() -> bool | None:
    """Whether this process has, or ever had, a second thread, as glibc knows it; None with another library."""
    try:
        return not ctypes.c_char.in_dll(ctypes.CDLL(None), "__libc_single_threaded").value[0]
    except (OSError, ValueError):
        return None


def _in_unit(seconds: float, unit: str) -> float:
    if unit in TIME_UNITS:
        return seconds * TIME_UNITS[unit]
    return RATE_UNITS.get(unit, 1) / seconds
