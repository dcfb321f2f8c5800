"""The completion scripts are valid where their shell is there, and what they ask for is answered."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.commands import PROGRAM, environment, logstore, process
from logstore_cli.main import COMMANDS

SHELLS = ["bash", "zsh", "fish"]
SYNTAX_CHECK = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_valid_in_its_shell(tmp_path: Path, shell: str) -> None:
    result = logstore("completion", shell)
    assert (result.code, result.err) == (0, "") and b"_LOGSTORE_COMPLETE" in result.out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_bytes(result.out)
    done = subprocess.run([*SYNTAX_CHECK[shell], str(script)], capture_output=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("logstore ", [f"plain,{name}" for name in sorted(COMMANDS)]),
        ("logstore du", ["plain,dump"]),
        ("logstore dump --bat", ["plain,--batch", "plain,--batches"]),
        ("logstore dump --encoding ", ["plain,utf8", "plain,base64", "plain,hex"]),
        ("logstore dump ord", ["file,ord"]),
        ("logstore completion ", ["plain,bash", "plain,zsh", "plain,fish"]),
        ("logstore docs ", ["plain,config"]),
        ("logstore recover --cut", ["plain,--cut-damage"]),
        ("logstore truncate ord", ["file,ord"]),
    ],
)
def test_commands_options_and_paths_are_completed(words: str, offered: list[str]) -> None:
    count = str(len(words.split(" ")) - 1)
    asked = environment(_LOGSTORE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=count)
    done = process(env=asked)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == offered


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    program = tmp_path / "logstore"
    program.write_text(f"#!/bin/sh\nexec '{PROGRAM[0]}' -c '{PROGRAM[2]}' \"$@\"\n")
    program.chmod(0o755)
    script = (
        f"PATH='{tmp_path}':$PATH; source <(logstore completion bash); "
        "COMP_WORDS=(logstore dump --isol); COMP_CWORD=2; _logstore_completion logstore; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=environment(), timeout=60)
    assert done.stdout == b"--isolation\n", done.stderr
