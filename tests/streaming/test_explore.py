"""Exploration: the chances are what they are said to be, and what is unknown is shown more."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from shop import APP, NOW, SCHEMA, Shop, request

from features.events import IMPRESSIONS
from features.windows import Windows
from model.batch import Batch, Inputs
from model.score import Scorer
from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.explore import Explore, Thompson, epsilon_greedy


def test_epsilons_propensities_are_the_shares_of_what_it_shows() -> None:
    draw, scores = np.random.default_rng(0), np.array([0.1, 0.9, 0.5, 0.3])
    first: Counter[int] = Counter()
    said: dict[int, float] = {}
    for _ in range(20_000):
        rows, propensity = epsilon_greedy(scores, 2, 0.2, draw)
        first[rows[0]] += 1
        said[rows[0]] = propensity[0]
        assert len(set(rows)) == 2
    assert said == pytest.approx({1: 0.85, 0: 0.05, 2: 0.05, 3: 0.05})
    for row, chance in said.items():
        assert first[row] / 20_000 == pytest.approx(chance, abs=0.01)
    assert sorted(epsilon_greedy(scores, 9, 1.0, draw).rows) == [0, 1, 2, 3]


def test_thompson_draws_less_far_where_more_was_shown() -> None:
    scorer = Scorer(
        *Trainer(SCHEMA, Windows(SCHEMA, APP.aggregates).layout, APP.trainer, seed=0).snapshot()
    )
    thompson = Thompson(SCHEMA, Explore("thompson"), seed=0)
    draw = np.random.default_rng(0)
    hidden = np.zeros((3, 2, 8), np.float32)
    hidden[:, 0, :4], hidden[:, 1, 4:] = draw.random((2, 3, 4))
    predicted = np.array([[0.3, 0.4, 2.0], [0.3, 0.4, 2.0]], np.float32)
    before = thompson.drawn(scorer, predicted, hidden, 2_000)
    assert before.shape == (2_000, 2, 3)
    assert np.median(before[:, :, 0], 0) == pytest.approx([0.3, 0.3], abs=0.03)
    for _ in range(200):
        thompson.shown(predicted[:1], hidden[:, :1])
    after = thompson.drawn(scorer, predicted, hidden, 2_000).std(0)
    assert (after[0] < 0.3 * before.std(0)[0]).all()
    assert after[1] == pytest.approx(before.std(0)[1], rel=0.1)


@pytest.mark.parametrize("bad", [1e6, 1e30, np.inf, np.nan])
def test_thompson_goes_on_whatever_was_shown(bad: float) -> None:
    scorer = Scorer(
        *Trainer(SCHEMA, Windows(SCHEMA, APP.aggregates).layout, APP.trainer, seed=0).snapshot()
    )
    thompson = Thompson(SCHEMA, Explore("thompson"), seed=0)
    draw = np.random.default_rng(0)
    hidden = draw.random((3, 5, 8)).astype(np.float32)
    predicted = np.full((5, 3), 0.3, np.float32)
    thompson.drawn(scorer, predicted, hidden, 1)
    for _ in range(20):
        thompson.shown(predicted, hidden * draw.random((3, 5, 8), np.float32) * np.float32(bad))
    thompson.shown(predicted * np.float32(np.nan), hidden)
    assert np.isfinite(thompson.drawn(scorer, predicted, hidden, 100)).all()


def publish_learned(shop: Shop) -> None:
    """A version that has learned that what is dear is clicked."""
    layout, draw = Windows(SCHEMA, APP.aggregates).layout, np.random.default_rng(0)
    trainer = Trainer(SCHEMA, layout, APP.trainer, seed=0)
    for _ in range(60):
        keys = draw.integers(1, 50, (64, layout.slots))
        dense = np.zeros((64, len(layout.dense)), np.float32)
        dense[:, 0] = draw.uniform(0, 10, 64)
        labels = np.repeat((dense[:, :1] > 5).astype(np.float32), 3, 1)
        inputs = Inputs(keys, np.ones(keys.shape, np.float32), dense)
        trainer.step(Batch(inputs, labels, np.ones(labels.shape, bool)))
    shop.registry.publish(encode(Snapshot(60, *trainer.snapshot())), 60, 1, {})
    shop.until(shop.server.version)


@pytest.mark.parametrize("kind", ["epsilon", "thompson"])
def test_propensities_are_told_and_logged(kind: str) -> None:
    shop = Shop(app=replace(APP, explore=Explore(kind, epsilon=0.5)))
    try:
        publish_learned(shop)
        shown: dict[Any, float] = {}
        orders = set()
        for _ in range(20):
            answer = shop.http.post("/v1/rank", json=request(20, k=5)).json()["impressions"]
            shown |= {i["id"]: i["propensity"] for i in answer}
            orders.add(tuple(i["item"] for i in answer))
        reader = shop.log.reader()
        values = [v for p in range(2) for v in reader.read(IMPRESSIONS, p).values]
        _, bad = shop.server.codec.decode(
            IMPRESSIONS, 0, range(len(values)), [NOW] * len(values), values
        )
    finally:
        shop.close()
    logged = {e["id"]: e["features"].get("propensity", 1.0) for e in map(json.loads, values)}
    assert not bad and logged == shown and len(shown) == 100
    assert all(0 < chance <= 1 for chance in shown.values()) and len(set(shown.values())) > 1
    assert len(orders) > 3


def test_an_unseen_user_and_item_score_by_their_other_fields(shop: Shop) -> None:
    publish_learned(shop)
    prices = {"price": [1.0, 4.0, 9.0]}
    body = request(3, user="never seen", candidates=["a", "b", "c"], candidate_fields=prices)
    answer = shop.http.post("/v1/rank", json=body).json()["impressions"]
    assert [i["item"] for i in answer] == ["c", "b", "a"]  # alike but for their price
    assert answer[0]["scores"]["click"] > 0.7 > 0.3 > answer[2]["scores"]["click"]


@pytest.fixture
def shop() -> Any:
    shop = Shop()
    yield shop
    shop.close()


def test_settings_that_explore_nothing_are_refused() -> None:
    for wrong in ({"kind": "epsilons"}, {"epsilon": 0.0}, {"spread": 0.0}, {"impressions": 0}):
        with pytest.raises(ValueError, match=f"Explore.{next(iter(wrong))} is"):
            Explore(**wrong)  # type: ignore[arg-type]
