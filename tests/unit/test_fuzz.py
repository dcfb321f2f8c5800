"""A short run of the fuzzer finds nothing; and what it is there to find, it finds, reports and runs again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fuzz
import fuzz_inputs
import pytest

TESTS = Path(fuzz.__file__).parent
PLANTED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:]
import fuzz

def planted(data):
    {fault}
    return True

fuzz.CASE_SECONDS = 0.3 if "while" in {fault!r} else 30.0
fuzz.READERS["name"] = planted
sys.exit(fuzz.main(["--seed", "1", "--count", "60", "--processes", "2"]))
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env={"PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def run_with(fault: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """A short run in which the reader of names has this fault; its reports go to `directory`."""
    return run("-c", PLANTED.format(fault=fault), str(TESTS), TMPDIR=str(directory))


def test_two_thousand_changed_inputs_do_no_harm() -> None:
    ran = run(str(TESTS / "fuzz.py"), "--seed", "20", "--count", "2000", LOGSTORE_KERNEL=fuzz.KERNEL_NAME)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"seed 20, 2,000 cases, {len(os.sched_getaffinity(0))} processes, kernel {fuzz.KERNEL_NAME}" in ran.stdout
    assert "2,000 cases in" in ran.stdout and "memory grew by at most" in ran.stdout


def test_a_case_follows_from_its_seed_and_number_alone() -> None:
    cases = [fuzz_inputs.make_case(5, number) for number in range(50)]
    assert [fuzz_inputs.make_case(5, number) for number in reversed(range(50))] == cases[::-1]
    assert [fuzz_inputs.make_case(6, number) for number in range(50)] != cases


def test_every_reader_gets_cases_right_and_wrong() -> None:
    tally = fuzz.Tally()
    for number in range(700):
        fuzz.run_case(fuzz_inputs.make_case(1, number), number, tally)
    assert tally.done.keys() == fuzz.READERS.keys()
    for reader in fuzz.READERS.keys() - {"directory"}:
        assert 0 < tally.refused[reader] < tally.done[reader]


def test_what_comes_out_of_a_reader_is_reported_and_can_be_run_again(tmp_path: Path) -> None:
    ran = run_with("raise KeyError('planted')", tmp_path)
    assert ran.returncode == 1
    assert "KeyError: 'planted'" in ran.stderr and "seen " in ran.stderr
    again = re.search(r"again: python tests/fuzz.py --seed 1 --case (\d+)", ran.stderr)
    written = re.search(r"input: python tests/fuzz.py --reader name (\S+)", ran.stderr)
    assert again is not None and written is not None
    case = fuzz_inputs.make_case(1, int(again[1]))
    assert Path(written[1]).read_bytes() == case.data
    assert run(str(TESTS / "fuzz.py"), "--seed", "1", "--case", again[1]).returncode == 0
    assert run(str(TESTS / "fuzz.py"), "--reader", "name", written[1]).stdout in ("right\n", "refused\n")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("while True: pass", "it took more than 0.3 seconds"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "its process ended by SIGSEGV"),
        ("os._exit(3)", "its process ended by exit 3"),
        ("bytearray(b'x') * (200 << 20)", "memory grew by"),
    ],
    ids=["hang", "crash", "exit", "memory"],
)
def test_a_hang_a_crash_and_a_hunger_for_memory_are_failures_of_their_case(
    fault: str, words: str, tmp_path: Path
) -> None:
    ran = run_with(fault, tmp_path)
    assert ran.returncode == 1
    assert words in ran.stderr and "again: python tests/fuzz.py --seed 1 --case" in ran.stderr


def test_a_run_goes_on_behind_a_case_that_killed_its_process(tmp_path: Path) -> None:
    ran = run_with("os._exit(3)", tmp_path)
    done = re.search(r"^(\d+) cases in", ran.stdout, re.MULTILINE)
    names = sum(fuzz_inputs.make_case(1, number).reader == "name" for number in range(60))
    assert names > 0 and f"seen {names} times" in ran.stderr if names > 1 else "exit 3" in ran.stderr
    assert done is not None and int(done[1]) < 60
