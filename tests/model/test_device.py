"""Every tensor is made on the model's device: shown on `meta`, which has no numbers, and to which
nothing that is elsewhere can be added."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.blocks import dropping
from model.conflict import Split
from model.optim import KINDS, DenseOptimiser, RowOptimiser, update_in_torch
from model.pooling import pool_in_torch
from model.score import Block
from model.structure import SHARING, NetworkConfig

META = "meta"


def tensors(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors that an object holds, by where they are."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, torch.Tensor):
        yield path, node
    elif isinstance(node, dict):
        for name, part in node.items():
            yield from tensors(part, f"{path}.{name}", seen)
    elif isinstance(node, (list, tuple)):
        for number, part in enumerate(node):
            yield from tensors(part, f"{path}.{number}", seen)
    elif type(node).__module__.startswith("model.") or isinstance(node, torch.nn.Module):
        yield from tensors(vars(node), path, seen)


def everything(sharing: str) -> NetworkConfig:
    return NetworkConfig(
        sharing, cross=1, fm=True, attention=("seen",), norm=True, residual=1, dropout=0.1
    )


@pytest.mark.parametrize("sharing", SHARING)
def test_all_tensors_of_a_trainer_are_on_its_device(small: SimpleNamespace, sharing: str) -> None:
    trainer = small.trainer(device=META, network=everything(sharing), train_only=("towers",))
    trainer.adjust(np.ones(3), np.array([1.0, 2.0, 1.0]), 1.0)
    found = dict(tensors(trainer, "trainer", set()))
    assert len(found) > 20
    assert not {path: t.device for path, t in found.items() if t.device.type != META}


@pytest.mark.parametrize(
    ("sharing", "cut"),
    [
        *((sharing, False) for sharing in SHARING),
        *((sharing, True) for sharing in SHARING if sharing != "single_task"),
    ],
)
def test_a_pass_back_and_forth_makes_nothing_elsewhere(
    small: SimpleNamespace, sharing: str, cut: bool
) -> None:
    trainer = small.trainer(device=META, network=everything(sharing))
    model = trainer.predictor
    dense = torch.zeros(64, 3, device=META)
    none = np.zeros(0)
    block = Block(none, none, none, model._deep, model._wide, dense)
    with dropping(model.network, 0, 0):
        if cut:
            split = Split(model.network, block)
            logits = split.logits
        else:
            logits = model.network(block.deep, block.wide, block.dense)
        linked = model.objective.link(logits.detach())
        aims = torch.zeros(2, 64, 5, device=META)
        logits.backward(model.objective.gradient(logits.detach(), linked, *aims))
        if cut:
            split.backward(np.ones(3))
    trainer._move(1.0)
    made = [logits, linked, block.deep.grad, trainer._grads]
    assert all(tensor is not None and tensor.device.type == META for tensor in made)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_pooled_and_moved_where_they_are(kind: str) -> None:
    optimiser = RowOptimiser(kind, l1=0.1, l2=0.1)
    rows, state = (torch.zeros(9, n, device=META) for n in (6, optimiser.width(4, 2)))
    index, weights = np.zeros((3, 2), np.int64), np.ones((3, 2), np.float32)
    deep, wide = torch.zeros(3, 2, 4, device=META), torch.zeros(3, 2, device=META)
    pool_in_torch(rows, index, weights, np.array([0, 1]), 4, deep, wide)
    touched = torch.zeros(3, dtype=torch.long, device=META)
    grads, rates = torch.zeros(3, 6, device=META), torch.ones(3, device=META)
    numbers = (0.1, 0.1, 0.9, 0.99, 1e-8)
    update_in_torch(KINDS.index(kind), *numbers, rows, state, touched, grads, rates)
    flat = torch.zeros(5, device=META)
    flat.grad = torch.zeros_like(flat)
    dense = DenseOptimiser(kind, l1=0.1)
    dense.step(dense.build(flat), 0.1)
