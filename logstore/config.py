"""The settings of a log: Kafka's topic settings with Kafka's names, defaults and ranges, and one of our own.

Invariant: a `LogConfig` that exists is valid; each value was checked, alone and beside the others, when it was made.
Type, range and meaning of a setting stand beside its default and nowhere else; its dotted name is the field's name.
Immutable values and pure functions: thread-safe. Defaults and ranges: LOG_SEMANTICS.md §2.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, TypeAlias, get_args

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

# What Java's parseInt, parseLong and parseDouble take, but for its NaN, Infinity, hexadecimal and non-ASCII digits.
_INTEGER = re.compile(r"[+-]?(?=[0-9])0*+([0-9]*+)")
_DECIMAL = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[dDfF]?")
_LIST_SEPARATOR = re.compile(r"\s*,\s*")
_SHOWN_MAX = 80

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a setting may be and what it is for; `kind` is Kafka's word for its type."""

    kind: Literal["int", "long", "double", "boolean", "string", "list"]
    meaning: str
    minimum: float = 0
    maximum: float = 0
    also: int | None = None
    choices: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        """The legal values in words."""
        if self.kind == "boolean":
            return "true, false"
        if self.choices:
            return ", ".join(self.choices)
        if self.minimum == -INT64_MAX - 1:
            return f"any {self.kind}"
        return f"{self.minimum} to {self.maximum}{'' if self.also is None else f' or {self.also}'}"

    def check(self, name: str, value: object) -> None:
        """Refuse a value of another type with TypeError, and one out of range with ValueError."""
        if not self._has_type(value):
            raise TypeError(f"{name} is {_shown(value)}, which is not of its type, {self.kind}")
        if self.kind == "list":
            assert isinstance(value, frozenset)
            legal = value <= set(self.choices)
        elif self.kind == "string":
            legal = value in self.choices
        elif self.kind == "boolean":
            legal = True
        else:
            assert isinstance(value, int | float)
            legal = self.minimum <= value <= self.maximum or value == self.also
        if not legal:
            raise ValueError(f"{name} is {_shown(value)}; its range is: {self.range}")

    def parse(self, name: str, text: str) -> object:
        """Read a value as Kafka does: blanks around it do not count, nor does the case of a boolean."""
        plain = text.strip()
        if self.kind in ("int", "long") and (match := _INTEGER.fullmatch(plain)) and len(match[1]) <= 19:
            return int(plain)
        if self.kind == "double" and (match := _DECIMAL.fullmatch(plain)):
            return float(match[1])
        if self.kind == "boolean" and plain.lower() in ("true", "false"):
            return plain.lower() == "true"
        if self.kind == "string":
            return plain
        if self.kind == "list":
            return frozenset(_LIST_SEPARATOR.split(plain) if plain else ())
        raise ValueError(f"{name} is {_shown(text)}, which is not of its type, {self.kind}; its range is: {self.range}")

    def format(self, value: object) -> str:
        """Return the text that Kafka reads as this value."""
        if self.kind == "list":
            assert isinstance(value, frozenset)
            return ",".join(sorted(value))
        return str(value).lower() if self.kind == "boolean" else str(value)

    def _has_type(self, value: object) -> bool:
        if self.kind == "list":
            return isinstance(value, frozenset) and all(isinstance(one, str) for one in value)
        if self.kind == "string":
            return isinstance(value, str)
        if self.kind == "boolean":
            return isinstance(value, bool)
        return isinstance(value, int | float if self.kind == "double" else int) and not isinstance(value, bool)


def _number(
    kind: Literal["int", "long", "double"],
    minimum: float,
    meaning: str,
    *,
    maximum: float | None = None,
    also: int | None = None,
) -> dict[str, Setting]:
    if maximum is None:
        maximum = INT32_MAX if kind == "int" else INT64_MAX
    return {"setting": Setting(kind=kind, meaning=meaning, minimum=minimum, maximum=maximum, also=also)}


