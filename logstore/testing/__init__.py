"""Fakes and models to test with, for logstore's own tests and for those of programs that use it; nothing else imports
them. `logstore.testing.strategies`, which needs Hypothesis, is imported by its own name."""

from logstore.testing.disk import CrashMode
from logstore.testing.log_model import LogModel
from logstore.testing.manual_clock import ManualClock
from logstore.testing.memory_fs import MemoryFileSystem
from logstore.testing.operations import Operation, OperationKind, SimulatedCrash
from logstore.testing.producer_model import EndedTransaction, ModelBatch, ModelProducer, ModelProducers

__all__ = [
    "CrashMode",
    "EndedTransaction",
    "LogModel",
    "ManualClock",
    "MemoryFileSystem",
    "ModelBatch",
    "ModelProducer",
    "ModelProducers",
    "Operation",
    "OperationKind",
    "SimulatedCrash",
]
