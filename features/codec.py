"""Events of one schema, to JSON and from JSON into columns.

What can't be read is no reason to stop: it comes back as a `Bad` with its position and the reason,
for the dead letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple

from features.checks import check
from features.columns import Events
from features.events import (
    CONTROL,
    CONTROL_RANK,
    END,
    FEEDBACK,
    FEEDBACK_RANK,
    HEARTBEAT,
    IMPRESSION,
    IMPRESSIONS,
    LARGEST_VALUE,
    VERSION,
    Control,
    End,
    Features,
    Feedback,
    Id,
    TimeMs,
    Version,
    keys,
    numbers_of,
)  # fmt: skip
from features.scan import Scanner
from model.schema import Schema, nearest


class Bad(NamedTuple):
    """A record that could not be read: where it stands, why, and what it says."""

    topic: str
    partition: int
    offset: int
    reason: str
    value: bytes


class Codec:
    """Events of one schema, to and from JSON.

    `features` is the number of window features an impression may carry, `history` the most items
    of its history. `more_kinds` are kinds of feedback that no task, but a window feature, reads.
    """

    def __init__(
        self,
        schema: Schema,
        features: int = 0,
        history: int = 0,
        more_kinds: Sequence[str] = (),
        max_bytes: int = 65_536,
        max_ahead_ms: int = 60_000,
    ) -> None:
        self.schema, self.features, self.history = schema, features, history
        self.kinds = tuple(dict.fromkeys((*(t.name for t in schema.tasks), *more_kinds)))
        self.max_bytes, self.max_ahead_ms = max_bytes, max_ahead_ms
        self.id_fields = [f.name for f in schema.of_kind("id")]
        self.ids_fields = [(f.name, f.size) for f in schema.of_kind("ids")]
        self.dense_fields = [f.name for f in schema.of_kind("dense")]
        self.raw_columns = len(schema.columns)
        self.raw_slots = len(self.id_fields) + sum(size for _, size in self.ids_fields)
        self.ints_width = max(4, self.raw_slots + history)
        self.floats_width = self.raw_columns + 1 + features + history
        self._kind = {name: k for k, name in enumerate(self.kinds)}
        self.task_of = {t.name: t for t in schema.tasks}
        types: dict[str, Any] = {"id": Id, "ids": list[Id], "dense": float | bool}
        # The attributes are numbered: a field may have any name, also one that Python keeps.
        self.attribute = {f.name: f"_{n}" for n, f in enumerate(schema.fields)}
        values = msgspec.defstruct(
            "Fields",
            [
                (self.attribute[f.name], numbers_of(f) if f.shape else types[f.kind])
                for f in schema.fields
            ],
            rename={attribute: name for name, attribute in self.attribute.items()},
            gc=False,
        )
        self.impression_type: Any = msgspec.defstruct(
            "Impression",
            [
                ("id", Id),
                ("time_ms", TimeMs),
                ("fields", values),
                ("features", Features | None, None),
                ("v", Version, VERSION),
            ],
            tag="impression",
            tag_field="type",
            omit_defaults=True,
            gc=False,
        )
        self._fields_type: Any = values
        self._decoders: dict[str, Any] = {
            IMPRESSIONS: msgspec.json.Decoder(self.impression_type | End).decode,
            FEEDBACK: msgspec.json.Decoder(Feedback | End).decode,
            CONTROL: msgspec.json.Decoder(Control | End).decode,
        }
        self._scanner = Scanner(self)
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode

    # -- out ---------------------------------------------------------------------------------

    def impression(
        self,
        id: int | str,
        time_ms: int,
        values: Mapping[str, Any],
        features: Features | None = None,
    ) -> Any:
        """An impression of this schema. ValueError names a field that is missing or unknown; the
        values are judged by `decode`."""
        if missing := [name for name in self.attribute if name not in values]:
            raise ValueError(f"field {missing[0]!r} is missing")
        if unknown := [name for name in values if name not in self.attribute]:
            raise ValueError(f"field {unknown[0]!r}: {nearest(unknown[0], self.attribute)}")
        in_order = (values[name] for name in self.attribute)
        return self.impression_type(id, time_ms, self._fields_type(*in_order), features)

    def encode(self, event: Any) -> bytes:
        """An event as its record's value, with its version said. Takes NumPy's values too."""
        value: bytes = self._encode(event)
        return value if isinstance(event, End) else value[:-1] + _SAID  # defaults are left out

    def scored_with(self, value: bytes) -> Features | None:
        """What the impression of a record that `decode` takes was scored with, if it says so."""
        event = self._decoders[IMPRESSIONS](value)
        found: Features | None = getattr(event, "features", None)
        return found

    # -- in ----------------------------------------------------------------------------------

    def decode(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        timestamps_ms: Sequence[int],
        values: Sequence[bytes | None],
        index: int = 0,
    ) -> tuple[Events, list[Bad]]:
        """Records of one partition as columns, heartbeats at their place, and those that are bad.

        `index` is the partition's place in the merge's list.
        """
        n, timestamps = len(values), np.array(timestamps_ms, np.int64)
        events = Events(
            time=timestamps.copy(),
            e=np.zeros(n, np.int64),
            rank=np.full(n, HEARTBEAT, np.int8),
            id=np.zeros(n, np.int64),
            value=np.zeros(n),
            ints=np.full((n, self.ints_width), -1, np.int64),
            floats=np.zeros((n, self.floats_width), np.float32),
            partition=np.full(n, index, np.int32),
            offset=np.array(offsets, np.int64),
            controls={},
        )
        scanned = self._scanner.scan(topic, values, events)
        suspect = np.zeros(n, np.bool_)
        if topic == FEEDBACK:
            suspect[scanned] = self._labels_into(events, np.flatnonzero(scanned))
        parsed, reasons = self._parse(topic, values, np.flatnonzero(~scanned).tolist())
        self._parsed_into(events, parsed, suspect)
        suspect |= events.time > timestamps + self.max_ahead_ms
        suspect[list(reasons)] = False
        for row in np.flatnonzero(suspect).tolist():
            event = parsed[row] if row in parsed else self._decoders[topic](values[row])
            try:
                check(self, event, timestamps_ms[row])
            except ValueError as error:
                reasons[row] = str(error)
        bad = [
            Bad(topic, partition, offsets[row], reasons[row], (values[row] or b"")[:4096])
            for row in sorted(reasons)
        ]
        if bad:
            kept = np.ones(n, np.bool_)
            kept[list(reasons)] = False
            events = events.take(kept)
        return events, bad

    def _parse(
        self, topic: str, values: Sequence[bytes | None], rows: Sequence[int]
    ) -> tuple[dict[int, Any], dict[int, str]]:
        """The events at `rows`, heartbeats left out, and why those are bad that can't be read."""
        parsed: dict[int, Any] = {}
        reasons: dict[int, str] = {}
        decode, most = self._decoders[topic], self.max_bytes
        for row in rows:
            value = values[row]
            if value is None:
                continue
            try:
                if len(value) > most:
                    raise ValueError(f"oversized: {len(value)} bytes, at most {most}")
                parsed[row] = decode(value)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                reasons[row] = str(error)
        return parsed, reasons

    def _parsed_into(self, events: Events, parsed: Mapping[int, Any], suspect: np.ndarray) -> None:
        """Fills the rows of `parsed`, and says which of them `check` should look at."""
        if not parsed:
            return
        rows = np.fromiter(parsed, np.int64, len(parsed))
        ranks = np.array([_RANKS.get(type(one), IMPRESSION) for one in parsed.values()], np.int8)
        events.rank[rows] = ranks
        for rank, columns in _COLUMNS.items():
            at = rows[ranks == rank]
            if len(at):
                suspect[at] = columns(self, events, at, [parsed[row] for row in at.tolist()])

    def _impressions_into(self, events: Events, at: np.ndarray, shown: list[Any]) -> np.ndarray:
        """Fills the rows `at`; returns which of them `check` should look at."""
        ids, times, values, logged, _ = zip(*map(astuple, shown), strict=True)
        events.id[at], events.time[at] = keys(ids), times
        by_field = dict(zip(self.attribute, zip(*map(astuple, values), strict=True), strict=True))
        for column, name in enumerate(self.id_fields):
            events.ints[at, column] = keys(by_field[name])
        column = len(self.id_fields)
        for name, size in self.ids_fields:
            for row, some in zip(at.tolist(), by_field[name], strict=True):
                events.ints[row, column : column + len(some[:size])] = keys(some[:size])
            column += size
        with np.errstate(over="ignore"):
            for column, name in enumerate(self.dense_fields):
                events.floats[at, column] = by_field[name]
            column = len(self.dense_fields)
            for field in self.schema.grids:
                events.floats[at, column : column + field.numbers] = by_field[field.name]
                column += field.numbers
            suspect = ~np.isfinite(events.floats[at, : self.raw_columns]).all(1)
            return suspect | self._logged_into(events, at, logged)

    def _logged_into(
        self, events: Events, at: np.ndarray, logged: Sequence[Features | None]
    ) -> np.ndarray:
        suspect = np.zeros(len(at), np.bool_)
        has = np.array([f is not None for f in logged])
        some = [f for f in logged if f is not None]
        if not some:
            return suspect
        fits = np.array([len(f.dense) == self.features for f in some])
        fits &= [len(f.history) == len(f.weights) <= self.history for f in some]
        some, rows = [f for f, ok in zip(some, fits, strict=True) if ok], at[has][fits]
        suspect[has] = ~fits
        raw = self.raw_columns
        if some:
            events.floats[rows, raw] = 1.0
            dense = np.array([f.dense for f in some], np.float32).reshape(len(some), -1)
            events.floats[rows, raw + 1 : raw + 1 + self.features] = dense
        if self.history:
            start, slot = raw + 1 + self.features, self.raw_slots
            for row, f in zip(rows.tolist(), some, strict=True):
                events.floats[row, start : start + len(f.weights)] = f.weights
                events.ints[row, slot : slot + len(f.history)] = keys(f.history)
        return suspect | ~np.isfinite(events.floats[at, raw:]).all(1)

    def _feedback_into(self, events: Events, at: np.ndarray, given: list[Any]) -> np.ndarray:
        """Fills the rows `at`; returns which of them `check` should look at."""
        ids, times, impressions, kinds, values, users, items, _ = zip(
            *map(astuple, given), strict=True
        )
        events.id[at], events.time[at], events.value[at] = keys(ids), times, values
        events.ints[at, 0] = keys(impressions)
        events.ints[at, 1] = list(map(self._kind.get, kinds, repeat(-1)))
        events.ints[at, 2], events.ints[at, 3] = keys(users), keys(items)
        return self._labels_into(events, at)

    def _labels_into(self, events: Events, at: np.ndarray) -> np.ndarray:
        """Transforms the values of the feedback at `at` as its tasks say; returns which of it
        `check` should look at."""
        kind, value = events.ints[at, 1], events.value[at]
        suspect = (kind < 0) | ~(np.abs(value) <= LARGEST_VALUE)
        for k, task in enumerate(self.schema.tasks):
            of_task = kind == k
            if task.kind == "binary":
                suspect |= of_task & (value != 0) & (value != 1)
            elif task.kind == "multiclass":
                suspect |= of_task & ~np.isin(value, np.arange(task.classes))
            elif task.transform == "log1p":
                suspect |= of_task & ~(value > -1)
                rows = np.flatnonzero(of_task & ~suspect)
                value[rows] = [math.log1p(v) for v in value[rows].tolist()]
        events.value[at] = value
        return suspect

    def _controls_into(self, events: Events, at: np.ndarray, given: list[Any]) -> np.ndarray:
        places = zip(events.partition[at].tolist(), events.offset[at].tolist(), strict=True)
        events.controls.update(zip(places, given, strict=True))
        events.id[at], events.time[at] = keys([c.id for c in given]), [c.time_ms for c in given]
        return np.zeros(len(at), np.bool_)

    def _ends_into(self, events: Events, at: np.ndarray, given: list[Any]) -> np.ndarray:
        events.time[at] = [end.time_ms for end in given]
        return np.zeros(len(at), np.bool_)


def _plain(value: Any) -> Any:
    """What is of NumPy as Python's own; an array as one flat list."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist()
    raise ValueError(f"{value!r} is a {type(value).__name__}: expected a number or a string")


_SAID = b',"v":%d}' % VERSION
_RANKS: dict[Any, int] = {Feedback: FEEDBACK_RANK, End: END, Control: CONTROL_RANK}
_COLUMNS = {
    IMPRESSION: Codec._impressions_into,
    FEEDBACK_RANK: Codec._feedback_into,
    CONTROL_RANK: Codec._controls_into,
    END: Codec._ends_into,
}
