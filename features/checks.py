"""What the types of an event don't say, and the reason in words.

The codec looks at whole columns, and asks here only about events that it suspects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from features.events import LARGEST_VALUE, Feedback
from model.schema import nearest

if TYPE_CHECKING:
    from features.codec import Codec


def check(codec: Codec, event: Any, timestamp_ms: int) -> None:
    """What the types don't say. Raises ValueError with the reason."""
    if event.time_ms > timestamp_ms + codec.max_ahead_ms:
        raise ValueError(
            f"time_ms {event.time_ms} is from the future: {event.time_ms - timestamp_ms} ms "
            f"after its record's timestamp, at most {codec.max_ahead_ms} are allowed"
        )
    if type(event) is codec.impression_type:
        for name in codec.dense_fields:
            if not abs(getattr(event.fields, codec.attribute[name])) <= 3e38:
                raise ValueError(f"$.fields.{name} is not finite in 32 bits")
        for field in codec.schema.grids:
            if not all(abs(v) <= 3e38 for v in getattr(event.fields, codec.attribute[field.name])):
                raise ValueError(f"$.fields.{field.name} holds a value not finite in 32 bits")
        logged = event.features
        if logged is None:
            return
        if len(logged.dense) != codec.features:
            raise ValueError(
                f"$.features.dense has {len(logged.dense)} values: expected {codec.features}"
            )
        if len(logged.history) != len(logged.weights) or len(logged.history) > codec.history:
            raise ValueError(
                f"$.features has {len(logged.history)} ids of history and "
                f"{len(logged.weights)} weights: expected as many, at most {codec.history}"
            )
        if not all(abs(v) <= 3e38 for v in (*logged.dense, *logged.weights)):
            raise ValueError("$.features holds a value that is not finite in 32 bits")
    elif type(event) is Feedback:
        if event.kind not in codec.kinds:
            raise ValueError(
                f"kind {event.kind!r} is no feedback here: {nearest(event.kind, codec.kinds)}"
            )
        task = codec.task_of.get(event.kind)
        if not abs(event.value) <= LARGEST_VALUE:
            raise ValueError(f"value {event.value} is out of range: at most {LARGEST_VALUE:.0f}")
        if task is None:
            return
        if task.kind == "binary" and event.value not in (0.0, 1.0):
            raise ValueError(f"value {event.value} of binary task {task.name!r}: expected 0 or 1")
        if task.kind == "multiclass" and event.value not in range(task.classes):
            raise ValueError(
                f"value {event.value} of task {task.name!r}: "
                f"expected a class, 0 to {task.classes - 1}"
            )
        if task.transform == "log1p" and event.value <= -1:
            raise ValueError(f"value {event.value} of task {task.name!r}: log1p wants more than -1")
