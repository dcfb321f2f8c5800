"""What lies on the disk of a `MemoryFileSystem`: for each file and directory what programs see, and what is durable.

Invariant: `visible` is `synced` with all `changes` applied, except for changes that a failed sync has lost. Only names,
bytes and their order count here; numbering, failures and locking are the file system's. Not thread-safe.
"""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

CrashMode: TypeAlias = Literal["nothing", "everything", "torn", "metadata", "subset"]

BLOCK_SIZE = 512
"""Bytes that a disk writes as a whole or not at all."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written at a position; a gap before them becomes zeros."""

    position: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        if self.data:
            content.extend(bytes(max(0, self.position - len(content))))
            content[self.position : self.position + len(self.data)] = self.data

    def blocks(self) -> Iterator[Write]:
        """The same write, cut where the blocks of the disk meet."""
        end = self.position + len(self.data)
        starts = [self.position, *range((self.position // BLOCK_SIZE + 1) * BLOCK_SIZE, end, BLOCK_SIZE), end]
        for start, stop in itertools.pairwise(starts):
            yield Write(start, self.data[start - self.position : stop - self.position])


@dataclass(frozen=True, slots=True)
class Resize:
    """A file cut, or extended with zeros."""

    size: int

    def apply(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))


Change: TypeAlias = Write | Resize


class MappedBytes(bytearray):
    """What a map shows. A class of its own because a bytearray takes no weak references, and those tell if it lives."""


@dataclass(slots=True)
class Holders:
    """Who holds a lock on a file: one alone, or any number who share it. No disk knows of it: a crash ends all."""

    alone: object | None = None
    together: set[object] = field(default_factory=set)

    def take(self, who: object, *, shared: bool) -> bool:
        """Give somebody the lock, or the one of the other kind instead, unless others are in the way."""
        if self.alone not in (None, who) or (not shared and self.together - {who}):
            return False
        self.alone = None if shared else who
        (self.together.add if shared else self.together.discard)(who)
        return True

    def drop(self, who: object) -> None:
        """Somebody holds it no longer."""
        if self.alone is who:
            self.alone = None
        self.together.discard(who)


@dataclass(slots=True, eq=False)
class Content:
    """The content of a file, whatever names it has."""

    visible: bytearray = field(default_factory=bytearray)
    synced: bytearray = field(default_factory=bytearray)
    changes: list[Change] = field(default_factory=list)
    modified_ms: int = 0
    holders: Holders = field(default_factory=Holders)
    maps: list[weakref.ref[MappedBytes]] = field(default_factory=list)

    def change(self, change: Change, now_ms: int) -> None:
        change.apply(self.visible)
        self.changes.append(change)
        self.modified_ms = now_ms
        for mapped in self._live_maps():
            if isinstance(change, Write) and change.position < len(mapped):
                stop = min(change.position + len(change.data), len(mapped))
                mapped[change.position : stop] = self.visible[change.position : stop]

    def sync(self) -> None:
        for change in self.changes:
            change.apply(self.synced)
        self.changes.clear()

    def map(self) -> MappedBytes:
        mapped = MappedBytes(self.visible)
        self.maps.append(weakref.ref(mapped))
        return mapped

    def mapped_size(self) -> int:
        """Bytes of the largest map that somebody can still read, be it by a slice of a closed one."""
        return max(map(len, self._live_maps()), default=0)

    def _live_maps(self) -> list[MappedBytes]:
        live = [(one, mapped) for one in self.maps if (mapped := one()) is not None]
        self.maps = [one for one, _ in live]
        return [mapped for _, mapped in live]


@dataclass(slots=True, eq=False)
class Directory:
    """The names in a directory.

    Each change has the number of its operation: a rename between two directories changes both. As long as neither was
    synced it survives in both or in none; who syncs the old one first risks the file.
    """

    visible: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    changes: list[tuple[int, dict[str, Node | None]]] = field(default_factory=list)
    modified_ms: int = 0

    def change(self, number: int, names: dict[str, Node | None]) -> None:
        """Let each name mean this file or directory, or nothing."""
        _apply_names(names, self.visible)
        self.changes.append((number, names))

    def sync(self) -> None:
        for _, names in self.changes:
            _apply_names(names, self.synced)
        self.changes.clear()

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Node]]:
        """All that programs see below, by path, a directory before what is in it."""
        for name, node in sorted(self.visible.items()):
            yield prefix + name, node
            if isinstance(node, Directory):
                yield from node.walk(f"{prefix}{name}/")


Node: TypeAlias = Content | Directory


class Aftermath:
    """What one power cut leaves; the modes are those of `MemoryFileSystem.crash`."""

    def __init__(self, mode: CrashMode, seed: int) -> None:
        self._mode = mode
        self._random = random.Random(seed)
        self._survives: dict[int, bool] = {}  # by the number of an operation on names
        self._copies: dict[int, tuple[Node, Node]] = {}  # by id, with the original, so that no other gets its id

    def directory(self, before: Directory) -> Directory:
        """Return a directory and all below as found afterwards, all of it durable."""
        names = dict(before.synced)
        for number, change in before.changes:
            if self._mode != "nothing" and self._survived(number):
                _apply_names(change, names)
        after = Directory(modified_ms=before.modified_ms)
        self._copies[id(before)] = before, after
        for name, node in names.items():
            after.synced[name] = self._node(node)
        after.visible.update(after.synced)
        return after

    def _node(self, before: Node) -> Node:
        if id(before) not in self._copies:
            if isinstance(before, Directory):
                return self.directory(before)
            content = self._content(before)
            self._copies[id(before)] = before, Content(content, content[:], modified_ms=before.modified_ms)
        return self._copies[id(before)][1]

    def _content(self, before: Content) -> bytearray:
        content = bytearray(before.synced)
        changes: Sequence[Change] = before.changes
        if self._mode == "nothing":
            changes = ()
        elif self._mode == "torn":
            changes = _torn(before.changes)
        elif self._mode == "subset":
            changes = list(self._subset(before.changes))
        for change in changes:
            change.apply(content)
        if self._mode == "metadata":
            # The smallest size it had since the sync: what lies beyond was written anew, into blocks full of zeros.
            kept = min([len(before.synced), len(content), *(one.size for one in changes if isinstance(one, Resize))])
            content[:] = before.synced[:kept] + bytes(len(content) - kept)
        return content

    def _survived(self, number: int) -> bool:
        if self._mode != "subset":
            return True
        return self._survives.setdefault(number, self._random.random() < 0.5)

    def _subset(self, changes: Sequence[Change]) -> Iterator[Change]:
        for change in changes:
            fate = self._random.choice(("lost", "whole", "blocks"))
            if fate == "whole":
                yield change
            elif fate == "blocks" and isinstance(change, Write):
                yield from (block for block in change.blocks() if self._random.random() < 0.5)


def _torn(changes: Sequence[Change]) -> Sequence[Change]:
    for index in range(len(changes) - 1, -1, -1):
        last = changes[index]
        if isinstance(last, Write):
            return [*changes[:index], Write(last.position, last.data[: len(last.data) // 2])]
    return changes


def _apply_names(changed: dict[str, Node | None], names: dict[str, Node]) -> None:
    for name, node in changed.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node
