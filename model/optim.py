"""Optimisers: torch's own for the dense weights, touched rows only for the embedding.

A row is [dim deep | outputs wide] numbers. The deep part shares one mean of squared gradients
(as row-wise AdaGrad does), each wide weight has its own. Its state stands beside it:
[second moments 1 + outputs | age 1 | first moments dim + outputs], as much as its kind uses.

L1 is a proximal step after the optimiser's own, in its metric: a number that is stepped by
lr / root, the root of its second moment (1 for SGD), is drawn towards 0 by l1 x lr / root, and
stops there (Duchi, Hazan, Singer, JMLR 2011, section 5; for Adam, Yun, Lozano, Yang, NeurIPS 2021).
Where there is a root, by lr at most, as far as a gradient goes: small first gradients would
else put a fresh network out at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from model.fetch import AHEAD, fetch
from model.kernel import kernel

KINDS = ("sgd", "adam", "rmsprop", "adagrad")
_SGD, _ADAM, _RMSPROP, _ADAGRAD = range(4)


def _checked(where: str, kind: str, lr: float, l1: float, l2: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"{where}.kind is {kind!r}: expected one of {', '.join(KINDS)}")
    if not lr > 0:
        raise ValueError(f"{where}.lr is {lr}: expected more than 0")
    for name, value in (("l1", l1), ("l2", l2)):
        if not value >= 0:
            raise ValueError(f"{where}.{name} is {value}: expected 0 or more")


@dataclass(frozen=True)
class DenseOptimiser:
    """The optimiser of the dense weights; `l2` is weight decay, added to the gradient; `l1` draws
    weights to 0."""

    kind: str = "adagrad"
    lr: float = 0.02
    l1: float = 0.0
    l2: float = 0.0
    initial: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _checked("DenseOptimiser", self.kind, self.lr, self.l1, self.l2)

    def build(self, weights: torch.Tensor) -> torch.optim.Optimizer:
        """torch's own, over one flat tensor (so one kernel a step)."""
        settings: dict = {"lr": self.lr, "weight_decay": self.l2}
        if self.kind == "sgd":
            return torch.optim.SGD([weights], **settings)
        if self.kind == "adagrad":
            settings["initial_accumulator_value"] = self.initial
            return torch.optim.Adagrad([weights], eps=self.eps, **settings)
        make = torch.optim.Adam if self.kind == "adam" else torch.optim.RMSprop
        return make([weights], eps=self.eps, **settings)

    def step(self, optimiser: torch.optim.Optimizer, lr: float) -> None:
        """A step of what `build` made, at the learning rate `lr`, and L1's after it."""
        group = optimiser.param_groups[0]
        group["lr"] = lr
        optimiser.step()
        if self.l1:
            for weights in group["params"]:
                _shrink(weights, self._reach(optimiser.state[weights], group))

    def _reach(self, state: dict, group: dict) -> torch.Tensor:
        """How far L1 draws each weight."""
        if self.kind == "sgd":
            return torch.tensor(group["lr"] * self.l1)
        second = state[{"adagrad": "sum", "adam": "exp_avg_sq", "rmsprop": "square_avg"}[self.kind]]
        if self.kind == "adam":
            second = second / (1 - group["betas"][1] ** state["step"])
        return group["lr"] * (self.l1 / (second.sqrt() + self.eps)).clamp(max=1)


def _shrink(weights: torch.Tensor, reach: torch.Tensor) -> None:
    """Draws weights to 0 by `reach`, in place."""
    weights.sub_(torch.minimum(torch.maximum(weights, -reach), reach))


@dataclass(frozen=True)
class RowOptimiser:
    """The optimiser of embedding rows; formulas as in torch.optim, but by row.

    `momentum` and `decay` are Adam's beta1 and beta2, `decay` RMSProp's alpha too; Adam's bias is
    corrected by the row's own age. `initial` is AdaGrad's first accumulator. `l2` and `l1` move the
    rows of a batch only. `wide_lr` is for the wide weights; `lr` for the deep part.
    """

    kind: str = "adagrad"
    lr: float = 0.1
    wide_lr: float = 0.02
    l1: float = 0.0
    l2: float = 0.0
    momentum: float = 0.9
    decay: float = 0.99
    initial: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _checked("RowOptimiser", self.kind, self.lr, self.l1, self.l2)

    def width(self, dim: int, outputs: int) -> int:
        """Numbers of state that a row has."""
        if self.kind == "sgd":
            return 0
        return 1 + outputs + (1 + dim + outputs if self.kind == "adam" else 0)

    def fresh(self, dim: int, outputs: int) -> np.ndarray:
        """A new row's state, float32 [width]."""
        state = np.zeros(self.width(dim, outputs), np.float32)
        if self.kind == "adagrad":
            state[:] = self.initial
        return state

    def update(
        self,
        rows: torch.Tensor,
        state: torch.Tensor,
        touched: torch.Tensor,
        grads: torch.Tensor,
        rates: torch.Tensor,
    ) -> None:
        """Moves `rows[touched]` and their state, in place.

        rows [capacity, dim + outputs], state [capacity, width], touched int64 [u] (each once),
        grads [u, dim + outputs], rates [1 + outputs]: the learning rates, deep and wide ones.
        """
        numbers = (self.l1, self.l2, self.momentum, self.decay, self.eps)
        kind = KINDS.index(self.kind)
        if rows.device.type == "cpu":
            _update(
                kind, *numbers, rows.numpy(), state.numpy(), touched.numpy(), grads.numpy(),
                rates.numpy(),
            )  # fmt: skip
        else:
            update_in_torch(kind, *numbers, rows, state, touched, grads, rates)


