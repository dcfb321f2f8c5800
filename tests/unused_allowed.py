"""Names that nothing of ours calls, with the reason; `make unused` reads this file and reports all others."""

from __future__ import annotations

from typing import Any

_: Any = None

# click calls these by name, with arguments it chooses.
_.list_commands
_.get_command
_.format_commands
_.ctx
_.param

# The protocol of context managers hands these over.
_.exception
_.trace

# Settings that retention, compaction and producers will heed; Kafka's names, checked and shown today.
_.compression_lz4_level
_.retention_bytes
_.retention_ms
_.file_delete_delay_ms
_.delete_retention_ms
_.min_cleanable_dirty_ratio
_.producer_id_expiration_ms
_.transaction_max_timeout_ms

# Fields of files and of the kernel's results: shown as a whole, or there for callers.
_.data_version
_.voted_id
_.voted_directory_id
_.applied_offset
_.current_voters
_.first_offset_delta
