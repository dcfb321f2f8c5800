"""The segments of one log by base offset, and what happens to their files as a whole (LOG_SEMANTICS §1, §8, §12).

Invariant: never two of one base offset; the last one is active. Readers need no lock: a change puts another table in
the place of the old one, in one assignment. Changes are made under the log's lock. Every rename of a segment is made
here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from logstore import names
from logstore.fs import FileSystem
from logstore.log.segment import Segment


class _Table(NamedTuple):
    bases: tuple[int, ...] = ()
    segments: tuple[Segment, ...] = ()


class Doomed(NamedTuple):
    """Files that wait to be unlinked."""

    due_ms: int
    paths: tuple[Path, ...]


class Segments:
    """A map from base offset to segment, in order."""

    def __init__(self, fs: FileSystem, directory: Path) -> None:
        self.directory = directory
        self._fs = fs
        self._table = _Table()
        self._doomed: list[Doomed] = []

    def __repr__(self) -> str:
        return f"<Segments {len(self)} of {self.directory}>"

    def __len__(self) -> int:
        return len(self._table.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._table.segments)

    def __contains__(self, base_offset: int) -> bool:
        return self.get(base_offset) is not None

    # ---- the map

    def add(self, segment: Segment) -> Segment | None:
        """Put a segment in its place; the one that had its base offset until now."""
        bases, segments = self._table
        at = bisect_left(bases, segment.base_offset)
        old = segments[at] if at < len(bases) and bases[at] == segment.base_offset else None
        behind = at + (old is not None)
        self._table = _Table(
            (*bases[:at], segment.base_offset, *bases[behind:]), (*segments[:at], segment, *segments[behind:])
        )
        return old

    def load(self, segments: list[Segment]) -> None:
        """Put these segments, in order, in the place of all."""
        self._table = _Table(tuple(one.base_offset for one in segments), tuple(segments))

    def remove(self, base_offset: int) -> Segment | None:
        """Take a segment out of the map; its files stay."""
        bases, segments = self._table
        at = bisect_left(bases, base_offset)
        if at == len(bases) or bases[at] != base_offset:
            return None
        self._table = _Table((*bases[:at], *bases[at + 1 :]), (*segments[:at], *segments[at + 1 :]))
        return segments[at]

    def get(self, base_offset: int) -> Segment | None:
        """The segment with exactly this base offset."""
        bases, segments = self._table
        at = bisect_left(bases, base_offset)
        return segments[at] if at < len(bases) and bases[at] == base_offset else None

    @property
    def bases(self) -> tuple[int, ...]:
        """All base offsets, ascending."""
        return self._table.bases

    @property
    def first(self) -> Segment:
        """The oldest segment. Raises IndexError when there is none."""
        return self._table.segments[0]

    @property
    def active(self) -> Segment:
        """The segment that is appended to. Raises IndexError when there is none."""
        return self._table.segments[-1]

    @property
    def size(self) -> int:
        """Bytes of all log files."""
        return sum(segment.size for segment in self._table.segments)

    def floor(self, offset: int) -> Segment | None:
        """The segment with the greatest base offset up to `offset`."""
        bases, segments = self._table
        at = bisect_right(bases, offset)
        return segments[at - 1] if at else None

    def lower(self, offset: int) -> Segment | None:
        """The segment with the greatest base offset below `offset`."""
        bases, segments = self._table
        at = bisect_left(bases, offset)
        return segments[at - 1] if at else None

    def higher(self, offset: int) -> Segment | None:
        """The segment with the least base offset above `offset`."""
        bases, segments = self._table
        at = bisect_right(bases, offset)
        return segments[at] if at < len(bases) else None

    def above(self, offset: int) -> tuple[Segment, ...]:
        """The segments whose base offset is greater than `offset`, ascending."""
        bases, segments = self._table
        return segments[bisect_right(bases, offset) :]

    def from_floor(self, offset: int) -> tuple[Segment, ...]:
        """The segment that `offset` belongs to and all behind it; all when `offset` is below the first."""
        bases, segments = self._table
        return segments[max(bisect_right(bases, offset) - 1, 0) :]

    def values(self, first_offset: int, end_offset: int) -> tuple[Segment, ...]:
        """The segments from that of `first_offset` up to those that begin below `end_offset`. Raises ValueError."""
        if first_offset > end_offset:
            raise ValueError(f"a range from {first_offset} up to {end_offset} ends before it begins")
        if first_offset == end_offset:
            return ()
        bases, segments = self._table
        start = max(bisect_right(bases, first_offset) - 1, 0)
        return segments[start : max(bisect_left(bases, end_offset), start)]

    def non_active_from(self, offset: int) -> tuple[Segment, ...]:
        """All segments from that of `offset` on but the active one; none when that one is it."""
        return self.from_floor(offset)[:-1] if len(self) else ()

    # ---- their files

    def doom(self, segment: Segment, due_ms: int) -> list[Path]:
        """Rename the files of a segment that is no longer in the map, for `purge` to unlink them from `due_ms` on.

        Who has the segment still may read on, also when they are unlinked. Raises OSError.
        """
        renamed = segment.rename(names.DELETED_SUFFIX)
        segment.doom()
        self._doomed.append(Doomed(due_ms, tuple(renamed)))
        return renamed

    def doom_file(self, path: Path, due_ms: int) -> None:
        """Let `purge` unlink a renamed file from `due_ms` on."""
        self._doomed.append(Doomed(due_ms, (path,)))

    def purge(self, now_ms: int) -> int:
        """Unlink the files that are due; how many there were. Raises OSError."""
        due = [one for one in self._doomed if one.due_ms <= now_ms]
        count = 0
        for one in due:
            for path in one.paths:
                self._fs.unlink(path, missing_ok=True)
                count += 1
            self._doomed.remove(one)
        return count

    def replace(self, new: list[Segment], old: list[Segment], due_ms: int) -> None:
        """Let `.cleaned` segments take the place of others, so that a crash leaves the old or the new (§12).

        Where no new one reaches, a crash may leave the last of the old ones; without any, that is all it may do. Raises
        OSError; the log has to be opened again then.
        """
        ascending = sorted(new, key=lambda one: one.base_offset)
        # What begins behind the new ones is not removed by a load that completes the replacement.
        covered = ascending[-1].next_offset() if ascending else -1
        if ascending:
            self._commit(ascending)
        kept = {segment.base_offset for segment in new}
        for segment in sorted(old, key=lambda one: one.base_offset):
            if segment.base_offset not in kept:
                self.remove(segment.base_offset)
            self.doom(segment, due_ms)
            if segment.base_offset >= covered and segment.size:
                # Else a power cut might bring back this one and not the next, and what that one has deleted.
                self._sync()
        if ascending:
            # Else a power cut might keep the new name below and bring back an old one that is in it.
            self._sync()
        for segment in ascending:
            # A transaction index without suffix, beside a `.swap` log, is taken for the old one, which goes; nobody
            # would miss the new one.
            segment.rename("", self._sync)
            self.add(segment)
            # A load drops what lies between two `.swap` files: none may have its name before those below it.
            self._sync()

    def _sync(self) -> None:
        self._fs.sync_directory(self.directory)

    def _commit(self, ascending: list[Segment]) -> None:
        """Rename `.cleaned` segments to `.swap`; from then on a crash completes their replacement."""
        # Else a power cut might keep the index of a segment as `.swap` and nothing of its log, and a load would take
        # that for a replacement which was nearly done.
        self._sync()
        # As long as a file is `.cleaned`, a load drops the `.swap` files from its offset on: the first one comes last,
        # and its new name may not be durable before those of the others.
        for segment in reversed(ascending[1:]):
            segment.rename(names.SWAP_SUFFIX)
        if ascending[1:]:
            self._sync()
        ascending[0].rename(names.SWAP_SUFFIX)
        self._sync()

    def move_to(self, directory: Path) -> None:
        """Take note that the directory has another name."""
        self.directory = directory
        self._doomed = [Doomed(due, tuple(directory / path.name for path in paths)) for due, paths in self._doomed]
        for segment in self._table.segments:
            segment.move_to(directory)

    def close(self) -> None:
        """Give up what all segments have open."""
        for segment in self._table.segments:
            segment.close()