def _words(words: object, meaning: str, kind: Literal["string", "list"] = "string") -> dict[str, Setting]:
    return {"setting": Setting(kind=kind, meaning=meaning, choices=get_args(words))}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """The settings of one log; `dataclasses.replace` makes a changed one.

    Raises:
        TypeError: a value is not of its setting's type.
        ValueError: a value is out of range, or contradicts another; the message has Kafka's name, value and range.
    """

    segment_bytes: int = field(
        default=1 << 30,
        metadata=_number("int", 14, "A segment that an append would make larger than this is rolled before it."),
    )
    segment_ms: int = field(
        default=604_800_000,
        metadata=_number("long", 1, "A segment that holds something is rolled when it gets older than this."),
    )
    segment_jitter_ms: int = field(
        default=0,
        metadata=_number(
            "long", 0, "Each segment's age limit is shortened at random by up to this, so that not all roll at once."
        ),
    )
    segment_index_bytes: int = field(
        default=10 << 20,
        metadata=_number("int", 4, "Room for each offset and each time index; a segment with a full index is rolled."),
    )
    index_interval_bytes: int = field(
        default=4096, metadata=_number("int", 0, "Bytes of batches after which the indexes get their next entries.")
    )
    max_message_bytes: int = field(
        default=(1 << 20) + 12,
        metadata=_number("int", 0, "The largest batch that may be appended, as it is stored, its header included."),
    )
    flush_messages: int = field(
        default=INT64_MAX, metadata=_number("long", 1, "Records after which the log is synced.")
    )
    flush_ms: int = field(default=INT64_MAX, metadata=_number("long", 0, "Time after which the log is synced."))
    retention_bytes: int = field(
        default=-1,
        metadata=_number(
            "long", -INT64_MAX - 1, "The oldest segments go while the log stays this large without them; negative: off."
        ),
    )
    retention_ms: int = field(
        default=604_800_000,
        metadata=_number("long", -1, "A segment goes when its newest record is older than this; -1: never."),
    )
    file_delete_delay_ms: int = field(
        default=60_000,
        metadata=_number(
            "long", 0, "How long the files of a segment that went are kept, renamed, before they are unlinked."
        ),
    )
    cleanup_policy: frozenset[CleanupPolicy] = field(
        default=frozenset({"delete"}),
        metadata=_words(
            CleanupPolicy,
            "What happens to old records: `delete` drops old segments, `compact` keeps the newest record of each key.",
            "list",
        ),
    )
    delete_retention_ms: int = field(
        default=86_400_000,
        metadata=_number(
            "long", 0, "How long compaction keeps tombstones and transaction markers once it has met them."
        ),
    )
    min_compaction_lag_ms: int = field(
        default=0,
        metadata=_number("long", 0, "Records younger than this are not compacted; not more than the maximum lag."),
    )
    max_compaction_lag_ms: int = field(
        default=INT64_MAX, metadata=_number("long", 1, "Records older than this make the log due for compaction.")
    )
    min_cleanable_dirty_ratio: float = field(
        default=0.5,
        metadata=_number(
            "double", 0, "The share of bytes never compacted that makes the log due for compaction.", maximum=1
        ),
    )
    compression_type: CompressionType = field(
        default="producer",
        metadata=_words(
            CompressionType, "The codec that batches are stored with; `producer` keeps the one they came with."
        ),
    )
    compression_gzip_level: int = field(
        default=-1, metadata=_number("int", 1, "The level of gzip; -1 is zlib's own.", maximum=9, also=-1)
    )
    compression_lz4_level: int = field(default=9, metadata=_number("int", 1, "The level of lz4.", maximum=17))
    compression_zstd_level: int = field(default=3, metadata=_number("int", -131_072, "The level of zstd.", maximum=22))
    preallocate: bool = field(
        default=False,
        metadata={"setting": Setting(kind="boolean", meaning="A new segment's file gets its full size at once.")},
    )
    message_timestamp_type: MessageTimestampType = field(
        default="CreateTime",
        metadata=_words(
            MessageTimestampType, "Whether records keep the appender's time or get the time of the append."
        ),
    )
    message_timestamp_before_max_ms: int = field(
        default=INT64_MAX, metadata=_number("long", 0, "How far in the past a record's CreateTime may lie.")
    )
    message_timestamp_after_max_ms: int = field(
        default=3_600_000, metadata=_number("long", 0, "How far in the future a record's CreateTime may lie.")
    )
    producer_id_expiration_ms: int = field(
        default=86_400_000,
        metadata=_number(
            "int", 1, "A producer that was silent for this long is forgotten, its sequence numbers with it."
        ),
    )
    transaction_max_timeout_ms: int = field(
        default=900_000, metadata=_number("int", 1, "The longest timeout that a transaction may be begun with.")
    )
    durability: Durability = field(
        default="os",
        metadata=_words(
            Durability,
            "Not Kafka's. What an append waits for: `os` for no sync, `interval` for none, but one follows within "
            f"`flush.ms` ({INTERVAL_FLUSH_MS} where that is not set) or `flush.messages`, `always` for its sync.",
        ),
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            setting.check(name, getattr(self, _field_name(name)))
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
        given: dict[str, Any] = {}
        for name, text in values.items():
            setting = SETTINGS.get(name)
            if setting is None:
                raise ValueError(_unknown(name))
            if not isinstance(text, str):
                raise TypeError(f"{name} is {_shown(text)}, which is not a text")
            given[_field_name(name)] = setting.parse(name, text)
        return cls(**given)

    def to_kafka(self) -> dict[str, str]:
        """All settings by dotted name, as `from_kafka` reads them."""
        return {name: setting.format(getattr(self, _field_name(name))) for name, setting in SETTINGS.items()}

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


def dotted_name(field_name: str) -> str:
    """Return Kafka's name of a field: `segment_bytes` is `segment.bytes`."""
    return field_name.replace("_", ".")


def config_table() -> str:
    """All settings of `LogConfig` as a Markdown table: name, type, default, range, meaning."""
    defaults = LogConfig().to_kafka()
    rows = [("Name", "Type", "Default", "Range", "Meaning"), ("---",) * 5]
    rows += [(f"`{name}`", one.kind, defaults[name], one.range, one.meaning) for name, one in SETTINGS.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


SETTINGS: Mapping[str, Setting] = {dotted_name(one.name): one.metadata["setting"] for one in fields(LogConfig)}
"""What `LogConfig` knows of each setting, by dotted name."""


def _field_name(name: str) -> str:
    return name.replace(".", "_")


def _unknown(name: str) -> str:
    if name in _NOT_OF_A_LOG:
        return f"{name} is a setting of Kafka's that a log alone has no use for; leave it out"
    nearest = difflib.get_close_matches(str(name), SETTINGS, n=1, cutoff=0)[0]
    return f"{_shown(name)} is no setting of a log; the nearest is {nearest}"


def _shown(value: object) -> str:
    text = repr(",".join(sorted(map(str, value))) if isinstance(value, frozenset) else value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
