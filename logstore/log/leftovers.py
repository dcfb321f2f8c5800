"""The files of a partition directory, and those that a crash has left in the middle of something (LOG_SEMANTICS §11
steps 2 to 4).

Invariant: looking changes nothing; settling leaves the old segments or the new ones, never a mixture, and may be
interrupted anywhere and begun anew. What is not named exactly as a segment's file is nobody's business here, nor is a
directory, whatever its name. Runs before anybody else has the log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from logstore import names
from logstore.config import INT64_MAX, LogConfig
from logstore.fs import FileSystem
from logstore.log.aside import UNFINISHED_SUFFIX
from logstore.log.index_file import RELATIVE_OFFSET_MAX
from logstore.log.segment_scan import scan_segment
from logstore.names import FileKind

INDEX_KINDS = (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX)
_KINDS = frozenset({FileKind.LOG, *INDEX_KINDS, FileKind.PRODUCER_SNAPSHOT})

_OFFSET_DIGITS = len(names.log_file_name(0).partition(".")[0])  # a name with more or fewer is no segment's

Note = Callable[[str, Path, str], None]
"""Told what is done: a word for it, the file, and the details."""


class _Found(NamedTuple):
    name: str
    base_offset: int
    kind: FileKind


class PartitionListing:
    """What is in a partition directory, by one listing of it. Raises OSError.

    Attributes:
        bases: the base offsets of the segments that there will be once all is settled, ascending.
        snapshots: the offsets of the producer snapshots, ascending.
        was_replacing: whether segments were being replaced by others.
    """

    def __init__(self, fs: FileSystem, directory: Path, config: LogConfig) -> None:
        self._fs = fs
        self._directory = directory
        place = os.fspath(directory)
        live: list[_Found] = []
        left: dict[str, list[_Found]] = {names.DELETED_SUFFIX: [], names.CLEANED_SUFFIX: [], names.SWAP_SUFFIX: []}
        self._unfinished: list[str] = []
        for name in fs.list(directory):
            kind, base, suffix = names.classify_file(name)
            if base is not None and kind in _KINDS and name.find(".") == _OFFSET_DIGITS and name[0] != "+":
                if suffix is None:
                    live.append(_Found(name, base, kind))
                elif not fs.is_directory(os.path.join(place, name)):
                    left[suffix].append(_Found(name, base, kind))
            elif _is_unfinished(name):
                self._unfinished.append(name)
        self._deleted, self._cleaned, swaps = left.values()
        self.was_replacing = bool(swaps or self._cleaned)
        self._undone = self._unfinished_swaps(swaps, live, config)
        swaps = [one for one in swaps if one not in self._undone]
        bases = [one.base_offset for one in swaps if one.kind is FileKind.LOG]
        # Segments are replaced one group at a time: what lies between its first and its last one is replaced too.
        end = max((self._end_of(base, names.SWAP_SUFFIX, config) for base in bases), default=0)
        self._replaced = [one for one in live if bases and min(bases) <= one.base_offset < end]
        # What a file is called now, by what it will be.
        self._names = {one[1:]: one.name for one in live}
        for one in self._replaced:
            del self._names[one[1:]]
        self._names |= {one[1:]: one.name for one in swaps}
        self.bases = sorted(
            base
            for (base, kind), name in self._names.items()
            if kind is FileKind.LOG and not fs.is_directory(os.path.join(place, name))
        )
        self.snapshots = sorted(base for base, kind in self._names if kind is FileKind.PRODUCER_SNAPSHOT)
        known = set(self.bases)
        self._orphans = [
            one for one in (*live, *swaps)
            if one.kind in INDEX_KINDS and one.base_offset not in known and one not in self._replaced
        ]  # fmt: skip
        self._swaps = [one for one in swaps if one not in self._orphans]

    def __repr__(self) -> str:
        return f"<PartitionListing {len(self.bases)} segments of {self._directory}>"

    def now(self, base_offset: int, kind: FileKind) -> Path:
        """Where a file of a segment is, until it is settled. Raises KeyError where there is none."""
        return self._directory / self._names[base_offset, kind]

    def has(self, base_offset: int, kind: FileKind) -> bool:
        """Whether there is such a file of a segment."""
        return (base_offset, kind) in self._names

    def settle(self, note: Note) -> None:
        """Finish what was begun, or undo it; remove what belongs to nothing. Raises OSError."""
        undone = self._unlink(self._undone, "a replacement was not finished", note)
        if undone:
            # Without the `.cleaned` files the others would count as a complete replacement.
            self._fs.sync_directory(self._directory)
        self._unlink(self._cleaned, "a replacement was not finished", note)
        if self._swaps:
            self._unlink(self._replaced, "it was replaced", note)
            # What comes back would be there twice, in the old segment and in the new one.
            self._fs.sync_directory(self._directory)
            for base in sorted({one.base_offset for one in self._swaps}):
                self._finish(base, note)
        self._unlink(self._deleted, "was deleted already", note)
        self._unlink(self._orphans, "an index without its log file", note)
        for name in self._unfinished:
            self._fs.unlink(self._directory / name, missing_ok=True)

    def _finish(self, base_offset: int, note: Note) -> None:
        """Give the `.swap` files of a segment their names, durably, the transaction index last (`Segments.replace`)."""
        files = [one for one in self._swaps if one.base_offset == base_offset]
        for one in sorted(files, key=lambda one: one.kind is FileKind.TRANSACTION_INDEX):
            if one.kind is FileKind.TRANSACTION_INDEX:
                self._fs.sync_directory(self._directory)
            target = names.segment_file_name(one.base_offset, one.kind)
            self._fs.rename(self._directory / one.name, self._directory / target)
            note("rename", self._directory / one.name, f"to {target}: a replacement is finished")
        self._fs.sync_directory(self._directory)

    def _unfinished_swaps(self, swaps: list[_Found], live: list[_Found], config: LogConfig) -> list[_Found]:
        """The `.swap` files of a replacement that has not come to the point where the old segments go.

        It is complete once no file of it is `.cleaned` any more. They are renamed from the last one on, so those at or
        above a `.cleaned` one count as begun. Those below belong to an earlier replacement, which is complete: while it
        was made, the next one was written already. But a crash may lose some renames and keep later ones: where a
        segment that is still there holds what is `.cleaned` and what is `.swap`, all are undone.
        """
        cleaned = [one.base_offset for one in self._cleaned]
        if not cleaned:
            return []
        logs = sorted(one.base_offset for one in live if one.kind is FileKind.LOG)
        for swap in swaps:
            floor = max((base for base in logs if base <= swap.base_offset), default=None)
            if floor is not None and swap.base_offset < self._end_of(floor, "", config):
                following = min((base for base in logs if base > floor), default=INT64_MAX)
                if any(floor <= base < following for base in cleaned):
                    return swaps
        return [one for one in swaps if one.base_offset >= min(cleaned)]

    def _unlink(self, files: Iterable[_Found], why: str, note: Note) -> int:
        count = 0
        for one in files:
            path = self._directory / one.name
            if not self._fs.is_directory(path):
                self._fs.unlink(path, missing_ok=True)
                note("remove", path, why)
                count += 1
        return count

    def _end_of(self, base_offset: int, suffix: str, config: LogConfig) -> int:
        """The offset behind the last batch of a log file that can be trusted."""
        with self._fs.open(self._directory / names.log_file_name(base_offset, suffix)) as file:
            scan = scan_segment(file, base_offset, config)
        return base_offset + RELATIVE_OFFSET_MAX + 1 if scan.overflows is not None else scan.next_offset


def _is_unfinished(name: str) -> bool:
    """Whether only a recovery that was interrupted can have left this file."""
    if name.endswith(UNFINISHED_SUFFIX):
        return name.startswith(".")
    if not name.endswith(names.TEMPORARY_FILE_SUFFIX):
        return False
    kind, _, suffix = names.classify_file(name.removesuffix(names.TEMPORARY_FILE_SUFFIX))
    return kind in INDEX_KINDS and suffix is None
