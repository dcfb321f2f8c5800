"""A file system to try things out on: what is read is real, every change stays in memory.

So `--dry-run` runs the very code that does the deed, and says what that does. Invariant: the real file system is never
changed, no byte, name or time; it is taken to stand still meanwhile. Memory is bounded: bytes of real files are kept by
reference, what is written goes to a temporary file where it is much. Thread-safe.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from logstore.clock import Clock, SystemClock
from logstore.fs import FileSystem, Names, StrPath
from logstore.repair.dry_run_file import Content, DryRunFile, RealFile, Tray, os_error


class _Directory:
    """A directory that was made, or moved here."""


_Node = Content | _Directory


class DryRunFileSystem:
    """A `FileSystem` over a real one.

    Args:
        fs: what is read.
        clock: gives the times of what is changed.
    """

    def __init__(self, fs: FileSystem, *, clock: Clock | None = None) -> None:
        self._fs = fs
        self._tray = Tray((clock or SystemClock()).now_ms)
        self._guard = self._tray.guard
        self._nodes: dict[str, _Node | None] = {}  # by normal path: what it is now, None for what is gone
        self._children: dict[str, set[str]] = {}
        self._locked: set[str] = set()

    def __repr__(self) -> str:
        changed = sum(not isinstance(one, Content) or one.modified_ms is not None for one in self._nodes.values())
        return f"<DryRunFileSystem {changed} names changed over {self._fs!r}>"

    def open(self, path: StrPath, *, write: bool = False, create: bool = False, exclusive: bool = False) -> DryRunFile:
        name = os.fspath(path)
        with self._guard:
            node = self._find(name)
            if node is not None and exclusive:
                raise os_error(errno.EEXIST, name)
            if isinstance(node, _Directory):
                raise os_error(errno.EISDIR, name)
            if node is None:
                if not create and not exclusive:
                    raise os_error(errno.ENOENT, name)
                self._check_parent(name)
                node = Content()
                node.modified_ms = self._tray.now_ms()
                self._put(name, node)
            return DryRunFile(name, node, self._tray, writable=write)

    def exists(self, path: StrPath) -> bool:
        with self._guard:
            key = _key(path)
            return self._nodes[key] is not None if key in self._nodes else self._fs.exists(path)

    def is_directory(self, path: StrPath) -> bool:
        with self._guard:
            key = _key(path)
            return isinstance(self._nodes[key], _Directory) if key in self._nodes else self._fs.is_directory(path)

    def list(self, path: StrPath) -> Names:
        with self._guard:
            key = _key(path)
            if key not in self._nodes:
                found = set(self._fs.list(path))
            elif isinstance(self._nodes[key], _Directory):
                found = set()
            else:
                raise os_error(errno.ENOENT if self._nodes[key] is None else errno.ENOTDIR, path)
            for name in self._children.get(key, ()):
                if self._nodes[_join(key, name)] is None:
                    found.discard(name)
                else:
                    found.add(name)
            return sorted(found)

    def make_directory(self, path: StrPath) -> None:
        name = os.path.normpath(os.fspath(path))
        with self._guard:
            if self.is_directory(name):
                return
            if self.exists(name):
                raise os_error(errno.EEXIST, name)
            above = os.path.dirname(name)
            if above and above != name:
                self.make_directory(above)
            self._put(name, _Directory())

    def rename(self, source: StrPath, target: StrPath) -> None:
        with self._guard:
            self._check_parent(target)
            node, replaced = self._find(source), self._find(target)
            if node is None:
                raise os_error(errno.ENOENT, source)
            if _key(source) == _key(target):
                return
            self._check_replacement(node, replaced, source, target)
            if isinstance(node, Content) and node.modified_ms is None:
                node.modified_ms = self._fs.modified_ms(source)  # it stays, and the name tells it no more
            names = self.list(source) if isinstance(node, _Directory) else []
            self._put(target, node)
            for name in names:
                self.rename(os.path.join(source, name), os.path.join(target, name))
            self._put(source, None)

    def unlink(self, path: StrPath, missing_ok: bool = False) -> None:
        with self._guard:
            node = self._find(path)
            if isinstance(node, _Directory):
                raise os_error(errno.EISDIR, path)
            if node is not None:
                self._put(path, None)
            elif not missing_ok:
                raise os_error(errno.ENOENT, path)

    def sync_directory(self, path: StrPath) -> None:
        if not self.is_directory(path):
            raise os_error(errno.ENOTDIR if self.exists(path) else errno.ENOENT, path)

    def file_size(self, path: StrPath) -> int:
        with self._guard:
            node = self._find(path)
            if node is None:
                raise os_error(errno.ENOENT, path)
            return node.size if isinstance(node, Content) else 0

    def modified_ms(self, path: StrPath) -> int:
        with self._guard:
            node = self._nodes.get(_key(path))
            if isinstance(node, Content) and node.modified_ms is not None:
                return node.modified_ms
            if self.exists(path) and isinstance(node, _Directory):
                return self._tray.now_ms()
            if not self.exists(path):
                raise os_error(errno.ENOENT, path)
            return self._fs.modified_ms(path)

    def set_modified_ms(self, path: StrPath, ms: int) -> None:
        with self._guard:
            node = self._find(path)
            if node is None:
                raise os_error(errno.ENOENT, path)
            if isinstance(node, Content):
                node.modified_ms = ms

    def lock(self, path: StrPath) -> DryRunLock | None:
        """As `FileSystem.lock`, in this dry run; a lock that others hold on a real file is respected, none is left."""
        with self._guard:
            key = _key(path)
            if key in self._locked:
                return None
            if key not in self._nodes and self._fs.exists(path):
                held = self._fs.lock(path)  # the file is there: this makes none, and changes no time
                if held is None:
                    return None
                held.release()
            elif key not in self._nodes or self._nodes[key] is None:
                self._check_parent(path)
                self._put(path, Content())
            self._locked.add(key)
            return DryRunLock(os.fspath(path), lambda: self._locked.discard(key))

    # --- inside ---

    def _find(self, path: StrPath) -> _Node | None:
        """What a path is; a real file becomes known, so that all who open it see the same."""
        key = _key(path)
        if key in self._nodes:
            return self._nodes[key]
        if self._fs.is_directory(path):
            return _Directory()
        if not self._fs.exists(path):
            return None
        content = Content(RealFile(self._fs, os.fspath(path)), self._fs.file_size(path))
        self._nodes[key] = content
        return content

    def _put(self, path: StrPath, node: _Node | None) -> None:
        key = _key(path)
        self._nodes[key] = node
        above, name = os.path.split(key)
        self._children.setdefault(above or os.curdir, set()).add(name)

    def _check_replacement(self, node: _Node, replaced: _Node | None, source: StrPath, target: StrPath) -> None:
        if f"{_key(target)}/".startswith(f"{_key(source)}/"):
            raise os_error(errno.EINVAL, target)  # a directory would go into itself
        if f"{_key(source)}/".startswith(f"{_key(target)}/"):
            raise os_error(errno.ENOTEMPTY, target)
        if isinstance(node, _Directory):
            if isinstance(replaced, Content):
                raise os_error(errno.ENOTDIR, target)
            if replaced is not None and self.list(target):
                raise os_error(errno.ENOTEMPTY, target)
        elif isinstance(replaced, _Directory):
            raise os_error(errno.EISDIR, target)

    def _check_parent(self, path: StrPath) -> None:
        above = os.path.dirname(os.path.normpath(os.fspath(path))) or os.curdir
        if not self.is_directory(above):
            raise os_error(errno.ENOTDIR if self.exists(above) else errno.ENOENT, path)


class DryRunLock:
    """A lock that holds within one dry run."""

    __slots__ = ("_release", "path")

    def __init__(self, path: str, release: Callable[[], None]) -> None:
        self.path = path
        self._release: Callable[[], None] | None = release

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        return self._release is not None

    def release(self) -> None:
        """Let others have it."""
        release, self._release = self._release, None
        if release is not None:
            release()


def _key(path: StrPath) -> str:
    return os.path.normpath(os.fspath(path))


def _join(directory: str, name: str) -> str:
    return name if directory == os.curdir else os.path.join(directory, name)
