"""Signals against plain Python and scikit-learn, and what drift looks like in them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from model.batch import Bag, Batch, Inputs, Layout
from model.embedding import Embedding, EmbeddingConfig
from model.idmap import table_keys, table_salt
from model.optim import RowOptimiser
from model.schema import Field, Schema, Task
from streaming.application import Application
from streaming.drift import KINDS, DriftEvent, DriftMonitor, Key
from streaming.signals import SAMPLE, Signals

SCHEMA = Schema(
    (Field("user", "id"), Field("country", "id"), Field("tags", "ids", 2), Field("price", "dense")),
    (
        Task("click", "binary", 0),
        Task("dwell", "regression", 0),
        Task("next", "multiclass", 0, classes=3),
    ),
    "user",
)  # fmt: skip
LAYOUT = Layout(
    (Bag("user", "user"), Bag("country", "country"), Bag("tags", "tags", 2)), ("price",)
)
EVERYTHING = DriftMonitor.Config(signals=KINDS, segment="country", segments=3, warm_up=0)
N = 64


class Stream:
    """Batches of N: a calibrated click of rate .3, three countries, a price around 5."""

    def __init__(self, seed: int = 0) -> None:
        self.r = np.random.default_rng(seed)

    def batch(
        self, country: np.ndarray | None = None, price: float = 5.0, rate: float = 0.3,
        of_third: float | None = None,
    ) -> tuple[Batch, np.ndarray]:  # fmt: skip
        r = self.r
        country = r.choice(3, N, p=(0.5, 0.3, 0.2)) if country is None else country
        columns = [
            table_keys(table_salt(name), ids.astype(np.int64))
            for name, ids in (
                ("user", r.integers(0, 9, N)), ("country", country), ("tags", r.integers(0, 5, N)),
            )
        ]  # fmt: skip
        keys = np.column_stack([*columns, np.zeros(N, np.int64)])
        dense = r.normal(price, 1, (N, 1)).astype(np.float32)
        p = 1 / (1 + np.exp(-(r.normal(size=N) + np.log(rate / (1 - rate)))))
        y = r.random(N) < p
        if of_third is not None:
            y = np.where(country == 2, r.random(N) < of_third, y)
        labels = np.column_stack([y, r.normal(3, 1, N), r.integers(0, 3, N)]).astype(np.float32)
        mask = np.column_stack([np.ones(N), y, r.random(N) < 0.5]).astype(bool)
        served = np.column_stack([p, np.full(N, 3.0), np.full((N, 3), 1 / 3)]).astype(np.float32)
        return Batch(Inputs(keys, np.ones(keys.shape, np.float32), dense), labels, mask), served


def test_sums_and_counts_are_those_of_plain_python_also_by_segment() -> None:
    signals, stream = Signals(SCHEMA, LAYOUT, EVERYTHING), Stream()
    for _ in range(SAMPLE // N):
        signals.of(*stream.batch(), None)
    batch, served = stream.batch()
    sums, counts = signals.of(batch, served, None)
    found = {key: (s, c) for key, s, c in zip(signals.keys, sums, counts, strict=True)}
    names = {"": np.ones(N, bool)}
    for place in "012":
        value = int(signals.segment(place).removeprefix("country="))
        names[place] = batch.inputs.keys[:, 1] == table_keys(
            table_salt("country"), np.array([value])
        )
    assert {signals.segment(p) for p in "012"} == {"country=0", "country=1", "country=2"}
    for segment, here in names.items():
        y, p = batch.labels[here, 0], served[here, 0].astype(float)
        dwelt, classed = here & batch.mask[:, 1], here & batch.mask[:, 2]
        errors = (batch.labels[dwelt, 1] - 3.0) ** 2
        expected = {
            ("click", "loss"): (log_loss(y, p, normalize=False, labels=[0, 1]), here.sum()),
            ("click", "calibration"): (p.sum() - y.sum(), here.sum()),
            ("click", "label_rate"): (y.sum(), here.sum()),
            ("dwell", "loss"): (errors.sum(), y.sum()),
            ("next", "loss"): (np.log(3) * classed.sum(), classed.sum()),
            ("", "mean:price"): (batch.inputs.dense[here, 0].astype(float).sum(), here.sum()),
            ("", "missing:price"): (0, here.sum()),
            ("", "missing:tags"): (0, here.sum()),
        }  # fmt: skip
        for (task, signal), (total, count) in expected.items():
            assert found[Key(task, signal, segment)] == (pytest.approx(total, rel=1e-5), count)


def test_auc_is_that_of_scikit_learn() -> None:
    signals, stream = Signals(SCHEMA, LAYOUT, EVERYTHING), Stream()
    at, total, count, seen = signals.keys.index(Key("click", "auc")), 0.0, 0, []
    for _ in range(300):
        batch, served = stream.batch()
        sums, counts = signals.of(batch, served, None)
        total, count = total + sums[at], count + counts[at]
        seen.append((batch.labels[:, 0], served[:, 0]))
    expected = roc_auc_score(*map(np.concatenate, zip(*seen, strict=True)))
    assert total / count == pytest.approx(expected, abs=0.005)


def test_ids_that_the_model_does_not_know_are_unseen() -> None:
    signals, (batch, served) = Signals(SCHEMA, LAYOUT, EVERYTHING), Stream().batch()
    embedding = Embedding(LAYOUT, SCHEMA.outputs, EmbeddingConfig(dim=2), RowOptimiser(), 0)
    unseen = signals.unseen(embedding, batch.inputs)
    sums, counts = signals.of(batch, served, unseen)
    at = signals.keys.index(Key("", "unseen:tags"))
    assert (sums[at], counts[at]) == (N, N)  # its second place is empty
    kept = EVERYTHING.__class__()
    assert Signals(SCHEMA, LAYOUT, kept).unseen(embedding, batch.inputs) is None


def watched(change: dict, config: DriftMonitor.Config = EVERYTHING) -> list[DriftEvent]:
    """Events of 1,600 batches; from the 800th on they are made with `change`."""
    signals, stream = Signals(SCHEMA, LAYOUT, config), Stream(1)
    monitor, events = DriftMonitor([], config, signals.keys), []
    for i in range(1_600):
        batch, served = stream.batch(**(change if i >= 800 else {}))
        sums = signals.of(batch, served, np.zeros(batch.inputs.keys.shape, bool))
        events += signals.named(monitor.update(sums, (i + 1) * N, i))
    return events


def test_a_category_may_drift_while_the_whole_looks_calm() -> None:
    rates = DriftMonitor.Config(segment="country", warm_up=0)
    events = watched({"of_third": 0.45}, rates)
    events = [e for e in events if e.signal == "label_rate"]
    first = min(events, key=lambda e: e.example)
    assert first.segment == "country=2" and first.task == "click"
    assert {e.segment for e in events} == {"country=2"}
    assert abs(first.began_example - 800 * N) <= 1_024


def test_inputs_drift_alone() -> None:
    events = watched({"price": 4.0})
    assert {(e.task, e.signal, e.direction) for e in events} == {("", "mean:price", "down")}
    assert {e.segment for e in events} == {"", "country=0", "country=1", "country=2"}
    mixed = watched({"country": np.repeat([0, 1, 2], (8, 24, 32))})
    assert {e.signal for e in mixed if not e.segment} == {"mix:country"}


def test_nothing_drifts_where_nothing_changed() -> None:
    assert watched({}) == []


def test_interrupted_anywhere_the_signals_are_the_same() -> None:
    signals, stream = Signals(SCHEMA, LAYOUT, EVERYTHING), Stream()
    again = Signals(SCHEMA, LAYOUT, EVERYTHING)
    for _ in range(40):
        batch = stream.batch()
        here, there = Signals(SCHEMA, LAYOUT, EVERYTHING), again
        here.load(signals.state())
        for one, other in zip(here.of(*batch), signals.of(*batch), strict=True):
            assert (one == other).all()
        signals, again = here, there


def test_a_field_that_is_not_there_is_refused_when_the_application_is_built() -> None:
    config = DriftMonitor.Config(segment="contry")
    with pytest.raises(ValueError, match="did you mean 'country'"):
        Application("a", SCHEMA, lambda row, tables: None, drift=config)
    with pytest.raises(ValueError, match="signals has 'los': did you mean 'loss'"):
        DriftMonitor.Config(signals=("loss", "los"))
