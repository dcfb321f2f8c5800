"""A clock that stands still until it is told to move.

Invariant: as with a real one, the wall clock may be set to anything, and `monotonic_ns` never goes back. Reading is
safe from any thread; move it from one.
"""

from __future__ import annotations


class ManualClock:
    """A `Clock` for tests; it starts at `now_ms` milliseconds since the epoch."""

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms
        self._monotonic_ns = 0

    def __repr__(self) -> str:
        return f"<ManualClock {self._now_ms} ms>"

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def advance(self, ms: int) -> None:
        """Let time pass. Raises ValueError where it should run back: that is for `set`."""
        if ms < 0:
            raise ValueError(f"time does not pass by {ms} ms; set the clock instead")
        self._now_ms += ms
        self._monotonic_ns += ms * 1_000_000

    def set(self, ms: int) -> None:
        """Set the wall clock, also back, as an administrator might; no time passes."""
        self._now_ms = ms
