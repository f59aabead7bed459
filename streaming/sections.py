"""The sections of the workers' configuration: what may be set, and which values fit together.

An application is code; here stands only where it runs. Each setting is used by a worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from model.schema import nearest

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LEVELS = ("debug", "info", "warning", "error")
TLS_QUERY = {"tls_ca": "ssl_ca_certs", "tls_certificate": "ssl_certfile", "tls_key": "ssl_keyfile"}


class Secret:
    """A text that shows itself to nobody but who asks by `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "'***'" if self._text else "''"


NONE = Secret()


@dataclass(frozen=True)
class Kafka:
    """The brokers, and how to speak to them. `partitions` are those of topics to be created."""

    bootstrap: str = "localhost:9092"
    partitions: int = 4
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str = ""
    sasl_password: Secret = NONE
    ssl_ca: str = ""
    ssl_certificate: str = ""
    ssl_key: str = ""

    def __post_init__(self) -> None:
        _one_of("kafka.security_protocol", self.security_protocol, PROTOCOLS)
        _one_of("kafka.sasl_mechanism", self.sasl_mechanism, MECHANISMS)
        _within("kafka.partitions", self.partitions, 1, 1024)
        if not self.bootstrap:
            raise ValueError("kafka.bootstrap is '': expected host:port, several with commas")
        for name in ("sasl_username", "sasl_password"):
            if self._sasl and not getattr(self, name):
                raise ValueError(f"kafka.{name} is missing: {self.security_protocol} asks for it")
            if not self._sasl and getattr(self, name):
                raise ValueError(
                    f"kafka.{name} is given, and {self.security_protocol} does not use it: "
                    "expected security_protocol SASL_SSL or SASL_PLAINTEXT"
                )
        tls = self.security_protocol.endswith("SSL")
        _tls("kafka", self, "ssl", tls, "security_protocol SSL or SASL_SSL")

    @property
    def _sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    def properties(self) -> dict[str, str]:
        """librdkafka's, beside `bootstrap.servers`; only those that say something."""
        given = {"security.protocol": self.security_protocol}
        if self._sasl:
            given["sasl.mechanism"] = self.sasl_mechanism
        given |= {
            "sasl.username": self.sasl_username,
            "sasl.password": self.sasl_password.reveal(),
            "ssl.ca.location": self.ssl_ca,
            "ssl.certificate.location": self.ssl_certificate,
            "ssl.key.location": self.ssl_key,
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class Redis:
    """The Redis of snapshots, leases and features; `rediss://` is TLS, `username` an ACL user."""

    url: str = "redis://localhost:6379/0"
    username: str = ""
    password: Secret = NONE
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.scheme in ("redis", "rediss") and bool(parts.hostname)
            in_url = "@" in parts.netloc or bool(parts.query)
        except ValueError:
            known = in_url = False
        if in_url:
            raise ValueError(
                "redis.url holds a user, a password or options: give redis.username, "
                "redis.password or redis.password_file, and tls_ca beside it"
            )
        if not known:
            raise ValueError(
                f"redis.url is {self.url!r}: expected redis://host:port/0, or rediss:// for TLS"
            )
        if self.username and not self.password:
            raise ValueError(f"redis.password is missing, for redis.username {self.username!r}")
        _tls("redis", self, "tls", parts.scheme == "rediss", "a url with rediss://")

    def address(self) -> str:
        """The URL with its secrets, for `redis.Redis.from_url`; not to be shown."""
        parts = urlsplit(self.url)
        password = quote(self.password.reveal(), safe="")
        who = f"{quote(self.username, safe='')}:{password}@" if password else ""
        tls = {query: getattr(self, name) for name, query in TLS_QUERY.items()}
        query = urlencode({name: path for name, path in tls.items() if path})
        return parts._replace(netloc=who + parts.netloc, query=query).geturl()


@dataclass(frozen=True)
class Features:
    """The feature store, on the Redis of `redis`. `folder` holds Feast's registry and the Parquet
    parts; it is by default in the user's XDG state folder. The parts, each row as it was at each
    write, stay for `keep_days`; 0 is for ever."""

    folder: str = ""
    keep_days: int = 7

    def __post_init__(self) -> None:
        _within("features.keep_days", self.keep_days, 0, 100_000)


