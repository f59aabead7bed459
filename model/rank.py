"""The candidates of one request, scored together: what all share is read, and multiplied, once.

A request's candidates have the user's side in common: ids, history, context. Which bags and columns
those are is seen in the inputs. A sum over inputs is then one over the shared ones, made once, and
one over each candidate's own. Products of matrices go to oneDNN, which on some machines takes half
of MKL's time, and a kernel mixes the experts: the last bits are not those of `Predictor.predict`.

Shapes: n candidates; b bags, d deep numbers of a row; o outputs; c inputs of the network, in the
order shared, own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from model.batch import Inputs
from model.embedding import find_or_unseen
from model.kernel import kernel
from model.network import Network
from model.pooling import pool_into
from model.sharing import MMoE, SharedBottom

MOST_SPLITS = 32
"""Whose weights are kept in two parts: what candidates share differs little from one request to
the next."""
ROWS = 64
"""oneDNN compiles for each number of rows anew, in a millisecond or more: so a multiple of this."""
MANY = 320
"""Rows from which on the towers, too, are faster in oneDNN, one by one."""
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass
class Side:
    """Of the network's inputs those that all candidates share, or the others: bags, then dense
    columns, then products of bags."""

    slots: np.ndarray  # int64
    starts: np.ndarray  # int64: where each slot's bag begins, here
    bags: int
    dense: np.ndarray  # int64 columns
    products: np.ndarray  # int64 [products, 4]: is the one bag own, where it begins; the other bag
    width: int


class Product:
    """x @ weight + bias, of an x [n, c] that begins with `shared` inputs which are equal in all
    rows; `then` may be "relu"."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, shared: int = 0, then: str = "none"
    ) -> None:
        self.of_shared, self.bias, self.then = weight[:shared].contiguous(), bias, then
        self.of_own = weight[shared:].t().contiguous()

    def __call__(self, shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """[1, shared] and [n, the others] -> [n, outputs]"""
        bias = self.bias
        if shared.shape[1]:
            bias = torch.addmm(bias, shared, self.of_shared)[0]
        if _ONEDNN:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                own, self.of_own, bias, self.then, [], ""
            )
            return out
        out = torch.addmm(bias, own, self.of_own.t())
        return out.relu_() if self.then == "relu" else out


@dataclass
class Split:
    """What candidates share and what is their own, with the network's products in that order of
    inputs: those of its crosses, and the last ones, of experts and gates."""

    sides: tuple[Side, Side]
    crosses: list[Product]
    last: list[Product]


