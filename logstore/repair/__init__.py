"""Offline work on directories that nobody has open: recover, reindex, truncate, retain, compact, and trying it out."""

from logstore.repair.compact import CompactOptions, Compactor, PartitionCompaction
from logstore.repair.dry_run import DryRunFileSystem
from logstore.repair.held import Ends, HeldDirectory
from logstore.repair.opening import locate, opened, refuse_unclean, youngest_file
from logstore.repair.recover import DirectoryRecovery, PartitionRecovery, Recoverer
from logstore.repair.reindex import Reindexer, Reindexing
from logstore.repair.remake import FileChange
from logstore.repair.retain import Limits, PartitionRetention, Retainer
from logstore.repair.topic_configs import TopicConfigs
from logstore.repair.truncate import Truncation, truncate

__all__ = [
    "CompactOptions",
    "Compactor",
    "DirectoryRecovery",
    "DryRunFileSystem",
    "Ends",
    "FileChange",
    "HeldDirectory",
    "Limits",
    "PartitionCompaction",
    "PartitionRecovery",
    "PartitionRetention",
    "Recoverer",
    "Reindexer",
    "Reindexing",
    "Retainer",
    "TopicConfigs",
    "Truncation",
    "locate",
    "opened",
    "refuse_unclean",
    "truncate",
    "youngest_file",
]
