"""A dump selects what a plain filter over all records selects, and says what it could not read."""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from by_hand import batch, record
from helpers.directories import Partition, append_bytes, flip_bit, overwrite, shorten, write_checkpoint
from helpers.random_logs import HEADERS, KEYS, PRODUCERS, START, Known, plans, write_log
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.errors import LogstoreError
from logstore.inspect import (
    DumpOptions,
    Isolation,
    PartitionFiles,
    Problem,
    RecordFilter,
    Selection,
    SingleFile,
    context_around,
    resolve,
    select_file,
    select_partition,
)
from logstore.records import ControlType, Record

thorough = settings(max_examples=120, deadline=None, database=None)
times = st.none() | st.integers(START - 2, START + 22)
offsets = st.none() | st.integers(0, 40)
filters = st.builds(
    RecordFilter,
    first_offset=offsets,
    last_offset=offsets,
    since=times,
    until=times,
    key=st.none() | st.sampled_from([key for key in KEYS if key is not None]),
    key_regex=st.none() | st.sampled_from([re.compile(b"^[ak]"), re.compile(b"")]),
    value_regex=st.none() | st.sampled_from([re.compile(b"value"), re.compile(b"")]),
    header=st.none() | st.sampled_from([("h", None), ("h", b"1"), ("trace", b"")]),
    header_has_value=st.booleans(),
    tombstones=st.booleans(),
    producer_id=st.none() | st.sampled_from(PRODUCERS),
)
few_filters = st.builds(RecordFilter, first_offset=offsets, last_offset=offsets, since=times, until=times)


def selected(path: Path, **options: Any) -> list[Record]:
    return [one for selection in selections(path, **options) for one in itertools.chain(*selection.record_pieces())]


def selections(path: Path, **options: Any) -> Iterator[Selection]:
    for found in everything(path, **options):
        assert isinstance(found, Selection), found
        yield found


def problems(path: Path, **options: Any) -> list[Problem]:
    return [found for found in everything(path, **options) if isinstance(found, Problem)]


def everything(path: Path, **options: Any) -> Iterator[Selection | Problem]:
    target = resolve(path)
    if isinstance(target, SingleFile):
        return select_file(target, DumpOptions(**options))
    assert isinstance(target, PartitionFiles)
    return select_partition(target, context_around(path), DumpOptions(**options))


def passes(known: Known, where: RecordFilter) -> bool:
    """The plain filter: every condition by itself, on every record by itself."""
    one = known.record
    user = not known.is_control  # control records have neither key, value nor headers
    headers = [(n, v) for n, v in one.headers if where.header is not None and n == where.header[0]]
    return all(
        (
            where.first_offset is None or one.offset >= where.first_offset,
            where.last_offset is None or one.offset <= where.last_offset,
            where.since is None or one.timestamp >= where.since,
            where.until is None or one.timestamp <= where.until,
            where.producer_id is None or known.producer_id == where.producer_id,
            where.key is None or (user and one.key == where.key),
            where.key_regex is None or (user and one.key is not None and where.key_regex.search(one.key)),
            where.value_regex is None or (user and one.value is not None and where.value_regex.search(one.value)),
            not where.tombstones or (user and one.value is None),
            where.header is None
            or (user and any(not where.header_has_value or v == where.header[1] for _, v in headers)),
        )
    )


# ---------------------------------------------------------------- filters


@thorough
@given(plans, filters | few_filters)
def test_any_filter_selects_what_a_plain_one_does(plan: Any, where: RecordFilter) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "orders-3")
        wanted = [known.record for known in write_log(path, plan) if passes(known, where)]
        assert selected(path, where=where) == wanted
        assert sum(selection.count() for selection in selections(path, where=where)) == len(wanted)


@thorough
@given(plans, filters | few_filters)
def test_a_batch_holds_any_wanted_record_or_none(plan: Any, where: RecordFilter) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "orders-3")
        wanted = {known.offset for known in write_log(path, plan) if passes(known, where)}
        for selection in selections(path, where=where):
            offsets_of_batch = {one.offset for one in selection.batch.records()}
            assert selection.holds_any() == bool(offsets_of_batch & wanted)


