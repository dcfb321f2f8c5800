"""The records of `__transaction_state`: what the transaction coordinator remembers of each transactional id.

One type. Values are flexible from version 1 on, where the fields of the newer transaction protocol are tagged. Pure
functions on immutable tables: safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Mapping

from logstore.records.internal.coordinator import RecordType, decode_coordinator_key, decode_coordinator_value
from logstore.records.internal.schema import INT8, INT16, INT32, INT64, STRING, Array, Field, Message, Struct

_PARTITIONS = Struct((Field("topic", STRING), Field("partitionIds", Array(INT32))))

# On disk; never change.
TRANSACTION_STATE_TYPES: Mapping[int, RecordType] = {
    0: RecordType(
        Message("TransactionLogKey", (Field("transactionalId", STRING),)),
        Message(
            "TransactionLogValue",
            (
                Field("producerId", INT64),
                Field("previousProducerId", INT64, since=1, tag=0, default=-1),
                Field("nextProducerId", INT64, since=1, tag=1, default=-1),
                Field("producerEpoch", INT16),
                Field("nextProducerEpoch", INT16, since=1, tag=3, default=-1),
                Field("transactionTimeoutMs", INT32),
                Field("transactionStatus", INT8),
                Field("transactionPartitions", Array(_PARTITIONS), nullable=True),
                Field("transactionLastUpdateTimestampMs", INT64),
                Field("transactionStartTimestampMs", INT64),
                Field("clientTransactionVersion", INT16, since=1, tag=2, default=0),
            ),
            latest=1,
            flexible_since=1,
        ),
    ),
}


def decode_transaction_state_key(key: bytes | None) -> dict[str, object]:
    """Return the transactional id, in the shape of `decode_coordinator_key`."""
    return decode_coordinator_key(TRANSACTION_STATE_TYPES, key)


def decode_transaction_state_value(key: bytes | None, value: bytes | None) -> dict[str, object] | None:
    """Return the state of a transactional id, in the shape of `decode_coordinator_value`."""
    return decode_coordinator_value(TRANSACTION_STATE_TYPES, key, value)
