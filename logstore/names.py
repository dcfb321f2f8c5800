"""Every file, directory and topic name of a Kafka data directory, built and parsed here and nowhere else.

Writing is exact: 20 digits, one suffix, at most 255 characters. Reading is lenient as Kafka's own (any number of
digits, a leading `+`), but bounded: an offset fits 63 bits, a partition number 31 bits, and only ASCII digits count.
Pure functions on text; safe to call from any thread.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from logstore.errors import InvalidNameError

TOPIC_NAME_LENGTH_MAX = 249
"""Characters in a topic name: `<topic>-<partition>` has to fit a 255-byte file name."""
DIRECTORY_NAME_LENGTH_MAX = 255
INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state"})
CLUSTER_METADATA_TOPIC = "__cluster_metadata"
WORK_QUEUE_STATE_PREFIX = "__work_queue-"
"""Of the topics in which our work queues keep what is known of their jobs. On disk; never change."""
CONSUMER_OFFSETS_TOPIC = "__consumer_offsets"
TRANSACTION_STATE_TOPIC = "__transaction_state"
DECODED_TOPICS = frozenset({CLUSTER_METADATA_TOPIC, CONSUMER_OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC})
REMOTE_LOG_INDEX_CACHE = "remote-log-index-cache"
"""The one sub-directory of a log directory that is no partition and is skipped when logs are loaded."""

# On disk; never change.
RECOVERY_POINT_CHECKPOINT = "recovery-point-offset-checkpoint"
LOG_START_CHECKPOINT = "log-start-offset-checkpoint"
HIGH_WATERMARK_CHECKPOINT = "replication-offset-checkpoint"
CLEANER_CHECKPOINT = "cleaner-offset-checkpoint"
LEADER_EPOCH_CHECKPOINT = "leader-epoch-checkpoint"
PARTITION_METADATA = "partition.metadata"
META_PROPERTIES = "meta.properties"
CLEAN_SHUTDOWN = ".kafka_cleanshutdown"
LOCK = ".lock"
OWN_PREFIX = ".logstore-"
STORE_TOPICS = ".logstore-topics"
"""Of files that are ours and not Kafka's, which ignores them."""
QUORUM_STATE = "quorum-state"
BOOTSTRAP_CHECKPOINT = "bootstrap.checkpoint"

DELETED_SUFFIX = ".deleted"
CLEANED_SUFFIX = ".cleaned"
SWAP_SUFFIX = ".swap"
PART_SUFFIX = ".part"
TEMPORARY_FILE_SUFFIX = ".tmp"

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


