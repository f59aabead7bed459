"""What a network may know of its inputs beside reading them: crosses, and attention over a history.

Each starts as what the network would do without it, or does not disturb it. Shapes: n examples;
b bags and s slots of a history, rows of d numbers; outputs, the logits.
"""

from __future__ import annotations

import torch
from torch import nn

from model.layers import uniform


class FM(nn.Module):
    """Products of all pairs of bags: rows [n, b, d] -> [n, outputs], added to the logits.

    Sum over pairs of <v_i, v_j> (Rendle, ICDM 2010, equation 5), on the rows that the deep part
    reads (DeepFM: Guo et al., IJCAI 2017); with a weight for each number of a row and each output,
    1 at first: tasks need not agree on which likeness counts.
    """

    def __init__(self, dim: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, outputs))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1))
        return pairs @ self.weight


class Cross(nn.Module):
    """x [n, inputs] -> the same shape: x' = x0 * (W x + b) + x, `layers` times (DCN-v2: Wang et
    al., WWW 2021, equation 1). W and b start at 0, so x passes as it is."""

    def __init__(self, inputs: int, layers: int):
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(inputs, inputs) for _ in range(layers))
        self.biases = nn.ParameterList(torch.zeros(inputs) for _ in range(layers))

    def layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's W and b, without gradients."""
        pairs = zip(self.weights, self.biases, strict=True)
        return [(weight.detach(), bias.detach()) for weight, bias in pairs]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = first * torch.addmm(bias, x, weight) + x
        return x


class TargetAttention(nn.Module):
    """The history as the item sees it: item [n, d], slots [n, s, d] -> [n, d].

    The sum of the slots by weights that a small network gives to (slot, item, slot * item), not a
    softmax (DIN: Zhou et al., KDD 2018, section 4.3). An empty slot is a row of zeros, and adds
    nothing whatever its weight. All weights start at 1: the pooled history.
    """

    def __init__(self, dim: int, hidden: int, generator: torch.Generator):
        super().__init__()
        self.hidden = uniform((3 * dim, hidden), 3 * dim, generator)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(torch.zeros(hidden))
        self.out_bias = nn.Parameter(torch.ones(1))

    def forward(self, item: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        item = item.unsqueeze(1).expand_as(slots)
        read = torch.cat([slots, item, slots * item], 2)
        hidden = (read @ self.hidden + self.hidden_bias).relu()
        weights = hidden @ self.out + self.out_bias
        return torch.bmm(weights.unsqueeze(1), slots).squeeze(1)
