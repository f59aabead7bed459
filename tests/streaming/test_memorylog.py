"""What only the log in memory does: let go of what everybody has read."""

from __future__ import annotations

import pytest

from streaming.eventlog import MemoryLog


def test_forgotten_events_are_gone_and_offsets_go_on():
    log = MemoryLog({"a": 1})
    for n in range(10):
        log.append("a", None, b"%d" % n, 1_000 + n, partition=0)
    reader = log.reader({("a", 0): 6})
    log.forget({("a", 0): 6})
    log.forget({("a", 0): 3})  # of what is gone nothing more can go
    assert log.end_position() == {("a", 0): 10}
    chunk = reader.read("a", 0, max_records=2)
    assert (chunk.offsets, chunk.values) == ([6, 7], [b"6", b"7"])
    log.append("a", None, b"10", 1_010, partition=0)
    assert reader.read("a", 0).offsets == [8, 9, 10]
    with pytest.raises(ValueError, match="6 to 11"):
        log.reader({("a", 0): 5})
    assert log.reader().read("a", 0).offsets[0] == 6
