"""The workers' TOML: what it takes, what it refuses and how it says so, and that secrets stay."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
from pathlib import Path

import pytest
import redis
from confluent_kafka.admin import AdminClient

from streaming.config import load
from streaming.redis_registry import RedisRegistry
from streaming.sections import Kafka, Redis, Secret

HIDDEN = "hunter2"


def written(folder: Path, text: str) -> Path:
    path = folder / "freshet.toml"
    path.write_text(text)
    return path


def test_the_file_goes_over_the_defaults_and_the_environment_over_both(tmp_path):
    path = written(tmp_path, '[kafka]\nbootstrap = "a:1"\npartitions = 8\n[serve]\nport = 1\n')
    environ = {
        "FRESHET_KAFKA__BOOTSTRAP": "b:2",
        "FRESHET_LEARN__CHECKPOINT_EVERY": "7",
        "FRESHET_CONFIG": "elsewhere",
        "PATH": "/bin",
    }
    config = load(path, environ)
    assert (config.kafka.bootstrap, config.kafka.partitions) == ("b:2", 8)
    assert (config.serve.host, config.serve.port) == ("127.0.0.1", 1)
    assert config.learn.checkpoint_every == 7
    defaults = load(None, {})
    assert (defaults.kafka.bootstrap, defaults.redis.address()) == (
        "localhost:9092",
        "redis://localhost:6379/0",
    )


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("[kafak]\n", {}, "freshet.toml: kafak: there is no such section: did you mean 'kafka'"),
        ("[kafka]\nbootstrp = 'a:1'", {}, "kafka.bootstrp: .* did you mean 'bootstrap'"),
        ("kafka = 5", {}, r"kafka is no section: expected \[kafka\]"),
        ("[serve]\nport = '80'", {}, "freshet.toml: serve.port is '80': expected int"),
        ("[serve]\nport = true", {}, "serve.port is True: expected int"),
        ("[serve]\nport = 70000", {}, "serve.port is 70000: expected 0 to 65535"),
        ("[serve]\nbuffer = 0", {}, "serve.buffer is 0: expected 1 to 10000000"),
        ("[learn]\nmetrics = '9101'", {}, "learn.metrics is '9101': expected host:port"),
        ("[ingest]\nmetrics = 'a:b'", {}, "ingest.metrics is 'a:b': expected host:port"),
        ("[log]\nlevel = 'warn'", {}, "log.level is 'warn': did you mean 'warning'"),
        ("[serve\n", {}, "is no TOML"),
        ("", {"FRESHET_REDSI__URL": "x"}, "FRESHET_REDSI: .* did you mean 'redis'"),
        ("", {"FRESHET_REDIS__ULR": "x"}, "FRESHET_REDIS__ULR: .* did you mean 'url'"),
        ("", {"FRESHET_SERVE__PORT": "http"}, "FRESHET_SERVE__PORT is 'http': expected int"),
        ("[kafka]\nsecurity_protocol = 'SASLSSL'", {}, "did you mean 'SASL_SSL'"),
        ("[kafka]\npartitions = 0", {}, "kafka.partitions is 0: expected 1 to 1024"),
        ("[kafka]\nsasl_username = 'me'", {}, "sasl_username is given, and PLAINTEXT does not"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'", {}, "kafka.sasl_username is missing"),
        ("[kafka]\nssl_ca = 'ca.pem'", {}, "kafka.ssl_ca is 'ca.pem', and not used"),
        (
            "[kafka]\nsecurity_protocol = 'SSL'\nssl_ca = 'no.pem'",
            {},
            "ssl_ca is 'no.pem': there is no such file",
        ),
        ("[redis]\nurl = 'localhost'", {}, "redis.url is 'localhost': expected redis://"),
        ("[redis]\nusername = 'me'", {}, "redis.password is missing"),
        ("[redis]\ntls_ca = 'ca.pem'", {}, "tls_ca is 'ca.pem', and not used: .*rediss://"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(text, environ, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, text), environ)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no\.toml.*can't be read: No such file"):
        load(tmp_path / "no.toml", {})


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        (f"[redis]\nurl = 'redis://me:{HIDDEN}@host:1/0'", {}),
        (f"[redis]\nurl = 'redis://host:1/0?password={HIDDEN}'", {}),
        (f"[redis]\npassword = '{HIDDEN}'\npassword_file = 'x'", {}),
        (f"[redis]\npassword = ['{HIDDEN}']", {}),
        (f"[redis]\npasswrd = '{HIDDEN}'", {}),
        (f"[kafka]\nsasl_password = '{HIDDEN}'", {}),
        ("", {"FRESHET_REDIS__PASWORD": HIDDEN}),
        ("", {"FRESHET_REDIS__PASSWORD": HIDDEN, "FRESHET_REDIS__URL": "nowhere"}),
    ],
)
def test_no_message_shows_a_secret(text, environ, tmp_path):
    with pytest.raises(ValueError) as error:
        load(written(tmp_path, text), environ)
    assert HIDDEN not in str(error.value)


def test_a_secret_is_in_no_repr_and_can_stand_in_a_file(tmp_path):
    (tmp_path / "secret").write_text(HIDDEN + "\n")
    text = f"[redis]\nusername = 'me'\npassword_file = '{tmp_path / 'secret'}'\n"
    config = load(written(tmp_path, text), {})
    assert config.redis.password.reveal() == HIDDEN
    assert config.redis.address() == f"redis://me:{HIDDEN}@localhost:6379/0"
    assert HIDDEN not in repr(config) + str(config) + f"{config.redis.password}"
    assert HIDDEN not in str(dataclasses.asdict(config))
    other = load(written(tmp_path, text), {"FRESHET_REDIS__PASSWORD": "another"})
    assert other.redis.password.reveal() == "another"


def test_librdkafka_takes_the_properties(tmp_path, certificates):
    kafka = Kafka(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        sasl_username="me",
        sasl_password=Secret(HIDDEN),
        ssl_ca=str(certificates / "ca.pem"),
        ssl_certificate=str(certificates / "server.pem"),
        ssl_key=str(certificates / "server.key"),
    )
    AdminClient({"bootstrap.servers": "127.0.0.1:9", "log_level": 0, **kafka.properties()})
    assert kafka.properties()["sasl.password"] == HIDDEN
    assert Kafka().properties() == {"security.protocol": "PLAINTEXT"}


def test_redis_is_reached_by_tls_as_an_acl_user(certificates, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *("redis-server", "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1"),
            *("--tls-cert-file", str(certificates / "server.pem")),
            *("--tls-key-file", str(certificates / "server.key")),
            *("--tls-ca-cert-file", str(certificates / "ca.pem"), "--tls-auth-clients", "yes"),
            *(
                "--save",
                "",
                "--user",
                "worker",
                "on",
                f">{HIDDEN}@/",
                "~freshet:*",
                "&freshet:*",
                "+@all",
            ),
            *("--user", "default", "off", "--dir", str(tmp_path)),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        config = Redis(
            url=f"rediss://127.0.0.1:{port}/0",
            username="worker",
            password=Secret(HIDDEN + "@/"),
            tls_ca=str(certificates / "ca.pem"),
            tls_certificate=str(certificates / "server.pem"),
            tls_key=str(certificates / "server.key"),
        )
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.02), 500)
        with redis.Redis.from_url(config.address(), retry=retry) as client:
            assert client.ping()
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set("others", "1")
        registry = RedisRegistry(config.address(), "shop", "live")
        assert registry.publish(b"model", 1, 1, {}).version == 1
        registry.close()
        stranger = dataclasses.replace(config, password=Secret("wrong"))
        with (
            redis.Redis.from_url(stranger.address()) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, and `server.pem` and `server.key` for 127.0.0.1, valid for a day."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca"],
        ["req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", "server.csr", *signed, "-extfile", "names", "-out", "server.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
    return folder
