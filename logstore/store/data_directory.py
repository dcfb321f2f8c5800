"""One directory of a store, that looks to Kafka like a log directory: its lock, its marks, its checkpoints.

It is held by one process alone (a POSIX lock, as a broker's), or by any number together (a lock that they share). The
clean-shutdown marker is there only while nobody has the directory open and all logs in it are complete. The first to
open it together draws a session number, by which the others know that no crash lies between them. Not thread-safe.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from logstore import names
from logstore.errors import CorruptCheckpointError, InvalidNameError, LogLockedError
from logstore.fs import FileLock, OpenLock, SharingFileSystem, replace_atomically
from logstore.log import PartitionFacts, format_kafka_uuid, format_offset_checkpoint, parse_offset_checkpoint
from logstore.names import DirectoryKind, TopicPartition
from logstore.store.catalog import SESSION

Mode = Literal["shared", "exclusive"]
WORK_LOCK = ".logstore-lock"
"""Locked for a moment by who changes what the directory is: topics, and the last one's work when it closes."""
_CHECKPOINT_BYTES_MAX = 64 << 20
_CLEAN_MARKER = b'{"version":0,"brokerEpoch":-1}'


class Session(NamedTuple):
    """What those know of each other who have a directory open together.

    Attributes:
        number: drawn anew by the first of them; 0 for one who has it alone.
        was_clean: whether all logs were complete when the first came.
    """

    number: int = 0
    was_clean: bool = False


class PartitionEnds(NamedTuple):
    """What checkpoints say of a log that is complete."""

    log_start_offset: int
    first_base_offset: int
    log_end_offset: int
    cleaner_point: int | None


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
        self._points = self._checkpoint(names.RECOVERY_POINT_CHECKPOINT)
        self._starts = self._checkpoint(names.LOG_START_CHECKPOINT)
        self._cleaned = self._checkpoint(names.CLEANER_CHECKPOINT)

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
            return cls(fs, path, _begin(fs, path, 0), alone=alone)
        together = fs.open_lock(place)
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
                    found[parsed.topic_partition] = self.path / name
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
        """What marker and checkpoints say of a log, as they were when the directory was opened."""
        return PartitionFacts(
            recovery_point=self._points.get(partition),
            log_start_offset=self._starts.get(partition, 0),
            is_vouched_for=self.session.was_clean and partition in self._points,
            cleaner_point=self._cleaned.get(partition),
        )

    def _checkpoint(self, name: str) -> dict[TopicPartition, int]:
        place = self.path / name
        if not self._fs.exists(place):
            return {}
        with self._fs.open(place) as file:
            data = file.read(0, _CHECKPOINT_BYTES_MAX)
        try:
            return {one: offset for one, offset in parse_offset_checkpoint(data).items() if offset >= 0}
        except CorruptCheckpointError:
            return {}  # as in Kafka: the logs are checked more then

    # ---- the end

    def is_last(self) -> bool:
        """Whether nobody else has the directory open any more. Inside `working`."""
        return self._together is None or self._together.acquire()

    def mark_clean(self, ends: Mapping[TopicPartition, PartitionEnds]) -> None:
        """Say durably that these are all logs, and that each is complete. Raises OSError."""
        starts = {one: e.log_start_offset for one, e in ends.items() if e.log_start_offset > e.first_base_offset}
        cleaned = {one: e.cleaner_point for one, e in ends.items() if e.cleaner_point is not None}
        log_ends = {one: e.log_end_offset for one, e in ends.items()}
        for name, offsets in (
            (names.RECOVERY_POINT_CHECKPOINT, log_ends), (names.LOG_START_CHECKPOINT, starts),
            (names.CLEANER_CHECKPOINT, cleaned), (names.HIGH_WATERMARK_CHECKPOINT, log_ends),
        ):  # fmt: skip
            replace_atomically(self._fs, self.path / name, format_offset_checkpoint(offsets))
        replace_atomically(self._fs, self.path / names.CLEAN_SHUTDOWN, _CLEAN_MARKER)

    def release(self) -> None:
        """Let others have it."""
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
    was_clean = fs.exists(marker)
    if not fs.exists(path / names.META_PROPERTIES):
        replace_atomically(fs, path / names.META_PROPERTIES, _meta_properties().encode())
    if was_clean:
        fs.unlink(marker)
        fs.sync_directory(path)
    return Session(number, was_clean)


def _join(fs: SharingFileSystem, path: Path, lock: OpenLock) -> Session:
    """Be one of those who have a directory open together; under the work lock."""
    if lock.acquire():
        session = _begin(fs, path, random.SystemRandom().randrange(1, 2**63))
        replace_atomically(fs, path / SESSION, f"{session.number} {session.was_clean:d}\n".encode())
        lock.acquire(shared=True)
        return session
    if not lock.acquire(shared=True):
        raise _locked(path)
    with fs.open(path / SESSION) as file:
        number, was_clean = file.read(0, 64).split()
    return Session(int(number), was_clean == b"1")


def _meta_properties() -> str:
    cluster, directory = format_kafka_uuid(uuid4()), format_kafka_uuid(uuid4())
    return f"#\nversion=1\nnode.id=1\ncluster.id={cluster}\ndirectory.id={directory}\n"


def _locked(path: Path) -> LogLockedError:
    return LogLockedError(
        "a broker, or another process that wants it for itself, has this directory open", path=path,
        remedy="stop that process, or open the store as shared in both",
    )  # fmt: skip
