"""What a worker lets be seen: its log, one event a line, and its metrics over HTTP."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, make_server

import click
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.exposition import ThreadingWSGIServer

from streaming.report import finite

log = logging.getLogger("freshet")

OURS = "freshet"
REQUEST_S = 10.0
_OWN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def logs(level: str) -> None:
    """Logs from `level` on to stderr, one event a line: text on a terminal, else JSON with `time`
    (RFC 3339, UTC), `level`, `logger`, `message`, the event's own fields, and `exception`.

    Of the loggers of others, what is below a warning is left out. Warnings of Python, and what is
    caught nowhere, are events too.
    """
    handler = _Stderr()
    terminal = sys.stderr.isatty()
    handler.setFormatter(_Text() if terminal else _Json())
    handler.addFilter(lambda r: r.levelno >= logging.WARNING or r.name.split(".")[0] == OURS)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    if not terminal:
        sys.excepthook = lambda *error: log.critical("failed: %s", error[1], exc_info=error)
        threading.excepthook = lambda failed: log.critical(
            "a thread failed: %s", failed.exc_value, exc_info=failed.exc_value
        )


def ended_by(error: Exception) -> None:
    """Says in one line on stderr what ended a command."""
    if any(isinstance(handler.formatter, _Json) for handler in logging.getLogger().handlers):
        log.critical("%s", error)
    else:
        click.echo(f"freshet: {error}", err=True)


class _Stderr(logging.StreamHandler[TextIO]):
    """To what `sys.stderr` is at the time, which a progress line on a terminal takes over."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        event |= {k: v for k, v in vars(record).items() if k not in _OWN and k not in event}
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(finite(event), default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).isoformat(" ", "seconds")
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f" ({type(error).__name__}: {error})"
        return f"{at} {record.levelname.lower()} {record.name}: " + " ".join(text.splitlines())


class _Named:
    """A registry whose every sample carries the application's name, without those that only say
    since when the client counts."""

    def __init__(self, registry: CollectorRegistry, application: str) -> None:
        self._registry, self._application = registry, application

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={"application": self._application, **sample.labels})
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield metric


def exposed(registry: CollectorRegistry, application: str) -> bytes:
    """The metrics in Prometheus' text format, each sample with the label `application`."""
    return generate_latest(_Named(registry, application))


class Endpoint:
    """`/metrics` and `/healthz` of a worker that has no server of its own, in a thread, at the
    host:port `address`; at none where that is "". `setting` is what the address was given as."""

    def __init__(
        self, registry: CollectorRegistry, application: str, address: str, setting: str
    ) -> None:
        """Raises ValueError where the address can't be had."""
        self._server: Any = None
        if not address:
            return
        answers = {
            "/metrics": (CONTENT_TYPE_LATEST, lambda: exposed(registry, application)),
            "/healthz": ("application/json", lambda: b'{"status":"ok"}'),
        }
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        family = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, int(port), _app(answers), family, _Quiet)
        except OSError as error:
            raise ValueError(f"{setting} is {address!r}: can't be had: {error.strerror}") from None
        threading.Thread(
            target=self._server.serve_forever, name="freshet-metrics", daemon=True
        ).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


Answers = dict[str, tuple[str, Callable[[], bytes]]]


def _app(answers: Answers) -> Callable[..., Iterable[bytes]]:
    """The WSGI app that gives each path's answer, with its content type."""

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        kind, content = answers.get(environ["PATH_INFO"], ("text/plain", None))
        status, body = "404 Not Found", b"not found\n"
        if content is not None:
            try:
                status, body = "200 OK", content()
            except Exception:
                log.exception("%s failed", environ["PATH_INFO"])
                status, body = "500 Internal Server Error", b"failed\n"
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return app


class _Server(ThreadingWSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request for metrics was broken off", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, *_: object) -> None:
        pass
