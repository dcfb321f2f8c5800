"""`logstore check` prints one line a finding and a summary, for people or for scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import logstore
from helpers.directories import LogDirectory, Partition, append_bytes, flip_bit

from logstore.inspect import CODES

FIELDS = ["severity", "code", "path", "position", "offset", "message", "remedy"]


@pytest.fixture
def damaged(orders: Path) -> Path:
    """A partition with one batch damaged and one index not trimmed."""
    flip_bit(orders / "00000000000000000006.log", 70, 0)
    append_bytes(orders / "00000000000000000000.index", bytes(80))
    return orders


def test_a_healthy_directory_is_one_line(orders: Path) -> None:
    result = logstore("check", orders.parent)
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        "0 damage, 0 warnings, 0 notes in 1 partitions, 3 segments, 9 batches, 18 records, 819 bytes"
    ]


def test_each_finding_is_a_line_with_its_remedy(damaged: Path) -> None:
    result = logstore("check", damaged)
    assert result.code == 1
    log = damaged / "00000000000000000006.log"
    assert (
        f"damage batch-crc: {log} position 0 offset 6: the bytes of a batch do not match its CRC (91 bytes)"
        in result.lines
    )
    assert f"    remedy: {CODES['batch-crc'].remedy}" in result.lines
    assert result.lines[-1].startswith("1 damage, 1 warnings, 0 notes in")


def test_json_is_one_object_a_finding_and_a_summary_last(damaged: Path) -> None:
    result = logstore("check", "--json", damaged)
    *found, last = result.objects
    assert all(list(one) == FIELDS for one in found)
    assert {one["code"] for one in found} == {"batch-crc", "index-padding"}
    assert last == {
        "summary": {
            "damage": 1, "warning": 1, "note": 0,
            "partitions": 1, "segments": 3, "batches": 8, "records": 16, "bytes": 819,
        }
    }  # fmt: skip


def test_warnings_count_for_the_exit_code_when_asked_to(orders: Path) -> None:
    append_bytes(orders / "00000000000000000000.index", bytes(80))
    assert logstore("check", orders).code == 0
    assert logstore("check", "--fail-on", "warning", orders).code == 1
    assert logstore("check", "--fail-on", "damage", orders).code == 0


def test_notes_never_count_for_the_exit_code(directory: LogDirectory, written: Partition) -> None:
    directory.close(is_clean=False)
    result = logstore("check", "--fail-on", "warning", directory.path)
    assert result.code == 0 and result.lines[0].startswith("note unclean-shutdown: ")
    assert not any("remedy" in line for line in result.lines)


def test_quiet_leaves_out_notes_and_summary_but_not_findings(damaged: Path) -> None:
    (damaged / "notes.txt").touch()
    result = logstore("check", "--quiet", damaged)
    assert [line.split(":")[0] for line in result.lines[::2]] == ["warning index-padding", "damage batch-crc"]
    assert len(result.lines) == 4


def test_quiet_json_still_says_everything(damaged: Path) -> None:
    (damaged / "notes.txt").touch()
    assert logstore("check", "--quiet", "--json", damaged).out == logstore("check", "--json", damaged).out


def test_topic_and_partition_choose_inside_a_log_directory(directory: LogDirectory, damaged: Path) -> None:
    audit = directory.partition("audit-0")
    audit.append(b"v")
    audit.close()
    assert logstore("check", "--topic", "audit", directory.path).code == 0
    assert logstore("check", "--topic", "ord*", "--partition", 3, directory.path).code == 1
    assert logstore("check", "--partition", 4, directory.path).code == 0


def test_several_paths_have_one_summary(orders: Path) -> None:
    result = logstore("check", "--json", *sorted(orders.glob("*.log")))
    [summary] = result.objects
    assert summary["summary"]["segments"] == 3


def test_a_file_of_an_unknown_name_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a log")
    result = logstore("check", tmp_path / "notes.txt")
    assert result.code == 3 and "nothing is known" in result.err


def test_paths_that_are_not_utf8_are_json(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "caf\udce9\n-0")
    partition.append(b"value")
    flip_bit(partition.log, 61, 0)
    assert logstore("check", "--json", partition.path).objects[0]["path"] == str(partition.log)
    assert "caf\\xe9\\n-0" in logstore("check", partition.path).lines[0]


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "colored"),
    [(True, None, True), (True, "", True), (True, "1", False), (False, None, False)],
)
def test_colour_is_for_terminals_unless_unwanted(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool, no_color: str | None, colored: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert (b"\x1b[" in logstore("check", damaged, is_terminal=is_terminal).out) is colored


def test_json_has_no_colour_even_at_a_terminal(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert b"\x1b[" not in logstore("check", "--json", damaged, is_terminal=True).out
