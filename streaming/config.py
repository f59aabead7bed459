"""One TOML for all workers, and the environment over it.

    [kafka]
    bootstrap = "kafka:9092"
    sasl_password_file = "/run/secrets/kafka"

is also FRESHET_KAFKA__BOOTSTRAP and FRESHET_KAFKA__SASL_PASSWORD_FILE; the environment wins. A
secret can always be given as a file that holds it, and is in no `repr` and no message.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from model.schema import nearest
from streaming.sections import Features, Gate, Ingest, Kafka, Learn, Log, Redis, Secret, Serve

PREFIX, BETWEEN, FILE = "FRESHET_", "__", "_file"
ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Config:
    """All sections, with their defaults."""

    kafka: Kafka = field(default_factory=Kafka)
    redis: Redis = field(default_factory=Redis)
    features: Features = field(default_factory=Features)
    ingest: Ingest = field(default_factory=Ingest)
    learn: Learn = field(default_factory=Learn)
    gate: Gate = field(default_factory=Gate)
    serve: Serve = field(default_factory=Serve)
    log: Log = field(default_factory=Log)


SECTIONS: dict[str, Any] = {f.name: f.default_factory for f in fields(Config)}


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The file's settings, and over them the environment's; defaults for the rest.

    Raises ValueError naming the source, the setting, its value (but a secret's), and what was
    expected or the nearest right name.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    if path is not None:
        for section, values in _read(path).items():
            _take(given, str(path), section, values)
    in_environment: dict[str, dict[str, Any]] = {}
    for variable in sorted(environ):
        section, between, name = variable.removeprefix(PREFIX).partition(BETWEEN)
        if variable.startswith(PREFIX) and between:
            in_environment.setdefault(section.lower(), {})[name.lower()] = environ[variable]
    for section, values in in_environment.items():
        _take(given, ENVIRONMENT, section, values)
    return Config(**{name: SECTIONS[name](**values) for name, values in given.items()})


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"config {str(path)!r} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"config {str(path)!r} is no TOML: {error}") from None


def _take(given: dict[str, dict[str, Any]], source: str, section: str, values: Any) -> None:
    """One section of one source into `given`."""
    if section not in SECTIONS:
        raise ValueError(
            f"{_said(source, section)}: there is no such section: {nearest(section, SECTIONS)}"
        )
    if not isinstance(values, dict):
        raise ValueError(f"{_said(source, section)} is no section: expected [{section}]")
    known = {f.name: type(f.default) for f in fields(SECTIONS[section])}
    names = [*known, *(name + FILE for name, kind in known.items() if kind is Secret)]
    for name, value in values.items():
        where, target = _said(source, section, name), name
        if name not in names:
            raise ValueError(f"{where}: there is no such setting: {nearest(name, names)}")
        if name not in known:
            target = name.removesuffix(FILE)
            if target in values:
                raise ValueError(f"{where} and {target} are both given: expected one of them")
            value = _secret_in(where, value)
        given[section][target] = _of_kind(where, value, known[target], source == ENVIRONMENT)


def _said(source: str, *names: str) -> str:
    """A setting as its source names it."""
    if source == ENVIRONMENT:
        return f"{PREFIX}{BETWEEN.join(names).upper()}"
    return f"{source}: {'.'.join(names)}"


def _of_kind(where: str, value: Any, kind: type, from_text: bool) -> Any:
    plain = str if kind is Secret else kind
    try:
        return kind(msgspec.convert(value, plain, strict=not from_text))
    except msgspec.ValidationError:
        shown = "of another type" if kind is Secret else repr(value)
        raise ValueError(f"{where} is {shown}: expected {plain.__name__}") from None


def _secret_in(where: str, path: Any) -> str:
    if not isinstance(path, str):
        raise ValueError(f"{where} is {path!r}: expected the path of a file")
    try:
        return Path(path).read_text("utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise ValueError(f"{where} is {path!r}: can't be read: {reason}") from None
