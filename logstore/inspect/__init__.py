"""Reads what others wrote, damage and all: dump, check and describe as a library. Nothing here changes a byte."""

from logstore.inspect.check import check
from logstore.inspect.check_segments import CheckOptions, CheckTotals
from logstore.inspect.describe import DescribeOptions, Description, PartitionDescription, describe
from logstore.inspect.dump import DumpOptions, Problem, RecordFilter, Selection, select_file, select_partition
from logstore.inspect.files import file_rows
from logstore.inspect.findings import CODES, Explanation, Finding, Severity, codes_table
from logstore.inspect.follow import Follower
from logstore.inspect.layout import (
    LogDirectoryContext,
    LogDirectoryFiles,
    PartitionFiles,
    SegmentFiles,
    SingleFile,
    Target,
    context_around,
    iter_partitions,
    read_context,
    resolve,
)
from logstore.inspect.render import Format, Renderer, control_object
from logstore.inspect.text import printable
from logstore.inspect.transactions import ConsumerView, Isolation, TransactionTracker, consumer_view

__all__ = [
    "CODES",
    "CheckOptions",
    "CheckTotals",
    "ConsumerView",
    "DescribeOptions",
    "Description",
    "DumpOptions",
    "Explanation",
    "Finding",
    "Follower",
    "Format",
    "Isolation",
    "LogDirectoryContext",
    "LogDirectoryFiles",
    "PartitionDescription",
    "PartitionFiles",
    "Problem",
    "RecordFilter",
    "Renderer",
    "SegmentFiles",
    "Selection",
    "Severity",
    "SingleFile",
    "Target",
    "TransactionTracker",
    "check",
    "codes_table",
    "consumer_view",
    "context_around",
    "control_object",
    "describe",
    "file_rows",
    "iter_partitions",
    "printable",
    "read_context",
    "resolve",
    "select_file",
    "select_partition",
]
