"""`serve.overload`: a server that is asked for three times what it can do.

Capacity is the most that it answers, at whatever rate up to three times that; the row is the share
of it that is still answered under the overload: the median of rounds, in each of which both are
asked for in turn, as a machine is not as quick at all times. It says too what the refused were
told, how far memory grew, and how long after the end a request waits.
"""

from __future__ import annotations

import time
import urllib.request
from statistics import median
from typing import Any

import psutil

from streaming.bench.http import bodies, process, serve_ours
from streaming.bench.load import Answers, load

TIMES, FIRST_RATE, MORE = 3.0, 100.0, 1.5
CAPACITY_S, ROUNDS = 5.0, 3


def run(seconds: float) -> dict[str, Any]:
    """The row; its baseline is the capacity, in answers a second."""
    asked = bodies()
    with process(serve_ours) as url:
        rank, server = f"{url}/v1/rank", _serving(url)
        rate, capacity = _capacity(rank, asked)
        before = server.memory_info().rss
        rounds = [
            (load([rank], asked, rate, seconds), load([rank], asked, TIMES * capacity, seconds))
            for _ in range(ROUNDS)
        ]
        grown = server.memory_info().rss - before
        started = time.perf_counter()
        request = urllib.request.Request(rank, asked[0], {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        after = time.perf_counter() - started
    answers = Answers(ROUNDS * seconds)
    for _, over in rounds:
        answers.statuses += over.statuses
        answers.latencies += over.latencies
    return {
        "name": "serve.overload",
        "value": round(median(over.goodput for _, over in rounds)),
        "unit": "req/s",
        "baseline": {
            "name": "capacity",
            "value": round(median(usual.goodput for usual, _ in rounds)),
        },
        "ratio": round(median(over.goodput / usual.goodput for usual, over in rounds), 2),
        "runs": ROUNDS,
        "ms": {
            "answered": {f"p{100 * q:g}": answers.quantile_ms(q) for q in (0.5, 0.99, 0.999)},
            "next": round(1000 * after, 1),
        },
        "statuses": dict(sorted(answers.statuses.items())),
        "grown_mb": round(grown / 1e6, 1),
    }


def _capacity(url: str, asked: list[bytes]) -> tuple[float, float]:
    """The rate of which most are answered, as rates go up to three times that, and how many are."""
    rate, best, most = FIRST_RATE, FIRST_RATE, 0.0
    load([url], asked, 20, CAPACITY_S / 2)
    while rate < 3 * max(most, FIRST_RATE):
        answered = load([url], asked, rate, CAPACITY_S).goodput
        if answered > most:
            best, most = rate, answered
        rate *= MORE
    return best, most


def _serving(url: str) -> psutil.Process:
    port = int(url.rpartition(":")[2])
    for child in psutil.Process().children():
        if any(c.laddr.port == port for c in child.net_connections() if c.status == "LISTEN"):
            return child
    raise AssertionError(f"nobody listens at {url}")
