"""The state of a queue knows each job that is not finished, in whatever order they are, and comes back from bytes."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.errors import InvalidRecordError
from logstore.queue import work_queue_records as records
from logstore.queue.work_queue_records import Kind
from logstore.queue.work_queue_state import PartitionJobs, QueueState

ID = UUID(int=5)

_offsets = st.integers(0, 40)
_numbers = st.integers(0, 2)
_changes = st.one_of(
    st.builds(
        lambda number, step: (number, step), _numbers, st.integers(0, 10)
    ),  # an advance, made relative to where the partition is
    st.builds(
        lambda number, owner, until, jobs: records.encode_acquired(number, owner, until, jobs),
        _numbers, st.integers(1, 3), _offsets, st.lists(st.tuples(_offsets, st.integers(1, 9)), max_size=3),
    ),
    st.builds(
        lambda number, jobs: records.encode_released(number, jobs),
        _numbers, st.lists(st.tuples(_offsets, _offsets, st.integers(0, 9)), max_size=3),
    ),
    st.builds(
        lambda kind, number, offsets: records.encode_finished(kind, number, offsets),
        st.sampled_from([Kind.ACKNOWLEDGED, Kind.DEAD, Kind.GONE]), _numbers, st.lists(_offsets, max_size=3),
    ),
    st.builds(records.encode_unique, _numbers, _offsets, st.binary(max_size=2)),
)  # fmt: skip


def facts(state: QueueState) -> object:
    return (
        state.topic_id, state.acknowledged, state.dead, state.unique,
        [(jobs.position, jobs.horizon, jobs.open, jobs.ahead) for jobs in state.partitions],
    )  # fmt: skip


def due_of(jobs: PartitionJobs, now: int) -> list[int]:
    found = []
    while (offset := jobs.pop_due(now)) is not None:
        found.append(offset)
    jobs.rebuild()
    return found


def test_what_is_passed_over_is_acquired_unless_something_else_is_known_of_it() -> None:
    state = QueueState(1)
    state.apply(records.encode_released(0, [(2, 500, 0)]))
    state.apply(records.encode_finished(Kind.GONE, 0, [3]))
    state.apply(records.encode_advanced(0, 0, 5, 7, 9, 100))
    jobs = state.partitions[0]
    assert jobs.open == {2: (500, 0, 0), 0: (100, 1, 9), 1: (100, 1, 9), 4: (100, 1, 9)}
    assert (jobs.position, jobs.horizon, jobs.ahead, jobs.first_unfinished) == (5, 7, set(), 0)
    assert state.owners() == {9}


def test_an_advance_leaves_out_what_is_below_its_first_offset() -> None:
    state = QueueState(1)
    state.apply(records.encode_advanced(0, 10, 12, 12, 1, 0))
    assert sorted(state.partitions[0].open) == [10, 11]


def test_what_is_finished_is_forgotten_whatever_the_order() -> None:
    state = QueueState(1)
    state.apply(records.encode_advanced(0, 0, 1000, 1000, 1, 100))
    for offset in (*range(1, 1000), 0):
        state.apply(records.encode_acknowledged(0, offset))
    assert (state.partitions[0].open, state.partitions[0].ahead, state.acknowledged) == ({}, set(), 1000)
    assert state.partitions[0].first_unfinished == 1000
    assert len(state.dump()) == 64


def test_jobs_become_available_in_the_order_of_their_times() -> None:
    jobs = PartitionJobs()
    jobs.advance(0, 4, 4, (100, 1, 1))
    jobs.set(1, (50, 1, 0))
    jobs.set(2, (70, 1, 0))
    jobs.set(1, (60, 1, 0))
    assert jobs.next_due() == 60
    assert due_of(jobs, 59) == []
    assert due_of(jobs, 99) == [1, 2]
    assert due_of(jobs, 100) == [1, 2, 0, 3]
    jobs.finish(1)
    jobs.finish(2)
    assert jobs.next_due() == 100


def test_the_heap_does_not_grow_with_what_is_over() -> None:
    jobs = PartitionJobs()
    for offset in range(20_000):
        jobs.advance(0, offset + 1, 0, (offset, 1, 1))
        jobs.finish(offset)
    assert len(jobs.due) < 3000


def test_jobs_of_those_who_are_gone_are_available_at_once() -> None:
    state = QueueState(2)
    state.apply(records.encode_acquired(0, 7, 100, [(1, 2)]))
    state.apply(records.encode_acquired(1, 8, 100, [(2, 3)]))
    assert not state.release_owner(lambda owner: False)
    assert state.release_owner(lambda owner: owner == 8)
    assert state.partitions[0].open == {1: (100, 2, 7)}
    assert state.partitions[1].open == {2: (0, 3, 0)}
    assert state.next_due() == 0


def test_a_unique_key_is_free_when_its_job_is_finished() -> None:
    state = QueueState(1)
    state.apply(records.encode_unique(0, 3, b"k"))
    assert state.unique == {b"k": (0, 3)}
    state.apply(records.encode_unique(0, 5, b"k"))
    state.apply(records.encode_acknowledged(0, 3))
    assert state.unique == {b"k": (0, 5)}
    state.apply(records.encode_finished(Kind.DEAD, 0, [5]))
    assert state.unique == {}


def test_what_is_no_more_is_forgotten() -> None:
    state = QueueState(1)
    state.apply(records.encode_unique(0, 9, b"k"))
    state.apply(records.encode_advanced(0, 0, 6, 20, 1, 100))
    state.apply(records.encode_acknowledged(0, 12))
    assert not state.cut(0, 13)
    assert state.cut(0, 4)
    jobs = state.partitions[0]
    assert (jobs.position, jobs.horizon, sorted(jobs.open), jobs.ahead, state.unique) == (4, 4, [0, 1, 2, 3], set(), {})


@given(st.lists(_changes, max_size=30))
def test_a_state_comes_back_from_its_bytes(changes: list[bytes | tuple[int, int]]) -> None:
    state = QueueState(1, ID)
    for change in changes:
        if isinstance(change, tuple):
            number, step = change
            state.grow(number + 1)
            position = state.partitions[number].position
            change = records.encode_advanced(number, position, position + step, position + step + 5, 4, 30)
        state.apply(change)
    again = QueueState()
    for part in records.encode_snapshot(state.dump()):
        again.apply(part)
    assert facts(again) == facts(state)
    for one, other in zip(state.partitions, again.partitions, strict=True):
        due = sorted(due_of(one, 35))
        assert due == sorted(due_of(other, 35))
        assert len(due) == len(set(due))


def test_a_snapshot_that_is_not_complete_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PART_BYTES", 50)
    other = QueueState(3, ID)
    parts = records.encode_snapshot(other.dump())
    assert len(parts) == 3
    state = QueueState(1)
    state.apply(parts[0])
    state.apply(records.encode_acknowledged(0, 1))
    assert state.acknowledged == 1
    for part in (parts[0], parts[1], *parts):
        state.apply(part)
    assert facts(state) == facts(other)
    with pytest.raises(InvalidRecordError, match="follows 0 others"):
        state.apply(parts[1])


@pytest.mark.parametrize(
    "value",
    [
        b"\x01\x63\x00\x00",
        records.encode_advanced(0, 0, 2**60, 2**60, 0, 0),
        records.encode_advanced(0, 5, 4, 4, 0, 0),
        records.encode_snapshot(b"\x00\x09" + bytes(62))[0],
        records.encode_snapshot(QueueState(2).dump()[:-1])[0],
        records.encode_snapshot(bytes(10))[0],
    ],
)
def test_what_cannot_be_is_refused(value: bytes) -> None:
    state = QueueState(1)
    with pytest.raises(InvalidRecordError):
        state.apply(value)
    assert facts(state) == facts(QueueState(1))
