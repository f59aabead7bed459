"""What an ingest worker counts and acknowledges, with a reader that leaves records out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming.ingest.positions import Positions

TP, OTHER = ("events", 0), ("items", 0)


@given(
    gaps=st.sets(st.integers(0, 30), max_size=8),
    slips=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 30)), max_size=6),
    start=st.integers(0, 10),
)
def test_each_record_counts_once_and_in_order_whatever_the_reader_leaves_out(gaps, slips, start):
    """The reader gives some records, then jumps: on, to anywhere, or back, to what is acknowledged
    or less; after the last slip it does as it is told. Offsets in `gaps` are of no record."""
    there = [offset for offset in range(40) if offset not in gaps]
    positions: Positions[tuple[str, int]] = Positions()
    positions.start({TP: start})
    counted: list[int] = []

    def give(offsets: list[int]) -> None:
        for offset in offsets:
            if positions.take(TP, offset):
                counted.append(offset)

    at = start
    for some, to in slips:
        given_now = [o for o in there if o >= at][:some]
        give(given_now)
        at = max([at, *given_now])
        at = to if to > at else min(to, positions.next[TP])
    give([o for o in there if o >= at])
    for _ in range(len(gaps) + 2):
        for _ in range(2):
            stuck = positions.stuck({TP: 40})
        for again in (positions.holes, stuck):
            if again:
                give([o for o in there if o >= again[TP]])
    assert counted == [o for o in there if o >= start]


def test_a_partition_that_went_to_another_worker_is_neither_counted_nor_acknowledged():
    positions: Positions[tuple[str, int]] = Positions()
    positions.start({TP: 3})
    assert positions.take(TP, 3)
    positions.written()
    assert positions.unacknowledged() == {TP: 4}
    positions.start({})
    assert not positions.take(TP, 4)
    assert positions.unacknowledged() == {}


def test_what_was_read_and_not_written_is_not_acknowledged_whatever_else_is():
    positions: Positions[tuple[str, int]] = Positions()
    positions.start({TP: 0, OTHER: 0})
    positions.take(TP, 0)
    positions.written()
    positions.take(TP, 1)
    assert positions.unacknowledged() == {TP: 1}
    positions.back()
    assert positions.take(OTHER, 0)
    positions.written()
    assert positions.unacknowledged() == {TP: 1, OTHER: 1}
    assert positions.take(TP, 1)
    positions.written()
    positions.acknowledged({TP: 2, OTHER: 1})
    assert positions.unacknowledged() == {}
