"""`freshet snapshots` on a real Redis, as a user would."""

from __future__ import annotations

import itertools
import json
from contextlib import closing

import pytest
from click.testing import CliRunner

from model.snapshot import Snapshot, encode
from model.train import Trainer
from streaming.__main__ import cli
from streaming.bench.train import config
from streaming.bench.train_work import Work, layout, schema
from streaming.manifest import Base
from streaming.redis_registry import RedisRegistry
from streaming.registry import NoSuchVersion

runs = itertools.count()


@pytest.fixture
def shop(redis_url):
    """`freshet snapshots WORDS...` of an application with versions 1 to 4, and its registry."""
    name = f"shop-{next(runs)}"
    trainer, base = Trainer(schema, layout, config(64, "cpu"), seed=0), None
    with closing(RedisRegistry(redis_url, name)) as registry:
        for version, batch in enumerate(Work(500, 16, 4).batches, 1):
            trainer.step(batch)
            told = trainer.version(whole=base is None)
            data = encode(Snapshot(version, told.arrays, told.meta))
            card = {"examples": 16 * version, "seed": 0}
            registry.publish(data, version, 1, card, base=base, content=told.content)
            trainer.told()
            base = Base(version, told.content)

        def say(command, *words, code=0):
            line = ["snapshots", command, name, *map(str, words), "--redis", redis_url, "--json"]
            done = CliRunner().invoke(cli, line)
            assert done.exit_code == code, done.output
            return json.loads(done.stdout) if code == 0 else done

        yield say, registry
        registry.clear()


def served(say):
    return [line["version"] for line in say("list") if line["served"]]


def test_versions_are_listed_shown_and_compared(shop):
    say, _ = shop
    lines = say("list")
    assert [(line["version"], line["kind"]) for line in lines] == [
        (1, "full"), (2, "delta"), (3, "delta"), (4, "delta"),
    ]  # fmt: skip
    assert served(say) == [4]
    out = say("show", 3)
    assert out["path"] == [1, 2, 3] and out["card"] == {"examples": 48, "seed": 0}
    out = say("diff", 1, 3)
    assert out["examples"] == 32 and not out["same_content"]
    assert out["rows"]["new"] > 0 and out["rows"]["gone"] == 0
    assert out["rows"]["changed"] > 0 and out["rows"]["root_mean_square"] > 0
    assert any(moved["most"] > 0 for moved in out["weights"].values())
    assert say("diff", 2, 2)["same_content"]


def test_a_roll_back_goes_to_what_was_served_before_and_stays_until_something_new(shop):
    say, registry = shop
    assert say("rollback") == {"version": 3, "epoch": 1, "turn": 1, "pinned": False}
    assert say("rollback")["version"] == 2
    assert say("rollback", 1, "--why", "worse")["version"] == 1
    held = {line["version"]: line["held"] for line in say("list")}
    assert held == {1: None, 2: "worse", 3: "rolled back by hand", 4: "rolled back by hand"}
    say("rollback", code=1)
    registry.publish(b"new", 5, 1, {})
    assert served(say) == [5]


def test_a_pin_is_served_and_kept_until_it_is_let_go(shop):
    say, registry = shop
    assert say("pin", 2)["pinned"] is True
    registry.publish(b"new", 5, 1, {})
    assert served(say) == [2]
    assert say("unpin", 2) == {"version": 2, "epoch": 1, "turn": 1, "pinned": False}
    registry.publish(b"newer", 6, 1, {})
    assert served(say) == [6]
    assert say("pin", 4, "--keep")["version"] == 6
    for version in range(7, 20):
        registry.publish(b"%d" % version, version, 1, {})
    assert say("gc") == {"removed": []}
    assert [line["version"] for line in say("list")][:4] == [1, 2, 3, 4]
    say("unpin", 4)
    assert say("gc") == {"removed": [4, 3, 2, 1]}


def test_what_is_not_there_is_said_by_its_number(shop):
    say, _ = shop
    for words in (("show", 9), ("diff", 1, 9), ("pin", 9), ("rollback", 9)):
        done = say(*words, code=1)
        assert isinstance(done.exception, NoSuchVersion | ValueError), done.exception
        assert "9" in str(done.exception)


def test_people_are_told_in_words(shop, redis_url):
    _, registry = shop
    name = registry._chunk.split("{")[1].split("}")[0]
    for words in (["list", name], ["show", name, "2"], ["diff", name, "1", "2"], ["gc", name]):
        done = CliRunner().invoke(cli, ["snapshots", *words, "--redis", redis_url])
        assert done.exit_code == 0 and done.stdout.strip(), done.output
    done = CliRunner().invoke(cli, ["snapshots", "list", "nobody", "--redis", redis_url])
    assert done.stdout == "no versions: `freshet learn` publishes them\n"
