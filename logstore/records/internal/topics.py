"""Which decoder belongs to which of Kafka's internal topics. Pure functions: safe to share between threads."""

from __future__ import annotations

from logstore.names import (
    CLUSTER_METADATA_TOPIC,
    CONSUMER_OFFSETS_TOPIC,
    DECODED_TOPICS,
    TRANSACTION_STATE_TOPIC,
)
from logstore.records.internal.cluster_metadata import (
    decode_metadata_key,
    decode_metadata_value,
)
from logstore.records.internal.consumer_offsets import (
    decode_consumer_offsets_key,
    decode_consumer_offsets_value,
)
from logstore.records.internal.transaction_state import (
    decode_transaction_state_key,
    decode_transaction_state_value,
)

INTERNAL_TOPICS = DECODED_TOPICS
"""The topics that `decode_internal_key` and `decode_internal_value` know."""


def decode_internal_key(topic: str, key: bytes | None) -> object:
    """Decode the key of a record of an internal topic (one of `INTERNAL_TOPICS`) to what `json` can write.

    The shape is that of Kafka's dump tool: `{"type": "1", "data": {…}}`; an unknown type gives
    `{"type": "99", "base64": "…"}`. `__cluster_metadata` has no keys: None for None.

    Raises:
        InvalidRecordError: the bytes do not decode, or a coordinator's record has no key; the reason and the position
            (in the key) say why.
        ValueError: `topic` is none of `INTERNAL_TOPICS`.
    """
    if topic == CONSUMER_OFFSETS_TOPIC:
        return decode_consumer_offsets_key(key)
    if topic == TRANSACTION_STATE_TOPIC:
        return decode_transaction_state_key(key)
    if topic == CLUSTER_METADATA_TOPIC:
        return decode_metadata_key(key)
    raise _unknown(topic)


def decode_internal_value(topic: str, key: bytes | None, value: bytes | None) -> object:
    """Decode the value of a record of an internal topic (one of `INTERNAL_TOPICS`) to what `json` can write.

    The shape is that of Kafka's dump tool: `{"version": "3", "data": {…}}`, and
    `{"type": "TOPIC_RECORD", "version": 0, "data": {…}}` in `__cluster_metadata`. A type or version that is not known
    gives `{"type", "version", "base64"}`, a null value None. The key tells the type of a coordinator's record.

    Raises:
        InvalidRecordError: the bytes do not decode; the reason and the position (in the value) say why.
        ValueError: `topic` is none of `INTERNAL_TOPICS`.
    """
    if topic == CONSUMER_OFFSETS_TOPIC:
        return decode_consumer_offsets_value(key, value)
    if topic == TRANSACTION_STATE_TOPIC:
        return decode_transaction_state_value(key, value)
    if topic == CLUSTER_METADATA_TOPIC:
        return decode_metadata_value(value)
    raise _unknown(topic)


def _unknown(topic: str) -> ValueError:
    return ValueError(f"{topic!r} is none of the internal topics {', '.join(sorted(INTERNAL_TOPICS))}")
