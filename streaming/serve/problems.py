"""What a server answers when it can't: problem documents (RFC 9457)."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

log = logging.getLogger("freshet.serve")

SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""

TITLES = {
    "malformed": "The body can't be read as JSON",
    "too-slow": "The body took too long",
    "invalid": "A field of the request is not valid",
    "no-token": "The request has no token, or not the right one",
    "forbidden": "The server does not do this",
    "not-found": "There is no such resource",
    "method-not-allowed": "The resource has no such method",
    "too-large": "The body is too large",
    "media-type": "The body has to be JSON",
    "not-ready": "No version of the model is loaded yet",
    "draining": "The server is about to stop",
    "too-many": "The client has too many requests at hand",
    "overloaded": "Too many requests are waiting",
    "log-unavailable": "The event log takes no events",
    "features-unavailable": "The feature store does not answer",
    "internal": "The server failed",
}
_OF_STATUS = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "media-type"}


class Problem(Exception):
    """An error for the client. `kind` is a key of TITLES; `pointer` names the field of the body, as
    a JSON pointer in a URI fragment (`#/candidates/3`)."""

    def __init__(self, status: int, kind: str, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.pointer = status, kind, detail, pointer


def document(problem: Problem, request: str = "") -> dict[str, Any]:
    """The problem as JSON: type, title, status, detail and, where a field is to blame, pointer;
    `request` is the request's id."""
    body: dict[str, Any] = {
        "type": f"urn:freshet:problem:{problem.kind}",
        "title": TITLES[problem.kind],
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.pointer:
        body["pointer"] = problem.pointer
    return body | ({"instance": f"urn:freshet:request:{request}"} if request else {})


def answer(problem: Problem, headers: dict[str, str] | None = None, request: str = "") -> Response:
    headers = {**SAFETY, **(headers or {})}
    if request:
        headers["X-Request-Id"] = request
    if problem.status in (429, 503):
        headers["Retry-After"] = "1"
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = msgspec.json.encode(document(problem, request))
    return Response(content, problem.status, headers, media_type="application/problem+json")


async def on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(error, request=_id(request))


def _id(request: Request) -> str:
    return getattr(request.state, "id", "")


async def on_http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no route, no such method."""
    assert isinstance(error, HTTPException)
    kind = _OF_STATUS.get(error.status_code, "internal")
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return answer(Problem(error.status_code, kind, detail), dict(error.headers or {}))


async def on_failure(request: Request, error: Exception) -> Response:
    """What nobody expected: logged here, and not told."""
    log.error(
        "%s %s failed",
        request.method,
        request.url.path,
        exc_info=error,
        extra={"request": _id(request)},
    )
    problem = Problem(500, "internal", "an error that is written in the server's log")
    return answer(problem, request=_id(request))
