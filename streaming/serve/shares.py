"""A share of users, by a stable hash: the same ones on every server, and after every start."""

from __future__ import annotations

import xxhash

_ALL = float(1 << 64)


def in_share(user: int | str, share: float, what: str) -> bool:
    """Whether a user is of that share; for each `what`, it is another one."""
    return xxhash.xxh3_64_intdigest(f"{what}:{user}".encode()) < share * _ALL
