"""What the commands share: values as people write them, and the words for what went wrong."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from logstore_cli import options
from logstore_cli.options import (
    Outcome,
    complete_path,
    parse_offsets,
    parse_path,
    parse_size,
    parse_time,
    progress,
    topic_matcher,
    total_bytes,
)

from logstore.errors import LogstoreError
from logstore.inspect import resolve

NOW = 1_700_000_000.5


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("1048576", 1 << 20), ("64MiB", 64 << 20), ("1KiB", 1024), ("2GiB", 2 << 30), ("1.5KiB", 1536),
        (" 64 mib ", 64 << 20), ("10b", 10), (4096, 4096), ("9007199254740993", 2**53 + 1),
    ],
)  # fmt: skip
def test_sizes_are_bytes_or_binary_units(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.KiB", "1MB", "1 2", "0x10", "\u0661"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000000", 1_700_000_000_000), ("0", 0), ("-1", -1), ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000), ("2023-11-14 22:13:20.123", 1_700_000_000_123),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000), ("2023-11-14", 1_699_920_000_000),
        ("9223372036854775807", 2**63 - 1), ("1970-01-01T00:00:00.001Z", 1), ("1969-12-31", -86_400_000),
    ],
)  # fmt: skip
def test_moments_are_iso_8601_or_milliseconds(text: str, moment: int) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("2h", 7200), ("7d", 604800), ("1.5m", 90), ("500ms", 0.5)])
def test_a_span_is_so_long_ago(monkeypatch: pytest.MonkeyPatch, text: str, ago: float) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert parse_time(text) == int((NOW - ago) * 1000)


@pytest.mark.parametrize("text", ["", "yesterday", "2h30m", "12:00", "2023-13-01", "1e3", "--1"])
def test_other_moments_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "offsets"),
    [("3:7", (3, 7)), ("3:", (3, None)), (":7", (None, 7)), ("3", (3, 3)), ("7:7", (7, 7)), (" 3:7 ", (3, 7))],
)
def test_a_range_of_offsets_may_be_open_on_either_side(text: str, offsets: tuple[int | None, int | None]) -> None:
    assert parse_offsets(text) == offsets


@pytest.mark.parametrize("text", ["", "7:3", "-1:3", "3-7", "a:b", "1:2:3"])
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_offsets(text)


@given(st.text(max_size=12))
def test_no_text_is_more_than_a_wrong_value(text: str) -> None:
    for parse in (parse_size, parse_time, parse_offsets):
        try:
            parse(text)
        except click.BadParameter:
            continue


def test_an_empty_path_is_not_the_current_directory() -> None:
    assert parse_path("orders-3/") == Path("orders-3")
    with pytest.raises(click.ClickException):
        parse_path("")


def test_the_shell_completes_paths() -> None:
    context = click.Context(click.Command("x"))
    [item] = complete_path(context, click.Argument(["paths"]), "ord")
    assert (item.type, item.value) == ("file", "ord")


def test_topics_match_by_globs_and_none_means_all() -> None:
    assert topic_matcher(())("anything")
    match = topic_matcher(("orders*", "audit"))
    assert [name for name in ("orders", "orders-eu", "audit", "Orders", "auditing") if match(name)] == [
        "orders", "orders-eu", "audit",
    ]  # fmt: skip


# ---------------------------------------------------------------- outcome


def test_an_outcome_is_0_then_1_then_3() -> None:
    outcome = Outcome()
    assert outcome.exit_code == 0
    outcome.has_damage = True
    assert outcome.exit_code == 1
    outcome.has_failed = True
    assert outcome.exit_code == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "x/y"), "logstore: x/y: No such file or directory\n"),
        (OSError(5, "Input/output error"), "logstore: here: Input/output error\n"),
        (LogstoreError("a reason", path="x", remedy="a remedy"), "logstore: x: a reason; a remedy\n"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(capsys: pytest.CaptureFixture[str], error: Exception, said: str) -> None:
    outcome = Outcome()
    with outcome.reported(Path("here")):
        raise error
    assert (capsys.readouterr().err, outcome.exit_code) == (said, 3)


def test_a_closed_pipe_is_for_the_entry_point() -> None:
    with pytest.raises(BrokenPipeError), Outcome().reported(Path("here")):
        raise BrokenPipeError


# ---------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bars(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, size: int, *, quiet: bool = False) -> str:
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress("work", lambda: size, quiet=quiet) as advance:
        advance(size // 2)
    return stderr.getvalue()


def test_long_work_at_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "work" in bars(monkeypatch, Terminal(), options._PROGRESS_BYTES_MIN)


def test_short_work_a_file_and_quiet_show_none(monkeypatch: pytest.MonkeyPatch) -> None:
    long = options._PROGRESS_BYTES_MIN
    assert bars(monkeypatch, Terminal(), long - 1) == ""
    assert bars(monkeypatch, io.StringIO(), long) == ""
    assert bars(monkeypatch, Terminal(), long, quiet=True) == ""


def test_the_work_is_the_bytes_of_the_logs(orders: Path) -> None:
    size = sum(path.stat().st_size for path in orders.glob("*.log"))
    for path in (orders, orders.parent):
        assert total_bytes([resolve(path)], lambda _: True, None) == size
    assert total_bytes([resolve(orders.parent)], lambda topic: topic == "other", None) == 0
    log = orders / "00000000000000000006.log"
    assert total_bytes([resolve(log)], lambda _: True, None) == log.stat().st_size