class TopicPartition(NamedTuple):
    """One partition of one topic; its text is the name of its directory."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


class DirectoryKind(StrEnum):
    """What a partition directory is for; the value is the last word of its name."""

    NORMAL = "normal"
    DELETE = "delete"
    FUTURE = "future"
    STRAY = "stray"


class PartitionDirectory(NamedTuple):
    """A parsed partition directory name.

    `topic` may be shortened when `kind` is DELETE or STRAY (the name is capped at 255 characters). `unique_id` is None
    for a NORMAL directory; Kafka writes 32 lower-case hex digits and reads any text without blanks.
    """

    topic: str
    partition: int
    kind: DirectoryKind = DirectoryKind.NORMAL
    unique_id: str | None = None

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


class FileKind(StrEnum):
    """What a file in a log directory or partition directory is."""

    LOG = "log"
    OFFSET_INDEX = "offset index"
    TIME_INDEX = "time index"
    TRANSACTION_INDEX = "transaction index"
    PRODUCER_SNAPSHOT = "producer snapshot"
    METADATA_SNAPSHOT = "metadata snapshot"
    LEADER_EPOCH_CHECKPOINT = "leader epoch checkpoint"
    OFFSET_CHECKPOINT = "offset checkpoint"
    PARTITION_METADATA = "partition metadata"
    META_PROPERTIES = "meta properties"
    CLEAN_SHUTDOWN = "clean shutdown marker"
    LOCK = "lock"
    QUORUM_STATE = "quorum state"
    BOOTSTRAP_CHECKPOINT = "bootstrap checkpoint"
    TEMPORARY = "temporary file"
    OTHER = "other"


class SegmentFile(NamedTuple):
    """A parsed name of a file that carries an offset.

    `base_offset` is the segment's first offset; for a producer snapshot or a metadata snapshot, the first offset it
    does not cover. `suffix` is None in normal use, else one of `.deleted`, `.cleaned`, `.swap`, `.part`. `epoch` is set
    for metadata snapshots only.
    """

    base_offset: int
    kind: FileKind
    suffix: str | None = None
    epoch: int | None = None


class ClassifiedFile(NamedTuple):
    """What a file name says: its kind, its offset if it carries one, and the suffix that marks it as not in use."""

    kind: FileKind
    base_offset: int | None = None
    temporary_suffix: str | None = None


_EXTENSIONS = {
    FileKind.LOG: "log",
    FileKind.OFFSET_INDEX: "index",
    FileKind.TIME_INDEX: "timeindex",
    FileKind.TRANSACTION_INDEX: "txnindex",
    FileKind.PRODUCER_SNAPSHOT: "snapshot",
}
_KINDS = {extension: kind for kind, extension in _EXTENSIONS.items()}
_WHOLE_NAMES = {
    RECOVERY_POINT_CHECKPOINT: FileKind.OFFSET_CHECKPOINT,
    LOG_START_CHECKPOINT: FileKind.OFFSET_CHECKPOINT,
    HIGH_WATERMARK_CHECKPOINT: FileKind.OFFSET_CHECKPOINT,
    CLEANER_CHECKPOINT: FileKind.OFFSET_CHECKPOINT,
    LEADER_EPOCH_CHECKPOINT: FileKind.LEADER_EPOCH_CHECKPOINT,
    PARTITION_METADATA: FileKind.PARTITION_METADATA,
    META_PROPERTIES: FileKind.META_PROPERTIES,
    CLEAN_SHUTDOWN: FileKind.CLEAN_SHUTDOWN,
    LOCK: FileKind.LOCK,
    QUORUM_STATE: FileKind.QUORUM_STATE,
    BOOTSTRAP_CHECKPOINT: FileKind.BOOTSTRAP_CHECKPOINT,
}
_SEGMENT_SUFFIXES = (DELETED_SUFFIX, CLEANED_SUFFIX, SWAP_SUFFIX)
_TEMPORARY_SUFFIXES = (*_SEGMENT_SUFFIXES, PART_SUFFIX, TEMPORARY_FILE_SUFFIX)
_SEGMENT_FILE = re.compile(r"(\+?[0-9]+)\.(log|index|timeindex|txnindex|snapshot)(\.deleted|\.cleaned|\.swap)?")
# A metadata snapshot being written has a random number between the epoch and the extension.
_METADATA_SNAPSHOT = re.compile(r"([0-9]+)-([0-9]+)(?:\.checkpoint(\.deleted)?|-[0-9]+\.checkpoint(\.part))")
_DIRECTORY_SUFFIX = re.compile(r"\S+-\S+\.\S+-(delete|future|stray)", re.ASCII)
_NUMBER = re.compile(r"\+?[0-9]+")
_UNIQUE_ID = re.compile(r"[0-9a-f]{32}")
_ILLEGAL_IN_TOPIC = re.compile(r"[^a-zA-Z0-9._-]")


def is_valid_topic_name(name: str) -> bool:
    """Say whether a topic of this name may be created (CLUSTER.md §2.1)."""
    return _topic_name_problem(name) is None


def check_topic_name(name: str) -> None:
    """Refuse a name that no topic may be created with, saying which rule it breaks (CLUSTER.md §2.1).

    A log on disk is not held to this rule: Kafka checks it at creation only.

    Raises:
        InvalidNameError: with the rule and, where there is one, the offending character and its index.
    """
    problem = _topic_name_problem(name)
    if problem is not None:
        raise InvalidNameError(problem)


def topics_collide(one: str, other: str) -> bool:
    """Say whether two different topic names are equal once every `.` is read as `_`; such a topic is not created."""
    return one != other and one.replace(".", "_") == other.replace(".", "_")


def is_internal_topic(name: str) -> bool:
    """Say whether clients are told that this topic is internal. `__cluster_metadata` is no topic, so it is not."""
    return name in INTERNAL_TOPICS


def parse_partition_directory(name: str) -> PartitionDirectory:
    """Read the name of a directory in a log directory.

    The topic ends at the last `-`, so `foo--1` is partition 1 of topic `foo-`; `+` before the number is accepted.
    A name that ends in `-delete`, `-future` or `-stray` has to have the full form (FORMAT.md §1.2).

    Raises:
        InvalidNameError: the name is no partition directory's.
    """
    kind, unique_id, whole = DirectoryKind.NORMAL, None, name
    if name.endswith(("-delete", "-future", "-stray")):
        match = _DIRECTORY_SUFFIX.fullmatch(name)
        if match is None:
            form = f"<topic>-<partition>.<unique id>-{name.rpartition('-')[2]}"
            raise InvalidNameError(f"directory name {_shown(name)} does not have the form {form}")
        kind = DirectoryKind(match[1])
        whole, _, rest = name.rpartition(".")
        unique_id = rest[: -len(kind.value) - 1]
    topic, dash, number = whole.rpartition("-")
    if not dash or not topic or not number:
        raise InvalidNameError(f"directory name {_shown(name)} does not have the form <topic>-<partition>")
    partition = _bounded_number(number, _INT32_MAX)
    if partition is None:
        raise InvalidNameError(f"directory name {_shown(name)} does not end in a partition number up to {_INT32_MAX}")
    return PartitionDirectory(topic, partition, kind, unique_id)


def partition_directory_name(topic: str, partition: int) -> str:
    """Build `<topic>-<partition>`; as in Kafka, the topic is not held to the rule for creation.

    Raises:
        InvalidNameError: the topic cannot be part of a file name, or the partition is not in 0..2147483647.
    """
    if not topic or "/" in topic or "\0" in topic:
        raise InvalidNameError(f"topic {_shown(topic)} cannot be part of a directory name")
    if not 0 <= partition <= _INT32_MAX:
        raise InvalidNameError(f"partition {partition} is not in 0..{_INT32_MAX}")
    return f"{topic}-{partition}"


def delete_directory_name(topic: str, partition: int, unique_id: str) -> str:
    """Build the name of a partition that waits for deletion: `<topic>-<partition>.<unique id>-delete`.

    The topic is shortened so that the name has at most 255 characters. `unique_id` is 32 lower-case hex digits
    (`uuid4().hex`).

    Raises:
        InvalidNameError: as `partition_directory_name`, or the unique id has another form.
    """
    return _suffixed_directory_name(topic, partition, unique_id, DirectoryKind.DELETE)


def stray_directory_name(topic: str, partition: int, unique_id: str) -> str:
    """Build the name of a partition that should not be on this broker; rules as `delete_directory_name`."""
    return _suffixed_directory_name(topic, partition, unique_id, DirectoryKind.STRAY)


def future_directory_name(topic: str, partition: int, unique_id: str) -> str:
    """Build the name of a partition that is being moved into this log directory; as in Kafka, it is **not** capped."""
    return _suffixed_directory_name(topic, partition, unique_id, DirectoryKind.FUTURE)


def parse_segment_file(name: str) -> SegmentFile:
    """Read the name of a file that carries an offset: segment files, snapshots, and their temporary forms.

    Raises:
        InvalidNameError: the name has another form, or its offset does not fit 63 bits.
    """
    parsed = _parse_segment_file(name)
    if parsed is None:
        raise InvalidNameError(f"file name {_shown(name)} is not <offset>.<extension> of a segment file or snapshot")
    return parsed


def classify_file(name: str) -> ClassifiedFile:
    """Say what a file of this name is, wherever in a data directory it lies. Never fails: unknown names are OTHER.

    TEMPORARY is any other name with a temporary suffix, such as a checkpoint being replaced (`.tmp`).
    """
    whole = _WHOLE_NAMES.get(name)
    if whole is not None:
        return ClassifiedFile(whole)
    parsed = _parse_segment_file(name)
    if parsed is not None:
        return ClassifiedFile(parsed.kind, parsed.base_offset, parsed.suffix)
    for suffix in _TEMPORARY_SUFFIXES:
        if name.endswith(suffix):
            return ClassifiedFile(FileKind.TEMPORARY, None, suffix)
    return ClassifiedFile(FileKind.OTHER)


def segment_file_name(base_offset: int, kind: FileKind, suffix: str = "") -> str:
    """Build `<20 digits>.<extension><suffix>`; `suffix` is empty or one of `.deleted`, `.cleaned`, `.swap`.

    Raises:
        InvalidNameError: the offset is not in 0..2^63-1, or kind or suffix have no such file.
    """
    if kind not in _EXTENSIONS:
        raise InvalidNameError(f"a {kind} has no segment file name")
    if suffix and suffix not in _SEGMENT_SUFFIXES:
        raise InvalidNameError(f"{suffix!r} is not a suffix of segment files")
    return f"{_offset_digits(base_offset)}.{_EXTENSIONS[kind]}{suffix}"


def log_file_name(base_offset: int, suffix: str = "") -> str:
    """Build the name of a segment's log; arguments and errors as `segment_file_name`."""
    return segment_file_name(base_offset, FileKind.LOG, suffix)


