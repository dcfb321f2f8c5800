"""Who an append comes from: what is assigned and what is checked depends on it (LOG_SEMANTICS §3.1)."""

from __future__ import annotations

import enum


class AppendOrigin(enum.Enum):
    """Where the batches of an append come from."""

    CLIENT = "client"
    """A producer: offsets are assigned, everything is checked."""
    COORDINATOR = "coordinator"
    """A coordinator's markers and offset commits: offsets are assigned, sequences are not checked."""
    RAFT_LEADER = "raft leader"
    """The leader of a Raft log: the offsets are given, sizes are checked."""
    REPLICATION = "replication"
    """A follower's fetch: the leader has numbered and checked the batches, they are taken as they are."""

    @property
    def assigns_offsets(self) -> bool:
        """Whether the log numbers the batches; otherwise they come with their offsets."""
        return self in (AppendOrigin.CLIENT, AppendOrigin.COORDINATOR)
