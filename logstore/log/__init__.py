"""One partition on disk: so far, the reading side of its indexes, snapshots and checkpoints. See the modules."""

from logstore.log.checkpoint import (
    CleanShutdown,
    MetaProperties,
    PartitionMetadata,
    QuorumState,
    format_kafka_uuid,
    format_offset_checkpoint,
    parse_clean_shutdown,
    parse_kafka_uuid,
    parse_meta_properties,
    parse_offset_checkpoint,
    parse_partition_metadata,
    parse_properties,
    parse_quorum_state,
)
from logstore.log.leader_epochs import (
    EpochEndOffset,
    EpochEntry,
    LeaderEpochs,
    format_leader_epoch_checkpoint,
    parse_leader_epoch_checkpoint,
)
from logstore.log.log import Appended, Log, Recovered
from logstore.log.offset_index import IndexExtent, OffsetIndex, OffsetIndexEntry, index_extent
from logstore.log.producers import ProducerSnapshot, ProducerStateEntry
from logstore.log.record_file import RecordFile
from logstore.log.segment import SegmentRecovery
from logstore.log.time_index import TimeIndex, TimeIndexEntry
from logstore.log.transaction_index import AbortedTransaction, TransactionIndex, TransactionSearch

__all__ = [
    "AbortedTransaction",
    "Appended",
    "CleanShutdown",
    "EpochEndOffset",
    "EpochEntry",
    "IndexExtent",
    "LeaderEpochs",
    "Log",
    "MetaProperties",
    "OffsetIndex",
    "OffsetIndexEntry",
    "PartitionMetadata",
    "ProducerSnapshot",
    "ProducerStateEntry",
    "QuorumState",
    "RecordFile",
    "Recovered",
    "SegmentRecovery",
    "TimeIndex",
    "TimeIndexEntry",
    "TransactionIndex",
    "TransactionSearch",
    "format_kafka_uuid",
    "format_leader_epoch_checkpoint",
    "format_offset_checkpoint",
    "index_extent",
    "parse_clean_shutdown",
    "parse_kafka_uuid",
    "parse_leader_epoch_checkpoint",
    "parse_meta_properties",
    "parse_offset_checkpoint",
    "parse_partition_metadata",
    "parse_properties",
    "parse_quorum_state",
]
