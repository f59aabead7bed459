"""What is known of a user, an item and the pair at a moment, from the events before it.

The state does not depend on the order of arrival: integer sums (values in fixed point) in buckets
of event time, and the last by (time, id). Rates, decay and smoothing are computed at the read, for
the reader's time, in `windows_kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from features.codec import Codec
from features.columns import Events
from features.events import FEEDBACK_RANK, IMPRESSION
from features.windows_kernels import (
    BUCKETS,
    FIXED_POINT,
    LARGEST_WEIGHT,
    aggregate,
    overall,
    remember,
)
from model.batch import Bag, Inputs, Layout
from model.idmap import IdMap, table_keys, table_salt
from model.keyed import Rows
from model.schema import Schema, nearest

ENTITIES = ("user", "item", "pair")


@dataclass(frozen=True)
class Signal:
    """A kind of feedback to keep rates of: the sum of its values over the count of `per`.

    `per` is a kind of feedback that comes for every impression, positive or not, or "impression";
    by default the signal itself.
    """

    kind: str
    per: str = ""


@dataclass(frozen=True)
class Entity:
    """What to keep by user, item or pair: overall rates, decayed ones, each signal's last value.

    `decays_ms` are time constants.
    """

    kind: str
    rates: bool = True
    decays_ms: tuple[int, ...] = ()
    last: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ENTITIES:
            raise ValueError(f"Entity.kind is {self.kind!r}: {nearest(self.kind, ENTITIES)}")
        if any(d < 2 for d in self.decays_ms):
            raise ValueError(
                f"Entity({self.kind!r}).decays_ms is {self.decays_ms}: expected 2 ms or more"
            )


@dataclass(frozen=True)
class Aggregates:
    """The windowed features of an application.

    `history` is the number of the user's last items kept, each weighted by its value of the signal
    `history_signal` less that signal's overall rate, over their number, within `LARGEST_WEIGHT`.
    """

    signals: tuple[Signal, ...] = ()
    entities: tuple[Entity, ...] = ()
    history: int = 0
    history_signal: str = ""

    def names(self) -> list[str]:
        """The features' names, in their order."""
        kinds = [s.kind for s in self.signals]
        names: list[str] = []
        for entity in self.entities:
            columns = ["log_impressions", "log_seconds_since"]
            columns += [f"{k}_rate" for k in kinds] if entity.rates else []
            for decay in entity.decays_ms:
                columns += [f"log_impressions_{decay}ms", *(f"{k}_rate_{decay}ms" for k in kinds)]
            columns += [f"{k}_last" for k in kinds] if entity.last else []
            names += [f"{entity.kind}_{c}" for c in columns]
        return names


