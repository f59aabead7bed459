"""The commands `freshet snapshots`: which versions there are, which one is served."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streaming.cli_config import configured, with_config

if TYPE_CHECKING:
    from streaming.redis_registry import RedisRegistry

Command = Callable[..., None]


@click.group()
def snapshots() -> None:
    """Look at the versions of a model, and say which one servers shall use.

    \b
    freshet snapshots list kuairand             what there is, and what is served
    freshet snapshots diff kuairand 1200 1400   what changed between two
    freshet snapshots rollback kuairand         back to what was served before
    freshet snapshots pin kuairand 1200         this one, until it is unpinned

    Servers follow within a second. The learner goes on; a version that a roll-back left does not
    come back, later ones do.
    """


def _with_registry(command: Command) -> Command:
    """Adds the argument APP and the options that say where its versions are."""
    decorators = [
        click.argument("application", metavar="APP"),
        with_config,
        click.option("--redis", metavar="URL", help="Of the versions, instead of redis.url."),
        click.option(
            "--run", help="Of a shadow (shadow-NAME), or a replay.  [default: the served one]"
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@contextmanager
def _registry(
    application: str, config_path: Path | None, redis: str | None, run: str | None
) -> Iterator[RedisRegistry]:
    from streaming.redis_registry import RedisRegistry
    from streaming.served_run import ServedRun

    url = redis or configured(config_path).redis.address()
    name = application
    if ":" in application:
        from streaming.__main__ import load_application

        name = load_application(application).name
    if run is None:
        with closing(ServedRun(url, name)) as served:
            run = served.name()
    with closing(RedisRegistry(url, name, run)) as registry:
        yield registry


@snapshots.command("list")
@_with_registry
def list_(as_json: bool, **where: Any) -> None:
    """List the versions that are kept, the newest last."""
    from streaming.snapshots import listed

    with _registry(**where) as registry:
        lines = listed(registry)
    if as_json:
        click.echo(json.dumps(lines, indent=2))
        return
    if not lines:
        click.echo("no versions: `freshet learn` publishes them")
        return
    click.echo(f"{'version':>10} {'epoch':>6} {'kind':>6} {'bytes':>13} {'age':>9}  ")
    for line in lines:
        size, age = f"{line['bytes']:,}", _age(line["at_ms"])
        head = f"{line['version']:>10} {line['epoch']:>6} {line['kind']:>6} {size:>13} {age:>9}"
        click.echo(f"{head}  {_marks(line)}".rstrip())


def _age(at_ms: int | None) -> str:
    if at_ms is None:
        return ""
    seconds = time.time() - at_ms / 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _marks(line: dict[str, Any]) -> str:
    marks = [name for name in ("served", "read") if line[name]]
    marks += [f"canary of {100 * line['canary']:g} % of users"] if line["canary"] else []
    marks += ["compacted"] if line["compacted_bytes"] else []
    marks += [f"{name}: {line[name]}" for name in ("pinned", "held") if line[name] is not None]
    return ", ".join(marks)


@snapshots.command()
@_with_registry
@click.argument("version", type=click.IntRange(0))
def show(version: int, as_json: bool, **where: Any) -> None:
    """Show one version with its card: from what it was learned, how, and how well it did."""
    from streaming.snapshots import shown

    with _registry(**where) as registry:
        out = shown(registry, version)
    if as_json:
        click.echo(json.dumps(out, indent=2))
        return
    card = out.pop("card")
    out["at"] = _time(out.pop("at_ms"))
    for name, value in {**out, **card}.items():
        click.echo(f"{name:>18}  {value if isinstance(value, str) else json.dumps(value)}")


def _time(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


@snapshots.command()
@_with_registry
@click.argument("before", type=click.IntRange(0))
@click.argument("after", type=click.IntRange(0))
def diff(before: int, after: int, as_json: bool, **where: Any) -> None:
    """Compare two versions: how many rows are new, gone or changed, and how far weights moved."""
    from streaming.snapshots import compared

    with _registry(**where) as registry:
        out = compared(registry, before, after)
    if as_json:
        click.echo(json.dumps(out, indent=2))
        return
    rows = out["rows"]
    click.echo(f"{before} to {after}: {out['examples']:+,} examples")
    click.echo(
        f"rows: {rows['new']:,} new, {rows['gone']:,} gone, {rows['changed']:,} changed by "
        f"{rows['root_mean_square']:.3g} (root mean square), {rows['same']:,} the same"
    )
    for name, moved in out["weights"].items():
        click.echo(f"{name:>40}  {moved['root_mean_square']:.3g}, most {moved['most']:.3g}")
    for name, sides in out["card"].items():
        click.echo(f"{name}: {json.dumps(sides['before'])} -> {json.dumps(sides['after'])}")


@snapshots.command()
@_with_registry
@click.argument("version", type=click.IntRange(0))
@click.option("--keep", is_flag=True, help="Only keep it; what is served stays as it is.")
@click.option("--why", default="pinned by hand", show_default=True, help="A note.")
def pin(version: int, keep: bool, why: str, as_json: bool, **where: Any) -> None:
    """Serve VERSION and no other until it is unpinned, and keep it."""
    with _registry(**where) as registry:
        if keep:
            registry.pin(version, why)
        else:
            registry.turn_to(version, why, pin=True)
        _served(registry, as_json)


@snapshots.command()
@_with_registry
@click.argument("version", type=click.IntRange(0))
def unpin(version: int, as_json: bool, **where: Any) -> None:
    """Let go of VERSION: the next one that is published goes live again."""
    with _registry(**where) as registry:
        registry.unpin(version)
        _served(registry, as_json)


@snapshots.command()
@_with_registry
@click.argument("version", type=click.IntRange(0), required=False)
@click.option("--why", default="rolled back by hand", show_default=True, help="A note.")
def rollback(version: int | None, why: str, as_json: bool, **where: Any) -> None:
    """Serve VERSION, by default the one that was served before; versions above it are held.

    Those that the learner publishes from now on go live again: `pin` one to stay with it.
    """
    from streaming.snapshots import last_good

    with _registry(**where) as registry:
        to = last_good(registry) if version is None else version
        if to is None:
            raise ValueError("no version was served before that is still kept: name one")
        registry.turn_to(to, why)
        _served(registry, as_json)


@snapshots.command()
@_with_registry
def gc(as_json: bool, **where: Any) -> None:
    """Remove what nobody needs: neither the last versions, nor pins, nor readers, nor a delta."""
    with _registry(**where) as registry:
        gone = registry.retire()
    says = f"removed {len(gone)} versions" + (f": {', '.join(map(str, gone))}" if gone else "")
    click.echo(json.dumps({"removed": gone}) if as_json else says)


def _served(registry: RedisRegistry, as_json: bool) -> None:
    """Says what is served."""
    pointer = registry.pointer()
    if pointer is None:
        out: dict[str, Any] = {"version": None, "turn": None, "pinned": False}
    else:
        turn, epoch, version = pointer.order
        out = {"version": version, "epoch": epoch, "turn": turn, "pinned": pointer.pinned}
    pinned = ", pinned" if out["pinned"] else ""
    click.echo(json.dumps(out) if as_json else f"served: version {out['version']}{pinned}")
