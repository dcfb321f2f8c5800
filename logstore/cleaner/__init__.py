"""The log cleaner: key-based compaction of open logs, as Kafka's. See the modules."""

from logstore.cleaner.checkpoints import CleanerCheckpoints, DirectoryCheckpoints, LogCheckpoints
from logstore.cleaner.cleaner import Cleaner
from logstore.cleaner.grouping import group_segments
from logstore.cleaner.manager import CleaningFailure, CleaningState, CleaningStatus, LogCleanerManager, LogToClean
from logstore.cleaner.offset_map import OffsetMap
from logstore.cleaner.selection import Cleanability, assess
from logstore.cleaner.service import LogCleaner, RoundTerms, clean_round
from logstore.cleaner.stats import CleaningStats
from logstore.cleaner.verify import NewestRecords, Verifier

__all__ = [
    "Cleanability",
    "Cleaner",
    "CleanerCheckpoints",
    "CleaningFailure",
    "CleaningState",
    "CleaningStats",
    "CleaningStatus",
    "DirectoryCheckpoints",
    "LogCheckpoints",
    "LogCleaner",
    "LogCleanerManager",
    "LogToClean",
    "NewestRecords",
    "OffsetMap",
    "RoundTerms",
    "Verifier",
    "assess",
    "clean_round",
    "group_segments",
]
