"""The feature store: rows of the windows by entity, as ingest writes them and servers read them.

A row is a whole: all integers of one entity, packed (`features.rows`), and `as_of`, the part of the
source that is in it. The rules, for every store:

- one writer for each row. A write whose `as_of` covers no more than the stored row's is skipped, so
  what is delivered again changes nothing; the store compares before it writes, and needs no lock
  since nobody else writes the row
- a row is written whole or not at all, and a read sees the last whole one
- what is not there is a mask, not an error
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from features.as_of import advances


@dataclass(frozen=True)
class Rows:
    """Rows of one kind of entity, to write.

    `counts` are for people: [n, number of the layout's `counts`]. `time_ms` is how far event time
    had come at the writer: what the offline store joins by.
    """

    keys: np.ndarray  # int64 [n], each once
    values: Sequence[bytes]
    as_of: Sequence[bytes]
    counts: np.ndarray
    time_ms: int

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> Rows:
        """The rows at `rows`, positions."""
        return Rows(
            self.keys[rows],
            [self.values[i] for i in rows],
            [self.as_of[i] for i in rows],
            self.counts[rows],
            self.time_ms,
        )


@dataclass(frozen=True)
class Found:
    """Rows of one kind of entity, as asked for; `b""` where there is none."""

    keys: np.ndarray  # int64 [n]
    values: Sequence[bytes]
    as_of: Sequence[bytes]

    @property
    def mask(self) -> np.ndarray:
        """Which are there: bool [n]."""
        return np.fromiter(map(bool, self.values), bool, len(self.values))


class StoreUnavailable(RuntimeError):
    """The store did not answer, or not as one."""


class Store(Protocol):
    """Rows of one application, by kind of entity (`features.rows.stored_kinds`) and key."""

    def write(self, kind: str, rows: Rows) -> int:
        """Write the rows that cover more than the stored ones; returns how many.

        Raises ValueError for an unknown kind, a key twice, and rows of two writers (`advances`);
        StoreUnavailable, after which any of the rows may have been written, or none.
        """

    def read(self, wanted: Mapping[str, np.ndarray]) -> dict[str, Found]:
        """The rows of keys (int64 [n]) of each kind, in one round trip.

        Raises ValueError for an unknown kind, StoreUnavailable.
        """

    def close(self) -> None:
        """Let go of connections; what was written is there."""


def advancing(rows: Rows, stored: Sequence[bytes]) -> np.ndarray:
    """Positions of the rows to write, over those whose `as_of` is stored (`b""`: none).

    Raises ValueError as `Store.write` does.
    """
    if len(np.unique(rows.keys)) != len(rows):
        raise ValueError("Rows.keys has a key twice: expected each once in a write")
    pairs = zip(rows.as_of, stored, strict=True)
    return np.flatnonzero([not old or advances(new, old) for new, old in pairs])


class MemoryStore:
    """The in-process twin of `FeastStore`: the same rows, in dicts."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._rows: dict[str, dict[int, tuple[bytes, bytes]]] = {kind: {} for kind in kinds}

    def write(self, kind: str, rows: Rows) -> int:
        known_kind(kind, self._rows)
        table = self._rows[kind]
        stored = [table.get(key, (b"", b""))[1] for key in rows.keys.tolist()]
        fresh = rows.take(advancing(rows, stored))
        table.update(
            (key, (value, as_of))
            for key, value, as_of in zip(
                fresh.keys.tolist(), fresh.values, fresh.as_of, strict=True
            )
        )
        return len(fresh)

    def read(self, wanted: Mapping[str, np.ndarray]) -> dict[str, Found]:
        found = {}
        for kind, keys in wanted.items():
            known_kind(kind, self._rows)
            rows = [self._rows[kind].get(key, (b"", b"")) for key in keys.tolist()]
            found[kind] = Found(keys, [value for value, _ in rows], [as_of for _, as_of in rows])
        return found

    def close(self) -> None:
        pass


def known_kind(kind: str, kinds: Mapping[str, object]) -> None:
    """Raises ValueError unless `kind` is one of `kinds`."""
    if kind not in kinds:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(kinds) or '(none)'}")
