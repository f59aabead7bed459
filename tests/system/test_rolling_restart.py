"""Two servers are restarted, one after the other, under load: nobody who asks notices."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from served import Served

from streaming.client import Client


class Balancer:
    """Looks which servers are ready, and asks these, in turn, from three threads."""

    def __init__(self, urls: list[str], asked: dict[str, Any]) -> None:
        self.urls, self._asked = urls, asked
        self._ready = list(urls)
        self.answered: Counter[str] = Counter()
        self.failed: list[BaseException] = []
        self._stop = threading.Event()
        works = [self._look, *[self._ask] * 3]
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.5):  # a server ends no sooner than nobody asks it
            self._ready = [u for u in self.urls if Client(u, timeout_s=2).ready()]

    def _ask(self) -> None:
        clients: dict[str, Client] = {}
        while not self._stop.wait(0.005):
            ready = self._ready
            url = ready[sum(self.answered.values()) % len(ready)]
            client = clients.setdefault(url, Client(url, tries=1, timeout_s=20))
            try:
                assert len(client.rank(**self._asked).impressions) == 5
                self.answered[url] += 1
            except Exception as error:  # whatever: it is a failed request
                self.failed.append(error)

    def until(self, url: str, more: int) -> None:
        """`more` further requests were answered there."""
        before, deadline = self.answered[url], time.monotonic() + 60
        while self.answered[url] < before + more and not self.failed:
            assert time.monotonic() < deadline, "waited 60 s"
            time.sleep(0.02)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


@pytest.fixture
def served(kafka, redis_client, redis_url, data_dir, tmp_path) -> Iterator[Served]:
    made = Served(kafka, redis_url, tmp_path, data_dir)
    yield made
    made.log.delete_topics()
    made.log.close()


def test_two_servers_restart_in_turn_and_no_request_fails(served: Served) -> None:
    workers = [served.serve("first"), served.serve("second")]
    urls = [served.url_of(worker) for worker in workers]
    balancer = Balancer(list(urls), served.asked)
    try:
        for url in urls:
            balancer.until(url, 20)
        for number in range(2):
            workers[number].stop()  # SIGTERM, and an exit code of 0
            balancer.urls.remove(urls[number])
            workers[number] = served.serve(f"again-{number}")
            url = served.url_of(workers[number])
            balancer.urls.append(url)
            balancer.until(url, 20)
    finally:
        balancer.close()
        for worker in workers:
            worker.kill()
    assert balancer.failed == []
    assert len(balancer.answered) == 4
