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

# Fields of files and of the kernel's results: shown as a whole, or there for callers.
_.data_version
_.voted_id
_.voted_directory_id
_.applied_offset
_.current_voters
_.first_offset_delta
