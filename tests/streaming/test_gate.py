"""The gate: its test on pairs, and what it lets a learner publish."""

from __future__ import annotations

from concurrent.futures import wait
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from model.batch import Batch, Inputs
from model.schema import Field, Schema, Task
from streaming.apps.simulated import app as simulated
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.gate import Gate
from streaming.history import produce, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.paired import Evidence, Paired
from streaming.registry import NoSuchVersion, RegistryUnavailable
from streaming.sections import Gate as Config

BINARY = Task("click", "binary", 0)
APP = replace(simulated, publish_every=5)
EAGER = Config(every=1, window=1_500)


def drawn(draw, n, rate, noise):
    """Labels of known chances, and a model that knows them to within a noise on the logit."""
    logit = np.log(rate / (1 - rate)) + draw.normal(0, 1.0, n)
    labels = (draw.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return labels, lambda noise=noise: (1 / (1 + np.exp(-logit - draw.normal(0, noise, n))))[
        :, None
    ]


@pytest.mark.parametrize("rate", [0.3, 0.02])
def test_a_model_as_good_as_the_anchor_is_found_worse_as_often_as_the_error_says(rate):
    """Looked at after each batch of 64, in 300 runs of 6,400 labels."""
    draw, found = np.random.default_rng(0), 0
    for _ in range(300):
        labels, says = drawn(draw, 6_400, rate, 0.3)
        found += told(Evidence(BINARY, 1e-6), says(), says(), labels) >= -np.log(0.05)
    assert found <= 300 * 0.05


def test_of_a_hundred_learners_as_good_as_their_anchors_one_at_most_is_held():
    """By the default error, over three tasks and three anchors, with no margin to speak of."""
    tasks = tuple(Task(name, "binary", 0) for name in ("click", "like", "share"))
    schema = Schema((Field("user", "id"), Field("item", "id")), tasks, "user", "item")
    none = Inputs(*(np.zeros((64, 0), kind) for kind in (np.int64, np.float32, np.float32)))
    draw, held = np.random.default_rng(0), 0
    for _ in range(100):
        paired = Paired(schema, Config().error, 1e-6)
        found = False
        for n in range(60):
            labels, says = zip(*(drawn(draw, 64, 0.2, 0.3) for _ in tasks), strict=True)
            batch = Batch(none, np.stack(labels, 1), np.ones((64, 3), bool))
            paired.update(batch, *(np.hstack([s() for s in says]) for _ in range(2)))
            found |= bool(paired.worse())
            if n % 20 == 19:
                paired.restart()
        held += found
    assert held <= 1


def told(evidence, candidate, anchor, labels):
    """In batches of 64; the highest that `worse` came to."""
    highest = 0.0
    for at in range(0, len(labels), 64):
        here = slice(at, at + 64)
        evidence.update(candidate[here], anchor[here], labels[here])
        highest = max(highest, evidence.worse)
    return highest


@pytest.mark.parametrize(("rate", "n"), [(0.3, 5_000), (0.02, 30_000)])
def test_a_model_that_knows_nothing_is_found_and_one_that_recovers_is_cleared(rate, n):
    """Also after as many labels of which it knew as much as the anchor."""
    draw = np.random.default_rng(1)
    labels, says = drawn(draw, n, rate, 0.1)
    evidence = Evidence(BINARY, 0.02)
    assert told(evidence, says(), says(), labels) < 3
    evidence.doubt()
    assert told(evidence, says()[draw.permutation(n)], says(), labels) > -np.log(0.01 / 2)
    assert evidence.no_worse < -np.log(0.01) and evidence.excess > 0
    told(evidence, says(), says(), labels)
    assert evidence.no_worse > -np.log(0.01)


def test_the_other_kinds_of_task_are_judged_too():
    draw = np.random.default_rng(2)
    time, kind = Task("time", "regression", 0), Task("kind", "multiclass", 0, classes=3)
    truth = draw.normal(20, 5, 4_000)
    near = (truth + draw.normal(0, 2, 4_000))[:, None]
    classes = draw.integers(0, 3, 4_000)
    knows = np.full((4_000, 3), 0.1)
    knows[np.arange(4_000), classes] = 0.8
    for task, labels, good in ((time, truth, near), (kind, classes, knows)):
        labels = labels.astype(np.float32)
        bad = good[draw.permutation(4_000)]
        evidence = Evidence(task, 0.02)
        evidence.update(good, good, labels)
        evidence.update(good, bad, labels)
        assert evidence.worse < 0 and evidence.no_worse > 5
        evidence.update(bad, good, labels)
        assert evidence.worse > 5
        evidence.restart()
        evidence.update(np.full_like(good, np.nan), good, labels)
        assert evidence.worse > 5


def loaded(gate):
    """Waits for an anchor that is being loaded: what is found is then no matter of how fast."""
    wait([] if gate._loading is None else [gate._loading])


class Run:
    """A learner with a gate over a simulated log; what is `done` at an example is done once."""

    def __init__(self, rows, done, config=EAGER):
        log = MemoryLog(topics(1))
        self.learner = learner = Learner(APP, log.topics, seed=0)
        produce(APP, log, learner.codec, islice(APP.source(), rows), {})
        self.registry = MemoryRegistry(keep=100)
        self.pointers, self.given, left = [], [], dict(done)

        def on_step(step):
            for example in [example for example in left if learner.examples >= example]:
                left.pop(example)(learner)

        def on_publish(published):
            loaded(self.gate)
            self.pointers.append(self.registry.latest().version)
            if (trial := self.registry.trial()) is not None:
                self.given.append(trial.manifest.version)

        with closing(Gate(self.registry, config)) as gate:
            self.gate = gate
            loop = Loop(
                self.registry, DeadLetters(), gate=gate, on_step=on_step, on_publish=on_publish
            )
            assert learn(log, learner, loop, log.end_position())

    @property
    def held(self):
        return self.registry.ledger().held


def faster(learner):
    """Learning rates times 100."""
    trainer = learner.trainer
    dense, rows = trainer.config.dense, trainer.config.rows
    trainer.config = replace(
        trainer.config,
        dense=replace(dense, lr=100 * dense.lr),
        rows=replace(rows, lr=100 * rows.lr, wide_lr=100 * rows.wide_lr),
    )
    trainer.adjust(trainer.task_weights, trainer.tower_lr, trainer.row_lr)


def shuffled(learner):
    """Labels of other examples, from here on."""
    step, draw = learner.trainer.step, np.random.default_rng(0)

    def learned(batch, weighter=None):
        order = draw.permutation(len(batch))
        return step(replace(batch, labels=1 - batch.labels[order]), weighter)

    learner.trainer.step = learned


def spoilt(learner):
    """A weight that is no number: what no step makes, and a bad disk might."""
    learner.trainer.predictor.embedding.rows[0, 0] = np.nan


def test_versions_of_a_sound_learner_all_go_live():
    run = Run(6_000, {})
    assert run.held == {} and run.gate.held == ""
    assert run.gate.rollbacks == 0 and run.gate.last_good is not None
    assert run.pointers == sorted(run.pointers)
    assert set(run.pointers) == {manifest.version for manifest in run.registry.versions()}


@pytest.mark.parametrize("bad", [faster, shuffled])
def test_versions_of_a_learner_gone_bad_are_held_and_the_last_good_one_is_served(bad):
    run = Run(8_000, {3_000: bad})
    assert run.held and "worse than version" in run.gate.held
    served = run.registry.latest().version
    assert served <= run.gate.last_good < min(run.held) and served * 64 < 4_500
    assert max(run.held) == max(m.version for m in run.registry.versions())
    assert run.learner.trainer.steps > 100, "learning went on"


def test_a_version_that_is_not_finite_is_held_whoever_says_that_it_is_good():
    run = Run(2_000, {1_500: spoilt})
    assert set(run.held.values()) == {"it holds numbers that are not finite"}
    assert run.registry.latest().version < min(run.held) < max(run.held)


def out_of_range(learner):
    """From the next version on weights that are finite, and predict what is not."""
    step = learner.trainer.step

    def learned(batch, weighter=None):
        report = step(batch, weighter)
        if learner.trainer.steps % APP.publish_every == 0:
            with torch.no_grad():
                for weight in learner.trainer.predictor.network.parameters():
                    weight.fill_(3e38)
        return report

    learner.trainer.step = learned


def test_a_version_of_finite_weights_whose_predictions_are_not_goes_while_nothing_is_published():
    """Long before the learner is taken back: no batch after it is finite."""
    run = Run(6_000, {3_200: out_of_range})
    bad = max(manifest.version for manifest in run.registry.versions())
    assert run.pointers[-2] == bad == run.learner.trainer.steps, "it was served"
    assert 20 < run.learner.unfinite < 100
    assert run.gate.rollbacks == 1 and run.registry.latest().version == run.gate.last_good < bad


CANARY = replace(EAGER, canary=0.1, canary_examples=600)


def test_a_version_goes_to_a_share_of_users_and_then_to_all():
    run = Run(6_000, {}, CANARY)
    assert run.held == {} and run.pointers == sorted(run.pointers)
    assert len(set(run.given)) > 3 and run.given == sorted(run.given)
    _, *later = sorted(set(run.pointers))
    assert later and set(later) <= set(run.given)
    assert {m["why"][-9:] for m in run.registry.moves()[:-1]} == {" a canary"}


@pytest.mark.parametrize("bad", [faster, shuffled])
def test_a_canary_of_a_learner_gone_bad_is_taken_back_and_never_goes_to_all(bad):
    run = Run(8_000, {3_000: bad}, CANARY)
    assert run.gate.rollbacks >= 1 and run.registry.trial() is None
    given = max(run.given)
    assert run.held[given].startswith("worse than version")
    assert max(run.pointers) < given, "no user but those of the share ever had it"
    assert run.registry.latest().version == run.gate.last_good


class Crash(Exception):
    """In place of `kill -9`, after which nothing is written."""


def test_a_learner_that_repeats_steps_after_a_crash_moves_nothing_back_and_is_not_held(tmp_path):
    """What it repeats, the anchor has learned from: it would always seem worse."""
    log, registry, pointers = MemoryLog(topics(1)), MemoryRegistry(keep=100), []

    def begin(epoch, crash_at=None):
        learner = Learner(APP, log.topics, seed=0)
        checkpoints = Checkpoints(tmp_path)
        if not log.end_position()["impressions", 0]:
            produce(APP, log, learner.codec, islice(APP.source(), 6_000), {})
        if (newest := checkpoints.newest()) is not None:
            learner.load(newest.tree)
        begun = learner.trainer.steps

        def on_step(step):
            if learner.trainer.steps == crash_at:
                raise Crash

        def on_publish(published):
            loaded(gate)
            pointers.append(registry.latest().version)

        with closing(Gate(registry, EAGER)) as gate:
            loop = Loop(
                registry, DeadLetters(), gate=gate, epoch=epoch, begun=begun,
                checkpoints=checkpoints, checkpoint_every=22, on_step=on_step,
                on_publish=on_publish,
            )  # fmt: skip
            learn(log, learner, loop, log.end_position())
        return begun

    with pytest.raises(Crash):
        begin(1, crash_at=62)
    assert begin(2) < pointers[-1]
    assert pointers == sorted(pointers) and registry.held() == {}
    assert pointers[-1] > 62


def test_what_can_not_be_done_at_once_when_a_learner_is_worse_is_done_later(monkeypatch):
    """The pointer goes back once the registry answers; one without the anchor ends nothing."""
    turn_to, fails = MemoryRegistry.turn_to, [RegistryUnavailable("away"), NoSuchVersion("gone")]

    def failing(self, *arguments, **more):
        if fails:
            raise fails.pop(0)
        return turn_to(self, *arguments, **more)

    monkeypatch.setattr(MemoryRegistry, "turn_to", failing)
    lost = Run(8_000, {3_000: shuffled})
    assert not fails and lost.held
    fails.append(RegistryUnavailable("away"))
    run = Run(8_000, {3_000: shuffled})
    assert not fails and run.gate.rollbacks == 1
    assert run.registry.latest().version <= run.gate.last_good


def test_what_was_seen_of_a_model_that_was_taken_back_does_not_count_against_the_next():
    run = Run(5_000, {3_000: shuffled})
    gate = run.gate
    assert gate.held
    gate.forget()
    assert gate.held == "" and all(stake <= 0 for stake in gate.evidence().values())
