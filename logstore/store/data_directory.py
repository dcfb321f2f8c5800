"""One directory of a store, that looks to Kafka like a log directory: its lock, its marks, its checkpoints.

It is held by one process alone (a POSIX lock, as a broker's), or by any number together (a lock that they share). The
clean-shutdown marker is there only while nobody has the directory open and all logs in it are complete. The first to
open it together draws a session number, by which the others know that no crash lies between them. Checkpoints speak of
logs as they were when the session began; of one that was made since they say nothing. Not thread-safe.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from logstore import names
from logstore.errors import CorruptCheckpointError, InvalidNameError, LogLockedError, LogstoreError
from logstore.fs import FileLock, OpenLock, SharingFileSystem, replace_atomically
from logstore.log import (
    PartitionFacts,
    format_kafka_uuid,
    format_offset_checkpoint,
    parse_clean_shutdown,
    parse_offset_checkpoint,
    read_turn,
)
from logstore.names import DirectoryKind, TopicPartition
from logstore.store.catalog import SESSION

Mode = Literal["shared", "exclusive"]
WORK_LOCK = ".logstore-lock"
"""Locked for a moment by who changes what the directory is: topics, and the last one's work when it closes."""
_CHECKPOINT_BYTES_MAX = 64 << 20
_CHECKPOINTS = (
    names.RECOVERY_POINT_CHECKPOINT, names.LOG_START_CHECKPOINT, names.CLEANER_CHECKPOINT,
    names.HIGH_WATERMARK_CHECKPOINT,
)  # fmt: skip
# Number, whether all was complete, broker epoch. Means nothing once nobody has the directory open.
_SESSION = struct.Struct(">QQq")
_NO_EPOCH = -1


class Session(NamedTuple):
    """What those know of each other who have a directory open together.

    Attributes:
        number: drawn anew by the first of them; 0 for one who has it alone.
        was_clean: whether all logs were complete when the first came.
        broker_epoch: of the broker that left it so, -1 where it was none; it gets that back.
    """

    number: int = 0
    was_clean: bool = False
    broker_epoch: int = _NO_EPOCH


class PartitionEnds(NamedTuple):
    """What checkpoints say of a log that is complete."""

    log_start_offset: int
    first_base_offset: int
    log_end_offset: int
    cleaner_point: int | None
    high_watermark: int | None = None


