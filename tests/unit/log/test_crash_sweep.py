"""A power cut at every file operation of a log's life, in every mode: what was promised is there, and what was dropped
stays away.

What is promised, and noted at once: an append with `always`, a flush, a roll, a truncation and a close make everything
before them durable; what was truncated stays away; the log start stays where it was moved to. What was not promised is
there up to some batch, or not. What is there of transactions is decided as the markers that are there say.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import get_args

import pytest
from helpers.open_logs import SMALL, Place, Producer

from logstore.config import LogConfig
from logstore.log import FetchIsolation, Log
from logstore.testing import CrashMode, SimulatedCrash

CONFIG = dataclasses.replace(SMALL, file_delete_delay_ms=1000)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One offset of the log; a marker has no value."""

    offset: int
    value: bytes | None
    producer_id: int | None = None
    is_abort: bool = False


class Story:
    """A log, what is in it, and what of that is promised."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.entries: list[Entry] = []
        self.promised = 0  # everything below this offset
        self.starts = {0}  # where the log may start
        self.log = place.open(CONFIG)
        self.producers = {number: Producer(self.log, number) for number in (1, 2)}

    @property
    def end(self) -> int:
        return self.entries[-1].offset + 1 if self.entries else 0

    # ---- what happens

    def run(self) -> None:
        self.append(3)
        self.append(1, durability="always")
        self.send(1, 2)
        self.append(2)
        self.finish(1, is_abort=True)
        self.roll()
        self.send(2, 1)
        self.append(2, durability="always")
        self.send(1, 2)
        self.append(3)
        self.finish(2, is_abort=False)
        self.flush()
        self.append(2)
        self.finish(1, is_abort=True)
        self.append(1)
        self.append(4)
        self.append(2)
        self.truncate_to(self.entries[-5].offset)
        self.append(1)
        self.advance_log_start(9)
        self.delete_and_purge()
        self.append(3, durability="always")
        self.append(2)
        self.roll()
        self.truncate_to(14)
        self.append(2)
        self.send(2, 1)
        self.finish(2, is_abort=True)
        self.append(1)
        self.close()

    def append(self, count: int, durability: str | None = None) -> None:
        for _ in range(count):
            value = b"value-%d" % len(self.entries)
            self.entries.append(Entry(self.end, value))
            self.log.append([(b"k", value)], durability=durability)  # type: ignore[arg-type]
        if durability == "always":
            self.promised = self.end

    def send(self, producer_id: int, count: int) -> None:
        producer = self.producers[producer_id]
        for number in range(count):
            value = b"%d:%d" % (producer_id, producer.sequence + number)
            self.entries.append(Entry(self.end, value, producer_id))
        producer.send(count)

    def finish(self, producer_id: int, *, is_abort: bool) -> None:
        self.entries.append(Entry(self.end, None, producer_id, is_abort))
        self.producers[producer_id].end(commit=not is_abort)

    def flush(self) -> None:
        self.log.flush()
        self.promised = self.end

    def roll(self) -> None:
        self.log.roll()
        self.promised = self.end

    def truncate_to(self, offset: int) -> None:
        self.promised = min(self.promised, offset)
        self.log.truncate_to(offset)
        self.entries = [one for one in self.entries if one.offset < offset]
        assert self.end == offset, "cut between two batches"
        self.promised = offset

    def advance_log_start(self, offset: int) -> None:
        self.starts.add(offset)
        self.log.advance_log_start(offset)
        self.starts = {offset}

    def delete_and_purge(self) -> None:
        assert self.log.delete_before_log_start() > 0
        self.place.clock.advance(1000)
        self.log.maintain()

    def close(self) -> None:
        self.log.close()
        self.promised = self.end

    # ---- what is left of it

    def check(self, log: Log) -> None:
        start, end = log.log_start_offset, log.log_end_offset
        assert start in self.starts
        assert self.promised <= end <= max(self.end, start)
        known = [one for one in self.entries if start <= one.offset < end]
        found = [(record.offset, record.value) for record in log.records()]
        assert found == [(one.offset, one.value) for one in known if one.value is not None]
        committed = [record.offset for record in log.records(isolation=FetchIsolation.TXN_COMMITTED)]
        assert committed == self._committed(start, end)

    def _committed(self, start: int, end: int) -> list[int]:
        """The offsets that a committed reader gets, by a walk over what is there."""
        undecided: dict[int, list[int]] = {}
        decided: list[int] = []
        for one in self.entries:
            if one.offset >= end:
                break
            if one.producer_id is None:
                decided.append(one.offset)
            elif one.value is not None:
                undecided.setdefault(one.producer_id, []).append(one.offset)
            else:
                of_producer = undecided.pop(one.producer_id, [])
                decided += [] if one.is_abort else of_producer
        stable = min((offsets[0] for offsets in undecided.values()), default=end)
        return sorted(offset for offset in decided if start <= offset < stable)


@pytest.mark.parametrize("share", [0, 1])
@pytest.mark.parametrize("mode", get_args(CrashMode))
def test_a_power_cut_at_any_file_operation_loses_nothing_that_was_promised(
    mode: CrashMode, share: int, tmp_path: Path
) -> None:
    points = 0
    for stop_at in itertools.count(1 + share, 2):
        place = Place()
        place.fs.stop_at = place.fs.operations + stop_at
        story = None
        try:
            story = Story(place)
            story.run()
            is_finished = True
        except SimulatedCrash:
            is_finished = False
        _check(place.crashed(mode, stop_at), story, tmp_path / str(stop_at), f"{mode}, stopped at {stop_at}")
        points += 1
        if is_finished:
            break
    assert points > 100


def _check(after: Place, story: Story | None, directory: Path, where: str) -> None:
    """What is left is as promised, healthy, and goes on, also when it is opened once more."""
    with after.open(CONFIG) as log:
        if story is not None:
            story.check(log)
        end = log.log_end_offset
        # Of what was to be deleted a part may be back: whoever has moved the log start deletes it again.
        log.delete_before_log_start()
        assert log.append([(None, b"more")]).first_offset == end, where
    assert after.alarms(directory) == [], where
    shutil.rmtree(directory)
    with after.open(LogConfig()) as log:
        assert log.recovered is None or log.recovered.was_clean, where
        assert log.log_end_offset == end + 1, where
