"""SipHash-2-4 against the vectors of its authors: the key 00..0f and the data 00..(n-1)."""

from __future__ import annotations

import pytest

from logstore.records.siphash import siphash

SEED = bytes(range(16))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, 0x726FDB47DD0E0E31),
        (1, 0x74F839C593DC67FD),
        (7, 0xAB0200F58B01D137),
        (8, 0x93F5F5799A932462),
        (15, 0xA129CA6149BE45E5),
        (63, 0x958A324CEB064572),
    ],
)
def test_the_hash_is_that_of_the_reference(size: int, expected: int) -> None:
    assert siphash(SEED, bytes(range(size))) == expected


def test_the_key_decides() -> None:
    assert siphash(bytes(16), b"data") != siphash(SEED, b"data")
