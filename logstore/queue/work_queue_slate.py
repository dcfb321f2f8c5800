"""Acknowledgements between two records of a queue's state, one small write for each.

Only for one process alone that does not sync: what it writes here survives its end as what it writes to a log does,
in a third of the time. The entries belong to the end of the state topic as it was when they were written; as soon as
anything is written there, which always begins with what is here, they are void. So nothing has to be erased.

    entry:  i64 offset that the next record of the state topic gets, i64 offset of the job, u16 partition,
            u32 CRC-32C of what is before it

Big endian. Belongs to who has the queue's turn.
"""

from __future__ import annotations

import struct
from pathlib import Path

from logstore.checksum import crc32c
from logstore.fs import FileSystem

PREFIX = ".logstore-acks-"
"""Of the file, before the name of the queue. On disk; never change."""
ENTRIES_MAX = 256
_ENTRY = struct.Struct(">qqH")  # on disk; never change
_SIZE = _ENTRY.size + 4
assert _SIZE == 22


class Slate:
    """The file, open.

    Attributes:
        pending: partitions and offsets that are written here and nowhere else.
    """

    def __init__(self, fs: FileSystem, root: Path, queue: str) -> None:
        self._file = fs.open(root / f"{PREFIX}{queue}", write=True, create=True)
        self.pending: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Slate {len(self.pending)} of {ENTRIES_MAX}>"

    def write(self, following: int, number: int, offset: int) -> None:
        """Note an acknowledgement; `following` is where the state topic ends. Raises OSError."""
        data, pending = _ENTRY.pack(following, offset, number), self.pending
        self._file.write(len(pending) * _SIZE, data + crc32c(data).to_bytes(4, "big"))
        pending.append((number, offset))

    def read(self, following: int) -> list[tuple[int, int]]:
        """What was noted since the state topic was written last, by one who has died."""
        data, found = self._file.read(0, ENTRIES_MAX * _SIZE), []
        for at in range(0, len(data) - _SIZE + 1, _SIZE):
            of, offset, number = _ENTRY.unpack_from(data, at)
            crc = int.from_bytes(data[at + _ENTRY.size : at + _SIZE], "big")
            if of != following or crc != crc32c(data[at : at + _ENTRY.size]):
                break
            found.append((number, offset))
        return found

    def erase(self) -> None:
        """Forget what those have noted who were here before. Raises OSError."""
        if self._file.size():
            self._file.truncate(0)

    def close(self) -> None:
        self._file.close()
