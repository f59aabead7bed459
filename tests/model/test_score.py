from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from model.score import Scorer
from model.structure import NetworkConfig


@pytest.mark.parametrize("network", [NetworkConfig(), NetworkConfig(products=(("user", "seen"),))])
def test_a_scorer_gives_the_trainers_own_bits(
    small: SimpleNamespace, network: NetworkConfig
) -> None:
    model = small.trainer(network=network)
    for seed in range(20):
        model.step(small.batch(seed))
    arrays, meta = model.snapshot()
    scorer = Scorer(arrays, json.loads(json.dumps(meta)))
    inputs = small.batch(50, 150, ids=80).inputs
    expected = model.predict(inputs)
    assert (scorer.predict(inputs) == expected).all()
    for seed in range(20, 25):
        model.step(small.batch(seed))
    assert (scorer.predict(inputs) == expected).all()
    assert meta["step"] == 20


def test_a_snapshot_is_the_same_whatever_order_the_ids_came_in(small: SimpleNamespace) -> None:
    """Row numbers leave no trace: a model loaded from state has others than the one that learnt."""
    model, other = small.trainer(), small.trainer()
    for seed in range(10):
        model.step(small.batch(seed))
    other.load(model.state())
    for one, two in zip(model.snapshot()[0].items(), other.snapshot()[0].items(), strict=True):
        assert one[0] == two[0] and np.array_equal(one[1], two[1])


def test_another_format_is_refused(small: SimpleNamespace) -> None:
    arrays, meta = small.trainer().snapshot()
    with pytest.raises(ValueError, match=r"meta\.format is 2"):
        Scorer(arrays, {**meta, "format": 2})
