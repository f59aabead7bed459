"""The command `freshet`. Heavy imports wait until a command needs them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from streaming.cli_affinity import affinity
from streaming.cli_assess import assess
from streaming.cli_bench import bench
from streaming.cli_checkpoints import checkpoints
from streaming.cli_compare import compare
from streaming.cli_config import configured, with_config
from streaming.cli_doctor import doctor
from streaming.cli_drift import drift
from streaming.cli_export import export
from streaming.cli_features import features
from streaming.cli_ingest import ingest
from streaming.cli_learn import learn
from streaming.cli_log import dlq, produce, topics
from streaming.cli_offpolicy import offpolicy
from streaming.cli_promote import promote
from streaming.cli_serve import serve
from streaming.cli_snapshots import snapshots
from streaming.cli_weights import weights

if TYPE_CHECKING:
    from streaming.application import Application

SHIPPED = ("simulated", "kuairand", "movielens", "elec2", "census", "openbandit")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="freshet")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
def cli(verbose: bool) -> None:
    """Online multi-task recommendation: events in, and seconds later the scores have learned.

    \b
    freshet demo                                  watch it learn, in the browser
    freshet replay kuairand --log events.parquet  a historical log, as fast as it goes
    freshet replay my_app.py:app --log my.parquet an application of your own
    freshet replay kuairand --live                what the live topics hold
    freshet compare a.py:app b.py:app --log PATH  which serves better, and is that chance?
    freshet assess my_app.py:app --log my.parquet is it worth it, on your own log?
    freshet produce kuairand --log events.parquet a historical log, into live topics
    freshet learn kuairand                        the live topics, for months
    freshet serve kuairand                        rank by what has been learned
    freshet snapshots list kuairand               which versions there are, and which is served
    freshet export kuairand                       the live version, for other runtimes
    freshet drift list kuairand                   what drifted, and what was done
    freshet doctor kuairand                       what is wrong, and what to do
    """
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def load_application(name: str) -> Application:
    """A shipped application by its name, or `file.py:object`. ValueError says what is wrong."""
    from model.schema import nearest
    from streaming.application import Application

    file, colon, attribute = name.rpartition(":")
    if not colon:
        if name not in SHIPPED:
            raise ValueError(
                f"application {name!r}: {nearest(name, SHIPPED)}; or give file.py:object"
            )
        module: Any = importlib.import_module(f"streaming.apps.{name}")
        file, attribute = f"streaming/apps/{name}.py", "app"
    elif not file.endswith(".py") or not Path(file).is_file():
        raise ValueError(
            f"application {name!r}: {file!r} is no Python file; expected file.py:object"
        )
    else:
        spec = importlib.util.spec_from_file_location(Path(file).stem, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ValueError(f"application {name!r}: {type(error).__name__}: {error}") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, Application):
        there = [k for k, v in vars(module).items() if isinstance(v, Application)]
        raise ValueError(f"{file} has no Application {attribute!r}: {nearest(attribute, there)}")
    return app


@cli.command()
@click.argument("application", metavar="APP")
@click.option(
    "--log",
    "log_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A Parquet file, or a folder of them.",
)
@click.option(
    "--via",
    type=click.Choice(["memory", "parquet", "kafka"]),
    default="memory",
    show_default=True,
    help="The medium the events go through.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Replay the live topics, as far as they go now, instead of a --log.",
)
@click.option(
    "--broker",
    metavar="HOST:PORT",
    help="Kafka, for --live and --via kafka, instead of kafka.bootstrap.",
)
@with_config
@click.option(
    "--partitions",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Partitions of each topic.",
)
@click.option(
    "--redis",
    metavar="URL",
    help="Publish snapshots there too, under a run key of this replay's own.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the model's first weights.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows only.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of the application, like trainer.dense.lr=0.05.",
)
@click.option(
    "--warm-start",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Begin with the model of these checkpoints, or of a version's file, of any schema.",
)
@click.option(
    "--checkpoints",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep checkpoints there; one that is there is gone on from.",
)
@click.option(
    "--checkpoint-every",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    metavar="N",
    help="Batches between checkpoints.",
)
@click.option(
    "--predictions",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write each served prediction, as Parquet.",
)
@click.option(
    "--dead-letters",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append events that can't be used, as JSON lines.",
)
@click.option(
    "--report",
    "report_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report there, as JSON.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def replay(
    application: str,
    log_path: Path | None,
    settings: tuple[str, ...],
    report_path: Path | None,
    as_json: bool,
    broker: str | None,
    config_path: Path | None,
    **options: Any,
) -> None:
    """Learn from a historical log as if it were live, and report.

    APP is an application of ours (simulated, kuairand, movielens, elec2, census, openbandit) or
    yours, file.py:object. The same log, settings and seed give the same state_hash, whatever the
    medium, the number of partitions, or the interruptions: with --checkpoints, run the same command
    again to go on. With --live it is the state that `freshet learn` has, or would have, of the same
    topics.
    """
    from streaming.collector import tune
    from streaming.progress import Progress, summary
    from streaming.replay import Replay

    for path in (report_path, options["predictions"], options["dead_letters"]):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{str(path)!r}: its folder is not there")
    kafka = configured(config_path).kafka
    if broker:
        kafka = replace(kafka, bootstrap=broker)
    app = load_application(application).with_settings(settings)
    progress = Progress(app.schema, quiet=as_json and not sys.stderr.isatty())
    job = Replay(app, log_path, kafka=kafka, on_step=progress.step, **options)
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: (received.append(n), job.stop.set()))  # type: ignore[func-returns-value]
    tune()
    with progress:
        report = job.run()
    if report is None:
        kept = (
            "run the same command again to go on"
            if job.checkpoints
            else "nothing was kept: no --checkpoints"
        )
        click.echo(f"stopped before the end of the log; {kept}", err=True)
        sys.exit(128 + received[0])
    text = json.dumps(report, indent=2)
    if report_path is not None:
        report_path.write_text(text + "\n")
    click.echo(text if as_json else summary(report))


@cli.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="End after N minutes; else at Ctrl-C.",
)
@click.option(
    "--report",
    "report_path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the report there, as JSON.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Of the page, on loopback; 0 for a free one.",
)
def demo(minutes: float | None, report_path: Path | None, port: int) -> None:
    """Simulated users, a log, Redis, a learner and a server in one process; watch it at the address
    that is printed."""
    from streaming.collector import tune
    from streaming.demo import run

    tune()
    run(minutes=minutes, report=report_path, port=port)


for command in (
    ingest,
    learn,
    serve,
    snapshots,
    features,
    export,
    produce,
    topics,
    dlq,
    doctor,
    drift,
    compare,
    assess,
    checkpoints,
    affinity,
    weights,
    promote,
    offpolicy,
    bench,
):
    cli.add_command(command)


def main() -> None:
    """The console script: a user's mistake is one line on stderr and exit code 2; a server that is
    away or refuses is one, and 1."""
    try:
        cli(standalone_mode=True)
    except (ValueError, ConnectionError, OSError) as error:
        _end(error, 2)
    except RuntimeError as error:
        from features.store import StoreUnavailable
        from streaming.manifest import RegistryError

        if not isinstance(error, RegistryError | StoreUnavailable):
            raise
        _end(error, 1)


def _end(error: Exception, code: int) -> NoReturn:
    from streaming.observe import ended_by

    ended_by(error)
    sys.exit(code)


if __name__ == "__main__":
    main()
