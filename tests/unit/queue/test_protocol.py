"""The bytes of subscriptions and assignments: those of a real group, both ways, and never believed unbounded."""

from __future__ import annotations

import base64
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError, LogstoreError, UnsupportedFormatError
from logstore.names import TopicPartition
from logstore.queue.protocol import (
    Assignment,
    Subscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from logstore.records import iter_batches
from logstore.records.internal.consumer_offsets import CONSUMER_OFFSETS_TYPES
from logstore.records.internal.coordinator import decode_coordinator_value

usual = settings(deadline=None, database=None, max_examples=150)

MINE = Subscription(
    topics=("orders", "a"),
    user_data=b"\x00\xff",
    owned_partitions=(TopicPartition("orders", 2), TopicPartition("orders", 0), TopicPartition("a", 7)),
    generation_id=5,
    rack_id="r1",
)

def real_members(fixtures: Path) -> list[tuple[bytes, bytes]]:
    """Subscription and assignment of the members in the groups of a real broker."""
    found = []
    for path in sorted((fixtures / "kafka-4.1.1" / "clean").glob("__consumer_offsets-*/*.log")):
        for batch in iter_batches(path.read_bytes()):
            for record in batch.records():
                if record.key is None or record.key[:2] != b"\0\2" or record.value is None:
                    continue
                decoded: Any = decode_coordinator_value(CONSUMER_OFFSETS_TYPES, record.key, record.value)
                found += [
                    (base64.b64decode(member["subscription"]), base64.b64decode(member["assignment"]))
                    for member in decoded["data"]["members"]
                ]
    return found


def test_the_members_of_a_real_group_are_read_and_written_alike(kafka_fixtures: Path) -> None:
    members = real_members(kafka_fixtures)
    assert len(members) == 3
    for subscription, assignment in members:
        read = decode_subscription(subscription)
        assert read == Subscription(("plain",), user_data=b"", rack_id="")
        assert encode_subscription(read, 3) == subscription
        given_to = decode_assignment(assignment)
        assert given_to.partitions == (TopicPartition("plain", 0),)
        assert encode_assignment(given_to, 0) == assignment


def hexadecimal(*parts: str) -> bytes:
    return bytes.fromhex("".join(parts))


TOPICS = "00000002 0006 6f7264657273 0001 61 00000002 00ff"
OWNED = "00000002 0006 6f7264657273 00000002 00000002 00000000 0001 61 00000001 00000007"


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (0, hexadecimal("0000", TOPICS)),
        (1, hexadecimal("0001", TOPICS, OWNED)),
        (2, hexadecimal("0002", TOPICS, OWNED, "00000005")),
        (3, hexadecimal("0003", TOPICS, OWNED, "00000005", "0002 7231")),
    ],
)
def test_every_version_of_a_subscription_has_its_fields(version: int, data: bytes) -> None:
    assert encode_subscription(MINE, version) == data
    read = decode_subscription(data)
    assert (read.topics, read.user_data) == (MINE.topics, MINE.user_data)
    assert read.owned_partitions == (MINE.owned_partitions if version >= 1 else ())
    assert read.generation_id == (5 if version >= 2 else -1)
    assert read.rack_id == ("r1" if version >= 3 else None)


@pytest.mark.parametrize("version", range(4))
def test_every_version_of_an_assignment_has_the_same_fields(version: int) -> None:
    assignment = Assignment(MINE.owned_partitions, b"\1")
    data = struct.pack(">h", version) + hexadecimal(OWNED, "00000001 01")
    assert encode_assignment(assignment, version) == data
    assert decode_assignment(data) == assignment


def test_nulls_are_written_and_read() -> None:
    assert encode_subscription(Subscription(())) == hexadecimal("0003 00000000 ffffffff 00000000 ffffffff ffff")
    assert decode_subscription(encode_subscription(Subscription(()))) == Subscription(())
    assert encode_assignment(Assignment()) == hexadecimal("0003 00000000 ffffffff")


def test_the_name_of_a_static_member_is_not_in_the_bytes() -> None:
    static = Subscription(("a",), group_instance_id="instance")
    assert encode_subscription(static) == encode_subscription(Subscription(("a",)))


def test_no_bytes_are_an_assignment_of_nothing() -> None:
    assert decode_assignment(b"") == Assignment()


