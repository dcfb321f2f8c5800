"""What recovery takes out of a log is kept aside: copied or renamed to dot-files, which Kafka ignores.

Invariant: a file that was kept aside is complete and is never written over, not by the next recovery either; one that a
crash has left unfinished ends in `.tmp`. Names are `.<file>.<position>.aside` for the end of a file and `.<file>.aside`
for a whole one, with a number where the name is taken.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from logstore.fs import File, FileSystem
from logstore.names import TEMPORARY_FILE_SUFFIX

ASIDE_SUFFIX = ".aside"
UNFINISHED_SUFFIX = ASIDE_SUFFIX + TEMPORARY_FILE_SUFFIX
_COPY_BYTES = 1 << 20


def is_zeros(file: File, start: int, end: int) -> bool:
    """Whether there is nothing but zeros in a range of a file. Raises OSError."""
    for position in range(start, end, _COPY_BYTES):
        data = file.read(position, min(_COPY_BYTES, end - position))
        if data.count(0) != len(data):
            return False
    return True


def keep_end(fs: FileSystem, file: File, path: Path, start: int) -> Path:
    """Copy a file from `start` to its end beside it, durably on return; where to. Raises OSError."""
    end = file.size()
    for number in itertools.count(1):
        target = _name(path, f".{start}", number)
        if not fs.exists(target):
            break
        with fs.open(target) as kept:
            # A recovery that was interrupted has got this far.
            if _is_same(file, start, end, kept):
                return target
    temporary = target.with_name(target.name + TEMPORARY_FILE_SUFFIX)
    with fs.open(temporary, write=True, create=True) as copy:
        if copy.size():
            copy.truncate(0)
        for position in range(start, end, _COPY_BYTES):
            copy.write(position - start, file.read(position, min(_COPY_BYTES, end - position)))
        copy.sync()
    fs.rename(temporary, target)
    fs.sync_directory(path.parent)
    return target


def set_aside(fs: FileSystem, path: Path) -> Path:
    """Rename a file out of the way; where to. Not durable before the directory is synced. Raises OSError."""
    target = next(name for number in itertools.count(1) if not fs.exists(name := _name(path, "", number)))
    fs.rename(path, target)
    return target


def _name(path: Path, position: str, number: int) -> Path:
    return path.with_name(f".{path.name}{position}{'' if number == 1 else f'-{number}'}{ASIDE_SUFFIX}")


def _is_same(file: File, start: int, end: int, kept: File) -> bool:
    if kept.size() != end - start:
        return False
    return all(
        file.read(position, min(_COPY_BYTES, end - position)) == kept.read(position - start, _COPY_BYTES)
        for position in range(start, end, _COPY_BYTES)
    )
