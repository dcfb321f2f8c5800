"""`dump` says of every file what Kafka's own dump tool said of it, field by field.

The stock tool is wrong in two ways, and there the test says what is right instead:

- of an offset or time index that a broker preallocated and never used (in a partition that waits for deletion) it
  prints an entry of zeros, because it looks for the end of the entries only from the second one on;
- of format v0 and v1 it prints one offset for a batch, which of a compressed set is its last; ours has both.

What it says at its end about mismatches is on its stderr and not among these files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import objects
from helpers.fixtures import stock_words

from logstore.records import increment_sequence

FIELD = re.compile(r"(\w+): (\[.*?\]|OptionalLong\[-?\d+\]|\S+)")
# Ours by the stock tool's name for it, as it stands in a line for a batch.
BATCH_FIELDS = {
    "baseOffset": "base_offset", "lastOffset": "last_offset", "count": "count", "baseSequence": "base_sequence",
    "producerId": "producer_id", "producerEpoch": "producer_epoch", "partitionLeaderEpoch": "leader_epoch",
    "isTransactional": "transactional", "isControl": "control", "position": "position", "size": "size",
    "magic": "magic", "crc": "crc", "isvalid": "valid",
}  # fmt: skip
FLAGS = {"true": True, "false": False}


def stock_fields(line: str) -> dict[str, str]:
    return dict(FIELD.findall(line))


def stock_time(fields: dict[str, str]) -> tuple[str, int]:
    (name,) = fields.keys() & {"CreateTime", "LogAppendTime", "NoTimestampType"}
    return name, int(fields[name])


def stock_batch(line: str) -> dict[str, Any]:
    """The fields of a line for a batch, by our names."""
    fields = stock_fields(line)
    batch: dict[str, Any] = {
        ours: FLAGS.get(fields[theirs]) if fields[theirs] in FLAGS else int(fields[theirs])
        for theirs, ours in BATCH_FIELDS.items()
        if theirs in fields
    }
    if "offset" in fields:
        batch["last_offset"] = int(fields["offset"])
    if "lastSequence" in fields:
        batch["last_sequence"] = int(fields["lastSequence"])
    if "deleteHorizonMs" in fields:
        horizon = fields["deleteHorizonMs"].removeprefix("OptionalLong")
        batch["delete_horizon_ms"] = None if horizon == ".empty" else int(horizon.strip("[]"))
    batch["codec"] = fields["compresscodec"].lower()
    batch["timestamp_type"], batch["max_timestamp"] = stock_time(fields)
    return batch


def stock_record(line: str) -> dict[str, Any]:
    """The fields of a line for a record."""
    fields = stock_fields(line)
    record: dict[str, Any] = {"offset": int(fields["offset"]), "time": stock_time(fields)}
    if "sequence" in fields:
        record["sequence"] = int(fields["sequence"])
        record["header_keys"] = [key for key in fields["headerKeys"][1:-1].split(",") if key]
    if "endTxnMarker" in fields:
        record["control"] = {"type": fields["endTxnMarker"], "coordinator_epoch": int(fields["coordinatorEpoch"])}
    elif "LeaderChange" not in fields:
        record["key_size"], record["value_size"] = int(fields["keySize"]), int(fields["valueSize"])
    return record


def our_record(record: dict[str, Any]) -> dict[str, Any]:
    """The same of one of our objects, with `--batch` and in hex."""
    batch = record["batch"]
    ours: dict[str, Any] = {
        "offset": record["offset"],
        "time": (record["timestamp_type"], record["timestamp"]),
        "sequence": sequence(batch, record["offset"] - batch["base_offset"]),
        "header_keys": [name for name, _ in record["headers"]],
        "key_size": -1 if record["key"] is None else len(record["key"]) // 2,
        "value_size": -1 if record["value"] is None else len(record["value"]) // 2,
    }
    return ours | ({"control": record["control"]} if "control" in record else {})


def sequence(batch: dict[str, Any], delta: int) -> int:
    return -1 if batch["base_sequence"] < 0 else increment_sequence(batch["base_sequence"], delta)


def logs(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each log, with the stock tool's lines for batches and for records."""
    for path, lines in stock_words(root, ".log"):
        assert lines[0] in (f"{word}tarting offset: {int(path.stem)}" for word in ("Log s", "S"))
        records = [line for line in lines[1:] if line.startswith("| ")]
        yield path, [line for line in lines[1:] if not line.startswith("| ")], records


