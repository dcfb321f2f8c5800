"""Makes what follows from a log anew: indexes, producer snapshots, leader epochs. The log files are only read.

All of it is made by recovery itself, on a file system that forgets (`DryRunFileSystem`) and in which these files are
missing; what differs from what is there is then written. Each file is replaced at once and speaks for itself, so that a
crash leaves some old and some new ones. Belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from logstore import names
from logstore.clock import Clock, SystemClock
from logstore.config import LogConfig
from logstore.errors import CorruptCheckpointError, CorruptSnapshotError, DamagedLogError, LogstoreError
from logstore.fs import FileSystem, replace_atomically
from logstore.log import (
    EpochEntry,
    Log,
    ProducerSnapshot,
    ProducerStateEntry,
    find_log_directory,
    format_leader_epoch_checkpoint,
    parse_leader_epoch_checkpoint,
    read_facts,
)
from logstore.log.segment_scan import SizedSource
from logstore.names import FileKind
from logstore.records import BatchScanner, RecordBatch
from logstore.repair.dry_run import DryRunFileSystem

INDEXES = (FileKind.OFFSET_INDEX, FileKind.TIME_INDEX, FileKind.TRANSACTION_INDEX)
_MADE = (*INDEXES, FileKind.PRODUCER_SNAPSHOT, FileKind.LEADER_EPOCH_CHECKPOINT)
_SIGNS_OF_A_BROKER = (names.META_PROPERTIES, names.RECOVERY_POINT_CHECKPOINT, names.CLEAN_SHUTDOWN)
_COPY_BYTES = 1 << 20


class FileChange(NamedTuple):
    """A file that is not what it should be.

    Attributes:
        path: it.
        action: what is done: `create`, `rewrite`, `trim` (spare room at its end goes), `remove`.
        size_before, size: in bytes, as it was and as it should be; None for no file.
    """

    path: Path
    action: Literal["create", "rewrite", "trim", "remove"]
    size_before: int | None
    size: int | None


class _Difference(NamedTuple):
    path: Path
    action: Literal["create", "rewrite", "trim", "remove"]
    size_before: int | None
    content: bytes | None


class Remade(NamedTuple):
    """What was done.

    Attributes:
        changes: the files that were not as they should be.
        torn: bytes at the end of the active segment that no index covers: recovery will cut them.
        log_end_offset: where the log ends without them.
    """

    changes: tuple[FileChange, ...]
    torn: int
    log_end_offset: int


class Remaker:
    """Makes the files beside the logs of partitions anew that somebody holds.

    Args:
        fs: where they are, as their holder sees it.
        config: what logs are opened with; `index_interval_bytes` and `segment_index_bytes` count.
        clock: tells the time.
    """

    def __init__(self, fs: FileSystem, *, config: LogConfig | None = None, clock: Clock | None = None) -> None:
        self._fs = fs
        self._config = config or LogConfig()
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"<Remaker on {self._fs!r}>"

    def remake(self, partition: Path, base_offset: int | None = None) -> Remade:
        """Make what is wrong in a partition directory anew, durably; with a base offset, that segment's indexes alone.

        Raises DamagedLogError for a log that is damaged anywhere but at the torn end of its active segment, with
        nothing changed; LogstoreError for one that has to be recovered first; OSError.
        """
        trial = DryRunFileSystem(self._fs, clock=self._clock)
        logs = self._logs(partition)
        self._take_away(trial, partition, base_offset)
        start = read_facts(self._fs, partition).log_start_offset
        log = Log.open(partition, self._config, fs=trial, clock=self._clock, log_start_offset=start)
        try:
            torn = self._check_logs(trial, partition, logs, log)
            end = log.log_end_offset
        finally:
            log.close()
        changes = []
        for path, action, before, content in self._differences(trial, partition, base_offset, end):
            if content is None:
                self._fs.unlink(path)
            else:
                replace_atomically(self._fs, path, content)
            changes.append(FileChange(path, action, before, None if content is None else len(content)))
        if changes:
            self._fs.sync_directory(partition)
        return Remade(tuple(changes), torn, end)

    # ---- before

    def _logs(self, partition: Path) -> dict[str, int]:
        """The log files and their sizes, by name in order."""
        found: dict[str, int] = {}
        for name in self._fs.list(partition):
            one = names.classify_file(name)
            if one.kind is FileKind.LOG and one.temporary_suffix == names.SWAP_SUFFIX:
                raise LogstoreError(
                    "a replacement of segments was not finished", path=partition / name,
                    remedy="`logstore recover` finishes it",
                )  # fmt: skip
            if one.kind is FileKind.LOG and one.temporary_suffix is None:
                found[name] = self._fs.file_size(partition / name)
        return found

    def _take_away(self, trial: DryRunFileSystem, partition: Path, base_offset: int | None) -> None:
        """Let what is to be made be missing, and let nobody vouch for anything; of one segment, for all but it."""
        for name in self._fs.list(partition):
            if self._is_wanted(name, base_offset) or name.startswith(names.OWN_PREFIX):
                trial.unlink(partition / name)
        above = partition.parent
        for name in _SIGNS_OF_A_BROKER:
            trial.unlink(above / name, missing_ok=True)
        if base_offset is not None:
            replace_atomically(trial, above / names.CLEAN_SHUTDOWN, b"")
            assert find_log_directory(trial, partition) is not None

    @staticmethod
    def _is_wanted(name: str, base_offset: int | None) -> bool:
        one = names.classify_file(name)
        if one.temporary_suffix is not None:
            return False
        return one.kind in _MADE if base_offset is None else one.kind in INDEXES and one.base_offset == base_offset

    # ---- the logs are as they were

    def _check_logs(self, trial: DryRunFileSystem, partition: Path, logs: dict[str, int], log: Log) -> int:
        """Make sure that recovery had nothing to do but cut the torn end of the active segment; its size."""
        actions = () if log.recovered is None else log.recovered.actions
        torn = 0
        for name, size in logs.items():
            path = partition / name
            kept = trial.file_size(path) if trial.exists(path) else 0
            if kept == size:
                continue
            is_active = name == max(logs)
            if not trial.exists(path) or not is_active or self._goes_on(path, kept):
                why = [one.detail for one in actions if one.path == path and one.kind in ("cut", "split", "remove")]
                raise DamagedLogError(
                    f"it is damaged, or no log as it is ({why[0] if why else 'it lies behind damage'})", path=path,
                    position=kept if trial.exists(path) else None,
                    remedy="`logstore check` tells more, `logstore recover --cut-damage` cuts the log there",
                )  # fmt: skip
            torn = size - kept
        return torn

    def _goes_on(self, path: Path, position: int) -> bool:
        """Whether a batch that can be trusted follows the bytes that cannot: then these are damage, and no torn end."""
        base_offset = names.classify_file(path.name).base_offset or 0
        with self._fs.open(path) as file:
            scanner = BatchScanner(SizedSource(file), start=position, offset_min=base_offset)
            return any(isinstance(found, RecordBatch) for found in scanner)

    # ---- what differs

    def _differences(
        self, trial: DryRunFileSystem, partition: Path, base_offset: int | None, end: int
    ) -> Iterator[_Difference]:
        wanted = {name for name in trial.list(partition) if self._is_wanted(name, base_offset)}
        here = {name for name in self._fs.list(partition) if self._is_wanted(name, base_offset)}
        bases = {names.classify_file(name).base_offset for name in self._logs(partition)}
        for name in sorted(wanted | here):
            path, one = partition / name, names.classify_file(name)
            before = self._fs.file_size(path) if name in here else None
            size = trial.file_size(path) if name in wanted else None
            if one.kind in INDEXES:
                yield from self._index_difference(trial, path, before, size)
            elif one.kind is FileKind.LEADER_EPOCH_CHECKPOINT:
                new = _content(trial, path) if name in wanted else format_leader_epoch_checkpoint(())
                if before is None or not _are_good_epochs(_content(self._fs, path), new, end):
                    yield _Difference(path, "create" if before is None else "rewrite", before, new)
            elif before is None:
                if one.base_offset in bases:  # one of the log end is written when a log is closed
                    yield _Difference(path, "create", None, _content(trial, path))
            elif not self._is_good_snapshot(path, one.base_offset or 0, trial if name in wanted else None, end):
                remade = _content(trial, path) if name in wanted else None
                yield _Difference(path, "remove" if remade is None else "rewrite", before, remade)

    def _index_difference(
        self, trial: DryRunFileSystem, path: Path, before: int | None, size: int | None
    ) -> Iterator[_Difference]:
        if not before and not size:
            return  # without entries, a missing index is as good as an empty one
        if size is None:
            yield _Difference(path, "remove", before, None)
            return
        new = _content(trial, path)
        if before is None:
            yield _Difference(path, "create", None, new)
        elif before < size or not self._begins_with(path, new):
            yield _Difference(path, "rewrite", before, new)
        elif before > size:
            yield _Difference(path, "trim", before, new)

    def _begins_with(self, path: Path, new: bytes) -> bool:
        """Whether an index has these bytes, and nothing but zeros behind them."""
        with self._fs.open(path) as file:
            if file.read(0, len(new)) != new:
                return False
            return not any(
                any(file.read(position, _COPY_BYTES)) for position in range(len(new), file.size(), _COPY_BYTES)
            )

    def _is_good_snapshot(self, path: Path, offset: int, trial: DryRunFileSystem | None, end: int) -> bool:
        """Whether a snapshot can be trusted, and knows of all live producers what the batches tell.

        It may know more: batches that retention and compaction have taken away. One at no segment's base is left to
        whoever opens the log.
        """
        try:
            known = {one.producer_id: one for one in ProducerSnapshot.decode(_content(self._fs, path)).entries}
        except CorruptSnapshotError:
            return False
        if offset > end:
            return False
        wanted = () if trial is None else ProducerSnapshot.decode(_content(trial, path)).entries
        return all(self._is_forgotten(one) or _knows(known.get(one.producer_id), one) for one in wanted)

    def _is_forgotten(self, entry: ProducerStateEntry) -> bool:
        idle_ms = self._clock.now_ms() - entry.last_timestamp
        return not entry.in_transaction and idle_ms >= self._config.producer_id_expiration_ms


def _knows(known: ProducerStateEntry | None, told: ProducerStateEntry) -> bool:
    """Whether a snapshot's entry knows at least what batches tell of the producer."""
    if known is None or known.in_transaction != told.in_transaction:
        return False
    if known.current_transaction_first_offset > told.current_transaction_first_offset:
        return False
    if (known.producer_epoch, known.last_offset) == (told.producer_epoch, told.last_offset):
        return known.last_sequence == told.last_sequence
    return known.producer_epoch >= told.producer_epoch and known.last_offset >= told.last_offset


def _are_good_epochs(old: bytes, new: bytes, end: int) -> bool:
    """Whether an epoch file names the epochs of the batches, each from its first batch or from before it.

    Compaction takes batches away, and an epoch may have begun without any.
    """
    try:
        known = [one for one in parse_leader_epoch_checkpoint(old) if one.start_offset < end]
    except CorruptCheckpointError:
        return False
    wanted = [one for one in parse_leader_epoch_checkpoint(new) if one.start_offset < end]
    if [one.epoch for one in known] != [one.epoch for one in wanted]:
        return False
    previous = [EpochEntry(-1, -1), *wanted]
    return all(
        before.start_offset < one.start_offset <= other.start_offset
        for before, one, other in zip(previous, known, wanted, strict=False)
    )


def _content(fs: FileSystem, path: Path) -> bytes:
    with fs.open(path) as file:
        return file.read(0, file.size())
