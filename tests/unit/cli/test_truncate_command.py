"""`logstore truncate`: what it prints, its exit codes, and that a dry run is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.commands import logstore, objects
from helpers.directories import alarms, flip_bit

from logstore.fs import LocalFileSystem


def offsets(partition: Path) -> list[int]:
    return [one["offset"] for one in objects("dump", partition)]


def test_what_is_dropped_is_told(orders: Path) -> None:
    result = logstore("truncate", "--to", "6", orders)
    assert (result.code, result.err) == (0, "")
    assert result.out.decode().startswith(f"{orders}: dropped 12 records in 6 batches, ")
    assert result.out.decode().endswith(" bytes, 1 whole segments; the next offset is 6\n")
    assert offsets(orders) == list(range(6))
    assert alarms(orders.parent) == []


def test_json_is_one_object(orders: Path) -> None:
    (found,) = objects("truncate", "--to", "12", orders)
    size = found.pop("bytes")
    assert size > 0
    assert found == {
        "path": str(orders), "topic": "orders", "partition": 3, "dry_run": False, "to": 12, "log_start_offset": 0,
        "log_end_offset_before": 18, "log_end_offset": 12, "segments": 0, "batches": 3, "records": 6,
        "split_batch": None,
    }  # fmt: skip


def test_a_dry_run_says_the_same_and_changes_nothing(orders: Path, tree_unchanged: Any) -> None:
    with tree_unchanged(orders.parent):
        (tried,) = objects("truncate", "--dry-run", "--to", "8", orders)
        assert b": would drop 10 records in 5 batches" in logstore("truncate", "--dry-run", "--to", "8", orders).out
    (done,) = objects("truncate", "--to", "8", orders)
    assert tried.pop("dry_run") and not done.pop("dry_run")
    assert tried == done


def test_a_batch_with_the_offset_in_its_middle_is_told_of(orders: Path) -> None:
    result = logstore("truncate", "--to", "9", "--json", orders)
    assert result.code == 0
    assert "offset 9 lies within the batch of 8 to 9, which goes as a whole" in result.err
    assert (result.objects[0]["split_batch"], result.objects[0]["log_end_offset"]) == ([8, 9], 8)
    assert offsets(orders) == list(range(8))


def test_the_end_of_the_log_leaves_nothing_to_drop(orders: Path, tree_unchanged: Any) -> None:
    with tree_unchanged(orders):
        result = logstore("truncate", "--to", "18", orders)
    assert result.lines == [f"{orders}: nothing to drop, the next offset is 18"]


@pytest.mark.parametrize("options", [("--to", "19"), ("--to", "-1"), ("--to", "x"), ()])
def test_an_offset_that_is_not_in_the_log_is_exit_code_2(
    orders: Path, options: tuple[str, ...], tree_unchanged: Any
) -> None:
    with tree_unchanged(orders):
        result = logstore("truncate", *options, orders)
    assert (result.code, result.out) == (2, b"")
    assert "--to" in result.err


def test_damage_before_the_offset_is_exit_code_1(alone: Path) -> None:
    flip_bit(alone / "00000000000000000006.log", 100, 0)
    result = logstore("truncate", "--to", "14", alone)
    assert (result.code, result.out) == (1, b"")
    assert "at position" in result.err
    result = logstore("truncate", "--to", "4", alone)
    assert (result.code, b": dropped what is damaged" in result.out) == (0, True)
    assert offsets(alone) == [0, 1, 2, 3]


def test_an_unclean_log_directory_is_exit_code_3_unless_forced(orders: Path) -> None:
    (orders.parent / ".kafka_cleanshutdown").unlink()
    result = logstore("truncate", "--to", "6", orders)
    assert (result.code, "`logstore recover`" in result.err) == (3, True)
    assert logstore("truncate", "--force", "--to", "6", orders).code == 0


def test_what_is_in_use_is_exit_code_3_whatever_is_forced(orders: Path) -> None:
    held = LocalFileSystem().lock(orders.parent / ".lock")
    assert held is not None
    for options in (("--force",), ("--force", "--dry-run")):
        result = logstore("truncate", *options, "--to", "6", orders)
        assert (result.code, "another process has it open" in result.err) == (3, True)
    held.release()


def test_what_is_no_partition_directory_is_exit_code_3(orders: Path) -> None:
    for path in (orders.parent, orders / "00000000000000000000.log"):
        result = logstore("truncate", "--to", "6", path)
        assert (result.code, "is not a partition directory" in result.err) == (3, True)
