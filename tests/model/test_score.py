from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.embedding import EmbeddingConfig
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


LIMITED = EmbeddingConfig(8, admit_after=2, capacity=60, max_age_ms=900)


def test_deltas_lead_to_the_trainers_own_bits_and_to_the_content_it_says(
    small: SimpleNamespace,
) -> None:
    """Whatever is learned between them, lost on the way, or gone on from: rows come and go."""

    @given(st.lists(st.sampled_from(["learn", "learn", "tell", "lose", "reload"]), max_size=25))
    @settings(max_examples=25)
    def check(doings: list[str]) -> None:
        model = small.trainer(embedding=LIMITED)
        scorer = Scorer(*model.version(whole=True)[:2])
        model.told()
        inputs = small.batch(99, 30, ids=200).inputs
        for number, doing in enumerate(doings):
            if doing == "learn":
                model.step(replace(small.batch(number, ids=200), time_ms=100 * number))
                continue
            other = small.trainer(embedding=LIMITED)
            other.load(model.state())
            if doing == "reload":
                model = other
                continue
            told = model.version(whole=False)
            assert told.content == other.version(whole=True).content
            if doing == "tell":
                model.told()
                (scorer.load if told.whole else scorer.apply)(told.arrays, told.meta)
                for one in (scorer, scorer.copy()):
                    assert one.content == told.content
                    assert (one.predict(inputs) == model.predict(inputs)).all()

    check()


def test_a_delta_is_as_large_as_what_changed(small: SimpleNamespace) -> None:
    model = small.trainer()
    for seed in range(20):
        model.step(small.batch(seed, ids=2_000))
    all_of_it = model.version(whole=True).arrays["embedding/keys"]
    model.told()
    model.step(small.batch(20, 4, ids=2_000))
    told = model.version(whole=False)
    assert not told.whole and len(told.arrays["embedding/keys"]) < 30 < len(all_of_it)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embedding/rows": np.zeros((3, 2), np.float32)}, "embedding/rows are"),
        ({"embedding/keys": np.zeros(3, np.int32)}, "embedding/keys are int32"),
        ({"embedding/gone": np.zeros(3, np.int32)}, "embedding/gone: expected int64"),
    ],
)
def test_a_delta_of_another_shape_is_refused(small: SimpleNamespace, change, says) -> None:
    model = small.trainer()
    scorer = Scorer(*model.version(whole=True)[:2])
    model.told()
    model.step(small.batch(0))
    arrays, meta, *_ = model.version(whole=False)
    with pytest.raises(ValueError, match=says):
        scorer.apply(arrays | change, meta)


def test_another_format_is_refused(small: SimpleNamespace) -> None:
    arrays, meta = small.trainer().snapshot()
    with pytest.raises(ValueError, match=r"meta\.format is 2"):
        Scorer(arrays, {**meta, "format": 2})