class Windows:
    """The aggregates of one application's log: reads an impression's inputs, then takes it in."""

    def __init__(self, schema: Schema, aggregates: Aggregates) -> None:
        kinds = [s.kind for s in aggregates.signals]
        self.schema, self.aggregates = schema, aggregates
        tasks = [t.name for t in schema.tasks]
        more = [k for s in aggregates.signals for k in (s.kind, s.per) if k and k != "impression"]
        self.codec = Codec(schema, len(aggregates.names()), aggregates.history, more)
        if aggregates.history and aggregates.history_signal not in kinds:
            raise ValueError(
                f"Aggregates.history_signal is {aggregates.history_signal!r}, no signal here: "
                + nearest(aggregates.history_signal, kinds)
            )
        if schema.item is None and (
            aggregates.history or any(e.kind != "user" for e in aggregates.entities)
        ):
            raise ValueError("Aggregates has item features, but Schema.item is not set")
        assert set(tasks) <= set(self.codec.kinds)
        kinds_of_entities = [e.kind for e in aggregates.entities]
        if len(set(kinds_of_entities)) != len(kinds_of_entities):
            raise ValueError(
                f"Aggregates.entities has a kind twice: {', '.join(kinds_of_entities)}"
            )
        if aggregates.history and any(f.name == "history" for f in schema.fields):
            raise ValueError(
                "Field.name is 'history', which is the name of Aggregates.history here"
            )
        index = {k: i for i, k in enumerate(self.codec.kinds)} | {
            "impression": len(self.codec.kinds)
        }
        self._kind = np.array([index[s.kind] for s in aggregates.signals], np.int64)
        self._per = np.array([index[s.per or s.kind] for s in aggregates.signals], np.int64)
        self._history_signal = kinds.index(aggregates.history_signal) if aggregates.history else 0
        self.counts = np.zeros(len(index), np.int64)
        self.sums = np.zeros(len(index), np.int64)
        self.tables = [Table(e.decays_ms, len(self.codec.kinds)) for e in aggregates.entities]
        self.history = History(aggregates.history)

    @cached_property
    def layout(self) -> Layout:
        """How the inputs of this application's model stand in their arrays."""
        bags = [Bag(f.name, f.name, 1) for f in self.schema.of_kind("id")]
        bags += [Bag(f.name, f.name, f.size) for f in self.schema.of_kind("ids")]
        if self.aggregates.history:
            assert self.schema.item is not None
            bags.append(Bag("history", self.schema.item, self.aggregates.history))
        dense = [*self.schema.columns, *self.aggregates.names()]
        return Layout(tuple(bags), tuple(dense))

    def update(self, events: Events) -> Inputs:
        """Takes in events, which come in order; returns what its impressions were shown with."""
        return self._pass(events, learn=True)

    def read(self, events: Events) -> Inputs:
        """The inputs of impressions as of their effective times; changes nothing."""
        return self._pass(events, learn=False)

    def _pass(self, events: Events, learn: bool) -> Inputs:
        shown = events.rank == IMPRESSION
        n, codec = int(shown.sum()), self.codec
        ids = [f.name for f in self.schema.of_kind("id")]
        told = events.rank == FEEDBACK_RANK
        user = np.where(shown, events.ints[:, ids.index(self.schema.user)], events.ints[:, 2])
        item = np.zeros_like(user)
        if self.schema.item is not None:
            item = np.where(shown, events.ints[:, ids.index(self.schema.item)], events.ints[:, 3])
        fixed = np.where(told, np.rint(events.value * FIXED_POINT), 0).astype(np.int64)
        kind = np.where(told, events.ints[:, 1], len(codec.kinds))
        prior = np.zeros((n, len(self._kind)))
        order = (events.rank, events.e, events.id, kind, fixed)
        overall(*order, learn, self._kind, self._per, self.counts, self.sums, prior)
        dense = np.zeros((n, len(self.layout.dense)), np.float32)
        raw = codec.raw_columns
        dense[:, :raw] = events.floats[shown, :raw]
        column = raw
        for entity, table in zip(self.aggregates.entities, self.tables, strict=True):
            key = {"user": lambda: user, "item": lambda: item, "pair": lambda: _pairs(user, item)}[
                entity.kind
            ]()
            if learn:
                table.reserve(len(events))
            column = aggregate(
                *order, key, learn, self._kind, self._per, prior,
                table.decays, entity.rates, entity.last,
                table.map.keys, table.map.values, table.arrays(), dense, column,
            )  # fmt: skip
            table.map.size = int(table.next[0])
        keys = np.zeros((n, self.layout.slots), np.int64)
        weights = np.zeros((n, self.layout.slots), np.float32)
        self._ids_into(events.ints[shown], keys, weights)
        if self.aggregates.history:
            start = codec.raw_slots
            if learn:
                self.history.reserve(len(events))
            items = np.full((n, self.history.length), -1, np.int64)
            wanted = int(self._kind[self._history_signal])
            remember(
                *order, user, item, learn, wanted, prior[:, self._history_signal].copy(),
                self.history.map.keys, self.history.map.values, self.history.arrays(),
                items, weights[:, start:],
            )  # fmt: skip
            self.history.map.size = int(self.history.next[0])
            self._logged_history(events, shown, items, weights)
            weights[:, start:].clip(-LARGEST_WEIGHT, LARGEST_WEIGHT, out=weights[:, start:])
            keys[:, start:] = _keys_of(self.layout.bags[-1].table, items)
        logged = events.floats[shown, raw] == 1.0
        if logged.any():
            dense[logged, raw:] = events.floats[shown][logged, raw + 1 : raw + 1 + codec.features]
        return Inputs(keys, weights, dense)

    def _logged_history(
        self, events: Events, shown: np.ndarray, items: np.ndarray, weights: np.ndarray
    ) -> None:
        codec = self.codec
        raw = codec.raw_columns
        logged = events.floats[shown, raw] == 1.0
        if logged.any():
            items[logged] = events.ints[shown][
                logged, codec.raw_slots : codec.raw_slots + codec.history
            ]
            weights[logged, codec.raw_slots :] = events.floats[shown][
                logged, raw + 1 + codec.features :
            ]

    def _ids_into(self, ints: np.ndarray, keys: np.ndarray, weights: np.ndarray) -> None:
        column = 0
        for bag in self.layout.bags[: len(self.layout.bags) - bool(self.aggregates.history)]:
            ids = ints[:, column : column + bag.size]
            there = ids >= 0
            keys[:, column : column + bag.size] = _keys_of(bag.table, ids)
            weights[:, column : column + bag.size] = there / np.maximum(
                there.sum(1, keepdims=True), 1
            )
            column += bag.size

    def state(self) -> dict[str, Any]:
        return {
            "counts": self.counts.copy(),
            "sums": self.sums.copy(),
            "tables": {str(i): t.state() for i, t in enumerate(self.tables)},
            "history": self.history.state(),
        }

    def take(self, whole: bool) -> dict[str, Any]:
        """`state()`, but of each table the rows that changed since this was called last, or all."""
        return {
            "counts": self.counts.copy(),
            "sums": self.sums.copy(),
            "tables": {str(i): t.take(whole) for i, t in enumerate(self.tables)},
            "history": self.history.take(whole),
        }

    def load(self, tree: dict[str, Any]) -> None:
        self.counts, self.sums = tree["counts"].copy(), tree["sums"].copy()
        for i, table in enumerate(self.tables):
            table.load(tree["tables"][str(i)])
        self.history.load(tree["history"])


