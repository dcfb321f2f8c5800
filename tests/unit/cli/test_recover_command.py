"""`logstore recover`: what it prints, its exit codes, and that a dry run is one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.broker_directories import MARKER, make
from helpers.commands import PROGRAM, environment, logstore, process_without_privileges
from helpers.directories import alarms, flip_bit

from logstore.fs import LocalFileSystem
from logstore.log import Log

FIRST = "00000000000000000000"


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    return make(tmp_path / "data", is_clean=False, is_torn=True)


def summary(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = logstore("recover", "--json", *arguments)
    (found,) = result.objects
    return result.code, found


def test_each_partition_and_the_directory_are_told(torn: Path) -> None:
    result = logstore("recover", torn)
    assert (result.code, result.err) == (0, "")
    lines = result.lines
    assert lines[0] == f"{torn}/orders-3: recovered, offsets 0 to 16 (next)"
    assert lines[1].startswith("  cut 00000000000000000012.log: ")
    assert lines[-1] == f"{torn}: marked as shut down cleanly"
    assert alarms(torn) == []
    assert logstore("recover", torn).lines == [
        f"{torn}/orders-3: clean, nothing to do, offsets 0 to 16 (next)",
        f"{torn}/payments-0: clean, nothing to do, offsets 0 to 4 (next)",
        f"{torn}: shut down cleanly",
    ]


def test_json_is_one_object(torn: Path) -> None:
    code, found = summary(torn)
    assert (code, found["dry_run"]) == (0, False)
    orders, payments = found["partitions"]
    assert {name: orders[name] for name in ("topic", "partition", "state", "was_clean", "log_end_offset")} == {
        "topic": "orders", "partition": 3, "state": "recovered", "was_clean": False, "log_end_offset": 16,
    }  # fmt: skip
    assert orders["path"] == str(torn / "orders-3")
    assert orders["cut_bytes"] == Path(orders["kept_aside"][0]).stat().st_size
    assert orders["actions"][0]["action"] == "cut"
    assert found["log_directories"] == [
        {"path": str(torn), "was_clean": False, "is_clean": True, "unclean_because": None, "set_aside": []}
    ]
    assert found["summary"] == {
        "partitions": 2, "clean": 0, "recovered": 2, "cut": 0, "damaged": 0, "failed": 0,
        "cut_bytes": orders["cut_bytes"] + payments["cut_bytes"],
    }  # fmt: skip


def test_a_dry_run_says_the_same_and_changes_nothing(torn: Path, tree_unchanged: Any) -> None:
    with tree_unchanged(torn):
        tried = summary("--dry-run", torn)
        assert logstore("recover", "--dry-run", torn).lines[-1] == f"{torn}: would be marked as shut down cleanly"
    done = summary(torn)
    assert tried[1].pop("dry_run") and not done[1].pop("dry_run")
    assert tried == done


def test_damage_is_exit_code_1_and_left(torn: Path, tree_unchanged: Any) -> None:
    flip_bit(torn / "orders-3" / f"{FIRST}.log", 150, 0)
    (torn / "orders-3" / f"{FIRST}.index").unlink()
    with tree_unchanged(torn / "orders-3"):
        result = logstore("recover", torn)
    assert result.code == 1
    assert result.lines[0] == f"{torn}/orders-3: DAMAGED, left as it is"
    assert "at position" in result.err and "--cut-damage" in result.err
    assert result.lines[-1].startswith(f"{torn}: not marked as shut down cleanly: 1 of 2 partitions")
    code, found = summary("--cut-damage", torn)
    assert code == 1
    assert [one["state"] for one in found["partitions"]] == ["cut", "recovered"]
    assert found["partitions"][0]["damage"]["path"] == str(torn / "orders-3" / f"{FIRST}.log")
    assert alarms(torn) == []


def test_topics_and_partitions_are_chosen(torn: Path) -> None:
    code, found = summary("--topic", "pay*", "--partition", "0", torn)
    assert (code, [one["path"] for one in found["partitions"]]) == (0, [str(torn / "payments-0")])
    assert found["log_directories"][0]["unclean_because"] == "only 1 of 2 partitions were chosen"


def test_several_paths_are_taken_in_order_and_one_that_fails_keeps_none_back(torn: Path) -> None:
    result = logstore("recover", torn / "payments-0", torn.parent / "missing", torn / "orders-3")
    assert result.code == 3
    assert [line.split(":")[0] for line in result.lines if line[0] != " "] == [
        f"{torn}/payments-0", f"{torn}/orders-3",
    ]  # fmt: skip
    assert "missing: No such file" in result.err


def test_a_partition_that_stands_alone_is_taken_with_a_warning_when_it_is_young(alone: Path) -> None:
    result = logstore("recover", alone)
    assert (result.code, "changed less than a minute ago" in result.err) == (0, True)
    assert logstore("recover", alone).err == ""
    for path in alone.iterdir():
        if path.name.startswith("."):
            path.unlink()
    assert logstore("recover", "-q", alone).err == ""


def test_what_is_in_use_is_exit_code_3(torn: Path) -> None:
    held = LocalFileSystem().lock(torn / ".lock")
    assert held is not None
    for options in ((), ("--dry-run",)):
        for path in (torn, torn / "orders-3"):
            result = logstore("recover", *options, path)
            assert (result.code, result.out) == (3, b"")
            assert "another process has it open" in result.err
    held.release()


def test_what_is_no_directory_is_exit_code_3(torn: Path) -> None:
    result = logstore("recover", torn / "orders-3" / f"{FIRST}.log")
    assert result.code == 3
    assert "neither a partition directory nor a log directory" in result.err


def test_what_may_not_be_written_is_exit_code_3(torn: Path) -> None:
    (torn / "orders-3").chmod(0o555)
    try:
        result = process_without_privileges("recover", torn)
    finally:
        (torn / "orders-3").chmod(0o755)
    assert result.code == 3
    assert "Permission denied" in result.err
    assert f"{torn}/payments-0: recovered" in result.out.decode()
    assert not (torn / MARKER).exists()


def test_it_finishes_also_when_nobody_reads_what_it_prints(torn: Path) -> None:
    command = [*PROGRAM, "recover", str(torn)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(PYTHONUNBUFFERED="1")
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    assert (running.wait(60), running.stderr.read()) == (0, b"")
    running.stderr.close()
    assert (torn / MARKER).exists()


def test_an_interrupt_is_exit_code_130_and_leaves_nothing_locked(
    torn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def interrupting(path: Path, *arguments: Any, **options: Any) -> Log:
        opened.append(path)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return Log.open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("logstore.repair.recover.Log", SimpleNamespace(open=interrupting))
        result = logstore("recover", torn)
    assert (result.code, result.err) == (130, "logstore: interrupted\n")
    assert not (torn / MARKER).exists() and not (torn / ".lock").exists()
    code, found = summary(torn)
    assert (code, [one["log_end_offset"] for one in found["partitions"]]) == (0, [16, 4])


def test_partitions_without_a_broker_are_warned_of_when_they_are_young(torn: Path) -> None:
    for path in torn.iterdir():
        if path.is_file():
            path.unlink()
    result = logstore("recover", torn)
    assert (result.code, result.err.count("changed less than a minute ago")) == (0, 2)
    assert len(result.lines) == len([line for line in result.lines if line.startswith(("  ", f"{torn}/"))])


def test_it_works_from_within_the_directory(torn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(torn / "orders-3")
    assert logstore("recover", ".").code == 0
    monkeypatch.chdir(torn)
    assert logstore("recover", ".").lines[-1] == ".: marked as shut down cleanly"
