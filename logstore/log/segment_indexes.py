"""The offset and the time index of one segment: open for writing, or mapped for reading (FORMAT §4.1 to §4.3a).

Invariants: they are open exactly while the segment is active; sealed ones hold no descriptor of their own. No view of
a map leaves this module, so that an index that is opened again has no readers in this process and may be cut in place;
for other processes see `truncate_to`. A sealed index that is not there reads as empty. Thread-safe for one that writes
and any number that read.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from logstore.fs import FileSystem
from logstore.log.index_file import (
    OFFSET_ENTRY,
    OFFSET_ENTRY_BYTES,
    OFFSET_KEY,
    POSITION_KEY,
    TIME_ENTRY,
    TIME_ENTRY_BYTES,
    TIME_KEY,
    TIME_OFFSET_KEY,
    OffsetIndexFile,
    TimeIndexFile,
)
from logstore.log.maps import MapCache
from logstore.log.offset_index import OffsetIndexEntry
from logstore.log.time_index import TimeIndexEntry
from logstore.names import CLEANED_SUFFIX
from logstore.records.kernel import floor_entry

_NO_TIME = (-1, 0)  # the fields of a time entry below all others


class SegmentIndexes:
    """Both indexes of a segment.

    Args:
        fs, maps: how they are opened and read.
        base_offset: the segment's.
        offset_path, time_path: where they are, or would be.
        bytes_max: how large each may become.
    """

    def __init__(
        self, fs: FileSystem, maps: MapCache, base_offset: int, offset_path: Path, time_path: Path, bytes_max: int
    ) -> None:
        self.base_offset = base_offset
        self.offset_path = offset_path
        self.time_path = time_path
        self.is_open = False
        self._fs = fs
        self._maps = maps
        # The time entry that sealing writes always fits.
        self._bytes_max = max(bytes_max, TIME_ENTRY_BYTES)
        self._offset: OffsetIndexFile | None = None
        self._time: TimeIndexFile | None = None
        # Guards the open indexes (entries move from memory to the file while others search), the paths, and the views
        # of sealed ones. Innermost but for that of the maps.
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        state = f"{self._offset} {self._time}" if self.is_open else "sealed"
        return f"<SegmentIndexes {self.base_offset} {state}>"

    # ---- writing

    def open(self) -> tuple[OffsetIndexFile, TimeIndexFile]:
        """Both, opened or made where they are not yet, with room to grow. Raises OSError; it may be tried again."""
        offset, time = self._offset, self._time
        if offset is not None and time is not None and self.is_open:
            return offset, time
        limits, reserves = (self.base_offset, self._bytes_max), not self._maps.is_shared
        with self._guard:
            self._maps.forget(self.offset_path)
            self._maps.forget(self.time_path)
            # One that was made is kept when the other fails: it is full of zeros, only here its count is known.
            if offset is None:
                offset = self._offset = OffsetIndexFile(self._fs, self.offset_path, *limits, reserves=reserves)
            if time is None:
                time = self._time = TimeIndexFile(self._fs, self.time_path, *limits, reserves=reserves)
            offset.resize(self._bytes_max)
            time.resize(self._bytes_max)
            self.is_open = True
        return offset, time

    @property
    def are_full(self) -> bool:
        """Whether one of them takes no more entries."""
        offset, time = self.open()
        return offset.is_full or time.is_full

    def put(self, last_offset: int, position: int, max_timestamp: int, offset_of_max: int) -> bool:
        """Add an entry to each, if both take one; whether one of them takes no more.

        Raises nothing, for what it belongs to is in the log already. They take none when one is full, as it may be in a
        segment that was opened with less room, or when it holds something else than what is in the log.
        """
        offset, time = self.open()
        with self._guard:
            if offset.is_full or time.is_full:
                return True
            below, last = offset.last_fields, time.last_fields or _NO_TIME
            relative = offset_of_max - self.base_offset
            if (below is None or last_offset - self.base_offset > below[0]) and (
                max_timestamp >= last[0] and relative >= last[1]
            ):
                offset.append(last_offset, position)
                if max_timestamp > last[0]:
                    time.put(max_timestamp, relative)
            return offset.is_full or time.is_full

    def put_final(self, max_timestamp: int, offset_of_max: int) -> None:
        """Add the last time entry of a segment that is sealed. Raises OSError."""
        _, time = self.open()
        with self._guard:
            if max_timestamp > time.last.timestamp and offset_of_max >= time.last.offset:
                if len(time) >= time.capacity:  # the segment was opened with less room than it had
                    time.resize((len(time) + 1) * TIME_ENTRY_BYTES)
                time.maybe_append(max_timestamp, offset_of_max, is_final=True)

    def trim(self) -> None:
        """Cut both to their entries. Raises OSError."""
        pair = self.open()
        with self._guard:
            for index in pair:
                index.trim()

    def truncate_to(self, offset: int, *, was_sealed: bool = False) -> None:
        """Drop the entries at or above `offset`; files that `was_sealed` and others may have mapped are replaced.

        Raises OSError.
        """
        if was_sealed and not self.is_open:
            self._replace(self.offset_path, OFFSET_ENTRY_BYTES, OFFSET_KEY, offset)
            self._replace(self.time_path, TIME_ENTRY_BYTES, TIME_OFFSET_KEY, offset)
        pair = self.open()
        with self._guard:
            for index in pair:
                index.truncate_to(offset)

    def _replace(self, path: Path, size: int, key: tuple[int, int], offset: int) -> None:
        """Put a file with the entries below `offset` in the place of one.

        Nothing is synced: who truncates says before that the indexes of the segment have to be made anew.
        """
        if self._fs.exists(path):
            with self._fs.open(path) as file:
                data = file.read(0, file.size())
            kept = floor_entry(data, len(data) // size, size, *key, offset - self.base_offset - 1) + 1
            temporary = path.with_name(path.name + CLEANED_SUFFIX)
            with self._fs.open(temporary, write=True, create=True) as copy:
                copy.truncate(0)
                copy.write(0, data[: kept * size])
            self._fs.rename(temporary, path)

    def sync(self) -> None:
        """Make both durable; sealed ones stay as they are. Raises OSError."""
        if self._offset is not None and self._time is not None:
            with self._guard:
                self._offset.write()
                self._time.write()
            # Without the guard: nobody shall wait for a disk in order to read.
            self._offset.sync()
            self._time.sync()
            return
        for path in (self.offset_path, self.time_path):
            # One that is not there is made anew when the log is opened; an empty one would be believed.
            with contextlib.suppress(FileNotFoundError), self._fs.open(path, write=True) as file:
                file.sync()

    def rename(self, offset_path: Path, time_path: Path) -> list[Path]:
        """Close both and give them other names, those that are there; their new names. Raises OSError."""
        self.close()
        renamed = []
        with self._guard:
            if self._fs.exists(self.offset_path):
                self._fs.rename(self.offset_path, offset_path)
                renamed.append(offset_path)
            self.offset_path = offset_path
            if self._fs.exists(self.time_path):
                self._fs.rename(self.time_path, time_path)
                renamed.append(time_path)
            self.time_path = time_path
        return renamed

    def move_to(self, directory: Path) -> None:
        """Take note that their directory has another name."""
        with self._guard:
            self._maps.forget(self.offset_path)
            self._maps.forget(self.time_path)
            self.offset_path = directory / self.offset_path.name
            self.time_path = directory / self.time_path.name
            for index in (self._offset, self._time):
                if index is not None:
                    index.path = directory / index.path.name

    def close(self) -> None:
        """Give both back; entries that cannot be written any more are made anew when the log is recovered."""
        with self._guard:
            pair = (self._offset, self._time)
            self._offset, self._time, self.is_open = None, None, False
            for index in pair:
                if index is not None:
                    with contextlib.suppress(OSError):
                        index.close()
            self._maps.forget(self.offset_path)
            self._maps.forget(self.time_path)

    # ---- reading

    def floor_position(self, offset: int) -> int:
        """Where to begin looking for `offset` in the log file, as the index has it: any number, if it is damaged."""
        with self._guard:
            if self._offset is not None:
                return self._offset.lookup(offset).position
            view = self._view(self.offset_path)
            count = len(view) // OFFSET_ENTRY_BYTES
            at = floor_entry(view, count, OFFSET_ENTRY_BYTES, *OFFSET_KEY, offset - self.base_offset) * 8
            return 0 if at < 0 else int.from_bytes(view[at + 4 : at + 8], "big", signed=True)

    def upper_bound_offset(self, position: int, size: int) -> int | None:
        """The offset of the first entry at or behind `position + size`, None if there is none (FORMAT §4.2)."""
        target = position + size - 1
        with self._guard:
            index = self._offset
            if index is not None:
                number = index.floor(target, *POSITION_KEY) + 1
                return self.base_offset + index.get(number)[0] if number < len(index) else None
            view = self._view(self.offset_path)
            count = len(view) // OFFSET_ENTRY_BYTES
            number = floor_entry(view, count, OFFSET_ENTRY_BYTES, *POSITION_KEY, target) + 1
            return self._offset_entry(view, number).offset if number < count else None

    def time_floor(self, timestamp: int) -> TimeIndexEntry:
        """The time entry with the greatest timestamp up to `timestamp`, else (-1, base offset)."""
        with self._guard:
            if self._time is not None:
                return self._time.lookup(timestamp)
            view = self._view(self.time_path)
            number = floor_entry(view, len(view) // TIME_ENTRY_BYTES, TIME_ENTRY_BYTES, *TIME_KEY, timestamp)
            return self._time_entry(view, number)

    @property
    def last_time_entry(self) -> TimeIndexEntry:
        """The last time entry, (-1, base offset) when there is none."""
        with self._guard:
            if self._time is not None:
                return self._time.last
            view = self._view(self.time_path)
            return self._time_entry(view, len(view) // TIME_ENTRY_BYTES - 1)

    @property
    def last_offset_entry(self) -> OffsetIndexEntry:
        """The last entry of the offset index, (base offset, 0) when there is none."""
        with self._guard:
            if self._offset is not None:
                return self._offset.last
            view = self._view(self.offset_path)
            count = len(view) // OFFSET_ENTRY_BYTES
            return self._offset_entry(view, count - 1) if count else OffsetIndexEntry(self.base_offset, 0)

    def sizes(self) -> tuple[int, int]:
        """Bytes of entries in the offset and in the time index; 0 for a file that is not there. Raises OSError."""
        with self._guard:
            offset, time = self._offset, self._time
            if offset is not None and time is not None:
                return len(offset) * OFFSET_ENTRY_BYTES, len(time) * TIME_ENTRY_BYTES
            return self._size(self.offset_path), self._size(self.time_path)

    # ---- inside, under the guard

    def _size(self, path: Path) -> int:
        try:
            return self._fs.file_size(path)
        except FileNotFoundError:
            return 0

    def _view(self, path: Path) -> memoryview:
        try:
            return self._maps.view(path)
        except FileNotFoundError:
            return memoryview(b"")

    def _offset_entry(self, view: memoryview, number: int) -> OffsetIndexEntry:
        relative, position = OFFSET_ENTRY.unpack_from(view, number * OFFSET_ENTRY_BYTES)
        return OffsetIndexEntry(self.base_offset + relative, position)

    def _time_entry(self, view: memoryview, number: int) -> TimeIndexEntry:
        if number < 0:
            return TimeIndexEntry(-1, self.base_offset)
        timestamp, relative = TIME_ENTRY.unpack_from(view, number * TIME_ENTRY_BYTES)
        return TimeIndexEntry(timestamp, self.base_offset + relative)
