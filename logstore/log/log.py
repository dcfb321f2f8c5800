"""One partition on disk: appended to as a leader or a follower, read, truncated, and opened again after a crash.

Invariants: offsets ascend; every sealed segment is durable before the next one is begun, so that after a crash of ours
only the active one can be torn; nothing is cut that has not been kept aside; after a failed sync nothing is appended
until the log is opened again. Any number of threads may append and read. One process writes at a time.

The rooms behind it: `append` decides what is written and `writing` writes it, `recovery` opens, `log_view` and
`reading` read, `cutting` shortens, `commit` syncs; `segments` and `segment` keep the files, `producer_state` and
`epoch_file` what follows from them, `partition_state` the locks and dot-files.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self, get_args
from uuid import UUID

from logstore.clock import Clock, SystemClock
from logstore.config import INT32_MAX, INT64_MAX, Durability, LogConfig
from logstore.errors import LogClosedError
from logstore.fs import Buffer, FileSystem, LocalFileSystem
from logstore.log.appending import Appender
from logstore.log.commit import AppendFuture, Commits
from logstore.log.cutting import LogCutter
from logstore.log.leader_epochs import EpochEndOffset
from logstore.log.log_state import LogState
from logstore.log.log_view import LogView
from logstore.log.maps import MAPS_MAX
from logstore.log.opening import open_state
from logstore.log.origin import AppendOrigin
from logstore.log.partition_state import PartitionHold
from logstore.log.producer_append import Guard
from logstore.log.recovery import DamagePolicy, Recovered
from logstore.log.renaming import rename_log
from logstore.log.rewriting import LogRewriter
from logstore.log.writing import Appended, LogWriter
from logstore.records import BatchOptions, Codec, ControlType, EndTransactionMarker, encode_end_transaction_batch

_DURABILITIES = frozenset(get_args(Durability))
_INT16_MAX = 2**15 - 1


class Log(LogView):
    """A partition directory open for writing; use `Log.open`.

    Attributes:
        recovered: what opening the log has found and done; None when it was closed cleanly and nothing was to be done.
        rewriter: lets rewritten segments take the place of others, for the log cleaner.
    """

    def __init__(self, state: LogState, recovered: Recovered | None) -> None:
        super().__init__(state)
        self.recovered = recovered
        self.rewriter = LogRewriter(state, self._reader)
        self._commits = Commits(state)
        self._writer = LogWriter(state)
        self._appender = Appender(state, self._writer)
        self._cutter = LogCutter(state, self._writer)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        config: LogConfig | None = None,
        *,
        fs: FileSystem | None = None,
        clock: Clock | None = None,
        leader_epoch: int = 0,
        replicated: bool = False,
        log_start_offset: int = 0,
        damage: DamagePolicy = "refuse",
        topic_id: UUID | None = None,
        verify_transactions: bool = False,
        hold: PartitionHold | None = None,
        maps_max: int = MAPS_MAX,
        is_shared: bool = False,
    ) -> Self:
        """Open a partition directory for writing; it is made when it is not there.

        After a clean close nothing is checked. Otherwise every batch from the recovery point on is: the log is cut
        behind the last one that can be trusted, what was cut is kept in a file beside it, and `recovered` says so. A
        partition in a broker's log directory is opened by that directory's checkpoints.

        Args:
            directory: the partition's.
            config: Kafka's settings of a log.
            fs, clock: what it stands on.
            leader_epoch: what appends of a leader are stamped with, unless the log knows a later one.
            replicated: whether the owner sets the high watermark; otherwise all that is appended counts as replicated.
            log_start_offset: where a log that is not there yet begins; one that is begins there or later.
            damage: what is done about damage below the recovery point, where a power cut leaves none: `refuse` raises
                DamagedLogError, with nothing changed; `cut` cuts there, as Kafka does, and keeps aside what it cuts.
            topic_id: the topic's; `partition.metadata` gets it, or must have it.
            verify_transactions: Kafka's transaction.partition.verification.enable; see `start_verification`.
            hold: who keeps others out, where the directory is locked already; by default it is locked here.
            maps_max: how many sealed files stay mapped; each keeps a descriptor.
            is_shared: whether other processes may read it meanwhile, as in a `SharedLog`.

        Raises LogLockedError (another process writes here), DamagedLogError, InconsistentTopicIdError, OSError,
        ValueError and TypeError for what is no such argument.
        """
        fs, clock, config = fs or LocalFileSystem(), clock or SystemClock(), _config(config or LogConfig())
        if damage not in get_args(DamagePolicy):
            raise ValueError(f"{damage!r} is no policy for damage; there are {', '.join(get_args(DamagePolicy))}")
        if topic_id is not None and not isinstance(topic_id, UUID):
            raise TypeError(f"{topic_id!r} is no UUID")
        state, recovered = open_state(
            Path(directory), config, fs, clock, leader_epoch=_number("a leader epoch", leader_epoch, INT32_MAX),
            replicated=replicated, log_start_offset=_number("a log start offset", log_start_offset), damage=damage,
            topic_id=topic_id, hold=hold, maps_max=_number("a number of maps", maps_max), is_shared=is_shared,
        )  # fmt: skip
        state.verify_transactions = verify_transactions
        return cls(state, recovered)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except LogClosedError:
            if kind is None:  # else that is the reason, and it is told already
                raise

    # ---- append

    def append(
        self,
        records: Iterable[Any],
        *,
        timestamp: int | None = None,
        codec: Codec | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Append records as one batch: tuples (key, value[, timestamp[, headers]]), as `encode_batch` takes them.

        `timestamp` (ms, default now) is for records without one. On return they are in the page cache (`os`), or on
        disk (`always`); `interval` syncs once flush.messages or flush.ms are reached. Raises ValueError and TypeError
        for what is no record, BatchTooLargeError, RecordRejectedError, LogClosedError, OSError. After a failed sync the
        log refuses further appends until it is opened again.
        """
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"{codec!r} is no Codec")
        wanted = self._state.config.durability if durability is None else _durability(durability)
        done = self._appender.append_records(records, timestamp, codec)
        if wanted == "always":
            self._commits.wait(done.last_offset + 1)
        elif wanted != "os" or self._state.config.flush_messages != INT64_MAX:
            self._commits.settle(done.last_offset + 1, wanted)
        return done

    def append_later(
        self, records: Iterable[Any], *, timestamp: int | None = None, codec: Codec | None = None,
        options: BatchOptions | None = None,
    ) -> AppendFuture:  # fmt: skip
        """Append records as `append` does, and ask for their being on disk later: `result()` waits for that.

        In the page cache on return. Any number of appends may be under way; the first `result()` syncs all of them.
        `options` say all of the batch, such as its producer, instead of `codec`: see `append_batch` for what is
        checked then, and for a batch that was written before.
        """
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"{codec!r} is no Codec")
        done = self._appender.append_records(records, timestamp, codec, options)
        return AppendFuture(self._commits, done.first_offset, done.last_offset)

    def append_batch(
        self,
        data: Buffer,
        *,
        origin: AppendOrigin = AppendOrigin.CLIENT,
        leader_epoch: int | None = None,
        durability: Durability | None = None,
        guard: Guard | None = None,
    ) -> Appended:
        """Append encoded batches, as a leader takes them from a producer, a coordinator, or as a Raft leader.

        A bytearray is numbered in place. Durability as `append`. A batch that its producer has sent before is not
        written again. Nothing is done for no bytes. Raises the children of LogstoreError for what the log does not
        take (`append.analyse`, `append.number`, LOG_SEMANTICS §3, §4.2), and OSError. `guard` is what
        `start_verification` has given.
        """
        wanted = self._state.config.durability if durability is None else _durability(durability)
        if not isinstance(origin, AppendOrigin):
            raise TypeError(f"{origin!r} is no AppendOrigin")
        if leader_epoch is not None:
            leader_epoch = _number("a leader epoch", leader_epoch, INT32_MAX)
        done = self._appender.append_batch(data, origin, leader_epoch, guard)
        self._commits.settle(done.last_offset + 1, wanted)
        return done

    def append_as_follower(self, data: Buffer, *, durability: Durability | None = None) -> Appended:
        """Append batches that their leader has numbered and checked; an incomplete last one is left out.

        Raises UnexpectedOffsetError when they begin below the log end or do not ascend, CorruptRecordError, OSError.
        """
        return self.append_batch(data, origin=AppendOrigin.REPLICATION, durability=durability)

    def end_transaction(
        self, producer_id: int, producer_epoch: int, *, commit: bool, coordinator_epoch: int = 0
    ) -> Appended:
        """Write the marker that commits or aborts a producer's transaction.

        Raises ProducerFencedError when producer or coordinator are of the past, OSError.
        """
        control_type = ControlType.COMMIT if commit else ControlType.ABORT
        data = encode_end_transaction_batch(
            EndTransactionMarker(control_type, _number("a coordinator epoch", coordinator_epoch, INT32_MAX)),
            offset=0,
            timestamp=self._state.clock.now_ms(),
            producer_id=_number("a producer id", producer_id),
            producer_epoch=_number("a producer epoch", producer_epoch, _INT16_MAX),
        )
        return self.append_batch(data, origin=AppendOrigin.COORDINATOR)

    @property
    def verify_transactions(self) -> bool:
        """Whether a transaction may only begin with the guard that `start_verification` has given; can be set."""
        return self._state.verify_transactions

    @verify_transactions.setter
    def verify_transactions(self, wanted: bool) -> None:
        self._state.verify_transactions = wanted

    def start_verification(self, producer_id: int, sequence: int, epoch: int) -> Guard | None:
        """A guard for the append that begins a producer's transaction, to be handed to it once this is verified.

        `sequence` and `epoch` are those of the batch that waits. None where a transaction is open already (§4.2).
        """
        state = self._state
        with state.lock:
            state.check_open()
            if state.producers.has_open_transaction(_number("a producer id", producer_id)):
                return None
            return state.producers.maybe_create_guard(
                producer_id, _number("a sequence", sequence, INT32_MAX), _number("an epoch", epoch, _INT16_MAX),
                state.clock.now_ms(),
            )  # fmt: skip

    def flush(self) -> None:
        """Make everything appended so far durable. Raises OSError, after which the log refuses appends."""
        with self._state.lock:
            self._state.check_open()
            self._commits.flush()

    def roll(self) -> None:
        """Begin a new segment. Durable on return. Raises OSError."""
        state = self._state
        with state.lock:
            state.check_open()
            self._writer.roll(state.next_offset)

    # ---- replication

    def append_epoch(self, leader_epoch: int, start_offset: int) -> None:
        """Note that a leader's epoch begins, before it appends anything; durable on return.

        Raises ValueError for negative numbers, OSError.
        """
        state, epoch = self._state, _number("a leader epoch", leader_epoch, INT32_MAX)
        with state.lock:
            state.check_open()
            state.epochs.assign(epoch, _number("a start offset", start_offset))
            state.leader_epoch = max(state.leader_epoch, epoch)

    def end_offset_of_epoch(self, leader_epoch: int) -> EpochEndOffset:
        """Where an epoch ends, as a follower asks to find where to truncate (LOG_SEMANTICS §10)."""
        return self.leader_epochs.end_offset_for(leader_epoch, self.log_end_offset)

    def set_high_watermark(self, offset: int) -> int:
        """Set the high watermark of a `replicated` log, bounded by log start and log end; what it became.

        Raises ValueError for a negative one, or for a log that stands alone.
        """
        state = self._state
        with state.lock:
            if state.owner_watermark is None:
                raise ValueError("the high watermark of a log that stands alone is its end; open it as replicated")
            return state.set_high_watermark(_number("a high watermark", offset))

    def raise_high_watermark(self, offset: int) -> int | None:
        """Set the high watermark if that is higher; the old one then. Raises ValueError above the log end."""
        state = self._state
        with state.lock:
            if offset > state.next_offset:
                raise ValueError(f"a high watermark of {offset} is above the log end, {state.next_offset}")
            old = state.high_watermark
            if offset <= old:
                return None
            self.set_high_watermark(offset)
            return old

    def update_high_watermark(self, offset: int) -> int | None:
        """Set the high watermark as a follower learns it; what it became, None when that is nothing new."""
        with self._state.lock:
            old = self.high_watermark
            new = self.set_high_watermark(offset)
            return None if new == old else new

    # ---- cut

    def truncate_to(self, offset: int) -> bool:
        """Drop all records from `offset` on; whether there were any. Durable on return.

        A batch with `offset` in its middle goes as a whole (LOG_SEMANTICS §9). Raises ValueError, DamagedLogError, and
        OSError, after which the log is out of use until it is opened again.
        """
        with self._state.lock:
            self._state.check_open()
            return self._cutter.truncate_to(_number("the offset to truncate to", offset))

    def truncate_fully_and_start_at(self, offset: int, log_start_offset: int | None = None) -> None:
        """Drop everything and go on at `offset`. Durable on return. Raises ValueError, OSError."""
        with self._state.lock:
            self._state.check_open()
            end = _number("the offset to start at", offset)
            start = end if log_start_offset is None else _number("a log start offset", log_start_offset)
            self._cutter.truncate_fully_and_start_at(end, start)

    def advance_log_start(self, offset: int) -> bool:
        """Let readers see nothing below `offset`, durably; whether that is new.

        `delete_before_log_start` frees the disk. Raises ValueError, OffsetOutOfRangeError above the high watermark,
        OSError.
        """
        with self._state.lock:
            self._state.check_open()
            return self._cutter.advance_log_start(_number("a log start offset", offset))

    def delete_before_log_start(self) -> int:
        """Delete the segments wholly below the log start; how many. `maintain` unlinks their files later."""
        with self._state.lock:
            self._state.check_open()
            return self._cutter.delete_before_log_start()

    def set_cleaner_point(self, offset: int) -> None:
        """Remember up to where the log is cleaned, durably; a truncation lowers it. Raises ValueError, OSError."""
        state, point = self._state, _number("a cleaner point", offset)
        with state.lock, state.sync_lock:
            state.check_open()
            state.hold.set_cleaner_point(point)

    # ---- upkeep and end

    @property
    def clock(self) -> Clock:
        """What tells it the time."""
        return self._state.clock

    def held(self) -> AbstractContextManager[object]:
        """Keep others from changing it inside a `with`, so that what is decided there is done to what was looked at.

        Reading goes on; whoever appends or cuts waits.
        """
        return self._state.lock

    def configure(self, config: LogConfig) -> None:
        """Take other settings from the next operation on; what a segment was opened with stays until it is rolled."""
        with self._state.lock:
            self._state.config = _config(config)
            self._state.segments.active.configure(config)
            self._appender.configure(config)
            self._state.producers.configure(config.producer_id_expiration_ms, config.transaction_max_timeout_ms)

    def maintain(self) -> None:
        """What is due now and then: a flush by flush.ms, files that were deleted, producers that are silent.

        For a scheduler, or to be called by hand. Raises OSError.
        """
        state = self._state
        if not state.is_open:
            return
        self._commits.flush_if_due()
        with state.lock:
            now = state.clock.now_ms()
            state.segments.purge(now)
            state.producers.expire(now)

    def rename(self, directory: str | Path) -> bool:
        """Give the directory another name in the one above it, durably; whether that is new. Reading may go on.

        Raises ValueError for a place elsewhere, FileExistsError, OSError.
        """
        with self._state.lock:
            self._state.check_open()
            return rename_log(self._state, Path(directory))

    def delete(self) -> list[Path]:
        """Close the log and delete its files, durably; the files that are not a log's, which stay.

        A closed log is deleted, too, unless another process has it. The directory is not removed. Raises
        LogLockedError, OSError.
        """
        state = self._state
        with state.lock:
            if not state.is_open:
                state.hold = PartitionHold.take(state.fs, state.directory)
            try:
                return self._cutter.delete()
            finally:
                state.refusal = "it was deleted"
                self._give_up()

    def close(self) -> None:
        """Seal, sync and mark the log as cleanly closed; closing twice is fine.

        Raises OSError, and LogClosedError where the log takes no more appends after a failure: what was not durable
        then may be lost. It is closed all the same, and recovered when it is opened again.
        """
        state = self._state
        with state.lock:
            if not state.is_open:
                return
            try:
                state.check_open()
                self._writer.seal_for_close()
                state.synced_offset = state.next_offset
            finally:
                self._give_up()

    def _give_up(self) -> None:
        state = self._state
        state.is_open = False
        state.segments.close()
        state.maps.clear()
        state.hold.release()


def _config(config: object) -> LogConfig:
    if not isinstance(config, LogConfig):
        raise TypeError(f"{config!r} is no LogConfig")
    return config


def _durability(wanted: Durability) -> Durability:
    if wanted not in _DURABILITIES:
        raise ValueError(f"{wanted!r} is no durability; there are {', '.join(sorted(_DURABILITIES))}")
    return wanted


def _number(what: str, value: int, maximum: int = INT64_MAX) -> int:
    """A plain number from 0 on: what is written into files must not be anything else."""
    number = int(operator.index(value))
    if not 0 <= number <= maximum:
        raise ValueError(f"{what} of {number} is not from 0 to {maximum}")
    return number
