"""A server on a port, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn

from streaming.serve.http import asgi
from streaming.serve.server import Server

START_S, STOP_S = 30.0, 15.0


class Listener:
    """Serves `server` on `host`:`port` (0: a free one) until it is closed; `url` is where."""

    def __init__(self, server: Server, host: str = "127.0.0.1", port: int = 0) -> None:
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
        config = uvicorn.Config(
            asgi(server), loop="auto", http="httptools", lifespan="on", log_config=None,
            access_log=False, server_header=False, timeout_graceful_shutdown=2,
            timeout_keep_alive=30, backlog=512, limit_concurrency=1000,
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

    def close(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(STOP_S)
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
