"""Logs with messages of formats v0 and v1: what readers find stays, and all becomes format v2 (CLEANER §10)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from helpers.cleaning import RETENTION_MS, Compacted, key
from helpers.legacy_batches import LEGACY_CODECS, record_set
from helpers.open_logs import START

from logstore.config import LogConfig
from logstore.records import BatchOptions, Codec, encode_batch

CONFIG = LogConfig(cleanup_policy=frozenset({"compact"}), segment_bytes=4000)


def put(log: Compacted, magic: int, codec: Codec, *keys: int) -> None:
    first = log.log.log_end_offset
    rows = [(key(number), b"%d" % (first + place), START + place) for place, number in enumerate(keys)]
    log.replicate(
        record_set(magic, rows, codec=codec, base_offset=first)
        if magic < 2
        else encode_batch(rows, base_offset=first, options=BatchOptions(leader_epoch=0, codec=codec))
    )


@pytest.mark.parametrize("codec", LEGACY_CODECS)
@pytest.mark.parametrize("per_set", [1, 7])
@pytest.mark.kafka("CLEAN-54", "CLEAN-55")
def test_readers_find_the_same_in_logs_of_mixed_formats(codec: Codec, per_set: int, tmp_path: Path) -> None:
    log = Compacted(CONFIG)
    for magic in (0, 1, 2, 1):
        for start in range(1, 50, per_set):
            put(log, magic, codec, *range(start, start + per_set))
        log.roll()
        found = log.found
        log.clean()
        assert log.found == found
    for number in range(3):
        log.clean_all(at=START + number * RETENTION_MS)
        assert log.found == found
    assert {batch.header.magic for batch in log.batches()} == {2}
    assert {batch.codec for batch in log.batches()} == {codec}
    assert sorted(log.keys) == sorted(found)
    log.log.close()
    assert log.place.alarms(tmp_path) == []


def test_a_log_that_only_grows_by_conversion_goes_on_in_more_segments() -> None:
    log = Compacted(dataclasses.replace(CONFIG, segment_bytes=1000))
    for number in range(1, 60):
        put(log, 0, Codec.NONE, number)
    log.roll()
    found, before = log.found, len(log.bases)
    stats = log.clean()
    assert (stats.batches_converted, stats.bytes_after > stats.bytes_before, log.found) == (59, True, found)
    assert len(log.bases) > before
    assert len(log.bases) == stats.segments_after + 1
    assert log.reopen(forgets=True).found == found
