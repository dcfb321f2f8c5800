"""`logstore retain`: what it prints, its exit codes, that a dry run is one, and a real broker's files after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import logstore, objects
from helpers.directories import START, alarms, copied, flip_bit, write_checkpoint
from helpers.metadata_logs import METADATA, setting, write_metadata

from logstore.fs import LocalFileSystem

NOW = ("--now", str(START + 86_400_000))
ALL = ("--retention-ms", "1000", *NOW)


@pytest.fixture
def alone(orders: Path, tmp_path: Path) -> Path:
    """A copy of `orders-3` without a log directory around it."""
    return copied(orders, tmp_path / "elsewhere")


@pytest.fixture
def clean(kafka_fixtures: Path, tmp_path: Path) -> Path:
    """A copy of what a broker left when it was shut down."""
    copy = Path(shutil.copytree(kafka_fixtures / "kafka-4.1.1" / "clean", tmp_path / "clean"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return copy


def offsets(partition: Path) -> list[int]:
    return [one["offset"] for one in objects("dump", partition)]


# ---------------------------------------------------------------- what it prints


def test_what_goes_is_told_with_the_reason(orders: Path) -> None:
    size = sum(path.stat().st_size for path in orders.glob("*.log")) // 3
    result = logstore("retain", "--retention-bytes", size, *NOW, orders)
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        f"{orders}: deleted 2 segments, {2 * size} bytes; the log starts at 12",
        f"  delete 00000000000000000000.log: offsets 0 to 5, {size} bytes: the log is large enough without it",
        f"  delete 00000000000000000006.log: offsets 6 to 11, {size} bytes: the log is large enough without it",
        f"  next 00000000000000000012.log: with {size} more bytes of log",
    ]
    assert offsets(orders) == list(range(12, 18))
    assert alarms(orders.parent) == []


def test_what_stays_is_told_with_the_time_it_goes(orders: Path) -> None:
    result = logstore("retain", "--retention-ms", "60000", "--now", "2023-11-14T22:14:00Z", orders)
    size = sum(path.stat().st_size for path in orders.glob("*.log"))
    assert result.lines == [
        f"{orders}: nothing to delete in 3 segments, {size} bytes",
        "  next 00000000000000000000.log: after 2023-11-14T22:14:20Z",
    ]


def test_json_is_one_object(orders: Path) -> None:
    size = (orders / "00000000000000000000.log").stat().st_size
    write_checkpoint(orders.parent / "log-start-offset-checkpoint", {"orders-3": 7})
    (found,) = objects("retain", "--retention-ms", "1000", "--now", START + 1012, orders)
    segment = {"end_offset": 12, "bytes": size, "largest_timestamp": START + 10}
    assert found == {
        "dry_run": False,
        "now": START + 1012,
        "partitions": [
            {
                "path": str(orders), "topic": "orders", "partition": 3, "retention_ms": 1000, "retention_bytes": None,
                "cleanup_policy": "delete", "log_start_offset_before": 7, "log_start_offset": 12, "log_end_offset": 18,
                "deleted_segments": 2, "deleted_bytes": 2 * size, "next_due": START + 1017, "next_due_bytes": None,
                "segments": [
                    {**segment, "base_offset": 0, "end_offset": 6, "largest_timestamp": START + 4, "deleted": True,
                     "reason": "log start"},
                    {**segment, "base_offset": 6, "deleted": True, "reason": "time"},
                    {**segment, "base_offset": 12, "end_offset": 18, "largest_timestamp": START + 16,
                     "deleted": False, "reason": "limits"},
                ],
                "error": None,
            }
        ],
        "left_alone": [],
        "summary": {"partitions": 1, "failed": 0, "deleted_segments": 2, "deleted_bytes": 2 * size},
    }  # fmt: skip


@pytest.mark.parametrize(
    "limit", [("--retention-ms", "1000"), ("--retention-bytes", "0"), ("--retention-bytes", "0.5KiB")]
)
def test_a_dry_run_says_the_same_and_changes_nothing(orders: Path, limit: tuple[str, ...], tree_unchanged: Any) -> None:
    with tree_unchanged(orders.parent):
        (tried,) = objects("retain", "--dry-run", *limit, *NOW, orders.parent)
        assert "would delete" in logstore("retain", "--dry-run", *limit, *NOW, orders).out.decode()
    (done,) = objects("retain", *limit, *NOW, orders.parent)
    assert tried.pop("dry_run") and not done.pop("dry_run")
    assert tried == done
    assert done["summary"]["deleted_segments"] > 0


def test_a_second_run_has_nothing_to_do(orders: Path, tree_unchanged: Any) -> None:
    logstore("retain", *ALL, orders)
    with tree_unchanged(orders):
        assert logstore("retain", *ALL, orders).lines == [f"{orders}: nothing to delete in 1 segments, 0 bytes"]


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("where", ["orders-3", "."])
def test_without_a_limit_it_is_wrong_usage_and_never_seven_days(
    orders: Path, alone: Path, where: str, tree_unchanged: Any
) -> None:
    with tree_unchanged(orders.parent), tree_unchanged(alone):
        for path in (orders.parent / where, alone):
            result = logstore("retain", "--now", "2050-01-01", path)
            assert (result.code, result.out) == (2, b"")
            assert "--retention-ms or --retention-bytes" in result.err


def test_of_several_paths_none_is_touched_when_one_has_no_limit(orders: Path, alone: Path, tree_unchanged: Any) -> None:
    write_metadata(orders.parent, [setting("orders", "retention.ms", "1000")])
    with tree_unchanged(orders.parent):
        assert logstore("retain", *NOW, orders, alone).code == 2
    assert logstore("retain", *NOW, orders).code == 0
    assert offsets(orders) == []


@pytest.mark.parametrize(
    "options", [("--retention-ms", "-2"), ("--retention-ms", "soon"), ("--retention-bytes", "-5"),
                ("--retention-bytes", "9999999999GiB"), ("--retention-ms", "1", "--now", "soon")]
)  # fmt: skip
def test_what_is_no_limit_or_time_is_wrong_usage(orders: Path, options: tuple[str, ...]) -> None:
    result = logstore("retain", *options, orders)
    assert (result.code, result.out, f"'{options[-2]}'" in result.err) == (2, b"", True)


def test_minus_one_takes_a_known_limit_away(orders: Path) -> None:
    write_metadata(orders.parent, [setting("orders", "retention.ms", "1000")])
    (found,) = objects("retain", "--retention-ms", "-1", *NOW, orders)
    assert (found["partitions"][0]["retention_ms"], found["summary"]["deleted_segments"]) == (None, 0)


# ---------------------------------------------------------------- log directories


def test_in_a_real_brokers_directory_only_the_topic_with_a_limit_is_done(clean: Path, tree_unchanged: Any) -> None:
    with tree_unchanged(clean / "retained-0"), tree_unchanged(clean / "plain-0"):  # its broker has done it already
        result = logstore("retain", clean)
        size = sum(path.stat().st_size for path in (clean / "retained-0").glob("*.log"))
        assert result.lines[0] == f"{clean / 'retained-0'}: nothing to delete in 4 segments, {size} bytes"
    assert "23 partitions were left alone" in result.err
    assert "1 directories set aside were not looked at" in result.err


def test_with_limits_all_but_what_is_internal_or_compacted_is_done(clean: Path, tree_unchanged: Any) -> None:
    internal = [path for path in clean.iterdir() if path.name.startswith("__")]
    before = {path.name: [one.name for one in path.iterdir()] for path in internal}
    result = logstore("retain", "--json", "-q", "--retention-ms", "1000", "--now", "2030-01-01", clean)
    assert (result.code, result.err) == (0, "")
    (found,) = result.objects
    assert {Path(path).name for path in found["left_alone"]} == {path.name for path in internal}
    assert {path.name: [one.name for one in path.iterdir()] for path in internal} == before
    for one in found["partitions"]:
        assert offsets(Path(one["path"])) == []
        assert one["log_start_offset"] == one["log_end_offset"]
    assert alarms(clean) == []
    assert (clean / ".kafka_cleanshutdown").exists()


def test_topic_and_partition_choose(clean: Path) -> None:
    result = logstore("retain", "--topic", "seg*", "--partition", "0", "--json", *ALL, clean)
    assert [one["topic"] for one in result.objects[0]["partitions"]] == ["segments"]
    assert result.objects[0]["left_alone"] == []


def test_the_metadata_log_is_never_done(clean: Path, tree_unchanged: Any) -> None:
    with tree_unchanged(clean / METADATA):
        result = logstore("retain", "--retention-ms", "0", clean / METADATA)
    assert (result.code, result.out, METADATA in result.err) == (3, b"", True)


# ---------------------------------------------------------------- what fails


def test_one_partition_that_fails_is_exit_code_1_and_the_others_are_done(clean: Path) -> None:
    lock = LocalFileSystem().lock(clean / "plain-0" / ".lock")
    assert lock is not None
    result = logstore("retain", *ALL, clean)
    lock.release()
    assert (result.code, "plain-0: another process has it open" in result.err) == (1, True)
    assert f"{clean / 'plain-0'}: could not be done, left as it is" in result.lines
    assert offsets(clean / "segments-0") == []
    assert len(offsets(clean / "plain-0")) == 240


def test_damage_is_exit_code_1_with_its_place(orders: Path, alone: Path) -> None:
    flip_bit(alone / "00000000000000000006.log", 100, 0)
    (orders.parent / ".kafka_cleanshutdown").unlink()
    write_metadata(orders.parent, [setting("orders", "retention.ms", "1000")] * 2)
    flip_bit(orders.parent / METADATA / "00000000000000000000.log", 80, 0)
    for path in (alone, orders, orders.parent):
        result = logstore("retain", "--force", *ALL, path)
        assert (result.code, result.out, "position" in result.err) == (1, b"", True)


def test_an_unclean_log_directory_is_exit_code_3_unless_forced(orders: Path) -> None:
    (orders.parent / ".kafka_cleanshutdown").unlink()
    for path in (orders, orders.parent):
        result = logstore("retain", *ALL, path)
        assert (result.code, "`logstore recover`" in result.err) == (3, True)
    assert logstore("retain", "--force", *ALL, orders).code == 0
    assert not (orders.parent / ".kafka_cleanshutdown").exists()


def test_what_is_in_use_is_exit_code_3_whatever_is_forced(orders: Path) -> None:
    lock = LocalFileSystem().lock(orders.parent / ".lock")
    assert lock is not None
    for path in (orders, orders.parent):
        for options in (("--force",), ("--force", "--dry-run")):
            result = logstore("retain", *options, *ALL, path)
            assert (result.code, "another process has it open" in result.err) == (3, True)
    lock.release()


def test_a_path_that_is_none_is_exit_code_3_and_the_others_are_done(orders: Path) -> None:
    result = logstore("retain", *ALL, orders / "00000000000000000000.log", orders.parent / "nothing-0", orders)
    assert (result.code, "is neither a partition directory nor a log directory" in result.err) == (3, True)
    assert offsets(orders) == []


def test_a_partition_that_stands_alone_and_is_young_is_warned_of(alone: Path) -> None:
    result = logstore("retain", *ALL, alone)
    assert (result.code, "was changed less than a minute ago" in result.err) == (0, True)
    assert offsets(alone) == []
