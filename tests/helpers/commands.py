"""Run the command line: in this process, where a test needs only what comes out, or as a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from logstore_cli.main import run

PROGRAM = [sys.executable, "-c", "from logstore_cli.main import main; main()"]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: exit code, stdout as bytes, stderr as text."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().split("\n")[:-1]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.split(b"\n")[:-1]]


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def logstore(*arguments: object, is_terminal: bool = False) -> Result:
    """Run a command in this process; `is_terminal` is what its stdout says of itself."""
    stream = Terminal if is_terminal else io.TextIOWrapper
    out, err = stream(io.BytesIO(), encoding="utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([os.fspath(one) if isinstance(one, os.PathLike) else str(one) for one in arguments])
    out.flush()
    return Result(code, out.buffer.getvalue(), err.getvalue())  # type: ignore[attr-defined]


def objects(*arguments: object) -> list[dict[str, Any]]:
    """The lines of `--json` of a command that finds nothing wrong."""
    result = logstore(*arguments, "--json")
    assert (result.code, result.err) == (0, ""), result.err
    return result.objects


def environment(**changes: str | None) -> dict[str, str]:
    """The environment of a process that runs what this one runs."""
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **changes}
    return {name: value for name, value in found.items() if value is not None}


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a process of its own; `options` are those of `subprocess.run`."""
    command = [*PROGRAM, *map(str, arguments)]
    options = {"capture_output": True, "timeout": 60, "env": environment(), **options}
    return subprocess.run(command, **options)


def process_without_privileges(*arguments: object) -> Result:
    """Run a command so that permission bits bind it, also where the tests run as root."""
    if os.geteuid() == 0:
        done = process(*arguments, preexec_fn=_drop_privileges)
        if done.returncode < 0 or b"SubprocessError" in done.stderr:
            pytest.skip("root cannot give up its privileges here")
    else:
        done = process(*arguments)
    return Result(done.returncode, done.stdout, done.stderr.decode())


def _drop_privileges() -> None:
    """Root is bound by permission bits, as the owner of its files, once it may not override them."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
