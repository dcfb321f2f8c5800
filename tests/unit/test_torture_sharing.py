"""A short torture of what processes share finds nothing; and what it is there to find, it finds."""

from __future__ import annotations

from typing import Any

import pytest
from torture_scripts import SCRIPTS, append, roll
from torture_sharing import SharedSweep
from torture_stories import GroupStory, QueueStory, StoreStory
from torture_story_sweep import StorySweep
from torture_sweep import MODES
from torture_transaction_story import TransactionStory

from logstore.config import Durability
from logstore.queue import Job, WorkQueue
from logstore.testing import LogModel

STORIES = {"store": StoreStory, "queue": QueueStory, "group": GroupStory, "transactions": TransactionStory}
FEW_MODES = MODES[:5:2] + MODES[5:6]  # nothing, torn, two subsets


@pytest.mark.parametrize(("name", "first"), [("appends", 90), ("transactions", 120), ("cuts", 200), ("retention", 300)])
def test_a_log_that_two_append_to_in_turn_loses_nothing_in_a_power_cut(name: str, first: int) -> None:
    with SharedSweep(SCRIPTS[name]) as sweep:
        tally = sweep.operations(first, every=299)
    assert tally.problems == []
    assert tally.points > 0


@pytest.mark.parametrize("name", ["appends", "cuts", "many segments", "transactions that are cut"])
def test_a_log_goes_on_without_one_who_was_killed(name: str) -> None:
    with SharedSweep(SCRIPTS[name]) as sweep:
        tally = sweep.kills(every=67)
    assert tally.problems == []
    assert tally.points > 5


@pytest.mark.parametrize("durability", ["always", "os"])
@pytest.mark.parametrize("name", STORIES)
def test_what_was_promised_is_there_after_a_power_cut(name: str, durability: Durability) -> None:
    with StorySweep(STORIES[name], durability, modes=FEW_MODES) as sweep:
        tally = sweep.cuts(first=7, every=125)
    assert tally.problems == []
    assert tally.points > 1


@pytest.mark.parametrize("name", STORIES)
def test_the_others_go_on_without_one_who_was_killed(name: str) -> None:
    with StorySweep(STORIES[name], "os") as sweep:
        tally = sweep.kills(first=3, every=97)
    assert tally.problems == []
    assert tally.points > 2


# ---- what is wrong is found


def appended_by_nobody(log: Any) -> Any:
    """An append that nobody tells the model of."""
    return None if isinstance(log, LogModel) else append(1, "always")(log)


def test_a_shared_log_that_does_something_else_than_its_model_is_found() -> None:
    with SharedSweep([append(), roll, appended_by_nobody, roll]) as sweep:
        assert "is not between" in sweep.operations(every=9).problems[0]
    with SharedSweep([append(), append(), appended_by_nobody, append(), append()]) as sweep:
        assert "is not between" in sweep.kills().problems[0]


class Forgetful(QueueStory):
    """Says that a job is done, and nobody is told."""

    def ack(self, queue: WorkQueue, job: Job) -> None:
        self._finish(lambda: None, job)


def test_a_job_that_comes_after_its_end_is_found() -> None:
    with StorySweep(Forgetful, "always", modes=FEW_MODES) as sweep:
        assert "comes after its end" in sweep.cuts(first=120, every=5).problems[0]
