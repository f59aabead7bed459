from __future__ import annotations

import json
import math

import numpy as np
import pytest

from streaming.bench.drift_alarms import replicates
from streaming.detectors import DETECTORS, Rivers, detectors
from streaming.drift import SIGNALS, DriftEvent, DriftMonitor, Key
from streaming.drift_kernels import INCREASE

BATCH = 64
Batches = list[dict[tuple[str, str], tuple[float, int]]]


def log_odds(p: float | np.ndarray) -> np.ndarray:
    return np.log(p / (1.0 - np.asarray(p)))


def binary(
    seed: int,
    examples: int,
    rate: float = 0.3,
    *,
    task: str = "click",
    to: tuple[int, float] | None = None,
    turned: tuple[int, float] | None = None,
    learning: float = 0.0,
    wander: float = 0.0,
) -> Batches:
    """Signals of a calibrated model of a binary task.

    `to`: from this example on the rate is that. `turned`: from this example on this share of users
    wants the opposite. `learning`: examples over which the model comes to know what it can.
    `wander`: standard deviation of a level (log odds) that lasts for about 640 examples.
    """
    r = np.random.default_rng(seed)
    taste = r.normal(size=examples) * 1.3
    index = np.arange(examples)
    level = np.full(examples, float(log_odds(rate)))
    if to is not None:
        level = np.where(index >= to[0], log_odds(to[1]), level)
    if wander:
        noise, step = r.normal(size=examples // BATCH + 1), 0.0
        steps = [step := 0.9 * step + math.sqrt(0.19) * n for n in noise]
        level = level + wander * np.repeat(steps, BATCH)[:examples]
    known = 1.0 - 0.9 * np.exp(-index / learning) if learning else np.ones(examples)
    wants = taste.copy()
    if turned is not None:
        wants[(index >= turned[0]) & (r.random(examples) < turned[1])] *= -1.0
    seen = known * taste
    rest = np.sqrt(
        1.69 * (1.0 - known**2)
    )  # what the model cannot see, as a smoothing of its logit
    p = 1.0 / (1.0 + np.exp(-(level + wants)))
    shrink = np.sqrt(1.0 + np.pi * rest**2 / 8.0)
    q = 1.0 / (1.0 + np.exp(-(log_odds(rate) + seen) / shrink))
    y = (r.random(examples) < p).astype(float)
    loss = -np.log(np.where(y > 0, q, 1.0 - q))
    whole = examples // BATCH * BATCH
    means = [v[:whole].reshape(-1, BATCH).mean(1).tolist() for v in (loss, q - y, y)]
    return [
        {(task, s): (v, BATCH) for s, v in zip(SIGNALS, row, strict=True)}
        for row in zip(*means, strict=True)
    ]


def watch(batches: Batches, monitor: DriftMonitor | None = None) -> list[DriftEvent]:
    monitor = monitor or DriftMonitor(["click"])
    events = []
    for i, signals in enumerate(batches):
        events += monitor.update(signals, (i + 1) * BATCH, i * 1_000)
    return events


def kept(monitor: DriftMonitor, signal: str) -> list[float]:
    return monitor.blocks.of(monitor.keys.index(Key("click", signal))).tolist()


def constant(signal: str, means: list[float], count: int = 256) -> Batches:
    return [{("click", signal): (mean, count)} for mean in means]


@pytest.mark.parametrize("seed", range(6))
def test_a_moved_label_rate_is_seen_within_3000_examples(seed: int) -> None:
    events = watch(binary(seed, 40_000, to=(25_000, 0.5)))
    event = next(e for e in events if e.signal == "label_rate")
    assert 25_000 < event.example < 28_000
    assert abs(event.began_example - 25_000) <= 512
    assert event.direction == "up"
    assert event.before == pytest.approx(0.35, abs=0.02) and event.after > 0.45
    assert all(e.example > 25_000 for e in events)


@pytest.mark.parametrize("seed", range(6))
def test_turned_preferences_are_seen_in_the_loss_within_3000_examples(seed: int) -> None:
    events = watch(binary(seed, 40_000, turned=(25_000, 0.35)))
    assert [(e.signal, e.direction) for e in events][:1] == [("loss", "up")]
    assert 25_000 < events[0].example < 28_000
    assert events[0].before < 0.56 and events[0].after > 0.62


@pytest.mark.parametrize("seed", range(4))
def test_a_stationary_stream_has_at_most_one_event_in_200_000_examples(seed: int) -> None:
    streams = (
        binary(seed, 200_000, 0.3, task="a"),
        binary(seed + 100, 200_000, 0.02, task="b"),
        binary(seed + 200, 200_000, 0.3, task="c", learning=30_000),
        binary(seed + 300, 200_000, 0.1, task="d", wander=0.12),
    )
    together = [a | b | c | d for a, b, c, d in zip(*streams, strict=True)]
    assert len(watch(together, DriftMonitor(["a", "b", "c", "d"]))) <= 1


def of_replicates(
    detector: str, correlation: float, *, count: int, batches: int, rise: float = 0.0
) -> tuple[list[DriftEvent], float]:
    """Events of 32 streams as of `freshet bench alarms`, and how many false ones are allowed."""
    streams, config = 32, DriftMonitor.Config(detector=detector)
    events = replicates(config, streams, correlation, count, batches, rise)
    return events, streams * batches * count / config.budget


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_stays_within_its_budget_and_sees_a_change(detector: str) -> None:
    """Without `evidence.asked`, KSWIN and the DDM family raise several times as many."""
    batches = 600 if detector == "kswin" else 4_000
    events, allowed = of_replicates(detector, 0.0, count=64, batches=batches)
    assert len(events) <= allowed
    events, _ = of_replicates(detector, 0.0, count=64, batches=batches, rise=1.5)
    true = {e.task for e in events if e.began_example > 63 * batches / 2}
    assert len(true) >= (20 if detector == "ddm" else 28)  # DDM's limit is wide


@pytest.mark.parametrize("detector", ["page_hinkley", "adwin"])
def test_a_strongly_correlated_stationary_signal_stays_within_its_budget(detector: str) -> None:
    """With blocks as long as at first ADWIN raises four times as many (`evidence.dependent`)."""
    events, allowed = of_replicates(detector, 0.95, count=256, batches=8_000)
    assert len(events) <= allowed / 2


def test_page_hinkley_in_columns_is_rivers_bit_for_bit() -> None:
    config, r = DriftMonitor.Config(allowance=0.3, threshold=8.0), np.random.default_rng(0)
    ours, rivers = detectors(3, config), Rivers(3, config)
    places, alarms = np.arange(3), 0
    for place in places:
        z = r.normal(size=20)
        ours.begin(place, z)
        rivers.begin(place, z)
    for _ in range(2_000):
        z = r.normal(size=3)
        found = ours.update(places, z)
        assert (found == rivers.update(places, z)).all()
        alarms += found.sum()
    assert alarms >= 10
    one = rivers._detectors[0]
    assert ours._states[0, INCREASE] == one._sum_increase


def test_a_changes_size_comes_with_its_interval_and_its_place() -> None:
    events, _ = of_replicates("adwin", 0.0, count=64, batches=4_000, rise=1.5)
    first = [e for e in {e.task: e for e in reversed(events)}.values() if e.segment == ""]
    assert sum(e.low <= 1.5 <= e.high for e in first) >= 0.8 * len(first)
    assert all(e.high - e.low < 2 for e in first)
    assert np.median([abs(e.began_example - 128_000) for e in first]) <= 256


def test_the_model_learning_is_no_drift() -> None:
    noise = np.random.default_rng(0).normal(size=120) * 0.01
    fall = [0.7 if i < 60 else 0.4 for i in range(120)]
    rise = fall[::-1]
    toward_zero = [0.3 if i < 60 else 0.0 for i in range(120)]
    config = DriftMonitor.Config(warm_up=0)
    for signal, means, expected in (
        ("loss", fall, []),
        ("loss", rise, ["up"]),
        ("calibration", toward_zero, []),
        ("calibration", toward_zero[::-1], ["up"]),
        ("calibration", [-m for m in toward_zero[::-1]], ["down"]),
        ("label_rate", fall, ["down"]),
    ):
        events = watch(
            constant(signal, [m + n for m, n in zip(means, noise, strict=True)]),
            DriftMonitor(["click"], config),
        )
        assert [e.direction for e in events] == expected, (signal, expected)


def test_nothing_is_seen_in_the_warm_up() -> None:
    noise = np.random.default_rng(1).normal(size=200) * 0.01
    means = [(0.2 if i < 40 else 0.9) + n for i, n in enumerate(noise)]

    def seen(warm_up: int) -> int:
        config = DriftMonitor.Config(warm_up=warm_up)
        return len(watch(constant("loss", means), DriftMonitor(["click"], config)))

    assert (seen(0), seen(45 * BATCH)) == (1, 0)


def levels(*steps: tuple[int, float], spread: float = 0.01) -> list[float]:
    """Values around each level, for so many batches."""
    means = [level for n, level in steps for _ in range(n)]
    noise = np.random.default_rng(2).normal(size=len(means)) * spread
    return [m + n for m, n in zip(means, noise, strict=True)]


def test_a_signal_rests_for_the_cool_down_after_its_event() -> None:
    batches = constant("label_rate", levels((50, 0.2), (20, 0.9), (50, 0.2)))

    def seen(cool_down: int) -> list[int]:
        config = DriftMonitor.Config(warm_up=0, cool_down=cool_down)
        return [e.began_example for e in watch(batches, DriftMonitor(["click"], config))]

    assert seen(0) == [50 * BATCH, 70 * BATCH]
    assert seen(30 * BATCH) == [50 * BATCH]


def test_a_loss_that_fell_is_the_new_measure_of_a_rise() -> None:
    batches = constant("loss", levels((60, 0.7), (40, 0.4), (20, 0.6)))
    config = DriftMonitor.Config(warm_up=0)
    (event,) = watch(batches, DriftMonitor(["click"], config))
    assert event.began_example == 100 * BATCH
    assert event.before == pytest.approx(0.4, abs=0.01)
    assert event.after == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("better", [4, 6, 8, 16])
def test_a_change_soon_after_one_for_the_better_is_seen(better: int) -> None:
    """After so few values of 256 labels there is nothing yet to tell the spread by."""
    batches = constant("loss", levels((60, 0.7), (better, 0.6), (20, 0.68)))
    config = DriftMonitor.Config(warm_up=0)
    (event,) = watch(batches, DriftMonitor(["click"], config))
    assert event.direction == "up"
    assert event.began_example == (60 + better) * BATCH
    assert event.before == pytest.approx(0.6, abs=0.01)
    assert event.after == pytest.approx(0.68, abs=0.01)


def test_a_change_too_large_to_move_values_by_leaves_none_that_is_not_finite() -> None:
    batches = constant("loss", [*levels((20, 0.7)), *[-1e308] * 8], count=1)
    monitor = DriftMonitor(["click"], DriftMonitor.Config(warm_up=0, block=1))
    with np.errstate(over="ignore", invalid="ignore"):
        assert watch(batches, monitor) == []
    assert set(kept(monitor, "loss")) == {-1e308}


def test_the_first_positives_of_a_task_that_had_none_are_seen() -> None:
    batches = constant("label_rate", levels((40, 0.0), (20, 0.2), spread=0.0))
    (event,) = watch(batches, DriftMonitor(["click"], DriftMonitor.Config(warm_up=0)))
    assert (event.direction, event.before, event.after) == ("up", 0.0, pytest.approx(0.2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_mean_that_is_not_finite_changes_nothing(bad: float) -> None:
    batches = binary(3, 40_000, to=(25_000, 0.5))
    expected = watch(batches)
    monitor = DriftMonitor(["click"])
    events = []
    for i, signals in enumerate(batches):
        poisoned = {key: (bad, BATCH) for key in signals}
        empty = {key: (0.5, 0) for key in signals}
        example = i * BATCH  # before this batch: the place of the next value stays
        assert monitor.update(poisoned, example, 0) == monitor.update(empty, example, 0) == []
        events += monitor.update(signals, (i + 1) * BATCH, i * 1_000)
    assert events == expected and expected


def test_an_overflow_or_one_wild_block_is_no_drift() -> None:
    noise = np.random.default_rng(4).normal(size=200) * 0.01
    means = [0.5 + n for n in noise]
    means[180], means[150] = 1e308, 1e6
    config = DriftMonitor.Config(warm_up=0)
    monitor = DriftMonitor(["click"], config)
    assert watch(constant("loss", means), monitor) == []
    assert np.isfinite(kept(monitor, "loss")).all()


def test_batches_of_few_labels_make_one_value_weighted_by_label() -> None:
    monitor = DriftMonitor(["click"], DriftMonitor.Config(warm_up=0, block=100))
    for i, (mean, count) in enumerate([(1.0, 30), (0.0, 60), (0.5, 20), (0.2, 99)]):
        monitor.update({("click", "loss"): (mean, count)}, (i + 1) * BATCH, 0)
    assert kept(monitor, "loss") == [pytest.approx((30 + 10) / 110)]
    state = monitor.state()["blocks"]
    assert state["begins"].tolist() == [0]
    assert (state["count"][0], state["began"][0]) == (99, 3 * BATCH)


def test_interrupted_anywhere_it_sees_the_same_events() -> None:
    """At every batch the state goes through JSON into a new monitor; small `keep`: it forgets."""
    config = DriftMonitor.Config(block=128, warm_up=1_000, cool_down=1_500, keep=20)
    batches = binary(5, 30_000, to=(12_000, 0.5), turned=(20_000, 0.6))
    whole = DriftMonitor(["click"], config)
    expected = watch(batches, whole)
    assert len({e.signal for e in expected}) >= 2
    events, state = [], DriftMonitor(["click"], config).state()
    for i, signals in enumerate(batches):
        monitor = DriftMonitor(["click"], config)
        monitor.load(through_json(state))
        events += monitor.update(signals, (i + 1) * BATCH, i * 1_000)
        state = monitor.state()
    assert events == expected
    np.testing.assert_equal(state, whole.state())


def through_json(state: dict) -> dict:
    return json.loads(json.dumps(state, default=np.ndarray.tolist))


def test_the_state_does_not_grow() -> None:
    monitor = DriftMonitor(["click"])
    watch(binary(6, 60_000), monitor)
    most = 2 * monitor.config.keep
    assert all(len(kept(monitor, s)) < most for s in SIGNALS)


def test_the_order_of_the_signals_does_not_matter() -> None:
    batches = [
        a | b
        for a, b in zip(
            binary(7, 30_000, to=(15_000, 0.6), task="a"),
            binary(8, 30_000, to=(15_000, 0.6), task="b"),
            strict=True,
        )
    ]
    turned = [dict(reversed(signals.items())) for signals in batches]
    events = watch(batches, DriftMonitor(["a", "b"]))
    assert events == watch(turned, DriftMonitor(["a", "b"]))
    assert {e.task for e in events} == {"a", "b"}


def test_an_event_is_a_plain_row() -> None:
    event = DriftEvent("click", "loss", "up", 0.5, 0.7, 100, 300, 7)
    assert DriftEvent(**json.loads(json.dumps(event.as_dict()))) == event


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: DriftMonitor.Config(block=0), "block is 0"),
        (lambda: DriftMonitor.Config(reference=3), "reference is 3"),
        (lambda: DriftMonitor.Config(threshold=0.0), "threshold is 0.0"),
        (lambda: DriftMonitor.Config(allowance=math.nan), "allowance is nan"),
        (lambda: DriftMonitor.Config(keep=5), "keep is 5"),
        (lambda: DriftMonitor.Config(detector="adwyn"), "did you mean 'adwin'"),
        (lambda: DriftMonitor.Config(confidence=1.0), "confidence is 1.0"),
        (lambda: DriftMonitor.Config(budget=0), "budget is 0"),
        (lambda: DriftMonitor.Config(evidence=math.inf), "evidence is inf"),
        (lambda: DriftMonitor(["a"]).update({("b", "loss"): (0.1, 1)}, 1, 0), "signals has b/loss"),
        (lambda: DriftMonitor(["a"]).load(DriftMonitor(["b"]).state()), "the state is of tasks"),
    ],
)
def test_a_wrong_setting_is_named(build, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build()


def test_what_is_blind_is_listed_and_raises_nothing() -> None:
    hour, r = 3_600_000, np.random.default_rng(0)
    monitor = DriftMonitor(["fine", "still", "bad", "one", "gone", "none"])
    for i in range(400):
        noise = float(r.normal() * 0.01)
        signals = {
            **{("fine", s): (0.3 + noise, BATCH) for s in SIGNALS},
            **{("still", s): (0.25, BATCH) for s in SIGNALS},
            **{("bad", s): (math.nan, BATCH) for s in SIGNALS},
            **{("one", s): (1.0, BATCH) for s in SIGNALS},
        }
        if i < 200:
            signals |= {("gone", s): (0.3 + noise, BATCH) for s in SIGNALS}
        assert monitor.update(signals, (i + 1) * BATCH, i * hour // 150) == []
    why = {(b.task, b.signal): b.why for b in monitor.blind()}
    assert not any(task == "fine" for task, _ in why)
    assert {why["still", s] for s in SIGNALS} == {"constant"}
    assert {why["bad", s] for s in SIGNALS} == {"not finite"}
    assert why["one", "label_rate"] == "one-sided"
    assert {why["gone", s] for s in SIGNALS} == {"silent"}
    assert {why["none", s] for s in SIGNALS} == {"never came"}
    fresh = DriftMonitor(["fine"])
    assert fresh.blind() == []
