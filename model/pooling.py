"""From rows to pooled bags, and from their gradients back to rows.

Shapes: n examples, s slots, b bags, d deep numbers and o wide numbers of a row, u rows touched.
Row -1 stands for an empty slot. On a CPU these are numba kernels, elsewhere torch's operations.
"""

from __future__ import annotations

import numpy as np
import torch

from model.fetch import fetch
from model.kernel import kernel


def pool(
    rows: torch.Tensor, index: np.ndarray, weights: np.ndarray, bag_of: np.ndarray, dim: int,
    deep: torch.Tensor, wide: torch.Tensor,
) -> None:  # fmt: skip
    """Fills deep [n, b, d] with each bag's sum of weight x row, and wide [n, o] with the sum over
    all slots. rows [capacity, d + o], index int64 and weights float32 [n, s], bag_of int64 [s]."""
    if rows.device.type == "cpu":
        _pool(rows.numpy(), index, weights, bag_of, dim, deep.numpy(), wide.numpy())
    else:
        pool_in_torch(rows, index, weights, bag_of, dim, deep, wide)


def merge(
    index: np.ndarray, also: np.ndarray, weights: np.ndarray, bag_of: np.ndarray,
    deep: torch.Tensor, wide: torch.Tensor, marks: np.ndarray,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The gradient of each row touched: touched int64 [u], each once, and grads [u, d + o].

    A slot's gradient goes to its row `index`, and to `also` where that is another; equal rows are
    summed in the order of their places in the batch, whatever their numbers. `marks` is int64
    [capacity], -1 everywhere before and after.
    """
    if deep.device.type != "cpu":
        return merge_in_torch(index, also, weights, bag_of, deep, wide)
    most = 2 * index.size
    touched = np.empty(most, np.int64)
    grads = np.empty((most, deep.shape[2] + wide.shape[1]), np.float32)
    count = _merge(index, also, weights, bag_of, deep.numpy(), wide.numpy(), marks, touched, grads)
    return torch.from_numpy(touched[:count]), torch.from_numpy(grads[:count])


@kernel
def _pool(rows, index, weights, bag_of, dim, deep, wide) -> None:  # type: ignore[no-untyped-def]
    deep[:] = 0.0
    wide[:] = 0.0
    outputs = wide.shape[1]
    for i in range(index.shape[0]):
        fetch(rows, index[i])
        for s in range(index.shape[1]):
            if index[i, s] >= 0:
                row, weight, bag = rows[index[i, s]], weights[i, s], bag_of[s]
                for c in range(dim):
                    deep[i, bag, c] += weight * row[c]
                for c in range(outputs):
                    wide[i, c] += weight * row[dim + c]


@kernel
def pool_into(rows, index, weights, starts, dim, out, wide) -> None:  # type: ignore[no-untyped-def]
    """As `_pool`, but adds slot s to the `dim` columns of out [n, columns] from starts[s] on, and
    fills nothing with zeros first."""
    outputs = wide.shape[1]
    for i in range(index.shape[0]):
        fetch(rows, index[i])
        for s in range(index.shape[1]):
            if index[i, s] >= 0:
                row, weight, start = rows[index[i, s]], weights[i, s], starts[s]
                for c in range(dim):
                    out[i, start + c] += weight * row[c]
                for c in range(outputs):
                    wide[i, c] += weight * row[dim + c]


@kernel
def _merge(index, also, weights, bag_of, deep, wide, marks, touched, grads) -> int:  # type: ignore[no-untyped-def]
    dim, outputs = deep.shape[2], wide.shape[1]
    count = 0
    places = marks.reshape(-1, 1)
    for i in range(index.shape[0]):
        fetch(places, index[i])
        for s in range(index.shape[1]):
            if index[i, s] < 0 or weights[i, s] == 0.0:
                continue
            for target in range(1 if also[i, s] == index[i, s] else 2):
                row = index[i, s] if target == 0 else also[i, s]
                place = marks[row]
                if place < 0:
                    place = count
                    marks[row] = place
                    touched[place] = row
                    grads[place] = 0.0
                    count += 1
                weight, bag, g = weights[i, s], bag_of[s], grads[place]
                for c in range(dim):
                    g[c] += weight * deep[i, bag, c]
                for c in range(outputs):
                    g[dim + c] += weight * wide[i, c]
    for place in range(count):
        marks[touched[place]] = -1
    return count


def pool_in_torch(rows, index, weights, bag_of, dim, deep, wide) -> None:  # type: ignore[no-untyped-def]
    """`pool` where numba does not reach."""
    index, weights, bag_of = (
        torch.as_tensor(a, device=rows.device) for a in (index, weights, bag_of)
    )
    weights = torch.where(index >= 0, weights, 0.0)
    scaled = rows[index.clamp(min=0)] * weights.unsqueeze(2)
    member = torch.nn.functional.one_hot(bag_of, deep.shape[1]).to(scaled.dtype)
    deep.copy_(torch.einsum("nsd,sb->nbd", scaled[:, :, :dim], member))
    wide.copy_(scaled[:, :, dim:].sum(1))


def merge_in_torch(index, also, weights, bag_of, deep, wide):  # type: ignore[no-untyped-def]
    """`merge` where numba does not reach; accumulating `index_put_` sorts: it repeats exactly."""
    index, also, weights, bag_of = (
        torch.as_tensor(a, device=deep.device) for a in (index, also, weights, bag_of)
    )
    slots = torch.cat([deep[:, bag_of], wide.unsqueeze(1).expand(-1, len(bag_of), -1)], 2)
    slots = slots * weights.unsqueeze(2)
    used = (index >= 0) & (weights != 0)
    other = used & (also != index)
    rows = torch.cat([index[used], also[other]])
    touched, place = torch.unique(rows, return_inverse=True)
    grads = torch.zeros(len(touched), slots.shape[2], device=deep.device)
    grads.index_put_((place,), torch.cat([slots[used], slots[other]]), accumulate=True)
    return touched, grads
