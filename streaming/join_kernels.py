"""The compiled loop of `join`: ordered events in, closings out, stopping at every cut.

Order (e, rank, id): a window closes at the impression's e + window, after the feedback of that very
millisecond; a positive with `close="arrival"` closes at its feedback's e, likewise after all
feedback of it. Tasks of one impression that close together are one example.

Legend: `seq` numbers impressions in their order, and seq & (ring - 1) is its slot; k counts tasks,
g groups of tasks with one window.
"""

from __future__ import annotations

# mypy: disable-error-code="no-untyped-def"
import numpy as np

from features.events import CONTROL_RANK, END, FEEDBACK_RANK, IMPRESSION
from model.idmap import drop, find, put
from model.kernel import kernel

DONE, CUT, COMMAND = 0, 1, 2

AT = (
    "cursor",  # the next event of those handed in
    "tail",  # the next impression's seq
    "shown_from",  # the first impression shown since the last cut
    "in_batch",  # examples in the batch so far
    "closed_ms",  # when the last of them closed
    "next_tick",
    "arrivals",  # positives waiting for the end of their millisecond
    "orphan_first",
    "orphan_last",
    "orphans",  # feedback whose impression never came
    "expired",  # feedback that came after its task's window
    "ids",  # entries of the two maps
    "orphan_ids",
    "cut_before",  # examples in the batches cut so far, up to a whole one's
)
CURSOR, TAIL, SHOWN_FROM, IN_BATCH, CLOSED_MS, NEXT_TICK, ARRIVALS = range(7)
ORPHAN_FIRST, ORPHAN_LAST, ORPHANS, EXPIRED, IDS, ORPHAN_IDS, CUT_BEFORE = range(7, 14)
NO_TIME = np.iinfo(np.int64).max


@kernel
def advance(
    events, watermark, tasks, tick_ms, at, ring, heads, ids, arrivals, orphans, orphan_ids, batch
):
    """Runs to the next cut or command, or to the end of the events: CUT, COMMAND or DONE."""
    e, rank, id, impression, kind, value = events
    while at[CURSOR] < e.shape[0]:
        i = at[CURSOR]
        ended = rank[i] == END
        if _close(e[i], ended, tasks, tick_ms, at, ring, heads, ids, arrivals, batch):
            return CUT
        _expire(e[i], ended, tasks, at, orphans, orphan_ids)
        if rank[i] == IMPRESSION:
            _show(e[i], id[i], tasks, at, ring, ids, arrivals, orphans, orphan_ids)
        elif rank[i] == FEEDBACK_RANK and kind[i] < tasks[0].shape[0]:
            seq = find(ids[0], ids[1], impression[i])
            if seq >= 0:
                _label(seq, kind[i], value[i], e[i], tasks, at, ring, arrivals)
            else:
                _wait(e[i], impression[i], kind[i], value[i], at, orphans, orphan_ids)
        elif rank[i] == CONTROL_RANK:
            if at[IN_BATCH] > 0:
                return CUT
            at[CURSOR] += 1
            return COMMAND
        elif ended and (at[IN_BATCH] > 0 or at[SHOWN_FROM] < at[TAIL]):
            return CUT
        at[CURSOR] += 1
    if _close(watermark, False, tasks, tick_ms, at, ring, heads, ids, arrivals, batch):
        return CUT
    return DONE


@kernel
def _close(limit, inclusive, tasks, tick_ms, at, ring, heads, ids, arrivals, batch):
    """Closes what is due before `limit` (or at it); true where a batch must be cut first."""
    window, group, on_arrival, binary, windows = tasks
    ring_id, ring_e, is_open, labels, has = ring
    slots, opened = batch
    mask = ring_id.shape[0] - 1
    while True:
        when, seq = NO_TIME, -1
        for g in range(windows.shape[0]):
            while heads[g] < at[TAIL] and not _any_open(heads[g] & mask, g, group, is_open):
                heads[g] += 1
            if heads[g] < at[TAIL]:
                s = heads[g] & mask
                c = ring_e[s] + windows[g]
                if c < when or (c == when and ring_id[s] < ring_id[seq & mask]):
                    when, seq = c, heads[g]
        if at[ARRIVALS] > 0:
            c, s = arrivals[0, 0], arrivals[0, 2]
            if c < when or (c == when and arrivals[0, 1] <= ring_id[seq & mask]):
                when, seq = c, s
        if seq < 0 or when > limit or (when == limit and not inclusive):
            return _tick(limit, tick_ms, at)
        if _tick(when, tick_ms, at):
            return True
        if at[ARRIVALS] > 0 and arrivals[0, 2] == seq and arrivals[0, 0] == when:
            at[ARRIVALS] -= 1
            for x in range(at[ARRIVALS]):
                _move(arrivals, x + 1, x)
        slot, row, any_closed, any_left = seq & mask, at[IN_BATCH], False, False
        for k in range(window.shape[0]):
            arrived = on_arrival[k] and has[slot, k] and (not binary[k] or labels[slot, k] > 0)
            closes = is_open[slot, k] and (arrived or ring_e[slot] + window[k] == when)
            opened[row, k] = closes
            any_closed |= closes
            is_open[slot, k] &= not closes
            any_left |= is_open[slot, k]
        if not any_closed:
            continue
        if not any_left:
            at[IDS] -= drop(ids[0], ids[1], ring_id[slot]) >= 0
        slots[row] = seq
        at[CLOSED_MS] = when
        at[IN_BATCH] += 1
        if at[IN_BATCH] >= min(max(at[CUT_BEFORE], 1), slots.shape[0]):
            return True


