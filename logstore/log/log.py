"""One partition on disk that is written: open, append, roll, read, close, and open again after a crash.

Invariants: offsets ascend without gaps; every sealed segment is durable before the next one is begun, so only the
active segment can be torn; nothing is cut that has not been kept aside. Any number of threads may read while others
append. Another process may read with the tools of `logstore.inspect`; one process writes at a time.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from logstore import names
from logstore.clock import Clock, SystemClock
from logstore.config import INT64_MAX, INTERVAL_FLUSH_MS, Durability, LogConfig
from logstore.errors import DamagedLogError, LogClosedError, LogLockedError, LogstoreError, OffsetOutOfRangeError
from logstore.fs import FileLock, FileSystem, LocalFileSystem
from logstore.log.append import number_batch
from logstore.log.segment import Segment, SegmentRecovery
from logstore.names import FileKind
from logstore.records import BatchOptions, Codec, Record, encode_batch, iter_batches

READ_BYTES_MAX = 1 << 20
CLEAN_CLOSE = ".logstore-clean"  # exists between a clean close and the next open; holds the log end offset
_ASIDE_SUFFIX = ".aside"


class Appended(NamedTuple):
    """Where records were written: offsets of the first and the last, and their largest timestamp (ms)."""

    first_offset: int
    last_offset: int
    timestamp: int


class Recovered(NamedTuple):
    """What opening after a crash cut from the active segment, and where it was kept (None: nothing was cut)."""

    segment: SegmentRecovery
    kept_aside: Path | None


class Log:
    """A partition directory open for writing; use `Log.open`.

    Attributes:
        recovered: what recovery did when the log was opened; None after a clean close.
    """

    def __init__(
        self, directory: Path, config: LogConfig, fs: FileSystem, clock: Clock, lock: FileLock, leader_epoch: int
    ) -> None:
        self.directory = directory
        self.config = config
        self.recovered: Recovered | None = None
        self._fs = fs
        self._clock = clock
        self._file_lock = lock
        self._leader_epoch = leader_epoch
        # Guards everything below, and the files of the active segment; taken alone.
        self._lock = threading.RLock()
        self._segments: list[Segment] = []
        self._next_offset = 0
        self._jitter_ms = 0
        self._synced_offset = 0
        self._synced_ms = clock.now_ms()
        self._refusal: str | None = None
        self._is_open = True

    @classmethod
    def open(
        cls,
        directory: str | Path,
        config: LogConfig | None = None,
        *,
        fs: FileSystem | None = None,
        clock: Clock | None = None,
        leader_epoch: int = 0,
    ) -> Self:
        """Open a partition directory for writing; it is made when it is not there.

        After a clean close nothing is checked. Otherwise every batch of the active segment is: it is cut behind the
        last one that can be trusted, what was cut is kept in a file beside it, and `recovered` says so. Raises
        LogLockedError (another process writes here), DamagedLogError (files that only recovery of a broker may touch)
        and OSError.
        """
        place = Path(directory)
        fs = fs or LocalFileSystem()
        missing = [one for one in (place, *place.parents) if not fs.is_directory(one)]
        fs.make_directory(place)
        for one in missing:
            fs.sync_directory(one.parent)
        lock = fs.lock(place / names.LOCK)
        if lock is None:
            raise LogLockedError("another process has this log open for writing", path=place)
        try:
            log = cls(place, config or LogConfig(), fs, clock or SystemClock(), lock, leader_epoch)
        except BaseException:
            lock.release()
            raise
        try:
            log._load()
        except BaseException:
            log._give_back()
            raise
        return log

    def __repr__(self) -> str:
        return f"<Log {self.directory} offsets {self.log_start_offset}..{self.log_end_offset}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def log_start_offset(self) -> int:
        """The first offset there is."""
        return self._segments[0].base_offset if self._segments else 0

    @property
    def log_end_offset(self) -> int:
        """The offset that the next record gets."""
        return self._next_offset

    # ---- append

    def append(
        self,
        records: Iterable[Any],
        *,
        timestamp: int | None = None,
        codec: Codec = Codec.NONE,
        durability: Durability | None = None,
    ) -> Appended:
        """Append records as one batch; as `encode_batch` takes them, numbered by the log.

        `timestamp` (ms, default now) is for records without one. Raises as `append_batch`.
        """
        now = self._clock.now_ms() if timestamp is None else timestamp
        batch = encode_batch(records, timestamp=now, options=BatchOptions(codec=codec))
        return self.append_batch(batch, durability=durability)

    def append_batch(self, data: bytes | bytearray, *, durability: Durability | None = None) -> Appended:
        """Append one encoded batch; a bytearray is numbered in place.

        On return it is in the page cache (`os`), or on disk (`always`); `interval` syncs once flush.messages or
        flush.ms are reached. Raises LogstoreError for a batch the log does not take, and OSError; after a failed sync
        the log refuses further appends until it is opened again.
        """
        with self._lock:
            self._check_open()
            now = self._clock.now_ms()
            numbered = number_batch(
                data, next_offset=self._next_offset, leader_epoch=self._leader_epoch, now_ms=now, config=self.config
            )
            size = len(numbered.data)
            if size > self.config.segment_bytes:
                raise LogstoreError(f"a batch of {size} bytes is above segment.bytes, {self.config.segment_bytes}")
            active = self._segments[-1]
            if active.should_roll(size, numbered.last_offset, numbered.max_timestamp, now, self._jitter_ms):
                self._roll()
                active = self._segments[-1]
            active.append(numbered.data, numbered.last_offset, numbered.max_timestamp, numbered.last_offset)
            self._next_offset = numbered.last_offset + 1
            self._sync_if_due(durability or self.config.durability, now)
            return Appended(numbered.first_offset, numbered.last_offset, numbered.max_timestamp)

    def flush(self) -> None:
        """Make everything appended so far durable. Raises OSError, after which the log refuses appends."""
        with self._lock:
            self._check_open()
            self._sync()

    def _sync_if_due(self, durability: Durability, now_ms: int) -> None:
        if durability == "os":
            return
        waiting = self._next_offset - self._synced_offset
        waited = now_ms - self._synced_ms
        flush_ms = INTERVAL_FLUSH_MS if self.config.flush_ms == INT64_MAX else self.config.flush_ms
        if durability == "always" or waiting >= self.config.flush_messages or waited >= flush_ms:
            self._sync()

    def _sync(self) -> None:
        try:
            self._segments[-1].sync()
        except OSError as error:
            # What a failed fsync left in the page cache is marked clean: trying again would report success and lose it.
            self._refusal = f"a sync failed ({error.strerror}); open the log again"
            raise
        self._synced_offset, self._synced_ms = self._next_offset, self._clock.now_ms()

    def _roll(self) -> None:
        """Seal the active segment, make it durable, and begin the next at the log end."""
        active = self._segments[-1]
        active.seal()
        self._sync()
        # The names of its indexes must be durable before that of the next segment: a power cut keeps any of them.
        self._fs.sync_directory(self.directory)
        active.close()
        self._begin(self._next_offset)

    def _begin(self, base_offset: int) -> None:
        segment = Segment(self._fs, self.directory, base_offset, self.config, self._clock.now_ms(), is_new=True)
        self._fs.sync_directory(self.directory)
        self._segments.append(segment)
        jitter = min(self.config.segment_jitter_ms, self.config.segment_ms)
        self._jitter_ms = random.randrange(jitter) if jitter else 0

    # ---- read

    def read(self, offset: int, *, bytes_max: int = READ_BYTES_MAX) -> bytes:
        """Whole batches as stored, from the one that holds `offset` on: at least one, and more up to `bytes_max`.

        Empty at the log end. The first batch may begin below `offset`. Raises OffsetOutOfRangeError.
        """
        with self._lock:
            self._check_open(for_append=False)
            if not self.log_start_offset <= offset <= self._next_offset:
                raise OffsetOutOfRangeError(
                    f"offset {offset} is not in {self.log_start_offset}..{self._next_offset}", path=self.directory
                )
            segments = [(segment, segment.size) for segment in self._segments[self._floor(offset) :]]
            for segment, limit in segments:
                located = segment.locate(offset, limit)
                if located is not None:
                    break
            else:
                return b""
            # Still under the lock: a roll or a close gives the segment's file back.
            data = segment.read_bytes(located.position, min(max(bytes_max, located.size), limit - located.position))
        end = 0
        for batch in iter_batches(data, verify=False):
            end = batch.header.position + batch.header.size
        return data[:end]

    def records(self, offset: int | None = None, *, bytes_max: int = READ_BYTES_MAX) -> Iterator[Record]:
        """The records from `offset` (default: the log start) to the end there is when each read is made."""
        position = self.log_start_offset if offset is None else offset
        while data := self.read(position, bytes_max=bytes_max):
            for batch in iter_batches(data):
                position = batch.next_offset
                if not batch.is_control:
                    yield from (record for record in batch.records() if offset is None or record.offset >= offset)

    def _floor(self, offset: int) -> int:
        low, high = 0, len(self._segments)
        while low < high:
            middle = (low + high) // 2
            if self._segments[middle].base_offset <= offset:
                low = middle + 1
            else:
                high = middle
        return max(low - 1, 0)

    # ---- open and close

    def close(self) -> None:
        """Seal, sync and mark the log as cleanly closed; closing twice is fine. Raises OSError."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            try:
                if self._refusal is None:
                    self._segments[-1].seal()
                    self._sync()
                    self._mark_clean()
            finally:
                self._give_back()

    def _give_back(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self._file_lock.release)
            for segment in self._segments:
                stack.callback(segment.close)

    def _mark_clean(self) -> None:
        with self._fs.open(self.directory / CLEAN_CLOSE, write=True, create=True) as file:
            data = f"{self._next_offset}\n".encode()
            file.truncate(0)
            file.write(0, data)
            file.sync()
        self._fs.sync_directory(self.directory)

    def _load(self) -> None:
        bases, leftovers = [], []
        for name in self._fs.list(self.directory):
            classified = names.classify_file(name)
            if classified.temporary_suffix in (names.CLEANED_SUFFIX, names.SWAP_SUFFIX):
                leftovers.append(name)
            elif classified.kind == FileKind.LOG and classified.temporary_suffix is None:
                bases.append(classified.base_offset or 0)
        if leftovers:
            raise DamagedLogError(
                f"{leftovers[0]} is left of an unfinished compaction", path=self.directory,
                remedy="let the broker that wrote it start once",
            )  # fmt: skip
        clean_end = self._read_clean_mark()
        if clean_end is not None:
            # Before anything else changes: a crash from here on has to be recovered from.
            self._fs.unlink(self.directory / CLEAN_CLOSE)
            self._fs.sync_directory(self.directory)
        now = self._clock.now_ms()
        for base in sorted(bases):
            self._segments.append(Segment(self._fs, self.directory, base, self.config, now, is_new=False))
        if not self._segments:
            self._begin(0)
        else:
            self._recover_active(clean_end)
        self._leader_epoch = max(self._leader_epoch, self._segments[-1].leader_epoch)
        self._synced_offset = self._next_offset

    def _read_clean_mark(self) -> int | None:
        """The log end offset that a clean close left, or None."""
        place = self.directory / CLEAN_CLOSE
        if not self._fs.exists(place):
            return None
        with self._fs.open(place) as file:
            text = file.read(0, 32).strip()
        return int(text) if text.isdigit() else -1

    def _recover_active(self, clean_end: int | None) -> None:
        active = self._segments[-1]
        if clean_end is not None:
            self._next_offset = active.load_end()
            if self._next_offset == clean_end:
                active.resume()
                return
        found = active.recover()
        aside = self._keep_aside(active, found) if found.cut else None
        self.recovered = Recovered(found, aside)
        active.cut()
        active.sync()
        self._next_offset = active.load_end()

    def _keep_aside(self, segment: Segment, found: SegmentRecovery) -> Path | None:
        """Copy what recovery cuts into a file beside the segment; nothing where it is only preallocated zeros."""
        place = self.directory / f".{segment.path.name}.{found.kept}{_ASIDE_SUFFIX}"
        data = segment.read_bytes(found.kept, found.cut)
        if not any(data):
            return None
        with self._fs.open(place, write=True, create=True) as file:
            file.truncate(0)
            file.write(0, data)
            file.sync()
        self._fs.sync_directory(self.directory)
        return place

    def _check_open(self, *, for_append: bool = True) -> None:
        if not self._is_open:
            raise LogClosedError("this log is closed", path=self.directory)
        if for_append and self._refusal is not None:
            raise LogClosedError(f"this log takes no more appends: {self._refusal}", path=self.directory)
