"""Groups that were written: durable, compared and swapped in their order, by the cleaner's thread or by a helper."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from helpers.cleaning import COMPACTED, Compacted
from helpers.open_logs import START

from logstore.cleaner import Cleaner, Verifier
from logstore.errors import CleaningAbortedError, VerificationError
from logstore.fs import FileSystem

WAYS = [{}, {"verifies": True}]


def log_of_groups(groups: int = 4) -> Compacted:
    """Segments too large to be merged, so that each is a group; of each something stays."""
    log = Compacted()
    for number in range(1, groups + 1):
        log.each(*range(6), 10 * number, *range(6)).roll()
    return log.reconfigure(segment_bytes=max(one.size for one in log.log.segments) + 1, file_delete_delay_ms=0)


def clean(log: Compacted, *, has_helper: bool, **options: Any) -> Any:
    return Cleaner(1 << 16, seed=bytes(16), has_helper=has_helper).clean(log.log, now_ms=START, **options)


@pytest.mark.parametrize("has_helper", [False, True])
@pytest.mark.parametrize("options", WAYS)
def test_the_same_files_come_of_every_way(has_helper: bool, options: dict[str, bool]) -> None:
    one, other = log_of_groups(), log_of_groups()
    expected = clean(one, has_helper=False)
    found = clean(other, has_helper=has_helper, **options)
    one.log.close()
    other.log.close()
    assert (expected.groups, other.files(".log")) == (4, one.files(".log"))
    assert other.files(".index") == one.files(".index")
    assert found.records_after == expected.records_after == 10
    assert other.place.names(".deleted") == []


def test_what_was_compared_is_told() -> None:
    log = log_of_groups()
    verified = clean(log, has_helper=False, verifies=True).verified
    assert (verified.values, verified.tombstones, verified.shards) == (10, 0, 1)
    assert clean(log, has_helper=False).verified is None


@pytest.mark.parametrize("has_helper", [False, True])
def test_where_the_comparison_fails_nothing_has_changed(monkeypatch: pytest.MonkeyPatch, has_helper: bool) -> None:
    def lost(*_: object) -> None:
        raise VerificationError("a key has lost its value")

    monkeypatch.setattr(Verifier, "compare", lost)
    log = log_of_groups()
    before = log.files()
    with pytest.raises(VerificationError):
        clean(log, has_helper=has_helper, verifies=True)
    assert log.files() == before
    log.add(1)
    assert log.found[1] == b"52"


@pytest.mark.parametrize("has_helper", [False, True])
@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("kind", ["write", "sync"])
def test_a_full_disk_leaves_no_file_and_the_log_as_it_was(
    has_helper: bool, options: dict[str, bool], kind: str
) -> None:
    log = log_of_groups()
    before, expected = log.files(), log.found
    log.place.fs.fail_on(
        lambda operation: operation.kind == kind and operation.path.endswith(".cleaned"),
        OSError(errno.ENOSPC, "No space left on device"),
    )
    with pytest.raises(OSError, match="No space"):
        clean(log, has_helper=has_helper, **options)
    log.place.fs.heal()
    assert [name for name in log.place.names() if ".cleaned" in name or ".swap" in name] == []
    assert log.files() == before or not options  # without the comparison, groups before the one that failed are swapped
    assert log.found == expected
    assert clean(log, has_helper=has_helper, **options).records_after == 10


@pytest.mark.parametrize("has_helper", [False, True])
@pytest.mark.parametrize("options", WAYS)
def test_called_off_at_any_moment_nothing_is_left_behind(has_helper: bool, options: dict[str, bool]) -> None:
    expected = log_of_groups().found
    for moment in range(1, 200):
        log, asked = log_of_groups(), iter(range(1, 10_000))
        cleaner = Cleaner(
            1 << 16, seed=bytes(16), has_helper=has_helper, is_cancelled=lambda: next(asked) >= moment  # noqa: B023
        )  # fmt: skip
        try:
            cleaner.clean(log.log, now_ms=START, **options)
        except CleaningAbortedError:
            assert [name for name in log.place.names() if ".cleaned" in name or ".swap" in name] == []
            assert log.found == expected
            assert log.log.cleaner_point is None
        else:
            assert moment > 10
            return
    raise AssertionError("it asks for ever")


def test_the_disk_is_given_back_while_it_goes_on() -> None:
    log, sizes = log_of_groups(8), []
    fs: FileSystem = log.place.fs

    def note(_: int) -> None:
        sizes.append(len([name for name in fs.list(log.log.directory) if name.endswith(".log")]))

    Cleaner(1 << 16, seed=bytes(16), on_progress=note).clean(log.log, now_ms=START)
    # Eight segments and the active one, and the one that is being written: never more.
    assert max(sizes) <= 10
    assert COMPACTED.file_delete_delay_ms > 0
