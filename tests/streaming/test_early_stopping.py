"""While a task's labels are wrong nothing is learnt; what was stays, and learning goes on after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from replays import predictions
from sklearn.metrics import roc_auc_score

from model.optim import DenseOptimiser, RowOptimiser
from model.train import Trainer
from streaming.application import Application, Field, Schema, Shown, Task, Told
from streaming.early_stopping import EarlyStopping
from streaming.replay import Replay

WRONG, ROWS = slice(8_000, 12_000), 15_000
ON = EarlyStopping.Config(threshold=4.0, labels=200)


def rows(wrong: slice = WRONG) -> Iterator[Shown]:
    """Clicks by user and item, shuffled in the rows `wrong`; visits that last by user."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 40, ROWS), rng.integers(0, 60, ROWS)
    clicks = (users % 4 + items % 3 > 2) ^ (rng.random(ROWS) < 0.05)
    rng.shuffle(clicks[wrong])
    for i in range(ROWS):
        told = [Told("click", float(clicks[i]), 10), Told("stay", float(users[i] % 7), 20)]
        yield Shown(i, 10**12 + 10 * i, {"user": int(users[i]), "item": int(items[i])}, told)


APP = Application(
    name="tastes",
    schema=Schema(
        (Field("user", "id"), Field("item", "id")),
        (Task("click", "binary", 50), Task("stay", "regression", 50)),
        user="user",
        item="item",
    ),
    rows=lambda row, tables: None,
    source=rows,
    trainer=Trainer.Config(
        dense=DenseOptimiser("adam", lr=0.01), rows=RowOptimiser("adam", lr=0.02)
    ),
)


def run(config: EarlyStopping.Config, stop_after: int = 10**9, app=APP, **options) -> dict | None:
    stop, counted = Event(), iter(range(1, 10**9))

    def on_step(*_: object) -> None:
        if next(counted) == stop_after:
            stop.set()

    held = replace(app, early_stopping=config)
    return Replay(held, stop=stop, on_step=on_step, **options).run()


def moves(report: dict) -> list[tuple[str, float, int]]:
    return [
        (d["task"], d["after"], d["example"]) for d in report["decisions"] if d["what"] == "held"
    ]


def auc(path: Path, begin: int, end: int) -> float:
    served = predictions(path)
    click = served[(served.task == "click") & served.event_id.astype(int).between(begin, end)]
    return float(roc_auc_score(click.label, click.prediction))


def test_while_labels_are_shuffled_nothing_is_learnt_and_what_was_learnt_stays(tmp_path) -> None:
    plain, held = tmp_path / "plain", tmp_path / "held"
    first, second = run(EarlyStopping.Config(), predictions=plain), run(ON, predictions=held)
    assert first and second
    assert first["steps"] == 7 + first["examples"] // 64  # seven before the first of 64
    assert not moves(first)
    (task, stops, at), (same, goes_on, then) = moves(second)
    assert (task, stops, same, goes_on) == ("click", 1, "click", 0)
    assert WRONG.start < at <= WRONG.start + 2 * 256 and WRONG.stop < then <= WRONG.stop + 2 * 256
    assert first["steps"] - second["steps"] == (then - at) // 64
    assert auc(plain, 6_000, 7_999) > 0.94
    after = (WRONG.stop, WRONG.stop + 1_500)
    assert auc(held, *after) > 0.94 > 0.85 > auc(plain, *after)


def test_a_replay_stopped_while_it_holds_back_ends_in_the_same_hash(tmp_path) -> None:
    whole, stopped = run(ON), run(ON, stop_after=160, checkpoints=tmp_path)
    assert whole and stopped is None
    again = run(ON, checkpoints=tmp_path)
    assert again and again["state_hash"] == whole["state_hash"] and moves(again) == moves(whole)


def losses(values: list[float], config: EarlyStopping.Config) -> list[bool]:
    """Whether it holds back after each of these windows' losses of task a; b's are always fine."""
    stopping, found = EarlyStopping(("a", "b"), config), []
    for n, loss in enumerate(values):
        stopping.update({("a", "loss"): (loss, 10), ("b", "loss"): (1.0, 10)}, n, n)
        found.append(stopping.holds)
    return found


def test_what_stays_worse_is_learnt_in_the_end() -> None:
    config = EarlyStopping.Config(threshold=3, labels=10, most=4)
    good = [1.0, 0.9, 0.8, 0.75, 0.7, 0.68, 0.7, 0.69]
    assert losses([*good, *[2.0] * 4, 0.7], config) == [False] * 8 + [True] * 4 + [False]
    assert losses([*good, *[2.0] * 9], config) == [False] * 8 + [True] * 4 + [False] * 5
    assert not any(losses([*good, math.inf, math.nan, 0.8], config))


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"threshold is -1: expected 0 or more"):
        EarlyStopping.Config(threshold=-1)
    with pytest.raises(ValueError, match=r"memory is 2: expected 5 or more"):
        EarlyStopping.Config(memory=2)
