"""Other processes for tests: forked, so that they start at once; they are told things, tell some, and may be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PATIENCE = 30.0


class Line:
    """What a child has of its parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, value: object) -> None:
        """Let the parent hear something."""
        self._connection.send(("told", value))

    def wait(self) -> Any:
        """What the parent says next."""
        return self._connection.recv()

    def is_called(self) -> bool:
        """Whether the parent has said something."""
        return self._connection.poll()


class Child:
    """A process that does `work(line)`; a context manager that kills it in the end.

    Stores and logs of the parent are no good in it: it opens its own.
    """

    def __init__(self, work: Callable[[Line], object]) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_run, args=(work, other), daemon=True)
        self._process.start()
        other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def say(self, value: object = None) -> None:
        """Let it hear something."""
        self._connection.send(value)

    def hear(self) -> Any:
        """What it tells next."""
        return self._next("told")

    def heard(self) -> list[Any]:
        """What it has told and nobody has heard yet; of one that was killed, too."""
        found = []
        try:
            while self._connection.poll():
                kind, value = self._connection.recv()
                assert kind == "told", value
                found.append(value)
        except (EOFError, ConnectionResetError):
            pass
        return found

    def result(self) -> Any:
        """What its work gave."""
        found = self._next("done")
        self._process.join(PATIENCE)
        return found

    def finish(self) -> None:
        """Wait for its end, whatever it has told before. Raises AssertionError where its work failed."""
        while True:
            assert self._connection.poll(PATIENCE), "the child says nothing"
            kind, value = self._connection.recv()
            if kind == "done":
                break
            assert kind == "told", value
        self._process.join(PATIENCE)

    def _next(self, wanted: str) -> Any:
        assert self._connection.poll(PATIENCE), "the child says nothing"
        kind, value = self._connection.recv()
        assert kind == wanted, value
        return value

    def kill(self) -> None:
        """Kill it, as by `kill -9`."""
        if self._process.is_alive() and self._process.pid is not None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(PATIENCE)


def run(work: Callable[[Line], object]) -> Any:
    """What `work` gives in a process of its own."""
    with Child(work) as child:
        return child.result()


def _run(work: Callable[[Line], object], connection: Connection) -> None:
    try:
        connection.send(("done", work(Line(connection))))
    except BaseException:
        connection.send(("failed", traceback.format_exc()))
        raise
