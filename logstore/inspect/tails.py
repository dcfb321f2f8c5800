"""What the end of a log file means: damage, or what a living or killed broker leaves.

A pure decision, shared by everything that reads logs.
"""

from __future__ import annotations

import dataclasses

from logstore.inspect.layout import LogDirectoryContext
from logstore.records import Damage, DamageCode

HEADER_SIZE_UP_TO_MAGIC = 17  # bytes; what is shorter may be the beginning of any batch


@dataclasses.dataclass(frozen=True, slots=True)
class Tail:
    """How a bad end is to be taken, and the clause that says why."""

    message: str
    is_damage: bool
    is_warning: bool = False


def explain_tail(damage: Damage, is_last_segment: bool, context: LogDirectoryContext | None) -> Tail | None:
    """Say what a bad end of a file means; None where it is plain damage.

    Only the last segment of a log may end badly without damage: zeros are the preallocated space of a broker that is
    running or was killed, a torn batch is what a kill or a power cut leaves, and recovery cuts both. After a clean
    shutdown neither can be (FORMAT §4.6, LOG_SEMANTICS §11).
    """
    if not is_last_segment or (context is not None and context.is_clean):
        return None
    if damage.code == DamageCode.FILE_SHRANK:
        return Tail("a broker is at work here", is_damage=False)
    if damage.code == DamageCode.ZERO_TAIL and damage.size < HEADER_SIZE_UP_TO_MAGIC:
        return Tail("preallocated space, or the first bytes of a batch that was cut off", False, is_warning=True)
    if damage.code == DamageCode.ZERO_TAIL:
        return Tail("preallocated space of a broker that runs or was killed", is_damage=False)
    if damage.code == DamageCode.TORN_TAIL and context is not None:
        return Tail("this directory was not shut down cleanly; recovery cuts it", is_damage=False, is_warning=True)
    return None
