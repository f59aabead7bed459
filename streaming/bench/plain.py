"""The baseline: the same pipeline said plainly, one event at a time, as a first version would."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from features.events import FEEDBACK, IMPRESSIONS
from streaming.bench.reference import BATCH, TASKS, WINDOW, app
from streaming.eventlog import EventLog


def batches(log: EventLog) -> Iterator[tuple[np.ndarray, ...]]:
    """(ids, features, labels) of each batch: a heap for the order, dictionaries for the join."""
    reader, decode = log.reader(), msgspec.json.Decoder().decode
    partitions = [(t, p) for t in (IMPRESSIONS, FEEDBACK) for p in range(log.topics[t])]
    reach = dict.fromkeys(partitions, -1)
    heap: list[tuple[int, int, int, Any]] = []
    seen: dict[tuple[int, int], int] = {}
    pending: dict[int, tuple[list[Any], list[float]]] = {}
    closing: deque[tuple[int, int]] = deque()
    batch: list[tuple[int, list[Any], list[float]]] = []
    ended: set[tuple[str, int]] = set()
    while len(ended) < len(partitions):
        tp = min((p for p in partitions if p not in ended), key=reach.__getitem__)
        for value in reader.read(*tp, 4_096, 0.1).values:
            event = decode(value)  # type: ignore[arg-type]
            if event["type"] == "end":
                ended.add(tp)
                reach[tp] = event["time_ms"] + 2 * WINDOW
                continue
            e = max(event["time_ms"], reach[tp] - app.lateness_ms)
            reach[tp] = max(reach[tp], event["time_ms"])
            heapq.heappush(heap, (e, tp[0] == FEEDBACK, event["id"], event))
        watermark = min(reach.values()) - app.lateness_ms
        while heap and heap[0][0] < watermark:
            e, told, id, event = heapq.heappop(heap)
            if seen.get((told, id), -1) >= e - app.id_memory_ms:
                continue
            seen[told, id] = e
            while closing and closing[0][0] < e:
                _, closed = closing.popleft()
                batch.append((closed, *pending.pop(closed)))
                if len(batch) == BATCH:
                    yield _columns(batch)
                    batch = []
            if told:
                if event["impression"] in pending:
                    pending[event["impression"]][1][TASKS.index(event["kind"])] = event["value"]
            else:
                features = [*event["fields"].values(), *event["features"]["dense"]]
                pending[id] = (features, [0.0] * len(TASKS))
                closing.append((e + WINDOW, id))
    batch += [(id, *pending.pop(id)) for _, id in closing]
    for start in range(0, len(batch), BATCH):
        yield _columns(batch[start : start + BATCH])
    reader.close()


def _columns(batch: list[tuple[int, list[Any], list[float]]]) -> tuple[np.ndarray, ...]:
    ids, features, labels = zip(*batch, strict=True)
    return np.array(ids), np.array(features, np.float32), np.array(labels, np.float32)
