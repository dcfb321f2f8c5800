"""A record as a value: what a consumer gets, without its batch.

The class is the kernel's own, so that decoding makes records without a detour; both kernels give it the same face.
Immutable, therefore safe to share between threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logstore.records.header import Header

if TYPE_CHECKING:
    from logstore.records._kernel_py import Record
else:
    from logstore.records.kernel import Record

__all__ = ["Header", "Record"]
