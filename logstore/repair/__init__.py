"""Offline work on directories that nobody else has open: recover, reindex, truncate, and trying things out."""

from logstore.repair.dry_run import DryRunFileSystem
from logstore.repair.held import Ends, HeldDirectory
from logstore.repair.opening import locate, opened, refuse_unclean, youngest_file
from logstore.repair.recover import DirectoryRecovery, PartitionRecovery, Recoverer
from logstore.repair.reindex import Reindexer, Reindexing
from logstore.repair.remake import FileChange
from logstore.repair.truncate import Truncation, truncate

__all__ = [
    "DirectoryRecovery",
    "DryRunFileSystem",
    "Ends",
    "FileChange",
    "HeldDirectory",
    "PartitionRecovery",
    "Recoverer",
    "Reindexer",
    "Reindexing",
    "Truncation",
    "locate",
    "opened",
    "refuse_unclean",
    "truncate",
    "youngest_file",
]
