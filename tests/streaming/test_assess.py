"""An assessment plays fair: all see the same, when it came, and what is said is what was served."""

from __future__ import annotations

import numpy as np
import pytest

from features.events import Control
from model.batch import Inputs
from streaming.__main__ import load_application
from streaming.assess import retrained
from streaming.assess.answers import answers
from streaming.assess.assess import OURS, Assessment
from streaming.assess.page import page
from streaming.assess.recording import Recording
from streaming.assess.rival import guesses, play
from streaming.assess.rivals import entry
from streaming.assess.text import text
from streaming.compare.served import Collector
from streaming.replay import Replay

ROWS = 1_800


@pytest.fixture(scope="module")
def run():
    """An application, the recording of a run of it, and what that served."""
    app = load_application("simulated")
    recordings: list[Recording] = []
    collector = Collector(app.schema)

    def on_step(learner, step):
        if not recordings:
            recordings.append(Recording(app.schema, learner.windows.layout))
        recordings[0].step(learner, step)
        collector.step(learner, step)

    Replay(app, limit=ROWS, on_step=on_step).run()
    return app, recordings[0], collector.served()


class Witness:
    """A rival that remembers what it was shown and told, in order."""

    def __init__(self, schema):
        self.schema, self.calls = schema, []

    def predict(self, inputs):
        self.calls.append(("predict", inputs))
        return guesses(self.schema, len(inputs))

    def learn(self, inputs, labels, mask, closed_ms):
        self.calls.append(("learn", inputs, labels, mask, closed_ms))


def test_a_rival_predicts_each_impression_before_it_is_told_its_label_and_on_the_same_inputs(run):
    app, recording, served = run
    witness = Witness(app.schema)
    theirs = play(recording, witness, lambda done, of: None)
    shown: set[bytes] = set()
    last_ms = 0
    for kind, inputs, *told in witness.calls:
        rows = [k.tobytes() + d.tobytes() for k, d in zip(inputs.keys, inputs.dense, strict=True)]
        if kind == "predict":
            shown.update(rows)
        else:
            assert shown.issuperset(rows)
            assert told[2] >= last_ms
            last_ms = told[2]
    for task, mine in served.items():
        assert np.array_equal(theirs[task].ids, mine.ids)
        assert np.array_equal(theirs[task].labels, mine.labels)


def test_our_own_trainer_played_on_the_recording_serves_what_the_replay_served(run):
    app, recording, served = run
    from model.batch import Batch
    from model.train import Trainer

    class Ours:
        def __init__(self):
            self.trainer = Trainer(app.schema, recording.layout, app.trainer, 0)
            self.predict = self.trainer.predict

        def learn(self, inputs, labels, mask, closed_ms):
            self.trainer.step(Batch(inputs, labels, mask, closed_ms))

    theirs = play(recording, Ours(), lambda done, of: None)
    for task, mine in served.items():
        assert np.array_equal(theirs[task].predictions, mine.predictions)


def test_a_retrained_model_knows_what_closed_before_its_period_and_nothing_else(run):
    app, _, _ = run
    seen = []

    def fit(inputs, labels, mask, now_ms):
        seen.append(labels[:, 0].tolist())
        return Witness(app.schema)

    rival = retrained.Retrained(app.schema, 100, fit)
    nothing = Inputs(
        np.zeros((1, 2), np.int64), np.zeros((1, 2), np.float32), np.zeros((1, 0), np.float32)
    )
    for label, closed_ms in ((1, 10), (2, 90), (3, 110), (4, 190), (5, 420)):
        rival.learn(nothing, np.full((1, 3), label), np.ones((1, 3), bool), closed_ms)
    assert seen == [[1, 2], [1, 2, 3, 4]] and rival.trainings == 2


def test_a_day_is_the_period_unless_that_were_too_many():
    day = retrained.DAY_MS
    assert retrained.period_ms(0, 14 * day) == day
    assert retrained.period_ms(0, 160 * day) == 10 * day
    assert retrained.period_ms(0, day) == day // retrained.MOST


