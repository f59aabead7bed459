"""Health and metadata in the Open Inference Protocol's style (v2 of KServe and Triton), for what
watches many model servers alike. Ranking itself is `/v1/rank`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version as version_of
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from streaming.serve.problems import Problem
from streaming.serve.server import Server


class Inference:
    """`ready` raises Problem where the server is not."""

    def __init__(self, server: Server, ready: Callable[[], None]) -> None:
        self._server, self._ready = server, ready

    def routes(self) -> list[tuple[str, Callable[[Request], Awaitable[Response]]]]:
        return [
            ("/v2", self.server),
            ("/v2/health/live", self.live),
            ("/v2/health/ready", self.ready),
            ("/v2/models/{name}", self.model),
            ("/v2/models/{name}/ready", self.model_ready),
        ]

    async def server(self, request: Request) -> Response:
        return _json({"name": "freshet", "version": version_of("freshet"), "extensions": []})

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        self._ready()
        return _json({"ready": True})

    async def model(self, request: Request) -> Response:
        self._known(request)
        schema = self._server.app.schema
        types = {"id": "BYTES", "ids": "BYTES", "dense": "FP32"}
        inputs = [
            {
                "name": f.name,
                "datatype": types.get(f.kind, "FP32"),
                "shape": [-1, *(f.shape or [f.size])],
            }
            for f in schema.fields
        ]
        outputs = [
            {"name": t.name, "datatype": "FP32", "shape": [-1, t.outputs]} for t in schema.tasks
        ]
        served = self._server.version()
        versions = [str(served["version"])] if served else []
        about = {"name": self._server.app.name, "versions": versions, "platform": "freshet"}
        return _json({**about, "inputs": inputs, "outputs": outputs})

    async def model_ready(self, request: Request) -> Response:
        self._known(request)
        self._ready()
        return _json({"name": self._server.app.name, "ready": True})

    def _known(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._server.app.name:
            raise Problem(404, "not-found", f"there is no model {name[:64]!r} here")


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
