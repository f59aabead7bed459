"""Killed at any moment, the learner ends where an undisturbed one does: nothing lost, nothing
twice."""

from __future__ import annotations

import random

import pytest
from bench import random_aim
from replays import replayed

from streaming.failpoint import POINTS

ROUNDS = 2


def test_the_undisturbed_run_is_the_replay(bench, data_dir):
    report = replayed("kuairand", data_dir, ("publish_every=3",), limit=bench.rows)
    assert bench.oracle["state_hash"] == report["state_hash"]


@pytest.mark.timeout(600)
def test_killed_at_every_fail_point_nothing_is_lost_and_nothing_is_twice(bench):
    """One learner after another, each killed at its point; only what is passed once, at the end,
    comes last."""
    aims = [name for name in POINTS if name != "lease.released"]
    random.Random(1).shuffle(aims)
    outcome = bench.round([*aims, "lease.released"])
    assert outcome.kills == len(POINTS)
    assert outcome.right, outcome


def test_killed_at_random_nothing_is_lost_and_nothing_is_twice(bench):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # pytest shows it where this fails
    draw = random.Random(seed)
    for _ in range(ROUNDS):
        aim = random_aim(draw, bench)
        assert (outcome := bench.round([aim])).right, (aim, outcome)
