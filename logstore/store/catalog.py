"""Which topics a store has, with their settings: one plain file, and the partition directories themselves.

The file is replaced as a whole, durably, under the store's lock. A topic is in it before its directories are made, and
out of it before they go: a crash in between leaves neither half a topic nor one that comes back. Topics whose
directories somebody else has put there, a broker or a copy, are there as well; of those a partition may be elsewhere.
Immutable values: thread-safe.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from logstore import names
from logstore.config import SETTINGS, LogConfig
from logstore.errors import (
    CorruptCheckpointError,
    InvalidNameError,
    InvalidPartitionsError,
    LogstoreError,
    TopicExistsError,
    UnknownTopicError,
    UnsupportedFormatError,
)
from logstore.fs import FileSystem, replace_atomically
from logstore.log import format_kafka_uuid, parse_kafka_uuid

FILE = names.STORE_TOPICS
SESSION = ".logstore-session"
"""Of those who have the store open together; see `data_directory`."""
VERSION = 1  # of the file. On disk; what is newer is refused.
PARTITIONS_MAX = 100_000
_FILE_SIZE_MAX = 64 << 20
_OFFSETS_SETTINGS = {"cleanup.policy": "compact", "segment.bytes": str(100 << 20)}
INTERNAL_SETTINGS: Mapping[str, Mapping[str, str]] = {
    names.CONSUMER_OFFSETS_TOPIC: _OFFSETS_SETTINGS,
    names.TRANSACTION_STATE_TOPIC: _OFFSETS_SETTINGS,
}
"""What Kafka gives its own topics (CLUSTER §2.3)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Topic:
    """A topic.

    Attributes:
        name: its name.
        partitions: how many it has; they are numbered from 0.
        topic_id: what tells it from another one of the same name; None where a store of old has none.
        settings: what was set for it alone, as text by Kafka's dotted name.
    """

    name: str
    partitions: int
    topic_id: UUID | None = None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_internal(self) -> bool:
        """Whether it is one of Kafka's own, or holds the state of a work queue."""
        return names.is_internal_topic(self.name) or self.name.startswith(names.WORK_QUEUE_STATE_PREFIX)

    def with_settings(self, settings: Mapping[str, str]) -> Topic:
        """The same with settings from elsewhere added to its own."""
        return dataclasses.replace(self, settings={**settings, **self.settings})

    def config(self, base: LogConfig) -> LogConfig:
        """The settings of its logs, over those of its store. Raises ValueError."""
        wanted = {**INTERNAL_SETTINGS.get(self.name, {}), **self.settings}
        if not wanted:
            return base
        parsed = LogConfig.from_kafka(wanted)
        fields = {field: getattr(parsed, field) for field, name in _FIELDS.items() if name in wanted}
        return dataclasses.replace(base, **fields)


_FIELDS = {name.replace(".", "_"): name for name in SETTINGS}


def is_store(fs: FileSystem, root: Path) -> bool:
    """Whether a directory is a store of ours, rather than a broker's; an empty one is neither."""
    return fs.exists(root / FILE) or fs.exists(root / SESSION)


def find_root(fs: FileSystem, directories: Sequence[Path]) -> list[Path]:
    """The directories of a store, first the one that has the list of topics, whatever their order was.

    Raises LogstoreError where two of them have one, or some are missing, and as `Catalog.read_file`.
    """
    roots = [one for one in directories if fs.exists(one / FILE)]
    if len(roots) > 1:
        raise LogstoreError(
            f"there is a list of topics, and one in {roots[1]}: these are directories of two stores", path=roots[0]
        )
    places = roots + [one for one in directories if one not in roots]
    Catalog.read_file(fs, places[0]).check_directories(places)
    return places


