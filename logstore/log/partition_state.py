"""What is known of a partition directory before its segments are opened, and who may open it for writing.

Our own state is in dot-files, which Kafka ignores: `.lock`, `.logstore-state` (recovery point, log start offset and
cleaner point) and `.logstore-clean` (there between a clean close and the next open). A partition inside a broker's log
directory is held together with that directory: its lock too, its cleaner checkpoint has the cleaner point, and its
clean-shutdown marker is taken away while we write, so that a broker never trusts what we left behind in a crash. The
marker is there only if whoever wrote last, a broker or we, has closed cleanly. One hold belongs to one log.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from logstore import names
from logstore.errors import CorruptCheckpointError, InconsistentTopicIdError, InvalidNameError, LogLockedError
from logstore.fs import FileLock, FileSystem, replace_atomically
from logstore.log.checkpoint import (
    FILE_SIZE_MAX,
    INT64_MAX,
    format_kafka_uuid,
    format_offset_checkpoint,
    format_partition_metadata,
    parse_checkpoint,
    parse_offset_checkpoint,
    parse_partition_metadata,
)
from logstore.names import DirectoryKind, FileKind

CLEAN_CLOSE = ".logstore-clean"
STATE = ".logstore-state"
_UP_TO_THE_END = (names.HIGH_WATERMARK_CHECKPOINT, names.CLEANER_CHECKPOINT)
_SIGNS_OF_A_LOG_DIRECTORY = (names.META_PROPERTIES, names.RECOVERY_POINT_CHECKPOINT, names.CLEAN_SHUTDOWN)


class PartitionFacts(NamedTuple):
    """What the small files say.

    Attributes:
        clean_end: the log end offset of a clean close of ours; None when there was none.
        recovery_point: all below it is on disk; None when nobody says.
        log_start_offset: the first offset readers may ask for; 0 when nobody says.
        is_vouched_for: whether the clean-shutdown marker of its log directory says that it was closed cleanly.
        is_alone: whether there is no log directory, and so no broker that may have written to it.
        cleaner_point: where the next cleaning is to begin; None when nobody says.
    """

    clean_end: int | None = None
    recovery_point: int | None = None
    log_start_offset: int = 0
    is_vouched_for: bool = False
    is_alone: bool = True
    cleaner_point: int | None = None


class PartitionHold:
    """The locks of a partition directory, and its small files; use `take`.

    Attributes:
        cleaner_point: where the next cleaning is to begin, None while nobody has said; it is written with the rest.
    """

    def __init__(self, fs: FileSystem, directory: Path, locks: list[FileLock], log_directory: Path | None) -> None:
        self._fs = fs
        self._directory = directory
        self._locks = locks
        self._log_directory = log_directory
        self._marker: bytes | None = None
        self._recovery_point = self._log_start_offset = 0
        self.cleaner_point: int | None = None

    @classmethod
    def owned(cls, fs: FileSystem, directory: Path, known: PartitionFacts) -> PartitionHold:
        """The hold of a partition whose directory its owner has locked, and whose log directory is the owner's.

        `known` is what the log directory's own files say of it; what ours say is added.
        """
        return _OwnedHold(fs, directory, known)

    @classmethod
    def take(cls, fs: FileSystem, directory: Path) -> PartitionHold:
        """Lock a partition directory for writing. Raises LogLockedError and OSError."""
        locks: list[FileLock] = []
        log_directory = find_log_directory(fs, directory)
        holders = {directory: "another process has it open for writing"}
        if log_directory is not None:
            holders[log_directory] = "a broker, or a writer of another partition in it, has this log directory open"
        try:
            for place, holder in holders.items():
                lock = fs.lock(place / names.LOCK)
                if lock is None:
                    raise LogLockedError(holder, path=place, remedy="stop that process, or work on a copy")
                locks.append(lock)
        except BaseException:
            for lock in locks:
                lock.release()
            raise
        return cls(fs, directory, locks, log_directory)

    def __repr__(self) -> str:
        return f"<PartitionHold {self._directory} {'held' if self._locks else 'released'}>"

    def facts(self) -> PartitionFacts:
        """What is known of the directory before it is opened; changes nothing. Raises OSError."""
        return read_facts(self._fs, self._directory)

    def begin(self) -> None:
        """Take the marks of a clean close away, durably, before anything else changes. Raises OSError."""
        if self._fs.exists(self._directory / CLEAN_CLOSE):
            self._fs.unlink(self._directory / CLEAN_CLOSE)
            self._fs.sync_directory(self._directory)
        if self._log_directory is not None:
            marker = self._log_directory / names.CLEAN_SHUTDOWN
            if self._fs.exists(marker):
                with self._fs.open(marker) as file:
                    self._marker = file.read(0, FILE_SIZE_MAX)
                self._fs.unlink(marker)
                self._fs.sync_directory(self._log_directory)

    def topic_id(self, expected: UUID | None) -> UUID | None:
        """The topic id that the directory has, None if it has none; changes nothing.

        Raises InconsistentTopicIdError when it is not the expected one, CorruptCheckpointError, OSError.
        """
        place = self._directory / names.PARTITION_METADATA
        if not self._fs.exists(place):
            return None
        with self._fs.open(place) as file:
            data = file.read(0, FILE_SIZE_MAX + 1)
        try:
            found = parse_partition_metadata(data).topic_id
        except CorruptCheckpointError as error:
            error.path = str(place)
            raise
        if expected is not None and found != expected:
            raise InconsistentTopicIdError(
                f"it is of the topic with id {format_kafka_uuid(found)}, not {format_kafka_uuid(expected)}", path=place
            )
        return found

    def record_topic_id(self, topic_id: UUID) -> None:
        """Give a directory that has no topic id yet this one, durably. Raises as `topic_id`."""
        if self.topic_id(topic_id) is None:
            place = self._directory / names.PARTITION_METADATA
            replace_atomically(self._fs, place, format_partition_metadata(topic_id))

    def write_state(self, recovery_point: int, log_start_offset: int) -> None:
        """Remember recovery point and log start offset, durably. Raises OSError."""
        self._recovery_point, self._log_start_offset = recovery_point, log_start_offset
        lines = [f"recovery_point {recovery_point}", f"log_start_offset {log_start_offset}"]
        if self.cleaner_point is not None and self._log_directory is None:
            lines.append(f"cleaner_point {self.cleaner_point}")
        text = "\n".join(["0", str(len(lines)), *lines, ""])
        replace_atomically(self._fs, self._directory / STATE, text.encode())

    def set_cleaner_point(self, offset: int) -> None:
        """Remember where the next cleaning is to begin, durably. Raises OSError.

        Inside a broker's log directory that is done in its checkpoint; one that cannot be read stays as it is.
        """
        self.cleaner_point = offset
        if self._log_directory is None:
            self.write_state(self._recovery_point, self._log_start_offset)
            return
        place = self._log_directory / names.CLEANER_CHECKPOINT
        offsets = _read_checkpoint(self._fs, place) if self._fs.exists(place) else {}
        identity = _identity(self._directory)
        if offsets is not None and identity is not None and offsets.get(identity) != offset:
            replace_atomically(self._fs, place, format_offset_checkpoint({**offsets, identity: offset}))

    def lower_cleaner_point(self, offset: int) -> None:
        """Let the next cleaning begin at `offset` at the latest: the log is cut there, or in the segment behind it.

        Durable after `write_state`, which has to follow. Raises OSError.
        """
        if self.cleaner_point is not None and self.cleaner_point > offset:
            self.cleaner_point = offset
            if self._log_directory is not None:
                self.set_cleaner_point(offset)

    def mark_clean(self, log_end_offset: int) -> None:
        """Say that all files are complete and durable; what `begin` took away is put back. Raises OSError."""
        replace_atomically(self._fs, self._directory / CLEAN_CLOSE, f"{log_end_offset}\n".encode())
        if self._log_directory is not None and self._marker is not None:
            self._record_ends(self._log_directory, log_end_offset)
            replace_atomically(self._fs, self._log_directory / names.CLEAN_SHUTDOWN, self._marker)
            self._marker = None

    def _record_ends(self, log_directory: Path, log_end_offset: int) -> None:
        """Let the checkpoints of a log directory say what they would after a clean shutdown of its broker."""
        try:
            identity = names.parse_partition_directory(self._directory.name).topic_partition
        except InvalidNameError:
            return
        for name in (names.RECOVERY_POINT_CHECKPOINT, names.LOG_START_CHECKPOINT, *_UP_TO_THE_END):
            offsets = _read_checkpoint(self._fs, log_directory / name)
            before = None if offsets is None else offsets.pop(identity, None)
            if offsets is None or (before is None and name != names.LOG_START_CHECKPOINT):
                continue
            now: int | None = log_end_offset
            if name == names.LOG_START_CHECKPOINT:
                # It speaks only of logs that begin inside their first segment, or behind it.
                now = self._log_start_offset if self._log_start_offset > self._first_base() else None
            elif before is not None and name in _UP_TO_THE_END:
                now = min(before, log_end_offset)
            if now != before:
                offsets |= {} if now is None else {identity: now}
                replace_atomically(self._fs, log_directory / name, format_offset_checkpoint(offsets))

    def _first_base(self) -> int:
        found = map(names.classify_file, self._fs.list(self._directory))
        return min((base or 0 for kind, base, suffix in found if kind is FileKind.LOG and suffix is None), default=0)

    def release(self) -> None:
        """Let others have the directory."""
        locks, self._locks = self._locks, []
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.callback(lock.release)


class _OwnedHold(PartitionHold):
    """As if the partition stood alone: the log directory's files are for the owner to write."""

    def __init__(self, fs: FileSystem, directory: Path, known: PartitionFacts) -> None:
        super().__init__(fs, directory, [], None)
        self._known = known

    def facts(self) -> PartitionFacts:
        known = self._known
        recovery_point, log_start, cleaner_point = _read_state(self._fs, self._directory)
        points = [one for one in (recovery_point, known.recovery_point) if one is not None]
        return known._replace(
            clean_end=_read_clean_end(self._fs, self._directory),
            recovery_point=min(points, default=None),
            log_start_offset=max(log_start, known.log_start_offset),
            cleaner_point=known.cleaner_point if cleaner_point is None else cleaner_point,
        )


