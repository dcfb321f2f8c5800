"""SipHash-2-4 in plain Python, a keyed hash of 64 bits (Aumasson and Bernstein, 2012). Pure, therefore thread-safe."""

from __future__ import annotations

import struct


def siphash(seed: bytes, data: bytes) -> int:
    """The hash of `data`, keyed with the 16 bytes of `seed`."""
    low, high = (int.from_bytes(seed[at : at + 8], "little") for at in (0, 8))
    state = [
        low ^ 0x736F6D6570736575, high ^ 0x646F72616E646F6D, low ^ 0x6C7967656E657261, high ^ 0x7465646279746573,
    ]  # fmt: skip
    whole = len(data) // 8 * 8
    last = int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56
    for word in (*struct.unpack(f"<{whole // 8}Q", data[:whole]), last):
        state[3] ^= word
        _sip_rounds(state, 2)
        state[0] ^= word
    state[2] ^= 0xFF
    _sip_rounds(state, 4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def _sip_rounds(state: list[int], rounds: int) -> None:
    a, b, c, d = state
    for _ in range(rounds):
        a = (a + b) % 2**64
        c = (c + d) % 2**64
        b, d = _rotated(b, 13) ^ a, _rotated(d, 16) ^ c
        a = _rotated(a, 32)
        c = (c + b) % 2**64
        a = (a + d) % 2**64
        b, d = _rotated(b, 17) ^ c, _rotated(d, 21) ^ a
        c = _rotated(c, 32)
    state[:] = a, b, c, d


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) % 2**64
