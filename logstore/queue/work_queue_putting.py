"""Putting jobs: one with a word about it, and many at once.

A job of which nothing is to be known but that it is there is one append and no more; no turn is needed. What others
have to know of a job before they come to look at it is told in the same turn. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from logstore.config import Durability
from logstore.errors import BatchTooLargeError
from logstore.log import AppendFuture, Log, SharedLog
from logstore.queue import work_queue_records as records
from logstore.queue.work_queue_files import QueueFiles
from logstore.queue.work_queue_job import JobId, job_headers
from logstore.records import Header

_BATCH_BYTES = 512 << 10
_RECORD_BYTES = 100  # of a record around key, value and headers, at most, and of its batch


class Putter:
    """Puts jobs into a queue."""

    def __init__(self, files: QueueFiles, durability: Durability) -> None:
        self._files = files
        self._durability = durability

    def __repr__(self) -> str:
        return f"<Putter of {self._files}>"

    def put(
        self, value: Any, key: bytes | None, number: int, due: int, unique: bytes | None, headers: Iterable[Header]
    ) -> JobId:
        """Put a job that is due at some time (ms), or has a unique key."""
        files = self._files
        now = files.store.clock.now_ms()
        found = job_headers(headers, due if due > now else None, unique)
        with files.turn:
            known = None if unique is None else files.state.unique.get(unique)
            if known is not None:
                return JobId(*known, is_duplicate=True)
            log = files.logs[number]
            offset, future = self._append(log, [(key, value, now, found)])
            changes = [] if unique is None else [records.encode_unique(number, offset, unique)]
            if due > now:
                changes.append(records.encode_released(number, [(offset, due, 0)]))
            told = files.write(changes)
        _settle(log, future)
        files.settle(told)
        return JobId(number, offset)

    def put_many(
        self, values: Sequence[Any], key: bytes | None, number: int, headers: Iterable[Header]
    ) -> list[JobId]:  # fmt: skip
        """Put jobs that are due at once."""
        now, log, found = self._files.store.clock.now_ms(), self._files.logs[number], job_headers(headers, None, None)
        around = _RECORD_BYTES + len(key or b"") + sum(len(name) + len(value or b"") for name, value in found)
        ids: list[JobId] = []
        future: AppendFuture | None = None
        for batch in _batches(values, around, log.config.max_message_bytes):
            first, future = self._append(log, [(key, value, now, found) for value in batch])
            ids += [JobId(number, offset) for offset in range(first, first + len(batch))]
        _settle(log, future)
        return ids

    def _append(self, log: Log | SharedLog, items: list[Any]) -> tuple[int, AppendFuture | None]:
        if self._durability == "always":
            future = log.append_later(items)
            return future.first_offset, future
        return log.append(items, durability=self._durability).first_offset, None


def _settle(log: Log | SharedLog, future: AppendFuture | None) -> None:
    """Wait until what was appended is on disk."""
    if future is not None:
        try:
            future.result()
        except FileNotFoundError:  # somebody has put another segment in its place, and has synced that
            log.flush()


def _batches(values: Sequence[Any], around: int, bytes_max: int) -> list[list[Any]]:
    """Values in batches of a good size. Raises BatchTooLargeError where one alone is too large."""
    wanted, room = min(_BATCH_BYTES, bytes_max), 0
    found: list[list[Any]] = []
    for value in values:
        size = around + len(value or b"")
        if size > bytes_max + _RECORD_BYTES:
            raise BatchTooLargeError(f"a job of {size - around} bytes does not fit max.message.bytes, {bytes_max}")
        if size > room:
            found.append([])
            room = wanted
        found[-1].append(value)
        room -= size
    return found