@thorough
@given(plans, filters | few_filters, st.sampled_from(Isolation), st.integers(0, 40))
def test_a_filter_and_a_consumers_view_combine(
    plan: Any, where: RecordFilter, isolation: Isolation, log_start: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "orders-3")
        known = write_log(path, plan)
        write_checkpoint(path.parent / "log-start-offset-checkpoint", {"orders-3": log_start})
        seen = {one.offset for one in selected(path, isolation=isolation)}
        wanted = [one.record for one in known if one.offset in seen and passes(one, where)]
        assert selected(path, isolation=isolation, where=where) == wanted
        assert all(not one.is_control and one.offset >= log_start for one in known if one.offset in seen)


def test_a_filter_without_conditions_selects_every_record(orders: Path) -> None:
    assert [one.offset for one in selected(orders)] == list(range(18))


def test_segments_outside_the_offsets_are_not_even_opened(orders: Path) -> None:
    for log in sorted(orders.glob("*.log"))[::2]:
        log.write_bytes(b"never looked at")
    where = RecordFilter(first_offset=7, last_offset=11)
    assert [one.offset for one in selected(orders, where=where)] == [7, 8, 9, 10, 11]


def test_a_header_without_a_value_is_found_by_its_name_only(directory: Any) -> None:
    partition = directory.partition("orders-3")
    partition.append(*((None, b"v", START, headers) for headers in HEADERS))
    named = [one.offset for one in selected(partition.close(), where=RecordFilter(header=("h", None)))]
    valued = RecordFilter(header=("h", b"1"), header_has_value=True)
    assert (named, [one.offset for one in selected(partition.path, where=valued)]) == ([1, 2], [1])


# ---------------------------------------------------------------- one file


def test_a_segment_is_read_by_itself(orders: Path) -> None:
    assert [one.offset for one in selected(orders / "00000000000000000006.log")] == list(range(6, 12))


def test_a_segment_shows_what_a_consumer_gets_of_its_partition(transactions: Path) -> None:
    log = transactions / "00000000000000000000.log"
    assert [one.offset for one in selected(log, isolation=Isolation.READ_COMMITTED)] == [0, 3, 5, 7]


def test_a_segment_that_is_set_aside_shows_what_a_consumer_would_get_of_it_alone(orders: Path) -> None:
    write_checkpoint(orders.parent / "log-start-offset-checkpoint", {"orders-3": 12})
    log = orders / "00000000000000000000.log"
    deleted = log.rename(f"{log}.deleted")
    assert len(selected(deleted, isolation=Isolation.READ_UNCOMMITTED)) == 6


def test_a_partition_that_waits_for_deletion_does_not_begin_where_its_namesake_does(orders: Path) -> None:
    write_checkpoint(orders.parent / "log-start-offset-checkpoint", {"orders-3": 12})
    deleted = orders.rename(orders.with_name(f"orders-3.{'0' * 32}-delete"))
    assert len(selected(deleted, isolation=Isolation.READ_UNCOMMITTED)) == 18


# ---------------------------------------------------------------- what cannot be read


@pytest.mark.parametrize("where", [RecordFilter(), RecordFilter(since=0)])
def test_reading_goes_on_behind_a_damaged_batch(orders: Path, where: RecordFilter) -> None:
    log = orders / "00000000000000000006.log"
    flip_bit(log, 70, 3)
    [problem] = problems(orders, where=where)
    assert (problem.path, problem.position, problem.offset, problem.is_damage) == (log, 0, 6, True)
    read = [
        one
        for found in everything(orders, where=where)
        if isinstance(found, Selection)
        for one in found.batch.records()
    ]
    assert [one.offset for one in read] == [*range(6), *range(8, 18)]


def test_without_verifying_a_wrong_crc_does_not_matter(orders: Path) -> None:
    overwrite(orders / "00000000000000000006.log", 17, b"\0\0\0\0")
    assert len(selected(orders, verify=False)) == 18


