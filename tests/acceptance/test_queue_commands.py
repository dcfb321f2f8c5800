"""`logstore produce`, `consume` and `groups`: through partitioners and groups of a store, and on a broker's files."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import PROGRAM, Result, logstore, objects
from helpers.trees import snapshot

import logstore as library
from logstore.names import TopicPartition
from logstore.queue import Consumer, OffsetsStore

T0 = 1_700_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a topic of three partitions."""
    with library.open(tmp_path / "store") as made:
        made.create_topic("orders", 3, {"message.timestamp.after.max.ms": str(2**63 - 1)})
    return tmp_path / "store"


def fed(text: str, *arguments: object) -> Result:
    """Run a command as a process with something on its stdin."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)], input=text.encode(), capture_output=True, check=False, timeout=60
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


def produced(store: Path, count: int = 20) -> None:
    text = "".join(f"k{number}:v{number}\n" for number in range(count))
    assert fed(text, "produce", "--key-separator", ":", "-q", store, "orders").code == 0


# ---------------------------------------------------------------- produce


def test_records_go_to_the_partitions_of_their_keys(store: Path) -> None:
    result = fed("a:1\nabc:2\na:3\n", "produce", "--key-separator", ":", "--ack", store, "orders")
    assert result.code == 0, result.err
    # murmur2 of "a" is 584102524, of "abc" 479470107.
    assert result.lines == [f"{584102524 % 3} 0", f"{479470107 % 3} {int(584102524 % 3 == 479470107 % 3)}", "1 1"]
    assert "3 records sent" in result.err


def test_what_was_dumped_can_be_sent_again(store: Path) -> None:
    produced(store)
    before = objects("consume", "--json", store, "orders")
    with library.open(store) as opened:
        opened.create_topic("copy", 3, {"message.timestamp.after.max.ms": str(2**63 - 1)})
    dumped = logstore("consume", "--json", store, "orders").out.decode()
    assert fed(dumped, "produce", "--json", "-q", store, "copy").code == 0
    after = objects("consume", "--json", store, "copy")
    assert [(one["partition"], one["key"], one["value"], one["timestamp"]) for one in after] == [
        (one["partition"], one["key"], one["value"], one["timestamp"]) for one in before
    ]


def test_records_go_to_a_partition_that_is_named(store: Path) -> None:
    assert fed("1\n2\n", "produce", "--partition", 2, "--codec", "zstd", store, "orders").code == 0
    assert [one["partition"] for one in objects("consume", "--json", store, "orders")] == [2, 2]
    assert fed("1\n", "produce", "--partition", 3, store, "orders").code == 2


def test_what_comes_before_a_bad_line_is_sent_and_the_line_named(store: Path) -> None:
    result = fed("a:1\nno separator\n", "produce", "--key-separator", ":", store, "orders")
    assert (result.code, "line 2" in result.err) == (3, True)
    assert len(objects("consume", "--json", store, "orders")) == 1


def test_an_unknown_topic_and_what_is_no_store_are_refused(store: Path, kafka_fixtures: Path, tmp_path: Path) -> None:
    broker = kafka_fixtures / "kafka-4.1.1" / "clean"
    for arguments in ((store, "nope"), (tmp_path / "nowhere", "orders"), (broker, "plain")):
        assert fed("1\n", "produce", *arguments).code == 3
        assert logstore("consume", "--group", "g", *arguments).code == 3
    assert not (tmp_path / "nowhere").exists()


# ---------------------------------------------------------------- consume


def test_without_a_group_nothing_is_changed(store: Path) -> None:
    produced(store)
    before = snapshot(store)
    assert len(objects("consume", "--json", store, "orders")) == 20
    assert len(logstore("consume", "--max", 7, store, "orders").lines) == 7
    assert logstore("consume", "--from", "latest", store, "orders").lines == []
    assert snapshot(store) == before


def test_a_brokers_topic_is_consumed_as_it_lies_there(kafka_fixtures: Path) -> None:
    data = kafka_fixtures / "kafka-4.1.1" / "clean"
    found = objects("consume", "--json", "--isolation", "read_committed", data, "txn")
    assert found == objects("dump", "--json", "--isolation", "read_committed", data / "txn-0")
    late = objects("consume", "--json", "--from", found[-1]["timestamp"], "--max", 1, data, "txn")
    assert late[0]["timestamp"] >= found[-1]["timestamp"]


def test_a_group_goes_on_where_it_was(store: Path) -> None:
    produced(store)
    first = objects("consume", "--group", "g", "--max", 8, "--json", store, "orders")
    rest = objects("consume", "--group", "g", "--json", store, "orders")
    assert len(first) == 8 and len(rest) == 12
    assert sorted(one["key"] for one in first + rest) == sorted(f"k{number}" for number in range(20))
    assert logstore("consume", "--group", "g", store, "orders").lines == []
    assert len(logstore("consume", "--group", "other", store, "orders").lines) == 20


def test_a_group_begins_where_it_is_told_if_it_has_committed_nothing(store: Path) -> None:
    fed("".join(f"{number}\n" for number in range(9)), "produce", "--partition", 1, "-q", store, "orders")
    found = objects("consume", "--group", "a", "--from", 6, "--json", store, "orders")
    assert [one["offset"] for one in found] == [6, 7, 8]
    assert logstore("consume", "--group", "b", "--from", "latest", store, "orders").lines == []
    assert logstore("consume", "--group", "a", "--from", "earliest", store, "orders").lines == []


def test_a_consumer_that_follows_prints_what_comes(store: Path) -> None:
    arguments = [*PROGRAM, "consume", "--group", "g", "--timeout", "20", "--max", "3", str(store), "orders"]
    follower = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    produced(store, 3)
    out, _ = follower.communicate(timeout=30)
    assert (follower.returncode, len(out.splitlines())) == (0, 3)


@pytest.mark.parametrize("start", ["whenever", "²", "9" * 30, "-1x"])
def test_where_to_begin_is_checked_before_anything_is_read(store: Path, start: str) -> None:
    for options in ((), ("--group", "g")):
        assert logstore("consume", *options, "--from", start, store, "orders").code == 2


# ---------------------------------------------------------------- groups


@pytest.fixture
def behind(store: Path) -> Path:
    """The store with twenty records, of which group `billing` has read some."""
    produced(store)
    with library.open(store) as opened:
        ends = {one.name: one.log_end_offset for one in opened.partitions("orders")}
        OffsetsStore(opened).commit("billing", {name: max(end - 2, 0) for name, end in ends.items()})
    return store


def test_groups_are_listed_and_their_lag_is_told(behind: Path) -> None:
    assert objects("groups", "list", "--json", behind) == [
        {"group": "billing", "state": "Empty", "members": 0, "partitions": 3}
    ]
    before = snapshot(behind)
    (found,) = objects("groups", "describe", "--json", behind, "billing")
    assert found["lag"] == 6 and [one["lag"] for one in found["offsets"]] == [2, 2, 2]
    lines = logstore("groups", "describe", behind).lines
    assert lines[0] == "billing  Empty, lag 6" and lines[1].startswith("  orders-0: ")
    assert snapshot(behind) == before


def test_groups_of_a_broker_are_read_from_its_files(kafka_fixtures: Path) -> None:
    data = kafka_fixtures / "kafka-4.1.1" / "clean"
    found = {one["group"]: one for one in objects("groups", "describe", "--json", data)}
    newest = {
        tuple(one["key"]["data"].get(field) for field in ("group", "topic", "partition")): one["value"]
        for partition in data.glob("__consumer_offsets-*") for one in objects("dump", "--json", partition)
    }  # fmt: skip
    assert found.keys() == {group for (group, _, _), value in newest.items() if value is not None}
    plain = next(one for one in found["group-0"]["offsets"] if one["topic"] == "plain")
    assert (plain["offset"], plain["log_end_offset"], plain["lag"]) == (40, 240, 200)


@pytest.mark.parametrize(
    ("options", "expected"),
    [(("--to", "earliest"), "start"), (("--to", "latest"), "end"), (("--shift", "-1"), -1), (("--shift", "99"), "end"),
     (("--shift", "-99"), "start"), (("--to", "1"), "one")],
)  # fmt: skip
def test_offsets_are_set_anew(behind: Path, options: tuple[str, ...], expected: Any) -> None:
    with library.open(behind) as opened:
        ends = {one.name.partition: one.log_end_offset for one in opened.partitions("orders")}
    wanted = {
        number: {"start": 0, "end": end, "one": min(1, end), -1: max(end - 3, 0)}[expected]
        for number, end in ends.items()
    }
    dry = objects("groups", "reset-offsets", "--dry-run", "--json", *options, behind, "billing")
    assert {one["partition"]: one["to"] for one in dry} == wanted
    with library.open(behind) as opened:
        assert OffsetsStore(opened).committed("billing")[TopicPartition("orders", 0)].offset == max(ends[0] - 2, 0)
    assert logstore("groups", "reset-offsets", *options, behind, "billing").code == 0
    with library.open(behind) as opened:
        found = OffsetsStore(opened).committed("billing")
    assert {name.partition: value.offset for name, value in found.items()} == wanted


def test_offsets_are_set_to_a_time_also_of_a_topic_that_the_group_never_read(store: Path) -> None:
    with library.open(store) as opened:
        for number in range(5):
            opened.partition("orders", 1).append([(None, b"%d" % number)], timestamp=T0 + number * 1000)
    options = ("--to", T0 + 2500, "--topic", "orders", "--partition", 1)
    done = objects("groups", "reset-offsets", "--json", *options, store, "new")
    assert [(one["from"], one["to"]) for one in done] == [(None, 3)]
    assert [one["value"] for one in objects("consume", "--group", "new", "--json", store, "orders")] == ["3", "4"]


def test_a_group_with_members_is_left_alone(behind: Path) -> None:
    with library.open(behind) as opened, Consumer(opened, "orders", group="billing") as consumer:
        consumer.poll(0)
        for arguments in (("reset-offsets", "--to", "earliest"), ("delete",)):
            result = logstore("groups", *arguments, behind, "billing")
            assert (result.code, "close its consumers" in result.err) == (3, True)


def test_a_deleted_group_is_gone(behind: Path) -> None:
    assert logstore("groups", "delete", "--dry-run", behind, "billing").code == 0
    said = logstore("groups", "delete", behind, "billing").lines
    assert said == ["billing: deleted, with the offsets of 3 partitions"]
    assert objects("groups", "list", "--json", behind) == []
    assert logstore("groups", "delete", behind, "billing").code == 3
    assert logstore("groups", "describe", behind, "billing").code == 3


@pytest.mark.parametrize("options", [(), ("--to", "earliest", "--shift", "1"), ("--to", "whenever"), ("--to", "²")])
def test_it_has_to_be_said_where_to(behind: Path, options: tuple[str, ...]) -> None:
    assert logstore("groups", "reset-offsets", *options, behind, "billing").code == 2


def test_nothing_to_reset_is_said(store: Path) -> None:
    result = logstore("groups", "reset-offsets", "--to", "earliest", store, "nobody")
    assert (result.code, "name a topic" in result.err) == (3, True)