@pytest.mark.parametrize("which", ["river", "river-trees", "lightgbm", "vw"])
def test_each_rival_learns_something_from_what_it_is_told(run, which):
    app, recording, _ = run
    if which in ("lightgbm", "vw"):
        pytest.importorskip("lightgbm" if which == "lightgbm" else "vowpalwabbit")
    times = [m.closed_ms for m in recording.moments]
    made = entry(which, app.schema, recording.layout, (times[-1] - times[0]) // 4)
    rival = next(iter(made.settings.values()))()
    served = play(recording, rival, lambda done, of: None)
    for task in app.schema.tasks:
        mine = served[task.name]
        assert np.isfinite(mine.predictions).all()
        late = len(mine.ids) // 2
        assert mine.predictions[late:].std() > 0
        if task.kind != "regression":
            assert (0 <= mine.predictions).all() and (mine.predictions <= 1).all()
            base = mine.labels.mean()
            assert abs(mine.predictions[late:].mean() - base) < 0.2


@pytest.fixture(scope="module")
def report():
    return Assessment(load_application("simulated"), limit=ROWS, against=("river",)).run()


def test_the_report_answers_each_question_from_the_last_half(report):
    assert [q["key"] for q in report["questions"]] == ["online", "sharing", "rebalancing", "others"]
    names = [
        "frozen half way",
        "retrained in batch",
        "single-task",
        "rebalancing off",
        "River, linear",
    ]
    assert list(report["alternatives"]) == [OURS, *names]
    replayed = Replay(load_application("simulated"), limit=ROWS).run()
    for name, task in report["tasks"].items():
        assert 0.4 < task["count"] / replayed["tasks"][name]["count"] < 0.6
        assert list(task["against"]) == names
    assert "Does learning online pay?" in text(report) and "<svg" in page(report)


def test_the_frozen_one_is_the_same_until_the_half(run):
    app, _, served = run
    half_ms = int(np.median(served["click"].times_ms))
    collector = Collector(app.schema)
    Replay(
        app, limit=ROWS, controls=(Control("freeze", half_ms, "learning.stop"),),
        on_step=collector.step,
    ).run()  # fmt: skip
    for task, mine in collector.served().items():
        early = mine.times_ms < half_ms
        assert np.array_equal(mine.predictions[early], served[task].predictions[early])
        assert not np.array_equal(mine.predictions, served[task].predictions)


def test_what_is_not_there_is_said_plainly(monkeypatch, run):
    """A package that is not installed, and questions that cannot be asked."""
    import sys

    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.delitem(sys.modules, "streaming.assess.boosted", raising=False)
    app = load_application("simulated").with_settings(["rebalance.policy=none"])
    said = text(Assessment(app, limit=1_000, against=("lightgbm",)).run())
    assert "lightgbm is not installed: pip install 'freshet[rivals]'" in said
    assert "Does rebalancing pay? Not asked." in said
    with pytest.raises(ValueError, match="expected 800 or more to tell anything"):
        Assessment(app, limit=50, against=()).run()


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        ([(0.1, 0.2), (-0.1, 0.1)], "yes"),
        ([(-0.2, -0.1), (-0.1, 0.1)], "no"),
        ([(-0.2, -0.1), (0.1, 0.2)], "mixed"),
        ([(-0.1, 0.1), (None, None)], "not seen"),
    ],
)
def test_an_answer_is_what_the_intervals_say(ends, answer):
    names = ("frozen half way", "retrained in batch", "single-task", "rebalancing off")
    alternatives = {name: {"absent": "" if name == "single-task" else "no"} for name in names}
    tasks = {
        f"t{n}": {"against": {"single-task": {"gain": {"loss": {"low": low, "high": high}}}}}
        for n, (low, high) in enumerate(ends)
    }
    of = {q["key"]: q for q in answers(tasks, alternatives)}
    assert of["sharing"]["answer"] == answer
    assert of["online"]["answer"] == "not asked"
    assert bool(of["sharing"]["so"]) == (answer in ("no", "not seen"))
