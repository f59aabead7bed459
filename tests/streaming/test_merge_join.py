"""Merge and join in columns give what the plain per-event version gives, however they are fed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_oracle import CONTROL, END, FEEDBACK, HEARTBEAT, IMPRESSION, Event, joined, merged

from features.codec import Codec
from features.events import Control, End
from features.events import Feedback as FeedbackEvent
from features.windows import Aggregates, Windows
from model.schema import Field, Schema, Task
from streaming.join import Join
from streaming.merge import Merge

TASKS = (
    Task("click", "binary", window_ms=5),
    Task("like", "binary", window_ms=9, close="arrival"),
    Task("dwell", "regression", window_ms=5),
    Task("stars", "regression", window_ms=12, close="arrival"),
)
SCHEMA = Schema((Field("user", "id"),), TASKS, user="user")
PLAIN = [(t.name, t.window_ms, t.close, t.kind) for t in TASKS]
LONGEST = 12


def columns_of(
    codec: Codec, topic: str, partition: int, index: int, events: list[Event], start: int
):
    """The events as records, decoded."""
    values = []
    for event in events:
        if event.rank == HEARTBEAT:
            values.append(None)
        elif event.rank == END:
            values.append(codec.encode(End(event.time)))
        elif event.rank == CONTROL:
            said = {"value": event.value}
            values.append(codec.encode(Control(event.id, event.time, "note", said)))
        elif event.rank == IMPRESSION:
            values.append(
                codec.encode(codec.impression(event.id, event.time, {"user": event.id % 3}))
            )
        else:
            feedback = FeedbackEvent(
                event.id, event.time, event.impression, event.kind, event.value, 1
            )
            values.append(codec.encode(feedback))
    offsets = list(range(start, start + len(events)))
    decoded, bad = codec.decode(topic, partition, offsets, [e.time for e in events], values, index)
    assert not bad
    return decoded


def run(
    logs: dict, lateness: int, memory: int, batch_size: int, tick: int, chunks, restart_at: int = -1
):
    """All cuts of the logs through columns, fed in the given chunks; and the counts."""

    def fresh():
        windows = Windows(SCHEMA, Aggregates())
        return (
            windows,
            Merge(list(logs), windows.codec, lateness, memory),
            Join(SCHEMA, windows.layout, batch_size, tick),
        )

    windows, merge, join = fresh()
    done = dict.fromkeys(logs, 0)
    cuts, taken = [], 0

    def take() -> None:
        nonlocal windows, merge, join, taken
        again = True
        while again:
            again = False
            for cut in join.cuts(merge.watermark):
                if cut.control is not None:
                    cuts.append((cut.control.id, cut.control.arguments["value"]))
                else:
                    shown = join.ring.columns["id"][cut.shown_slots].astype(np.float32)
                    served = join.serve(cut, np.repeat(shown[:, None], SCHEMA.outputs, axis=1))
                    assert (served == cut.ids[:, None]).all()  # each got back its own prediction
                    cuts.append(plain(cut, join))
                taken += 1
                if taken == restart_at:
                    states = windows.state(), merge.state(), join.state()
                    windows, merge, join = fresh()
                    for part, state in zip((windows, merge, join), states, strict=True):
                        part.load(state)
                    again = True
                    break

    turn = 0
    while any(done[tp] < len(logs[tp]) for tp in logs):
        tp = list(logs)[turn % len(logs)]
        n = chunks[turn % len(chunks)]
        turn += 1
        part = logs[tp][done[tp] : done[tp] + n]
        if not part:
            continue
        index = list(logs).index(tp)
        merge.push(columns_of(windows.codec, tp[0], tp[1], index, part, done[tp]))
        done[tp] += len(part)
        events = merge.release()
        join.push(events, windows.update(events))
        take()
    counts = {name: merge.released[name] for name in ("in", "duplicate", "late")}
    return cuts, counts | {"orphan": join.counts["orphan"]}


def plain(cut, join: Join):
    """A cut as the oracle writes it. A shown impression is known by its slot."""
    shown = join.ring.columns["id"][cut.shown_slots].tolist()
    batch = []
    for row in range(len(cut.ids)):
        labels = {}
        for k, task in enumerate(TASKS):
            if cut.closes[row, k]:
                labels[task.name] = (
                    float(cut.batch.labels[row, k]) if cut.batch.mask[row, k] else None
                )
        batch.append((int(cut.ids[row]), labels))
    return shown, batch


@st.composite
def partitioned_logs(draw):
    """Partitions of impressions, feedback and control, out of order, with events repeated."""
    logs = {
        ("impressions", 0): [],
        ("impressions", 1): [],
        ("feedback", 0): [],
        ("feedback", 1): [],
        ("control", 0): [],
        ("control", 1): [],
    }
    last = 0
    times = st.integers(0, 40)
    for tp, events in logs.items():
        for _ in range(draw(st.integers(0, 12))):
            time = draw(times)
            last = max(last, time)
            if draw(st.integers(0, 9)) == 0:
                events.append(Event(HEARTBEAT, time))
                continue
            id = draw(st.integers(0, 15))
            if tp[0] == "impressions":
                events.append(Event(IMPRESSION, time, id))
            elif tp[0] == "control":
                said = float(draw(st.integers(0, 9)))  # also by another of the same id
                events.append(Event(CONTROL, time, id, value=said))
            else:
                kind = draw(st.sampled_from([t.name for t in TASKS]))
                value = float(draw(st.integers(0, 1)))
                events.append(
                    Event(
                        FEEDBACK,
                        time,
                        id + 100 * draw(st.integers(0, 3)),
                        draw(st.integers(0, 15)),
                        kind,
                        value,
                    )
                )
    for events in logs.values():
        events.append(Event(END, last))
    return logs


@settings(max_examples=300)
@given(
    logs=partitioned_logs(),
    lateness=st.sampled_from([0, 3, 50]),
    batch_size=st.sampled_from([1, 3, 64]),
    tick=st.sampled_from([0, 7]),
    chunks=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    restart_at=st.integers(-1, 8),
)
def test_columns_equal_the_oracle(logs, lateness, batch_size, tick, chunks, restart_at):
    memory = 20
    stream, counts = merged(list(logs.values()), lateness, memory, LONGEST)
    expected, orphans = joined(stream, PLAIN, batch_size, tick)
    cuts, got = run(logs, lateness, memory, batch_size, tick, chunks, restart_at)
    assert cuts == expected
    assert got == counts | orphans


def test_a_ring_that_grows_keeps_what_is_pending():
    n = 5000
    logs = {
        ("impressions", 0): [Event(IMPRESSION, 1, i) for i in range(n)] + [Event(END, 3)],
        ("feedback", 0): [Event(FEEDBACK, 3, i, i, "dwell", float(i)) for i in range(n)]
        + [Event(END, 3)],
    }
    stream, _ = merged(list(logs.values()), 0, 20, LONGEST)
    expected, _ = joined(stream, PLAIN, 64)
    cuts, _ = run(logs, 0, 20, 64, 0, [700])
    assert cuts == expected


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_example(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        Join(SCHEMA, Windows(SCHEMA, Aggregates()).layout, batch_size)
