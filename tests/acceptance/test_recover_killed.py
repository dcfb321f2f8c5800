"""What a broker left when it was killed is, once recovered, what its own recovery made of it: the same records."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.commands import logstore, objects
from helpers.directories import alarms
from helpers.fixtures import View, consumer_views


@pytest.fixture
def killed(kafka_fixtures: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(kafka_fixtures / "kafka-4.1.1" / "killed", tmp_path / "killed"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return copy


@pytest.fixture
def views(kafka_fixtures: Path) -> list[View]:
    """What consumers got from the broker that had recovered it."""
    return [view for view in consumer_views(kafka_fixtures) if view.file.parent.name == "consumer-after-kill"]


def test_a_recovered_copy_serves_what_the_broker_served_after_its_recovery(killed: Path, views: list[View]) -> None:
    result = logstore("recover", "--json", killed)
    assert (result.code, result.err) == (0, "")
    found = {Path(one["path"]).name: one for one in result.objects[0]["partitions"]}
    assert views
    for view in views:
        partition = killed / view.partition.name
        shown = objects("dump", "--isolation", view.isolation, "--encoding", "base64", partition)
        identity = {name: view.head[name] for name in ("topic", "partition")}
        assert shown == [{**identity, **record} for record in view.records], view
        assert found[partition.name]["log_start_offset"] == view.head["low"]
        if view.isolation == "read_uncommitted":
            assert found[partition.name]["log_end_offset"] == view.head["high"]


def test_nothing_is_wrong_with_it_then_and_nothing_is_left_to_do(killed: Path) -> None:
    assert logstore("recover", killed).code == 0
    assert alarms(killed) == []
    assert (killed / ".kafka_cleanshutdown").read_bytes() == b'{"version":0,"brokerEpoch":-1}'
    assert [path.name for path in killed.rglob(".*")] == [".kafka_cleanshutdown"]
    states = [one["state"] for one in logstore("recover", "--json", killed).objects[0]["partitions"]]
    assert set(states) == {"clean"}


def test_a_dry_run_says_what_is_done_then(killed: Path) -> None:
    tried, done = (logstore("recover", *options, "--json", killed).objects[0] for options in (["--dry-run"], []))
    assert tried.pop("dry_run") and not done.pop("dry_run")
    assert tried == done


def test_the_others_leave_it_to_recover(killed: Path) -> None:
    partition = killed / "segments-0"
    for command in (["reindex", killed], ["reindex", partition], ["truncate", "--to", "5", partition]):
        result = logstore(*command)
        assert (result.code, "`logstore recover`" in result.err) == (3, True)
