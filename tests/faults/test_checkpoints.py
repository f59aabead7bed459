"""Checkpoints under fire: a full disk, damage, another place, and a learner whose time was over."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from contextlib import closing

import pytest
from replays import LOGS

from streaming.__main__ import load_application
from streaming.checkpoint import Checkpoints
from streaming.checkpoint_files import chain
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, read_rows, side_tables, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.redis_registry import RedisRegistry

FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""


def test_with_a_full_disk_it_learns_on_and_with_space_again_the_next_one_is_whole(
    data_dir, tmp_path, caplog
):
    app, log, events = (
        load_application("kuairand"),
        data_dir / LOGS["kuairand"],
        MemoryLog(topics(1)),
    )
    learner = Learner(app, events.topics, 0)
    produce(app, events, learner.codec, read_rows(app, log, 2_500), side_tables(app, log))
    checkpoints = Checkpoints(tmp_path)
    loop = Loop(MemoryRegistry(), DeadLetters(), checkpoints=checkpoints, checkpoint_every=5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept, after = [], []

    def on_step(step: object) -> None:
        if learner.trainer.steps == 12:
            if checkpoints.busy:
                loop.checkpointed = loop.begun if checkpoints.settle() else 0
            kept.append(checkpoints.newest().step)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        if loop.unwritten >= 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if loop.unwritten >= 2 and loop.checkpointed > kept[0] and not after:
            after.append(Checkpoints(tmp_path).newest())

    loop.on_step = on_step
    try:
        assert learn(events, learner, loop, events.end_position())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert loop.unwritten >= 2 and "is not written: " in caplog.text
    assert len(chain(after[0].path)) == 1, "it builds on what may not be there"
    assert not list(tmp_path.glob(".saving-*"))
    again = Learner(app, events.topics, 0)
    again.load(after[0].tree)
    assert learn(events, again, Loop(MemoryRegistry(), DeadLetters()), events.end_position())
    assert again.state_hash() == learner.state_hash()


def test_with_a_full_disk_sigterm_ends_it_in_time_and_the_next_one_ends_as_undisturbed(bench):
    checkpoints, app = bench.begin(), bench.folder / "my_app.py"
    module = app.read_text()
    app.write_text(module + FULL)
    try:
        with bench.learner(checkpoints, waits=True) as learner:
            learner.until(lambda: "is not written: " in learner.said.read_text())
            learner.stop()
    finally:
        app.write_text(module)
    assert not list(checkpoints.glob("epoch-*"))
    report = bench.run(checkpoints)
    assert report["state_hash"] == bench.oracle["state_hash"]
    assert report["epoch"] == 2


def test_a_folder_taken_to_another_place_goes_on_exactly(bench):
    checkpoints = bench.begin()
    assert bench.run(checkpoints, "step.learned:30") is None
    elsewhere = checkpoints.with_name("elsewhere")
    shutil.move(checkpoints, elsewhere)
    bench.redis.flushall()
    report = bench.run(elsewhere)
    assert report["state_hash"] == bench.oracle["state_hash"]


def test_where_no_checkpoint_is_whole_it_says_so_and_does_not_begin_anew(bench):
    checkpoints = bench.begin()
    assert bench.run(checkpoints, "step.learned:10") is None
    for path in checkpoints.glob("epoch-*/state.safetensors"):
        os.truncate(path, 100)
    with bench.learner(checkpoints) as learner:
        assert learner.wait() == 2
    assert "no checkpoint in" in learner.said.read_text().splitlines()[-1]
    assert not list(checkpoints.glob("epoch-000002*"))


@pytest.mark.parametrize("forgot", [False, True], ids=["redis-knows", "redis-forgot"])
def test_a_zombie_moves_no_pointer_and_leaves_no_newest_checkpoint(bench, forgot):
    """Stopped past its lease while another learns to the end, then woken; also with a Redis that
    was flushed meanwhile, so that only the folder knows the epoch."""
    checkpoints = bench.begin()
    with bench.learner(checkpoints) as zombie:
        zombie.until(lambda: len(list(checkpoints.glob("epoch-*"))) > 1)
        os.kill(zombie.pid, signal.SIGSTOP)
        before = {path.name for path in checkpoints.glob("epoch-000001*")}
        if forgot:
            bench.redis.flushall()
        bench.forget_lease()
        report = bench.run(checkpoints)
        with closing(RedisRegistry(bench.url, bench.name)) as registry:
            pointer, versions = registry.latest(), registry.versions()
            os.kill(zombie.pid, signal.SIGCONT)
            assert zombie.wait() == 1
            assert registry.latest() == pointer and registry.versions() == versions
            assert all(registry.fetch(version) for version in versions)
    assert report["state_hash"] == bench.oracle["state_hash"]
    assert pointer.order == (2, bench.oracle["steps"])
    newest = Checkpoints(checkpoints).newest()
    assert (newest.epoch, newest.step) == pointer.order
    assert before, "it was stopped before it had saved"
