"""A directory that is held for writing by a command: its locks, the marks of a clean shutdown, its checkpoints.

Who works on a partition inside a broker's log directory holds that directory. Its clean-shutdown marker goes before the
first change and comes back at the end, if all logs in it are complete; what was changed is recorded in its own
checkpoints, as its broker would. So a crash at any moment leaves a directory that is recovered from where it was. One
hold belongs to one thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

from logstore import names
from logstore.errors import CorruptCheckpointError, InvalidNameError, LogLockedError
from logstore.fs import FileLock, FileSystem, replace_atomically
from logstore.log import find_log_directory, format_offset_checkpoint, parse_offset_checkpoint
from logstore.names import DirectoryKind, FileKind, TopicPartition
from logstore.repair.held_files import HeldFiles

OnRead: TypeAlias = Callable[[int], object]
CLEAN_MARKER = b'{"version":0,"brokerEpoch":-1}'
"""What `.kafka_cleanshutdown` says when no broker has written it: which one shut down is unknown."""

_LOWERED = (names.HIGH_WATERMARK_CHECKPOINT, names.CLEANER_CHECKPOINT)  # where they lie beyond the end of a log


class Ends(NamedTuple):
    """Where a log begins and ends."""

    log_start_offset: int
    log_end_offset: int


class HeldDirectory:
    """A log directory, or a partition directory that stands alone; use `take` or `take_partition`.

    Attributes:
        path: it.
        fs: what logs in it are to be opened with.
        is_broker: whether it is a broker's log directory.
        was_clean: whether that broker has shut down cleanly.
    """

    def __init__(
        self,
        fs: FileSystem,
        path: Path,
        locks: list[FileLock],
        made: list[Path],
        *,
        is_broker: bool,
        on_read: OnRead | None,
    ) -> None:
        self.path = path
        self.is_broker = is_broker
        self._fs = fs
        self._locks = locks
        self._made = made
        self._marker_path = path / names.CLEAN_SHUTDOWN
        self._recorded: dict[Path, Ends] = {}
        self.was_clean = is_broker and fs.exists(self._marker_path)
        self._marker = _read(fs, self._marker_path) if self.was_clean else CLEAN_MARKER
        self._is_marked = self.was_clean
        held = HeldFiles(fs, {lock.path for lock in locks}, in_memory=is_broker, on_read=on_read)
        if self.was_clean:
            replace_atomically(held, self._marker_path, self._marker)
        self.fs: FileSystem = held

    @classmethod
    def take(cls, fs: FileSystem, directory: Path, on_read: OnRead | None = None) -> Self:
        """Hold a broker's log directory; `on_read` is told how many bytes each reading of a log gave.

        Raises LogLockedError, OSError.
        """
        return cls._take(fs, directory, on_read, is_broker=True)

    @classmethod
    def take_partition(cls, fs: FileSystem, directory: Path, on_read: OnRead | None = None) -> Self:
        """Hold a partition directory, with the log directory it lies in if that is a broker's.

        Raises LogLockedError, OSError.
        """
        around = find_log_directory(fs, directory)
        if around is None:
            return cls._take(fs, directory, on_read, is_broker=False)
        held = cls._take(fs, around, on_read, is_broker=True)
        try:
            held.enter(directory)
        except BaseException:
            held.release()
            raise
        return held

    @classmethod
    def _take(cls, fs: FileSystem, directory: Path, on_read: OnRead | None, *, is_broker: bool) -> Self:
        locks: list[FileLock] = []
        made: list[Path] = []
        try:
            _lock(fs, directory, locks, made)
            above = directory.parent / names.LOCK
            if not is_broker and fs.exists(above):
                _lock(fs, directory.parent, locks, made)
            return cls(fs, directory, locks, made, is_broker=is_broker, on_read=on_read)
        except BaseException:
            for path in made:
                fs.unlink(path, missing_ok=True)
            for lock in locks:
                lock.release()
            raise

    def __repr__(self) -> str:
        return f"<HeldDirectory {self.path} {'held' if self._locks else 'released'}>"

    def enter(self, partition: Path) -> None:
        """Prepare a partition of a broker's log directory. Raises LogLockedError, OSError."""
        place = partition / names.LOCK
        if self._fs.exists(place):
            lock = self._fs.lock(place)
            if lock is None:
                raise _locked(partition)
            lock.release()
        checkpoint = self.path / names.RECOVERY_POINT_CHECKPOINT
        written_ms = self._fs.modified_ms(checkpoint) if self._fs.exists(checkpoint) else 0
        for own in self._own_files(partition):
            # What is older than the checkpoint speaks of a log that a broker has written to since.
            if self._fs.modified_ms(own) < written_ms:
                self.fs.unlink(own)

    def _own_files(self, partition: Path) -> list[Path]:
        return [partition / name for name in self._fs.list(partition) if name.startswith(names.OWN_PREFIX)]

    # ---- the marks

    def begin(self) -> None:
        """Take the mark of a clean shutdown away, durably: something is about to change. Raises OSError."""
        if self._is_marked:
            self._fs.unlink(self._marker_path)
            self._fs.sync_directory(self.path)
            self._is_marked = False

    def lower(self, partition: Path, offset: int) -> None:
        """Let no checkpoint say more of a partition than `offset`, durably, before its log is cut there."""
        identity = _identity(partition)
        if self.is_broker and identity is not None:
            bases = {identity: _active_base(self._fs, partition, offset)}
            self._clamp((names.RECOVERY_POINT_CHECKPOINT, *_LOWERED), {identity: Ends(offset, offset)}, bases)

    def raise_start(self, partition: Path, offset: int) -> None:
        """Let the checkpoint of log starts say `offset` of a partition, durably, before files below it go."""
        identity, starts = _identity(partition), self._load(names.LOG_START_CHECKPOINT)
        if self.is_broker and identity is not None and (starts or {}).get(identity, 0) < offset:
            self._save(names.LOG_START_CHECKPOINT, starts, {**(starts or {}), identity: offset})

    def high_watermark(self, partition: Path) -> int | None:
        """What the checkpoint of its broker says is replicated of a partition, as `high_watermark_of`."""
        return high_watermark_of(self._fs, self.path, partition) if self.is_broker else None

    def record(self, partition: Path, ends: Ends) -> None:
        """Note that a log is complete and on disk up to its end; `finish` writes it down."""
        if self.is_broker:
            self._recorded[partition] = ends

    def finish(self, *, is_clean: bool) -> None:
        """Write down what was recorded, and the mark of a clean shutdown if all logs are complete. Raises OSError."""
        if not self.is_broker:
            return
        found = {identity: one for one in self._recorded if (identity := _identity(one)) is not None}
        if found:
            self._write_checkpoints(found)
        for partition in self._recorded:
            for own in self._own_files(partition):
                self._fs.unlink(own, missing_ok=True)
        if is_clean and not self._is_marked:
            replace_atomically(self._fs, self._marker_path, self._marker)
            self._is_marked = True

    def release(self) -> None:
        """Let others have it; lock files that were made for this go."""
        locks, self._locks = self._locks, []
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.callback(lock.release)
            for made in self._made:
                stack.callback(self._fs.unlink, made, missing_ok=True)

    # ---- the checkpoints

    def _write_checkpoints(self, found: Mapping[TopicPartition, Path]) -> None:
        ends = {identity: self._recorded[path] for identity, path in found.items()}
        bases = {identity: _bases(self._fs, path) for identity, path in found.items()}
        points = self._load(names.RECOVERY_POINT_CHECKPOINT)
        self._save(
            names.RECOVERY_POINT_CHECKPOINT, points,
            {**(points or {}), **{one: end.log_end_offset for one, end in ends.items()}},
        )  # fmt: skip
        starts = self._load(names.LOG_START_CHECKPOINT)
        kept = {one: offset for one, offset in (starts or {}).items() if one not in ends}
        # As a broker: only where the log begins inside its first segment.
        above = {one: end.log_start_offset for one, end in ends.items() if end.log_start_offset > min(bases[one])}
        self._save(names.LOG_START_CHECKPOINT, starts, {**kept, **above})
        self._clamp(_LOWERED, ends, {one: max(found_bases) for one, found_bases in bases.items()})

    def _clamp(
        self,
        checkpoints: Iterable[str],
        ends: Mapping[TopicPartition, Ends],
        active_bases: Mapping[TopicPartition, int],
    ) -> None:
        """Lower what lies beyond the end of a log; the cleaner goes on at the active segment then."""
        for name in checkpoints:
            before = self._load(name)
            lowered = {
                one: active_bases[one] if name == names.CLEANER_CHECKPOINT else ends[one].log_end_offset
                for one, offset in (before or {}).items()
                if one in ends and offset > ends[one].log_end_offset
            }
            if lowered:
                self._save(name, before, {**(before or {}), **lowered})

    def _load(self, name: str) -> dict[TopicPartition, int] | None:
        return _load(self._fs, self.path / name)

    def _save(
        self, name: str, before: Mapping[TopicPartition, int] | None, offsets: Mapping[TopicPartition, int]
    ) -> None:
        place = self.path / name
        if before == offsets or (before is None and not offsets):
            return
        if before is None and self._fs.exists(place):
            self._fs.rename(place, place.with_name(f".{name}.aside"))
        replace_atomically(self._fs, place, format_offset_checkpoint(offsets))


