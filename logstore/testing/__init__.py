"""Fakes to test with, for logstore's own tests and for those of programs that use it. Nothing else imports them."""

from logstore.testing.disk import CrashMode
from logstore.testing.manual_clock import ManualClock
from logstore.testing.memory_fs import MemoryFileSystem
from logstore.testing.operations import Operation, OperationKind, SimulatedCrash

__all__ = [
    "CrashMode",
    "ManualClock",
    "MemoryFileSystem",
    "Operation",
    "OperationKind",
    "SimulatedCrash",
]
