"""One partition on disk: the log that is written, and the formats of the files beside it. See the modules."""

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
from logstore.log.closed_log import ClosedLog, find_closed_log
from logstore.log.commit import AppendFuture
from logstore.log.leader_epochs import (
    EpochEndOffset,
    EpochEntry,
    LeaderEpochs,
    format_leader_epoch_checkpoint,
    parse_leader_epoch_checkpoint,
)
from logstore.log.log import Log
from logstore.log.log_offset import LogOffsetMetadata
from logstore.log.offset_index import IndexExtent, OffsetIndex, OffsetIndexEntry, index_extent
from logstore.log.offsets_by_time import TimestampOffset
from logstore.log.origin import AppendOrigin
from logstore.log.partition_state import PartitionFacts, PartitionHold, find_log_directory, read_facts
from logstore.log.producer_append import Guard
from logstore.log.producers import ProducerSnapshot, ProducerStateEntry
from logstore.log.reading import FetchData, FetchIsolation
from logstore.log.record_file import RecordFile
from logstore.log.recovery import Recovered, RecoveryAction
from logstore.log.segment_view import SegmentView
from logstore.log.shared_log import SharedLog
from logstore.log.time_index import TimeIndex, TimeIndexEntry
from logstore.log.transaction_index import AbortedTransaction, TransactionIndex, TransactionSearch
from logstore.log.turns import Turn, Turns, parse_turn, read_turn
from logstore.log.upkeep import Upkeep
from logstore.log.writing import Appended

__all__ = [
    "AbortedTransaction",
    "AppendFuture",
    "AppendOrigin",
    "Appended",
    "CleanShutdown",
    "ClosedLog",
    "EpochEndOffset",
    "EpochEntry",
    "FetchData",
    "FetchIsolation",
    "Guard",
    "IndexExtent",
    "LeaderEpochs",
    "Log",
    "LogOffsetMetadata",
    "MetaProperties",
    "OffsetIndex",
    "OffsetIndexEntry",
    "PartitionFacts",
    "PartitionHold",
    "PartitionMetadata",
    "ProducerSnapshot",
    "ProducerStateEntry",
    "QuorumState",
    "RecordFile",
    "Recovered",
    "RecoveryAction",
    "SegmentView",
    "SharedLog",
    "TimeIndex",
    "TimeIndexEntry",
    "TimestampOffset",
    "TransactionIndex",
    "TransactionSearch",
    "Turn",
    "Turns",
    "Upkeep",
    "find_closed_log",
    "find_log_directory",
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
    "parse_turn",
    "read_facts",
    "read_turn",
]
