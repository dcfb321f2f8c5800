"""A segment log whose directories are Kafka's.

So far: `logstore.records` (bytes and records), `logstore.log` (the files of a partition), `logstore.inspect` (read-only
tools). Importing this package imports none of them.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
