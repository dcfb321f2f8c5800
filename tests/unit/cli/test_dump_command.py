"""Every option of `logstore dump`, alone and together, prints what a plain filter over all of its lines leaves."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import batch, record
from helpers.commands import logstore, objects
from helpers.directories import START, LogDirectory, flip_bit, overwrite

Line = dict[str, Any]
Keep = Callable[[Line], bool]
FIRST = "00000000000000000000"


def text_of(value: Any) -> str | None:
    """A key or value as text; bytes that are none, one character for each byte."""
    return base64.b64decode(value["base64"]).decode("latin-1") if isinstance(value, dict) else value


def matches(pattern: str, value: Any) -> bool:
    return value is not None and re.search(pattern, text_of(value) or "") is not None


def is_user(line: Line) -> bool:
    return "control" not in line


# Options, and the same as a plain condition on the lines of `--json --batch`.
FILTERS: list[tuple[list[str], Keep]] = [
    (["--offsets", "20:90"], lambda one: 20 <= one["offset"] <= 90),
    (["--offsets", "150:"], lambda one: one["offset"] >= 150),
    (["--offsets", ":33"], lambda one: one["offset"] <= 33),
    (["--offsets", "17"], lambda one: one["offset"] == 17),
    (["--since", "1700000100000"], lambda one: one["timestamp"] >= 1700000100000),
    (["--until", "2023-11-14T22:14:00Z"], lambda one: one["timestamp"] <= 1700000040000),
    (["--key", "k2"], lambda one: is_user(one) and one["key"] == "k2"),
    (["--key", ""], lambda one: is_user(one) and one["key"] == ""),
    (["--key-regex", "^(k|tx1)"], lambda one: is_user(one) and matches("^(k|tx1)", one["key"])),
    (["--value-regex", "[0-9]{2}"], lambda one: is_user(one) and matches("[0-9]{2}", one["value"])),
    (["--header", "trace"], lambda one: any(name == "trace" for name, _ in one["headers"])),
    (["--header", "trace=t13"], lambda one: ["trace", "t13"] in one["headers"]),
    (["--header", "a="], lambda one: ["a", ""] in one["headers"]),
    (["--tombstones"], lambda one: is_user(one) and one["value"] is None),
    (["--producer-id", "2"], lambda one: one["batch"]["producer_id"] == 2),
    (["--producer-id", "-1"], lambda one: one["batch"]["producer_id"] == -1),
]
PAIRS = [(one, other) for number, one in enumerate(FILTERS) for other in FILTERS[number + 1 :]]
PLACES = [
    "kafka-4.1.1/clean/plain-0",
    "kafka-4.1.1/clean/txn-0",
    "kafka-2.8.2/clean/v1-gzip-0",
    "kafka-2.8.2/clean/mixed-0",
]


@pytest.fixture(scope="session")
def lines(kafka_fixtures: Path) -> dict[str, list[Line]]:
    """All lines of each place."""
    return {place: objects("dump", "--batch", kafka_fixtures / place) for place in PLACES}


def dumped(*arguments: object) -> list[Line]:
    return objects("dump", "--batch", *arguments)


# ---------------------------------------------------------------- filters


@pytest.mark.parametrize(("arguments", "keep"), FILTERS, ids=[" ".join(arguments) for arguments, _ in FILTERS])
def test_a_filter_leaves_what_a_plain_condition_leaves(
    kafka_fixtures: Path, lines: dict[str, list[Line]], arguments: list[str], keep: Keep
) -> None:
    for place, everything in lines.items():
        wanted = [line for line in everything if keep(line)]
        assert dumped(*arguments, kafka_fixtures / place) == wanted
        assert logstore("dump", "--count", *arguments, kafka_fixtures / place).out == b"%d\n" % len(wanted)


def test_any_two_filters_combine(kafka_fixtures: Path, lines: dict[str, list[Line]]) -> None:
    found = 0
    for (one, keep_one), (other, keep_other) in PAIRS:
        if one[0] == other[0]:
            continue
        for place in PLACES[:2]:
            wanted = [line for line in lines[place] if keep_one(line) and keep_other(line)]
            assert dumped(*one, *other, kafka_fixtures / place) == wanted, (one, other)
            found += bool(wanted)
    assert found > 50


@pytest.mark.parametrize("isolation", ["read_uncommitted", "read_committed"])
def test_filters_combine_with_an_isolation_level(kafka_fixtures: Path, isolation: str) -> None:
    place = kafka_fixtures / "kafka-4.1.1/clean/txn-0"
    everything = dumped("--isolation", isolation, place)
    for arguments, keep in FILTERS:
        wanted = [line for line in everything if keep(line)]
        assert dumped("--isolation", isolation, *arguments, place) == wanted, arguments


@pytest.mark.parametrize("limit", [0, 1, 7, 40, 10_000])
@pytest.mark.parametrize("filters", [[], ["--offsets", "20:90"], ["--tombstones"], ["--key-regex", "k"]], ids=str)
def test_limit_tail_and_count_cut_what_the_filters_leave(kafka_fixtures: Path, limit: int, filters: list[str]) -> None:
    place = kafka_fixtures / PLACES[0]
    everything = dumped(*filters, place)
    tail = everything[-limit:] if limit else []
    assert dumped(*filters, "--limit", limit, place) == everything[:limit]
    assert dumped(*filters, "--tail", limit, place) == tail
    assert dumped(*filters, "--limit", limit, "--tail", 3, place) == everything[:limit][-3:]
    assert dumped(*filters, "--count", "--limit", limit, place) == [{"count": len(everything[:limit])}]
    assert dumped(*filters, "--count", "--tail", limit, place) == [{"count": len(tail)}]


@pytest.mark.parametrize("option", ["--limit", "--tail"])
def test_a_number_larger_than_any_log_is_all_of_it(orders: Path, option: str) -> None:
    assert len(dumped(option, 10**30, orders)) == 18


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_key_is_written_in_the_chosen_encoding(orders: Path, directory: LogDirectory, encoding: str) -> None:
    partition = directory.partition("binary-0")
    partition.append((b"\xff\x00", b"v", START, (("h", b"\xfe"),)), (b"other", b"v"))
    key, value = {"hex": ("ff00", "fe"), "base64": ("/wA=", "/g==")}[encoding]
    found = dumped("--encoding", encoding, "--key", key, "--header", f"h={value}", partition.path)
    assert [(line["offset"], line["key"]) for line in found] == [(0, key)]


def test_a_time_may_be_so_long_ago(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append((None, b"old", START), (None, b"future", 2**52))
    assert [line["value"] for line in dumped("--since", "1h", partition.path)] == ["future"]
    assert [line["value"] for line in dumped("--until", "1h", partition.path)] == ["old"]


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize(("arguments", "keep"), FILTERS, ids=[" ".join(arguments) for arguments, _ in FILTERS])
def test_batches_are_those_that_hold_what_the_filters_leave(
    kafka_fixtures: Path, lines: dict[str, list[Line]], arguments: list[str], keep: Keep
) -> None:
    for place, everything in lines.items():
        wanted = list({str(line["batch"]): line["batch"] for line in everything if keep(line)}.values())
        assert objects("dump", "--batches", *arguments, kafka_fixtures / place) == wanted


@pytest.mark.kafka("DUMP-02")
def test_keys_and_values_are_shown_with_records_only_and_where_they_are(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append((b"key", None), (None, b"value"), (b"", b""))
    assert [(line["key"], line["value"]) for line in dumped(partition.path)] == [
        ("key", None),
        (None, "value"),
        ("", ""),
    ]
    assert logstore("dump", "--batches", partition.path).out.count(b"key") == 0
    assert not {"key", "value"} & objects("dump", "--batches", partition.path)[0].keys()


def test_batches_are_limited_and_counted_like_records(kafka_fixtures: Path) -> None:
    place = kafka_fixtures / PLACES[0]
    everything = objects("dump", "--batches", place)
    assert objects("dump", "--batches", "--limit", 2, place) == everything[:2]
    assert objects("dump", "--batches", "--tail", 2, place) == everything[-2:]
    assert objects("dump", "--batches", "--count", place) == [{"count": len(everything)}]


def test_a_batch_with_a_wrong_crc_is_shown_as_invalid(orders: Path) -> None:
    overwrite(orders / f"{FIRST}.log", 17, b"\0\0\0\0")
    result = logstore("dump", "--batches", "--json", orders)
    assert result.code == 1
    assert [line["valid"] for line in result.objects] == [False] + [True] * 8
    unverified = logstore("dump", "--batches", "--json", "--no-verify", orders)
    assert (unverified.code, {line["valid"] for line in unverified.objects}) == (0, {None})


def test_batches_as_csv_have_a_header(orders: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(logstore("dump", "--batches", "--format", "csv", orders).out.decode())))
    assert len(rows) == 9
    assert (rows[1]["base_offset"], rows[1]["codec"], rows[1]["delete_horizon_ms"]) == ("2", "none", "")


# ---------------------------------------------------------------- formats


def test_json_is_the_same_by_either_option(orders: Path) -> None:
    assert logstore("dump", "--json", orders).out == logstore("dump", "--format", "json", orders).out


def test_text_has_a_line_for_each_record(orders: Path) -> None:
    result = logstore("dump", orders)
    assert len(result.lines) == 18
    assert result.lines[0].split("\t") == ["orders-3", "0", "2023-11-14T22:13:20.000Z", "null", "00000000"]


def test_csv_has_one_header_for_all_records(directory: LogDirectory, orders: Path, transactions: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(logstore("dump", "--format", "csv", directory.path).out.decode())))
    assert len(rows) == 18 + 10
    assert rows[0]["value"] == "00000000" and rows[-1]["topic"] == "payments"


def test_csv_of_small_files_names_their_own_columns(orders: Path) -> None:
    index, epochs = orders / "00000000000000000006.index", orders / "leader-epoch-checkpoint"
    result = logstore("dump", "--format", "csv", index, epochs, orders / f"{FIRST}.log")
    assert result.lines[:2] == ["offset,position", "9,91"]
    assert "epoch,start_offset" in result.lines
    assert any(line.startswith("topic,partition,offset,") for line in result.lines)


def test_csv_of_nothing_is_its_header(tmp_path: Path) -> None:
    (tmp_path / "orders-3").mkdir()
    result = logstore("dump", "--format", "csv", tmp_path / "orders-3")
    assert result.lines == ["topic,partition,offset,timestamp,timestamp_type,key,value,headers"]


def test_raw_values_end_with_a_newline_or_nul(orders: Path) -> None:
    assert logstore("dump", "--format", "raw", "--limit", 2, orders).out == b"00000000\n00000001\n"
    assert logstore("dump", "--format", "raw", "-0", "--limit", 2, orders).out == b"00000000\x0000000001\0"


@pytest.mark.parametrize("line_format", ["text", "json", "csv", "raw"])
@pytest.mark.parametrize("place", PLACES)
def test_all_ways_of_cutting_print_the_same_lines(kafka_fixtures: Path, line_format: str, place: str) -> None:
    path = kafka_fixtures / place
    whole = logstore("dump", "--format", line_format, path).out
    for cut in (["--limit", 10_000], ["--tail", 10_000], ["--offsets", "0:10000"]):
        assert logstore("dump", "--format", line_format, *cut, path).out == whole


def test_internal_topics_are_decoded_unless_told_not_to(kafka_fixtures: Path) -> None:
    place = kafka_fixtures / "kafka-4.1.1/clean/__consumer_offsets-0"
    decoded, plain = dumped(place), dumped("--no-decode", "--encoding", "hex", place)
    assert isinstance(decoded[0]["key"], dict) and isinstance(plain[0]["key"], str)
    assert [line["offset"] for line in decoded] == [line["offset"] for line in plain]


@pytest.mark.kafka("DUMP-10", "DUMP-12")
def test_what_cannot_be_decoded_is_said_in_its_place(directory: LogDirectory) -> None:
    partition = directory.partition("__consumer_offsets-0")
    partition.append(
        (None, b"no key"), (b"\0\1\0\1g\0\1t\0\0\0\0", None), (b"\x7f\xff", b"v"), (b"\0\1\0\1g\0\1t\0\0\0\0", b"?")
    )
    missing, deleted, unknown, broken = dumped(partition.path)
    assert "error" in str(missing["key"]).lower() or missing["key"] is None
    assert deleted["value"] is None and deleted["key"] is not None
    assert "32767" in json.dumps(unknown["key"])
    assert "skipping" in json.dumps(broken["value"])


# ---------------------------------------------------------------- output and paths


def test_output_goes_to_a_file(orders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = logstore("dump", "--json", "-o", out, orders)
    assert (result.code, result.out) == (0, b"")
    assert out.read_bytes() == logstore("dump", "--json", orders).out


def test_output_never_goes_into_what_is_read(orders: Path, tmp_path: Path, tree_unchanged: Any) -> None:
    log, link, hard_link = orders / f"{FIRST}.log", tmp_path / "link", tmp_path / "hard"
    link.symlink_to(log)
    hard_link.hardlink_to(log)
    with tree_unchanged(orders.parent):
        for output in (log, orders / "out", orders.parent / "out", link, hard_link):
            for path in (orders.parent, orders, log):
                if output.name != "out" or path != log:
                    refused = path in (output, *output.parents) or output.name != "out"
                    assert not refused or logstore("dump", "-o", output, path).code == 2, (output, path)


def test_output_that_cannot_be_opened_is_exit_code_3(orders: Path, tmp_path: Path) -> None:
    result = logstore("dump", "-o", tmp_path / "nowhere" / "out", orders)
    assert result.code == 3 and str(tmp_path / "nowhere" / "out") in result.err


def test_several_paths_are_taken_in_order(orders: Path) -> None:
    logs = sorted(orders.glob("*.log"), reverse=True)
    assert [line["offset"] for line in dumped(*logs)] == [*range(12, 18), *range(6, 12), *range(6)]
    assert len(dumped("--limit", 8, *logs)) == 8
    assert [line["offset"] for line in dumped("--tail", 1, *logs)] == [5]


def test_a_log_directory_is_all_of_its_partitions_by_topic_and_number(directory: LogDirectory, orders: Path) -> None:
    for name in ("orders-10", "orders-2", "audit-0"):
        directory.partition(name).append(b"v")
    assert list(dict.fromkeys((line["topic"], line["partition"]) for line in dumped(directory.path))) == [
        ("audit", 0), ("orders", 2), ("orders", 3), ("orders", 10),
    ]  # fmt: skip
    assert {line["partition"] for line in dumped("--topic", "ord*", "--partition", 2, directory.path)} == {2}
    assert {line["topic"] for line in dumped("--topic", "x", "--topic", "audit", directory.path)} == {"audit"}
    batches = objects("dump", "--batches", "--topic", "audit", directory.path)
    assert (batches[0]["topic"], batches[0]["partition"]) == ("audit", 0)


def test_no_matching_partition_is_said(directory: LogDirectory, orders: Path) -> None:
    result = logstore("dump", "--topic", "nobody", directory.path)
    assert (result.code, result.out) == (0, b"") and "no partition matches" in result.err


def test_what_is_set_aside_is_mentioned_and_read_when_named(directory: LogDirectory, orders: Path) -> None:
    deleted = directory.partition(f"old-0.{'0' * 32}-delete")
    deleted.append(b"v")
    log = orders / "00000000000000000006.log"
    log.rename(f"{log}.deleted")
    result = logstore("dump", "--count", directory.path)
    assert (result.code, result.out) == (0, b"12\n")
    assert "1 leftover files" in result.err and "1 directories set aside" in result.err
    assert logstore("dump", "--count", "--quiet", directory.path).err == ""
    assert [line["topic"] for line in dumped(deleted.path)] == ["old"]
    assert [line["offset"] for line in dumped(f"{log}.deleted")] == list(range(6, 12))


def test_filters_on_a_file_without_records_are_refused(orders: Path) -> None:
    result = logstore("dump", "--offsets", "0:5", orders / f"{FIRST}.index")
    assert result.code == 3 and "holds none" in result.err


# ---------------------------------------------------------------- damage


def test_damage_is_said_with_file_position_and_reason_and_reading_goes_on(orders: Path) -> None:
    log = orders / "00000000000000000006.log"
    flip_bit(log, 70, 0)
    result = logstore("dump", "--json", orders)
    assert result.code == 1
    assert [line["offset"] for line in result.objects] == [*range(6), *range(8, 18)]
    assert (
        result.err == f"logstore: {log}: position 0 (offset 6): the bytes of a batch do not match its CRC (91 bytes)\n"
    )
    assert logstore("dump", "--quiet", orders).err == result.err


def test_records_that_lie_are_said_and_reading_goes_on(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append_bytes(batch(record(b"k", b"v"), record(b"k", b"v", offset_delta=1, length=99)))
    partition.append(b"v")
    result = logstore("dump", "--json", partition.path)
    assert result.code == 1 and [line["offset"] for line in result.objects][-1] == 2
    assert "record" in result.err


def test_a_batch_above_the_cap_is_said_and_the_cap_can_be_raised(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append(bytes(5000))
    result = logstore("dump", "--max-batch-bytes", "4KiB", partition.path)
    assert result.code == 1 and "raise the cap" in result.err
    assert logstore("dump", "--max-batch-bytes", "8KiB", partition.path).code == 0


def test_a_broken_index_gives_its_whole_entries_and_exit_code_1(orders: Path) -> None:
    index = orders / f"{FIRST}.index"
    index.write_bytes(index.read_bytes() + b"\1")
    result = logstore("dump", "--json", index)
    assert result.code == 1 and len(result.objects) == 2 and str(index) in result.err


def test_a_zero_tail_is_told_unless_quiet_is_asked_for(kafka_fixtures: Path) -> None:
    place = kafka_fixtures / "kafka-4.1.1/live/preallocated-0"
    assert "preallocated space" in logstore("dump", "--count", place).err
    assert logstore("dump", "--count", "--quiet", place).err == ""