@kernel
def _update(kind, l1, l2, momentum, decay, eps, rows, state, touched, grads, rates) -> None:  # type: ignore[no-untyped-def]
    outputs = rates.shape[0] - 1
    width = rows.shape[1]
    dim = width - outputs
    first = 2 + outputs
    for u in range(touched.shape[0]):
        if u % AHEAD == 0:
            fetch(rows, touched[u : u + AHEAD])
            fetch(state, touched[u : u + AHEAD])
        row, g, s = rows[touched[u]], grads[u], state[touched[u]]
        if l2 != 0.0:
            for c in range(width):
                g[c] += l2 * row[c]
        if kind == _SGD:
            for c in range(width):
                rate = rates[max(c - dim + 1, 0)]
                row[c] -= rate * g[c]
                if l1 != 0.0:
                    row[c] -= min(max(row[c], -rate * l1), rate * l1)
            continue
        square = 0.0
        for c in range(dim):
            square += g[c] * g[c]
        unbias1, unbias2 = 1.0, 1.0
        if kind == _ADAM:
            s[first - 1] += 1.0
            unbias1 = 1.0 - momentum ** s[first - 1]
            unbias2 = 1.0 - decay ** s[first - 1]
        for part in range(outputs + 1):
            begin, end = (0, dim) if part == 0 else (dim + part - 1, dim + part)
            mean = square / dim if part == 0 else g[begin] * g[begin]
            if kind == _ADAGRAD:
                s[part] += mean
            else:
                s[part] = decay * s[part] + (1.0 - decay) * mean
            root = np.sqrt(s[part] / unbias2) + eps
            step = rates[part] / unbias1 / root
            if kind == _ADAM:
                for c in range(begin, end):
                    s[first + c] = momentum * s[first + c] + (1.0 - momentum) * g[c]
                    row[c] -= step * s[first + c]
            else:
                for c in range(begin, end):
                    row[c] -= step * g[c]
            if l1 != 0.0:
                reach = rates[part] * min(l1 / root, 1.0)
                for c in range(begin, end):
                    row[c] -= min(max(row[c], -reach), reach)


def update_in_torch(kind, l1, l2, momentum, decay, eps, rows, state, touched, grads, rates) -> None:  # type: ignore[no-untyped-def]
    """`_update` in torch's operations, for devices that numba does not reach."""
    outputs = len(rates) - 1
    dim = rows.shape[1] - outputs
    spread = torch.cat([torch.zeros(dim, dtype=torch.long), torch.arange(1, outputs + 1)])
    spread = spread.to(rows.device)
    row, s = rows[touched], state[touched]
    g = grads + l2 * row if l2 else grads
    if kind == _SGD:
        row -= rates[spread] * g
        if l1:
            _shrink(row, rates[spread] * l1)
        rows[touched] = row
        return
    squares = torch.cat([g[:, :dim].square().mean(1, keepdim=True), g[:, dim:].square()], 1)
    moments = slice(0, 1 + outputs)
    if kind == _ADAGRAD:
        s[:, moments] += squares
    else:
        s[:, moments] = decay * s[:, moments] + (1 - decay) * squares
    second = s[:, moments]
    if kind == _ADAM:
        s[:, 1 + outputs] += 1
        age = s[:, 1 + outputs : 2 + outputs]
        s[:, 2 + outputs :] = momentum * s[:, 2 + outputs :] + (1 - momentum) * g
        g = s[:, 2 + outputs :] / (1 - momentum**age)
        second = second / (1 - decay**age)
    root = second.sqrt() + eps
    row -= (rates / root)[:, spread] * g
    if l1:
        _shrink(row, (rates * (l1 / root).clamp(max=1))[:, spread])
    rows[touched] = row
    state[touched] = s
