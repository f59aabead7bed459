"""A soak in small: its samples and its summary are there, and its workers end in order. How fast
anything is, no test asks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import psutil
import pytest
from replays import LOGS

from streaming.bench.soak_faults import Faults
from streaming.bench.soak_summary import summary

FIGURES = ("rss_mib", "threads", "open_files", "cpu_percent")


def soak(kafka, redis_url, data_dir, folder, *more: str) -> subprocess.Popen[str]:
    words = ("bench", "soak", "--broker", kafka, "--redis", redis_url, "--window", "2", "--json")
    places = ("--folder", str(folder / "work"), "--out", str(folder / "out.jsonl"))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "streaming", *words, *places),
            *("--log", str(data_dir / LOGS["kuairand"]), "--rate", "200", "--every", "1", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> dict:
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return json.loads(out)


def lines_of(folder) -> list[dict]:
    path = folder / "out.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.timeout(300)
def test_a_soak_samples_its_workers_and_sums_up(kafka, redis_url, data_dir, tmp_path):
    found = ended(soak(kafka, redis_url, data_dir, tmp_path, "--minutes", "0.33"))
    *samples, last = lines_of(tmp_path)
    assert last["summary"] == found and len(samples) >= 5
    for sample in samples:
        for worker in ("ingest", "learn", "serve", "soak"):
            assert all(f"{worker}.{figure}" in sample for figure in FIGURES)
        assert sample["learn.lag"] >= 0 and sample["ingest.lag"] >= 0
    assert samples[-1]["source.events"] > samples[0]["source.events"]
    assert samples[-1]["kafka.records"] > 0 and samples[-1]["redis.used_mib"] > 0
    assert {"ingest", "learn", "serve"} == set(found["ended"])
    assert set(found["figures"]) == {name for s in samples for name in s} - {"t_s"}


@pytest.mark.timeout(300)
def test_ctrl_c_ends_it_in_order_with_what_there_is(kafka, redis_url, data_dir, tmp_path):
    process = soak(kafka, redis_url, data_dir, tmp_path)  # an hour
    while len(lines_of(tmp_path)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    found = ended(process)
    assert 0 < found["minutes"] < 60 and {"ingest", "learn", "serve"} == set(found["ended"])
    assert workers and not any(worker.is_running() for worker in workers)


def test_a_fault_comes_each_ten_seconds_and_what_is_killed_is_started_again(redis_url):
    workers = {name: subprocess.Popen(["sleep", "60"]) for name in ("ingest", "learn")}
    again = Counter()

    def restart(name: str) -> None:
        assert workers[name].wait() == -signal.SIGKILL
        workers[name] = subprocess.Popen(["sleep", "60"])
        again[f"kill {name}"] += 1

    faults = Faults(redis_url, lambda: {n: w.pid for n, w in workers.items()}, restart, seed=1)
    with closing(faults):
        for now_s in range(0, 405, 5):
            faults.act(now_s)
    for worker in workers.values():
        worker.kill()
        worker.wait()
    assert faults.done.total() == 40 and len(faults.done) == 6
    assert (
        again == {name: n for name, n in faults.done.items() if name in again} and len(again) == 2
    )


def test_what_grows_is_not_flat_and_what_settles_is():
    """The first third is left out; a lag may rise by 5 s of events, memory by a tenth."""

    def samples(of):
        return [{"t_s": float(s), "learn.rss_mib": of(s), "learn.lag": of(s)} for s in range(300)]

    def flat(of, rate=1.0):
        figures = summary(samples(of), rate)
        return figures["learn.rss_mib"]["flat"], figures["learn.lag"]["flat"]

    assert flat(lambda s: 100.0) == (True, True)
    assert flat(lambda s: min(s, 100.0)) == (True, True)  # all its growth is in the settling
    assert flat(lambda s: 100.0 + s) == (False, False)
    assert flat(lambda s: 100.0 + s, rate=20.0) == (False, True)
    assert summary(samples(lambda s: 100.0 + s), 1.0)["learn.lag"]["an_hour"] == pytest.approx(3600)
    few = summary(samples(lambda s: 1.0)[:9], 1.0)
    assert few["learn.rss_mib"]["flat"] is None and few["learn.rss_mib"]["max"] == 1.0
