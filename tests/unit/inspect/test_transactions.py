"""What a consumer is given follows from the log alone, as a broker's own producer state would."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from helpers.directories import LogDirectory, Partition, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.inspect import (
    ConsumerView,
    Isolation,
    PartitionFiles,
    TransactionTracker,
    consumer_view,
    context_around,
    resolve,
)
from logstore.records import BATCH_BYTES_MAX, ControlType

COMMITTED, UNCOMMITTED = Isolation.READ_COMMITTED, Isolation.READ_UNCOMMITTED
steps = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.sampled_from(["write", "COMMIT", "ABORT"])), max_size=25)


def view(path: Path, isolation: Isolation) -> ConsumerView:
    target = resolve(path)
    assert isinstance(target, PartitionFiles)
    return consumer_view(target, context_around(path), isolation, batch_bytes_max=BATCH_BYTES_MAX)


def shown(partition: Partition, isolation: Isolation) -> list[int]:
    seen = view(partition.path, isolation)
    return [batch.header.base_offset for batch in partition.batches if seen.shows(batch)]


@settings(max_examples=150, deadline=None, database=None)
@given(steps)
def test_committed_readers_get_what_a_plain_replay_of_the_transactions_gives(plan: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        partition = Partition(Path(place, "orders-3"))
        state: dict[int, str] = {}  # offset -> how its transaction ended
        pending: dict[int, list[int]] = {}
        for producer_id, what in plan:
            offset = partition.next_offset
            if what == "write" and producer_id == 0:
                partition.append(b"plain")
                state[offset] = "COMMIT"
            elif what == "write":
                partition.append_transactional(producer_id, b"value")
                pending.setdefault(producer_id, []).append(offset)
            elif producer_id in pending:
                partition.end_transaction(producer_id, ControlType[what])
                state |= dict.fromkeys(pending.pop(producer_id), what)
        stable = min((offsets[0] for offsets in pending.values()), default=partition.next_offset)
        wanted = [offset for offset, how in sorted(state.items()) if how == "COMMIT" and offset < stable]
        assert shown(partition, COMMITTED) == wanted
        assert shown(partition, UNCOMMITTED) == sorted([*state, *(o for offsets in pending.values() for o in offsets)])


def test_an_open_transaction_holds_back_all_that_follows_it(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append(b"plain")
    partition.append_transactional(1, b"open")
    partition.append(b"plain")
    assert view(partition.path, COMMITTED).last_stable_offset == 1
    assert shown(partition, COMMITTED) == [0]
    assert shown(partition, UNCOMMITTED) == [0, 1, 2]


def test_a_producers_later_transaction_is_not_hidden_by_an_earlier_abort(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    for how in (ControlType.ABORT, ControlType.COMMIT, ControlType.ABORT):
        partition.append_transactional(1, b"value")
        partition.end_transaction(1, how)
    assert shown(partition, COMMITTED) == [2]
    assert dict(view(partition.path, COMMITTED).aborted) == {1: [(0, 1), (4, 5)]}


def test_a_consumer_begins_at_the_log_start_offset_even_inside_a_segment(orders: Path) -> None:
    write_checkpoint(orders.parent / "log-start-offset-checkpoint", {"orders-3": 9})
    assert view(orders, UNCOMMITTED).log_start_offset == 9


@pytest.mark.parametrize("checkpoint", [{}, {"orders-3": 0}, {"other-3": 9}])
def test_without_a_later_log_start_offset_it_begins_with_the_first_segment(
    orders: Path, checkpoint: dict[str, int]
) -> None:
    write_checkpoint(orders.parent / "log-start-offset-checkpoint", checkpoint)
    for path in orders.glob("00000000000000000000.*"):
        path.unlink()
    assert view(orders, UNCOMMITTED).log_start_offset == 6


def test_an_empty_partition_begins_at_0(tmp_path: Path) -> None:
    (tmp_path / "orders-3").mkdir()
    assert view(tmp_path / "orders-3", COMMITTED).log_start_offset == 0


def test_the_end_of_a_transaction_that_nobody_began_changes_nothing(directory: LogDirectory) -> None:
    partition = directory.partition("orders-3")
    partition.append_transactional(1, b"gone")
    marker = partition.end_transaction(1, ControlType.ABORT)
    tracker = TransactionTracker()
    assert tracker.add(marker) == ControlType.ABORT
    assert (dict(tracker.aborted), tracker.open, tracker.first_open_offset) == ({}, {}, None)
