"""Mapped files, a bounded number at a time: every map keeps a descriptor, and a log may have thousands of segments.

Invariant: a file that is mapped here is never shortened in place. Thread-safe. A map that gives way to another lives on
as long as somebody holds a slice of it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

from logstore.fs import FileMap, FileSystem, StrPath

MAPS_MAX = 64


class MapCache:
    """The files used last, mapped.

    Args:
        fs: opens them.
        maps_max: how many maps are kept, and so how many descriptors.

    Attributes:
        is_shared: whether other processes may have the same files mapped: then none of these becomes shorter.
    """

    def __init__(self, fs: FileSystem, maps_max: int = MAPS_MAX, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self._fs = fs
        self._maps_max = maps_max
        # Guards the order and the entries; innermost.
        self._guard = threading.Lock()
        self._maps: OrderedDict[str, FileMap] = OrderedDict()
        self._used: set[str] = set()  # asked for again since they were mapped, or given another chance
        self._forgotten = 0  # how often something was

    def __repr__(self) -> str:
        return f"<MapCache {len(self._maps)} of {self._maps_max}>"

    def view(self, path: StrPath) -> memoryview:
        """All bytes that the file had when it was mapped. Raises OSError where it cannot be opened."""
        name = os.fspath(path)
        found = self._maps.get(name)
        if found is not None:
            self._used.add(name)
            return found.view
        with self._guard:
            forgotten = self._forgotten
        with self._fs.open(name) as file:
            mapped = file.map()
        with self._guard:
            # What was forgotten meanwhile may be this file: then its name stands for another one now.
            if forgotten == self._forgotten:
                self._maps[name] = mapped
                self._make_room()
        return mapped.view

    def _make_room(self) -> None:
        while len(self._maps) > self._maps_max:
            name = next(iter(self._maps))
            if name in self._used:  # since it was looked at last: it gets a second chance
                self._used.discard(name)
                self._maps.move_to_end(name)
            else:
                del self._maps[name]

    def forget(self, path: StrPath) -> None:
        """Map the file anew when it is asked for again: it was replaced, renamed or grown."""
        with self._guard:
            self._forgotten += 1
            self._maps.pop(os.fspath(path), None)
            self._used.discard(os.fspath(path))

    def clear(self) -> None:
        """Forget all."""
        with self._guard:
            self._forgotten += 1
            self._maps.clear()
            self._used.clear()
