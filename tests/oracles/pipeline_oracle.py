"""Merge and join said plainly: one event at a time, dictionaries, one heap. The tests' oracle."""

from __future__ import annotations

import heapq
from typing import NamedTuple

TICK, CONTROL, IMPRESSION, FEEDBACK, CLOSING, END = range(6)
HEARTBEAT = -1


class Event(NamedTuple):
    """One record: what it is and what it says; `kind` and `value` are a feedback's, `value` also a
    command's."""

    rank: int
    time: int
    id: int = 0
    impression: int = 0
    kind: str = ""
    value: float = 0.0


def merged(
    partitions: list[list[Event]], lateness: int, memory: int, longest: int
) -> tuple[list, dict]:
    """[(e, event)] in the one order, and how many came in, were duplicates and were late."""
    keyed, maxima = [], []
    for p, events in enumerate(partitions):
        maximum = None
        for offset, event in enumerate(events):
            reach, e = event.time, event.time
            if event.rank == END:
                reach, e = event.time + longest + lateness + 1, event.time + longest
            if maximum is not None:
                e = max(e, maximum - lateness)
            maximum = reach if maximum is None else max(maximum, reach)
            if event.rank != HEARTBEAT:
                keyed.append((e, event.rank, event.id, p, offset, event))
        maxima.append(maximum)
    watermark = None if None in maxima else min(maxima) - lateness
    out, seen, counts = [], {}, {"in": 0, "duplicate": 0, "late": 0}
    for e, rank, id, _, _, event in sorted(keyed, key=lambda k: k[:5]):
        if watermark is None or e >= watermark:
            continue
        if rank != END:
            counts["in"] += 1
            if event.time < e - memory:
                counts["late"] += 1
                continue
            first = seen.get((rank, id))
            if first is not None and first >= e - memory:
                counts["duplicate"] += 1
                continue
            seen[rank, id] = e
        out.append((e, event))
    return out, counts


def joined(stream: list, tasks: list, batch_size: int, tick: int = 0) -> tuple[list, dict]:
    """[(shown ids, [(id, {task: label or None})]) or a control's id and value],
    and the orphans' count.

    `tasks` are (name, window, close, kind). The stream is whole: it ends with an END event.
    """
    longest = max(window for _, window, _, _ in tasks)
    task_of = {task[0]: task for task in tasks}
    heap = [(e, event.rank, event.id, n, event) for n, (e, event) in enumerate(stream)]
    number = len(heap)
    if tick and heap:
        first, last = min(h[0] for h in heap), max(h[0] for h in heap)
        heap += [(t, TICK, 0, -1, None) for t in range(first // tick * tick, last + 1, tick)]
    heapq.heapify(heap)
    pending, waiting = {}, []  # id -> (e, {open task: label}); orphan feedback
    cuts, shown, batch, orphans, examples = [], [], [], 0, 0

    def cut() -> None:
        nonlocal shown, batch, examples
        cuts.append((shown, batch))
        examples += len(batch)
        shown, batch = [], []

    def label(id: int, kind: str, value: float, e: int) -> None:
        nonlocal number
        if kind in pending[id][1]:
            pending[id][1][kind] = value
            _, _, close, what = task_of[kind]
            if close == "arrival" and (what != "binary" or value > 0):
                number += 1
                heapq.heappush(heap, (e, CLOSING, id, number, kind))

    while heap:
        e, rank, id, _, event = heapq.heappop(heap)
        gone = [w for w in waiting if w[0] + longest < e or (rank == END and w[0] + longest <= e)]
        orphans += len(gone)
        waiting = [w for w in waiting if w not in gone]
        if rank == TICK:
            if batch:
                cut()
        elif rank == CONTROL:
            if batch:
                cut()
            cuts.append((id, event.value))
        elif rank == IMPRESSION:
            shown.append(id)
            pending[id] = (e, {name: None for name, *_ in tasks})
            for name, window, _, _ in tasks:
                number += 1
                heapq.heappush(heap, (e + window, CLOSING, id, number, name))
            for w in [w for w in waiting if w[1].impression == id]:
                label(id, w[1].kind, w[1].value, e)
            waiting = [w for w in waiting if w[1].impression != id]
        elif rank == FEEDBACK:
            if event.impression in pending:
                label(event.impression, event.kind, event.value, e)
            elif event.kind in task_of:
                waiting.append((e, event))
        elif rank == CLOSING:
            closing = {event}
            while heap and heap[0][:3] == (e, CLOSING, id):
                closing.add(heapq.heappop(heap)[4])
            if id not in pending:
                continue
            shown_e, open_tasks = pending[id]
            labels = {}
            for name, window, close, kind in tasks:
                if name not in open_tasks or name not in closing:
                    continue
                value = open_tasks[name]
                arrived = (
                    close == "arrival" and value is not None and (kind != "binary" or value > 0)
                )
                if arrived or shown_e + window == e:
                    labels[name] = 0.0 if value is None and kind == "binary" else value
                    del open_tasks[name]
            if not open_tasks:
                del pending[id]
            if labels:
                batch.append((id, labels))
                if len(batch) == min(batch_size, max(examples, 1)):
                    cut()
        elif rank == END and (batch or shown):
            cut()
    return cuts, {"orphan": orphans}
