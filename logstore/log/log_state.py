"""What a log knows of itself while it is open; the rooms that change it share it (LOG_SEMANTICS §1).

Invariants: log start offset <= high watermark <= log end offset; recovery point <= log end offset; everything below the
recovery point is on disk. Changes are made under `lock`; numbers may be read without. What takes bytes or files away
that somebody may be reading is done inside `cutting`, which tells readers to look again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.errors import LogClosedError
from logstore.fs import FileSystem
from logstore.log.epoch_file import EpochFile
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.maps import MapCache
from logstore.log.partition_state import PartitionHold
from logstore.log.producer_state import ProducerStates
from logstore.log.reading import Bounds, FetchIsolation
from logstore.log.segments import Segments


@dataclasses.dataclass(slots=True)
class LogState:
    """The state of one open log.

    Attributes:
        lock: guards every change; taken before `sync_lock`.
        sync_lock: who holds it syncs, for all who wait for it. Innermost but for the file system's.
        leader_epoch: what appends of a leader are stamped with.
        owner_watermark: the high watermark as its owner set it; None for a log that stands alone, where all that was
            appended counts as replicated.
        synced_offset: the recovery point.
        synced_ns: when the last sync was (monotonic).
        refusal: why nothing more is appended, if so.
        failure: why nothing is read any more either, if so.
        cuts: changes each time that bytes or files go; odd while they do.
        verify_transactions: whether a client's or coordinator's transaction may only begin with a guard (§4.2).
    """

    fs: FileSystem
    clock: Clock
    directory: Path
    config: LogConfig
    maps: MapCache
    hold: PartitionHold
    segments: Segments
    epochs: EpochFile
    producers: ProducerStates
    leader_epoch: int
    log_start_offset: int
    next_offset: int
    synced_offset: int
    synced_ns: int
    owner_watermark: int | None = None
    refusal: str | None = None
    failure: str | None = None
    is_open: bool = True
    cuts: int = 0
    verify_transactions: bool = False
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock, repr=False)
    sync_lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    # ---- bounds

    @property
    def high_watermark(self) -> int:
        """Up to where readers may go that see only what is replicated."""
        return self.next_offset if self.owner_watermark is None else self.owner_watermark

    @property
    def first_unstable(self) -> LogOffsetMetadata | None:
        """The first offset of a transaction that is not decided, or whose end is not replicated (§4.3)."""
        found = self.producers.first_unstable_offset
        if found is not None and found.offset < self.log_start_offset:
            return LogOffsetMetadata(self.log_start_offset)
        return found

    @property
    def last_stable_offset(self) -> int:
        """Up to where committed readers may go."""
        unstable, watermark = self.first_unstable, self.high_watermark
        return unstable.offset if unstable is not None and unstable.offset < watermark else watermark

    def bounds(self, isolation: FetchIsolation = FetchIsolation.LOG_END) -> Bounds:
        """How far a read may go now."""
        if isolation is FetchIsolation.LOG_END:
            end = self.next_offset
            return Bounds(self.log_start_offset, end, end)
        if not isinstance(isolation, FetchIsolation):
            raise TypeError(f"{isolation!r} is no FetchIsolation")
        with self.lock:
            end = self.next_offset
            limit = self.high_watermark if isolation is FetchIsolation.HIGH_WATERMARK else self.last_stable_offset
            return Bounds(self.log_start_offset, min(limit, end), end, min(limit, end))

    # ---- high watermark

    def set_high_watermark(self, offset: int) -> int:
        """Set it, bounded by log start and log end; what it became. Under the lock."""
        if offset < 0:
            raise ValueError(f"a high watermark of {offset} is negative")
        self.owner_watermark = max(min(offset, self.next_offset), self.log_start_offset)
        self.producers.on_high_watermark(self.owner_watermark)
        return self.owner_watermark

    def after_append(self) -> None:
        """Tell the producers how far all is replicated, in a log that stands alone. Under the lock."""
        if self.owner_watermark is None:
            self.producers.on_high_watermark(self.next_offset)

    def clamp_watermark(self) -> None:
        """Keep the high watermark within the log after it became shorter. Under the lock."""
        if self.owner_watermark is not None:
            self.set_high_watermark(self.owner_watermark)
        else:
            self.producers.on_high_watermark(self.next_offset)

    # ---- cutting

    @contextlib.contextmanager
    def cutting(self) -> Iterator[None]:
        """Take bytes or files away inside; not nested, under the lock.

        Where that fails nobody knows what is left: the log is out of use until it is opened again.
        """
        self.cuts += 1
        try:
            yield
        except BaseException as error:
            self.failure = self.failure or f"taking a part of it away failed ({error}); open the log again"
            self.refusal = self.refusal or self.failure
            raise
        finally:
            self.cuts += 1

    # ---- refusing

    def check_open(self, *, for_append: bool = True) -> None:
        """Raise LogClosedError where the log takes no more reads, or appends."""
        if not self.is_open:
            raise LogClosedError("this log is closed", path=self.directory)
        if self.failure is not None:
            raise LogClosedError(f"this log is out of use: {self.failure}", path=self.directory)
        if for_append and self.refusal is not None:
            raise LogClosedError(f"this log takes no more appends: {self.refusal}", path=self.directory)
