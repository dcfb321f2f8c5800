"""However a command ends, its exit code and its streams say so, and nothing it reads is changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import PROGRAM, environment, logstore, process, process_without_privileges
from helpers.directories import Partition, flip_bit
from logstore_cli.main import COMMANDS, cli

import logstore as package

READING = ["dump", "check", "describe"]
BIG_VALUE = bytes(1 << 20)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A partition whose dump fills any pipe."""
    partition = Partition(tmp_path / "big-0")
    for _ in range(8):
        partition.append(BIG_VALUE)
    return partition.close()


# ---------------------------------------------------------------- help and usage


def test_help_names_every_command_and_needs_none_of_their_modules() -> None:
    code = "import sys; from logstore_cli.main import run; run(['--help']); print('logstore.inspect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True)
    assert all(f"  {name} ".encode() in done.stdout for name in COMMANDS)
    assert done.stdout.endswith(b"False\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_of_every_command_has_examples(command: str, option: str) -> None:
    result = logstore(command, option)
    assert (result.code, result.err) == (0, "")
    assert f"logstore {command} " in result.out.decode().partition("\n  Examples:\n")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_summary_is_what_it_says_of_itself(command: str) -> None:
    assert cli.get_command(None, command).help  # type: ignore[arg-type, union-attr]
    assert COMMANDS[command][1].endswith(".")


def test_the_version_is_printed() -> None:
    assert logstore("--version").out == f"logstore, version {package.__version__}\n".encode()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["--frobnicate"],
        *([command] for command in COMMANDS),
        *([command, "--frobnicate", "."] for command in COMMANDS),
        ["dump", "--limit", "-1", "."],
        ["dump", "--limit", "x", "."],
        ["dump", "--since", "yesterday", "."],
        ["dump", "--offsets", "9:1", "."],
        ["dump", "--offsets", "x", "."],
        ["dump", "--key-regex", "(", "."],
        ["dump", "--encoding", "hex", "--key", "xyz", "."],
        ["dump", "--encoding", "base64", "--header", "a=***", "."],
        ["dump", "--encoding", "rot13", "."],
        ["dump", "--format", "xml", "."],
        ["dump", "--json", "--format", "csv", "."],
        ["dump", "-0", "."],
        ["dump", "--format", "raw", "--batches", "."],
        ["dump", "--format", "raw", "--batch", "."],
        ["dump", "--isolation", "serializable", "."],
        ["dump", "--max-batch-bytes", "lots", "."],
        ["dump", "--partition", "-1", "."],
        ["check", "--fail-on", "note", "."],
        ["completion", "cmd"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_said_on_stderr(arguments: list[str]) -> None:
    result = logstore(*arguments)
    assert (result.code, result.out) == (2, b"")
    assert "Usage: logstore" in result.err


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize("command", READING)
def test_a_healthy_directory_is_exit_code_0(orders: Path, command: str) -> None:
    assert logstore(command, orders.parent).code == 0


@pytest.mark.parametrize("command", READING)
def test_damage_is_exit_code_1(orders: Path, command: str) -> None:
    flip_bit(orders / "00000000000000000006.log", 70, 0)
    assert logstore(command, orders).code == logstore(command, orders.parent).code == 1


@pytest.mark.kafka("DUMP-09")
@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("path", ["nowhere", "nowhere/00000000000000000000.log", "", "x" * 300])
def test_a_path_that_is_not_there_is_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = logstore(command, path)
    assert result.code == 3 and result.err.count("\n") == 1


@pytest.mark.parametrize("command", [["recover"], ["reindex"], ["truncate", "--to", "1"], ["read"]], ids=" ".join)
def test_so_it_is_for_those_that_write_or_follow(tmp_path: Path, command: list[str]) -> None:
    result = logstore(*command, tmp_path / "nowhere-0")
    assert (result.code, result.err) == (3, f"logstore: {tmp_path}/nowhere-0: No such file or directory\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", READING)
def test_a_path_that_fails_does_not_keep_the_others_from_being_read(orders: Path, command: str) -> None:
    alone, both = logstore(command, orders), logstore(command, "nowhere", orders)
    assert both.code == 3
    assert both.out == alone.out
    assert both.err == "logstore: nowhere: No such file or directory\n"


@pytest.mark.parametrize("command", READING)
def test_failure_outweighs_damage(orders: Path, command: str) -> None:
    flip_bit(orders / "00000000000000000006.log", 70, 0)
    assert logstore(command, orders, "nowhere").code == 3


@pytest.mark.kafka("DUMP-09")
@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("what", ["data", "orders-3", "00000000000000000006.log", "00000000000000000006.index"])
def test_what_may_not_be_read_is_exit_code_3(orders: Path, command: str, what: str) -> None:
    path = {"data": orders.parent, "orders-3": orders}.get(what, orders / what)
    path.chmod(0)
    try:
        result = process_without_privileges(command, path)
    finally:
        path.chmod(0o755)
    assert result.code == 3
    assert "Permission denied" in result.err + result.out.decode()
    assert "Traceback" not in result.err


@pytest.mark.parametrize("command", READING)
def test_what_may_not_be_read_does_not_keep_the_rest_from_being_read(orders: Path, command: str) -> None:
    (orders / "00000000000000000006.log").chmod(0)
    result = process_without_privileges(command, "--json", orders.parent)
    assert result.code == 3
    shown = {"dump": len(result.objects), "check": None, "describe": None}[command]
    assert shown in (None, 12) and result.objects


def test_output_that_cannot_be_written_is_exit_code_3(big: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no device that is always full")
    with open("/dev/full", "wb") as full:
        done = process("dump", big, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 3 and b"No space left on device" in done.stderr
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("command", [["dump"], ["dump", "--json"], ["dump", "-o", "/dev/stdout"]])
def test_a_closed_pipe_ends_quietly(big: Path, command: list[str]) -> None:
    running = subprocess.Popen(
        [*PROGRAM, *command, str(big)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.read(10)
    running.stdout.close()
    assert (running.wait(60), running.stderr.read()) == (0, b"")
    running.stderr.close()


def test_the_first_line_is_enough_for_head(big: Path) -> None:
    command = 'set -o pipefail; "$@" | head -1 | wc -c'
    done = subprocess.run(
        ["bash", "-c", command, "bash", *PROGRAM, "dump", "--encoding", "hex", str(big)],
        capture_output=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"") and int(done.stdout) > 2 * len(BIG_VALUE)


@pytest.mark.parametrize("command", READING)
def test_a_closed_stdout_is_no_error(orders: Path, command: str) -> None:
    line = '"$@" >&-'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *PROGRAM, command, str(orders)], capture_output=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_is_exit_code_130(big: Path) -> None:
    running = subprocess.Popen(
        [*PROGRAM, "dump", str(big)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert running.stdout is not None and running.stderr is not None
    running.stdout.read(1)  # it is at work, and blocks because nobody reads on
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.stdout.close()
    assert running.wait(60) == 130
    assert running.stderr.read() == b"logstore: interrupted\n"
    running.stderr.close()


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}]
)
@pytest.mark.parametrize("command", [["dump"], ["dump", "--json"], ["dump", "--batches"], ["check"], ["describe"]])
def test_names_that_are_not_utf8_are_no_error_in_any_locale(
    orders: Path, tmp_path: Path, locale: dict[str, str], command: list[str]
) -> None:
    os.rename(orders, os.fsencode(orders.parent) + b"/caf\xe9-0")
    done = process(*command, orders.parent, env=environment(**locale))
    assert (done.returncode, done.stderr) == (0, b"")


# ---------------------------------------------------------------- read only


COMMAND_LINES: list[list[Any]] = [
    ["dump"],
    ["dump", "--json", "--batch"],
    ["dump", "--batches"],
    ["dump", "--format", "csv"],
    ["dump", "--isolation", "read_committed", "--tail", "3"],
    ["check"],
    ["check", "--json"],
    ["describe"],
    ["describe", "--json"],
]


@pytest.mark.parametrize("command", COMMAND_LINES, ids=" ".join)
def test_no_command_changes_what_it_reads(
    orders: Path, transactions: Path, tree_unchanged: Any, command: list[str]
) -> None:
    flip_bit(orders / "00000000000000000006.log", 70, 0)
    with tree_unchanged(orders.parent):
        logstore(*command, orders.parent, orders, *orders.iterdir())


@pytest.mark.parametrize("command", [["dump", "--quiet"], ["check"], ["describe"]], ids=" ".join)
def test_no_command_changes_what_a_broker_wrote(kafka_fixtures: Path, tree_unchanged: Any, command: list[str]) -> None:
    for directory in ("kafka-4.1.1/clean", "kafka-4.1.1/live", "kafka-2.8.2/clean"):
        with tree_unchanged(kafka_fixtures / directory):
            assert logstore(*command, kafka_fixtures / directory).code == 0
