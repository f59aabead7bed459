"""A client of `freshet serve`, typed, of the standard library and msgspec alone.

    client = Client("http://localhost:8080")
    ranking = client.rank(7, [1, 2, 3], context={"hour": 9}, k=2)
    client.feedback(ranking.impressions[0], user=7, kind="click")

One `Client` may be shared among threads: each has a connection of its own. What the server puts
off (429, 503) and what a connection loses is tried again, feedback under the same id: it counts
once.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from features.events import Id
from streaming.serve.answers import Explanation, ProblemDocument, Ranking, Shown, Told

T = TypeVar("T")
_PAUSE_S = 0.1


class Refused(Exception):
    """The server's answer was a problem: `status`, and `problem` as it said."""

    def __init__(self, status: int, problem: ProblemDocument) -> None:
        super().__init__(f"{status}: {problem.detail or problem.title}")
        self.status, self.problem = status, problem


class Unreachable(ConnectionError):
    """No answer, in all tries."""


class Client:
    """`tries` of a request in all; each may take `timeout_s`."""

    def __init__(self, url: str, token: str = "", timeout_s: float = 5.0, tries: int = 3) -> None:
        """Raises ValueError for a URL that is not http:// or https://, or `tries` below 1."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}: expected http://host:port, or https://")
        if tries < 1:
            raise ValueError(f"tries is {tries}: expected 1 or more")
        self._parts, self._timeout_s, self._tries = parts, timeout_s, tries
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._here = threading.local()

    def rank(
        self,
        user: Id,
        candidates: Sequence[Id],
        context: Mapping[str, Any] | None = None,
        candidate_fields: Mapping[str, Sequence[Any]] | None = None,
        k: int = 10,
        weights: Mapping[str, float] | None = None,
        request: str = "",
    ) -> Ranking:
        """The best k of the candidates, by the tasks' `weights` where given; `request` names it."""
        asked: dict[str, Any] = {"user": user, "candidates": candidates, "k": k}
        asked |= {"context": context or {}, "candidate_fields": candidate_fields or {}}
        if weights is not None:
            asked["weights"] = weights
        more = {"X-Request-Id": request} if request else {}
        return self._asked("POST", "/v1/rank", Ranking, asked, more)

    def feedback(
        self, shown: Shown, user: Id, kind: str, value: float = 1.0, id: Id | None = None
    ) -> Id:
        """Tells what the user did about what was shown; returns the feedback's id."""
        told = {
            "impression": shown.id, "item": shown.item, "user": user, "kind": kind, "value": value,
            "id": uuid.uuid4().hex if id is None else id,
        }  # fmt: skip
        return self._asked("POST", "/v1/feedback", Told, told).id

    def explain(self, request: str, task: str = "") -> Explanation:
        """Why a ranking was as it was, for a task; by default the first one."""
        path = f"/v1/explain/{quote(request, safe='')}?task={quote(task, safe='')}"
        return self._asked("GET", path, Explanation)

    def ready(self) -> bool:
        """Whether the server has a version, and is not about to stop."""
        try:
            status, _, _ = self._once("GET", "/readyz", None, {})
        except (OSError, http.client.HTTPException):
            return False
        return status == 200

    def close(self) -> None:
        """Closes this thread's connection."""
        connection = getattr(self._here, "connection", None)
        if connection is not None:
            connection.close()
            self._here.connection = None

    def _asked(
        self, method: str, path: str, kind: type[T], body: Any = None,
        more: Mapping[str, str] | None = None,
    ) -> T:  # fmt: skip
        """The answer, tried again where that may help. Raises Refused, Unreachable."""
        content = None if body is None else msgspec.json.encode(body)
        for last in [False] * (self._tries - 1) + [True]:
            try:
                status, wait_s, answer = self._once(method, path, content, more or {})
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise Unreachable(f"{self._parts.netloc}: {error}") from error
                time.sleep(_PAUSE_S)
                continue
            if status < 300:
                return msgspec.json.decode(answer, type=kind)
            if status not in (429, 503) or last:
                raise Refused(status, _problem(status, answer))
            time.sleep(wait_s)
        raise AssertionError("unreachable")

    def _once(
        self, method: str, path: str, content: bytes | None, more: Mapping[str, str]
    ) -> tuple[int, float, bytes]:
        """Status, the seconds to wait, and the body."""
        connection = getattr(self._here, "connection", None)
        if connection is None:
            connection = self._here.connection = self._connected()
        try:
            where = self._parts.path.rstrip("/") + path
            connection.request(method, where, content, {**self._headers, **more})
            answer = connection.getresponse()
            body = answer.read()
        except BaseException:
            self.close()
            raise
        wait = answer.headers.get("Retry-After", "")
        return answer.status, float(wait) if wait.isdecimal() else _PAUSE_S, body

    def _connected(self) -> http.client.HTTPConnection:
        parts = self._parts
        assert parts.hostname
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=self._timeout_s, context=context
            )
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self._timeout_s)


def _problem(status: int, body: bytes) -> ProblemDocument:
    try:
        return msgspec.json.decode(body, type=ProblemDocument)
    except msgspec.MsgspecError:
        return ProblemDocument("about:blank", "", status, body[:200].decode(errors="replace"))