class DataDirectory:
    """A directory that is held; use `hold`.

    Attributes:
        path: it.
        session: who has it with us.
    """

    def __init__(
        self, fs: SharingFileSystem, path: Path, session: Session, *, alone: FileLock | None = None,
        together: OpenLock | None = None,
    ) -> None:  # fmt: skip
        self.path = path
        self.session = session
        self._fs = fs
        self._alone, self._together = alone, together
        self._offsets: dict[str, dict[TopicPartition, int]] = {}

    def __repr__(self) -> str:
        return f"<DataDirectory {self.path} {self.session}>"

    @classmethod
    def hold(cls, fs: SharingFileSystem, path: Path, mode: Mode) -> DataDirectory:
        """Hold a directory; it is made where it is not there. Raises LogLockedError, OSError."""
        if not fs.is_directory(path):
            fs.make_directory(path)
            fs.sync_directory(path.parent)
        place = path / names.LOCK
        if mode == "exclusive":
            alone = fs.lock(place)
            if alone is None:
                raise _locked(path)
            try:
                return cls(fs, path, _begin(fs, path, 0), alone=alone)
            except BaseException:
                alone.release()
                raise
        try:
            together = fs.open_lock(place)
        except BlockingIOError:
            raise _locked(path) from None
        try:
            with _working(fs, path):
                return cls(fs, path, _join(fs, path, together), together=together)
        except BaseException:
            together.close()
            raise

    def working(self) -> contextlib.AbstractContextManager[None]:
        """Keep others from changing what the directory is, from coming, and from being the last to go, inside."""
        return _working(self._fs, self.path)

    # ---- partitions

    def partitions(self) -> dict[TopicPartition, Path]:
        """The partition directories, but for those that wait to be deleted, and a cluster's metadata."""
        found: dict[TopicPartition, Path] = {}
        for name in self._fs.list(self.path):
            with contextlib.suppress(InvalidNameError):
                parsed = names.parse_partition_directory(name)
                if parsed.kind is DirectoryKind.NORMAL and parsed.topic != names.CLUSTER_METADATA_TOPIC:
                    place = self.path / name
                    if self._fs.is_directory(place):
                        found[parsed.topic_partition] = place
        return found

    def doomed(self) -> list[Path]:
        """The partition directories that wait to be deleted."""
        found = []
        for name in self._fs.list(self.path):
            with contextlib.suppress(InvalidNameError):
                if names.parse_partition_directory(name).kind is DirectoryKind.DELETE:
                    found.append(self.path / name)
        return found

    def facts(self, partition: TopicPartition) -> PartitionFacts:
        """What marker and checkpoints say of a log, as it was when the directory was opened. Raises OSError."""
        point = self._checkpoint(names.RECOVERY_POINT_CHECKPOINT).get(partition)
        return PartitionFacts(
            recovery_point=point,
            log_start_offset=self._checkpoint(names.LOG_START_CHECKPOINT).get(partition, 0),
            is_vouched_for=self.session.was_clean and point is not None,
            cleaner_point=self._checkpoint(names.CLEANER_CHECKPOINT).get(partition),
        )

    def _checkpoint(self, name: str) -> dict[TopicPartition, int]:
        found = self._offsets.get(name)
        if found is None:
            found = self._offsets[name] = self._read_checkpoint(name)
        return found

    def _read_checkpoint(self, name: str) -> dict[TopicPartition, int]:
        place = self.path / name
        if not self._fs.exists(place):
            return {}
        with self._fs.open(place) as file:
            data = file.read(0, _CHECKPOINT_BYTES_MAX)
        try:
            return {one: offset for one, offset in parse_offset_checkpoint(data).items() if offset >= 0}
        except CorruptCheckpointError:
            return {}  # as in Kafka: the logs are checked more then

    def forget_checkpoints(self) -> None:
        """Read them again when they are asked for: somebody has made partitions, and changed what they say."""
        self._offsets.clear()

    def disown(self, partitions: Collection[TopicPartition]) -> None:
        """Let checkpoints say nothing, durably, of partitions that are about to be made anew. Inside `working`."""
        self.forget_checkpoints()
        for name in _CHECKPOINTS:
            offsets = self._checkpoint(name)
            kept = {one: offset for one, offset in offsets.items() if one not in partitions}
            if len(kept) < len(offsets):
                replace_atomically(self._fs, self.path / name, format_offset_checkpoint(kept))
        self.forget_checkpoints()

    # ---- the end

    def is_last(self) -> bool:
        """Whether nobody else has the directory open any more. Inside `working`."""
        return self._together is None or self._together.acquire()

    def is_touched(self, path: Path) -> bool:
        """Whether somebody who had the directory open together has opened this partition of it. Raises OSError."""
        return self._together is not None and read_turn(self._fs, path / names.LOCK).session == self.session.number

    def untouched_ends(self, partition: TopicPartition) -> PartitionEnds | None:
        """What the checkpoints say of a log that nobody has opened; None where nobody vouches for it."""
        known = self.facts(partition)
        if not known.is_vouched_for or known.recovery_point is None:
            return None
        has_start = partition in self._checkpoint(names.LOG_START_CHECKPOINT)
        return PartitionEnds(
            known.log_start_offset, -1 if has_start else known.log_start_offset, known.recovery_point,
            known.cleaner_point, self._checkpoint(names.HIGH_WATERMARK_CHECKPOINT).get(partition),
        )  # fmt: skip

    def mark_clean(self, ends: Mapping[TopicPartition, PartitionEnds]) -> None:
        """Say durably that these are all logs, and that each is complete. Raises OSError."""
        starts = {one: e.log_start_offset for one, e in ends.items() if e.log_start_offset > e.first_base_offset}
        cleaned = {one: e.cleaner_point for one, e in ends.items() if e.cleaner_point is not None}
        log_ends = {one: e.log_end_offset for one, e in ends.items()}
        watermarks = {
            one: e.log_end_offset if e.high_watermark is None else e.high_watermark for one, e in ends.items()
        }
        for name, offsets in zip(_CHECKPOINTS, (log_ends, starts, cleaned, watermarks), strict=True):
            if offsets or self._fs.exists(self.path / name):
                replace_atomically(self._fs, self.path / name, format_offset_checkpoint(offsets))
        self._write_marker()

    def _write_marker(self) -> None:
        text = f'{{"version":0,"brokerEpoch":{self.session.broker_epoch}}}'
        replace_atomically(self._fs, self.path / names.CLEAN_SHUTDOWN, text.encode())

    def abandon(self) -> None:
        """Release a directory whose store could not be opened, as it was found. Raises OSError."""
        try:
            with self.working():
                is_as_found = not any(map(self.is_touched, self.partitions().values()))
                if self.session.was_clean and self.is_last() and is_as_found:
                    self._write_marker()
        finally:
            self.release()

    def release(self) -> None:
        """Let others have it. The last but one does so inside `working`, so that one of them is the last."""
        if self._together is not None:
            self._together.close()
        if self._alone is not None:
            self._alone.release()


