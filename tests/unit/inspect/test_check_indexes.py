"""An index is held against the batches of its segment, and allowed everything that Kafka leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.directories import LogDirectory, Partition, alarms, append_bytes, codes, overwrite, shorten

from logstore.inspect import Severity
from logstore.log import AbortedTransaction
from logstore.records import ControlType

FIRST, SECOND = "00000000000000000000", "00000000000000000006"
ENTRY_SIZES = {"index": 8, "timeindex": 12, "txnindex": 34}


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "big", signed=True)


# ---------------------------------------------------------------- length


@pytest.mark.parametrize("extension", ENTRY_SIZES)
@pytest.mark.parametrize("extra", [1, 7])
def test_an_index_of_odd_length_is_damage(transactions: Path, extension: str, extra: int) -> None:
    path = transactions / f"{FIRST}.{extension}"
    size = path.stat().st_size
    append_bytes(path, b"\1" * extra)
    [found] = alarms(transactions)
    assert (found.code, found.path, found.position) == ("index-size", path, size)


@pytest.mark.parametrize("extension", ["index", "timeindex"])
def test_an_index_cut_inside_an_entry_is_damage(orders: Path, extension: str) -> None:
    path = orders / f"{SECOND}.{extension}"
    shorten(path, path.stat().st_size - 1)
    assert "index-size" in codes(alarms(orders))


@pytest.mark.parametrize("extension", ["index", "timeindex"])
def test_zeros_behind_the_entries_of_a_closed_segment_are_a_warning(orders: Path, extension: str) -> None:
    append_bytes(orders / f"{FIRST}.{extension}", bytes(1200))
    [found] = alarms(orders)
    assert (found.code, found.severity) == ("index-padding", Severity.WARNING)


@pytest.mark.kafka("DUMP-04", "DUMP-05")
@pytest.mark.parametrize("extension", ["index", "timeindex"])
def test_zeros_behind_the_entries_of_the_active_segment_are_its_spare_room(written: Partition, extension: str) -> None:
    append_bytes(written.log.with_suffix(f".{extension}"), bytes(1200))
    assert alarms(written.path) == []


@pytest.mark.parametrize("extension", ["index", "timeindex"])
def test_after_a_clean_shutdown_there_is_no_spare_room(orders: Path, extension: str) -> None:
    append_bytes(orders / f"00000000000000000012.{extension}", bytes(1200))
    assert codes(alarms(orders)) == {"index-padding"}


# ---------------------------------------------------------------- offset index


def test_an_entry_of_a_whole_append_of_several_batches_is_right(written: Partition) -> None:
    # As a follower writes it: the last offset of all, the position of the first.
    overwrite(written.log.with_suffix(".index"), 0, number(5))
    shorten(written.log.with_suffix(".index"), 8)
    written.close()
    assert alarms(written.path) == []


@pytest.mark.parametrize(("field", "value"), [(0, 2), (0, 500), (0, -1), (4, 1), (4, 100_000), (4, -1)])
def test_an_entry_that_points_to_no_such_batch_is_damage(orders: Path, field: int, value: int) -> None:
    overwrite(orders / f"{SECOND}.index", field, number(value))
    assert "index-mismatch" in codes(alarms(orders))


@pytest.mark.parametrize("field", [0, 4])
def test_entries_that_do_not_ascend_are_damage(orders: Path, field: int) -> None:
    path = orders / f"{SECOND}.index"
    overwrite(path, 8 + field, path.read_bytes()[field : field + 4])
    assert "index-order" in codes(alarms(orders))


def test_the_index_of_another_segment_is_damage(orders: Path) -> None:
    big = Partition(orders.parent / "big-0")
    for size in (1, 300, 20, 700):
        big.append(bytes(size), bytes(size), bytes(size))
    (orders / f"{SECOND}.index").write_bytes(big.log.with_suffix(".index").read_bytes())
    assert "index-mismatch" in codes(alarms(orders))


# ---------------------------------------------------------------- time index


@pytest.mark.parametrize("timestamp", [0, 1_700_000_000_000, 2**62])
def test_a_timestamp_that_no_record_has_is_damage(orders: Path, timestamp: int) -> None:
    overwrite(orders / f"{SECOND}.timeindex", 0, number(timestamp, 8))
    assert "time-index-mismatch" in codes(alarms(orders))


@pytest.mark.parametrize("offset", [-1, 0, 500])
def test_a_time_entry_for_another_offset_is_damage(orders: Path, offset: int) -> None:
    overwrite(orders / f"{SECOND}.timeindex", 8, number(offset))
    assert "time-index-mismatch" in codes(alarms(orders))


def test_time_entries_that_do_not_ascend_are_damage(orders: Path) -> None:
    path = orders / f"{SECOND}.timeindex"
    overwrite(path, 12, path.read_bytes()[:12])
    assert "time-index-order" in codes(alarms(orders))


def test_a_closed_segment_without_its_last_time_entry_is_damage(orders: Path) -> None:
    shorten(orders / f"{SECOND}.timeindex", 12)
    assert codes(alarms(orders)) == {"time-index-mismatch"}


def test_the_time_index_of_another_segment_is_damage(orders: Path) -> None:
    (orders / f"{FIRST}.timeindex").write_bytes((orders / f"{SECOND}.timeindex").read_bytes())
    assert "time-index-mismatch" in codes(alarms(orders))


def test_records_without_timestamps_leave_an_empty_time_index(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "orders-3")
    partition.append((None, b"v", -1))
    partition.append((None, b"v", -1))
    partition.roll().append((None, b"v", -1))
    assert (partition.path / f"{FIRST}.timeindex").read_bytes() == b""
    assert alarms(partition.close()) == []


# ---------------------------------------------------------------- transaction index


def test_a_missing_transaction_index_is_damage_where_a_transaction_was_aborted(transactions: Path) -> None:
    (transactions / f"{FIRST}.txnindex").unlink()
    [found] = alarms(transactions)
    assert (found.code, found.offset) == ("txn-index-missing", 4)


def test_a_segment_without_any_index_needs_none(transactions: Path, tmp_path: Path) -> None:
    bare = tmp_path / f"{FIRST}.log"
    bare.write_bytes((transactions / f"{FIRST}.log").read_bytes())
    assert alarms(bare) == []


@pytest.mark.parametrize(
    "entry",
    [
        AbortedTransaction(9, 1, 4, 3),  # another producer
        AbortedTransaction(1, 2, 4, 3),  # begins too late
        AbortedTransaction(1, 4, 1, 3),  # ends before it begins
        AbortedTransaction(1, 1, 400, 3),  # beyond the segment
        AbortedTransaction(-1, 1, 4, 3),
    ],
)
def test_an_entry_that_is_not_that_of_the_log_is_damage(transactions: Path, entry: AbortedTransaction) -> None:
    (transactions / f"{FIRST}.txnindex").write_bytes(entry.encode())
    assert "txn-index-entry" in codes(alarms(transactions))


def test_an_entry_of_an_unknown_version_is_damage(transactions: Path) -> None:
    overwrite(transactions / f"{FIRST}.txnindex", 0, b"\0\1")
    assert "txn-index-entry" in codes(alarms(transactions))


def test_the_entry_of_a_transaction_whose_first_records_were_deleted_is_right(directory: LogDirectory) -> None:
    partition = directory.partition("payments-0")
    partition.append_transactional(1, b"deleted by retention")
    partition.roll().append_transactional(1, b"still there")
    partition.end_transaction(1, ControlType.ABORT)
    directory.close()
    for path in partition.path.glob(f"{FIRST}.*"):
        path.unlink()
    assert alarms(partition.path) == []
