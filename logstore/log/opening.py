"""Opening a log: the directory made, the locks taken, what is on disk loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from uuid import UUID

from logstore.clock import Clock
from logstore.config import LogConfig
from logstore.fs import FileSystem
from logstore.log.log_state import LogState
from logstore.log.maps import MAPS_MAX, MapCache
from logstore.log.partition_state import PartitionHold
from logstore.log.recovery import DamagePolicy, LogLoader, Recovered


def open_state(
    directory: Path,
    config: LogConfig,
    fs: FileSystem,
    clock: Clock,
    *,
    leader_epoch: int,
    replicated: bool,
    log_start_offset: int,
    damage: DamagePolicy,
    topic_id: UUID | None,
    hold: PartitionHold | None = None,
    maps_max: int = MAPS_MAX,
    is_shared: bool = False,
) -> tuple[LogState, Recovered | None]:
    """The state of a log, and what opening it has done, if anything; arguments and errors as `Log.open`."""
    missing = [one for one in (directory, *directory.parents) if not fs.is_directory(one)]
    fs.make_directory(directory)
    for one in missing:
        fs.sync_directory(one.parent)
    hold = PartitionHold.take(fs, directory) if hold is None else hold
    maps = MapCache(fs, maps_max, is_shared=is_shared)
    loader = LogLoader(fs, directory, config, maps, now_ms=clock.now_ms(), damage=damage)
    try:
        if topic_id is not None:
            hold.topic_id(topic_id)
        facts = hold.facts()
        facts = facts._replace(log_start_offset=max(facts.log_start_offset, log_start_offset))
        # Up to here, and while it looks, nothing has changed but for the lock: what is refused is as it was.
        diagnosis = loader.inspect(facts)
        if diagnosis.is_new and not missing:
            # Who has made the directory may have been killed before its name was durable.
            with contextlib.suppress(PermissionError):
                fs.sync_directory(directory.parent)
        hold.begin()
        loaded = loader.load(facts, diagnosis)
        hold.cleaner_point = facts.cleaner_point
        if facts.cleaner_point is not None and facts.cleaner_point > loaded.log_end_offset:
            # What is appended from the log end on was never cleaned.
            hold.lower_cleaner_point(loader.segments.active.base_offset)
        # Without a log directory's checkpoints around it, nobody else remembers this.
        hold.write_state(loaded.recovery_point, loaded.log_start_offset)
        if topic_id is not None:
            hold.record_topic_id(topic_id)
    except BaseException:
        loader.segments.close()
        maps.clear()
        hold.release()
        raise
    state = LogState(
        fs, clock, directory, config, maps, hold, loader.segments, loader.epochs, loader.producers,
        leader_epoch=max(leader_epoch, loader.epochs.latest_epoch), log_start_offset=loaded.log_start_offset,
        next_offset=loaded.log_end_offset, synced_offset=loaded.recovery_point, synced_ns=clock.monotonic_ns(),
        owner_watermark=loaded.log_start_offset if replicated else None,
    )  # fmt: skip
    state.after_append()
    report = loaded.report
    return state, None if report.was_clean and not report.actions else report
