"""`logstore compact`: against Kafka's own cleaner on its files, what it leaves alone and prints, its exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import PROGRAM, logstore, objects
from helpers.directories import START, alarms, flip_bit, write_checkpoint
from helpers.metadata_logs import METADATA, setting, topic, write_metadata

from logstore.config import LogConfig
from logstore.fs import LocalFileSystem
from logstore.log import Log, parse_offset_checkpoint
from logstore.names import TopicPartition
from logstore.records import Codec

SMALL = ("--segment-bytes", "16KiB")


@pytest.fixture
def before(kafka_fixtures: Path, tmp_path: Path) -> Path:
    """A copy of what a broker left before its cleaner ran."""
    return writable(kafka_fixtures / "compaction-4.1.1" / "0-before" / "data", tmp_path / "data")


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A log of our own that stands alone: ten keys, each written five times, in five segments and the active one."""
    place = tmp_path / "own" / "orders-0"
    place.parent.mkdir()
    with Log.open(place, LogConfig(message_timestamp_after_max_ms=2**63 - 1)) as log:
        for turn in range(5):
            log.append([(b"k%d" % number, b"%d" % turn) for number in range(10)], timestamp=START + turn)
            log.roll()
        log.append([(b"k0", b"last")], timestamp=START + 9)
    make_old(place)
    return place


def make_old(partition: Path) -> None:
    """Let nobody think that somebody is still writing there."""
    for file in partition.iterdir():
        os.utime(file, (START / 1000, START / 1000))


