"""A short torture finds nothing; and what it is there to find, it finds."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import torture
from torture_kills import Killer, torture_by_kills
from torture_scripts import SCRIPTS, Step, append, roll
from torture_sweep import Sweep

from logstore.testing import LogModel


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
    assert torture.main(["--kills", "1", "--seed", "1", "--seconds", "20"]) == 0
    said = capsys.readouterr().out
    assert "crash points" in said
    assert "0 lost, 0 foreign" in said
