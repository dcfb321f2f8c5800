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

# Looked up by their names where results are summed up and shown.
_.markers_dropped
_.map_capacity

# Settings that stores and producers will heed; Kafka's names, checked and shown today.
_.compression_lz4_level
_.producer_id_expiration_ms
_.transaction_max_timeout_ms

# Fields of files and of the kernel's results: shown as a whole, or there for callers.
_.data_version
_.voted_id
_.voted_directory_id
_.applied_offset
_.current_voters
_.first_offset_delta

# Settings of Kafka's cleaner that are accepted and mean nothing here.
_.io_buffer_size
_.io_buffer_load_factor

# Python itself calls these of a module.
_.__getattr__
_.__dir__
