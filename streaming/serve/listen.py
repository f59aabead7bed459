"""A server on a port, in a thread of this process."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from streaming.serve.access import Access
from streaming.serve.door import Door
from streaming.serve.http import asgi
from streaming.serve.server import Server

START_S, STOP_S = 30.0, 15.0
HEAD_S = 10.0
"""How long a client may take to send a request's head."""
MOST_CONNECTIONS = 1_000
DRAIN_S, QUIET_S = 5.0, 0.25


class _Prompt(HttpToolsProtocol):
    """uvicorn's protocol, which would wait for a request's head without an end, and makes a task of
    each request. Of those that there is no turn for it makes none: a refusal is written as soon as
    the head is there, and the body is read past."""

    _head: asyncio.TimerHandle | None = None
    _refused = False

    def __init__(self, door: Door, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._door = door

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Bytes that are of no request keep no connection: uvicorn has stopped its own clock."""
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._head is None and self.timeout_keep_alive_task is None:
            self._expect()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._expect()

    def on_headers_complete(self) -> None:
        self._arrived()
        if len(self.connections) >= MOST_CONNECTIONS:
            self.transport.write(self._door.crowded)
            self.transport.close()
            return
        path, _, _ = self.url.partition(b"?")
        alone = self.cycle is None or self.cycle.response_complete
        plain = alone and not self.expect_100_continue and not self.flow.write_paused
        if plain and (said := self._door.refusal(path)):
            self._refused = True
            self._expect()  # the body's end
            self.transport.write(said)
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.transport.is_closing():
            return
        if not self._refused:
            super().on_message_complete()
            return
        self._refused = False
        self._arrived()
        if not self.parser.should_keep_alive():
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, error: Exception | None) -> None:
        self._arrived()
        super().connection_lost(error)

    def _expect(self) -> None:
        self._arrived()
        self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def _arrived(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Listener:
    """Serves `server` on `host`:`port` (0: a free one) until it is closed; `url` is where."""

    def __init__(
        self, server: Server, host: str = "127.0.0.1", port: int = 0,
        access: Access | None = None, per_client: int = 0,
    ) -> None:  # fmt: skip
        """Raises ValueError where the port can't be had."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise ValueError(
                f"port is {port}: can't be had on {host}: {error.strerror}; give another, or 0"
            ) from None
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        door = asgi(server, access, per_client)
        self.api = door.api
        protocol: Any = partial(_Prompt, door)
        config = uvicorn.Config(
            door, loop="auto", http=protocol, lifespan="on", log_config=None,
            access_log=False, server_header=False, timeout_graceful_shutdown=2,
            timeout_keep_alive=30, backlog=512,
        )  # fmt: skip
        self._uvicorn = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._uvicorn.run, args=([self._socket],), name="freshet-http", daemon=True
        )
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the server at {self.url} did not start")
            time.sleep(0.005)

    def drain(self) -> None:
        """Says that it is not ready, answers what still comes, and closes each connection after its
        answer, until nothing has come for `QUIET_S`, or for `DRAIN_S` in all."""
        self.api.draining = True
        deadline = time.perf_counter() + DRAIN_S
        while time.perf_counter() < min(deadline, self.api.last_asked + QUIET_S):
            time.sleep(0.02)

    def close(self) -> None:
        self.drain()
        self._uvicorn.should_exit = True
        self._thread.join(STOP_S)
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
