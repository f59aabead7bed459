"""The command `freshet export`."""

from __future__ import annotations

import json
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import click

from streaming.cli_config import configured, with_config

CHECKED = 1_000


@click.command()
@click.argument("application", metavar="APP")
@click.option("--format", "kind", type=click.Choice(["onnx", "torch"]), default="onnx")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it.  [default: APP-VERSION.onnx, or .pt2]",
)
@with_config
@click.option("--redis", metavar="URL", help="Of the versions, instead of redis.url.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    application: str,
    kind: str,
    out: Path | None,
    config_path: Path | None,
    redis: str | None,
    as_json: bool,
) -> None:
    """Write the version of APP that is live as a graph for other runtimes.

    Its inputs are keys, weights and dense, as the network reads them, of n examples; its output
    their predictions, in the tasks' units. The file is read back, and compared on 1,000 examples.

    ONNX needs more packages: pip install 'freshet[onnx]'.
    """
    if kind == "onnx" and not all(map(find_spec, ("onnx", "onnxruntime", "onnxscript"))):
        raise ValueError("--format onnx needs more packages: pip install 'freshet[onnx]'")
    from model.export import CLOSE, furthest
    from model.export import export as written
    from model.score import Scorer
    from model.snapshot import decode
    from streaming.__main__ import load_application
    from streaming.redis_registry import RedisRegistry

    config = configured(config_path)
    app = load_application(application)
    with closing(RedisRegistry(redis or config.redis.address(), app.name)) as registry:
        manifest = registry.latest()
        if manifest is None:
            raise ValueError(f"application {app.name!r} has no version yet: expected one published")
        snapshot = decode(bytearray(registry.fetch(manifest)))
    scorer = Scorer(dict(snapshot.arrays), dict(snapshot.meta))
    suffix = {"onnx": "onnx", "torch": "pt2"}[kind]
    out = out or Path(f"{app.name}-{manifest.version}.{suffix}")
    if not out.parent.is_dir():
        raise ValueError(f"{str(out)!r}: its folder is not there")
    written(scorer, kind, out)
    far = furthest(scorer, kind, out, scorer.examples(CHECKED))
    if not far <= CLOSE:
        raise ValueError(f"{out}: predictions differ by {far:.1e}: expected at most {CLOSE:g}")
    if as_json:
        said = {"file": str(out), "version": manifest.version, "bytes": out.stat().st_size}
        click.echo(json.dumps(said | {"checked": CHECKED, "furthest": far}))
        return
    click.echo(
        f"version {manifest.version} is in {out}, {out.stat().st_size:,} bytes: "
        f"{CHECKED:,} examples differ by {far:.1e} at most"
    )
