"""A short torture finds nothing; and what it is there to find, it finds."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torture
import torture_groups
import torture_processes
import torture_queue
import torture_soak
import torture_transactions
from torture_compaction import CompactionSweep
from torture_kills import Killer, torture_by_kills
from torture_scripts import COMPACTIONS, SCRIPTS, Clean, Step, append, end, put, roll
from torture_soak import Newest, Reader, Soak, soak
from torture_sweep import Sweep

from logstore.records import Codec
from logstore.testing import LogModel

TWO_GROUPS: list[Step] = [
    put(1, 2, 3, 4, durability="always"), roll, put(5, 6, 1, codec=Codec.GZIP), roll, put(7, 8, 9, 10), roll,
    put(11, 12, -1), roll,
]  # fmt: skip
"""Four segments that become two."""
ABORTED: list[Step] = [
    put(1, 2, 3), put(1), roll, put(4, 5, producer=(1, 0), is_transactional=True), put(6, 6), end(1, False), roll,
]  # fmt: skip
"""An aborted transaction, whose marker is no older than the horizon that it gets."""


def test_a_short_script_loses_nothing_wherever_it_is_stopped() -> None:
    with Sweep(SCRIPTS["appends"][:5]) as sweep:
        tally = sweep.operations()
    assert not tally.problems
    assert tally.points > 30
    assert tally.crashes == 24 * tally.points
    assert 0 < tally.different < tally.crashes


def broken_promise(log: Any) -> Any:
    """An append that the model believes to be on disk, and the log does not sync."""
    return append(1, "always" if isinstance(log, LogModel) else "os")(log)


def appended_by_nobody(log: Any) -> Any:
    """An append that nobody tells the model of."""
    return None if isinstance(log, LogModel) else append(1, "always")(log)


@pytest.mark.parametrize("wrong", [broken_promise, appended_by_nobody])
def test_a_log_that_does_something_else_than_its_model_is_found(wrong: Step) -> None:
    with Sweep([append(), roll, wrong, roll]) as sweep:
        tally = sweep.operations()
    assert "is not between" in tally.problems[0]


def test_openings_are_stopped_too() -> None:
    calls = itertools.count()
    with Sweep(SCRIPTS["appends"][:8], until=lambda: next(calls) > 60) as sweep:
        tally = sweep.openings(every=20)
    assert not tally.problems
    assert tally.points > 20


# ---------------------------------------------------------------- compaction


@pytest.mark.kafka("PROP-19", "PROP-20")
@pytest.mark.parametrize(
    ("script", "first"),
    [([*TWO_GROUPS, Clean(verifies=True)], 105), ([*ABORTED, put(5, durability="always"), roll, Clean()], 90)],
)
def test_cleaning_loses_nothing_wherever_it_is_stopped(script: list[Step], first: int) -> None:
    with CompactionSweep(script) as sweep:
        tally = sweep.operations(first)
    assert not tally.problems
    assert tally.points > 50
    assert tally.crashes == 24 * tally.points


@pytest.mark.kafka("PROP-19")
def test_openings_that_finish_a_replacement_are_stopped_too() -> None:
    with CompactionSweep([*ABORTED, put(5, durability="always"), roll, Clean()]) as sweep:
        tally = sweep.openings(every=10, first=110)
    assert not tally.problems
    assert tally.points > 40


@pytest.mark.kafka("PROP-21")
def test_a_round_that_is_called_off_leaves_nothing_behind_wherever_that_is() -> None:
    with CompactionSweep([*TWO_GROUPS, Clean(), put(2, -3), roll, Clean(days=2, verifies=True)]) as sweep:
        tally = sweep.cancellations()
    assert not tally.problems
    assert tally.points > 20


def forgets(log: Any) -> Any:
    """A newest value that is there for the model alone."""
    return put(1, durability="always")(log) if isinstance(log, LogModel) else put(-1, durability="always")(log)


def deletes_too_much(log: Any) -> Any:
    """Cleaning as if a tombstone had been written that nobody has."""
    return None if isinstance(log, LogModel) else log.advance_log_start(2)


@pytest.mark.parametrize("wrong", [forgets, deletes_too_much])
def test_cleaning_that_loses_something_is_found(wrong: Step) -> None:
    with CompactionSweep([put(1, 2), put(3), roll, wrong, put(4), roll, Clean()]) as sweep:
        tally = sweep.operations()
    assert tally.problems


# ---------------------------------------------------------------- threads


def test_threads_that_do_everything_at_once_find_nothing_wrong(tmp_path: Path) -> None:
    tally = soak(tmp_path, 2.5, seed=1)
    assert tally.problems == []
    assert min(tally.acknowledged, tally.passes, tally.gets, tally.rounds, tally.superseded, tally.read) > 0


def records(*numbers: int, doomed: bytes = b"") -> list[Any]:
    now = int(time.time() * 1000)
    return [(b"k", b"v", now, [("number", b"%d" % number), ("doomed", doomed)]) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "doomed", "offset", "said"),
    [([2, 1], b"", 0, "back to 1"), ([1], b"", 0, "missing"), ([1], b"1", 9, "aborted")],
)
def test_what_a_reader_must_not_see_is_found(
    numbers: list[int], doomed: bytes, offset: int, said: str, tmp_path: Path
) -> None:
    soaked = Soak(tmp_path, 0, seed=3)
    place, reader = soaked.places[0], Reader(soaked, 4)
    place.log.append(records(*numbers, doomed=doomed))
    place.begun[b"k"] = 2
    place.acknowledge({b"k": Newest(2, offset, is_tombstone=False)})
    with pytest.raises(AssertionError, match=said):
        for _ in range(20):
            reader.full_pass(place)
    for one in soaked.places:
        one.log.close()


def test_a_thread_that_fails_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture_soak, "_number", lambda record: 1)  # every record looks like the one before it
    began = time.monotonic()
    tally = soak(tmp_path, 30, seed=1)
    assert tally.problems  # which of the readers meets it first is chance
    assert time.monotonic() - began < 20


# ---------------------------------------------------------------- processes


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    tally = torture_by_kills(tmp_path, seed=1, count=3, until=time.monotonic() + 60)
    assert tally.kills >= 3
    assert (tally.lost, tally.foreign, tally.problems) == (0, 0, [])


def test_a_record_that_is_gone_after_a_kill_is_counted(tmp_path: Path) -> None:
    killer = Killer(tmp_path, seed=1)
    killer.append("a", 0, 3, 0, -1, -1, -1)  # said, and never written
    killer.look()
    assert killer.tally.lost == 3
    assert killer.tally.problems


def test_it_prints_what_it_did(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torture, "SCRIPTS", {"appends": SCRIPTS["appends"][:2]})
    monkeypatch.setattr(torture, "COMPACTIONS", {"compaction": COMPACTIONS["compaction"][:1]})
    for module in (torture_groups, torture_processes, torture_queue, torture_transactions):
        monkeypatch.setattr(module, "ROLES", dict.fromkeys(module.ROLES, 1))
    shared = ["--shared", "0.5", "--groups", "0.5", "--queue", "0.5", "--transactions", "0.5", "--stories", "1"]
    assert torture.main(["--kills", "1", "--seed", "1", "--seconds", "20", "--soak", "0.2", *shared]) == 0
    said = capsys.readouterr().out
    assert "rounds of cleaning meanwhile" in said
    assert "crash points" in said
    assert "0 lost, 0 foreign" in said
    assert "0 problems of the group" in said
    assert "0 problems of the queue" in said
    assert "0 problems of transactions" in said
