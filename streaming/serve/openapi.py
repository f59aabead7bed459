"""The server's own description, OpenAPI 3.1, of the application's fields and tasks."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

import msgspec

from streaming.application import Application
from streaming.serve.answers import Explanation, ProblemDocument, Ranking, Told
from streaming.serve.requests import MAX_BODY_BYTES, FeedbackBody, Requests

_OBJECT = {"type": "object"}


def document(app: Application, requests: Requests) -> dict[str, Any]:
    """The OpenAPI document of an application's server."""
    types = [requests.rank_type, FeedbackBody, Ranking, Told, Explanation, ProblemDocument]
    _, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    paths = {
        "/v1/rank": {
            "post": _asking(
                "rank", "The best k candidates of a user, logged as impressions",
                "Rank", "Ranking", 200,
            )
            | {"security": [{}, {"token": []}]}
        },
        "/v1/feedback": {
            "post": _asking(
                "feedback", "What the user did about an impression", "FeedbackBody", "Told", 202
            )
            | {"security": [{}, {"token": []}]}
        },
        "/v1/explain/{request}": {
            "get": _telling("explain", "Why a ranking was as it was", _ref("Explanation"))
            | {
                "security": [{}, {"token": []}],
                "parameters": [_in_path("request"), _in_query("task")],
            }
        },
        "/v1/example": {
            "get": _telling("example", "A request to rank, for a user", _ref("Rank"))
            | {
                "security": [{}, {"token": []}],
                "parameters": [_in_query("user")],
            }
        },
        "/v1/admin/drain": {
            "post": _telling("drain", "Not ready from now on, and about to stop", _OBJECT, 202)
            | {"security": [{"admin": []}]}
        },
        "/v1/status": {"get": _telling("status", "The version, and its age", _OBJECT)},
        "/healthz": {"get": _telling("healthz", "Whether the process answers", _OBJECT)},
        "/readyz": {"get": _telling("readyz", "Whether to send requests", _OBJECT)},
        "/v2": {"get": _telling("v2", "The server's name and version", _OBJECT)},
        "/v2/health/live": {"get": _telling("live", "As /healthz", _OBJECT)},
        "/v2/health/ready": {"get": _telling("ready", "As /readyz", _OBJECT)},
        "/v2/models/{name}": {
            "get": _telling("model", "The model's fields and tasks", _OBJECT) | _NAMED
        },
        "/v2/models/{name}/ready": {
            "get": _telling("model_ready", "Whether the model is served", _OBJECT) | _NAMED
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Prometheus metrics",
                "responses": {"200": {"description": "metrics", "content": {"text/plain": {}}}},
            }
        },
    }  # fmt: skip
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"freshet serve {app.name}",
            "version": version_of("freshet"),
            "description": (
                f"Bodies are JSON, of at most {MAX_BODY_BYTES:,} bytes, plain or gzip. What is "
                "refused is answered by a problem document (RFC 9457); 429 and 503 say in "
                "Retry-After when to try again. Send X-Request-Id to name a request."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {**bearer, "description": "serve.token, where it is set"},
                "admin": {**bearer, "description": "serve.admin_token"},
            },
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "string"}}


_NAMED = {"parameters": [_in_path("name")]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _telling(name: str, summary: str, schema: dict[str, Any], status: int = 200) -> dict[str, Any]:
    problem = {
        "description": "a problem",
        "content": {"application/problem+json": {"schema": _ref("ProblemDocument")}},
    }
    answer = {"description": summary, "content": {"application/json": {"schema": schema}}}
    return {
        "operationId": name,
        "summary": summary,
        "responses": {str(status): answer, "4XX": problem, "503": problem},
    }


def _asking(name: str, summary: str, body: str, answer: str, status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(body)}}
    return _telling(name, summary, _ref(answer), status) | {
        "requestBody": {"required": True, "content": content}
    }
