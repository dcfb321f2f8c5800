"""Leader epochs of a partition: which leader's reign began at which offset (`leader-epoch-checkpoint`).

Invariant: entries increase strictly in epoch and in start offset. `LeaderEpochs` is a value: assigning and truncating
return another one (or the same object, when nothing changed and nothing need be written), so it is thread-safe.
The file may hold entries that are stale, never lack one; see `LeaderEpochs.of`. Rules: LOG_SEMANTICS.md §10.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from logstore.errors import CorruptCheckpointError
from logstore.log.checkpoint import INT32_MAX, INT64_MAX, CheckpointLine, format_checkpoint, parse_checkpoint

UNDEFINED_EPOCH = -1
UNDEFINED_OFFSET = -1

_by_epoch = attrgetter("epoch")
_by_start_offset = attrgetter("start_offset")


class EpochEntry(NamedTuple):
    """The first offset of the records of one leader epoch."""

    epoch: int
    start_offset: int


class EpochEndOffset(NamedTuple):
    """Where an epoch ends (the next one's start, or the log end offset); (-1, -1) if that is not known."""

    epoch: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class LeaderEpochs:
    """All known epochs of a partition, ascending. Build it with `of`, which keeps the invariant."""

    entries: tuple[EpochEntry, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[EpochEntry]) -> LeaderEpochs:
        """Assign the entries one after the other: one that is not above those before it removes them.

        Raises:
            ValueError: as `assign`.
        """
        epochs = cls()
        for entry in entries:
            epochs = epochs.assign(*entry)
        return epochs

    @property
    def latest(self) -> EpochEntry | None:
        """The last entry, if there is any."""
        return self.entries[-1] if self.entries else None

    @property
    def earliest(self) -> EpochEntry | None:
        """The first entry, if there is any."""
        return self.entries[0] if self.entries else None

    def assign(self, epoch: int, start_offset: int) -> LeaderEpochs:
        """Add an epoch, removing trailing entries that are not below it in both epoch and start offset.

        Returns this object if the latest entry has this epoch and starts no later.

        Raises:
            ValueError: the epoch or the offset is negative.
        """
        if epoch < 0 or start_offset < 0:
            raise ValueError(f"leader epoch {epoch} starting at offset {start_offset} is negative")
        latest = self.latest
        if latest is not None and latest.epoch == epoch and latest.start_offset <= start_offset:
            return self
        keep = len(self.entries)
        while keep and (self.entries[keep - 1].epoch >= epoch or self.entries[keep - 1].start_offset >= start_offset):
            keep -= 1
        return LeaderEpochs((*self.entries[:keep], EpochEntry(epoch, start_offset)))

    def truncate_from_end(self, end_offset: int) -> LeaderEpochs:
        """Remove the entries that start at or after `end_offset`; nothing if it is negative."""
        keep = bisect_left(self.entries, end_offset, key=_by_start_offset)
        return self if end_offset < 0 or keep == len(self.entries) else LeaderEpochs(self.entries[:keep])

    def truncate_from_start(self, start_offset: int) -> LeaderEpochs:
        """Forget what lies before `start_offset`: the epoch it is in now starts there, earlier ones are removed."""
        drop = bisect_right(self.entries, start_offset, key=_by_start_offset)
        if drop == 0 or (drop == 1 and self.entries[0].start_offset == start_offset):
            return self
        return LeaderEpochs((EpochEntry(self.entries[drop - 1].epoch, start_offset), *self.entries[drop:]))

    def end_offset_for(self, epoch: int, log_end_offset: int) -> EpochEndOffset:
        """Return the largest known epoch <= `epoch` and where it ends; this is how a follower finds where to cut.

        The latest epoch ends at `log_end_offset`. Below the first entry the answer is (`epoch`, first start offset);
        for -1, or above the latest, (-1, -1).
        """
        latest = self.latest
        if epoch == UNDEFINED_EPOCH or latest is None or epoch > latest.epoch:
            return EpochEndOffset(UNDEFINED_EPOCH, UNDEFINED_OFFSET)
        if epoch == latest.epoch:
            return EpochEndOffset(epoch, log_end_offset)
        higher = bisect_right(self.entries, epoch, key=_by_epoch)
        floor = self.entries[higher - 1].epoch if higher else epoch
        return EpochEndOffset(floor, self.entries[higher].start_offset)

    def epoch_for_offset(self, offset: int) -> int | None:
        """Return the epoch of the last entry that starts at or before `offset`."""
        found = bisect_right(self.entries, offset, key=_by_start_offset)
        return self.entries[found - 1].epoch if found else None

    def entry_for(self, epoch: int) -> EpochEntry | None:
        """Return the entry of exactly this epoch."""
        found = bisect_left(self.entries, epoch, key=_by_epoch)
        return self.entries[found] if found < len(self.entries) and self.entries[found].epoch == epoch else None

    def previous_entry(self, epoch: int | None = None) -> EpochEntry | None:
        """Return the entry before `epoch` (which need not be known), or the one before the latest."""
        below = len(self.entries) - 1 if epoch is None else bisect_left(self.entries, epoch, key=_by_epoch)
        return self.entries[below - 1] if below > 0 else None

    def previous_epoch(self, epoch: int | None = None) -> int | None:
        """Return the greatest known epoch below `epoch`, or the one before the latest."""
        previous = self.previous_entry(epoch)
        return None if previous is None else previous.epoch

    def next_epoch(self, epoch: int) -> int | None:
        """Return the least known epoch above `epoch`."""
        above = bisect_right(self.entries, epoch, key=_by_epoch)
        return self.entries[above].epoch if above < len(self.entries) else None


def parse_leader_epoch_checkpoint(data: bytes) -> tuple[EpochEntry, ...]:
    """Read a `leader-epoch-checkpoint` file (FORMAT.md §5.2): its entries as they stand there, in any order.

    Raises:
        CorruptCheckpointError: the text is not a checkpoint of version 0, or an entry is not two numbers from 0.
    """
    return tuple(_parse_entry(line) for line in parse_checkpoint(data))


def format_leader_epoch_checkpoint(entries: Iterable[EpochEntry]) -> bytes:
    """Return the text of a `leader-epoch-checkpoint` file with these entries."""
    return format_checkpoint(f"{epoch} {start_offset}" for epoch, start_offset in entries)


def _parse_entry(line: CheckpointLine) -> EpochEntry:
    epoch_text, start_offset_text = line.fields(2)
    epoch = line.number(epoch_text, INT32_MAX)
    start_offset = line.number(start_offset_text, INT64_MAX)
    if epoch < 0 or start_offset < 0:
        raise CorruptCheckpointError(
            f"line {line.line_number} has a negative epoch or start offset", position=line.position
        )
    return EpochEntry(epoch, start_offset)