def test_a_later_version_is_read_as_the_last_one_known_and_what_follows_is_passed_over() -> None:
    data = struct.pack(">h", 9) + encode_subscription(MINE)[2:] + b"something new"
    assert decode_subscription(data) == MINE
    data = struct.pack(">h", 9) + encode_assignment(Assignment(MINE.owned_partitions))[2:] + b"something new"
    assert decode_assignment(data) == Assignment(MINE.owned_partitions)


def test_a_negative_version_is_refused() -> None:
    for read in (decode_subscription, decode_assignment):
        with pytest.raises(UnsupportedFormatError, match="version -1 of Consumer"):
            read(b"\xff\xff" + bytes(20))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "integer of 2 bytes, but 0 are left (at position 0)"),
        ("00", "integer of 2 bytes, but 1 are left (at position 0)"),
        ("0000 7fffffff 0001 61", "array of size 2147483647, but 3 bytes are left (at position 2)"),
        ("0000 ffffffff", "array is null where null is not allowed (at position 2)"),
        ("0000 00000001 7fff 61", "string of size 32767, but 1 bytes are left (at position 6)"),
        ("0000 00000001 0001 ff 00000000", "string is not UTF-8: invalid start byte (at position 8)"),
        ("0001 00000000 ffffffff 00000001 0001 61 00000001 ffffffff", "partition -1 of topic 'a' is below 0"),
    ],
)
def test_bytes_that_are_no_subscription_are_refused_with_their_position(data: str, reason: str) -> None:
    with pytest.raises(InvalidRecordError) as caught:
        decode_subscription(bytes.fromhex(data))
    assert str(caught.value) == reason


def test_every_shortened_subscription_and_assignment_is_refused() -> None:
    subscription, assignment = encode_subscription(MINE), encode_assignment(Assignment(MINE.owned_partitions, b"x"))
    for size in range(len(subscription)):
        with pytest.raises(InvalidRecordError):
            decode_subscription(subscription[:size])
    for size in range(1, len(assignment)):
        with pytest.raises(InvalidRecordError):
            decode_assignment(assignment[:size])


@pytest.mark.parametrize(
    ("subscription", "version", "reason"),
    [
        (MINE, 4, "version 4 of the consumer protocol; there are 0 to 3"),
        (MINE, -1, "version -1 of the consumer protocol; there are 0 to 3"),
        (Subscription(("ä" * 16384,)), 3, "a string of 32768 bytes, longer than 32767"),
        (Subscription((), owned_partitions=(TopicPartition("a", -1),)), 3, "a partition is -1; it is 0 to 2147483647"),
        (Subscription((), generation_id=2**31), 3, "a generation is 2147483648; it is -1 to 2147483647"),
    ],
)
def test_what_does_not_fit_is_not_written(subscription: Subscription, version: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        encode_subscription(subscription, version)


names = st.text(max_size=6)
partitions = st.lists(
    st.builds(TopicPartition, st.sampled_from("abc"), st.integers(0, 2**31 - 1)), max_size=6, unique=True
).map(lambda found: tuple(sorted(found)))
subscriptions = st.builds(
    Subscription,
    topics=st.lists(names, max_size=4).map(tuple),
    user_data=st.none() | st.binary(max_size=9),
    owned_partitions=partitions,
    generation_id=st.integers(-1, 2**31 - 1),
    rack_id=st.none() | names,
)


@given(subscriptions)
@usual
def test_a_subscription_comes_back_as_it_was(subscription: Subscription) -> None:
    assert decode_subscription(encode_subscription(subscription)) == subscription


@given(st.builds(Assignment, partitions, st.none() | st.binary(max_size=9)), st.integers(0, 3))
@usual
def test_an_assignment_comes_back_as_it_was(assignment: Assignment, version: int) -> None:
    assert decode_assignment(encode_assignment(assignment, version)) == assignment


@given(st.binary(max_size=60), subscriptions, st.data())
@usual
def test_arbitrary_bytes_raise_nothing_but_our_errors(
    junk: bytes, subscription: Subscription, data: st.DataObject
) -> None:
    damaged = bytearray(encode_subscription(subscription))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    for one in (junk, bytes(damaged)):
        for read in (decode_subscription, decode_assignment):
            try:
                read(one)
            except LogstoreError as error:
                assert error.position is None or 0 <= error.position <= len(one)
