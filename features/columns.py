"""Events in columns: how everything between the decoder and the model sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
import numpy as np

from features.events import Control


@dataclass
class Events:
    """Events in columns, [n] or [n, width].

    `ints` holds an impression's ids (its `id` fields, then `ids` fields padded with -1, then the
    logged history padded with -1), and a feedback's impression, kind, user and item.
    `floats` holds an impression's dense fields, whether it logged features, those features, and the
    weights of the logged history.
    """

    time: np.ndarray  # event time, ms
    e: np.ndarray  # effective time, ms; the merge sets it
    rank: np.ndarray
    id: np.ndarray
    value: np.ndarray  # of a feedback, transformed as its task says
    ints: np.ndarray
    floats: np.ndarray
    partition: np.ndarray  # index in the merge's list
    offset: np.ndarray
    controls: dict[tuple[int, int], Control]  # by partition and offset: ids may be sent again

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: np.ndarray) -> Events:
        """The events at `rows`: positions or a mask."""
        columns = {
            f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "controls"
        }
        return replace(self, **columns)

    @staticmethod
    def concatenate(parts: Sequence[Events]) -> Events:
        if len(parts) == 1:
            return parts[0]
        names = [f.name for f in fields(Events) if f.name != "controls"]
        columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
        return Events(**columns, controls={k: v for p in parts for k, v in p.controls.items()})

    def state(self) -> dict[str, Any]:
        tree: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name != "controls"
        }
        controls = [[*at, msgspec.to_builtins(c)] for at, c in self.controls.items()]
        return tree | {"controls": controls}

    def control(self, row: int) -> Control | None:
        """The command at a row; None where that is none."""
        return self.controls.get((int(self.partition[row]), int(self.offset[row])))

    @classmethod
    def restored(cls, tree: dict[str, Any]) -> Events:
        controls = {(p, at): msgspec.convert(c, Control) for p, at, c in tree["controls"]}
        return cls(**{**tree, "controls": controls})
