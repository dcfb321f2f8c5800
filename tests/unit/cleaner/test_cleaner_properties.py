"""Whatever was written: what holds for a log before it is cleaned and after (CLEANER §9.11)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
from helpers.cleaning import RETENTION_MS, Compacted
from helpers.open_logs import START
from hypothesis import given, settings
from hypothesis import strategies as st

from logstore.config import LogConfig
from logstore.log import FetchIsolation
from logstore.records import Codec, Record, iter_batches

CONFIG = LogConfig(
    cleanup_policy=frozenset({"compact"}), segment_bytes=700, index_interval_bytes=100, file_delete_delay_ms=0
)
KEYS = st.integers(1, 6).flatmap(lambda number: st.sampled_from([number, number, number, number, -number]))
BATCH = st.lists(KEYS, min_size=1, max_size=3)


class Step(NamedTuple):
    """Something that is written: by a producer (0: none), in a transaction or not, or the end of one, or a roll."""

    kind: str
    producer: int = 0
    keys: tuple[int, ...] = ()
    codec: Codec = Codec.NONE


STEPS = st.lists(
    st.one_of(
        st.builds(Step, st.just("plain"), keys=BATCH.map(tuple), codec=st.sampled_from([*Codec, Codec.NONE])),
        st.builds(Step, st.just("idempotent"), st.just(9), BATCH.map(tuple)),
        st.builds(Step, st.just("transactional"), st.integers(1, 3), BATCH.map(tuple)),
        st.builds(Step, st.sampled_from(["commit", "abort"]), st.integers(1, 3)),
        st.just(Step("roll")),
    ),
    min_size=5, max_size=60,
)  # fmt: skip


def written(steps: list[Step]) -> Compacted:
    """A log with all transactions ended, and nothing in its active segment."""
    log = Compacted(CONFIG)
    writers = {number: log.producer(number, transactional=number < 9) for number in (1, 2, 3, 9)}
    opened: set[int] = set()
    for step in [*steps, *(Step("abort", number) for number in (1, 2, 3)), Step("roll")]:
        if step.kind == "plain":
            log.add(*step.keys, codec=step.codec)
        elif step.kind == "roll":
            log.roll()
        elif step.kind in ("commit", "abort"):
            if step.producer in opened:
                log.end(step.producer, commit=step.kind == "commit")
                opened.discard(step.producer)
        else:
            writers[step.producer].add(*step.keys)
            if step.producer < 9:
                opened.add(step.producer)
    return log


def visible(log: Compacted) -> list[Record]:
    return list(log.log.records(isolation=FetchIsolation.TXN_COMMITTED))


def is_subsequence(part: list[Record], whole: list[Record]) -> bool:
    rest = iter(whole)
    return all(one in rest for one in part)


def kept_bytes(log: Compacted) -> list[bytes]:
    return [one.raw.tobytes() for one in log.batches()]


@pytest.mark.kafka("PROP-01", "PROP-02", "PROP-03", "PROP-04", "PROP-06", "PROP-07", "PROP-12")
@settings(deadline=None, database=None, max_examples=120)
@given(STEPS)
def test_a_round_keeps_what_readers_need(steps: list[Step]) -> None:
    log = written(steps)
    before, found, end, sequences = visible(log), log.found, log.log.log_end_offset, log.log.producers
    dry = log.clean(dry_run=True)
    stats = log.clean()
    assert (dry.bytes_after, dry.segments_after, dry.end_offset) == (
        stats.bytes_after, stats.segments_after, stats.end_offset,
    )  # fmt: skip
    after = visible(log)
    assert log.found == found
    assert is_subsequence(after, before)
    assert len({one.key for one in after}) == len(after)  # of each key one record
    assert (log.log.log_end_offset, log.log.producers) == (end, sequences)
    assert not log.batches() or log.batches()[-1].next_offset == end
    log.clean_all()
    fixed = kept_bytes(log)
    for _ in range(2):
        log.clean_all()
        assert kept_bytes(log) == fixed
    log.reopen(forgets=True)
    assert (log.found, log.log.log_end_offset) == (found, end)
    known = {one.producer_id: (one.producer_epoch, one.last_sequence, one.last_offset) for one in sequences}
    for one in log.log.producers:
        assert known[one.producer_id] == (one.producer_epoch, one.last_sequence, one.last_offset)


@pytest.mark.kafka("PROP-10", "PROP-11")
@settings(deadline=None, database=None, max_examples=80)
@given(STEPS, st.integers(2, 6))
def test_small_maps_lead_to_what_one_large_map_leads_to(steps: list[Step], room: int) -> None:
    at_once, by_and_by = written(steps), written(steps)
    at_once.clean()
    ends = [0]
    while ends[-1] < by_and_by.log.segments[-1].base_offset:
        ends.append(by_and_by.clean(room=room).end_offset)
        assert ends[-1] > ends[-2]
    assert visible(by_and_by) == visible(at_once)


@pytest.mark.kafka("PROP-01")
@settings(deadline=None, database=None, max_examples=80)
@given(STEPS, st.integers(2, 20))
def test_what_expires_never_brings_an_older_value_back(steps: list[Step], room: int) -> None:
    log = written(steps)
    found = log.found
    for number in range(12):
        log.clean(at=START + number * (RETENTION_MS + 1), room=room)
        assert log.found == found
    log.clean_twice(at=START + 20 * RETENTION_MS)
    assert all(one.value is not None for one in visible(log) if one.key is not None)


@pytest.mark.kafka("PROP-08", "PROP-18")
@settings(deadline=None, database=None, max_examples=60)
@given(STEPS)
def test_every_offset_is_still_a_place_to_read_from(steps: list[Step]) -> None:
    log = written(steps)
    log.reconfigure(segment_bytes=1500)
    log.clean()
    left = [one.offset for one in log.log.records()]
    for offset in range(log.log.log_end_offset + 1):
        assert [one.offset for one in log.log.records(offset)] == [one for one in left if one >= offset]
        data = bytes(log.log.fetch(offset).data)
        if data:
            assert next(iter_batches(data)).last_offset >= offset


@pytest.mark.kafka("PROP-05")
@settings(deadline=None, database=None, max_examples=60)
@given(STEPS, st.integers(0, 100))
def test_what_is_not_cleaned_yet_is_left_as_it_is(steps: list[Step], bound: int) -> None:
    log = written(steps)
    before = log.batches()
    stats = log.clean(uncleanable_offset=bound)
    head = [one.raw.tobytes() for one in before if one.header.base_offset >= stats.uncleanable_offset]
    found = [one.raw.tobytes() for one in log.batches() if one.header.base_offset >= stats.uncleanable_offset]
    assert found == head
    assert dataclasses.replace(log.config).segment_bytes == 700
