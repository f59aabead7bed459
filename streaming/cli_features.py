"""The commands `freshet features`: what the model would see, and whether that is what it saw."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from streaming.cli_config import configured, with_broker, with_config


@click.group()
def features() -> None:
    """Look at the windowed features that `freshet ingest` keeps."""


@features.command()
@click.argument("application", metavar="APP")
@click.argument("user", metavar="USER")
@click.option("--item", metavar="ITEM", help="Also its features, and those of the two together.")
@with_config
@with_broker
@click.option("--redis", metavar="URL", help="Of the features, instead of redis.url.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    application: str,
    user: str,
    item: str | None,
    config_path: Path | None,
    broker: str | None,
    redis: str | None,
    as_json: bool,
) -> None:
    """Print what the model of APP would see of USER now, and how far that covers the log.

    An id of digits is a number; write '"7"' for the text.
    """
    from features.feast_store import FeastStore
    from features.show import show as shown
    from features.stored import StoredWindows
    from features.windows import Windows
    from streaming.__main__ import load_application
    from streaming.state_folder import state_folder
    from streaming.topics import live_partitions

    config = configured(config_path)
    app = load_application(application)
    kafka = replace(config.kafka, bootstrap=broker) if broker else config.kafka
    topics = live_partitions(kafka.bootstrap, app.name, kafka.properties(), ("impressions",))
    folder = Path(config.features.folder or state_folder(app.name, "features"))
    windows = Windows(app.schema, app.aggregates)
    url = redis or config.redis.address()
    with closing(FeastStore(url, app.name, folder, windows)) as store:
        stored = StoredWindows(store.read, app.schema, app.aggregates, topics["impressions"])
        now_ms = time.time_ns() // 1_000_000
        out = shown(stored, _id(user), None if item is None else _id(item), now_ms)
    click.echo(json.dumps(out, indent=2) if as_json else _text(out))


@features.command()
@click.argument("application", metavar="APP")
@click.option("--last", type=click.IntRange(1), metavar="N", help="The last N impressions only.")
@with_config
@with_broker
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(
    application: str,
    last: int | None,
    config_path: Path | None,
    broker: str | None,
    as_json: bool,
) -> None:
    """Compute again what impressions of APP were scored with, and compare, bit for bit.

    Reads the live topics from their beginning. Exit code 1 where anything differs.
    """
    from streaming.__main__ import load_application
    from streaming.audit import audit as audited
    from streaming.topics import open_log

    config = configured(config_path)
    app = load_application(application)
    kafka = replace(config.kafka, bootstrap=broker) if broker else config.kafka
    with closing(open_log(kafka, app.name)) as log:
        out = audited(app, log, last)
    if as_json:
        click.echo(json.dumps(out, indent=2))
    else:
        click.echo(f"{out['audited']:,} impressions audited, {out['equal']:,} equal")
        for d in out["different"]:
            place = f"{d['topic']}[{d['partition']}]@{d['offset']}"
            click.echo(f"  {place}: {', '.join(d['features'])}")
    if out["equal"] < out["audited"]:
        sys.exit(1)


def _id(text: str) -> int | str:
    """An id as people type it."""
    if text.isascii() and text.isdecimal():
        return int(text)
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text


def _text(out: dict[str, Any]) -> str:
    width = max((len(name) for name in out["features"]), default=0)
    lines = [f"{name:<{width}}  {value:.6g}" for name, value in out["features"].items()]
    if out["history"]:
        items = ", ".join(f"{h['item']} ({h['weight']:.3g})" for h in out["history"])
        lines.append(f"history: {items}")
    for kind, offsets in out["as_of"].items():
        covered = ", ".join(f"{at} @{o}" for at, o in (offsets or {}).items())
        lines.append(f"{kind}: {'covers ' + covered if covered else 'not in the store'}")
    return "\n".join(lines)