class Ranker:
    """Scores candidates as a `Predictor` does, to rounding. Threads may share it.

    The predictor itself scores where nothing can be split: a single candidate, a network with
    attention, convolutions or levels, or one a task.
    """

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor
        net = predictor.network
        self._known = (
            type(net) is Network
            and isinstance(net.sharing, MMoE | SharedBottom)
            and not net.attended
            and not net.bf16
            and not len(net.convolutions)
        )
        self._splits: dict[bytes, Split] = {}
        if self._known:
            weights = zip(net.towers.hidden.detach(), net.towers.hidden_bias.detach(), strict=True)
            self._hidden = [Product(weight, bias[0], then="relu") for weight, bias in weights]

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> np.ndarray:
        """float32 [n, outputs]: probabilities, or values for a regression."""
        predictor, net, n = self._predictor, self._predictor.network, len(inputs)
        inputs.check(predictor.layout)
        split = None
        if self._known and n > 1:
            keys, weights = net.rows_of(inputs)
            dense = predictor.standardised(inputs)
            split = self._split(keys, weights, dense)
        if split is None:
            whole: np.ndarray = predictor.predict(inputs)
            return whole
        shared, wide = self._read(split.sides[0], keys[:1], weights[:1], dense[:1], None)
        own, own_wide = self._read(split.sides[1], keys, weights, dense, shared)
        of_ids = torch.from_numpy(own_wide + wide + predictor.labels.offset)
        parts = torch.from_numpy(shared), torch.from_numpy(own)
        towers = self._towers(self._represent(split, *parts))[:, :n]
        of_fm = None if net.fm is None else net.fm(self._bags(split, *parts, n))
        logits = net.logits(towers, of_fm, of_ids, torch.from_numpy(dense))
        return predictor.values(predictor.objective.link(logits))

    def _read(
        self, side: Side, keys: np.ndarray, weights: np.ndarray, dense: np.ndarray,
        shared: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """The side's inputs of the network, [n, width], the own ones' with rows of zeros up to a
        multiple of `ROWS`; and its part of wide, [n, o]."""
        embedding = self._predictor.embedding
        n, dim = len(keys), embedding.dim
        index = np.empty((n, len(side.slots)), np.int64)
        keys, weights = keys[:, side.slots], weights[:, side.slots]
        unseen = embedding.unseen_of_slot[side.slots]
        find_or_unseen(embedding.ids.keys, embedding.ids.values, keys, unseen, index)
        out = np.zeros((1 if shared is None else -(-n // ROWS) * ROWS, side.width), np.float32)
        wide = np.zeros((n, embedding.outputs), np.float32)
        pool_into(embedding.rows.numpy(), index, weights, side.starts, dim, out, wide)
        at = side.bags * dim + len(side.dense)
        out[:n, side.bags * dim : at] = dense[:, side.dense]
        _multiply(side.products, out[0] if shared is None else shared[0], out[:n], dim, at)
        return out, wide

    def _towers(self, read: torch.Tensor) -> torch.Tensor:
        """[task, rows, width] -> [task, rows, widest]"""
        towers = self._predictor.network.towers
        if len(read[0]) < MANY:
            out: torch.Tensor = towers(read)
            return out
        parts = zip(self._hidden, towers.norm(read), strict=True)
        return towers.last(torch.stack([hidden(x[:, :0], x) for hidden, x in parts]))

    def _represent(self, split: Split, shared: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """What each tower reads, [task, rows, width]."""
        sharing = self._predictor.network.sharing
        if split.crosses:
            x = whole = torch.cat([shared.expand(len(own), -1), own], 1)
            for cross in split.crosses:
                x = torch.addcmul(x, whole, cross(shared, own))
                shared, own = shared[:, :0], x
        found = [product(shared, own) for product in split.last]
        if isinstance(sharing, SharedBottom):
            return found[0].expand(sharing.tasks, -1, -1)
        experts, gates = (x.numpy() for x in found)
        gates = gates.reshape(-1, sharing.experts)
        _less_the_largest(gates)
        np.exp(gates, out=gates)
        read = np.zeros((sharing.tasks, len(own), sharing.width), np.float32)
        _mix(experts, gates, read)
        return torch.from_numpy(read)

    def _bags(self, split: Split, shared: torch.Tensor, own: torch.Tensor, n: int) -> torch.Tensor:
        """[n, b, d], in the order shared, own."""
        dim = self._predictor.embedding.dim
        parts = zip((shared.expand(n, -1), own[:n]), split.sides, strict=True)
        return torch.cat([x[:, : side.bags * dim] for x, side in parts], 1).view(n, -1, dim)

    def _split(self, keys: np.ndarray, weights: np.ndarray, dense: np.ndarray) -> Split | None:
        """None where candidates have nothing of their own."""
        net, slots = self._predictor.network, keys.shape[1]
        alike = np.ones(slots + dense.shape[1], np.bool_)
        _alike(keys, weights, dense, alike)
        if alike.all():
            return None
        name = alike.tobytes()
        split = self._splits.get(name)
        if split is None:
            if len(self._splits) >= MOST_SPLITS:
                self._splits.clear()
            of_bag = np.ones(len(net.layout.bags), np.bool_)
            np.logical_and.at(of_bag, net.reads.bag_of_slot, alike[:slots])
            split = self._splits[name] = self._made(of_bag, alike[slots:])
        return split

    def _made(self, bag_alike: np.ndarray, dense_alike: np.ndarray) -> Split:
        net, dim = self._predictor.network, self._predictor.embedding.dim
        left, right = net.left.numpy(), net.right.numpy()
        alike = bag_alike, dense_alike, bag_alike[left] & bag_alike[right]
        where = np.zeros((len(bag_alike), 2), np.int64)  # is a bag own, and where it begins there
        sides, order = [], []
        for own in (False, True):
            bags, dense, products = (np.flatnonzero(each != own) for each in alike)
            where[bags, 0], where[bags, 1] = own, dim * np.arange(len(bags))
            slots = np.flatnonzero(np.isin(net.reads.bag_of_slot, bags))
            before = len(bag_alike) * dim, len(bag_alike) * dim + len(dense_alike)
            inputs = np.concatenate(
                [
                    _each(dim * bags, dim),
                    before[0] + dense,
                    _each(before[1] + dim * products, dim),
                ]
            )
            order.append(inputs)
            factors = np.concatenate([where[left[products]], where[right[products]]], 1)
            starts = where[net.reads.bag_of_slot[slots], 1]
            sides.append(Side(slots, starts, len(bags), dense, factors, len(inputs)))
        at, shared = torch.from_numpy(np.concatenate(order)), sides[0].width
        crosses: list[Product] = []
        for weight, bias in [] if net.cross is None else net.cross.layers():
            crosses.append(Product(weight[at][:, at], bias[at], 0 if crosses else shared))
        shared = 0 if crosses else shared
        weight, bias = net.sharing.weight.detach()[at], net.sharing.bias.detach()
        experts = bias.shape[0]
        if isinstance(net.sharing, MMoE):
            experts = net.sharing.experts * net.sharing.width
        last = [Product(weight[:, :experts], bias[:experts], shared, "relu")]
        if isinstance(net.sharing, MMoE):
            last.append(Product(weight[:, experts:], bias[experts:], shared))
        return Split((sides[0], sides[1]), crosses, last)


def _each(starts: np.ndarray, size: int) -> np.ndarray:
    """The `size` places from each start on."""
    return (starts[:, None] + np.arange(size)).reshape(-1)


@kernel
def _alike(keys, weights, dense, out) -> None:  # type: ignore[no-untyped-def]
    for i in range(1, keys.shape[0]):
        for s in range(keys.shape[1]):
            out[s] &= keys[i, s] == keys[0, s] and weights[i, s] == weights[0, s]
        for c in range(dense.shape[1]):
            out[keys.shape[1] + c] &= dense[i, c] == dense[0, c]


@kernel
def _multiply(products, shared, out, dim, start) -> None:  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for p in range(products.shape[0]):
            a = out[i] if products[p, 0] else shared
            b = out[i] if products[p, 2] else shared
            for c in range(dim):
                out[i, start + p * dim + c] = a[products[p, 1] + c] * b[products[p, 3] + c]


@kernel
def _less_the_largest(gates) -> None:  # type: ignore[no-untyped-def]
    for i in range(gates.shape[0]):
        largest = gates[i, 0]
        for e in range(1, gates.shape[1]):
            largest = max(largest, gates[i, e])
        for e in range(gates.shape[1]):
            gates[i, e] -= largest


@kernel
def _mix(experts, gates, out) -> None:  # type: ignore[no-untyped-def]
    """Adds to out [task, n, width] each task's softmax of the experts [n, experts x width]; gates
    [n x task, experts] are its exponentials. Four experts a pass, so that `out` is read less."""
    tasks, n, width = out.shape
    count = gates.shape[1]
    for i in range(n):
        for k in range(tasks):
            gate, read, e = gates[i * tasks + k], out[k, i], 0
            total = np.float32(0.0)
            for j in range(count):
                total += gate[j]
            for j in range(count):
                gate[j] /= total
            while e + 4 <= count:
                a, b, c, d = gate[e], gate[e + 1], gate[e + 2], gate[e + 3]
                one = experts[i, e * width : (e + 1) * width]
                two = experts[i, (e + 1) * width : (e + 2) * width]
                three = experts[i, (e + 2) * width : (e + 3) * width]
                four = experts[i, (e + 3) * width : (e + 4) * width]
                for w in range(width):
                    read[w] += a * one[w] + b * two[w] + c * three[w] + d * four[w]
                e += 4
            while e < count:
                one = experts[i, e * width : (e + 1) * width]
                for w in range(width):
                    read[w] += gate[e] * one[w]
                e += 1