def _identity(directory: Path) -> names.TopicPartition | None:
    """What the checkpoints of a log directory call a partition; None for one that they do not speak of."""
    try:
        name = names.parse_partition_directory(directory.name)
    except InvalidNameError:
        return None
    return name.topic_partition if name.kind is DirectoryKind.NORMAL else None


def find_log_directory(fs: FileSystem, directory: Path) -> Path | None:
    """The broker's log directory that a partition directory lies in, None if it stands alone."""
    above = directory.parent
    return above if any(fs.exists(above / name) for name in _SIGNS_OF_A_LOG_DIRECTORY) else None


def read_facts(fs: FileSystem, directory: Path) -> PartitionFacts:
    """Read the small files of a partition directory, ours and its log directory's; changes nothing.

    A file that cannot be read as what it is says nothing, as in Kafka: the log is then checked more, never less. Of two
    recovery points the lower one counts: a broker that ran since we closed may have cut the log and written it anew.
    """
    recovery_point, log_start, cleaner_point = _read_state(fs, directory)
    clean_end = _read_clean_end(fs, directory)
    log_directory = find_log_directory(fs, directory)
    if log_directory is None:
        return PartitionFacts(clean_end, recovery_point, log_start, cleaner_point=cleaner_point)
    from_broker = _checkpointed(fs, log_directory / names.RECOVERY_POINT_CHECKPOINT, directory.name)
    known = [one for one in (recovery_point, from_broker) if one is not None]
    broker_start = _checkpointed(fs, log_directory / names.LOG_START_CHECKPOINT, directory.name)
    return PartitionFacts(
        clean_end,
        min(known, default=None),
        max(log_start, broker_start or 0),
        # A log that waits for its deletion is not closed when the broker is.
        fs.exists(log_directory / names.CLEAN_SHUTDOWN) and not directory.name.endswith("-delete"),
        is_alone=False,
        cleaner_point=_checkpointed(fs, log_directory / names.CLEANER_CHECKPOINT, directory.name),
    )


