"""What a directory is like, to be compared with what it was."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """Mode, modification time, and for a file size and SHA-256, of `directory` and of everything below it, by name."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [directory, *sorted(directory.rglob("*"))]:
        status = path.lstat()
        facts: tuple[object, ...] = (stat.filemode(status.st_mode), status.st_mtime_ns)
        if stat.S_ISREG(status.st_mode):
            facts += (status.st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        found[path.relative_to(directory).as_posix()] = facts
    return found
