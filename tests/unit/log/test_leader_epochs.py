"""`LeaderEpochs` answers as Kafka's leader-epoch cache does; its file is a checkpoint of two numbers a line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import CorruptCheckpointError
from logstore.log import EpochEntry, LeaderEpochs, format_leader_epoch_checkpoint, parse_leader_epoch_checkpoint

UNDEFINED = (-1, -1)
bounded = settings(deadline=None, database=None)
any_entries = st.lists(st.builds(EpochEntry, st.integers(0, 20), st.integers(0, 50)), max_size=12)


def epochs(*entries: tuple[int, int]) -> LeaderEpochs:
    return LeaderEpochs.of(EpochEntry(*entry) for entry in entries)


THREE = epochs((2, 6), (3, 8), (4, 11))


@pytest.mark.kafka("EPOCH-01")
def test_the_latest_epoch_ends_at_the_log_end() -> None:
    one = LeaderEpochs().assign(2, 10)
    assert one.latest == EpochEntry(2, 10)
    assert one.entries == ((2, 10),)
    assert one.end_offset_for(2, 11) == (2, 11)


@pytest.mark.kafka("EPOCH-02")
@pytest.mark.parametrize(
    ("assigned", "kept"),
    [
        ([(2, 9), (2, 10)], [(2, 9)]),
        ([(2, 9), (3, 9)], [(3, 9)]),
        ([(2, 6), (3, 5)], [(3, 5)]),
        ([(1, 5), (2, 6), (1, 7)], [(1, 7)]),
    ],
)
def test_an_assigned_epoch_removes_what_is_not_below_it(
    assigned: list[tuple[int, int]], kept: list[tuple[int, int]]
) -> None:
    assert list(epochs(*assigned).entries) == kept


@pytest.mark.kafka("EPOCH-02")
def test_an_epoch_that_comes_back_ends_at_the_log_end_and_the_removed_one_is_unknown() -> None:
    back = epochs((1, 5), (2, 6), (1, 7))
    assert back.end_offset_for(1, 8) == (1, 8)
    assert back.end_offset_for(2, 8) == UNDEFINED


@pytest.mark.kafka("EPOCH-03")
def test_an_epoch_removed_by_a_later_one_ends_where_that_one_starts() -> None:
    three = epochs((5, 11), (6, 12), (7, 13), (7, 12))
    assert three.end_offset_for(5, 99) == (5, 12)
    assert three.end_offset_for(6, 99) == (5, 12)


@pytest.mark.kafka("EPOCH-04")
def test_end_offsets_of_epochs_that_are_not_known() -> None:
    assert LeaderEpochs().end_offset_for(0, 100) == UNDEFINED
    assert THREE.end_offset_for(-1, 100) == UNDEFINED
    assert THREE.end_offset_for(5, 100) == UNDEFINED
    assert THREE.end_offset_for(4, 100) == (4, 100)
    assert epochs((5, 11), (6, 12)).end_offset_for(4, 100) == (4, 11)
    between = epochs((0, 10), (2, 13), (4, 17))
    assert [between.end_offset_for(epoch, 100) for epoch in (1, 2, 3)] == [(0, 13), (2, 17), (2, 17)]


@pytest.mark.kafka("EPOCH-05")
def test_an_epoch_without_records_ends_where_it_started() -> None:
    one = epochs((0, 0), (1, 0))
    assert [entry.epoch for entry in one.entries] == [1]
    assert one.end_offset_for(0, 0) == (0, 0)
    two = one.assign(2, 5)
    assert [two.end_offset_for(epoch, 9) for epoch in (0, 1, 2)] == [(0, 0), (1, 5), (2, 9)]


@pytest.mark.kafka("EPOCH-06")
@pytest.mark.parametrize(
    ("end_offset", "kept"),
    [
        (8, [(2, 6)]),
        (9, [(2, 6), (3, 8)]),
        (11, [(2, 6), (3, 8)]),
        (12, [(2, 6), (3, 8), (4, 11)]),
        (0, []),
        (-1, [(2, 6), (3, 8), (4, 11)]),
    ],
)
def test_truncating_from_the_end_removes_what_starts_there_or_later(
    end_offset: int, kept: list[tuple[int, int]]
) -> None:
    assert list(THREE.truncate_from_end(end_offset).entries) == kept
    assert LeaderEpochs().truncate_from_end(end_offset) == LeaderEpochs()


@pytest.mark.kafka("EPOCH-07")
@pytest.mark.parametrize(
    ("start_offset", "kept"),
    [
        (8, [(3, 8), (4, 11)]),
        (9, [(3, 9), (4, 11)]),
        (1, [(2, 6), (3, 8), (4, 11)]),
        (6, [(2, 6), (3, 8), (4, 11)]),
        (11, [(4, 11)]),
        (15, [(4, 15)]),
        (-1, [(2, 6), (3, 8), (4, 11)]),
    ],
)
def test_truncating_from_the_start_lets_the_epoch_there_begin_there(
    start_offset: int, kept: list[tuple[int, int]]
) -> None:
    assert list(THREE.truncate_from_start(start_offset).entries) == kept
    assert LeaderEpochs().truncate_from_start(start_offset) == LeaderEpochs()


@pytest.mark.kafka("EPOCH-07")
def test_truncating_inside_the_first_epoch_moves_only_its_start() -> None:
    assert epochs((0, 0), (1, 7), (2, 10)).truncate_from_start(5).entries == ((0, 5), (1, 7), (2, 10))


def test_what_changes_nothing_returns_the_same_object() -> None:
    assert THREE.assign(4, 12) is THREE
    assert THREE.truncate_from_end(12) is THREE.truncate_from_start(6) is THREE


@pytest.mark.parametrize(("epoch", "start_offset"), [(-1, 0), (0, -1)])
def test_a_negative_epoch_or_offset_is_not_assigned(epoch: int, start_offset: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        THREE.assign(epoch, start_offset)


@pytest.mark.kafka("EPOCH-09")
def test_the_previous_epoch_is_the_second_latest() -> None:
    assert LeaderEpochs().previous_epoch() is None
    assert epochs((2, 6)).previous_epoch() is None
    two = epochs((2, 6), (4, 11))
    assert two.previous_epoch() == 2
    three = two.assign(10, 20)
    assert three.previous_epoch() == 4
    assert three.truncate_from_end(18).previous_epoch() == 2


@pytest.mark.kafka("EPOCH-09")
def test_an_epoch_has_neighbours_whether_it_is_known_or_not() -> None:
    assert [THREE.previous_epoch(epoch) for epoch in (2, 3, 4, 9)] == [None, 2, 3, 4]
    assert THREE.previous_entry(3) == EpochEntry(2, 6)
    assert [THREE.next_epoch(epoch) for epoch in (-1, 2, 3, 4)] == [2, 3, 4, None]
    assert THREE.earliest == THREE.entry_for(2) == EpochEntry(2, 6)
    assert THREE.entry_for(1) is THREE.entry_for(5) is LeaderEpochs().earliest is None


@pytest.mark.kafka("EPOCH-10")
def test_an_offset_belongs_to_the_last_epoch_that_starts_at_or_before_it() -> None:
    three = epochs((0, 10), (1, 20), (5, 30))
    assert [three.epoch_for_offset(offset) for offset in (5, 20, 25, 30, 50)] == [None, 1, 1, 5, 5]


@given(any_entries, st.integers(-1, 55))
@bounded
def test_epochs_and_start_offsets_always_increase(entries: list[EpochEntry], offset: int) -> None:
    built = LeaderEpochs.of(entries)
    for result in (built, built.truncate_from_end(offset), built.truncate_from_start(offset)):
        for lower, higher in zip(result.entries, result.entries[1:], strict=False):
            assert lower.epoch < higher.epoch
            assert lower.start_offset < higher.start_offset


@given(any_entries)
@bounded
def test_entries_round_trip_through_the_text_as_they_stand(entries: list[EpochEntry]) -> None:
    assert parse_leader_epoch_checkpoint(format_leader_epoch_checkpoint(entries)) == tuple(entries)


def test_the_text_is_version_count_and_entries() -> None:
    assert format_leader_epoch_checkpoint(THREE.entries) == b"0\n3\n2 6\n3 8\n4 11\n"
    assert parse_leader_epoch_checkpoint(b"") == parse_leader_epoch_checkpoint(b"0\n0\n") == ()


@pytest.mark.parametrize("entry", [b"1", b"1 2 3", b"-1 2", b"1 -2", b"x 2", b"2147483648 1", b" 1 2", b""])
def test_a_line_that_is_no_epoch_is_corrupt_and_named(entry: bytes) -> None:
    with pytest.raises(CorruptCheckpointError, match="line 3") as caught:
        parse_leader_epoch_checkpoint(b"0\n1\n" + entry + b"\n")
    assert caught.value.position == 4