def offset_index_file_name(base_offset: int, suffix: str = "") -> str:
    """Build the name of a segment's offset index; arguments and errors as `segment_file_name`."""
    return segment_file_name(base_offset, FileKind.OFFSET_INDEX, suffix)


def time_index_file_name(base_offset: int, suffix: str = "") -> str:
    """Build the name of a segment's time index; arguments and errors as `segment_file_name`."""
    return segment_file_name(base_offset, FileKind.TIME_INDEX, suffix)


def transaction_index_file_name(base_offset: int, suffix: str = "") -> str:
    """Build the name of a segment's transaction index; arguments and errors as `segment_file_name`."""
    return segment_file_name(base_offset, FileKind.TRANSACTION_INDEX, suffix)


def producer_snapshot_file_name(offset: int, suffix: str = "") -> str:
    """Build the name of the producer state of all records below `offset`; errors as `segment_file_name`."""
    return segment_file_name(offset, FileKind.PRODUCER_SNAPSHOT, suffix)


def metadata_snapshot_file_name(end_offset: int, epoch: int) -> str:
    """Build the name of a snapshot of the cluster metadata log: `<20 digits>-<10 digits>.checkpoint`.

    Raises:
        InvalidNameError: the offset is not in 0..2^63-1, or the epoch not in 0..2147483647.
    """
    if not 0 <= epoch <= _INT32_MAX:
        raise InvalidNameError(f"epoch {epoch} is not in 0..{_INT32_MAX}")
    return f"{_offset_digits(end_offset)}-{epoch:010d}.checkpoint"


