"""The one tree of errors that logstore raises, named by what a caller can do about them.

Every error carries the facts a report needs (path, position, offset) as fields; the sentence is put together here and
nowhere else. `OSError` from the operating system passes through unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class LogstoreError(Exception):
    """Base of all errors raised by logstore.

    Args:
        reason: what is wrong, as a clause without a full stop.
        path: the file it was found in.
        position: byte in that file (or in the given buffer) where it was found.
        offset: logical record number, where one is known.
        remedy: what the reader can do about it.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str | os.PathLike[str] | None = None,
        position: int | None = None,
        offset: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = None if path is None else os.fspath(path)
        self.position = position
        self.offset = offset
        self.remedy = remedy

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        at = [] if self.position is None else [f"at position {self.position}"]
        if self.offset is not None:
            at.append(f"offset {self.offset}")
        place = f" ({', '.join(at)})" if at else ""
        remedy = "" if self.remedy is None else f"; {self.remedy}"
        return f"{where}{self.reason}{place}{remedy}"


class CorruptRecordError(LogstoreError):
    """The bytes of a batch are not those that were written: its size or CRC is wrong."""


class InvalidRecordError(LogstoreError):
    """A batch whose bytes are intact contradicts itself: counts, lengths or varints inside it do not add up."""


class UnsupportedFormatError(LogstoreError):
    """Well-formed data of a version, codec or type that logstore does not know."""


class BatchTooLargeError(LogstoreError):
    """A batch, or what it decompresses to, is larger than the caller's cap; raise the cap to read it."""


class CorruptIndexError(LogstoreError):
    """An offset, time or transaction index contradicts itself; it can be rebuilt from the log."""


class CorruptSnapshotError(LogstoreError):
    """A producer snapshot cannot be trusted; it can be rebuilt from the log."""


class CorruptCheckpointError(LogstoreError):
    """A checkpoint or properties file cannot be read as what its name says."""


class InvalidNameError(LogstoreError):
    """A file, directory or topic name does not follow Kafka's rules."""


class OffsetOutOfRangeError(LogstoreError):
    """An offset is asked for that the log does not have, or no longer has."""


class RecordRejectedError(LogstoreError):
    """A well-formed record is against the configuration of the log; nothing of its batch was written.

    Args:
        record_errors: index in its batch and problem of each record that was refused, where there are such.
    """

    def __init__(
        self, reason: str, *, record_errors: Sequence[tuple[int, str]] = (), offset: int | None = None
    ) -> None:
        super().__init__(reason, offset=offset)
        self.record_errors = tuple(record_errors)


class InvalidTimestampError(RecordRejectedError):
    """The timestamp of a record is too far from the clock, or of a type that the log does not take."""


class UnexpectedOffsetError(LogstoreError):
    """Batches that come with their offsets do not ascend, or begin below the log end; nothing was written.

    Args:
        first_offset, last_offset: of the batches that were refused.
    """

    def __init__(self, reason: str, *, first_offset: int | None = None, last_offset: int | None = None) -> None:
        super().__init__(reason, offset=first_offset)
        self.first_offset = first_offset
        self.last_offset = last_offset


class OutOfOrderSequenceError(LogstoreError):
    """A producer's sequence does not follow its last one: records in between are missing; nothing was written."""


class ProducerFencedError(LogstoreError):
    """A newer producer of this id, or a newer coordinator, has taken over; nothing was written."""


class InvalidTransactionStateError(LogstoreError):
    """A producer's batch does not fit the transaction that it has open, or has not; nothing was written."""


class TransactionAbortedError(LogstoreError):
    """A record was sent in a transaction that was aborted before it was written."""


class InconsistentTopicIdError(LogstoreError):
    """A partition directory belongs to another topic than it is opened for: their ids differ."""


class LogClosedError(LogstoreError):
    """The log is closed, or takes no more appends after a failed sync; open it again."""


class LogLockedError(LogstoreError):
    """Another process has the log open for writing."""


class DamagedLogError(LogstoreError):
    """A log cannot be opened for writing, read or cleaned as it is; nothing was changed."""


class CleaningAbortedError(LogstoreError):
    """Cleaning a log was called off, or the log was cut meanwhile; clean it again."""


class UnkeyedRecordsError(LogstoreError):
    """Records without a key would be lost by cleaning; nothing was changed. Allow it, or leave the log as it is."""


class MapTooSmallError(LogstoreError):
    """The memory for the offset map does not hold a single key; give the cleaner more."""


class VerificationError(LogstoreError):
    """What a cleaning would leave is not what was there; nothing was changed."""


class UnknownTopicError(LogstoreError):
    """There is no such topic, or no such partition of it."""


class TopicExistsError(LogstoreError):
    """There is a topic of this name already."""


class InvalidPartitionsError(LogstoreError):
    """A topic cannot have this number of partitions."""


class StoreClosedError(LogstoreError):
    """The store is closed, or was opened by the process from which this one was forked."""


class ClientClosedError(LogstoreError):
    """A producer or consumer is closed, or belongs to the process from which this one was forked."""


class SerializationError(LogstoreError):
    """A serializer of the caller refused a key or value, or did not give bytes; the cause has its own words."""


class FencedMemberError(LogstoreError):
    """A member of a group is none any more, or has lost the partitions that it commits for; nothing was written."""
