"""What lies in a directory that holds several partitions."""

from __future__ import annotations

from pathlib import Path

from logstore import names
from logstore.errors import InvalidNameError
from logstore.fs import FileSystem
from logstore.log import find_log_directory
from logstore.names import DirectoryKind, PartitionDirectory


def partition_directories(fs: FileSystem, path: Path) -> tuple[list[tuple[PartitionDirectory, Path]], list[Path]]:
    """The partition directories in order of topic and number, and those that wait for deletion, move or decision.

    Raises OSError.
    """
    partitions: list[tuple[PartitionDirectory, Path]] = []
    set_aside: list[Path] = []
    for name in fs.list(path):
        try:
            parsed = names.parse_partition_directory(name)
        except InvalidNameError:
            continue
        if not fs.is_directory(path / name):
            continue
        if parsed.kind is DirectoryKind.NORMAL:
            partitions.append((parsed, path / name))
        else:
            set_aside.append(path / name)
    return sorted(partitions, key=lambda one: one[0].topic_partition), set_aside


def is_broker_directory(fs: FileSystem, path: Path) -> bool:
    """Whether a broker's own files lie in a directory. Raises OSError."""
    return find_log_directory(fs, path / "any") is not None
