"""The small text files: what Kafka writes is read, what Kafka refuses is refused with line and byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptCheckpointError, InvalidNameError
from logstore.log import (
    CleanShutdown,
    MetaProperties,
    PartitionMetadata,
    QuorumState,
    checkpoint,
    format_kafka_uuid,
    format_offset_checkpoint,
    parse_clean_shutdown,
    parse_kafka_uuid,
    parse_leader_epoch_checkpoint,
    parse_meta_properties,
    parse_offset_checkpoint,
    parse_partition_metadata,
    parse_properties,
    parse_quorum_state,
)
from logstore.names import TopicPartition

TOPIC_ID = UUID(bytes=bytes(range(16)))
TOPIC_ID_TEXT = "AAECAwQFBgcICQoLDA0ODw"
PARSERS: list[Callable[[bytes], object]] = [
    parse_clean_shutdown,
    parse_leader_epoch_checkpoint,
    parse_meta_properties,
    parse_offset_checkpoint,
    parse_partition_metadata,
    parse_properties,
    parse_quorum_state,
]
bounded = settings(deadline=None, database=None)
topics = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=30)
topic_partitions = st.builds(TopicPartition, topics, st.integers(0, 2**31 - 1))
scraps = st.lists(
    st.sampled_from([*'012 \n\r\t=:\\#éa-+"{}[],', "\\u00e9", "null", "9" * 20, TOPIC_ID_TEXT])
    | st.sampled_from(["version", "cluster.id", "node.id", "topic_id: ", "data_version", "leaderId"])
).map("".join)


def corruption(parse: Callable[[bytes], object], data: bytes) -> CorruptCheckpointError:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse(data)
    return caught.value


@pytest.mark.kafka("CHECKPOINT-01")
@given(st.dictionaries(topic_partitions, st.integers(0, 2**63 - 1), max_size=10))
@bounded
def test_offset_checkpoints_round_trip(offsets: dict[TopicPartition, int]) -> None:
    assert parse_offset_checkpoint(format_offset_checkpoint(offsets)) == offsets


@pytest.mark.kafka("CHECKPOINT-01")
@pytest.mark.parametrize("data", [b"", b"0", b"0\n", b"0\n0", b"0\n0\n"])
def test_an_empty_checkpoint_and_one_of_no_entries_read_as_empty(data: bytes) -> None:
    assert parse_offset_checkpoint(data) == {}


def test_the_text_of_a_checkpoint_is_kafkas_sorted() -> None:
    offsets = {TopicPartition("foo", 0): 1234, TopicPartition("bar", 3): 99}
    assert format_offset_checkpoint(offsets) == b"0\n2\nbar 3 99\nfoo 0 1234\n"
    assert parse_offset_checkpoint(b"0\r\n2\rfoo \t0 1234 \nbar 3 99") == offsets


@pytest.mark.kafka("CHECKPOINT-02")
@pytest.mark.parametrize("version", [b"1", b"-1", b"2147483647"])
def test_another_version_is_refused(version: bytes) -> None:
    for parse in (parse_offset_checkpoint, parse_leader_epoch_checkpoint):
        assert "line 1 gives version" in corruption(parse, version + b"\n0\n").reason


@pytest.mark.parametrize(
    ("data", "problem", "position"),
    [
        (b"x\n", "line 1 has 'x' where a number belongs", 0),
        (b"\n0\n", "line 1 has '' where a number", 0),
        ("\u0660\n0\n".encode(), "line 1 has '\u0660' where", 0),
        (b"0 \n0\n", "line 1 has '0 '", 0),
        (b"0\nmany\n", "line 2 has 'many'", 2),
        (b"0\n2147483648\n", "line 2 has a number out of range", 2),
        (b"0\n-1\n", "line 2 counts -1 entries, but there are 0", 2),
        (b"0\n2\na 0 1\n", "line 2 counts 2 entries, but there are 1", 2),
        (b"0\n1\na 0 1\nb 0 1\n", "line 4 is one more than the 1 entries", 10),
        (b"0\n1\na 0 1\n\n", "line 4 is one more", 10),
        (b"0\n1\na 0\n", "line 3 does not have 3 parts: 'a 0'", 4),
        (b"0\n1\na b 0 1\n", "line 3 does not have 3 parts", 4),
        (b"0\n1\n a 0 1\n", "line 3 does not have 3 parts", 4),
        (b"0\n1\n 0 1\n", "line 3 starts with a blank", 4),
        (b"0\n1\n\n", "line 3 does not have 3 parts", 4),
        (b"0\n1\na 0 1e3\n", "line 3 has '1e3' where", 4),
        (b"0\n1\na 2147483648 0\n", "line 3 has a number out of range", 4),
        (b"0\n1\na 0 9223372036854775808\n", "line 3 has a number out of range", 4),
        (b"0\n1\na 0 " + b"9" * 9999 + b"\n", "line 3 has a number out of range, '999", 4),
        (b"0\n1\na\xff 0 1\n", "line 3 is not UTF-8", 5),
    ],
)
def test_a_malformed_checkpoint_names_line_and_byte(data: bytes, problem: str, position: int) -> None:
    error = corruption(parse_offset_checkpoint, data)
    assert error.reason.startswith(problem)
    assert error.position == position
    assert len(error.reason) < 200


def test_numbers_are_read_as_java_reads_them() -> None:
    data = f"+0\n03\na +1 -{2**63}\nb 0 {2**63 - 1}\nb 1 {'0' * 9999}7\n".encode()
    assert list(parse_offset_checkpoint(data).values()) == [-(2**63), 2**63 - 1, 7]


@pytest.mark.parametrize("topic", ["", "a b", "a\n"])
def test_a_topic_that_could_not_be_read_back_is_not_written(topic: str) -> None:
    with pytest.raises(InvalidNameError):
        format_offset_checkpoint({TopicPartition(topic, 0): 0})


@pytest.mark.parametrize("parse", PARSERS)
def test_a_file_beyond_64_mib_is_refused_unread(
    parse: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkpoint.FILE_SIZE_MAX == 64 * 1024 * 1024
    monkeypatch.setattr(checkpoint, "FILE_SIZE_MAX", 9)
    assert "10 bytes is larger" in corruption(parse, b"0" * 10).reason


@pytest.mark.parametrize("parse", PARSERS)
@given(st.binary(max_size=100) | scraps.map(str.encode))
@bounded
def test_any_bytes_are_read_or_corrupt(parse: Callable[[bytes], object], data: bytes) -> None:
    try:
        parse(data)
    except CorruptCheckpointError as error:
        assert str(error)


@pytest.mark.kafka("CHECKPOINT-04")
def test_partition_metadata_is_a_version_and_a_topic_id() -> None:
    data = f"version: 0\ntopic_id: {TOPIC_ID_TEXT}".encode()
    assert parse_partition_metadata(data) == PartitionMetadata(0, TOPIC_ID)
    later = f"version: 7\r\ntopic_id:\t{TOPIC_ID_TEXT}==\nmore\n".encode()
    assert parse_partition_metadata(later) == PartitionMetadata(7, TOPIC_ID)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "there is no line for the version"),
        (b"version: 0\n", "there is no line for the topic id"),
        (b"version 0\n", "line 1 is not 'name: value' of the version"),
        (b"version: \n", "line 1 is not 'name: value'"),
        (b"version: 0: 1\n", "line 1 is not 'name: value'"),
        (b"version: x\n", "line 1 has 'x' where a number belongs"),
        (b"version: -1\n", "line 1 gives version -1"),
        (b"version: 0\ntopic_id: short", "line 2 has an id that is none"),
        (b"version: 0\ntopic_id: " + b"A" * 22, "line 2 has the zero UUID"),
        (b"version: 0\ntopic_id: " + b"+" * 22, "line 2 has an id that is none"),
        (b"version: 0\ntopic_id: " + b"B" * 23, "line 2 has an id that is none"),
    ],
)
def test_malformed_partition_metadata_names_the_line(data: bytes, problem: str) -> None:
    assert corruption(parse_partition_metadata, data).reason.startswith(problem)


@given(st.uuids())
@bounded
def test_uuids_round_trip_in_22_characters(value: UUID) -> None:
    text = format_kafka_uuid(value)
    assert len(text) == 22
    assert parse_kafka_uuid(text) == parse_kafka_uuid(f"{text}==") == value


def test_properties_follow_javas_rules() -> None:
    text = r"""
        # comment \
        ! another
        plain=value
        colon : spaced value\u0020
        blank   with words
        empty
        escaped\=key\:\ x = a\tb\\n\q
        long = one, \
               two, \
        # three
        unicode = \u00e9 é \ud83d\ude00
        plain = again
        """
    assert parse_properties(text.encode()) == {
        "plain": "again",
        "colon": "spaced value ",
        "blank": "with words",
        "empty": "",
        "escaped=key: x": "a\tb\\nq",
        "long": "one, two, # three",
        "unicode": "é é 😀",
    }


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a=1\\", {"a": "1"}),
        (b"a=1\\\\", {"a": "1\\"}),
        (b"a=1\\\r\n\t2\r\nb", {"a": "12", "b": ""}),
        (b"\\\n\\\n  #c\na=1", {"a": "1"}),
        (b"=v", {"": "v"}),
        (b"a==v", {"a": "=v"}),
        (b"a\x0c:\x0cv ", {"a": "v "}),
    ],
)
def test_odd_properties_are_read_as_java_reads_them(data: bytes, found: dict[str, str]) -> None:
    assert parse_properties(data) == found


@pytest.mark.parametrize(
    ("data", "problem", "position"),
    [
        (b"a=1\nb=\\u12g4", "line 2 has a \\u escape without four hex digits", 4),
        (b"a=\\u12", "line 1 has a \\u escape", 0),
        (b"a=\\ud83d", "line 1 has an escape that is half a character", 0),
        (b"a=1\nb=\\\n\xff", "line 3 is not UTF-8", 8),
    ],
)
def test_broken_properties_name_line_and_byte(data: bytes, problem: str, position: int) -> None:
    error = corruption(parse_properties, data)
    assert error.reason.startswith(problem)
    assert error.position == position


@pytest.mark.kafka("MGR-20")
def test_meta_properties_of_both_versions_are_read() -> None:
    one = f"#\n#Mon Nov 23\nnode.id=1\ndirectory.id={TOPIC_ID_TEXT}\nversion=1\ncluster.id=c\n".encode()
    assert parse_meta_properties(one) == MetaProperties(1, "c", 1, TOPIC_ID)
    assert parse_meta_properties(b"version=0\nbroker.id=5\ncluster.id=c") == MetaProperties(0, "c", 5)
    assert parse_meta_properties(b"") == MetaProperties(0)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"version=2", "line 1 gives version 2; known are 0 to 1"),
        (b"version=-1", "line 1 gives version -1"),
        (b"a=b\nversion=x", "line 2 has 'x' where a number belongs"),
        (b"version=1\nnode.id=1", "version 1 of the properties has no cluster.id"),
        (b"version=1\ncluster.id=c\nbroker.id=1", "version 1 of the properties has no node.id"),
        (b"broker.id=one", "line 1 has 'one' where"),
        (b"directory.id=x", "line 1 has an id that is none"),
    ],
)
def test_meta_properties_kafka_refuses_are_corrupt(data: bytes, problem: str) -> None:
    assert corruption(parse_meta_properties, data).reason.startswith(problem)


@pytest.mark.kafka("CHECKPOINT-05")
def test_the_clean_shutdown_file_gives_the_broker_epoch_and_ignores_what_it_does_not_know() -> None:
    assert parse_clean_shutdown(b'{"version":0,"brokerEpoch":10}') == CleanShutdown(0, 10)
    assert parse_clean_shutdown(b'{"version":5,"brokerEpoch":10,"unknown":[1]}') == CleanShutdown(5, 10)
    assert parse_clean_shutdown(b"") == parse_clean_shutdown(b"{}") == CleanShutdown(None, None)


@pytest.mark.parametrize(
    ("data", "problem", "position"),
    [
        (b"\n{", "line 2 is not JSON", 2),
        ('{"é": x}'.encode(), "line 1 is not JSON", 7),
        (b"[]", "the JSON text is not an object", 0),
        (b'{"a\xff', "the JSON text is not UTF-8", 3),
        (b"[" * 200_000, "the JSON text has a number or a nesting", None),
        (b'{"a": ' + b"9" * 5000 + b"}", "the JSON text has a number or a nesting", None),
        (b'{"brokerEpoch": "10"}', "the field 'brokerEpoch' is '10', not a number", None),
        (b'{"brokerEpoch": true}', "the field 'brokerEpoch' is True", None),
        (b'{"brokerEpoch": [[1]]}', "the field 'brokerEpoch' is a list or object", None),
        (b'{"brokerEpoch": 9223372036854775808}', "the field 'brokerEpoch' is 92", None),
        (b'{"version": NaN}', "the field 'version' is nan", None),
    ],
)
def test_a_clean_shutdown_file_that_is_not_its_json_is_corrupt(data: bytes, problem: str, position: int | None) -> None:
    error = corruption(parse_clean_shutdown, data)
    assert error.reason.startswith(problem)
    assert error.position == position


def test_both_versions_of_the_quorum_state_are_read() -> None:
    zero = (
        b'{"clusterId":"","leaderId":1,"leaderEpoch":3,"votedId":-1,"appliedOffset":0,'
        b'"currentVoters":[{"voterId":1},{"voterId":2}],"data_version":0}'
    )
    assert parse_quorum_state(zero) == QuorumState(0, 1, 3, -1, None, "", 0, (1, 2))
    one = {"leaderId": -1, "leaderEpoch": 2, "votedId": 1, "votedDirectoryId": TOPIC_ID_TEXT, "data_version": 1}
    assert parse_quorum_state(json.dumps(one).encode()) == QuorumState(1, -1, 2, 1, TOPIC_ID)
    none = json.dumps({**one, "votedDirectoryId": "A" * 22, "currentVoters": None}).encode()
    assert parse_quorum_state(none) == QuorumState(1, -1, 2, 1, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"data_version": None}, "the field 'data_version' is missing"),
        ({"data_version": 2}, "data_version is 2; known are 0 to 1"),
        ({"leaderEpoch": 1.5}, "the field 'leaderEpoch' is 1.5, not a number"),
        ({"votedId": 2**31}, "the field 'votedId' is 2147483648, not a number in range"),
        ({"votedDirectoryId": "x"}, "'x' is not a UUID"),
        ({"clusterId": 7}, "the field 'clusterId' is 7, not a text"),
        ({"clusterId": "\ud800"}, "the field 'clusterId' is '\\ud800', not a text"),
        ({"currentVoters": [1]}, "the field 'currentVoters' is not a list of voter ids"),
        ({"currentVoters": {"voterId": 1}}, "the field 'currentVoters' is not a list"),
        ({"currentVoters": [{}]}, "the field 'currentVoters' is not a list"),
    ],
)
def test_a_quorum_state_with_a_wrong_field_is_corrupt(change: dict[str, object], problem: str) -> None:
    state = {"leaderId": 1, "leaderEpoch": 3, "votedId": -1, "data_version": 0, **change}
    assert corruption(parse_quorum_state, json.dumps(state).encode()).reason.startswith(problem)