def _pairs(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    return table_keys(0, table_keys(0, user) ^ item)


def _keys_of(table: str, ids: np.ndarray) -> np.ndarray:
    """Ids, -1 where there is none, as keys of a table, 0 where there is none."""
    keyed = table_keys(table_salt(table), np.ascontiguousarray(ids).reshape(-1)).reshape(ids.shape)
    return np.where(ids >= 0, keyed, 0)


class _Rows:
    """Rows of flat arrays by id, that grow by doubling."""

    shapes: dict[str, tuple[int, ...]]

    def __init__(self) -> None:
        self.map = IdMap()
        self.next = np.zeros(1, np.int64)
        self.keys, self.changed = np.zeros(0, np.int64), np.zeros(0, np.bool_)
        self.columns = {
            name: np.zeros((0, *shape), np.int64) for name, shape in self.shapes.items()
        }

    def reserve(self, more: int) -> None:
        self.map.reserve(more)
        used, have = int(self.next[0]), len(next(iter(self.columns.values())))
        if used + more <= have:
            return
        rows = max(1024, 2 * have, used + more)
        keys, changed = self.keys[:used], self.changed[:used]
        self.keys, self.changed = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
        self.keys[:used], self.changed[:used] = keys, changed
        for name, old in self.columns.items():
            self.columns[name] = np.zeros((rows, *old.shape[1:]), np.int64)
            self.columns[name][:used] = old[:used]

    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.next, self.keys, self.changed, *self.columns.values())

    def state(self) -> dict[str, np.ndarray]:
        """Keys, ascending, and their rows."""
        keys, rows = self.map.items()
        return {"keys": keys} | {name: column[rows] for name, column in self.columns.items()}

    def take(self, whole: bool) -> Rows:
        """`state()`, or what of it changed since this, or `load`, was called last: copies, in no
        order."""
        used = int(self.next[0])
        at = np.arange(used) if whole else np.flatnonzero(self.changed[:used])
        self.changed[:used] = False
        return Rows(
            {name: a[at] for name, a in ({"keys": self.keys} | self.columns).items()}, whole
        )

    def load(self, tree: dict[str, np.ndarray]) -> None:
        n = len(tree["keys"])
        self.keys, self.changed = tree["keys"].copy(), np.zeros(n, np.bool_)
        self.map, self.next = IdMap(n), np.array([n], np.int64)
        self.map.insert(tree["keys"], np.arange(n))
        self.columns = {name: tree[name].copy() for name in self.columns}


class Table(_Rows):
    """The aggregates of one kind of entity; `kinds` kinds of feedback."""

    def __init__(self, decays_ms: tuple[int, ...], kinds: int) -> None:
        self.decays = np.array(decays_ms, np.int64)
        spans = len(decays_ms)
        self.shapes = {
            "last_shown": (),
            "counts": (kinds + 1,),
            "sums": (kinds + 1,),
            "last_time": (kinds,),
            "last_id": (kinds,),
            "last_value": (kinds,),
            "bucket": (spans, BUCKETS),
            "bucket_counts": (spans, BUCKETS, kinds + 1),
            "bucket_sums": (spans, BUCKETS, kinds + 1),
        }
        super().__init__()


class History(_Rows):
    """The last `length` items of each user, newest first."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.shapes = {name: (length,) for name in ("time", "id", "item", "value")} | {"used": ()}
        super().__init__()
