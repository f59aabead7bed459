from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from model.batch import Batch
from model.embedding import EmbeddingConfig
from model.idmap import table_keys, table_salt
from model.optim import KINDS, DenseOptimiser, RowOptimiser
from model.structure import SHARING, NetworkConfig
from model.train import Trainer


def salted(small: SimpleNamespace, seed: int, ids: int = 40) -> Batch:
    """A batch whose keys are of their tables, as those of real logs are."""
    batch = small.batch(seed, ids=ids)
    for slot, table in enumerate(["user", *["item"] * 5]):
        column = np.ascontiguousarray(batch.inputs.keys[:, slot])
        batch.inputs.keys[:, slot] = np.where(column, table_keys(table_salt(table), column), 0)
    return batch


def rest(trainer: Trainer) -> dict[str, np.ndarray]:
    """All that a trainer learns, by what it is of; its rows by table."""
    state = trainer.state()
    model, found = state["model"], {}
    for part in ("dense", "labels"):
        found |= {f"{part}/{name}": array for name, array in model[part].items()}
    for name, array in model["network"].items():
        found[name] = array
    for table in ("user", "item"):
        unseen = -1 - table_salt(table)
        keys = {int(k) for k in table_keys(table_salt(table), np.arange(400) * 7919)} | {unseen}
        at = [i for i, key in enumerate(model["embedding"]["keys"].tolist()) if key in keys]
        for what in ("keys", "rows", "state"):
            found[f"embedding.{table}/{what}"] = model["embedding"][what][at]
    assert len(trainer.predictor.embedding) == sum(
        len(found[f"embedding.{t}/keys"]) for t in ("user", "item")
    )
    return found


def moved(small: SimpleNamespace, one: Trainer, seeds: range) -> set[str]:
    before = rest(one)
    for seed in seeds:
        assert one.step(salted(small, seed, ids=60)).finite
    after = rest(one)
    return {
        name
        for name in after
        if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    }


def pretrained(small: SimpleNamespace, *names: str, **settings: object) -> Trainer:
    """A trainer that has learnt all, and then goes on with `names` only."""
    whole = small.trainer(**settings)
    for seed in range(6):
        whole.step(salted(small, seed))
    part = small.trainer(train_only=names, **settings)
    part.load(whole.state())
    return part


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_named_stays_bit_for_bit(small: SimpleNamespace, kind: str) -> None:
    settings = {
        "dense": DenseOptimiser(kind, lr=0.01, l1=0.01, l2=0.01),
        "rows": RowOptimiser(kind, lr=0.01, l1=0.01, l2=0.01),
        "network": NetworkConfig(norm=True, cross=1, fm=True, crossed=()),
    }
    one = pretrained(small, "towers", "embedding.user", **settings)
    names = moved(small, one, range(6, 9))
    assert {"towers.hidden", "towers.out", "towers.norm.mean", "embedding.user/rows"} <= names
    assert all(name.startswith(("towers.", "embedding.user/")) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimisers_state_of_what_stays_stays(small: SimpleNamespace, kind: str) -> None:
    one = pretrained(small, "towers", dense=DenseOptimiser(kind, lr=0.01, l2=0.1))
    network = one.predictor.network
    stays = slice(network.sharing.weight.storage_offset(), network.towers.hidden.storage_offset())  # type: ignore[union-attr]
    before = one.state()["optimiser"]
    one.step(salted(small, 6))
    for name, values in one.state()["optimiser"].items():
        if values.size > 1:
            assert (values[stays] == before[name][stays]).all()
            assert (values != before[name]).any()


@pytest.mark.parametrize("sharing", SHARING)
def test_the_tower_of_a_task_learns_alone(small: SimpleNamespace, sharing: str) -> None:
    one = pretrained(small, "towers.time", network=NetworkConfig(sharing, crossed=()))
    before = one.state()["model"]
    for seed in range(6, 9):
        one.step(salted(small, seed))
    after = one.state()["model"]
    assert one.predictor.labels.seen.count.tolist() == before["labels"]["count"].tolist()
    for name, array in after["network"].items():
        same = before["network"][name] == array
        if sharing == "single_task":
            assert same.all() != name.startswith("networks.2.towers")
        elif name.startswith("towers."):
            assert same[:2].all() and not same[2].all()
        else:
            assert same.all()
    assert (after["embedding"]["rows"] == before["embedding"]["rows"]).all()
    out = one.predict(salted(small, 99).inputs)
    assert np.isfinite(out).all()


def test_a_frozen_table_admits_nobody_and_lets_its_ids_leave(small: SimpleNamespace) -> None:
    limited = EmbeddingConfig(8, capacity=60, admit_after=2)
    one = pretrained(small, "embedding.item", "labels", embedding=limited)
    before = rest(one)
    names = moved(small, one, range(6, 12))
    assert "embedding.item/keys" in names and "labels/mean" in names
    after, mine = rest(one), "embedding.user/keys"
    stayed = np.isin(before[mine], after[mine])
    assert 1 < len(after[mine]) < len(before[mine])
    assert (before["embedding.user/rows"][stayed] == after["embedding.user/rows"]).all()


def test_all_parts_named_are_as_none(small: SimpleNamespace) -> None:
    names = ("cross", "sharing", "towers", "linear", "bias", "embedding", "inputs", "labels")
    one, two = small.trainer(), small.trainer(train_only=names)
    for seed in range(5):
        one.step(salted(small, seed)), two.step(salted(small, seed))
    assert one.state_hash() == two.state_hash()


def test_a_name_of_no_part_is_an_error_that_tells_the_nearest(small: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"train_only has 'towers.clik': did you mean 'towers.cli"):
        small.trainer(train_only=("towers.clik",))
    with pytest.raises(ValueError, match=r"'embedding.items': did you mean 'embedding.item'"):
        small.trainer(train_only=("embedding.items",))