class Catalog:
    """The topics of a store at one moment.

    Attributes:
        topics: by name.
        deleting: names whose directories are on their way out.
        directories: how many the store had when it was written.
    """

    def __init__(
        self, topics: Mapping[str, Topic] = MappingProxyType({}), deleting: Iterable[str] = (), directories: int = 1
    ) -> None:
        self.topics = dict(topics)
        self.deleting = frozenset(deleting)
        self.directories = directories

    def __repr__(self) -> str:
        return f"<Catalog of {len(self.topics)} topics>"

    @classmethod
    def read(cls, fs: FileSystem, root: Path, directories: Sequence[Path]) -> Catalog:
        """Read the file, and see what else lies there. Raises UnsupportedFormatError, LogstoreError, OSError."""
        known = cls.read_file(fs, root)
        topics = dict(known.topics)
        for directory in directories:
            for name, partitions, topic_id in _found(fs, directory):
                if name in known.deleting:
                    continue
                before = topics.get(name)
                if before is None:
                    topics[name] = Topic(name, partitions, topic_id)
                elif partitions > before.partitions:
                    topics[name] = dataclasses.replace(before, partitions=partitions)
        return cls(topics, known.deleting, known.directories)

    @classmethod
    def read_file(cls, fs: FileSystem, root: Path) -> Catalog:
        """Read the file alone; no topics where there is none. Raises UnsupportedFormatError, LogstoreError, OSError."""
        path = root / FILE
        if not fs.exists(path):
            return cls()
        with fs.open(path) as file:
            data = file.read(0, _FILE_SIZE_MAX)
        try:
            found = json.loads(data)
            version = int(found["version"])
            if version > VERSION:
                raise UnsupportedFormatError(
                    f"this store was written by a newer logstore: its format is {version}, known is {VERSION}",
                    path=path, remedy="use a newer logstore",
                )  # fmt: skip
            topics = {name: _topic(name, entry) for name, entry in found["topics"].items()}
            return cls(topics, map(str, found["deleting"]), int(found.get("directories", 1)))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            problem = f"{type(error).__name__}: {error}"
        except (InvalidNameError, CorruptCheckpointError) as error:
            problem = error.reason
        raise LogstoreError(
            f"the list of topics cannot be read ({problem})", path=path,
            remedy="move it away: topics are found again by their directories, with default settings",
        )  # fmt: skip

    def check_directories(self, given: Sequence[Path]) -> None:
        """Raise LogstoreError where some are missing: the partitions in these would be made anew."""
        if self.directories > len(given):
            raise LogstoreError(
                f"this store has {self.directories} directories, and {len(given)} of them were given", path=given[0],
                remedy="open it with all of them",
            )  # fmt: skip

    def write(self, fs: FileSystem, root: Path) -> None:
        """Replace the file, durably. Raises OSError."""
        topics = {
            topic.name: {
                "partitions": topic.partitions,
                "id": None if topic.topic_id is None else format_kafka_uuid(topic.topic_id),
                "settings": dict(topic.settings),
            }
            for topic in self.topics.values()
        }
        content = {
            "version": VERSION, "directories": self.directories, "topics": topics, "deleting": sorted(self.deleting),
        }  # fmt: skip
        replace_atomically(fs, root / FILE, (json.dumps(content, indent=1) + "\n").encode())

    # ---- changes, each of which gives another catalog

    def get(self, name: str) -> Topic:
        """The topic of a name. Raises UnknownTopicError."""
        found = self.topics.get(name)
        if found is None:
            raise UnknownTopicError(f"there is no topic {name!r}", remedy="create it first")
        return found

    def with_topic(self, topic: Topic) -> Catalog:
        """With a new topic. Raises as the check of names and counts, TopicExistsError (CLUSTER §2.1, §2.2)."""
        names.check_topic_name(topic.name)
        if topic.name == names.CLUSTER_METADATA_TOPIC:
            raise InvalidNameError(f"{topic.name} is for Kafka's own use")
        if topic.name in self.topics:
            raise TopicExistsError(f"there is a topic {topic.name!r} already")
        if topic.name in self.deleting:
            raise TopicExistsError(f"the topic {topic.name!r} is being deleted", remedy="try again in a moment")
        other = next((one for one in self.topics if names.topics_collide(topic.name, one)), None)
        if other is not None:
            raise InvalidNameError(f"topic {topic.name!r} collides with {other!r}: '.' and '_' are the same in metrics")
        _check_count(topic.partitions)
        return self._with(topic)

    def grown(self, name: str, partitions: int) -> Catalog:
        """With more partitions of a topic. Raises UnknownTopicError, InvalidPartitionsError (CLUSTER §2.4)."""
        topic = self.get(name)
        _check_count(partitions)
        if partitions <= topic.partitions:
            raise InvalidPartitionsError(
                f"topic {name!r} has {topic.partitions} partitions; their number only grows: {partitions} is not more"
            )
        return self._with(dataclasses.replace(topic, partitions=partitions))

    def altered(self, name: str, settings: Mapping[str, str | None]) -> Catalog:
        """With other settings of a topic; None unsets one. Raises UnknownTopicError."""
        topic = self.get(name)
        kept = {**topic.settings, **settings}
        return self._with(
            dataclasses.replace(topic, settings={key: text for key, text in kept.items() if text is not None})
        )

    def without(self, name: str) -> Catalog:
        """Without a topic, whose directories are to go. Raises UnknownTopicError."""
        self.get(name)
        rest = {one: topic for one, topic in self.topics.items() if one != name}
        return Catalog(rest, self.deleting | {name}, self.directories)

    def gone(self, name: str) -> Catalog:
        """Once the directories of a topic are renamed."""
        return Catalog(self.topics, self.deleting - {name}, self.directories)

    def spread_over(self, directories: int) -> Catalog:
        """With another number of directories."""
        return Catalog(self.topics, self.deleting, directories)

    def _with(self, topic: Topic) -> Catalog:
        return Catalog({**self.topics, topic.name: topic}, self.deleting, self.directories)


def _topic(name: str, entry: Mapping[str, Any]) -> Topic:
    names.check_topic_name(name)
    partitions = int(entry["partitions"])
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ValueError(f"{partitions} partitions")
    identity = entry["id"]
    settings = {str(key): str(text) for key, text in entry["settings"].items()}
    return Topic(name, partitions, None if identity is None else parse_kafka_uuid(identity), settings)


def _found(fs: FileSystem, directory: Path) -> Iterable[tuple[str, int, UUID | None]]:
    """The topics whose directories are there: name, one more than the greatest partition, id."""
    counts: dict[str, int] = {}
    for name in fs.list(directory):
        try:
            found = names.parse_partition_directory(name)
        except InvalidNameError:
            continue
        if found.kind is not names.DirectoryKind.NORMAL or not names.is_valid_topic_name(found.topic):
            continue
        if fs.is_directory(directory / name):
            counts[found.topic] = max(counts.get(found.topic, 0), found.partition + 1)
    for topic, count in counts.items():
        if topic != names.CLUSTER_METADATA_TOPIC and count <= PARTITIONS_MAX:
            yield topic, count, None


def _check_count(partitions: int) -> None:
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise InvalidPartitionsError(f"{partitions} partitions: a topic has from 1 to {PARTITIONS_MAX}")
