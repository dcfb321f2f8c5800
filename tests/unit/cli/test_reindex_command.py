"""`logstore reindex`: what it prints, its exit codes, and that a dry run is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.commands import logstore
from helpers.directories import alarms, append_bytes, flip_bit

from logstore.fs import LocalFileSystem

FIRST, LAST = (f"{base:020d}" for base in (0, 12))


@pytest.fixture
def sound(orders: Path) -> Path:
    """`orders-3` with the indexes that it should have."""
    assert logstore("reindex", orders).code == 0
    return orders


def summary(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = logstore("reindex", "--json", *arguments)
    (found,) = result.objects
    return result.code, found


def test_files_that_differ_are_made_anew_and_told(sound: Path) -> None:
    place = sound / f"{FIRST}.timeindex"
    wanted = place.read_bytes()
    place.write_bytes(b"garbage")
    (sound / f"{LAST}.timeindex").unlink()
    result = logstore("reindex", sound)
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        f"{sound}: 2 files made anew",
        f"  rewrite {FIRST}.timeindex: 7 bytes -> {len(wanted)} bytes",
        f"  create {LAST}.timeindex: no file -> {len(wanted)} bytes",
    ]
    assert place.read_bytes() == wanted
    assert alarms(sound.parent) == []
    assert logstore("reindex", sound).lines == [f"{sound}: all files are as they should be"]


def test_json_is_one_object(sound: Path) -> None:
    (sound / f"{FIRST}.timeindex").write_bytes(b"")
    code, found = summary(sound.parent)
    (one,) = found["partitions"]
    assert (code, one["state"], one["topic"], one["partition"], one["log_end_offset"]) == (
        0, "reindexed", "orders", 3, 18,
    )  # fmt: skip
    assert one["files"] == [
        {"path": str(sound / f"{FIRST}.timeindex"), "action": "rewrite", "size_before": 0, "size": 12}
    ]
    assert found["summary"] == {
        "partitions": 1, "sound": 0, "reindexed": 1, "damaged": 0, "failed": 0, "files": 1,
    }  # fmt: skip


def test_a_dry_run_says_the_same_and_changes_nothing(sound: Path, tree_unchanged: Any) -> None:
    (sound / f"{FIRST}.timeindex").write_bytes(b"garbage")
    with tree_unchanged(sound.parent):
        tried = summary("--dry-run", sound.parent)
        assert logstore("reindex", "--dry-run", sound).lines[0] == f"{sound}: 1 files differ"
    done = summary(sound.parent)
    assert tried[1].pop("dry_run") and not done[1].pop("dry_run")
    assert tried == done


def test_one_segment_is_taken_alone(sound: Path) -> None:
    for base in (FIRST, LAST):
        (sound / f"{base}.timeindex").unlink()
    assert logstore("reindex", sound / f"{LAST}.log").code == 0
    assert (sound / f"{LAST}.timeindex").exists() and not (sound / f"{FIRST}.timeindex").exists()
    result = logstore("reindex", sound / f"{LAST}.index")
    assert (result.code, "neither a segment" in result.err) == (3, True)


def test_damage_is_exit_code_1_and_left(sound: Path, tree_unchanged: Any) -> None:
    flip_bit(sound / f"{FIRST}.log", 70, 0)
    (sound / f"{LAST}.timeindex").unlink()
    with tree_unchanged(sound):
        result = logstore("reindex", sound.parent)
    assert (result.code, result.lines) == (1, [f"{sound}: DAMAGED, left as it is"])
    assert f"{FIRST}.log" in result.err and "at position 0" in result.err
    assert summary(sound)[1]["partitions"][0]["damage"]["position"] == 0


def test_a_torn_end_is_noted(alone: Path) -> None:
    append_bytes(alone / f"{LAST}.log", b"torn")
    result = logstore("reindex", alone)
    assert result.code == 0
    assert "4 bytes at the end of the log are in no index; `logstore recover` cuts them" in result.err


def test_an_unclean_log_directory_is_exit_code_3_unless_forced(sound: Path) -> None:
    (sound.parent / ".kafka_cleanshutdown").unlink()
    for path in (sound.parent, sound):
        result = logstore("reindex", path)
        assert (result.code, "`logstore recover`" in result.err) == (3, True)
        assert logstore("reindex", "--force", path).code == 0


def test_what_is_in_use_is_exit_code_3_whatever_is_forced(sound: Path) -> None:
    held = LocalFileSystem().lock(sound.parent / ".lock")
    assert held is not None
    for options in (("--force",), ("--force", "--dry-run")):
        for path in (sound.parent, sound, sound / f"{FIRST}.log"):
            result = logstore("reindex", *options, path)
            assert (result.code, "another process has it open" in result.err) == (3, True)
    held.release()
