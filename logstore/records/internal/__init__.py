"""Kafka's internal records, decoded: committed offsets and groups, transactions, cluster metadata, control values."""

from logstore.records.internal.control_values import decode_control_value
from logstore.records.internal.topics import INTERNAL_TOPICS, decode_internal_key, decode_internal_value

__all__ = ["INTERNAL_TOPICS", "decode_control_value", "decode_internal_key", "decode_internal_value"]
