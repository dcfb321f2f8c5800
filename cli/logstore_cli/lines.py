"""Stdin, line by line, for a command that must know whether the next line is there already or has to be waited for."""

from __future__ import annotations

import io
import select
import sys
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from logstore.errors import LogstoreError

_READ_BYTES = 1 << 16
LINE_BYTES_MAX = 64 << 20
"""A longer line becomes no record that any log takes."""


class InputLines:
    """An iterator over the lines of a stream, without their newlines. Raises LogstoreError for a line too long.

    Args:
        stream: buffered; where it has a descriptor, that is read directly.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: deque[bytes] = deque()
        self._parts: list[bytes] = []  # of a line whose end was not read yet
        self._size = 0
        self._number = 0
        self._is_at_end = False
        self._error: LogstoreError | None = None
        try:
            self._descriptor: int | None = stream.fileno()
        except OSError:
            self._descriptor = None

    @classmethod
    def of_stdin(cls) -> InputLines:
        """The lines of the process's input."""
        return cls(io.BytesIO() if sys.stdin is None else sys.stdin.buffer)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._lines:
            if self._error is not None:
                raise self._error
            if self._is_at_end:
                raise StopIteration
            self._read()
        self._number += 1
        return self._lines.popleft()

    def comes_within(self, seconds: float) -> bool:
        """Whether the next line, or the end, is there or comes within that time."""
        while not self._lines and not self._is_at_end:
            if self._descriptor is not None and not select.select([self._descriptor], [], [], seconds)[0]:
                return False
            self._read()
        return True

    def _read(self) -> None:
        """Read what is there; waits where nothing is. Raises OSError."""
        # `read1` gives what one system call gives, and what the stream has buffered before.
        data = self._stream.read1(_READ_BYTES)  # type: ignore[attr-defined]
        if not data:
            self._is_at_end = True
            if self._size:
                self._lines.append(b"".join(self._parts))
            return
        head, *rest = data.split(b"\n")
        self._parts.append(head)
        self._size += len(head)
        if self._size > LINE_BYTES_MAX:
            number = self._number + len(self._lines) + 1
            self._error = LogstoreError(f"stdin, line {number}: longer than {LINE_BYTES_MAX} bytes")
            self._is_at_end = True
            return
        if rest:
            self._lines.append(b"".join(self._parts))
            self._lines.extend(rest[:-1])
            self._parts, self._size = [rest[-1]], len(rest[-1])
