"""Which partitions of `__consumer_offsets` are coordinated here, and since which leader epoch (CLUSTER §7.2, §7.8).

Invariant: the epoch that is known of a partition never goes back, so that news that come late change nothing. Not
thread-safe.
"""

from __future__ import annotations

from logstore.groups.errors import ErrorCode


class Ownership:
    """The partitions that are led here, with their leader epochs.

    Attributes:
        owned: those whose groups are loaded.
        loading: those whose groups are on the way.
    """

    def __init__(self) -> None:
        self.owned: dict[int, int] = {}
        self.loading: dict[int, int] = {}
        self._epochs: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Ownership owned {sorted(self.owned)} loading {sorted(self.loading)}>"

    def begin_load(self, partition: int, leader_epoch: int) -> bool:
        """Note that the partition is led here in this epoch; whether its groups have to be loaded.

        They have not where they are loaded: this broker went on leading, and the newer epoch is noted. What is being
        loaded is begun again, for what an epoch has of the log is settled by its beginning. False for old news.
        """
        is_newer = self._epochs.get(partition, leader_epoch - 1) < leader_epoch
        if not self._is_news(partition, leader_epoch):
            return False
        if partition in self.owned:
            self.owned[partition] = leader_epoch
            return False
        if partition in self.loading and not is_newer:
            return False
        self.loading[partition] = leader_epoch
        return True

    def finish_load(self, partition: int, leader_epoch: int) -> bool:
        """Note that the groups are there; False where the partition has gone elsewhere meanwhile."""
        if self.loading.get(partition) != leader_epoch:
            return False
        self.owned[partition] = self.loading.pop(partition)
        return True

    def unload(self, partition: int, leader_epoch: int | None) -> bool:
        """Note that the partition is led elsewhere, or deleted (None), which ends its epochs; False for old news."""
        if leader_epoch is None:
            self._epochs.pop(partition, None)
        elif not self._is_news(partition, leader_epoch):
            return False
        self.owned.pop(partition, None)
        self.loading.pop(partition, None)
        return True

    def status(self, partition: int) -> ErrorCode:
        """Whether requests for the groups of a partition can be served."""
        if partition in self.loading:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return ErrorCode.NONE if partition in self.owned else ErrorCode.NOT_COORDINATOR

    def _is_news(self, partition: int, leader_epoch: int) -> bool:
        known = self._epochs.setdefault(partition, leader_epoch)
        self._epochs[partition] = max(known, leader_epoch)
        return leader_epoch >= known
