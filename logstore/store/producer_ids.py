"""Ids for producers: each is given once in the life of a store, whatever becomes of a process or the power.

A process takes a block of them, durably, and gives them one by one (CLUSTER §8.1). Ours begin far above Kafka's, which
begin at 0: a directory that goes from one to the other keeps both apart, and in a log one can tell whose they are.
Thread-safe.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from logstore.errors import CorruptCheckpointError, UnsupportedFormatError
from logstore.fs import SharingFileSystem, replace_atomically

# On disk; never change.
FIRST_PRODUCER_ID = 1 << 40
_FILE, _LOCK = ".logstore-producer-ids", ".logstore-producer-ids.lock"
_VERSION = 1

_BLOCK = 1000
_FILE_SIZE_MAX = 4096


class ProducerIds:
    """Gives ids to the producers of one process.

    Args:
        fs: what the store stands on.
        root: its first directory.
    """

    def __init__(self, fs: SharingFileSystem, root: Path) -> None:
        self._fs = fs
        self._root = root
        self._guard = threading.Lock()  # innermost but for the lock file
        self._next = self._end = 0

    def __repr__(self) -> str:
        return f"<ProducerIds {self._next}..{self._end} of {self._root}>"

    def next(self) -> int:
        """One that nobody has got before. Raises CorruptCheckpointError, UnsupportedFormatError, OSError."""
        with self._guard:
            if self._next == self._end:
                self._take_block()
            self._next += 1
            return self._next - 1

    def _take_block(self) -> None:
        lock = self._fs.open_lock(self._root / _LOCK)
        try:
            lock.acquire(wait=True)
            start = self._read()
            content = {"version": _VERSION, "next": start + _BLOCK}
            replace_atomically(self._fs, self._root / _FILE, (json.dumps(content) + "\n").encode())
        finally:
            lock.close()
        self._next, self._end = start, start + _BLOCK

    def _read(self) -> int:
        path = self._root / _FILE
        if not self._fs.exists(path):
            return FIRST_PRODUCER_ID
        with self._fs.open(path) as file:
            data = file.read(0, min(file.size(), _FILE_SIZE_MAX))
        try:
            found = json.loads(data)
            version, start = int(found["version"]), int(found["next"])
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path) from error
        if version > _VERSION:
            raise UnsupportedFormatError(
                f"it was written by a newer logstore: format {version}, known is {_VERSION}", path=path,
                remedy="use a newer logstore",
            )  # fmt: skip
        if not FIRST_PRODUCER_ID <= start < 2**63 - _BLOCK:
            raise _damaged(path)
        return start


def _damaged(path: Path) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        "it does not say which producer ids were given out", path=path,
        remedy='write {"version": 1, "next": N} into it, with N above every producer id in the logs',
    )  # fmt: skip
