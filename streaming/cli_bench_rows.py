"""What the commands of `freshet bench` share: a Redis of their own, and how rows are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

with_redis = click.option(
    "--redis", metavar="URL", help="A Redis to use.  [default: one of its own, bundled]"
)


@contextmanager
def a_redis(url: str | None) -> Iterator[str]:
    """The address given, or that of a Redis that ends with this."""
    if url is not None:
        yield url
        return
    from streaming.bundled import bundled_redis

    with TemporaryDirectory(prefix="freshet-bench-") as folder, bundled_redis(Path(folder)) as own:
        yield own.url


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        base = row["baseline"]
        line = f"{row['name']}: {row['value']:,} {row['unit']}, {row['ratio']:.2f} times "
        line += f"{base['name']} ({base['value']:,}); {row['runs']} runs"
        if "ms" in row:
            line += "".join(f"; {name} {ms} ms" for name, ms in row["ms"].items())
        if "statuses" in row:
            line += f"; statuses {row['statuses']}; grew by {row['grown_mb']} MB"
        if "loss" in row:
            line += f"; loss {row['loss']:.4f}, {base['name']} {base['loss']:.4f}"
        click.echo(line)
