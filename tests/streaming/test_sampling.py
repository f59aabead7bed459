"""A task that learns from a share of its negatives: which, the same at every run, and predictions
as of all."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch, Inputs
from model.sampling import NegativeSampling
from model.schema import Field, Schema, Task
from streaming.apps.simulated import calm
from streaming.replay import Replay

ROWS, SHARE = 6_000, 0.2
SAMPLED = replace(
    calm,
    schema=replace(
        calm.schema,
        tasks=tuple(
            replace(t, given="", learnt_negatives=SHARE) if t.kind == "binary" else t
            for t in calm.schema.tasks
            if t.kind == "binary"
        ),
    ),
)
ALL = replace(
    SAMPLED,
    schema=replace(
        SAMPLED.schema, tasks=tuple(replace(t, learnt_negatives=1.0) for t in SAMPLED.schema.tasks)
    ),
)
TASKS = (
    Task("click", "binary", 0, learnt_negatives=SHARE),
    Task("like", "binary", 0),
    Task("dwell", "regression", 0),
)


@settings(deadline=None)
@given(
    ids=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=40, unique=True),
    at=st.integers(0, 40),
)
def test_an_impressions_id_alone_decides(ids, at):
    """In whichever batch it comes: positives and other tasks stay, and no empty example."""
    sampling, n = NegativeSampling(Schema((Field("user", "id"),), TASKS, "user")), len(ids)
    draw = np.random.default_rng(n)
    labels = draw.integers(0, 2, (n, 3)).astype(np.float32)
    mask = draw.random((n, 3)) < 0.7
    keys = np.array(ids)[:, None]
    batch = Batch(Inputs(keys, np.ones((n, 1), np.float32), labels[:, :0]), labels, mask, 7)

    def kept(part):
        one = Batch(
            Inputs(keys[part], np.ones((len(keys[part]), 1), np.float32), labels[part, :0]),
            labels[part], mask[part], 7,
        )  # fmt: skip
        taken = sampling.take(one, np.array(ids)[part])
        assert taken.mask.any(1).all() and taken.time_ms == 7
        return {int(k): tuple(m) for k, m in zip(taken.inputs.keys[:, 0], taken.mask, strict=True)}

    whole = kept(slice(None))
    assert whole == kept(slice(at)) | kept(slice(at, None))
    for key, label, there in zip(ids, batch.labels, batch.mask, strict=True):
        left = whole.get(key, (False,) * 3)
        assert left[1:] == tuple(there[1:])
        if label[0]:
            assert left[0] == there[0]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_the_share_is_what_was_asked_for(share):
    n = 200_000
    task = replace(TASKS[0], learnt_negatives=share)
    sampling = NegativeSampling(Schema((Field("user", "id"),), (task,), "user"))
    zeros = np.zeros((n, 1), np.float32)
    batch = Batch(Inputs(np.ones((n, 1), np.int64), zeros, zeros[:, :0]), zeros, zeros == 0)
    found = len(sampling.take(batch, np.arange(n))) / n
    assert found == pytest.approx(share, abs=5 * (share * (1 - share) / n) ** 0.5)


def test_predictions_are_as_of_all_and_a_replay_cut_short_ends_in_the_same_hash(tmp_path):
    learnt = [0, 0]

    def on_step(learner, step):
        if step.report is not None:
            learnt[0] += int(step.report.count.sum())
        learnt[1] += int(step.cut.batch.mask.sum())

    whole = Replay(SAMPLED, limit=ROWS, on_step=on_step).run()
    assert learnt[0] < 0.6 * learnt[1]
    every = Replay(ALL, limit=ROWS).run()
    assert whole is not None and every is not None
    for name, figures in whole["tasks"].items():
        other = every["tasks"][name]
        assert figures["count"] == other["count"]  # all are scored
        for of in ("served", "progressive"):
            assert 0.75 < figures[of]["calibration"] < 1.33  # uncorrected: 2.1 to 3.6
    stop = Event()

    def end(learner, step):
        if learner.trainer.steps == 30:
            stop.set()

    options = dict(limit=ROWS, checkpoints=tmp_path, checkpoint_every=10)
    assert Replay(SAMPLED, stop=stop, on_step=end, **options).run() is None
    went_on = Replay(SAMPLED, **options).run()
    assert went_on is not None and went_on["state_hash"] == whole["state_hash"]
    assert whole["state_hash"] != every["state_hash"]
