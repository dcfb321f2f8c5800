"""`logstore.names` builds what Kafka writes and reads what Kafka reads, and refuses the rest by one error only."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore import names
from logstore.errors import InvalidNameError
from logstore.names import ClassifiedFile, DirectoryKind, FileKind, PartitionDirectory, SegmentFile, TopicPartition

UNIQUE_ID = "87a17225c911414db9f240c844401b7f"
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
SEGMENT_KINDS = [
    FileKind.LOG,
    FileKind.OFFSET_INDEX,
    FileKind.TIME_INDEX,
    FileKind.TRANSACTION_INDEX,
    FileKind.PRODUCER_SNAPSHOT,
]
SUFFIXES = ["", ".deleted", ".cleaned", ".swap"]

topics = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=249)
partitions = st.integers(0, INT32_MAX)
offsets = st.integers(0, INT64_MAX)
bounded = settings(deadline=None, database=None)


def test_topic_partition_prints_as_its_directory() -> None:
    assert str(TopicPartition("orders", 3)) == f"{TopicPartition('orders', 3)}" == "orders-3"


@pytest.mark.kafka("META-38")
def test_of_these_names_only_the_one_of_249_characters_is_legal() -> None:
    tried = [".", "..", "", "a/b", "a" * 249, "a" * 250]
    assert [name for name in tried if names.is_valid_topic_name(name)] == ["a" * 249]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "is empty"),
        (".", r"is '\.'"),
        ("..", r"is '\.\.'"),
        ("a" * 250, "has 250 characters; at most 249"),
        ("ab/c", "the character '/' at index 2"),
        ("ümlaut", "the character 'ü' at index 0"),
        ("topic\n", r"the character '\\n' at index 5"),
        ("\u0663", "the character '\u0663' at index 0"),
    ],
)
def test_a_refused_topic_name_says_which_rule_it_breaks(name: str, rule: str) -> None:
    with pytest.raises(InvalidNameError, match=rule):
        names.check_topic_name(name)


@given(topics.filter(lambda topic: topic not in (".", "..")))
@bounded
def test_a_topic_name_of_legal_characters_passes(topic: str) -> None:
    names.check_topic_name(topic)


def test_topics_collide_when_they_differ_only_in_dots_and_underscores() -> None:
    assert names.topics_collide("a.b_c", "a_b.c")
    assert not names.topics_collide("a.b", "a.b")
    assert not names.topics_collide("a-b", "a_b")


def test_internal_topics_are_exactly_three() -> None:
    internal = {"__consumer_offsets", "__transaction_state", "__share_group_state"}
    tried = [*internal, "__cluster_metadata", "orders", "__orders"]
    assert {name for name in tried if names.is_internal_topic(name)} == internal


@pytest.mark.kafka("LOCAL-15")
def test_directory_names_parse_as_kafkas_tests_say() -> None:
    assert names.parse_partition_directory("test_topic-143").topic_partition == ("test_topic", 143)
    deleted = names.delete_directory_name("foo.bar-testtopic", 42, UNIQUE_ID)
    assert names.parse_partition_directory(deleted).topic_partition == ("foo.bar-testtopic", 42)
    refused = [
        "",
        "testtopic",
        "-143",
        "test_topic-",
        "test_topic-zero",
        "test_topic-1-delete",
        f"test_topic-1{UNIQUE_ID}-delete",
        f"test_topic1.{UNIQUE_ID}-delete",
        f".{UNIQUE_ID}-delete",
        "test_topic-1.-delete",
        "non_kafka_dir",
        "non_kafka_dir-delete",
    ]
    for name in refused:
        with pytest.raises(InvalidNameError):
            names.parse_partition_directory(name)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("foo--1", PartitionDirectory("foo-", 1)),
        ("foo-+1", PartitionDirectory("foo", 1)),
        ("foo-007", PartitionDirectory("foo", 7)),
        ("a.b-c-0", PartitionDirectory("a.b-c", 0)),
        (f"foo-{INT32_MAX}", PartitionDirectory("foo", INT32_MAX)),
        (f"foo-1.{UNIQUE_ID}-future", PartitionDirectory("foo", 1, DirectoryKind.FUTURE, UNIQUE_ID)),
        (f"foo-1.{UNIQUE_ID}-stray", PartitionDirectory("foo", 1, DirectoryKind.STRAY, UNIQUE_ID)),
        ("foo-1.x-y-delete", PartitionDirectory("foo", 1, DirectoryKind.DELETE, "x-y")),
        (f"foo-1.delete-{UNIQUE_ID}-0", PartitionDirectory(f"foo-1.delete-{UNIQUE_ID}", 0)),
    ],
)
def test_directory_names_are_read_as_leniently_as_kafka_does(name: str, parsed: PartitionDirectory) -> None:
    assert names.parse_partition_directory(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        f"foo-{INT32_MAX + 1}",
        "foo-" + "9" * 5000,
        "foo-\u0663",
        "foo-\uff11",
        "foo-\xb2",
        "foo-1_0",
        "foo- 1",
        "foo-1\n",
        "fo o-1.x-delete",
        names.REMOTE_LOG_INDEX_CACHE,
    ],
)
def test_a_directory_name_without_a_bounded_ascii_partition_is_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        names.parse_partition_directory(name)


@pytest.mark.kafka("LOCAL-16")
def test_the_name_of_a_deleted_partition_is_cut_to_255_characters() -> None:
    short = names.delete_directory_name("foo", 3, UNIQUE_ID)
    assert re.fullmatch(r"foo-3\.[0-9a-z]{32}-delete", short)
    capped = names.delete_directory_name("n" * 249, 5, UNIQUE_ID)
    assert len(capped) == 255
    assert names.parse_partition_directory(capped).topic_partition == ("n" * 213, 5)


def test_the_name_of_a_stray_partition_is_cut_too_but_not_that_of_a_future_one() -> None:
    assert len(names.stray_directory_name("n" * 249, 5, UNIQUE_ID)) == 255
    assert len(names.future_directory_name("n" * 249, 5, UNIQUE_ID)) == 249 + len(f"-5.{UNIQUE_ID}-future")


@given(topics, partitions)
@bounded
def test_a_built_directory_name_parses_back(topic: str, partition: int) -> None:
    normal = names.parse_partition_directory(names.partition_directory_name(topic, partition))
    assert normal == (topic, partition, DirectoryKind.NORMAL, None)
    future = names.parse_partition_directory(names.future_directory_name(topic, partition, UNIQUE_ID))
    assert future == (topic, partition, DirectoryKind.FUTURE, UNIQUE_ID)


@pytest.mark.parametrize("arguments", [("", 0), ("a/b", 0), ("a\0b", 0), ("a", -1), ("a", INT32_MAX + 1)])
def test_a_directory_name_that_cannot_be_a_file_name_is_not_built(arguments: tuple[str, int]) -> None:
    with pytest.raises(InvalidNameError):
        names.partition_directory_name(*arguments)


@pytest.mark.parametrize("unique_id", ["", "x" * 32, UNIQUE_ID.upper(), f"{UNIQUE_ID[:-1]}/"])
def test_a_unique_id_is_32_lower_case_hex_digits(unique_id: str) -> None:
    with pytest.raises(InvalidNameError, match="unique id"):
        names.delete_directory_name("a", 0, unique_id)


@pytest.mark.kafka("LOCAL-17")
def test_the_offset_in_a_segment_file_name_is_the_one_it_was_built_with() -> None:
    builders = [names.log_file_name, names.offset_index_file_name, names.time_index_file_name]
    assert [names.parse_segment_file(build(23423)).base_offset for build in builders] == [23423] * 3


@pytest.mark.kafka("DIR-07")
def test_the_offset_of_a_snapshot_file_is_in_its_name() -> None:
    parsed = names.parse_segment_file("00000000000000000100.snapshot")
    assert (parsed.base_offset, parsed.kind) == (100, FileKind.PRODUCER_SNAPSHOT)


@given(offsets, st.sampled_from(SEGMENT_KINDS), st.sampled_from(SUFFIXES))
@bounded
def test_a_built_segment_file_name_parses_back(offset: int, kind: FileKind, suffix: str) -> None:
    name = names.segment_file_name(offset, kind, suffix)
    assert names.parse_segment_file(name) == SegmentFile(offset, kind, suffix or None)
    assert names.classify_file(name) == ClassifiedFile(kind, offset, suffix or None)
    assert name.index(".") == 20


def test_each_segment_file_has_its_extension() -> None:
    assert names.log_file_name(7) == "00000000000000000007.log"
    assert names.offset_index_file_name(7, ".swap") == "00000000000000000007.index.swap"
    assert names.time_index_file_name(7, ".cleaned") == "00000000000000000007.timeindex.cleaned"
    assert names.transaction_index_file_name(7) == "00000000000000000007.txnindex"
    assert names.producer_snapshot_file_name(7, ".deleted") == "00000000000000000007.snapshot.deleted"
    assert names.metadata_snapshot_file_name(7, 2) == "00000000000000000007-0000000002.checkpoint"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("7.log", SegmentFile(7, FileKind.LOG)),
        ("+7.log", SegmentFile(7, FileKind.LOG)),
        ("0" * 50 + "7.index", SegmentFile(7, FileKind.OFFSET_INDEX)),
        (f"{INT64_MAX}.txnindex", SegmentFile(INT64_MAX, FileKind.TRANSACTION_INDEX)),
        (names.metadata_snapshot_file_name(9, 1), SegmentFile(9, FileKind.METADATA_SNAPSHOT, None, 1)),
        ("9-1.checkpoint.deleted", SegmentFile(9, FileKind.METADATA_SNAPSHOT, ".deleted", 1)),
        ("9-1-8164.checkpoint.part", SegmentFile(9, FileKind.METADATA_SNAPSHOT, ".part", 1)),
    ],
)
def test_segment_file_names_are_read_as_leniently_as_kafka_does(name: str, parsed: SegmentFile) -> None:
    assert names.parse_segment_file(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".log",
        "-7.log",
        "x.log",
        "7.logs",
        "7.log.old",
        "7.log.swap.deleted",
        f"{INT64_MAX + 1}.log",
        "9" * 5000 + ".log",
        "\u0663.log",
        "7.log\n",
        "bootstrap.checkpoint",
        f"9-{INT32_MAX + 1}.checkpoint",
    ],
)
def test_other_file_names_carry_no_offset(name: str) -> None:
    with pytest.raises(InvalidNameError):
        names.parse_segment_file(name)
    assert names.classify_file(name).base_offset is None


@pytest.mark.parametrize(
    "build",
    [
        lambda: names.log_file_name(-1),
        lambda: names.log_file_name(INT64_MAX + 1),
        lambda: names.log_file_name(0, ".tmp"),
        lambda: names.segment_file_name(0, FileKind.LOCK),
        lambda: names.metadata_snapshot_file_name(0, -1),
        lambda: names.metadata_snapshot_file_name(-1, 0),
    ],
)
def test_a_segment_file_name_kafka_cannot_have_is_not_built(build: object) -> None:
    assert callable(build)
    with pytest.raises(InvalidNameError):
        build()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("recovery-point-offset-checkpoint", FileKind.OFFSET_CHECKPOINT),
        ("log-start-offset-checkpoint", FileKind.OFFSET_CHECKPOINT),
        ("replication-offset-checkpoint", FileKind.OFFSET_CHECKPOINT),
        ("cleaner-offset-checkpoint", FileKind.OFFSET_CHECKPOINT),
        ("leader-epoch-checkpoint", FileKind.LEADER_EPOCH_CHECKPOINT),
        ("partition.metadata", FileKind.PARTITION_METADATA),
        ("meta.properties", FileKind.META_PROPERTIES),
        (".kafka_cleanshutdown", FileKind.CLEAN_SHUTDOWN),
        (".lock", FileKind.LOCK),
        ("quorum-state", FileKind.QUORUM_STATE),
        ("bootstrap.checkpoint", FileKind.BOOTSTRAP_CHECKPOINT),
        ("README.txt", FileKind.OTHER),
    ],
)
def test_files_without_an_offset_are_known_by_their_whole_name(name: str, kind: FileKind) -> None:
    assert names.classify_file(name) == ClassifiedFile(kind)


@pytest.mark.parametrize("suffix", [".tmp", ".deleted", ".cleaned", ".swap", ".part"])
def test_anything_else_with_a_temporary_suffix_is_temporary(suffix: str) -> None:
    assert names.classify_file(f"partition.metadata{suffix}") == (FileKind.TEMPORARY, None, suffix)


@given(st.text())
@bounded
def test_any_text_is_parsed_or_refused_and_always_classified(name: str) -> None:
    names.classify_file(name)
    for parse in (names.parse_partition_directory, names.parse_segment_file, names.check_topic_name):
        try:
            parse(name)
        except InvalidNameError as error:
            assert str(error)