@contextlib.contextmanager
def _working(fs: SharingFileSystem, path: Path) -> Iterator[None]:
    lock = fs.open_lock(path / WORK_LOCK)
    try:
        lock.acquire(wait=True)
        yield
    finally:
        lock.close()


def _begin(fs: SharingFileSystem, path: Path, number: int) -> Session:
    """Be the first to have a directory open: nothing says any more that all is complete."""
    marker = path / names.CLEAN_SHUTDOWN
    was_clean, epoch = fs.exists(marker), None
    if was_clean:
        with contextlib.suppress(CorruptCheckpointError), fs.open(marker) as file:
            epoch = parse_clean_shutdown(file.read(0, _CHECKPOINT_BYTES_MAX)).broker_epoch
    if not fs.exists(path / names.META_PROPERTIES):
        replace_atomically(fs, path / names.META_PROPERTIES, _meta_properties().encode())
    if was_clean:
        fs.unlink(marker)
        fs.sync_directory(path)
    return Session(number, was_clean, _NO_EPOCH if epoch is None else epoch)


def _join(fs: SharingFileSystem, path: Path, lock: OpenLock) -> Session:
    """Be one of those who have a directory open together; under the work lock."""
    if lock.acquire():
        session = _begin(fs, path, random.SystemRandom().randrange(1, 2**63))
        with contextlib.closing(fs.open_lock(path / SESSION)) as file:
            file.write(_SESSION.pack(*session))
        lock.acquire(shared=True)
        return session
    if not lock.acquire(shared=True):
        raise _locked(path)
    with contextlib.closing(fs.open_lock(path / SESSION)) as file:
        data = file.read(_SESSION.size)
    if len(data) < _SESSION.size:
        raise LogstoreError(
            "nobody knows in which session others have the store open", path=path / SESSION,
            remedy="close it everywhere, and open it again",
        )  # fmt: skip
    number, was_clean, epoch = _SESSION.unpack(data)
    return Session(number, bool(was_clean), epoch)


def _meta_properties() -> str:
    cluster, directory = format_kafka_uuid(uuid4()), format_kafka_uuid(uuid4())
    return f"#\nversion=1\nnode.id=1\ncluster.id={cluster}\ndirectory.id={directory}\n"


def _locked(path: Path) -> LogLockedError:
    return LogLockedError(
        "a broker, or another process that wants it for itself, has this directory open", path=path,
        remedy="stop that process, or open the store as shared in both",
    )  # fmt: skip
