"""`logstore read`: from where it is told on, as a consumer sees it, and beside a process that appends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest
from helpers.commands import PROGRAM, Result, environment, logstore, objects
from helpers.directories import START, LogDirectory, Partition, flip_bit

from logstore.log import Log

WAIT_SECONDS = 30


def offsets(*arguments: object) -> list[int]:
    return [one["offset"] for one in objects("read", *arguments)]


@contextmanager
def following(place: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads and follows; killed at the end, and after a while in any case."""
    command = [*PROGRAM, "read", "--json", "-f", *options, str(place)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    limit = Timer(WAIT_SECONDS, child.kill)
    limit.start()
    try:
        yield child
    finally:
        limit.cancel()
        child.kill()
        child.communicate()


def value_of(line: bytes) -> str:
    assert line, "the process ended, or was killed after a while"
    found: str = json.loads(line)["value"]
    return found


# ---------------------------------------------------------------- from where, how many


def test_all_records_are_read_as_dump_prints_them(orders: Path) -> None:
    assert objects("read", orders) == objects("dump", orders)
    assert logstore("read", orders).out == logstore("dump", orders).out


@pytest.mark.parametrize(
    ("start", "first"),
    [("start", 0), ("0", 0), ("7", 7), ("17", 17), ("18", 18), ("999", 18), ("end", 18)],
)
def test_it_begins_at_an_offset(orders: Path, start: str, first: int) -> None:
    assert offsets("--from", start, orders) == list(range(first, 18))


def test_it_begins_at_the_first_record_of_a_time(orders: Path) -> None:
    for start, first in (
        ("2023-11-14T22:13:20Z", 0),  # when the first batch was made
        ("2023-11-14T22:13:20.005Z", 6),  # batches are stamped with their first offset: 0, 2, 4, 6, ...
        ("2023-11-14T22:13:20.006Z", 6),
        ("2023-11-14T22:13:21Z", 18),
        ("1h", 18),
        ("1971-01-01", 0),
    ):
        assert offsets("--from", start, orders) == list(range(first, 18)), start
    assert START == 1_700_000_000_000  # what these times are


@pytest.mark.parametrize(
    ("start", "first"),
    [
        (START, 0), (START + 5, 6), (START - 1, 0), (START + 10**6, 18), (10**11, 0),
        (10**11 - 1, 18), ("000000000007", 7), (2**63 - 1, 18),
    ],
)  # fmt: skip
def test_a_number_beyond_the_end_is_a_time_where_it_has_twelve_digits(
    orders: Path, start: int | str, first: int
) -> None:
    assert offsets("--from", start, orders) == list(range(first, 18))


def test_a_number_within_the_log_is_an_offset_however_many_digits_it_has(directory: LogDirectory) -> None:
    partition = directory.partition("far-0", first_offset=10**12)
    for _ in range(3):
        partition.append(b"x")
    directory.close()
    assert offsets("--from", 10**12 + 1, partition.path) == [10**12 + 1, 10**12 + 2]
    assert offsets("--from", 10**12 + 3, partition.path) == []
    assert offsets("--from", 10**12 + 4, partition.path) == [10**12, 10**12 + 1, 10**12 + 2]  # a time: of the year 2001


def test_the_end_is_known_without_reading_what_lies_before(orders: Path) -> None:
    flip_bit(orders / "00000000000000000000.log", 90, 3)
    result = logstore("read", "--from", "end", orders)
    assert (result.code, result.out, result.err) == (0, b"", "")


def test_a_time_beyond_the_last_record_is_the_end(orders: Path) -> None:
    result = logstore("read", "--from", "2030-01-01", orders)
    assert (result.code, result.out, result.err) == (0, b"", "")


@pytest.mark.parametrize(("limit", "count"), [("0", 0), ("1", 1), ("5", 5), ("99", 18)])
def test_it_stops_after_so_many_records(orders: Path, limit: str, count: int) -> None:
    assert offsets("--max", limit, orders) == list(range(count))
    assert offsets("--max", limit, "--from", "3", orders) == list(range(3, min(3 + count, 18)))


@pytest.mark.parametrize("encoding", ["utf8", "hex", "base64"])
def test_bytes_become_text_in_the_given_encoding(orders: Path, encoding: str) -> None:
    assert objects("read", "--encoding", encoding, orders) == objects("dump", "--encoding", encoding, orders)


# ---------------------------------------------------------------- isolation


def test_a_consumer_sees_no_markers_and_where_asked_no_aborted_or_open_transactions(transactions: Path) -> None:
    assert offsets(transactions) == [0, 1, 2, 3, 5, 7, 8, 9]
    assert offsets("--isolation", "read_committed", transactions) == [0, 3, 5, 7]


def test_a_limit_counts_what_is_seen(transactions: Path) -> None:
    assert offsets("--isolation", "read_committed", "--max", "2", transactions) == [0, 3]
    assert offsets("--isolation", "read_committed", "--from", "1", "--max", "1", transactions) == [3]


def test_records_below_the_start_of_the_log_are_not_there(directory: LogDirectory, written: Partition) -> None:
    directory.close(log_starts={"orders-3": 7})
    assert offsets(written.path) == list(range(7, 18))
    assert offsets("--from", "2", "--max", "2", written.path) == [7, 8]


# ---------------------------------------------------------------- exit codes


def test_damage_is_told_once_passed_by_and_ends_with_1(alone: Path) -> None:
    flip_bit(alone / "00000000000000000006.log", 90, 3)
    result = logstore("read", "--json", alone)
    assert result.code == 1
    assert [one["offset"] for one in result.objects] == [*range(6), *range(8, 18)]
    assert result.err.count("00000000000000000006.log: position 0") == 1


def failed(*arguments: object) -> Result:
    result = logstore("read", *arguments)
    assert (result.code, result.out) == (3, b"")
    return result


def test_what_is_no_partition_directory_ends_with_3(orders: Path, tmp_path: Path) -> None:
    assert "No such file" in failed(tmp_path / "missing-0").err
    assert "is not a partition directory" in failed(orders.parent).err
    assert "is not a partition directory" in failed(orders / "00000000000000000000.log").err


def test_the_path_is_looked_at_also_where_nothing_is_wanted(orders: Path, tmp_path: Path) -> None:
    assert "No such file" in failed("--max", "0", tmp_path / "missing-0").err
    assert "is not a partition directory" in failed("--max", "0", "-f", orders.parent).err


def test_a_segment_that_cannot_be_read_ends_with_3(alone: Path) -> None:
    (alone / "00000000000000000006.log").unlink()
    (alone / "00000000000000000006.log").symlink_to("nowhere")
    result = logstore("read", "--json", alone)
    assert result.code == 3
    assert [one["offset"] for one in result.objects] == [*range(6), *range(12, 18)]


@pytest.mark.parametrize(
    "options", [("--from", "yesterday"), ("--from", "-1x"), ("--max", "-1"), ("--isolation", "none"), ("--no-such",)]
)
def test_wrong_usage_ends_with_2(orders: Path, options: tuple[str, ...]) -> None:
    result = logstore("read", *options, orders)
    assert result.code == 2
    assert options[0] in result.err or options[-1] in result.err


def test_reading_changes_nothing_and_takes_no_lock(tmp_path: Path, tree_unchanged: object) -> None:
    place = tmp_path / "orders-0"
    with Log.open(place) as log:
        log.append([(None, b"a")])
        with tree_unchanged(place):  # type: ignore[operator]
            assert offsets(place) == [0]
        log.append([(None, b"b")])
        assert offsets(place) == [0, 1]


# ---------------------------------------------------------------- following


def test_what_is_appended_while_it_follows_is_read(tmp_path: Path) -> None:
    place = tmp_path / "orders-0"
    with Log.open(place) as log:
        log.append([(None, b"old")])
        with following(place) as child:
            assert child.stdout is not None
            assert value_of(child.stdout.readline()) == "old"
            command = [*PROGRAM, "append", str(tmp_path / "other-0")]
            subprocess.run(command, input=b"elsewhere\n", env=environment(), check=True, timeout=WAIT_SECONDS)
            for value in (b"one", b"two"):
                log.append([(None, value)])
                assert value_of(child.stdout.readline()) == value.decode()


def test_another_process_appends_while_it_follows_from_the_end(tmp_path: Path) -> None:
    place = tmp_path / "orders-0"
    with Log.open(place) as log:
        log.append([(None, b"old")])
    with following(place, "--from", "1", "--max", "3") as child:
        command = [*PROGRAM, "append", "-q", "--batch-records", "1", str(place)]
        subprocess.run(command, input=b"1\n2\n3\n4\n", env=environment(), check=True, timeout=WAIT_SECONDS)
        out, err = child.communicate(timeout=WAIT_SECONDS)
        assert [value_of(line) for line in out.splitlines()] == ["1", "2", "3"]
        assert (child.returncode, err) == (0, b"")


def test_damage_is_told_while_it_follows_and_ends_with_1(alone: Path) -> None:
    flip_bit(alone / "00000000000000000006.log", 90, 3)
    with following(alone, "--max", "16") as child:
        out, err = child.communicate(timeout=WAIT_SECONDS)
        assert [json.loads(line)["offset"] for line in out.splitlines()] == [*range(6), *range(8, 18)]
        assert (child.returncode, err.count(b"00000000000000000006.log: position 0")) == (1, 1)


def test_nothing_is_read_again_while_it_follows(tmp_path: Path) -> None:
    place = tmp_path / "orders-0"
    with Log.open(place) as log:
        for number in range(3):
            log.append([(None, b"%d" % number)])
            log.roll()
        with following(place) as child:
            assert child.stdout is not None
            assert [value_of(child.stdout.readline()) for _ in range(3)] == ["0", "1", "2"]
            for number in range(3, 8):
                log.append([(None, b"%d" % number)])
                log.roll()
                assert value_of(child.stdout.readline()) == str(number)


def test_following_ends_quietly_when_nobody_reads_and_with_130_when_interrupted(tmp_path: Path) -> None:
    place = tmp_path / "orders-0"
    with Log.open(place) as log:
        log.append([(None, b"a")])
        with following(place) as child:
            assert child.stdout is not None
            assert value_of(child.stdout.readline()) == "a"
            os.kill(child.pid, signal.SIGINT)
            assert child.wait(WAIT_SECONDS) == 130
        with following(place) as child:
            assert child.stdout is not None
            assert value_of(child.stdout.readline()) == "a"
            child.stdout.close()
            log.append([(None, b"b")])
            assert child.wait(WAIT_SECONDS) == 0
            child.stdout = None
