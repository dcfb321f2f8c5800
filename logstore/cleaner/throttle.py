"""Holds the cleaner's reading and writing back to a number of bytes a second (CLEANER §6).

Invariant: over any number of periods, the bytes of all who share it stay within the limit, but for the last period.
Thread-safe: cleaners that share one share its limit, and a pause that one of them has caused is everybody's.
"""

from __future__ import annotations

import threading

from logstore.clock import Clock

_PERIOD_NS = 300_000_000
_SECOND_NS = 1_000_000_000


class Throttle:
    """Counts bytes in periods of at least 300 ms; who has made a period too fast has to wait.

    Args:
        bytes_per_second: the limit; may be changed at any time, and counts from then on.
        clock: tells how long a period took.
    """

    def __init__(self, bytes_per_second: float, clock: Clock) -> None:
        if not bytes_per_second > 0:
            raise ValueError(f"a limit of {bytes_per_second} bytes a second")
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._guard = threading.Lock()  # guards the period and its bytes; innermost
        self._start_ns = clock.monotonic_ns()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Throttle {self.bytes_per_second} bytes a second>"

    def delay(self, size: int) -> float:
        """Seconds to wait after `size` more bytes."""
        with self._guard:
            self._bytes += size
            now = self._clock.monotonic_ns()
            elapsed = now - self._start_ns
            if elapsed < _PERIOD_NS:
                # The next period begins only when the pause is over that the last one has caused.
                return max(0, -elapsed) / _SECOND_NS
            wait_ns = max(0, int(self._bytes / self.bytes_per_second * _SECOND_NS) - elapsed)
            self._start_ns, self._bytes = now + wait_ns, 0
            return wait_ns / _SECOND_NS
