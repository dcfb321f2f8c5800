"""`logstore append`: lines and JSON become records, and what cannot be appended ends with the right exit code."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from helpers.commands import PROGRAM, Result, environment, logstore, objects, process
from helpers.directories import alarms

from logstore.fs import LocalFile
from logstore.log import Log
from logstore.records import RecordBatch, iter_batches

Append = Callable[..., Result]
LOG = "00000000000000000000.log"
WAIT_SECONDS = 30


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "orders-0"


@pytest.fixture
def append(place: Path, monkeypatch: pytest.MonkeyPatch) -> Append:
    """Append bytes from stdin to `place`."""

    def run(given: bytes, *options: object, to: Path = place) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        return logstore("append", *options, to)

    return run


def records(place: Path, *options: object) -> list[dict[str, Any]]:
    return objects("dump", *options, place)


def column(place: Path, name: str) -> list[Any]:
    return [one[name] for one in records(place)]


def batches(place: Path) -> list[RecordBatch]:
    return list(iter_batches((place / LOG).read_bytes()))


# ---------------------------------------------------------------- lines


def test_each_line_is_a_value(append: Append, place: Path) -> None:
    result = append(b"one\n\ntwo \r\nlast")
    assert (result.code, result.out) == (0, b"")
    assert result.err == f"logstore: {place}: 4 records appended, the next offset is 4\n"
    assert [(one["key"], one["value"]) for one in records(place)] == [
        (None, "one"), (None, ""), (None, "two \r"), (None, "last"),
    ]  # fmt: skip
    assert alarms(place) == []


def test_a_second_run_goes_on_where_the_first_ended(append: Append, place: Path) -> None:
    append(b"a\nb\n")
    assert append(b"c\n", "-q").err == ""
    assert column(place, "offset") == [0, 1, 2]
    assert alarms(place) == []


def test_empty_stdin_makes_an_empty_log(append: Append, place: Path) -> None:
    result = append(b"")
    assert result.code == 0
    assert "0 records appended, the next offset is 0" in result.err
    assert records(place) == []
    assert append(b"a\n").code == 0
    assert column(place, "value") == ["a"]


def test_a_separator_parts_key_and_value_where_it_is_first(append: Append, place: Path) -> None:
    assert append(b"k::v::w\n::v\nk::\n", "--key-separator", "::").code == 0
    assert [(one["key"], one["value"]) for one in records(place)] == [("k", "v::w"), ("", "v"), ("k", "")]


def test_a_line_without_separator_ends_it_after_those_before(append: Append, place: Path) -> None:
    result = append(b"a:1\nb:2\nc\nd:4\n", "--key-separator", ":")
    assert result.code == 3
    assert "stdin, line 3: no key separator ':'" in result.err
    assert column(place, "value") == ["1", "2"]


def test_headers_are_added_to_each_record(append: Append, place: Path) -> None:
    append(b"x\ny\n", "--header", "source=shell", "--header", "empty=", "--header", "a=b=c")
    assert column(place, "headers") == [[["source", "shell"], ["empty", ""], ["a", "b=c"]]] * 2


@pytest.mark.parametrize(
    ("encoding", "line", "header"),
    [("utf8", b"k:\xff\x00", "h=v"), ("hex", b"6b:ff00", "h=76"), ("base64", b"aw==:/wA=", "h=dg==")],
)
def test_text_becomes_bytes_in_the_given_encoding(
    append: Append, place: Path, encoding: str, line: bytes, header: str
) -> None:
    append(line + b"\n", "--encoding", encoding, "--key-separator", ":", "--header", header)
    (record,) = batches(place)[0].records()
    assert (record.key, record.value, record.headers[0][1]) == (b"k", b"\xff\x00", b"v")


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_what_is_not_in_the_encoding_is_told_with_its_line(append: Append, place: Path, encoding: str) -> None:
    result = append(b"abcd\nqq!\n", "--encoding", encoding)
    assert result.code == 3
    assert f"stdin, line 2: b'qq!' is not {encoding}" in result.err
    assert len(records(place)) == 1


# ---------------------------------------------------------------- JSON


def test_json_with_nothing_but_a_value_is_enough(append: Append, place: Path) -> None:
    append(b'{"value":"v"}\n\n{"key":"k"}\n{"value":null,"timestamp":5}\n', "--json")
    assert [(one["key"], one["value"]) for one in records(place)] == [(None, "v"), ("k", None), (None, None)]
    assert column(place, "timestamp")[2] == 5


@pytest.mark.parametrize("encoding", ["utf8", "hex", "base64"])
def test_append_inverts_dump(append: Append, place: Path, tmp_path: Path, encoding: str) -> None:
    given = [
        (b"k", b"v\n\t\\\x00", 5, [("h", b"1"), ("h", None), ("\udcff", b"\xfe"), ("", b"")]),
        (None, None, 3),
        (b"", b"", -1),
        ("ключ".encode(), b"\xff\xfe", 7),
        (b'{"base64":"eA=="}', "\u2028\U0001f600".encode(), 9),
    ]
    with Log.open(place) as log:
        log.append(given)
    copy = tmp_path / "copy-1"
    dumped = logstore("dump", "--json", "--encoding", encoding, place).out
    assert append(dumped, "--json", "--encoding", encoding, to=copy).code == 0
    assert list(batches(copy)[0].records()) == list(batches(place)[0].records())


@pytest.mark.parametrize("name", ["plain-0", "txn-0"])
def test_a_dump_of_what_kafka_wrote_is_appended_without_its_markers(
    append: Append, tmp_path: Path, kafka_fixtures: Path, name: str
) -> None:
    dumped = logstore("dump", "--json", kafka_fixtures / "kafka-4.1.1" / "clean" / name).out
    copy = tmp_path / "copy-0"
    assert append(dumped, "--json", to=copy).code == 0
    fields = ("timestamp", "key", "value", "headers")
    wanted = [one for one in map(json.loads, dumped.splitlines()) if "control" not in one]
    assert [[one[f] for f in fields] for one in records(copy)] == [[one[f] for f in fields] for one in wanted]
    assert alarms(copy) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{bad", "no JSON"),
        (b'{"value":"\xff"}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "not an object"),
        (b'{"headers":{}}', "not an object"),
        (b'{"value":1}', "1 is neither text, null nor"),
        (b'{"value":{"base64":"?"}}', "is not base64"),
        (b'{"value":{"base64":"eA==","more":1}}', "is neither text"),
        (b'{"timestamp":"now"}', "timestamp 'now' is no time"),
        (b'{"timestamp":true}', "timestamp True is no time"),
        (b'{"timestamp":-2}', "timestamp -2 is no time"),
        (b'{"timestamp":9223372036854775808}', "is no time"),
        (b'{"headers":[["a"]]}', "a header is a pair"),
        (b'{"headers":[[null,"v"]]}', "a header has no name"),
    ],
)
def test_bad_json_is_told_with_its_line_and_what_came_before_is_appended(
    append: Append, place: Path, line: bytes, reason: str
) -> None:
    result = append(b'{"value":"a"}\n{"value":"b"}\n' + line + b'\n{"value":"never"}\n', "--json", "--ack")
    assert (result.code, result.lines) == (3, ["0", "1"])
    assert "stdin, line 3: " in result.err
    assert reason in result.err
    assert column(place, "value") == ["a", "b"]


# ---------------------------------------------------------------- batches, durability, acknowledgements


def test_a_batch_has_at_most_so_many_records(append: Append, place: Path) -> None:
    append(b"x\n" * 7, "--batch-records", "3")
    assert [batch.header.count for batch in batches(place)] == [3, 3, 1]


def test_large_lines_make_smaller_batches_than_max_message_bytes(append: Append, place: Path) -> None:
    assert append(b"".join(os.urandom(1500).hex().encode() + b"\n" for _ in range(1000))).code == 0
    found = batches(place)
    assert sum(batch.header.count for batch in found) == 1000
    assert max(batch.header.size for batch in found) <= 1048588
    assert len(found) == 4


def test_a_record_above_max_message_bytes_ends_it_after_those_before(append: Append, place: Path) -> None:
    result = append(b"small\n" + b"x" * 1_100_000 + b"\nnever\n")
    assert result.code == 3
    assert "above max.message.bytes" in result.err
    assert column(place, "value") == ["small"]


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_batches_are_compressed_as_asked(append: Append, place: Path, codec: str) -> None:
    append(b"x" * 500 + b"\n", "--codec", codec)
    assert [batch.codec.label for batch in batches(place)] == [codec]


@pytest.mark.parametrize("durability", ["os", "interval", "always"])
def test_each_offset_is_acknowledged_once(append: Append, place: Path, durability: str) -> None:
    result = append(b"a\nb\nc\n", "--ack", "--durability", durability, "--batch-records", "2")
    assert (result.code, result.lines) == (0, ["0", "1", "2"])


def test_always_syncs_each_batch_before_it_acknowledges(
    append: Append, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = LocalFile.sync

    def noting(self: LocalFile) -> None:
        sync(self)
        if self.path.endswith(".log"):
            synced.append(self.size())

    monkeypatch.setattr(LocalFile, "sync", noting)
    append(b"a\nb\nc\n", "--durability", "always", "--batch-records", "1")
    assert len(set(synced)) == 3 and synced == sorted(synced)
    synced.clear()
    append(b"d\ne\n", "--batch-records", "1")
    assert len(synced) == 1


@contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """An append that goes on as long as its stdin is open; killed after a while in any case."""
    command = [*PROGRAM, "append", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, env=environment(), **pipes)
    limit = Timer(WAIT_SECONDS, child.kill)
    limit.start()
    with child:
        try:
            yield child
        finally:
            limit.cancel()
            child.kill()


def feed(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(data)
    child.stdin.flush()


def lines_of(child: subprocess.Popen[bytes], count: int) -> list[bytes]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_what_stdin_has_is_acknowledged_though_more_may_come(place: Path, options: tuple[str, ...]) -> None:
    line = b'{"value":"x"}\n' if options else b"x\n"
    with running("--ack", *options, place) as child:
        feed(child, line)
        assert lines_of(child, 1) == [b"0\n"]
        assert column(place, "offset") == [0]  # also for those who read beside it
        feed(child, line * 3 + line[:1])
        assert lines_of(child, 3) == [b"1\n", b"2\n", b"3\n"]
        feed(child, line[1:])
        assert lines_of(child, 1) == [b"4\n"]
    assert {batch.header.count for batch in batches(place)} <= {1, 2, 3}


def test_lines_that_come_at_once_are_one_batch(place: Path) -> None:
    done = process("append", place, input=b"x\n" * 700)
    assert done.returncode == 0
    assert [batch.header.count for batch in batches(place)] == [700]


def test_an_interrupt_ends_it_cleanly_with_130(place: Path) -> None:
    with running("--ack", place) as child:
        feed(child, b"x\n")
        assert lines_of(child, 1) == [b"0\n"]
        child.send_signal(signal.SIGINT)
        assert child.wait(WAIT_SECONDS) == 130
    with Log.open(place) as log:
        assert (log.recovered, log.log_end_offset) == (None, 1)


def test_it_ends_quietly_when_nobody_reads_what_it_acknowledges(place: Path) -> None:
    with running("--ack", place) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        feed(child, b"x\n")
        assert child.wait(WAIT_SECONDS) == 0
        assert child.stderr.read() == b""
        child.stdout = None
    with Log.open(place) as log:
        assert (log.recovered, log.log_end_offset) == (None, 1)


def test_a_closed_stdin_is_an_empty_one(place: Path) -> None:
    line = '"$@" <&-'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *PROGRAM, "append", str(place)], capture_output=True, env=environment()
    )
    assert (done.returncode, b"0 records appended" in done.stderr) == (0, True)


def test_what_was_acknowledged_survives_the_end_of_the_process(place: Path) -> None:
    command = [*PROGRAM, "append", "--ack", "--batch-records", "1", str(place)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin, child.stdout:
        child.stdin.write(b"one\ntwo\n")
        child.stdin.flush()
        assert [child.stdout.readline() for _ in range(2)] == [b"0\n", b"1\n"]
        child.kill()
    with Log.open(place) as log:
        assert [record.value for record in log.records()] == [b"one", b"two"]


# ---------------------------------------------------------------- refusals


def test_a_log_that_a_live_process_writes_is_left_alone(append: Append, place: Path) -> None:
    with Log.open(place) as log:
        log.append([(None, b"mine")])
        done = process("append", place, input=b"theirs\n")
        assert done.returncode == 3
        assert b"another process has it open" in done.stderr
        assert log.append([(None, b"mine too")]).first_offset == 1
    assert append(b"later\n").code == 0


def test_a_partition_of_a_stopped_broker_is_appended_to(append: Append, orders: Path) -> None:
    result = append(b"x\ny\n", "--ack", to=orders)
    assert (result.code, result.lines) == (0, ["18", "19"])
    assert alarms(orders.parent) == []
    assert "shutdown      clean" in logstore("describe", orders).out.decode()


def test_a_partition_is_not_made_in_a_log_directory_which_is_no_partition_itself(
    append: Append, orders: Path, tree_unchanged: Any
) -> None:
    for to, reason in ((orders.parent / "new-0", "a broker's log directory"), (orders.parent, "not a partition")):
        with tree_unchanged(orders.parent):
            result = append(b"x\n", to=to)
        assert result.code == 3
        assert reason in result.err


def test_an_unclean_log_directory_is_for_recovery_unless_forced(append: Append, orders: Path) -> None:
    (orders.parent / ".kafka_cleanshutdown").unlink()
    result = append(b"x\n", to=orders)
    assert result.code == 3
    assert "`logstore recover`" in result.err
    assert append(b"x\n", "--force", to=orders).code == 0
    assert column(orders, "offset")[-1] == 18


def test_a_link_into_a_log_directory_leads_to_its_partition(append: Append, orders: Path, tmp_path: Path) -> None:
    (tmp_path / "link-0").symlink_to(orders)
    (orders.parent / ".kafka_cleanshutdown").unlink()
    assert append(b"x\n", to=tmp_path / "link-0").code == 3


def test_a_directory_of_something_else_is_refused(append: Append, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert append(b"x\n", to=tmp_path / "home").code == 0
    (tmp_path / "home2").mkdir()
    (tmp_path / "home2" / "letter.txt").touch()
    result = append(b"x\n", to=tmp_path / "home2")
    assert (result.code, "holds no log" in result.err) == (3, True)


def test_young_files_of_others_are_warned_of_and_ours_are_not(append: Append, alone: Path, place: Path) -> None:
    assert "changed less than a minute ago" in append(b"x\n", to=alone).err
    assert "changed less than a minute ago" not in append(b"x\n", to=alone).err
    append(b"x\n")
    assert "minute" not in append(b"x\n").err


def test_a_dry_run_says_what_would_be_appended_and_changes_nothing(
    append: Append, orders: Path, place: Path, tree_unchanged: Any
) -> None:
    for to, offset in ((place, 0), (orders, 18)):
        with tree_unchanged(orders.parent):
            result = append(b"x\ny\n", "--dry-run", "--ack", to=to)
        assert (result.code, result.lines) == (0, [str(offset), str(offset + 1)])
        assert f"2 records would be appended, the next offset would be {offset + 2}" in result.err
    assert not place.exists()


def test_a_file_and_a_place_that_cannot_be_made_are_told(append: Append, place: Path) -> None:
    place.write_bytes(b"")
    for to in (place, place / "below-0"):
        result = append(b"x\n", to=to)
        assert result.code == 3
        assert str(place) in result.err


@pytest.mark.parametrize(
    "options",
    [
        ("--key-separator", ""),
        ("--header", "no value"),
        ("--encoding", "hex", "--header", "a=zz"),
        ("--encoding", "latin1"),
        ("--codec", "rar"),
        ("--batch-records", "0"),
        ("--durability", "never"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_made(append: Append, place: Path, options: tuple[str, ...]) -> None:
    result = append(b"x\n", *options)
    assert result.code == 2
    assert options[-2] in result.err
    assert not place.exists()


def test_what_a_crash_tore_is_cut_kept_aside_and_told(append: Append, place: Path) -> None:
    append(b"a\n")
    (place / ".logstore-clean").unlink()
    with open(place / LOG, "ab") as file:
        file.write(b"torn")
    result = append(b"b\n")
    assert "recovered; 4 bytes were kept aside in" in result.err
    assert column(place, "value") == ["a", "b"]
    (aside,) = place.glob(".*.aside")
    assert aside.read_bytes() == b"torn"


def test_a_key_in_json_may_be_any_bytes(append: Append, place: Path) -> None:
    append(json.dumps({"key": {"base64": base64.b64encode(bytes(range(256))).decode()}}).encode(), "--json")
    assert [record.key for record in batches(place)[0].records()] == [bytes(range(256))]
