"""What is a task's own is moved by that task alone, and what is shared by all."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.apart import OwnNetworks, OwnRows
from model.network import Network
from model.score import Scorer
from model.structure import SHARING, NetworkConfig


def settings(apart: str, **more: object) -> NetworkConfig:
    return NetworkConfig(**{"experts": 2, "crossed": (), "apart": apart, **more})


@pytest.mark.parametrize("sharing", [name for name in SHARING if name != "single_task"])
@pytest.mark.parametrize("apart", ["rows", "network"])
def test_the_same_goes_on_from_a_state_and_scores_as_it_trained(small, apart, sharing):
    network = settings(apart, sharing=sharing, fm=True)
    one, two = small.trainer(network=network), small.trainer(network=network)
    for number in range(3):
        one.step(small.batch(number))
    two.load(one.state())
    assert one.step(small.batch(3)).finite and two.step(small.batch(3)).finite
    assert one.state_hash() == two.state_hash()
    arrays, meta = one.snapshot()
    scorer, inputs = Scorer(arrays, json.loads(json.dumps(meta))), small.batch(50, 150).inputs
    assert (scorer.predict(inputs) == one.predict(inputs)).all()
    assert (scorer.rank(inputs) == one.predict(inputs)).all()


def only_the_first(small, apart):
    """A model, and its state before and after a step that only the first task has labels for."""
    model = small.trainer(network=settings(apart))
    for number in range(3):
        model.step(small.batch(number))
    before, data = model.state()["model"], small.batch(2)
    mask = data.mask.copy()
    mask[:, 1:] = False
    model.step(replace(data, mask=mask))
    return model, before, model.state()["model"]


def test_rows_of_a_task_are_moved_by_it_alone_and_the_network_by_all(small):
    model, before, after = only_the_first(small, "rows")
    assert isinstance(model.predictor.network, OwnRows)
    keys, _ = model.predictor.network.rows_of(small.batch(2).inputs)
    rows_before = dict(
        zip(before["embedding"]["keys"].tolist(), before["embedding"]["rows"], strict=True)
    )
    rows_after = dict(
        zip(after["embedding"]["keys"].tolist(), after["embedding"]["rows"], strict=True)
    )
    dim = model.predictor.embedding.dim
    for task, own in enumerate(np.split(keys, 3, 1)):
        moved = {
            bool((rows_before[k][:dim] != rows_after[k][:dim]).any())
            for k in np.unique(own[own != 0]).tolist()
        }
        assert moved == {task == 0}
    shared = [n for n in before["network"] if n.startswith("sharing.")]
    assert any((before["network"][n] != after["network"][n]).any() for n in shared)


def test_a_network_of_a_task_is_moved_by_it_alone_and_the_rows_by_all(small):
    model, before, after = only_the_first(small, "network")
    assert isinstance(model.predictor.network, OwnNetworks)
    moved = {
        name.split(".")[1]
        for name, old in before["network"].items()
        if (old != after["network"][name]).any()
    }
    assert moved == {"0"}
    assert (before["embedding"]["rows"] != after["embedding"]["rows"]).any()
    assert len(before["embedding"]["keys"]) < 3 * 60  # one row an id, not three


def test_what_it_says_of_a_task_is_what_a_network_says_that_reads_its_rows(small):
    model = small.trainer(network=settings("rows"))
    network, (n, d) = model.predictor.network, (5, model.predictor.embedding.dim)
    bags = network.rows.bags
    deep, dense = torch.randn(n, 3 * bags, d), torch.randn(n, 3)
    read, _ = network.share(deep, dense)
    for task, own in enumerate(deep.split(bags, 1)):
        alone, _ = Network.share(network, own, dense)
        assert torch.equal(read[task], alone[task])


def test_a_wrong_word_is_named_and_so_is_what_does_not_go_together():
    with pytest.raises(ValueError, match=r"apart is 'row': did you mean 'rows'"):
        NetworkConfig(apart="row")
    with pytest.raises(ValueError, match="expected '' with 'single_task'"):
        NetworkConfig("single_task", apart="rows")
