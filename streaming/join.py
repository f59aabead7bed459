"""Impressions and their feedback into batches of examples, cut at the same places every time.

Ordered events go in (`push`), and `cuts` gives, one after another, a `Cut`: the impressions shown
since the last one, to be scored before anything is learned from them, and the batch of examples
whose labels closed. At a cut the whole state stands in arrays, so a checkpoint can be taken there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.columns import Events
from features.events import IMPRESSION, Control
from model.batch import Batch, Inputs, Layout
from model.idmap import IdMap
from model.schema import Schema
from streaming.join_kernels import (
    ARRIVALS,
    AT,
    CLOSED_MS,
    COMMAND,
    CURSOR,
    CUT_BEFORE,
    DONE,
    EXPIRED,
    IDS,
    IN_BATCH,
    ORPHAN_FIRST,
    ORPHAN_IDS,
    ORPHAN_LAST,
    ORPHANS,
    SHOWN_FROM,
    TAIL,
    advance,
)
from streaming.ring import Ring


@dataclass
class Cut:
    """What is to be done now: score `shown`, then learn from `batch`; or obey `control`.

    `closes` says which tasks of an example close: a task that does, but has no label, is masked in
    the batch. `shown_slots` and `slots` are the join's places of the shown impressions and of the
    batch's; `ids`, `times` (effective, ms) and `places` (partition in the merge's list, offset)
    are the batch's, whose last label closed at `closed_ms`.
    """

    shown: Inputs
    shown_slots: np.ndarray
    batch: Batch
    closes: np.ndarray
    slots: np.ndarray
    ids: np.ndarray
    times: np.ndarray
    places: np.ndarray
    closed_ms: int
    control: Control | None = None


class Join:
    """Pending impressions in a ring, with what they were shown with and what came of them.

    A batch holds as many examples as all before it together, one at first and `batch_size` at most:
    a model that knows nothing yet learns from its first labels at once. `tick_ms` cuts batches at
    multiples of it in event time too; 0 for never.
    """

    def __init__(self, schema: Schema, layout: Layout, batch_size: int, tick_ms: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected 1 or more")
        tasks = schema.tasks
        window = np.array([t.window_ms for t in tasks], np.int64)
        windows = np.unique(window)
        self._tasks = (
            window,
            np.searchsorted(windows, window),
            np.array([t.close == "arrival" for t in tasks]),
            np.array([t.kind == "binary" for t in tasks]),
            windows,
        )
        self.schema, self.tick_ms = schema, tick_ms
        self.at = np.zeros(len(AT), np.int64)
        self.heads = np.zeros(len(windows), np.int64)
        self.ids, self.orphan_ids = IdMap(), IdMap()
        self.arrivals = np.zeros((16, 3), np.int64)
        self.batch = (np.zeros(batch_size, np.int64), np.zeros((batch_size, len(tasks)), np.bool_))
        k = len(tasks)
        self.ring = Ring(
            {
                "id": ((), np.int64),
                "e": ((), np.int64),
                "is_open": ((k,), np.bool_),
                "labels": ((k,), np.float64),
                "has": ((k,), np.bool_),
                "keys": ((layout.slots,), np.int64),
                "weights": ((layout.slots,), np.float32),
                "dense": ((len(layout.dense),), np.float32),
                "served": ((schema.outputs,), np.float32),
                "partition": ((), np.int32),
                "offset": ((), np.int64),
            }
        )
        self.orphans = Ring(
            {
                "e": ((), np.int64),
                "impression": ((), np.int64),
                "kind": ((), np.int64),
                "value": ((), np.float64),
                "before": ((), np.int64),
                "waiting": ((), np.bool_),
            }
        )
        self.reserved = 0  # impressions whose inputs stand in the ring, joined or not
        self.events: Events | None = None

    @property
    def pending(self) -> int:
        """Impressions with a label still open, and those not yet scored."""
        return int(self.at[TAIL] - self._first())

    @property
    def counts(self) -> dict[str, int]:
        """Feedback without an impression, and feedback after its task's window."""
        return {"orphan": int(self.at[ORPHANS]), "expired": int(self.at[EXPIRED])}

    def push(self, events: Events, inputs: Inputs) -> None:
        """Takes ordered events, and the inputs of the impressions among them, after all `cuts`."""
        assert self.events is None, "push() before the cuts of the last events were taken"
        shown = events.rank == IMPRESSION
        n = int(shown.sum())
        self.ring.reserve(self._first(), self.reserved, n)
        slots = self.ring.slots(self.reserved, self.reserved + n)
        for name, values in (
            ("keys", inputs.keys),
            ("weights", inputs.weights),
            ("dense", inputs.dense),
            ("partition", events.partition[shown]),
            ("offset", events.offset[shown]),
        ):
            self.ring.columns[name][slots] = values
        self.reserved += n
        self.ids.reserve(n)
        self.events = events
        self.at[CURSOR] = 0
        self._make_room(len(events))

    def _make_room(self, n: int) -> None:
        self.orphans.reserve(int(self.at[ORPHAN_FIRST]), int(self.at[ORPHAN_LAST]), n)
        self.orphan_ids.reserve(n)
        wanted = int(self.at[ARRIVALS]) + n + len(self.orphans)
        if wanted > len(self.arrivals):
            self.arrivals = np.concatenate([self.arrivals, np.zeros((wanted, 3), np.int64)])

    def cuts(self, watermark: int) -> Iterator[Cut]:
        """Each cut and each command up to `watermark`, in order."""
        if self.events is None:
            return
        e = self.events
        columns = (
            e.e,
            e.rank,
            e.id,
            *(np.ascontiguousarray(e.ints[:, c]) for c in (0, 1)),
            e.value,
        )
        while True:
            r, o = self.ring.columns, self.orphans.columns
            code = advance(
                columns, watermark, self._tasks, self.tick_ms, self.at,
                (r["id"], r["e"], r["is_open"], r["labels"], r["has"]),
                self.heads, (self.ids.keys, self.ids.values), self.arrivals,
                (o["e"], o["impression"], o["kind"], o["value"], o["before"], o["waiting"]),
                (self.orphan_ids.keys, self.orphan_ids.values), self.batch,
            )  # fmt: skip
            self.ids.size, self.orphan_ids.size = int(self.at[IDS]), int(self.at[ORPHAN_IDS])
            if code == DONE:
                self.events = None
                return
            yield self._command() if code == COMMAND else self._cut()

    def serve(self, cut: Cut, predictions: np.ndarray) -> np.ndarray:
        """Keeps predictions of `cut.shown`; returns the served ones of its batch [n, output]."""
        served = self.ring.columns["served"]
        served[cut.shown_slots] = predictions
        return served[cut.slots]

    def _first(self) -> int:
        """The first impression that something may still ask for."""
        batch = self.batch[0][: self.at[IN_BATCH]]
        return int(min([self.heads.min(), self.at[SHOWN_FROM], *batch]))

    def _inputs(self, slots: np.ndarray) -> Inputs:
        columns = self.ring.columns
        return Inputs(columns["keys"][slots], columns["weights"][slots], columns["dense"][slots])

    def _cut(self) -> Cut:
        columns, n = self.ring.columns, int(self.at[IN_BATCH])
        shown = self.ring.slots(int(self.at[SHOWN_FROM]), int(self.at[TAIL]))
        slots = self.batch[0][:n] & (len(self.ring) - 1)
        closes = self.batch[1][:n].copy()
        labels = columns["labels"][slots].astype(np.float32)
        closed_ms = int(self.at[CLOSED_MS])
        mask = closes & (columns["has"][slots] | self._tasks[3])
        batch = Batch(self._inputs(slots), labels, mask, closed_ms)
        self.at[SHOWN_FROM], self.at[IN_BATCH] = self.at[TAIL], 0
        self.at[CUT_BEFORE] = min(self.at[CUT_BEFORE] + n, len(self.batch[0]))
        return Cut(
            self._inputs(shown), shown, batch, closes, slots,
            columns["id"][slots], columns["e"][slots],
            np.stack([columns["partition"][slots], columns["offset"][slots]], 1),
            closed_ms,
        )  # fmt: skip

    def _command(self) -> Cut:
        assert self.events is not None
        nothing = np.zeros(0, np.int64)
        row = int(self.at[CURSOR]) - 1
        empty = Batch(
            self._inputs(nothing),
            np.zeros((0, len(self.schema.tasks)), np.float32),
            self.batch[1][:0].copy(),
        )
        return Cut(
            self._inputs(nothing), nothing, empty, empty.mask, nothing, nothing, nothing, nothing,
            int(self.events.e[row]), self.events.control(row),
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """All of it, also in the middle of the events that were pushed last."""
        n = int(self.at[IN_BATCH])
        first = self._first()
        return {
            "at": self.at.copy(),
            "heads": self.heads.copy(),
            "first": first,
            "reserved": self.reserved,
            "ring": self.ring.rows(first, self.reserved),
            "orphans": self.orphans.rows(int(self.at[ORPHAN_FIRST]), int(self.at[ORPHAN_LAST])),
            "arrivals": self.arrivals[: self.at[ARRIVALS]].copy(),
            "batch_seq": self.batch[0][:n].copy(),
            "batch_closes": self.batch[1][:n].copy(),
            "events": None if self.events is None else self.events.state(),
        }

    def load(self, tree: dict[str, Any]) -> None:
        self.at, self.heads = tree["at"].copy(), tree["heads"].copy()
        self.reserved = tree["reserved"]
        self.ring.restore(tree["first"], self.reserved, tree["ring"])
        self.orphans.restore(int(self.at[ORPHAN_FIRST]), int(self.at[ORPHAN_LAST]), tree["orphans"])
        n = int(self.at[IN_BATCH])
        self.batch[0][:n], self.batch[1][:n] = tree["batch_seq"], tree["batch_closes"]
        self.arrivals = np.concatenate([tree["arrivals"], np.zeros((16, 3), np.int64)])
        self.ids = IdMap()
        seqs = np.arange(tree["first"], int(self.at[TAIL]))
        open_ones = tree["ring"]["is_open"][: len(seqs)].any(1)
        self.ids.insert(tree["ring"]["id"][: len(seqs)][open_ones], seqs[open_ones])
        self.orphan_ids = IdMap()
        waits = tree["orphans"]["waiting"]
        waiting = np.arange(int(self.at[ORPHAN_FIRST]), int(self.at[ORPHAN_LAST]))[waits]
        self.orphan_ids.insert(tree["orphans"]["impression"][waits], waiting)
        self.at[IDS], self.at[ORPHAN_IDS] = len(self.ids), len(self.orphan_ids)
        self.events = None
        if tree["events"] is not None:
            self.events = Events.restored(tree["events"])
            self.ids.reserve(self.reserved - int(self.at[TAIL]))
            self._make_room(len(self.events))
