"""A directory with segments in it, in memory or on disk, and verbs that write and read them."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from logstore import names
from logstore.config import LogConfig
from logstore.fs import Buffer, FileSystem, LocalFileSystem
from logstore.inspect import CheckOptions, Severity, check, resolve
from logstore.log.maps import MapCache
from logstore.log.segment import Segment
from logstore.log.segment_scan import SegmentScan, scan_segment
from logstore.records import encode_batch, iter_batches
from logstore.testing import MemoryFileSystem

NOW = 1_700_000_000_000
CONFIG = LogConfig(segment_index_bytes=1200, index_interval_bytes=100)
FILE_SYSTEMS = ["memory", "local"]


@dataclasses.dataclass
class Place:
    """The directory of one partition."""

    fs: FileSystem
    path: Path
    config: LogConfig = CONFIG

    def __post_init__(self) -> None:
        self.maps = MapCache(self.fs)
        self.fs.make_directory(self.path)
        if isinstance(self.fs, MemoryFileSystem):
            for directory in (*reversed(self.path.parents), self.path):
                self.fs.sync_directory(directory)

    @classmethod
    def on(cls, kind: str, tmp_path: Path, config: LogConfig = CONFIG) -> Self:
        """One on a new file system of this kind."""
        if kind == "memory":
            return cls(MemoryFileSystem(), Path("/data/orders-0"), config)
        return cls(LocalFileSystem(), tmp_path / "orders-0", config)

    # ---- segments

    def create(self, base_offset: int = 0, config: LogConfig | None = None) -> Segment:
        """A new segment."""
        return Segment.create(self.fs, self.path, base_offset, config or self.config, self.maps, NOW)

    def existing(self, base_offset: int = 0, config: LogConfig | None = None, suffix: str = "") -> Segment:
        """One that is there, as a process sees it that starts now."""
        self.maps.clear()
        return Segment.existing(self.fs, self.path, base_offset, config or self.config, self.maps, NOW, suffix)

    def resumed(self, base_offset: int = 0, config: LogConfig | None = None) -> Segment:
        """One that is there, active."""
        segment = self.existing(base_offset, config)
        segment.resume()
        return segment

    def sealed(self, segment: Segment) -> Segment:
        """The same, once it was sealed and closed."""
        segment.seal()
        segment.close()
        return segment

    def scan(self, base_offset: int = 0, config: LogConfig | None = None) -> SegmentScan:
        """What a scan of a segment's log file finds."""
        with self.fs.open(self.path / names.log_file_name(base_offset)) as file:
            return scan_segment(file, base_offset, config or self.config)

    def rebuild(self, base_offset: int = 0) -> Segment:
        """A segment whose indexes were made anew from its batches, and whose log was cut, as recovery does."""
        found = self.scan(base_offset)
        log = names.log_file_name(base_offset)
        self.write(log, self.read(log)[: found.valid_size])
        self.write(names.offset_index_file_name(base_offset), found.offset_entries)
        self.write(names.time_index_file_name(base_offset), found.time_entries)
        return self.existing(base_offset)

    # ---- files

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self.fs.open(self.path / name) as file:
            return file.read(0, file.size())

    def write(self, name: str, data: Buffer) -> None:
        """Put a file in the place of what has this name: whoever has that open keeps it."""
        self.fs.unlink(self.path / name, missing_ok=True)
        with self.fs.open(self.path / name, write=True, create=True) as file:
            file.write(0, data)
            file.sync()
        self.fs.sync_directory(self.path)

    def sizes(self) -> dict[str, int]:
        """The size of each file, by what its name ends in."""
        return {name.partition(".")[2]: self.fs.file_size(self.path / name) for name in self.fs.list(self.path)}

    def alarms(self, tmp_path: Path) -> list[str]:
        """What `logstore check` finds wrong in the directory."""
        directory = self.path
        if isinstance(self.fs, MemoryFileSystem):
            self.fs.export(tmp_path)
            directory = tmp_path / self.path.relative_to("/")
        found = check(resolve(directory), CheckOptions())
        return [str(one) for one in found if one.severity != Severity.NOTE]


def batch(offset: int, count: int = 1, *, timestamp: int | None = None, size: int = 0) -> bytes:
    """A batch with the offsets from `offset` on; its time is the offset, if none is given."""
    at = offset if timestamp is None else timestamp
    records = [(b"k", b"value %04d" % (offset + number) + b"x" * size) for number in range(count)]
    return bytes(encode_batch(records, base_offset=offset, timestamp=at))


def put(segment: Segment, offset: int, count: int = 1, *, timestamp: int | None = None, size: int = 0) -> bytes:
    """Append a batch with the offsets from `offset` on."""
    data = batch(offset, count, timestamp=timestamp, size=size)
    segment.append(data, offset + count - 1, offset if timestamp is None else timestamp, offset + count - 1)
    return data


def put_batches(segment: Segment, *batches: Buffer) -> None:
    """Append encoded batches one by one."""
    for data in batches:
        one = next(iter(iter_batches(data)))
        segment.append(data, one.last_offset, one.header.max_timestamp, one.last_offset)


def offsets_from(segment: Segment, offset: int) -> list[int] | None:
    """The offsets of the batch that a read at `offset` begins with, or None."""
    located = segment.locate(offset, segment.size)
    if located is None:
        return None
    return [record.offset for record in next(iter(iter_batches(segment.slice(*located)))).records()]


def offsets_of(segment: Segment) -> list[int]:
    """All offsets, by walking over the batches."""
    found, position = [], 0
    while position < segment.size and (batches := segment.batches(position, segment.size)):
        found += [record.offset for one in batches for record in one.records()]
        position = batches[-1].header.position + batches[-1].header.size
    return found


def read_while(read: Callable[[], object], write: Callable[[], object]) -> None:
    """Run `read` again and again in three threads while `write` runs in this one; they take turns often."""
    failures: list[BaseException] = []
    is_done = threading.Event()

    def loop() -> None:
        try:
            while not is_done.is_set():
                read()
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread of the test
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=loop) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        write()
    finally:
        is_done.set()
        for reader in readers:
            reader.join(30)
        sys.setswitchinterval(interval)
    if failures:
        raise failures[0]
