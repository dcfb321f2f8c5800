"""Every kind of small file is rows of plain values; a broken one gives what can be read, then the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.directories import append_bytes, flip_bit, overwrite

from logstore.errors import LogstoreError, UnsupportedFormatError
from logstore.inspect import file_rows, resolve
from logstore.inspect.layout import SingleFile

FIRST = "00000000000000000000"


def rows(path: Path) -> list[dict[str, Any]]:
    return list(iterate(path))


def iterate(path: Path) -> Iterator[dict[str, Any]]:
    target = resolve(path)
    assert isinstance(target, SingleFile)
    return file_rows(target)


def rows_before_the_error(path: Path) -> list[dict[str, Any]]:
    found = []
    with pytest.raises(LogstoreError) as caught:
        found += [row for row in iterate(path) if not found.append(row)]
    assert caught.value.path == str(path)
    return found


def test_an_offset_index_gives_absolute_offsets(orders: Path) -> None:
    assert [row["offset"] for row in rows(orders / "00000000000000000006.index")] == [9, 11]
    assert rows(orders / f"{FIRST}.index")[0].keys() == {"offset", "position"}


def test_a_time_index_gives_times_and_absolute_offsets(orders: Path) -> None:
    assert rows(orders / "00000000000000000006.timeindex")[0] == {"timestamp": 1_700_000_000_008, "offset": 9}


def test_a_transaction_index_gives_the_aborted_transactions(transactions: Path) -> None:
    assert rows(transactions / f"{FIRST}.txnindex") == [
        {"producer_id": 1, "first_offset": 1, "last_offset": 4, "last_stable_offset": 3}
    ]


@pytest.mark.kafka("DUMP-06")
def test_an_index_without_entries_has_no_rows(orders: Path) -> None:
    (orders / f"{FIRST}.index").write_bytes(b"")
    assert rows(orders / f"{FIRST}.index") == []


@pytest.mark.kafka("DUMP-04", "DUMP-05")
@pytest.mark.parametrize("name", [f"{FIRST}.index", f"{FIRST}.timeindex"])
def test_the_zero_tail_of_a_preallocated_index_is_no_entry(orders: Path, name: str) -> None:
    before = rows(orders / name)
    append_bytes(orders / name, bytes(1200))
    assert rows(orders / name) == before


@pytest.mark.parametrize("name", [f"{FIRST}.index", f"{FIRST}.timeindex", f"{FIRST}.txnindex"])
def test_an_index_of_odd_length_gives_its_whole_entries_first(transactions: Path, name: str) -> None:
    before = rows(transactions / name)
    append_bytes(transactions / name, b"\1")
    assert rows_before_the_error(transactions / name) == before


def test_a_transaction_index_of_an_unknown_version_stops_there(transactions: Path) -> None:
    overwrite(transactions / f"{FIRST}.txnindex", 0, b"\0\1")
    assert rows_before_the_error(transactions / f"{FIRST}.txnindex") == []


def test_a_snapshot_with_a_wrong_crc_gives_nothing(orders: Path) -> None:
    flip_bit(orders / "00000000000000000006.snapshot", 9, 0)
    assert rows_before_the_error(orders / "00000000000000000006.snapshot") == []


def test_checkpoints_give_their_lines(orders: Path) -> None:
    line = {"topic": "orders", "partition": 3, "offset": 18}
    assert rows(orders.parent / "recovery-point-offset-checkpoint") == [line]
    assert rows(orders / "leader-epoch-checkpoint") == [{"epoch": 0, "start_offset": 0}]


def test_properties_and_marks_give_one_row(orders: Path) -> None:
    assert rows(orders.parent / "meta.properties") == [{"cluster.id": "c", "node.id": "1", "version": "1"}]
    assert rows(orders.parent / ".kafka_cleanshutdown") == [{"broker_epoch": 1}]
    assert rows(orders / "partition.metadata") == [{"version": 0, "topic_id": "AAAAAAAAAAAAAAAAAAAAAQ"}]


def test_properties_that_kafka_would_refuse_are_shown_and_refused(orders: Path) -> None:
    path = orders.parent / "meta.properties"
    path.write_text("version=1\nnode.id=x\n")
    assert rows_before_the_error(path) == [{"node.id": "x", "version": "1"}]


def test_the_quorum_state_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "quorum-state").write_text('{"leaderId":1,"leaderEpoch":3,"votedId":-1,"data_version":0}')
    assert rows(tmp_path / "quorum-state") == [{"leaderId": 1, "leaderEpoch": 3, "votedId": -1, "data_version": 0}]


@pytest.mark.parametrize("name", ["notes.txt", ".lock", "meta.properties.tmp"])
def test_a_file_without_entries_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(UnsupportedFormatError):
        rows(tmp_path / name)


def test_every_small_file_that_a_broker_wrote_is_read(kafka_fixtures: Path) -> None:
    read = 0
    for path in (kafka_fixtures / "kafka-4.1.1").rglob("*"):
        target = resolve(path) if path.is_file() and "expected" not in path.parts else None
        if isinstance(target, SingleFile) and not target.holds_batches and target.path.name != ".lock":
            read += 1 + len(list(file_rows(target)))
    assert read > 500
