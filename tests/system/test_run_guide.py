"""Every command of infra/run.md works: those without docker are run as a new user would run them,
those with it are held against docker-compose.yml."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from compose import ROOT, compose_file, variables
from workers import Command

from streaming.__main__ import cli
from streaming.sections import Kafka
from streaming.topics import open_log

GUIDE = (ROOT / "infra" / "run.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", GUIDE, re.M | re.S))
SERVICES = compose_file({})["services"]
MODULE = """
from dataclasses import replace
from streaming.apps.simulated import app as simulated
app = replace(simulated, name={name!r})
"""
OPTIONS = {
    "up": {"--detach", "--build"},
    "run": {"--rm"},
    "ps": set(),
    "logs": {"--follow"},
    "stop": set(),
    "start": set(),
    "down": set(),
}


def blocks(section: str, kind: str = "sh") -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", SECTIONS[section], re.S)


WITH_DOCKER = [line for block in blocks("With docker") for line in block.splitlines()]


def test_the_readme_leads_here():
    assert "`infra/run.md`" in (ROOT / "README.md").read_text()
    assert {kind for kind in re.findall(r"^```(\w+)", GUIDE, re.M)} == {"sh", "toml"}


@pytest.mark.parametrize("line", WITH_DOCKER)
def test_what_is_said_of_docker_is_in_the_compose_file(line):
    words = shlex.split(line, comments=True)
    if words[0] == "export":
        given = {word.partition("=")[0] for word in words[1:]}
        assert given <= set(variables())
    elif words[0] == "infra/secrets":
        assert os.access(ROOT / words[0], os.X_OK)
    else:
        assert words[:2] == ["docker", "compose"]
        command, *others = words[2:]
        options = {word for word in others[:1] if word.startswith("-")}
        options |= {word for word in others[1:] if word.startswith("-") and command != "run"}
        assert options <= OPTIONS[command]
        plain = [word for word in others if word not in options]
        assert command not in ("run", "logs") or plain[0] in SERVICES
        if plain[1:]:
            group = cli.commands[plain[1]]
            subcommand = getattr(group, "commands", {}).get(plain[2], group)
            skipped = 3 if subcommand is not group else 2
            subcommand.make_context(plain[1], plain[skipped:])


def test_pages_and_variables_are_those_of_the_compose_file():
    published = {
        port.split(":", 1)[1].rpartition(":")[0]
        for said in SERVICES.values()
        for port in said.get("ports", [])
    }
    named = set(re.findall(r"http://localhost:(\d+) \|", SECTIONS["With docker"]))
    assert named == published - {"9092"}
    known = {name for name in variables() if name.endswith("_PORT")}
    assert set(re.findall(r"`(\w+_PORT)`", SECTIONS["With docker"])) == known


class User:
    """Who types what the guide says, in a folder of their own; some names are others here."""

    def __init__(self, folder: Path, here: dict[str, str]) -> None:
        self.folder, self.here = folder, here
        self.environ = {
            "XDG_STATE_HOME": str(folder / "state"),
            "FRESHET_SERVE__PORT": here["8080"],
        }
        self.workers: dict[str, Command] = {}
        self.ended: dict[str, int] = {}

    def types(self, line: str) -> str:
        """A line of the guide, run; what it says."""
        line = self.read(line)
        words = shlex.split(line.removesuffix("&"))
        if words[0] == "export":
            self.environ |= dict(word.split("=", 1) for word in words[1:])
        elif words[0] == "freshet":
            said = self.folder / f"{'-'.join(words[1:3]).replace('/', '-')}.log"
            command = Command(words[1:], self.environ, said, self.folder)
            if line.endswith("&"):
                self.workers[words[1]] = command
            else:
                assert command.wait() == 0, said.read_text()
                return said.read_text()
        elif words[0] in ("curl", "until"):
            return subprocess.run(
                ["bash", "-c", line], check=True, capture_output=True, text=True
            ).stdout
        elif words[0] == "kill":
            for worker in self.workers.values():
                os.kill(worker.pid, signal.SIGTERM)
        else:
            assert line == "wait", line
            self.ended = {name: worker.wait(10) for name, worker in self.workers.items()}
        return ""

    def read(self, text: str) -> str:
        for there, ours in self.here.items():
            text = text.replace(there, ours)
        return text


@pytest.fixture
def user(kafka, tmp_path) -> Iterator[User]:
    name = f"simulated-{uuid.uuid4().hex[:8]}"
    (tmp_path / "my_app.py").write_text(MODULE.format(name=name))
    (tmp_path / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "secrets", tmp_path / "infra")
    here = {"localhost:9092": kafka, " simulated": " my_app.py:app", "~": str(tmp_path)}
    user = User(tmp_path, here | {port: _free_port() for port in ("6380", "8080", "9101", "9102")})
    try:
        yield user
    finally:
        for worker in user.workers.values():
            worker.kill()
        log = open_log(Kafka(kafka), name)
        log.delete_topics()
        log.close()


@pytest.fixture
def redis_there(user) -> Iterator[None]:
    """Redis, as the guide has it started."""
    block = user.read(blocks("Without docker")[1])
    command = ["bash", "-ec", f"{block.rstrip()} >redis.log & wait"]
    with subprocess.Popen(command, cwd=user.folder, start_new_session=True) as process:
        password = user.folder / ".secrets" / "redis_password"
        try:
            while not _answers(int(user.here["6380"]), password):
                assert process.poll() is None
                time.sleep(0.05)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_without_docker_it_goes_as_it_is_said(user, redis_there):
    (user.folder / "freshet.toml").write_text(user.read(blocks("Without docker", "toml")[0]))
    said: dict[str, str] = {}
    for line in "".join(blocks("Without docker")[2:]).splitlines():
        if "IMPRESSION" in line:
            first = json.loads(said["rank"])["impressions"][0]
            line = line.replace("IMPRESSION", first["id"])
        name = "rank" if "/v1/rank" in line else " ".join(line.split()[:3])
        said[name] = user.types(line)
    assert json.loads(said["rank"])["version"] > 0
    assert (
        len(re.findall(r"^freshet\.\S+ +[14] +for ever", said["freshet topics describe"], re.M))
        == 5
    )
    assert re.search(r"^state_hash \w{64}$", said["freshet replay simulated"], re.M)
    stopped = 128 + signal.SIGTERM
    assert user.ended == {"ingest": 0, "learn": 0, "serve": 0, "produce": stopped}


def test_kafka_is_started_with_options_that_there_are():
    words = blocks("Without docker")[0].split()
    known = subprocess.run([sys.executable, ROOT / words[0], "--help"], capture_output=True)
    assert all(w.encode() in known.stdout for w in words if w.startswith("--"))


def _answers(port: int, password: Path) -> bool:
    try:
        with redis.Redis(
            port=port, username="freshet", password=password.read_text(), retry=None
        ) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
