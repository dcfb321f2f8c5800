"""The time, as an argument: no module below `logstore` asks the operating system for it except through a `Clock`.

Invariant: `monotonic_ns` never goes back; `now_ms` may, and no code may rely on it not to. Stateless, therefore
thread-safe.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since the epoch. It jumps, also back, when somebody sets the machine's clock."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment: for how long something took, or how long ago it was, and nothing else."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()
