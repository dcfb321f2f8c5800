"""What a broker's log directory tells of the configuration of its topics.

It is read from `__cluster_metadata-0`, where a KRaft controller's log is kept: its latest snapshot, and the records
behind it, in order, with what deletes a setting or a topic, and without those of a metadata transaction that was
aborted or has not ended. Settings in a broker's `server.properties` lie elsewhere and are not known here. Nothing is
changed, no lock is taken. Immutable once read: thread-safe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias

from logstore import names
from logstore.broker_settings import topic_settings
from logstore.config import SETTINGS, LogConfig
from logstore.errors import DamagedLogError, LogstoreError, UnsupportedFormatError
from logstore.fs import FileSystem
from logstore.log import parse_meta_properties, parse_offset_checkpoint
from logstore.log.segment_scan import SizedSource
from logstore.names import FileKind
from logstore.records import BatchScanner, Damage, RecordBatch
from logstore.records.internal import decode_internal_value

Settings: TypeAlias = dict[str, str]
"""Text by Kafka's dotted name."""

_TOPIC, _BROKER = 2, 4  # types of resources in a CONFIG_RECORD; on disk, never change
_ALL_BROKERS = ""  # the resource of defaults for the whole cluster; on disk, never change
_COMPACTED_TOPICS = frozenset({names.CONSUMER_OFFSETS_TOPIC, names.TRANSACTION_STATE_TOPIC})
_STORE_TOPICS_BYTES_MAX = 64 << 20
_INTERNAL_SEGMENT_BYTES = "internal.segment.bytes"
"""Where Kafka 4 keeps a `segment.bytes` below 1 MiB; it wins."""


@dataclasses.dataclass(frozen=True, slots=True)
class TopicConfigs:
    """What is known of the configuration of topics.

    Attributes:
        defaults: settings for all topics, by their topic names: a cluster's, and those of this broker.
        topics: the settings of each topic that has some of its own.
        cleaned: the topics that a log cleaner has worked on.
    """

    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    topics: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    cleaned: frozenset[str] = frozenset()

    @classmethod
    def read(cls, fs: FileSystem, log_directory: Path) -> Self:
        """Read what a log directory tells: its `__cluster_metadata-0`, or, in a store of ours, the list of its topics;
        without either that is what its cleaner checkpoint tells.

        Raises DamagedLogError, CorruptCheckpointError and their like where the files cannot be read as what they are:
        what they say of a topic is not known then. OSError.
        """
        partition = log_directory / names.partition_directory_name(names.CLUSTER_METADATA_TOPIC, 0)
        replay = _Replay()
        if fs.is_directory(partition):
            replay.read(fs, partition)
        broker = dict(replay.settings.get((_BROKER, _ALL_BROKERS), {}))
        broker |= replay.settings.get((_BROKER, str(_node_id(fs, log_directory))), {})
        try:
            defaults = topic_settings(broker)
        except ValueError as error:
            raise LogstoreError(f"a setting of the brokers cannot be read: {error}", path=partition) from None
        topics = {name: found for (kind, name), found in replay.settings.items() if kind == _TOPIC and found}
        return cls(defaults, {**topics, **_of_a_store(fs, log_directory)}, _cleaned(fs, log_directory))

    def settings(self, topic: str) -> Settings:
        """The settings of a topic that are known, its own and the defaults."""
        return {**self.defaults, **self.topics.get(topic, {})}

    def policy(self, topic: str) -> frozenset[str] | None:
        """The words of a topic's `cleanup.policy`; None where nobody has set it."""
        found = self.settings(topic).get("cleanup.policy")
        return None if found is None else frozenset(word.strip().lower() for word in found.split(","))

    def is_compacted(self, topic: str) -> bool | None:
        """Whether the log of a topic is compacted; None where nothing says.

        Its configuration says so; else an entry in the cleaner checkpoint does, and the names of Kafka's own topics.
        """
        policy = self.policy(topic)
        if policy is not None:
            return "compact" in policy
        return True if topic in self.cleaned or topic in _COMPACTED_TOPICS else None

    def config_of(self, topic: str) -> LogConfig:
        """The configuration of a topic's log. What is not known is at Kafka's default, with two exceptions.

        The exceptions: `retention.ms` is off then, and the policy of what is compacted otherwise is `compact`. Raises
        LogstoreError for a value that is none.
        """
        found = self.settings(topic)
        if _INTERNAL_SEGMENT_BYTES in found:
            found["segment.bytes"] = found[_INTERNAL_SEGMENT_BYTES]
        found.setdefault("retention.ms", "-1")
        if self.is_compacted(topic):
            found.setdefault("cleanup.policy", "compact")
        try:
            return LogConfig.from_kafka({name: text for name, text in found.items() if name in SETTINGS})
        except ValueError as error:
            raise LogstoreError(f"the configuration of topic {topic} cannot be read: {error}") from None