def high_watermark_of(fs: FileSystem, log_directory: Path, partition: Path) -> int | None:
    """What the checkpoint in a broker's log directory says is replicated of a partition; None where nothing says.

    It is 0 where the checkpoint cannot be read, as for a broker. Raises OSError.
    """
    place, identity = log_directory / names.HIGH_WATERMARK_CHECKPOINT, _identity(partition)
    if identity is None or not fs.exists(place):
        return None
    marks = _load(fs, place)
    return 0 if marks is None else marks.get(identity)


def _load(fs: FileSystem, place: Path) -> dict[TopicPartition, int] | None:
    """A checkpoint; None where there is none that can be read, as for a broker."""
    if not fs.exists(place):
        return None
    with contextlib.suppress(CorruptCheckpointError):
        return parse_offset_checkpoint(_read(fs, place))
    return None


def _lock(fs: FileSystem, directory: Path, locks: list[FileLock], made: list[Path]) -> None:
    place = directory / names.LOCK
    is_new = not fs.exists(place)
    lock = fs.lock(place)
    if lock is None:
        raise _locked(directory)
    locks.append(lock)
    if is_new:
        made.append(place)


def _locked(directory: Path) -> LogLockedError:
    return LogLockedError(
        "another process has it open for writing", path=directory, remedy="stop that process, or work on a copy"
    )


def _identity(partition: Path) -> TopicPartition | None:
    """What the checkpoints of its log directory call a partition; None for those they do not speak of."""
    try:
        name = names.parse_partition_directory(partition.name)
    except InvalidNameError:
        return None
    is_kept = name.kind is DirectoryKind.NORMAL and name.topic != names.CLUSTER_METADATA_TOPIC
    return name.topic_partition if is_kept else None


def _bases(fs: FileSystem, partition: Path) -> list[int]:
    """The base offsets of the segments of a partition, in no order."""
    found = [names.classify_file(name) for name in fs.list(partition)]
    return [one.base_offset or 0 for one in found if one.kind is FileKind.LOG and one.temporary_suffix is None] or [0]


def _active_base(fs: FileSystem, partition: Path, offset: int) -> int:
    """The base of the segment that is the last one once a log is cut at `offset`."""
    return max([base for base in _bases(fs, partition) if base <= offset], default=offset)


def _read(fs: FileSystem, path: Path) -> bytes:
    with fs.open(path) as file:
        return file.read(0, file.size())