@dataclass(frozen=True)
class Ingest:
    """The ingest worker. `instance` is a name that outlives it: a worker of that name gets its
    partitions back at once, without the others' waiting for the lost one to be given up. `metrics`
    is the host:port of its Prometheus endpoint; "" for none."""

    instance: str = ""
    metrics: str = ""

    def __post_init__(self) -> None:
        _endpoint("ingest.metrics", self.metrics)


@dataclass(frozen=True)
class Learn:
    """The learner. `checkpoints` is a folder, by default in the user's XDG state folder; `metrics`
    is the host:port of its Prometheus endpoint, "" for none."""

    checkpoints: str = ""
    checkpoint_every: int = 500
    metrics: str = ""

    def __post_init__(self) -> None:
        _within("learn.checkpoint_every", self.checkpoint_every, 1, 10**9)
        _endpoint("learn.metrics", self.metrics)


@dataclass(frozen=True)
class Gate:
    """Which versions of a learner go live: all, where it is not `on`; else those of which nothing
    shows that they are worse than what was served. `error` is the chance that good ones are ever
    held; `margin`, the share of a label's variance by which they may be worse; `every`, of how many
    batches one is looked at; `window`, examples looked at until another version is compared with.
    Where `canary` is above 0, a version goes to that share of users first, and to all once nothing
    spoke against it in `canary_examples` that were looked at.
    """

    on: bool = True
    error: float = 0.01
    margin: float = 0.02
    every: int = 4
    window: int = 5_000
    canary: float = 0.0
    canary_examples: int = 1_000

    def __post_init__(self) -> None:
        for name, most in (("error", 0.5), ("margin", 10.0)):
            value = getattr(self, name)
            if not 0 < value <= most:
                raise ValueError(f"gate.{name} is {value}: expected above 0, and {most} at most")
        _within("gate.every", self.every, 1, 10_000)
        _within("gate.window", self.window, 1, 10**9)
        _within("gate.canary_examples", self.canary_examples, 1, 10**9)
        if not 0 <= self.canary < 1:
            raise ValueError(f"gate.canary is {self.canary}: expected 0 or more, below 1")


@dataclass(frozen=True)
class Serve:
    """The HTTP server. It speaks no TLS: beyond loopback, put a proxy before it. Who ranks or tells
    has to know `token`, who administers `admin_token`; there is no administering without one.
    `buffer` is how many events it keeps while Kafka is away. Of one client, by its address, at most
    `per_client` requests are at hand at once, and more are refused with 429; 0 is for any number,
    as where a gateway asks for everybody. Of a proxy on loopback the address is that of
    X-Forwarded-For. Of `shadow`, a learner's name, the versions score the rankings of a
    `shadow_share` of users too, for comparison; "live" is the first learner's."""

    host: str = "127.0.0.1"
    port: int = 8080
    buffer: int = 100_000
    per_client: int = 0
    shadow: str = ""
    shadow_share: float = 0.1
    token: Secret = NONE
    admin_token: Secret = NONE

    def __post_init__(self) -> None:
        _within("serve.port", self.port, 0, 65_535)
        _within("serve.buffer", self.buffer, 1, 10**7)
        if not 0 < self.shadow_share <= 1:
            raise ValueError(
                f"serve.shadow_share is {self.shadow_share}: expected above 0, 1 at most"
            )
        _within("serve.per_client", self.per_client, 0, 10**6)


@dataclass(frozen=True)
class Log:
    """What the workers say."""

    level: str = "warning"

    def __post_init__(self) -> None:
        _one_of("log.level", self.level, LEVELS)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}: {nearest(value, known)}")


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}: expected {least} to {most}")


def _endpoint(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdecimal() and int(port) <= 65_535):
        raise ValueError(f"{name} is {address!r}: expected host:port, or '' for none")


def _tls(section: str, owner: Any, prefix: str, used: bool, expected: str) -> None:
    """Judges the settings `{prefix}_ca`, `_certificate` and `_key`, which are paths."""
    names = [f"{prefix}_ca", f"{prefix}_certificate", f"{prefix}_key"]
    for name in names:
        path = getattr(owner, name)
        if path and not used:
            raise ValueError(f"{section}.{name} is {path!r}, and not used: expected {expected}")
        if path and not Path(path).is_file():
            raise ValueError(f"{section}.{name} is {path!r}: there is no such file")
    _, certificate, key = names
    if bool(getattr(owner, certificate)) != bool(getattr(owner, key)):
        raise ValueError(f"{section}.{certificate} and {section}.{key}: expected both, or none")