def _topic_name_problem(name: str) -> str | None:
    if not name:
        return "topic name is empty"
    if name in (".", ".."):
        return f"topic name is {name!r}"
    if len(name) > TOPIC_NAME_LENGTH_MAX:
        return f"topic name has {len(name)} characters; at most {TOPIC_NAME_LENGTH_MAX} are allowed"
    illegal = _ILLEGAL_IN_TOPIC.search(name)
    if illegal is None:
        return None
    where = f"the character {illegal[0]!r} at index {illegal.start()}"
    return f"topic name {name!r} has {where}; allowed are ASCII letters and digits, '.', '_' and '-'"


def _suffixed_directory_name(topic: str, partition: int, unique_id: str, kind: DirectoryKind) -> str:
    if not _UNIQUE_ID.fullmatch(unique_id):
        raise InvalidNameError(f"unique id {_shown(unique_id)} is not 32 lower-case hex digits")
    whole = partition_directory_name(topic, partition)
    suffix = f"{whole[len(topic) :]}.{unique_id}-{kind}"
    keep = len(topic) if kind is DirectoryKind.FUTURE else DIRECTORY_NAME_LENGTH_MAX - len(suffix)
    return f"{topic[:keep]}{suffix}"


def _parse_segment_file(name: str) -> SegmentFile | None:
    match = _SEGMENT_FILE.fullmatch(name)
    if match is not None:
        offset = _bounded_number(match[1], _INT64_MAX)
        return None if offset is None else SegmentFile(offset, _KINDS[match[2]], match[3])
    match = _METADATA_SNAPSHOT.fullmatch(name)
    if match is None:
        return None
    offset, epoch = _bounded_number(match[1], _INT64_MAX), _bounded_number(match[2], _INT32_MAX)
    if offset is None or epoch is None:
        return None
    return SegmentFile(offset, FileKind.METADATA_SNAPSHOT, match[3] or match[4], epoch)


def _offset_digits(offset: int) -> str:
    if not 0 <= offset <= _INT64_MAX:
        raise InvalidNameError(f"offset {offset} is not in 0..{_INT64_MAX}")
    return f"{offset:020d}"


def _bounded_number(text: str, maximum: int) -> int | None:
    """Read ASCII digits as a number up to `maximum`; the digits are counted before `int` sees them."""
    if not _NUMBER.fullmatch(text):
        return None
    digits = text.lstrip("+").lstrip("0") or "0"
    if len(digits) > len(str(maximum)):
        return None
    number = int(digits)
    return number if number <= maximum else None


def _shown(name: str) -> str:
    return repr(name) if len(name) <= DIRECTORY_NAME_LENGTH_MAX else f"{name[:DIRECTORY_NAME_LENGTH_MAX]!r}..."