def _read_state(fs: FileSystem, directory: Path) -> tuple[int | None, int, int | None]:
    place = directory / STATE
    if not fs.exists(place):
        return None, 0, None
    with fs.open(place) as file:
        data = file.read(0, 4096)
    found: dict[str, int] = {}
    try:
        for line in parse_checkpoint(data):
            name, number = line.fields(2)
            found[name] = line.number(number, INT64_MAX)
    except CorruptCheckpointError:
        return None, 0, None
    if min(found.values(), default=0) < 0:
        return None, 0, None
    return found.get("recovery_point"), found.get("log_start_offset", 0), found.get("cleaner_point")


def _read_clean_end(fs: FileSystem, directory: Path) -> int | None:
    place = directory / CLEAN_CLOSE
    if not fs.exists(place):
        return None
    with fs.open(place) as file:
        text = file.read(0, 32).strip()
    return int(text) if text.isdigit() else None


def _checkpointed(fs: FileSystem, place: Path, name: str) -> int | None:
    with contextlib.suppress(InvalidNameError):
        identity = names.parse_partition_directory(name).topic_partition
        found = (_read_checkpoint(fs, place) or {}).get(identity)
        return None if found is None or found < 0 else found
    return None


def _read_checkpoint(fs: FileSystem, place: Path) -> dict[names.TopicPartition, int] | None:
    """An offset checkpoint; None where there is none that can be read."""
    if not fs.exists(place):
        return None
    with fs.open(place) as file:
        data = file.read(0, FILE_SIZE_MAX)
    try:
        return parse_offset_checkpoint(data)
    except CorruptCheckpointError:
        return None
