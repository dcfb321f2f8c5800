"""Whatever a path holds, a command says what it is, goes on, and ends with the exit code of the contract.

Every byte of a small segment has its own file, test_every_byte.py; batches that lie, codecs and formats are looked at
one by one in unit/inspect/test_check_batches.py. Here whole commands meet whole files.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from by_hand import GZIP, batch, message, record, zeros_by_zstd
from helpers.commands import Result, logstore, process, process_without_privileges
from helpers.directories import (
    LogDirectory,
    Partition,
    alarms,
    append_bytes,
    codes,
    copied,
    insert,
    overwrite,
    shorten,
    values,
)

COMMANDS = ["dump", "check", "describe"]
SEGMENT = "00000000000000000006.log"
PAGE = 4096


def all_commands(*arguments: object) -> dict[str, Result]:
    results = {command: logstore(command, *arguments) for command in COMMANDS}
    assert not any("Traceback" in result.err for result in results.values())
    return results


def exit_codes(*arguments: object) -> set[int]:
    return {result.code for result in all_commands(*arguments).values()}


# ---------------------------------------------------------------- paths


def test_a_missing_path_is_exit_code_3(tmp_path: Path) -> None:
    assert exit_codes(tmp_path / "nowhere") == {3}
    assert exit_codes(tmp_path / "nowhere" / "00000000000000000000.log") == {3}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_permission_is_exit_code_3(orders: Path, command: str) -> None:
    for path in (orders / SEGMENT, orders / "leader-epoch-checkpoint", orders):
        path.chmod(0)
        result = process_without_privileges(command, path)
        path.chmod(0o755)
        assert result.code == 3 and "Permission denied" in result.err + result.out.decode()


@pytest.mark.parametrize("name", ["00000000000000000000.log", "00000000000000000000.index", "leader-epoch-checkpoint"])
def test_an_empty_file_is_no_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert {result.code for command, result in all_commands(tmp_path / name).items() if command != "check"} == {0}
    assert logstore("dump", "--count", tmp_path / name).out == b"0\n"


def test_an_empty_snapshot_is_damage(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000000.snapshot").touch()
    assert exit_codes(tmp_path / "00000000000000000000.snapshot") == {1}


def test_a_directory_without_logs_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    assert exit_codes(tmp_path) == {3}


@pytest.mark.parametrize("name", ["notes.txt", "core", "00000000000000000000.log.gz", ".lock"])
def test_a_file_that_is_no_log_by_its_name_is_exit_code_3(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(random.Random(1).randbytes(5000))
    assert {
        result.code
        for command, result in all_commands(tmp_path / name).items()
        if command != "check" or name != ".lock"
    } == {3}


@pytest.mark.parametrize(
    "content", [b"hello\n", b"\x7fELF" + bytes(5000) + b"x", b"{}" * 4000, random.Random(2).randbytes(70_000)]
)
def test_a_file_that_is_no_log_by_its_content_is_damage(tmp_path: Path, content: bytes) -> None:
    log = tmp_path / "00000000000000000000.log"
    log.write_bytes(content)
    assert exit_codes(log) == {1}
    assert logstore("dump", log).out == b""


def test_a_pipe_a_device_and_a_socket_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "00000000000000000000.log")
    assert exit_codes(tmp_path / "00000000000000000000.log") == {3}
    assert exit_codes("/dev/null") == {3}


@pytest.mark.parametrize(
    "name", ["orders", "orders-", "-3", "orders-99999999999", "orders--", "orders-delete", "a b", "données"]
)
def test_names_that_are_no_topic_partition_are_found_in_a_log_directory(
    directory: LogDirectory, orders: Path, name: str
) -> None:
    (directory.path / name).mkdir()
    assert codes(alarms(directory.path)) == {"foreign-directory"}
    assert logstore("dump", "--count", directory.path).out == b"18\n"
    assert logstore("describe", directory.path).code == 0


@pytest.mark.parametrize("path", [".", "./", "../orders-3", "./../orders-3/"])
def test_a_partition_is_known_from_inside_itself(orders: Path, path: str) -> None:
    done = process("dump", "--json", "--limit", "1", path, cwd=orders)
    assert b'{"topic":"orders","partition":3,' in done.stdout
    assert [process(command, path, cwd=orders).returncode for command in COMMANDS] == [0, 0, 0]


@pytest.mark.parametrize("name", ["orders", "données", "caf\udce9-0", "a\nb-1"])
def test_a_partition_is_read_whatever_its_directory_is_called(orders: Path, name: str) -> None:
    renamed = orders.rename(orders.with_name(name))
    for command in COMMANDS:
        assert process(command, renamed).returncode == 0


# ---------------------------------------------------------------- bytes in a log


@pytest.mark.parametrize("position", [0, 91, 100, 182, 272])
def test_a_zeroed_page_is_found_and_the_rest_is_read(directory: LogDirectory, position: int) -> None:
    partition = directory.partition("orders-3")
    for _ in range(200):
        partition.append(*values(2))
    directory.close()
    before = partition.log.read_bytes()
    overwrite(partition.log, position, bytes(PAGE))
    after = partition.log.read_bytes()
    intact = sum(before[place : place + 91] == after[place : place + 91] for place in range(0, len(before), 91))
    assert exit_codes(partition.path) == {1}
    assert len(logstore("dump", partition.path).lines) == 2 * intact


@pytest.mark.parametrize("garbage", [b"\0", b"x" * 11, bytes(60), b"garbage" * 100, random.Random(3).randbytes(3000)])
@pytest.mark.parametrize("position", [0, 91, 182])
def test_garbage_between_batches_is_found_and_every_record_is_read(orders: Path, garbage: bytes, position: int) -> None:
    insert(orders / SEGMENT, position, garbage)
    result = logstore("dump", "--json", orders)
    assert result.code == 1 and [one["offset"] for one in result.objects] == list(range(18))
    assert f"{orders / SEGMENT}: position {position}" in result.err
    assert logstore("check", orders).code == 1


@pytest.mark.parametrize("garbage", [b"x", b"x" * 11, b"garbage" * 100, b"\xff" * 61, random.Random(4).randbytes(3000)])
def test_a_garbage_tail_is_found_and_every_record_is_read(orders: Path, garbage: bytes) -> None:
    append_bytes(orders / "00000000000000000012.log", garbage)
    assert exit_codes(orders) == {1}
    assert len(logstore("dump", orders).lines) == 18


@pytest.mark.parametrize("size", [-(2**31), -1, 0, 1, 13, 48, 2**31 - 1])
def test_an_impossible_length_is_found_and_the_rest_is_read(orders: Path, size: int) -> None:
    overwrite(orders / SEGMENT, 91 + 8, size.to_bytes(4, "big", signed=True))
    assert exit_codes(orders) == {1}
    offsets = [one["offset"] for one in logstore("dump", "--json", orders).objects]
    assert offsets == [*range(8), *range(10, 18)]


LIES = {
    "count -1": batch(record(b"k", b"v"), count=-1),
    "count too high": batch(record(b"k", b"v"), count=2, last_offset_delta=1),
    "count of a billion": batch(record(b"k", b"v"), count=10**9, last_offset_delta=10**9),
    "count too low": batch(record(b"k", b"v"), record(b"k", b"v", offset_delta=1), count=1, last_offset_delta=1),
    "a varint that never ends": batch(body=b"\xff" * 100, count=1),
    "a length of two billion": batch(record(b"k", b"v", length=2**31 - 1), count=1),
    "a body that is no gzip": batch(body=b"not gzip at all", attributes=GZIP, count=1),
    "a gzip that lies about its count": batch(record(b"k", b"v"), codec=GZIP, count=2, last_offset_delta=1),
    "an unknown codec": batch(body=b"?", attributes=7, count=1),
    "a bomb": batch(body=zeros_by_zstd(1 << 30), attributes=4, count=1),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_batch_that_lies_is_found_and_the_rest_is_read(directory: LogDirectory, lie: str) -> None:
    partition = directory.partition("orders-3")
    partition.append_bytes(LIES[lie])
    partition.append(b"behind it")
    assert logstore("check", "--fail-on", "warning", partition.path).code == 1
    result = logstore("dump", partition.path)
    assert result.code == 1 and result.lines[-1].endswith("behind it")
    assert logstore("describe", partition.path).code in (0, 1)


@pytest.mark.parametrize("magic", [3, 100, 128, 255])
def test_an_unsupported_format_is_found_and_the_rest_is_read(orders: Path, magic: int) -> None:
    overwrite(orders / SEGMENT, 16, bytes([magic]))
    assert exit_codes(orders) == {1}
    assert len(logstore("dump", orders).lines) == 16


@pytest.mark.parametrize("magic", [0, 1])
def test_an_old_message_that_is_broken_is_found_and_the_rest_is_read(directory: LogDirectory, magic: int) -> None:
    partition = directory.partition("orders-3")
    partition.append_bytes(message(magic, b"k", b"v", crc=1))
    partition.append_bytes(message(magic, b"k", b"behind it", offset=1))
    assert exit_codes(partition.path) == {1}
    assert logstore("dump", "--format", "raw", partition.path).out == b"behind it\n"


# ---------------------------------------------------------------- indexes and checkpoints


@pytest.mark.parametrize("extension", ["index", "timeindex", "txnindex", "snapshot"])
def test_a_small_file_of_odd_length_is_found(transactions: Path, extension: str) -> None:
    path = sorted(transactions.glob(f"*.{extension}"))[0]
    append_bytes(path, b"\1\2\3")
    assert logstore("check", transactions).code == logstore("check", path).code == 1
    assert logstore("dump", path).code == logstore("describe", path).code == 1
    assert logstore("dump", "--count", transactions).out == b"10\n"


@pytest.mark.parametrize("extension", ["index", "timeindex"])
def test_the_index_of_another_segment_is_found(kafka_fixtures: Path, tmp_path: Path, extension: str) -> None:
    partition = copied(kafka_fixtures / "kafka-4.1.1" / "clean" / "segments-0", tmp_path)
    one, other = sorted(partition.glob(f"*.{extension}"))[:2]
    one.write_bytes(other.read_bytes())
    assert logstore("check", partition).code == logstore("check", one).code == 1


BROKEN_TEXTS = {
    "another version": "1\n0\n",
    "no number": "x\n0\n",
    "fewer lines than said": "0\n3\norders 3 18\n",
    "more lines than said": "0\n0\norders 3 18\n",
    "too few fields": "0\n1\norders 3\n",
    "a word for a number": "0\n1\norders three 18\n",
    "a number too large": "0\n1\norders 3 99999999999999999999\n",
    "bytes": "\xff\xfe\x00",
    "zeros": "\0" * 100,
}
CHECKPOINTS = ["recovery-point", "log-start", "replication", "cleaner"]


@pytest.mark.parametrize("which", CHECKPOINTS)
@pytest.mark.parametrize("broken", BROKEN_TEXTS)
def test_a_broken_checkpoint_is_found_and_the_records_are_read(
    directory: LogDirectory, orders: Path, which: str, broken: str
) -> None:
    path = directory.path / f"{which}-offset-checkpoint"
    path.write_text(BROKEN_TEXTS[broken], encoding="latin-1")
    assert codes(alarms(directory.path)) == {"checkpoint"}
    assert exit_codes(path) == {1}
    assert logstore("dump", "--count", directory.path).out == b"18\n"
    assert logstore("describe", directory.path).code == 1


@pytest.mark.parametrize("broken", BROKEN_TEXTS)
def test_broken_leader_epochs_are_found_and_the_records_are_read(orders: Path, broken: str) -> None:
    path = orders / "leader-epoch-checkpoint"
    path.write_text(BROKEN_TEXTS[broken], encoding="latin-1")
    assert codes(alarms(orders)) == {"checkpoint"}
    assert logstore("dump", "--count", orders).out == b"18\n"
    assert logstore("describe", orders).code == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("meta.properties", "version=9\n"),
        ("meta.properties", "version=1\nnode.id=one\n"),
        ("orders-3/partition.metadata", "version: x\n"),
        ("orders-3/partition.metadata", "\0" * 50),
    ],
)
def test_broken_properties_are_found_and_the_records_are_read(
    directory: LogDirectory, orders: Path, name: str, text: str
) -> None:
    (directory.path / name).write_text(text)
    assert codes(alarms(directory.path)) == {"checkpoint"}
    assert logstore("dump", "--count", directory.path).out == b"18\n"


def test_consumers_beginning_is_said_to_be_unknown_where_it_is(directory: LogDirectory, orders: Path) -> None:
    (directory.path / "log-start-offset-checkpoint").write_text("x\n")
    result = logstore("dump", "--isolation", "read_uncommitted", "--count", directory.path)
    assert result.code == 1 and "log-start-offset-checkpoint" in result.err


# ---------------------------------------------------------------- files that come and go


def test_a_segment_removed_from_the_middle_is_found(kafka_fixtures: Path, tmp_path: Path) -> None:
    for suffixes in (["log"], ["log", "index", "timeindex"], ["log", "index", "timeindex", "snapshot"]):
        partition = copied(kafka_fixtures / "kafka-4.1.1" / "clean" / "segments-0", tmp_path / str(len(suffixes)))
        for suffix in suffixes:
            (partition / f"00000000000000000525.{suffix}").unlink()
        assert alarms(partition) != []
        assert logstore("check", "--fail-on", "warning", partition).code == 1


def test_a_segment_deleted_while_its_partition_is_read_is_no_damage(
    orders: Path, monkeypatch: pytest.MonkeyPatch, at_open: Callable[[str, Callable[[], None]], None]
) -> None:
    before = copied(orders, orders.parent.parent / "before")
    for command in COMMANDS:
        at_open("00000000000000000000.log", lambda: (orders / SEGMENT).unlink(missing_ok=True))
        assert logstore(command, orders).code == 0
        (orders / SEGMENT).write_bytes((before / SEGMENT).read_bytes())


def test_a_partition_deleted_while_its_log_directory_is_read_is_no_damage(
    directory: LogDirectory, orders: Path, at_open: Callable[[str, Callable[[], None]], None]
) -> None:
    for command in COMMANDS:
        later = directory.partition("zebra-0")
        later.append(b"v")
        later.close()
        at_open(SEGMENT, lambda path=later.path: path.rename(path.with_name("zebra-0." + "0" * 32 + "-delete")))
        assert logstore(command, directory.path).code == 0
        for path in directory.path.glob("zebra*/*"):
            path.unlink()
        next(directory.path.glob("zebra*")).rmdir()


def test_a_file_that_grows_while_it_is_read_is_no_damage(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    for number in range(50):
        partition.append(*values(20), b"%d" % number)
    directory.close(is_clean=False)
    done = threading.Event()
    growing = threading.Thread(target=grow, args=(partition, done))
    growing.start()
    try:
        results = [logstore(command, partition.log, directory.path) for _ in range(3) for command in COMMANDS]
    finally:
        done.set()
        growing.join()
    assert {result.code for result in results} == {0}, [result.err for result in results if result.code]


def grow(partition: Partition, done: threading.Event) -> None:
    """Append like a broker: each batch in one write."""
    while not done.is_set() and partition.next_offset < 100_000:
        partition.append(*values(20))


def test_a_log_cut_while_it_is_read_is_no_damage(
    directory: LogDirectory, at_open: Callable[[str, Callable[[], None]], None]
) -> None:
    partition = directory.partition("orders-3")
    for _ in range(60):
        partition.append(bytes(20_000))
    directory.close(is_clean=False)
    for command in COMMANDS:
        whole = partition.log.read_bytes()
        at_open(partition.log.name, lambda: shorten(partition.log, 20_078 * 30))
        result = logstore(command, partition.log)
        partition.log.write_bytes(whole)
        assert result.code == 0, result.err
