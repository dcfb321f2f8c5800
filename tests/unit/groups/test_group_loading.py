"""Groups and offsets as the log gives them: what wins, what waits for a marker, and what is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from logstore.groups import (
    LoadedGroups,
    OffsetAndMetadata,
    StoredGroup,
    StoredMember,
    group_key,
    group_value,
    load_groups,
    offset_key,
    offset_value,
)
from logstore.names import TopicPartition
from logstore.records import (
    BatchOptions,
    ControlType,
    EndTransactionMarker,
    encode_batch,
    encode_end_transaction_batch,
    iter_batches,
)

ORDERS = TopicPartition("orders", 0)
MEMBER = StoredMember("m", None, "c", "/h", 300, 45, b"sub", b"as")
STABLE = StoredGroup("consumer", 1, "range", "m", 7, (MEMBER,))
Item = tuple[bytes | None, bytes | None]


class Partition:
    """Collects batches, and loads them."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.end = 0

    def add(self, *items: Item, producer_id: int = -1) -> None:
        """One batch, of a transaction if there is a producer id."""
        options = BatchOptions()
        if producer_id >= 0:
            options = BatchOptions(is_transactional=True, producer_id=producer_id, producer_epoch=0, base_sequence=0)
        self.data += encode_batch(list(items), base_offset=self.end, options=options, timestamp=1)
        self.end += len(items)

    def mark(self, producer_id: int, control_type: ControlType) -> None:
        """End a transaction."""
        self.data += encode_end_transaction_batch(
            EndTransactionMarker(control_type, 0), offset=self.end, timestamp=1, producer_id=producer_id,
            producer_epoch=0,
        )  # fmt: skip
        self.end += 1

    def load(self, *, verify: bool = True) -> LoadedGroups:
        return load_groups(iter_batches(bytes(self.data), verify=verify))


@pytest.fixture
def partition() -> Partition:
    return Partition()


def commit(offset: int, group: str = "g") -> Item:
    return offset_key(group, ORDERS), offset_value(OffsetAndMetadata(offset))


def uncommit(group: str = "g") -> Item:
    return offset_key(group, ORDERS), None


def offsets(loaded: LoadedGroups, group: str = "g") -> list[int]:
    return [stored.value.offset for stored in loaded.offsets.get(group, {}).values()]


@pytest.mark.kafka("GROUP-66")
def test_the_last_record_of_a_key_wins(partition: Partition) -> None:
    partition.add(commit(1), commit(9), (group_key("g"), group_value(STABLE)))
    newer = StoredGroup("consumer", 2, None, None, 8)
    partition.add(commit(4), (group_key("g"), group_value(newer)))
    loaded = partition.load()
    assert offsets(loaded) == [4]
    assert loaded.groups == {"g": newer}


@pytest.mark.kafka("GROUP-66")
def test_tombstones_remove(partition: Partition) -> None:
    partition.add(commit(1), commit(2, "other"), (group_key("g"), group_value(STABLE)))
    partition.add(uncommit(), (group_key("g"), None), (group_key("never"), None), uncommit("never"))
    loaded = partition.load()
    assert loaded.group_ids() == {"other"}
    assert loaded.malformed_count == 0


@pytest.mark.kafka("GROUP-66")
def test_unknown_keys_are_skipped_and_counted(partition: Partition) -> None:
    partition.add(commit(1), (b"\x00\x05whatever", b"\x00\x00"), (b"\x7f\xff", None), commit(2))
    loaded = partition.load()
    assert (loaded.unknown_count, offsets(loaded)) == (2, [2])


@pytest.mark.kafka("GROUP-66")
@pytest.mark.parametrize(
    "bad",
    [
        (None, b"no key"),
        (b"\x00", b""),
        (group_key("g"), b"\x00\x03cut"),
        (group_key("g"), b"\x00\x09newer"),
        (offset_key("g", ORDERS), b""),
    ],
)
def test_a_malformed_record_loses_nothing_else(partition: Partition, bad: Item) -> None:
    partition.add(commit(1), bad, commit(2, "other"))
    loaded = partition.load()
    assert (offsets(loaded), offsets(loaded, "other")) == ([1], [2])
    assert loaded.malformed_count == 1
    assert [offset for offset, _ in loaded.flaws] == [1]


