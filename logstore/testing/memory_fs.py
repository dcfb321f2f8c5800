"""A file system in memory that knows what of it would survive a power cut, and fails on cue.

Invariant: besides what programs see, each file and each directory keeps what of it is durable, and in order the changes
since then; a sync applies these, and a crash some of them. A file's sync does not make its name durable, and a failed
sync drops the changes, as Linux does: they stay visible, a retried sync succeeds, and a crash finds them gone.
Several processes may work on the same files, each by a `MemoryFileSystem` of its own: their locks keep each other out,
and one may die alone. Paths are POSIX, relative ones count from the root. One lock makes each operation atomic:
thread-safe.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from logstore.clock import Clock
from logstore.fs import Buffer, Names, SharingFileSystem, StrPath
from logstore.testing.disk import Aftermath, Content, CrashMode, Directory, Node
from logstore.testing.manual_clock import ManualClock
from logstore.testing.memory_file import MemoryFile, Shared, os_error
from logstore.testing.memory_locks import Locks, MemoryLock, MemoryOpenLock
from logstore.testing.operations import Operation, Operations


class MemoryFileSystem:
    """A `SharingFileSystem` in memory; `clock` gives the times of its files."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._shared = Shared(ManualClock() if clock is None else clock)
        self._operations, self._guard = self._shared.operations, self._shared.guard
        self._root = Directory()
        self._locks = Locks(self._shared)

    def __repr__(self) -> str:
        return f"<MemoryFileSystem {len(self.tree())} files, operations {self.operations}, stop_at {self.stop_at}>"

    @property
    def operations(self) -> int:
        """How many operations were done, or failed, so far."""
        return self._operations.count

    @property
    def stop_at(self) -> int | None:
        """The number of the operation, counted from 1, at which the power goes; None for never.

        It and all later ones raise SimulatedCrash and do not happen; reading and closing goes on.
        """
        return self._operations.stop_at

    @stop_at.setter
    def stop_at(self, number: int | None) -> None:
        self._operations.stop_at = number

    @property
    def stop_torn(self) -> bool:
        """Whether the first half of the operation at `stop_at` still happens, if it is a write."""
        return self._operations.stop_torn

    @stop_torn.setter
    def stop_torn(self, torn: bool) -> None:
        self._operations.stop_torn = torn

    # --- FileSystem ---

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> MemoryFile:
        name = os.fspath(path)
        with self._guard:
            content = self._content(name, create=create, exclusive=exclusive)
            return MemoryFile(name, content, self._shared, writable=write)

    def exists(self, path: StrPath) -> bool:
        with self._guard:
            return self._find_or_none(path) is not None

    def is_directory(self, path: StrPath) -> bool:
        with self._guard:
            return isinstance(self._find_or_none(path), Directory)

    def list(self, path: StrPath) -> Names:
        with self._guard:
            return sorted(self._directory(path).visible)

    def make_directory(self, path: StrPath) -> None:
        name = os.fspath(path)
        with self._guard:
            node = self._find_or_none(name)
            if isinstance(node, Directory):
                return
            if node is not None:
                raise os_error(errno.EEXIST, name)
            above = os.path.dirname(name.rstrip("/"))
            if above and not self.exists(above):
                self.make_directory(above)
            directory, last = self._parent(name)
            number = self._operations.begin("make_directory", name)
            directory.change(number, {last: Directory(modified_ms=self._shared.clock.now_ms())})

    def rename(self, source: StrPath, target: StrPath) -> None:
        with self._guard:
            (old, old_name), (new, new_name) = self._parent(source), self._parent(target)
            node = self._find(source)
            replaced = new.visible.get(new_name)
            if replaced is node:
                return
            _check_replacement(node, replaced, source, target)
            number = self._operations.begin("rename", os.fspath(source), target=os.fspath(target))
            if old is new:
                old.change(number, {old_name: None, new_name: node})
            else:
                old.change(number, {old_name: None})
                new.change(number, {new_name: node})

    def unlink(self, path: StrPath, missing_ok: bool = False) -> None:
        with self._guard:
            try:
                node = self._find(path)
            except FileNotFoundError:
                if missing_ok:
                    return
                raise
            if isinstance(node, Directory):
                raise os_error(errno.EISDIR, path)
            directory, name = self._parent(path)
            number = self._operations.begin("unlink", os.fspath(path))
            directory.change(number, {name: None})

    def sync_directory(self, path: StrPath) -> None:
        with self._guard:
            directory = self._directory(path)
            try:
                self._operations.begin("sync_directory", os.fspath(path))
            except OSError:
                directory.changes.clear()
                raise
            directory.sync()

    def file_size(self, path: StrPath) -> int:
        with self._guard:
            node = self._find(path)
            return 0 if isinstance(node, Directory) else len(node.visible)

    def modified_ms(self, path: StrPath) -> int:
        with self._guard:
            return self._find(path).modified_ms

    def set_modified_ms(self, path: StrPath, ms: int) -> None:
        """Not numbered, and durable at once: nothing may depend on it."""
        with self._guard:
            self._find(path).modified_ms = ms

    def lock(self, path: StrPath) -> MemoryLock | None:
        name = os.fspath(path)
        with self._guard:
            content = self._content(name, create=True)
            lock = MemoryLock(name, content, self._locks)
            if content.holders.take(lock, shared=False):
                return lock
            lock.release()
            return None

    # --- SharingFileSystem ---

    def open_lock(self, path: StrPath) -> MemoryOpenLock:
        name = os.fspath(path)
        with self._guard:
            content = self._content(name, create=True)
            if self._locks.has_alone(content):
                raise os_error(errno.EAGAIN, name)
            return MemoryOpenLock(MemoryFile(name, content, self._shared, writable=True), content, self._locks)

    def remove_directory(self, path: StrPath) -> None:
        with self._guard:
            if self._directory(path).visible:
                raise os_error(errno.ENOTEMPTY, path)
            directory, name = self._parent(path)
            number = self._operations.begin("remove_directory", os.fspath(path))
            directory.change(number, {name: None})

    # --- processes ---

    def process(self) -> MemoryFileSystem:
        """Another process on the same files: it has locks, failures and a `stop_at` of its own, for `kill`."""
        with self._guard:
            other = MemoryFileSystem(self._shared.clock)
            other._shared = Shared(self._shared.clock, Operations(self._operations), self._guard)
            other._operations, other._guard = other._shared.operations, self._guard
            other._root, other._locks = self._root, Locks(other._shared, self._locks)
            return other

    def kill(self) -> None:
        """End the process that works by this file system: its locks are gone, and it changes nothing any more.

        What it has written stays as it is, for the others. Whatever it still tries to change raises SimulatedCrash.
        """
        with self._guard:
            self._operations.stop_at = 0
            self._locks.end()

    # --- failures and crashes ---

    def fail_on(
        self,
        predicate: Callable[[Operation], bool],
        error: OSError | None = None,
        *,
        written: int = 0,
        times: int | None = None,
    ) -> None:
        """Let operations fail with `error`: all for which `predicate` is true, or the next `times` of them.

        A failing write still writes its first `written` bytes. Without an error it is a short write: the rest follows
        as another operation.
        """
        with self._guard:
            self._operations.fail_on(predicate, error, written, times)

    def heal(self) -> None:
        """End all failures."""
        with self._guard:
            self._operations.heal()

    def crash(self, mode: CrashMode, seed: int = 0) -> MemoryFileSystem:
        """Return what a power cut now would leave, all of it durable, with no open files, locks, maps or failures.

        - `nothing`: what was synced, and nothing else.
        - `everything`: what programs saw, but for what a failed sync has lost.
        - `torn`: as `everything`, but each file's last unsynced write ends in its middle, with nothing after it.
        - `metadata`: all names and sizes; bytes that were never synced are zeros, those overwritten are the old ones.
        - `subset`: each unsynced change survives or not, whatever became of those before it; a write as a whole or by
          blocks of 512 bytes. `seed` chooses.
        """
        with self._guard:
            after = MemoryFileSystem(self._shared.clock)
            after._root = Aftermath(mode, seed).directory(self._root)
            return after

    # --- helpers for tests: no operations, so they are neither numbered nor do they fail ---

    def read_bytes(self, path: StrPath) -> bytes:
        """A whole file, as programs see it."""
        with self._guard:
            node = self._find(path)
            if isinstance(node, Directory):
                raise os_error(errno.EISDIR, path)
            return bytes(node.visible)

    def write_bytes(self, path: StrPath, data: Buffer) -> None:
        """Make a whole file, durably, or put it in the place of one; the directories above it are made and synced."""
        with self._guard:
            *above, name = _parts(path)
            directory = self._place("/" + "/".join(above))
            if isinstance(directory.visible.get(name), Directory):
                raise os_error(errno.EISDIR, path)
            content = bytearray(data)
            directory.change(0, {name: Content(content, content[:], modified_ms=self._shared.clock.now_ms())})
            directory.sync()

    def tree(self) -> dict[str, bytes]:
        """All files as programs see them, by their path from the root, without a leading slash."""
        with self._guard:
            nodes = self._root.walk()
            return {path: bytes(node.visible) for path, node in nodes if isinstance(node, Content)}

    def export(self, directory: StrPath) -> None:
        """Write all files and directories, as programs see them, into a directory of the operating system."""
        with self._guard:
            Path(directory).mkdir(parents=True, exist_ok=True)
            for path, node in self._root.walk():
                if isinstance(node, Directory):
                    Path(directory, path).mkdir(exist_ok=True)
                else:
                    Path(directory, path).write_bytes(node.visible)

    @classmethod
    def load(cls, directory: StrPath, clock: Clock | None = None) -> Self:
        """Return a file system with all that is in a directory of the operating system, durable."""
        fs = cls(clock)
        for path in sorted(Path(directory).rglob("*")):
            name = path.relative_to(directory).as_posix()
            if path.is_file():
                fs.write_bytes(name, path.read_bytes())
            elif path.is_dir():
                fs._place(name)
        return fs

    # --- inside ---

    def _content(self, name: str, *, create: bool = False, exclusive: bool = False) -> Content:
        directory, last = self._parent(name)
        node = directory.visible.get(last)
        if exclusive and node is not None:
            raise os_error(errno.EEXIST, name)
        if isinstance(node, Directory):
            raise os_error(errno.EISDIR, name)
        if node is None:
            if not create and not exclusive:
                raise os_error(errno.ENOENT, name)
            number = self._operations.begin("create", name)
            node = Content(modified_ms=self._shared.clock.now_ms())
            directory.change(number, {last: node})
        return node

    def _place(self, path: str) -> Directory:
        """A directory, made durable with all above it."""
        directory = self._root
        for part in _parts(path):
            node = directory.visible.get(part) or Directory()
            if not isinstance(node, Directory):
                raise os_error(errno.ENOTDIR, path)
            directory.change(0, {part: node})
            directory.sync()
            directory = node
        return directory

    def _find(self, path: StrPath) -> Node:
        node: Node = self._root
        for part in _parts(path):
            if not isinstance(node, Directory):
                raise os_error(errno.ENOTDIR, path)
            if part not in node.visible:
                raise os_error(errno.ENOENT, path)
            node = node.visible[part]
        return node

    def _find_or_none(self, path: StrPath) -> Node | None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self._find(path)
        return None

    def _directory(self, path: StrPath) -> Directory:
        node = self._find(path)
        if not isinstance(node, Directory):
            raise os_error(errno.ENOTDIR, path)
        return node

    def _parent(self, path: StrPath) -> tuple[Directory, str]:
        *above, name = _parts(path) or [""]
        if not name:
            raise os_error(errno.EBUSY, path)
        try:
            return self._directory("/" + "/".join(above)), name
        except OSError as error:
            error.filename = os.fspath(path)
            raise


def _check_replacement(node: Node, replaced: Node | None, source: StrPath, target: StrPath) -> None:
    old, new = _parts(source), _parts(target)
    if new[: len(old)] == old:
        raise os_error(errno.EINVAL, target)  # a directory would go into itself
    if old[: len(new)] == new:
        raise os_error(errno.ENOTEMPTY, target)
    if isinstance(node, Directory):
        if isinstance(replaced, Content):
            raise os_error(errno.ENOTDIR, target)
        if replaced is not None and replaced.visible:
            raise os_error(errno.ENOTEMPTY, target)
    elif isinstance(replaced, Directory):
        raise os_error(errno.EISDIR, target)


if TYPE_CHECKING:
    _: type[SharingFileSystem] = MemoryFileSystem


def _parts(path: StrPath) -> list[str]:
    name = os.fspath(path)
    if not name:
        raise os_error(errno.ENOENT, name)
    return [part for part in os.path.normpath(os.path.join("/", name)).split("/") if part]
