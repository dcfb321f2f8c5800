"""How the directories of a deleted topic go: renamed first, removed later (LOG_SEMANTICS §13)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from logstore import names
from logstore.fs import SharingFileSystem
from logstore.log import Turns
from logstore.names import TopicPartition


def rename_for_deletion(fs: SharingFileSystem, path: Path, partition: TopicPartition) -> Path:
    """Rename a partition directory, durably, so that nobody takes it for one; the new path.

    Who has it open in another process is told. Raises OSError.
    """
    target = path.parent / names.delete_directory_name(*partition, uuid4().hex)
    turns = Turns(fs.open_lock(path / names.LOCK), 0)
    try:
        with turns.taken():
            turns.delete()
            fs.rename(path, target)
            fs.sync_directory(path.parent)
    finally:
        turns.close()
    return target


def remove_due(fs: SharingFileSystem, doomed: Iterable[Path], before_ms: int) -> int:
    """Remove the renamed directories whose last change is not after `before_ms` (ms since the epoch); how many.

    What somebody else removes meanwhile is fine. A sub-directory is no log's: its parent stays then. Raises OSError.
    """
    count = 0
    for path in doomed:
        try:
            found = fs.list(path)
            if any(fs.modified_ms(path / name) > before_ms for name in found if name == names.LOCK):
                continue
            if any(fs.is_directory(path / name) for name in found):
                continue
            for name in found:
                fs.unlink(path / name, missing_ok=True)
            fs.remove_directory(path)
        except FileNotFoundError:
            continue
        count += 1
    return count
