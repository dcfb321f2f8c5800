"""The topics of a store that is open, and the changes to them that all processes see.

Who changes topics holds the lock of the first directory, and says before and after, in a lock file with numbers, that
it does; who finds other numbers reads the list again, and finishes what one who died at it has left. Invariant: a topic
whose directories are not all there, or not all gone, is made or deleted to the end before anything else is done.
Thread-safe.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from logstore.errors import LogstoreError
from logstore.fs import SharingFileSystem
from logstore.log import Turns, parse_turn
from logstore.names import TopicPartition
from logstore.store.catalog import Catalog, Topic
from logstore.store.data_directory import DataDirectory
from logstore.store.removal import rename_for_deletion

_TURNS = ".logstore-turns"
_LOOKS_MAX = 5  # without a lock; then with one

TakeOver = Callable[[Catalog, Catalog], None]
"""Told the topics before and after a change, by whomever."""


class TopicKeeper:
    """Keeps the topics of a store.

    Args:
        fs: what it stands on.
        directories: of the store; the first has the list.
        take_over: is told of changes, under the guard.

    Attributes:
        catalog: the topics, as they were seen last.
        guard: taken before the locks of partitions and logs, and before those of files.
    """

    def __init__(self, fs: SharingFileSystem, directories: Sequence[DataDirectory], take_over: TakeOver) -> None:
        self.catalog = Catalog()
        self.guard = threading.RLock()
        self._fs = fs
        self._directories = directories
        self._root = directories[0]
        self._take_over = take_over
        self._turns = Turns(fs.open_lock(self._root.path / _TURNS), self._root.session.number)
        self._seen: bytes | None = None
        try:
            self.current()
            # A power cut may have taken back what the numbers said, and left a change half done.
            if self.catalog.deleting or self._incomplete():
                with self.guard, self._root.working():
                    self._put_in_order(thoroughly=True)
        except BaseException:
            self._turns.close()
            raise

    def __repr__(self) -> str:
        return f"<TopicKeeper of {len(self.catalog.topics)} topics in {self._root.path}>"

    # ---- looking

    def current(self) -> Catalog:
        """The topics as they are now, whoever has changed them. Raises LogstoreError, OSError."""
        if self._turns.raw() != self._seen:
            self._look_anew()
        return self.catalog

    def is_current(self) -> bool:
        """Whether nobody has changed the topics since they were seen."""
        return self._turns.raw() == self._seen

    def _look_anew(self) -> None:
        with self.guard:
            for _ in range(_LOOKS_MAX):
                raw = self._turns.raw()
                if not parse_turn(raw).is_settled:
                    break
                found = self._read()
                if self._turns.raw() == raw:
                    self._set(found)
                    self._seen = raw
                    return
            with self._root.working():  # somebody will be done in a moment, or has died at it
                self._put_in_order()

    def _read(self) -> Catalog:
        paths = [one.path for one in self._directories]
        found = Catalog.read(self._fs, paths[0], paths)
        found.check_directories(paths)
        return found

    def _set(self, catalog: Catalog) -> None:
        """Take over what has changed, and read anew what checkpoints say: of what is new now, nothing."""
        before, self.catalog = self.catalog, catalog
        for directory in self._directories:
            directory.forget_checkpoints()
        self._take_over(before, catalog)

    def places(self) -> dict[TopicPartition, Path]:
        """Where the partitions are. Raises LogstoreError for one that is in two directories, OSError."""
        found: dict[TopicPartition, Path] = {}
        for directory in self._directories:
            for partition, path in directory.partitions().items():
                if partition in found:
                    raise LogstoreError(f"{partition} is in {found[partition].parent}, too", path=path)
                found[partition] = path
        return found

    def _incomplete(self) -> list[Topic]:
        """Topics of this store's own without all of their directories. A broker's need not be all here."""
        counts: dict[str, int] = {}
        for name in self.places():
            counts[name.topic] = counts.get(name.topic, 0) + 1
        own = [one for one in self.catalog.topics.values() if one.topic_id is not None]
        return [one for one in own if counts.get(one.name, 0) < one.partitions]

    # ---- changing

    @contextlib.contextmanager
    def changing(self) -> Iterator[Callable[[Catalog], None]]:
        """Change the topics inside, with what is given; other processes wait, and see it then.

        Where that fails it is finished by whoever looks next.
        """
        with self.guard, self._root.working():
            self._put_in_order()
            yield self._change
            self._settle()

    def _put_in_order(self, *, thoroughly: bool = False) -> None:
        """See the topics as they are, and finish what somebody has left undone. Inside `working`."""
        is_settled = self._turns.read().is_settled
        self._set(self._read())
        if thoroughly or not is_settled or self.catalog.deleting:
            for topic in self._incomplete():
                self._turns.begin()
                self.make_directories(topic)
            for deleted in self.catalog.deleting:
                self.rename_directories(deleted)
                self._change(self.catalog.gone(deleted))
        self._settle()

    def _change(self, catalog: Catalog) -> None:
        self._turns.begin()
        catalog = catalog.spread_over(len(self._directories))
        catalog.write(self._fs, self._root.path)
        self._set(catalog)

    def _settle(self) -> None:
        if not self._turns.read().is_settled:
            self._turns.end()
        self._seen = self._turns.raw()

    def make_directories(self, topic: Topic) -> None:
        """Make those that a topic has not yet, durably, each where there are the fewest. Inside `changing`."""
        there = self.places()
        counts = {one.path: sum(path.parent == one.path for path in there.values()) for one in self._directories}
        missing = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        missing = [one for one in missing if one not in there]
        for directory in self._directories:
            directory.disown(missing)
        for partition in missing:
            counts[self._make_directory(partition, sorted(counts, key=counts.__getitem__))] += 1
        for root in counts:
            self._fs.sync_directory(root)

    def _make_directory(self, partition: TopicPartition, roots: list[Path]) -> Path:
        """Make a directory in the first root that takes it; in which. Raises OSError where none does."""
        for root in roots:
            try:
                self._fs.make_directory(root / str(partition))
            except OSError as error:
                refused = error
            else:
                return root
        raise refused

    def rename_directories(self, name: str) -> None:
        """Let nobody take the directories of a topic for its any more, durably. Inside `changing`."""
        for directory in self._directories:
            for partition, path in directory.partitions().items():
                if partition.topic == name:
                    rename_for_deletion(self._fs, path, partition)

    def close(self) -> None:
        """Give the lock file up."""
        self._turns.close()
