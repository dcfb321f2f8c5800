"""Numbers the operations on a `MemoryFileSystem`, and decides which of them go wrong.

Invariant: every operation that changes something gets one number, in order, whether it then happens or fails; once the
power is gone no operation happens any more. Not thread-safe: the file system calls it under its lock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

OperationKind: TypeAlias = Literal[
    "create", "write", "truncate", "sync", "rename", "unlink", "make_directory", "remove_directory", "sync_directory"
]


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of the file system, before it happens; `number` counts from 1."""

    number: int
    kind: OperationKind
    path: str
    position: int = 0
    """Of a write."""
    size: int = 0
    """Bytes of a write; the new size of a truncated file."""
    target: str | None = None
    """The new name of what is renamed."""


class SimulatedCrash(BaseException):
    """The power is gone before, or in the middle of, `operation`. No Exception: no handler of errors shall take it."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(f"the power is gone at {operation}")
        self.operation = operation


class Operations:
    """The count so far, where the power goes, and what fails; see `MemoryFileSystem` for the attributes.

    Args:
        others: of other processes on the same files, that are counted with these.
    """

    def __init__(self, others: Operations | None = None) -> None:
        self._counter: _Counter = _Counter() if others is None else others._counter
        self.stop_at: int | None = None
        self.stop_torn = False
        self._failures: list[_Failure] = []

    @property
    def count(self) -> int:
        return self._counter.count

    def fail_on(
        self, predicate: Callable[[Operation], bool], error: OSError | None, written: int, times: int | None
    ) -> None:
        if error is None and written < 1:
            raise ValueError("a short write without an error has to write something")
        self._failures.append(_Failure(predicate, error, written, -1 if times is None else times))

    def heal(self) -> None:
        self._failures.clear()

    def attempt(
        self, kind: OperationKind, path: str, *, position: int = 0, size: int = 0, target: str | None = None
    ) -> tuple[int, BaseException | None]:
        """Count an operation; return how many of its bytes are to be written, and what is to be raised then."""
        operation = Operation(self.count + 1, kind, path, position, size, target)
        if self.stop_at is not None and operation.number >= self.stop_at:
            torn, self.stop_torn = self.stop_torn and kind == "write", False
            return size // 2 if torn else 0, SimulatedCrash(operation)
        self._counter.count = operation.number
        for failure in self._failures:
            if failure.times != 0 and failure.predicate(operation):
                failure.times -= 1
                return min(size, failure.written), failure.error_for(operation)
        return size, None

    def begin(self, kind: OperationKind, path: str, *, size: int = 0, target: str | None = None) -> int:
        """Count an operation that happens as a whole or not at all; return its number, or raise what goes wrong."""
        _, error = self.attempt(kind, path, size=size, target=target)
        if error is not None:
            raise error
        return self.count


@dataclass(slots=True)
class _Counter:
    count: int = 0


@dataclass(slots=True)
class _Failure:
    predicate: Callable[[Operation], bool]
    error: OSError | None
    written: int
    times: int  # how often it is still to happen; negative: for ever

    def error_for(self, operation: Operation) -> OSError | None:
        if self.error is None or self.error.errno is None:
            return self.error
        return OSError(self.error.errno, self.error.strerror, operation.path)
