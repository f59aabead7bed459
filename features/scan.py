"""JSON of the usual form straight into columns, with no object in between.

The values of a chunk are scanned as one array of bytes. What the scanner leaves, being unusual or
wrong, is read by msgspec, which knows all of the form and what is wrong with it; so there is no
event that is read one way here and another way there. So are impressions with series or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from features.columns import Events
from features.events import FEEDBACK, FEEDBACK_RANK, IMPRESSION, IMPRESSIONS
from features.json_kernels import (
    DENSE,
    FEEDBACK_NAMES,
    ID,
    IDS,
    IMPRESSION_NAMES,
    scan_feedback,
    scan_impressions,
)

if TYPE_CHECKING:
    from features.codec import Codec


class Scanner:
    """Scans the records of one codec's schema."""

    def __init__(self, codec: Codec) -> None:
        kinds = {"id": ID, "ids": IDS, "dense": DENSE}
        self._reads = {FEEDBACK} if codec.schema.grids else {FEEDBACK, IMPRESSIONS}
        fields = [field for field in codec.schema.fields if not field.shape]
        column, columns = {"id": 0, "ids": len(codec.id_fields), "dense": 0}, []
        for field in fields:
            columns.append(column[field.kind])
            column[field.kind] += field.size if field.kind == "ids" else 1
        self._most = codec.max_bytes
        self._feedback = _names([*FEEDBACK_NAMES, *codec.kinds])
        self._impressions = _names([*IMPRESSION_NAMES, *(field.name for field in fields)])
        self._fields = np.array(
            [
                (kinds[field.kind], at, field.size)
                for field, at in zip(fields, columns, strict=True)
            ],
            np.int64,
        )
        self._widths = (codec.raw_slots, len(codec.dense_fields), codec.features, codec.history)

    def scan(self, topic: str, values: Sequence[bytes | None], events: Events) -> np.ndarray:
        """Fills the rows of the records that it takes: bool [n]. The others' `time`, `id` and
        `value` may be anything,
        their other columns are as they were made."""
        taken = np.zeros(len(values), np.bool_)
        if topic not in self._reads or not len(values):
            return taken
        there = [value or b"" for value in values] if None in values else values
        json = np.frombuffer(b"".join(there), np.uint8)  # type: ignore[arg-type]
        ends = np.fromiter(accumulate(map(len, there)), np.int64, len(there))  # type: ignore[arg-type]
        if topic == FEEDBACK:
            scan_feedback(
                json, ends, self._most, *self._feedback,
                events.time, events.id, events.value, events.ints, taken,
            )  # fmt: skip
            events.rank[taken] = FEEDBACK_RANK
        else:
            scan_impressions(
                json, ends, self._most, *self._impressions, self._fields, self._widths,
                events.time, events.id, events.ints, events.floats,
                taken,
            )  # fmt: skip
            events.rank[taken] = IMPRESSION
        return taken


def _names(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Names as one array of bytes, and where each ends in it."""
    coded = [name.encode() for name in names]
    letters = np.frombuffer(b"".join(coded), np.uint8)
    return letters, np.array(list(accumulate(map(len, coded))), np.int64)
