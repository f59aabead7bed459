"""What a worker says is one event a line; what it measures carries the application's name."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
from contextlib import closing
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from streaming.observe import Endpoint, exposed

SAYS = """
import logging, threading, warnings
from streaming.observe import logs
logs("info")
log, other = logging.getLogger("freshet.ingest"), logging.getLogger("aiokafka.consumer")
log.debug("too low")
other.setLevel("INFO")
other.info("of no use")
other.warning("of use")
log.info("two\\nlines", extra={"rows": 3, "mean": float("nan")})
try:
    1 / 0
except ZeroDivisionError:
    log.exception("divided")
warnings.warn("old")
thread = threading.Thread(target=lambda: [][0])
thread.start()
thread.join()
raise KeyError("gone")
"""


def test_off_a_terminal_each_event_is_one_line_of_json():
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(e["level"], e["logger"]) for e in events] == [
        ("warning", "aiokafka.consumer"),
        ("info", "freshet.ingest"),
        ("error", "freshet.ingest"),
        ("warning", "py.warnings"),
        ("critical", "freshet"),
        ("critical", "freshet"),
    ]
    assert all(e["time"].endswith("Z") and len(e["time"]) == 24 for e in events)
    assert events[1]["message"] == "two\nlines" and events[1]["rows"] == 3
    assert events[1]["mean"] is None
    assert events[2]["exception"].endswith("ZeroDivisionError: division by zero")
    assert "IndexError" in events[4]["exception"] and "KeyError" in events[5]["exception"]


def test_on_a_terminal_each_event_is_one_line_of_text():
    ours, theirs = pty.openpty()
    says = SAYS.partition("warnings.warn")[0]
    done = subprocess.run([sys.executable, "-c", says], stderr=theirs)
    os.close(theirs)
    text = os.read(ours, 65_536).decode()
    os.close(ours)
    lines = [line.split(" ", 2)[2] for line in text.splitlines()]
    assert done.returncode == 0
    assert lines == [
        "warning aiokafka.consumer: of use",
        "info freshet.ingest: two lines",
        "error freshet.ingest: divided (ZeroDivisionError: division by zero)",
    ]


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("freshet_events_read", "Events read.", ["topic"], registry=registry).labels("a").inc(2)
    return registry


def test_every_sample_carries_the_application(registry):
    for _ in range(2):  # the second time is no different
        families = text_string_to_metric_families(exposed(registry, "shop").decode())
        samples = [sample for family in families for sample in family.samples]
    assert {s.labels["application"] for s in samples} == {"shop"}
    assert samples[0].labels == {"application": "shop", "topic": "a"} and samples[0].value == 2


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_endpoint_answers_and_says_in_one_line_that_its_port_is_taken(registry):
    address = f"127.0.0.1:{free_port()}"
    with closing(Endpoint(registry, "shop", address, "learn.metrics")):
        with urlopen(f"http://{address}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert answer.read() == exposed(registry, "shop")
        with urlopen(f"http://{address}/healthz") as answer:
            assert json.load(answer) == {"status": "ok"}
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://{address}/else")
        with pytest.raises(ValueError, match=f"learn.metrics is '{address}': can't be had: "):
            Endpoint(registry, "shop", address, "learn.metrics")
    with closing(Endpoint(registry, "shop", "", "learn.metrics")):
        pass
