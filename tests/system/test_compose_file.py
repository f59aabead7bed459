"""docker-compose.yml: valid, closed to the network, without a password, and as our commands go."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from compose import FILE, ROOT, Local, Service, compose_file, variables

from streaming.__main__ import cli
from streaming.config import load

DOCUMENT = compose_file({})
SERVICES = {name: Service(name, said) for name, said in DOCUMENT["services"].items()}
OURS = [service for service in SERVICES.values() if service.ours]
SECRET = re.compile(r"password|passwd|secret|token|api_?key", re.I)

each = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
each_of_ours = pytest.mark.parametrize("service", OURS, ids=[service.name for service in OURS])


def test_it_is_what_compose_reads():
    """Against the compose specification's schema."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_variables_are_put_in_as_compose_does(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _: "[a $$X, '${X:-d}', '${E:-d}', '${E-d}', $X]")
    assert compose_file({"E": ""}) == ["a $X", "d", "d", "", ""]
    assert compose_file({"X": "x", "E": "e"}) == ["a $X", "x", "e", "e", "x"]
    monkeypatch.setattr(Path, "read_text", lambda _: "${X:?give it}")
    with pytest.raises(ValueError, match="X: give it"):
        compose_file({})


def test_it_can_be_used_as_it_is():
    assert not [name for name in variables() if SECRET.search(name)]
    assert {"kafka", "redis", "ingest", "learn", "serve", "produce", "prometheus", "grafana"} < set(
        SERVICES
    )


@each
def test_nothing_is_bound_beyond_loopback(service):
    assert all(str(port).startswith("127.0.0.1:") for port in service.said.get("ports", []))
    assert "network_mode" not in service.said and not service.said.get("privileged")


@each
def test_no_password_is_in_it(service):
    for name, value in service.environ.items():
        if SECRET.search(name):
            assert value.startswith("/run/secrets/"), name
            assert value.removeprefix("/run/secrets/") in service.said["secrets"]
    assert set(service.said.get("secrets", [])) <= set(DOCUMENT["secrets"])
    for secret in DOCUMENT["secrets"].values():
        assert secret["file"].startswith(".secrets/")
    assert ".secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@each
def test_each_is_watched_bounded_and_held_down(service):
    said = service.said
    assert service.one_shot or said["healthcheck"]["test"]
    assert service.one_shot or said["restart"] == "unless-stopped"
    assert said["mem_limit"] and said["logging"]["options"]["max-size"]
    assert said["cap_drop"] == ["ALL"] and "no-new-privileges:true" in said["security_opt"]
    assert int(said["stop_grace_period"].removesuffix("s")) > 10
    assert re.search(r":v?\d+\.\d+\.\d+", said["image"]), "pinned by its version"
    for source in service.mounts.values():
        assert source in DOCUMENT["volumes"] or (ROOT / source).exists(), source


@each_of_ours
def test_the_environment_is_what_our_configuration_knows(service, tmp_path):
    with Local("broker:9092", tmp_path, {}) as local:
        environ = local.environ(service.name)
        config = load(None, environ)
        assert config.kafka.bootstrap == "broker:9092"
        assert config.redis.address() == (
            f"redis://freshet:{local.secret('redis_password')}@{local.address('redis', '6379')}/0"
        )
    known = ("FRESHET_", "XDG_STATE_HOME")
    assert all(name.startswith(known) for name in environ)


@each_of_ours
@pytest.mark.parametrize("environ", [{}, {"FRESHET_LEARN": "--from past.parquet"}], ids=str)
def test_our_command_line_takes_each_command(service, environ):
    words = Service(service.name, compose_file(environ)["services"][service.name]).words
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, words = words[0], words[1:]
        command = command.commands[name]
    context = command.make_context(name, words)
    assert context.params["application"] == "simulated"


def test_prometheus_asks_workers_where_they_answer():
    jobs = yaml.safe_load((ROOT / "infra" / "prometheus.yml").read_text())["scrape_configs"]
    asked = {tuple(t.split(":")) for job in jobs for t in job["static_configs"][0]["targets"]}
    assert {name for name, _ in asked} == {"ingest", "learn", "serve"}
    assert all(port in SERVICES[name].ports for name, port in asked)


def test_secrets_are_random_ones_own_and_stay(tmp_path):
    made = []
    for folder in ("one", "two", "one"):
        subprocess.run([ROOT / "infra" / "secrets", tmp_path / folder], check=True)
        made.append({p.name: p.read_text() for p in (tmp_path / folder).iterdir()})
    assert made[0] == made[2] and set(made[0]) == set(DOCUMENT["secrets"])
    assert all(made[0][name] != made[1][name] for name in made[0])
    assert all(len(made[0][name]) >= 32 for name in made[0])
    assert made[0]["redis_password"] in made[0]["redis_acl"]
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700


def test_the_image_has_what_it_needs_and_no_secret():
    listed = (ROOT / ".dockerignore").read_text().split()
    assert listed[0] == "*" and not any("secrets" in name for name in listed)
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text()
    assert "--require-hashes" in dockerfile and "USER 10001" in dockerfile
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", dockerfile, re.M)[1]) == ["freshet"]
