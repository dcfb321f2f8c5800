"""`logstore describe` fits what a path holds on one screen, and says the same as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import logstore, objects
from helpers.directories import LogDirectory, Partition, append_bytes, flip_bit, write_checkpoint
from logstore_cli.describe import moment, size

LABELS = ["shutdown", "segments", "offsets", "records", "times", "codecs", "formats"]


def fields(path: Path) -> dict[str, str]:
    """The lines of a description by their label."""
    lines = logstore("describe", path).lines
    return {line[2:16].strip(): line[16:] for line in lines[1:]}


def test_a_partition_is_described_field_by_field(orders: Path) -> None:
    found = fields(orders)
    assert list(found)[: len(LABELS)] == LABELS
    assert (found["shutdown"], found["offsets"], found["codecs"]) == ("clean", "0 to 18 (next)", "none 9")
    assert found["records"] == "18 in 9 batches"
    assert found["times"] == "2023-11-14T22:13:20Z to 2023-11-14T22:13:20Z (CreateTime)"
    assert found["checkpoints"] == "high watermark 18, recovery point 18"


def test_transactions_are_told_where_there_are_any(transactions: Path, orders: Path) -> None:
    assert fields(transactions)["transactions"] == "1 committed, 1 aborted, 1 open"
    assert "transactions" not in fields(orders)


def test_clean_and_dirty_part_are_told_where_there_is_a_cleaner(orders: Path) -> None:
    write_checkpoint(orders.parent / "cleaner-offset-checkpoint", {"orders-3": 6})
    assert fields(orders)["compaction"] == "cleaned up to 6, 273 B clean, 273 B dirty, ratio 0.50"


def test_a_log_directory_is_a_table(directory: LogDirectory, written: Partition) -> None:
    directory.partition("audit-0").append(b"v")
    (directory.path / "lost+found").mkdir()
    directory.close()
    lines = logstore("describe", directory.path).lines
    assert lines[0] == f"{directory.path}: log directory, shutdown clean"
    assert "  not a partition: lost+found (1)" in lines
    assert [line.split()[0] for line in lines if line.startswith(("PARTITION", "audit", "orders", "2 "))] == [
        "PARTITION", "audit-0", "orders-3", "2",
    ]  # fmt: skip


def test_topic_and_partition_choose(directory: LogDirectory, orders: Path) -> None:
    directory.partition("audit-0").append(b"v")
    [found] = objects("describe", "--topic", "audit", directory.path)
    assert [one["topic"] for one in found["partitions"]] == ["audit"]


def test_json_is_one_object_for_each_path(orders: Path) -> None:
    directory, partition, index = objects("describe", orders.parent, orders, orders / "00000000000000000006.index")
    assert (directory["kind"], directory["topics"], directory["totals"]["records"]) == ("log directory", 1, 18)
    assert (partition["kind"], partition["partitions"]) == ("partition", directory["partitions"])
    assert (index["kind"], index["entries"]) == ("offset index", 2)


def test_a_small_file_is_its_first_and_last_entry(orders: Path) -> None:
    path = orders / "00000000000000000006.index"
    assert logstore("describe", path).lines == [
        f"{path}: offset index, 2 entries",
        "  first   offset=9 position=91",
        "  last    offset=11 position=182",
    ]


def test_damage_is_told_and_exit_code_1(directory: LogDirectory, orders: Path) -> None:
    flip_bit(orders / "00000000000000000006.log", 70, 0)
    assert fields(orders)["DAMAGE"].startswith("1 places")
    result = logstore("describe", directory.path)
    assert result.code == 1 and "1 DAMAGED" in result.out.decode()


def test_a_broken_checkpoint_is_said_and_exit_code_1(directory: LogDirectory, orders: Path) -> None:
    path = directory.path / "recovery-point-offset-checkpoint"
    path.write_text("broken")
    result = logstore("describe", directory.path)
    assert result.code == 1 and str(path) in result.err
    assert "orders-3" in result.out.decode()


def test_a_broken_small_file_is_said_and_exit_code_1(orders: Path) -> None:
    append_bytes(orders / "00000000000000000006.index", b"\1")
    result = logstore("describe", orders / "00000000000000000006.index")
    assert result.code == 1 and "1 bytes" in result.err


@pytest.mark.parametrize(("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes_are_for_people(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [(None, "-"), (0, "1970-01-01T00:00:00Z"), (2**62, str(2**62)), (-1, "1969-12-31T23:59:59Z")],
)
def test_any_timestamp_can_be_shown(timestamp: int | None, shown: str) -> None:
    assert moment(timestamp) == shown
