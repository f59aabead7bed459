"""A forward pass cut in two at what the tasks share, so that their gradients can be told apart.

Each task's tower reads a slice of its own, so one backward pass through the towers leaves there the
gradient of each task's loss; it goes on through what is shared once they are weighed.

Shapes: read [task, n, width], FM's part of the logits [n, outputs], gradients [task, numbers].
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from model.network import Network
from model.score import Block


class Split:
    """One forward pass of a network. Use in order: `logits` and their backward pass, `gram`,
    `backward`. Raises ValueError for a network whose tasks share nothing."""

    def __init__(self, network: nn.Module, block: Block) -> None:
        if not isinstance(network, Network):
            raise ValueError("a weighter of gradients needs a network whose tasks share something")
        self._network, self._block = network, block
        read, of_fm = network.share(block.deep, block.dense)
        self._made = [read] if of_fm is None else [read, of_fm]
        self._cut = [made.detach().requires_grad_() for made in self._made]
        fm = None if of_fm is None else self._cut[1]
        self.logits = network.answer(self._cut[0], fm, block.wide, block.dense)

    def gram(self, of: str, weights: np.ndarray) -> np.ndarray:
        """The inner products float64 [task, task] of the losses' gradients, without the `weights`
        [task] that the backward pass held: by the "representation" that was read, or by all shared
        "parameters" (for the embedding, by its pooled rows), by a backward pass a task."""
        if of == "representation":
            gradients = self._gradients()[0].flatten(1)
        else:
            gradients = self._of_parameters(len(weights))
        inner = (gradients @ gradients.t()).cpu().numpy().astype(np.float64)
        return np.asarray(inner / np.outer(weights, weights))

    def backward(self, scale: np.ndarray) -> None:
        """Goes on through what is shared, each task's gradient times its `scale` [task]."""
        by_task = torch.from_numpy(scale).to(self._cut[0].device, torch.float32)
        torch.autograd.backward(self._made, self._scaled(by_task))

    def _scaled(self, by_task: torch.Tensor) -> list[torch.Tensor]:
        read, *of_fm = self._gradients()
        of_output = self._network.by_output(by_task)
        return [read * by_task.view(-1, 1, 1), *(part * of_output for part in of_fm)]

    def _gradients(self) -> list[torch.Tensor]:
        return [cut.grad for cut in self._cut if cut.grad is not None]

    def _of_parameters(self, tasks: int) -> torch.Tensor:
        one_of = torch.eye(tasks, device=self._cut[0].device)
        own = {id(p) for p, _ in self._network.own(one_of[0])}
        shared = [p for p in self._network.parameters() if id(p) not in own]
        rows = []
        for task in one_of:
            parts = torch.autograd.grad(
                self._made,
                [*shared, self._block.deep],
                self._scaled(task),
                retain_graph=True,
            )
            rows.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(rows)
