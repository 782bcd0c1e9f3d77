"""Random numbers that depend on a seed and a purpose alone. Only the standard library is imported."""

from __future__ import annotations

import hashlib


def seeded_hash(key: str, seed: int) -> bytes:
    """16 bytes that depend on the key and the seed alone (Python's hash() changes between runs)."""
    return hashlib.blake2b(key.encode(), key=seed.to_bytes(8, "big"), digest_size=16).digest()


def derived_seed(seed: int, *purpose: object) -> int:
    """A seed, 0 to 2**32 - 1, for one purpose, such as ("augmentation", 3).

    Equal arguments give equal seeds; any other seed or purpose gives one that has nothing to do with it, so the random
    numbers of neighbouring seeds and epochs do not overlap.
    """
    return int.from_bytes(seeded_hash(repr(purpose), seed)[:4], "big")
