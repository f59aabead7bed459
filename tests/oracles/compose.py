"""docker-compose.yml as compose reads it, and its services as processes of this machine.

Commands and environment are the file's own; only addresses, ports and folders are others: those of
the broker, of a Redis started by the file's own command, and of one temporary folder.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from workers import Command

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
OURS = "freshet:"
_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)(?:(:?[-?])([^}]*))?\})")


def compose_file(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file with the variables of `environ` put in. ValueError for one that must be given."""
    return _filled(yaml.safe_load(FILE.read_text()), environ)


def _filled(node: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {name: _filled(value, environ) for name, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, environ) for value in node]
    return _VARIABLE.sub(lambda m: _value(m, environ), node) if isinstance(node, str) else node


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    """What stands for `$$`, `$X`, `${X}`, `${X:-default}` or `${X:?why}`."""
    if match[0] == "$$":
        return "$"
    value, how, other = environ.get(match[1] or match[2]), match[3] or "", match[4]
    if value is None or (how.startswith(":") and not value):
        if how.endswith("?"):
            raise ValueError(f"{match[2]}: {other}")
        return other or ""
    return value


class Service:
    """One service of the file."""

    def __init__(self, name: str, said: Mapping[str, Any]) -> None:
        self.name, self.said = name, said

    @property
    def ours(self) -> bool:
        """Whether it runs `freshet`."""
        return self.said["image"].startswith(OURS)

    @property
    def words(self) -> list[str]:
        """Its command, without the image's entry point."""
        command = self.said.get("command", [])
        return shlex.split(command) if isinstance(command, str) else list(command)

    @property
    def environ(self) -> dict[str, str]:
        return {name: str(value) for name, value in self.said.get("environment", {}).items()}

    @property
    def ports(self) -> list[str]:
        """Those that it listens on, in its container."""
        published = [port.rpartition(":")[2] for port in self.said.get("ports", [])]
        return published + self.said.get("expose", [])

    @property
    def one_shot(self) -> bool:
        return self.said["restart"] == "no"

    @property
    def mounts(self) -> dict[str, str]:
        """Where a volume or a folder is in the container -> what it is."""
        pairs = (volume.removesuffix(":ro").split(":") for volume in self.said.get("volumes", []))
        return {target: source for source, target in pairs}


class Local:
    """The services as processes, started as `docker compose up` would; leaving kills what is left.

    `broker` is in place of kafka; `environ` are the file's variables; what the services say, keep
    and read in secret is in `folder`.
    """

    def __init__(self, broker: str, folder: Path, environ: Mapping[str, str]) -> None:
        document = compose_file(environ)
        self.services = {name: Service(name, said) for name, said in document["services"].items()}
        self.running: dict[str, Command] = {}
        self.folder = folder
        self._broker = broker
        self._ports = {
            (service.name, port): str(_free_port())
            for service in self.services.values()
            for port in service.ports
        }
        self._done: set[str] = set()
        self._stack = ExitStack()
        subprocess.run(
            [ROOT / "infra" / "secrets", folder / "secrets"], check=True, stdout=subprocess.DEVNULL
        )

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def up(self, *names: str) -> None:
        """Starts services, after those that they depend on, and waits until they are well."""
        for name in names:
            for before, how in self.services[name].said.get("depends_on", {}).items():
                if before != "kafka" and before not in self._done:
                    self.up(before)
                if how["condition"] == "service_completed_successfully":
                    self.ended(before)
            self._start(self.services[name])
            self._done.add(name)
        for name in names:
            self._until_well(self.services[name])

    def ended(self, name: str) -> str:
        """Waits until a service has ended by itself, and well. Returns what it said."""
        if command := self.running.pop(name, None):
            assert command.wait() == 0, command.said.read_text()
        return self._said(name).read_text()

    def stop(self, name: str) -> str:
        """SIGTERM; it ends in time, and well. Returns what it said."""
        return self.running.pop(name).stop()

    def address(self, name: str, port: str) -> str:
        """`host:port` of what a service listens on at `port` of its container."""
        return f"127.0.0.1:{self._ports[name, port]}"

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def environ(self, name: str) -> dict[str, str]:
        """A service's environment, on this machine."""
        here = self._here(self.services[name])
        return {key: here(value) for key, value in self.services[name].environ.items()}

    def _said(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, service: Service) -> None:
        here, said = self._here(service), self._said(service.name)
        said.unlink(missing_ok=True)
        words, files = [here(word) for word in service.words], service.said.get("working_dir")
        if service.ours:
            at = Path(here(files)) if files else None
            command = Command(words, self.environ(service.name), said, at)
            self.running[service.name] = self._stack.enter_context(command)
            return
        process = subprocess.Popen(words, stdout=said.open("w"), stderr=subprocess.STDOUT)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)

    def _until_well(self, service: Service) -> None:
        """Runs the file's health check until it passes."""
        if "healthcheck" not in service.said:
            return
        here = self._here(service)
        kind, *words = service.said["healthcheck"]["test"]
        words = [sys.executable if word == "python" else here(word) for word in words]
        check = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        while subprocess.run(check, capture_output=True).returncode:
            command = self.running.get(service.name)
            assert command is None or command.running, command.said.read_text()
            time.sleep(0.1)

    def _here(self, service: Service) -> Callable[[str], str]:
        """What of a service's text becomes on this machine."""
        names = {"0.0.0.0": "127.0.0.1", "kafka:9092": self._broker}
        for name, port in self._ports:
            names[f"{name}:{port}"] = self.address(name, port)
        for target, source in service.mounts.items():
            kept = self.folder / "volumes" / source
            if not source.startswith((".", "/")):
                kept.mkdir(parents=True, exist_ok=True)
            names[target] = os.fspath(ROOT / source if source.startswith((".", "/")) else kept)
        names["/run/secrets"] = os.fspath(self.folder / "secrets")
        names.update({port: self._ports[service.name, port] for port in service.ports})
        longest = sorted(names, key=len, reverse=True)
        either = "|".join(map(re.escape, longest))
        pattern = re.compile(rf"(?<![\w.-])(?<![\w.-]/)(?:{either})(?![\w.-])")
        return lambda text: pattern.sub(lambda match: names[match[0]], text)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def variables() -> Iterator[str]:
    """The names of the variables that the file takes from outside."""
    text = FILE.read_text()
    return (match[1] or match[2] for match in _VARIABLE.finditer(text) if match[0] != "$$")