def writable(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return target


def tree(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*") if path.is_file() and path.name != ".lock"
    }  # fmt: skip


def records(partition: Path, isolation: str = "read_uncommitted") -> list[dict[str, Any]]:
    return objects("dump", "--isolation", isolation, partition)


def summary(*arguments: object) -> dict[str, Any]:
    result = logstore("compact", "--json", *arguments)
    assert result.code == 0, result.err
    (found,) = result.objects
    return found


# ---------------------------------------------------------------- as Kafka does


@pytest.mark.parametrize("name", ["basic-0", "lz4-0", "txn-0", "nullkeys-0"])
@pytest.mark.parametrize("memory", ["128MiB", "1KiB"])
def test_consumers_get_what_kafkas_cleaner_leaves(before: Path, kafka_fixtures: Path, name: str, memory: str) -> None:
    options = ("--drop-unkeyed",) if name == "nullkeys-0" else ()
    found = summary(*SMALL, "--map-memory", memory, *options, before / name)
    assert found["summary"]["compacted"] == 1
    (one,) = found["partitions"]
    assert one["verified"] is True
    assert (len(one["rounds"]) > 1) == (memory == "1KiB")
    after = kafka_fixtures / "compaction-4.1.1" / "1-cleaned" / "data" / name
    for isolation in ("read_uncommitted", "read_committed"):
        assert records(before / name, isolation) == records(after, isolation)
    assert alarms(before) == []


def test_the_checkpoint_of_the_log_directory_says_how_far_it_is_clean(before: Path) -> None:
    assert logstore("compact", *SMALL, before / "basic-0").code == 0
    found = parse_offset_checkpoint((before / "cleaner-offset-checkpoint").read_bytes())
    assert found[TopicPartition("basic", 0)] == 2392
    assert not (before / "basic-0" / ".logstore-state").exists()


def test_what_was_cleaned_is_not_cleaned_again(before: Path) -> None:
    logstore("compact", *SMALL, before / "basic-0")
    logstore("compact", *SMALL, before / "basic-0")  # merges what became small
    content = {name: data for name, (data, _) in tree(before / "basic-0").items()}
    result = logstore("compact", *SMALL, before / "basic-0")
    assert result.lines == [f"{before / 'basic-0'}: nothing to compact, 113 records stay"]
    assert {name: data for name, (data, _) in tree(before / "basic-0").items()} == content


# ---------------------------------------------------------------- what it prints


def test_it_says_what_was_reclaimed(orders: Path) -> None:
    result = logstore("compact", orders)
    assert (result.code, result.err) == (0, "")
    first, *rest = result.lines
    assert first.startswith(f"{orders}: compacted: ")
    assert first.endswith("10 of 50 records stay")
    assert rest == [
        "  offsets 0 to 50 in 1 round, 10 keys; segments 5 to 1",
        "  went: 40 superseded, 0 expired tombstones, 0 of aborted transactions, 0 without a key, 0 markers;"
        " 0 tombstones stay",
        "  verified: 10 keys have the value that they had",
    ]
    assert [(one["offset"], one["value"]) for one in records(orders)] == [
        *((40 + number, "4") for number in range(10)), (50, "last"),
    ]  # fmt: skip
    assert alarms(orders) == []


def test_without_the_check_it_does_not_claim_to_have_checked(orders: Path) -> None:
    assert "verified" not in logstore("compact", "--no-verify", orders).out.decode()


def test_the_active_segment_is_compacted_when_that_is_asked_for(orders: Path) -> None:
    result = logstore("compact", "--include-active", orders)
    assert result.code == 0
    assert "active segment" in result.err
    assert [one["offset"] for one in records(orders)] == [*range(41, 50), 50]
    with Log.open(orders) as log:
        assert log.append([(b"k1", b"next")]).first_offset == 51


def test_a_dry_run_says_the_same_and_changes_nothing(orders: Path) -> None:
    before = tree(orders)
    planned = summary("--dry-run", orders)
    assert tree(orders) == before
    done = summary(orders)
    same = ("records_after", "records_before", "bytes_before", "bytes_after", "superseded", "segments_after", "keys")
    assert {name: planned["partitions"][0][name] for name in same} == {
        name: done["partitions"][0][name] for name in same
    }
    assert (planned["dry_run"], done["dry_run"]) == (True, False)


def test_tombstones_go_once_they_are_old_enough(orders: Path) -> None:
    with Log.open(orders, LogConfig(message_timestamp_after_max_ms=2**63 - 1)) as log:
        log.append([(b"k%d" % number, None) for number in range(1, 4)], timestamp=START)
        log.roll()
    make_old(orders)
    later = ("--now", str(START + 1000), "--delete-retention", "1h")
    assert summary(*later, orders)["partitions"][0]["tombstones_kept"] == 3
    assert summary("--now", str(START + 1000), orders)["partitions"][0]["tombstones_kept"] == 3
    gone = summary("--now", str(START + 1000 + 3_600_000), orders)["partitions"][0]
    assert (gone["tombstones_expired"], gone["tombstones_kept"], gone["state"]) == (3, 0, "compacted")
    assert [one["key"] for one in records(orders)] == ["k4", "k5", "k6", "k7", "k8", "k9", "k0"]


# ---------------------------------------------------------------- what it leaves alone


def test_of_a_log_directory_only_what_is_known_to_be_compacted(before: Path) -> None:
    shutil.rmtree(before / METADATA, ignore_errors=True)
    write_metadata(
        before,
        [topic("basic", 1), topic("lz4", 2), topic("txn", 3), setting("basic", "cleanup.policy", "compact"),
         setting("basic", "segment.bytes", "16384"), setting("lz4", "cleanup.policy", "delete")],
    )  # fmt: skip
    write_checkpoint(before / "cleaner-offset-checkpoint", {"txn-0": 0})
    lz4, nullkeys = tree(before / "lz4-0"), tree(before / "nullkeys-0")
    found = {one["topic"]: one for one in summary(before)["partitions"]}
    assert {name: one["state"] for name, one in found.items()} == {
        "__cluster_metadata": "left alone", "basic": "compacted", "lz4": "left alone", "nullkeys": "left alone",
        "txn": "compacted",
    }  # fmt: skip
    assert found["lz4"]["left_alone"] == "its cleanup.policy has no `compact`"
    assert found["nullkeys"]["left_alone"] == "whether it is compacted is not known; --topic says so"
    assert (tree(before / "lz4-0"), tree(before / "nullkeys-0")) == (lz4, nullkeys)


def test_a_topic_that_is_named_is_compacted_whatever_is_known(before: Path) -> None:
    found = summary(*SMALL, "--topic", "lz*", before)
    assert [(one["topic"], one["state"]) for one in found["partitions"]] == [("lz4", "compacted")]


def test_the_metadata_of_a_cluster_is_never_compacted(before: Path) -> None:
    place = write_metadata(before, [topic("basic", 1)])
    content = tree(place)
    assert logstore("compact", "--topic", "__cluster_metadata", before).code == 0
    result = logstore("compact", place)
    assert result.code == 3
    assert "never compacted" in result.err
    assert tree(place) == content


def test_a_log_that_is_not_dirty_enough_is_left_alone(orders: Path) -> None:
    logstore("compact", orders)
    with Log.open(orders) as log:
        log.append([(b"k1", b"x")], timestamp=START)
        log.roll()
    make_old(orders)
    found = summary("--min-dirty-ratio", "0.9", orders)["partitions"][0]
    assert found["state"] == "left alone"
    assert "min.cleanable.dirty.ratio is 90.0%" in found["left_alone"]
    assert summary("--min-dirty-ratio", "0.1", orders)["partitions"][0]["state"] == "compacted"


def test_what_is_young_is_left_alone(orders: Path) -> None:
    found = summary("--now", str(START + 5), "--min-compaction-lag", "3ms", orders)["partitions"][0]
    assert (found["state"], found["end_offset"]) == ("compacted", 30)
    assert any("min.compaction.lag.ms" in reason for reason in found["reasons"])


def test_records_without_a_key_stop_it_unless_they_may_go(before: Path) -> None:
    content = tree(before / "nullkeys-0")
    result = logstore("compact", before / "nullkeys-0")
    assert result.code == 3
    assert "have no key" in result.err
    assert {name: data for name, (data, _) in tree(before / "nullkeys-0").items()} == {
        name: data for name, (data, _) in content.items()
    }


def test_a_partition_with_damage_stays_as_it_was_and_the_others_go_on(before: Path) -> None:
    log = min((before / "txn-0").glob("*.log"))
    flip_bit(log, log.stat().st_size - 3, 2)
    content = {name: data for name, (data, _) in tree(before / "txn-0").items()}
    result = logstore("compact", *SMALL, "--topic", "txn", "--topic", "basic", "--json", before)
    assert result.code == 1
    states = {one["topic"]: (one["state"], one["error"]) for one in result.objects[0]["partitions"]}
    assert states["basic"] == ("compacted", None)
    assert states["txn"][0] == "damaged"
    assert states["txn"][1]["path"] == str(log)
    assert states["txn"][1]["position"] >= 0
    assert {name: data for name, (data, _) in tree(before / "txn-0").items()} == content


def contents(partition: Path) -> dict[str, bytes]:
    return {name: data for name, (data, _) in tree(partition).items()}


@pytest.mark.parametrize("is_alone", [True, False])
def test_damage_in_the_last_segment_is_not_cut_away(before: Path, tmp_path: Path, is_alone: bool) -> None:
    place = writable(before / "basic-0", tmp_path / "alone" / "basic-0") if is_alone else before / "basic-0"
    last = max(place.glob("*.log"))
    flip_bit(last, last.stat().st_size - 3, 2)
    make_old(place)
    content = contents(place)
    result = logstore("compact", *SMALL, place)
    assert (result.code, contents(place)) == (1, content)
    assert str(last) in result.err and "logstore check" in result.err


def test_a_batch_that_was_not_written_to_its_end_is_no_damage(orders: Path) -> None:
    last = max(orders.glob("*.log"))
    torn = bytearray(last.read_bytes()[:-1])
    torn[7] += 1  # as if it were the next one
    with last.open("ab") as file:
        file.write(torn)
    (orders / ".logstore-clean").unlink()
    make_old(orders)
    assert summary(*SMALL, orders)["partitions"][0]["records_after"] == 10
    assert records(orders)[-1]["offset"] == 50


def test_where_the_map_is_small_damage_is_found_before_the_first_round_changes_anything(orders: Path) -> None:
    damaged = sorted(orders.glob("*.log"))[-2]
    flip_bit(damaged, damaged.stat().st_size - 3, 2)
    make_old(orders)
    content = contents(orders)
    result = logstore("compact", "--map-memory", "200", "--no-verify", orders)
    assert (result.code, contents(orders)) == (1, content)
    assert str(damaged) in result.err


def test_offsets_that_go_back_are_damage(orders: Path) -> None:
    middle = sorted(orders.glob("*.log"))[2]
    flip_bit(middle, 7, 2)  # the base offset, of which no CRC tells
    make_old(orders)
    content = contents(orders)
    result = logstore("compact", orders)
    assert (result.code, contents(orders)) == (1, content)
    assert "offset" in result.err


def test_a_transaction_index_that_was_lost_has_to_be_made_anew_first(before: Path) -> None:
    for index in (before / "txn-0").glob("*.txnindex"):
        index.unlink()
    content = contents(before / "txn-0")
    result = logstore("compact", *SMALL, before / "txn-0")
    assert (result.code, contents(before / "txn-0")) == (1, content)
    assert "logstore reindex" in result.err
    assert logstore("reindex", before / "txn-0").code == 0
    assert logstore("compact", *SMALL, before / "txn-0").code == 0


# ---------------------------------------------------------------- a copy


def test_a_copy_is_compacted_and_the_source_untouched(before: Path, tmp_path: Path) -> None:
    content = tree(before)
    found = summary(*SMALL, "--output", tmp_path / "copies", "--topic", "basic", "--topic", "txn", before)
    assert [one["output"] for one in found["partitions"]] == [
        str(tmp_path / "copies" / "basic-0"), str(tmp_path / "copies" / "txn-0"),
    ]  # fmt: skip
    assert tree(before) == content
    logstore("compact", *SMALL, before / "txn-0")
    assert records(tmp_path / "copies" / "txn-0") == records(before / "txn-0")
    assert alarms(tmp_path / "copies" / "txn-0") == []


def test_a_copy_goes_nowhere_where_something_is(orders: Path, tmp_path: Path) -> None:
    (tmp_path / "copies" / "orders-0").mkdir(parents=True)
    (tmp_path / "copies" / "orders-0" / "mine.txt").write_text("mine")
    result = logstore("compact", "--output", tmp_path / "copies", orders)
    assert result.code == 3
    assert "there is something in it already" in result.err


def test_a_copy_does_not_go_into_a_partition_or_into_a_brokers_directory(orders: Path, before: Path) -> None:
    content = tree(before)
    for target in (orders, orders / "inside", before, before / "copies", before / "basic-0"):
        result = logstore("compact", "--output", target, orders)
        assert (result.code, target.name in result.err or target.parent.name in result.err) == (3, True)
    assert tree(before) == content
    assert not (orders / "inside").exists()


def test_rounds_of_a_dry_run_are_those_of_a_run(orders: Path) -> None:
    content = tree(orders)
    dry = summary("--map-memory", "200", "--dry-run", orders)["partitions"][0]
    assert tree(orders) == content
    done = summary("--map-memory", "200", orders)["partitions"][0]
    assert len(done["rounds"]) == len(dry["rounds"]) > 2
    names = ("records_before", "records_after", "bytes_before", "bytes_after", "segments_before", "segments_after")
    assert [dry[name] for name in names] == [done[name] for name in names]
    assert (dry["records_before"], dry["records_after"]) == (50, 10)


# ---------------------------------------------------------------- in use, killed


def test_a_directory_in_use_is_refused_whatever_is_forced(orders: Path, before: Path, tmp_path: Path) -> None:
    with Log.open(orders):
        for options in ((), ("--force",), ("--output", tmp_path / "copies")):
            result = logstore("compact", *options, orders)
            assert result.code == 3
            assert "has it open" in result.err
    lock = LocalFileSystem().lock(before / ".lock")
    assert lock is not None
    try:
        assert logstore("compact", "--topic", "basic", before).code == 3
        assert logstore("compact", "--force", before / "basic-0").code == 3
    finally:
        lock.release()


def test_an_unclean_log_directory_is_for_recover(before: Path) -> None:
    (before / ".kafka_cleanshutdown").unlink(missing_ok=True)
    result = logstore("compact", before / "basic-0")
    assert result.code in (0, 3)
    if result.code == 3:
        assert "logstore recover" in result.err
        assert logstore("compact", "--force", *SMALL, before / "basic-0").code == 0


def test_killed_at_any_moment_it_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "big-0"
    config = LogConfig(segment_bytes=200_000, message_timestamp_after_max_ms=2**63 - 1)
    with Log.open(place, config) as log:
        for turn in range(60):
            rows = [(b"k%d" % (number % 700), b"%d" % turn + b"." * 60) for number in range(500)]
            log.append(rows, codec=[Codec.NONE, Codec.LZ4][turn % 2])
    newest = {one["key"]: one["value"] for one in records(place)}
    copy = writable(place, tmp_path / "copy" / "big-0")
    for attempt in range(12):
        process = subprocess.Popen(
            [*PROGRAM, "compact", "-q", "--segment-bytes", "300000", str(copy)], stdout=subprocess.DEVNULL
        )
        time.sleep(0.12 + 0.02 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Log.open(copy, config) as log:
            assert {one.key.decode(): one.value.decode() for one in log.records() if one.key and one.value} == newest
        assert [path.name for path in copy.iterdir() if ".cleaned" in path.name or ".swap" in path.name] == []
    assert summary("-q", copy)["partitions"][0]["records_after"] <= 700 + 500
    assert alarms(copy) == []


def test_interrupted_it_leaves_a_log_in_order_and_nothing_half_done(tmp_path: Path) -> None:
    place = tmp_path / "big-0"
    config = LogConfig(segment_bytes=200_000, message_timestamp_after_max_ms=2**63 - 1)
    with Log.open(place, config) as log:
        for turn in range(60):
            log.append([(b"k%d" % (number % 700), b"%d" % turn + b"." * 60) for number in range(500)])
    newest = {one["key"]: one["value"] for one in records(place)}
    codes = set()
    for attempt in range(4):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        copy = writable(place, tmp_path / "copy" / "big-0")
        process = subprocess.Popen(
            [*PROGRAM, "compact", "-q", "--throttle", "4MiB", "--segment-bytes", "300000", str(copy)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while process.poll() is None and not any(path.suffix == ".cleaned" for path in copy.iterdir()):
            time.sleep(0.005)
        time.sleep(0.1 * attempt)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        codes.add(process.returncode)
        assert "Traceback" not in errors
        assert [path.name for path in copy.iterdir() if path.suffix in (".cleaned", ".swap", ".deleted")] == []
        assert alarms(copy) == []
        assert {one["key"]: one["value"] for one in records(copy)} == newest
    # At the very end of the interpreter, when all is done, the signal ends it without a word.
    assert codes <= {0, 130, -signal.SIGINT} and 130 in codes


@pytest.mark.parametrize(
    "arguments",
    [("--min-dirty-ratio", "2"), ("--min-compaction-lag", "10s", "--max-compaction-lag", "1s"),
     ("--map-memory", "x"), ("--throttle", "0"), ("--now", "yesterday"),
     ("--delete-retention", "-1"), ("--min-compaction-lag", "1y"), ("--partition", "-1")],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(orders: Path, arguments: tuple[str, ...]) -> None:
    before = tree(orders)
    assert logstore("compact", *arguments, orders).code == 2
    assert tree(orders) == before


def test_too_little_memory_for_a_key_is_said(orders: Path) -> None:
    result = logstore("compact", "--map-memory", "24", orders)
    assert result.code == 3
    assert "do not hold a key" in result.err


def test_a_file_is_no_partition(orders: Path) -> None:
    result = logstore("compact", min(orders.glob("*.log")))
    assert result.code == 3
    assert "neither a partition directory nor a log directory" in result.err
