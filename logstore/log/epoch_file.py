"""The leader epochs of a log and their file, `leader-epoch-checkpoint` (LOG_SEMANTICS §10, FORMAT §5.2).

Invariant: the file may hold entries that are stale, it never lacks one: an epoch is on disk before its batches are
written. What recovery meets in batches (`note`) gets there by `save`. Not thread-safe; the log's lock guards it.
"""

from __future__ import annotations

from pathlib import Path

from logstore import names
from logstore.errors import CorruptCheckpointError
from logstore.fs import FileSystem, replace_atomically
from logstore.log.checkpoint import FILE_SIZE_MAX
from logstore.log.leader_epochs import (
    EpochEntry,
    LeaderEpochs,
    format_leader_epoch_checkpoint,
    parse_leader_epoch_checkpoint,
)


class EpochFile:
    """The epochs of a partition directory.

    Attributes:
        epochs: what is known.
        latest_epoch: the latest of them, -1 when there is none.
        is_trusted: whether the file was there and could be read; otherwise the epochs have to be taken from batches.
    """

    def __init__(self, fs: FileSystem, directory: Path) -> None:
        self.path = directory / names.LEADER_EPOCH_CHECKPOINT
        self._fs = fs
        self._epochs = self._saved = LeaderEpochs()
        self.latest_epoch = -1
        self.is_trusted = False

    def __repr__(self) -> str:
        return f"<EpochFile {self.path} {tuple(self._epochs.entries)}>"

    @property
    def epochs(self) -> LeaderEpochs:
        """What is known."""
        return self._epochs

    def load(self) -> CorruptCheckpointError | None:
        """Read the file; why it cannot be read, if so. Raises OSError."""
        if not self._fs.exists(self.path):
            return None
        with self._fs.open(self.path) as file:
            data = file.read(0, FILE_SIZE_MAX + 1)
        try:
            entries = parse_leader_epoch_checkpoint(data)
        except CorruptCheckpointError as error:
            error.path = str(self.path)
            return error
        self._set(LeaderEpochs.of(entries))
        # Entries that do not ascend have removed others, and have to be written as they are now.
        self._saved = self._epochs if self._epochs.entries == entries else LeaderEpochs()
        self.is_trusted = True
        return None

    def assign(self, epoch: int, start_offset: int) -> None:
        """Note that an epoch begins; durable on return. Raises ValueError for negative numbers, OSError."""
        self.put(self._epochs.assign(epoch, start_offset))

    def truncate_from_end(self, end_offset: int) -> None:
        """Forget the epochs that begin at or behind `end_offset`. Raises OSError."""
        self.put(self._epochs.truncate_from_end(end_offset))

    def truncate_from_start(self, start_offset: int) -> None:
        """Forget what lies before `start_offset`. Raises OSError."""
        self.put(self._epochs.truncate_from_start(start_offset))

    def clear(self) -> None:
        """Forget all. Raises OSError."""
        self.put(LeaderEpochs())

    def note(self, entry: EpochEntry) -> None:
        """Add an epoch in memory alone; `save` makes it durable. For recovery, which meets epochs in batches."""
        self._set(self._epochs.assign(*entry))

    def put(self, epochs: LeaderEpochs) -> None:
        """Take other epochs, durably; nothing is written when nothing changed."""
        if epochs is not self._epochs:
            # The file first: it may know too much, never too little.
            self._write(epochs)
            self._set(epochs)

    def save(self) -> None:
        """Make durable what was noted or put in order; nothing is written when nothing is new. Raises OSError."""
        if self._epochs != self._saved:
            self._write(self._epochs)

    def _write(self, epochs: LeaderEpochs) -> None:
        replace_atomically(self._fs, self.path, format_leader_epoch_checkpoint(epochs.entries))
        self._saved = epochs

    def _set(self, epochs: LeaderEpochs) -> None:
        self._epochs = epochs
        self.latest_epoch = epochs.latest.epoch if epochs.latest is not None else -1
