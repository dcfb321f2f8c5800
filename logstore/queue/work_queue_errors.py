"""What can go wrong with a work queue beyond what can with its store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logstore.errors import LogstoreError


class JobLostError(LogstoreError):
    """A job is not this worker's any more: its visibility ran out and another one has it, or it is finished.

    Args:
        jobs: which of several; the others were dealt with.
    """

    def __init__(self, reason: str, *, offset: int | None = None, jobs: Sequence[Any] = ()) -> None:
        super().__init__(
            reason, offset=offset, remedy="take a longer visibility timeout, or extend it while you work"
        )  # fmt: skip
        self.jobs = tuple(jobs)


class QueueClosedError(LogstoreError):
    """The queue is closed, or was opened by the process from which this one was forked."""
