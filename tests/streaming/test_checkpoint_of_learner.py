"""A checkpoint of what changed is the whole state, of the moment when it was taken."""

from __future__ import annotations

import numpy as np
import pytest
from replays import LOGS

from model.digest import tree_hash
from streaming.__main__ import load_application
from streaming.checkpoint import Checkpoints
from streaming.eventlog import MemoryLog
from streaming.history import produce, read_rows, side_tables, topics
from streaming.learner import Learner

LIMITED = ("trainer.embedding.capacity=300", "trainer.embedding.admit_after=2")


@pytest.mark.parametrize("settings", [(), LIMITED], ids=["unlimited", "limited"])
def test_put_together_it_is_the_state_of_its_moment(data_dir, tmp_path, settings):
    """Taken at every ninth step, of a learner that goes on before it is written; one that loaded it
    goes on from it."""
    app = load_application("kuairand").with_settings([*settings, "trainer.batch_size=16"])
    events, log = MemoryLog(topics(1)), data_dir / LOGS["kuairand"]
    learner = Learner(app, events.topics, 0)
    produce(app, events, learner.codec, read_rows(app, log, 800), side_tables(app, log))
    checkpoints, reader, seen = Checkpoints(tmp_path), events.reader(), 0
    while learner.position != events.end_position():
        for topic, partition in learner.merge.furthest_behind():
            if (chunk := reader.read(topic, partition, 500)).offsets:
                learner.take(chunk)
                break
        for _ in learner.steps():
            seen += 1
            if seen % 9 == 0:
                expected, hashed = tree_hash(learner.state()), learner.state_hash()
                taken = learner.unsaved(checkpoints.from_scratch)
            if seen % 9 == 2 and seen > 9:  # two steps later
                checkpoints.save(taken, 1, seen)
                newest = Checkpoints(tmp_path).newest()
                assert newest is not None
                rows = newest.tree["trainer"]["model"]["embedding"]
                if "turn" in rows:  # of which only the order counts
                    rows["turn"] = np.unique(rows["turn"], return_inverse=True)[1] - 1
                assert tree_hash(newest.tree) == expected
                again = Learner(app, events.topics, 0)
                again.load(newest.tree)
                assert again.state_hash() == hashed
    assert len(list(tmp_path.iterdir())) > 3, "none was of what changed"
