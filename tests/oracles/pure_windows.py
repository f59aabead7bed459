"""What the pure code knows of every entity after a whole log: the merge, then the windows."""

from __future__ import annotations

import numpy as np

from features.rows import ALL, entity_keys, load_rows, pack_rows
from features.store import Store
from features.windows import Windows
from streaming.application import Application
from streaming.eventlog import EventLog
from streaming.merge import Merge


def pure_windows(app: Application, log: EventLog) -> tuple[Windows, dict[str, np.ndarray]]:
    """The windows after all of the log, and the keys of each kind of row that it touched."""
    windows, end = Windows(app.schema, app.aggregates), log.end_position()
    merge = Merge(list(end), windows.codec, app.lateness_ms, app.id_memory_ms)
    reader, position = log.reader(), dict.fromkeys(end, 0)
    touched: dict[str, np.ndarray] = {}
    while position != end:
        for tp in merge.furthest_behind():
            chunk = reader.read(*tp, 4_096, 0.1 if position[tp] < end[tp] else 0.0)
            if chunk.offsets:
                break
        else:
            continue
        position[tp] = chunk.next_offset
        events, _ = windows.codec.decode(*chunk, merge.index[tp])
        merge.push(events)
        released = merge.release()
        windows.update(released)
        for kind, keys in entity_keys(windows, released).items():
            touched[kind] = np.union1d(touched.get(kind, keys), keys)
    reader.close()
    return windows, touched


def differing(app: Application, store: Store, log: EventLog, partitions: int) -> dict[str, int]:
    """Of each kind the rows in the store that differ from the pure code's: 0 of all is right."""
    windows, touched = pure_windows(app, log)
    out = {}
    for kind, rows in pack_rows(windows, touched, {}, 0).items():
        if kind == ALL:
            found = store.read({ALL: np.arange(partitions)})
            total = Windows(app.schema, app.aggregates)
            load_rows(total, found)
            out[ALL] = int((total.counts != windows.counts).sum())
            out[ALL] += int((total.sums != windows.sums).sum())
            continue
        values = store.read({kind: rows.keys})[kind].values
        out[kind] = sum(a != b for a, b in zip(values, rows.values, strict=True))
    return out
