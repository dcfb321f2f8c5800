"""The log file of one segment: written at its end, cut, renamed, and read through maps or from the file.

Invariants: a file is never cut below what of it was ever mapped, it is replaced by a shorter copy; a map belongs to the
file that has the name now. One writes, under the log's lock; any number may read beside it, and finish undisturbed
when the file is closed, replaced, renamed or removed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from logstore import names
from logstore.errors import LogClosedError
from logstore.fs import Buffer, File, FileMap, FileSystem
from logstore.log.maps import MapCache

_MAP_STEP = 1 << 20  # an open file is mapped anew when it has grown by this
_COPY_BYTES = 1 << 20
_RESERVED_FROM = 1 << 20  # a file that grew to this gets blocks set aside ahead of its writes
_RESERVED_BYTES = 16 << 20  # at most so many


class LogFile:
    """A log file: open for writing, or sealed; then it has no descriptor of its own.

    Args:
        fs, path: where it is.
        maps: where sealed files are mapped.
        has_spare_room: whether it is made longer than what is in it (preallocate). It is not mapped while it is open
            then: to cut the spare room would be to cut a mapped file.
    """

    __slots__ = (
        "_file", "_fs", "_guard", "_has_reserved", "_has_spare_room", "_is_doomed", "_map", "_mapped_size", "_maps",
        "_name", "_reserve_from",
    )  # fmt: skip

    def __init__(self, fs: FileSystem, path: Path | str, maps: MapCache, *, has_spare_room: bool) -> None:
        self._name = os.fspath(path)
        self._fs = fs
        self._maps = maps
        self._has_spare_room = has_spare_room
        self._file: File | None = None
        self._map: FileMap | None = None  # of the open file, or of one that will be removed
        self._mapped_size = 0  # the largest map there ever was of the file that is at the path
        self._is_doomed = False
        # From where on blocks are set aside; short logs need none.
        self._reserve_from = 2**63 if has_spare_room else _RESERVED_FROM
        self._has_reserved = False
        # Guards that path, file and maps go together: maps are made, and files cut, renamed and closed, under it.
        # Innermost but for that of the maps.
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"<LogFile {self.path.name} {'open' if self.is_open else 'sealed'} mapped {self._mapped_size}>"

    @property
    def path(self) -> Path:
        """Where it is; to be set when its directory has got another name."""
        return Path(self._name)

    @path.setter
    def path(self, path: Path) -> None:
        with self._guard:
            self._maps.forget(self._name)
            self._name = os.fspath(path)

    # ---- writing

    @property
    def is_open(self) -> bool:
        """Whether it is open for writing."""
        return self._file is not None

    def create(self, size: int) -> None:
        """Make the file, `size` bytes long. Raises FileExistsError and OSError; it is not there then."""
        file = self._fs.open(self._name, write=True, create=True, exclusive=True)
        try:
            if size:
                file.truncate(size)
        except OSError:
            with contextlib.suppress(OSError):
                self._fs.unlink(self._name)
            raise
        self._file = file

    def open(self) -> File:
        """The file, open for writing from now on. Raises OSError, and LogClosedError where it will be removed."""
        file = self._file
        if file is None:
            with self._guard:
                if self._is_doomed:
                    raise LogClosedError("this segment was removed from its log", path=self.path)
                file = self._file = self._fs.open(self._name, write=True)
                self._maps.forget(self._name)
        return file

    def write(self, position: int, data: Buffer) -> None:
        """Write at the end, which is `position`. Raises OSError, after which nothing of it counts."""
        file = self._file or self.open()
        if position > self._reserve_from:
            self._reserve(file, position, len(data))
        try:
            file.write(position, data)
        except OSError:
            if not self._has_spare_room:
                # What was written of it would be cut when the segment is sealed; where the disk is full, now is better.
                with self._guard, contextlib.suppress(OSError):
                    if self._mapped_size <= position:
                        file.truncate(position)
            raise

    def _reserve(self, file: File, position: int, size: int) -> None:
        """Set disk blocks aside ahead of the writes: each of these, and each sync, has less to do then."""
        ahead = min(position, _RESERVED_BYTES)
        file.reserve(position, ahead + size)
        self._has_reserved = True
        self._reserve_from = position + ahead // 2

    def sync(self) -> None:
        """Make what was written durable. Raises OSError."""
        file = self._file
        if file is not None:
            file.sync()
            return
        with self._guard:
            if self._is_doomed:  # nobody will ask for it after a crash
                return
            once = self._fs.open(self._name, write=True)
        with once:
            once.sync()

    def cut(self, size: int, *, may_be_mapped: bool = False) -> bool:
        """Cut the open file to `size`, if it is longer; whether it was replaced, and is sealed until `open`.

        It is replaced where it is mapped here, or `may_be_mapped` by others: who reads in what is cut off would die.
        The names in the directory have to be synced then. Raises OSError, after which it is as it was.
        """
        file = self.open()
        if file.size() <= size:
            if self._has_reserved:
                self._has_reserved, self._reserve_from = False, _RESERVED_FROM
                file.truncate(size)  # gives back what was set aside
            return False
        with self._guard:
            if self._mapped_size <= size and not may_be_mapped:
                file.truncate(size)
                return False
        temporary = self._name + names.CLEANED_SUFFIX
        try:
            with self._fs.open(temporary, write=True, create=True) as copy:
                copy.truncate(0)
                for position in range(0, size, _COPY_BYTES):
                    copy.write(position, file.read(position, min(_COPY_BYTES, size - position)))
                copy.sync()
            with self._guard:
                self._fs.rename(temporary, self._name)
                self._file, self._map, self._mapped_size = None, None, 0
                self._maps.forget(self._name)
        except OSError:
            with contextlib.suppress(OSError):
                self._fs.unlink(temporary, missing_ok=True)
            raise
        return True

    def rename(self, path: Path) -> bool:
        """Close it and give it another name, if it is there; whether it is. Raises OSError."""
        with self._guard:
            self._forget()
            is_there = self._fs.exists(self._name)
            if is_there:
                self._fs.rename(self._name, path)
            self._name = os.fspath(path)
            return is_there

    def doom(self) -> None:
        """Let those who read it go on once the file is removed."""
        with self._guard, contextlib.suppress(OSError):
            self._is_doomed = True
            with self._fs.open(self._name) as file:
                self._map = file.map()

    def close(self) -> None:
        """Give up what is open. Nothing is cut or synced."""
        with self._guard:
            self._forget()

    def _forget(self) -> None:
        self._file = self._map = None
        self._maps.forget(self._name)

    # ---- reading

    def read(self, position: int, end: int, size: int) -> Buffer:
        """The bytes from `position` to `end`, of a map where there is one, else read.

        `size` is how many bytes the file holds now; fewer are there where it is cut meanwhile. Raises OSError.
        """
        file = self._file
        if file is None:
            return self._sealed(end)[position:end]
        mapped = self._map
        have = 0 if mapped is None else len(mapped.view)
        if have < end and size - have >= _MAP_STEP and not self._has_spare_room:
            mapped = self._map_open(file)
            have = 0 if mapped is None else len(mapped.view)
        if mapped is not None and end <= have:
            return mapped.view[position:end]
        return file.read(position, end - position)

    def mapped(self, size: int) -> memoryview | None:
        """The first `size` bytes, at least, of a map that is there; None where it takes more to read them."""
        if self._file is None:
            return self._sealed(size)
        mapped = self._map
        return mapped.view if mapped is not None and len(mapped.view) >= size else None

    def _map_open(self, file: File) -> FileMap | None:
        with self._guard:
            if self._file is not file:  # sealed or replaced meanwhile
                return None
            self._map = file.map()
            self._mapped_size = max(self._mapped_size, len(self._map.view))
            return self._map

    def _sealed(self, end: int) -> memoryview:
        with self._guard:
            if self._is_doomed and self._map is not None:
                return self._map.view
            view = self._maps.view(self._name)
            size = len(view)
            if size < end:  # mapped before it had grown
                self._maps.forget(self._name)
                view = self._maps.view(self._name)
                size = len(view)
            if size > self._mapped_size:
                self._mapped_size = size
            return view
