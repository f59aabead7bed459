"""Tasks that follow one another: click, then purchase, each learnt from all impressions.

The logit of a task with `given` is of its odds once the task before it came true; its prediction is
the joint probability, the product of all up to it (ESMM: Ma et al., SIGIR 2018, equation 5). Its
loss is that of the product, against its label in all impressions, and moves the whole chain: no
network is taught on the few clicked ones only. Shapes: n examples; outputs, the logits.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from model.schema import Schema

_LEAST = 1e-30


class Chains:
    """`before` int64 [task]: the task that each is given, -1 for none."""

    def __init__(self, schema: Schema):
        names = [t.name for t in schema.tasks]
        self.before = np.array([names.index(t.given) if t.given else -1 for t in schema.tasks])
        starts = [schema.output_slices[name].start for name in names]
        self._columns: list[list[int]] = []  # of each chain, from its first task to its last
        for task in np.flatnonzero(self.before >= 0).tolist():
            way = [task]
            while self.before[way[0]] >= 0:
                way.insert(0, int(self.before[way[0]]))
            self._columns.append([starts[t] for t in way])

    def __bool__(self) -> bool:
        return bool(self._columns)

    def joint(self, logits: torch.Tensor) -> torch.Tensor:
        """[n, outputs] -> the same, with the log-odds of the product for each task of a chain."""
        if not self._columns:
            return logits
        out = logits.clone()
        for columns in self._columns:
            log_p = F.logsigmoid(logits[:, columns]).sum(1).clamp(max=-_LEAST)
            out[:, columns[-1]] = log_p - torch.log(-torch.expm1(log_p))
        return out

    def gradient(self, logits: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
        """From gradients by the joint log-odds to those by `logits`, both [n, outputs].

        d joint / d logit_i = q_i / (1 - p), q_i = 1 - p_i; 1 - p is the sum, over the places where
        a chain may end, of the product before it times q there: nothing cancels.
        """
        if not self._columns:
            return error
        out = error.clone()
        for columns in self._columns:
            out[:, columns[-1]] = 0
        for columns in self._columns:
            p, q = logits[:, columns].sigmoid(), (-logits[:, columns]).sigmoid()
            reached = torch.cat([torch.ones_like(p[:, :1]), p[:, :-1].cumprod(1)], 1)
            ends = (reached * q).sum(1, keepdim=True).clamp(min=_LEAST)
            out[:, columns] += error[:, columns[-1:]] * q / ends
        return out
