"""Partitions that a command adds are taken up at its place, however the log is fetched."""

from __future__ import annotations

import numpy as np
import pytest

from features.codec import Codec
from features.events import CONTROL, FEEDBACK, IMPRESSIONS, Control, End
from model.schema import Field, Schema, Task
from streaming.growth import added, after, before
from streaming.merge import Merge

SCHEMA = Schema((Field("user", "id"),), (Task("click", "binary", 5),), user="user")
GROW = Control(1, 50, "partitions.grow", {IMPRESSIONS: [1, 2], FEEDBACK: [1, 1]})
OLD, NEW = (IMPRESSIONS, 0), (IMPRESSIONS, 1)


def log(codec: Codec) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
    """An old partition and a new one, whose times overlap before and after the command's, 50."""

    def shown(id: int, time: int) -> tuple[int, bytes]:
        return time, codec.encode(codec.impression(id, time, {"user": 7}))

    end = (200, codec.encode(End(200)))
    return {
        OLD: [*(shown(10 * t, t) for t in range(1, 120, 3)), end],
        (FEEDBACK, 0): [end],
        (CONTROL, 0): [(50, codec.encode(GROW)), (50, codec.encode(GROW)), end],
        NEW: [*(shown(10 * t + 1, t) for t in range(20, 110, 2)), end],
    }


def order(size: int, restart: int = -1) -> list[int]:
    """The impressions' ids as they are released, fetched `size` at a time; the merge is saved and
    loaded again after `restart` fetches."""
    codec = Codec(SCHEMA)
    records, base = log(codec), [OLD, (FEEDBACK, 0), (CONTROL, 0)]

    def fresh() -> Merge:
        merge = Merge(base, codec, 2, 1000)
        merge.added = added
        return merge

    merge, done, ids, fetched = fresh(), dict.fromkeys(records, 0), [], 0
    while any(done[tp] < len(records[tp]) for tp in merge.partitions):
        tp = next(tp for tp in merge.furthest_behind() if done[tp] < len(records[tp]))
        some = records[tp][done[tp] : done[tp] + size]
        offsets = range(done[tp], done[tp] + len(some))
        times, values = zip(*some, strict=True)
        events, bad = codec.decode(*tp, offsets, times, values, merge.index[tp])
        assert not bad
        done[tp] += len(some)
        merge.push(events)
        ids += merge.release().id.tolist()
        fetched += 1
        if fetched == restart:
            state, merge = merge.state(), fresh()
            merge.load(state)
    return ids


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_order_is_the_same_for_every_way_of_fetching(size):
    ids = order(size)
    assert ids == order(3) and len([i for i in ids if i % 10]) > 40
    place = ids.index(1)  # the command's
    assert all(i % 10 == 0 and i <= 500 for i in ids[:place])
    assert all(order(size, restart) == ids for restart in range(1, 12, 3))


def test_what_a_new_partition_holds_from_before_counts_as_of_its_being_taken_up():
    ids = order(5)
    early = [10 * t + 1 for t in range(20, 50, 2)]
    places = [ids.index(i) for i in early]
    assert min(places) == ids.index(1) + 1 and sorted(places) == places


def test_commands_that_make_no_sense_add_nothing():
    for arguments in ({}, {IMPRESSIONS: 3}, {IMPRESSIONS: ["1", 2]}, {IMPRESSIONS: [3, 2]}):
        assert added(Control(1, 1, "partitions.grow", arguments)) == []
    assert added(Control(1, 1, "weights.set", {IMPRESSIONS: [1, 2]})) == added(None) == []
    huge = added(Control(1, 1, "partitions.grow", {IMPRESSIONS: [1, 10**9]}))
    assert len(huge) == 1023


def test_what_topics_had_before_and_have_after():
    again = Control(2, 60, "partitions.grow", {IMPRESSIONS: [2, 4]})
    now = {IMPRESSIONS: 5, FEEDBACK: 1, CONTROL: 1}
    base = before(now, [GROW, again])
    assert base == {IMPRESSIONS: 1, FEEDBACK: 1, CONTROL: 1}
    assert after(base, [GROW, again])[IMPRESSIONS] == 4  # of a fifth no command speaks
    assert before(now, []) == now == after(now, [])
    assert np.array_equal(sorted(added(again)), [(IMPRESSIONS, 2), (IMPRESSIONS, 3)])
