"""The commands around the live topics: `freshet produce`, `freshet topics`, `freshet dlq`."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from streaming.cli_config import configured, with_config

if TYPE_CHECKING:
    from streaming.dlq import Letter

MAX_SHOWN = 60


@click.command()
@click.argument("application", metavar="APP")
@click.option(
    "--log",
    "log_path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A Parquet file, or a folder of them.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Events a second.  [default: all that go; with --shift-to-now, as they came]",
)
@click.option("--end", is_flag=True, help="End the log, for those who wait until all is learned.")
@click.option(
    "--shift-to-now",
    is_flag=True,
    help="Have it happen now: for topics in wall time, as served ones are.",
)
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=0,
    metavar="ROWS",
    help="Go on after so many rows of the log, as a run that was stopped says.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N rows only.")
@with_config
def produce(
    application: str,
    log_path: Path | None,
    limit: int | None,
    config_path: Path | None,
    **options: Any,
) -> None:
    """Send a historical log of APP into its live topics.

    Events keep their times, so that learning from the topics is a replay of the log. SIGTERM and
    Ctrl-C end it at a row, and say at which.
    """
    from streaming.__main__ import load_application
    from streaming.dlq import DeadLetterTopic
    from streaming.history import read_rows, side_tables
    from streaming.produce import Production
    from streaming.replay import ROWS_OF_A_SOURCE
    from streaming.sending import Sending
    from streaming.topics import DEAD, open_log

    config, app = configured(config_path), load_application(application)
    stop = Event()
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: (received.append(n), stop.set()))  # type: ignore[func-returns-value]
    if log_path is not None:
        rows: Any = read_rows(app, log_path, limit)
    elif app.source is not None:
        rows = islice(app.source(), limit or ROWS_OF_A_SOURCE)
    else:
        raise ValueError(f"application {app.name!r} makes no log of its own: give --log PATH")
    tables = side_tables(app, log_path)
    with (
        closing(open_log(config.kafka, app.name)) as log,
        closing(open_log(config.kafka, app.name, DEAD)) as dead,
        Sending() as sending,
    ):
        letters = DeadLetterTopic(dead, "produce")
        job = Production(app, log, letters, stop=stop, on_sent=sending.sent, **options)
        sent = job.run(rows, tables)
    said = f"{sent.rows:,} rows, {sent.events:,} events, {sent.bad:,} bad"
    if not sent.finished:
        click.echo(f"stopped after {said}; --skip {sent.rows} goes on from there", err=True)
        sys.exit(128 + received[0])
    click.echo(f"sent {said}{', and the end' if options['end'] else ''}")


@click.group()
def topics() -> None:
    """The live topics of an application in Kafka."""


@topics.command()
@click.argument("application", metavar="APP")
@with_config
def create(application: str, config_path: Path | None) -> None:
    """Make the topics of APP that are missing, with the configured kafka.partitions."""
    from streaming.__main__ import load_application
    from streaming.topics import create, describe

    config, app = configured(config_path), load_application(application)
    create(config.kafka, app.name)
    for topic in describe(config.kafka, app.name):
        click.echo(f"{topic.name}: {topic.partitions} partitions")


@topics.command()
@click.argument("application", metavar="APP")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@with_config
def describe(application: str, as_json: bool, config_path: Path | None) -> None:
    """How the topics of APP stand: their partitions, retention and records."""
    from streaming.__main__ import load_application
    from streaming.topics import describe

    config, app = configured(config_path), load_application(application)
    found = describe(config.kafka, app.name)
    if as_json:
        click.echo(json.dumps([topic._asdict() for topic in found], indent=2))
        return
    width = max(len(topic.name) for topic in found)
    click.echo(f"{'TOPIC':<{width}}  PARTITIONS  RETENTION     RECORDS")
    for topic in found:
        kept = "for ever" if topic.retention_ms < 0 else f"{topic.retention_ms / 3_600_000:g} h"
        standing = f"{topic.partitions:>10}  {kept:<9}  {topic.records:>10,}"
        if not topic.partitions:
            standing = f"not there: make it with `freshet topics create {application}`"
        click.echo(f"{topic.name:<{width}}  {standing}")


@topics.command()
@click.argument("application", metavar="APP")
@click.argument("partitions", type=click.IntRange(2, 1024))
@click.option("--had", type=click.IntRange(1), metavar="N", help="Where another tool added them.")
@with_config
def grow(application: str, partitions: int, had: int | None, config_path: Path | None) -> None:
    """Give the topics of APP so many PARTITIONS, and say so in the log.

    A learner takes them up at that place of the log, without a restart, and so does each replay.
    Then restart producers, servers and ingest workers: those that send to the old partitions only
    send no heartbeats to the new ones, and the learner waits for these.
    """
    from streaming.__main__ import load_application
    from streaming.growth import grow

    config, app = configured(config_path), load_application(application)
    grow(config.kafka, app, partitions, had)
    click.echo(f"{app.name}: {partitions} partitions; restart producers, servers and ingest")


@click.group()
def dlq() -> None:
    """Dead letters: events that could not be used."""


@dlq.command(name="list")
@click.argument("application", metavar="APP")
@click.option("--json", "as_json", is_flag=True, help="Print each as a line of JSON.")
@with_config
def list_(application: str, as_json: bool, config_path: Path | None) -> None:
    """List the dead letters of APP, oldest first, by their offsets."""
    from streaming.__main__ import load_application
    from streaming.dlq import letters
    from streaming.topics import DEAD, open_log

    config, app = configured(config_path), load_application(application)
    with closing(open_log(config.kafka, app.name, DEAD)) as log:
        for letter in letters(log):
            click.echo(json.dumps(_content(letter)) if as_json else _line(letter))


@dlq.command()
@click.argument("application", metavar="APP")
@click.argument("offset", type=click.IntRange(0))
@with_config
def show(application: str, offset: int, config_path: Path | None) -> None:
    """Show the dead letter at OFFSET, with all that it holds, as JSON."""
    from streaming.__main__ import load_application
    from streaming.dlq import find
    from streaming.topics import DEAD, open_log

    config, app = configured(config_path), load_application(application)
    with closing(open_log(config.kafka, app.name, DEAD)) as log:
        (letter,) = find(log, [offset])
    click.echo(json.dumps(_content(letter), indent=2))


@dlq.command()
@click.argument("application", metavar="APP")
@click.argument("offsets", metavar="OFFSET...", type=click.IntRange(0), nargs=-1, required=True)
@with_config
def retry(application: str, offsets: tuple[int, ...], config_path: Path | None) -> None:
    """Send the records of the dead letters at OFFSET... again, as they were.

    For when the reason is gone: a kind of feedback or a field that APP knows now. They take part
    from now on; what the learner remembers no more, it counts as late.
    """
    from streaming.__main__ import load_application
    from streaming.dlq import retry

    config, app = configured(config_path), load_application(application)
    for letter in retry(config.kafka, app.name, offsets):
        click.echo(f"retried {letter.offset}: {_where(letter)}")


def _content(letter: Letter) -> dict[str, Any]:
    return {
        "at": letter.offset,
        "time_ms": letter.time_ms,
        "retried": letter.retried,
        "letter": letter.says,
    }


def _line(letter: Letter) -> str:
    when = datetime.fromtimestamp(letter.time_ms / 1000, UTC).isoformat(" ", "seconds")[:19]
    reason = str(letter.says.get("reason", ""))
    short = reason if len(reason) <= MAX_SHOWN else reason[: MAX_SHOWN - 3] + "..."
    said = f"{letter.offset:>8}  {when}  {letter.says.get('worker', ''):<8}  {_where(letter):<24}"
    return f"{said}  {short}{'  (retried)' if letter.retried else ''}"


def _where(letter: Letter) -> str:
    says = letter.says
    if "topic" in says:
        return f"{says['topic']}[{says['partition']}] at {says['offset']}"
    return f"row {says['row']}" if "row" in says else "a batch"
