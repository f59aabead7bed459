"""A replay that is stopped, or killed at any moment, and started again ends in the same hash."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest
from replays import LOGS, replayed

from streaming.__main__ import load_application
from streaming.application import Application, Field, Schema, Shown, Task
from streaming.checkpoint import Checkpoints
from streaming.dead_letters import DeadLetters
from streaming.eventlog import MemoryLog
from streaming.history import produce, read_rows, side_tables, topics
from streaming.learn import Loop, learn
from streaming.learner import Learner
from streaming.memory_registry import MemoryRegistry
from streaming.registry import Published, RegistryUnavailable
from streaming.replay import Replay
from streaming.sections import Kafka

LIMIT = 8_000
EVERY = 20


@pytest.fixture(scope="module")
def undisturbed(data_dir) -> dict:
    return replayed("kuairand", data_dir, limit=LIMIT)


def comparable(report: dict) -> dict:
    """What must not depend on interruptions: all of a report but its timing."""
    return {k: v for k, v in report.items() if k not in ("seconds", "examples_per_second")}


def command(data_dir: Path, folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "streaming", "replay", "kuairand"),
        *("--log", str(data_dir / LOGS["kuairand"]), "--limit", str(LIMIT), "--json"),
        *("--checkpoints", str(folder), "--checkpoint-every", str(EVERY), *more),
    ]


def ended_after_checkpoint(data_dir: Path, folder: Path, number: int, *more: str) -> bytes | None:
    """Runs until `folder` has a checkpoint newer than before, then sends `number`.

    What the process printed if it came to its end before that, else None.
    """
    before = {p.name for p in folder.glob("[!.]*")}
    with subprocess.Popen(
        command(data_dir, folder, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not {p.name for p in folder.glob("[!.]*")} - before:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
        process.send_signal(number)
        out, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        return out
    assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM), errors.decode()
    return None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill-9", "sigterm"])
def test_a_replay_that_is_ended_again_and_again_ends_in_the_same_hash(
    number, undisturbed, data_dir, tmp_path
):
    out, runs = None, 0
    for _ in range(4):
        out = ended_after_checkpoint(data_dir, tmp_path, number)
        runs += 1
        if out is not None:
            break
    if out is None:
        out = subprocess.run(command(data_dir, tmp_path), check=True, capture_output=True).stdout
    assert runs > 2, "it was never ended"
    assert comparable(json.loads(out)) == comparable(undisturbed)


def run_for(steps: int, data_dir: Path, options: dict) -> dict | None:
    """The report of a replay, or None where it was stopped after so many steps."""
    stop, counted = Event(), iter(range(1, 10**9))

    def on_step(*_: object) -> None:
        if next(counted) == steps:
            stop.set()

    app = load_application("kuairand")
    return Replay(app, data_dir / LOGS["kuairand"], stop=stop, on_step=on_step, **options).run()


def test_stopped_at_any_cut_through_kafka_and_gone_on_from(undisturbed, data_dir, tmp_path, kafka):
    """Every topic is made anew, so the positions of the checkpoint are the whole hand-over."""
    options = dict(via="kafka", kafka=Kafka(kafka), partitions=4, limit=LIMIT, checkpoints=tmp_path)
    report, stops = None, 0
    while report is None:
        report = run_for(37, data_dir, options)
        stops += report is None
    assert stops > 2
    assert report["state_hash"] == undisturbed["state_hash"]


def test_a_torn_checkpoint_is_passed_over(undisturbed, data_dir, tmp_path, caplog):
    options = dict(limit=LIMIT, checkpoints=tmp_path, checkpoint_every=EVERY)
    assert run_for(70, data_dir, options) is None
    newest = Checkpoints(tmp_path).newest()
    assert newest is not None
    state = next(newest.path.glob("*.safetensors"))
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    report = replayed("kuairand", data_dir, **options)
    assert report["state_hash"] == undisturbed["state_hash"]
    assert newest.path.name in caplog.text


def test_a_checkpoint_of_other_settings_is_refused(data_dir, tmp_path):
    replayed("kuairand", data_dir, limit=500, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="config_hash"):
        replayed("kuairand", data_dir, ("trainer.dense.lr=0.5",), limit=500, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="seed"):
        replayed("kuairand", data_dir, limit=500, checkpoints=tmp_path, seed=3)


def test_a_checkpoint_of_another_log_is_refused(data_dir, tmp_path):
    replayed("kuairand", data_dir, limit=500, checkpoints=tmp_path)
    with pytest.raises(ValueError, match="another log"):
        replayed("kuairand", data_dir, limit=600, checkpoints=tmp_path)


def test_a_registry_that_is_away_holds_no_checkpoint_up(undisturbed, data_dir, tmp_path):
    registry, events = GoneRegistry(), MemoryLog(topics(1))
    app = load_application("kuairand")
    learner = Learner(app, events.topics, 0)
    log = data_dir / LOGS["kuairand"]
    tables = side_tables(app, log)
    produce(app, events, learner.codec, read_rows(app, log, LIMIT), tables)
    loop = Loop(registry, DeadLetters(), checkpoints=Checkpoints(tmp_path), checkpoint_every=50)
    assert learn(events, learner, loop, events.end_position())
    assert loop.unpublished > 0 and Checkpoints(tmp_path).newest() is not None
    assert learner.state_hash() == undisturbed["state_hash"]


class GoneRegistry(MemoryRegistry):
    def publish(self, *_: object, **__: object) -> Published:
        raise RegistryUnavailable("redis://127.0.0.1:9 does not answer")


def test_the_dead_letters_file_of_a_resumed_replay_has_each_letter_once(tmp_path):
    """Bad rows, stopped and gone on from twice."""
    start = 1_700_000_000_000
    rows = [
        Shown(n, start + 10 * n, {"user": n % 9 if n % 10 else None, "item": n % 50})
        for n in range(3_000)
    ]
    app = Application(
        name="shop",
        schema=Schema(
            (Field("user", "id"), Field("item", "id")), (Task("buy", "binary", 500),), "user"
        ),
        rows=lambda row, tables: None,
        source=lambda: iter(rows),
    )
    path, report = tmp_path / "dead.jsonl", None
    for steps in (15, 10, None):
        stop, counted = Event(), iter(range(1, 10**9))
        options = dict(checkpoints=tmp_path / "state", checkpoint_every=4, dead_letters=path)
        job = Replay(app, stop=stop, **options)
        job.on_step = lambda *_, s=stop, n=steps, c=counted: s.set() if next(c) == n else None
        report = job.run()
    assert report is not None and report["events"]["bad"] == 300
    assert len(path.read_text().splitlines()) == 300
