"""Up to where an ingest worker has read each partition that is its own, with no record left out.

Nobody's word is taken for where reading is: a record counts only when the one before it has. Faust
seeks to the group's offsets in a rebalance, but drops what it had fetched until then, and aiokafka
does not seek where the group has no offset yet (`seek_to_committed`); what lies between would never
be seen, and be acknowledged all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

TP = TypeVar("TP")


class Positions(Generic[TP]):
    """Pure. `next` has the offset that is due of each partition; others are not ours."""

    def __init__(self) -> None:
        self.next: dict[TP, int] = {}
        self._written: dict[TP, int] = {}
        self._acknowledged: dict[TP, int] = {}
        self._last: dict[TP, int] = {}  # while a hole is read again: the latest offset seen
        self._looked: dict[TP, int] = {}

    def start(self, offsets: Mapping[TP, int]) -> None:
        """These partitions are ours from now on, from their offsets on, and no others."""
        self.next = dict(offsets)
        self._written, self._acknowledged = dict(offsets), dict(offsets)
        self._last, self._looked = {}, {}

    def take(self, tp: TP, offset: int) -> bool:
        """Whether the record counts: it is the one that is due, or there is none before it.

        After a hole the partition is to be read again from `next` (see `holes`). Where it then
        begins again, at or below what was seen, with a later record than the one that is due, there
        is nothing between: transactions and compaction leave such gaps, and retention.
        """
        due = self.next.get(tp)
        if due is None:
            return False
        again = tp in self._last and offset <= self._last[tp]
        if offset > due and not again:
            self._last[tp] = offset
            return False
        self._last.pop(tp, None)
        if offset < due:
            return False
        self.next[tp] = offset + 1
        return True

    @property
    def holes(self) -> dict[TP, int]:
        """Partitions in which records came that are beyond the one that is due, and that one."""
        return {tp: self.next[tp] for tp in self._last}

    def stuck(self, ends: Mapping[TP, int]) -> dict[TP, int]:
        """Partitions that are not at their ends and have not moved since the last call."""
        stuck = {
            tp: due
            for tp, due in self.next.items()
            if due < ends.get(tp, 0) and self._looked.get(tp) == due
        }
        self._looked = dict(self.next)
        return stuck

    def written(self) -> None:
        """All that was taken has been written."""
        self._written = dict(self.next)

    def back(self) -> None:
        """What was taken since the last `written` was not: it is due again."""
        self.next = dict(self._written)

    def unacknowledged(self) -> dict[TP, int]:
        return {tp: due for tp, due in self._written.items() if due != self._acknowledged[tp]}

    def acknowledged(self, offsets: Mapping[TP, int]) -> None:
        for tp, offset in offsets.items():
            if tp in self.next:
                self._acknowledged[tp] = offset
