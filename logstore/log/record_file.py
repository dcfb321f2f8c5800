"""A `.log` file for reading: plain `pread`, so that a writer may append, truncate, rename or delete it meanwhile.

A mapping would be no faster here and would kill the reader with SIGBUS when the file is shortened in place. Safe to
share between threads; `close` it, or use it as a context manager.
"""

from __future__ import annotations

import os
from typing import Self

from logstore.records import BATCH_BYTES_MAX, BatchScanner


class RecordFile:
    """A file of batches, read by position.

    Its `size` is that of the moment it was opened: what is appended later is not seen. Opening raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def __repr__(self) -> str:
        return f"<RecordFile {self.path} size {self.size}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def read(self, position: int, size: int) -> bytes:
        """At most `size` bytes from `position`; fewer only where the file ends now. Raises OSError."""
        data = os.pread(self._descriptor, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]
        while data and size > (have := sum(map(len, parts))):
            data = os.pread(self._descriptor, size - have, position + have)
            parts.append(data)
        return b"".join(parts)

    def batches(
        self,
        *,
        start: int = 0,
        verify: bool = True,
        batch_bytes_max: int = BATCH_BYTES_MAX,
        offset_min: int = 0,
        offset_max: int = 2**63 - 1,
    ) -> BatchScanner:
        """Walk the file from `start`: batches, and damages where there are no batches."""
        return BatchScanner(
            self,
            start=start,
            verify=verify,
            batch_bytes_max=batch_bytes_max,
            offset_min=offset_min,
            offset_max=offset_max,
        )

    def close(self) -> None:
        """Give the descriptor back; reading raises OSError afterwards."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
