"""The settings of a log and of the log cleaner: Kafka's with its names, defaults and ranges, and one of our own.

Invariant: a configuration that exists is valid; each value was checked, alone and beside the others, when it was made.
Type, range and meaning of a setting stand beside its default and nowhere else; its dotted name is the field's name.
Immutable values and pure functions: thread-safe. Defaults and ranges: LOG_SEMANTICS.md §2, CLEANER.md §6.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, TypeAlias

from logstore.setting import Setting, number, shown, words

CleanupPolicy: TypeAlias = Literal["compact", "delete"]
CompressionType: TypeAlias = Literal["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]
"""What batches are stored with; `producer` keeps what the appender chose. Other words are those of `Codec.label`."""
MessageTimestampType: TypeAlias = Literal["CreateTime", "LogAppendTime"]
Durability: TypeAlias = Literal["os", "interval", "always"]
"""What an append promises on return: that the operating system has it (it survives a kill of the process), that, and
a sync within `flush.ms` or `flush.messages`, or that it is synced (it survives a power cut)."""

INTERVAL_FLUSH_MS = 1000
"""How long the durability `interval` leaves data unsynced where `flush.ms` is at its default."""

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1

_CLEANER_PREFIX = "log.cleaner."
# What each thread of the cleaner must have more of than this, or a broker does not start.
_DEDUPE_BYTES_MIN = 1 << 20

# Kafka's topic settings that mean nothing to one log alone: replicas, tiers, clients of old, quotas.
_NOT_OF_A_LOG = frozenset(
    {
        "follower.replication.throttled.replicas",
        "leader.replication.throttled.replicas",
        "local.retention.bytes",
        "local.retention.ms",
        "message.downconversion.enable",
        "message.format.version",
        "message.timestamp.difference.max.ms",
        "min.insync.replicas",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.storage.enable",
        "unclean.leader.election.enable",
    }
)


# Settings of a broker's cleaner that are none of ours, and what to do instead.
_NOT_OF_THE_CLEANER = {
    "log.cleaner.enable": "a cleaner runs when it is started",
    "log.cleaner.min.cleanable.ratio": "set min.cleanable.dirty.ratio of the log",
    "log.cleaner.delete.retention.ms": "set delete.retention.ms of the log",
    "log.cleaner.min.compaction.lag.ms": "set min.compaction.lag.ms of the log",
    "log.cleaner.max.compaction.lag.ms": "set max.compaction.lag.ms of the log",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The settings of one log; `dataclasses.replace` makes a changed one.

    Raises:
        TypeError: a value is not of its setting's type.
        ValueError: a value is out of range, or contradicts another; the message has Kafka's name, value and range.
    """

    segment_bytes: int = field(
        default=1 << 30,
        metadata=number("int", 14, "A segment that an append would make larger than this is rolled before it."),
    )
    segment_ms: int = field(
        default=604_800_000,
        metadata=number("long", 1, "A segment that holds something is rolled when it gets older than this."),
    )
    segment_jitter_ms: int = field(
        default=0,
        metadata=number(
            "long", 0, "Each segment's age limit is shortened at random by up to this, so that not all roll at once."
        ),
    )
    segment_index_bytes: int = field(
        default=10 << 20,
        metadata=number("int", 4, "Room for each offset and each time index; a segment with a full index is rolled."),
    )
    index_interval_bytes: int = field(
        default=4096, metadata=number("int", 0, "Bytes of batches after which the indexes get their next entries.")
    )
    max_message_bytes: int = field(
        default=(1 << 20) + 12,
        metadata=number("int", 0, "The largest batch that may be appended, as it is stored, its header included."),
    )
    flush_messages: int = field(default=INT64_MAX, metadata=number("long", 1, "Records after which the log is synced."))
    flush_ms: int = field(default=INT64_MAX, metadata=number("long", 0, "Time after which the log is synced."))
    retention_bytes: int = field(
        default=-1,
        metadata=number(
            "long", -INT64_MAX - 1, "The oldest segments go while the log stays this large without them; negative: off."
        ),
    )
    retention_ms: int = field(
        default=604_800_000,
        metadata=number("long", -1, "A segment goes when its newest record is older than this; -1: never."),
    )
    file_delete_delay_ms: int = field(
        default=60_000,
        metadata=number(
            "long", 0, "How long the files of a segment that went are kept, renamed, before they are unlinked."
        ),
    )
    cleanup_policy: frozenset[CleanupPolicy] = field(
        default=frozenset({"delete"}),
        metadata=words(
            CleanupPolicy,
            "What happens to old records: `delete` drops old segments, `compact` keeps the newest record of each key.",
            "list",
        ),
    )
    delete_retention_ms: int = field(
        default=86_400_000,
        metadata=number(
            "long", 0, "How long compaction keeps tombstones and transaction markers once it has met them."
        ),
    )
    min_compaction_lag_ms: int = field(
        default=0,
        metadata=number("long", 0, "Records younger than this are not compacted; not more than the maximum lag."),
    )
    max_compaction_lag_ms: int = field(
        default=INT64_MAX, metadata=number("long", 1, "Records older than this make the log due for compaction.")
    )
    min_cleanable_dirty_ratio: float = field(
        default=0.5,
        metadata=number(
            "double", 0, "The share of bytes never compacted that makes the log due for compaction.", maximum=1
        ),
    )
    compression_type: CompressionType = field(
        default="producer",
        metadata=words(
            CompressionType, "The codec that batches are stored with; `producer` keeps the one they came with."
        ),
    )
    compression_gzip_level: int = field(
        default=-1, metadata=number("int", 1, "The level of gzip; -1 is zlib's own.", maximum=9, also=-1)
    )
    compression_lz4_level: int = field(default=9, metadata=number("int", 1, "The level of lz4.", maximum=17))
    compression_zstd_level: int = field(default=3, metadata=number("int", -131_072, "The level of zstd.", maximum=22))
    preallocate: bool = field(
        default=False,
        metadata={"setting": Setting(kind="boolean", meaning="A new segment's file gets its full size at once.")},
    )
    message_timestamp_type: MessageTimestampType = field(
        default="CreateTime",
        metadata=words(MessageTimestampType, "Whether records keep the appender's time or get the time of the append."),
    )
    message_timestamp_before_max_ms: int = field(
        default=INT64_MAX, metadata=number("long", 0, "How far in the past a record's CreateTime may lie.")
    )
    message_timestamp_after_max_ms: int = field(
        default=3_600_000, metadata=number("long", 0, "How far in the future a record's CreateTime may lie.")
    )
    producer_id_expiration_ms: int = field(
        default=86_400_000,
        metadata=number(
            "int", 1, "A producer that was silent for this long is forgotten, its sequence numbers with it."
        ),
    )
    transaction_max_timeout_ms: int = field(
        default=900_000, metadata=number("int", 1, "The longest timeout that a transaction may be begun with.")
    )
    durability: Durability = field(
        default="os",
        metadata=words(
            Durability,
            "Not Kafka's. What an append waits for: `os` for no sync, `interval` for none, but one follows within "
            f"`flush.ms` ({INTERVAL_FLUSH_MS} where that is not set) or `flush.messages`, `always` for its sync.",
        ),
    )

    def __post_init__(self) -> None:
        _check(self, SETTINGS)
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms:
            raise ValueError(
                f"min.compaction.lag.ms is {self.min_compaction_lag_ms}; its range is: "
                f"at most max.compaction.lag.ms, which is {self.max_compaction_lag_ms}"
            )

    @classmethod
    def from_kafka(cls, values: Mapping[str, str]) -> Self:
        """Read dotted names with values as text, as in a topic's configuration; what is missing has its default.

        Raises:
            ValueError: a name that is no setting of a log, a text that is no such value, or as for the class.
        """
        return cls(**_parsed(values, SETTINGS, _unknown))

    def to_kafka(self) -> dict[str, str]:
        """All settings by dotted name, as `from_kafka` reads them."""
        return _formatted(self, SETTINGS)

    @property
    def compacted(self) -> bool:
        """Whether the cleanup policy has `compact` in it."""
        return "compact" in self.cleanup_policy

    @property
    def effective_segment_ms(self) -> int:
        """The age at which a segment is rolled, before jitter: in a compacted log it must become cleanable in time."""
        return min(self.max_compaction_lag_ms, self.segment_ms) if self.compacted else self.segment_ms

    @property
    def effective_flush_ms(self) -> int:
        """`flush.ms`, or what the durability `interval` takes where it is not set."""
        unset = self.durability == "interval" and self.flush_ms == INT64_MAX
        return INTERVAL_FLUSH_MS if unset else self.flush_ms

    @property
    def initial_file_size(self) -> int:
        """The size that the log file of a new segment gets at once."""
        return self.segment_bytes if self.preallocate else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanerConfig:
    """The settings of the log cleaner, which all its threads share; what single logs set is in `LogConfig`.

    Raises:
        TypeError: a value is not of its setting's type.
        ValueError: a value is out of range, or contradicts another; the message has Kafka's name, value and range.
    """

    threads: int = field(default=1, metadata=number("int", 0, "How many logs are cleaned at a time."))
    io_max_bytes_per_second: float = field(
        default=sys.float_info.max,
        metadata=number("double", 1, "What all threads together may read and write in a second.", maximum=math.inf),
    )
    dedupe_buffer_size: int = field(
        default=128 << 20,
        metadata=number("long", 1, "Bytes for the offset maps of all threads; each takes more than 1048576 of them."),
    )
    io_buffer_size: int = field(
        default=512 << 10, metadata=number("int", 0, "Accepted, not heeded: segments are read where they are mapped.")
    )
    io_buffer_load_factor: float = field(
        default=0.9,
        metadata=number("double", 0, "Accepted, not heeded: the offset map has its own limit.", maximum=1),
    )
    backoff_ms: int = field(
        default=15_000, metadata=number("long", 0, "How long a thread waits that has found nothing to clean.")
    )

    def __post_init__(self) -> None:
        _check(self, CLEANER_SETTINGS)
        if self.dedupe_buffer_size // max(self.threads, 1) <= _DEDUPE_BYTES_MIN:
            raise ValueError(
                f"log.cleaner.dedupe.buffer.size is {self.dedupe_buffer_size}; its range is: more than "
                f"{_DEDUPE_BYTES_MIN} for each of log.cleaner.threads, which is {self.threads}"
            )

    @classmethod
    def from_kafka(cls, values: Mapping[str, str]) -> Self:
        """Read dotted names with values as text, as in a broker's properties; what is missing has its default.

        Raises:
            ValueError: a name that is no setting of the cleaner, a text that is no such value, or as for the class.
        """
        return cls(**_parsed(values, CLEANER_SETTINGS, _unknown_of_cleaner))

    def to_kafka(self) -> dict[str, str]:
        """All settings by dotted name, as `from_kafka` reads them."""
        return _formatted(self, CLEANER_SETTINGS)

    @property
    def map_memory(self) -> int:
        """Bytes for the offset map of one thread; as in Kafka, not more than 2 GiB."""
        return min(self.dedupe_buffer_size // max(self.threads, 1), INT32_MAX)


def dotted_name(field_name: str) -> str:
    """Return Kafka's name of a field: `segment_bytes` is `segment.bytes`."""
    return field_name.replace("_", ".")


def config_table() -> str:
    """All settings of `LogConfig` as a Markdown table: name, type, default, range, meaning."""
    return _table(SETTINGS, LogConfig().to_kafka())


def cleaner_config_table() -> str:
    """All settings of `CleanerConfig` as a Markdown table, as `config_table`."""
    return _table(CLEANER_SETTINGS, CleanerConfig().to_kafka())


SETTINGS: Mapping[str, Setting] = {dotted_name(one.name): one.metadata["setting"] for one in fields(LogConfig)}
"""What `LogConfig` knows of each setting, by dotted name."""
CLEANER_SETTINGS: Mapping[str, Setting] = {
    _CLEANER_PREFIX + dotted_name(one.name): one.metadata["setting"] for one in fields(CleanerConfig)
}
"""What `CleanerConfig` knows of each setting, by dotted name."""


def _table(settings: Mapping[str, Setting], defaults: Mapping[str, str]) -> str:
    rows = [("Name", "Type", "Default", "Range", "Meaning"), ("---",) * 5]
    rows += [(f"`{name}`", one.kind, defaults[name], one.range, one.meaning) for name, one in settings.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _check(config: object, settings: Mapping[str, Setting]) -> None:
    for name, setting in settings.items():
        setting.check(name, getattr(config, _field_name(name)))


def _parsed(
    values: Mapping[str, str], settings: Mapping[str, Setting], unknown: Callable[[str], str]
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, text in values.items():
        setting = settings.get(name)
        if setting is None:
            raise ValueError(unknown(name))
        if not isinstance(text, str):
            raise TypeError(f"{name} is {shown(text)}, which is not a text")
        given[_field_name(name)] = setting.parse(name, text)
    return given


def _formatted(config: object, settings: Mapping[str, Setting]) -> dict[str, str]:
    return {name: setting.format(getattr(config, _field_name(name))) for name, setting in settings.items()}


def _field_name(name: str) -> str:
    return name.removeprefix(_CLEANER_PREFIX).replace(".", "_")


def _unknown(name: str) -> str:
    if name in _NOT_OF_A_LOG:
        return f"{name} is a setting of Kafka's that a log alone has no use for; leave it out"
    return f"{shown(name)} is no setting of a log; the nearest is {_nearest(name, SETTINGS)}"


def _unknown_of_cleaner(name: str) -> str:
    if name in _NOT_OF_THE_CLEANER:
        return f"{name} is no setting of the cleaner alone; {_NOT_OF_THE_CLEANER[name]}"
    return f"{shown(name)} is no setting of the log cleaner; the nearest is {_nearest(name, CLEANER_SETTINGS)}"


def _nearest(name: str, settings: Mapping[str, Setting]) -> str:
    return difflib.get_close_matches(str(name), settings, n=1, cutoff=0)[0]
