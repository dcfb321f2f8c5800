"""The strategies draw what a log takes; without Hypothesis they say what is missing, and nothing else does."""

from __future__ import annotations

import importlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstore.records import encode_batch, iter_batches
from logstore.testing import strategies


def test_without_hypothesis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.delitem(sys.modules, "logstore.testing.strategies")
    with pytest.raises(ImportError, match="extra `test`"):
        importlib.import_module("logstore.testing.strategies")


@given(strategies.records(count_max=3, around_ms=5_000, keyed=True))
def test_records_can_be_encoded_and_have_what_was_asked_for(records: list[strategies.RecordTuple]) -> None:
    (batch,) = iter_batches(encode_batch(records))
    assert 1 <= batch.header.count <= 3
    for record in batch.records():
        assert record.key is not None
        assert record.timestamp == -1 or 3_000 <= record.timestamp <= 7_000


@given(st.integers(0, 50), st.data())
def test_a_leaders_batch_begins_where_it_was_asked_to_or_a_little_behind(base: int, data: st.DataObject) -> None:
    (batch,) = iter_batches(data.draw(strategies.batches(base_offset=base, gap_max=3)))
    assert base <= batch.header.base_offset <= base + 3
    assert batch.records()[-1].offset <= batch.last_offset


@given(strategies.configs(), strategies.producer_histories(producers=3, steps_max=4))
def test_settings_are_small_and_histories_short(config: object, history: list[strategies.ProducerStep]) -> None:
    assert config.segment_bytes <= 20_000  # type: ignore[attr-defined]
    assert len(history) <= 4
    assert {step.producer_id for step in history} <= {1, 2, 3}
