"""A thread of its own for work that its owner starts and ends.

Invariant: nothing runs but between `start` and `stop`; an error that nobody was told of is raised by `stop`.
Thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from logstore.errors import LogstoreError

_ERRORS_MAX = 100


class Background:
    """Base of what runs in the background; a context manager. `_run` has to end once `_ended` is set.

    Args:
        what: its name in errors.
        thread_name: its thread's.
    """

    def __init__(self, what: str, thread_name: str) -> None:
        self._what = what
        self._thread_name = thread_name
        self._guard = threading.Lock()  # guards thread and errors, and what a child has; innermost
        self._errors: list[LogstoreError | OSError] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        raise NotImplementedError

    def _keep(self, error: LogstoreError | OSError) -> None:
        """Let `stop` raise an error, if it is the first one."""
        with self._guard:
            if len(self._errors) < _ERRORS_MAX:
                self._errors.append(error)

    @property
    def errors(self) -> Sequence[LogstoreError | OSError]:
        """What went wrong and nobody was told of, the oldest first; of very many, the first."""
        with self._guard:
            return tuple(self._errors)

    def start(self) -> None:
        """Begin. Raises RuntimeError when it has begun already."""
        with self._guard:
            if self._thread is not None:
                raise RuntimeError(f"{self._what} runs already")
            self._ended.clear()
            self._thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it, and wait for what is under way. Raises the first error that nobody was told of."""
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._ended.set()
        thread.join()
        with self._guard:
            errors, self._errors = self._errors, []
        if errors:
            raise errors[0]
