"""Events of one schema, to JSON and from JSON into columns.

What can't be read is no reason to stop: it comes back as a `Bad` with its position and the reason,
for the dead letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

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
    key,
    keys,
)  # fmt: skip
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
        self.raw_slots = len(self.id_fields) + sum(size for _, size in self.ids_fields)
        self.ints_width = max(4, self.raw_slots + history)
        self.floats_width = len(self.dense_fields) + 1 + features + history
        self._task_of = {t.name: t for t in schema.tasks}
        types = {"id": Id, "ids": list[Id], "dense": float | bool}
        # The attributes are numbered: a field may have any name, also one that Python keeps.
        self._attribute = {f.name: f"_{n}" for n, f in enumerate(schema.fields)}
        values = msgspec.defstruct(
            "Fields",
            [(self._attribute[f.name], types[f.kind]) for f in schema.fields],
            rename={attribute: name for name, attribute in self._attribute.items()},
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
        )
        self._fields_type: Any = values
        self._decoders = {
            IMPRESSIONS: msgspec.json.Decoder(self.impression_type | End).decode,
            FEEDBACK: msgspec.json.Decoder(Feedback | End).decode,
            CONTROL: msgspec.json.Decoder(Control | End).decode,
        }
        self._encode = msgspec.json.Encoder().encode

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
        if missing := [name for name in self._attribute if name not in values]:
            raise ValueError(f"field {missing[0]!r} is missing")
        if unknown := [name for name in values if name not in self._attribute]:
            raise ValueError(f"field {unknown[0]!r}: {nearest(unknown[0], self._attribute)}")
        in_order = (values[name] for name in self._attribute)
        return self.impression_type(id, time_ms, self._fields_type(*in_order), features)

    def encode(self, event: Any) -> bytes:
        """An event as its record's value, with its version said. Takes NumPy's scalars too."""
        return self._encode({**msgspec.to_builtins(event, enc_hook=_plain), "v": VERSION})

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
        bad: list[Bad] = []
        kept: list[Any] = []
        rows: list[int] = []
        decode = self._decoders[topic]
        for row, value in enumerate(values):
            try:
                if value is None:
                    event = None
                elif len(value) > self.max_bytes:
                    raise ValueError(f"oversized: {len(value)} bytes, at most {self.max_bytes}")
                else:
                    event = decode(value)
                    self._check(event, timestamps_ms[row])
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                bad.append(Bad(topic, partition, offsets[row], str(error), (value or b"")[:4096]))
            else:
                kept.append(event)
                rows.append(row)
        n = len(kept)
        times = [
            e.time_ms if e is not None else timestamps_ms[r]
            for e, r in zip(kept, rows, strict=True)
        ]
        events = Events(
            time=np.array(times, np.int64),
            e=np.zeros(n, np.int64),
            rank=np.array([_RANKS.get(type(e), IMPRESSION) for e in kept], np.int8),
            id=keys([getattr(e, "id", 0) for e in kept]),
            value=np.zeros(n),
            ints=np.full((n, self.ints_width), -1, np.int64),
            floats=np.zeros((n, self.floats_width), np.float32),
            partition=np.full(n, index, np.int32),
            offset=np.array([offsets[r] for r in rows], np.int64),
            controls={key(e.id): e for e in kept if type(e) is Control},
        )
        if topic == IMPRESSIONS:
            self._impressions_into(events, kept)
        elif topic == FEEDBACK:
            self._feedback_into(events, kept)
        return events, bad

    def _check(self, event: Any, timestamp_ms: int) -> None:
        """What the types don't say. Raises ValueError with the reason."""
        if event.time_ms > timestamp_ms + self.max_ahead_ms:
            raise ValueError(
                f"time_ms {event.time_ms} is from the future: {event.time_ms - timestamp_ms} ms "
                f"after its record's timestamp, at most {self.max_ahead_ms} are allowed"
            )
        if type(event) is self.impression_type:
            for name in self.dense_fields:
                if not abs(getattr(event.fields, self._attribute[name])) <= 3e38:
                    raise ValueError(f"$.fields.{name} is not finite in 32 bits")
            logged = event.features
            if logged is None:
                return
            if len(logged.dense) != self.features:
                raise ValueError(
                    f"$.features.dense has {len(logged.dense)} values: expected {self.features}"
                )
            if len(logged.history) != len(logged.weights) or len(logged.history) > self.history:
                raise ValueError(
                    f"$.features has {len(logged.history)} ids of history and "
                    f"{len(logged.weights)} weights: expected as many, at most {self.history}"
                )
            if not all(abs(v) <= 3e38 for v in (*logged.dense, *logged.weights)):
                raise ValueError("$.features holds a value that is not finite in 32 bits")
        elif type(event) is Feedback:
            if event.kind not in self.kinds:
                raise ValueError(
                    f"kind {event.kind!r} is no feedback here: {nearest(event.kind, self.kinds)}"
                )
            task = self._task_of.get(event.kind)
            if not abs(event.value) <= LARGEST_VALUE:
                raise ValueError(
                    f"value {event.value} is out of range: at most {LARGEST_VALUE:.0f}"
                )
            if task is None:
                return
            if task.kind == "binary" and event.value not in (0.0, 1.0):
                raise ValueError(
                    f"value {event.value} of binary task {task.name!r}: expected 0 or 1"
                )
            if task.kind == "multiclass" and event.value not in range(task.classes):
                raise ValueError(
                    f"value {event.value} of task {task.name!r}: "
                    f"expected a class, 0 to {task.classes - 1}"
                )
            if task.transform == "log1p" and event.value <= -1:
                raise ValueError(
                    f"value {event.value} of task {task.name!r}: log1p wants more than -1"
                )

    def _impressions_into(self, events: Events, kept: list[Any]) -> None:
        at = np.array(
            [i for i, e in enumerate(kept) if e is not None and type(e) is not End], np.int64
        )
        if not len(at):
            return
        shown = [kept[i] for i in at]
        values = [e.fields for e in shown]
        for column, name in enumerate(self.id_fields):
            ids = [getattr(v, self._attribute[name]) for v in values]
            events.ints[at, column] = keys(ids)
        column = len(self.id_fields)
        for name, size in self.ids_fields:
            for row, v in zip(at, values, strict=True):
                some = getattr(v, self._attribute[name])[:size]
                events.ints[row, column : column + len(some)] = keys(some)
            column += size
        for column, name in enumerate(self.dense_fields):
            attribute = self._attribute[name]
            events.floats[at, column] = [getattr(v, attribute) for v in values]
        start = len(self.dense_fields)
        for row, e in zip(at, shown, strict=True):
            if e.features is not None:
                events.floats[row, start] = 1.0
                n, end = len(e.features.history), start + 1 + self.features
                events.floats[row, start + 1 : end] = e.features.dense
                events.floats[row, end : end + n] = e.features.weights
                events.ints[row, self.raw_slots : self.raw_slots + n] = keys(e.features.history)

    def _feedback_into(self, events: Events, kept: list[Any]) -> None:
        at = np.array([i for i, e in enumerate(kept) if type(e) is Feedback], np.int64)
        if not len(at):
            return
        given = [kept[i] for i in at]
        events.ints[at, 0] = keys([e.impression for e in given])
        events.ints[at, 1] = [self.kinds.index(e.kind) for e in given]
        events.ints[at, 2] = keys([e.user for e in given])
        events.ints[at, 3] = keys([e.item for e in given])
        log1p = {t.name for t in self.schema.tasks if t.transform == "log1p"}
        events.value[at] = [math.log1p(e.value) if e.kind in log1p else e.value for e in given]


def _plain(value: Any) -> Any:
    """A NumPy scalar as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise ValueError(f"{value!r} is a {type(value).__name__}: expected a number or a string")


_RANKS = {type(None): HEARTBEAT, Feedback: FEEDBACK_RANK, End: END, Control: CONTROL_RANK}
