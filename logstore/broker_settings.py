"""What a broker's settings say for its logs: its names, units and precedence, turned into those of topics.

A broker's `server.properties` gives the defaults for topics that do not override them, under other names and, for some,
in hours or minutes. Pure; rules: LOG_SEMANTICS.md §2.
"""

from __future__ import annotations

from collections.abc import Mapping

_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS

# By topic setting: the broker's settings and their unit in that of the topic's; the first one that is set wins.
_SYNONYMS: dict[str, tuple[tuple[str, int], ...]] = {
    "segment.bytes": (("log.segment.bytes", 1),),
    "segment.ms": (("log.roll.ms", 1), ("log.roll.hours", _HOUR_MS)),
    "segment.jitter.ms": (("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", _HOUR_MS)),
    "segment.index.bytes": (("log.index.size.max.bytes", 1),),
    "index.interval.bytes": (("log.index.interval.bytes", 1),),
    "max.message.bytes": (("message.max.bytes", 1),),
    "flush.messages": (("log.flush.interval.messages", 1),),
    "flush.ms": (("log.flush.interval.ms", 1), ("log.flush.scheduler.interval.ms", 1)),
    "retention.bytes": (("log.retention.bytes", 1),),
    "retention.ms": (
        ("log.retention.ms", 1),
        ("log.retention.minutes", _MINUTE_MS),
        ("log.retention.hours", _HOUR_MS),
    ),
    "file.delete.delay.ms": (("log.segment.delete.delay.ms", 1),),
    "cleanup.policy": (("log.cleanup.policy", 1),),
    "delete.retention.ms": (("log.cleaner.delete.retention.ms", 1),),
    "min.compaction.lag.ms": (("log.cleaner.min.compaction.lag.ms", 1),),
    "max.compaction.lag.ms": (("log.cleaner.max.compaction.lag.ms", 1),),
    "min.cleanable.dirty.ratio": (("log.cleaner.min.cleanable.ratio", 1),),
    "compression.type": (("compression.type", 1),),
    "compression.gzip.level": (("compression.gzip.level", 1),),
    "compression.lz4.level": (("compression.lz4.level", 1),),
    "compression.zstd.level": (("compression.zstd.level", 1),),
    "preallocate": (("log.preallocate", 1),),
    "message.timestamp.type": (("log.message.timestamp.type", 1),),
    "message.timestamp.before.max.ms": (("log.message.timestamp.before.max.ms", 1),),
    "message.timestamp.after.max.ms": (("log.message.timestamp.after.max.ms", 1),),
    "producer.id.expiration.ms": (("producer.id.expiration.ms", 1),),
    "transaction.max.timeout.ms": (("transaction.max.timeout.ms", 1),),
}


def topic_settings(broker: Mapping[str, str]) -> dict[str, str]:
    """The settings of topics that a broker's properties give, by dotted name, for `LogConfig.from_kafka`.

    Settings that are not of logs are left out. A negative `log.retention.*` is -1, no limit.

    Raises:
        ValueError: a number in hours or minutes is none, or a retention time of 0, which a broker refuses.
    """
    found: dict[str, str] = {}
    for topic_name, synonyms in _SYNONYMS.items():
        for name, unit in synonyms:
            text = broker.get(name)
            if text is not None:
                found[topic_name] = _converted(name, text, unit)
                break
    return found


def _converted(name: str, text: str, unit: int) -> str:
    is_retention = name.startswith("log.retention.")
    if unit == 1 and not is_retention:
        return text
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, which is no number") from None
    if is_retention and number < 0:
        return "-1"
    if number == 0 and is_retention and name != "log.retention.bytes":
        raise ValueError(f"{name} is 0; a broker's retention time is 1 or more, or negative for none")
    return str(number * unit)
