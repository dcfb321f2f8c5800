"""Transactions over the partitions of a store: who owns them, how they begin and end. See the modules."""

from logstore.transactions.coordinator import TransactionCoordinator, TransactionOwner
from logstore.transactions.metadata import (
    EPOCH_MAX,
    TransactionMetadata,
    TransactionStatus,
    decode_transaction,
    transaction_key,
    transaction_partition,
)

__all__ = [
    "EPOCH_MAX",
    "TransactionCoordinator",
    "TransactionMetadata",
    "TransactionOwner",
    "TransactionStatus",
    "decode_transaction",
    "transaction_key",
    "transaction_partition",
]