@pytest.mark.kafka("GROUP-66")
def test_a_malformed_batch_loses_nothing_else(partition: Partition) -> None:
    partition.add(commit(1))
    position = len(partition.data)
    partition.add(commit(2, "lost"))
    partition.data[position + 61] = 0x7F  # the length of its record
    partition.add(commit(3, "other"))
    loaded = partition.load(verify=False)
    assert (offsets(loaded), offsets(loaded, "other")) == ([1], [3])
    assert [offset for offset, _ in loaded.flaws] == [1]


def test_the_reasons_of_a_hundred_flaws_are_kept(partition: Partition) -> None:
    partition.add(*[(None, b"")] * 150)
    loaded = partition.load()
    assert (loaded.malformed_count, len(loaded.flaws)) == (150, 100)


@pytest.mark.kafka("GROUP-67")
def test_a_transactions_commits_wait_for_their_marker(partition: Partition) -> None:
    partition.add(commit(1))
    partition.add(commit(5), producer_id=10)
    partition.add(commit(6, "other"), producer_id=11)
    assert offsets(partition.load()) == [1]
    assert partition.load().pending.keys() == {10, 11}
    assert partition.load().group_ids() == {"g", "other"}
    partition.mark(10, ControlType.COMMIT)
    partition.mark(11, ControlType.ABORT)
    loaded = partition.load()
    assert (offsets(loaded), loaded.offsets.keys(), loaded.pending) == ([5], {"g"}, {})


@pytest.mark.kafka("GROUP-68")
def test_a_plain_commit_after_a_transactional_one_wins_though_the_marker_is_later(partition: Partition) -> None:
    partition.add(commit(5), producer_id=10)
    partition.add(commit(3))
    partition.mark(10, ControlType.COMMIT)
    assert offsets(partition.load()) == [3]


@pytest.mark.kafka("GROUP-68")
def test_a_transactional_commit_after_a_plain_one_wins(partition: Partition) -> None:
    partition.add(commit(3))
    partition.add(commit(5), producer_id=10)
    partition.mark(10, ControlType.COMMIT)
    assert offsets(partition.load()) == [5]


@pytest.mark.kafka("GROUP-68")
def test_of_two_transactions_the_later_record_wins(partition: Partition) -> None:
    partition.add(commit(5), producer_id=10)
    partition.add(commit(6), producer_id=11)
    partition.mark(11, ControlType.COMMIT)
    partition.mark(10, ControlType.COMMIT)
    assert offsets(partition.load()) == [6]


def test_an_offset_that_was_deleted_stays_so_when_an_older_transaction_commits(partition: Partition) -> None:
    partition.add(commit(5), producer_id=10)
    partition.add(uncommit())
    partition.mark(10, ControlType.COMMIT)
    assert partition.load().offsets.get("g", {}) == {}


def test_markers_of_nothing_are_nothing(partition: Partition) -> None:
    partition.mark(10, ControlType.COMMIT)
    partition.mark(11, ControlType.ABORT)
    assert partition.load() == LoadedGroups()


def test_a_real_partition_loads(kafka_fixtures: Path) -> None:
    root = kafka_fixtures / "kafka-4.1.1" / "clean"
    (log,) = (root / "__consumer_offsets-2").glob("*.log")
    loaded = load_groups(iter_batches(log.read_bytes()))
    # group-4 was deleted with all it had
    assert (loaded.group_ids(), loaded.groups, loaded.malformed_count) == ({"group-0"}, {}, 0)
    assert {str(one): stored.value.offset for one, stored in loaded.offsets["group-0"].items()} == {
        "plain-0": 40,
        "segments-1": 80,
    }
