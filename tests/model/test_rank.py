"""Candidates of one request, scored together, against the predictor that scores each by itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model import rank
from model.batch import Inputs
from model.rank import MOST_SPLITS, Ranker
from model.score import Scorer
from model.structure import NetworkConfig


def learned(small: SimpleNamespace, network: NetworkConfig) -> Scorer:
    model = small.trainer(network=network)
    for seed in range(20):
        model.step(small.batch(seed))
    return Scorer(*model.snapshot())


def of_one_user(inputs: Inputs, slots: list[int], columns: int) -> Inputs:
    """These slots and the first dense columns, the same in all rows."""
    inputs.keys[:, slots], inputs.weights[:, slots] = (
        inputs.keys[0, slots],
        inputs.weights[0, slots],
    )
    inputs.dense[:, :columns] = inputs.dense[0, :columns]
    return inputs


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(),
        NetworkConfig(crossed=(), products=(("user", "seen"), ("item", "seen"))),
        NetworkConfig(cross=0, experts=6, fm=True),
        NetworkConfig(cross=2, norm=True, residual=1),
        NetworkConfig("shared_bottom"),
        NetworkConfig("ple"),
        NetworkConfig("single_task"),
        NetworkConfig(attention=("seen",)),
    ],
)
@pytest.mark.parametrize("onednn", [True, False])
def test_candidates_score_as_each_by_itself(
    small: SimpleNamespace, network: NetworkConfig, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "_ONEDNN", onednn and rank._ONEDNN)
    scorer = learned(small, network)
    for n, slots, columns in ((130, [0, 2, 3, 4, 5], 2), (65, [0, 3], 0), (7, [], 3), (1, [], 0)):
        inputs = of_one_user(small.batch(50, n, ids=80).inputs, slots, columns)
        expected = scorer.predict(inputs)
        assert scorer.rank(inputs) == pytest.approx(expected, rel=2e-5, abs=2e-6)
    same = of_one_user(small.batch(50, 3).inputs, list(range(6)), 3)
    assert (scorer.rank(same) == scorer.rank(same)[0]).all()


def test_what_is_no_number_stays_with_its_candidate(small: SimpleNamespace) -> None:
    scorer = learned(small, NetworkConfig())
    inputs = of_one_user(small.batch(50, 9).inputs, [0], 3)
    inputs.dense[4, 1] = np.nan
    bad = ~np.isfinite(scorer.rank(inputs)).all(1)
    assert bad.tolist() == [n == 4 for n in range(9)]


def test_weights_are_kept_for_so_many_ways_of_sharing(small: SimpleNamespace) -> None:
    scorer = learned(small, NetworkConfig())
    ranker: Ranker = scorer._ranker
    for number in range(MOST_SPLITS + 8):
        alike = [c for c in range(6) if number >> c & 1]
        scorer.rank(of_one_user(small.batch(1, 5).inputs, alike, 0))
        assert len(ranker._splits) <= MOST_SPLITS


def test_gradients_are_none_of_its_business(small: SimpleNamespace) -> None:
    scorer = learned(small, NetworkConfig())
    with torch.enable_grad():
        scorer.rank(small.batch(1, 5).inputs)
    assert all(p.grad is None for p in scorer._predictor.network.parameters())