def test_a_damaged_batch_whose_frame_is_whole_can_be_looked_at(orders: Path) -> None:
    flip_bit(orders / "00000000000000000006.log", 70, 3)
    [problem] = problems(orders)
    assert problem.batch is not None and problem.batch.batch.header.base_offset == 6
    [problem] = problems(orders, where=RecordFilter(key=b"any"))
    assert problem.batch is None


def test_the_zero_tail_of_a_log_that_was_not_shut_down_is_no_damage(written: Partition) -> None:
    append_bytes(written.log, bytes(4096))
    [problem] = problems(written.path)
    assert not problem.is_damage and "preallocated" in problem.message


def test_a_batch_above_the_cap_says_so_when_its_records_are_wanted(orders: Path) -> None:
    selection = next(selections(orders, batch_bytes_max=50))
    with pytest.raises(LogstoreError) as caught:
        list(selection.record_pieces())
    assert "50" in str(selection.problem(caught.value))


def test_a_segment_deleted_between_listing_and_opening_is_told_and_no_damage(orders: Path) -> None:
    target = resolve(orders)
    assert isinstance(target, PartitionFiles)
    target.segments[0].log.unlink()
    found = list(select_partition(target, None, DumpOptions()))
    assert isinstance(found[0], Problem) and not found[0].is_damage and not found[0].is_failure
    assert len(found) == 1 + 6


def test_a_segment_that_is_a_link_to_nowhere_is_a_failure(orders: Path) -> None:
    log = orders / "00000000000000000006.log"
    log.unlink()
    log.symlink_to("nowhere")
    assert [problem.is_failure for problem in problems(orders)] == [True]


def test_an_input_output_error_inside_a_segment_does_not_hide_the_others(
    orders: Path, failing_reads: Callable[[str], None]
) -> None:
    failing_reads("00000000000000000006.log")
    found = list(everything(orders))
    assert [one.is_failure for one in found if isinstance(one, Problem)] == [True]
    assert sum(isinstance(one, Selection) for one in found) == 6


def test_where_consumers_begin_is_said_to_be_unknown_when_its_checkpoint_is_broken(orders: Path) -> None:
    (orders.parent / "log-start-offset-checkpoint").write_text("broken")
    assert problems(orders) == []
    [problem] = problems(orders, isolation=Isolation.READ_UNCOMMITTED)
    assert problem.is_damage and problem.path.name == "log-start-offset-checkpoint"


def test_a_file_that_grows_is_read_up_to_where_it_ended_when_it_was_opened(written: Partition) -> None:
    reading = everything(written.log)
    next(reading)
    written.append(b"later")
    append_bytes(written.log, b"half a batch")
    assert [one.batch.header.base_offset for one in reading if isinstance(one, Selection)] == [14, 16]


def test_a_file_that_is_cut_while_it_is_read_is_told(tmp_path: Path) -> None:
    partition = Partition(tmp_path / "orders-3")
    for _ in range(40):
        partition.append(bytes(20000))
    reading = everything(partition.path)
    next(reading)
    shorten(partition.log, 1000)
    assert [one.is_damage for one in reading if isinstance(one, Problem)] == [False]


def test_a_record_that_lies_inside_an_intact_batch_is_found_when_it_is_read(tmp_path: Path) -> None:
    log = tmp_path / "00000000000000000000.log"
    log.write_bytes(batch(record(b"k", b"v"), record(b"k", b"v", offset_delta=1, length=200)))
    with pytest.raises(LogstoreError):
        selected(log)


def test_what_is_kept_long_keeps_no_bytes_of_the_file(orders: Path) -> None:
    kept = next(selections(orders)).without_bytes()
    assert kept.batch.header.count == 2 and kept.batch._buffer is None


def test_control_records_are_shown_unless_keys_values_or_headers_decide(transactions: Path) -> None:
    kinds = [s.batch.control_type() for s in selections(transactions) if s.batch.is_control]
    assert kinds == [ControlType.ABORT, ControlType.COMMIT]
    for where in (
        RecordFilter(key_regex=re.compile(b"")),
        RecordFilter(tombstones=True),
        RecordFilter(header=("h", None)),
    ):
        assert not any(selection.batch.is_control for selection in selections(transactions, where=where))
