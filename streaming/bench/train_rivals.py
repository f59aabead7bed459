"""The reference network as torch-rechub and DeepCTR-Torch ship it, each with the step of its own
trainer: Adam, and what that adds to the loss. Both are of the extra `rivals`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional

from streaming.bench.train_work import DENSE, FIELDS, TASKS, Work

NAMES = {"torch_rechub": "torch-rechub", "deepctr_torch": "DeepCTR-Torch"}
"""By module, as people call it."""

Build = Callable[[Work, int, int, int, int], Callable[[int], float]]
"""Work, experts, their width, the towers', and that of embeddings -> a step."""


def installed() -> dict[str, Build]:
    """By module, those that are there."""
    rivals = {"torch_rechub": torch_rechub, "deepctr_torch": deepctr_torch}
    return {name: build for name, build in rivals.items() if find_spec(name) is not None}


def torch_rechub(
    work: Work, experts: int, width: int, tower: int, dim: int
) -> Callable[[int], float]:
    """As its MTLTrainer does it: the mean of the tasks' losses, Adam with weight decay."""
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE

    torch.manual_seed(0)
    items = work.items_of_field
    features: list[Any] = [SparseFeature(f"f{i}", items, dim) for i in range(FIELDS)]
    features += [DenseFeature(f"x{i}") for i in range(DENSE)]
    model = MMOE(
        features,
        ["classification"] * TASKS,
        experts,
        {"dims": [width]},
        [{"dims": [tower]}] * TASKS,
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)

    def step(number: int) -> float:
        batch = work.batches[number]
        ids, dense = torch.from_numpy(work.ids[number]), torch.from_numpy(batch.inputs.dense)
        read = {f"f{i}": ids[:, i] for i in range(FIELDS)}
        read |= {f"x{i}": dense[:, i] for i in range(DENSE)}
        found, labels = model(read), torch.from_numpy(batch.labels)
        losses = [functional.binary_cross_entropy(found[:, k], labels[:, k]) for k in range(TASKS)]
        loss = sum(losses[1:], losses[0]) / TASKS
        model.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def deepctr_torch(
    work: Work, experts: int, width: int, tower: int, dim: int
) -> Callable[[int], float]:
    """As its `fit` does it: the sum of the examples' losses and of its regularisation, Adam."""
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import MMOE

    items = work.items_of_field
    columns: list[Any] = [SparseFeat(f"f{i}", items, dim) for i in range(FIELDS)]
    columns += [DenseFeat(f"x{i}", 1) for i in range(DENSE)]
    model = MMOE(
        columns, experts, (width,), (), (tower,), task_types=["binary"] * TASKS,
        task_names=[f"t{i}" for i in range(TASKS)], seed=0,
    )  # fmt: skip
    model.compile("adam", ["binary_crossentropy"] * TASKS)

    def step(number: int) -> float:
        batch = work.batches[number]
        ids, dense = torch.from_numpy(work.ids[number]), torch.from_numpy(batch.inputs.dense)
        labels = torch.from_numpy(batch.labels)
        found = model(torch.cat([ids.float(), dense], 1)).squeeze()
        model.optim.zero_grad()
        losses = [
            model.loss_func[k](found[:, k], labels[:, k], reduction="sum") for k in range(TASKS)
        ]
        loss = sum(losses[1:], losses[0])
        (loss + model.get_regularization_loss() + model.aux_loss).backward()
        model.optim.step()
        return float(loss.detach()) / (TASKS * len(batch))

    return step