@kernel
def _any_open(slot, g, group, is_open):
    for k in range(group.shape[0]):
        if group[k] == g and is_open[slot, k]:
            return True
    return False


@kernel
def _tick(now, tick_ms, at):
    """Whether a tick at or before `now` must cut first."""
    if tick_ms == 0 or now < at[NEXT_TICK]:
        return False
    at[NEXT_TICK] = (now // tick_ms + 1) * tick_ms
    return at[IN_BATCH] > 0


@kernel
def _show(e, id, tasks, at, ring, ids, arrivals, orphans, orphan_ids):
    ring_id, ring_e, is_open, labels, has = ring
    seq = at[TAIL]
    slot = seq & (ring_id.shape[0] - 1)
    ring_id[slot] = id
    ring_e[slot] = e
    is_open[slot] = True
    labels[slot] = 0.0
    has[slot] = False
    at[IDS] += put(ids[0], ids[1], id, seq)
    at[TAIL] += 1
    last = find(orphan_ids[0], orphan_ids[1], id)
    if last < 0:
        return
    at[ORPHAN_IDS] -= drop(orphan_ids[0], orphan_ids[1], id) >= 0
    _, _, orphan_kind, orphan_value, before, waiting = orphans
    size = orphan_kind.shape[0] - 1
    later = -1
    while last >= at[ORPHAN_FIRST]:  # turns the chain round: the oldest comes first
        earlier = before[last & size]
        before[last & size] = later
        later, last = last, earlier
    while later >= 0:
        o = later & size
        waiting[o] = False
        _label(seq, orphan_kind[o], orphan_value[o], e, tasks, at, ring, arrivals)
        later = before[o]


@kernel
def _label(seq, k, value, e, tasks, at, ring, arrivals):
    """Takes a label in; of several the last one wins."""
    ring_id, _, is_open, labels, has = ring
    slot = seq & (ring_id.shape[0] - 1)
    if not is_open[slot, k]:
        at[EXPIRED] += 1
        return
    labels[slot, k] = value
    has[slot, k] = True
    if not tasks[2][k] or (tasks[3][k] and value <= 0):
        return
    x = at[ARRIVALS]
    while x > 0 and (arrivals[x - 1, 0], arrivals[x - 1, 1]) > (e, ring_id[slot]):
        _move(arrivals, x - 1, x)
        x -= 1
    arrivals[x, 0] = e
    arrivals[x, 1] = ring_id[slot]
    arrivals[x, 2] = seq
    at[ARRIVALS] += 1


@kernel
def _move(arrivals, x, to):
    for c in range(arrivals.shape[1]):
        arrivals[to, c] = arrivals[x, c]


@kernel
def _wait(e, impression, kind, value, at, orphans, orphan_ids):
    """Keeps feedback whose impression has not come yet."""
    orphan_e, orphan_impression, orphan_kind, orphan_value, before, waiting = orphans
    o = at[ORPHAN_LAST]
    slot = o & (orphan_e.shape[0] - 1)
    orphan_e[slot] = e
    orphan_impression[slot] = impression
    orphan_kind[slot] = kind
    orphan_value[slot] = value
    before[slot] = find(orphan_ids[0], orphan_ids[1], impression)
    waiting[slot] = True
    at[ORPHAN_IDS] += put(orphan_ids[0], orphan_ids[1], impression, o)
    at[ORPHAN_LAST] += 1


@kernel
def _expire(e, inclusive, tasks, at, orphans, orphan_ids):
    """Counts the feedback that has waited the longest window in vain."""
    orphan_e, orphan_impression, _, _, _, waiting = orphans
    longest = tasks[4][-1]
    while at[ORPHAN_FIRST] < at[ORPHAN_LAST]:
        o = at[ORPHAN_FIRST]
        slot = o & (orphan_e.shape[0] - 1)
        gone = orphan_e[slot] + longest
        if gone > e or (gone == e and not inclusive):
            return
        if waiting[slot]:
            at[ORPHANS] += 1
            if find(orphan_ids[0], orphan_ids[1], orphan_impression[slot]) == o:
                at[ORPHAN_IDS] -= drop(orphan_ids[0], orphan_ids[1], orphan_impression[slot]) >= 0
        at[ORPHAN_FIRST] += 1
