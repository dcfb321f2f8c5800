"""How one process follows what others append: whole batches, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.open_logs import Producer, from_leader, from_producer, marker
from helpers.shared_logs import SMALL, SharedPlace, fill

from logstore.config import LogConfig
from logstore.errors import DamagedLogError
from logstore.fs import LocalFileSystem
from logstore.log import AppendOrigin, PartitionFacts, PartitionHold
from logstore.log.tail import Tail

FS = LocalFileSystem()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[SharedPlace]:
    found = SharedPlace(tmp_path / "orders-0")
    yield found
    found.close()


def attach(place: SharedPlace, config: LogConfig | None = None, known: PartitionFacts | None = None) -> Tail | None:
    hold = PartitionHold.owned(FS, place.directory, known or PartitionFacts())
    return Tail.attach(FS, place.directory, config or LogConfig(), place.clock, hold)


def attached(place: SharedPlace, config: LogConfig | None = None) -> Tail:
    tail = attach(place, config)
    assert tail is not None
    return tail


def write_by_hand(place: SharedPlace, data: bytes, base_offset: int = 0) -> None:
    with place.path(base_offset).open("ab") as file:
        file.write(data)


def test_a_directory_without_a_log_cannot_be_attached(place: SharedPlace) -> None:
    assert attach(place) is None


def test_a_log_that_was_closed_is_as_closed_until_somebody_appends(place: SharedPlace) -> None:
    with place.alone() as log:
        fill(log, 3)
    tail = attached(place)
    assert tail.is_as_closed
    assert tail.state.next_offset == 3
    write_by_hand(place, from_leader(3))
    assert not tail.is_as_closed
    tail.catch_up()
    assert not tail.is_as_closed


def test_what_is_written_meanwhile_is_seen_once(place: SharedPlace) -> None:
    place.alone().close()
    tail = attached(place)
    assert tail.catch_up() == (False, True)
    write_by_hand(place, from_leader(0, 2) + from_leader(2, 3))
    assert tail.catch_up() == (True, True)
    assert tail.state.next_offset == 5
    assert tail.catch_up() == (False, True)


@pytest.mark.parametrize("cut", [1, 11, 60, 61, 80])
def test_a_part_of_a_batch_is_no_batch(place: SharedPlace, cut: int) -> None:
    place.alone().close()
    tail = attached(place)
    whole, part = from_leader(0, 2), from_leader(2, 3)
    write_by_hand(place, whole + part[:cut])
    assert tail.catch_up() == (True, False)
    assert tail.state.next_offset == 2
    assert tail.catch_up() == (False, False)
    write_by_hand(place, part[cut:])
    assert tail.catch_up() == (True, True)
    assert tail.state.next_offset == 5


def test_a_batch_with_a_wrong_crc_ends_what_is_seen(place: SharedPlace) -> None:
    place.alone().close()
    tail = attached(place)
    wrong = from_leader(1)
    wrong[-1] ^= 1
    write_by_hand(place, from_leader(0) + wrong + from_leader(2))
    assert tail.catch_up() == (True, False)
    assert tail.state.next_offset == 1


def test_batches_larger_than_what_is_read_at_a_time_are_seen(place: SharedPlace) -> None:
    place.alone().close()
    tail = attached(place)
    with place.open() as log:
        log.append([(None, bytes(900_000))])
        log.append([(None, b"small")])
    assert tail.catch_up() == (True, True)
    assert tail.state.next_offset == 2


def test_offsets_that_do_not_ascend_are_refused(place: SharedPlace) -> None:
    place.alone().close()
    tail = attached(place)
    write_by_hand(place, from_leader(5) + from_leader(3))
    with pytest.raises(DamagedLogError, match="do not ascend"):
        tail.catch_up()
    assert tail.state.next_offset == 6


def test_looking_changes_nothing_on_disk(place: SharedPlace) -> None:
    with place.open(SMALL) as log:
        fill(log, 40)
    before = {one.name: one.read_bytes() for one in place.directory.iterdir()}
    tail = attached(place, SMALL)
    write_by_hand(place, from_leader(40, leader_epoch=3), tail.state.segments.active.base_offset)
    tail.catch_up()
    tail.detach()
    after = {one.name: one.read_bytes() for one in place.directory.iterdir()}
    changed = {name for name in before if after[name] != before[name]}
    assert set(after) == set(before)
    assert changed == {place.path(tail.state.segments.active.base_offset).name}


def test_a_log_whose_index_is_missing_has_to_be_put_in_order(place: SharedPlace) -> None:
    with place.alone(SMALL) as log:
        fill(log, 40)
        bases = [one.base_offset for one in log.segments]
    place.path(bases[0], ".timeindex").unlink()
    assert attach(place, SMALL) is None


def test_a_log_whose_last_index_entry_names_no_batch_has_to_be_put_in_order(place: SharedPlace) -> None:
    with place.alone(LogConfig(index_interval_bytes=100)) as log:
        fill(log, 40)
    index = place.path(0, ".index").read_bytes()
    position = int.from_bytes(index[-4:], "big")
    content = bytearray(place.path(0).read_bytes())
    content[position + 70] ^= 1
    place.path(0).write_bytes(content)
    assert attach(place) is None


def test_producers_and_transactions_are_followed(place: SharedPlace) -> None:
    place.alone().close()
    tail = attached(place)
    log = place.open()
    log.append_batch(from_producer(5, 0, 3, transactional=True))
    tail.catch_up()
    assert tail.state.last_stable_offset == 0
    assert [one.producer_id for one in tail.state.producers.active_producers()] == [5]


def test_an_abort_is_known_before_the_stable_offset_passes_it(place: SharedPlace) -> None:
    with place.alone() as log:
        producer = Producer(log, 5)
        producer.send(2)
        written = place.path(0).stat().st_size
        producer.abort()
    marker = place.path(0).read_bytes()[written:]
    with place.path(0).open("r+b") as file:
        file.truncate(written)
    place.path(0, ".txnindex").unlink()
    place.alone().close()
    tail = attached(place)
    assert tail.state.last_stable_offset == 0
    write_by_hand(place, marker)
    tail.catch_up()
    assert tail.state.last_stable_offset == 3
    assert [one.first_offset for one in tail.state.segments.active.transaction_index.entries()] == [0]
    assert not place.path(0, ".txnindex").exists()


def test_leader_epochs_of_batches_are_followed(place: SharedPlace) -> None:
    place.alone().close()
    tail = attached(place)
    write_by_hand(place, from_leader(0, leader_epoch=2) + from_leader(1, leader_epoch=4))
    tail.catch_up()
    assert tail.state.epochs.latest_epoch == 4
    assert tail.state.leader_epoch == 4


def test_many_aborts_in_memory_are_all_there(place: SharedPlace) -> None:
    place.alone().close()
    tail, log = attached(place), place.open()
    for number in range(300):
        log.append_batch(from_producer(number, 0, transactional=True))
        log.append_batch(marker(number, commit=False), origin=AppendOrigin.COORDINATOR)
    tail.catch_up()
    for one in (tail, attached(place)):
        assert len(one.state.segments.active.transaction_index.entries()) == 300
