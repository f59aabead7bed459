"""The five hard parts are measured as they say, and measuring changes nothing that is learnt."""

from __future__ import annotations

import numpy as np
import pytest

from model.surrogate import Surrogate
from streaming import hard_parts
from streaming.__main__ import load_application
from streaming.replay import Replay

ROWS = 3_000


@pytest.fixture(scope="module")
def report():
    return Replay(load_application("simulated"), limit=ROWS).run()


def test_looking_changes_nothing_that_is_learnt(report, monkeypatch):
    monkeypatch.setattr(hard_parts, "EVERY", 10**9)
    unseen = Replay(load_application("simulated"), limit=ROWS).run()
    assert unseen["state_hash"] == report["state_hash"]
    assert not set(unseen["hard_parts"]["over_fitting"]) - {"remedy"}


def test_each_part_has_its_figures_and_its_remedy(report):
    parts = report["hard_parts"]
    assert list(parts) == ["conflict", "imbalance", "cost", "over_fitting", "opacity"]
    assert all(part["remedy"] for part in parts.values())
    shares = [v for k, v in parts["conflict"].items() if k != "remedy"]
    assert len(shares) == 3 and all(0 <= share <= 1 for share in shares)
    assert parts["over_fitting"]["click"] > 0  # a step lowers the loss of its own batch
    assert parts["cost"]["times_one_task"] > 1
    of = parts["imbalance"]["click"]
    p, n = of["positives"], of["labels"] - of["positives"]
    assert of["effective"] == pytest.approx(1 / (1 / p + 1 / n))
    assert of["labels"] == report["tasks"]["click"]["count"]
    assert set(parts["imbalance"]["dwell"]) == {"labels"}


def test_they_go_on_from_a_checkpoint(report, tmp_path):
    class Killed(Exception):
        pass

    def die(learner, step):
        if learner.examples > ROWS // 2:
            raise Killed

    app = load_application("simulated")
    with pytest.raises(Killed):
        Replay(app, limit=ROWS, checkpoints=tmp_path, checkpoint_every=10, on_step=die).run()
    again = Replay(app, limit=ROWS, checkpoints=tmp_path, checkpoint_every=10).run()
    assert again["hard_parts"] == report["hard_parts"]


def test_a_surrogate_explains_what_is_linear_and_nothing_of_noise():
    draw = np.random.default_rng(0)
    surrogate = Surrogate(4, 3)
    for _ in range(60):
        x = draw.normal(size=(64, 4))
        noise = draw.normal(size=64)
        surrogate.update(x, np.stack([x @ [1, -2, 0, 3] + 5, noise, np.ones(64)], 1))
    linear, random, constant = surrogate.fidelity()
    assert linear > 0.99 and abs(random) < 0.05 and np.isnan(constant)
    other = Surrogate(4, 3)
    other.load(surrogate.state())
    x = draw.normal(size=(64, 4))
    for each in (surrogate, other):
        each.update(x, np.repeat(x[:, :1], 3, 1))
    assert np.array_equal(surrogate.fidelity(), other.fidelity(), equal_nan=True)