def _of_a_store(fs: FileSystem, directory: Path) -> dict[str, Settings]:
    """The settings of topics by the list of a store. Raises LogstoreError where it cannot be read as one."""
    place = directory / names.STORE_TOPICS
    if not fs.exists(place):
        return {}
    with fs.open(place) as file:
        data = file.read(0, _STORE_TOPICS_BYTES_MAX)
    try:
        topics = json.loads(data)["topics"].items()
        return {
            name: {str(key): str(text) for key, text in entry["settings"].items()}
            for name, entry in topics if entry["settings"]
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LogstoreError(f"the list of topics cannot be read: {error}", path=place) from error


def _cleaned(fs: FileSystem, log_directory: Path) -> frozenset[str]:
    place = log_directory / names.CLEANER_CHECKPOINT
    if not fs.exists(place):
        return frozenset()
    with _placed(place):
        return frozenset(one.topic for one in parse_offset_checkpoint(_content(fs, place)))


def _node_id(fs: FileSystem, log_directory: Path) -> int | None:
    place = log_directory / names.META_PROPERTIES
    if not fs.exists(place):
        return None
    with _placed(place):
        return parse_meta_properties(_content(fs, place)).node_id


def _content(fs: FileSystem, path: Path) -> bytes:
    with fs.open(path) as file:
        return file.read(0, file.size())


@contextlib.contextmanager
def _placed(path: Path) -> Iterator[None]:
    """Let an error say in which file it was met."""
    try:
        yield
    except LogstoreError as error:
        error.path = error.path or str(path)
        raise


# ---------------------------------------------------------------- the metadata log


class _Replay:
    """The state of a cluster's configuration, record by record. One belongs to one thread.

    Attributes:
        settings: by type and name of the resource.
    """

    def __init__(self) -> None:
        self.settings: dict[tuple[int, str], Settings] = {}
        self._names: dict[str, str] = {}  # of topics, by their ids
        self._pending: list[dict[str, Any]] | None = None  # records of a metadata transaction that has begun

    def read(self, fs: FileSystem, partition: Path) -> None:
        """Read the latest snapshot of the metadata log, and the log from there on."""
        found = [(names.classify_file(name), partition / name) for name in fs.list(partition)]
        in_use = [(one.base_offset or 0, one.kind, path) for one, path in found if one.temporary_suffix is None]
        snapshots = sorted((base, path) for base, kind, path in in_use if kind is FileKind.METADATA_SNAPSHOT)
        logs = sorted((base, path) for base, kind, path in in_use if kind is FileKind.LOG)
        start = 0
        if snapshots:
            start, snapshot = snapshots[-1]
            self._read_file(fs, snapshot, 0, may_be_torn=False)
        if logs and logs[0][0] > start:
            raise DamagedLogError(
                f"the metadata log begins at {logs[0][0]}, and there is no snapshot of what was before",
                path=partition, offset=start,
            )  # fmt: skip
        for number, (_, path) in enumerate(logs, 1):
            self._read_file(fs, path, start, may_be_torn=number == len(logs))

    def _read_file(self, fs: FileSystem, path: Path, start: int, *, may_be_torn: bool) -> None:
        with fs.open(path) as file, _placed(path):
            source = SizedSource(file)
            for one in BatchScanner(source):
                if not isinstance(one, Damage):
                    self._take_batch(one, start)
                elif not may_be_torn or one.position + one.size < source.size:
                    raise DamagedLogError(one.reason, position=one.position)

    def _take_batch(self, batch: RecordBatch, start: int) -> None:
        if batch.is_control or batch.next_offset <= start:
            return
        for record in batch.records():
            if record.offset >= start:
                decoded = decode_internal_value(names.CLUSTER_METADATA_TOPIC, record.key, record.value)
                if isinstance(decoded, dict):
                    self._take(decoded)

    def _take(self, record: dict[str, Any]) -> None:
        """Apply a record, or keep it until the transaction that it is part of has ended."""
        kind = record["type"]
        if kind == "BEGIN_TRANSACTION_RECORD":
            self._pending = []
        elif kind == "ABORT_TRANSACTION_RECORD":
            self._pending = None
        elif kind == "END_TRANSACTION_RECORD":
            pending, self._pending = self._pending or [], None
            for one in pending:
                self._apply(one)
        elif kind in ("TOPIC_RECORD", "REMOVE_TOPIC_RECORD", "CONFIG_RECORD"):
            if "data" not in record:
                raise UnsupportedFormatError(f"version {record['version']} of a {kind} is not known")
            if self._pending is None:
                self._apply(record)
            else:
                self._pending.append(record)

    def _apply(self, record: dict[str, Any]) -> None:
        data = record["data"]
        if record["type"] == "TOPIC_RECORD":
            self._names[data["topicId"]] = data["name"]
        elif record["type"] == "REMOVE_TOPIC_RECORD":
            self.settings.pop((_TOPIC, self._names.pop(data["topicId"], "")), None)
        else:
            found = self.settings.setdefault((data["resourceType"], data["resourceName"]), {})
            if data["value"] is None:
                found.pop(data["name"], None)
            else:
                found[data["name"]] = data["value"]
