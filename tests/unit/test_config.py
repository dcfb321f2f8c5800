"""The settings of a log and of the cleaner: Kafka's defaults, ranges and text forms, errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import (
    CLEANER_SETTINGS,
    INT32_MAX,
    INT64_MAX,
    SETTINGS,
    CleanerConfig,
    LogConfig,
    cleaner_config_table,
    config_table,
    dotted_name,
)

bounded = settings(deadline=None, database=None)

# LOG_SEMANTICS §2, and for the last one ours.
DEFAULTS = {
    "segment.bytes": "1073741824",
    "segment.ms": "604800000",
    "segment.jitter.ms": "0",
    "segment.index.bytes": "10485760",
    "index.interval.bytes": "4096",
    "max.message.bytes": "1048588",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "file.delete.delay.ms": "60000",
    "cleanup.policy": "delete",
    "delete.retention.ms": "86400000",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "9223372036854775807",
    "min.cleanable.dirty.ratio": "0.5",
    "compression.type": "producer",
    "compression.gzip.level": "-1",
    "compression.lz4.level": "9",
    "compression.zstd.level": "3",
    "preallocate": "false",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.after.max.ms": "3600000",
    "producer.id.expiration.ms": "86400000",
    "transaction.max.timeout.ms": "900000",
    "durability": "os",
}
LEAST = {
    "segment.bytes": 14,
    "segment.ms": 1,
    "segment.jitter.ms": 0,
    "segment.index.bytes": 4,
    "index.interval.bytes": 0,
    "max.message.bytes": 0,
    "flush.messages": 1,
    "flush.ms": 0,
    "retention.bytes": -INT64_MAX - 1,
    "retention.ms": -1,
    "file.delete.delay.ms": 0,
    "delete.retention.ms": 0,
    "min.compaction.lag.ms": 0,
    "max.compaction.lag.ms": 1,
    "compression.gzip.level": 1,
    "compression.lz4.level": 1,
    "compression.zstd.level": -131072,
    "message.timestamp.before.max.ms": 0,
    "message.timestamp.after.max.ms": 0,
    "producer.id.expiration.ms": 1,
    "transaction.max.timeout.ms": 1,
}
MOST = {"compression.gzip.level": 9, "compression.lz4.level": 17, "compression.zstd.level": 22}
WITH_MINIMUM_OF_AT_LEAST_0 = [name for name, least in LEAST.items() if least >= 0 and name != "compression.gzip.level"]
NUMERIC = [*LEAST, "min.cleanable.dirty.ratio"]


def refusal(**values: object) -> str:
    with pytest.raises(ValueError) as caught:
        LogConfig(**values)  # type: ignore[arg-type]
    return str(caught.value)


def refusal_of_text(name: str, text: str) -> str:
    with pytest.raises(ValueError) as caught:
        LogConfig.from_kafka({name: text})
    return str(caught.value)


def most(name: str) -> int:
    return MOST.get(name, INT32_MAX if SETTINGS[name].kind == "int" else INT64_MAX)


def test_the_defaults_are_kafkas() -> None:
    assert LogConfig().to_kafka() == DEFAULTS
    assert LogConfig.from_kafka({}) == LogConfig()


def test_a_dotted_name_is_the_fields_name() -> None:
    assert dotted_name("segment_index_bytes") == "segment.index.bytes"
    assert [dotted_name(one.name) for one in dataclasses.fields(LogConfig)] == list(SETTINGS) == list(DEFAULTS)


@pytest.mark.parametrize("name", LEAST)
def test_the_ends_of_a_range_are_legal_and_what_lies_beyond_is_not(name: str) -> None:
    for legal in (LEAST[name], most(name)):
        assert LogConfig.from_kafka({name: str(legal)} | others(name, legal)).to_kafka()[name] == str(legal)
    for illegal in (LEAST[name] - 1, most(name) + 1):
        message = refusal_of_text(name, str(illegal))
        assert message.startswith(f"{name} is {illegal}; its range is: ") and SETTINGS[name].range in message


def others(name: str, value: int) -> dict[str, str]:
    """What has to be set beside a compaction lag for it to be legal."""
    if name == "max.compaction.lag.ms":
        return {"min.compaction.lag.ms": str(min(value, 0))}
    return {}


# Of the settings in this item, those of replicas and tiers are none of a log's: they are refused whatever their value.
@pytest.mark.kafka("CONFIG-01")
def test_what_kafkas_own_test_refuses_is_refused() -> None:
    tried = [(name, text) for name in NUMERIC for text in ("not_a_number", "", "0x10", "1_000", "1 0")]
    tried += [(name, "-1") for name in WITH_MINIMUM_OF_AT_LEAST_0]
    tried += [("min.cleanable.dirty.ratio", "-0.1"), ("min.cleanable.dirty.ratio", "1.2")]
    tried += [("cleanup.policy", "true"), ("cleanup.policy", "foobar")]
    tried += [("compression.gzip.level", "-2"), ("compression.lz4.level", "-1"), ("compression.zstd.level", "-0.1")]
    tried += [("min.insync.replicas", "0"), ("min.insync.replicas", "-1")]
    tried += [("local.retention.ms", "-3"), ("local.retention.bytes", "-3")]
    for name, text in tried:
        assert refusal_of_text(name, text).startswith(name)


@pytest.mark.kafka("CONFIG-02")
@pytest.mark.kafka("CLEAN-44")
def test_a_minimum_compaction_lag_above_the_maximum_is_refused() -> None:
    message = refusal(min_compaction_lag_ms=200, max_compaction_lag_ms=100)
    assert message == "min.compaction.lag.ms is 200; its range is: at most max.compaction.lag.ms, which is 100"
    assert LogConfig(min_compaction_lag_ms=100, max_compaction_lag_ms=100).min_compaction_lag_ms == 100


def test_gzip_has_a_level_of_minus_one_but_none_of_zero() -> None:
    assert LogConfig(compression_gzip_level=-1) == LogConfig()
    assert refusal(compression_gzip_level=0) == "compression.gzip.level is 0; its range is: 1 to 9 or -1"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("segment_bytes", 13, "segment.bytes is 13; its range is: 14 to 2147483647"),
        ("min_cleanable_dirty_ratio", 1.5, "min.cleanable.dirty.ratio is 1.5; its range is: 0 to 1"),
        ("min_cleanable_dirty_ratio", float("nan"), "min.cleanable.dirty.ratio is nan; its range is: 0 to 1"),
        ("durability", "never", "durability is 'never'; its range is: os, interval, always"),
        ("cleanup_policy", frozenset({"delete", "x"}), "cleanup.policy is 'delete,x'; its range is: compact, delete"),
        ("message_timestamp_type", "x" * 999, f"message.timestamp.type is '{'x' * 79}...; its range is: "),
    ],
)
def test_a_refused_value_is_named_with_its_range(field: str, value: object, message: str) -> None:
    assert refusal(**{field: value}).startswith(message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("segment_bytes", "1024"),
        ("segment_bytes", 1024.0),
        ("segment_bytes", True),
        ("segment_ms", None),
        ("min_cleanable_dirty_ratio", "0.5"),
        ("preallocate", 1),
        ("cleanup_policy", "compact"),
        ("cleanup_policy", {"compact"}),
        ("cleanup_policy", frozenset({1})),
        ("compression_type", 4),
        ("durability", None),
    ],
)
def test_a_value_of_another_type_is_a_type_error_that_names_the_setting(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{re.escape(dotted_name(field))} is .*, which is not of its type, "):
        LogConfig(**{field: value})  # type: ignore[arg-type]


def test_texts_are_read_as_kafka_reads_them() -> None:
    config = LogConfig.from_kafka(
        {
            "segment.bytes": " 1048576 ",
            "segment.ms": "+0007",
            "min.cleanable.dirty.ratio": "1e-1",
            "cleanup.policy": " compact , delete ",
            "compression.type": "zstd ",
            "preallocate": "TRUE",
            "durability": "always",
        }
    )
    assert config == LogConfig(
        segment_bytes=1048576,
        segment_ms=7,
        min_cleanable_dirty_ratio=0.1,
        cleanup_policy=frozenset({"compact", "delete"}),
        compression_type="zstd",
        preallocate=True,
        durability="always",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("segment.bytes", "1e6"),
        ("segment.bytes", "\u0661\u0662\u0663\u0664"),
        ("segment.bytes", "9" * 5000),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("min.cleanable.dirty.ratio", "1e999"),
        ("preallocate", "yes"),
        ("cleanup.policy", "compact,"),
        ("cleanup.policy", "Compact"),
        ("compression.type", "ZSTD"),
        ("compression.type", "none"),
        ("message.timestamp.type", "createtime"),
    ],
)
def test_texts_that_kafka_refuses_are_refused(name: str, text: str) -> None:
    assert len(refusal_of_text(name, text)) < 250


def test_a_cleanup_policy_may_be_empty() -> None:
    assert LogConfig.from_kafka({"cleanup.policy": ""}).cleanup_policy == frozenset()
    assert LogConfig(cleanup_policy=frozenset()).to_kafka()["cleanup.policy"] == ""


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    assert refusal_of_text("segment.byte", "1") == "'segment.byte' is no setting of a log; the nearest is segment.bytes"
    assert "the nearest is retention.ms" in refusal_of_text("log.retention.ms", "1")
    assert "the nearest is segment.bytes" in refusal_of_text("segment_bytes", "1")


def test_a_setting_of_replicas_is_refused_as_that() -> None:
    assert "a log alone has no use for" in refusal_of_text("min.insync.replicas", "1")


def test_a_value_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^segment\.bytes is 1048576, which is not a text"):
        LogConfig.from_kafka({"segment.bytes": 1048576})  # type: ignore[dict-item]


numbers = {name: st.integers(least, most(name)) for name, least in LEAST.items() if "compaction.lag" not in name}
texts = st.fixed_dictionaries(
    {},
    optional={name: values.map(str) for name, values in numbers.items()}
    | {
        "min.cleanable.dirty.ratio": st.floats(0, 1).map(str),
        "cleanup.policy": st.lists(st.sampled_from(["compact", "delete"])).map(",".join),
        "preallocate": st.sampled_from(["true", "false"]),
    }
    | {name: st.sampled_from(one.choices) for name, one in SETTINGS.items() if one.kind == "string"},
)


@given(texts)
@bounded
def test_what_is_written_for_kafka_is_read_back(values: dict[str, str]) -> None:
    config = LogConfig.from_kafka(values)
    assert LogConfig.from_kafka(config.to_kafka()) == config


def test_a_compacted_log_rolls_early_enough_to_be_compacted_in_time() -> None:
    for policy, expected in (({"compact"}, 50), ({"compact", "delete"}, 50), ({"delete"}, 100)):
        config = LogConfig(cleanup_policy=frozenset(policy), segment_ms=100, max_compaction_lag_ms=50)  # type: ignore[arg-type]
        assert (config.effective_segment_ms, config.compacted) == (expected, "compact" in policy)
    compacted = LogConfig(cleanup_policy=frozenset({"compact"}), segment_ms=100)
    assert compacted.effective_segment_ms == 100


def test_interval_durability_flushes_every_second_unless_told_when() -> None:
    assert LogConfig().effective_flush_ms == LogConfig(durability="always").effective_flush_ms == INT64_MAX
    assert LogConfig(durability="interval").effective_flush_ms == 1000
    assert LogConfig(durability="interval", flush_ms=0).effective_flush_ms == 0
    assert LogConfig(flush_ms=7).effective_flush_ms == 7


def test_only_a_preallocated_segment_starts_with_its_size() -> None:
    assert LogConfig().initial_file_size == 0
    assert LogConfig(preallocate=True, segment_bytes=1 << 20).initial_file_size == 1 << 20


def test_a_configuration_is_a_value() -> None:
    config = LogConfig(segment_ms=5)
    assert {config: 1}[LogConfig(segment_ms=5)] == 1
    assert dataclasses.replace(config, segment_ms=6).segment_ms == 6
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.segment_ms = 7  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"segment\.ms is 0"):
        dataclasses.replace(config, segment_ms=0)


def test_the_table_has_a_row_for_each_setting() -> None:
    header, _, *rows = config_table().splitlines()
    assert header == "| Name | Type | Default | Range | Meaning |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {name.strip("`"): default for name, _, default, _, _ in cells} == DEFAULTS
    assert all(meaning.endswith(".") and bounds and kind for _, kind, _, bounds, meaning in cells)


# ---- the cleaner's; CLEANER §6

CLEANER_DEFAULTS = {
    "log.cleaner.threads": "1",
    "log.cleaner.io.max.bytes.per.second": "1.7976931348623157e+308",
    "log.cleaner.dedupe.buffer.size": "134217728",
    "log.cleaner.io.buffer.size": "524288",
    "log.cleaner.io.buffer.load.factor": "0.9",
    "log.cleaner.backoff.ms": "15000",
}


def refusal_of_the_cleaner(name: str, text: str) -> str:
    with pytest.raises(ValueError) as caught:
        CleanerConfig.from_kafka({name: text})
    return str(caught.value)


def test_the_cleaners_defaults_are_kafkas() -> None:
    assert CleanerConfig().to_kafka() == CLEANER_DEFAULTS
    assert CleanerConfig.from_kafka(CLEANER_DEFAULTS) == CleanerConfig() == CleanerConfig.from_kafka({})
    assert list(CLEANER_SETTINGS) == list(CLEANER_DEFAULTS)


def test_the_cleaners_settings_are_read_as_kafka_reads_them() -> None:
    texts = {
        "log.cleaner.threads": " 4 ",
        "log.cleaner.io.max.bytes.per.second": "1.7976931348623157E308",
        "log.cleaner.dedupe.buffer.size": "268435456",
        "log.cleaner.backoff.ms": "0",
    }
    assert CleanerConfig.from_kafka(texts) == CleanerConfig(threads=4, dedupe_buffer_size=268435456, backoff_ms=0)
    assert CleanerConfig(io_max_bytes_per_second=math.inf).io_max_bytes_per_second == math.inf


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.cleaner.threads", "-1"),
        ("log.cleaner.threads", "1.5"),
        ("log.cleaner.io.max.bytes.per.second", "0"),
        ("log.cleaner.io.max.bytes.per.second", "NaN"),
        ("log.cleaner.dedupe.buffer.size", "0"),
        ("log.cleaner.io.buffer.size", "-1"),
        ("log.cleaner.io.buffer.size", "2147483648"),
        ("log.cleaner.io.buffer.load.factor", "1.1"),
        ("log.cleaner.backoff.ms", "-1"),
    ],
)
def test_a_value_that_is_none_of_the_cleaners_is_refused(name: str, text: str) -> None:
    message = refusal_of_the_cleaner(name, text)
    assert message.startswith(f"{name} is ") and CLEANER_SETTINGS[name].range in message


def test_each_thread_of_the_cleaner_has_more_than_a_mebibyte_for_its_map() -> None:
    assert refusal_of_the_cleaner("log.cleaner.dedupe.buffer.size", "1048576") == (
        "log.cleaner.dedupe.buffer.size is 1048576; its range is: more than 1048576 for each of log.cleaner.threads, "
        "which is 1"
    )
    assert CleanerConfig(threads=2, dedupe_buffer_size=2 * 1048577).map_memory == 1048577
    with pytest.raises(ValueError, match="which is 2"):
        CleanerConfig(threads=2, dedupe_buffer_size=2 * 1048577 - 1)


def test_a_map_is_at_most_two_gibibytes_and_no_threads_are_reckoned_as_one() -> None:
    assert CleanerConfig(threads=2, dedupe_buffer_size=1 << 40).map_memory == INT32_MAX
    assert CleanerConfig(threads=0, dedupe_buffer_size=1 << 21).map_memory == 1 << 21


def test_a_setting_that_is_none_of_the_cleaners_is_refused_with_what_to_do() -> None:
    assert "set min.cleanable.dirty.ratio of the log" in refusal_of_the_cleaner("log.cleaner.min.cleanable.ratio", "1")
    assert "is started" in refusal_of_the_cleaner("log.cleaner.enable", "true")
    message = refusal_of_the_cleaner("log.cleaner.thread", "1")
    assert message == "'log.cleaner.thread' is no setting of the log cleaner; the nearest is log.cleaner.threads"


def test_a_value_of_the_cleaner_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^log\.cleaner\.threads is '1', which is not of its type, int"):
        CleanerConfig(threads="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^log\.cleaner\.threads is 1, which is not a text"):
        CleanerConfig.from_kafka({"log.cleaner.threads": 1})  # type: ignore[dict-item]


def test_the_cleaners_table_has_a_row_for_each_setting() -> None:
    header, _, *rows = cleaner_config_table().splitlines()
    assert header == "| Name | Type | Default | Range | Meaning |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {name.strip("`"): default for name, _, default, _, _ in cells} == CLEANER_DEFAULTS
