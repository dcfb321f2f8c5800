"""Picks the kernel: the compiled one, or its plain-Python twin with one warning.

`LOGSTORE_KERNEL=compiled` insists on the first (and fails without it), `LOGSTORE_KERNEL=python` takes the second
without a warning.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType
from typing import TYPE_CHECKING


def _pick() -> tuple[ModuleType, str]:
    wish = os.environ.get("LOGSTORE_KERNEL", "")
    if wish not in ("", "compiled", "python"):
        raise ValueError(f"LOGSTORE_KERNEL is {wish!r}; it may be 'compiled' or 'python'")
    if wish != "python":
        try:
            return importlib.import_module("logstore.records._kernel"), "compiled"
        except ImportError:
            if wish == "compiled":
                raise
            warnings.warn(
                "logstore runs without its compiled kernel, many times slower; install a C compiler and reinstall",
                RuntimeWarning,
                stacklevel=2,
            )
    return importlib.import_module("logstore.records._kernel_py"), "python"


_kernel, KERNEL_NAME = _pick()
# In plain Python, the cleaner's part is a module of its own.
_cleaning = _kernel if KERNEL_NAME == "compiled" else importlib.import_module("logstore.records._cleaning_py")

if TYPE_CHECKING:
    from logstore.records._cleaning_py import (
        KeyTable,
        digest_plain_batches,
        digest_records,
        filter_plain_batches,
        filter_records,
        map_plain_batches,
        map_records,
    )
    from logstore.records._kernel_py import (
        Record,
        check_records,
        decode_at,
        decode_plain_batches,
        decode_records,
        encode_plain_batch,
        encode_records,
        find_batch,
        find_candidate,
        find_record,
        floor_entry,
        format_body,
        format_records,
        murmur2,
        parse_header,
        partition_keys,
        walk_batches,
    )
else:
    KeyTable = _cleaning.KeyTable
    digest_plain_batches = _cleaning.digest_plain_batches
    digest_records = _cleaning.digest_records
    filter_plain_batches = _cleaning.filter_plain_batches
    filter_records = _cleaning.filter_records
    map_plain_batches = _cleaning.map_plain_batches
    map_records = _cleaning.map_records
    Record = _kernel.Record
    check_records = _kernel.check_records
    decode_at = _kernel.decode_at
    decode_plain_batches = _kernel.decode_plain_batches
    decode_records = _kernel.decode_records
    encode_plain_batch = _kernel.encode_plain_batch
    encode_records = _kernel.encode_records
    find_batch = _kernel.find_batch
    find_candidate = _kernel.find_candidate
    find_record = _kernel.find_record
    floor_entry = _kernel.floor_entry
    format_body = _kernel.format_body
    format_records = _kernel.format_records
    murmur2 = _kernel.murmur2
    parse_header = _kernel.parse_header
    partition_keys = _kernel.partition_keys
    walk_batches = _kernel.walk_batches

__all__ = [
    "KERNEL_NAME",
    "KeyTable",
    "Record",
    "check_records",
    "decode_at",
    "decode_plain_batches",
    "decode_records",
    "digest_plain_batches",
    "digest_records",
    "encode_plain_batch",
    "encode_records",
    "filter_plain_batches",
    "filter_records",
    "find_batch",
    "find_candidate",
    "find_record",
    "floor_entry",
    "format_body",
    "format_records",
    "map_plain_batches",
    "map_records",
    "murmur2",
    "parse_header",
    "partition_keys",
    "walk_batches",
]
