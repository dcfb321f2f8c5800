"""Fixtures: directories made anew for each test; a conftest.py imports those that its tests ask for."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.directories import LogDirectory, Partition, copied, values

from logstore.log import RecordFile
from logstore.records import ControlType


@pytest.fixture
def directory(tmp_path: Path) -> LogDirectory:
    """An empty log directory, to be filled and closed."""
    return LogDirectory(tmp_path / "data")


@pytest.fixture
def written(directory: LogDirectory) -> Partition:
    """`orders-3`: three segments of three batches of two records, offsets 0 to 17, not yet closed."""
    partition = directory.partition("orders-3")
    for number in range(9):
        if number in (3, 6):
            partition.roll()
        partition.append(*values(2))
    return partition


@pytest.fixture
def orders(directory: LogDirectory, written: Partition) -> Path:
    """The same in a log directory that was shut down cleanly."""
    directory.close()
    return written.path


@pytest.fixture
def alone(orders: Path, tmp_path: Path) -> Path:
    """A copy of it without a log directory around it."""
    return copied(orders, tmp_path / "elsewhere")


@pytest.fixture
def transactions(directory: LogDirectory) -> Path:
    """`payments-0` in a clean log directory: one transaction aborted, one committed between plain records, one open."""
    partition = directory.partition("payments-0")
    partition.append(b"plain")  # 0
    partition.append_transactional(1, b"aborted", b"aborted")  # 1, 2
    partition.append_transactional(2, b"committed")  # 3
    partition.end_transaction(1, ControlType.ABORT)  # 4
    partition.append(b"plain")  # 5
    partition.end_transaction(2, ControlType.COMMIT)  # 6
    partition.append(b"plain")  # 7
    partition.append_transactional(1, b"open")  # 8
    partition.append(b"plain")  # 9
    directory.close()
    return partition.path


@pytest.fixture
def failing_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A verb: from now on, reading files of this name is an input/output error."""

    def fail(name: str) -> None:
        read = RecordFile.read

        def failing(self: RecordFile, position: int, size: int) -> bytes:
            if self.path.endswith(name):
                raise OSError(errno.EIO, "Input/output error", self.path)
            return read(self, position, size)

        monkeypatch.setattr(RecordFile, "read", failing)

    return fail


@pytest.fixture
def at_open(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """A verb: do something once, right after the log of this name was opened."""
    opened = RecordFile.__init__

    def do(name: str, act: Callable[[], object]) -> None:
        def opening(self: RecordFile, path: str | os.PathLike[str]) -> None:
            opened(self, path)
            if os.fspath(path).endswith(name):
                monkeypatch.setattr(RecordFile, "__init__", opened)
                act()

        monkeypatch.setattr(RecordFile, "__init__", opening)

    return do
