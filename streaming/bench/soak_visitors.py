"""Users of a server under soak: rankings of a log's own items, and clicks on the first."""

from __future__ import annotations

import http.client
import json
import random
from collections import deque
from threading import Event, Thread
from typing import Any

from features.events import IMPRESSIONS
from streaming.application import Application, Shown

CANDIDATES, KEPT = 50, 500
CLICKED = 0.3


class Visitors:
    """A thread that ranks `rate` times a second at 127.0.0.1:`port`. `lately` are impressions of
    the log, from which users and candidates are taken; `ranked` and `failed` count.

    A server that has no version yet answers 503, which is no failure before the first ranking.
    """

    def __init__(self, app: Application, port: int, rate: float) -> None:
        self._app, self._rate = app, rate
        self._where = ("127.0.0.1", port)
        self._random, self._stop = random.Random(0), Event()
        self._kind = next(t.name for t in app.schema.tasks if t.kind == "binary")
        self.lately: deque[Shown] = deque(maxlen=KEPT)
        self.ranked = self.failed = 0
        self._thread = Thread(target=self._run, name="visitors", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(*self._where, timeout=5)
        while not self._stop.wait(1 / self._rate):
            if len(self.lately) < CANDIDATES:
                continue
            try:
                self._visit(connection)
            except (OSError, http.client.HTTPException, ValueError, KeyError):
                connection.close()
                self.failed += self.ranked > 0
        connection.close()

    def _visit(self, connection: http.client.HTTPConnection) -> None:
        asked = self._request()
        shown = _post(connection, "/v1/rank", asked)[IMPRESSIONS]
        self.ranked += 1
        if self._random.random() < CLICKED:
            first = {"impression": shown[0]["id"], "item": shown[0]["item"]}
            told = {**first, "user": asked["user"], "kind": self._kind}
            _post(connection, "/v1/feedback", told)

    def _request(self) -> dict[str, Any]:
        schema, lately = self._app.schema, list(self.lately)
        assert schema.item is not None
        shown = self._random.choice(lately).fields
        others = {s.fields[schema.item]: s.fields for s in lately}
        items = self._random.sample(list(others), min(CANDIDATES, len(others)))
        dense = [f.name for f in schema.fields if f.kind == "dense"]
        shared = [f.name for f in schema.fields if f.kind != "dense"]
        return {
            "user": shown[schema.user],
            "candidates": items,
            "context": {n: shown[n] for n in shared if n not in (schema.user, schema.item)},
            "candidate_fields": {n: [others[i][n] for i in items] for n in dense},
        }


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    content = response.read()
    if response.status >= 300:
        raise ValueError(f"{path}: {response.status}")
    return json.loads(content)
