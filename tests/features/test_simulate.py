from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from features.simulate import TASKS, Change, Config, Shown, Simulation

GOLDEN_FIRST = ("i000000000", 1_700_000_000_000, 284, 4, 1299, 19, 5)
GOLDEN_FEEDBACK = 679  # of 1,000 impressions
PLANTED = (Change(10_000, "preference", "click"), Change(20_000, "label_rate", "click", to=0.5))


def columns(rows: list[Shown]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and slots of a stretch."""
    return tuple(np.array([(r.user_id, r.item_id, r.slot) for r in rows]).T)


def labels(rows: list[Shown], task: str) -> np.ndarray:
    """The value of a task's feedback, NaN where there is none."""
    return np.array([next((f.value for f in r.feedback if f.kind == task), np.nan) for r in rows])


@pytest.mark.parametrize("sizes", [[1] * 60, [7, 50, 3], [60]])
def test_the_stream_is_the_same_in_blocks_of_any_size(sizes: list[int]) -> None:
    config = Config(seed=3, changes=(Change(20, "preference"), Change(40, "label_rate", to=0.9)))
    stream = Simulation(config)
    blocks = [row for n in sizes for row in stream.next(n)]
    assert blocks == Simulation(config).between(0, 60)
    assert blocks[25:] == Simulation(config).between(25, 60)
    assert blocks == list(itertools.islice(iter(Simulation(config)), 60))


def test_another_seed_is_another_stream() -> None:
    one, two = (Simulation(Config(seed=seed)).next(200) for seed in (0, 1))
    assert [r.user_id for r in one] != [r.user_id for r in two]
    assert np.mean([a.item_id == b.item_id for a, b in zip(one, two, strict=True)]) < 0.1


def test_the_first_impressions_are_these() -> None:
    rows = Simulation(Config(seed=0)).next(1000)
    assert rows[0][:7] == GOLDEN_FIRST
    assert sum(len(r.feedback) for r in rows) == GOLDEN_FEEDBACK


def test_times_given_by_the_caller_move_times_and_slots_only() -> None:
    config = Config(rate_per_s=2000.0, slot_ms=1000)
    own = Simulation(config).next(50)
    live = Simulation(config).next(50, time_ms=[row.time_ms + 3_000 for row in own])
    assert [r.time_ms - o.time_ms for r, o in zip(live, own, strict=True)] == [3_000] * 50
    assert [r.slot for r in live] == [(o.slot + 3) % config.slots for o in own]
    assert [(r.id, r.user_id, r.item_id) for r in live] == [
        (o.id, o.user_id, o.item_id) for o in own
    ]


def test_users_answer_a_server_as_they_answer_the_stream() -> None:
    simulation = Simulation(Config(seed=5))
    rows = simulation.next(500)
    users, items, _ = columns(rows)
    times = np.array([r.time_ms for r in rows])
    assert simulation.respond(np.arange(500), users, items, times) == [r.feedback for r in rows]


def test_rates_are_those_of_the_config_before_and_after_a_change() -> None:
    simulation = Simulation(Config(seed=1, changes=PLANTED))
    for start, click in ((0, 0.3), (10_000, 0.3), (20_000, 0.5)):
        rows = simulation.between(start, start + 10_000)
        assert np.mean(~np.isnan(labels(rows, "click"))) == pytest.approx(click, abs=0.02)
        assert np.mean(~np.isnan(labels(rows, "like"))) == pytest.approx(0.1, abs=0.015)
        assert np.nanmean(labels(rows, "dwell")) == pytest.approx(2.0, abs=0.1)


def test_likes_and_dwell_follow_clicks_and_come_within_the_longest_delay() -> None:
    simulation = Simulation(Config(seed=2, pace=0.1))
    longest = dict.fromkeys(TASKS, 0)
    for row in simulation.next(20_000):
        kinds = [f.kind for f in row.feedback]
        assert kinds in ([], ["click", "dwell"], ["click", "like", "dwell"])
        for f in row.feedback:
            assert f.delay_ms > 0
            longest[f.kind] = max(longest[f.kind], f.delay_ms)
    for task in TASKS:
        assert 0.5 < longest[task] / simulation.longest_delay_ms[task] < 1.0


def test_labels_are_drawn_with_the_probabilities_of_the_truth() -> None:
    simulation = Simulation(Config(seed=4, changes=PLANTED))
    rows = simulation.next(40_000)
    users, items, slots = columns(rows)
    truth = simulation.truth(users, items, np.arange(40_000), slots)
    for task in ("click", "like"):
        hits = ~np.isnan(labels(rows, task))
        bins = np.digitize(truth[task], np.quantile(truth[task], np.linspace(0.1, 0.9, 9)))
        for b in range(10):
            error = 4 * np.sqrt(truth[task][bins == b].mean() / (bins == b).sum())
            assert hits[bins == b].mean() == pytest.approx(truth[task][bins == b].mean(), abs=error)


def test_the_oracle_is_the_truth_scored_by_scikit_learn() -> None:
    simulation = Simulation(Config(seed=0))
    rows = simulation.between(0, 5_000)
    users, items, slots = columns(rows)
    truth = simulation.truth(users, items, np.arange(5_000), slots)
    oracle = simulation.oracle(0, 5_000)
    for task in ("click", "like"):
        assert oracle[task] == pytest.approx(
            roc_auc_score(~np.isnan(labels(rows, task)), truth[task]), abs=1e-4
        )
        assert oracle[task] > 0.78
    assert oracle["dwell"] < np.nanstd(labels(rows, "dwell"))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plain_model_learns_it_from_what_is_visible(seed: int) -> None:
    """Smoothed click rates of (segment, category) and of items, from 20,000 impressions."""
    rows = Simulation(Config(seed=seed)).next(30_000)
    clicks = ~np.isnan(labels(rows, "click"))
    cell = np.array([r.segment_id * 100 + r.category_id for r in rows])
    item = np.array([r.item_id for r in rows])

    def logits(ids: np.ndarray) -> np.ndarray:
        hits, seen = (
            np.bincount(ids[:20_000], clicks[:20_000], 3000),
            np.bincount(ids[:20_000], None, 3000),
        )
        rate = (hits + 0.3 * 20) / (seen + 20)
        return np.log(rate / (1 - rate))[ids[20_000:]]

    assert roc_auc_score(clicks[20_000:], logits(cell) + logits(item)) > 0.7


def test_a_change_of_preference_costs_an_old_model_its_loss_and_moves_no_rate() -> None:
    simulation = Simulation(
        Config(seed=0, changes=(Change(10_000, "preference", "click", share=0.6),))
    )
    rows = simulation.next(20_000)
    users, items, slots = columns(rows)
    clicks = ~np.isnan(labels(rows, "click"))
    old = simulation.truth(users, items, 0, slots)["click"]
    loss = -np.log(np.where(clicks, old, 1 - old))
    assert loss[10_000:].mean() > loss[:10_000].mean() + 0.15
    new = simulation.truth(users, items, 10_000, slots)
    turned = {int(u) for u in users[np.abs(new["click"] - old) > 0.15]}
    assert 0.4 < len(turned) / 500 <= 0.6
    other = new["dwell"] - simulation.truth(users, items, 9_999, slots)["dwell"]
    np.testing.assert_allclose(other, other[0])  # the tastes of another task stay


def test_a_slot_of_the_day_moves_no_rate() -> None:
    simulation = Simulation(Config(seed=0, rate_per_s=1000.0, slot_ms=1000))
    rows = simulation.next(60_000)
    clicks, slots = ~np.isnan(labels(rows, "click")), columns(rows)[2]
    assert {int(s) for s in slots} == set(range(6))
    assert all(abs(clicks[slots == s].mean() - 0.3) < 0.02 for s in range(6))


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Change(5, "price"), "Change.kind is 'price'"),
        (lambda: Change(5, "preference", "buy"), "Change.task is 'buy'"),
        (lambda: Change(-1, "preference"), "Change.at is -1"),
        (lambda: Change(5, "preference", share=0.0), "Change.share is 0.0"),
        (lambda: Change(5, "label_rate", to=1.0), "Change.to is 1.0"),
        (lambda: Config(users=0), "Config.users is 0"),
        (lambda: Config(rate_per_s=0.0), "Config.rate_per_s is 0.0"),
        (lambda: Config(rates=(0.1, 0.3, 2.0)), "Config.rates is"),
        (lambda: Simulation().next(2, time_ms=[1]), "time_ms has shape"),
        (lambda: Simulation().truth(0, 1, 0), "users has 0 to 0"),
    ],
)
def test_a_wrong_setting_is_named(build, named: str) -> None:
    with pytest.raises(ValueError, match=named.replace("(", r"\(")):
        build()
