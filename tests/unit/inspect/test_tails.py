"""The end of a file means damage, or what a broker that runs or was killed leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from logstore.inspect import LogDirectoryContext
from logstore.inspect.tails import explain_tail
from logstore.records import Damage, DamageCode

CLEAN, UNCLEAN = (LogDirectoryContext(Path("data"), is_clean, {}, {}, {}, {}, ()) for is_clean in (True, False))


@pytest.mark.parametrize("code", list(DamageCode))
@pytest.mark.parametrize("context", [CLEAN, UNCLEAN, None])
def test_nothing_excuses_the_end_of_a_segment_that_is_not_the_last(
    code: DamageCode, context: LogDirectoryContext | None
) -> None:
    assert explain_tail(Damage(0, 100, code), False, context) is None


@pytest.mark.parametrize("code", list(DamageCode))
def test_nothing_excuses_it_after_a_clean_shutdown(code: DamageCode) -> None:
    assert explain_tail(Damage(0, 100, code), True, CLEAN) is None


@pytest.mark.parametrize("context", [UNCLEAN, None])
def test_zeros_are_preallocated_space(context: LogDirectoryContext | None) -> None:
    tail = explain_tail(Damage(0, 17, DamageCode.ZERO_TAIL), True, context)
    assert tail is not None and not tail.is_damage and not tail.is_warning


@pytest.mark.parametrize("context", [UNCLEAN, None])
def test_a_few_zeros_may_be_the_first_bytes_of_a_batch(context: LogDirectoryContext | None) -> None:
    tail = explain_tail(Damage(0, 16, DamageCode.ZERO_TAIL), True, context)
    assert tail is not None and not tail.is_damage and tail.is_warning


def test_a_torn_batch_is_what_a_kill_leaves_in_a_log_directory() -> None:
    tail = explain_tail(Damage(0, 100, DamageCode.TORN_TAIL), True, UNCLEAN)
    assert tail is not None and not tail.is_damage and tail.is_warning


def test_a_torn_batch_in_a_segment_by_itself_is_damage() -> None:
    assert explain_tail(Damage(0, 100, DamageCode.TORN_TAIL), True, None) is None


@pytest.mark.parametrize(
    "code", [DamageCode.BATCH_CRC, DamageCode.BATCH_SIZE, DamageCode.BATCH_MAGIC, DamageCode.ZEROS]
)
def test_bad_bytes_are_damage_wherever_they_are(code: DamageCode) -> None:
    assert explain_tail(Damage(0, 100, code), True, UNCLEAN) is None


def test_a_file_that_became_shorter_is_at_work() -> None:
    tail = explain_tail(Damage(0, 100, DamageCode.FILE_SHRANK), True, UNCLEAN)
    assert tail is not None and not tail.is_damage
