"""What is done with the groups of a round once they are written: made durable, compared with what was, and swapped in.

Invariant: groups are swapped in the order of the log. Where all of them are to be verified first, none is swapped
before; otherwise each is as soon as it is durable, and its old files go as soon as they may. With a helper thread the
next group is written meanwhile. Nothing that was written is left behind where something fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Self

from logstore.cleaner.source import Pace
from logstore.errors import LogstoreError
from logstore.log import Log
from logstore.log.cleaned_segment import CleanedSegment
from logstore.log.rewriting import SealedSegment


class Swap(NamedTuple):
    """A group of segments, and what is to take its place."""

    old: Sequence[SealedSegment]
    new: Sequence[CleanedSegment]


class Swaps:
    """Carries out the swaps of one round; a context manager.

    Args:
        log: whose segments they are.
        pace: may call the round off.
        check: looks at all swaps before the first one is made, if it is given, and raises where they are wrong.
        has_helper: whether a thread of its own makes groups durable and swaps them.
    """

    def __init__(
        self, log: Log, pace: Pace, check: Callable[[Sequence[Swap]], object] | None, *, has_helper: bool
    ) -> None:
        self._log = log
        self._pace = pace
        self._check = check
        self._pool = ThreadPoolExecutor(1, "logstore-cleaner") if has_helper else None
        # Of what the helper does, only what is new: who holds the old segments keeps them on disk.
        self._running: tuple[Future[None], Sequence[CleanedSegment]] | None = None
        self._waiting: list[Swap] = []

    def __repr__(self) -> str:
        return f"<Swaps of {self._log.directory}, {len(self._waiting)} waiting>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self._running is not None:
                future, new = self._running
                if future.cancel():
                    discard(new)
                else:
                    future.exception()  # it cleans up after itself
        finally:
            if self._pool is not None:
                self._pool.shutdown()
            for swap in self._waiting:
                discard(swap.new)

    def add(self, swap: Swap) -> None:
        """A group that was written. Raises what making an earlier one durable, or swapping it, has raised."""
        work = self._finish if self._check is not None else self._finish_and_swap
        if self._pool is None:
            work(swap)
            return
        try:
            self._wait()
        except BaseException:
            discard(swap.new)
            raise
        self._running = self._pool.submit(work, swap), swap.new

    def complete(self) -> None:
        """Let all be in place, durably. Raises as `add`, and what the check raises: nothing was swapped then."""
        self._wait()
        if self._check is None:
            return
        self._check(self._waiting)
        while self._waiting:
            swap = self._waiting.pop(0)
            if self._pool is None:
                self._replace(swap)
            else:  # by the helper: what interrupts this thread must not leave a swap half done
                self._pool.submit(self._replace, swap).result()

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running[0].result()

    def _finish(self, swap: Swap) -> None:
        try:
            for one in swap.new:
                one.finish(swap.old[-1].facts.modified_ms)
            self._pace.check()
        except BaseException:
            discard(swap.new)
            raise
        self._waiting.append(swap)

    def _finish_and_swap(self, swap: Swap) -> None:
        self._finish(swap)
        self._replace(self._waiting.pop())

    def _replace(self, swap: Swap) -> None:
        try:
            self._log.rewriter.replace(swap.new, swap.old)
        except LogstoreError:  # before a file was renamed; of an OSError nobody knows
            discard(swap.new)
            raise
        if not self._log.config.file_delete_delay_ms:
            self._log.maintain()


def discard(segments: Sequence[CleanedSegment]) -> None:
    """Remove the files of segments that nobody wants."""
    for one in segments:
        one.discard()
