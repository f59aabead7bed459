"""The baseline of the train and score benchmarks: the same network as most would write it first.

`nn.Embedding` for each field, a loop over expert modules, gates and towers, Adam on everything.
"""

from __future__ import annotations

import torch
from torch import nn


class NaiveMMoE(nn.Module):
    """Ids int64 [n, field] and dense float32 [n, columns] -> logits [n, task]."""

    def __init__(
        self, fields: int, items: int, dim: int, dense: int,
        experts: int, width: int, tower: int, tasks: int,
    ) -> None:  # fmt: skip
        super().__init__()
        inputs = fields * dim + dense
        self.embeddings = nn.ModuleList(nn.Embedding(items, dim) for _ in range(fields))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, width), nn.ReLU()) for _ in range(experts)
        )
        self.gates = nn.ModuleList(nn.Linear(inputs, experts) for _ in range(tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, tower), nn.ReLU(), nn.Linear(tower, 1))
            for _ in range(tasks)
        )

    def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        rows = [embedding(ids[:, i]) for i, embedding in enumerate(self.embeddings)]
        x = torch.cat([*rows, dense], dim=1)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            weights = gate(x).softmax(dim=1).unsqueeze(2)
            logits.append(tower((weights * experts).sum(dim=1)))
        return torch.cat(logits, dim=1)