@pytest.mark.kafka("DUMP-01")
def test_batches_are_those_of_the_stock_tool(kafka_fixtures: Path) -> None:
    compared: Counter[str] = Counter()
    for path, batch_lines, _ in logs(kafka_fixtures):
        ours = objects("dump", "--batches", path)
        assert len(ours) == len(batch_lines), path
        for batch, line in zip(ours, batch_lines, strict=True):
            stock = stock_batch(line)
            batch["last_sequence"] = sequence(batch, batch["last_offset"] - batch["base_offset"])
            assert {name: batch[name] for name in stock} == stock, path
            compared[f"v{batch['magic']} {batch['codec']}"] += 1
    assert compared.total() >= 2700
    wanted = [f"v2 {codec}" for codec in ("none", "gzip", "snappy", "lz4", "zstd")]
    wanted += [f"v{magic} {codec}" for magic in (0, 1) for codec in ("none", "gzip", "snappy", "lz4")]
    assert set(wanted) <= compared.keys()


@pytest.mark.kafka("DUMP-01")
def test_records_are_those_of_the_stock_tool(kafka_fixtures: Path) -> None:
    compared = 0
    for path, _, record_lines in logs(kafka_fixtures):
        ours = list(map(our_record, objects("dump", "--no-decode", "--batch", "--encoding", "hex", path)))
        assert len(ours) == len(record_lines), path
        for record, line in zip(ours, record_lines, strict=True):
            stock = stock_record(line)
            assert {name: record.get(name) for name in stock} == stock, path
            compared += 1
    assert compared >= 15000


def test_entries_of_offset_indexes_are_those_of_the_stock_tool(kafka_fixtures: Path) -> None:
    assert compare_index_entries(kafka_fixtures, ".index", {"offset": 0, "position": 0}) >= 300


def test_entries_of_time_indexes_are_those_of_the_stock_tool(kafka_fixtures: Path) -> None:
    assert compare_index_entries(kafka_fixtures, ".timeindex", {"timestamp": 0, "offset": 0}) >= 290


def test_entries_of_transaction_indexes_are_those_of_the_stock_tool(kafka_fixtures: Path) -> None:
    compared = 0
    for path, lines in stock_words(kafka_fixtures, ".txnindex"):
        stock = [as_numbers(line) for line in lines]
        ours = [{"version": 0, **{camel(name): value for name, value in row.items()}} for row in objects("dump", path)]
        assert ours == stock, path
        compared += len(stock)
    assert compared >= 19


def test_producers_of_snapshots_are_those_of_the_stock_tool(kafka_fixtures: Path) -> None:
    compared = 0
    for path, lines in stock_words(kafka_fixtures, ".snapshot"):
        assert [stock_producer(row) for row in objects("dump", path)] == list(map(stock_fields, lines)), path
        compared += len(lines)
    assert compared >= 10


def compare_index_entries(root: Path, suffix: str, zero_entry: dict[str, int]) -> int:
    compared = 0
    for path, lines in stock_words(root, suffix):
        stock = [] if lines[0].endswith(" is empty.") else [as_numbers(line) for line in lines]
        if stock == [zero_entry] and not any(path.read_bytes()):
            stock = []
        assert objects("dump", path) == stock, path
        compared += len(stock)
    return compared


def as_numbers(line: str) -> dict[str, int]:
    return {name: int(value) for name, value in stock_fields(line).items()}


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def stock_producer(row: dict[str, Any]) -> dict[str, str]:
    """One of our entries in the stock tool's words."""
    first = row["current_transaction_first_offset"]
    words = {
        "producerId": row["producer_id"],
        "producerEpoch": row["producer_epoch"],
        "coordinatorEpoch": row["coordinator_epoch"],
        "currentTxnFirstOffset": "OptionalLong.empty" if first < 0 else f"OptionalLong[{first}]",
        "lastTimestamp": row["last_timestamp"],
    }
    if row["last_offset"] >= 0:
        names = ("first_sequence", "last_sequence", "last_offset", "offset_delta")
        words |= {camel(name): row[name] for name in names} | {"timestamp": row["last_timestamp"]}
    return {name: str(value) for name, value in words.items()}
