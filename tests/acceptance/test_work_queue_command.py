"""`logstore queue`: jobs that one command takes and another acknowledges."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import PROGRAM, logstore, objects

import logstore as library


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a queue of three jobs."""
    place = tmp_path / "store"
    for value in ("one", "two", "three"):
        assert logstore("queue", "put", "--durability", "os", place, "jobs", value).code == 0
    return place


def taken(store: Path, *options: object) -> list[dict[str, Any]]:
    return objects("queue", "get", "--json", "--max", 10, *options, store, "jobs")


def counts(store: Path) -> dict[str, Any]:
    (found,) = objects("queue", "stats", "--json", store, "jobs")
    return found


def test_a_job_that_was_printed_is_not_given_to_others(store: Path) -> None:
    assert [(one["id"], one["value"], one["attempt"]) for one in taken(store)] == [
        ("0-0-1", "one", 1), ("0-1-1", "two", 1), ("0-2-1", "three", 1),
    ]  # fmt: skip
    assert taken(store) == []
    assert (counts(store)["acquired"], counts(store)["available"]) == (3, 0)
    with library.open(store) as opened, library.WorkQueue(opened, "jobs") as queue:
        assert queue.get(timeout=0) is None


def test_it_is_done_once_another_command_says_so(store: Path) -> None:
    taken(store)
    assert logstore("queue", "ack", store, "jobs", "0-1-1", "0-0-1").code == 0
    found = counts(store)
    assert (found["acknowledged"], found["acquired"]) == (2, 1)
    result = logstore("queue", "ack", store, "jobs", "0-1-1", "0-2-1")
    assert (result.code, "finished" in result.err) == (3, True)
    assert counts(store)["acknowledged"] == 3  # the other one all the same


def test_what_is_given_back_is_given_again_with_another_attempt(store: Path) -> None:
    taken(store)
    assert logstore("queue", "nack", store, "jobs", "0-1-1").code == 0
    assert [(one["id"], one["attempt"]) for one in taken(store)] == [("0-1-2", 2)]
    assert logstore("queue", "ack", store, "jobs", "0-1-1").code == 3
    assert logstore("queue", "nack", "--delay", "1h", store, "jobs", "0-1-2").code == 0
    assert taken(store) == [] and counts(store)["delayed"] == 1


def test_when_its_visibility_has_run_out_it_is_given_again(store: Path) -> None:
    assert len(taken(store, "--visibility", "200ms")) == 3
    time.sleep(0.3)
    assert [one["attempt"] for one in taken(store)] == [2, 2, 2]


def test_what_was_delivered_too_often_or_rejected_goes_to_the_dead_letters(store: Path) -> None:
    for _ in range(2):
        ids = [one["id"] for one in taken(store, "--max-deliveries", 2)]
        assert logstore("queue", "nack", store, "jobs", *ids).code == 0
    assert taken(store, "--max-deliveries", 2) == []
    logstore("queue", "put", store, "jobs", "four")
    (four,) = taken(store)
    assert logstore("queue", "nack", "--reject", store, "jobs", four["id"]).code == 0
    dead = objects("consume", "--json", store, "jobs.dead")
    assert sorted(one["value"] for one in dead) == ["four", "one", "three", "two"]


def test_jobs_wait_for_their_time_and_unique_ones_for_their_likes(tmp_path: Path) -> None:
    place = tmp_path / "store"
    (first,) = objects("queue", "put", "--json", "--unique", "daily", place, "jobs", "report")
    (second,) = objects("queue", "put", "--json", "--unique", "daily", place, "jobs", "report")
    assert (first["duplicate"], second["duplicate"], first["id"] == second["id"]) == (False, True, True)
    logstore("queue", "put", "--delay", "1h", place, "jobs", "later")
    logstore("queue", "put", "--priority", 3, place, "jobs", "urgent")
    assert [one["value"] for one in taken(place)] == ["urgent", "report"]


def test_each_line_of_stdin_is_a_job(tmp_path: Path) -> None:
    arguments = [*PROGRAM, "queue", "put", str(tmp_path / "store"), "jobs"]
    done = subprocess.run(arguments, input=b"a\n\xff\n", capture_output=True, check=True, timeout=60)
    assert done.stdout == b"0-0\n0-1\n"
    assert [one["value"] for one in taken(tmp_path / "store")] == ["a", {"base64": "/w=="}]


def test_get_waits_for_a_job(store: Path) -> None:
    taken(store)
    arguments = [*PROGRAM, "queue", "get", "--timeout", "30", str(store), "jobs"]
    waiting = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    logstore("queue", "put", store, "jobs", "four")
    out, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, out) == (0, "0-3-1\tfour\n")


@pytest.mark.parametrize(
    "arguments",
    [("ack", "S", "jobs", "x"), ("ack", "S", "jobs", "0-0"), ("get", "--visibility", "0", "S", "jobs"),
     ("put", "--delay", "soon", "S", "jobs", "x"), ("get", "--max", "0", "S", "jobs"), ("ack", "S", "jobs")],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(store: Path, arguments: tuple[str, ...]) -> None:
    assert logstore("queue", *(store if one == "S" else one for one in arguments)).code == 2


def test_a_queue_that_is_not_there_is_said(store: Path, tmp_path: Path) -> None:
    for place, name in ((store, "nope"), (tmp_path / "nowhere", "jobs")):
        for command in (("get",), ("stats",)):
            assert logstore("queue", *command, place, name).code == 3
    assert not (tmp_path / "nowhere").exists()
